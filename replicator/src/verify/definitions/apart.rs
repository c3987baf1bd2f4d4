//! Objects that belong to no table and hold no code: schemas, collations, casts, operators and their
//! classes, text search, extended statistics, languages, foreign data.
//!
//! Looked at only when all of a database is compared. What an extension brings comes with it, and what
//! the server itself brings has an OID below [`FIRST_OF_USERS`].

use cutover::verify::objects::{Described, Rigor};

use super::super::reader::{Reader, Trouble};
use super::property;
use super::shape::{properties, qualified, quoted};

/// `FirstNormalObjectId` of `access/transam.h`.
const FIRST_OF_USERS: u32 = 16_384;
/// The first version with collations that are not deterministic.
const NONDETERMINISTIC: u32 = 120_000;
/// The first version that keeps ICU's locale apart, and the first that keeps every provider's there.
const ICU_LOCALE: u32 = 150_000;
const ANY_LOCALE: u32 = 170_000;

/// How objects of one kind are read. The query gives the name, the values of `exact`, those of `text`, and the
/// statement that makes the object, or NULL where it is too long to be printed.
struct Query {
    kind: &'static str,
    exact: &'static [&'static str],
    text: &'static [&'static str],
    /// `DROP` and what it takes before the name.
    drop: &'static str,
    sql: String,
}

/// All of them.
pub(super) async fn read(reader: &Reader, objects: &mut Vec<Described>) -> Result<(), Trouble> {
    let version = reader.session().server_version();
    let mut queries =
        vec![schemas(), collations(version), casts(), operators(), operator_classes()];
    queries.extend([configurations(), dictionaries(), statistics(), languages()]);
    queries.extend([wrappers(), servers(), user_mappings(), foreign_tables()]);
    for query in queries {
        for row in reader.rows(&query.sql).await? {
            let [Some(name), rest @ .., make] = row.as_slice() else { continue };
            let mut all = properties(rest, query.exact);
            for (name, value) in query.text.iter().zip(rest.iter().skip(query.exact.len())) {
                all.push(property(name, value.as_deref().unwrap_or("none"), Rigor::Text));
            }
            let mut object =
                Described::new(query.kind, name, all).unmade_by(format!("{} {name}", query.drop));
            if let Some(make) = make {
                object = object.made_by(make);
            }
            objects.push(object);
        }
    }
    Ok(())
}

/// Whether the row of `catalog` is a user's, and no extension's.
fn of_users(catalog: &str, oid: &str) -> String {
    format!(
        "{oid} >= {FIRST_OF_USERS} AND NOT EXISTS (SELECT FROM pg_depend e \
             WHERE e.classid = '{catalog}'::regclass AND e.objid = {oid} AND e.deptype = 'e')"
    )
}

/// The same, for objects in schemas: ours and the server's are left out.
fn in_schemas(catalog: &str, oid: &str) -> String {
    format!(
        "n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', '_cutover') AND {}",
        of_users(catalog, oid)
    )
}

fn schemas() -> Query {
    let name = quoted("n.nspname");
    // `public` is the server's own.
    let sql = format!(
        "SELECT {name}, 'CREATE SCHEMA ' || {name} FROM pg_namespace n WHERE {}",
        in_schemas("pg_namespace", "n.oid")
    );
    Query { kind: "schema", exact: &[], text: &[], drop: "DROP SCHEMA", sql }
}

