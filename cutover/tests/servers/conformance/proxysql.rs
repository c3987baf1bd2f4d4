//! ProxySQL's stand-in in front of two servers of MariaDB.

use cutover::Side;
use cutover::ports::{Epoch, TrafficSwitch};
use cutover::switch::Switch;
use tests::proxysql::ProxySql;

use super::super::support::{Login, deadline};
use super::routers::{Told, switch_of};
use super::{Bed, Client, Ends, again, committed, conforms, failed, mysql_client, reached};

/// Where somebody's query rule may lead.
const ELSEWHERE: u32 = 99;

struct OnProxySql(ProxySql, Told);

impl Bed for OnProxySql {
    const WAITS: bool = true;
    const KNOWS: bool = true;
    fn client(&self) -> Login {
        mysql_client(self.0.port())
    }
    fn switch(&self) -> Switch {
        self.1.switch()
    }
    /// A query rule sends clients to a hostgroup of the other side.
    async fn turn(&mut self, ends: &Ends, _epoch: u64, side: Side) {
        let load = "LOAD MYSQL SERVERS TO RUNTIME";
        let remove = format!("DELETE FROM mysql_servers WHERE hostgroup_id={ELSEWHERE}");
        let add = format!(
            "INSERT INTO mysql_servers (hostgroup_id, hostname, port) VALUES \
             ({ELSEWHERE}, '127.0.0.1', {})",
            ends.port(side)
        );
        // Back where it belongs the rule has nothing to say.
        let leads = self.0.tell("SELECT port FROM runtime_mysql_servers WHERE hostgroup_id=10");
        let is_back = leads.unwrap() == [[ends.port(side).to_string()]];
        for statement in [&remove, &add].into_iter().take(if is_back { 1 } else { 2 }) {
            self.0.tell(statement).unwrap();
        }
        self.0.tell(load).unwrap();
        self.0.send_to((!is_back).then_some(ELSEWHERE));
    }
    async fn crash(&mut self) {
        self.0.restart().unwrap();
    }
}

fn config(proxysql: &ProxySql) -> String {
    proxysql.config(&mysql_client(proxysql.port()).0).replace("cutover.", "")
}

#[tokio::test(flavor = "multi_thread")]
async fn proxysql() {
    let ends = Ends::start_mysql().await;
    let proxysql = ProxySql::start(ends.ports[0]).unwrap();
    // What a row says beside its server is kept.
    let comment = "UPDATE mysql_servers SET weight=7, comment='kept'";
    for sql in [comment, "LOAD MYSQL SERVERS TO RUNTIME", "SAVE MYSQL SERVERS TO DISK"] {
        proxysql.tell(sql).unwrap();
    }
    let told = Told::new(&ends, config(&proxysql));
    let mut bed = OnProxySql(proxysql, told);
    conforms(&mut bed, &ends).await;
    for table in ["runtime_mysql_servers", "mysql_servers", "disk.mysql_servers"] {
        let rows = bed.0.tell(&format!("SELECT port, status, weight, comment FROM {table}"));
        let blue = [ends.ports[0].to_string(), "ONLINE".into(), "7".into(), "kept".into()];
        assert_eq!(rows.unwrap(), [blue], "{table}");
    }
}

/// A session that keeps its server connection is cut after a moment, and its client comes to the other
/// side; one that is gone by itself is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn proxysql_cuts_only_who_keeps_a_connection() {
    let ends = Ends::start_mysql().await;
    let proxysql = ProxySql::start(ends.ports[0]).unwrap();
    let switch = switch_of(&config(&proxysql), &ends.blue, &ends.green);
    let client = mysql_client(proxysql.port());
    switch.arm(Side::Green, deadline()).await.unwrap();
    let said = switch.hold(Epoch(1), deadline()).await.unwrap();
    assert_eq!(said, "1/1 proxysqls hold, 0 sessions cut");
    switch.release(Epoch(1), deadline()).await.unwrap();

    let mut keeps = Client::open(&client).await.unwrap();
    let said = switch.hold(Epoch(2), deadline()).await.unwrap();
    assert_eq!(said, "1/1 proxysqls hold, 1 sessions cut");
    assert!(keeps.port().await.is_err(), "it has no server any more");
    let proof = committed(2, Side::Green);
    switch.switch(&proof, deadline()).await.unwrap();
    switch.release(Epoch(2), deadline()).await.unwrap();
    assert_eq!(reached(&client).await, Ok(ends.port(Side::Green)));
    let told = proxysql.told();
    let begins = |what: &str| told.iter().filter(|sql| sql.starts_with(what)).count();
    assert_eq!(begins("KILL CONNECTION "), 1, "{told:?}");
    assert_eq!(begins("SET"), 0, "a console knows no settings: {told:?}");
}

