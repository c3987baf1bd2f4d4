//! Two databases' schemas as lists of facts that every version prints the same.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use tests::postgres::{Postgres, rows};

const USER_SCHEMA: &str =
    "n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', '_cutover')";

fn queries(major: u32) -> Vec<(&'static str, String)> {
    let generated = if major >= 12 { "a.attgenerated::text" } else { "''::text" };
    vec![
        ("relation", format!(
            "SELECT n.nspname, c.relname, c.relkind::text, pg_get_userbyid(c.relowner), c.relispartition::text,
                    pg_get_expr(c.relpartbound, c.oid), c.relrowsecurity::text, c.relforcerowsecurity::text,
                    c.relreplident::text, c.reloptions::text, c.relispopulated::text
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {USER_SCHEMA}")),
        ("column", format!(
            "SELECT n.nspname, c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull::text,
                    a.attidentity::text, {generated}, pg_get_expr(d.adbin, d.adrelid),
                    a.attstorage::text, (SELECT collname FROM pg_collation WHERE oid = a.attcollation),
                    (SELECT string_agg(o, ',') FROM unnest(a.attoptions) o WHERE o !~ 'pg_attver')
             FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
             JOIN pg_namespace n ON n.oid = c.relnamespace
             LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
             WHERE {USER_SCHEMA} AND a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'v', 'm')")),
        ("constraint", format!(
            "SELECT n.nspname, k.conrelid::regclass::text, k.contypid::regtype::text, k.conname, k.contype::text,
                    k.condeferrable::text, k.condeferred::text, k.convalidated::text, pg_get_constraintdef(k.oid)
             FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace
             WHERE {USER_SCHEMA} AND k.contype <> 'n'")),
        ("index", format!(
            "SELECT pg_get_indexdef(i.indexrelid), i.indisvalid::text, i.indisready::text, i.indisunique::text,
                    i.indisprimary::text, i.indisclustered::text, i.indisreplident::text, i.indimmediate::text
             FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE {USER_SCHEMA}")),
        ("inheritance", "SELECT inhrelid::regclass::text, inhparent::regclass::text, inhseqno::text FROM pg_inherits".into()),
        ("trigger", "SELECT replace(pg_get_triggerdef(oid), 'PROCEDURE', 'FUNCTION'), tgenabled::text FROM pg_trigger WHERE NOT tgisinternal".into()),
        ("rule", format!(
            "SELECT n.nspname, c.relname, r.rulename, r.ev_type::text, r.ev_enabled::text FROM pg_rewrite r
             JOIN pg_class c ON c.oid = r.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {USER_SCHEMA}")),
        ("policy", "SELECT schemaname, tablename, policyname, roles::text, cmd, qual FROM pg_policies".into()),
        ("function", format!(
            "SELECT p.oid::regprocedure::text, md5(p.prosrc), p.provolatile::text, p.proacl::text FROM pg_proc p
             JOIN pg_namespace n ON n.oid = p.pronamespace WHERE {USER_SCHEMA}
             AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')
             AND p.proname !~ 'multirange'")),
        ("extension", "SELECT extname, extnamespace::regnamespace::text FROM pg_extension".into()),
        ("comment", "SELECT pg_describe_object(classoid, objoid, 0), objsubid::text, description FROM pg_description
                     WHERE objoid >= 16384".into()),
        ("grant", format!(
            "SELECT n.nspname, c.relname, pg_get_userbyid(g.grantee), g.privilege_type, g.is_grantable::text
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(c.relacl) g
             WHERE {USER_SCHEMA} AND g.grantee <> c.relowner")),
        ("column grant", "SELECT attrelid::regclass::text, attname, attacl::text FROM pg_attribute
                          WHERE attacl IS NOT NULL AND attrelid >= 16384".into()),
        ("default grant", "SELECT pg_get_userbyid(defaclrole), defaclobjtype::text, defaclacl::text FROM pg_default_acl".into()),
        ("statistics", "SELECT stxname, stxkind::text, stxkeys::text FROM pg_statistic_ext".into()),
        ("event trigger", "SELECT evtname, evtevent, evtenabled::text FROM pg_event_trigger".into()),
        ("enum", "SELECT enumtypid::regtype::text, enumlabel FROM pg_enum".into()),
        ("sequence", "SELECT seqrelid::regclass::text, seqtypid::regtype::text, seqstart::text, seqincrement::text FROM pg_sequence".into()),
    ]
}

async fn facts(server: &Postgres, database: &str) -> Result<BTreeSet<String>> {
    let client = server.connect(database).await?;
    client.batch_execute("SET search_path = ''").await?;
    let mut facts = BTreeSet::new();
    for (kind, sql) in queries(server.major()) {
        // The catalog's own names need no path.
        for row in rows(&client, &sql).await? {
            let cells: Vec<String> = row.into_iter().map(Option::unwrap_or_default).collect();
            facts.insert(format!("{kind}: {}", cells.join(" | ")));
        }
    }
    Ok(facts)
}

/// Fails with every difference. Facts that only a newer version can have are left out.
pub async fn ensure_equal(blue: &Postgres, green: &Postgres, database: &str) -> Result<()> {
    let (on_blue, on_green) = tokio::try_join!(facts(blue, database), facts(green, database))?;
    let made_by_version = |fact: &&String| {
        // Ranges have multiranges since 14; identity sequences and the rest are the same.
        !fact.contains("multirange")
    };
    let lost: Vec<_> = on_blue.difference(&on_green).filter(made_by_version).collect();
    let gained: Vec<_> = on_green.difference(&on_blue).filter(made_by_version).collect();
    if !lost.is_empty() || !gained.is_empty() {
        bail!("only on blue: {lost:#?}\nonly on green: {gained:#?}");
    }
    Ok(())
}
