//! Options of tables and databases that a flip between servers of MySQL or MariaDB looks at: which differ, what ends
//! that, and databases in which nobody may write.

use cutover::Direction;
use cutover::api::{Check, Severity as Judged};
use decoders::mysql::server::ServerUrl;
use replicator::check::mysql::{BinlogCheckRequest, gather, judge};
use replicator::check::{Fix, Report, Severity, Side};
use replicator::config::{Config, Endpoint};
use replicator::pipeline::Ends;
use replicator::pipeline::mysql::{BinlogRoute, Reading};
use replicator::pipeline::route::Route;
use tests::mysql::{Mysql, Version};

const PAIRS: [(Version, Version); 2] =
    [(Version::Mariadb10_11, Version::Mariadb11_8), (Version::Mysql9_7, Version::Mysql9_7)];

const BOTH: &str = "set session sql_log_bin = 0;
    create database t character set utf8mb4 collate utf8mb4_general_ci; create database other;
    create user mover@'%' identified by 'x'; grant all on *.* to mover@'%' with grant option; use t;
    create table plain (id int primary key, v varchar(20));
    create table parted (id int primary key) partition by range (id)
      (partition p0 values less than (10) comment = 'low', partition p1 values less than maxvalue);
    create table packed (id int primary key) row_format = compressed key_block_size = 8;
    create table counted (id int primary key) stats_persistent = 1 stats_sample_pages = 30 max_rows = 1000;";

fn text(server: &Mysql) -> String {
    format!("mysql://mover:x@127.0.0.1:{}/t", server.port())
}

fn url(server: &Mysql) -> ServerUrl {
    ServerUrl::parse(&text(server)).unwrap()
}

fn pair((one, other): (Version, Version)) -> (Mysql, Mysql) {
    let (blue, green) = (Mysql::start(one, &[]).unwrap(), Mysql::start(other, &[]).unwrap());
    blue.run(BOTH).unwrap();
    green.run(BOTH).unwrap();
    (blue, green)
}

fn route(blue: &Mysql, green: &Mysql, direction: Direction, accept: &str) -> BinlogRoute {
    let mut config = Config::new(Endpoint::from_url(text(blue)), Endpoint::from_url(text(green)));
    config.check.accept.extend((!accept.is_empty()).then(|| accept.to_owned()));
    let ends = Ends { source: url(blue), target: url(green), direction: Direction::Forward };
    let ends = if direction == Direction::Forward { ends } else { ends.reversed() };
    BinlogRoute::new(config, ends, Reading::default())
}

/// What a flip is refused for, and all that was said of one check.
async fn prechecks(route: &BinlogRoute, name: &str) -> (Vec<String>, String) {
    let checks = route.compare().await.unwrap();
    let failing = checks.iter().filter(|check| check.severity == Judged::Fail);
    let failing = failing.map(|check| check.name.clone()).collect();
    let wanted = |check: &&Check| check.name == name && check.severity != Judged::Ok;
    let said = checks.iter().filter(wanted);
    let said =
        said.map(|check| format!("{} | {}", check.evidence, check.fix.clone().unwrap_or_default()));
    (failing, said.collect::<Vec<_>>().join("\n"))
}

async fn forward(blue: &Mysql, green: &Mysql, name: &str) -> (Vec<String>, String) {
    prechecks(&route(blue, green, Direction::Forward, ""), name).await
}

async fn preflight(blue: &Mysql, green: &Mysql) -> Report {
    let request =
        BinlogCheckRequest { database: Some("t".to_owned()), ..BinlogCheckRequest::default() };
    judge(&request, &gather(&request, &url(blue), &url(green)).await)
}

#[tokio::test]
async fn options_that_green_did_not_get_are_told_with_what_sets_them() {
    for versions in PAIRS {
        let name = versions.0.name();
        let (blue, green) = pair(versions);
        let (failing, said) = forward(&blue, &green, "definitions").await;
        assert!(failing.is_empty() && said.is_empty(), "{name}: {failing:?} {said}");

        let own = match versions.0.is_mariadb() {
            true => {
                "alter table parted page_compressed = 1 page_compression_level = 4;
                 alter table packed encrypted = no, transactional = 1; alter database t comment 'ours'"
            }
            false => {
                "alter table parted compression = 'lz4' autoextend_size = 4m;
                 alter table packed autoextend_size = 8m; alter database t encryption = 'Y'"
            }
        };
        blue.run(&format!(
            "set session sql_log_bin = 0; use t;
             alter table plain row_format = redundant stats_auto_recalc = 0 avg_row_length = 90;
             alter table packed row_format = default, key_block_size = 0;
             alter table counted stats_persistent = default, stats_sample_pages = default, max_rows = 0;
             {own}"
        ))
        .unwrap();
        green
            .run("set session sql_log_bin = 0; alter table t.plain checksum = 1 min_rows = 7")
            .unwrap();
        let (failing, said) = forward(&blue, &green, "definitions").await;
        assert!(failing.is_empty(), "{name}: {failing:?} {said}");
        for expected in [
            "table `t`.`plain`: options:",
            "ROW_FORMAT REDUNDANT on blue, not set on green",
            "MIN_ROWS not set on blue, 7 on green",
            "KEY_BLOCK_SIZE not set on blue, 8 on green",
            "table `t`.`counted`: options: MAX_ROWS not set on blue, 1000 on green",
        ] {
            assert!(said.contains(expected), "{name}: {expected:?} is not in {said}");
        }
        let of_own = match versions.0.is_mariadb() {
            true => ["PAGE_COMPRESSION_LEVEL 4 on blue", "database `t`: comment: ours on blue"],
            false => [
                "AUTOEXTEND_SIZE 4194304 on blue",
                "database `t`: encrypts new tables: YES on blue",
            ],
        };
        assert!(of_own.iter().all(|own| said.contains(own)), "{name}: {said}");

        // What is offered makes them equal.
        let (_, offered) = said.split_once("(on green: ").unwrap();
        let (offered, _) = offered.split_once(");").unwrap();
        for statement in offered.split("; ").filter(|one| one.starts_with("ALTER ")) {
            green.run(statement).unwrap_or_else(|error| panic!("{name} {statement}: {error:#}"));
        }
        let (failing, said) = forward(&blue, &green, "definitions").await;
        assert!(failing.is_empty() && said.is_empty(), "{name}: {failing:?} {said}");
    }
}

