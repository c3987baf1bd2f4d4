//! Each kind of router on its bed.

use std::io::Write;

use cutover::Side;
use cutover::ports::{Epoch, TrafficSwitch};
use cutover::proxy::{Proxy, ProxyConfig};
use cutover::switch::{Switch, SwitchConfig};
use tempfile::{NamedTempFile, TempDir};

use super::super::support::{Login, PgBouncer, deadline, free_port, number};
use super::endpoint::Endpoint;
use super::haproxy::HaProxy;
use super::little_router::LittleRouter;
use super::{Bed, Ends, WHERE, committed, conforms, failed, reached};

fn switch_of(text: &str, blue: &Login, green: &Login) -> Switch {
    let config: SwitchConfig = toml::from_str(text).unwrap();
    Switch::new(&config, &blue.info(), &green.info()).unwrap()
}

/// What is the same for all: how to reach it, and what the operator has written about it.
struct Told {
    text: String,
    blue: Login,
    green: Login,
}

impl Told {
    fn new(ends: &Ends, text: String) -> Self {
        Self { text, blue: ends.blue.clone(), green: ends.green.clone() }
    }

    fn switch(&self) -> Switch {
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
    async fn crash(&mut self) {
        self.0.crash().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pgbouncer() {
    let ends = Ends::start().await;
    let bouncer = PgBouncer::start("shop", ends.servers[0].port, "shop", "transaction").await;
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
    async fn crash(&mut self) {
        drop(self.proxy.take());
        // Its listener goes with its tasks.
        let until = deadline();
        while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() {
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
    async fn crash(&mut self) {
        self.0.crash().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn command() {
    let ends = Ends::start().await;
    let router = LittleRouter::start(ends.servers[0].port).await;
    let tell = |order: &str| {
        let script = format!(
            "exec 3<>/dev/tcp/127.0.0.1/{} && echo {order} >&3 && read -r answer <&3 && \
             [ \"$answer\" = ok ]",
            router.orders()
        );
        format!("[\"bash\", \"-c\", {script:?}]")
    };
    let text = format!(
        "[command]\nhold = {}\nswitch = {}\nrelease = {}\nclient = {:?}\n",
        tell("hold"),
        tell("route $CUTOVER_TO_PORT"),
        tell("release"),
        router.client().0
    );
    let told = Told::new(&ends, text);
    conforms(&mut OnLittleRouter::<false>(router, told), &ends).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn webhook() {
    let ends = Ends::start().await;
    let router = LittleRouter::start(ends.servers[0].port).await;
    let ports = ends.servers.each_ref().map(|server| server.port);
    let endpoint = Endpoint::start("s3cret", ports, router.orders()).await;
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
    let bouncer = PgBouncer::start("shop", ends.servers[0].port, "shop", "transaction").await;
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
