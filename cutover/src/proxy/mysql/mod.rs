//! The protocol of MySQL and MariaDB.
//!
//! ```text
//! listener   a connection: gate, greeting, TLS, login passed on ----> session
//! session    in full flight | brought to rest | held | moved or cut
//!   talk, statements, words   what the commands and answers that pass by say about it
//!   inspect, desk             what its own server says that it carries
//!   login, users, scramble    getting in on the other side in its name
//!   replay                    the same session there
//! opposite   what is on the side that it does not lead to, before anybody goes there
//! ```
//!
//! A login is passed on, so it is the server that lets a client in (`admit`). For the logins that a
//! move repeats the proxy uses what the client's own has shown: SHA1(password) is in an answer of
//! `mysql_native_password` for who may read the server's hash; of `caching_sha2_password` the client
//! is asked for the password itself, by TLS or encrypted for the proxy's own key. `users_file` is for
//! the others. Nothing of it leaves the process's memory.
//!
//! A session is moved by asking: at rest, its own server is asked for its schema, role and settings,
//! and for what ties it to that server; its prepared statements are known from passing by, and are
//! prepared again, under other numbers that the client does not see. Who is tied - user variables,
//! temporary tables, locks, cursors - is counted beforehand and cut at the flip with one error 1053.
//! Asking, and moving, replaces what the server knew about the statement before: a client that asks
//! for just that next (`FOUND_ROWS()`, `SHOW WARNINGS`) gets an error instead of a wrong answer. What
//! no server tells is lost in a move: seeds of random numbers, `PREVIOUS VALUE` of a sequence.

mod admit;
mod desk;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzz;
mod hello;
mod inspect;
mod listener;
mod login;
mod opposite;
mod packets;
mod places;
mod replay;
mod scramble;
mod session;
mod statements;
mod talk;
mod users;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use decoders::mysql::server::ServerUrl;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::arrivals::Arrival;
use super::opposite::{End, Opposite};
use super::{Engine, ProxyConfig};
use crate::login::Login;
use crate::side::Side;
use desk::Desk;
use places::Places;
use scramble::OwnKey;
use users::Users;

type Shared = super::Shared<Mysql>;

/// A side: how it is reached, and our own session there.
struct SideEnd {
    /// With our own certificate, if there is one.
    own: ServerUrl,
    /// For logins of clients: our certificate would be theirs, and let in whom `REQUIRE X509` shuts out.
    clients: ServerUrl,
    desk: Desk,
}

/// Sessions of MySQL and MariaDB.
pub(super) struct Mysql {
    blue: SideEnd,
    green: SideEnd,
    users: Users,
    places: Places,
    trials: opposite::Trials,
    key: OwnKey,
}

impl Mysql {
    /// Between these two.
    ///
    /// # Errors
    /// What is wrong with the users file.
    pub fn new(config: &ProxyConfig, blue: ServerUrl, green: ServerUrl) -> Result<Self, String> {
        let end = |url: ServerUrl| SideEnd {
            desk: Desk::new(url.clone()),
            clients: url.without_identity(),
            own: url,
        };
        Ok(Self {
            blue: end(blue),
            green: end(green),
            users: Users::read(config.users_file.as_deref())?,
            places: Places::default(),
            trials: opposite::Trials::default(),
            key: OwnKey::make().map_err(|error| error.to_string())?,
        })
    }

    fn side(&self, side: Side) -> &SideEnd {
        match side {
            Side::Blue => &self.blue,
            Side::Green => &self.green,
        }
    }

    /// For logins of clients.
    fn url(&self, side: Side) -> &ServerUrl {
        &self.side(side).clients
    }

    fn desk(&self, side: Side) -> &Desk {
        &self.side(side).desk
    }
}

impl Engine for Mysql {
    async fn serve(shared: Arc<Shared>, stream: TcpStream, arrival: &Arrival) -> io::Result<()> {
        listener::serve(shared, stream, arrival).await
    }

    fn too_many() -> Vec<u8> {
        listener::too_many()
    }

    fn end(&self, side: Side) -> End {
        End::of(&Login::from(&self.side(side).own))
    }

    fn servers(&self, side: Side) -> Vec<u32> {
        self.places.servers(side)
    }

    fn begin_survey(&self) {
        self.trials.clear();
    }

    async fn server(&self, side: Side, until: Instant) -> Opposite {
        opposite::server(&self.side(side).own, until).await
    }

    async fn refused(&self, side: Side, until: Instant) -> BTreeMap<String, String> {
        opposite::refused(&self.trials, self.url(side), until).await
    }

    async fn unasked(&self, _side: Side, _until: Instant) -> BTreeSet<String> {
        // A wrong password on trial would count against the account (FAILED_LOGIN_ATTEMPTS).
        self.trials.without_password()
    }
}
