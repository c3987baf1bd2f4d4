//! Connections to green.

use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::session::{self, Session};

use crate::target::TargetError;

/// Opens a session on green.
pub(super) async fn connect(green: &ConnInfo, application: &str) -> Result<Session, TargetError> {
    session::connect(green, application).await.map_err(|error| {
        let message = format!("connecting to green: {error}");
        match error.is_transient() {
            true => TargetError::retry(message),
            false => TargetError::halt(
                message,
                "Correct green's connection string or what the server allows the user",
            ),
        }
    })
}
