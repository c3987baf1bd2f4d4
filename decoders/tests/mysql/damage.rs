//! Whatever bytes arrive, they are an event or an error.

use bytes::Bytes;
use decoders::mysql::{Body, Cell, Decoder, EventType, Layout, Limits};
use proptest::prelude::*;

use super::binlog;
use super::frame::{parts, with_checksum};
use super::golden::{self, NAMES};

/// Decodes everything that can be decoded, values included.
fn decode_all(frames: &[Bytes]) {
    let mut decoder = Decoder::new(Limits { event_bytes: 1 << 20 });
    let mut layouts: Vec<(u64, Layout)> = Vec::new();
    for frame in frames {
        let Ok(event) = decoder.decode(frame) else { continue };
        let mut bodies = vec![event.body];
        if let Body::Payload(payload) = &bodies[0]
            && let Ok(events) = decoder.open(payload)
        {
            bodies.extend(events.take(1000).filter_map(Result::ok).map(|event| event.body));
        }
        for body in bodies {
            match body {
                Body::TableMap(map) => {
                    let catalogs = [golden::catalog(&map.table), Vec::new()];
                    let layout =
                        catalogs.iter().find_map(|catalog| Layout::new(&map, catalog).ok());
                    layouts.extend(layout.map(|layout| (map.table_id, layout)));
                }
                Body::Rows(rows) => {
                    // Also with the layouts of other tables, which a damaged number may name.
                    for (_, layout) in &layouts {
                        let Ok(mut reader) = rows.reader(layout) else { continue };
                        while let Ok(Some(change)) = reader.read() {
                            for column in 0..rows.width {
                                for cell in [change.before(column), change.after(column)] {
                                    if let Ok(Cell::Value(value)) = cell {
                                        value.text();
                                    }
                                }
                            }
                        }
                    }
                }
                Body::Query(query) => drop(query.text()),
                _ => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_body_of_any_type(code: u8, body in prop::collection::vec(any::<u8>(), 0..300)) {
        for name in NAMES {
            let mut frames = binlog::frames(&golden::load(name));
            frames.push(with_checksum(EventType(code), &body));
            frames.push(Bytes::from(body.clone()));
            decode_all(&frames);
        }
    }

    /// Recorded events with a few bytes changed and the checksum put right.
    #[test]
    fn damaged_events(
        name in prop::sample::select(&NAMES[..]),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut frames = binlog::frames(&golden::load(name));
        for (which, at, byte) in damage {
            let which = which.index(frames.len());
            let (event, body) = parts(&frames[which]);
            let mut body = body.to_vec();
            if !body.is_empty() {
                let at = at.index(body.len());
                body[at] = byte;
            }
            frames[which] = with_checksum(event, &body);
        }
        decode_all(&frames);
    }

    #[test]
    fn any_binary_json(stored in prop::collection::vec(any::<u8>(), 0..80), old in prop::collection::vec(any::<u8>(), 0..80)) {
        // t.j(id INT UNSIGNED, j JSON): a partial update of any bytes to any other.
        let map = [&[1, 0, 0, 0, 0, 0, 0, 0, 1][..], b"t\0\x01j\0", &[2, 3, 245, 1, 4, 0, 1, 1, 0x80]].concat();
        let length = |bytes: &[u8]| (bytes.len() as u32).to_le_bytes();
        let mut rows = vec![1, 0, 0, 0, 0, 0, 1, 0, 2, 0, 2, 3, 3, 0, 7, 0, 0, 0];
        rows.extend_from_slice(&length(&old));
        rows.extend_from_slice(&old);
        rows.extend_from_slice(&[1, 1, 0, 7, 0, 0, 0]);
        rows.extend_from_slice(&length(&stored));
        rows.extend_from_slice(&stored);
        let mut frames = binlog::frames(&golden::load("mysql-9.7"));
        frames.truncate(1);
        frames.push(with_checksum(EventType::TABLE_MAP, &map));
        frames.push(with_checksum(EventType::PARTIAL_UPDATE_ROWS, &rows));
        let mut decoder = Decoder::new(Limits::default());
        let bodies: Vec<Body> = frames.iter().map(|frame| decoder.decode(frame).unwrap().body).collect();
        let (Body::TableMap(map), Body::Rows(rows)) = (&bodies[1], &bodies[2]) else { panic!() };
        let layout = Layout::new(map, &[]).unwrap();
        let mut reader = rows.reader(&layout).unwrap();
        let change = reader.read().unwrap().expect("a row");
        // Either may be an error.
        if let Ok(Cell::Value(value)) = change.before(1) {
            value.text();
        }
        if let Ok(Cell::Value(value)) = change.after(1) {
            value.text();
        }
    }
}