fn collations(version: u32) -> Query {
    let locale = match version {
        ANY_LOCALE.. => "coalesce(l.colllocale, l.collcollate)",
        ICU_LOCALE.. => "coalesce(l.colliculocale, l.collcollate)",
        _ => "l.collcollate",
    };
    let deterministic = match version >= NONDETERMINISTIC {
        true => "l.collisdeterministic",
        false => "true",
    };
    let provider = "CASE l.collprovider WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' \
                         WHEN 'd' THEN 'default' ELSE 'libc' END";
    // Servers write ICU's locales in more than one way: those are compared as text.
    let sql = format!(
        "SELECT {name}, {provider}, {deterministic}, {locale}, \
                'CREATE COLLATION ' || {name} || ' (provider = ' || {provider} || ', locale = ' \
                || quote_literal({locale}) \
                || CASE WHEN {deterministic} THEN '' ELSE ', deterministic = false' END || ')' \
         FROM pg_collation l JOIN pg_namespace n ON n.oid = l.collnamespace \
         WHERE l.collencoding IN (-1, (SELECT encoding FROM pg_database \
                                       WHERE datname = current_database())) AND {}",
        in_schemas("pg_collation", "l.oid"),
        name = qualified("n.nspname", "l.collname"),
    );
    let exact = &["provider", "deterministic"];
    Query { kind: "collation", exact, text: &["locale"], drop: "DROP COLLATION", sql }
}

fn casts() -> Query {
    let function = "CASE WHEN k.castfunc <> 0 THEN k.castfunc::regprocedure::text END";
    let name = "'(' || format_type(k.castsource, NULL) || ' AS ' || format_type(k.casttarget, NULL) || ')'";
    let sql = format!(
        "SELECT {name}, CASE k.castmethod WHEN 'i' THEN 'in and out' WHEN 'b' THEN 'binary' \
                             ELSE 'function' END, \
                CASE k.castcontext WHEN 'i' THEN 'implicit' WHEN 'a' THEN 'assignment' \
                     ELSE 'explicit' END, {function}, \
                'CREATE CAST ' || {name} || CASE k.castmethod WHEN 'i' THEN ' WITH INOUT' \
                     WHEN 'b' THEN ' WITHOUT FUNCTION' ELSE ' WITH FUNCTION ' || {function} END \
                || CASE k.castcontext WHEN 'i' THEN ' AS IMPLICIT' WHEN 'a' THEN ' AS ASSIGNMENT' \
                        ELSE '' END \
         FROM pg_cast k WHERE {}",
        of_users("pg_cast", "k.oid")
    );
    Query { kind: "cast", exact: &["by", "used", "function"], text: &[], drop: "DROP CAST", sql }
}

fn operators() -> Query {
    let side =
        |of: &str| format!("CASE WHEN {of} = 0 THEN 'NONE' ELSE format_type({of}, NULL) END");
    let other = |of: &str| format!("CASE WHEN {of} <> 0 THEN {of}::regoperator::text END");
    let estimator = |of: &str| format!("CASE WHEN {of}::oid <> 0 THEN {of}::text END");
    let named = format!("{} || '.' || o.oprname", quoted("n.nspname"));
    let (left, right) = (side("o.oprleft"), side("o.oprright"));
    let (restrict, join) = (estimator("o.oprrest"), estimator("o.oprjoin"));
    // Those that are only named by another one have no function.
    let sql = format!(
        "SELECT {named} || ' (' || {left} || ', ' || {right} || ')', \
                o.oprcode::oid::regprocedure::text, {commutator}, {negator}, {restrict}, {join}, \
                o.oprcanhash, o.oprcanmerge, \
                'CREATE OPERATOR ' || {named} || ' (PROCEDURE = ' || o.oprcode::text \
                || CASE WHEN o.oprleft = 0 THEN '' ELSE ', LEFTARG = ' || {left} END \
                || CASE WHEN o.oprright = 0 THEN '' ELSE ', RIGHTARG = ' || {right} END \
                || coalesce(', RESTRICT = ' || {restrict}, '') || coalesce(', JOIN = ' || {join}, '') \
                || CASE WHEN o.oprcanhash THEN ', HASHES' ELSE '' END \
                || CASE WHEN o.oprcanmerge THEN ', MERGES' ELSE '' END || ')' \
         FROM pg_operator o JOIN pg_namespace n ON n.oid = o.oprnamespace \
         WHERE o.oprcode <> 0 AND {}",
        in_schemas("pg_operator", "o.oid"),
        commutator = other("o.oprcom"),
        negator = other("o.oprnegate"),
    );
    let exact =
        &["function", "commutator", "negator", "estimate", "estimate of joins", "hashes", "merges"];
    Query { kind: "operator", exact, text: &[], drop: "DROP OPERATOR", sql }
}

