//! What the shell makes of an unquoted `<1s`.

use std::fs;

use crate::canned;
use crate::command::{run, shell};
use crate::server::Sidecar;

#[test]
fn a_redirection_from_or_to_a_file_named_like_a_lag_is_refused() {
    let sidecar = Sidecar::start(canned::ready());
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("1s"), "").unwrap();
    for (line, hint) in [
        ("\"$cutover\" --when-lag <1s --yes", "did you mean --when-lag '<1s'?"),
        ("\"$cutover\" --yes --when-lag <1s", "did you mean --when-lag '<1s'?"),
        ("\"$cutover\" --when-lag >5s --yes", "did you mean --when-lag '<5s'?"),
        ("\"$cutover\" status >=2s", "did you mean --when-lag '<2s'?"),
    ] {
        let ended = shell(directory.path(), sidecar.url(), line);
        assert_eq!(ended.code, Some(2), "{line}: {ended:#?}");
        assert!(ended.stderr.contains(hint), "{line}: {ended:#?}");
    }
    assert!(sidecar.state().requests.is_empty(), "nothing was asked of the sidecar");
}

#[test]
fn other_files_are_redirected_to() {
    let sidecar = Sidecar::start(canned::ready());
    let directory = tempfile::tempdir().unwrap();
    let ended = shell(directory.path(), sidecar.url(), "\"$cutover\" status --json > status.json");
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let text = fs::read_to_string(directory.path().join("status.json")).unwrap();
    let status: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(status["phase"], "streaming");
}

#[test]
fn a_swallowed_option_is_no_condition() {
    let ended = run("http://127.0.0.1:1", &["--when-lag", "--yes"]);
    assert_eq!(ended.code, Some(2), "{ended:#?}");
    assert!(ended.stderr.contains("--when-lag '<1s'"), "{ended:#?}");
}
