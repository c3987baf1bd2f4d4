//! Changes that blue made without checking foreign keys do on green what they did there.

use decoders::source::Disposition;
use sinks::Lane;
use tests::mysql::Version;

use super::support::{PAIRS, Pair};

const TABLES: &str = "
    create table p(id int primary key, v int);
    create table c(id int primary key, p int,
                   foreign key (p) references p(id) on delete cascade on update cascade);
    insert into p values (1,1),(2,2),(3,3),(4,4);
    insert into c values (10,1),(20,2),(30,3),(40,4);";

#[tokio::test]
async fn rows_written_without_checks_refer_to_nothing_and_cascade_to_nothing() {
    for versions in PAIRS {
        for at_once in [1, usize::MAX] {
            let pair = Pair::start(versions, TABLES);
            let mut opened = pair.open().await;
            pair.blue
                .run(
                    "use t; begin; delete from p where id = 1; set foreign_key_checks = 0;
                     insert into c values (99, 77); delete from p where id = 2;
                     update p set id = 33 where id = 3; set foreign_key_checks = 1;
                     delete from p where id = 4; insert into p values (5, 5), (6, 6);
                     insert into c values (50, 5), (60, 6), (61, 6), (62, 6), (63, 6), (64, 6),
                                          (65, 6), (66, 6), (67, 6), (68, 6), (69, 6); commit;",
                )
                .unwrap();
            assert_eq!(pair.blue.value("select count(*) from t.c").unwrap(), "14", "{versions:?}");
            opened.catch_up(&pair.blue, at_once).await;
            pair.assert_same(&["p", "c"]);
            // Green checks again: what refers to nothing is refused, and cascades work.
            pair.blue.run("delete from t.p where id = 6").unwrap();
            opened.catch_up(&pair.blue, at_once).await;
            pair.assert_same(&["p", "c"]);
            opened.close().await;
        }
    }
}

#[tokio::test]
async fn a_table_that_others_refer_to_is_emptied_without_them() {
    for versions in PAIRS {
        let pair = Pair::start(versions, TABLES);
        let mut opened = pair.open().await;
        pair.blue
            .run("use t; set foreign_key_checks = 0; truncate p; insert into p values (9, 9)")
            .unwrap();
        assert_eq!(pair.blue.value("select count(*) from t.c").unwrap(), "4", "{versions:?}");
        opened.catch_up(&pair.blue, usize::MAX).await;
        pair.assert_same(&["p", "c"]);
        opened.close().await;
    }
}

#[tokio::test]
async fn a_table_is_not_emptied_where_that_fires_or_can_not_be_taken_back() {
    for versions in PAIRS {
        let pair = Pair::start(
            versions,
            "create table fires(id int primary key); create table keeps(id int primary key);
             insert into fires values (1); insert into keeps values (1);",
        );
        pair.green
            .run(
                "use t; alter table keeps engine = MyISAM;
                 create trigger tr after delete on fires for each row set @x = 1;",
            )
            .unwrap();
        for (sql, told) in
            [("truncate t.fires", "would fire"), ("truncate t.keeps", "can't roll back")]
        {
            pair.blue.run(sql).unwrap();
            let mut opened = pair.open().await;
            let all = opened.read(&pair.blue).await;
            let error = opened.lane.apply(&all[all.len() - 1..]).await.unwrap_err();
            assert_eq!(error.disposition, Disposition::Halt, "{error}");
            assert!(error.message.contains(told), "{error}");
            opened.close().await;
        }
        assert_eq!(pair.green.value("select count(*) from t.fires").unwrap(), "1");
        assert_eq!(pair.green.value("select count(*) from t.keeps").unwrap(), "1");
    }
}

/// The mark of an applier stays the first change of its transaction, or a stream the other way round
/// would bring back what it applied.
#[tokio::test]
async fn an_appliers_mark_comes_first_whatever_its_session_checks() {
    let pair =
        Pair::start((Version::Mysql9_7, Version::Mysql9_7), "create table t(id int primary key)");
    // Registered on blue as on the target of a stream the other way round.
    pair.blue
        .run(
            "create database _cutover;
             create table _cutover.mark(pipeline varchar(20) primary key, claim varchar(100));
             insert into _cutover.mark values ('back', '');",
        )
        .unwrap();
    let mut opened = pair.open().await;
    pair.blue
        .run(
            "set foreign_key_checks = 0; begin;
             update _cutover.mark set claim = concat('0 1 ', repeat('0', 32));
             insert into t.t values (1); commit;",
        )
        .unwrap();
    let last = opened.read(&pair.blue).await.pop().unwrap();
    assert!(sinks::own::is_mark_of(&last.changes[0], "back"), "{last:?}");
    opened.close().await;
}

/// Whoever refers to a table is found by looking at all tables of the server, which is not done for each table
/// that rows come to.
#[tokio::test]
async fn the_whole_catalog_is_looked_at_once_for_all_tables() {
    const TABLES: usize = 12;
    const LOOKED: &str = "select count(*) from mysql.general_log
        where argument like '%JOIN information_schema.key_column_usage%'
          and argument like '%referential_constraints%' and argument not like '%general_log%'";
    for versions in PAIRS {
        let mut tables = "create table parent (id int primary key);".to_owned();
        for number in 0..TABLES {
            tables.push_str(&format!(
                "create table c{number} (id int primary key, p int, \
                 foreign key (p) references parent (id) on delete cascade);"
            ));
        }
        let pair = Pair::start(versions, &tables);
        let name = pair.name();
        pair.green.run("set global log_output = 'TABLE'; set global general_log = on").unwrap();
        let mut opened = pair.open().await;
        pair.blue.run("insert into t.parent values (1), (2)").unwrap();
        for number in 0..TABLES {
            let insert = format!("insert into t.c{number} values (1, 1), (2, 2)");
            pair.blue.run(&insert).unwrap();
        }
        opened.catch_up(&pair.blue, 1).await;
        // And it is known whom rows of the parent cascade to.
        pair.blue.run("delete from t.parent where id = 2").unwrap();
        opened.catch_up(&pair.blue, 1).await;
        pair.assert_same(&["parent", "c0", "c11"]);
        assert_eq!(pair.green.value(LOOKED).unwrap(), "1", "{name}");
        opened.close().await;
    }
}
