//! The anchor: the slot that outlives the reader, moved up to what is durable and never further.
//!
//! Moving it decodes the log in between (`pg_replication_slot_advance`) and may take long, so a
//! task of its own does that, on a session of its own, seldom.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::change::Lsn;
use crate::postgres::failure::of_session;
use crate::postgres::session::Session;
use crate::postgres::slot::{self, SlotState};
use crate::postgres::stream::start::NEW_COPY;
use crate::source::SourceError;

/// The anchor is moved at most so often, unless this much log can be let go.
const ADVANCE_EVERY: Duration = Duration::from_secs(30);
const ADVANCE_BYTES: u64 = 1 << 30;

/// What the task is to do.
#[derive(Debug, Clone, Copy)]
struct Order {
    durable: Lsn,
    /// Move at once, then end.
    closing: bool,
}

/// The task that moves the slot. Dropping it leaves the slot where it is.
#[derive(Debug)]
pub(super) struct Anchor {
    orders: watch::Sender<Order>,
    task: JoinHandle<Result<(), SourceError>>,
}

impl Anchor {
    /// Takes over the slot, which stands at `confirmed`.
    pub(super) fn new(session: Session, slot: String, confirmed: Lsn) -> Self {
        let (orders, received) = watch::channel(Order { durable: confirmed, closing: false });
        let mover = Mover { session, slot, told: confirmed };
        Self { orders, task: tokio::spawn(mover.run(received)) }
    }

    /// The slot may be moved up to `durable`.
    pub(super) fn allow(&self, durable: Lsn) {
        self.orders.send_if_modified(|order| {
            let news = durable > order.durable;
            order.durable = order.durable.max(durable);
            news
        });
    }

    /// Whether `failed` has something to say.
    pub(super) fn has_failed(&self) -> bool {
        self.task.is_finished()
    }

    /// Waits until the slot can't be kept any more, and says why. Cancel-safe.
    pub(super) async fn failed(&mut self) -> SourceError {
        match (&mut self.task).await {
            Ok(Err(error)) => error,
            // The task ends by itself only when it is told to.
            Ok(Ok(())) => SourceError::retry("the keeper of the replication slot has ended"),
            Err(error) => {
                SourceError::retry("the keeper of the replication slot failed").caused_by(error)
            }
        }
    }

    /// Moves the slot a last time and lets go of it.
    pub(super) async fn close(mut self) -> Result<(), SourceError> {
        self.orders.send_modify(|order| order.closing = true);
        match (&mut self.task).await {
            Ok(result) => result,
            Err(error) => {
                Err(SourceError::retry("the keeper of the replication slot failed")
                    .caused_by(error))
            }
        }
    }
}

impl Drop for Anchor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Mover {
    session: Session,
    slot: String,
    /// Where we moved it last.
    told: Lsn,
}

impl Mover {
    async fn run(mut self, mut orders: watch::Receiver<Order>) -> Result<(), SourceError> {
        let mut moved_at = Instant::now();
        loop {
            let order = *orders.borrow_and_update();
            let due_at = moved_at + ADVANCE_EVERY;
            if order.durable > self.told {
                let bytes = order.durable.bytes_since(self.told);
                if order.closing || bytes >= ADVANCE_BYTES || Instant::now() >= due_at {
                    self.advance(order.durable).await?;
                    moved_at = Instant::now();
                    continue;
                }
            }
            if order.closing {
                return Ok(());
            }
            tokio::select! {
                changed = orders.changed() => if changed.is_err() {
                    return Ok(());
                },
                () = sleep_until(due_at), if order.durable > self.told => {}
                reason = self.session.closed() => {
                    return Err(SourceError::retry(format!(
                        "the session that keeps the replication slot {} was lost: {reason}",
                        self.slot
                    )));
                }
            }
        }
    }

    async fn advance(&mut self, to: Lsn) -> Result<(), SourceError> {
        let slot = slot::inspect(&self.session, &self.slot).await?;
        self.check(slot)?;
        let doing = format!("advance the replication slot {}", self.slot);
        let sql = "SELECT end_lsn::text
                   FROM pg_catalog.pg_replication_slot_advance($1, $2::text::pg_catalog.pg_lsn)";
        let row = self.session.query_one(sql, &[&self.slot, &to.to_string()]).await;
        let row = row.map_err(|error| of_session(&doing, error))?;
        let reached: &str = row.try_get(0).map_err(|error| of_session(&doing, error))?;
        if reached.parse() != Ok(to) {
            return Err(SourceError::retry(format!(
                "can't {doing}: the server moved it to {reached} instead of {to}"
            )));
        }
        tracing::debug!(slot = %self.slot, %to, "the anchor slot was advanced");
        self.told = to;
        Ok(())
    }

    /// Nobody else may have touched it.
    fn check(&self, slot: Option<SlotState>) -> Result<(), SourceError> {
        let name = &self.slot;
        let Some(slot) = slot else {
            return Err(SourceError::halt(
                format!("the replication slot {name} was dropped while it was being read"),
                NEW_COPY,
            ));
        };
        if slot.is_lost() {
            return Err(SourceError::halt(
                format!("the source has removed log that the replication slot {name} needs"),
                format!("raise max_slot_wal_keep_size; then {NEW_COPY}"),
            ));
        }
        if let Some(pid) = slot.active_pid {
            return Err(SourceError::halt(
                format!(
                    "the replication slot {name} was taken by pid {pid} while it was being read"
                ),
                "stop that process; then resume",
            ));
        }
        match slot.confirmed_flush_lsn {
            Some(confirmed) if confirmed > self.told => Err(SourceError::halt(
                format!(
                    "the replication slot {name} has moved on to {confirmed}, past {}, where we \
                     had put it",
                    self.told
                ),
                format!("somebody else has used the slot: {NEW_COPY}"),
            )),
            _ => Ok(()),
        }
    }
}
