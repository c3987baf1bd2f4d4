//! What a flip between servers of MySQL or MariaDB compares before it begins: accounts, settings, definitions.

use cutover::Direction;
use cutover::api::{Check, Severity as Judged};
use decoders::mysql::server::ServerUrl;
use replicator::check::mysql::{BinlogCheckRequest, gather, judge};
use replicator::check::{Fix, Report, Severity};
use replicator::config::{Config, Endpoint};
use replicator::pipeline::Ends;
use replicator::pipeline::mysql::{BinlogRoute, Reading};
use replicator::pipeline::route::Route;
use replicator::schema::mysql::{CarriedAccounts, carry_accounts};
use tests::mysql::{Mysql, Version};

const PAIRS: [(Version, Version); 2] =
    [(Version::Mariadb10_11, Version::Mariadb11_8), (Version::Mysql9_7, Version::Mysql9_7)];

/// Of both servers, and in no log.
const BOTH: &str = "set session sql_log_bin = 0; 
    create database t character set utf8mb4 collate utf8mb4_general_ci; create database other;
    create user mover@'%' identified by 'x'; grant all on *.* to mover@'%' with grant option;
    create user same@'%' identified by 'x'; grant select on t.* to same@'%';";

fn text(server: &Mysql) -> String {
    format!("mysql://mover:x@127.0.0.1:{}/t", server.port())
}

fn url(server: &Mysql) -> ServerUrl {
    ServerUrl::parse(&text(server)).unwrap()
}

async fn preflight(blue: &Mysql, green: &Mysql) -> Report {
    let request =
        BinlogCheckRequest { database: Some("t".to_owned()), ..BinlogCheckRequest::default() };
    judge(&request, &gather(&request, &url(blue), &url(green)).await)
}

/// Prechecks of a flip in this direction.
async fn prechecks(blue: &Mysql, green: &Mysql, direction: Direction, accept: &str) -> Vec<Check> {
    let mut config = Config::new(Endpoint::from_url(text(blue)), Endpoint::from_url(text(green)));
    config.check.accept.extend((!accept.is_empty()).then(|| accept.to_owned()));
    let ends = Ends { source: url(blue), target: url(green), direction: Direction::Forward };
    let ends = if direction == Direction::Forward { ends } else { ends.reversed() };
    BinlogRoute::new(config, ends, Reading::default()).compare().await.unwrap()
}

fn failing(checks: &[Check]) -> Vec<&str> {
    let failing = checks.iter().filter(|check| check.severity == Judged::Fail);
    failing.map(|check| check.name.as_str()).collect()
}

fn evidence(checks: &[Check], name: &str) -> String {
    let found = checks.iter().filter(|check| check.name == name);
    found.map(|check| format!("{} | {:?}", check.evidence, check.fix)).collect()
}

