//! Family: logical decoding, slots, senders and connections.

use decoders::postgres::catalog::{Provider, ServerInfo, quote_ident, quote_literal};

use super::facts::{Leftovers, Replication};
use super::finding::{Finding, Fix, Side, count};
use super::request::CheckRequest;

/// Slots that a run uses at most: the stream's own, and a temporary copy while catching up.
const SLOTS_WANTED: i64 = 2;

/// Shortest `wal_sender_timeout` that leaves room for a busy machine: feedback is sent several
/// times within it.
const SENDER_TIMEOUT_MIN_MS: i64 = 10_000;

pub(super) fn evaluate(
    request: &CheckRequest,
    side: Side,
    server: &ServerInfo,
    used: &Replication,
) -> Vec<Finding> {
    let mut findings = vec![wal_level(side, server)];
    findings.push(connections(request, side, server, used));
    findings.extend(role_limits(request, side, server, used));
    if side == Side::Blue {
        findings.push(slots_left(request, server, used));
        findings.push(senders_left(request, server, used));
        findings.extend(sender_timeout(server));
        findings.push(output_plugin(server));
        findings.extend(idle_slot_timeout(server));
        findings.extend(other_slots(request, server, used));
    }
    findings
}

fn wal_level(side: Side, server: &ServerInfo) -> Finding {
    let level = server.setting("wal_level").unwrap_or("unknown");
    if level == "logical" {
        return Finding::ok("wal-level", side, "the log can be decoded");
    }
    let finding = match side {
        Side::Green => Finding::warning(
            "wal-level",
            side,
            "green's log can't be decoded, so there will be no way back after the cutover",
        ),
        _ => Finding::blocker("wal-level", side, "blue's log can't be decoded"),
    };
    let fix = match server.provider {
        Some(Provider::Rds) => Fix::advice(
            "set rds.logical_replication = 1 in the parameter group and reboot the instance",
        ),
        Some(Provider::CloudSql) => {
            Fix::advice("set the flag cloudsql.logical_decoding = on; the instance restarts")
        }
        Some(Provider::AlloyDb) => {
            Fix::advice("set the flag alloydb.logical_decoding = on; the instance restarts")
        }
        Some(Provider::Azure) => {
            Fix::advice("set the server parameter wal_level to LOGICAL and restart the server")
        }
        Some(Provider::Neon) => Fix::advice("enable logical replication in the project's settings"),
        Some(Provider::Supabase) | None => Fix::setting_and_restart(side, "wal_level", "'logical'"),
    };
    finding.evidence(format!("wal_level = {level}")).fix(fix)
}

fn slots_left(request: &CheckRequest, server: &ServerInfo, used: &Replication) -> Finding {
    let own = used.slots.iter().filter(|slot| slot.name == request.slot).count();
    let taken = i64::try_from(used.slots.len() - own).unwrap_or(i64::MAX);
    let max = server.number("max_replication_slots").unwrap_or(0);
    let left = max - taken;
    let evidence = format!("max_replication_slots = {max}, {taken} in use");
    let raise = (taken + SLOTS_WANTED).max(max + 1).to_string();
    let fix = Fix::setting_and_restart(Side::Blue, "max_replication_slots", &raise);
    if left < 1 {
        Finding::blocker("slots-left", Side::Blue, "no replication slot is left")
            .evidence(evidence)
            .objects(used.slots.iter().map(|slot| slot.name.clone()).collect())
            .fix(fix)
    } else if left < SLOTS_WANTED {
        let summary =
            "only one replication slot is left; catching up uses a second one for a while";
        Finding::warning("slots-left", Side::Blue, summary).evidence(evidence).fix(fix)
    } else {
        Finding::ok("slots-left", Side::Blue, "replication slots are left").evidence(evidence)
    }
}

fn senders_left(request: &CheckRequest, server: &ServerInfo, used: &Replication) -> Finding {
    let own = used.slots.iter().filter(|slot| slot.name == request.slot && slot.active).count();
    let taken = used.senders - i64::try_from(own).unwrap_or(0);
    let max = server.number("max_wal_senders").unwrap_or(0);
    let left = max - taken;
    let evidence = format!("max_wal_senders = {max}, {taken} in use");
    let raise = (taken + 2).max(max + 1).to_string();
    let fix = Fix::setting_and_restart(Side::Blue, "max_wal_senders", &raise);
    if left < 1 {
        Finding::blocker("senders-left", Side::Blue, "no walsender is left for the stream")
            .evidence(evidence)
            .fix(fix)
    } else if left < 2 {
        let summary = "only one walsender is left; a reconnect may have to wait for the old one";
        Finding::warning("senders-left", Side::Blue, summary).evidence(evidence).fix(fix)
    } else {
        Finding::ok("senders-left", Side::Blue, "walsenders are left").evidence(evidence)
    }
}

