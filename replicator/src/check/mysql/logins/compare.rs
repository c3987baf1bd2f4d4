//! The accounts of two servers compared: who gets in on the source and would be refused on the target.

use super::read::{Login, Logins, Name, account_text};

/// The administrator of a server, whose password is often its own where only the host itself gets in.
const ADMINISTRATOR: &str = "root";
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// How an account authenticates where one password has many hashes.
const SALTED: [&str; 3] = ["caching_sha2_password", "sha256_password", "parsec"];
const LIMITS: [&str; 4] = [
    "MAX_QUERIES_PER_HOUR",
    "MAX_UPDATES_PER_HOUR",
    "MAX_CONNECTIONS_PER_HOUR",
    "MAX_USER_CONNECTIONS",
];

/// An account that is not the same on both sides.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// As statements name it.
    pub account: String,
    /// What differs; never a secret.
    pub what: String,
    /// A client that the source lets in, or a statement that it takes, would be refused on the target.
    pub refuses: bool,
    /// What makes the target equal.
    pub statements: Vec<String>,
    /// The secret has to be carried: its statement is not shown here.
    pub by_secret: bool,
}

/// What differs, by account. `database`: only of accounts that have to do with it.
pub fn compare(source: &Logins, target: &Logins, database: Option<&str>) -> Vec<Difference> {
    let mut found = Vec::new();
    // What only asks whether the server is there logs in without any right. One without a name is made by
    // an installation, for the server's own host.
    let asks_only = |(name, host): &Name, login: &Login, of: &Logins| {
        let is_of_host = LOCAL.contains(&host.as_str()) || host.eq_ignore_ascii_case(&of.host);
        login.grants.rights.is_empty() && !login.is_role && !(name.is_empty() && is_of_host)
    };
    let concerned = source.all.iter();
    let concerned = concerned
        .filter(|(name, login)| login.concerns(database) || asks_only(name, login, source));
    for (name, login) in concerned {
        // Another one's eyes: on the target it may be ours.
        if *name == target.ours {
            continue;
        }
        match target.all.get(name) {
            None => found.push(missing(name, login, source)),
            Some(other) => {
                let differs = differences(name, [login, other], [source, target], database);
                found.extend(differs);
            }
        }
    }
    let only_there = target.all.iter().filter(|(name, login)| {
        !source.all.contains_key(*name)
            && **name != source.ours
            && (login.concerns(database) || asks_only(name, login, target))
    });
    found.extend(only_there.map(|(name, login)| extra(name, login, [source, target])));
    found
}

fn missing(name: &Name, login: &Login, source: &Logins) -> Difference {
    let account = account_text(name, login.is_role);
    let mut statements: Vec<String> = Vec::new();
    // A role has no secret.
    if login.is_role {
        statements.push(format!("CREATE ROLE {account}"));
    }
    statements.extend(login.grants.rights.values().cloned());
    statements.dedup();
    let of_its_host = !name.1.is_empty() && name.1.eq_ignore_ascii_case(&source.host);
    let of_its_host = of_its_host || is_local_administrator(name, source);
    Difference {
        account,
        what: "is missing".to_owned(),
        refuses: !of_its_host && (login.is_role || !login.locked),
        statements,
        by_secret: !login.is_role,
    }
}

fn is_local_administrator((name, host): &Name, server: &Logins) -> bool {
    name == ADMINISTRATOR
        && (LOCAL.contains(&host.as_str()) || host.eq_ignore_ascii_case(&server.host))
}

/// One that the target alone has: it lets somebody in, or takes another one's clients.
fn extra(name: &Name, login: &Login, [source, target]: [&Logins; 2]) -> Difference {
    if login.is_role {
        let account = account_text(name, true);
        return Difference {
            what: "is a role that is there only".to_owned(),
            refuses: false,
            statements: vec![format!("DROP ROLE {account}")],
            by_secret: false,
            account,
        };
    }
    let account = account_text(name, false);
    // The server takes the account with the narrower host, and one without a name before others.
    let takes_clients = name.0.is_empty()
        || source.all.keys().any(|(other, host)| *other == name.0 && *host != name.1);
    let of_its_host = name.1.eq_ignore_ascii_case(&target.host) || LOCAL.contains(&name.1.as_str());
    let (what, statement) = match takes_clients {
        true => (
            "is there only, and is taken for clients of another account by their host",
            format!("DROP USER {account}"),
        ),
        false if login.locked => ("is there only, and locked", format!("DROP USER {account}")),
        false => ("is there only", format!("ALTER USER {account} ACCOUNT LOCK")),
    };
    Difference {
        what: what.to_owned(),
        refuses: takes_clients && !of_its_host,
        statements: vec![statement],
        by_secret: false,
        account,
    }
}

