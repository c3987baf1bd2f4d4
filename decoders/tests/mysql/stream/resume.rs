//! Interruptions: nothing is lost and nothing comes twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use decoders::change::Part;
use decoders::mysql::gtid::BinlogPosition;
use decoders::mysql::stream::Transaction;
use decoders::source::Disposition;
use tests::mysql::{Mysql, Version};

use super::super::random::Random;
use super::support::{after, behind, head, lines, next, open, options, server, up_to};

/// Ends the connection of every replica on the server's side.
fn kill_dumps(server: &Mysql) -> usize {
    let dumps = server
        .rows("select id from information_schema.processlist where command like 'Binlog Dump%'")
        .unwrap();
    // One that has ended by itself since is no failure.
    dumps
        .iter()
        .filter(|id| server.run(&format!("kill {}", String::from_utf8_lossy(&id[0]))).is_ok())
        .count()
}

/// Transactions of one to four rows, rotating and sometimes large, until `stop`; the rows' numbers
/// ascend from 1. Gives the last one.
fn write(server: &Mysql, stop: &AtomicBool) -> u32 {
    let mut random = Random::new(7);
    let mut last = 0;
    for round in 1.. {
        let mut sql = String::from("use t;");
        for _ in 0..20 {
            sql.push_str("begin;");
            for _ in 0..random.below(4) + 1 {
                last += 1;
                let bytes = if random.below(20) == 0 { 30_000 } else { 10 };
                sql.push_str(&format!("insert into a values ({last}, repeat('x', {bytes}));"));
            }
            sql.push_str("commit;");
        }
        if round % 5 == 0 {
            sql.push_str("flush binary logs;");
        }
        server.run(&sql).unwrap();
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    last
}

async fn killed_again_and_again(version: Version) {
    let server = Arc::new(server(version, &[]));
    server.run("create table t.a(id int primary key, v longtext)").unwrap();
    let begin = head(&server);
    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (server, stop) = (Arc::clone(&server), Arc::clone(&stop));
        move || write(&server, &stop)
    });
    let mut random = Random::new(version as u64 + 1);
    let mut done = begin;
    let mut delivered: Vec<String> = Vec::new();
    let mut ids = std::collections::HashSet::new();
    let (mut kills, mut cut_off, mut parts) = (0, 0, 0);
    while kills < 12 {
        let mut options = behind(&server, &done);
        // Small, so that interruptions fall into the middle of transactions.
        options.part_bytes = 8_000;
        let mut stream = open(&server, options).await;
        let mut left = random.below(60);
        let mut torn: Vec<Transaction> = Vec::new();
        let error = loop {
            match next(&mut stream).await {
                Ok(None) => {}
                Ok(Some(transaction)) => {
                    parts += usize::from(transaction.part != Part::Whole);
                    torn.push(transaction);
                    let last = torn.last().unwrap();
                    if let Some(position) = &last.position {
                        assert!(ids.insert(last.id.to_string()), "{} came twice", last.id);
                        done = position.clone();
                        delivered.extend(lines(&torn));
                        torn.clear();
                    }
                }
                Err(error) => break error,
            }
            left = left.saturating_sub(1);
            if left == 0 {
                kills += kill_dumps(&server);
                left = 1_000_000;
            }
        };
        assert_eq!(error.disposition, Disposition::Retry, "{}: {error}", version.name());
        cut_off += usize::from(!torn.is_empty());
    }
    stop.store(true, Ordering::Relaxed);
    let last = writer.join().unwrap();
    let head = head(&server);
    let mut stream = open(&server, behind(&server, &done)).await;
    delivered.extend(lines(&up_to(&mut stream, &head).await));
    let numbers: Vec<u32> = delivered
        .iter()
        .map(|line| line.strip_prefix("+a ").unwrap().split(',').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(numbers, (1..=last).collect::<Vec<_>>(), "{}", version.name());
    assert!(parts > 0, "no transaction was large: the test would prove less");
    println!(
        "{}: {last} rows, {kills} kills, {cut_off} in the middle of a transaction",
        version.name()
    );
}

#[tokio::test]
async fn mariadb_10_11_killed_again_and_again() {
    killed_again_and_again(Version::Mariadb10_11).await;
}

