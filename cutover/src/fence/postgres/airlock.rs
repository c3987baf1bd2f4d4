//! The airlock: how our own sessions get into a database that refuses connections.
//!
//! `ALLOW_CONNECTIONS false` keeps everybody out, us too: a walsender or a lane that lost its
//! connection could not come back. So for the milliseconds that it takes to connect, the database
//! accepts connections while nobody but our own role may CONNECT, both set in one transaction from
//! another database. Then it is closed again, and whoever slipped in is closed and counted: only
//! superusers and clients under our own role can.
//!
//! A crash in between leaves CONNECT revoked and blue read-only by default; the next start closes
//! the door (`reseal`) or puts everything back (`lower`).
//!
//! Both change only a side that was closed by the same run ([`super::claim`]).
//!
//! With NOLOGIN instead of a closed door our own role still comes in, and none of this is needed.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use decoders::postgres::conninfo::ConnInfo;
use tokio::time::Instant;

use super::claim::{self, Needs};
use super::sessions::{self, Closed, Gone, SCAN_PAUSE};
use super::{PostgresUndo, SealBy, acts, elsewhere, grants};
use crate::fence::door::{Door, DoorGuard};
use crate::ports::{PortError, PortResult};
use crate::sql::{Kind, Slot, soon};

/// One try at closing the door.
const CLOSE_TRY: Duration = Duration::from_secs(2);
/// Between two of them; doubles up to `CLOSE_PAUSE_MAX`.
const CLOSE_PAUSE: Duration = Duration::from_millis(100);
const CLOSE_PAUSE_MAX: Duration = Duration::from_secs(5);
/// Whoever has not connected by then has to enter again.
const AJAR_MAX: Duration = Duration::from_secs(10);

/// The door of one database. Clones are the same door.
#[derive(Clone)]
pub struct PostgresDoor(Arc<Inner>);

struct Inner {
    place: &'static str,
    outside: Slot,
    state: tokio::sync::Mutex<State>,
    /// Blue is being put back: nothing may close it any more.
    given_up: AtomicBool,
    /// Guards that are alive.
    inside: AtomicUsize,
    /// Transactions that opening and closing have used since blue was closed.
    own_xids: AtomicU64,
    /// Who slipped in since then.
    slipped: Mutex<Closed>,
    /// The database's entry as the last closing left it.
    stamp: Mutex<Option<String>>,
}

/// How the door was used since blue was closed.
#[derive(Debug)]
pub(super) struct Used {
    /// Who slipped in.
    pub slipped: Vec<String>,
    /// Transactions that opening and closing it took.
    pub own_xids: u64,
    /// The database's entry (see [`acts::stamp_sql`]) as we left it.
    pub stamp: Option<String>,
}

enum State {
    /// Nothing is known about blue here.
    Unsealed,
    /// We have put blue back: only [`PostgresDoor::sealed`] closes it again.
    Open,
    Closed(PostgresUndo),
    Ajar {
        undo: PostgresUndo,
        since: Instant,
    },
}

impl PostgresDoor {
    pub(super) fn new(info: &ConnInfo, place: &'static str) -> Self {
        let name = acts::fence_name(info.dbname());
        Self(Arc::new(Inner {
            place,
            outside: Slot::new(elsewhere(info), name, place, Kind::Server),
            state: tokio::sync::Mutex::new(State::Unsealed),
            given_up: AtomicBool::new(false),
            inside: AtomicUsize::new(0),
            own_xids: AtomicU64::new(0),
            slipped: Mutex::default(),
            stamp: Mutex::default(),
        }))
    }

    /// Blue is about to be closed, or to be looked at whether it is.
    pub(super) async fn sealed(&self, undo: &PostgresUndo) {
        let mut state = self.0.state.lock().await;
        self.0.given_up.store(false, Ordering::SeqCst);
        self.0.own_xids.store(0, Ordering::SeqCst);
        self.0.slipped.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.stamped(None);
        *state = State::Closed(undo.clone());
    }

    /// Blue was closed; `stamp` is its entry since then.
    pub(super) fn stamped(&self, stamp: Option<String>) {
        *self.0.stamp.lock().unwrap_or_else(PoisonError::into_inner) = stamp;
    }

    /// Blue is sealed, if nothing else is known about it here: by an earlier life of this process.
    /// Who asks may have read the journal before blue was put back: that does not count then, or
    /// the door would be closed behind it on clients.
    pub(super) async fn remember(&self, undo: &PostgresUndo) {
        let mut state = self.0.state.lock().await;
        if matches!(*state, State::Unsealed) {
            self.0.given_up.store(false, Ordering::SeqCst);
            *state = State::Closed(undo.clone());
        }
    }

    /// Blue is going to be put back: from now on this closes nothing. `false`: something is still
    /// under way here; end our sessions and call it again.
    pub(super) fn give_up(&self) -> bool {
        self.0.given_up.store(true, Ordering::SeqCst);
        match self.0.state.try_lock() {
            Ok(mut state) => {
                *state = State::Open;
                true
            }
            Err(_) => false,
        }
    }

