//! PostgreSQL on the side that the proxy does not lead to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::raw::{self, RawConnection};
use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use super::login::{Credential, LoginError, MESSAGE_MAX, enter};
use super::messages::{self, Inbox};
use super::startup::Startup;
use crate::proxy::lock;
use crate::proxy::opposite::{Opposite, Server, TRIALS_AT_ONCE, TRIED_USERS_MAX};
use crate::switch::WHICH_SERVER;

/// One login for each user that the sessions of a survey would take along.
#[derive(Default)]
pub(super) struct Trials(Mutex<BTreeMap<Vec<u8>, (Startup, Credential)>>);

impl Trials {
    /// A survey begins.
    pub fn clear(&self) {
        lock(&self.0).clear();
    }

    /// A session would log in like this.
    pub fn note(&self, startup: &Startup, credential: &Credential) {
        let mut trials = lock(&self.0);
        if trials.len() < TRIED_USERS_MAX && !trials.contains_key(startup.user()) {
            trials.insert(startup.user().to_vec(), (startup.clone(), credential.clone()));
        }
    }

    fn take(&self) -> BTreeMap<Vec<u8>, (Startup, Credential)> {
        std::mem::take(&mut *lock(&self.0))
    }
}

/// Asks which server answers where clients of that side would be sent.
pub(super) async fn server(info: &ConnInfo, until: Instant) -> Opposite {
    let asked = async {
        let user = info.user().as_bytes();
        let mut connection = connect(info).await?;
        let password = info.password_for(connection.host());
        let credential = password.map_or(Credential::Nothing, |password| {
            Credential::Password(password.reveal().as_bytes().to_vec())
        });
        let mut inbox = Inbox::default();
        let packet = Startup::own(user, b"cutover proxy").packet(info.dbname().as_bytes());
        enter(&mut connection, &mut inbox, &packet, user, &credential).await?;
        let server = which(&mut connection, &mut inbox).await?;
        leave(connection).await;
        Ok::<_, LoginError>(server)
    };
    match tokio::time::timeout_at(until, asked).await {
        Ok(Ok(server)) => Opposite { server: Some(server), ..Opposite::default() },
        Ok(Err(error)) => Opposite { error: Some(error.to_string()), ..Opposite::default() },
        Err(_) => Opposite { error: Some("no answer in time".into()), ..Opposite::default() },
    }
}

/// Logs in as each user, and out again. Those who were refused; who is not known in time, for
/// example because the server is slow, is not among them.
pub(super) async fn refused(
    trials: &Trials,
    info: &ConnInfo,
    until: Instant,
) -> BTreeMap<String, String> {
    let trying = trials.take().into_iter().map(|(user, (startup, credential))| async move {
        let login = async {
            let mut connection = connect(info).await?;
            let packet = startup.packet(info.dbname().as_bytes());
            let mut inbox = Inbox::default();
            enter(&mut connection, &mut inbox, &packet, startup.user(), &credential).await?;
            leave(connection).await;
            Ok::<_, LoginError>(())
        };
        match tokio::time::timeout_at(until, login).await {
            Ok(Err(error)) if !error.transient => {
                Some((String::from_utf8_lossy(&user).into_owned(), error.to_string()))
            }
            _ => None,
        }
    });
    let trying = futures_util::stream::iter(trying).buffer_unordered(TRIALS_AT_ONCE);
    trying.filter_map(std::future::ready).collect().await
}

/// Of the users of a survey and our own, those whom the server lets in from here without a question. A
/// server sees the proxy's address, whoever the client is.
pub(super) async fn unasked(trials: &Trials, info: &ConnInfo, until: Instant) -> BTreeSet<String> {
    let mut users: BTreeSet<Vec<u8>> = lock(&trials.0).keys().cloned().collect();
    users.insert(info.user().as_bytes().to_vec());
    let trying = users.into_iter().map(|user| async move {
        let is_let_in = async {
            let mut connection = connect(info).await?;
            let packet = Startup::own(&user, b"cutover proxy").packet(info.dbname().as_bytes());
            connection.write_all(&packet).await?;
            connection.flush().await?;
            let answer = Inbox::default().next(&mut connection, MESSAGE_MAX).await?;
            leave(connection).await;
            Ok::<_, LoginError>(answer.tag == b'R' && answer.int32(0) == Some(0))
        };
        match tokio::time::timeout_at(until, is_let_in).await {
            Ok(Ok(true)) => Some(String::from_utf8_lossy(&user).into_owned()),
            Ok(Err(error)) => {
                tracing::debug!("whether it asks for a password is not known: {error}");
                None
            }
            Ok(Ok(false)) | Err(_) => None,
        }
    });
    let trying = futures_util::stream::iter(trying).buffer_unordered(TRIALS_AT_ONCE);
    trying.filter_map(std::future::ready).collect().await
}

async fn connect(info: &ConnInfo) -> Result<RawConnection, LoginError> {
    raw::connect(info)
        .await
        .map_err(|error| LoginError { what: error.to_string(), transient: error.is_transient() })
}

async fn which(connection: &mut RawConnection, inbox: &mut Inbox) -> Result<Server, LoginError> {
    let unreadable = || LoginError::new("its answer can't be read");
    let mut out = Vec::new();
    messages::message(&mut out, b'Q', |body| messages::text(body, WHICH_SERVER.as_bytes()));
    connection.write_all(&out).await?;
    connection.flush().await?;
    let mut server = None;
    loop {
        let message = inbox.next(connection, MESSAGE_MAX).await?;
        match message.tag {
            b'D' => {
                let columns = messages::columns(&message.body).ok_or_else(unreadable)?;
                let mut texts = columns.into_iter().map(|value| {
                    String::from_utf8(value.unwrap_or_default()).map_err(|_| unreadable())
                });
                let mut next = || texts.next().unwrap_or_else(|| Err(unreadable()));
                server = Some(Server {
                    started: next()?.parse().map_err(|_| unreadable())?,
                    name: String::new(),
                    database: next()?,
                    shown: next()?,
                });
            }
            b'E' => return Err(LoginError::refused(&message.body)),
            b'Z' => return server.ok_or_else(unreadable),
            _ => {}
        }
    }
}

/// Terminate. Whether the server has heard it does not matter: the connection closes.
async fn leave(mut connection: RawConnection) {
    let ended = async {
        connection.write_all(&[b'X', 0, 0, 0, 4]).await?;
        connection.shutdown().await
    };
    if let Err(error) = ended.await {
        tracing::trace!("a session on the other side was closed already: {error}");
    }
}