#[tokio::test]
async fn whoever_green_would_refuse_is_named_before_the_flip() {
    for (one, other) in PAIRS {
        let name = one.name();
        let (blue, green) = (Mysql::start(one, &[]).unwrap(), Mysql::start(other, &[]).unwrap());
        for server in [&blue, &green] {
            server.run(BOTH).unwrap();
        }
        let (role, locked) = match one.is_mariadb() {
            true => ("reader", "reader"),
            false => ("'reader'@'%'", "reader"),
        };
        blue.run(&format!(
            "set session sql_log_bin = 0;
             create role {locked}; grant select on t.* to {role};
             create user gone@'%' identified by 'hunter2'; grant select, insert on t.* to gone@'%';
             create user poor@'%' identified by 'x'; grant select, update on t.* to poor@'%';
             create user shut@'10.1.%' identified by 'x'; grant select on t.* to shut@'10.1.%';
             create user elsewhere@'%' identified by 'x'; grant select on other.* to elsewhere@'%';
             grant {role} to poor@'%';"
        ))
        .unwrap();
        green
            .run(
                "set session sql_log_bin = 0;
                 create user poor@'%' identified by 'x' require ssl; grant select on t.* to poor@'%';
                 create user shut@'10.1.%' identified by 'x' account lock;
                 grant select on t.* to shut@'10.1.%';
                 create user poor@'10.%' identified by 'x';
                 grant select on t.* to poor@'10.%'; grant select on t.* to same@'%' with grant option;",
            )
            .unwrap();
        let report = preflight(&blue, &green).await;
        let found = report.find("logins").unwrap();
        assert_eq!(found.severity, Severity::Warning, "{name}:\n{report}");
        let objects = found.objects.join("\n");
        for expected in [
            "'gone'@'%' is missing",
            "'poor'@'%' lacks UPDATE on `t`.*",
            "'poor'@'%' requires TLS (ANY)",
            "the role `reader`",
            "'shut'@'10.1.%' is locked",
            "'poor'@'10.%' is there only",
        ] {
            assert!(objects.contains(expected), "{name}: {expected}:\n{report}");
        }
        assert!(!objects.contains("elsewhere") && !objects.contains("mover"), "{name}: {objects}");
        let differ = report.find("logins-differ").unwrap().objects.join("\n");
        assert!(differ.contains("'same'@'%' has in addition"), "{name}: {differ}");
        // The hash of a password is nobody's business.
        let hash = match one.is_mariadb() {
            true => blue.value("select authentication_string from mysql.user where user = 'gone'"),
            false => Ok("$A$".to_owned()),
        };
        let shown = format!("{report} {:?}", found.fix);
        assert!(!shown.contains(&hash.unwrap()) && !shown.contains("hunter2"), "{shown}");

        // A flip is refused for it, unless somebody wants it so.
        let checks = prechecks(&blue, &green, Direction::Forward, "").await;
        assert_eq!(failing(&checks), ["logins"], "{name}: {checks:#?}");
        let accepted = prechecks(&blue, &green, Direction::Forward, "logins").await;
        assert!(failing(&accepted).is_empty(), "{name}: {accepted:#?}");
        // The way back would refuse nobody but whom green alone lets in.
        let back = prechecks(&blue, &green, Direction::Back, "").await;
        let told = evidence(&back, "logins");
        assert!(
            told.contains("'poor'@'10.%' is missing") && told.contains("blue would refuse"),
            "{name}: {told}"
        );

        // What is offered, and what a person does for secrets, mends it.
        let Some(Fix::Advice { text }) = &found.fix else { panic!("{:?}", found.fix) };
        assert!(text.contains("'gone'@'%'") && text.contains("SHOW CREATE USER"), "{text}");
        let (_, statements) = text.split_once("; then: ").unwrap();
        let create =
            if one.is_mariadb() { "create role reader" } else { "create role 'reader'@'%'" };
        green.run(&format!("create user gone@'%' identified by 'hunter2'; {create}")).ok();
        for statement in statements.split("; ").filter(|one| !one.starts_with("CREATE ROLE")) {
            green.run(statement).unwrap_or_else(|error| panic!("{statement}: {error:#}"));
        }
        green.run("grant select on t.* to reader").unwrap();
        let checks = prechecks(&blue, &green, Direction::Forward, "").await;
        assert_eq!(failing(&checks), Vec::<&str>::new(), "{name}: {}", evidence(&checks, "logins"));

        // What the fence has locked is judged as it was before.
        let claim = r#"{"claim":{},"undo":{"accounts":["'gone'@'%'"]}}"#;
        blue.run(&format!(
            "set session sql_log_bin = 0; alter user gone@'%' account lock;
             create database _cutover; create table _cutover.fence (id tinyint primary key,
               closed_by text, undo_list longtext, closed_at datetime(6));
             insert into _cutover.fence values (1, 'x', '{}', now(6))",
            claim.replace('\'', "''")
        ))
        .unwrap();
        let back = prechecks(&blue, &green, Direction::Back, "").await;
        assert!(!evidence(&back, "logins").contains("'gone'"), "{name}: {back:#?}");
        blue.run("delete from _cutover.fence").unwrap();
        let back = prechecks(&blue, &green, Direction::Back, "").await;
        assert!(evidence(&back, "logins").contains("'gone'@'%' is locked"), "{name}: {back:#?}");
        blue.run("alter user gone@'%' account unlock; drop database _cutover").unwrap();

        // Somebody else is in our own database, or may write there.
        green
            .run(
                "set session sql_log_bin = 0; create database _cutover;
                 create table _cutover.progress (id int primary key); create table _cutover.theirs (id int);
                 create trigger _cutover.tr before update on _cutover.progress for each row set @a = 1;
                 create user writes@'%' identified by 'x'; grant select, update on *.* to writes@'%';
                 create user looker@'%' identified by 'x'; grant select on _cutover.* to looker@'%';
                 create user neighbour@'%' identified by 'x'; grant all on `shop%`.* to neighbour@'%';",
            )
            .unwrap();
        let report = preflight(&blue, &green).await;
        for (id, severity, object) in [
            ("own-triggers", Severity::Blocker, "_cutover.`tr`"),
            ("own-strangers", Severity::Warning, "_cutover.`theirs`"),
            ("own-writers", Severity::Warning, "'writes'@'%'"),
            ("own-rights", Severity::Blocker, "'looker'@'%': SELECT on `_cutover`.*"),
        ] {
            let found = report.find(id).unwrap_or_else(|| panic!("{name} {id}:\n{report}"));
            assert_eq!(
                (found.severity, found.objects.join(" ")),
                (severity, object.into()),
                "{name}"
            );
        }
        green
            .run("drop database _cutover; drop user writes@'%', looker@'%', neighbour@'%'")
            .unwrap();

        // Settings and definitions that came by no stream.
        green
            .run(
                "set session sql_log_bin = 0; set global sql_mode = concat(@@global.sql_mode, ',ANSI_QUOTES');
                 set global time_zone = '+02:00'; set global innodb_strict_mode = off",
            )
            .unwrap();
        blue.run(
            "set session sql_log_bin = 0; create table t.a (id int primary key, v int);
             create procedure t.p() select 1; create view t.v as select id from t.a;",
        )
        .unwrap();
        green
            .run(
                "set session sql_log_bin = 0; set session sql_mode = '';
                 create table t.a (id int primary key, v int, key extra (v));
                 create procedure t.p() select 2; create view t.v as select id from t.a;",
            )
            .unwrap();
        let checks = prechecks(&blue, &green, Direction::Forward, "").await;
        assert_eq!(failing(&checks), ["settings", "definitions"], "{name}: {checks:#?}");
        let settings = evidence(&checks, "settings");
        assert!(
            settings.contains("sql_mode") && settings.contains("time_zone"),
            "{name}: {settings}"
        );
        assert!(!settings.contains("innodb_strict_mode"), "{name}: {settings}");
        let told = evidence(&checks, "settings-differ");
        assert!(told.contains("innodb_strict_mode"), "{name}: {told}");
        let definitions = evidence(&checks, "definitions");
        assert!(definitions.contains("procedure `t`.`p`"), "{name}: {definitions}");
        assert!(definitions.contains("SHOW CREATE PROCEDURE `t`.`p`"), "{name}: {definitions}");
        // What is offered makes them equal.
        let found = preflight(&blue, &green).await;
        for id in ["settings", "settings-differ"] {
            let Some(Fix::Sql { statements, .. }) = &found.find(id).unwrap().fix else {
                panic!("{id}")
            };
            for statement in statements {
                green.run(statement).unwrap_or_else(|error| panic!("{statement}: {error:#}"));
            }
        }
        green
            .run("set session sql_mode = @@global.sql_mode; drop procedure t.p; create procedure t.p() select 1")
            .unwrap();
        let checks = prechecks(&blue, &green, Direction::Forward, "").await;
        assert!(failing(&checks).is_empty(), "{name}: {checks:#?}");
    }
}

