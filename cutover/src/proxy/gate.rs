//! What all sessions look at: which side they belong to, and whether they are held.
//!
//! A session in full flight reads one atomic number per wakeup. Only when that has changed does it
//! take a lock and look at what there is to do; each change wakes every session.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use tokio::sync::watch;

use super::named::UnderWay;
use crate::side::Side;

/// What there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gate {
    /// Grows with each change.
    pub generation: u64,
    /// Where clients belong.
    pub side: Side,
    /// They wait.
    pub hold: Option<Hold>,
    /// Grows with each request to look at what could be moved.
    pub survey: u64,
}

/// Clients wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hold {
    /// Number of the request; larger is later.
    pub serial: u64,
    /// Those in a transaction have had their time.
    pub cut_busy: bool,
}

/// A client, as seen from outside of its session.
#[derive(Debug)]
pub(super) struct Handle {
    id: u64,
    waker: AtomicWaker,
    seen: Mutex<Seen>,
}

/// A client that counts for as long as this lives.
#[derive(Debug)]
pub(super) struct Presence {
    gates: Arc<Gates>,
    pub handle: Arc<Handle>,
}

impl Drop for Presence {
    fn drop(&mut self) {
        lock(&self.gates.sessions).by_id.remove(&self.handle.id);
        self.gates.progress.send_replace(());
    }
}

/// What a session says of itself.
#[derive(Debug, Clone, Default)]
struct Seen {
    generation: u64,
    standing: Standing,
    pinned: Option<String>,
    under_way: Option<UnderWay>,
    unasked: bool,
}

/// Where a session is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Standing {
    /// It waits for its login to begin, or has not got that far.
    #[default]
    Entering,
    /// Its login is under way: no transaction can be open.
    LoggingIn,
    /// Its bytes are passed on.
    Free,
    /// It is to be held and has something under way.
    Busy(&'static str),
    /// It is held.
    Held,
}

/// All sessions, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Census {
    pub clients: u64,
    pub entering: u64,
    pub logging_in: u64,
    pub held: u64,
    /// With something under way, by what it is.
    pub busy: BTreeMap<&'static str, u64>,
    /// That have not looked at the gate yet.
    pub behind: u64,
    /// That can't be moved, by the reason.
    pub pinned: BTreeMap<String, u64>,
    /// Those with something under way, as of the last hold or survey.
    pub under_way: Vec<UnderWay>,
    /// That are still to be asked what they carry: there was no moment for it since the survey.
    pub unasked: u64,
}

impl Census {
    /// Nobody can have a transaction open.
    pub fn at_rest(&self) -> bool {
        self.busy.is_empty()
            && self.behind == 0
            && self.held + self.entering + self.logging_in == self.clients
    }
}

/// The gate and everybody at it.
#[derive(Debug)]
pub(super) struct Gates {
    /// A copy of the gate's, to be looked at without the lock.
    generation: AtomicU64,
    gate: Mutex<Gate>,
    sessions: Mutex<Sessions>,
    progress: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Sessions {
    next: u64,
    by_id: HashMap<u64, Arc<Handle>>,
}

/// Nothing here can be left half-changed by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gates {
    pub fn new(side: Side) -> Self {
        let gate = Gate { generation: 1, side, hold: None, survey: 0 };
        Self {
            generation: AtomicU64::new(gate.generation),
            gate: Mutex::new(gate),
            sessions: Mutex::default(),
            progress: watch::Sender::new(()),
        }
    }

    /// Whether the gate is still as it was in `generation`.
    pub fn is_at(&self, generation: u64) -> bool {
        self.generation.load(Ordering::Acquire) == generation
    }

    /// The gate now.
    pub fn now(&self) -> Gate {
        *lock(&self.gate)
    }

    /// Changes it and wakes everybody.
    pub fn change(&self, change: impl FnOnce(&mut Gate)) -> Gate {
        let gate = {
            let mut gate = lock(&self.gate);
            change(&mut gate);
            gate.generation += 1;
            self.generation.store(gate.generation, Ordering::Release);
            *gate
        };
        for handle in lock(&self.sessions).by_id.values() {
            handle.waker.wake();
        }
        gate
    }

