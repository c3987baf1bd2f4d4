//! Who is at the other end of a connection, and who asks.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use cutover::audit::Asker;

use super::certificate::Presented;
use crate::config::Role;

/// The other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// Over TCP.
    Address(SocketAddr),
    /// Over the Unix socket: the kernel says whose process it is.
    Local {
        /// Its user.
        uid: u32,
        /// Its process, if the kernel told.
        pid: Option<i32>,
    },
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Address(address) => write!(f, "{address}"),
            Peer::Local { uid, pid: Some(pid) } => write!(f, "unix uid {uid} pid {pid}"),
            Peer::Local { uid, pid: None } => write!(f, "unix uid {uid}"),
        }
    }
}

/// What a connection tells of whoever is at its other end.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Where.
    pub peer: Peer,
    /// Our own address, which the client connected to; not over the socket.
    pub local: Option<SocketAddr>,
    /// Over TLS.
    pub is_tls: bool,
    /// The client certificate, proven.
    pub certificate: Option<Arc<Presented>>,
}

/// Whoever was let in. Handlers take it from the request's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// `token:NAME`, `user:NAME` or `certificate:NAME`.
    pub name: String,
    /// What he may do.
    pub role: Role,
    /// From where.
    pub peer: String,
}

impl Identity {
    /// What goes on record for a request in which the client calls itself `claim`.
    pub fn asker(&self, claim: Option<String>) -> Asker {
        Asker { name: self.name.clone(), said_by: claim }
    }

    /// The same as one text, for the journal.
    pub fn actor(&self, claim: Option<String>) -> Option<String> {
        Some(self.asker(claim).to_string())
    }
}
