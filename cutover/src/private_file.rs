//! Files that hold secrets: read only if nobody else can read them, by the rule that libpq has for `sslkey`.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// The text of a file that only its owner can read, or, if that is root, its group too.
///
/// # Errors
/// A sentence with the path, and the command that mends it: others can read or change it, or it can't be read.
pub fn read(path: &Path) -> Result<String, String> {
    refuse_open(path)?;
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Refuses a file that others can read or change.
///
/// # Errors
/// As [`read`].
pub fn refuse_open(path: &Path) -> Result<(), String> {
    let found = std::fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
    // A pipe, as `<(..)` in a shell makes one, is nobody else's and has no lasting mode.
    if !found.is_file() {
        return Ok(());
    }
    let (allowed, wanted) = match found.uid() {
        0 => (0o740, "0640"),
        _ => (0o700, "0600"),
    };
    match found.mode() & 0o777 & !allowed {
        0 => Ok(()),
        _ => Err(format!(
            "{}: it holds a secret, and others can read or change it (mode {:04o}): chmod {wanted} {}",
            path.display(),
            found.mode() & 0o777,
            path.display()
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "secret").unwrap();
        let read_with = |mode| {
            set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
            read(file.path())
        };
        assert_eq!(read_with(0o600).as_deref(), Ok("secret"));
        for mode in [0o644, 0o604, 0o660, 0o602] {
            let error = read_with(mode).unwrap_err();
            assert!(error.contains("chmod 06"), "{mode:o}: {error}");
        }
        let is_root = std::fs::metadata(file.path()).unwrap().uid() == 0;
        assert_eq!(read_with(0o640).is_ok(), is_root);
    }
}