fn wanted(request: &CheckRequest, side: Side) -> i64 {
    let sessions = if side == Side::Blue { request.blue_sessions } else { request.green_sessions };
    i64::from(sessions)
}

fn connections(
    request: &CheckRequest,
    side: Side,
    server: &ServerInfo,
    used: &Replication,
) -> Finding {
    let max = server.number("max_connections").unwrap_or(0);
    let reserved = server.number("superuser_reserved_connections").unwrap_or(0)
        + server.number("reserved_connections").unwrap_or(0);
    let reserved = if server.role.superuser { 0 } else { reserved };
    let left = max - reserved - used.sessions;
    let wanted = wanted(request, side);
    let evidence = format!(
        "max_connections = {max}, {} in use, {reserved} reserved, {wanted} wanted",
        used.sessions
    );
    if left >= wanted {
        return Finding::ok("connections-left", side, "connections are left").evidence(evidence);
    }
    let raise = (used.sessions + reserved + wanted).to_string();
    Finding::blocker("connections-left", side, "too few connections are left for the move")
        .evidence(evidence)
        .fix(Fix::setting_and_restart(side, "max_connections", &raise))
}

fn role_limits(
    request: &CheckRequest,
    side: Side,
    server: &ServerInfo,
    used: &Replication,
) -> Vec<Finding> {
    let wanted = wanted(request, side);
    let limits = [
        (
            "ROLE",
            quote_ident(&server.role.name),
            i64::from(server.role.connection_limit),
            used.role_sessions,
        ),
        (
            "DATABASE",
            quote_ident(&server.database),
            i64::from(server.database_connection_limit),
            used.database_sessions,
        ),
    ];
    limits
        .into_iter()
        // Neither limit binds a superuser.
        .filter(|(_, _, limit, used)| {
            !server.role.superuser && *limit >= 0 && limit - used < wanted
        })
        .map(|(kind, name, limit, used)| {
            let id = if kind == "ROLE" { "role-limit" } else { "database-limit" };
            let raise = used + wanted;
            let keyword = if kind == "ROLE" { "CONNECTION LIMIT" } else { "WITH CONNECTION LIMIT" };
            Finding::blocker(id, side, "a connection limit leaves too few sessions for the move")
                .evidence(format!("{kind} {name}: limit {limit}, {used} in use, {wanted} wanted"))
                .fix(Fix::sql(side, vec![format!("ALTER {kind} {name} {keyword} {raise}")]))
        })
        .collect()
}

fn sender_timeout(server: &ServerInfo) -> Option<Finding> {
    let timeout_ms = server.number("wal_sender_timeout")?;
    let fix = Fix::setting_and_reload(Side::Blue, "wal_sender_timeout", "'60s'");
    if timeout_ms == 0 {
        let summary = "a broken connection is not noticed by blue, and the slot stays taken";
        return Some(
            Finding::warning("wal-sender-timeout", Side::Blue, summary)
                .evidence("wal_sender_timeout = 0 (off)")
                .fix(fix),
        );
    }
    (timeout_ms < SENDER_TIMEOUT_MIN_MS).then(|| {
        Finding::warning(
            "wal-sender-timeout",
            Side::Blue,
            "blue ends the stream after a short stall",
        )
        .evidence(format!("wal_sender_timeout = {timeout_ms} ms"))
        .fix(fix)
    })
}

/// Minor releases since August 2026 load only the output plugins that are listed.
fn output_plugin(server: &ServerInfo) -> Finding {
    let Some(allowed) = server.setting("output_plugin_libraries") else {
        return Finding::ok("output-plugin", Side::Blue, "pgoutput is built in");
    };
    let mut value = list_elements(allowed);
    if value.iter().any(|name| name == "pgoutput" || name == "*") {
        return Finding::ok("output-plugin", Side::Blue, "pgoutput is allowed");
    }
    value.push("pgoutput".into());
    let value: Vec<String> = value.iter().map(|name| quote_literal(name)).collect();
    Finding::blocker("output-plugin", Side::Blue, "the server does not allow the pgoutput plugin")
        .evidence(format!("output_plugin_libraries = {allowed}"))
        .fix(Fix::setting_and_reload(Side::Blue, "output_plugin_libraries", &value.join(", ")))
}

