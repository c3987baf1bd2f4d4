//! Whether a server that continues on another timeline still has everything that was applied.
//!
//! A standby that is promoted begins a timeline of its own and leaves the old one at a switch point
//! (PostgreSQL manual, 26.3.6 Timelines). Log before that point is common to both. So if all that was
//! applied is before it, nothing was applied that the new primary does not have, and a slot that it
//! kept a copy of goes on exactly there. Behind the point the two differ, and nobody can tell which
//! transactions the new primary never got.

use crate::change::Lsn;
use crate::postgres::failure::of_wire;
use crate::postgres::wire::ReplicationConnection;
use crate::source::SourceError;

use super::SystemIdentity;
use super::start::NEW_COPY;

/// Where a timeline was left for the next one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Switch {
    timeline: u32,
    at: Lsn,
}

/// The lines of a history file: timeline, switch point, and why, in tabs.
fn parse(history: &str) -> Vec<Switch> {
    let line = |line: &str| {
        let mut fields = line.split_whitespace();
        let timeline = fields.next()?.parse().ok()?;
        Some(Switch { timeline, at: fields.next()?.parse().ok()? })
    };
    history.lines().filter_map(line).collect()
}

/// Whether a server with this history has everything up to `applied` of a timeline that it came from.
fn judge(
    expected: SystemIdentity,
    found: SystemIdentity,
    history: &[Switch],
    applied: Lsn,
) -> Result<(), SourceError> {
    let (old, new) = (expected.timeline, found.timeline);
    let Some(switch) = history.iter().find(|switch| switch.timeline == old) else {
        return Err(SourceError::halt(
            format!(
                "the source has changed from timeline {old} to {new}, which did not come from it: it \
                 was restored from an older state, or an old primary is back"
            ),
            format!(
                "let the source's address lead to the primary that was followed, or {NEW_COPY}"
            ),
        ));
    };
    if switch.at >= applied {
        return Ok(());
    }
    Err(SourceError::halt(
        format!(
            "the source has changed from timeline {old} to {new} at {}, before {applied}, which is \
             applied already: the new primary may lack transactions that the target has",
            switch.at
        ),
        format!("transactions were lost on the source in its failover: {NEW_COPY}"),
    ))
}

/// Asks a server that continues on another timeline whether it has everything up to `applied`.
///
/// # Errors
/// Halts if it has not, or can't show it.
pub(in crate::postgres) async fn check(
    replication: &mut ReplicationConnection,
    expected: SystemIdentity,
    found: SystemIdentity,
    applied: Lsn,
) -> Result<(), SourceError> {
    let history = match found.timeline {
        // The first one has no history file.
        ..=1 => Vec::new(),
        timeline => {
            let doing = "read the history of the source's timelines";
            let rows = replication.simple_query(&format!("TIMELINE_HISTORY {timeline}")).await;
            let rows = rows.map_err(|error| of_wire(doing, error))?;
            let content = rows.first().and_then(|row| row.get(1)).and_then(Option::as_deref);
            parse(content.unwrap_or_default())
        }
    };
    judge(expected, found, &history, applied)?;
    tracing::info!(
        from = expected.timeline,
        to = found.timeline,
        "the source was failed over; nothing that was applied is missing there"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HISTORY: &str = "1\t0/3000060\tno recovery target specified\n\n\
                           2\t0/5000000\tbefore 2026-11-25 12:00:00+00\n";

    fn verdict(old: u32, new: u32, history: &str, applied: u64) -> Result<(), String> {
        let identity = |timeline| SystemIdentity { system_id: 7, timeline };
        judge(identity(old), identity(new), &parse(history), Lsn(applied))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn what_was_applied_before_the_switch_is_on_both() {
        assert_eq!(verdict(1, 3, HISTORY, 0x0300_0060), Ok(()));
        assert_eq!(verdict(2, 3, HISTORY, 0x04ff_ffff), Ok(()));
    }

    #[test]
    fn what_was_applied_behind_the_switch_may_be_missing() {
        let said = verdict(1, 3, HISTORY, 0x0300_0061).unwrap_err();
        assert!(said.contains("timeline 1 to 3 at 0/3000060, before 0/3000061"), "{said}");
    }

    #[test]
    fn a_timeline_of_another_branch_is_no_continuation() {
        for (old, new, history) in [(4, 3, HISTORY), (2, 1, ""), (3, 3, HISTORY), (1, 2, "")] {
            let said = verdict(old, new, history, 1).unwrap_err();
            assert!(said.contains("did not come from it"), "{said}");
        }
    }
}