fn operator_classes() -> Query {
    let sql = format!(
        "SELECT {} || ' USING ' || m.amname, format_type(o.opcintype, NULL), o.opcdefault, \
                (SELECT string_agg(p.amopstrategy || ' ' || p.amopopr::regoperator::text, ', ' \
                                   ORDER BY p.amopstrategy, p.amopopr::regoperator::text COLLATE \"C\") \
                 FROM pg_amop p WHERE p.amopfamily = o.opcfamily \
                   AND p.amoplefttype = o.opcintype AND p.amoprighttype = o.opcintype), \
                NULL \
         FROM pg_opclass o JOIN pg_namespace n ON n.oid = o.opcnamespace \
         JOIN pg_am m ON m.oid = o.opcmethod WHERE {}",
        qualified("n.nspname", "o.opcname"),
        in_schemas("pg_opclass", "o.oid"),
    );
    let exact = &["type", "default", "operators"];
    Query { kind: "operator class", exact, text: &[], drop: "DROP OPERATOR CLASS", sql }
}

fn configurations() -> Query {
    let name = qualified("n.nspname", "g.cfgname");
    let mappings = "SELECT t.tokid, t.alias, \
                           string_agg(m.mapdict::regdictionary::text, ', ' ORDER BY m.mapseqno) AS dictionaries \
                    FROM pg_ts_config_map m JOIN ts_token_type(g.cfgparser) t ON t.tokid = m.maptokentype \
                    WHERE m.mapcfg = g.oid GROUP BY 1, 2";
    let parser = "(SELECT quote_ident(pn.nspname) || '.' || quote_ident(p.prsname) \
                   FROM pg_ts_parser p JOIN pg_namespace pn ON pn.oid = p.prsnamespace \
                   WHERE p.oid = g.cfgparser)";
    let sql = format!(
        "SELECT {name}, {parser}, \
                (SELECT string_agg(w.alias || ' by ' || w.dictionaries, '; ' ORDER BY w.tokid) \
                 FROM ({mappings}) w), \
                'CREATE TEXT SEARCH CONFIGURATION ' || {name} || ' (PARSER = ' || {parser} || ')' \
                || coalesce((SELECT string_agg('; ALTER TEXT SEARCH CONFIGURATION ' || {name} \
                                 || ' ADD MAPPING FOR ' || quote_ident(w.alias) || ' WITH ' \
                                 || w.dictionaries, '' ORDER BY w.tokid) FROM ({mappings}) w), '') \
         FROM pg_ts_config g JOIN pg_namespace n ON n.oid = g.cfgnamespace WHERE {}",
        in_schemas("pg_ts_config", "g.oid")
    );
    let (exact, drop) = (&["parser", "mappings"], "DROP TEXT SEARCH CONFIGURATION");
    Query { kind: "text search configuration", exact, text: &[], drop, sql }
}

fn dictionaries() -> Query {
    let name = qualified("n.nspname", "d.dictname");
    let template = "(SELECT quote_ident(tn.nspname) || '.' || quote_ident(t.tmplname) \
                     FROM pg_ts_template t JOIN pg_namespace tn ON tn.oid = t.tmplnamespace \
                     WHERE t.oid = d.dicttemplate)";
    let sql = format!(
        "SELECT {name}, {template}, d.dictinitoption, \
                'CREATE TEXT SEARCH DICTIONARY ' || {name} || ' (TEMPLATE = ' || {template} \
                || coalesce(', ' || d.dictinitoption, '') || ')' \
         FROM pg_ts_dict d JOIN pg_namespace n ON n.oid = d.dictnamespace WHERE {}",
        in_schemas("pg_ts_dict", "d.oid")
    );
    let (exact, drop) = (&["template", "options"], "DROP TEXT SEARCH DICTIONARY");
    Query { kind: "text search dictionary", exact, text: &[], drop, sql }
}

