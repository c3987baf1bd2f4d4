//! How fast the events of a binlog become rows of values: one core, no IO, beside `mysql_common`, the
//! decoder that is in common use for Rust. The binlog is a real server's: four tables of sysbench's
//! `oltp_write_only`, filled by INSERT .. SELECT (large row events) and then written by transactions of
//! four statements (small ones).
//!
//! Both read every event, with its checksum, and look at every value of every image; both have to come to
//! the same number of rows and of bytes in text columns. `mysql_common` does not verify checksums by
//! itself; it is not asked to. `ENGINE=mariadb` reads MariaDB's binlog.
//!
//! `make bench NAME=decode_binlog`. The last line is one JSON object.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use decoders::mysql::{Body, Cell, Decoder, Fault, Layout, Limits, Rows, TableMap, Value};
use foldhash::fast::RandomState;
use mysql_common::binlog::BinlogFile;
use mysql_common::binlog::consts::BinlogVersion;
use mysql_common::binlog::events::EventData;
use mysql_common::binlog::row::BinlogRow;
use mysql_common::binlog::value::BinlogValue;
use mysql_common::value::Value as TheirValue;
use tests::mysql::oltp::Oltp;
use tests::mysql::{Mysql, Version};

const LOAD: Oltp = Oltp { tables: 4, rows: 100_000 };
const SESSIONS: u64 = 2;
const TRANSACTIONS: u64 = 40_000;
const RUNS: usize = 9;

fn main() -> Result<()> {
    let engine = std::env::var("ENGINE").unwrap_or_default();
    let version = match engine.as_str() {
        "mariadb" => Version::Mariadb10_11,
        "" | "postgres" | "mysql" => Version::Mysql9_7,
        other => bail!("no ENGINE={other}: there are mysql and mariadb"),
    };
    let file = binlog(version)?;
    let frames = frames(&file)?;
    eprintln!("{}: {} MB, {} events", version.name(), file.len() / 1_000_000, frames.len());
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let mut found = None;
    for run in 0..RUNS {
        for is_ours in [run % 2 == 0, run % 2 == 1] {
            let start = Instant::now();
            let read = if is_ours { read_ours(&frames)? } else { read_theirs(&file)? };
            let seconds = start.elapsed().as_secs_f64();
            let rate = read.rows as f64 / seconds;
            if is_ours {
                ours.push(rate)
            } else {
                theirs.push(rate)
            }
            let first = *found.get_or_insert(read);
            ensure!(read == first, "not the same was read: {read:?} and {first:?}");
        }
    }
    let read = found.context("nothing was read")?;
    eprintln!("{} rows, {} bytes of text", read.rows, read.text_bytes);
    for rates in [&mut ours, &mut theirs] {
        rates.sort_by(f64::total_cmp);
    }
    let (our, their) = (ours[RUNS / 2], theirs[RUNS / 2]);
    println!(
        "{{\"bench\":\"decode_binlog\",\"ours\":{our:.0},\"peer\":{their:.0},\"ratio\":{:.2},\
         \"unit\":\"rows/s\",\"runs\":{RUNS},\"spread\":{:.3},\"engine\":\"{}\"}}",
        our / their,
        (ours[RUNS - 1] - ours[0]) / our,
        version.name(),
    );
    Ok(())
}

/// What both have to come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Read {
    /// An update is one row, with two images.
    rows: u64,
    text_bytes: u64,
}

/// The binlog of a server that has run the load, whole.
fn binlog(version: Version) -> Result<Vec<u8>> {
    let mut server = Mysql::start(version, &["--max-binlog-size=1G"])?;
    server.run(
        "create user 'bench'@'%' identified by 'bench'; grant all on *.* to 'bench'@'%';
         create database bench;",
    )?;
    server.run(&format!("use bench; {}", LOAD.create()))?;
    let url = format!("mysql://bench:bench@127.0.0.1:{}/bench", server.port());
    LOAD.run(&url, SESSIONS, TRANSACTIONS, 1)?;
    let path = server.binlogs()?.pop().context("there is no binlog")?;
    server.stop()?;
    std::fs::read(&path).with_context(|| path.display().to_string())
}

