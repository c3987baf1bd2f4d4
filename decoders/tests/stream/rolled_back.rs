//! Large transactions of which parts are rolled back while they are streamed: what is delivered is
//! what a query finds on the source afterwards, however the source has told about the parts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::stream::PgStream;
use decoders::source::Disposition;
use decoders::spool::{MemorySpool, Spool};
use decoders::{ChangeEvent, Lsn, OldRow, Row, Source, SourceEvent};
use tests::postgres::{Postgres, Stop};

use crate::stage::{DEADLINE, SLOT, Stage, acknowledge, drain, table, texts};

/// More than a server reads back from its own disk at once (`max_changes_in_memory` in
/// `reorderbuffer.c`), so that it has none of them at hand when it has sent them.
const ROWS: i32 = 4_500;

/// Text of this many bytes needs as many chunks of TOAST, each of them a change.
const WIDE_BYTES: i32 = 10_000_000;

/// Between two looks at the spool while the stream has nothing to say.
const LOOK: Duration = Duration::from_millis(10);

/// A writer, a stream that follows it, and the table as the stream tells it.
struct Trial {
    stage: Stage,
    writer: tokio_postgres::Client,
    spool: Arc<MemorySpool>,
    stream: PgStream,
    told: BTreeMap<i32, String>,
    /// Behind all that was delivered.
    at: Lsn,
    next_id: i32,
    /// Whether what is rolled back has been sent by then. Had it not, the source may find out by
    /// itself.
    follows: bool,
    wrong: Vec<String>,
}

impl Trial {
    async fn new(major: u32) -> Trial {
        let server =
            Postgres::builder(major).setting("logical_decoding_work_mem", "64kB").start().unwrap();
        let stage = Stage::on(server).await;
        stage
            .sql(
                "CREATE TABLE t (id int PRIMARY KEY, v text);
                 ALTER TABLE t ALTER COLUMN v SET STORAGE EXTERNAL;
                 CREATE TABLE tick (id int)",
            )
            .await;
        stage.publish(&[table("t"), table("tick")]).await;
        stage.slot().await;
        let writer = stage.server.connect("postgres").await.unwrap();
        let spool = Arc::new(MemorySpool::default());
        let at = stage.confirmed().await;
        let stream = open(&stage, &spool, at).await;
        let (told, wrong) = Default::default();
        Trial { stage, writer, spool, stream, told, at, next_id: 1, follows: true, wrong }
    }

