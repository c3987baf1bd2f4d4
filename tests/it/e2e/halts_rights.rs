//! What a role may do, where it logs in and what belongs to the stream is taken away, and given back: the
//! stream halts, and goes on by itself.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::compare::{self, Sequences};
use tests::process::Process;
use tests::stage::{APP, DATABASE, Stage};
use tests::wait;

use super::SOON;
use super::alerts::Receiver;
use super::halts::{Watched, config};

/// Something that a superuser does, with the database that he does it in.
#[derive(Clone, Copy)]
enum On {
    Blue(&'static str, &'static str),
    Green(&'static str, &'static str),
}
use On::{Blue, Green};

struct Cause {
    name: &'static str,
    done: &'static [On],
    /// The error has to say so.
    told: &'static str,
    mended: &'static [On],
}

const ELSEWHERE: &str = "postgres";
const OUT: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'mover'";

const CAUSES: [Cause; 10] = [
    Cause {
        name: "the role may not write on green any more",
        done: &[Green(ELSEWHERE, "REVOKE app FROM mover")],
        told: "permission denied",
        mended: &[Green(ELSEWHERE, "GRANT app TO mover")],
    },
    Cause {
        name: "row level security on green",
        done: &[Green(
            DATABASE,
            "ALTER TABLE t ENABLE ROW LEVEL SECURITY; ALTER TABLE t FORCE ROW LEVEL SECURITY",
        )],
        told: "\"t\"",
        mended: &[Green(
            DATABASE,
            "ALTER TABLE t DISABLE ROW LEVEL SECURITY; ALTER TABLE t NO FORCE ROW LEVEL SECURITY",
        )],
    },
    Cause {
        name: "a rule on green that the role may not switch off",
        done: &[Green(
            DATABASE,
            "CREATE ROLE stranger; GRANT ALL ON t TO app; ALTER TABLE t OWNER TO stranger; \
             CREATE RULE nothing AS ON INSERT TO t DO INSTEAD NOTHING; \
             ALTER TABLE t ENABLE ALWAYS RULE nothing",
        )],
        told: "\"t\"",
        mended: &[Green(DATABASE, "DROP RULE nothing ON t; ALTER TABLE t OWNER TO app")],
    },
    Cause {
        name: "an exclusion constraint that only green has",
        done: &[
            Green(DATABASE, "ALTER TABLE t ADD CONSTRAINT alone EXCLUDE USING hash (a WITH =)"),
            Blue(DATABASE, "INSERT INTO t (a) VALUES ('twice'), ('twice')"),
        ],
        told: "alone",
        mended: &[Green(DATABASE, "ALTER TABLE t DROP CONSTRAINT alone")],
    },
    Cause {
        name: "the role may not replicate any more",
        done: &[Blue(ELSEWHERE, "ALTER ROLE mover NOREPLICATION"), Blue(ELSEWHERE, OUT)],
        told: "replication",
        mended: &[Blue(ELSEWHERE, "ALTER ROLE mover REPLICATION")],
    },
    Cause {
        name: "the role may not log in on blue any more",
        done: &[Blue(ELSEWHERE, "ALTER ROLE mover NOLOGIN"), Blue(ELSEWHERE, OUT)],
        told: "not permitted to log in",
        mended: &[Blue(ELSEWHERE, "ALTER ROLE mover LOGIN")],
    },
    Cause {
        name: "the role may not connect to blue's database any more",
        done: &[
            Blue(ELSEWHERE, "REVOKE CONNECT ON DATABASE shop FROM PUBLIC, mover"),
            Blue(ELSEWHERE, OUT),
        ],
        told: "permission denied for database",
        mended: &[Blue(ELSEWHERE, "GRANT CONNECT ON DATABASE shop TO PUBLIC, mover")],
    },
    Cause {
        name: "the role's password on green was changed",
        done: &[Green(ELSEWHERE, "ALTER ROLE mover PASSWORD 'another'"), Green(ELSEWHERE, OUT)],
        told: "password",
        mended: &[Green(ELSEWHERE, "ALTER ROLE mover PASSWORD 'sesame'")],
    },
    Cause {
        name: "green's database was renamed",
        done: &[
            Green(ELSEWHERE, "ALTER DATABASE shop ALLOW_CONNECTIONS false"),
            Green(ELSEWHERE, OUT),
            Green(ELSEWHERE, "ALTER DATABASE shop RENAME TO away"),
            Green(ELSEWHERE, "ALTER DATABASE away ALLOW_CONNECTIONS true"),
        ],
        told: "does not exist",
        mended: &[Green(ELSEWHERE, "ALTER DATABASE away RENAME TO shop")],
    },
    Cause {
        name: "the progress on green is gone",
        done: &[Green(
            DATABASE,
            "CREATE TABLE _cutover.kept AS TABLE _cutover.progress; DELETE FROM _cutover.progress",
        )],
        told: "progress",
        mended: &[Green(
            DATABASE,
            "INSERT INTO _cutover.progress TABLE _cutover.kept; DROP TABLE _cutover.kept",
        )],
    },
];

/// What stops nothing, because our sessions say themselves that they write: done and taken back.
const HARMLESS: [[&[On]; 2]; 2] = [
    [
        &[
            Green(ELSEWHERE, "ALTER ROLE mover SET default_transaction_read_only = on"),
            Green(ELSEWHERE, OUT),
        ],
        &[Green(ELSEWHERE, "ALTER ROLE mover RESET default_transaction_read_only")],
    ],
    [
        &[
            Green(ELSEWHERE, "ALTER SYSTEM SET default_transaction_read_only = on"),
            Green(ELSEWHERE, "SELECT pg_reload_conf()"),
        ],
        &[
            Green(ELSEWHERE, "ALTER SYSTEM RESET default_transaction_read_only"),
            Green(ELSEWHERE, "SELECT pg_reload_conf()"),
        ],
    ],
];

