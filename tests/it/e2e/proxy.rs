//! The embedded proxy as a process of its own.

use anyhow::{Context, Result, ensure};
use tests::embedded::Embedded;
use tests::pgbench::{self, Pgbench};
use tests::postgres::Postgres;
use tests::process::{Launch, Process};
use tests::scratch::Scratch;
use tests::stage::DATABASE;
use tests::wait;

use super::{SOON, from_env};

/// Two servers and a proxy in front of them, no sidecar.
struct Bed {
    blue: Postgres,
    green: Postgres,
    proxy: Process,
    embedded: Embedded,
    scratch: Scratch,
}

impl Bed {
    async fn set(blue: u32, green: u32) -> Result<Bed> {
        let (blue, green) = (Postgres::start_major(blue)?, Postgres::start_major(green)?);
        for server in [&blue, &green] {
            server.create_database(DATABASE).await?;
        }
        let scratch = Scratch::new()?;
        let embedded = Embedded::at(scratch.path().join("proxy.sock"))?;
        let config = format!(
            "state_dir = {:?}\n[blue]\nurl = {:?}\n[green]\nurl = {:?}\n\
             [cutover.proxy]\nlisten = \"127.0.0.1:{}\"\n",
            scratch.path(),
            blue.url(DATABASE),
            green.url(DATABASE),
            embedded.port()
        );
        let file = scratch.path().join("proxy.toml");
        std::fs::write(&file, config)?;
        let proxy = Launch::ours("replicator")?.arg("proxy").arg("--config").arg(file);
        let proxy = proxy.start(&scratch.path().join("proxy"))?;
        wait::until("the proxy to answer", SOON, || async { Ok(embedded.status().ok()) }).await?;
        Ok(Bed { blue, green, proxy, embedded, scratch })
    }
}

/// Nobody notices: a workload that somebody else wrote, moved back and forth in each of its
/// protocols. Both servers do without each other's rows; each has to be consistent in itself.
/// `TURNS=200` for the long form.
#[tokio::test(flavor = "multi_thread")]
async fn pgbench_moves_back_and_forth_without_an_error() -> Result<()> {
    let mut bed = Bed::set(15, 17).await?;
    for server in [&bed.blue, &bed.green] {
        pgbench::init(&server.url(DATABASE), 1)?;
    }
    let url = bed.embedded.url_as("postgres", DATABASE);
    let mut serial = 0;
    for protocol in ["simple", "extended", "prepared"] {
        let log = bed.scratch.path().join(format!("pgbench-{protocol}"));
        let mut load = Pgbench::start_as(protocol, &url, 8, 1_000, &log)?;
        for turn in 0..from_env("TURNS", 6) {
            // Something is under way, on the side where it is now.
            let now = if turn % 2 == 0 { &bed.blue } else { &bed.green };
            let count = "SELECT count(*) FROM pgbench_history";
            let before: u64 = now.value(DATABASE, count).await?.parse()?;
            let more = wait::until("pgbench to write", SOON, || async {
                let rows: u64 = now.value(DATABASE, count).await?.parse()?;
                Ok((rows >= before + 30).then_some(()))
            });
            more.await.with_context(|| {
                format!("turn {turn}, {protocol}: {:?}, {:?}", load.seen(), bed.embedded.status())
            })?;
            serial += 1;
            bed.embedded.turn(1, serial, if turn % 2 == 0 { "green" } else { "blue" })?;
        }
        let seen = load.stop()?;
        ensure!(seen.errors.is_empty(), "{protocol}: {:?}", seen.errors);
    }
    let status = bed.embedded.status()?;
    ensure!(status["cut"] == 0, "{status}");
    ensure!(status["moved"].as_u64().is_some_and(|moved| moved > 0), "{status}");
    ensure!(bed.proxy.is_running(), "{}", bed.proxy.log_tail());
    for server in [&bed.blue, &bed.green] {
        pgbench::check(&server.connect(DATABASE).await?).await?;
    }
    Ok(())
}
