//! A drill: clients are held as in a run, a marker goes through the stream without a fence, and
//! everything is put back.
//!
//! It is a run that stops after its hold, by the way that every other stop takes: the same gate,
//! journal, lease and budget of the pause, and the same recovery. No fence is raised, so no
//! [`Fenced`](crate::evidence::Fenced) is made, and without one nothing that comes later can be
//! reached.

use std::time::Duration;

use super::Run;
use crate::api::{DrillMeasures, Step};
use crate::phase::{Effect, Input, Stop, StopKind};
use crate::ports::{Fence, Replication, World};

/// Statements of [`Fence::writers`], which is asked for the time of a round trip.
const ROUND_TRIPS: f64 = 2.0;

impl<W: World> Run<'_, W> {
    /// Whether a drill does something else instead.
    pub(super) fn is_drilled(&self, effect: &Effect) -> bool {
        self.order.drill && matches!(effect, Effect::RaiseFence)
    }

    /// What a drill does instead of raising the fence. It always ends in a stop.
    pub(super) async fn drill(&mut self) -> Input {
        let at = self.begin(Step::Drain);
        // Between the end of the hold and now the journal was written.
        let held = self.steps.last().and_then(|step| step.offset_ms).unwrap_or_default();
        let journal_ms = (self.in_pause_ms() - held).max(0.0);
        match self.measure(journal_ms).await {
            Ok(seen) => {
                self.stepped(at, Ok(&seen));
                Input::Stop(Stop {
                    kind: StopKind::Drilled,
                    what: "it was a drill: nothing is changed over".into(),
                    place: "controller".into(),
                    remedy: None,
                })
            }
            Err(why) => {
                self.stepped(at, Err(&why));
                Input::Stop(why)
            }
        }
    }

    async fn measure(&mut self, journal_ms: f64) -> Result<String, Stop> {
        let deadline = self.window_ends();
        let world = self.world;
        let (from, to) = (self.direction().from(), self.direction().to());
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        let began = self.now();
        self.act(&format!("asking {from}"), deadline, world.fence().writers()).await?;
        let asked = self.now();
        let mark = world.fence().mark(&self.token, deadline);
        let written = self.act("writing the marker", deadline, mark).await?;
        let wrote = self.now();
        let durable = world.replication().await_marker(&self.token, deadline);
        let waiting = format!("waiting for the marker to be durable on {to}");
        let durable = self.act(&waiting, deadline, durable).await?;
        if written.token != durable.token || durable.durable < durable.end_lsn {
            let what =
                format!("the marker that came back from {to} is not the one that was written");
            return Err(Stop {
                kind: StopKind::Failed,
                what,
                place: "stream".into(),
                remedy: None,
            });
        }
        self.measures = Some(DrillMeasures {
            round_trip_ms: ms(asked - began) / ROUND_TRIPS,
            write_ms: ms(wrote - asked),
            stream_ms: ms(self.now() - wrote),
            journal_ms,
        });
        Ok(format!("marker {} durable on {to}, without a fence", durable.end_lsn))
    }

    fn in_pause_ms(&self) -> f64 {
        let began = self.pause.map_or_else(|| self.now(), |pause| pause.began);
        self.now().saturating_duration_since(began).as_secs_f64() * 1e3
    }

    /// The way out of a drill: where nothing was closed, nothing is opened, and nobody's session is
    /// closed for having begun meanwhile.
    pub(super) fn has_no_fence(&self) -> bool {
        self.order.drill
    }
}
