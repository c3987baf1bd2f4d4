//! With what the proxy can log in for a client: the users file, or a verifier that the database
//! lets us read.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::session;

use super::login::Credential;
use super::scram::{ClientKey, Overheard, Verifier};

/// How long to wait for a verifier from the database.
const LOOKUP_MAX: Duration = Duration::from_secs(2);
/// How long a verifier, or that there is none to be had, is believed.
const REMEMBERED: Duration = Duration::from_secs(30);
/// How long it is not asked for again after no answer came.
const FAILED: Duration = Duration::from_secs(1);

/// What a client's own login has shown.
#[derive(Clone)]
pub(super) enum Shown {
    /// It was let in without a question.
    Nothing,
    Password(Vec<u8>),
    Scram(Box<Overheard>),
    /// It has proven itself to the proxy.
    Key(Box<ClientKey>),
    /// Something of no use for another login, with its name.
    Useless(&'static str),
}

#[derive(Clone)]
enum Secret {
    Password(Vec<u8>),
    Verifier(Verifier),
}

/// What the database has said, by the role: until when it is believed, and the role's verifier if
/// there is one.
type LookedUp = HashMap<Vec<u8>, (Instant, Option<Verifier>)>;

/// The users that are known.
pub(super) struct Users {
    file: HashMap<Vec<u8>, Secret>,
    looked_up: Mutex<LookedUp>,
    /// Of any number of sessions that want to know, one asks.
    asking: tokio::sync::Mutex<()>,
}

impl Users {
    /// With the users file, if there is one.
    ///
    /// # Errors
    /// What is wrong with it, without any of its content.
    pub fn read(path: Option<&Path>) -> Result<Self, String> {
        let mut file = HashMap::new();
        if let Some(path) = path {
            let failed = |why: &str| format!("users file {}: {why}", path.display());
            let text = std::fs::read_to_string(path).map_err(|e| failed(&e.to_string()))?;
            for (at, line) in text.lines().enumerate() {
                let line = line.trim();
                if line.is_empty() || line.starts_with([';', '#']) {
                    continue;
                }
                let (user, secret) =
                    entry(line).ok_or_else(|| failed(&format!("line {} can't be read", at + 1)))?;
                file.insert(user.into_bytes(), secret);
            }
        }
        Ok(Self { file, looked_up: Mutex::default(), asking: tokio::sync::Mutex::default() })
    }

    /// What to log in with for a client.
    ///
    /// # Errors
    /// Why there is nothing, in a few words.
    pub async fn credential(
        &self,
        user: &[u8],
        shown: &Shown,
        server: &ConnInfo,
    ) -> Result<Credential, String> {
        match (self.file.get(user), shown) {
            (Some(Secret::Password(password)), _) => Ok(Credential::Password(password.clone())),
            (_, Shown::Key(key)) => Ok(Credential::Key((**key).clone())),
            (_, Shown::Nothing) => Ok(Credential::Nothing),
            (_, Shown::Password(password)) => Ok(Credential::Password(password.clone())),
            (Some(Secret::Verifier(verifier)), Shown::Scram(overheard)) => overheard
                .key(verifier)
                .map(Credential::Key)
                .ok_or_else(|| "the users file has another verifier than the server".to_owned()),
            (None, Shown::Scram(overheard)) => {
                let verifier = self.verifier(user, server).await;
                verifier
                    .and_then(|verifier| overheard.key(&verifier))
                    .map(Credential::Key)
                    .ok_or_else(|| {
                        "its password is not known (no users_file, pg_authid not readable)"
                            .to_owned()
                    })
            }
            (_, Shown::Useless(method)) => {
                Err(format!("its password is not known (it logs in by {method})"))
            }
        }
    }

    /// The user's verifier, from the file or from the server.
    pub async fn verifier(&self, user: &[u8], server: &ConnInfo) -> Option<Verifier> {
        if let Some(Secret::Verifier(verifier)) = self.file.get(user) {
            return Some(verifier.clone());
        }
        if let Some(known) = self.known(user) {
            return known;
        }
        let _asking = self.asking.lock().await;
        if let Some(known) = self.known(user) {
            return known;
        }
        let (verifier, believed) =
            match tokio::time::timeout(LOOKUP_MAX, look_up(user, server)).await {
                Ok(Ok(verifier)) => (verifier, REMEMBERED),
                Ok(Err(failure)) => {
                    tracing::debug!("no verifier from pg_authid: {}", failure.why);
                    (None, if failure.for_good { REMEMBERED } else { FAILED })
                }
                Err(_) => (None, FAILED),
            };
        lock(&self.looked_up).insert(user.to_vec(), (Instant::now() + believed, verifier.clone()));
        verifier
    }

    fn known(&self, user: &[u8]) -> Option<Option<Verifier>> {
        let looked_up = lock(&self.looked_up);
        let (until, verifier) = looked_up.get(user)?;
        (Instant::now() < *until).then(|| verifier.clone())
    }
}

/// Why there was no answer.
struct NoAnswer {
    why: String,
    /// The server has refused it; it will do so again.
    for_good: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

async fn look_up(user: &[u8], server: &ConnInfo) -> Result<Option<Verifier>, NoAnswer> {
    let passing = |why: String| NoAnswer { why, for_good: false };
    let Ok(user) = std::str::from_utf8(user) else { return Ok(None) };
    let session = session::connect(server, "cutover proxy").await;
    let session = session.map_err(|error| passing(error.to_string()))?;
    let sql = "SELECT rolpassword FROM pg_catalog.pg_authid WHERE rolname::text = $1";
    let row = session.query_opt(sql, &[&user]).await;
    let row = row.map_err(|error| NoAnswer {
        why: session::describe(&error),
        // insufficient_privilege
        for_good: error.code().is_some_and(|code| code.code() == "42501"),
    })?;
    let text = row.and_then(|row| row.get::<_, Option<String>>(0));
    Ok(text.as_deref().and_then(Verifier::parse))
}

/// `"user" "secret"`; a quote inside is doubled.
fn entry(line: &str) -> Option<(String, Secret)> {
    let (user, rest) = quoted(line)?;
    let (secret, _) = quoted(rest.trim_start())?;
    let secret = match Verifier::parse(&secret) {
        Some(verifier) => Secret::Verifier(verifier),
        None => Secret::Password(secret.into_bytes()),
    };
    Some((user, secret))
}

fn quoted(text: &str) -> Option<(String, &str)> {
    let mut rest = text.strip_prefix('"')?;
    let mut value = String::new();
    loop {
        let (part, after) = rest.split_once('"')?;
        value.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                value.push('"');
                rest = more;
            }
            None => return Some((value, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_file_is_read_as_pgbouncer_does() {
        let (user, secret) = entry("\"o\"\"brien\" \"pa ss\" ; comment").unwrap();
        assert_eq!(user, "o\"brien");
        assert!(matches!(secret, Secret::Password(password) if password == b"pa ss"));
        assert!(entry("user pass").is_none());
        assert!(entry("\"user\"").is_none());
    }

    #[test]
    fn a_broken_file_is_not_quoted() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "; ours\n\n\"u\" \"hunter2\"\nhunter3\n").unwrap();
        let error = Users::read(Some(file.path())).err().unwrap();
        assert!(error.contains("line 4") && !error.contains("hunter"), "{error}");
    }
}
