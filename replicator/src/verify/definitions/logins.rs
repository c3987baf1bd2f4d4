//! Who can log in: roles, what they may do, what they belong to, and whether their passwords are the
//! same. No password and no verifier is ever shown.

use std::collections::{BTreeMap, BTreeSet};

use cutover::Side;
use cutover::api::Severity;
use cutover::verify::ObjectFinding;
use decoders::postgres::catalog::quote_ident;

use super::super::reader::{Reader, Trouble};
use super::settings;

/// So many names are in one finding.
const NAMED: usize = 10;
/// Begins what a fence writes into the comment of a role that it has closed.
const CLAIM: &str = "[cutover fence ";

/// A role of one side.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Role {
    /// Owns something here, was granted something here, or belongs to a role that did.
    is_of_database: bool,
    can_login: bool,
    /// SUPERUSER and the like.
    attributes: BTreeSet<String>,
    connections: i64,
    valid_until: Option<String>,
    /// Roles that it belongs to, and whether it may give that to others.
    member_of: BTreeMap<String, bool>,
    is_closed: bool,
    /// A digest of its verifier; for comparing only.
    verifier: Option<String>,
    /// The verifier depends on nothing but the password and the role's name.
    is_unsalted: bool,
}

/// Roles of a server.
#[derive(Debug, Default)]
pub(in super::super) struct Logins {
    roles: BTreeMap<String, Role>,
    /// Our own role, and the one that initdb made.
    own: BTreeSet<String>,
    verifiers_are_known: bool,
}

impl Logins {
    /// How many of them have to do with the database.
    pub fn count(&self) -> usize {
        self.roles.values().filter(|role| role.is_of_database).count()
    }
}

