//! MySQL and MariaDB: servers with every fault, each of which has to be named, and each suggested
//! statement has to make its finding go away.

use std::collections::BTreeSet;

use decoders::mysql::server::ServerUrl;
use replicator::check::mysql::{BinlogCheckRequest, gather, judge};
use replicator::check::{Fix, Report, Severity, Side};
use tests::mysql::{Mysql, Version};

fn url(server: &Mysql, account: &str) -> ServerUrl {
    ServerUrl::parse(&format!("mysql://{account}@127.0.0.1:{}/t", server.port())).unwrap()
}

async fn report(blue: &Mysql, green: &Mysql, account: &str) -> Report {
    let request = BinlogCheckRequest {
        database: Some("t".to_owned()),
        schema_exists: true,
        server_ids: vec![7],
        ..BinlogCheckRequest::default()
    };
    judge(&request, &gather(&request, &url(blue, account), &url(green, account)).await)
}

fn of(report: &Report, severity: Severity) -> BTreeSet<&'static str> {
    let findings = report.findings.iter().filter(|finding| finding.severity == severity);
    findings.map(|finding| finding.id).collect()
}

const ACCOUNT: &str = "create database t; create user 'cutover'@'%' identified by 'x';";

#[tokio::test]
async fn two_servers_in_order_are_ready() {
    for version in Version::ALL {
        let options = ["--event-scheduler=OFF", "--binlog-expire-logs-seconds=259200"];
        let (blue, green) =
            (Mysql::start(version, &options).unwrap(), Mysql::start(version, &options).unwrap());
        for server in [&blue, &green] {
            server.run(ACCOUNT).unwrap();
            server
                .run("grant all on *.* to 'cutover'@'%'; create table t.a(id int primary key)")
                .unwrap();
        }
        let report = report(&blue, &green, "cutover:x").await;
        assert!(report.ready, "{}:\n{report}", version.name());
        assert_eq!(
            of(&report, Severity::Warning),
            BTreeSet::new(),
            "{}:\n{report}",
            version.name()
        );
        assert!(report.ok >= 14, "{report}");
    }
}

const FAULTY_BLUE: &str = "
use t; create table good(id int primary key);
create table keyless(v int); create table parent(id int primary key);
create table child(id int primary key, p int, foreign key (p) references parent(id) on delete cascade);
create table m(id int primary key) engine = myisam;
set sql_mode = ''; create table zero(id int primary key, d datetime default '0000-00-00 00:00:00');
set global binlog_row_metadata = 'MINIMAL'; set global binlog_row_image = 'MINIMAL';
set global binlog_expire_logs_seconds = 3600; set global sql_mode = '';
set global max_allowed_packet = 134217728;
";

const FAULTY_GREEN: &str = "
use t; create table good(id int primary key);
create trigger tr before insert on good for each row set @a = 1;
create event ev on schedule every 1 day do set @a = 1; set global event_scheduler = on;
set global max_allowed_packet = 16777216; set global read_only = on;
";

/// Runs what the report says, apart from advice, and only where the account is not what lacks.
fn repair(report: &Report, blue: &Mysql, green: &Mysql) {
    for finding in &report.findings {
        let Some(Fix::Sql { side, statements, .. }) = &finding.fix else { continue };
        let server = if *side == Side::Blue { blue } else { green };
        for statement in statements {
            server.run(statement).unwrap_or_else(|error| panic!("{}: {error:#}", finding.id));
        }
    }
}

