//! PostgreSQL's protocol.
//!
//! ```text
//! listener   a connection: TLS, startup packet, gate, login passed on ----> session
//! session    in full flight | brought to rest | held | moved or cut
//!   frames, turns, talk     what the messages that pass by say about it
//!   inspect                 what its own server says that it carries
//!   login, scram, vouch,
//!   users                   getting in on the other side in its name
//!   replay                  the same session there
//! opposite   what is on the side that it does not lead to, before anybody goes there
//! ```
//!
//! A session is moved by asking, not by parsing: at rest, its own server is asked for its
//! settings, role and prepared statements, and for what ties it to that server (temporary objects,
//! advisory locks, LISTEN, cursors WITH HOLD, SQL's PREPARE). Who is tied, and who logs in with
//! something that the proxy can't repeat, is counted beforehand and cut at the flip with one
//! 57P01. What no server tells about a session is lost in a move, as with any pooler: `currval`,
//! `lastval`, seeds of random numbers, what procedural languages keep, and custom settings that
//! only functions set. Types that users have made have other OIDs on the other side: who has named
//! one in a Parse is tied, because a driver that does goes on doing it. What a driver has kept of
//! the *answers* - OIDs of result columns, of the elements of an array that it sends in binary - is out
//! of date after a move; with `user_types = "cut"` who was shown such a column is tied, too. A stream
//! of replication is left where it is while clients are held, and cut at the flip.

mod admit;
mod cancel;
mod customs;
mod frames;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzz;
mod inspect;
mod listener;
mod login;
mod messages;
mod opposite;
mod replay;
mod scram;
mod session;
mod startup;
mod talk;
mod turns;
mod users;
mod vouch;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use decoders::postgres::conninfo::ConnInfo;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::arrivals::Arrival;
use super::opposite::{End, Opposite};
use super::{Engine, ProxyConfig};
use crate::login::Login;
use crate::side::Side;
use cancel::Cancels;
use users::{Registry, Users};

type Shared = super::Shared<Postgres>;

/// The two servers.
#[derive(Debug, Clone)]
struct Ends {
    blue: ConnInfo,
    green: ConnInfo,
}

impl Ends {
    fn of(&self, side: Side) -> &ConnInfo {
        match side {
            Side::Blue => &self.blue,
            Side::Green => &self.green,
        }
    }

    /// Whether clients may ask for a database of this name.
    fn serves(&self, database: &[u8]) -> bool {
        Side::ALL.iter().any(|side| self.of(*side).dbname().as_bytes() == database)
    }
}

/// Sessions of PostgreSQL.
pub(super) struct Postgres {
    /// For logins of clients: a certificate of ours would be theirs, and let in whom the server asks for
    /// one of their own.
    ends: Ends,
    /// With our own certificate, if there is one.
    own: Ends,
    users: Users,
    cancels: Cancels,
    trials: opposite::Trials,
}

impl Postgres {
    /// Between these two.
    ///
    /// # Errors
    /// What is wrong with the users file.
    pub fn new(config: &ProxyConfig, blue: ConnInfo, green: ConnInfo) -> Result<Self, String> {
        Ok(Self {
            ends: Ends { blue: blue.without_certificate(), green: green.without_certificate() },
            own: Ends { blue, green },
            users: Users::read(config.users_file.as_deref())?,
            cancels: Cancels::default(),
            trials: opposite::Trials::default(),
        })
    }
}

impl Postgres {
    /// Whom to ask about roles of that side: our own login reads the accounts.
    fn registry(&self, side: Side) -> Registry<'_> {
        Registry { side, server: self.own.of(side) }
    }
}

impl Engine for Postgres {
    async fn serve(shared: Arc<Shared>, stream: TcpStream, arrival: &Arrival) -> io::Result<()> {
        listener::serve(shared, stream, arrival).await
    }

    fn too_many() -> Vec<u8> {
        listener::too_many()
    }

    fn end(&self, side: Side) -> End {
        End::of(&Login::from(self.own.of(side)))
    }

    fn servers(&self, side: Side) -> Vec<u32> {
        self.cancels.servers(side)
    }

    fn begin_survey(&self) {
        self.trials.clear();
    }

    async fn server(&self, side: Side, until: Instant) -> Opposite {
        opposite::server(self.own.of(side), until).await
    }

    async fn refused(&self, side: Side, until: Instant) -> BTreeMap<String, String> {
        opposite::refused(&self.trials, self.ends.of(side), until).await
    }

    async fn unasked(&self, side: Side, until: Instant) -> BTreeSet<String> {
        opposite::unasked(&self.trials, self.ends.of(side), until).await
    }
}
