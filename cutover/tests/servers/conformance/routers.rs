//! Each kind of router on its bed.

use std::io::Write;

use cutover::Side;
use cutover::ports::{Epoch, TrafficSwitch};
use cutover::proxy::control::{Order, order};
use cutover::proxy::{Proxy, ProxyConfig};
use cutover::switch::{Switch, SwitchConfig};
use tempfile::{NamedTempFile, TempDir};

use super::super::support::{Login, PAUSE, PgBouncer, deadline, free_port, number};
use super::endpoint::{Endpoint, Fault};
use super::haproxy::HaProxy;
use super::little_router::{LittleRouter, tell};
use super::{Bed, Ends, again, committed, conforms, failed, reached};

const WHERE: &str = "SELECT inet_server_port()";

pub(super) fn switch_of(text: &str, blue: &Login, green: &Login) -> Switch {
    let config: SwitchConfig = toml::from_str(text).unwrap();
    let end = |login: &Login| cutover::login::Login::parse(&login.0).unwrap();
    Switch::new(&config, end(blue), end(green)).unwrap()
}

/// What is the same for all: how to reach it, and what the operator has written about it.
pub(super) struct Told {
    text: String,
    blue: Login,
    green: Login,
}

impl Told {
    pub fn new(ends: &Ends, text: String) -> Self {
        Self { text, blue: ends.blue.clone(), green: ends.green.clone() }
    }

    pub fn switch(&self) -> Switch {
        switch_of(&self.text, &self.blue, &self.green)
    }
}

fn pgbouncer_config(bouncer: &PgBouncer) -> String {
    format!(
        "[[pgbouncer]]\nadmin = {:?}\nconfig_file = {:?}\ndatabase = \"shop\"\n",
        bouncer.client("pgbouncer").0,
        bouncer.ini
    )
}

struct OnPgBouncer(PgBouncer, Told);