/// Who may not see how files grow is told so, and nothing is taken for a difference.
#[tokio::test]
async fn what_an_account_may_not_see_is_told() {
    let (blue, green) = pair(PAIRS[1]);
    green.run("set session sql_log_bin = 0; alter table t.plain autoextend_size = 4m").unwrap();
    blue.run("set session sql_log_bin = 0; revoke process on *.* from mover@'%'").unwrap();
    let (failing, said) = forward(&blue, &green, "definitions").await;
    assert!(!failing.contains(&"definitions".to_owned()), "{failing:?} {said}");
    assert!(said.contains("may not see it on blue") && said.contains("GRANT PROCESS"), "{said}");
    assert!(!said.contains("4194304"), "{said}");
}

const SHUT: &str = "database-read-only";

fn shut(server: &Mysql, database: &str, value: u8) {
    server
        .run(&format!("set session sql_log_bin = 0; alter database {database} read only = {value}"))
        .unwrap();
}

#[tokio::test]
async fn a_database_that_nobody_may_write_is_a_reason_not_to_flip() {
    let (blue, green) = pair(PAIRS[1]);
    green.run("set session sql_log_bin = 0; create database _cutover").unwrap();
    // One that does not move is nobody's matter.
    shut(&green, "other", 1);
    let way = route(&blue, &green, Direction::Forward, "");
    way.note_automation().await.unwrap();
    assert!(preflight(&blue, &green).await.find(SHUT).is_none());
    let (failing, said) = forward(&blue, &green, SHUT).await;
    assert!(failing.is_empty() && said.is_empty(), "{failing:?} {said}");

    for database in ["t", "_cutover"] {
        shut(&green, database, 1);
        let report = preflight(&blue, &green).await;
        let found = report.find(SHUT).unwrap_or_else(|| panic!("{report}"));
        assert_eq!((found.severity, found.side), (Severity::Blocker, Side::Green), "{report}");
        assert_eq!(found.objects, [format!("`{database}`")]);
        let (failing, said) = forward(&blue, &green, SHUT).await;
        assert!(failing.contains(&SHUT.to_owned()), "{failing:?}");
        // Whoever accepts other definitions has not made it writable.
        let (failing, _) =
            prechecks(&route(&blue, &green, Direction::Forward, "definitions"), SHUT).await;
        assert_eq!(failing, [SHUT]);
        assert!(!said.contains("accept"), "{said}");
        let Some(Fix::Sql { side: Side::Green, statements, .. }) = &found.fix else {
            panic!("{:?}", found.fix)
        };
        assert_eq!(statements[..], [format!("ALTER DATABASE `{database}` READ ONLY = 0")]);
        assert!(said.contains(&format!("on green: {}", statements[0])), "{said}");
        if database == "t" {
            // The same on blue makes nothing better, and shows no difference.
            shut(&blue, database, 1);
            let (failing, _) = forward(&blue, &green, SHUT).await;
            assert_eq!(failing, [SHUT]);
            shut(&blue, database, 0);
            // Behind the fence it is seen once more.
            let failure = way.note_automation().await.unwrap_err();
            assert!(failure.what.contains("the database `t` of green"), "{failure:?}");
            assert!(failure.remedy.unwrap().contains("READ ONLY = 0 on green"));
        }
        green.run(&statements[0]).unwrap();
        let (failing, _) = forward(&blue, &green, SHUT).await;
        assert!(failing.is_empty(), "{failing:?}");
    }
    way.note_automation().await.unwrap();

    // On blue alone: green would take what blue refuses.
    shut(&blue, "t", 1);
    let report = preflight(&blue, &green).await;
    let found = report.find(SHUT).unwrap_or_else(|| panic!("{report}"));
    assert_eq!((found.severity, found.side), (Severity::Warning, Side::Blue), "{report}");
    let (failing, said) = forward(&blue, &green, "definitions").await;
    assert_eq!(failing, ["definitions"], "{said}");
    assert!(said.contains("database `t`: read only: yes on blue, no on green"), "{said}");
    assert!(said.contains("on blue: ALTER DATABASE `t` READ ONLY = 0"), "{said}");
    // A way back leads there.
    let (failing, said) = prechecks(&route(&blue, &green, Direction::Back, ""), SHUT).await;
    assert!(failing.contains(&SHUT.to_owned()), "{failing:?}");
    assert!(said.contains("databases of blue") && said.contains("on blue: ALTER"), "{said}");
}
