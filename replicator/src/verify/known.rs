//! What the last verification came to, in the state directory.

use std::io::{self, Write};
use std::path::Path;

use cutover::verify::Known;

const FILE: &str = "verify.json";

/// Replaces what was there, or leaves it as it was.
pub(super) fn save(dir: &Path, known: &Known) -> io::Result<()> {
    let text = serde_json::to_string_pretty(known)?;
    let new = dir.join(format!("{FILE}.new"));
    let mut file = std::fs::File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(new, dir.join(FILE))?;
    std::fs::File::open(dir)?.sync_all()
}

/// `None`: there was none.
pub(super) fn load(dir: &Path) -> io::Result<Option<Known>> {
    match std::fs::read_to_string(dir.join(FILE)) {
        Ok(text) => Ok(Some(serde_json::from_str(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use cutover::Side;
    use cutover::verify::{Mode, Verdict};
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn what_was_saved_is_known() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path()).unwrap(), None);
        let known = Known {
            id: "x".into(),
            mode: Mode::Full,
            verdict: Verdict::Equal,
            source: Side::Blue,
            started: Timestamp::UNIX_EPOCH,
            is_whole: true,
            differences: 0,
        };
        save(dir.path(), &known).unwrap();
        assert_eq!(load(dir.path()).unwrap(), Some(known));
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(load(dir.path()).is_err());
    }
}
