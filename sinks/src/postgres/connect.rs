//! Connections to green.

use std::ops::Deref;

use tokio_postgres::{Client, NoTls};

use super::error::target_error;
use crate::target::TargetError;

/// How to reach green.
pub type ConnInfo = tokio_postgres::Config;

/// A connection to green; it ends when this is dropped.
pub struct Session(Client);

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.0
    }
}

/// Opens a session.
pub async fn connect(green: &ConnInfo, application: &str) -> Result<Session, TargetError> {
    let mut green = green.clone();
    green.application_name(application);
    let connected = green.connect(NoTls).await;
    let (client, connection) = connected.map_err(|e| target_error("connecting to green", &e))?;
    tokio::spawn(connection);
    Ok(Session(client))
}
