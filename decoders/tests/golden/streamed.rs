//! Transactions that a server sends in blocks, while they run: protocol 2, as servers sent it.
//!
//! `frames/streamed.<major>.bin`, recorded as the other cases are. Of changes of one kind by one
//! subtransaction that follow each other only the first two are kept: it takes hundreds to make a
//! server send a block. `frames/streamed_parallel.<major>.bin` is the same with
//! `streaming = parallel` (PostgreSQL 16+), which is not asked for.

use bytes::Bytes;
use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::pgoutput::{
    StreamAbort, StreamControl, StreamStart, decode_control, decode_streamed, streamed_xid,
};
use decoders::postgres::session;
use tests::postgres::Postgres;

use crate::recording::Recording;
use crate::render;

const MAJORS: [u32; 5] = [14, 15, 16, 17, 18];
const MAJORS_PARALLEL: [u32; 3] = [16, 17, 18];
const CASE: &str = "streamed";
const CASE_PARALLEL: &str = "streamed_parallel";

/// Of equal changes so many are kept.
const REPEATS: usize = 2;

#[tokio::test]
async fn recorded_blocks_mean_what_is_written_beside_them() {
    if std::env::var_os("UPDATE").is_some() {
        for major in MAJORS {
            record(major).await;
        }
    }
    for major in MAJORS {
        let recording = Recording::load(CASE, major);
        assert_eq!(text(&recording.frames), recording.expected, "{major}");
        let controls = || recording.frames.iter().filter_map(|it| decode_control(it).unwrap());
        let has = |wanted: fn(&StreamControl) -> bool| controls().any(|control| wanted(&control));
        assert!(has(|it| matches!(it, StreamControl::Start(StreamStart { first: true, .. }))));
        assert!(has(|it| matches!(it, StreamControl::Start(StreamStart { first: false, .. }))));
        assert!(has(|it| matches!(it, StreamControl::Stop)));
        assert!(has(|it| matches!(it, StreamControl::Commit(_))));
        assert!(has(
            |it| matches!(it, StreamControl::Abort(StreamAbort { xid, sub_xid }) if xid != sub_xid)
        ));
    }
}

#[test]
fn every_prefix_of_a_recorded_block_is_an_error() {
    for major in MAJORS {
        for frame in &Recording::load(CASE, major).frames {
            for length in 0..frame.len() {
                let cut = frame.slice(..length);
                let control = decode_control(&cut);
                assert!(control.is_err() || control.unwrap().is_none());
                assert!(decode_streamed(&cut).is_err());
            }
        }
    }
}

#[test]
fn aborts_for_parallel_receivers_are_refused() {
    for major in MAJORS_PARALLEL {
        let recording = Recording::load(CASE_PARALLEL, major);
        let refusals = refusals(&recording.frames);
        assert!(refusals.contains("streaming = parallel"));
        assert_eq!(refusals, recording.expected, "{major}");
    }
}

/// What is said about each abort.
fn refusals(frames: &[Bytes]) -> String {
    let aborts = frames.iter().filter(|frame| frame.first() == Some(&b'A'));
    aborts.map(|frame| format!("{}\n", decode_control(frame).unwrap_err())).collect()
}

/// One line for a frame, with the subtransaction before what belongs to one.
fn text(frames: &[Bytes]) -> String {
    let mut out = String::new();
    let mut in_block = false;
    for frame in frames {
        let line = match decode_control(frame).unwrap() {
            Some(control) => {
                in_block = matches!(control, StreamControl::Start(_))
                    || in_block && !matches!(control, StreamControl::Stop);
                format!("{control:?}")
            }
            None if in_block => {
                let message = render::describe(&decode_streamed(frame).unwrap());
                format!("  {} {message}", streamed_xid(frame).unwrap().unwrap_or(0))
            }
            None => render::describe(&decoders::postgres::pgoutput::decode(frame).unwrap()),
        };
        out.push_str(&line);
        out.push('\n');
    }
    out
}

async fn record(major: u32) {
    let server =
        Postgres::builder(major).setting("logical_decoding_work_mem", "64kB").start().unwrap();
    let info = ConnInfo::parse(&server.url("postgres")).unwrap();
    let main = session::connect(&info, "golden").await.unwrap();
    let sql = async |sql: &str| main.batch_execute(sql).await.unwrap();
    sql("CREATE TABLE public.t (id int PRIMARY KEY, v text)").await;
    sql("CREATE PUBLICATION golden FOR ALL TABLES").await;
    sql("SELECT pg_create_logical_replication_slot('streamed', 'pgoutput')").await;
    let rows = |from: i32| {
        format!("INSERT INTO public.t SELECT i, 'x' FROM generate_series({from}, {from} + 599) i")
    };
    sql("BEGIN").await;
    sql(&rows(1_000)).await;
    sql("SAVEPOINT a").await;
    sql(&rows(2_000)).await;
    sql("SAVEPOINT b; UPDATE public.t SET v = 'y' WHERE id < 1500; ROLLBACK TO a").await;
    sql("SELECT pg_logical_emit_message(true, 'golden', 'said')").await;
    sql("SAVEPOINT c").await;
    sql(&rows(3_000)).await;
    sql("RELEASE c; DELETE FROM public.t WHERE id < 1003; TRUNCATE public.t; COMMIT").await;
    sql("INSERT INTO public.t VALUES (1, 'small')").await;
    sql("BEGIN").await;
    sql(&rows(5_000)).await;
    sql("ROLLBACK").await;

    for (case, protocol, streaming) in [(CASE, 2, "on"), (CASE_PARALLEL, 4, "parallel")] {
        if case == CASE_PARALLEL && !MAJORS_PARALLEL.contains(&major) {
            continue;
        }
        let reader = session::connect(&info, "golden").await.unwrap();
        let sql = format!(
            "SELECT data FROM pg_logical_slot_peek_binary_changes('streamed', NULL, NULL,
                 'proto_version', '{protocol}', 'publication_names', 'golden',
                 'streaming', '{streaming}', 'messages', 'true')"
        );
        let mut frames: Vec<Bytes> = Vec::new();
        let mut equal = 0;
        for row in reader.query(&sql, &[]).await.unwrap() {
            let frame = Bytes::copy_from_slice(row.get::<_, &[u8]>(0));
            let is_change = matches!(frame.first(), Some(b'I' | b'U' | b'D'));
            let same = frames.last().is_some_and(|last| last.get(..5) == frame.get(..5));
            equal = if is_change && same { equal + 1 } else { 1 };
            if equal <= REPEATS {
                frames.push(frame);
            }
        }
        let expected = if case == CASE { text(&frames) } else { refusals(&frames) };
        Recording { frames, expected }.save(case, major);
    }
}
