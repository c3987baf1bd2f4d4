//! A way back that halts: green serves on, and what it writes waits for blue.

use anyhow::{Context, Result, ensure};
use tests::stage::{DATABASE, Stage};
use tests::wait;

use super::alerts::Receiver;
use super::halts::{TABLES, Watched, config};
use super::{Move, SOON};

/// What is done to blue, which is closed and read-only, and what green writes then.
struct Cause {
    name: &'static str,
    on_blue: &'static str,
    on_green: &'static str,
    /// The error has to say so.
    told: &'static str,
    remedy_on_blue: &'static str,
}

const CAUSES: [Cause; 5] = [
    Cause {
        name: "a unique index that only blue has",
        on_blue: "SELECT",
        on_green: "INSERT INTO u VALUES (1, 'same'), (2, 'same')",
        told: "alone",
        remedy_on_blue: "DROP INDEX alone",
    },
    Cause {
        name: "a check that only blue has",
        on_blue: "ALTER TABLE t ADD CONSTRAINT short CHECK (length(a) < 9)",
        on_green: "UPDATE t SET a = 'much too long' WHERE id = 3",
        told: "short",
        remedy_on_blue: "ALTER TABLE t DROP CONSTRAINT short",
    },
    Cause {
        name: "a check of another table",
        on_blue: "ALTER TABLE u ADD CONSTRAINT refuses CHECK (id <> 4)",
        on_green: "INSERT INTO u VALUES (4, 'd')",
        told: "refuses",
        remedy_on_blue: "ALTER TABLE u DROP CONSTRAINT refuses",
    },
    Cause {
        name: "a column that was renamed on blue",
        on_blue: "ALTER TABLE u RENAME a TO gone",
        on_green: "INSERT INTO u VALUES (6, 'f')",
        told: "\"u\"",
        remedy_on_blue: "ALTER TABLE u RENAME gone TO a",
    },
    Cause {
        name: "a table that was renamed on blue",
        on_blue: "ALTER TABLE moved RENAME TO elsewhere",
        on_green: "INSERT INTO moved VALUES (1)",
        told: "moved",
        remedy_on_blue: "ALTER TABLE elsewhere RENAME TO moved",
    },
];

/// A superuser's statements on the side that is closed.
pub(super) async fn on_closed_blue(stage: &Stage, sql: &str) -> Result<()> {
    let sql = format!("BEGIN READ WRITE; {sql}; COMMIT");
    wait::until("blue to let us in", SOON, || async {
        // The sidecar closes it behind its own sessions.
        let opened = stage.blue.execute("postgres", "ALTER DATABASE shop ALLOW_CONNECTIONS true");
        opened.await?;
        Ok(stage.blue.execute(DATABASE, &sql).await.ok())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_back_that_halts_goes_on_by_itself() -> Result<()> {
    let receiver = Receiver::start()?;
    let config = format!(
        "{}\n[alerts.way_back_broken]\nraise = 0.5\nclear = 0.5\nfor_seconds = 0.0",
        config(&receiver)
    );
    let builder = Stage::builder(15, 17).config(&config);
    let mut this = Move::streaming_with(builder, TABLES).await?;
    this.stage.blue.execute(DATABASE, "CREATE UNIQUE INDEX alone ON u (a)").await?;
    let accept = "--accept-differences=index \"public\".\"alone\"=it halts the way back";
    let finished = this.stage.cutover(&["--when-lag", "<1s", "--yes", accept], 2 * SOON)?;
    ensure!(finished.code() == 0, "{}", finished.stderr);
    this.more(20).await?;
    for (before, cause) in CAUSES.iter().enumerate() {
        let Move { stage, sidecar, .. } = &mut this;
        let mut watched = Watched { api: stage.api(), sidecar, receiver: &receiver };
        let went = async {
            on_closed_blue(stage, cause.on_blue).await?;
            stage.green.execute(DATABASE, cause.on_green).await?;
            watched.halts_back(cause.told, before).await?;
            on_closed_blue(stage, cause.remedy_on_blue).await?;
            watched.goes_on_back(before).await
        };
        let went = went.await;
        went.with_context(|| format!("{}: {}", cause.name, this.sidecar.log_tail()))?;
    }
    this.more(20).await?;
    let back = this.stage.cutover(&["rollback", "--yes"], 2 * SOON)?;
    ensure!(back.code() == 0, "{}", back.stderr);
    this.more(20).await?;
    this.ledger.stop()?;
    for (rows, expected) in [
        ("SELECT string_agg(concat(id, a), ' ' ORDER BY id) FROM u", "1same 2same 4d 6f"),
        ("SELECT string_agg(id::text, ' ') FROM moved", "1"),
        ("SELECT a FROM t WHERE id = 3", "much too long"),
    ] {
        assert_eq!(this.stage.blue.value(DATABASE, rows).await?, expected, "{rows}");
    }
    this.ledger.check(&this.stage.blue.url(DATABASE)).await?.ensure_exact()
}