#[tokio::test]
async fn mariadb_11_8_killed_again_and_again() {
    killed_again_and_again(Version::Mariadb11_8).await;
}

#[tokio::test]
async fn mysql_9_7_killed_again_and_again() {
    killed_again_and_again(Version::Mysql9_7).await;
}

/// A call of `next` may be dropped at any time, also while it asks the catalog.
#[tokio::test]
async fn dropped_calls_lose_nothing() {
    for version in [Version::Mariadb11_8, Version::Mysql9_7] {
        let metadata = if version.is_mariadb() { "NO_LOG" } else { "MINIMAL" };
        let server = server(version, &[&format!("--binlog-row-metadata={metadata}")]);
        let mut stream = open(&server, options(&server)).await;
        let mut sql = String::from("use t;");
        for n in 0..40 {
            sql.push_str(&format!("create table a{n}(id int); insert into a{n} values ({n});"));
        }
        server.run(&sql).unwrap();
        let head = head(&server);
        let mut found = Vec::new();
        let mut dropped = 0;
        let mut patience = Duration::ZERO;
        while !stream.position().covers(&head) {
            match tokio::time::timeout(patience, next(&mut stream)).await {
                Ok(transaction) => {
                    found.extend(transaction.unwrap());
                    patience = Duration::ZERO;
                }
                Err(_) => {
                    dropped += 1;
                    // A question that is dropped is asked again; it must have time to be answered.
                    patience = (patience * 2).max(Duration::from_micros(200));
                }
            }
        }
        let rows = lines(&found).into_iter().filter(|line| line.starts_with('+'));
        let expected: Vec<String> = (0..40).map(|n| format!("+a{n} {n}")).collect();
        assert_eq!(rows.collect::<Vec<_>>(), expected, "{}", version.name());
        assert!(dropped >= 40, "only {dropped} calls were dropped");
    }
}

#[tokio::test]
async fn tagged_gtids_and_holes_are_not_sent_again() {
    let server = server(Version::Mysql9_7, &[]);
    server.run("create table t.a(id int primary key)").unwrap();
    let begin = head(&server);
    let mut stream = open(&server, options(&server)).await;
    let sid = server.value("select @@server_uuid").unwrap();
    let sql = format!(
        "use t; insert into a values (1); set gtid_next = 'AUTOMATIC:red'; insert into a values (2), (20);
         set gtid_next = '{sid}:blue:7'; insert into a values (3);
         set gtid_next = AUTOMATIC; insert into a values (4); flush binary logs; insert into a values (5);"
    );
    let found = after(&server, &mut stream, &sql).await;
    assert_eq!(found.len(), 5);
    // Behind any of them the others come, whichever they are.
    for missing in 0..found.len() {
        let mut position = begin.clone();
        for (at, transaction) in found.iter().enumerate() {
            if at != missing {
                position.add(&transaction.id);
            }
        }
        let mut stream = open(&server, behind(&server, &position)).await;
        let again = up_to(&mut stream, &head(&server)).await;
        assert_eq!(lines(&again), lines(&found[missing..=missing]));
        assert_eq!(again[0].id, found[missing].id);
    }
}

#[tokio::test]
async fn each_domain_goes_on_where_it_was() {
    for version in [Version::Mariadb10_11, Version::Mariadb11_8] {
        let server = server(version, &[]);
        server.run("create table t.a(id int primary key)").unwrap();
        let mut stream = open(&server, options(&server)).await;
        let found = after(
            &server,
            &mut stream,
            "use t; insert into a values (1); set gtid_domain_id = 7; insert into a values (2);
             set gtid_domain_id = 0; insert into a values (3); flush binary logs;
             set gtid_domain_id = 7, server_id = 99; insert into a values (4);
             set gtid_domain_id = 0; insert into a values (5);",
        )
        .await;
        let mut rest: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for (at, transaction) in found.iter().enumerate() {
            let position: &BinlogPosition = transaction.position.as_ref().unwrap();
            let mut stream = open(&server, behind(&server, position)).await;
            rest.insert(at, lines(&up_to(&mut stream, &head(&server)).await));
        }
        for (at, lines_behind) in rest {
            assert_eq!(lines_behind, lines(&found[at + 1..]), "{}", version.name());
        }
        assert_eq!(found[3].server_id, 99);
    }
}