    /// Waits until the gate is not as in `generation` any more.
    pub async fn changed(&self, handle: &Handle, generation: u64) {
        std::future::poll_fn(|cx| self.poll_changed(cx, handle, generation)).await;
    }

    /// The same for a future that has more to look at.
    pub fn poll_changed(&self, cx: &mut Context<'_>, handle: &Handle, generation: u64) -> Poll<()> {
        if !self.is_at(generation) {
            return Poll::Ready(());
        }
        handle.waker.register(cx.waker());
        if self.is_at(generation) { Poll::Pending } else { Poll::Ready(()) }
    }

    /// A new client, unless there are `most`.
    pub fn enter(self: &Arc<Self>, most: usize) -> Option<Presence> {
        let mut sessions = lock(&self.sessions);
        if sessions.by_id.len() >= most {
            return None;
        }
        sessions.next += 1;
        let id = sessions.next;
        let handle = Arc::new(Handle { id, waker: AtomicWaker::new(), seen: Mutex::default() });
        sessions.by_id.insert(id, handle.clone());
        Some(Presence { gates: self.clone(), handle })
    }

    /// A session has looked at the gate.
    pub fn seen(&self, handle: &Handle, generation: u64, standing: Standing) {
        {
            let mut seen = lock(&handle.seen);
            seen.generation = generation;
            seen.standing = standing;
        }
        self.progress.send_replace(());
    }

    /// Why it can't be moved, if it can't.
    pub fn pinned(&self, handle: &Handle, why: Option<String>) {
        lock(&handle.seen).pinned = why;
    }

    /// What it has under way, if anything.
    pub fn under_way(&self, handle: &Handle, what: Option<UnderWay>) {
        lock(&handle.seen).under_way = what;
    }

    /// Whether it is still to be asked what it carries.
    pub fn unasked(&self, handle: &Handle, unasked: bool) {
        lock(&handle.seen).unasked = unasked;
        self.progress.send_replace(());
    }

    /// Counts everybody.
    pub fn census(&self) -> Census {
        let generation = self.generation.load(Ordering::Acquire);
        let mut census = Census::default();
        for handle in lock(&self.sessions).by_id.values() {
            let seen = lock(&handle.seen).clone();
            census.clients += 1;
            census.behind += u64::from(seen.generation < generation);
            match seen.standing {
                Standing::Entering => census.entering += 1,
                Standing::LoggingIn => census.logging_in += 1,
                Standing::Held => census.held += 1,
                Standing::Busy(what) => *census.busy.entry(what).or_default() += 1,
                Standing::Free => {}
            }
            census.under_way.extend(seen.under_way);
            census.unasked += u64::from(seen.unasked);
            if let Some(why) = seen.pinned {
                *census.pinned.entry(why).or_default() += 1;
            }
        }
        census
    }

    /// Told whenever a session has something new to say.
    pub fn progress(&self) -> watch::Receiver<()> {
        self.progress.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_is_complete_when_everybody_has_seen_it() {
        let gates = Arc::new(Gates::new(Side::Blue));
        let (one, two) = (gates.enter(2).unwrap(), gates.enter(2).unwrap());
        assert!(gates.enter(2).is_none());
        let hold = Hold { serial: 7, cut_busy: false };
        let gate = gates.change(|gate| gate.hold = Some(hold));
        assert_eq!(gates.census().behind, 2);
        gates.seen(&one.handle, gate.generation, Standing::Held);
        gates.seen(&two.handle, gate.generation, Standing::Busy("in a transaction"));
        assert!(!gates.census().at_rest());
        gates.seen(&two.handle, gate.generation, Standing::Held);
        gates.pinned(&two.handle, Some("LISTEN".into()));
        assert!(gates.census().at_rest());
        assert_eq!(gates.census().pinned, BTreeMap::from([("LISTEN".into(), 1)]));
        // What was said of an earlier gate counts for nothing.
        gates.change(|gate| gate.side = Side::Green);
        assert!(!gates.census().at_rest());
        drop(one);
        assert!(gates.enter(2).is_some());
    }
}
