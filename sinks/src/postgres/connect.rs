//! Connections to green.

use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::error::ConnectError;
use decoders::postgres::pipelined::Pipelined;
use decoders::postgres::session::{self, Session};

use super::error::target_error;
use crate::target::TargetError;

/// Opens a session on green.
pub(super) async fn connect(green: &ConnInfo, application: &str) -> Result<Session, TargetError> {
    let client = session::connect(green, application).await.map_err(refused)?;
    make_writable(&client).await?;
    Ok(client)
}

/// Opens a lane's session.
pub(super) async fn connect_pipelined(
    green: &ConnInfo,
    application: &str,
) -> Result<(Session, Pipelined), TargetError> {
    let connected = session::connect_pipelined(green, application).await;
    let (client, pipelined) = connected.map_err(refused)?;
    make_writable(&client).await?;
    Ok((client, pipelined))
}

fn refused(error: ConnectError) -> TargetError {
    let message = format!("connecting to green: {error}");
    match error.is_transient() {
        true => TargetError::retry(message),
        false => TargetError::halt(
            message,
            "Correct green's connection string or what the server allows the user",
        ),
    }
}

/// A side that was closed by a cutover is read-only by default; what is written here is ours.
async fn make_writable(client: &Session) -> Result<(), TargetError> {
    let writable = client.batch_execute("SET default_transaction_read_only = off").await;
    writable.map_err(|error| target_error("making a session on green writable", &error))
}
