//! The embedded proxy as the controller uses it.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cutover::Side;
use cutover::api::{Check, Severity};
use cutover::evidence::Committed;
use cutover::phase::Verdict;
use cutover::ports::{Epoch, TrafficSwitch};
use cutover::proxy::control::{Answer, Order, order};
use cutover::proxy::{Proxy, ProxyConfig};
use cutover::switch::{Switch, SwitchConfig};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use super::proxy::Stage;
use super::support::{Login, PAUSE, Postgres, deadline, number, until};

fn switch(control: &Path, port: u16, blue: &Login, green: &Login) -> Switch {
    let text =
        format!("[proxy]\nlisten = \"127.0.0.1:{port}\"\ncontrol = \"{}\"\n", control.display());
    let config: SwitchConfig = toml::from_str(&text).unwrap();
    Switch::new(&config, blue.info(), green.info()).unwrap()
}

async fn worst(switch: &Switch, from: Side) -> (Severity, Vec<String>) {
    let checks = switch.inspect(from, PAUSE).await.unwrap();
    let severity = checks.iter().map(|check| check.severity).max().unwrap();
    let name = |check: &Check| check.name.clone();
    let names = checks.iter().filter(|check| check.severity == severity).map(name).collect();
    (severity, names)
}

fn committed(epoch: u64, to: Side) -> Committed {
    Committed::recovered(Epoch(epoch), to, Verdict::Commit).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_forth_and_back_through_the_port() {
    let (one, two) = tokio::join!(Postgres::start(), Postgres::start());
    let (blue, green) = (one.database("shop", "").await, two.database("shop", "").await);
    let stage = Stage::start(&blue, &green).await;
    let switch = switch(&stage.control, stage.port, &blue, &green);
    let client = Login(format!("postgresql://postgres@127.0.0.1:{}/shop", stage.port));
    let client = client.open().await;
    assert_eq!(worst(&switch, Side::Blue).await.0, Severity::Ok);
    assert_eq!(worst(&switch, Side::Green).await, (Severity::Fail, vec!["proxy-side".into()]));
    for (epoch, to, port) in [(1, Side::Green, two.port), (2, Side::Blue, one.port)] {
        let proof = committed(epoch, to);
        switch.arm(to, deadline()).await.unwrap();
        for _ in 0..2 {
            let said = switch.hold(Epoch(epoch), deadline()).await.unwrap();
            assert_eq!(said, "the proxy holds 1 clients");
        }
        assert!(switch.holding(Epoch(epoch), deadline()).await.unwrap());
        for _ in 0..2 {
            let members = switch.switch(&proof, deadline()).await.unwrap();
            assert_eq!(members[0].target, to.name());
        }
        assert!(switch.holding(Epoch(epoch), deadline()).await.unwrap());
        for _ in 0..2 {
            switch.release(Epoch(epoch), deadline()).await.unwrap();
        }
        let members = switch.verify(&proof, deadline()).await.unwrap();
        assert!(members[0].verified, "{members:?}");
        assert_eq!(number(&client, "SELECT inet_server_port()").await, i64::from(port));
        assert_eq!(worst(&switch, to).await.0, Severity::Ok);
    }
    // Who can't be moved is known beforehand.
    client.batch_execute("LISTEN news").await.unwrap();
    assert_eq!(worst(&switch, Side::Blue).await, (Severity::Warn, vec!["proxy-pinned".into()]));
    // Somebody lets them go.
    switch.hold(Epoch(3), deadline()).await.unwrap();
    let release = Order::Release { epoch: 3, serial: 0 };
    order(&stage.control, &release).await.unwrap();
    assert!(!switch.holding(Epoch(3), deadline()).await.unwrap());
}

/// As the controller does: what has no answer by then has failed, and nobody knows why.
async fn hold(switch: &Switch, epoch: u64) -> Result<String, String> {
    let window = tokio::time::Instant::now() + Duration::from_millis(1500);
    let held = tokio::time::timeout_at(window, switch.hold(Epoch(epoch), window)).await;
    held.expect("no answer in the window").map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_in_a_transaction_is_named_or_cut_within_the_window() {
    let (one, two) = tokio::join!(Postgres::start(), Postgres::start());
    let (blue, green) = (one.database("shop", "").await, two.database("shop", "").await);
    for policy in ["wait", "cut"] {
        let text = format!("listen = \"127.0.0.1:0\"\nin_transaction = \"{policy}\"");
        let config: ProxyConfig = toml::from_str(&text).unwrap();
        let stage = Stage::with(config, &blue, &green).await;
        let text = format!(
            "[proxy]\nlisten = \"127.0.0.1:{}\"\ncontrol = \"{}\"\nin_transaction = \"{policy}\"",
            stage.port,
            stage.control.display()
        );
        let config: SwitchConfig = toml::from_str(&text).unwrap();
        let switch = Switch::new(&config, blue.info(), green.info()).unwrap();
        let client = Login(format!("postgresql://postgres@127.0.0.1:{}/shop", stage.port));
        let client = client.open_as("web").await;
        client.batch_execute("BEGIN").await.unwrap();
        let pid = number(&client, "SELECT pg_backend_pid()").await;
        let named =
            format!("1 in a transaction: pid {pid}, user postgres, application \"web\", for ");
        // Whoever lasts longer than the pause may.
        let checks = switch.inspect(Side::Blue, Duration::ZERO).await.unwrap();
        let busy = checks.iter().find(|check| check.name == "proxy-busy").unwrap();
        assert!(busy.evidence.contains(&named), "{busy:?}");
        let held = hold(&switch, 1).await;
        match policy {
            "wait" => {
                let why = held.unwrap_err();
                assert!(why.contains(&named), "{why}");
                switch.release(Epoch(1), deadline()).await.unwrap();
                client.batch_execute("COMMIT").await.unwrap();
                let checks = switch.inspect(Side::Blue, Duration::ZERO).await.unwrap();
                assert!(!checks.iter().any(|check| check.name == "proxy-busy"), "{checks:?}");
            }
            _ => {
                held.unwrap();
                until("it is cut", || async { client.closed_reason().is_some() }).await;
            }
        }
    }
}

/// The server sees the proxy's address, whoever the client is. (These servers trust this host.)
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_trusts_the_proxy_s_host_trusts_everybody() {
    let (one, two) = tokio::join!(Postgres::start(), Postgres::start());
    let (blue, green) = (one.database("shop", "").await, two.database("shop", "").await);
    for (address, wrong) in [("127.0.0.1:0", 0), ("0.0.0.0:0", 2)] {
        let config = ProxyConfig::new(address.parse().unwrap());
        let stage = Stage::with(config, &blue, &green).await;
        let switch = switch(&stage.control, stage.port, &blue, &green);
        let checks = switch.inspect(Side::Blue, PAUSE).await.unwrap();
        let trust: Vec<_> = checks.iter().filter(|check| check.name == "proxy-trust").collect();
        assert_eq!(trust.len(), wrong, "{checks:?}");
        for check in trust {
            assert_eq!(check.severity, Severity::Fail);
            assert!(check.evidence.contains("lets postgres in"), "{check:?}");
        }
    }
}

/// Somebody at a control socket who answers every order alike. The orders that came.
fn answering(control: &Path, answer: &'static str) -> Arc<Mutex<Vec<String>>> {
    let listener = tokio::net::UnixListener::bind(control).unwrap();
    let orders = Arc::new(Mutex::new(Vec::new()));
    let heard = orders.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            heard.lock().unwrap().push(line);
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    orders
}

/// A proxy outlives upgrades of the sidecar, and may be upgraded itself.
#[tokio::test]
async fn a_proxy_of_another_version_gets_no_run() {
    let directory = tempfile::tempdir().unwrap();
    let nowhere = Login("postgresql://postgres@127.0.0.1:9/shop".into());
    let older = concat!(
        r#"{"error":"the order can't be read: unknown field `version`","side":"blue","pid":7}"#,
        "\n"
    );
    let newer = concat!(r#"{"version":99,"error":"no","side":"blue","later":[1]}"#, "\n");
    for (name, answer) in [("older", older), ("newer", newer)] {
        let control = directory.path().join(name);
        let orders = answering(&control, answer);
        let switch = switch(&control, 9, &nowhere, &nowhere);
        let wrong = vec!["proxy-version".to_owned()];
        assert_eq!(worst(&switch, Side::Blue).await, (Severity::Fail, wrong));
        let refused = switch.hold(Epoch(1), deadline()).await.unwrap_err();
        let way_out = refused.remedy.unwrap_or_default();
        assert!(way_out.contains("replicator proxy --stop"), "{name}: {way_out}");
        // What is under way comes to its end with any of them.
        orders.lock().unwrap().clear();
        switch.release(Epoch(1), deadline()).await.unwrap_err();
        let sent = orders.lock().unwrap().concat();
        assert!(sent.contains("release") && !sent.contains("version"), "{sent}");
    }
}

/// A proxy that an earlier attempt has left still leads to that attempt's green: nothing about blue
/// gives it away, and clients must not find out at the flip.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_with_another_green_is_found_beforehand() {
    let (one, two) = tokio::join!(Postgres::start(), Postgres::start());
    let (blue, green) = (one.database("shop", "").await, two.database("shop", "").await);
    let stale = two.database("stale", "").await;
    let stage = Stage::start(&blue, &stale).await;
    let switch = switch(&stage.control, stage.port, &blue, &green);
    let wrong = vec!["proxy-ends".to_owned(), "proxy-opposite".to_owned()];
    assert_eq!(worst(&switch, Side::Blue).await, (Severity::Fail, wrong));
}

/// The text may be the same and the server another one: a name that was given to a new machine, an
/// address that is translated for one of the two.
#[tokio::test(flavor = "multi_thread")]
async fn a_green_that_only_the_proxy_can_not_reach_is_found_beforehand() {
    let (one, two) = tokio::join!(Postgres::start(), Postgres::start());
    let (blue, green) = (one.database("shop", "").await, two.database("shop", "").await);
    green.open().await.batch_execute("CREATE ROLE sidecar SUPERUSER LOGIN").await.unwrap();
    let nobody = Login(green.0.replace("postgres@", "nobody@"));
    let stage = Stage::start(&blue, &nobody).await;
    let sidecar = Login(green.0.replace("postgres@", "sidecar@"));
    let switch = switch(&stage.control, stage.port, &blue, &sidecar);
    let wrong = vec!["proxy-opposite".to_owned()];
    assert_eq!(worst(&switch, Side::Blue).await, (Severity::Fail, wrong));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_green_lacks_is_found_beforehand() {
    let (one, two) = tokio::join!(Postgres::start(), Postgres::start());
    let (blue, green) = (one.database("shop", "").await, two.database("shop", "").await);
    let admin = one.database("admin", "").await.open().await;
    admin.batch_execute("CREATE ROLE clerk LOGIN").await.unwrap();
    let stage = Stage::start(&blue, &green).await;
    let switch = switch(&stage.control, stage.port, &blue, &green);
    let client = Login(format!("postgresql://clerk@127.0.0.1:{}/shop", stage.port)).open().await;
    // Whoever has made the database is on his way out.
    let warned = (Severity::Warn, vec!["proxy-logins".to_owned()]);
    until("only that is wrong", || async { worst(&switch, Side::Blue).await == warned }).await;
    green.open().await.batch_execute("CREATE ROLE clerk LOGIN").await.unwrap();
    assert_eq!(worst(&switch, Side::Blue).await.0, Severity::Ok);
    drop(client);
}

/// After a cutover blue lets nobody in, and the way back begins all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_side_that_is_closed_is_no_obstacle() {
    let (one, two) = tokio::join!(Postgres::start(), Postgres::start());
    let (blue, green) = (one.database("shop", "").await, two.database("shop", "").await);
    let stage = Stage::start(&blue, &green).await;
    let switch = switch(&stage.control, stage.port, &blue, &green);
    switch.switch(&committed(1, Side::Green), deadline()).await.unwrap();
    let admin = one.database("admin", "").await.open().await;
    admin.batch_execute("ALTER DATABASE shop ALLOW_CONNECTIONS false").await.unwrap();
    until("all is well", || async { worst(&switch, Side::Green).await.0 == Severity::Ok }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_hosts_of_which_one_has_to_be_chosen_are_refused() {
    let blue = Login("postgresql://u@one,two/shop?target_session_attrs=read-write".into());
    let green = Login("postgresql://u@three/shop?target_session_attrs=read-write".into());
    let control = tempfile::tempdir().unwrap();
    let config = ProxyConfig::new("127.0.0.1:0".parse().unwrap());
    let control = control.path().join("proxy.sock");
    let started = Proxy::start(config, &control, blue.info(), green.info()).await;
    let error = started.err().unwrap().to_string();
    assert!(error.starts_with("blue: ") && error.contains("target_session_attrs"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_not_there() {
    let server = Postgres::start().await;
    let blue = server.database("shop", "").await;
    let nowhere = switch(Path::new("/tmp/cutover-no-such.sock"), 1, &blue, &blue);
    assert_eq!(worst(&nowhere, Side::Blue).await, (Severity::Fail, vec!["proxy".into()]));
    assert!(nowhere.hold(Epoch(1), deadline()).await.is_err());
    assert!(nowhere.release(Epoch(1), deadline()).await.unwrap_err().in_doubt);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_is_cut_short_anywhere_is_over_with_its_release() {
    let server = Postgres::start().await;
    let blue = server.database("shop", "").await;
    let stage = Stage::start(&blue, &blue).await;
    let switch = switch(&stage.control, stage.port, &blue, &blue);
    let client = Login(format!("postgresql://postgres@127.0.0.1:{}/shop", stage.port));
    let client = client.open().await;
    for step in 0..100 {
        let cut = Duration::from_micros(step * 40);
        // An error means that it was cut short; both are meant to happen.
        let held = tokio::time::timeout(cut, switch.hold(Epoch(step), deadline())).await;
        assert!(!matches!(held, Ok(Err(_))), "{held:?}");
        switch.release(Epoch(step), deadline()).await.unwrap();
        for _ in 0..5 {
            let answer: Answer = order(&stage.control, &Order::Status).await.unwrap();
            assert!(!answer.holding, "held after a release ({step})");
        }
        assert_eq!(number(&client, "SELECT 1").await, 1);
    }
}
