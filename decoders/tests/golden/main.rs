//! Frames as real servers sent them, and what the decoder makes of them.
//!
//! `frames/<case>.<major>.bin` holds the frames of one case, `<case>.<major>.txt` beside it what
//! is expected: a line per frame, and below each commit the change events as JSON.
//! `UPDATE=1 cargo test -p decoders --test golden` records both anew, on the servers that are
//! installed; read the difference before committing it.

mod capture;
mod case;
mod damage;
mod recording;
mod render;
mod streamed;

use std::path::PathBuf;

use case::Case;
use recording::Recording;

/// The majors that are recorded: both ends, and those where the protocol's details changed.
const MAJORS: [u32; 5] = [10, 13, 15, 17, 18];

/// Asked for when the test runs: checkouts that share a target directory share this binary, and the
/// one that built it may be gone.
fn directory() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("run by cargo");
    PathBuf::from(package).join("tests/golden")
}

#[tokio::test]
async fn recorded_frames_mean_what_is_written_beside_them() {
    if std::env::var_os("UPDATE").is_some() {
        for major in MAJORS {
            capture::record_all(major).await;
        }
    }
    let cases = Case::all();
    let mut wrong = Vec::new();
    for major in MAJORS {
        for case in cases.iter().filter(|case| case.exists_on(major)) {
            let recording = Recording::load(&case.name, major);
            if render::text(&recording.frames) != recording.expected {
                wrong.push(format!("{}.{major}", case.name));
            }
        }
    }
    assert!(wrong.is_empty(), "not what is expected: {wrong:?}");
}
