//! What the driver's and the servers' errors mean for the copy.

use decoders::SourceError;
use decoders::mysql::catalog::CatalogError;
use decoders::mysql::server::{code, failure};
use mysql_async::Error;

use crate::backfill::BackfillError;

/// `Table definition has changed, please retry transaction`: the snapshot is older than the table.
const TABLE_CHANGED: u16 = 1412;

/// The error of what was attempted. A refusal that quotes a value is shown by its number alone.
pub(crate) fn failed(doing: impl std::fmt::Display, error: Error) -> BackfillError {
    if code(&error) == Some(TABLE_CHANGED) {
        return BackfillError::retry(format!(
            "{doing}: a table was changed on blue after the copy's snapshot (error {TABLE_CHANGED})"
        ));
    }
    match error {
        Error::Server(server) if quotes_values(&server) => BackfillError::halt(
            format!(
                "{doing}: a value was refused (error {}, SQLSTATE {})",
                server.code, server.state
            ),
            "compare the table's definition on both sides; the error number says what is wrong",
        ),
        error => of_source(failure(doing, error)),
    }
}

/// SQLSTATE classes 22 (data) and 23 (constraints); of class HY000 1366 (incorrect string or number)
/// and 3140 to 3143 (JSON).
fn quotes_values(error: &mysql_async::ServerError) -> bool {
    let class = error.state.get(..2).unwrap_or_default();
    class == "22" || class == "23" || matches!(error.code, 1366 | 3140..=3143)
}

/// A connection's error.
pub(crate) fn of_source(error: SourceError) -> BackfillError {
    let SourceError { disposition, message, remedy, .. } = error;
    BackfillError::Failed { disposition, message, remedy }
}

/// A catalog query that failed.
pub(crate) fn of_catalog(side: &str, error: CatalogError) -> BackfillError {
    match error.cause {
        Some(cause) => failed(format!("{side}: reading {}", error.what), *cause),
        None => BackfillError::halt(
            format!("{side}: reading {}: {}", error.what, error.reason),
            "this is a defect; please report it",
        ),
    }
}
