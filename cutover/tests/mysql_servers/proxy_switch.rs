//! The embedded proxy between servers of MySQL and MariaDB, as the controller uses it: what every
//! traffic switch has to do, and what is found before a run.

use std::path::Path;
use std::time::Duration;

use cutover::Side;
use cutover::api::{Check, Severity};
use cutover::evidence::Committed;
use cutover::phase::Verdict;
use cutover::ports::{Epoch, TrafficSwitch};
use cutover::proxy::control::{Order, order};
use cutover::switch::{Switch, SwitchConfig};
use decoders::mysql::server::ServerUrl;

use super::proxy::{Stage, on_both_families, sites};
use super::support::{Version, deadline, open, text, until};

/// The longest that a run may take, as the plan knows it.
const PAUSE: Duration = Duration::from_secs(2);

on_both_families!(a_run_forth_and_back_through_the_port, what_is_wrong_is_found_beforehand);

fn switch(control: &Path, port: u16, blue: &ServerUrl, green: &ServerUrl) -> Switch {
    let text =
        format!("[proxy]\nlisten = \"127.0.0.1:{port}\"\ncontrol = \"{}\"\n", control.display());
    let config: SwitchConfig = toml::from_str(&text).unwrap();
    Switch::new(&config, blue, green).unwrap()
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

async fn a_run_forth_and_back_through_the_port(versions: (Version, Version)) {
    let (blue, green) = sites(versions).await;
    let mut stage = Stage::start(&blue.mover(), &green.mover()).await;
    let switch = switch(&stage.control, stage.port, &blue.mover(), &green.mover());
    let app = blue.app().at("127.0.0.1", stage.port);
    let mut client = open(&app).await;
    assert_eq!(
        worst(&switch, Side::Blue).await,
        (Severity::Ok, vec!["proxy".into(), "proxy-opposite".into()])
    );
    assert_eq!(worst(&switch, Side::Green).await, (Severity::Fail, vec!["proxy-side".into()]));
    for (epoch, to, port) in
        [(1, Side::Green, green.server.port()), (2, Side::Blue, blue.server.port())]
    {
        let proof = committed(epoch, to);
        switch.arm(to, deadline()).await.unwrap();
        for _ in 0..2 {
            let said = switch.hold(Epoch(epoch), deadline()).await.unwrap();
            assert_eq!(said, "the proxy holds 1 clients");
        }
        assert!(switch.holding(Epoch(epoch), deadline()).await.unwrap());
        // Who comes in the pause waits, and is on the right side then.
        let late = app.clone();
        let late = tokio::spawn(async move {
            let mut late = open(&late).await;
            text(&mut late, "SELECT @@port").await
        });
        for _ in 0..2 {
            let members = switch.switch(&proof, deadline()).await.unwrap();
            assert_eq!(members[0].target, to.name());
        }
        assert!(switch.holding(Epoch(epoch), deadline()).await.unwrap() && !late.is_finished());
        for _ in 0..2 {
            switch.release(Epoch(epoch), deadline()).await.unwrap();
        }
        let members = switch.verify(&proof, deadline()).await.unwrap();
        assert!(members[0].verified, "{members:?}");
        assert_eq!(text(&mut client, "SELECT @@port").await, port.to_string());
        assert_eq!(late.await.unwrap(), port.to_string());
        until("all is well", async || worst(&switch, to).await.0 == Severity::Ok).await;
        // Somebody turns it behind the controller's back.
        for side in [to.other(), to] {
            let what = Order::Route { epoch, side };
            assert_eq!(order(&stage.control, &what).await.unwrap().error, None);
            let members = switch.verify(&proof, deadline()).await.unwrap();
            assert_eq!(members[0].verified, side == to, "{members:?}");
        }
    }
    // It dies while it holds, and when it was told where to lead: another one is where it was.
    switch.hold(Epoch(3), deadline()).await.unwrap();
    stage.crash().await;
    assert!(!switch.holding(Epoch(3), deadline()).await.unwrap());
    let proof = committed(3, Side::Green);
    switch.switch(&proof, deadline()).await.unwrap();
    stage.crash().await;
    switch.release(Epoch(3), deadline()).await.unwrap();
    let members = switch.verify(&proof, deadline()).await.unwrap();
    assert!(members[0].verified, "{members:?}");
    let mut client = open(&app).await;
    assert_eq!(text(&mut client, "SELECT @@port").await, green.server.port().to_string());
}

async fn what_is_wrong_is_found_beforehand(versions: (Version, Version)) {
    let (blue, green) = sites(versions).await;
    blue.server.run("CREATE USER clerk IDENTIFIED BY 'c'; GRANT ALL ON shop.* TO clerk").unwrap();
    // An earlier attempt's green.
    let stage = Stage::start(&blue.mover(), &blue.mover()).await;
    let stale = switch(&stage.control, stage.port, &blue.mover(), &green.mover());
    let wrong = vec!["proxy-ends".to_owned(), "proxy-opposite".to_owned()];
    assert_eq!(worst(&stale, Side::Blue).await, (Severity::Fail, wrong));

    let stage = Stage::start(&blue.mover(), &green.mover()).await;
    let switch = switch(&stage.control, stage.port, &blue.mover(), &green.mover());
    // Past the proxy.
    let direct = open(&blue.app()).await;
    let warned = |name: &str| (Severity::Warn, vec![name.to_owned()]);
    until("it is seen", async || worst(&switch, Side::Blue).await == warned("proxy-beside")).await;
    drop(direct);
    // An account that green lacks.
    let clerk = ServerUrl::parse(&format!("mysql://clerk:c@127.0.0.1:{}/shop", stage.port));
    let mut clerk = open(&clerk.unwrap()).await;
    until("only that is wrong", async || {
        worst(&switch, Side::Blue).await == warned("proxy-logins")
    })
    .await;
    green.server.run("CREATE USER clerk IDENTIFIED BY 'c'; GRANT ALL ON shop.* TO clerk").unwrap();
    until("it is there", async || worst(&switch, Side::Blue).await.0 == Severity::Ok).await;
    text(&mut clerk, "SELECT 1 INTO @x").await;
    until("it is tied", async || worst(&switch, Side::Blue).await == warned("proxy-pinned")).await;
}