/// Elements of a list setting: separated by commas, except within double quotes.
fn list_elements(list: &str) -> Vec<String> {
    let mut elements = vec![String::new()];
    let mut quoted = false;
    for c in list.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => elements.push(String::new()),
            c => elements.iter_mut().last().into_iter().for_each(|element| element.push(c)),
        }
    }
    let trimmed = elements.iter().map(|element| element.trim().to_owned());
    trimmed.filter(|element| !element.is_empty()).collect()
}

/// PostgreSQL 18 invalidates slots that nobody reads for that long.
fn idle_slot_timeout(server: &ServerInfo) -> Option<Finding> {
    let timeout = server.settings.get("idle_replication_slot_timeout")?;
    if timeout.value == "0" {
        return None;
    }
    let unit = timeout.unit.as_deref().unwrap_or("");
    Some(
        Finding::warning(
            "idle-slot-timeout",
            Side::Blue,
            "a slot that is not read for this long is lost, and with it the whole copy",
        )
        .evidence(format!("idle_replication_slot_timeout = {} {unit}", timeout.value))
        .fix(Fix::setting_and_reload(Side::Blue, "idle_replication_slot_timeout", "0")),
    )
}

/// Other logical consumers do not move along; abandoned slots fill blue's disk.
fn other_slots(request: &CheckRequest, server: &ServerInfo, used: &Replication) -> Vec<Finding> {
    let mut findings = Vec::new();
    let others = || used.slots.iter().filter(|slot| slot.name != request.slot);
    let consumers: Vec<String> = others()
        .filter(|slot| slot.database.as_deref() == Some(server.database.as_str()))
        .map(|slot| format!("{} ({})", slot.name, slot.plugin.as_deref().unwrap_or("physical")))
        .collect();
    if !consumers.is_empty() {
        findings.push(
            Finding::warning(
                "other-consumers",
                Side::Blue,
                "others read changes of this database; their slots do not move to green",
            )
            .evidence(count(consumers.len(), "logical slot"))
            .objects(consumers)
            .fix(Fix::advice("plan how each consumer starts anew on green after the cutover")),
        );
    }
    let idle: Vec<String> = others()
        .filter(|slot| !slot.active && slot.retained_bytes.unwrap_or(0) > 1 << 30)
        .map(|slot| format!("{}: {} MiB", slot.name, slot.retained_bytes.unwrap_or(0) >> 20))
        .collect();
    if !idle.is_empty() {
        findings.push(
            Finding::warning(
                "idle-slots",
                Side::Blue,
                "slots that nobody reads keep write-ahead log and fill the disk",
            )
            .evidence(count(idle.len(), "inactive slot"))
            .objects(idle)
            .fix(Fix::advice(
                "drop each slot that is not needed: SELECT pg_drop_replication_slot(..)",
            )),
        );
    }
    findings
}

