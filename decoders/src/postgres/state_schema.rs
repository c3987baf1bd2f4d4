//! Whether `_cutover` belongs to us alone on a PostgreSQL server.
//!
//! Lease, decision, progress and the marks of our own transactions are believed, and whatever hangs on their
//! tables runs with our rights. A role that may create a schema could make `_cutover` before us, with
//! triggers of its own or with rights that it keeps. So before anything there is read or written, everything
//! in it has to be ours (or a superuser's, who could do anything anyway), without rights of others and without
//! code of others. Nobody else can change that afterwards: it takes the owner.

use tokio_postgres::Client;

/// The schema that all our tables are in, on either side.
pub const STATE_SCHEMA: &str = "_cutover";

/// Takes the rights away that others have got by default privileges of our role (manual, ALTER DEFAULT
/// PRIVILEGES), on what is ours. Behind every creation, and behind a look for [`STRANGERS`]: rights that
/// somebody was granted on purpose are named, and not taken.
pub const REVOKE: &str = "DO $revoke$
DECLARE given record;
BEGIN
  FOR given IN
    SELECT 'SCHEMA _cutover' AS object, n.nspowner AS owner, a.grantee
    FROM pg_catalog.pg_namespace n, pg_catalog.aclexplode(n.nspacl) a WHERE n.nspname = '_cutover'
    UNION
    SELECT pg_catalog.format('%s _cutover.%I', CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
             c.relname), c.relowner, a.grantee
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace,
         pg_catalog.aclexplode(c.relacl) a
    WHERE n.nspname = '_cutover' AND c.relkind IN ('r', 'S')
  LOOP
    IF given.grantee <> given.owner AND pg_catalog.pg_has_role(given.owner, 'USAGE') THEN
      EXECUTE pg_catalog.format('REVOKE ALL ON %s FROM %s', given.object, CASE given.grantee
        WHEN 0 THEN 'PUBLIC'
        ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(given.grantee)) END);
    END IF;
  END LOOP;
END $revoke$";

/// What is in `_cutover` that is not ours alone; no row if there is nothing, or no such schema. One column,
/// `what`. Takes no parameter, so that it can be sent by the simple protocol too.
pub const STRANGERS: &str = "
WITH house AS (
  SELECT oid, nspowner, nspacl FROM pg_catalog.pg_namespace WHERE nspname = '_cutover'
), ours AS (
  SELECT oid FROM pg_catalog.pg_roles WHERE rolsuper OR rolname = current_user
), rel AS (
  SELECT c.oid, c.relname, c.relkind, c.relowner, c.relacl, c.relpersistence, c.relrowsecurity
  FROM pg_catalog.pg_class c JOIN house h ON c.relnamespace = h.oid
), granted(object, grantee) AS (
  SELECT 'schema _cutover', a.grantee FROM house h, pg_catalog.aclexplode(h.nspacl) a
  UNION ALL
  SELECT pg_catalog.format('_cutover.%I', r.relname), a.grantee
  FROM rel r, pg_catalog.aclexplode(r.relacl) a
  UNION ALL
  SELECT pg_catalog.format('_cutover.%I', r.relname), x.grantee
  FROM rel r JOIN pg_catalog.pg_attribute a ON a.attrelid = r.oid, pg_catalog.aclexplode(a.attacl) x
), coded(object, classid, objid) AS (
  SELECT r.relname, 'pg_catalog.pg_attrdef'::pg_catalog.regclass::oid, d.oid
  FROM rel r JOIN pg_catalog.pg_attrdef d ON d.adrelid = r.oid
  UNION ALL
  SELECT r.relname, 'pg_catalog.pg_constraint'::pg_catalog.regclass::oid, k.oid
  FROM rel r JOIN pg_catalog.pg_constraint k ON k.conrelid = r.oid
  UNION ALL
  SELECT r.relname, 'pg_catalog.pg_class'::pg_catalog.regclass::oid, r.oid FROM rel r WHERE r.relkind = 'i'
)
SELECT 'schema _cutover is owned by ' || pg_catalog.pg_get_userbyid(nspowner) AS what
FROM house WHERE nspowner NOT IN (SELECT oid FROM ours)
UNION ALL
SELECT pg_catalog.format('_cutover.%I is owned by %s', relname, pg_catalog.pg_get_userbyid(relowner))
FROM rel WHERE relkind <> 'i' AND relowner NOT IN (SELECT oid FROM ours)
UNION ALL
SELECT pg_catalog.format('_cutover.%I is no ordinary table', relname)
FROM rel WHERE relkind NOT IN ('r', 'i', 'S') OR relkind = 'r' AND relpersistence <> 'p'
UNION ALL
SELECT DISTINCT pg_catalog.format('%s has rights on %s', CASE g.grantee WHEN 0 THEN 'PUBLIC'
         ELSE pg_catalog.pg_get_userbyid(g.grantee)::text END, g.object)
