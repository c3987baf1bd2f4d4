//! The state directory is for our own user only: keys of rows, and rows of large transactions that still run, lie
//! in it.

use std::fs::{DirBuilder, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

const DIRECTORY: u32 = 0o700;
const FILE: u32 = 0o600;
/// Who has these may have put something there.
const WRITE_OF_OTHERS: u32 = 0o022;

/// Makes the directory if it is missing. One of our own that others can read, as earlier versions made it, is
/// closed to them with everything in it.
///
/// # Errors
/// It belongs to somebody else, or others can write to it; the sentence has the commands that mend it.
pub(super) fn prepare(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIRECTORY).create(path)?;
    let found = std::fs::metadata(path)?;
    let us = nix::unistd::geteuid().as_raw();
    if found.uid() != us {
        return Err(io::Error::other(format!(
            "it belongs to user {}, and we are user {us}: chown -R {us} {} if it is this pipeline's",
            found.uid(),
            path.display()
        )));
    }
    if found.mode() & WRITE_OF_OTHERS != 0 {
        return Err(io::Error::other(format!(
            "others can write to it (mode {:04o}), so what is in it may be theirs: look who was there, then \
             chmod -R go= {}",
            found.mode() & 0o777,
            path.display()
        )));
    }
    if is_open(&found) {
        tracing::info!(
            state_dir = %path.display(),
            "others could read the state directory; it is closed to them now"
        );
        close(path, &found)?;
    }
    Ok(())
}

fn is_open(found: &Metadata) -> bool {
    found.mode() & 0o077 != 0
}

/// The directory first: then nobody else can reach what is in it.
fn close(path: &Path, found: &Metadata) -> io::Result<()> {
    let mode = if found.is_dir() { DIRECTORY } else { FILE };
    if is_open(found) {
        std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    if found.is_dir() {
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            // Of the entry itself: what a link leads to is not ours to change.
            let found = entry.metadata()?;
            if found.is_dir() || found.is_file() {
                close(&entry.path(), &found)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_new_directory_is_for_us_alone() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("a").join("state");
        prepare(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        prepare(&path).unwrap();
    }

    #[test]
    fn what_an_earlier_version_left_readable_is_closed() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("state");
        let (inner, file) = (path.join("spool"), path.join("spool").join("000001.log"));
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::write(&file, "rows").unwrap();
        let outside = scratch.path().join("outside");
        std::fs::write(&outside, "not ours").unwrap();
        std::os::unix::fs::symlink(&outside, path.join("link")).unwrap();
        for (path, mode) in [(&path, 0o755), (&inner, 0o755), (&file, 0o644), (&outside, 0o644)] {
            std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        }
        prepare(&path).unwrap();
        assert_eq!([mode(&path), mode(&inner), mode(&file)], [0o700, 0o700, 0o600]);
        assert_eq!(mode(&outside), 0o644);
    }

    #[test]
    fn where_others_may_have_written_nothing_is_believed() {
        let scratch = tempfile::tempdir().unwrap();
        for wide in [0o777, 0o770, 0o722] {
            std::fs::set_permissions(scratch.path(), Permissions::from_mode(wide)).unwrap();
            let error = prepare(scratch.path()).unwrap_err().to_string();
            assert!(error.contains("chmod -R go= "), "{wide:o}: {error}");
        }
    }
}
