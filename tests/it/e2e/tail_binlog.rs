//! `replicator tail` of MySQL and MariaDB: the binlog as JSON lines.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::mysql::{Mysql, Version};
use tests::process::Launch;
use tests::wait;

use super::SOON;

/// The lines that a tail with these arguments prints until it ends by itself.
fn printed(arguments: &[&str]) -> Result<Vec<Value>> {
    let scratch = tests::scratch::Scratch::new()?;
    let mut tail = Launch::ours("replicator")?.args(["tail"]).args(arguments);
    tail = tail.env("MYSQL_PWD", "se cret");
    let mut tail = tail.start(&scratch.path().join("tail"))?;
    let status = tail.wait(SOON)?;
    ensure!(status.success(), "{status}: {}", tail.log_tail());
    tail.stdout()?.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binlog_is_printed_as_json_lines_and_again_from_any_position() -> Result<()> {
    for version in Version::ALL {
        let blue = Mysql::start(version, &[])?;
        blue.run(
            "create database t; create user 'look'@'%' identified by 'se cret';
             grant replication slave, select on *.* to 'look'@'%';
             create table t.a(id int primary key, name varchar(20), b varbinary(3));",
        )?;
        let scratch = tests::scratch::Scratch::new()?;
        let url = format!("mysql://look@127.0.0.1:{}/t", blue.port());
        let mut tail = Launch::ours("replicator")?
            .args(["tail", "--limit", "4", "--blue", &url])
            .env("MYSQL_PWD", "se cret")
            .start(&scratch.path().join("tail"))?;
        let dumps =
            "select count(*) from information_schema.processlist where command like 'Binlog Dump%'";
        wait::until("the binlog to be read", SOON, || {
            let ended = tail.ended();
            let log = tail.log_tail();
            let reading = blue.value(dumps);
            async move {
                ensure!(ended?.is_none(), "it ended: {log}");
                Ok((reading? == "1").then_some(()))
            }
        })
        .await?;
        blue.run(
            "use t; insert into a values (1, 'ä \"quoted\"', x'00ff'); update a set name = null;
             alter table a add column c int; delete from a; insert into a values (9, 'more', null, null);",
        )?;
        let status = tail.wait(SOON)?;
        ensure!(status.success(), "{status}: {}", tail.log_tail());
        let lines = tail.stdout()?;
        let lines: Vec<Value> =
            lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let operations: Vec<&Value> = lines.iter().map(|line| &line["op"]).collect();
        assert_eq!(operations, ["insert", "update", "statement", "delete"], "{lines:#?}");
        let after = json!({"id": "1", "name": "ä \"quoted\"", "b": {"base64": "AP8="}});
        assert_eq!(lines[0]["after"], after);
        assert_eq!(lines[0]["keys"], json!({"id": "1"}));
        assert_eq!(lines[1]["before"], after, "{}", lines[1]);
        assert_eq!(
            (&lines[2]["kind"], &lines[2]["tables"]),
            (&json!("alter_table"), &json!(["t.a"]))
        );
        for line in &lines {
            for field in ["id", "committed_at", "transaction_id", "position"] {
                ensure!(!line[field].is_null(), "{field} is missing in {line}");
            }
        }
        // From the position of each line, the lines behind it.
        for at in 0..3 {
            let from = lines[at]["position"].as_str().expect("a text");
            let limit = (3 - at).to_string();
            let again = printed(&["--blue", &url, "--from", from, "--limit", &limit])?;
            assert_eq!(again, lines[at + 1..], "{}", version.name());
        }
    }
    Ok(())
}
