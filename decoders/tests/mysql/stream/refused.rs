//! What a stream refuses, and what it tells to do.

use std::time::Duration;

use decoders::SourceError;
use decoders::mysql::server::ServerUrl;
use decoders::mysql::stream::{BinlogStream, Start, StreamOptions};
use decoders::postgres::catalog::TableFilter;
use decoders::source::Disposition;
use tests::mysql::{Mysql, Version};

use super::support::{after, behind, failing, head, lines, next, open, options, server, url};

async fn refused(server: &Mysql, options: StreamOptions) -> SourceError {
    match BinlogStream::open(&url(server), options).await {
        Err(error) => error,
        Ok(mut stream) => failing(&mut stream).await,
    }
}

#[track_caller]
fn halts(error: &SourceError, told: &str, to_do: &str) {
    assert_eq!(error.disposition, Disposition::Halt, "{error}");
    assert!(error.to_string().contains(told), "{error}");
    let remedy = error.remedy.as_deref().unwrap_or_default();
    assert!(remedy.contains(to_do), "{error}; {remedy}");
}

/// MariaDB keeps a file, whatever it is told, until a crash would not need it any more.
fn purge_to(server: &Mysql, last: &str) {
    tests::wait::until_blocking("the binlogs to be purged", Duration::from_secs(60), || {
        server.run(&format!("purge binary logs to '{last}'"))?;
        let first = server.rows("show binary logs")?.remove(0).remove(0);
        Ok((first == last.as_bytes()).then_some(()))
    })
    .unwrap();
}

#[tokio::test]
async fn purged_binlogs_are_an_error_with_a_way_out() {
    for version in Version::ALL {
        let server = server(version, &[]);
        server.run("create table t.a(id int primary key)").unwrap();
        if version == Version::Mariadb11_8 {
            // Its default keeps binlogs until a replica has been there.
            server.run("set global slave_connections_needed_for_purge = 0").unwrap();
        }
        let begin = head(&server);
        server.run("insert into t.a values (1); flush binary logs; insert into t.a values (2); flush binary logs").unwrap();
        let middle = head(&server);
        let last = server.rows("show binary logs").unwrap().pop().unwrap().remove(0);
        let last = String::from_utf8(last).unwrap();
        server.run("insert into t.a values (3)").unwrap();
        purge_to(&server, &last);
        halts(&refused(&server, behind(&server, &begin)).await, "purged", "copy again");
        // Behind what was purged everything is there.
        let mut stream = open(&server, behind(&server, &middle)).await;
        let found = after(&server, &mut stream, "insert into t.a values (4)").await;
        assert_eq!(lines(&found), ["+a 3", "+a 4"], "{}", version.name());
    }
}

#[tokio::test]
async fn a_position_of_another_server_is_refused() {
    for version in Version::ALL {
        let server = server(version, &[]);
        let foreign = match version.is_mariadb() {
            true => "0-1-99999999",
            false => "00000000-1111-2222-3333-444444444444:1-5",
        };
        let mut position = head(&server);
        match foreign.parse::<decoders::mysql::gtid::MariadbGtid>() {
            Ok(gtid) => position.add(&decoders::mysql::gtid::TransactionId::Mariadb(gtid)),
            Err(_) => {
                let text = format!("{position},{foreign}");
                position = text.parse().unwrap();
            }
        }
        halts(&refused(&server, behind(&server, &position)).await, foreign, "copy again");
        let other =
            if version.is_mariadb() { "00000000-1111-2222-3333-444444444444:1" } else { "0-1-1" };
        let error = refused(&server, behind(&server, &other.parse().unwrap())).await;
        halts(&error, "not one of this server", "");
    }
}

#[tokio::test]
async fn a_server_id_that_is_taken_is_refused_and_ones_own_is_not() {
    for version in Version::ALL {
        let server = server(version, &[]);
        let mut first = open(&server, options(&server)).await;
        let mut own = options(&server);
        own.server_id = server.port().into();
        halts(&refused(&server, own).await, "the server itself", "choose a server_id");
        // Once the dump runs the server lists it.
        after(&server, &mut first, "create table t.a(id int)").await;
        let mut other = options(&server);
        other.name = "another".to_owned();
        halts(&refused(&server, other).await, "the replica cutover test", "choose a server_id");
        // The same replica once more takes its own place.
        let mut second = open(&server, options(&server)).await;
        let found = after(&server, &mut second, "insert into t.a values (1)").await;
        assert_eq!(lines(&found), ["+a 1"], "{}", version.name());
        let error = failing(&mut first).await;
        assert!(!error.to_string().contains("se cret"), "{error}");
    }
}

