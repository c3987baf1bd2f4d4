//! Databases, and what only the files of their tables tell.

use std::collections::{BTreeMap, BTreeSet};

use cutover::api::Severity;
use cutover::verify::ObjectFinding;
use cutover::verify::objects::{Property, Rigor};
use decoders::QualifiedName;
use decoders::mysql::catalog;
use decoders::mysql::server::{Server, code, identifier, literal};
use mysql_async::prelude::Queryable;

use super::{Asking, READ_ONLY, described, exact, or_none, yes};
use crate::schema::mysql::{canonical_name, qualified};
use crate::verify::Trouble;
use crate::verify::mysql::table_options;

impl Asking<'_> {
    pub(super) async fn databases(&mut self, server: &Server) -> Result<(), Trouble> {
        let read_only = catalog::read_only_databases(&mut self.reader.conn, server).await;
        let read_only = read_only.map_err(|error| self.reader.unreadable(error))?;
        // What is made later without a word of its own is encrypted or not by that.
        let (encrypts, comment) = match server.is_mariadb() {
            true => ("'NO'", "schema_comment"),
            false if server.number >= (8, 0, 16) => ("default_encryption", "''"),
            false => ("'NO'", "''"),
        };
        let sql = format!(
            "SELECT schema_name, '', default_collation_name, {encrypts}, {comment}
             FROM information_schema.schemata"
        );
        let schemas: BTreeSet<String> = self.names.iter().map(|name| name.schema.clone()).collect();
        for answer in self.ask("databases", &sql).await? {
            let schema = &answer.name.schema;
            if !schemas.contains(schema) {
                continue;
            }
            let name = identifier(schema);
            let collation = canonical_name(answer.fields.first().and_then(|f| f.as_deref()));
            let encrypts = answer.field(1);
            let letter = if encrypts == "YES" { "Y" } else { "N" };
            let properties = vec![
                exact("collation", or_none(collation)),
                exact(READ_ONLY, yes(read_only.contains(schema)))
                    .set_by(format!("ALTER DATABASE {name} READ ONLY = 0")),
                Property::new("encrypts new tables", encrypts, Rigor::Noted)
                    .set_by(format!("ALTER DATABASE {name} ENCRYPTION = '{letter}'")),
                Property::new("comment", answer.field(2), Rigor::Noted).set_by(format!(
                    "ALTER DATABASE {name} COMMENT = {}",
                    literal(&answer.field(2))
                )),
            ];
            self.objects.push(described("database", name, properties));
        }
        Ok(())
    }

    /// How a table's file grows (`AUTOEXTEND_SIZE`), which is in no `create_options`. Says so where the account may
    /// not see it.
    pub(super) async fn growth(
        &mut self,
        server: &Server,
    ) -> Result<Option<ObjectFinding>, Trouble> {
        if server.is_mariadb() || server.number < (8, 0, 23) {
            return Ok(None);
        }
        let sql = "SELECT name, autoextend_size FROM information_schema.innodb_tablespaces
                   WHERE space_type = 'Single' AND autoextend_size > 0";
        let rows: Result<Vec<(String, u64)>, _> = self.reader.conn.query(sql).await;
        let rows = match rows {
            Ok(rows) => rows,
            // ER_SPECIFIC_ACCESS_DENIED_ERROR.
            Err(error) if code(&error) == Some(1227) => {
                let side = self.reader.side;
                return Ok(Some(ObjectFinding {
                    severity: Severity::Warn,
                    kind: "table".into(),
                    object: "AUTOEXTEND_SIZE of all tables".into(),
                    what: format!("our account may not see it on {side}, so it is not compared"),
                    fix: Some(format!("on {side}: GRANT PROCESS ON *.* TO our account")),
                }));
            }
            Err(error) => return Err(self.reader.failed("reading tablespaces", error)),
        };
        // Neither the name nor what may follow it is quoted.
        let spaces: BTreeMap<String, &&QualifiedName> = (self.names.iter())
            .map(|name| (format!("{}/{}", name.schema, name.name), name))
            .collect();
        for (space, bytes) in rows {
            let of_partition = || spaces.get(space.split_once("#p#")?.0);
            if let Some(table) = spaces.get(&space).or_else(of_partition) {
                let options = self.options.entry(qualified(table)).or_default();
                options.insert(table_options::GROWTH.to_owned(), bytes.to_string());
            }
        }
        Ok(None)
    }
}