fn statistics() -> Query {
    // What pg_get_statisticsobjdef leaves out as usual depends on the version.
    let sql = format!(
        "SELECT {}, pg_get_statisticsobjdef(s.oid), pg_get_statisticsobjdef(s.oid) \
         FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE {}",
        qualified("n.nspname", "s.stxname"),
        in_schemas("pg_statistic_ext", "s.oid")
    );
    Query { kind: "statistics", exact: &[], text: &["definition"], drop: "DROP STATISTICS", sql }
}

fn languages() -> Query {
    let name = quoted("l.lanname");
    let sql = format!(
        "SELECT {name}, l.lanpltrusted, NULL FROM pg_language l WHERE l.lanispl AND {}",
        of_users("pg_language", "l.oid")
    );
    Query { kind: "language", exact: &["trusted"], text: &[], drop: "DROP LANGUAGE", sql }
}

/// Options may hold a secret: only whether they are the same is told.
fn secret(options: &str) -> String {
    format!("CASE WHEN {options} IS NULL THEN 'none' ELSE 'md5 ' || md5({options}::text) END")
}

fn wrappers() -> Query {
    let sql = format!(
        "SELECT {}, CASE WHEN w.fdwhandler <> 0 THEN w.fdwhandler::regproc::text END, {}, NULL \
         FROM pg_foreign_data_wrapper w WHERE {}",
        quoted("w.fdwname"),
        secret("w.fdwoptions"),
        of_users("pg_foreign_data_wrapper", "w.oid"),
    );
    let (exact, drop) = (&["handler", "options"], "DROP FOREIGN DATA WRAPPER");
    Query { kind: "foreign data wrapper", exact, text: &[], drop, sql }
}

fn servers() -> Query {
    let sql = format!(
        "SELECT {}, {}, s.srvtype, s.srvversion, {}, NULL FROM pg_foreign_server s \
         JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw WHERE {}",
        quoted("s.srvname"),
        quoted("w.fdwname"),
        secret("s.srvoptions"),
        of_users("pg_foreign_server", "s.oid"),
    );
    let exact = &["wrapper", "type", "version", "options"];
    Query { kind: "foreign server", exact, text: &[], drop: "DROP SERVER", sql }
}

/// Their options can be read by few, and hold passwords: only that they are there is compared.
fn user_mappings() -> Query {
    let name = format!(
        "'FOR ' || CASE WHEN u.umuser = 0 THEN 'PUBLIC' ELSE {} END || ' SERVER ' || {}",
        quoted("pg_get_userbyid(u.umuser)"),
        quoted("u.srvname")
    );
    let sql = format!("SELECT {name}, NULL FROM pg_user_mappings u");
    Query { kind: "user mapping", exact: &[], text: &[], drop: "DROP USER MAPPING", sql }
}

fn foreign_tables() -> Query {
    let sql = format!(
        "SELECT {}, {}, {}, \
                (SELECT string_agg({column} || ' ' || format_type(a.atttypid, a.atttypmod), ', ' \
                                   ORDER BY a.attnum) \
                 FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), \
                NULL \
         FROM pg_foreign_table f JOIN pg_class c ON c.oid = f.ftrelid \
         JOIN pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_foreign_server s ON s.oid = f.ftserver WHERE {}",
        qualified("n.nspname", "c.relname"),
        quoted("s.srvname"),
        secret("f.ftoptions"),
        in_schemas("pg_class", "c.oid"),
        column = quoted("a.attname"),
    );
    let exact = &["server", "options", "columns"];
    Query { kind: "foreign table", exact, text: &[], drop: "DROP FOREIGN TABLE", sql }
}
