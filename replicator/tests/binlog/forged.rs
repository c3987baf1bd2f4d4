//! Somebody who may write to `_cutover` and is not us marks transactions as ours.

use std::time::Duration;

use decoders::mysql::gtid::BinlogPosition;
use decoders::mysql::server::ServerUrl;
use decoders::mysql::stream::{NumberedStream, StreamOptions};
use decoders::mysql::{Ledger, Place};
use decoders::{ChangeEvent, Source, SourceError, SourceEvent};
use replicator::engine::own::{Counterpart, OwnApply};
use sinks::own::MESSAGE_PREFIX;
use tests::mysql::Mysql;

use super::engine::{Engine, PAIRS, PIPELINE, head, start, url};

const DEADLINE: Duration = Duration::from_secs(120);

const TABLES: &str = "create database t; use t;
  create table a(id int primary key); create table theirs(id int primary key);";

/// A mark's table, before ours is there.
const SQUAT: &str = "create database _cutover; use _cutover;
  create table mark(pipeline varchar(255), lane int, opened bigint unsigned, claim varchar(100),
    primary key (pipeline, lane));
  insert into mark values ('shop', 0, 0, '');
  begin; update mark set opened = 1, claim = '0 1 00000000000000000000000000000000';
  insert into t.theirs values (1); commit;";

/// Behind these nothing may be left out: a mark of a former version, a guessed proof, a note of a schema change.
const FORGED: [&str; 3] = [
    "begin; update _cutover.progress set opened = opened + 1; insert into t.theirs values (10); commit",
    "begin; update _cutover.mark set opened = opened + 1,
       claim = concat('0 ', opened, ' 00000000000000000000000000000000');
     insert into t.theirs values (11); commit",
    "insert into _cutover.definition values ('shop', 99, 'x', 'ALTER TABLE', 't.theirs',
       'alter table t.theirs add column x int', '', 'begun', now(6));
     alter table t.theirs add column x int;
     delete from _cutover.definition where number = 99",
];

/// Reads everything up to the head, and tells the transactions with something in them: whose they are, and how
/// many changes beside marks they have.
async fn judged(
    server: &Mysql,
    begin: &str,
    own: &mut OwnApply,
) -> Result<Vec<(bool, usize)>, SourceError> {
    judged_until(server, begin, own, None).await
}

/// The same where marks without a proof are told up to a position.
async fn judged_until(
    server: &Mysql,
    begin: &str,
    own: &mut OwnApply,
    unproven_until: Option<BinlogPosition>,
) -> Result<Vec<(bool, usize)>, SourceError> {
    let end = head(server).parse().unwrap();
    let place = Place { number: Ledger::START, position: begin.parse().unwrap() };
    let options = StreamOptions::new(u32::from(server.port()) + 100_000, "test");
    let options = StreamOptions { unproven_until, ..options };
    let source = ServerUrl::parse(&url(server)).unwrap();
    let mut stream = NumberedStream::open(&source, options, place, MESSAGE_PREFIX).await?;
    let mut all = Vec::new();
    while !stream.position().covers(&end) {
        let event = tokio::time::timeout(DEADLINE, stream.next()).await.unwrap()?;
        own.look_again(&event).await?;
        if let SourceEvent::Transaction(transaction) = event {
            let is_ours = own.is_ours(&transaction)?;
            let is_said = |change: &&ChangeEvent| !matches!(change, ChangeEvent::Message { .. });
            let changes = transaction.changes.iter().filter(is_said).count();
            if changes > 0 {
                all.push((is_ours, changes));
            }
        }
    }
    stream.close().await;
    Ok(all)
}