    async fn sql(&self, sql: &str) {
        let done = self.writer.batch_execute(sql).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// Rows in the open (sub)transaction.
    async fn rows(&mut self, count: i32) {
        let from = self.next_id;
        self.next_id += count;
        let to = self.next_id - 1;
        self.sql(&format!(
            "INSERT INTO t SELECT i, repeat('x', 100) || i FROM generate_series({from}, {to}) i"
        ))
        .await;
    }

    /// One row of many chunks of TOAST.
    async fn wide_row(&mut self) {
        let id = self.next_id;
        self.next_id += 1;
        self.sql(&format!("INSERT INTO t VALUES ({id}, repeat('w', {WIDE_BYTES}))")).await;
    }

    /// Reads all that the source has sent of what was written so far.
    async fn follow(&mut self) {
        // A commit flushes the log, and comes behind all that was written before it.
        self.stage.sql("INSERT INTO tick VALUES (1)").await;
        let head = self.stage.head().await;
        for transaction in drain(&mut self.stream, head).await {
            for change in &transaction.changes {
                self.tell(change);
            }
            self.at = self.at.max(transaction.end_lsn.unwrap_or(Lsn::INVALID));
        }
        self.at = self.at.max(head);
    }

    fn tell(&mut self, change: &ChangeEvent) {
        let cells = |row: &Row| {
            let id = row.value(0).and_then(|id| id.bytes()?.try_into().ok());
            (i32::from_be_bytes(id.unwrap()), texts(row).remove(1))
        };
        match change {
            ChangeEvent::Insert { table, new } if table.name.name == "t" => {
                let (id, v) = cells(new);
                if self.told.insert(id, v).is_some() {
                    self.wrong.push(format!("{id} came twice"));
                }
            }
            ChangeEvent::Update { old, new, .. } => {
                let (id, v) = cells(new);
                if let Some(OldRow::Key(key)) = old {
                    self.told.remove(&cells(key).0);
                }
                self.told.insert(id, v);
            }
            ChangeEvent::Delete { old, .. } => {
                self.told.remove(&cells(old.row()).0);
            }
            _ => {}
        }
    }

    /// The connection is lost; a new one goes on behind all that was delivered.
    async fn reopen(&mut self) {
        self.follow().await;
        acknowledge(&mut self.stream, self.at).await;
        self.stream = open(&self.stage, &self.spool, self.at).await;
        assert!(self.spool.is_empty(), "the spool of the stream before is gone");
    }

    /// Batches are discarded on a thread of their own, while the stream goes on: all that is known
    /// to be over is gone in time, without anything more being written on the source.
    async fn settle(&mut self) {
        let emptied = async {
            while !self.spool.is_empty() {
                if let Ok(event) = tokio::time::timeout(LOOK, self.stream.next()).await {
                    assert!(matches!(event.unwrap(), SourceEvent::Idle(_)));
                }
            }
        };
        // A spool that is not empty by then is what the caller reports.
        let _ = tokio::time::timeout(DEADLINE, emptied).await;
    }

    async fn roll_back(&mut self, sql: &str) {
        if self.follows {
            self.follow().await;
        }
        self.sql(sql).await;
    }

    /// What was delivered is what is there.
    async fn check(&mut self, what: &str) {
        self.follow().await;
        let rows = self.stage.session.query("SELECT id, v FROM t", &[]).await.unwrap();
        let there: BTreeMap<i32, String> =
            rows.iter().map(|row| (row.get(0), row.get::<_, &str>(1).to_owned())).collect();
        let surplus = self.told.keys().filter(|id| !there.contains_key(id)).count();
        let missing = there.keys().filter(|id| !self.told.contains_key(id)).count();
        if self.told != there {
            self.wrong.push(format!("{what}: {surplus} rows too many, {missing} missing"));
        }
        self.settle().await;
        if !self.spool.is_empty() {
            self.wrong.push(format!("{what}: {} batches were forgotten", self.spool.len()));
        }
        self.told = there;
    }
}

async fn open(stage: &Stage, spool: &Arc<MemorySpool>, start: Lsn) -> PgStream {
    let mut options = stage.options();
    options.start = Some(start);
    options.spool = Some(Arc::clone(spool) as Arc<dyn Spool>);
    let stream = PgStream::open(&stage.info, options).await.unwrap();
    assert!(stream.is_streaming_running());
    stream
}

async fn what_was_rolled_back_is_not_delivered(major: u32, follows: &[bool]) {
    let mut trial = Trial::new(major).await;
    for &follows in follows {
        trial.follows = follows;
        rolled_back_to_a_savepoint(&mut trial).await;
        nested_savepoints_end_in_all_orders(&mut trial).await;
        exceptions_in_a_procedure(&mut trial).await;
        a_wide_row_that_is_spilled(&mut trial).await;
        a_shape_that_is_rolled_back(&mut trial).await;
        reopened_before_the_rollback(&mut trial).await;
        reopened_before_the_commit(&mut trial).await;
        rolled_back_as_a_whole(&mut trial).await;
        assert!(trial.wrong.is_empty(), "{major}, follows {follows}: {:#?}", trial.wrong);
        assert!(!trial.spool.is_retired());
    }
}

async fn rolled_back_to_a_savepoint(trial: &mut Trial) {
    trial.sql("BEGIN").await;
    trial.rows(10).await;
    trial.sql("SAVEPOINT s").await;
    trial.rows(ROWS).await;
    trial.roll_back("ROLLBACK TO s").await;
    trial.rows(ROWS).await;
    trial.sql("COMMIT").await;
    trial.check("rolled back to a savepoint").await;
    trial.sql("BEGIN; SAVEPOINT s").await;
    trial.rows(ROWS).await;
    trial.roll_back("ROLLBACK TO s; COMMIT").await;
    trial.check("nothing but what was rolled back").await;
}

async fn nested_savepoints_end_in_all_orders(trial: &mut Trial) {
    for first in ["RELEASE", "ROLLBACK TO"] {
        for second in ["RELEASE", "ROLLBACK TO"] {
            for third in ["RELEASE", "ROLLBACK TO"] {
                trial.sql("BEGIN; SAVEPOINT a").await;
                trial.rows(ROWS).await;
                trial.sql("SAVEPOINT b").await;
                trial.rows(ROWS).await;
                trial.sql("SAVEPOINT c").await;
                trial.rows(900).await;
                trial
                    .sql(&format!(
                        "UPDATE t SET v = v || 'c' WHERE id % 7 = 0 AND id > {}",
                        trial.next_id - 3_000
                    ))
                    .await;
                trial.roll_back(&format!("{first} c")).await;
                trial.rows(100).await;
                trial.roll_back(&format!("{second} b")).await;
                trial.rows(100).await;
                trial.roll_back(&format!("{third} a")).await;
                trial.rows(100).await;
                trial.sql("COMMIT").await;
                trial.check(&format!("{first} c, {second} b, {third} a")).await;
            }
        }
    }
}

async fn exceptions_in_a_procedure(trial: &mut Trial) {
    let from = trial.next_id;
    trial.next_id += 10 * ROWS;
    trial
        .sql(&format!(
            "DO $$ BEGIN
               FOR block IN 0..9 LOOP
                 BEGIN
                   INSERT INTO t SELECT {from} + block * {ROWS} + i, 'block'
                     FROM generate_series(0, {ROWS} - 1) i;
                   IF block % 3 <> 0 THEN RAISE 'no' USING ERRCODE = 'P0001'; END IF;
                 EXCEPTION WHEN SQLSTATE 'P0001' THEN NULL;
                 END;
               END LOOP;
             END $$"
        ))
        .await;
    trial.check("exceptions").await;
}

async fn a_wide_row_that_is_spilled(trial: &mut Trial) {
    for rows_between in [0, 10, ROWS] {
        trial.sql("BEGIN; SAVEPOINT s").await;
        trial.wide_row().await;
        trial.roll_back("ROLLBACK TO s").await;
        trial.rows(rows_between).await;
        trial.sql("SAVEPOINT kept").await;
        trial.wide_row().await;
        trial.sql("COMMIT").await;
        // What the server has described stays described.
        trial.stage.sql("UPDATE t SET v = 'after' WHERE id = 2").await;
        trial.check(&format!("a wide row, {rows_between} others")).await;
        trial
            .sql(&format!("BEGIN; INSERT INTO t VALUES ({}, ''); SAVEPOINT s", trial.next_id))
            .await;
        trial.next_id += 1;
        trial.sql(&format!("UPDATE t SET v = v || repeat('u', {WIDE_BYTES}) WHERE id = 1")).await;
        trial.rows(rows_between).await;
        trial.roll_back("ROLLBACK TO s").await;
        trial.rows(1000).await;
        trial.sql("COMMIT").await;
        trial.check(&format!("a wide update, {rows_between} others")).await;
    }
}

/// The table has another shape in what is rolled back; others go on with the one it has.
async fn a_shape_that_is_rolled_back(trial: &mut Trial) {
    for alter in ["ADD COLUMN w int DEFAULT 7", "DROP COLUMN v", "RENAME COLUMN v TO w"] {
        trial.sql("BEGIN").await;
        trial.rows(10).await;
        trial.sql("SAVEPOINT s").await;
        trial.wide_row().await;
        trial.sql(&format!("ALTER TABLE t {alter}")).await;
        trial.sql(&format!("DELETE FROM t WHERE id > {}", trial.next_id - 10)).await;
        trial.roll_back("ROLLBACK TO s").await;
        trial.rows(2_000).await;
        trial.sql("COMMIT").await;
        let id = trial.next_id;
        trial.next_id += 1;
        trial.stage.sql(&format!("INSERT INTO t VALUES ({id}, 'after')")).await;
        trial.check(alter).await;
    }
}

async fn reopened_before_the_rollback(trial: &mut Trial) {
    for (more_inside, more_behind) in [(0, 1_000), (10, 1_000), (1_000, 10), (ROWS, ROWS)] {
        trial.sql("BEGIN; SAVEPOINT s").await;
        trial.rows(ROWS).await;
        trial.reopen().await;
        trial.rows(more_inside).await;
        trial.sql("SAVEPOINT inner_one").await;
        trial.rows(more_behind).await;
        trial.roll_back("ROLLBACK TO s").await;
        trial.rows(more_behind).await;
        trial.sql("COMMIT").await;
        trial.check(&format!("reopened, {more_inside} and {more_behind} more, rolled back")).await;
    }
}

async fn reopened_before_the_commit(trial: &mut Trial) {
    for more in [1, 1_000, ROWS] {
        trial.sql("BEGIN; SAVEPOINT s").await;
        trial.rows(ROWS).await;
        trial.roll_back("ROLLBACK TO s").await;
        trial.reopen().await;
        trial.rows(more).await;
        trial.sql("COMMIT").await;
        trial.check(&format!("rolled back, reopened, {more} more")).await;
    }
}

async fn rolled_back_as_a_whole(trial: &mut Trial) {
    for reopened in [false, true] {
        trial.sql("BEGIN; SAVEPOINT s").await;
        trial.rows(ROWS).await;
        trial.sql("RELEASE s").await;
        if reopened {
            trial.reopen().await;
        }
        trial.rows(ROWS).await;
        trial.roll_back("ROLLBACK").await;
        trial.check(&format!("rolled back as a whole, reopened: {reopened}")).await;
    }
}

#[tokio::test]
async fn what_was_rolled_back_is_not_delivered_14() {
    what_was_rolled_back_is_not_delivered(14, &[true, false]).await;
}

#[tokio::test]
async fn what_was_rolled_back_is_not_delivered_15() {
    what_was_rolled_back_is_not_delivered(15, &[true]).await;
}

#[tokio::test]
async fn what_was_rolled_back_is_not_delivered_16() {
    what_was_rolled_back_is_not_delivered(16, &[true]).await;
}

#[tokio::test]
async fn what_was_rolled_back_is_not_delivered_17() {
    what_was_rolled_back_is_not_delivered(17, &[true]).await;
}

#[tokio::test]
async fn what_was_rolled_back_is_not_delivered_18() {
    what_was_rolled_back_is_not_delivered(18, &[true, false]).await;
}

/// The source crashes while a transaction runs: nobody writes that it is rolled back.
async fn a_crash_leaves_nothing(major: u32) {
    let mut trial = Trial::new(major).await;
    for followed in [true, false] {
        trial.sql("BEGIN; SAVEPOINT s").await;
        trial.rows(ROWS).await;
        if followed {
            trial.reopen().await;
            trial.rows(ROWS).await;
            trial.follow().await;
        }
        trial.stage.sql("INSERT INTO tick VALUES (2)").await;
        let mut server = trial.stage.server;
        server.stop(Stop::Immediate).unwrap();
        server.start().unwrap();
        trial.stage = Stage::on(server).await;
        trial.writer = trial.stage.server.connect("postgres").await.unwrap();
        trial.stream = open(&trial.stage, &trial.spool, trial.at).await;
        trial.check(&format!("a crash, followed: {followed}")).await;
        trial.stage.sql("CHECKPOINT").await;
        trial.check(&format!("after a checkpoint, followed: {followed}")).await;
    }
    assert!(trial.wrong.is_empty(), "{major}: {:#?}", trial.wrong);
    let state = decoders::postgres::slot::inspect(&trial.stage.session, SLOT).await.unwrap();
    assert!(!state.unwrap().is_lost());
}

#[tokio::test]
async fn a_crash_leaves_nothing_14() {
    a_crash_leaves_nothing(14).await;
}

#[tokio::test]
async fn a_crash_leaves_nothing_18() {
    a_crash_leaves_nothing(18).await;
}

/// Without a verdict the transaction is left to a stream that reads it after its commit.
#[tokio::test]
async fn a_source_that_does_not_say_what_was_rolled_back_is_read_after_the_commit() {
    let trial = Trial::new(17).await;
    trial
        .stage
        .sql(
            "REVOKE EXECUTE ON FUNCTION pg_xact_status FROM PUBLIC;
             CREATE ROLE mover LOGIN REPLICATION",
        )
        .await;
    drop(trial.stream);
    let url = trial.stage.server.url_as("mover", "postgres");
    let info = ConnInfo::parse(&url).unwrap();
    let mut options = trial.stage.options();
    options.spool = Some(Arc::clone(&trial.spool) as Arc<dyn Spool>);
    let mut stream = PgStream::open(&info, options.clone()).await.unwrap();
    let sql = "BEGIN; INSERT INTO t SELECT i, 'top' FROM generate_series(1, 2000) i; SAVEPOINT s;
               INSERT INTO t SELECT i, 'sub' FROM generate_series(2001, 4000) i; COMMIT";
    trial.writer.batch_execute(sql).await.unwrap();
    let failed = async {
        loop {
            if let Err(error) = stream.next().await {
                break error;
            }
        }
    };
    let error = tokio::time::timeout(DEADLINE, failed).await.unwrap();
    assert_eq!(error.disposition, Disposition::Retry, "{error}");
    assert!(error.message.contains("pg_xact_status"), "{error}");
    assert!(trial.spool.is_retired());
    drop(stream);
    options.spool = None;
    // The server notices a moment later that the connection is gone.
    let free = format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{SLOT}'");
    tests::wait::until("the slot to be free", DEADLINE, || async {
        let row = trial.writer.query_one(&free, &[]).await?;
        Ok((!row.get::<_, bool>(0)).then_some(()))
    })
    .await
    .unwrap();
    let mut stream = PgStream::open(&info, options).await.unwrap();
    let seen = drain(&mut stream, trial.stage.head().await).await;
    assert_eq!(seen.iter().map(|part| part.changes.len()).sum::<usize>(), 4_000);
}
