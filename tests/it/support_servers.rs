//! The servers that the other tests stand on.

use std::time::Duration;

use anyhow::Result;
use tests::postgres::{Postgres, Stop};
use tests::{process, wait};

const MAJORS: [u32; 9] = [10, 11, 12, 13, 14, 15, 16, 17, 18];

#[tokio::test(flavor = "multi_thread")]
async fn every_major_starts_answers_and_stops() -> Result<()> {
    for major in MAJORS {
        let mut server = Postgres::start_major(major)?;
        let version: u32 = server.value("postgres", "SHOW server_version_num").await?.parse()?;
        assert_eq!(version / 10_000, major);
        assert_eq!(server.value("postgres", "SHOW wal_level").await?, "logical");
        server.stop(Stop::Fast)?;
        assert!(!server.is_running());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ways_in_work() -> Result<()> {
    let server = Postgres::start_major(15)?;
    for url in [server.url("postgres"), server.unix_url("postgres")] {
        let client = tests::postgres::connect_url(&url).await?;
        let rows = tests::postgres::rows(&client, "SELECT current_user").await?;
        assert_eq!(rows, [[Some("postgres".to_owned())]]);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_server_leaves_no_process_and_comes_back_with_its_data() -> Result<()> {
    let mut server = Postgres::start_major(15)?;
    server.execute("postgres", "CREATE TABLE t AS SELECT 1 AS x").await?;
    let port = server.port();
    let postmaster = server.pid().expect("it runs");
    let children = process::children_of(postmaster);
    assert!(!children.is_empty());

    server.kill9()?;
    assert!(!process::is_alive(postmaster));
    assert!(!children.iter().any(|pid| process::is_alive(*pid)));

    server.start()?;
    assert_eq!(server.port(), port);
    assert_eq!(server.value("postgres", "SELECT x FROM t").await?, "1");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_server_is_gone() -> Result<()> {
    let server = Postgres::start_major(15)?;
    let pid = server.pid().expect("it runs");
    let data = server.data_directory().to_path_buf();
    drop(server);
    assert!(!process::is_alive(pid));
    assert!(!data.exists());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_change_with_a_restart() -> Result<()> {
    let mut server = Postgres::builder(15).setting("work_mem", "5MB").start()?;
    assert_eq!(server.value("postgres", "SHOW work_mem").await?, "5MB");
    server.set("max_connections", "33")?;
    server.restart(Stop::Fast)?;
    assert_eq!(server.value("postgres", "SHOW max_connections").await?, "33");
    server.set("work_mem", "6MB")?;
    server.reload()?;
    wait::until("the new work_mem", Duration::from_secs(10), || async {
        Ok((server.value("postgres", "SHOW work_mem").await? == "6MB").then_some(()))
    })
    .await
}

/// The setting that fails is named, not only that something failed.
#[test]
fn a_server_that_does_not_start_says_why() {
    let refused = Postgres::builder(15).setting("no_such_setting", "1").start();
    let message = format!("{:#}", refused.expect_err("it must not start"));
    assert!(message.contains("no_such_setting"), "{message}");
}

/// The kernel ends children with the thread that started them: that must not be a test thread.
#[test]
fn a_child_outlives_the_thread_that_started_it_but_not_its_value() -> Result<()> {
    let scratch = tests::scratch::Scratch::new()?;
    let sleeper = process::Launch::new("sleep").arg("600").start(&scratch.path().join("sleep"))?;
    let pid = sleeper.pid();
    let thread = std::thread::spawn(move || sleeper);
    // The thread that held the value is gone; the child must not be.
    let sleeper = thread.join().expect("the thread ended well");
    assert!(process::is_alive(pid));
    drop(sleeper);
    assert!(!process::is_alive(pid));
    Ok(())
}
