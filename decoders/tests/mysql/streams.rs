//! What is between the rows: identities of transactions, XA, statements, rotation.

use bytes::Bytes;
use decoders::mysql::gtid::{GtidPosition, GtidSet};
use decoders::mysql::{Body, Compression, Decoder, Event, EventType, Limits, Operation, Rows};
use tests::mysql::{Mysql, Version};

use super::binlog;

fn texts(events: &[Event]) -> Vec<String> {
    let queries = events.iter().filter_map(|event| match &event.body {
        Body::Query(query) => Some(query.text().unwrap()),
        _ => None,
    });
    queries.collect()
}

/// The GTIDs of a server, from its events, and as it says itself.
#[test]
fn gtids_of_mysql_add_up_to_gtid_executed() {
    let server = Mysql::start(Version::Mysql9_7, &[]).unwrap();
    server
        .run(
            "create database t; use t; create table g(id int primary key auto_increment, v int);
             set gtid_next = 'AUTOMATIC:cdc_fwd'; insert into g(v) values (1);
             begin; insert into g(v) values (2); insert into g(v) values (3); commit;
             set gtid_next = 'AUTOMATIC'; insert into g(v) values (4);
             set gtid_next = 'aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa:7'; insert into g(v) values (5);
             set gtid_next = 'aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa:B_2:9'; insert into g(v) values (6);
             set gtid_next = 'AUTOMATIC'; flush binary logs; insert into g(v) values (7);",
        )
        .unwrap();
    let executed = server.value("select replace(@@gtid_executed, '\n', '')").unwrap();
    let events = binlog::events(&server.binlogs().unwrap());
    let mut seen = GtidSet::new();
    let mut previous = Vec::new();
    for event in &events {
        match &event.body {
            Body::Gtid(event) => {
                let gtid = event.gtid.as_ref().expect("GTIDs are on");
                assert!(!seen.contains(gtid), "{gtid} came twice");
                seen.add(gtid);
                assert!(event.sequence_number > event.last_committed);
                assert_eq!(event.immediate_server_version, Some(90704));
                assert!(event.original_commit_us.unwrap() > 1_700_000_000_000_000);
                assert_eq!(gtid.to_string().parse(), Ok(gtid.clone()));
            }
            Body::PreviousGtids(set) => previous.push((set.clone(), seen.clone())),
            _ => {}
        }
    }
    assert_eq!(seen.to_string().replace('\n', ""), executed);
    assert_eq!(executed.parse::<GtidSet>().unwrap(), seen);
    assert!(executed.contains(":b_2:9"), "{executed}");
    assert_eq!(previous.len(), 2);
    for (written, counted) in previous {
        assert_eq!(written, counted, "PREVIOUS_GTIDS is what came before");
    }
}

/// Bytes of a transaction as its GTID event promises them.
#[test]
fn transactions_of_mysql_have_the_length_that_is_promised() {
    let server = Mysql::start(Version::Mysql9_7, &[]).unwrap();
    server
        .run(
            "create database t; use t; create table g(id int primary key, v longtext);
             set gtid_next = 'AUTOMATIC:tagged'; insert into g values (1, repeat('x', 100000));
             set gtid_next = 'AUTOMATIC'; begin; insert into g values (2, 'a'); delete from g; commit;
             set binlog_transaction_compression = on; insert into g values (3, repeat('y', 1000));",
        )
        .unwrap();
    let file = binlog::read(&server.binlogs().unwrap()[0]);
    let mut decoder = Decoder::new(Limits::default());
    let (mut promised, mut checked) = (0, 0);
    for frame in binlog::frames(&file) {
        let event = decoder.decode(&frame).unwrap();
        if let Body::Gtid(event) = &event.body {
            assert_eq!(promised, 0);
            promised = event.transaction_bytes.unwrap();
            checked += 1;
        }
        promised = promised.saturating_sub(frame.len() as u64);
        if let Body::Payload(payload) = &event.body {
            assert_eq!(payload.compression, Compression::Zstd);
            let inner: Vec<Event> = decoder.open(payload).unwrap().map(Result::unwrap).collect();
            let bytes: u32 = inner.iter().map(|event| event.header.event_bytes).sum();
            assert_eq!(u64::from(bytes), payload.uncompressed_bytes);
            assert!(matches!(inner.last().unwrap().body, Body::Xid(_)));
            // Positions inside of a payload say nothing.
            assert!(inner.iter().all(|event| event.header.log_pos == 0));
        }
    }
    assert_eq!(promised, 0);
    assert!(checked >= 5);
}

