//! Why a catalog could not be read.

use std::error::Error;

use super::super::error::message_of;

/// A catalog query failed. Says which facts are missing and what the server answered; catalogs
/// hold names, never row values, so the server's own message is safe to show.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {what}: {reason}")]
pub struct CatalogError {
    /// The facts that could not be read, such as "tables".
    pub what: &'static str,
    /// The server's message with its SQLSTATE, or the driver's.
    pub reason: String,
    /// SQLSTATE, if the server answered at all.
    pub sqlstate: Option<String>,
    /// The error beneath.
    #[source]
    pub cause: Option<Box<dyn Error + Send + Sync>>,
}

impl CatalogError {
    /// The error of a query for `what`.
    pub fn query(what: &'static str, error: tokio_postgres::Error) -> Self {
        let sqlstate = error.code().map(|code| code.code().to_owned());
        Self { what, reason: describe(&error), sqlstate, cause: Some(Box::new(error)) }
    }

    /// The server answered with something that the reader does not understand.
    pub fn unexpected(what: &'static str, reason: impl Into<String>) -> Self {
        Self { what, reason: reason.into(), sqlstate: None, cause: None }
    }
}

/// One line for an error of tokio-postgres, whose own text is only "db error".
pub fn describe(error: &tokio_postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        return format!("{} (SQLSTATE {})", message_of(db), db.code().code());
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(beneath) = cause {
        let line = beneath.to_string();
        if !text.contains(&line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        cause = beneath.source();
    }
    text
}