/// What is shared with this database: its owner, who owns something or was granted something in it,
/// whose settings are for it; and who belongs to them or whom they belong to.
const OF_DATABASE: &str = "
    WITH RECURSIVE db AS (SELECT oid, datdba, datacl FROM pg_database WHERE datname = current_database()),
    direct AS (
        SELECT d.refobjid AS oid FROM pg_shdepend d, db
        WHERE d.refclassid = 'pg_authid'::regclass
          AND (d.dbid = db.oid OR d.dbid = 0 AND d.classid = 'pg_database'::regclass AND d.objid = db.oid)
        UNION SELECT datdba FROM db
        UNION SELECT x.grantee FROM db CROSS JOIN LATERAL aclexplode(db.datacl) x
        UNION SELECT s.setrole FROM pg_db_role_setting s, db WHERE s.setdatabase = db.oid
    ),
    below AS (SELECT oid FROM direct UNION SELECT m.member FROM pg_auth_members m JOIN below b ON b.oid = m.roleid),
    above AS (SELECT oid FROM below UNION SELECT m.roleid FROM pg_auth_members m JOIN above a ON a.oid = m.member)
    SELECT r.rolname, r.oid IN (SELECT oid FROM above), r.rolcanlogin,
           concat_ws(', ', CASE WHEN r.rolsuper THEN 'SUPERUSER' END,
               CASE WHEN NOT r.rolinherit THEN 'NOINHERIT' END,
               CASE WHEN r.rolcreaterole THEN 'CREATEROLE' END,
               CASE WHEN r.rolcreatedb THEN 'CREATEDB' END,
               CASE WHEN r.rolreplication THEN 'REPLICATION' END,
               CASE WHEN r.rolbypassrls THEN 'BYPASSRLS' END),
           r.rolconnlimit, to_char(r.rolvaliduntil AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS'),
           shobj_description(r.oid, 'pg_authid'), r.oid = 10 OR r.rolname = session_user
    FROM pg_roles r WHERE r.rolname !~ '^pg_'";

pub(super) async fn read(reader: &Reader) -> Result<Logins, Trouble> {
    let mut found = Logins::default();
    for row in reader.rows(OF_DATABASE).await? {
        let [Some(name), of_database, login, Some(attributes), limit, until, comment, own] =
            row.as_slice()
        else {
            continue;
        };
        let is = |value: &Option<String>| value.as_deref() == Some("t");
        let attributes = attributes.split(", ").filter(|one| !one.is_empty()).map(str::to_owned);
        let role = Role {
            is_of_database: is(of_database),
            can_login: is(login),
            attributes: attributes.collect(),
            connections: reader.number(Some(limit))?,
            valid_until: until.clone(),
            is_closed: comment.as_ref().is_some_and(|text| text.contains(CLAIM)),
            ..Role::default()
        };
        if is(own) {
            found.own.insert(name.clone());
        }
        found.roles.insert(name.clone(), role);
    }
    let members = "SELECT pg_get_userbyid(member), pg_get_userbyid(roleid), bool_or(admin_option) \
                   FROM pg_auth_members GROUP BY member, roleid";
    for row in reader.rows(members).await? {
        let [Some(member), Some(group), admin] = row.as_slice() else { continue };
        if let Some(role) = found.roles.get_mut(member) {
            role.member_of.insert(group.clone(), admin.as_deref() == Some("t"));
        }
    }
    let may = "SELECT has_table_privilege('pg_authid', 'SELECT')";
    let may = reader.rows(may).await?.concat();
    found.verifiers_are_known = may.first().is_some_and(|may| may.as_deref() == Some("t"));
    if found.verifiers_are_known {
        let sql = "SELECT rolname, md5(rolpassword), rolpassword LIKE 'md5%' FROM pg_authid \
                   WHERE rolpassword IS NOT NULL";
        for row in reader.rows(sql).await? {
            let [Some(name), Some(verifier), is_unsalted] = row.as_slice() else { continue };
            if let Some(role) = found.roles.get_mut(name) {
                role.verifier = Some(verifier.clone());
                role.is_unsalted = is_unsalted.as_deref() == Some("t");
            }
        }
    }
    Ok(found)
}

/// What carries a verifier over without showing it.
fn carry(role: &str, [from, to]: [Side; 2]) -> String {
    let name = role.replace('\'', "''");
    format!(
        "psql -XAt {FROM} -c \"SELECT format('ALTER ROLE %I PASSWORD %L', rolname, rolpassword) \
         FROM pg_authid WHERE rolname = '{name}'\" | psql -X {TO} (or: pg_dumpall --roles-only)",
        FROM = from.name().to_uppercase(),
        TO = to.name().to_uppercase(),
    )
}

fn create(name: &str, role: &Role) -> String {
    let name = quote_ident(name);
    let mut sql = format!("CREATE ROLE {name}");
    if role.can_login {
        sql.push_str(" LOGIN");
    }
    for attribute in &role.attributes {
        sql.push_str(&format!(" {attribute}"));
    }
    if role.connections >= 0 {
        sql.push_str(&format!(" CONNECTION LIMIT {}", role.connections));
    }
    if let Some(until) = &role.valid_until {
        sql.push_str(&format!(" VALID UNTIL '{until} UTC'"));
    }
    for (group, admin) in &role.member_of {
        sql.push_str(&format!("; {}", grant(group, &name, *admin)));
    }
    sql
}

/// `member` is quoted.
fn grant(group: &str, member: &str, admin: bool) -> String {
    let with = if admin { " WITH ADMIN OPTION" } else { "" };
    format!("GRANT {} TO {member}{with}", quote_ident(group))
}

/// `sides`: source and target.
pub(in super::super) fn compare(
    [source, target]: [&Logins; 2],
    sides: [Side; 2],
) -> Vec<ObjectFinding> {
    let [from, to] = sides;
    let mut findings = Vec::new();
    let mut strangers = Vec::new();
    let knows_verifiers = source.verifiers_are_known && target.verifiers_are_known;
    let mut passwords = 0;
    let is_own = |name: &String| source.own.contains(name) || target.own.contains(name);
    for (name, here) in source.roles.iter().filter(|(name, _)| !is_own(name)) {
        let quoted = quote_ident(name);
        let mut find = |severity, kind: &str, object: String, what: String, fix: String| {
            let (kind, fix) = (kind.to_owned(), Some(fix));
            findings.push(ObjectFinding { severity, kind, object, what, fix });
        };
        let Some(there) = target.roles.get(name) else {
            if !here.is_of_database {
                if here.can_login {
                    strangers.push(quoted);
                }
                continue;
            }
            let mut fix = format!("on {to}: {}", create(name, here));
            if here.can_login {
                fix.push_str(&format!("; its password: {}", carry(name, sides)));
            }
            find(Severity::Fail, "role", quoted, format!("{to} does not have it"), fix);
            continue;
        };
        if !here.is_of_database {
            continue;
        }
        let alter = |what: &str| format!("on {to}: ALTER ROLE {quoted} {what}");
        if here.can_login != there.can_login && !here.is_closed && !there.is_closed {
            let [one, other] = [here, there].map(|role| if role.can_login { "yes" } else { "no" });
            let what = format!("can log in: {one} on {from}, {other} on {to}");
            let fix = alter(if here.can_login { "LOGIN" } else { "NOLOGIN" });
            find(Severity::Fail, "role", quoted.clone(), what, fix);
        }
        for attribute in here.attributes.symmetric_difference(&there.attributes) {
            let has = here.attributes.contains(attribute);
            let (side, other) = if has { (from, to) } else { (to, from) };
            let what = format!("{attribute} on {side}, not on {other}");
            let opposite = match attribute.strip_prefix("NO") {
                Some(rest) => rest.to_owned(),
                None => format!("NO{attribute}"),
            };
            let fix = alter(if has { attribute } else { &opposite });
            find(Severity::Fail, "role", quoted.clone(), what, fix);
        }
        if here.valid_until != there.valid_until {
            let until = |role: &Role| role.valid_until.clone().unwrap_or("for ever".into());
            let what = format!("valid until: {} on {from}, {} on {to}", until(here), until(there));
            let at = here.valid_until.as_ref().map_or("infinity".into(), |at| format!("{at} UTC"));
            find(
                Severity::Fail,
                "role",
                quoted.clone(),
                what,
                alter(&format!("VALID UNTIL '{at}'")),
            );
        }
        if here.connections != there.connections {
            let (one, other) = (here.connections, there.connections);
            let what = format!("connection limit: {one} on {from}, {other} on {to}");
            let severity = match here.can_login {
                true => settings::of_limits(one, other),
                false => Severity::Warn,
            };
            find(severity, "role", quoted.clone(), what, alter(&format!("CONNECTION LIMIT {one}")));
        }
        let groups: BTreeSet<_> = here.member_of.keys().chain(there.member_of.keys()).collect();
        for group in groups {
            let both = [here, there].map(|role| role.member_of.get(group));
            if both[0] == both[1] {
                continue;
            }
            let object = format!("of {quoted} in {}", quote_ident(group));
            let revoke = format!("on {to}: REVOKE {} FROM {quoted}", quote_ident(group));
            let (what, fix) = match both {
                [Some(admin), None] => (
                    format!("{to} does not have it"),
                    format!("on {to}: {}", grant(group, &quoted, *admin)),
                ),
                [None, _] => (format!("{from} does not have it"), revoke),
                [Some(true), _] => (
                    format!("with ADMIN OPTION on {from}, without on {to}"),
                    format!("on {to}: {}", grant(group, &quoted, true)),
                ),
                [Some(false), _] => (
                    format!("without ADMIN OPTION on {from}, with on {to}"),
                    format!(
                        "on {to}: REVOKE ADMIN OPTION FOR {} FROM {quoted}",
                        quote_ident(group)
                    ),
                ),
            };
            find(Severity::Fail, "membership", object, what, fix);
        }
        if !here.can_login {
            continue;
        }
        passwords += 1;
        if knows_verifiers && here.verifier != there.verifier {
            let is_known = here.is_unsalted && there.is_unsalted;
            let (severity, what) = match (&here.verifier, &there.verifier) {
                (Some(_), None) => (Severity::Fail, format!("{to} has none")),
                (None, Some(_)) => (Severity::Warn, format!("{from} has none")),
                _ if is_known => (Severity::Fail, format!("{to} has another one")),
                _ => (
                    Severity::Warn,
                    format!(
                        "stored in another form on {to}: nobody can tell whether it is the same"
                    ),
                ),
            };
            find(severity, "password", format!("of {quoted}"), what, carry(name, sides));
        }
    }
    if !strangers.is_empty() {
        let more = strangers.len().saturating_sub(NAMED);
        let named = strangers.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        findings.push(ObjectFinding {
            severity: Severity::Warn,
            kind: "role".into(),
            object: format!("{named}{more}"),
            what: format!("may log in on {from} with no right of their own here; {to} lacks them"),
            fix: Some(format!(
                "make them on {to} if they use this database: pg_dumpall --roles-only"
            )),
        });
    }
    if !knows_verifiers && passwords > 0 {
        findings.push(ObjectFinding {
            severity: Severity::Warn,
            kind: "password".into(),
            object: format!("of {passwords} logins"),
            what: "not compared: our role may not read pg_authid on both sides".into(),
            fix: Some(format!("log in on {to} as each of them once")),
        });
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDES: [Side; 2] = [Side::Blue, Side::Green];

    fn app() -> Role {
        Role {
            is_of_database: true,
            can_login: true,
            connections: -1,
            member_of: BTreeMap::from([("staff".to_owned(), false)]),
            verifier: Some("hunter2".into()),
            ..Role::default()
        }
    }

    fn logins(role: Option<Role>) -> Logins {
        let roles = role.into_iter().map(|role| ("app".to_owned(), role)).collect();
        Logins { roles, own: BTreeSet::new(), verifiers_are_known: true }
    }

    fn found(there: Option<Role>) -> Vec<(Severity, String, String)> {
        let found = compare([&logins(Some(app())), &logins(there)], SIDES);
        found.into_iter().map(|one| (one.severity, one.kind, one.fix.unwrap_or_default())).collect()
    }

    #[test]
    fn a_login_that_is_missing_comes_with_everything_but_its_password() {
        let found = found(None);
        assert_eq!((found.len(), found[0].0), (1, Severity::Fail));
        assert!(
            found[0].2.starts_with(r#"on green: CREATE ROLE "app" LOGIN; GRANT "staff" TO "app";"#)
        );
        assert!(found[0].2.contains("pg_dumpall --roles-only") && !found[0].2.contains("hunter2"));
    }

    #[test]
    fn what_a_login_may_do_is_compared_one_by_one() {
        assert_eq!(found(Some(app())), []);
        let alone = found(Some(Role { member_of: BTreeMap::new(), ..app() }));
        assert_eq!(alone[0].1, "membership");
        assert_eq!(alone[0].2, r#"on green: GRANT "staff" TO "app""#);
        let closed = found(Some(Role { can_login: false, ..app() }));
        assert_eq!(closed[0].2, r#"on green: ALTER ROLE "app" LOGIN"#);
        let by_fence = Role { can_login: false, is_closed: true, ..app() };
        assert_eq!(found(Some(by_fence)), []);
        let other = found(Some(Role { verifier: Some("two".into()), ..app() }));
        assert_eq!((other[0].0, other[0].1.as_str()), (Severity::Warn, "password"));
        let none = found(Some(Role { verifier: None, ..app() }));
        assert_eq!((none[0].0, none[0].1.as_str()), (Severity::Fail, "password"));
        assert!(!none[0].2.contains("hunter2"));
    }
}
