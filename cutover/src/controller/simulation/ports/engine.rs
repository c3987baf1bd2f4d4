//! The streams, this way and back.

use std::time::Duration;

use decoders::Lsn;
use tokio::sync::watch;
use tokio::time::Instant;

use super::super::world::{Role, Shared, State, lsn_behind};
use super::Engine;
use super::fence::mark;
use crate::api::{Act, Check};
use crate::evidence::Committed;
use crate::marker::Token;
use crate::ports::{
    Handed, Leaks, Leftover, MarkerDecoded, MarkerDurable, MarkerWritten, PortError, PortResult,
    Progress, Replication, Standby, WayBackStream,
};
use crate::side::Direction;

impl Engine {
    /// Nothing is found by who does not read.
    fn if_reader<T>(
        &self,
        look: impl Fn(&mut State) -> Option<T>,
    ) -> impl Fn(&mut State) -> Option<T> {
        let process = self.link.process.clone();
        move |state| state.reads(&process).then(|| look(state)).flatten()
    }

    fn reads(&self) -> bool {
        self.runs && self.link.shared.lock().reads(&self.link.process)
    }

    fn leaks_seen(&self) -> Leaks {
        if self.reads() { leaks(&self.link.shared, self.direction) } else { Leaks::default() }
    }

    async fn decoded(&self, token: &Token, deadline: Instant) -> PortResult<MarkerDecoded> {
        let (direction, name) = (self.direction, token.to_string());
        let found = move |state: &mut State| state.stream(direction).markers.get(&name).copied();
        let (at, leaks) = self.link.until("the marker", deadline, self.if_reader(found)).await?;
        let leaks = Leaks { count: leaks, first: None };
        Ok(MarkerDecoded { token: token.clone(), end_lsn: lsn_behind(at), leaks })
    }

    fn no_engine<T>() -> PortResult<T> {
        Err(PortError::new("engine", "this process has no engine"))
    }
}

impl Replication for Engine {
    fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }
    async fn arm(&self, token: &Token) -> PortResult<()> {
        self.link.process.go_on().await;
        if !self.reads() {
            return Self::no_engine();
        }
        self.link.shared.lock().stream(self.direction).armed = Some(token.clone());
        Ok(())
    }
    async fn await_marker(&self, token: &Token, deadline: Instant) -> PortResult<MarkerDurable> {
        let direction = self.direction;
        let name = token.to_string();
        let found = move |state: &mut State| {
            let stream = state.stream(direction);
            let at = stream.markers.get(&name)?.0;
            (stream.applied > at).then_some(at)
        };
        let at = self.link.until("the marker", deadline, self.if_reader(found)).await?;
        let (token, end_lsn) = (token.clone(), lsn_behind(at));
        Ok(MarkerDurable { token, end_lsn, durable: end_lsn })
    }
    async fn await_decoded(&self, token: &Token, deadline: Instant) -> PortResult<MarkerDecoded> {
        self.decoded(token, deadline).await
    }
    fn leaks(&self) -> Leaks {
        self.leaks_seen()
    }
    async fn release(&self, _: &Token) -> PortResult<()> {
        self.link.process.go_on().await;
        if self.reads() {
            let mut state = self.link.shared.lock();
            let stream = state.stream(self.direction);
            stream.armed = None;
            if stream.role == Role::Carry {
                stream.closed_at = None;
            }
        }
        Ok(())
    }
    async fn hand_over(&self, _: &Committed, deadline: Instant) -> PortResult<Handed> {
        let to = self.direction.to();
        let switch = move |state: &mut State| {
            state.side(to).fires = true;
            Ok(Handed::default())
        };
        self.link.act("hand_over", Some(to), deadline, switch).await
    }
    async fn finish(&self, _: &Token) -> PortResult<()> {
        self.link.process.go_on().await;
        self.link.shared.lock().stream(self.direction).exists = false;
        Ok(())
    }
    async fn remove(&self, what: Leftover, deadline: Instant) -> PortResult<String> {
        let direction = self.direction;
        let remove = move |state: &mut State| {
            if state.stream(direction).exists {
                state.violated(format!("{} of a running stream is removed", what.name()));
            }
            Ok(format!("{} {direction}", what.name()))
        };
        self.link.act("remove", Some(direction.from()), deadline, remove).await
    }
}

fn leaks(shared: &Shared, direction: Direction) -> Leaks {
    let count = shared.lock().stream(direction).held.len() as u64;
    Leaks { count, first: None }
}

impl WayBackStream for Engine {
    async fn inspect(&self) -> PortResult<Vec<Check>> {
        Ok(Vec::new())
    }
    async fn arm(&self, _: &Token, deadline: Instant) -> PortResult<String> {
        if !self.reads() {
            return Self::no_engine();
        }
        let direction = self.direction;
        let arm = move |state: &mut State| {
            let since = state.side(direction.from()).log.len();
            let stream = state.stream(direction);
            if !stream.exists {
                stream.exists = true;
                stream.role = Role::Standby(since);
                stream.applied = since;
                stream.restart();
            }
            Ok("armed".into())
        };
        self.link.act("arm_back", Some(direction.from()), deadline, arm).await
    }
    fn standby(&self) -> Standby {
        Standby { blocked: None, foreign: self.leaks_seen() }
    }
    async fn mark(&self, token: &Token, deadline: Instant) -> PortResult<MarkerWritten> {
        mark(&self.link, self.direction.from(), token, deadline).await
    }
    async fn await_decoded(&self, token: &Token, deadline: Instant) -> PortResult<MarkerDecoded> {
        self.decoded(token, deadline).await
    }
    async fn turn(&self, _: &Committed, _: &Token, since: Lsn) -> PortResult<()> {
        self.link.process.go_on().await;
        if !self.runs {
            return Self::no_engine();
        }
        let mut state = self.link.shared.lock();
        let process = &self.link.process.name;
        state.say(format!("{process}: {} carries, standby since {since}", self.direction));
        // Streams that don't run yet begin with this.
        if state.reads(&self.link.process) {
            state.side(self.direction.to()).fires = false;
        }
        let since = since.0 as usize;
        let carrying = state.stream(self.direction);
        carrying.role = Role::Carry;
        carrying.closed_at = None;
        let standing_by = state.stream(self.direction.reversed());
        standing_by.role = Role::Standby(since);
        standing_by.armed = None;
        standing_by.closed_at = Some(since);
        Ok(())
    }
    async fn beat(&self, token: &Token, deadline: Instant) -> PortResult<Duration> {
        let began = Instant::now();
        let (direction, name) = (self.direction, token.to_string());
        mark(&self.link, direction.from(), token, deadline).await?;
        let found = move |state: &mut State| {
            let stream = state.stream(direction);
            let at = stream.markers.get(&name)?.0;
            (stream.applied > at).then_some(())
        };
        self.link.until("the beat", deadline, self.if_reader(found)).await?;
        Ok(began.elapsed())
    }
    fn describe(&self) -> Vec<Act> {
        Vec::new()
    }
}