fn differences(
    name: &Name,
    [here, there]: [&Login; 2],
    [source, target]: [&Logins; 2],
    database: Option<&str>,
) -> Vec<Difference> {
    let account = account_text(name, here.is_role);
    let may_differ = is_local_administrator(name, source);
    let difference = |what: String, refuses: bool, statements: Vec<String>| Difference {
        account: account.clone(),
        what,
        refuses: refuses && !may_differ,
        statements,
        by_secret: false,
    };
    let carried = |what: &str, refuses: bool| Difference {
        by_secret: true,
        ..difference(what.to_owned(), refuses, Vec::new())
    };
    let mut found = Vec::new();
    if here.is_role != there.is_role {
        found.push(difference("is a role on one side only".to_owned(), true, Vec::new()));
        return found;
    }
    let alter = |how: String| vec![format!("ALTER USER {account} {how}")];
    match (here.locked, there.locked) {
        (false, true) => {
            found.push(difference("is locked".into(), true, alter("ACCOUNT UNLOCK".into())));
        }
        (true, false) => {
            found.push(difference("is not locked".into(), false, alter("ACCOUNT LOCK".into())));
        }
        _ => {}
    }
    if here.plugin != there.plugin {
        let what = format!("authenticates by {}, and not by {}", there.plugin, here.plugin);
        found.push(Difference { by_secret: true, ..difference(what, false, Vec::new()) });
    } else if here.secret != there.secret {
        found.push(match SALTED.contains(&here.plugin.as_str()) {
            true => carried("has a password that may be another one: it has another salt", false),
            false => carried("has another password", true),
        });
    }
    if there.expired != here.expired {
        let what =
            if there.expired { "has an expired password" } else { "has no expired password" };
        found.push(carried(what, there.expired));
    }
    if here.tls != there.tls {
        let what = match (here.tls.is_empty(), there.tls.is_empty()) {
            (true, _) => format!("requires TLS ({})", kind_of_tls(&there.tls)),
            (false, true) => "requires no TLS".to_owned(),
            (false, false) => "requires TLS in another way".to_owned(),
        };
        let statements = match here.tls.is_empty() {
            true => alter("REQUIRE NONE".into()),
            false => Vec::new(),
        };
        found.push(Difference {
            by_secret: statements.is_empty(),
            ..difference(what, !there.tls.is_empty(), statements)
        });
    }
    if here.limits != there.limits {
        let is_lower = |(here, there): (&u64, &u64)| *there > 0 && (*here == 0 || there < here);
        let lower = here.limits.iter().zip(&there.limits).any(is_lower);
        let set = LIMITS.iter().zip(here.limits).map(|(limit, most)| format!("{limit} {most}"));
        let set = set.collect::<Vec<_>>().join(" ");
        found.push(difference("has other limits".into(), lower, alter(format!("WITH {set}"))));
    }
    if here.default_roles != there.default_roles {
        let what = "begins with other roles".to_owned();
        found.push(difference(what, true, default_roles(&account, here, target.is_mariadb)));
    }
    if here.passwords != there.passwords || here.attributes != there.attributes {
        found.push(carried("has other attributes or rules for passwords", false));
    }
    found.extend(
        rights(&account, [here, there], target, database)
            .map(|(what, refuses, statements)| difference(what, refuses, statements)),
    );
    found
}

/// `ANY`, `X509` or `SPECIFIED`, without what is specified.
fn kind_of_tls(text: &str) -> &str {
    text.split(' ').next().unwrap_or(text)
}

fn default_roles(account: &str, here: &Login, is_mariadb: bool) -> Vec<String> {
    let quote = |role: &str| match role.rsplit_once('@') {
        Some((name, host)) if !is_mariadb => {
            account_text(&(name.to_owned(), host.to_owned()), false)
        }
        _ => account_text(&(role.to_owned(), String::new()), true),
    };
    let roles: Vec<String> =
        here.default_roles.split(',').filter(|role| !role.is_empty()).map(quote).collect();
    let roles = if roles.is_empty() { "NONE".to_owned() } else { roles.join(", ") };
    let word = if is_mariadb { "FOR" } else { "TO" };
    vec![format!("SET DEFAULT ROLE {roles} {word} {account}")]
}

