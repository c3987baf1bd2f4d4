//! Any bytes as a binlog file: events, rows and values, or errors.

#![no_main]

use bytes::Bytes;
use decoders::mysql::{Body, Cell, Decoder, Layout, Limits};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut decoder = Decoder::new(Limits { event_bytes: 1 << 20 });
    let mut layouts = Vec::new();
    let mut rest = Bytes::copy_from_slice(data);
    while rest.len() >= 13 {
        let length = u32::from_le_bytes([rest[9], rest[10], rest[11], rest[12]]) as usize;
        let frame = rest.split_to(length.clamp(1, rest.len()));
        let event = match decoder.decode(&frame) {
            Ok(event) => event,
            Err(error) => {
                let _ = error.to_string();
                continue;
            }
        };
        match event.body {
            Body::TableMap(map) => layouts.extend(Layout::new(&map, &[])),
            Body::Payload(payload) => {
                if let Ok(events) = decoder.open(&payload) {
                    events.take(1000).for_each(drop);
                }
            }
            Body::Rows(rows) => {
                for layout in &layouts {
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
            _ => {}
        }
    }
});
