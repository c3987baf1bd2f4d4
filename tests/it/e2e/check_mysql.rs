//! `replicator check` of MySQL and MariaDB: report, exit codes and JSON as for PostgreSQL.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::mysql::{Mysql, Version};
use tests::process::{Finished, Launch};

use super::SOON;

fn check(blue: &str, green: &str, more: &[&str]) -> Result<Finished> {
    let launch = Launch::ours("replicator")?.args(["check", "--green", green]).args(more);
    launch.env("CUTOVER_BLUE", blue).env("MYSQL_PWD", "se cret").run(SOON)
}

fn url(server: &Mysql) -> String {
    let scheme = if server.version().is_mariadb() { "mariadb" } else { "mysql" };
    format!("{scheme}://mover@127.0.0.1:{}/t", server.port())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_way_is_named_with_its_repair_and_an_exit_code() -> Result<()> {
    for version in Version::ALL {
        let (blue, green) = (Mysql::start(version, &[])?, Mysql::start(version, &[])?);
        for server in [&blue, &green] {
            server.run(
                "create database t; create user 'mover'@'%' identified by 'se cret';
                 grant all on *.* to 'mover'@'%';",
            )?;
        }
        blue.run(
            "use t; create table a(id int primary key); create table _a_gho(id int primary key);
             create user 'boss'@'here'; create definer = 'boss'@'here' view v as select * from a;
             xa start 'x'; insert into a values (1); xa end 'x'; xa prepare 'x';",
        )?;
        green.run("create table t.a(id int primary key)")?;
        let (blue_url, green_url) = (url(&blue), url(&green));
        let blocked = check(&blue_url, &green_url, &["--json"])?;
        ensure!(blocked.code() == 3, "exit code {}: {}", blocked.code(), blocked.stderr);
        let report: Value = serde_json::from_str(&blocked.stdout)?;
        let find = |id: &str| -> Result<Value> {
            let findings = report["findings"].as_array().context("findings")?;
            let finding = findings.iter().find(|finding| finding["id"] == id);
            Ok(finding.with_context(|| format!("{id} is missing in {report:#}"))?.clone())
        };
        assert_eq!(find("green-empty")?["severity"], "blocker");
        assert_eq!(find("schema-change")?["objects"][0], "`t`.`_a_gho`");
        assert_eq!(find("prepared-transactions")?["severity"], "warning");
        let fixes = [find("green-empty")?, find("definers")?];
        for statement in fixes.iter().flat_map(|fix| fix["fix"]["statements"].as_array().unwrap()) {
            green.run(statement.as_str().context("a statement")?)?;
        }
        blue.run("xa rollback 'x'; drop table t._a_gho;")?;
        let ready = check(&blue_url, &green_url, &[])?;
        ensure!(ready.code() == 0, "exit code {}:\n{}{}", ready.code(), ready.stdout, ready.stderr);
        for id in ["green-empty", "definers", "binlog-format", "server-ids"] {
            ensure!(ready.stdout.contains(id), "{id} is missing in\n{}", ready.stdout);
        }
        ensure!(!ready.stdout.contains("prepared-transactions"), "{}", ready.stdout);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_without_repeating_a_password() -> Result<()> {
    for (blue, green) in [
        ("mysql://u:hunter2@127.0.0.1/a", "postgres://127.0.0.1/a"),
        ("mysql://u:hunter2@127.0.0.1/a", "mysql://127.0.0.1/b"),
        ("mysql://u:hunter2@127.0.0.1/a?x=1", "mysql://127.0.0.1/a"),
    ] {
        let refused = check(blue, green, &[])?;
        ensure!(refused.code() == 2, "{}: {}", refused.code(), refused.stderr);
        ensure!(!refused.stderr.contains("hunter2"), "{}", refused.stderr);
    }
    Ok(())
}
