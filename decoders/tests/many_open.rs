//! Many large transactions that run at once: what is in memory does not grow with their number. A
//! process of its own, because its size is what is looked at.

#[allow(dead_code, reason = "shared with the other tests of the stream")]
#[path = "stream/stage.rs"]
mod stage;

use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use decoders::postgres::stream::PgStream;
use decoders::spool::{Generation, Spool, SpoolError};
use decoders::{Source, SourceEvent};
use tests::postgres::Postgres;
use tests::scratch::Scratch;

use stage::{DEADLINE, Stage, drain, table};

const OPEN: usize = 50;
const ROWS: usize = 2_000;

/// How much larger the process may get: a part, a few batches, and what the allocator keeps.
const GROWTH_BYTES_MAX: usize = 24 << 20;

/// Batches as files.
#[derive(Debug)]
struct Files {
    directory: PathBuf,
    put_bytes: AtomicUsize,
}

impl Files {
    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(number.to_string())
    }

    fn failed(error: std::io::Error) -> SpoolError {
        SpoolError { message: error.to_string(), remedy: String::new() }
    }
}

impl Spool for Files {
    fn begin(&self) -> Result<Generation, SpoolError> {
        Ok(Generation(1))
    }

    fn put(&self, _: Generation, number: u64, batch: &[u8]) -> Result<(), SpoolError> {
        self.put_bytes.fetch_add(batch.len(), Ordering::Relaxed);
        fs::write(self.path(number), batch).map_err(Self::failed)
    }

    fn get(&self, _: Generation, number: u64) -> Result<Vec<u8>, SpoolError> {
        fs::read(self.path(number)).map_err(Self::failed)
    }

    fn discard(
        &self,
        _: Generation,
        numbers: &[Range<u64>],
        _is_last: bool,
    ) -> Result<(), SpoolError> {
        let mut numbers = numbers.iter().cloned().flatten();
        numbers.try_for_each(|number| fs::remove_file(self.path(number)).map_err(Self::failed))
    }

    fn retire(&self) {}
}

/// What this process has of memory.
fn resident_bytes() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

#[tokio::test]
async fn many_large_transactions_that_run_at_once_stay_on_disk() {
    let server = Postgres::builder(17)
        .setting("logical_decoding_work_mem", "64kB")
        .setting("fsync", "off")
        .start()
        .unwrap();
    let stage = Stage::on(server).await;
    stage
        .sql(
            "CREATE TABLE t (id int PRIMARY KEY, v text);
             ALTER TABLE t ALTER COLUMN v SET STORAGE EXTERNAL; CREATE TABLE tick (id int)",
        )
        .await;
    stage.publish(&[table("t"), table("tick")]).await;
    stage.slot().await;
    let scratch = Scratch::new().unwrap();
    let files =
        Arc::new(Files { directory: scratch.path().to_owned(), put_bytes: AtomicUsize::new(0) });
    let mut options = stage.options();
    options.spool = Some(Arc::clone(&files) as Arc<dyn Spool>);
    options.part_bytes = 1 << 20;
    let mut stream = PgStream::open(&stage.info, options).await.unwrap();
    let mut writers = Vec::new();
    for _ in 0..OPEN {
        let writer = stage.server.connect("postgres").await.unwrap();
        writer.batch_execute("BEGIN").await.unwrap();
        writers.push(writer);
    }
    let before = resident_bytes();
    let mut most = 0;
    for round in 0..2 {
        for (at, writer) in writers.iter().enumerate() {
            let from = (round * OPEN + at) * ROWS;
            let sql = format!(
                "SAVEPOINT s; INSERT INTO t SELECT i, repeat('x', 1000)
                 FROM generate_series({from}, {from} + {ROWS} - 1) i"
            );
            writer.batch_execute(&sql).await.unwrap();
            // The last writer's rows are flushed by this commit as well.
            stage.sql("INSERT INTO tick VALUES (1)").await;
            drain(&mut stream, stage.head().await).await;
            most = most.max(resident_bytes());
        }
    }
    let spooled = files.put_bytes.load(Ordering::Relaxed);
    let bytes = OPEN * 2 * ROWS * 1_000;
    assert!(spooled > bytes / 10 * 9, "{spooled} of {bytes} bytes are in the spool");
    for writer in &writers {
        writer.batch_execute("COMMIT").await.unwrap();
    }
    let head = stage.head().await;
    let mut rows = 0;
    let read = async {
        loop {
            let reached = match stream.next().await.unwrap() {
                SourceEvent::Transaction(part) => {
                    rows += part.changes.len();
                    part.end_lsn
                }
                SourceEvent::Idle(position) => position.lsn(),
                SourceEvent::Handover => panic!("a stream never hands over"),
            };
            most = most.max(resident_bytes());
            if reached.is_some_and(|reached| reached >= head) {
                break;
            }
        }
    };
    tokio::time::timeout(DEADLINE * 2, read).await.unwrap();
    assert_eq!(rows, OPEN * 2 * ROWS);
    let growth = most.saturating_sub(before);
    assert!(growth < GROWTH_BYTES_MAX, "{} MiB more, {} MiB spooled", growth >> 20, spooled >> 20);
}
