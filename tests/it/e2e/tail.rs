//! `replicator tail`: blue's changes as JSON lines.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::postgres::Postgres;
use tests::process::Launch;
use tests::wait;

use super::SOON;

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_printed_as_json_lines_and_nothing_is_left_behind() -> Result<()> {
    for major in [10, 15, 18] {
        let blue = Postgres::start_major(major)?;
        let table =
            "CREATE TABLE t (id int PRIMARY KEY, name text); ALTER TABLE t REPLICA IDENTITY FULL";
        blue.execute("postgres", table).await?;
        let scratch = tests::scratch::Scratch::new()?;
        let mut tail = Launch::ours("replicator")?
            .args(["tail", "--limit", "3", "--blue", &blue.url("postgres")])
            .start(&scratch.path().join("tail"))?;
        let active = "SELECT count(*) FROM pg_replication_slots WHERE active";
        wait::until("the slot to be read", SOON, || {
            let ended = tail.ended();
            let log = tail.log_tail();
            let blue = &blue;
            async move {
                ensure!(ended?.is_none(), "it ended: {log}");
                Ok((blue.value("postgres", active).await? == "1").then_some(()))
            }
        })
        .await?;
        for sql in [
            "INSERT INTO t VALUES (1, 'ä \"quoted\"')",
            "UPDATE t SET name = NULL",
            "DELETE FROM t WHERE id = 1",
        ] {
            blue.execute("postgres", sql).await?;
        }
        let status = tail.wait(SOON)?;
        ensure!(status.success(), "{status}: {}", tail.log_tail());

        let said = tail.stdout()?;
        let lines: Vec<Value> = said.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        assert_eq!(lines.len(), 3, "{said}");
        for line in &lines {
            for field in [
                "id",
                "op",
                "schema",
                "table",
                "keys",
                "committed_at",
                "transaction_id",
                "position",
            ] {
                ensure!(!line[field].is_null(), "{field} is missing in {line}");
            }
            assert_eq!((&line["schema"], &line["table"]), (&json!("public"), &json!("t")));
        }
        let after = &lines[0]["after"];
        assert_eq!(after["name"], json!("ä \"quoted\""), "{after}");
        assert_eq!(lines[1]["after"]["name"], Value::Null, "{}", lines[1]);
        assert_eq!(lines[1]["before"]["name"], json!("ä \"quoted\""), "{}", lines[1]);
        assert!(lines[2]["after"].is_null(), "{}", lines[2]);
        wait::until("slot and publication to be gone", SOON, || async {
            let left = "SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_publication)";
            Ok((blue.value("postgres", left).await? == "0").then_some(()))
        })
        .await
        .with_context(|| format!("PostgreSQL {major}"))?;
    }
    Ok(())
}