fn gtids_of_mariadb(version: Version) {
    let server = Mysql::start(version, &[]).unwrap();
    server
        .run(
            "create database t; use t; create table g(id int primary key auto_increment, v int);
             set session server_id = 999, gtid_domain_id = 77; insert into g(v) values (1);
             insert into g(v) values (2); set session gtid_seq_no = 500; insert into g(v) values (3);
             set session server_id = default, gtid_domain_id = 0; flush binary logs;
             begin; insert into g(v) values (4); savepoint a; insert into g(v) values (5);
             rollback to a; insert into g(v) values (6); commit;
             create sequence sq; do nextval(sq);
             xa start 'x1','b',7; insert into g(v) values (7); xa end 'x1','b',7; xa prepare 'x1','b',7;
             xa commit 'x1','b',7; create table copied select id from g;",
        )
        .unwrap();
    let said = server.value("select @@gtid_binlog_pos").unwrap();
    let events = binlog::events(&server.binlogs().unwrap());
    let mut seen = GtidPosition::new();
    let (mut prepared, mut completed, mut xids) = (0, 0, 0);
    for event in &events {
        match &event.body {
            Body::MariadbGtid(event) => {
                assert!(!seen.contains(&event.gtid));
                seen.set(event.gtid);
                type E = decoders::mysql::gtid::MariadbGtidEvent;
                prepared += usize::from(event.has(E::PREPARED_XA));
                completed += usize::from(event.has(E::COMPLETED_XA));
                if let Some(xid) = &event.xid {
                    assert_eq!(
                        (xid.format_id, &xid.global[..], &xid.branch[..]),
                        (7, &b"x1"[..], &b"b"[..])
                    );
                    xids += 1;
                }
                assert_eq!(event.thread_id.is_some(), version == Version::Mariadb11_8);
            }
            Body::MariadbGtidList(list) => assert_eq!(list.position(), seen),
            Body::XaPrepare(xa) => {
                assert_eq!((xa.one_phase, xa.format_id), (false, 7));
                assert_eq!((&xa.global[..], &xa.branch[..]), (&b"x1"[..], &b"b"[..]));
            }
            _ => {}
        }
    }
    assert_eq!(seen.to_string(), said);
    assert_eq!(said.parse::<GtidPosition>().unwrap(), seen);
    assert!(seen.domain(77).is_some_and(|gtid| gtid.sequence == 500 && gtid.server == 999));
    assert_eq!((prepared, completed, xids), (1, 1, 2));
    assert!(events.iter().any(|event| matches!(event.body, Body::XaPrepare(_))));
    let annotated = events.iter().filter_map(|event| match &event.body {
        Body::RowsQuery(text) => Some(String::from_utf8_lossy(text).into_owned()),
        _ => None,
    });
    assert!(annotated.collect::<Vec<_>>().contains(&"insert into g(v) values (6)".to_owned()));
    assert!(
        texts(&events).iter().any(|text| text.starts_with("SAVEPOINT")),
        "{:?}",
        texts(&events)
    );
    let zero = events.iter().filter(|event| event.header.log_pos == 0).count();
    assert_eq!(zero > 0, version == Version::Mariadb11_8, "log_pos 0 inside of groups");
}

#[test]
fn gtids_of_mariadb_10_11_add_up_to_gtid_binlog_pos() {
    gtids_of_mariadb(Version::Mariadb10_11);
}

#[test]
fn gtids_of_mariadb_11_8_add_up_to_gtid_binlog_pos() {
    gtids_of_mariadb(Version::Mariadb11_8);
}

/// Statements in the client's character set, over `log_bin_compress_min_len` or not.
fn statements(version: Version) {
    let server = Mysql::start(version, &[]).unwrap();
    let compress = match version.is_mariadb() {
        true => "set global log_bin_compress = on; set global log_bin_compress_min_len = 10;",
        false => "",
    };
    server
        .run(&format!(
            "create database t; use t; {compress}
             set time_zone = '+03:00', foreign_key_checks = 0;
             create table `tä`(id int comment 'é€') /* {} */;
             set names latin1; create table x(id int); set names utf8mb4;
             alter table x add column v int, rename to y; drop table y;",
            "long ".repeat(50)
        ))
        .unwrap();
    let events = binlog::events(&server.binlogs().unwrap());
    let found = texts(&events);
    assert!(
        found.iter().any(|text| text.contains("create table `tä`(id int comment 'é€')")),
        "{found:?}"
    );
    assert!(found.iter().any(|text| text.contains("rename to y")));
    for event in &events {
        if let Body::Query(query) = &event.body {
            assert_eq!(query.session.unknown_setting, None);
            assert_eq!(query.error_code, 0);
            if query.text().unwrap().contains("tä") {
                assert_eq!(query.schema, "t");
                assert_ne!(
                    query.session.flags2.unwrap() & 1 << 26,
                    0,
                    "foreign_key_checks are off"
                );
                assert!(query.session.sql_mode.is_some());
            }
        }
    }
    let compressed =
        events.iter().filter(|e| e.header.event_type == EventType::MARIADB_QUERY_COMPRESSED);
    assert_eq!(compressed.count() > 0, version.is_mariadb());
}

