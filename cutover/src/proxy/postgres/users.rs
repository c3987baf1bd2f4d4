//! With what the proxy can log in for a client: the users file, or a verifier that the database
//! lets us read.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::session;
use tokio::sync::Semaphore;

use super::login::Credential;
use super::scram::{ClientKey, Overheard, Verifier};
use crate::proxy::users_file;
use crate::side::Side;

/// How long to wait for a verifier from the database.
const LOOKUP_MAX: Duration = Duration::from_secs(2);
/// How long a verifier, or that we may not read any, is believed.
const REMEMBERED: Duration = Duration::from_secs(30);
/// How long it is not asked for again after no answer came, or that there is none: one may be set.
const FAILED: Duration = Duration::from_secs(1);
/// How old an answer may be that does not fit what a session has shown, before it is asked for again.
const AGAIN: Duration = Duration::from_secs(1);

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

/// Roles have no longer names (`NAMEDATALEN`). Whoever asks has not logged in yet.
const NAME_MAX: usize = 63;
/// Answers of the database that are kept.
const KEPT_MAX: usize = 1024;
/// Questions to it at a time.
const ASKING_MAX: usize = 8;

/// What a side has said about a role.
#[derive(Clone)]
struct Known {
    /// When it was asked.
    asked: Instant,
    believed_until: Instant,
    /// `None`: there is none to be had.
    verifier: Option<Verifier>,
}

/// Of any number of sessions that want to know, one asks.
type Asked = Arc<tokio::sync::Mutex<Option<Known>>>;
/// A role on a side. The same password has another verifier on each, unless it was copied.
type Role = (Side, Vec<u8>);

/// A side, and how to ask it.
#[derive(Clone, Copy)]
pub(super) struct Registry<'a> {
    pub side: Side,
    pub server: &'a ConnInfo,
}

/// The users that are known.
pub(super) struct Users {
    file: HashMap<Vec<u8>, Secret>,
    asked: Mutex<HashMap<Role, Asked>>,
    asking: Semaphore,
}

impl Users {
    /// With the users file, if there is one.
    ///
    /// # Errors
    /// What is wrong with it, without any of its content.
    pub fn read(path: Option<&Path>) -> Result<Self, String> {
        let mut file = HashMap::new();
        if let Some(path) = path {
            users_file::read(path, |user, secret| {
                file.insert(user.into_bytes(), usable(secret)?);
                Ok(())
            })?;
        }
        Ok(Self { file, asked: Mutex::default(), asking: Semaphore::new(ASKING_MAX) })
    }

    /// What to log in with for a client.
    ///
    /// # Errors
    /// Why there is nothing, in a few words.
    pub async fn credential(
        &self,
        user: &[u8],
        shown: &Shown,
        registry: Registry<'_>,
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
                let unknown = "its password is not known (no users_file, pg_authid not readable)";
                let known = self.verifier(user, registry, None).await;
                let known = known.ok_or_else(|| unknown.to_owned())?;
                if let Some(key) = overheard.key(&known) {
                    return Ok(Credential::Key(key));
                }
                // It has logged in since it was asked for; many sessions may have.
                let since = Instant::now().checked_sub(AGAIN);
                let known = self.verifier(user, registry, since).await;
                known
                    .and_then(|verifier| overheard.key(&verifier))
                    .map(Credential::Key)
                    .ok_or_else(|| "its password was changed since it logged in".to_owned())
            }
            (_, Shown::Useless(method)) => {
                Err(format!("its password is not known (it logs in by {method})"))
            }
        }
    }

    /// The user's verifier, from the file or from the server. `since`: the server must have been asked
    /// after this, because what it said before is known to be out of date.
    pub async fn verifier(
        &self,
        user: &[u8],
        registry: Registry<'_>,
        since: Option<Instant>,
    ) -> Option<Verifier> {
        if let Some(Secret::Verifier(verifier)) = self.file.get(user) {
            return Some(verifier.clone());
        }
        if user.len() > NAME_MAX {
            return None;
        }
        let entry = self.entry(registry.side, user)?;
        let mut known = entry.lock().await;
        let asked = Instant::now();
        if let Some(known) = &*known
            && asked < known.believed_until
            && since.is_none_or(|since| since <= known.asked)
        {
            return known.verifier.clone();
        }
        let asking = async {
            // Never closed.
            let _permit = self.asking.acquire().await;
            look_up(user, registry.server).await
        };
        let (verifier, believed) = match tokio::time::timeout(LOOKUP_MAX, asking).await {
            Ok(Ok(Some(verifier))) => (Some(verifier), REMEMBERED),
            Ok(Ok(None)) => (None, FAILED),
            Ok(Err(failure)) => {
                tracing::debug!("no verifier from pg_authid: {}", failure.why);
                (None, if failure.for_good { REMEMBERED } else { FAILED })
            }
            Err(_) => (None, FAILED),
        };
        let believed_until = Instant::now() + believed;
        *known = Some(Known { asked, believed_until, verifier: verifier.clone() });
        verifier
    }

    /// The place of a role's answer. `None`: there are too many whose answer is awaited.
    fn entry(&self, side: Side, user: &[u8]) -> Option<Asked> {
        let mut asked = lock(&self.asked);
        let role = (side, user.to_vec());
        if let Some(entry) = asked.get(&role) {
            return Some(entry.clone());
        }
        if asked.len() >= KEPT_MAX {
            make_room(&mut asked);
        }
        (asked.len() < KEPT_MAX).then(|| asked.entry(role).or_default().clone())
    }
}