/// Two nodes: the one that can't be told keeps no client of the other waiting, and is told again.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxysql_that_is_gone_keeps_no_other_waiting() {
    let ends = Ends::start_mysql().await;
    let first = ProxySql::start(ends.ports[0]).unwrap();
    let mut gone = ProxySql::start(ends.ports[0]).unwrap();
    let text = format!("{}{}", config(&gone), config(&first));
    let switch = switch_of(&text, &ends.blue, &ends.green);
    assert_eq!(failed(&switch, Side::Blue).await, []);
    let proof = committed(2, Side::Green);
    switch.arm(Side::Green, deadline()).await.unwrap();
    switch.hold(Epoch(2), deadline()).await.unwrap();
    assert_eq!(switch.open_switched(&proof, deadline()).await, [], "nobody was told yet");
    gone.kill();
    switch.switch(&proof, deadline()).await.unwrap_err();
    let opened = switch.open_switched(&proof, deadline()).await;
    assert!(opened.len() == 1 && opened[0].target == "green", "{opened:?}");
    let mut session = Client::open(&mysql_client(first.port())).await.unwrap();
    switch.switch(&proof, deadline()).await.unwrap_err();
    assert_eq!(session.port().await, Ok(ends.port(Side::Green)), "it was disturbed");
    gone.revive().unwrap();
    again("the switch", || async {
        switch.switch(&proof, deadline()).await.map_err(|error| error.to_string())
    })
    .await;
    switch.release(Epoch(2), deadline()).await.unwrap();
    let members = switch.verify(&proof, deadline()).await.unwrap();
    assert!(members.len() == 2 && members.iter().all(|member| member.verified), "{members:?}");
    assert_eq!(session.port().await, Ok(ends.port(Side::Green)), "it was disturbed");
}

/// What would go wrong is found before anybody waits, and each finding says what to do.
#[tokio::test(flavor = "multi_thread")]
async fn what_proxysql_would_do_by_itself_is_refused() {
    let ends = Ends::start_mysql().await;
    let proxysql = ProxySql::start(ends.ports[0]).unwrap();
    let [blue, green] = ends.ports;
    let add = |group: u32, port: u16| {
        format!(
            "INSERT INTO mysql_servers (hostgroup_id, hostname, port) VALUES \
             ({group}, '127.0.0.1', {port}); LOAD MYSQL SERVERS TO RUNTIME"
        )
    };
    let remove = |group: u32, port: u16| {
        format!(
            "DELETE FROM mysql_servers WHERE hostgroup_id={group} AND port={port}; \
             LOAD MYSQL SERVERS TO RUNTIME"
        )
    };
    let set =
        |name: &str, value: &str| format!("SET {name}='{value}'; LOAD MYSQL VARIABLES TO RUNTIME");
    let move_by = "INSERT INTO mysql_replication_hostgroups (writer_hostgroup, reader_hostgroup) \
                   VALUES (10, 20); LOAD MYSQL SERVERS TO RUNTIME";
    let node = |port: u16| {
        format!(
            "INSERT INTO proxysql_servers (hostname, port) VALUES ('127.0.0.1', {port}); \
             LOAD PROXYSQL SERVERS TO RUNTIME"
        )
    };
    let cases: Vec<(String, String, &str, &str)> = vec![
        (
            move_by.into(),
            "DELETE FROM mysql_replication_hostgroups WHERE writer_hostgroup=10; \
             LOAD MYSQL SERVERS TO RUNTIME"
                .into(),
            "proxysql-monitor",
            "writer_hostgroup",
        ),
        (
            set("mysql-connect_timeout_server_max", "1500"),
            set("mysql-connect_timeout_server_max", "10000"),
            "proxysql-patience",
            "queries wait 1500 ms",
        ),
        (add(10, green), remove(10, green), "proxysql-hostgroups", "has several"),
        (add(20, blue), remove(20, blue), "proxysql-elsewhere", "serves other hostgroups"),
        (
            "UPDATE mysql_servers SET status='OFFLINE_SOFT'".into(),
            "UPDATE mysql_servers SET status='ONLINE'".into(),
            "proxysql-draft",
            "not loaded",
        ),
        (
            format!("{}; {}", node(6032), node(6033)),
            "DELETE FROM proxysql_servers; LOAD PROXYSQL SERVERS TO RUNTIME".into(),
            "proxysql-cluster",
            "2 nodes",
        ),
    ];
    let tell = |statements: &str| {
        statements.split("; ").for_each(|sql| drop(proxysql.tell(sql).unwrap()));
    };
    for (breaks, mends, name, says) in cases {
        tell(&breaks);
        let switch = switch_of(&config(&proxysql), &ends.blue, &ends.green);
        let failing = failed(&switch, Side::Blue).await;
        let [finding] = &failing[..] else { panic!("{name}: {failing:?}") };
        assert!(finding.name.starts_with(name), "{finding:?}");
        assert!(finding.evidence.contains(says), "{finding:?}");
        assert!(finding.fix.as_ref().is_some_and(|fix| !fix.is_empty()), "{finding:?}");
        tell(&mends);
        assert_eq!(failed(&switch, Side::Blue).await, [], "{name}, after the fix");
    }
    // Without its monitor nobody moves anything.
    tell(move_by);
    tell(&set("mysql-monitor_enabled", "false"));
    let switch = switch_of(&config(&proxysql), &ends.blue, &ends.green);
    assert_eq!(failed(&switch, Side::Blue).await, []);

    // An account that may only look at statistics, a wrong password, a server that it must not change.
    for (admin, says) in [
        (proxysql.admin_url("stats"), "no such table"),
        (proxysql.admin_url("radmin").replace("s3cret", "guessed"), "Access denied"),
    ] {
        let text = config(&proxysql).replace(&proxysql.admin_url("radmin"), &admin);
        let failing = failed(&switch_of(&text, &ends.blue, &ends.green), Side::Blue).await;
        assert!(failing.len() == 1 && failing[0].evidence.contains(says), "{failing:?}");
        assert!(!format!("{failing:?}").contains("guessed"), "{failing:?}");
    }
    tell(&set("admin-read_only", "true").replace("MYSQL VARIABLES", "ADMIN VARIABLES"));
    let failing = failed(&switch, Side::Blue).await;
    assert!(failing.len() == 1 && failing[0].evidence.contains("admin-read_only"), "{failing:?}");
    let error = switch.hold(Epoch(1), deadline()).await.unwrap_err();
    assert!(error.what.contains("readonly database"), "{error}");
    assert_eq!(reached(&mysql_client(proxysql.port())).await, Ok(ends.port(Side::Blue)));
}

