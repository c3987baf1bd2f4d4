//! What PgBouncer's prechecks find, and a hold that is cut short.

use std::time::Duration;

use cutover::Side;
use cutover::api::{Check, Severity};
use cutover::ports::{Epoch, TrafficSwitch};
use cutover::switch::{Switch, SwitchConfig};

use super::flip::{SCHEMA, switch};
use super::support::{Login, PAUSE, PgBouncer, Postgres, deadline, number, text};

fn named(bouncer: &PgBouncer, databases: &[&str], file: &str, blue: &Login) -> Switch {
    let config: SwitchConfig = toml::from_str(&format!(
        "[[pgbouncer]]\nadmin = \"{}\"\nconfig_file = \"{file}\"\ndatabase = {databases:?}\n",
        bouncer.client("pgbouncer").0,
    ))
    .unwrap();
    Switch::new(&config, blue.info(), blue.info()).unwrap()
}

/// The checks of one severity, by name, and what they say.
async fn found(switch: &Switch, severity: Severity) -> Vec<(String, String)> {
    let checks = switch.inspect(Side::Blue, PAUSE).await.unwrap();
    let of = |check: &Check| {
        let name = check.name.split(' ').next().unwrap_or_default();
        (name.to_owned(), check.evidence.clone())
    };
    checks.iter().filter(|check| check.severity == severity).map(of).collect()
}

#[test]
fn an_entry_that_can_not_be_held_is_refused() {
    let text = "[[pgbouncer]]\nadmin = \"\"\nconfig_file = \"\"\ndatabase = [\"shop\", \"*\"]";
    let error = toml::from_str::<SwitchConfig>(text).unwrap().validate().unwrap_err();
    assert!(error.to_string().contains("holds clients by name only"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_name_of_blue_has_to_be_configured() {
    let server = Postgres::start().await;
    let blue = server.database("shop", SCHEMA).await;
    let bouncer = PgBouncer::start("shop", server.port, "shop", "transaction").await;
    let file = bouncer.ini.display().to_string();
    let port = server.port;
    bouncer
        .edit(|text| {
            text.replace(
                "[databases]\n",
                &format!(
                    "[databases]\nshop_ro = host=127.0.0.1 port={port} dbname=shop\n\
                     replica = host=replica port={port} dbname=shop\n\
                     other = host=127.0.0.1 port={port} dbname=postgres\n\
                     * = host=127.0.0.1 port={port}\n"
                ),
            )
        })
        .await;
    let one = named(&bouncer, &["shop"], &file, &blue);
    let fails = found(&one, Severity::Fail).await;
    assert_eq!(fails.len(), 1, "{fails:?}");
    assert_eq!(fails[0].0, "pgbouncer-aliases");
    assert!(fails[0].1.ends_with(": shop_ro"), "{fails:?}");
    let warns = found(&one, Severity::Warn).await;
    assert_eq!(warns.len(), 1, "{warns:?}");
    assert!(warns[0].1.ends_with(": replica"), "{warns:?}");

    let both = named(&bouncer, &["shop", "shop_ro"], &file, &blue);
    assert_eq!(found(&both, Severity::Fail).await, []);
    both.arm(Side::Green, deadline()).await.unwrap();
    both.hold(Epoch(1), deadline()).await.unwrap();
    both.release(Epoch(1), deadline()).await.unwrap();

    let mixed = named(&bouncer, &["shop", "shop_ro", "other"], &file, &blue);
    let fails = found(&mixed, Severity::Fail).await;
    assert_eq!(fails[0].0, "pgbouncer-databases");
    assert!(fails[0].1.contains("other to 127.0.0.1"), "{fails:?}");

    // Without an entry of that name `*` leads there.
    bouncer.edit(|text| text.replace("\nshop = ", "\nmain = ")).await;
    let main = named(&bouncer, &["main", "shop_ro"], &file, &blue);
    let fails = found(&main, Severity::Fail).await;
    assert!(fails[0].1.contains("neither held nor moved: *"), "{fails:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_pgbouncer_does_not_read_is_found() {
    let server = Postgres::start().await;
    let blue = server.database("shop", SCHEMA).await;
    let bouncer = PgBouncer::start("shop", server.port, "shop", "transaction").await;
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("pgbouncer.ini");
    std::fs::copy(&bouncer.ini, &copy).unwrap();
    let switch = named(&bouncer, &["shop"], copy.to_str().unwrap(), &blue);
    assert_eq!(found(&switch, Severity::Fail).await, []);
    let warns = found(&switch, Severity::Warn).await;
    assert!(warns[0].1.contains(bouncer.ini.to_str().unwrap()), "{warns:?}");

    let text = std::fs::read_to_string(&copy).unwrap();
    std::fs::write(&copy, text.replace("host=127.0.0.1", "host=elsewhere")).unwrap();
    let fails = found(&switch, Severity::Fail).await;
    assert_eq!(fails.len(), 1, "{fails:?}");
    assert!(fails[0].1.contains("shop leads to elsewhere:"), "{fails:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn users_in_session_mode_are_named() {
    let server = Postgres::start().await;
    let blue = server.database("shop", SCHEMA).await;
    blue.open().await.batch_execute("CREATE ROLE slow LOGIN").await.unwrap();
    let bouncer = PgBouncer::start("shop", server.port, "shop", "transaction").await;
    bouncer.edit(|text| format!("{text}[users]\nslow = pool_mode=session\n")).await;
    let switch = switch(&[&bouncer], &blue, &blue);
    assert_eq!(found(&switch, Severity::Fail).await, []);
    let warns = found(&switch, Severity::Warn).await;
    assert!(warns[0].1.ends_with(": slow"), "{warns:?}");
    let slow = Login(bouncer.client("shop").0.replace("postgres@", "slow@"));
    let session = slow.open().await;
    assert_eq!(number(&session, "SELECT 1").await, 1);
    let fails = found(&switch, Severity::Fail).await;
    assert!(fails[0].1.ends_with(": slow"), "{fails:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_is_cut_short_anywhere_does_not_pause_after_the_release() {
    let server = Postgres::start().await;
    let blue = server.database("shop", SCHEMA).await;
    let bouncer = PgBouncer::start("shop", server.port, "shop", "transaction").await;
    let switch = switch(&[&bouncer], &blue, &blue);
    switch.arm(Side::Green, deadline()).await.unwrap();
    let console = bouncer.client("pgbouncer").open().await;
    let client = bouncer.client("shop").open().await;
    for step in 0..150 {
        let cut = Duration::from_micros(step * 40);
        // An error means that it was cut short; both are meant to happen.
        let held = tokio::time::timeout(cut, switch.hold(Epoch(step), deadline())).await;
        assert!(!matches!(held, Ok(Err(_))), "{held:?}");
        switch.release(Epoch(step), deadline()).await.unwrap();
        for _ in 0..10 {
            let rows = console.simple_query("SHOW DATABASES").await.unwrap();
            let paused = rows.iter().any(|row| {
                matches!(row, tokio_postgres::SimpleQueryMessage::Row(row)
                    if row.get("paused") == Some("1"))
            });
            assert!(!paused, "paused after a release ({step})");
        }
        assert_eq!(text(&client, "SELECT 1").await.as_deref(), Some("1"));
    }
}