/// Forgets what is no longer believed; if that is not enough, that there is nobody of a name: names
/// that somebody has made up do not displace those that exist.
fn make_room(asked: &mut HashMap<Role, Asked>) {
    let now = Instant::now();
    let keeps = |entry: &Asked, keep: &dyn Fn(&Known) -> bool| {
        // One that somebody holds is being asked for.
        entry.try_lock().map_or(true, |known| known.as_ref().is_some_and(keep))
    };
    asked.retain(|_, entry| keeps(entry, &|known| now < known.believed_until));
    if asked.len() >= KEPT_MAX {
        asked.retain(|_, entry| keeps(entry, &|known| known.verifier.is_some()));
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

/// What of the users file can be used.
fn usable(secret: String) -> Result<Secret, &'static str> {
    let is_md5 = secret.strip_prefix("md5").is_some_and(|digits| {
        digits.len() == 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
    });
    if is_md5 {
        // It is enough for a login by MD5 only, and nothing else is to be had from it.
        return Err("has an MD5 hash: give the password itself or a SCRAM verifier");
    }
    Ok(match Verifier::parse(&secret) {
        Some(verifier) => Secret::Verifier(verifier),
        None => Secret::Password(secret.into_bytes()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_md5_hash_is_no_password() {
        let hash = "md5d41d8cd98f00b204e9800998ecf8427e";
        let why = usable(hash.into()).err().unwrap();
        assert!(why.contains("MD5"), "{why}");
        assert!(usable("md5 is a word of mine".into()).is_ok());
    }

    /// Nobody has logged in yet who asks for these.
    #[tokio::test]
    async fn names_that_somebody_makes_up_cost_no_memory_and_no_time() {
        let users = Users::read(None).unwrap();
        // Nobody is asked about a name that no role can have: this server does not exist.
        let server = ConnInfo::parse("postgresql://u@192.0.2.1/d").unwrap();
        let blue = Registry { side: Side::Blue, server: &server };
        assert!(users.verifier(&[b'x'; 64], blue, None).await.is_none());
        assert!(lock(&users.asked).is_empty());

        let known = |verifier: Option<&str>, seconds| {
            let asked = Instant::now();
            let believed_until = asked + Duration::from_secs(seconds);
            let verifier = verifier.map(|text| Verifier::parse(text).unwrap());
            Arc::new(tokio::sync::Mutex::new(Some(Known { asked, believed_until, verifier })))
        };
        let verifier = "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==$\
                        AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:\
                        AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let clerk = (Side::Blue, b"clerk".to_vec());
        lock(&users.asked).insert(clerk, known(Some(verifier), 30));
        for number in 0..3 * KEPT_MAX {
            let entry = users.entry(Side::Blue, format!("made up {number}").as_bytes());
            let nobody = known(None, REMEMBERED.as_secs()).lock().await.clone();
            *entry.unwrap().lock().await = nobody;
        }
        assert!(lock(&users.asked).len() <= KEPT_MAX);
        assert!(users.verifier(b"clerk", blue, None).await.is_some());

        // Who waits for an answer about one role keeps nobody else from his.
        let slow = users.entry(Side::Blue, b"slow").unwrap();
        let _asking = slow.lock().await;
        assert!(users.verifier(b"clerk", blue, None).await.is_some());
    }
}