/// What can't be given back.
#[derive(Clone, Copy)]
struct Lost {
    name: &'static str,
    on_blue: &'static str,
    /// As if that were a remedy.
    then_on_blue: &'static str,
    told: &'static str,
}

const LOST: [Lost; 2] = [
    Lost {
        name: "the publication was dropped while rows were written",
        on_blue: "DROP PUBLICATION cutover_shop",
        then_on_blue: "CREATE PUBLICATION cutover_shop FOR TABLE t",
        told: "cutover_shop",
    },
    Lost {
        name: "the slot was dropped",
        on_blue: "SELECT pg_drop_replication_slot('cutover_shop')",
        then_on_blue: "SELECT pg_create_logical_replication_slot('cutover_shop', 'pgoutput')",
        told: "slot",
    },
];

/// Every statement by itself: some can't be in a transaction with others.
async fn act(stage: &Stage, acts: &[On]) -> Result<()> {
    for on in acts {
        let (server, database, sql) = match on {
            Blue(database, sql) => (&stage.blue, database, sql),
            Green(database, sql) => (&stage.green, database, sql),
        };
        server.execute(database, sql).await.with_context(|| sql.to_string())?;
    }
    Ok(())
}

/// A role with what the documents ask for, and no more; on green it needs a password.
async fn set(receiver: &Receiver) -> Result<Stage> {
    let builder = Stage::builder(15, 17).routers(0).config(&config(receiver));
    let stage = builder.green_hba("host shop mover all scram-sha-256").start().await?;
    stage
        .on_blue("CREATE TABLE t (id serial PRIMARY KEY, a text); INSERT INTO t (a) VALUES ('x')")
        .await?;
    for server in [&stage.blue, &stage.green] {
        let sql = format!(
            "CREATE ROLE mover LOGIN REPLICATION PASSWORD 'sesame'; \
             GRANT {APP}, pg_signal_backend, pg_read_all_stats TO mover; \
             ALTER DATABASE {DATABASE} OWNER TO mover"
        );
        server.execute(ELSEWHERE, &sql).await?;
        let public = format!("GRANT CREATE ON SCHEMA public TO {APP}");
        server.execute(DATABASE, &public).await?;
    }
    let grant = "GRANT SET ON PARAMETER session_replication_role TO mover";
    stage.green.execute(ELSEWHERE, grant).await?;
    let config = stage.config()?.replace("//postgres@", "//mover:sesame@");
    tests::scratch::write_private(&stage.config_file(), config)?;
    Ok(stage)
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_taken_away_it_goes_on_once_it_is_given_back() -> Result<()> {
    let receiver = Receiver::start()?;
    let stage = set(&receiver).await?;
    let mut sidecar = stage.replicator()?;
    stage.wait_streaming(&mut sidecar, 1.0, 2 * SOON).await?;
    let pid = sidecar.pid();
    for (before, cause) in CAUSES.iter().enumerate() {
        let mut watched = Watched { api: stage.api(), sidecar: &mut sidecar, receiver: &receiver };
        let went = async {
            act(&stage, cause.done).await?;
            let write = format!("INSERT INTO t (a) VALUES ('row {before}')");
            stage.blue.execute(DATABASE, &write).await?;
            watched.halts(cause.told, before).await?;
            act(&stage, cause.mended).await?;
            watched.goes_on(before).await
        };
        let went = went.await;
        went.with_context(|| format!("{}: {}", cause.name, sidecar.log_tail()))?;
    }
    ensure!(sidecar.pid() == pid && sidecar.is_running(), "it has died meanwhile");
    ensure!(!sidecar.stderr()?.contains("sesame"), "a password in the log");
    for [done, undone] in HARMLESS {
        act(&stage, done).await?;
        stage.blue.execute(DATABASE, "INSERT INTO t (a) VALUES ('harmless')").await?;
        arrive(&stage).await.with_context(|| sidecar.log_tail())?;
        act(&stage, undone).await?;
    }
    arrive(&stage).await?;
    let (blue, green) = (stage.blue.url(DATABASE), stage.green.url(DATABASE));
    compare::ensure_equal(&blue, &green, Sequences::Ignored).await?;
    for lost in LOST {
        is_lost(&stage, &mut sidecar, lost).await.with_context(|| lost.name)?;
    }
    Ok(())
}

/// Waits until green has as many rows as blue.
async fn arrive(stage: &Stage) -> Result<()> {
    let count = "SELECT count(*) FROM t";
    let rows = stage.blue.value(DATABASE, count).await?;
    wait::until("the last row", SOON, || async {
        Ok((stage.green.value(DATABASE, count).await? == rows).then_some(()))
    })
    .await
}

/// It halts, says that nothing but a new copy helps, and is there all the same once the cause is gone.
async fn is_lost(stage: &Stage, sidecar: &mut Process, lost: Lost) -> Result<()> {
    wait::until(lost.name, SOON, || async {
        Ok(stage.blue.execute(DATABASE, lost.on_blue).await.ok())
    })
    .await?;
    stage.blue.execute(DATABASE, "INSERT INTO t (a) VALUES ('lost')").await?;
    stage.blue.execute(DATABASE, lost.then_on_blue).await?;
    let is_told = |status: &Value| {
        let text = |field: &str| status["halt"][field].as_str().unwrap_or_default().to_owned();
        status["phase"] == "halted"
            && text("what").contains(lost.told)
            && text("remedy").contains("teardown")
    };
    stage.wait_status(sidecar, lost.told, 2 * SOON, is_told).await?;
    assert_eq!(stage.api().get("/livez")?.status, 200);
    Ok(())
}
