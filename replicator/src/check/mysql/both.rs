//! The two servers compared.

use std::collections::BTreeSet;

use decoders::mysql::catalog::{TableInfo, Variables};
use decoders::mysql::server::identifier;

use super::super::finding::{Finding, Fix, Side, count};
use super::facts::SideFacts;
use super::{BinlogCheckRequest, setting};

pub(super) fn evaluate(
    request: &BinlogCheckRequest,
    blue: &SideFacts,
    green: &SideFacts,
) -> Vec<Finding> {
    let mut findings = versions(blue, green);
    findings.extend(server_ids(request, blue, green));
    if let (Ok(one), Ok(other)) = (&blue.variables, &green.variables) {
        findings.push(packets([blue, green], one, other));
        findings.push(sql_mode(one, other));
        findings.extend(table_names(one, other));
        findings.push(default_collations(green, one, other));
        if let Ok(tables) = &blue.tables {
            findings.push(zero_dates(tables, one, other));
        }
    }
    if let (Ok(tables), Ok(collations)) = (&blue.tables, &green.collations) {
        findings.push(missing_collations(tables, collations));
    }
    findings
}

fn versions(blue: &SideFacts, green: &SideFacts) -> Vec<Finding> {
    let evidence = format!("{}, {}", blue.server, green.server);
    if blue.server.flavor != green.server.flavor {
        return vec![
            Finding::blocker(
                "engine-family",
                Side::Both,
                "blue and green are of different families",
            )
            .evidence(evidence)
            .fix(Fix::advice("move to a server of the same family")),
        ];
    }
    let release = |facts: &SideFacts| (facts.server.number.0, facts.server.number.1);
    if release(green) < release(blue) {
        return vec![
            Finding::warning(
                "older-version",
                Side::Both,
                "green is older than blue: types, collations and values of blue may not exist there",
            )
            .evidence(evidence)
            .fix(Fix::advice("move to a version that is not older, unless you go back to one")),
        ];
    }
    vec![Finding::ok("version", Side::Both, "green is not older than blue").evidence(evidence)]
}

fn server_ids(request: &BinlogCheckRequest, blue: &SideFacts, green: &SideFacts) -> Vec<Finding> {
    let advice = |text: &str| Fix::advice(text);
    let (one, other) = (blue.server.server_id, green.server.server_id);
    let mut findings = Vec::new();
    if one == other {
        findings.push(
            Finding::blocker(
                "server-ids",
                Side::Both,
                "blue and green have the same server_id: on the way back each would take the other's \
                 changes for its own, or they are one server",
            )
            .evidence(format!("server_id = {one}"))
            .fix(advice("give green another server_id: SET GLOBAL server_id = .., and in its configuration")),
        );
    }
    let taken = request.server_ids.iter().filter(|id| **id == one || **id == other || **id == 0);
    let taken: Vec<String> = taken.map(ToString::to_string).collect();
    if !taken.is_empty() {
        findings.push(
            Finding::blocker("own-server-id", Side::Here, "our own server_id is a server's")
                .evidence(taken.join(", "))
                .fix(advice("choose one that no server and no replica has")),
        );
    }
    if findings.is_empty() {
        findings.push(Finding::ok("server-ids", Side::Both, "all server_ids differ"));
    }
    findings
}

/// The servers' most. Bytes.
const PACKET_MAX: u64 = 1 << 30;

/// A row of blue may be as large as blue's limit, and green must take it as one statement, in which bytes
/// have two digits each.
fn packets([blue, green]: [&SideFacts; 2], one: &Variables, other: &Variables) -> Finding {
    let of = |variables: &Variables| variables.number("max_allowed_packet").unwrap_or(0);
    let (blue_bytes, green_bytes) = (of(one), of(other));
    let evidence = format!("max_allowed_packet: blue {blue_bytes}, green {green_bytes} bytes");
    let wanted_bytes = (2 * blue_bytes + (1 << 20)).min(PACKET_MAX);
    let fix =
        || setting(&green.server, Side::Green, "max_allowed_packet", &wanted_bytes.to_string());
    if green_bytes < blue_bytes {
        Finding::blocker("packets", Side::Green, "green refuses rows that blue takes").fix(fix())
    } else if green_bytes < wanted_bytes && has_long_bytes(blue) {
        let what =
            "the stream would halt at a row of bytes that is larger than half of what green takes";
        Finding::warning("packets", Side::Green, what).fix(fix())
    } else {
        Finding::ok("packets", Side::Both, "green takes the rows that blue takes")
    }
    .evidence(evidence)
}

/// Whether a table has bytes of which one value may fill a packet.
fn has_long_bytes(blue: &SideFacts) -> bool {
    let columns = blue.tables.iter().flatten().flat_map(|table| &table.columns);
    columns.into_iter().any(|column| matches!(column.data_type.as_str(), "mediumblob" | "longblob"))
}

fn sql_mode(one: &Variables, other: &Variables) -> Finding {
    // Modes that one family or version has only, and that change nothing for applications.
    let differing = |a: &Variables, b: &Variables| {
        let b = b.members("sql_mode");
        let only = a.members("sql_mode").into_iter().filter(|mode| !b.contains(mode));
        only.map(str::to_owned).collect::<Vec<_>>().join(",")
    };
    let (blue_only, green_only) = (differing(one, other), differing(other, one));
    if blue_only.is_empty() && green_only.is_empty() {
        return Finding::ok("sql-mode", Side::Both, "both have the same sql_mode");
    }
    Finding::warning("sql-mode", Side::Both, "applications may behave differently on green")
        .evidence(format!("sql_mode: only blue has {blue_only:?}, only green has {green_only:?}"))
        .fix(Fix::advice(
            "make sql_mode of green that of blue, unless the application sets its own",
        ))
}

