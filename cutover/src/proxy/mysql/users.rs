//! With what the proxy can log in for a client: the users file, the password that a client has
//! shown, or what its answer shows to who may read the server's accounts. Kept in memory only.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::desk::Desk;
use super::scramble::{Sha1Key, caching, recovered};
use crate::proxy::{lock, users_file};
use crate::sql::mysql::literal;

/// How long what a server has said about an account is believed.
const REMEMBERED: Duration = Duration::from_secs(30);
/// Users whose password is kept. Whoever is among them has logged in.
const KEPT_MAX: usize = 4096;

/// What we can show to a server.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credential {
    /// There is no password.
    Nothing,
    Password(Vec<u8>),
    /// SHA1(password), enough for `mysql_native_password`.
    Native(Sha1Key),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credential::Nothing => "nothing",
            Credential::Password(_) => "a password",
            Credential::Native(_) => "a hash",
        })
    }
}

/// What a client's own login has shown.
#[derive(Clone)]
pub(super) enum Shown {
    Nothing,
    Password(Vec<u8>),
    /// An answer of `mysql_native_password` that the server has taken.
    Native {
        nonce: Vec<u8>,
        answer: Vec<u8>,
    },
    /// Something of no use for another login, with its name.
    Useless(String),
}

/// What a server stores for accounts of a name, and until when it is believed.
type Stored = (Instant, Vec<Sha1Key>);

/// The users that are known.
pub(super) struct Users {
    file: HashMap<Vec<u8>, Vec<u8>>,
    learned: Mutex<HashMap<Vec<u8>, Vec<u8>>>,
    stored: Mutex<HashMap<Vec<u8>, Stored>>,
}

impl Users {
    /// With the users file, if there is one.
    ///
    /// # Errors
    /// What is wrong with it, without any of its content.
    pub fn read(path: Option<&Path>) -> Result<Self, String> {
        let mut file = HashMap::new();
        if let Some(path) = path {
            users_file::read(path, |user, password| {
                file.insert(user.into_bytes(), password.into_bytes());
                Ok(())
            })?;
        }
        Ok(Self { file, learned: Mutex::default(), stored: Mutex::default() })
    }

    /// A password of the user's with which this answer was made.
    pub fn known(&self, user: &[u8], nonce: &[u8], answer: &[u8]) -> Option<Vec<u8>> {
        let fits = |password: &&Vec<u8>| caching(password, nonce) == answer;
        let of_file = self.file.get(user).filter(fits).cloned();
        of_file.or_else(|| lock(&self.learned).get(user).filter(fits).cloned())
    }

    /// A server has taken it.
    pub fn learn(&self, user: &[u8], password: &[u8]) {
        let mut learned = lock(&self.learned);
        if learned.len() >= KEPT_MAX && !learned.contains_key(user) {
            learned.clear();
        }
        learned.insert(user.to_vec(), password.to_vec());
    }

    /// What to log in with for a client.
    ///
    /// # Errors
    /// Why there is nothing, in a few words.
    pub async fn credential(
        &self,
        user: &[u8],
        shown: &Shown,
        desk: &Desk,
    ) -> Result<Credential, String> {
        if let Some(password) = self.file.get(user) {
            return Ok(Credential::Password(password.clone()));
        }
        match shown {
            Shown::Nothing => Ok(Credential::Nothing),
            Shown::Password(password) => Ok(Credential::Password(password.clone())),
            Shown::Native { nonce, answer } => {
                let stored = self.stored(user, desk).await;
                let key = stored.iter().find_map(|stored| recovered(answer, nonce, stored));
                key.map(Credential::Native).ok_or_else(|| {
                    "its password is not known (no users_file, accounts not readable)".to_owned()
                })
            }
            Shown::Useless(plugin) => {
                Err(format!("its password is not known (it logs in by {plugin})"))
            }
        }
    }

    /// What the server stores for accounts of this name.
    async fn stored(&self, user: &[u8], desk: &Desk) -> Vec<Sha1Key> {
        if let Some((until, keys)) = lock(&self.stored).get(user)
            && Instant::now() < *until
        {
            return keys.clone();
        }
        let Ok(name) = std::str::from_utf8(user) else { return Vec::new() };
        let name = literal(name);
        let sql = match desk.is_mariadb() {
            true => format!("SELECT priv FROM mysql.global_priv WHERE user = {name}"),
            false => format!(
                "SELECT json_quote(authentication_string) FROM mysql.user \
                 WHERE user = {name} AND plugin = 'mysql_native_password'"
            ),
        };
        let rows = match desk.rows(&sql).await {
            Ok(rows) => rows,
            Err(why) => {
                tracing::debug!("no hash from the accounts: {why}");
                return Vec::new();
            }
        };
        let mut keys = Vec::new();
        for text in rows.iter().filter_map(|row| row.at(0)) {
            if let Ok(value) = serde_json::from_str::<Value>(text) {
                hashes(&value, &mut keys);
            }
        }
        let mut stored = lock(&self.stored);
        if stored.len() >= KEPT_MAX {
            stored.clear();
        }
        stored.insert(user.to_vec(), (Instant::now() + REMEMBERED, keys.clone()));
        keys
    }
}

/// Hashes anywhere in it: an account of MariaDB's may have several ways to log in.
fn hashes(value: &Value, found: &mut Vec<Sha1Key>) {
    match value {
        Value::String(text) => found.extend(hash(text)),
        Value::Array(values) => values.iter().for_each(|value| hashes(value, found)),
        Value::Object(fields) => fields.values().for_each(|value| hashes(value, found)),
        _ => {}
    }
}

/// `*` and forty digits.
fn hash(text: &str) -> Option<Sha1Key> {
    let digits = text.strip_prefix('*').filter(|digits| digits.len() == 40 && digits.is_ascii())?;
    let mut key = [0; 20];
    for (byte, pair) in key.iter_mut().zip(digits.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_found_wherever_an_account_has_them() {
        let digits = "0123456789abcdefABCDEF00112233445566aa77";
        let account = format!(
            "{{\"access\":1,\"auth_or\":[{{\"plugin\":\"unix_socket\"}},{{\"plugin\":\"x\",\
             \"authentication_string\":\"*{digits}\"}}]}}"
        );
        let mut found = Vec::new();
        hashes(&serde_json::from_str(&account).unwrap(), &mut found);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0][0], found[0][19]), (0x01, 0x77));
        for text in ["", "*", digits, "*0123456789abcdefABCDEF00112233445566aaxy"] {
            assert_eq!(hash(text), None, "{text}");
        }
    }

    #[test]
    fn a_password_is_known_by_what_was_made_of_it() {
        let users = Users::read(None).unwrap();
        let answer = caching(b"se cret", b"nonce");
        assert_eq!(users.known(b"app", b"nonce", &answer), None);
        users.learn(b"app", b"se cret");
        assert_eq!(users.known(b"app", b"nonce", &answer), Some(b"se cret".to_vec()));
        assert_eq!(users.known(b"app", b"other", &answer), None);
        assert_eq!(users.known(b"other", b"nonce", &answer), None);
    }
}
