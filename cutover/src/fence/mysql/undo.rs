//! What undoing a fence needs.

use serde::{Deserialize, Serialize};

use crate::ports::Claim;

/// A global variable as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// The value that the server had persisted for it (MySQL); `None`: none.
    pub persisted: Option<String>,
}

/// A server as it was before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MysqlUndo {
    /// Whether it is MariaDB.
    pub is_mariadb: bool,
    /// What tells it from others with the same data (`server_uuid`, `server_id`).
    pub server: String,
    /// The variables that closing it changes.
    pub settings: Vec<Setting>,
    /// Accounts that lose the right to log in, as statements name them.
    pub accounts: Vec<String>,
    /// Who closes it by this list; `None` where nobody has a lease.
    pub claim: Option<Claim>,
}
