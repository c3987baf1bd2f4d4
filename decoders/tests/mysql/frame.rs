//! Events made by hand, and recorded ones changed.

use bytes::Bytes;
use decoders::mysql::{EventType, HEADER_BYTES};

/// An event with this body, its checksum right.
pub fn with_checksum(event: EventType, body: &[u8]) -> Bytes {
    let mut frame = bare(event, body, 4);
    let sum = crc32fast::hash(&frame);
    frame.extend_from_slice(&sum.to_le_bytes());
    frame.into()
}

/// An event with this body and no checksum.
pub fn without_checksum(event: EventType, body: &[u8]) -> Bytes {
    bare(event, body, 0).into()
}

fn bare(event: EventType, body: &[u8], more: usize) -> Vec<u8> {
    let length = u32::try_from(HEADER_BYTES + body.len() + more).unwrap();
    let mut frame = vec![0; 4];
    frame.push(event.0);
    frame.extend_from_slice(&7u32.to_le_bytes());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&[0; 6]);
    frame.extend_from_slice(body);
    frame
}

/// The type and the body of an event that has a checksum.
pub fn parts(frame: &[u8]) -> (EventType, &[u8]) {
    (EventType(frame[4]), &frame[HEADER_BYTES..frame.len() - 4])
}