/// Slices of one buffer, as a connection gives them.
fn frames(file: &[u8]) -> Result<Vec<Bytes>> {
    let events = file.strip_prefix(b"\xFEbin").context("this is no binlog")?;
    let mut rest = Bytes::copy_from_slice(events);
    let mut frames = Vec::new();
    while let Some(length) = rest.get(9..13) {
        let length = u32::from_le_bytes(length.try_into()?) as usize;
        ensure!(length >= 13 && length <= rest.len(), "the binlog ends within an event");
        frames.push(rest.split_to(length));
    }
    Ok(frames)
}

fn read_ours(frames: &[Bytes]) -> Result<Read> {
    let mut decoder = Decoder::new(Limits::default());
    let mut layouts: HashMap<u64, (Arc<TableMap>, Layout), RandomState> = HashMap::default();
    let mut read = Read::default();
    for frame in frames {
        let event = decoder.decode(frame);
        match &event.as_ref().map_err(Clone::clone)?.body {
            // One stands before every statement; as in a stream, only another one is laid out.
            Body::TableMap(map) => {
                if layouts.get(&map.table_id).is_none_or(|(known, _)| known != map) {
                    let layout = Layout::new(map, &[])?;
                    layouts.insert(map.table_id, (Arc::clone(map), layout));
                }
            }
            Body::Rows(rows) => {
                let (_, layout) =
                    layouts.get(&rows.table_id).context("rows without a table map")?;
                read_rows(rows, layout, &mut read)?;
            }
            Body::Payload(_) => bail!("the bench's binlog is not compressed"),
            other => {
                black_box(other);
            }
        }
    }
    Ok(read)
}

fn read_rows(rows: &Rows, layout: &Layout, read: &mut Read) -> Result<()> {
    let mut reader = rows.reader(layout)?;
    while let Some(change) = reader.read()? {
        read.rows += 1;
        if change.has_before() {
            for column in 0..rows.width {
                look(&change.before(column), read)?;
            }
        }
        if change.has_after() {
            for column in 0..rows.width {
                look(&change.after(column), read)?;
            }
        }
    }
    Ok(())
}

/// By reference, as [`look_at_theirs`]: what is measured is to make values, not to move them once more.
fn look(cell: &Result<Cell, Fault>, read: &mut Read) -> Result<(), Fault> {
    match cell {
        Ok(Cell::Value(Value::Text(text))) => read.text_bytes += text.len() as u64,
        Ok(_) => {}
        Err(fault) => return Err(fault.clone()),
    }
    black_box(cell);
    Ok(())
}

fn read_theirs(file: &[u8]) -> Result<Read> {
    let mut events = BinlogFile::new(BinlogVersion::Version4, file)?;
    let mut read = Read::default();
    while let Some(event) = events.next() {
        let event = event?;
        match event.read_data()? {
            Some(EventData::RowsEvent(rows)) => {
                let map = events.reader().get_tme(rows.table_id());
                let map = map.context("rows without a table map")?;
                for row in rows.rows(map) {
                    let (before, after) = row?;
                    read.rows += 1;
                    look_at_theirs(before.as_ref(), &mut read);
                    look_at_theirs(after.as_ref(), &mut read);
                }
            }
            other => {
                black_box(other);
            }
        }
    }
    Ok(read)
}

fn look_at_theirs(row: Option<&BinlogRow>, read: &mut Read) {
    let Some(row) = row else { return };
    for column in 0..row.len() {
        let value = row.as_ref(column);
        if let Some(BinlogValue::Value(TheirValue::Bytes(text))) = value {
            read.text_bytes += text.len() as u64;
        }
        black_box(value);
    }
}
