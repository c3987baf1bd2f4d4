//! `replicator tail` of a MySQL or MariaDB server. Nothing is left behind on it: a replica that is
//! gone is forgotten.

use std::io::{BufWriter, Write};

use decoders::json::JsonEvents;
use decoders::mysql::gtid::BinlogPosition;
use decoders::mysql::server::ServerUrl;
use decoders::mysql::stream::{BinlogStream, Start, StreamOptions};
use decoders::postgres::catalog::TableFilter;
use decoders::source::Disposition;
use decoders::{Source, SourceError, SourceEvent};
use tokio::sync::watch;
use uuid::Uuid;

use super::{end_of, line};
use crate::cli::TailArgs;
use crate::pipeline::failure::Failure;

/// How it shows in the server's list of replicas.
const NAME: &str = "cutover tail";

pub(super) async fn tail(args: &TailArgs, mut stop: watch::Receiver<bool>) -> Result<(), Failure> {
    if args.slot.is_some() || args.publication.is_some() {
        return Err(Failure::halt(
            "--slot, --publication",
            "MySQL and MariaDB have no slots and no publications",
            "replicator tail --blue URL [--from GTIDS]",
        ));
    }
    let url = ServerUrl::parse(&args.blue).map_err(|error| {
        Failure::halt("--blue", error.to_string(), "replicator tail --blue mysql://USER@HOST/DB")
    })?;
    let options = options(args, &url);
    let mut stream = tokio::select! {
        opened = BinlogStream::open(&url, options) => opened.map_err(of_source)?,
        _ = stop.wait_for(|stop| *stop) => return Ok(()),
    };
    tracing::info!(from = %stream.start(), server = %stream.server(), "following blue; ^C ends it");
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut events = JsonEvents::new();
    let mut left = args.limit.unwrap_or(u64::MAX);
    while left > 0 {
        let event = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            event = stream.next() => event,
        };
        let event = event.map_err(|error| stopped(error, stream.position()))?;
        if let SourceEvent::Transaction(transaction) = event {
            let room = usize::try_from(left).unwrap_or(usize::MAX);
            for event in events.of_binlog(&transaction).take(room) {
                left -= 1;
                if let Err(error) = line(&mut out, &event)? {
                    return end_of(error);
                }
            }
        }
        if let Err(error) = out.flush() {
            return end_of(error);
        }
    }
    stream.close().await;
    Ok(())
}

fn options(args: &TailArgs, url: &ServerUrl) -> StreamOptions {
    // The upper half: people number their servers from below.
    let random = || Uuid::new_v4().as_u128() as u32 | 1 << 31;
    let mut options = StreamOptions::new(args.server_id.unwrap_or_else(random), NAME);
    options.filter = TableFilter { include: args.include.clone(), exclude: args.exclude.clone() };
    options.database = url.database().map(str::to_owned);
    if let Some(position) = &args.from {
        options.start = Start::Behind(position.clone());
    }
    options
}

/// Nothing was touched, and there is nothing to resume but the look itself.
const STATE: &str = "nothing is read any more; blue is serving and was not changed";

fn of_source(error: SourceError) -> Failure {
    let next = "replicator tail --blue URL, when the server answers again";
    let remedy = error.remedy.clone().unwrap_or_else(|| next.to_owned());
    Failure { state: Some(STATE.to_owned()), remedy: Some(remedy), ..Failure::from(error) }
}

fn stopped(error: SourceError, position: &BinlogPosition) -> Failure {
    let again = format!("replicator tail --blue URL --from '{position}'");
    match error.disposition {
        Disposition::Retry => Failure { remedy: Some(again), ..of_source(error) },
        Disposition::Halt => of_source(error),
    }
}
