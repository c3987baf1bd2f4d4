//! The file of the key that seals lines.
//!
//! A new key is first written beside its place and put there once a line that it seals is on the disk.
//! So a key in its place without a keyed line means that lines were taken away.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use ring::rand::{SecureRandom, SystemRandom};

use super::chain::Key;

/// The key's name in the state directory.
pub const KEY_FILE: &str = "audit.key";
const NEW: &str = "audit.key.new";
/// As SHA-256 has.
const SECRET_BYTES: usize = 32;

/// The key in its place.
///
/// # Errors
/// The file system's, and a file that is no key.
pub fn read(directory: &Path) -> io::Result<Option<Key>> {
    read_at(&directory.join(KEY_FILE))
}

/// The key that an interrupted start has left beside its place.
///
/// # Errors
/// As [`read`].
pub fn read_new(directory: &Path) -> io::Result<Option<Key>> {
    match read_at(&directory.join(NEW)) {
        // It was never used.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(None),
        read => read,
    }
}

/// Makes a key, beside its place.
///
/// # Errors
/// The file system's.
pub fn make(directory: &Path) -> io::Result<Key> {
    let mut secret = [0; SECRET_BYTES];
    SystemRandom::new().fill(&mut secret).map_err(|_| io::Error::other("no random numbers"))?;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(directory.join(NEW))?;
    file.write_all(&secret)?;
    file.sync_all()?;
    Ok(Key::new(&secret))
}

/// Puts the new key in its place.
///
/// # Errors
/// The file system's.
pub fn keep(directory: &Path) -> io::Result<()> {
    std::fs::rename(directory.join(NEW), directory.join(KEY_FILE))?;
    File::open(directory)?.sync_all()
}

/// Reads a key from any file.
///
/// # Errors
/// The file system's, and a file that is no key.
pub fn read_at(path: &Path) -> io::Result<Option<Key>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mode = file.metadata()?.mode();
    if mode & 0o077 != 0 {
        tracing::error!(
            "{}: others may read the key of the audit log (mode {:03o}); chmod 600 it",
            path.display(),
            mode & 0o777
        );
    }
    let mut secret = Vec::new();
    file.take(SECRET_BYTES as u64 + 1).read_to_end(&mut secret)?;
    if secret.len() != SECRET_BYTES {
        let what = format!("{} is no key of an audit log", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(Some(Key::new(&secret)))
}
