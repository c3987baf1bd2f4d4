//! MySQL and MariaDB on the side that the proxy does not lead to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use decoders::mysql::server::ServerUrl;
use futures_util::StreamExt;
use tokio::time::Instant;

use super::hello::Hello;
use super::login::enter;
use super::packets;
use super::replay::reach;
use super::users::Credential;
use crate::proxy::ending::hang_up;
use crate::proxy::lock;
use crate::proxy::opposite::{Opposite, TRIALS_AT_ONCE, TRIED_USERS_MAX};
use crate::switch::which_server;

/// One login for each user that the sessions of a survey would take along.
#[derive(Default)]
pub(super) struct Trials(Mutex<BTreeMap<Vec<u8>, (Hello, Credential)>>);

impl Trials {
    /// A survey begins.
    pub fn clear(&self) {
        lock(&self.0).clear();
    }

    /// A session would log in like this.
    pub fn note(&self, hello: &Hello, credential: &Credential) {
        let mut trials = lock(&self.0);
        if trials.len() < TRIED_USERS_MAX && !trials.contains_key(&hello.user) {
            trials.insert(hello.user.clone(), (hello.clone(), credential.clone()));
        }
    }

    /// Users whose clients have logged in with none.
    pub fn without_password(&self) -> BTreeSet<String> {
        let trials = lock(&self.0);
        let none = trials.iter().filter(|(_, (_, credential))| *credential == Credential::Nothing);
        none.map(|(user, _)| String::from_utf8_lossy(user).into_owned()).collect()
    }

    fn take(&self) -> BTreeMap<Vec<u8>, (Hello, Credential)> {
        std::mem::take(&mut *lock(&self.0))
    }
}

/// Asks which server answers where clients of that side would be sent.
pub(super) async fn server(url: &ServerUrl, until: Instant) -> Opposite {
    match which_server(url, until).await {
        Ok(server) => Opposite { server: Some(server), ..Opposite::default() },
        Err(why) => Opposite { error: Some(why), ..Opposite::default() },
    }
}

/// Logs in as each user, and out again. Those who were refused; who is not known in time, or is shut
/// out for now because the side is closed, is not among them.
pub(super) async fn refused(
    trials: &Trials,
    url: &ServerUrl,
    until: Instant,
) -> BTreeMap<String, String> {
    let trying = trials.take().into_iter().map(|(user, (hello, credential))| async move {
        let login = async {
            let database = hello.database.as_deref();
            let entered = enter(reach(url).await?, url, &hello, database, &credential).await?;
            hang_up(entered.server, &packets::QUIT).await;
            Ok::<_, super::login::LoginError>(())
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
