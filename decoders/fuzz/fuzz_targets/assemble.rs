//! A stream of frames, each with its length before it as in the golden recordings: transactions
//! come out in order, or an error does.

#![no_main]

use bytes::{Buf, Bytes};
use decoders::assemble::Assembler;
use decoders::json::JsonEvents;
use decoders::postgres::pgoutput;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut rest = Bytes::copy_from_slice(data);
    let mut assembler = Assembler::new(1 << 10);
    let mut events = JsonEvents::new();
    let mut last_end = None;
    while rest.remaining() >= 4 {
        let length = rest.get_u32() as usize;
        if length > rest.remaining() {
            return;
        }
        let frame = rest.split_to(length);
        let Ok(message) = pgoutput::decode(&frame) else { return };
        let Ok(pushed) = assembler.push(message, frame.len()) else { return };
        let Some(transaction) = pushed else { continue };
        assert_eq!(transaction.part.ends(), transaction.end_lsn.is_some());
        if let Some(end) = transaction.end_lsn {
            assert!(Some(end) > last_end);
            last_end = Some(end);
        }
        events.of(&transaction).for_each(drop);
    }
});
