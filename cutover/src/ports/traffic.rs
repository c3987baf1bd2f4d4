//! The routers.

use super::{Epoch, PortResult};
use crate::api::{Act, Check, Member};
use crate::evidence::Committed;
use crate::side::Side;
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::time::Duration;
use tokio::time::Instant;

/// What a kind of router can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SwitchTraits {
    /// Clients wait in the pause; else they get errors between the fence and the release.
    pub holds: bool,
    /// How clients come to the other side.
    pub moves: Moves,
    /// How many there are.
    pub members: usize,
}

/// How clients come to the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moves {
    /// They keep their connection and notice a pause at most.
    Transparently,
    /// Their connection is closed; the next one leads to the other side.
    ByReconnect,
}

/// Holds the clients at the routers and sends them to the other side. One switch serves both
/// directions: the side comes with the call, and with the proof where there is one.
pub trait TrafficSwitch: Send + Sync {
    /// What it can do.
    fn traits(&self) -> SwitchTraits;

    /// Prechecks for moving the clients away from `from` in a pause of at most `max_pause`. Touches
    /// nothing.
    fn inspect(
        &self,
        from: Side,
        max_pause: Duration,
    ) -> impl Future<Output = PortResult<Vec<Check>>> + Send;

    /// Opens what can be opened before a window that leads to `to`. Touches no client.
    fn arm(&self, to: Side, deadline: Instant) -> impl Future<Output = PortResult<()>> + Send;

    /// Every member holds its clients, and none has a server connection with a transaction left.
    fn hold(
        &self,
        epoch: Epoch,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<String>> + Send;

    /// Whether every member still holds its clients: somebody may have let them go. Asked again
    /// and again between the hold and the decision.
    fn holding(
        &self,
        epoch: Epoch,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<bool>> + Send;

    /// Every member points at the proof's side and still holds, unless [`open_switched`] has let its
    /// clients go on: those are not disturbed again. An error leaves no other member untold.
    ///
    /// [`open_switched`]: TrafficSwitch::open_switched
    fn switch(
        &self,
        proof: &Committed,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<Vec<Member>>> + Send;

    /// After a [`switch`](TrafficSwitch::switch) that some members have not carried out: lets the
    /// clients of those go on that point at the proof's side. It is decided and the other side is
    /// closed, so nobody has to wait for a member that can't be told. Those that let theirs go on,
    /// now or before; what fails is logged and done again after the next try. The default is for
    /// switches of one member.
    fn open_switched(
        &self,
        proof: &Committed,
        deadline: Instant,
    ) -> impl Future<Output = Vec<Member>> + Send {
        let _ = (proof, deadline);
        async { Vec::new() }
    }

    /// Every member lets its clients go on, to wherever it points. An error keeps no other member
    /// from it.
    fn release(
        &self,
        epoch: Epoch,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<()>> + Send;

    /// Each member, asked *through* itself which server it reaches.
    fn verify(
        &self,
        proof: &Committed,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<Vec<Member>>> + Send;

    /// In a few words, for example `pgbouncer x3`.
    fn name(&self) -> String;

    /// The statements and files of `hold`, `switch` and `release` in a run that leads to `to`.
    fn describe(&self, to: Side) -> SwitchActs;
}

/// The switch's statements and files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SwitchActs {
    /// Of the hold.
    pub hold: Vec<Act>,
    /// Of the flip.
    pub switch: Vec<Act>,
    /// Of the release.
    pub release: Vec<Act>,
    /// Of the verification.
    pub verify: Vec<Act>,
}
