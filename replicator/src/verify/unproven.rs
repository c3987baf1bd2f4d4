//! Tables of which a change of the catalog has left it open whether their rows are the source's: a comparison
//! answers it.
//!
//! What was marked when the comparison began was marked before any row of it was read, and the change that it was
//! marked for lies before that. So a comparison without a difference answers it, whatever the
//! stream brings meanwhile. A mark that came later has another revision and stays. So does one of which
//! chunks were read before a restart: they may be older than the mark.

use cutover::verify::{Mode, TableReport};
use decoders::postgres::session;
use sinks::catalog_record::{self, Mark};

use super::reader::{Reader, Trouble};
use crate::controlling::EngineReplication;

/// Whether such a comparison looks at every value of every row.
pub(super) fn proves(mode: Mode) -> bool {
    matches!(mode, Mode::Full | Mode::Checksum)
}

/// The tables that are unproven now.
///
/// # Errors
/// The target's.
pub(super) async fn marks(target: &Reader, pipeline: &str) -> Result<Vec<Mark>, Trouble> {
    let marks = catalog_record::marks(target.session(), pipeline).await;
    marks.map_err(|error| Trouble::new(target.side, error.message))
}

/// Whether the table was compared as a whole, to its end, and is equal.
fn is_proven(report: &TableReport) -> bool {
    report.error.is_none()
        && report.differing() == 0
        && report.unsettled == 0
        && !report.cut_short
        && report.left_out.is_empty()
        && report.predicate.is_none()
}

fn answered(marks: Vec<Mark>, reports: &[TableReport]) -> Vec<Mark> {
    let is_answered = |mark: &Mark| {
        let table = mark.table.to_string();
        reports.iter().any(|report| report.table == table && is_proven(report))
    };
    marks.into_iter().filter(is_answered).collect()
}

/// Takes away the marks that these reports answer.
///
/// # Errors
/// The target's.
pub(super) async fn answer(
    stream: &EngineReplication,
    marks: Vec<Mark>,
    reports: &[TableReport],
) -> Result<(), Trouble> {
    let answered = answered(marks, reports);
    if answered.is_empty() {
        return Ok(());
    }
    let route = &stream.route;
    let side = route.ends.direction.to();
    let trouble = |what: String| Trouble::new(side, what);
    let entered = route.door.enter(side).await;
    let _guard = entered.map_err(|error| Trouble::new(&error.place, error.what.clone()))?;
    let session = session::connect(&route.ends.target, "cutover verify").await;
    let session = session.map_err(|error| trouble(error.to_string()))?;
    let writable = session.batch_execute("SET default_transaction_read_only = off").await;
    writable.map_err(|error| trouble(session::describe(&error)))?;
    let cleared = catalog_record::clear(&session, &route.config.name, &answered).await;
    cleared.map_err(|error| trouble(error.message))?;
    for mark in &answered {
        tracing::info!(table = %mark.table, "compared and equal: proven again");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use decoders::QualifiedName;

    use super::*;

    fn report(name: &str) -> TableReport {
        TableReport { table: format!("\"public\".\"{name}\""), ..TableReport::default() }
    }

    #[test]
    fn only_a_whole_comparison_without_a_difference_answers() {
        let table = QualifiedName::new("public", "t");
        let mark = Mark { table, why: "rewritten".into(), revision: 7 };
        let answers = |report: TableReport| answered(vec![mark.clone()], &[report]).len() == 1;
        assert!(answers(report("t")));
        assert!(!answers(report("other")));
        for not_whole in [
            TableReport { missing: 1, ..report("t") },
            TableReport { unsettled: 1, ..report("t") },
            TableReport { cut_short: true, ..report("t") },
            TableReport { error: Some("gone".into()), ..report("t") },
            TableReport { predicate: Some("id > 1".into()), ..report("t") },
            TableReport { left_out: vec!["column x".into()], ..report("t") },
        ] {
            assert!(!answers(not_whole.clone()), "{not_whole:?}");
        }
        assert!(proves(Mode::Full) && proves(Mode::Checksum));
        assert!(!proves(Mode::Count) && !proves(Mode::Sample));
    }
}