    /// Waits until the door is closed, if it is ajar, and says how it was used since blue was.
    pub(super) async fn settle(&self, deadline: Instant) -> PortResult<Used> {
        loop {
            let ajar = matches!(*self.0.state.lock().await, State::Ajar { .. });
            if !ajar {
                break;
            }
            if Instant::now() + SCAN_PAUSE >= deadline {
                let place = self.0.place;
                return Err(PortError::new(
                    place,
                    format!("{place} was still open for a session of ours"),
                ));
            }
            tokio::time::sleep(SCAN_PAUSE).await;
        }
        let slipped = self.0.slipped.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Used {
            slipped: slipped.values().cloned().collect(),
            own_xids: self.0.own_xids.load(Ordering::SeqCst),
            stamp: self.0.stamp.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        })
    }

    /// How many foreign sessions have slipped in through the airlock since blue was closed.
    pub fn slipped(&self) -> u64 {
        self.0.slipped.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
    }

    async fn open(&self, undo: &PostgresUndo) -> PortResult<()> {
        let (inner, deadline) = (&*self.0, soon());
        let outside = inner.outside.get(deadline).await?;
        let connect = grants::read(&outside, inner.place, &undo.database, deadline).await?;
        let keeper = grants::keeper(&outside, inner.place, deadline).await?;
        let mut batch = connect.revoke_all(&undo.database, &keeper);
        batch.push(acts::allow_connections(undo, true));
        inner.own_xids.fetch_add(1, Ordering::SeqCst);
        let (doors, what) = (&inner.outside, "opening the airlock");
        claim::change(doors, inner.place, undo, Needs::Ours, batch, what, deadline).await?;
        Ok(())
    }

    async fn close(&self, undo: &PostgresUndo, deadline: Instant) -> PortResult<()> {
        let (inner, database) = (&*self.0, undo.database.as_str());
        inner.own_xids.fetch_add(1, Ordering::SeqCst);
        let close = vec![acts::allow_connections(undo, false)];
        let (doors, what) = (&inner.outside, "closing the airlock");
        let stamp = claim::change(doors, inner.place, undo, Needs::Ours, close, what, deadline);
        self.stamped(stamp.await?);
        let outside = inner.outside.get(deadline).await?;
        // It is closed. What may have come in until then is found out, and if it can't be closed
        // (only a superuser can close a superuser) that is said.
        let mut closed = Closed::new();
        let cleared = async {
            let passed = sessions::starting(&outside, inner.place, database, deadline).await?;
            let gone = Gone::All(passed);
            sessions::clear(&outside, inner.place, database, gone, &mut closed, deadline).await
        };
        if let Err(error) = cleared.await {
            closed.insert("unclear".into(), error.to_string());
        }
        if !closed.is_empty() {
            let who: Vec<_> = closed.values().cloned().collect();
            tracing::error!(
                "sessions slipped into {} through the airlock: {}",
                inner.place,
                who.join("; ")
            );
            inner.slipped.lock().unwrap_or_else(PoisonError::into_inner).append(&mut closed);
        }
        Ok(())
    }

    /// Closes the door, tried until it works, unless somebody is inside; for the opening of the
    /// moment `even_if` even then.
    async fn close_behind(self, even_if: Option<Instant>) {
        let mut pause = CLOSE_PAUSE;
        loop {
            {
                let mut state = self.0.state.lock().await;
                let State::Ajar { undo, since } = &*state else { return };
                let undo = undo.clone();
                let nobody = self.0.inside.load(Ordering::SeqCst) == 0;
                let late = even_if == Some(*since);
                if !(nobody || late) || self.0.given_up.load(Ordering::SeqCst) {
                    return;
                }
                match self.close(&undo, Instant::now() + CLOSE_TRY).await {
                    Ok(()) => {
                        *state = State::Closed(undo);
                        return;
                    }
                    // It is no longer ours to close: who serves there now must not be shut out.
                    Err(error) if error.is_superseded() => {
                        tracing::error!("the airlock is left as it is: {error}");
                        *state = State::Open;
                        return;
                    }
                    Err(error) => tracing::error!("the airlock is open: {error}"),
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(CLOSE_PAUSE_MAX);
        }
    }

    fn guard(&self) -> DoorGuard {
        self.0.inside.fetch_add(1, Ordering::SeqCst);
        let door = self.clone();
        DoorGuard::new(move || {
            door.0.inside.fetch_sub(1, Ordering::SeqCst);
            match tokio::runtime::Handle::try_current() {
                Ok(runtime) => drop(runtime.spawn(door.close_behind(None))),
                Err(_) => tracing::error!("the airlock stays open until the next start"),
            }
        })
    }
}

impl Door for PostgresDoor {
    async fn enter(&self) -> PortResult<DoorGuard> {
        let mut state = self.0.state.lock().await;
        if self.0.given_up.load(Ordering::SeqCst) {
            return Ok(DoorGuard::nothing());
        }
        match &*state {
            State::Unsealed | State::Open => Ok(DoorGuard::nothing()),
            State::Closed(undo) | State::Ajar { undo, .. } if undo.seal_by == SealBy::NoLogin => {
                Ok(DoorGuard::nothing())
            }
            State::Ajar { .. } => Ok(self.guard()),
            State::Closed(undo) => {
                let (undo, since) = (undo.clone(), Instant::now());
                // From here on it may be open, however this ends: the guard closes it.
                *state = State::Ajar { undo: undo.clone(), since };
                let guard = self.guard();
                if let Err(error) = self.open(&undo).await {
                    if error.is_superseded() {
                        *state = State::Unsealed;
                    }
                    return Err(error);
                }
                let door = self.clone();
                tokio::spawn(async move {
                    tokio::time::sleep_until(since + AJAR_MAX).await;
                    door.close_behind(Some(since)).await;
                });
                Ok(guard)
            }
        }
    }
}
