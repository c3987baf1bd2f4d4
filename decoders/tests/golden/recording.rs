//! Frames in a file, each with its length before it.

use std::fs;
use std::path::PathBuf;

use bytes::{Buf, BufMut, Bytes, BytesMut};

pub struct Recording {
    pub frames: Vec<Bytes>,
    pub expected: String,
}

fn path(case: &str, major: u32, extension: &str) -> PathBuf {
    super::directory().join("frames").join(format!("{case}.{major}.{extension}"))
}

impl Recording {
    pub fn load(case: &str, major: u32) -> Recording {
        let path_bin = path(case, major, "bin");
        let bin = fs::read(&path_bin);
        let mut rest = Bytes::from(bin.unwrap_or_else(|error| panic!("{path_bin:?}: {error}")));
        let mut frames = Vec::new();
        while rest.has_remaining() {
            let length = rest.get_u32() as usize;
            frames.push(rest.split_to(length));
        }
        let expected = fs::read_to_string(path(case, major, "txt")).unwrap();
        Recording { frames, expected }
    }

    pub fn save(&self, case: &str, major: u32) {
        let mut bin = BytesMut::new();
        for frame in &self.frames {
            bin.put_u32(u32::try_from(frame.len()).unwrap());
            bin.put_slice(frame);
        }
        fs::create_dir_all(super::directory().join("frames")).unwrap();
        fs::write(path(case, major, "bin"), bin).unwrap();
        fs::write(path(case, major, "txt"), &self.expected).unwrap();
    }
}