/// Who logs in on blue logs in on green with the same password and may do the same.
#[tokio::test]
async fn accounts_are_carried_with_their_secrets() {
    for (one, other) in PAIRS {
        let name = one.name();
        let (blue, green) = (Mysql::start(one, &[]).unwrap(), Mysql::start(other, &[]).unwrap());
        for server in [&blue, &green] {
            server.run(BOTH).unwrap();
        }
        blue.run(
            "set session sql_log_bin = 0;
             create role inner_role; create role outer_role; grant inner_role to outer_role;
             grant select on t.* to inner_role;
             create user app@'%' identified by 'it''s a secret' with max_user_connections 7;
             grant insert on t.* to app@'%'; grant outer_role to app@'%';
             create user elsewhere@'%' identified by 'x'; grant select on other.* to elsewhere@'%';",
        )
        .unwrap();
        let default = if one.is_mariadb() { "for" } else { "to" };
        blue.run(&format!("set default role outer_role {default} app@'%'")).unwrap();
        for server in [&blue, &green] {
            server.run("create table t.a (id int primary key)").unwrap();
        }
        let (from, to) = (url(&blue), url(&green));
        let carry = || carry_accounts(&from, &to, Some("t"));
        let carried = carry().await.unwrap();
        assert!(carried.refused.is_empty(), "{name}: {carried:?}");
        assert_eq!(carried.made.len(), 3, "{name}: {carried:?}");
        assert_eq!(carry().await.unwrap(), CarriedAccounts::default(), "{name}");
        let app = green.login(green.port(), "app", "it's a secret");
        app.run("insert into t.a values (1)").unwrap();
        assert_eq!(app.value("select count(*) from t.a").unwrap(), "1", "{name}");
        let checks = prechecks(&blue, &green, Direction::Forward, "").await;
        assert!(failing(&checks).is_empty(), "{name}: {checks:#?}");
        assert!(!evidence(&checks, "logins-differ").contains("'app'"), "{name}: {checks:#?}");
    }
}

#[tokio::test]
async fn a_green_that_lost_its_database_is_told_from_one_that_is_empty() {
    for (one, other) in PAIRS {
        let (blue, green) = (Mysql::start(one, &[]).unwrap(), Mysql::start(other, &[]).unwrap());
        for server in [&blue, &green] {
            server.run(BOTH).unwrap();
        }
        blue.run("create table t.a (id int primary key)").unwrap();
        green
            .run(
                "create database _cutover; create table _cutover.copy_notes (pipeline varchar(64),
                   kind varchar(16), db varchar(64), name varchar(64), state varchar(16), detail longtext);
                 insert into _cutover.copy_notes values ('main', 'table', 't', 'a', 'copied', '')",
            )
            .unwrap();
        let report = preflight(&blue, &green).await;
        assert!(report.find("leftovers").is_none(), "{report}");
        green.run("drop database t").unwrap();
        let report = preflight(&blue, &green).await;
        let found = report.find("leftovers").unwrap();
        assert_eq!(
            (found.severity, &found.objects[..]),
            (Severity::Blocker, &["`t`".to_owned()][..])
        );
        let Some(Fix::Advice { text }) = &found.fix else { panic!("{:?}", found.fix) };
        assert!(text.contains("teardown --yes"), "{text}");
    }
}