FROM granted g WHERE g.grantee NOT IN (SELECT oid FROM ours)
UNION ALL
SELECT pg_catalog.format('_cutover.%I has the trigger %I', r.relname, t.tgname)
FROM rel r JOIN pg_catalog.pg_trigger t ON t.tgrelid = r.oid WHERE NOT t.tgisinternal
UNION ALL
SELECT pg_catalog.format('_cutover.%I has the rule %I', r.relname, w.rulename)
FROM rel r JOIN pg_catalog.pg_rewrite w ON w.ev_class = r.oid
UNION ALL
SELECT pg_catalog.format('_cutover.%I has row security', relname) FROM rel WHERE relrowsecurity
UNION ALL
SELECT pg_catalog.format('_cutover.%I inherits, or is inherited', r.relname)
FROM rel r WHERE EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid = r.oid)
  OR EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhparent = r.oid)
UNION ALL
SELECT pg_catalog.format('_cutover.%I has the column %I of a type of others', r.relname, a.attname)
FROM rel r JOIN pg_catalog.pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
WHERE t.typnamespace <> 'pg_catalog'::pg_catalog.regnamespace
UNION ALL
SELECT DISTINCT pg_catalog.format('_cutover.%I has a default, constraint or index with code of others', k.object)
FROM coded k JOIN pg_catalog.pg_depend d ON d.classid = k.classid AND d.objid = k.objid
WHERE d.refclassid IN ('pg_catalog.pg_proc'::pg_catalog.regclass,
  'pg_catalog.pg_operator'::pg_catalog.regclass, 'pg_catalog.pg_opclass'::pg_catalog.regclass)
UNION ALL
SELECT pg_catalog.format('the function _cutover.%I is owned by %s', p.proname,
  pg_catalog.pg_get_userbyid(p.proowner))
FROM house h JOIN pg_catalog.pg_proc p ON p.pronamespace = h.oid
WHERE p.proowner NOT IN (SELECT oid FROM ours)
LIMIT 5";

/// What a person does about it.
pub const REMEDY: &str = "Find out who made it and why. If nothing in _cutover is from an earlier run of this \
     pipeline: DROP SCHEMA _cutover CASCADE, as its owner or a superuser. If it is, and only our role was \
     changed: ALTER SCHEMA and ALTER TABLE .. OWNER TO the role that replicator uses, and REVOKE what others have";

/// What [`STRANGERS`] found, in one sentence; `None` if everything is ours.
pub fn foreign(found: &[String]) -> Option<String> {
    (!found.is_empty()).then(|| {
        format!(
            "the schema _cutover is not ours alone, so nothing in it is believed or written: {}",
            found.join("; ")
        )
    })
}

/// Asks the server what in `_cutover` is not ours alone: see [`foreign`].
///
/// # Errors
/// The server's.
pub async fn strangers(client: &Client) -> Result<Vec<String>, tokio_postgres::Error> {
    let rows = client.query(STRANGERS, &[]).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}
