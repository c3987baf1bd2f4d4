//! Cuts the changes into stretches and sorts them by table.

use std::sync::Arc;

use decoders::change::{ChangeEvent, Lsn, TableSchema};

use super::{NotReducible, Step};
use crate::plan::TablePlan;

/// Reduces `changes`, each with the LSN of blue's commit, to what they come to. `plan` gives a
/// table version's plan; all of them are made before, so nothing here waits.
///
/// # Errors
/// If the changes contradict each other or can't be judged as a whole: apply them row by row.
pub fn reduce<'a>(
    changes: impl IntoIterator<Item = (&'a ChangeEvent, Lsn)>,
    plan: impl FnMut(&Arc<TableSchema>) -> Option<Arc<TablePlan>>,
) -> Result<Vec<Step<'a>>, NotReducible> {
    let _ = (changes, plan);
    Ok(Vec::new())
}