/// Rights that the target's account lacks or has in addition, with the statements.
fn rights(
    account: &str,
    [here, there]: [&Login; 2],
    target: &Logins,
    database: Option<&str>,
) -> impl Iterator<Item = (String, bool, Vec<String>)> {
    let concerned =
        |right: &super::rights::Right| database.is_none_or(|database| right.reaches(database));
    let is_known = |right: &super::rights::Right| {
        let name = right.name();
        right.is_role() || name.starts_with("ALL") || target.known_rights.contains(name)
    };
    let lacking = here.grants.rights.iter().filter(|(right, _)| concerned(right));
    let lacking: Vec<_> = lacking.filter(|(right, _)| !there.has(right)).collect();
    let (known, unknown): (Vec<_>, Vec<_>) =
        lacking.into_iter().partition(|(right, _)| is_known(right));
    let more: Vec<_> = (there.grants.rights.iter())
        .filter(|(right, _)| concerned(right) && !here.has(right))
        .map(|(right, _)| right)
        .collect();
    // Rights of another level, such as those on a column under one on its database: they end with the wider one.
    let at_its_level = |right: &super::rights::Right| {
        there.grants.rights.keys().any(|other| other.on == right.on && other.covers(right))
    };
    let implied: Vec<_> = (here.grants.rights.iter())
        .filter(|(right, _)| concerned(right) && there.has(right) && !at_its_level(right))
        .collect();
    let named = |rights: Vec<String>| rights.join(", ");
    let mut found = Vec::new();
    if !implied.is_empty() {
        let texts = implied.iter().map(|(right, _)| right.text()).collect();
        let mut statements: Vec<String> =
            implied.iter().map(|(_, statement)| (*statement).clone()).collect();
        statements.dedup();
        found.push((format!("has by a wider right only: {}", named(texts)), false, statements));
    }
    if !known.is_empty() {
        let mut statements: Vec<String> =
            known.iter().map(|(_, statement)| (*statement).clone()).collect();
        statements.dedup();
        let texts = known.iter().map(|(right, _)| right.text()).collect();
        found.push((format!("lacks {}", named(texts)), true, statements));
    }
    if !unknown.is_empty() {
        let texts = unknown.iter().map(|(right, _)| right.text()).collect();
        found.push((
            format!("lacks what that server does not know: {}", named(texts)),
            false,
            vec![],
        ));
    }
    if !more.is_empty() {
        let statements = (more.iter().filter(|right| !right.on.starts_with("REVOKE ")))
            .map(|right| match right.is_role() {
                true => format!("REVOKE {} FROM {account}", right.right),
                false => format!("REVOKE {} ON {} FROM {account}", right.right, right.on),
            })
            .collect();
        let texts = more.iter().map(|right| right.text()).collect();
        found.push((format!("has in addition {}", named(texts)), false, statements));
    }
    found.into_iter()
}

#[cfg(test)]
mod tests {
    use super::super::rights::Grants;
    use super::*;

    fn login(grants: &[&str]) -> Login {
        let lines: Vec<_> =
            grants.iter().map(|grant| format!("GRANT {grant} TO `a`@`%`")).collect();
        Login {
            plugin: "mysql_native_password".into(),
            secret: "s".into(),
            grants: Grants::of(&lines),
            ..Login::default()
        }
    }

    fn side(logins: &[(&str, &str, Login)]) -> Logins {
        let named = |(name, host, login): &(&str, &str, Login)| {
            (((*name).to_owned(), (*host).to_owned()), login.clone())
        };
        Logins {
            host: "here".into(),
            ours: ("mover".into(), "%".into()),
            known_rights: ["SELECT", "INSERT", "DROP"].map(str::to_owned).into(),
            all: logins.iter().map(named).collect(),
            ..Logins::default()
        }
    }

    fn told(source: &Logins, target: &Logins, database: Option<&str>) -> Vec<(String, bool)> {
        let found = compare(source, target, database);
        found
            .into_iter()
            .map(|one| (format!("{} {}", one.account, one.what), one.refuses))
            .collect()
    }