/// Remains of an earlier run of the same pipeline.
pub(super) fn leftovers(request: &CheckRequest, side: Side, left: &Leftovers) -> Vec<Finding> {
    if request.resuming {
        return Vec::new();
    }
    let mut findings = Vec::new();
    let teardown = || Fix::command("replicator teardown");
    if left.slot {
        findings.push(
            Finding::blocker("leftover-slot", side, "the slot of an earlier run is there")
                .evidence(format!("replication slot {}", request.slot))
                .fix(teardown()),
        );
    }
    if left.publication {
        findings.push(
            Finding::blocker(
                "leftover-publication",
                side,
                "the publication of an earlier run is there",
            )
            .evidence(format!("publication {}", request.publication))
            .fix(teardown()),
        );
    }
    if left.control_schema {
        let foreign =
            left.pipelines.as_ref().is_some_and(|pipelines| !pipelines.contains(&request.pipeline));
        let finding = if foreign && side == Side::Green {
            Finding::warning("leftover-schema", side, "another pipeline uses this database")
        } else {
            Finding::blocker("leftover-schema", side, "the progress of an earlier run is there")
                .fix(teardown())
        };
        findings.push(
            finding.evidence("schema _cutover").objects(left.pipelines.clone().unwrap_or_default()),
        );
    }
    if findings.is_empty() {
        findings.push(Finding::ok("leftovers", side, "nothing is left of an earlier run"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use decoders::postgres::catalog::Setting;

    use super::super::facts::SlotFacts;
    use super::super::finding::Severity;
    use super::*;

    fn server(settings: &[(&str, &str)]) -> ServerInfo {
        let mut server = ServerInfo { database: "shop".into(), ..ServerInfo::default() };
        for (name, value) in settings {
            let setting = Setting { value: (*value).into(), unit: None };
            server.settings.insert((*name).into(), setting);
        }
        server
    }

    fn used(slots: &[&str]) -> Replication {
        let slot = |name: &&str| SlotFacts { name: (*name).into(), ..SlotFacts::default() };
        Replication { slots: slots.iter().map(slot).collect(), ..Replication::default() }
    }

    #[test]
    fn blue_has_to_be_logical_and_green_should_be() {
        let minimal = server(&[("wal_level", "replica")]);
        assert_eq!(wal_level(Side::Blue, &minimal).severity, Severity::Blocker);
        assert_eq!(wal_level(Side::Green, &minimal).severity, Severity::Warning);
        let rds = ServerInfo { provider: Some(Provider::Rds), ..minimal };
        assert!(matches!(wal_level(Side::Blue, &rds).fix, Some(Fix::Advice { .. })));
        let logical = server(&[("wal_level", "logical")]);
        assert_eq!(wal_level(Side::Blue, &logical).severity, Severity::Ok);
    }

    #[test]
    fn our_own_slot_does_not_count_as_taken() {
        let request = CheckRequest::new("main");
        let server = server(&[("max_replication_slots", "2")]);
        let severity = |slots: &[&str]| slots_left(&request, &server, &used(slots)).severity;
        assert_eq!(severity(&[]), Severity::Ok);
        assert_eq!(severity(&["a"]), Severity::Warning);
        assert_eq!(severity(&["a", "cutover_main"]), Severity::Warning);
        assert_eq!(severity(&["a", "b"]), Severity::Blocker);
    }

    #[test]
    fn reserved_connections_are_for_superusers() {
        let request = CheckRequest { blue_sessions: 8, ..CheckRequest::new("main") };
        let mut server =
            server(&[("max_connections", "20"), ("superuser_reserved_connections", "3")]);
        let used = Replication { sessions: 10, ..Replication::default() };
        assert_eq!(connections(&request, Side::Blue, &server, &used).severity, Severity::Blocker);
        server.role.superuser = true;
        assert_eq!(connections(&request, Side::Blue, &server, &used).severity, Severity::Ok);
    }

    #[test]
    fn limits_of_role_and_database_count() {
        let request = CheckRequest::new("main");
        let mut server = server(&[]);
        server.role.name = "Mover".into();
        server.role.connection_limit = 3;
        server.database_connection_limit = -1;
        let findings = role_limits(&request, Side::Green, &server, &Replication::default());
        assert_eq!(findings.len(), 1);
        let fix = Fix::sql(Side::Green, vec!["ALTER ROLE \"Mover\" CONNECTION LIMIT 12".into()]);
        assert_eq!(findings[0].fix, Some(fix));
    }

    #[test]
    fn pgoutput_has_to_be_listed_where_there_is_a_list() {
        assert_eq!(output_plugin(&server(&[])).severity, Severity::Ok);
        let with = |value| output_plugin(&server(&[("output_plugin_libraries", value)])).severity;
        assert_eq!(with("pgoutput, test_decoding"), Severity::Ok);
        assert_eq!(with("test_decoding"), Severity::Blocker);
        assert_eq!(with("\"pgoutput, test_decoding\""), Severity::Blocker);
    }

    #[test]
    fn sender_timeouts_of_zero_and_of_a_blink_are_named() {
        let with = |value| sender_timeout(&server(&[("wal_sender_timeout", value)]));
        assert!(with("0").is_some() && with("500").is_some());
        assert_eq!(with("60000"), None);
    }

    #[test]
    fn leftovers_are_named_one_by_one_and_expected_when_resuming() {
        let mut request = CheckRequest::new("main");
        let left = Leftovers {
            slot: true,
            publication: true,
            control_schema: true,
            pipelines: Some(vec!["main".into()]),
        };
        let ids: Vec<_> =
            leftovers(&request, Side::Blue, &left).iter().map(|finding| finding.id).collect();
        assert_eq!(ids, ["leftover-slot", "leftover-publication", "leftover-schema"]);
        request.resuming = true;
        assert!(leftovers(&request, Side::Blue, &left).is_empty());
    }

    #[test]
    fn another_pipelines_schema_is_no_obstacle() {
        let request = CheckRequest::new("main");
        let left = Leftovers {
            control_schema: true,
            pipelines: Some(vec!["other".into()]),
            ..Leftovers::default()
        };
        assert_eq!(leftovers(&request, Side::Green, &left)[0].severity, Severity::Warning);
        let unknown = Leftovers { pipelines: None, ..left };
        assert_eq!(leftovers(&request, Side::Green, &unknown)[0].severity, Severity::Blocker);
    }
}
