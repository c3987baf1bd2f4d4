//! One frame of any bytes is a message or an error.

#![no_main]

use bytes::Bytes;
use decoders::postgres::{pgoutput, walsender::WalMessage};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let frame = Bytes::copy_from_slice(data);
    let _ = WalMessage::read(frame.clone());
    let errors = [
        pgoutput::decode(&frame).err(),
        pgoutput::decode_streamed(&frame).err(),
        pgoutput::decode_control(&frame).err(),
        pgoutput::streamed_xid(&frame).err(),
    ];
    for error in errors.into_iter().flatten() {
        assert!(error.offset <= data.len());
        let _ = error.to_string();
    }
});