#[test]
fn statements_of_mariadb_10_11() {
    statements(Version::Mariadb10_11);
}

#[test]
fn statements_of_mariadb_11_8() {
    statements(Version::Mariadb11_8);
}

#[test]
fn statements_of_mysql_9_7() {
    statements(Version::Mysql9_7);
}

#[test]
fn xa_partitions_rotation_and_statement_format_of_mysql() {
    let server = Mysql::start(Version::Mysql9_7, &["--binlog-rows-query-log-events=ON"]).unwrap();
    server
        .run(
            "create database t; use t;
             create table p(id int primary key, v int) partition by range(id)
               (partition a values less than (10), partition b values less than (100));
             insert into p values (1, 1); update p set id = 50 where id = 1;
             xa start 'x1','b',7; insert into p values (2, 2); xa end 'x1','b',7; xa prepare 'x1','b',7;
             xa commit 'x1','b',7;
             xa start 'x2'; insert into p values (3, 3); xa end 'x2'; xa commit 'x2' one phase;
             set binlog_format = 'statement'; insert into p values (last_insert_id() + 4, rand());
             set binlog_format = 'row', foreign_key_checks = 0, unique_checks = 0; insert into p values (5, 5);",
        )
        .unwrap();
    let files = server.binlogs().unwrap();
    let events = binlog::events(&files);
    let rows = events.iter().filter_map(|event| match &event.body {
        Body::Rows(rows) => Some(rows),
        _ => None,
    });
    let rows: Vec<_> = rows.collect();
    use decoders::mysql::ExtraInfo::Partition;
    assert_eq!(*rows[0].extra, [Partition { id: 0, source: None }]);
    assert_eq!(rows[1].operation, Operation::Update);
    assert_eq!(*rows[1].extra, [Partition { id: 1, source: Some(0) }]);
    let last = rows.last().unwrap().flags;
    let off = Rows::STATEMENT_END | Rows::NO_FOREIGN_KEY_CHECKS | Rows::RELAXED_UNIQUE_CHECKS;
    assert_eq!(last & off, off);
    let prepared = events.iter().filter_map(|event| match &event.body {
        Body::XaPrepare(xa) => Some((xa.one_phase, xa.global.clone())),
        _ => None,
    });
    assert_eq!(prepared.collect::<Vec<_>>(), [(false, b"x1".to_vec()), (true, b"x2".to_vec())]);
    assert!(texts(&events).iter().any(|text| text.starts_with("XA COMMIT")));
    let context = events.iter().filter(|event| matches!(event.body, Body::StatementContext));
    assert!(context.count() >= 2, "what a statement needs is not skipped");
    let sql = events.iter().filter_map(|event| match &event.body {
        Body::RowsQuery(text) => Some(text.0.clone()),
        _ => None,
    });
    assert!(sql.collect::<Vec<_>>().contains(&Bytes::from_static(b"insert into p values (1, 1)")));
}

#[test]
fn without_gtids_transactions_of_mysql_have_none() {
    let options = ["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF", "--binlog-checksum=NONE"];
    let server = Mysql::start(Version::Mysql9_7, &options).unwrap();
    server.run("create database t; create table t.x(id int); insert into t.x values (1)").unwrap();
    let events = binlog::events(&server.binlogs().unwrap());
    let gtids = events.iter().filter_map(|event| match &event.body {
        Body::Gtid(event) => Some(event.gtid.clone()),
        _ => None,
    });
    assert_eq!(gtids.collect::<Vec<_>>(), [None, None, None]);
    assert!(events.iter().any(|event| matches!(event.body, Body::Xid(_))));
}

/// A clean stop, a rotation, and a file that is being written.
#[test]
fn files_end_with_a_rotation_or_a_stop() {
    for version in Version::ALL {
        let mut server = Mysql::start(version, &[]).unwrap();
        server.run("create database t; flush binary logs; create table t.x(id int)").unwrap();
        let open = binlog::events(&server.binlogs().unwrap());
        assert!(!open.iter().any(|event| matches!(event.body, Body::Stop)));
        let rotations = open.iter().filter_map(|event| match &event.body {
            Body::Rotate(rotate) => Some(rotate.clone()),
            _ => None,
        });
        let rotations: Vec<_> = rotations.collect();
        assert!(rotations.iter().any(|to| to.file == "binlog.000002" && to.position == 4));
        server.stop().unwrap();
        let closed = binlog::events(&server.binlogs().unwrap());
        assert!(matches!(closed.last().unwrap().body, Body::Stop), "{}", version.name());
    }
}
