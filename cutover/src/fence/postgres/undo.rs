//! What undoing a fence needs.

use decoders::QualifiedName;
use serde::{Deserialize, Serialize};

use super::claim::Comment;
use super::grants::Connect;
use crate::ports::Claim;

/// How blue is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SealBy {
    /// `ALTER DATABASE .. ALLOW_CONNECTIONS false`.
    AllowConnections,
    /// `ALTER ROLE .. NOLOGIN` for every role that may connect.
    NoLogin,
}

/// Blue as it was before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostgresUndo {
    /// The database.
    pub database: String,
    /// When this was read, by blue's clock; `None` in journals of older versions.
    #[serde(default)]
    pub at: Option<String>,
    /// Whether the database's settings may be changed.
    pub may_alter: bool,
    /// The database's own `default_transaction_read_only`; `None`: it had none.
    pub read_only: Option<String>,
    /// Whether the database accepted connections.
    pub allow_connections: bool,
    /// How it will be closed.
    pub seal_by: SealBy,
    /// Roles that will lose LOGIN.
    pub roles: Vec<String>,
    /// The replicated tables.
    pub tables: Vec<QualifiedName>,
    /// `server_version_num`.
    pub version_num: u32,
    /// Who may connect; `None` in journals of older versions, which did not touch it.
    #[serde(default)]
    pub connect: Option<Connect>,
    /// The comments of what is closed; none in journals of older versions, which did not touch them.
    #[serde(default)]
    pub comments: Vec<Comment>,
    /// Who closes it by this list; `None` in journals of older versions, and where nobody has a lease.
    #[serde(default)]
    pub claim: Option<Claim>,
}

impl PostgresUndo {
    /// Whether the database itself refuses connections, and not only roles.
    pub(super) fn closes_door(&self) -> bool {
        self.seal_by == SealBy::AllowConnections
    }
}
