//! What the accounts may do.

use decoders::mysql::catalog::Rights;

use super::super::finding::{Finding, Fix, Side, count};
use super::BinlogCheckRequest;
use super::facts::SideFacts;

/// MariaDB renamed it; either is shown.
const REPLICATION: [&str; 2] = ["REPLICATION SLAVE", "REPLICATION REPLICA"];

pub(super) fn evaluate_blue(request: &BinlogCheckRequest, blue: &SideFacts) -> Vec<Finding> {
    let Ok(rights) = &blue.rights else { return Vec::new() };
    let mut findings = vec![match rights.has(&REPLICATION) {
        true => Finding::ok("right-replication", Side::Blue, "the account may read the binlog"),
        false => {
            Finding::blocker("right-replication", Side::Blue, "the account may not read the binlog")
                .evidence("REPLICATION SLAVE on *.* is missing")
                .fix(grant(Side::Blue, rights, "REPLICATION SLAVE ON *.*"))
        }
    }];
    let mariadb = blue.server.is_mariadb();
    let list = if mariadb { "REPLICATION MASTER ADMIN" } else { "REPLICATION SLAVE" };
    if mariadb && !rights.has(&[list]) {
        findings.push(
            Finding::warning(
                "right-replicas",
                Side::Blue,
                "whether another replica has our server_id can't be seen; the server would end its \
                 connection",
            )
            .evidence(format!("{list} on *.* is missing"))
            .fix(grant(Side::Blue, rights, &format!("{list} ON *.*"))),
        );
    }
    findings.push(holding(blue.server.is_mariadb(), rights));
    let mut needed = vec!["SELECT"];
    if !request.schema_exists {
        // Without these, definitions are hidden and would be missing on green.
        needed.extend(["SHOW VIEW", "TRIGGER", "EVENT"]);
    }
    findings.extend(on_tables(Side::Blue, request, blue, &needed, "read"));
    findings
}

/// A snapshot of several sessions holds commits while they are opened: MySQL always, MariaDB when
/// somebody always commits.
fn holding(mariadb: bool, rights: &Rights) -> Finding {
    const ID: &str = "right-snapshot";
    if rights.has(&["RELOAD", "FLUSH_TABLES"]) {
        return Finding::ok(ID, Side::Blue, "the account may hold commits for a moment");
    }
    match mariadb {
        true => Finding::warning(
            ID,
            Side::Blue,
            "the account may not hold commits for a moment: on a busy server the copy reads with one \
             session only",
        ),
        false => Finding::blocker(
            ID,
            Side::Blue,
            "the account may not hold commits for a moment: there is no consistent snapshot without",
        ),
    }
    .evidence("RELOAD on *.* is missing")
    .fix(grant(Side::Blue, rights, "RELOAD ON *.*"))
}

pub(super) fn evaluate_green(request: &BinlogCheckRequest, green: &SideFacts) -> Vec<Finding> {
    let mut needed =
        vec!["SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "ALTER", "INDEX", "REFERENCES"];
    if !request.schema_exists {
        needed.extend(["DROP", "CREATE VIEW", "CREATE ROUTINE", "TRIGGER", "EVENT"]);
    }
    on_tables(Side::Green, request, green, &needed, "write").into_iter().collect()
}

/// On everything, or on each database that takes part. Rights on single tables are not looked at:
/// tables that come later would lack them.
fn on_tables(
    side: Side,
    request: &BinlogCheckRequest,
    facts: &SideFacts,
    needed: &[&str],
    verb: &str,
) -> Option<Finding> {
    let rights = facts.rights.as_ref().ok()?;
    let lacks = |right: &&&str| match &request.database {
        Some(database) => !rights.has_on(right, database),
        None => !rights.has(&[right]),
    };
    let missing: Vec<&str> = needed.iter().filter(lacks).copied().collect();
    let id = if side == Side::Blue { "right-read" } else { "right-write" };
    if missing.is_empty() {
        return Some(Finding::ok(id, side, format!("the account may {verb} all tables")));
    }
    let object = match &request.database {
        Some(database) => format!("{}.*", decoders::mysql::server::identifier(database)),
        None => "*.*".to_owned(),
    };
    let list = missing.join(", ");
    Some(
        Finding::blocker(id, side, format!("the account may not {verb} all tables"))
            .evidence(format!("{} on {object}: {list}", count(missing.len(), "missing right")))
            .fix(grant(side, rights, &format!("{list} ON {object}"))),
    )
}

fn grant(side: Side, rights: &Rights, what: &str) -> Fix {
    let account = rights.account.as_deref().unwrap_or("CURRENT_USER()");
    Fix::sql(side, vec![format!("GRANT {what} TO {account}")])
}
