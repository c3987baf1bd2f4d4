//! How fast frames in memory become transactions: one core, no IO, pgbench's TPC-B transactions.
//!
//! `make bench NAME=decode_pgoutput`. The last line is one JSON object.

use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use decoders::assemble::Assembler;
use decoders::postgres::pgoutput;

const TRANSACTIONS: u32 = 50_000;
const RUNS: usize = 5;

fn main() {
    let frames = frames();
    let bytes: usize = frames.iter().map(Bytes::len).sum();
    let mut rates: Vec<f64> = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            assert_eq!(decode_all(&frames), TRANSACTIONS);
            bytes as f64 / start.elapsed().as_secs_f64()
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    let (low, median, high) = (rates[0], rates[RUNS / 2], rates[RUNS - 1]);
    let seconds = bytes as f64 / median;
    eprintln!(
        "{} frames of {} bytes: {:.0} ns a frame, {:.0} transactions/s",
        frames.len(),
        bytes / frames.len(),
        seconds * 1e9 / frames.len() as f64,
        f64::from(TRANSACTIONS) / seconds
    );
    println!(
        "{{\"bench\":\"decode_pgoutput\",\"ours\":{:.3},\"peer\":null,\"ratio\":null,\
         \"unit\":\"GB/s\",\"runs\":{RUNS},\"spread\":{:.3}}}",
        median / 1e9,
        (high - low) / median
    );
}

fn decode_all(frames: &[Bytes]) -> u32 {
    let mut assembler = Assembler::default();
    let mut transactions = 0;
    for frame in frames {
        let message = pgoutput::decode(frame).expect("the bench's own frames");
        let pushed = assembler.push(message, frame.len()).expect("the bench's own stream");
        transactions += u32::from(pushed.is_some());
    }
    transactions
}

/// Slices of one buffer, as a connection gives them.
fn frames() -> Vec<Bytes> {
    let mut buffer = BytesMut::new();
    let mut lengths = Vec::new();
    let mut frame = |write: &dyn Fn(&mut BytesMut)| {
        let start = buffer.len();
        write(&mut buffer);
        lengths.push(buffer.len() - start);
    };
    frame(&|out| relation(out, 1, "pgbench_accounts", &["aid", "bid", "abalance", "filler"]));
    frame(&|out| relation(out, 2, "pgbench_tellers", &["tid", "bid", "tbalance", "filler"]));
    frame(&|out| relation(out, 3, "pgbench_branches", &["bid", "bbalance", "filler"]));
    let history = ["tid", "bid", "aid", "delta", "mtime", "filler"];
    frame(&|out| relation(out, 4, "pgbench_history", &history));
    let filler = " ".repeat(84);
    for number in 1..=TRANSACTIONS {
        let lsn = u64::from(number) * 1_000;
        let id = number.wrapping_mul(2_654_435_761).to_string();
        frame(&|out| {
            out.put_u8(b'B');
            out.put_u64(lsn);
            out.put_i64(0);
            out.put_u32(number);
        });
        frame(&|out| row(out, b'U', 1, &[Some(&id), Some("1"), Some("-4711"), Some(&filler)]));
        frame(&|out| row(out, b'U', 2, &[Some("7"), Some("1"), Some("815"), None]));
        frame(&|out| row(out, b'U', 3, &[Some("1"), Some("12345"), None]));
        let time = Some("2026-11-21 01:50:37.000042");
        let entry = [Some("7"), Some("1"), Some(id.as_str()), Some("-4711"), time, None];
        frame(&|out| row(out, b'I', 4, &entry));
        frame(&|out| {
            out.put_u8(b'C');
            out.put_u8(0);
            out.put_u64(lsn);
            out.put_u64(lsn + 8);
            out.put_i64(0);
        });
    }
    let mut rest = buffer.freeze();
    lengths.into_iter().map(|length| rest.split_to(length)).collect()
}

fn relation(out: &mut BytesMut, id: u32, name: &str, columns: &[&str]) {
    out.put_u8(b'R');
    out.put_u32(id);
    out.put_slice(b"public\0");
    out.put_slice(name.as_bytes());
    out.put_slice(b"\0d");
    out.put_u16(columns.len() as u16);
    for (at, column) in columns.iter().enumerate() {
        out.put_u8(u8::from(at == 0));
        out.put_slice(column.as_bytes());
        out.put_u8(0);
        out.put_u32(25);
        out.put_i32(-1);
    }
}

fn row(out: &mut BytesMut, tag: u8, table: u32, values: &[Option<&str>]) {
    out.put_u8(tag);
    out.put_u32(table);
    out.put_u8(b'N');
    out.put_u16(values.len() as u16);
    for value in values {
        match value {
            None => out.put_u8(b'n'),
            Some(value) => {
                out.put_u8(b't');
                out.put_u32(value.len() as u32);
                out.put_slice(value.as_bytes());
            }
        }
    }
}
