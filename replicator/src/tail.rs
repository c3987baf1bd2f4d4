//! `replicator tail`: blue's changes as JSON lines, for a look at the stream without a green.
//!
//! Without `--slot` nothing is left behind on blue: the slot is temporary and dies with the
//! connection, whatever ends it. Tables whose UPDATE or DELETE would *fail* while they are
//! published (no usable replica identity) are left out: a look must not break the application.

mod binlog;

use std::io::{BufWriter, Write};

use decoders::json::{JsonEvent, JsonEvents};
use decoders::postgres::catalog::{self, ResolvedIdentity, TableFilter};
use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::publication::{self, PublicationOptions};
use decoders::postgres::session::{self, Session};
use decoders::postgres::stream::{Binary, PgStream, SlotUse, StreamOptions};
use decoders::{Position, Source, SourceEvent};
use tokio::sync::watch;
use uuid::Uuid;

use crate::cli::{TailArgs, typed};
use crate::pipeline::failure::{Failure, chain, of_connect};

/// Prints changes until `stop`, or until `--limit` are printed.
///
/// # Errors
/// Blue's, or stdout's. A closed pipe (`| head`) is a normal end.
pub async fn tail(args: &TailArgs, mut stop: watch::Receiver<bool>) -> Result<(), Failure> {
    typed::refuse_password("--blue", Some(&args.blue))
        .map_err(|what| Failure::halt("--blue", what, "CUTOVER_BLUE=.. replicator tail"))?;
    if decoders::mysql::server::is_mysql_url(&args.blue) {
        return binlog::tail(args, stop).await;
    }
    if args.from.is_some() || args.server_id.is_some() {
        return Err(Failure::halt(
            "--from, --server-id",
            "PostgreSQL has no GTIDs and no server ids",
            "replicator tail --blue URL [--slot SLOT --publication PUBLICATION]",
        ));
    }
    let blue = ConnInfo::parse(&args.blue).map_err(|error| {
        Failure::halt("--blue", error.to_string(), "replicator tail --blue postgres://USER@HOST/DB")
    })?;
    let setup = session::connect(&blue, "cutover tail").await;
    let setup = setup.map_err(|error| of_connect("blue", &error))?;
    let own = format!("cutover_tail_{}", Uuid::new_v4().simple());
    let name = args.publication.as_ref().unwrap_or(&own);
    if args.publication.is_none() {
        publish(&setup, name, args).await?;
    }
    let slot = args.slot.as_ref().unwrap_or(&own);
    let mut options = StreamOptions::new(slot.clone(), vec![name.clone()], own.clone());
    options.binary = Binary::Off;
    options.slot_use = if args.slot.is_some() { SlotUse::Existing } else { SlotUse::Temporary };
    let printed = print(&blue, options, args.limit, &mut stop).await;
    if args.publication.is_none() {
        let session = session::connect(&blue, "cutover tail").await;
        let session = session.map_err(|error| of_connect("blue", &error))?;
        publication::drop(&session, name).await?;
    }
    printed
}

async fn publish(blue: &Session, name: &str, args: &TailArgs) -> Result<(), Failure> {
    let filter = TableFilter { include: args.include.clone(), exclude: args.exclude.clone() };
    let tables = catalog::tables(blue, &filter).await;
    let tables = tables.map_err(|error| Failure::retry("blue", chain(&error)))?;
    let (usable, unusable): (Vec<_>, Vec<_>) = tables
        .into_iter()
        .filter(|table| table.is_decoded())
        .partition(|table| !matches!(table.identity, ResolvedIdentity::Missing(_)));
    for table in &unusable {
        tracing::warn!(table = %table.name, "left out: it has no usable replica identity");
    }
    if usable.is_empty() {
        return Err(Failure::halt(
            "blue",
            "there is no table to follow",
            "check --include-table and --exclude-table, or give the tables a primary key",
        ));
    }
    let names: Vec<_> = usable.into_iter().map(|table| table.name).collect();
    Ok(publication::create(blue, name, &names, PublicationOptions::default()).await?)
}

async fn print(
    blue: &ConnInfo,
    options: StreamOptions,
    limit: Option<u64>,
    stop: &mut watch::Receiver<bool>,
) -> Result<(), Failure> {
    let may_acknowledge = options.slot_use == SlotUse::Temporary;
    let opened = tokio::select! {
        opened = PgStream::open(blue, options) => opened,
        // A new slot waits for blue's open writers.
        _ = stop.wait_for(|stop| *stop) => return Ok(()),
    };
    let mut stream = opened?;
    tracing::info!(from = %stream.start(), "following blue; ^C ends it");
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut events = JsonEvents::new();
    let mut left = limit.unwrap_or(u64::MAX);
    while left > 0 {
        let event = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            event = stream.next() => event?,
        };
        let reached = match event {
            SourceEvent::Idle(position) => Some(position),
            // Only a reader that catches up does that; this one streams.
            SourceEvent::Handover => break,
            SourceEvent::Transaction(transaction) => {
                let room = usize::try_from(left).unwrap_or(usize::MAX);
                for event in events.of(&transaction).take(room) {
                    left -= 1;
                    if let Err(error) = line(&mut out, &event)? {
                        return end_of(error);
                    }
                }
                transaction.end_lsn.map(Position::Lsn)
            }
        };
        if let Err(error) = out.flush() {
            return end_of(error);
        }
        // A slot of one's own may forget what is printed; somebody else's is only looked at.
        if let Some(position) = reached.filter(|_| may_acknowledge) {
            stream.acknowledge(position).await?;
        }
    }
    // Everything is printed; a walsender that is slow to hear of it holds nobody up.
    drop(stream);
    Ok(())
}

/// Writes one event. The outer error is ours, the inner one is stdout's.
fn line(out: &mut impl Write, event: &JsonEvent<'_>) -> Result<std::io::Result<()>, Failure> {
    let line = serde_json::to_string(event)
        .map_err(|error| Failure::halt("tail", error.to_string(), "report this"))?;
    Ok(writeln!(out, "{line}"))
}

fn end_of(error: std::io::Error) -> Result<(), Failure> {
    match error.kind() {
        std::io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(Failure::halt("stdout", error.to_string(), "write to somewhere that takes it")),
    }
}
