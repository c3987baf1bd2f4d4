//! Things in blue's schema that newer versions no longer have (the checks of pg_upgrade's
//! `check.c`, as far as they concern a logical move).

use decoders::postgres::catalog::CatalogError;
use tokio_postgres::Client;

use super::Probe;

/// Outdated objects outside of tables.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Legacy {
    /// Users' postfix operators (removed in 14), as DROP OPERATOR names them.
    pub postfix_operators: Vec<String>,
    /// Users' aggregates and operators over the polymorphic array functions whose arguments
    /// changed in 14.
    pub old_polymorphics: Vec<String>,
    /// Users' functions in C outside of extensions: their library has to be on green's machine.
    pub c_functions: Vec<String>,
}

const POSTFIX_OPERATORS: &str = "
    SELECT pg_catalog.quote_ident(n.nspname) || '.' || o.oprname || ' ('
           || pg_catalog.format_type(o.oprleft, NULL) || ', NONE)'
    FROM pg_catalog.pg_operator o
    JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
    WHERE o.oprright = 0 AND o.oprleft <> 0 AND n.nspname !~ '^pg_'
      AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend x
                      WHERE x.classid = 'pg_catalog.pg_operator'::pg_catalog.regclass
                        AND x.objid = o.oid AND x.deptype = 'e')
    ORDER BY 1";

const OLD_POLYMORPHICS: &str = "
    WITH old(oid) AS (
        SELECT p.oid FROM pg_catalog.pg_proc p
        JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname = 'pg_catalog'
          AND p.proname IN ('array_append', 'array_cat', 'array_prepend', 'array_remove',
                            'array_replace', 'array_position', 'array_positions', 'width_bucket')
          AND ('anyarray'::pg_catalog.regtype = ANY (p.proargtypes::pg_catalog.oid[])))
    SELECT 'aggregate ' || a.aggfnoid::pg_catalog.regprocedure::text
    FROM pg_catalog.pg_aggregate a
    WHERE a.aggfnoid >= 16384 AND a.aggtransfn IN (SELECT oid FROM old)
      AND a.aggtranstype IN ('anyarray'::pg_catalog.regtype, 'anyelement'::pg_catalog.regtype)
    UNION ALL
    SELECT 'operator ' || o.oid::pg_catalog.regoperator::text
    FROM pg_catalog.pg_operator o WHERE o.oid >= 16384 AND o.oprcode IN (SELECT oid FROM old)
    ORDER BY 1";

const C_FUNCTIONS: &str = "
    SELECT p.oid::pg_catalog.regprocedure::text || ' in ' || coalesce(p.probin, '?')
    FROM pg_catalog.pg_proc p
    JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    JOIN pg_catalog.pg_language l ON l.oid = p.prolang
    WHERE l.lanname = 'c' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
      AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend x
                      WHERE x.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
                        AND x.objid = p.oid AND x.deptype = 'e')
    ORDER BY 1";

pub(super) async fn read(client: &Client, version_num: u32) -> Probe<Legacy> {
    let mut legacy = Legacy { c_functions: names(client, C_FUNCTIONS).await?, ..Legacy::default() };
    if version_num < 140_000 {
        legacy.postfix_operators = names(client, POSTFIX_OPERATORS).await?;
        legacy.old_polymorphics = names(client, OLD_POLYMORPHICS).await?;
    }
    Ok(legacy)
}

async fn names(client: &Client, sql: &str) -> Probe<Vec<String>> {
    let rows = client
        .query(sql, &[])
        .await
        .map_err(|error| CatalogError::query("objects that newer versions lack", error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