impl Bed for OnPgBouncer {
    const WAITS: bool = true;
    const KNOWS: bool = true;
    fn client(&self) -> Login {
        self.0.client("shop")
    }
    fn switch(&self) -> Switch {
        self.1.switch()
    }
    async fn turn(&mut self, ends: &Ends, _epoch: u64, side: Side) {
        let port = |side: Side| format!("port={} ", ends.port(side));
        self.0.edit(|text| text.replace(&port(side.other()), &port(side))).await;
    }
    async fn crash(&mut self) {
        self.0.crash().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pgbouncer() {
    let ends = Ends::start().await;
    let bouncer = PgBouncer::start("shop", ends.ports[0], "shop", "transaction").await;
    let told = Told::new(&ends, pgbouncer_config(&bouncer));
    conforms(&mut OnPgBouncer(bouncer, told), &ends).await;
}

struct OnHaProxy(HaProxy, Told);

impl Bed for OnHaProxy {
    const WAITS: bool = false;
    const KNOWS: bool = true;
    fn client(&self) -> Login {
        self.0.client()
    }
    fn switch(&self) -> Switch {
        self.1.switch()
    }
    /// The server of the side that serves gets the other one's address.
    async fn turn(&mut self, ends: &Ends, epoch: u64, side: Side) {
        let serves = if epoch == 2 { "green" } else { "blue" };
        let command = format!("set server shop/{serves} addr 127.0.0.1 port {}", ends.port(side));
        self.0.tell(&command);
    }
    async fn crash(&mut self) {
        self.0.crash();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy() {
    let ends = Ends::start().await;
    let haproxy = HaProxy::start(&ends);
    let told = Told::new(&ends, haproxy.config());
    conforms(&mut OnHaProxy(haproxy, told), &ends).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_in_front_of_mysql() {
    let ends = Ends::start_mysql().await;
    let haproxy = HaProxy::start(&ends);
    let told = Told::new(&ends, haproxy.config());
    conforms(&mut OnHaProxy(haproxy, told), &ends).await;
}

struct OnEmbedded {
    proxy: Option<Proxy>,
    directory: TempDir,
    port: u16,
    told: Told,
}

impl OnEmbedded {
    async fn start(&mut self) {
        let config = ProxyConfig::new(([127, 0, 0, 1], self.port).into());
        let control = self.directory.path().join("proxy.sock");
        let (blue, green) = (self.told.blue.info(), self.told.green.info());
        self.proxy = Some(Proxy::start(config, &control, blue, green).await.unwrap());
    }
}

impl Bed for OnEmbedded {
    const WAITS: bool = true;
    const KNOWS: bool = true;
    fn client(&self) -> Login {
        Login(format!("postgresql://postgres@127.0.0.1:{}/shop?sslmode=disable", self.port))
    }
    fn switch(&self) -> Switch {
        self.told.switch()
    }
    async fn turn(&mut self, _ends: &Ends, epoch: u64, side: Side) {
        let control = self.directory.path().join("proxy.sock");
        let answer = order(&control, &Order::Route { epoch, side }).await.unwrap();
        assert_eq!(answer.error, None);
    }
    async fn crash(&mut self) {
        drop(self.proxy.take());
        // Its listeners go with its tasks, one by one.
        let until = deadline();
        let control = self.directory.path().join("proxy.sock");
        while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok()
            || tokio::net::UnixStream::connect(&control).await.is_ok()
        {
            assert!(tokio::time::Instant::now() < until, "it still listens");
            tokio::task::yield_now().await;
        }
        self.start().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded() {
    let ends = Ends::start().await;
    let directory = tempfile::tempdir().unwrap();
    let port = free_port();
    let text = format!(
        "[proxy]\nlisten = \"127.0.0.1:{port}\"\ncontrol = {:?}\n",
        directory.path().join("proxy.sock")
    );
    let told = Told::new(&ends, text);
    let mut bed = OnEmbedded { proxy: None, directory, port, told };
    bed.start().await;
    conforms(&mut bed, &ends).await;
}

struct OnLittleRouter<const KNOWS: bool>(LittleRouter, Told);

impl<const KNOWS: bool> Bed for OnLittleRouter<KNOWS> {
    const WAITS: bool = true;
    const KNOWS: bool = KNOWS;
    fn client(&self) -> Login {
        self.0.client()
    }
    fn switch(&self) -> Switch {
        self.1.switch()
    }
    async fn turn(&mut self, ends: &Ends, _epoch: u64, side: Side) {
        let route = format!("route {}", ends.port(side));
        assert_eq!(tell(self.0.orders(), &route).await.unwrap(), "ok");
    }
    async fn crash(&mut self) {
        self.0.crash().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn command() {
    let ends = Ends::start().await;
    let router = LittleRouter::start(ends.ports[0]).await;
    let by_script = |order: &str| {
        let script = format!(
            "exec 3<>/dev/tcp/127.0.0.1/{} && echo {order} >&3 && read -r answer <&3 && \
             [ \"$answer\" = ok ]",
            router.orders()
        );
        format!("[\"bash\", \"-c\", {script:?}]")
    };
    let text = format!(
        "[command]\nhold = {}\nswitch = {}\nrelease = {}\nclient = {:?}\n",
        by_script("hold"),
        by_script("route $CUTOVER_TO_PORT"),
        by_script("release"),
        router.client().0
    );
    // Without `client` a status of 0 is all there is, and it proves nothing.
    let blind = text.lines().filter(|line| !line.starts_with("client"));
    let blind = format!("{}\nverify = [\"true\"]\n", blind.collect::<Vec<_>>().join("\n"));
    let blind = switch_of(&blind, &ends.blue, &ends.green);
    let checks = blind.inspect(Side::Blue, PAUSE).await.unwrap();
    assert!(checks.iter().any(|check| check.name == "router-verify"), "{checks:?}");
    let members = blind.verify(&committed(1, Side::Green), deadline()).await.unwrap();
    assert!(!members[0].verified, "{members:?}");
    let told = Told::new(&ends, text);
    conforms(&mut OnLittleRouter::<false>(router, told), &ends).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn webhook() {
    let ends = Ends::start().await;
    let router = LittleRouter::start(ends.ports[0]).await;
    let endpoint = Endpoint::start("s3cret", ends.ports, router.orders()).await;
    let mut secret = NamedTempFile::new().unwrap();
    secret.write_all(b"s3cret\n").unwrap();
    let text = format!(
        "[webhook]\nurl = \"http://127.0.0.1:{}/flip\"\nsecret_file = {:?}\nholds = true\n\
         ask_holding = true\n",
        endpoint.port,
        secret.path()
    );
    let told = Told::new(&ends, text.clone());
    conforms(&mut OnLittleRouter::<true>(router, told), &ends).await;
    let done = endpoint.done.lock().unwrap().clone();
    assert!(done.contains(&("hold".into(), Some("2.hold".into()))), "{done:?}");
    assert!(done.contains(&("verify".into(), None)), "{done:?}");

    // One that does not say who serves is found before a run, and proves nothing after it.
    let known = switch_of(&text, &ends.blue, &ends.green);
    *endpoint.fault.lock().unwrap() = Fault::SaysNothing;
    let failing = failed(&known, Side::Blue).await;
    assert!(failing.len() == 1 && failing[0].name == "webhook-verify", "{failing:?}");
    let members = known.verify(&committed(8, Side::Green), deadline()).await.unwrap();
    assert_eq!((members[0].verified, &members[0].target[..]), (false, "unknown"));
    // A redirect is no consent, whatever is to be found where it leads.
    *endpoint.fault.lock().unwrap() = Fault::Redirects;
    let error = known.switch(&committed(8, Side::Green), deadline()).await.unwrap_err();
    assert!(error.what.contains("status 302"), "{error}");
    *endpoint.fault.lock().unwrap() = Fault::None;
    let done = endpoint.done.lock().unwrap().clone();

    // Who does not know the secret is not listened to, and not asked again.
    std::fs::write(secret.path(), "guessed").unwrap();
    let stranger = switch_of(&text, &ends.blue, &ends.green);
    let error = stranger.hold(Epoch(9), deadline()).await.unwrap_err();
    assert!(error.what.contains("status 401: who are you?"), "{error}");
    assert!(!error.in_doubt);
    assert_eq!(*endpoint.done.lock().unwrap(), done);
}

/// Two kinds at once: all hold and all move, and one that can't hold keeps the others from cutting.
#[tokio::test(flavor = "multi_thread")]
async fn several_kinds_at_once() {
    let ends = Ends::start().await;
    let bouncer = PgBouncer::start("shop", ends.ports[0], "shop", "transaction").await;
    let haproxy = HaProxy::start(&ends);
    let text = format!("{}{}", pgbouncer_config(&bouncer), haproxy.config());
    let switch = switch_of(&text, &ends.blue, &ends.green);
    assert_eq!(failed(&switch, Side::Blue).await, []);
    assert_eq!((switch.traits().members, switch.traits().holds), (2, false));

    let inside = bouncer.client("shop").open().await;
    inside.batch_execute("BEGIN").await.unwrap();
    let beside = haproxy.client().open().await;
    let soon = tokio::time::Instant::now() + std::time::Duration::from_millis(300);
    assert!(switch.hold(Epoch(1), soon).await.is_err());
    switch.release(Epoch(1), deadline()).await.unwrap();
    inside.batch_execute("COMMIT").await.unwrap();
    assert_eq!(number(&beside, WHERE).await, ends.port(Side::Blue));

    let proof = committed(2, Side::Green);
    switch.hold(Epoch(2), deadline()).await.unwrap();
    assert!(switch.holding(Epoch(2), deadline()).await.unwrap());
    assert_eq!(switch.switch(&proof, deadline()).await.unwrap().len(), 2);
    switch.release(Epoch(2), deadline()).await.unwrap();
    let members = switch.verify(&proof, deadline()).await.unwrap();
    assert!(members.len() == 2 && members.iter().all(|member| member.verified), "{members:?}");
    for client in [bouncer.client("shop"), haproxy.client()] {
        assert_eq!(reached(&client).await, Ok(ends.port(Side::Green)));
    }
}

/// After the decision one router can't be told: the clients of the others go on, and are not disturbed
/// while it is told again and again.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_gone_keeps_no_other_waiting() {
    let ends = Ends::start().await;
    let first = PgBouncer::start("shop", ends.ports[0], "shop", "transaction").await;
    let mut gone = PgBouncer::start("shop", ends.ports[0], "shop", "transaction").await;
    let haproxy = HaProxy::start(&ends);
    let text =
        format!("{}{}{}", pgbouncer_config(&gone), pgbouncer_config(&first), haproxy.config());
    let switch = switch_of(&text, &ends.blue, &ends.green);
    let proof = committed(2, Side::Green);
    switch.arm(Side::Green, deadline()).await.unwrap();
    switch.hold(Epoch(2), deadline()).await.unwrap();
    assert_eq!(switch.open_switched(&proof, deadline()).await, [], "nobody was told yet");
    assert!(switch.holding(Epoch(2), deadline()).await.unwrap());
    gone.kill();
    let error = switch.switch(&proof, deadline()).await.unwrap_err();
    assert!(error.place.contains(&gone.port.to_string()), "{error:?}");
    let opened = switch.open_switched(&proof, deadline()).await;
    assert_eq!(opened.len(), 2, "{opened:?}");
    assert!(opened.iter().all(|member| member.target == "green"), "{opened:?}");
    let clients = [first.client("shop"), haproxy.client()];
    let mut sessions = Vec::new();
    for client in &clients {
        sessions.push(client.open().await);
    }
    switch.switch(&proof, deadline()).await.unwrap_err();
    assert_eq!(switch.open_switched(&proof, deadline()).await.len(), 2);
    for session in &sessions {
        assert_eq!(number(session, WHERE).await, ends.port(Side::Green), "it was disturbed");
    }
    gone.restart().await;
    again("the switch", || async {
        switch.switch(&proof, deadline()).await.map_err(|error| error.to_string())
    })
    .await;
    switch.release(Epoch(2), deadline()).await.unwrap();
    let members = switch.verify(&proof, deadline()).await.unwrap();
    assert!(members.len() == 3 && members.iter().all(|member| member.verified), "{members:?}");
    for session in &sessions {
        assert_eq!(number(session, WHERE).await, ends.port(Side::Green), "it was disturbed");
    }
}