/// Clients in a hold wait for as long as ProxySQL says, and a hold that was given up half-way is undone.
#[tokio::test(flavor = "multi_thread")]
async fn a_draft_of_a_dead_holder_is_undone() {
    let ends = Ends::start_mysql().await;
    let proxysql = ProxySql::start(ends.ports[0]).unwrap();
    let switch = switch_of(&config(&proxysql), &ends.blue, &ends.green);
    // It died between the UPDATE and the LOAD.
    proxysql.tell("UPDATE mysql_servers SET status='OFFLINE_SOFT'").unwrap();
    switch.release(Epoch(1), deadline()).await.unwrap();
    let draft = proxysql.tell("SELECT status FROM mysql_servers").unwrap();
    assert_eq!(draft, [["ONLINE"]]);
    assert_eq!(reached(&mysql_client(proxysql.port())).await, Ok(ends.port(Side::Blue)));
    // Somebody lets clients through by another server of his own: that is seen.
    switch.hold(Epoch(2), deadline()).await.unwrap();
    assert!(switch.holding(Epoch(2), deadline()).await.unwrap());
    let add = format!(
        "INSERT INTO mysql_servers (hostgroup_id, hostname, port) VALUES (10, '127.0.0.1', {})",
        ends.ports[1]
    );
    for sql in [add.as_str(), "LOAD MYSQL SERVERS TO RUNTIME"] {
        proxysql.tell(sql).unwrap();
    }
    assert!(!switch.holding(Epoch(2), deadline()).await.unwrap());
}

/// A statement that was sent by a hold that is given up may still be carried out: clients go on all the
/// same, and the next hold and release leave nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_is_cut_short_anywhere_does_not_hold_after_the_release() {
    let ends = Ends::start_mysql().await;
    let proxysql = ProxySql::start(ends.ports[0]).unwrap();
    let switch = switch_of(&config(&proxysql), &ends.blue, &ends.green);
    let (mut cut_short, mut whole) = (0, 0);
    for step in 0..80 {
        let cut = std::time::Duration::from_micros(step * 60);
        let held = tokio::time::timeout(cut, switch.hold(Epoch(step), deadline())).await;
        assert!(!matches!(held, Ok(Err(_))), "{held:?}");
        *(if held.is_err() { &mut cut_short } else { &mut whole }) += 1;
        switch.release(Epoch(step), deadline()).await.unwrap();
        for _ in 0..5 {
            let status = proxysql.tell("SELECT status FROM runtime_mysql_servers").unwrap();
            assert_eq!(status, [["ONLINE"]], "held after a release ({step})");
            tokio::task::yield_now().await;
        }
    }
    assert!(cut_short > 0, "{whole} holds came to their end");
    switch.hold(Epoch(100), deadline()).await.unwrap();
    switch.release(Epoch(100), deadline()).await.unwrap();
    assert_eq!(failed(&switch, Side::Blue).await, [], "after everything");
    assert_eq!(reached(&mysql_client(proxysql.port())).await, Ok(ends.port(Side::Blue)));
}
