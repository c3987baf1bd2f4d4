//! Who serves, and how the two streams between blue and green do.

use crate::api::{FinishState, Status, Stream, StreamState};
use crate::side::Direction;

use super::{Paint, monitors, units};

/// Rows of name and text: who serves, what stays watched, and the stream that stands by. Nothing of
/// a sidecar that does not say.
pub(super) fn rows(status: &Status, paint: Paint) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    if let Some(serving) = &status.serving {
        let mut text = match serving.as_str() {
            "none" => paint.bad("no database admits writes"),
            serving => serving.to_owned(),
        };
        if let Some(sealed) = &status.sealed {
            text.push_str(&format!("  ({sealed} is sealed)"));
        }
        rows.push(("serves", text));
    }
    if let Some(run) = status.cutover.as_ref().filter(|run| run.report.is_none()) {
        if let Some(until) = run.watch_until {
            // Turned round: how far ahead the end is.
            rows.push(("watch", format!("{} left", units::since(until, status.at))));
        }
        rows.extend(monitors::rows(&run.monitors, paint));
    }
    match status.finish {
        FinishState::NotAsked => {}
        FinishState::UnderWay => {
            let text = "given up half-way: cutover finish has to be ended";
            rows.push(("way back", paint.bad(text)));
            return rows;
        }
        FinishState::Done => {
            rows.push(("way back", "none: given up by cutover finish".into()));
            return rows;
        }
    }
    let of = |direction| status.streams.iter().find(|stream| stream.direction == direction);
    if let Some(back) = of(Direction::Back) {
        rows.push(("way back", way_back(back, paint)));
    }
    if let Some(forward) = of(Direction::Forward).filter(|_| status.direction == Direction::Back) {
        rows.push(("forward", standing_by(forward, paint)));
    }
    rows
}

fn way_back(stream: &Stream, paint: Paint) -> String {
    match stream.state {
        StreamState::Carries => {
            let behind = match stream.lag.seconds {
                Some(seconds) => format!("blue is {} behind green", units::seconds(seconds)),
                None => paint.warn(&format!("blue's lag is unknown: {}", reason(stream))),
            };
            format!("{}  {behind}: cutover rollback", paint.good("carries"))
        }
        _ => standing_by(stream, paint),
    }
}

fn standing_by(stream: &Stream, paint: Paint) -> String {
    let why = || stream.why.clone().unwrap_or_else(|| "no reason is known".into());
    let mut text = match stream.state {
        StreamState::NotArmed => "not armed yet: the next run does that".to_owned(),
        StreamState::NotReady => paint.warn(&format!("not ready: {}", why())),
        StreamState::Hot => {
            let read = match stream.lag.seconds {
                Some(seconds) => format!("reads {} behind", units::seconds(seconds)),
                None => paint.warn(&format!("its lag is unknown: {}", reason(stream))),
            };
            format!("{}  stands by, {read}", paint.good("hot"))
        }
        StreamState::Carries => paint.good("carries"),
        StreamState::Broken => paint.bad(&format!("BROKEN: {}", why())),
        StreamState::Over => "ended for good".to_owned(),
    };
    if let Some(foreign) = &stream.foreign {
        let first = foreign.first.as_deref().unwrap_or("unknown");
        let line = format!(
            "{} WAS WRITTEN BY SOMEBODY ELSE: {} row changes, the first: {first}",
            stream.direction.from(),
            units::count(foreign.changes)
        );
        text.push_str(&format!("\n{}", paint.bad(&line)));
    }
    text
}

fn reason(stream: &Stream) -> &str {
    stream.lag.reason.as_deref().unwrap_or("the sidecar does not say why")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Counters, Foreign, Lag, Positions};

    fn stream(state: StreamState, why: Option<&str>, seconds: Option<f64>) -> Stream {
        Stream {
            direction: Direction::Back,
            state,
            why: why.map(Into::into),
            lag: Lag { seconds, known: seconds.is_some(), ..Lag::default() },
            positions: Positions::default(),
            counters: Counters::default(),
            foreign: None,
        }
    }

    #[test]
    fn each_state_of_the_way_back_says_what_it_means() {
        let said = |state, why, seconds| way_back(&stream(state, why, seconds), Paint::none());
        assert_eq!(
            said(StreamState::Carries, None, Some(0.05)),
            "carries  blue is 0.05 s behind green: cutover rollback"
        );
        assert!(said(StreamState::Carries, None, None).contains("lag is unknown"));
        assert_eq!(said(StreamState::Hot, None, Some(0.05)), "hot  stands by, reads 0.05 s behind");
        let broken = said(StreamState::Broken, Some("green: the slot is gone"), None);
        assert_eq!(broken, "BROKEN: green: the slot is gone");
        assert!(said(StreamState::NotArmed, None, None).contains("next run"));
    }

    #[test]
    fn somebody_elses_writes_are_shouted() {
        let foreign = Some(Foreign { changes: 3, first: Some("insert into t".into()) });
        let text = standing_by(
            &Stream { foreign, ..stream(StreamState::Hot, None, Some(0.0)) },
            Paint::none(),
        );
        assert!(
            text.ends_with(
                "green WAS WRITTEN BY SOMEBODY ELSE: 3 row changes, the first: insert into t"
            ),
            "{text}"
        );
    }
}