async fn told(server: &Mysql) -> OwnApply {
    let source = ServerUrl::parse(&url(server)).unwrap();
    OwnApply::of(Counterpart::of_binlog(PIPELINE, &source).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_where_we_have_never_written_halts() {
    for (_, green) in PAIRS {
        let green = start(green, TABLES);
        let begin = head(&green);
        let mut own = told(&green).await;
        green.run(SQUAT).unwrap();
        let error = judged(&green, &begin, &mut own).await.unwrap_err();
        assert!(error.message.contains("has never written on this side"), "{error}");
        let mut fooled = OwnApply::of(Counterpart::believing(PIPELINE));
        assert_eq!(judged(&green, &begin, &mut fooled).await.unwrap(), [(true, 1)]);
    }
}

/// Transactions of a version that had no proofs are ours up to where there are some.
#[tokio::test(flavor = "multi_thread")]
async fn what_had_no_proof_is_ours_until_there_is_a_secret() {
    for versions in PAIRS {
        let [blue, green] = [versions.0, versions.1].map(|version| start(version, TABLES));
        let (from, scratch) = (head(&blue), tempfile::tempdir().unwrap());
        let engine = Engine::start(&blue, &green, scratch.path(), Some(&from), 1);
        let is_open = "select count(*) from _cutover.mark where lane = 0";
        tests::wait::until_blocking("a lane", DEADLINE, || {
            Ok(green.value(is_open).is_ok_and(|count| count == "1").then_some(()))
        })
        .unwrap();
        engine.kill();
        green.run("drop table _cutover.mark, _cutover.own_mark").unwrap();
        let begin = head(&green);
        let unproven = |id: u32| {
            format!(
                "begin; update _cutover.progress set opened = opened + 1; insert into t.a values ({id}); commit"
            )
        };
        let noted = "insert into _cutover.definition values ('shop', 9, 'x', 'ALTER TABLE', 't.a',
           'alter table t.a add column x int', '', 'begun', now(6)); alter table t.a add column x int";
        green.run(&unproven(1)).unwrap();
        green.run(noted).unwrap();
        // The sessions of the former version have to have ended.
        tests::wait::until_blocking("the lane to be free", DEADLINE, || {
            let sql = "select count(*) from information_schema.processlist where user = 'cutover'";
            Ok((green.value(sql).unwrap() == "0").then_some(()))
        })
        .unwrap();
        let source = ServerUrl::parse(&url(&green)).unwrap();
        let counterpart = Counterpart::of_binlog(PIPELINE, &source).await.unwrap();
        green.run(&unproven(2).replace("(2)", "(2, 2)")).unwrap();
        let until = counterpart.unproven_until();
        assert!(until.is_some());
        let mut own = OwnApply::of(counterpart);
        let all = judged_until(&green, &begin, &mut own, until).await.unwrap();
        assert_eq!(all, [(true, 1), (true, 1), (false, 1)], "{}", green.version().name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_mark_is_data_and_ours_are_known_beside_it() {
    for versions in PAIRS {
        let [blue, green] = [versions.0, versions.1].map(|version| start(version, TABLES));
        let name = blue.version().name();
        let (begin, from) = (head(&green), head(&blue));
        // Before there is a secret: it is read when the first mark comes.
        let mut own = told(&green).await;
        let scratch = tempfile::tempdir().unwrap();
        let engine = Engine::start(&blue, &green, scratch.path(), Some(&from), 1);
        let arrives = |rows: &str| {
            blue.run(rows).unwrap();
            let (count, sql) =
                (blue.value("select count(*) from t.a").unwrap(), "select count(*) from t.a");
            tests::wait::until_blocking("rows to come", DEADLINE, || {
                Ok((green.value(sql).unwrap() == count).then_some(()))
            })
            .unwrap();
        };
        arrives("insert into t.a values (1)");
        let claim = green.value("select claim from _cutover.mark where lane = 0").unwrap();
        engine.kill();
        for forged in FORGED {
            green.run(forged).unwrap();
        }
        // As it was in the log.
        green
            .run(&format!(
                "begin; update _cutover.mark set claim = '{claim}'; insert into t.theirs values (12, 1); commit"
            ))
            .unwrap();
        let engine = Engine::start(&blue, &green, scratch.path(), None, 1);
        arrives("insert into t.a values (2)");
        engine.kill();
        let all = judged(&green, &begin, &mut own).await.unwrap();
        let (ours, theirs) = ((true, 1), (false, 1));
        assert_eq!(all, [ours, theirs, theirs, theirs, theirs, ours], "{name}");
        let mut fooled = OwnApply::of(Counterpart::believing(PIPELINE));
        let all = judged(&green, &begin, &mut fooled).await.unwrap();
        assert_eq!(all, [ours, theirs, ours, theirs, ours, ours], "{name}: nobody was asked");
    }
}
