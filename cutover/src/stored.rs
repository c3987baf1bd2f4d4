//! What runs by itself on MySQL and MariaDB, and no stream carries: triggers and scheduled events. A
//! target that is applied to has none, because its server can't keep them quiet; the flip makes them
//! ([`Replication::hand_over`]), when nothing goes back any more. So whether it will be able to has to be
//! known before.

use std::collections::BTreeSet;

use decoders::mysql::catalog::Rights;
use decoders::mysql::server::literal;
use tokio::time::Instant;

use crate::api::Check;
use crate::ports::PortResult;
#[cfg(doc)]
use crate::ports::Replication;
use crate::sql::TextRow;
use crate::sql::mysql::{MysqlError, MysqlSession};

/// Names in one finding.
const NAMED_MAX: usize = 10;

/// Whether an account may make something that runs in another one's name.
const IN_OTHER_NAMES: [&str; 4] = ["SUPER", "SET USER", "SET_USER_ID", "SET_ANY_DEFINER"];

fn list_sql(database: Option<&str>) -> String {
    let scope = |column: &str| match database {
        Some(database) => format!("{column} = {}", literal(database)),
        None => format!(
            "{column} NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema', \
             '_cutover')"
        ),
    };
    format!(
        "SELECT 'trigger' AS kind, concat(trigger_schema, '.', trigger_name) AS name, \
         definer AS definer, false AS runs \
         FROM information_schema.triggers WHERE {} \
         UNION ALL SELECT 'event', concat(event_schema, '.', event_name), definer, \
         status = 'ENABLED' \
         FROM information_schema.events WHERE {} ORDER BY 1, 2",
        scope("trigger_schema"),
        scope("event_schema")
    )
}

/// A role of MariaDB has no host, whoever writes it down.
fn account(row: &TextRow, key: &str) -> String {
    row.get(key).unwrap_or_default().trim_end_matches('@').to_owned()
}

/// Which of the rights on triggers and events are needed and not there.
fn lacking(rights: &Rights, database: Option<&str>, triggers: bool, events: bool) -> Vec<String> {
    let needed = [(triggers, "TRIGGER"), (events, "EVENT")].into_iter();
    let has = |right: &str| match database {
        Some(database) => rights.has_on(right, database),
        None => rights.has(&[right]),
    };
    needed
        .filter(|(needed, right)| *needed && !has(right))
        .map(|(_, right)| right.to_owned())
        .collect()
}

fn may_not(side: &str, rights: &Rights, what: &str, lacking: &[String]) -> Option<Check> {
    let ours = rights.account.as_deref().unwrap_or("our account");
    (!lacking.is_empty()).then(|| {
        Check::fail(
            "automation-rights",
            format!("{ours} may not {what} on {side}"),
            format!("on {side}: GRANT {} ON *.* TO {ours}", lacking.join(", ")),
        )
    })
}

/// Whether all in whose names something runs are there: without them it could be made, and would fail.
async fn definers(
    listed: &[TextRow],
    from: &str,
    (target, to): (&mut MysqlSession, &str),
    deadline: Instant,
) -> Option<Check> {
    const NAME: &str = "automation-definers";
    let sql =
        "SELECT concat(user, if(host = '', '', concat('@', host))) AS account FROM mysql.user";
    let there = match target.run(sql, deadline).await {
        Ok(answer) => answer.rows,
        Err(error) => {
            let why = error.at(to, "looking at accounts");
            let what = format!("whether {to} has the definers of triggers and events is not known");
            return Some(Check::warn(
                NAME,
                format!("{what}: {}", why.what),
                format!("GRANT SELECT ON mysql.user on {to} to our account"),
            ));
        }
    };
    let there: BTreeSet<String> = there.iter().map(|row| account(row, "account")).collect();
    let wanted: BTreeSet<String> = listed.iter().map(|row| account(row, "definer")).collect();
    let missing: Vec<_> = wanted.difference(&there).take(NAMED_MAX).cloned().collect();
    (!missing.is_empty()).then(|| {
        Check::fail(
            NAME,
            format!(
                "triggers and events of {from} run in the name of accounts that {to} does not have, \
                 and would fail there: {}",
                missing.join(", ")
            ),
            format!(
                "create them on {to} with what they may do on {from}, locked if nobody logs in as them"
            ),
        )
    })
}

/// What the flip will find when it makes on `to` what runs by itself on `from`. `sealed`: the target is
/// closed by an earlier run of ours, which has switched its event scheduler off.
pub(crate) async fn inspect(
    (source, from): (&mut MysqlSession, &str),
    (target, to): (&mut MysqlSession, &str),
    database: Option<&str>,
    sealed: bool,
    deadline: Instant,
) -> PortResult<Vec<Check>> {
    // Who lacks these sees none, and that would look as if there were none.
    let grants = source.run("SHOW GRANTS", deadline).await;
    let grants = grants.map_err(|error| error.at(from, "looking at rights"))?.rows;
    let rights = Rights::of(grants.iter().filter_map(|row| row.at(0)));
    let unseen = lacking(&rights, database, true, true);
    if !unseen.is_empty() {
        return Ok(may_not(from, &rights, "see all triggers and events", &unseen)
            .into_iter()
            .collect());
    }
    let listed = source.run(&list_sql(database), deadline).await;
    let listed = listed.map_err(|error| error.at(from, "listing triggers and events"))?.rows;
    let count = |kind: &str| listed.iter().filter(|row| row.get("kind") == Some(kind)).count();
    let (triggers, events) = (count("trigger"), count("event"));
    if listed.is_empty() {
        return Ok(Vec::new());
    }
    let asked = |error: MysqlError| error.at(to, "looking at rights");
    let mut checks = Vec::new();
    let grants = target.run("SHOW GRANTS", deadline).await.map_err(asked)?.rows;
    let rights = Rights::of(grants.iter().filter_map(|row| row.at(0)));
    checks.extend(definers(&listed, from, (&mut *target, to), deadline).await);
    let mut needed: Vec<_> = lacking(&rights, database, triggers > 0, events > 0);
    if !rights.has(&IN_OTHER_NAMES) {
        needed.push(IN_OTHER_NAMES.join(" or "));
    }
    checks.extend(may_not(to, &rights, "make triggers and events", &needed));
    if triggers > 0 && !rights.has(&["SUPER"]) {
        let sql = "SELECT @@log_bin AND NOT @@log_bin_trust_function_creators AS refuses";
        let answer = target.row(sql, deadline).await;
        if answer.map_err(|error| error.at(to, "reading settings"))?.is_true("refuses") {
            checks.push(Check::fail(
                "automation-creators",
                format!("{to} does not let our account make triggers (error 1419)"),
                format!("SET GLOBAL log_bin_trust_function_creators = ON on {to}"),
            ));
        }
    }
    let enabled = listed.iter().filter(|row| row.is_true("runs")).count();
    if enabled > 0 && !sealed {
        let scheduler = target.row("SELECT @@event_scheduler AS scheduler", deadline).await;
        let scheduler = scheduler.map_err(|error| error.at(to, "reading settings"))?;
        if scheduler.get("scheduler") != Some("ON") {
            checks.push(Check::warn(
                "automation-scheduler",
                format!(
                    "{to}'s event scheduler is off: {enabled} events of {from} would not run there"
                ),
                format!("SET GLOBAL event_scheduler = ON on {to}, and in its configuration"),
            ));
        }
    }
    checks.push(Check::ok(
        "automation",
        format!(
            "{triggers} triggers and {events} events of {from} are made on {to} before its clients \
             come; a way back takes the triggers off {from} and disables its events"
        ),
    ));
    Ok(checks)
}