    #[test]
    fn who_would_be_refused_is_told_from_who_is_only_different() {
        let app = login(&["SELECT ON `shop`.*"]);
        let same = side(&[("app", "%", app.clone()), ("mover", "%", login(&["DROP ON *.*"]))]);
        assert!(compare(&same, &same, None).is_empty());
        let tell = |there: Login| told(&same, &side(&[("app", "%", there)]), Some("shop"));
        let refused = |what: &str| vec![(format!("'app'@'%' {what}"), true)];
        let differs = |what: &str| vec![(format!("'app'@'%' {what}"), false)];
        assert_eq!(told(&same, &side(&[]), None), refused("is missing"));
        assert_eq!(tell(Login { locked: true, ..app.clone() }), refused("is locked"));
        assert_eq!(
            tell(Login { secret: "t".into(), ..app.clone() }),
            refused("has another password")
        );
        assert_eq!(
            tell(Login { expired: true, ..app.clone() }),
            refused("has an expired password")
        );
        let tls = Login { tls: "ANY".into(), ..app.clone() };
        assert_eq!(tell(tls), refused("requires TLS (ANY)"));
        let limits = Login { limits: [0, 0, 0, 2], ..app.clone() };
        assert_eq!(tell(limits), refused("has other limits"));
        assert_eq!(tell(login(&[])), refused("lacks SELECT on `shop`.*"));
        let more = login(&["SELECT ON *.*"]);
        let implied = differs("has by a wider right only: SELECT on `shop`.*");
        assert_eq!(tell(more), [implied, differs("has in addition SELECT on *.*")].concat());
        let plugin = Login { plugin: "ed25519".into(), ..app.clone() };
        let what = "authenticates by ed25519, and not by mysql_native_password";
        assert_eq!(tell(plugin), differs(what));
    }

    #[test]
    fn what_no_client_feels_is_no_refusal() {
        let app = login(&["SELECT ON `shop`.*"]);
        // Of another database, of the server's own host, locked there already, unknown to the other version.
        let other = side(&[("app", "%", login(&["SELECT ON `other`.*"]))]);
        assert!(told(&other, &side(&[]), Some("shop")).is_empty());
        assert!(!compare(&side(&[("app", "here", app.clone())]), &side(&[]), None)[0].refuses);
        let locked = Login { locked: true, ..app.clone() };
        assert!(!compare(&side(&[("app", "%", locked)]), &side(&[]), None)[0].refuses);
        let newer =
            side(&[("app", "%", login(&["SELECT ON `shop`.*", "SHOW CREATE ROUTINE ON *.*"]))]);
        let found = compare(&newer, &side(&[("app", "%", app.clone())]), None);
        assert!(found.len() == 1 && !found[0].refuses, "{found:?}");
        // Ours on either side is nobody's.
        assert!(compare(&side(&[("mover", "%", app)]), &side(&[]), None).is_empty());
    }

    #[test]
    fn an_account_that_takes_anothers_clients_refuses_them() {
        let app = login(&["SELECT ON *.*"]);
        let source = side(&[("app", "%", app.clone())]);
        let there = |name, host| {
            let target = side(&[("app", "%", app.clone()), (name, host, app.clone())]);
            compare(&source, &target, None).first().map(|found| found.refuses)
        };
        assert_eq!(there("app", "10.%"), Some(true));
        assert_eq!(there("", "%"), Some(true));
        assert_eq!(there("other", "%"), Some(false));
        assert_eq!(there("", "localhost"), Some(false));
        // Also without any right of its own.
        let bare = side(&[("app", "%", app.clone()), ("app", "10.%", login(&[]))]);
        assert!(compare(&source, &bare, Some("shop"))[0].refuses);
        // Somebody without a name gets in on the source; by an installation only from its own host.
        let anybody = |host| {
            let here = side(&[("app", "%", app.clone()), ("", host, login(&[]))]);
            told(&here, &source, Some("shop"))
        };
        assert_eq!(anybody("%"), [("''@'%' is missing".to_owned(), true)]);
        assert_eq!(anybody("localhost"), []);
        // Somebody without rights gets in on the source.
        let monitor = side(&[("app", "%", app.clone()), ("monitor", "%", login(&[]))]);
        let missing = ("'monitor'@'%' is missing".to_owned(), true);
        assert_eq!(told(&monitor, &source, Some("shop")), [missing]);
        // A role that was dropped on the source is told.
        let role = Login { is_role: true, ..app.clone() };
        let target = side(&[("app", "%", app.clone()), ("reader", "", role)]);
        let only_there = ("'reader' is a role that is there only".to_owned(), false);
        assert_eq!(told(&source, &target, Some("shop")), [only_there]);
    }
}
