//! Binlog files as events.

use std::path::Path;

use bytes::Bytes;
use decoders::mysql::{Body, DecodeError, Decoder, Event, Limits};

/// The events' bytes of a binlog file, without its magic number.
pub fn frames(file: &[u8]) -> Vec<Bytes> {
    let mut rest = Bytes::copy_from_slice(file.strip_prefix(b"\xFEbin").expect("a binlog"));
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let length = u32::from_le_bytes(rest[9..13].try_into().unwrap());
        frames.push(rest.split_to(length as usize));
    }
    frames
}

/// The events of a file, those inside of compressed transactions in their places.
pub fn decode(file: &[u8]) -> Result<Vec<Event>, DecodeError> {
    let mut decoder = Decoder::new(Limits::default());
    let mut events = Vec::new();
    for frame in frames(file) {
        let event = decoder.decode(&frame)?;
        let inner = match &event.body {
            Body::Payload(payload) => decoder.open(payload)?.collect::<Result<Vec<_>, _>>()?,
            _ => Vec::new(),
        };
        events.push(event);
        events.extend(inner);
    }
    Ok(events)
}

pub fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All events of all files.
pub fn events(paths: &[impl AsRef<Path>]) -> Vec<Event> {
    let files = paths.iter().map(|path| (path.as_ref(), read(path.as_ref())));
    files
        .flat_map(|(path, file)| {
            decode(&file).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        })
        .collect()
}
