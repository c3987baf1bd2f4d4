//! Changes of MySQL and MariaDB as JSON.

use super::{Detail, JsonEvent, JsonEvents, TransactionNumber, details, rfc3339};
use crate::mysql::stream::{Change, Outcome, Transaction};

impl JsonEvents {
    /// The events of the next transaction or part of a binlog, in order, as [`JsonEvents::of`] has
    /// those of PostgreSQL, and:
    ///
    /// - `transaction_id` is the GTID, `position` the set of all GTIDs up to here.
    /// - `before` is always the whole row. Tables without a primary key have all columns as `keys`.
    /// - A statement (`op` is `statement`) has `kind`, the tables that it names as far as they are
    ///   recognised, and its text; `schema` is the default one.
    /// - `prepared` marks changes that wait for an event `xa_commit` or `xa_rollback` with the same
    ///   identity as `xa`. Only the last part of a large transaction can have it.
    pub fn of_binlog<'a>(
        &mut self,
        transaction: &'a Transaction,
    ) -> impl Iterator<Item = JsonEvent<'a>> {
        if transaction.part.starts() {
            self.ordinal = 0;
        }
        let first = self.ordinal;
        let events: Vec<_> = transaction.changes.iter().flat_map(binlog_details).collect();
        self.ordinal += events.len() as u64;
        let committed_at = rfc3339(transaction.committed_at_us);
        let position = transaction.position.as_ref().map(ToString::to_string);
        let gtid = transaction.id.to_string();
        let prepared = match &transaction.outcome {
            Outcome::Prepared(id) => Some(id.to_string()),
            Outcome::Committed => None,
        };
        (first..).zip(events).map(move |(ordinal, (op, detail))| JsonEvent {
            id: format!("{gtid}-{ordinal}"),
            op,
            detail,
            committed_at: committed_at.clone(),
            transaction_id: TransactionNumber::Gtid(gtid.clone()),
            origin: None,
            prepared: prepared.clone(),
            position: position.clone(),
        })
    }
}

fn binlog_details(change: &Change) -> Vec<(&'static str, Detail<'_>)> {
    match change {
        Change::Row(change) => details(change),
        Change::Statement(statement) => {
            let names = statement.tables.iter();
            let detail = Detail::Statement {
                schema: &statement.schema,
                kind: statement.kind,
                tables: names.map(|name| format!("{}.{}", name.schema, name.name)).collect(),
                statement: &statement.text,
            };
            vec![("statement", detail)]
        }
        // How a change was made is no change.
        Change::ForeignKeyChecks(_) => Vec::new(),
        Change::XaCommit(id) => vec![("xa_commit", Detail::Xa { xa: id.to_string() })],
        Change::XaRollback(id) => vec![("xa_rollback", Detail::Xa { xa: id.to_string() })],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::change::{Part, QualifiedName};
    use crate::mysql::stream::{Kind, Statement, XaId};

    #[test]
    fn statements_and_distributed_transactions_are_events() {
        let statement = Statement {
            schema: "shop".into(),
            text: "DROP TABLE t".into(),
            kind: Kind::DropTable,
            tables: vec![QualifiedName::new("shop", "t")],
            databases: Vec::new(),
            raw: Default::default(),
            session: Default::default(),
        };
        let xa = XaId { format_id: 1, global: b"x".to_vec(), branch: Vec::new() };
        let position = "0-1-7".parse().unwrap();
        let transaction = Transaction {
            part: Part::Whole,
            id: crate::mysql::gtid::TransactionId::Mariadb("0-1-7".parse().unwrap()),
            position: Some(position),
            outcome: Outcome::Committed,
            distributed: false,
            committed_at_us: 42,
            server_id: 1,
            changes: vec![Change::Statement(statement), Change::XaCommit(xa)],
            bytes: 0,
        };
        let mut numbers = JsonEvents::new();
        let found: Vec<_> = numbers
            .of_binlog(&transaction)
            .map(|event| serde_json::to_value(event).unwrap())
            .collect();
        let expected = json!({
            "id": "0-1-7-0", "op": "statement", "schema": "shop", "kind": "drop_table",
            "tables": ["shop.t"], "statement": "DROP TABLE t",
            "committed_at": "1970-01-01T00:00:00.000042Z", "transaction_id": "0-1-7",
            "position": "0-1-7",
        });
        assert_eq!(found[0], expected);
        assert_eq!(
            (&found[1]["op"], &found[1]["xa"]),
            (&json!("xa_commit"), &json!("X'78',X'',1"))
        );
    }
}