#[tokio::test]
async fn every_fault_is_named_and_its_repair_works() {
    for version in Version::ALL {
        let (blue, green) =
            (Mysql::start(version, &[]).unwrap(), Mysql::start(version, &[]).unwrap());
        for server in [&blue, &green] {
            server.run(ACCOUNT).unwrap();
        }
        blue.run(FAULTY_BLUE).unwrap();
        green.run(FAULTY_GREEN).unwrap();
        if version.is_mariadb() {
            blue.run("set global binlog_format = 'MIXED'; set global gtid_strict_mode = off")
                .unwrap();
            // MySQL refuses zero dates by default, MariaDB takes them.
            green.run("set global sql_mode = concat(@@global.sql_mode, ',NO_ZERO_DATE')").unwrap();
        }
        // Without rights nothing of a table is seen; the rights are what is named then.
        let blind = report(&blue, &green, "cutover:x").await;
        for id in ["right-replication", "right-read", "right-write"] {
            assert_eq!(
                blind.find(id).map(|f| f.severity),
                Some(Severity::Blocker),
                "{id}:\n{blind}"
            );
        }
        for server in [&blue, &green] {
            server.run("grant all on *.* to 'cutover'@'%'").unwrap();
        }
        let before = report(&blue, &green, "cutover:x").await;
        let mut blockers = BTreeSet::from([
            "binlog-row-image",
            "engine",
            "triggers",
            "events",
            "green-read-only",
            "packets",
            "tables",
        ]);
        let mut warnings = BTreeSet::from([
            "zero-dates",
            "binlog-row-metadata",
            "binlog-retention",
            "identity-missing",
            "sql-mode",
        ]);
        if version.is_mariadb() {
            blockers.insert("binlog-format");
            warnings.extend(["gtids", "cascades"]);
        }
        let name = version.name();
        assert_eq!(of(&before, Severity::Blocker), blockers, "{name}:\n{before}");
        assert!(of(&before, Severity::Warning).is_superset(&warnings), "{name}:\n{before}");
        repair(&before, &blue, &green);
        let after = report(&blue, &green, "cutover:x").await;
        // What a person has to choose stays.
        assert_eq!(of(&after, Severity::Blocker), BTreeSet::from(["tables"]), "{name}:\n{after}");
        for id in ["binlog-row-metadata", "binlog-retention", "gtids", "binlog-format"] {
            assert_eq!(
                after.find(id).map(|f| f.severity),
                Some(Severity::Ok),
                "{name} {id}:\n{after}"
            );
        }
    }
}

#[tokio::test]
async fn what_does_not_fit_together_is_named() {
    let older = Mysql::start(Version::Mariadb10_11, &["--gtid-domain-id=1"]).unwrap();
    let same_id = format!("--server-id={}", older.port());
    let newer =
        Mysql::start(Version::Mariadb11_8, &[&same_id, "--lower-case-table-names=1"]).unwrap();
    let other = Mysql::start(Version::Mysql9_7, &[]).unwrap();
    for server in [&older, &newer, &other] {
        server.run(ACCOUNT).unwrap();
        server
            .run("grant all on *.* to 'cutover'@'%'; create table t.a(id int primary key)")
            .unwrap();
    }
    let found = report(&older, &newer, "cutover:x").await;
    for id in ["server-ids", "table-names"] {
        assert_eq!(found.find(id).map(|f| f.severity), Some(Severity::Blocker), "{id}:\n{found}");
    }
    newer.run("create table t.b(v varchar(9)) collate utf8mb4_uca1400_ai_ci").unwrap();
    let back = report(&newer, &older, "cutover:x").await;
    assert_eq!(back.find("older-version").map(|f| f.severity), Some(Severity::Warning), "{back}");
    other.run("create table t.c(v varchar(9)) collate utf8mb4_0900_as_cs").unwrap();
    let across = report(&other, &older, "cutover:x").await;
    for id in ["engine-family", "collations"] {
        assert_eq!(across.find(id).map(|f| f.severity), Some(Severity::Blocker), "{id}:\n{across}");
    }
    let wrong = report(&older, &newer, "nobody:secret").await;
    assert_eq!(wrong.find("unreachable").map(|f| f.side), Some(Side::Blue));
    assert!(!wrong.to_string().contains("secret"), "{wrong}");
}

