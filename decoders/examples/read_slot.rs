//! How fast a slot's content arrives: `read_slot URL SLOT PUBLICATION gulp|stream`. The slot stays
//! where it is, so that it can be read again.

use std::time::Instant;

use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::gulp::{GulpOptions, GulpStream};
use decoders::postgres::session;
use decoders::postgres::stream::{PgStream, StreamOptions};
use decoders::{Lsn, Source, SourceEvent};

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, slot, publication, how] = arguments.as_slice() else {
        return Err("usage: read_slot URL SLOT PUBLICATION gulp|stream".into());
    };
    let source = ConnInfo::parse(url)?;
    let options = StreamOptions::new(slot, vec![publication.clone()], "read_slot");
    let session = session::connect(&source, "read_slot head").await?;
    let head = session.query_one("SELECT pg_current_wal_lsn()::text", &[]).await?;
    let head: Lsn = head.try_get::<_, &str>(0)?.parse()?;
    let start = Instant::now();
    let (transactions, bytes) = match how.as_str() {
        "gulp" => {
            let mut gulping = GulpOptions::new(options);
            gulping.near_bytes = 0;
            read(GulpStream::open(&source, gulping).await?, head).await?
        }
        "stream" => read(PgStream::open(&source, options).await?, head).await?,
        other => return Err(format!("unknown reader {other}").into()),
    };
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{how}: {transactions} transactions, {} MiB, {seconds:.2} s: {:.0} transactions/s",
        bytes >> 20,
        transactions as f64 / seconds
    );
    Ok(())
}

async fn read(mut source: impl Source, head: Lsn) -> Result<(u64, usize), Failure> {
    let (mut transactions, mut bytes) = (0, 0);
    loop {
        let reached = match source.next().await? {
            SourceEvent::Transaction(transaction) => {
                transactions += u64::from(transaction.part.ends());
                bytes += transaction.bytes;
                transaction.end_lsn
            }
            SourceEvent::Idle(position) => position.lsn(),
            SourceEvent::Handover => Some(head),
        };
        if reached.is_some_and(|reached| reached >= head) {
            return Ok((transactions, bytes));
        }
    }
}
