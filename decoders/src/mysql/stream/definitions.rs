//! Statements of a binlog that concern the tables that are moved, as changes.

use std::sync::Arc;

use bytes::Bytes;

use super::safety::judge;
use super::statement::{Kind, Statement};
use crate::change::{
    ChangeEvent, Definition, QualifiedName, ReplicaIdentity, Safety, Setting, TableId, TableSchema,
};
use crate::mysql::gtid::TransactionId;
use crate::mysql::server::literal;
use crate::mysql::{Flavor, Selection, Session};

/// What a statement comes to: nothing, the emptying of tables, or a schema change.
pub(super) fn change(
    statement: &Statement,
    id: &TransactionId,
    selection: &Selection,
    flavor: Flavor,
) -> Option<ChangeEvent> {
    let named = !statement.tables.is_empty();
    let any = statement.tables.iter().any(|table| selection.takes(table));
    let all = statement.tables.iter().all(|table| selection.takes(table));
    let reached = statement.databases.iter().any(|name| selection.reaches(name));
    match statement.kind {
        // Triggers and events are made at the flip, accounts are the operator's.
        Kind::Routine | Kind::Account | Kind::Maintenance | Kind::Server | Kind::TemporaryTable => {
            return None;
        }
        Kind::View if named && !any => return None,
        Kind::Database if !reached => return None,
        Kind::DropDatabase if !statement.databases.is_empty() && !reached => return None,
        Kind::TruncateTable if named => {
            let taken = statement.tables.iter().filter(|table| selection.takes(table));
            let names = taken.map(|table| selection.canonical(table));
            let tables: Box<[_]> = names.map(emptied).collect();
            let emptied = ChangeEvent::Truncate { tables, cascade: false, restart_identity: false };
            return any.then_some(emptied);
        }
        // Tables that are left out may change as they like.
        Kind::CreateTable
        | Kind::AlterTable
        | Kind::DropTable
        | Kind::RenameTable
        | Kind::Sequence
        | Kind::Index
            if named && !any =>
        {
            return None;
        }
        _ => {}
    }
    let session = &statement.session;
    let (raw, text) = without_transaction(statement);
    let safety = match session.unknown_setting {
        _ if named && !all => Safety::refused("it also concerns tables that are not moved"),
        Some(setting) => Safety::refused(format!(
            "the session that ran it has a setting that this program does not know (number {setting} in \
             the event)"
        )),
        None => judge(&text, statement.kind, &statement.tables, session.sql_mode),
    };
    Some(ChangeEvent::Definition(Arc::new(Definition {
        place: id.to_string(),
        kind: statement.kind.label(),
        objects: statement.tables.iter().map(|table| selection.canonical(table)).collect(),
        databases: statement.databases.clone(),
        schema: statement.schema.clone(),
        statement: raw,
        text,
        settings: settings(session, flavor),
        safety,
        matters_to_rows: !matches!(statement.kind, Kind::View | Kind::Database),
    })))
}

/// Without what MySQL adds to CREATE TABLE .. SELECT, whose rows follow in the same transaction.
fn without_transaction(statement: &Statement) -> (Bytes, String) {
    const BEGIN: &str = "START TRANSACTION";
    let raw = statement.raw.0.clone();
    match statement.text.strip_suffix(BEGIN) {
        Some(text) if raw.ends_with(BEGIN.as_bytes()) => {
            (raw.slice(..raw.len() - BEGIN.len()), text.trim_end().to_owned())
        }
        _ => (raw, statement.text.clone()),
    }
}

/// What the statement's outcome may depend on, as the source's own replicas would set it.
fn settings(session: &Session, flavor: Flavor) -> Vec<Setting> {
    // `sql/query_options.h` of MySQL, `sql/sql_priv.h` of MariaDB.
    const EXPLICIT_TIMESTAMPS: u32 = 1 << 24;
    const NO_FOREIGN_KEY_CHECKS: u32 = 1 << 26;
    const RELAXED_UNIQUE_CHECKS: u32 = 1 << 27;
    let mut settings = Vec::new();
    let mut set = |name, value: String| settings.push(Setting { name, value });
    let bit = |flags: u32, bit: u32| u8::from(flags & bit != 0).to_string();
    if let Some(mode) = session.sql_mode {
        set("sql_mode", mode.to_string());
    }
    if let Some([client, connection, server]) = session.collations {
        set("character_set_client", client.to_string());
        set("collation_connection", connection.to_string());
        set("collation_server", server.to_string());
    }
    if let Some(zone) = &session.time_zone {
        set("time_zone", literal(zone));
    }
    if let Some(flags) = session.flags2 {
        set("foreign_key_checks", bit(!flags, NO_FOREIGN_KEY_CHECKS));
        set("unique_checks", bit(!flags, RELAXED_UNIQUE_CHECKS));
        if flavor == Flavor::Mariadb {
            set("explicit_defaults_for_timestamp", bit(flags, EXPLICIT_TIMESTAMPS));
        }
    }
    if let Some(explicit) = session.explicit_timestamps {
        set("explicit_defaults_for_timestamp", u8::from(explicit).to_string());
    }
    if let Some(collation) = session.default_utf8mb4_collation {
        set("default_collation_for_utf8mb4", collation.to_string());
    }
    if flavor == Flavor::Mariadb {
        let ids = session.charset_collations.iter().map(|(_, collation)| collation.to_string());
        let ids: Vec<String> = ids.collect();
        set("character_set_collations", ids.join(","));
    }
    settings
}

/// A table of which nothing but the name matters.
fn emptied(name: QualifiedName) -> Arc<TableSchema> {
    Arc::new(TableSchema {
        id: TableId(0),
        name,
        identity: ReplicaIdentity::Nothing,
        columns: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mysql::Sealed;
    use crate::mysql::gtid::MariadbGtid;

    fn definition(statement: Statement) -> Option<Arc<Definition>> {
        let id = TransactionId::Mariadb(MariadbGtid { domain: 0, server: 1, sequence: 7 });
        match change(&statement, &id, &Selection::default(), Flavor::Mariadb) {
            Some(ChangeEvent::Definition(definition)) => Some(definition),
            _ => None,
        }
    }

    fn statement(kind: Kind, text: &str, tables: &[QualifiedName]) -> Statement {
        Statement {
            schema: "shop".into(),
            text: text.into(),
            kind,
            tables: tables.to_vec(),
            databases: Vec::new(),
            raw: Sealed(Bytes::copy_from_slice(text.as_bytes())),
            session: Session::default(),
        }
    }

    #[test]
    fn a_view_whose_name_is_not_recognised_is_not_passed_over() {
        let text = "create view few as select 1";
        let elsewhere = [QualifiedName::new("mysql", "few")];
        assert!(definition(statement(Kind::View, text, &elsewhere)).is_none());
        let refused = definition(statement(Kind::View, text, &[])).unwrap().safety.refused.clone();
        assert!(refused.unwrap().contains("can't be told"));
    }

    #[test]
    fn what_a_session_with_an_unknown_setting_has_run_is_not_repeated() {
        let mut add = statement(
            Kind::AlterTable,
            "alter table a add b int",
            &[QualifiedName::new("shop", "a")],
        );
        assert_eq!(definition(add.clone()).unwrap().safety.refused, None);
        add.session.unknown_setting = Some(140);
        let refused = definition(add).unwrap().safety.refused.clone();
        assert!(refused.unwrap().contains("number 140"));
    }
}
