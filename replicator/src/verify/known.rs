//! What the last verification came to, in the state directory.

use std::io::{self, Write};
use std::path::Path;

use cutover::verify::{Known, Verdict};
use serde::{Deserialize, Serialize};

use crate::store::Ground;

const FILE: &str = "verify.json";

#[derive(Serialize, Deserialize)]
struct Remembered {
    known: Known,
    ground: Ground,
}

/// Replaces what was there, or leaves it as it was. `ground` is what it stood on when it began.
pub(super) fn save(dir: &Path, known: &Known, ground: &Ground) -> io::Result<()> {
    let remembered = Remembered { known: known.clone(), ground: ground.clone() };
    let text = serde_json::to_string_pretty(&remembered)?;
    let new = dir.join(format!("{FILE}.new"));
    let mut file = std::fs::File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(new, dir.join(FILE))?;
    std::fs::File::open(dir)?.sync_all()
}

/// `None`: there was none, or it was about another copy, or the sides have changed their roles since.
pub(super) fn load(dir: &Path, ground: Option<&Ground>) -> io::Result<Option<Known>> {
    let text = match std::fs::read_to_string(dir.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read?,
    };
    let remembered: Remembered = serde_json::from_str(&text)?;
    Ok((Some(&remembered.ground) == ground).then_some(remembered.known))
}

/// What says that both sides are equal is forgotten; what says that they differ stays. Doing it twice does no
/// harm.
pub(crate) fn end_proof(dir: &Path) -> io::Result<()> {
    let text = match std::fs::read_to_string(dir.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        read => read?,
    };
    let remembered: Remembered = serde_json::from_str(&text)?;
    match remembered.known.verdict {
        Verdict::Different => Ok(()),
        _ => forget(dir),
    }
}

/// For good. Doing it twice does no harm.
pub(crate) fn forget(dir: &Path) -> io::Result<()> {
    match std::fs::remove_file(dir.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use cutover::Side;
    use cutover::verify::Mode;
    use decoders::Lsn;
    use jiff::Timestamp;
    use sinks::progress::StreamIdentity;

    use super::*;
    use crate::store::{KeptUp, Role};

    fn ground(consistent_point: u64) -> Ground {
        let stream = StreamIdentity {
            pipeline: "main".into(),
            system_identifier: "1".into(),
            database: "d".into(),
            slot: "s".into(),
            consistent_point: Lsn(consistent_point),
        };
        Ground { stream: KeptUp::Slot(stream), turn: Role::Carry }
    }

    #[test]
    fn what_was_saved_is_known_of_the_same_copy_only() {
        let dir = tempfile::tempdir().unwrap();
        let load = |ground: &Ground| load(dir.path(), Some(ground));
        assert_eq!(load(&ground(1)).unwrap(), None);
        let known = Known {
            id: "x".into(),
            mode: Mode::Full,
            verdict: Verdict::Equal,
            source: Side::Blue,
            started: Timestamp::UNIX_EPOCH,
            is_whole: true,
            differences: 0,
        };
        save(dir.path(), &known, &ground(1)).unwrap();
        assert_eq!(load(&ground(1)).unwrap(), Some(known.clone()));
        assert_eq!(load(&ground(2)).unwrap(), None);
        assert_eq!(super::load(dir.path(), None).unwrap(), None);
        end_proof(dir.path()).unwrap();
        assert_eq!(load(&ground(1)).unwrap(), None);
        let known = Known { verdict: Verdict::Different, differences: 1, ..known };
        save(dir.path(), &known, &ground(1)).unwrap();
        end_proof(dir.path()).unwrap();
        assert_eq!(load(&ground(1)).unwrap(), Some(known), "a difference is not forgotten");
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(load(&ground(1)).is_err());
        forget(dir.path()).unwrap();
        forget(dir.path()).unwrap();
        assert_eq!(load(&ground(1)).unwrap(), None);
    }
}