#[tokio::test]
async fn changes_that_the_binlog_does_not_hold_stop_the_stream() {
    for version in Version::ALL {
        let server = server(version, &[]);
        server.run("use t; create table a(id int primary key, v int)").unwrap();
        for (sql, told, to_do) in [
            (
                "set binlog_format = 'statement'; insert into a values (1, 1)",
                "logged as a statement",
                "binlog_format",
            ),
            (
                "insert into a values (2, 2); set binlog_row_image = 'minimal'; update a set v = 3 where id = 2",
                "lack columns",
                "binlog_row_image",
            ),
        ] {
            let begin = head(&server);
            let mut stream = open(&server, options(&server)).await;
            server.run(&format!("use t; {sql}; set binlog_format = 'row'")).unwrap();
            let error = failing(&mut stream).await;
            halts(&error, told, to_do);
            assert!(
                !error.to_string().contains("insert into"),
                "no value gets into an error: {error}"
            );
            // Behind the position nothing else is delivered either.
            let again = refused(&server, behind(&server, &begin)).await;
            halts(&again, told, to_do);
        }
    }
}

/// With a table that can't be rolled back in it, what was rolled back stays in the binlog.
#[tokio::test]
async fn a_rollback_in_part_stops_the_stream() {
    for version in Version::ALL {
        let server = server(version, &[]);
        server
            .run(
                "use t; create table a(id int primary key); create table m(id int) engine = myisam",
            )
            .unwrap();
        let mut stream = open(&server, options(&server)).await;
        let found = after(
            &server,
            &mut stream,
            "use t; begin; insert into a values (1); savepoint s; insert into a values (2);
             rollback to s; insert into a values (3); commit; begin; insert into a values (4); rollback;",
        )
        .await;
        assert_eq!(lines(&found), ["+a 1", "+a 3"], "{}", version.name());
        if !version.is_mariadb() {
            // MySQL refuses such transactions where GTIDs are on.
            continue;
        }
        server
            .run("use t; begin; insert into a values (5); savepoint s; insert into m select id from a;
                  insert into a values (6); rollback to s; insert into a values (7); commit;")
            .unwrap();
        halts(&failing(&mut stream).await, "rolled back in part", "InnoDB");
    }
}

#[tokio::test]
async fn a_table_that_is_left_out_stops_nothing() {
    for version in Version::ALL {
        let server = server(version, &[]);
        server.run("use t; create table a(id int primary key, v int); create table b like a; create database u; create table u.a like a").unwrap();
        let mut options = options(&server);
        options.filter = TableFilter::parse(&["*.a"], &[]).unwrap();
        options.database = Some("t".to_owned());
        let mut stream = open(&server, options).await;
        let found = after(
            &server,
            &mut stream,
            "use t; insert into b values (1, 1); set binlog_row_image = 'minimal'; update b set v = 2;
             insert into u.a values (3, 3); set binlog_row_image = 'full'; insert into a values (4, 4);",
        )
        .await;
        assert_eq!(lines(&found), ["+a 4,4"], "{}", version.name());
        assert_eq!(found.len(), 4);
    }
}

#[tokio::test]
async fn without_gtids_or_rights_nothing_begins() {
    let options_off = ["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"];
    let off = server(Version::Mysql9_7, &options_off);
    halts(&refused(&off, options(&off)).await, "gtid_mode = OFF", "ON_PERMISSIVE");
    for version in Version::ALL {
        let server = server(version, &[]);
        server.run("create user 'weak'@'%' identified by 'x'").unwrap();
        let of = |account: &str| {
            ServerUrl::parse(&format!("mysql://{account}@127.0.0.1:{}", server.port())).unwrap()
        };
        let error = BinlogStream::open(&of("nobody:secret"), options(&server)).await.unwrap_err();
        halts(&error, "cannot connect", "password");
        assert!(!error.to_string().contains("secret"), "{error}");
        let error = match BinlogStream::open(&of("weak:x"), options(&server)).await {
            Err(error) => error,
            Ok(mut stream) => failing(&mut stream).await,
        };
        assert_eq!(error.disposition, Disposition::Halt, "{}: {error}", version.name());
    }
}

#[tokio::test]
async fn a_server_that_is_gone_is_worth_another_try() {
    let mut server = server(Version::Mariadb11_8, &[]);
    let mut options = options(&server);
    options.start = Start::Behind(head(&server));
    let mut stream = open(&server, options.clone()).await;
    assert!(next(&mut stream).await.unwrap().is_none(), "a heartbeat");
    let url = url(&server);
    server.stop().unwrap();
    assert_eq!(failing(&mut stream).await.disposition, Disposition::Retry);
    let error = BinlogStream::open(&url, options).await.unwrap_err();
    assert_eq!(error.disposition, Disposition::Retry, "{error}");
}
