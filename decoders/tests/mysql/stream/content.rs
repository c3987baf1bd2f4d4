//! Rows, statements and distributed transactions.

use decoders::change::{ChangeEvent, Part, ReplicaIdentity};
use decoders::mysql::stream::{Change, Kind, Outcome};
use tests::mysql::Version;

use super::support::{after, head, line, lines, open, options, server};

#[tokio::test]
async fn rows_come_whole_and_in_order_with_their_position() {
    for version in Version::ALL {
        let server = server(version, &[]);
        server
            .run(
                "use t; create table a(id int primary key, v varchar(20), b varbinary(4), d decimal(9,2));
                 create table keyless(v int); insert into a values (0, 'before', null, null);",
            )
            .unwrap();
        let mut stream = open(&server, options(&server)).await;
        assert_eq!(stream.start(), &head(&server), "{}", version.name());
        let found = after(
            &server,
            &mut stream,
            "use t; begin; insert into a values (1, 'ä', x'00ff', -1.5), (2, null, '', 0);
             update a set v = 'b' where id = 2; commit;
             delete from a where id = 1; insert into keyless values (7); delete from keyless;
             insert into mysql.help_topic(help_topic_id, name, help_category_id, description, example, url)
               values (999999, 'x', 1, '', '', '');",
        )
        .await;
        let expected = [
            "+a 1,ä,\0\u{fffd},-1.50",
            "+a 2,NULL,,0.00",
            "a 2,NULL,,0.00 > 2,b,,0.00",
            "-a 1,ä,\0\u{fffd},-1.50",
            "+keyless 7",
            "-keyless 7",
        ];
        assert_eq!(lines(&found), expected, "{}", version.name());
        assert_eq!(stream.has_checksums(), Some(true), "{}", version.name());
        let counts: Vec<usize> =
            found.iter().map(|transaction| transaction.changes.len()).collect();
        assert_eq!(counts, [3, 1, 1, 1, 0], "a system table's rows are left out, its place is not");
        let mut position = stream.start().clone();
        let mut ids = 0;
        for transaction in &found {
            assert_eq!(transaction.part, Part::Whole);
            assert_eq!(transaction.outcome, Outcome::Committed);
            assert_eq!(transaction.server_id, u32::from(server.port()));
            assert!(transaction.committed_at_us > 1_700_000_000_000_000, "{transaction:?}");
            assert!(!position.contains(&transaction.id), "{} came twice", transaction.id);
            position.add(&transaction.id);
            assert_eq!(transaction.position.as_ref(), Some(&position));
            for row in transaction.rows() {
                let ChangeEvent::Insert { table, .. } = row else { continue };
                let keys: Vec<bool> = table.columns.iter().map(|column| column.in_key).collect();
                match table.name.name.as_str() {
                    "a" => assert_eq!(keys, [true, false, false, false]),
                    _ => assert_eq!((table.identity, keys), (ReplicaIdentity::Full, vec![true])),
                }
                ids += 1;
            }
        }
        assert_eq!(ids, 3);
        stream.close().await;
    }
}

#[tokio::test]
async fn statements_are_delivered_where_they_committed() {
    for version in Version::ALL {
        let server = server(version, &[]);
        let mut stream = open(&server, options(&server)).await;
        let found = after(
            &server,
            &mut stream,
            "use t; create table a(id int primary key, v int); insert into a values (1, 1);
             begin; insert into a values (2, 2); alter table a add column w int default 5;
             insert into a values (3, 3, 3);
             create table copied(primary key(id)) select id from a where id < 3; truncate table copied;
             rename table a to b, copied to c; create view x as select 1;
             create procedure p() select 1; create user u; analyze table b;
             create temporary table z(id int); drop temporary table z; drop table b, c;",
        )
        .await;
        let name = version.name();
        let all = lines(&found);
        let at = |wanted: &str| {
            let at = all.iter().position(|line| line.to_lowercase().contains(wanted));
            at.unwrap_or_else(|| panic!("{name}: {wanted} is missing in {all:#?}"))
        };
        let order = [
            "createtable create table a",
            "+a 1,1",
            "+a 2,2",
            "altertable alter table a",
            "+a 3,3,3",
            "createtable create table `copied`",
            "+copied 1",
            "+copied 2",
            "truncatetable truncate table copied",
            "renametable rename table a to b",
            "view create",
            "routine create",
            "account create user",
            "droptable drop table",
        ];
        let places: Vec<usize> = order.iter().map(|line| at(line)).collect();
        assert!(places.is_sorted(), "{name}: {all:#?}");
        for transaction in &found {
            let statements: Vec<_> = transaction
                .changes
                .iter()
                .filter_map(|change| match change {
                    Change::Statement(statement) => Some(statement),
                    _ => None,
                })
                .collect();
            assert!(statements.len() <= 1, "{name}: {transaction:?}");
            let Some(statement) = statements.first() else { continue };
            let rows = transaction.rows().count();
            let copies = statement.text.contains("copied") && statement.kind == Kind::CreateTable;
            assert_eq!(rows, if copies { 2 } else { 0 }, "{name}: {statement:?}");
            if statement.kind == Kind::RenameTable {
                let tables: Vec<_> = statement.tables.iter().map(|t| t.name.as_str()).collect();
                assert_eq!(tables, ["a", "b", "copied", "c"], "{name}");
            }
        }
    }
}

#[tokio::test]
async fn distributed_transactions_are_pending_until_their_end() {
    for version in Version::ALL {
        let server = server(version, &[]);
        server.run("create table t.a(id int primary key)").unwrap();
        let mut stream = open(&server, options(&server)).await;
        let found = after(
            &server,
            &mut stream,
            "use t; xa start 'x1','b',7; insert into a values (1); xa end 'x1','b',7; xa prepare 'x1','b',7;
             xa commit 'x1','b',7;
             xa start 'x2'; insert into a values (2); xa end 'x2'; xa prepare 'x2'; xa rollback 'x2';
             xa start 'x3'; insert into a values (3); xa end 'x3'; xa commit 'x3' one phase;",
        )
        .await;
        let told: Vec<String> = found
            .iter()
            .map(|transaction| {
                let end = match &transaction.outcome {
                    Outcome::Committed => "committed".to_owned(),
                    Outcome::Prepared(id) => format!("prepared {id}"),
                };
                let changes: Vec<_> = transaction.changes.iter().map(line).collect();
                format!("{}: {end}", changes.join(";"))
            })
            .collect();
        let expected = [
            "+a 1: prepared X'7831',X'62',7",
            "xa commit X'7831',X'62',7: committed",
            "+a 2: prepared X'7832',X'',1",
            "xa rollback X'7832',X'',1: committed",
            "+a 3: committed",
        ];
        assert_eq!(told, expected, "{}", version.name());
    }
}
