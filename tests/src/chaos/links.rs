//! The ways to the servers, each of which can be cut, stalled or slowed.

use anyhow::Result;

use super::deck::{Direction, Router};
use super::fault::Link;
use super::server::Server;
use crate::proxy::{FaultProxy, Mode};

/// The network. Each client of a server has a way of its own.
#[derive(Debug)]
pub struct Links {
    pub(super) sidecar: [FaultProxy; 2],
    /// `None`: the router goes the sidecar's way. The embedded proxy does, because both have to be told
    /// the same servers.
    router: Option<[FaultProxy; 2]>,
}

impl Links {
    pub(super) fn new(blue: &Server, green: &Server, router: Router) -> Result<Links> {
        let start = |server: &Server| FaultProxy::start(server.port());
        let sidecar = [start(blue)?, start(green)?];
        let router = match router {
            Router::Embedded => None,
            _ => Some([start(blue)?, start(green)?]),
        };
        Ok(Links { sidecar, router })
    }

    pub(super) fn of_router(&self) -> &[FaultProxy; 2] {
        self.router.as_ref().unwrap_or(&self.sidecar)
    }

    pub fn set(&self, link: Link, direction: Direction, mode: Mode) {
        let (of, side) = match link {
            Link::SidecarFrom => (&self.sidecar, direction.from()),
            Link::SidecarTo => (&self.sidecar, direction.to()),
            Link::RouterFrom => (self.of_router(), direction.from()),
            Link::RouterTo => (self.of_router(), direction.to()),
        };
        of[side as usize].set(mode);
    }

    pub fn heal(&self) {
        self.sidecar.iter().chain(self.of_router()).for_each(|proxy| proxy.set(Mode::Pass));
    }
}
