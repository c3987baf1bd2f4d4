//! Databases of many tables: each has a sequence, a TOAST table, a key, an index, a foreign key and two rows.

use anyhow::Result;

use crate::postgres::Postgres;
use crate::stage::DATABASE;

/// Tables that one transaction makes: their locks have to fit.
const AT_ONCE: usize = 100;

/// Makes `t1` to `tN`. Each but the first refers to the one before.
///
/// # Errors
/// The server's.
pub async fn make(server: &Postgres, tables: usize) -> Result<()> {
    for first in (1..=tables).step_by(AT_ONCE) {
        let last = (first + AT_ONCE - 1).min(tables);
        let sql = format!(
            "DO $$ BEGIN FOR i IN {first}..{last} LOOP
                 EXECUTE pg_catalog.format(
                     'CREATE TABLE t%s (id bigserial PRIMARY KEY, parent bigint, name text NOT NULL, \
                                        at timestamptz DEFAULT now())', i);
                 EXECUTE pg_catalog.format('CREATE INDEX t%s_name ON t%s (name)', i, i);
                 IF i > 1 THEN
                     EXECUTE pg_catalog.format(
                         'ALTER TABLE t%s ADD FOREIGN KEY (parent) REFERENCES t%s', i, i - 1);
                 END IF;
                 EXECUTE pg_catalog.format('INSERT INTO t%s (name) VALUES (''a''), (''b'')', i);
             END LOOP; END $$"
        );
        server.execute(DATABASE, &sql).await?;
    }
    Ok(())
}
