//! After a crash: look at the world, then go back or forward.

use std::time::Duration;

use decoders::Lsn;
use jiff::Timestamp;
use serde::de::DeserializeOwned;

use super::{Limits, Order, Run, stop};
use crate::api::{Outcome, RunReport};
use crate::evidence::Committed;
use crate::hub::RunHub;
use crate::marker::Token;
use crate::phase::{Found, Phase, Verdict, resume};
use crate::ports::{
    Clock, Decision, Entry, Epoch, Fence, Journal, PortError, PortResult, Record, World,
};

/// What was found at the start.
#[derive(Debug)]
pub enum Recovery {
    /// No run was left unfinished.
    Nothing,
    /// A run was left unfinished, and now it is not: its report. When its outcome is `completed`,
    /// the stream from blue must not be started again.
    Finished(Box<RunReport>),
    /// An earlier run has completed: the stream from blue must not be started again.
    CutOver(Box<RunReport>),
}

/// Finds the last run in the journal and, if it did not end, puts everything back or finishes it.
/// Call it before the stream starts, and show `hub` of the run that `on_found` is given.
///
/// Which way is decided by green's decision row alone, unless no commit can ever have been sent:
/// then green is not even asked.
pub async fn recover<W: World>(
    world: &W,
    limits: &Limits,
    on_found: impl FnOnce(std::sync::Arc<RunHub>),
) -> PortResult<Recovery> {
    let entries = world.journal().read_all().await?;
    let Some(last) = LastRun::<W>::read(&entries)? else { return Ok(Recovery::Nothing) };
    if let Some(report) = last.ended {
        return Ok(match report.outcome {
            Outcome::Completed => Recovery::CutOver(report),
            _ => Recovery::Nothing,
        });
    }
    let order = last.order;
    let hub = std::sync::Arc::new(RunHub::new(
        order.run.clone(),
        order.epoch,
        world.direction(),
        last.started,
    ));
    on_found(hub.clone());
    let mut run = Run::new(world, &order, limits, &hub, last.started);
    run.seq = last.next_seq;
    run.undo = last.undo;
    run.marker = last.marker;
    run.seen = "recovered".into();
    run.token = Token::draining(&order.run, order.epoch);
    let found = run.look(last.reached, last.commit_intended).await;
    let (state, effect) = resume(found);
    Ok(Recovery::Finished(Box::new(run.drive(state, effect).await)))
}

impl<W: World> Run<'_, W> {
    async fn look(&mut self, reached: Phase, commit_intended: bool) -> Found {
        if !commit_intended && !reached.is_committed() {
            return Found::NotCommitted { reached };
        }
        let until = self.now() + self.limits.decision;
        let to = self.direction().to();
        loop {
            let deadline = self.now() + Duration::from_secs(2);
            let decision = self.world.decision();
            let why = match decision.read(self.order.epoch, deadline).await {
                Ok(Some(verdict)) => {
                    return match Committed::recovered(
                        self.order.epoch,
                        self.direction().to(),
                        verdict,
                    ) {
                        Ok(committed) => Found::Committed { reached, committed },
                        Err(_) => Found::NotCommitted { reached: reached.min(Phase::Sealed) },
                    };
                }
                // The journal knows of a commit that green has lost: it is not the green of then.
                Ok(None) if reached.is_committed() => {
                    let why = PortError::new(
                        to.name(),
                        format!("the run was committed, but {to} no longer has its decision row"),
                    );
                    return Found::Unknown { reached, why: stop(why) };
                }
                // The commit may still be on its way: claim the row before going back.
                Ok(None) => {
                    match decision.decide(self.order.epoch, Verdict::Abort, deadline).await {
                        Ok(_) => continue,
                        Err(error) => stop(error),
                    }
                }
                Err(error) => stop(error),
            };
            if self.now() >= until {
                return Found::Unknown { reached, why };
            }
            self.waiting(format!("{to} has to say what was decided: {}", why.what));
            self.world.clock().sleep_until(self.now() + self.limits.retry).await;
        }
    }
}

/// The newest run in the journal.
struct LastRun<W: World> {
    order: Order,
    started: Timestamp,
    next_seq: u64,
    reached: Phase,
    commit_intended: bool,
    undo: Option<<W::Fence as Fence>::Undo>,
    marker: Option<Lsn>,
    ended: Option<Box<RunReport>>,
}

impl<W: World> LastRun<W> {
    fn read(entries: &[Entry]) -> PortResult<Option<Self>> {
        let Some(newest) = entries.last() else { return Ok(None) };
        let mut last = Self {
            order: order_of(newest.run.clone(), newest.epoch)?,
            started: newest.at,
            next_seq: newest.seq + 1,
            reached: Phase::Replicating,
            commit_intended: false,
            undo: None,
            marker: None,
            ended: None,
        };
        for entry in entries.iter().filter(|entry| entry.epoch == newest.epoch) {
            match &entry.record {
                Record::Began { request, .. } => {
                    last.started = entry.at;
                    let text = |key: &str| {
                        request.get(key).and_then(|value| value.as_str()).map(str::to_owned)
                    };
                    last.order.actor = text("actor");
                    last.order.reason = text("reason");
                    last.order.way_back =
                        request.get("way_back").and_then(|value| value.as_bool()) == Some(true);
                }
                Record::Reached { phase, next, detail, .. } => {
                    // `aborting` says nothing about how far the run had come: keep that.
                    if *phase != Phase::Aborting {
                        last.reached = *phase;
                    }
                    last.commit_intended |= next.as_deref() == Some("decide");
                    if let Some(marker) = detail.get("marker") {
                        last.marker = Some(read_back(marker, "the marker's position")?);
                    }
                    if let Some(undo) = detail.get("undo") {
                        last.undo = Some(read_back(undo, "the prior settings")?);
                    }
                }
                Record::Stopped { .. } => {}
                // A held run is not over: the world may be better now.
                Record::Ended { report } => {
                    let held = report.outcome == Outcome::Held;
                    last.ended = (!held).then(|| report.clone());
                }
            }
        }
        Ok(Some(last))
    }
}

fn read_back<T: DeserializeOwned>(value: &serde_json::Value, what: &str) -> PortResult<T> {
    serde_json::from_value(value.clone()).map_err(|error| {
        PortError::new("journal", format!("{what} can't be read: {error}"))
            .remedy("start the version of the sidecar that wrote the journal")
    })
}

/// What is needed of an order once its gate is behind it.
fn order_of(run: String, epoch: Epoch) -> PortResult<Order> {
    let when_lag = "<1s"
        .parse()
        .map_err(|error| PortError::new("controller", format!("the default gate: {error}")))?;
    Ok(Order {
        run,
        epoch,
        when_lag,
        hold_for: Duration::ZERO,
        gate_timeout: Duration::ZERO,
        max_pause: Duration::ZERO,
        way_back: false,
        actor: None,
        reason: None,
    })
}