/// Sessions of ours write zero dates and make columns that default to them whatever the servers' modes are; only
/// applications may be refused.
fn zero_dates(tables: &[TableInfo], one: &Variables, other: &Variables) -> Finding {
    const ID: &str = "zero-dates";
    let refuses = |variables: &Variables| {
        let modes = variables.members("sql_mode");
        modes.contains("NO_ZERO_DATE")
            && (modes.contains("STRICT_TRANS_TABLES") || modes.contains("STRICT_ALL_TABLES"))
    };
    match (refuses(one), refuses(other)) {
        (_, false) => return Finding::ok(ID, Side::Green, "green takes zero dates"),
        (true, true) => {
            let what =
                "applications can write zero dates on neither; what is there is moved as it is";
            return Finding::ok(ID, Side::Both, what);
        }
        (false, true) => {}
    }
    let columns = tables.iter().flat_map(|table| {
        let zero = table.columns.iter().filter(|column| {
            let default = column.default.as_deref().unwrap_or_default();
            default.trim_matches('\'').starts_with("0000-00-00")
        });
        zero.map(|column| {
            let names = [&table.name.schema, &table.name.name, &column.name];
            names.map(|name| identifier(name)).join(".")
        })
    });
    let found: Vec<String> = columns.collect();
    Finding::warning(
        ID,
        Side::Both,
        "blue takes zero dates, which applications could not write on green; what is there is moved as it is",
    )
    .evidence(format!("{} with such a default", count(found.len(), "column")))
    .objects(found)
    .fix(Fix::advice("give green blue's sql_mode: see sql-mode"))
}

/// Names that differ in case only are one table on one side and two on the other.
fn table_names(one: &Variables, other: &Variables) -> Option<Finding> {
    let of = |variables: &Variables| variables.number("lower_case_table_names");
    let (blue_folds, green_folds) = (of(one)?, of(other)?);
    // 2 folds for comparison, as 1 does.
    (blue_folds.min(1) != green_folds.min(1)).then(|| {
        Finding::blocker("table-names", Side::Both, "one side folds the case of table names")
            .evidence(format!("lower_case_table_names: blue {blue_folds}, green {green_folds}"))
            .fix(Fix::advice(
                "set up green with blue's lower_case_table_names; it can't be changed later",
            ))
    })
}

/// The finding about what objects get that name no collation.
pub const DEFAULT_COLLATIONS: &str = "default-collations";

/// Objects that name no character set get the server's, which changed between versions (MariaDB
/// 11.6: utf8mb4_uca1400_ai_ci; MySQL 8.0: utf8mb4_0900_ai_ci). Ours always name theirs.
fn default_collations(green: &SideFacts, one: &Variables, other: &Variables) -> Finding {
    let names = ["character_set_server", "collation_server", "character_set_collations"];
    let differing = names.into_iter().filter_map(|name| {
        let (blue, green) = (one.get(name).unwrap_or(""), other.get(name)?);
        (blue != green).then_some((name, blue, green))
    });
    let differing: Vec<(&str, &str, &str)> = differing.collect();
    if differing.is_empty() {
        return Finding::ok(DEFAULT_COLLATIONS, Side::Both, "both have the same default collation");
    }
    let shown = |(name, blue, green): &(&str, &str, &str)| {
        format!("{name}: blue {blue:?}, green {green:?}")
    };
    let evidence: Vec<String> = differing.iter().map(shown).collect();
    // The collation implies its character set, and comes after it.
    let verb = if green.server.is_mariadb() { "SET GLOBAL" } else { "SET PERSIST" };
    let statement = |(name, blue, _): &(&str, &str, &str)| format!("{verb} {name} = '{blue}'");
    let statements = differing.iter().map(statement).collect();
    Finding::warning(
        DEFAULT_COLLATIONS,
        Side::Green,
        "tables that applications make on green without naming a collation get another one than on \
         blue; joins between them may fail. What is copied names its own",
    )
    .evidence(evidence.join("; "))
    .fix(Fix::Sql {
        side: Side::Green,
        statements,
        then: Some("set it in the configuration file too, for the next restart".to_owned()),
    })
}

fn missing_collations(tables: &[TableInfo], known: &BTreeSet<String>) -> Finding {
    let used: BTreeSet<&String> = tables
        .iter()
        .flat_map(|table| {
            let columns = table.columns.iter().filter_map(|column| column.collation.as_ref());
            table.collation.iter().chain(columns)
        })
        .collect();
    let missing: Vec<String> =
        used.into_iter().filter(|name| !known.contains(*name)).cloned().collect();
    if missing.is_empty() {
        return Finding::ok("collations", Side::Both, "green knows blue's collations");
    }
    Finding::blocker("collations", Side::Green, "green does not know collations of blue")
        .evidence(count(missing.len(), "collation"))
        .objects(missing)
        .fix(Fix::advice("convert the columns on blue to a collation that both know"))
}