/// What the way back would stop at is named while there is still time.
#[tokio::test]
async fn what_the_older_side_can_not_hold_is_named() {
    let older = Mysql::start(Version::Mariadb10_11, &[]).unwrap();
    let newer = Mysql::start(Version::Mariadb11_8, &[]).unwrap();
    for server in [&older, &newer] {
        server.run(ACCOUNT).unwrap();
        server.run("grant all on *.* to 'cutover'@'%'").unwrap();
    }
    newer
        .run(
            "create table t.s(id int primary key, at timestamp null, v varchar(50), n bigint, e enum('a','b'),
             u varchar(9) character set utf8mb4, m int, extra int)",
        )
        .unwrap();
    older
        .run(
            "create table t.s(id int primary key, at timestamp null, v varchar(20), n int, e enum('a'),
             u varchar(9) character set latin1, m int not null default 1)",
        )
        .unwrap();
    let severity = |report: &Report, id: &str| report.find(id).map(|finding| finding.severity);
    let back = report(&newer, &older, "cutover:x").await;
    let named = |id: &str| back.find(id).map(|finding| finding.objects.join("; ")).unwrap();
    assert_eq!(severity(&back, "columns"), Some(Severity::Blocker), "{back}");
    assert_eq!(named("columns"), "`t`.`s`.`n`: int(11) for bigint(20); `t`.`s`.`extra` is missing");
    assert_eq!(severity(&back, "narrower-columns"), Some(Severity::Warning), "{back}");
    assert_eq!(
        named("narrower-columns"),
        "`t`.`s`.`v` is varchar(20) there, varchar(50) here; `t`.`s`.`e` lacks labels there; \
         `t`.`s`.`u` is in latin1 there, in utf8mb4 here; `t`.`s`.`m` may not be NULL there"
    );
    assert_eq!(severity(&back, "timestamps-2038"), Some(Severity::Warning), "{back}");
    assert_eq!(named("timestamps-2038"), "`t`.`s`.`at`");
    older
        .run(
            "use t; alter table s modify v varchar(50), modify n bigint, modify e enum('a','b'), \
             modify u varchar(9) character set utf8mb4, modify m int, add column extra int",
        )
        .unwrap();
    let forth = report(&older, &newer, "cutover:x").await;
    // Known before the move already.
    assert_eq!(severity(&forth, "timestamps-2038"), Some(Severity::Warning), "{forth}");
    assert_eq!(severity(&forth, "columns"), Some(Severity::Ok), "{forth}");
    assert_eq!(severity(&forth, "narrower-columns"), None, "{forth}");
}

/// For each table it is said how its rows will go to green, and why.
#[tokio::test]
async fn how_rows_go_is_said_for_each_table() {
    for version in [Version::Mariadb11_8, Version::Mysql9_7] {
        let (blue, green) =
            (Mysql::start(version, &[]).unwrap(), Mysql::start(version, &[]).unwrap());
        let tables = "
            use t; create table plain(id int primary key, v varchar(9));
            create table computed(id int primary key, v int as (id + 1));
            create table parent(id int primary key);
            create table child(id int primary key, p int,
              foreign key (p) references parent(id) on delete cascade);";
        for server in [&blue, &green] {
            server.run(ACCOUNT).unwrap();
            server.run(&format!("grant all on *.* to 'cutover'@'%'; {tables}")).unwrap();
        }
        green.run("alter table t.plain modify v varchar(10)").unwrap();
        let look = async |row_events, schema_exists| {
            let request = BinlogCheckRequest {
                database: Some("t".to_owned()),
                schema_exists,
                row_events,
                ..BinlogCheckRequest::default()
            };
            let [blue, green] = [&blue, &green].map(|server| url(server, "cutover:x"));
            let report = judge(&request, &gather(&request, &blue, &green).await);
            let finding = report.find("row-events").unwrap().clone();
            assert_eq!(finding.severity, Severity::Ok);
            (finding.summary, finding.evidence, finding.objects)
        };
        let (summary, _, objects) = look(true, true).await;
        let mut expected = vec!["`t`.`computed`: v is generated"];
        if version.is_mariadb() {
            expected.push("`t`.`parent`: cascading foreign keys refer to it, which act on green");
        }
        expected.push("`t`.`plain`: v is stored in another form, or may not be NULL");
        assert_eq!(objects, expected);
        assert!(summary.starts_with("batches of"), "{summary}");
        // A copy makes the tables as they are on blue.
        assert!(!look(true, false).await.2.iter().any(|object| object.contains("plain")));
        let (summary, evidence, _) = look(false, true).await;
        assert_eq!(summary, "all rows go to green as statements");
        assert!(evidence.contains("off"), "{evidence}");
        green
            .run(
                "revoke all privileges, grant option from 'cutover'@'%';
                 grant select, insert, update, delete on *.* to 'cutover'@'%'",
            )
            .unwrap();
        let (_, evidence, _) = look(true, true).await;
        let right = if version.is_mariadb() { "BINLOG REPLAY" } else { "REPLICATION_APPLIER" };
        assert!(evidence.contains(right), "{evidence}");
    }
}
