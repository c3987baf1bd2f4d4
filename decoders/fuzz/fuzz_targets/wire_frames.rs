//! Any bytes in any pieces: frames come out whole, and no byte is invented or lost.

#![no_main]

use decoders::postgres::splitter::FrameSplitter;
use decoders::postgres::walsender::WalMessage;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&piece, stream)) = data.split_first() else { return };
    let mut splitter = FrameSplitter::new();
    let mut given = 0;
    for piece in stream.chunks(usize::from(piece) + 1) {
        splitter.feed(piece);
        while let Ok(Some(frame)) = splitter.next_frame() {
            let body = frame.into_body();
            given += body.len() + 5;
            let _ = WalMessage::read(body);
        }
        splitter.read_space();
    }
    assert_eq!(given + splitter.buffered_len(), stream.len());
});
