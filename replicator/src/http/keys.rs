//! Bearer tokens: where they are kept, and what they open.
//!
//! A token's file is read at every request that carries a token. Whoever changes the file changes the
//! token, and whoever removes it revokes the token, at once and without a restart.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use cutover::api::TOKEN_FILE;
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};

use crate::config::{ApiConfig, Role};

/// Of a token that the sidecar makes.
const RANDOM_BYTES: usize = 32;
/// No token is longer than this.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// All tokens.
#[derive(Debug)]
pub struct Keyring {
    tokens: Vec<Token>,
}

#[derive(Debug)]
struct Token {
    name: String,
    role: Role,
    path: PathBuf,
    /// What was wrong with the file when it was read last; said once.
    problem: Mutex<Option<String>>,
}

impl Keyring {
    /// The configured tokens. Where there is none, the one in the state directory, which is made if
    /// it is missing.
    ///
    /// # Errors
    /// A sentence: a token can't be read or written, or others may read it.
    pub fn open(config: &ApiConfig, state_dir: &Path) -> Result<Self, String> {
        let token = |name: &str, role, path: &Path| {
            let (name, path) = (name.to_owned(), path.to_owned());
            Token { name, role, path, problem: Mutex::default() }
        };
        let mut tokens: Vec<Token> =
            config.tokens.iter().map(|one| token(&one.name, one.role, &one.file)).collect();
        if let Some(path) = &config.token_file {
            tokens.push(token("token_file", Role::Flip, path));
        }
        if tokens.is_empty() {
            let path = state_dir.join(TOKEN_FILE);
            make(&path).map_err(|error| {
                format!("the API's token {} can't be written: {error}", path.display())
            })?;
            tokens.push(token("local", Role::Flip, &path));
        }
        for token in &tokens {
            secret(&token.path)?;
        }
        Ok(Self { tokens })
    }

    /// Name and role of the token that is `given`. Where several tokens are the same, the one that may
    /// do least.
    pub fn find(&self, given: &str) -> Option<(&str, Role)> {
        // Comparing digests takes the same time wherever a guess first differs from the token.
        let given = digest(given.trim());
        let matching = self.tokens.iter().filter(|token| token.read() == Some(given));
        let least = matching.min_by_key(|token| token.role)?;
        Some((&least.name, least.role))
    }
}

impl Token {
    fn read(&self) -> Option<[u8; 32]> {
        let (digest, problem) = match secret(&self.path) {
            Ok(text) => (Some(digest(&text)), None),
            Err(problem) => (None, Some(problem)),
        };
        let mut known = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != problem {
            match &problem {
                Some(problem) => {
                    tracing::error!(token = self.name, "this token opens nothing: {problem}");
                }
                None => tracing::info!(token = self.name, "this token can be read again"),
            }
            *known = problem;
        }
        digest
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// The text in a file that nobody but its owner may read, without white space around it.
///
/// # Errors
/// A sentence with the path: it can't be read, it is empty, or others may read it.
pub fn secret(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let file = File::open(path).map_err(|error| format!("{shown}: {error}"))?;
    let metadata = file.metadata().map_err(|error| format!("{shown}: {error}"))?;
    if metadata.mode() & 0o077 != 0 {
        return Err(format!(
            "{shown}: others may read it (mode {:03o}); chmod 600 {shown}",
            metadata.mode() & 0o777
        ));
    }
    let mut text = String::new();
    let read = file.take(FILE_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|error| format!("{shown}: {error}"))?;
    match text.trim() {
        "" => Err(format!("{shown}: empty")),
        text => Ok(text.to_owned()),
    }
}

/// Writes a random token, unless there is one. It is there whole or not at all.
fn make(path: &Path) -> io::Result<()> {
    if path.try_exists()? {
        return Ok(());
    }
    let mut bytes = [0; RANDOM_BYTES];
    SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("no random numbers"))?;
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let new = path.with_extension("token.new");
    let mut options = OpenOptions::new();
    // One that an interrupted start has left is written anew.
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::TokenConfig;

    fn write(path: &Path, token: &str, mode: u32) {
        std::fs::write(path, token).unwrap();
        set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_first_start_makes_a_token_that_stays() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Keyring::open(&ApiConfig::default(), directory.path()).unwrap();
        let (path, keys) = (directory.path().join(TOKEN_FILE), open());
        let token = secret(&path).unwrap();
        assert_eq!(token.len(), 2 * RANDOM_BYTES);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(keys.find(&token), Some(("local", Role::Flip)));
        assert_eq!(keys.find(&token[1..]), None);
        assert_eq!(keys.find(""), None);
        assert_eq!(open().find(&token), Some(("local", Role::Flip)), "the next start keeps it");
    }

    #[test]
    fn a_token_that_others_may_read_opens_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let config = ApiConfig { token_file: Some(path.clone()), ..ApiConfig::default() };
        for mode in [0o640, 0o604, 0o644] {
            write(&path, "old", mode);
            let problem = Keyring::open(&config, directory.path()).unwrap_err();
            assert!(problem.contains("chmod 600"), "{problem}");
        }
        write(&path, "old", 0o600);
        let keys = Keyring::open(&config, directory.path()).unwrap();
        assert_eq!(keys.find("old"), Some(("token_file", Role::Flip)));
        assert!(!directory.path().join(TOKEN_FILE).exists(), "no second way in");
        set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert_eq!(keys.find("old"), None);
    }

    #[test]
    fn a_changed_file_is_a_changed_token() {
        let directory = tempfile::tempdir().unwrap();
        let [ann, bob] = ["ann", "bob"].map(|name| directory.path().join(name));
        write(&ann, "first\n", 0o600);
        write(&bob, "other", 0o600);
        let token = |name: &str, role, file: &Path| TokenConfig {
            name: name.into(),
            role,
            file: file.to_owned(),
        };
        let tokens = vec![token("ann", Role::Flip, &ann), token("bob", Role::Read, &bob)];
        let config = ApiConfig { tokens, ..ApiConfig::default() };
        let keys = Keyring::open(&config, directory.path()).unwrap();
        assert_eq!(keys.find("first"), Some(("ann", Role::Flip)));
        assert_eq!(keys.find("other"), Some(("bob", Role::Read)));
        std::fs::write(&ann, "secnd\n").unwrap();
        assert_eq!(keys.find("first"), None);
        assert_eq!(keys.find("secnd"), Some(("ann", Role::Flip)));
        std::fs::write(&bob, "secnd").unwrap();
        assert_eq!(keys.find("secnd"), Some(("bob", Role::Read)), "the lesser of two that are one");
        std::fs::remove_file(&bob).unwrap();
        std::fs::remove_file(&ann).unwrap();
        assert_eq!(keys.find("secnd"), None);
    }
}
