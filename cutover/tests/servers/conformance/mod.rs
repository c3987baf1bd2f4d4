//! What every traffic switch has to do, each against the real router that it drives.

mod endpoint;
mod haproxy;
mod little_router;
mod proxysql;
mod routers;

use std::time::Duration;

use cutover::Side;
use cutover::api::{Check, Member, Severity};
use cutover::evidence::Committed;
use cutover::phase::Verdict;
use cutover::ports::{Epoch, TrafficSwitch};
use cutover::switch::Switch;
use decoders::mysql::server::{ServerUrl, connect, is_mysql_url};
use decoders::postgres::session::{Session, connect_plain};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tests::mysql::{Mysql, Version};

use super::support::{Login, PAUSE, Postgres, deadline, until};

/// A router in front of blue and green, and what drives it.
trait Bed {
    /// Clients wait while it holds; otherwise they are refused.
    const WAITS: bool;
    /// Its switch can find out whether it still holds.
    const KNOWS: bool;

    /// What a client uses.
    fn client(&self) -> Login;

    /// A switch that knows nothing yet, as another process would have it.
    fn switch(&self) -> Switch;

    /// Somebody makes it lead to `side`, behind its switch's back.
    async fn turn(&mut self, ends: &Ends, epoch: u64, side: Side);

    /// `kill -9`, and a supervisor that starts it anew.
    async fn crash(&mut self);
}

/// Both servers, each with a database of the same name.
struct Ends {
    ports: [u16; 2],
    blue: Login,
    green: Login,
    _servers: Servers,
}

/// They run as long as this is there.
enum Servers {
    Postgres { _both: Box<[Postgres; 2]> },
    Mysql { _both: Box<[Mysql; 2]> },
}

impl Ends {
    async fn start() -> Self {
        let (one, two) = tokio::join!(Postgres::start(), Postgres::start());
        let (blue, green) = (one.database("shop", "").await, two.database("shop", "").await);
        let ports = [one.port, two.port];
        Self { ports, blue, green, _servers: Servers::Postgres { _both: Box::new([one, two]) } }
    }

    /// Two servers of MariaDB.
    async fn start_mysql() -> Self {
        let start = || {
            let server = Mysql::start(Version::Mariadb10_11, &[]).unwrap();
            let app = "CREATE USER app IDENTIFIED BY 'a'; GRANT ALL ON *.* TO app; \
                       CREATE DATABASE shop";
            server.run(app).unwrap();
            server
        };
        let both = [tokio::task::spawn_blocking(start), tokio::task::spawn_blocking(start)];
        let [one, two] = both;
        let (one, two) = (one.await.unwrap(), two.await.unwrap());
        let ports = [one.port(), two.port()];
        let [blue, green] = ports.map(mysql_client);
        Self { ports, blue, green, _servers: Servers::Mysql { _both: Box::new([one, two]) } }
    }

    fn port(&self, side: Side) -> i64 {
        i64::from(self.ports[usize::from(side == Side::Green)])
    }
}

/// A client of MySQL at this port.
fn mysql_client(port: u16) -> Login {
    Login(format!("mysql://app:a@127.0.0.1:{port}/shop?ssl-mode=disabled"))
}

/// A client's session.
enum Client {
    Postgres(Box<Session>),
    Mysql(Conn),
}

impl Client {
    async fn open(login: &Login) -> Result<Self, String> {
        if is_mysql_url(&login.0) {
            let conn = connect(&ServerUrl::parse(&login.0).unwrap()).await;
            return conn.map(Self::Mysql).map_err(|error| format!("{error:?}"));
        }
        let session = connect_plain(&login.info(), "app").await;
        session
            .map(|session| Self::Postgres(Box::new(session)))
            .map_err(|error| format!("{error:?}"))
    }

    /// The port of the server that answers.
    async fn port(&mut self) -> Result<i64, String> {
        match self {
            Client::Postgres(session) => {
                // In one message: between two of them PgBouncer may have given the server to another
                // client.
                let rows = session.query_typed("SELECT inet_server_port()", &[]).await;
                let rows = rows.map_err(|error| format!("{error:?}"))?;
                Ok(i64::from(rows[0].get::<_, i32>(0)))
            }
            Client::Mysql(conn) => {
                let port = conn.query_first("SELECT @@port").await;
                port.map(Option::unwrap).map_err(|error| format!("{error:?}"))
            }
        }
    }
}

fn committed(epoch: u64, to: Side) -> Committed {
    Committed::recovered(Epoch(epoch), to, Verdict::Commit).unwrap()
}

/// The port of the server that a new client reaches.
async fn reached(client: &Login) -> Result<i64, String> {
    Client::open(client).await?.port().await
}

async fn failed(switch: &Switch, from: Side) -> Vec<Check> {
    let checks = switch.inspect(from, PAUSE).await.unwrap();
    checks.into_iter().filter(|check| check.severity == Severity::Fail).collect()
}

/// Everything that a run and its recovery may ask of a router.
async fn conforms<B: Bed>(bed: &mut B, ends: &Ends) {
    assert_eq!(failed(&bed.switch(), Side::Blue).await, [], "before anything");
    // Nothing is held: that is no error.
    bed.switch().release(Epoch(1), deadline()).await.unwrap();
    assert_eq!(reached(&bed.client()).await, Ok(ends.port(Side::Blue)));

    for (epoch, to) in [(2, Side::Green), (3, Side::Blue)] {
        forth(bed, ends, epoch, to).await;
        turned_by_somebody(bed, ends, epoch, to).await;
    }
    aborted(bed, ends, 4).await;
    killed_while_held(bed, ends, 5).await;
    killed_after_the_switch(bed, ends, 6).await;
    assert_eq!(failed(&bed.switch(), Side::Blue).await, [], "after everything");
}

/// Hold, switch, release and verify, each twice; released by a process that did not hold.
async fn forth<B: Bed>(bed: &B, ends: &Ends, epoch: u64, to: Side) {
    let (switch, proof) = (bed.switch(), committed(epoch, to));
    let mut before = Client::open(&bed.client()).await.unwrap();
    assert_eq!(before.port().await, Ok(ends.port(to.other())));
    switch.arm(to, deadline()).await.unwrap();
    for _ in 0..2 {
        switch.hold(Epoch(epoch), deadline()).await.unwrap();
        assert!(switch.holding(Epoch(epoch), deadline()).await.unwrap());
    }
    let client = bed.client();
    let waiting = tokio::spawn(async move { reached(&client).await });
    for _ in 0..2 {
        let members = switch.switch(&proof, deadline()).await.unwrap();
        assert!(members.iter().all(|member| member.target == to.name()), "{members:?}");
        assert!(switch.holding(Epoch(epoch), deadline()).await.unwrap());
    }
    if B::WAITS {
        assert!(!waiting.is_finished(), "a client got through a hold: {:?}", waiting.await);
    } else {
        assert!(waiting.await.unwrap().is_err(), "a client got in although all is closed");
        assert!(reached(&bed.client()).await.is_err());
        return release(bed, ends, &proof, to).await;
    }
    release(bed, ends, &proof, to).await;
    // Who came in the pause is on the right side.
    assert_eq!(waiting.await.unwrap(), Ok(ends.port(to)));
}

async fn release<B: Bed>(bed: &B, ends: &Ends, proof: &Committed, to: Side) {
    let other = bed.switch();
    other.arm(to, deadline()).await.unwrap();
    for _ in 0..2 {
        other.release(proof.epoch(), deadline()).await.unwrap();
    }
    if B::KNOWS {
        assert!(!other.holding(proof.epoch(), deadline()).await.unwrap());
    }
    let members = other.verify(proof, deadline()).await.unwrap();
    for member in &members {
        assert!(member.verified && member.target == to.name(), "{members:?}");
    }
    assert_eq!(reached(&bed.client()).await, Ok(ends.port(to)));
}

/// A member that leads to the wrong side is not verified.
async fn turned_by_somebody<B: Bed>(bed: &mut B, ends: &Ends, epoch: u64, to: Side) {
    let proof = committed(epoch, to);
    bed.turn(ends, epoch, to.other()).await;
    leads(bed, ends, to.other()).await;
    let members = bed.switch().verify(&proof, deadline()).await.unwrap();
    let is_wrong = |member: &Member| !member.verified && member.target != to.name();
    assert!(!members.is_empty() && members.iter().all(is_wrong), "{members:?}");
    bed.turn(ends, epoch, to).await;
    leads(bed, ends, to).await;
    let members = bed.switch().verify(&proof, deadline()).await.unwrap();
    assert!(members.iter().all(|member| member.verified), "{members:?}");
}

/// Some take a moment until they do what they were told.
async fn leads<B: Bed>(bed: &B, ends: &Ends, to: Side) {
    let there = || async { reached(&bed.client()).await == Ok(ends.port(to)) };
    until("it leads there", there).await;
}

/// The controller dies before it has decided: another process lets clients go on where they were.
async fn aborted<B: Bed>(bed: &B, ends: &Ends, epoch: u64) {
    let switch = bed.switch();
    switch.arm(Side::Green, deadline()).await.unwrap();
    switch.hold(Epoch(epoch), deadline()).await.unwrap();
    drop(switch);
    bed.switch().release(Epoch(epoch), deadline()).await.unwrap();
    assert_eq!(reached(&bed.client()).await, Ok(ends.port(Side::Blue)));
}

/// The router dies while it holds. That is seen, and the run can be finished.
async fn killed_while_held<B: Bed>(bed: &mut B, ends: &Ends, epoch: u64) {
    let (switch, proof) = (bed.switch(), committed(epoch, Side::Green));
    switch.arm(Side::Green, deadline()).await.unwrap();
    switch.hold(Epoch(epoch), deadline()).await.unwrap();
    bed.crash().await;
    if B::KNOWS {
        let holding = switch.holding(Epoch(epoch), deadline()).await;
        assert!(!matches!(holding, Ok(true)), "{holding:?}");
    }
    again("the switch", || async {
        switch.switch(&proof, deadline()).await.map_err(|error| error.to_string())
    })
    .await;
    release(bed, ends, &proof, Side::Green).await;
}

/// The router dies when it has been told where to lead, and has not let anybody go on.
async fn killed_after_the_switch<B: Bed>(bed: &mut B, ends: &Ends, epoch: u64) {
    let (switch, proof) = (bed.switch(), committed(epoch, Side::Blue));
    switch.arm(Side::Blue, deadline()).await.unwrap();
    switch.hold(Epoch(epoch), deadline()).await.unwrap();
    switch.switch(&proof, deadline()).await.unwrap();
    bed.crash().await;
    again("release and look", || async {
        switch.release(Epoch(epoch), deadline()).await.map_err(|error| error.to_string())?;
        let members = switch.verify(&proof, deadline()).await.map_err(|error| error.to_string())?;
        let verified = members.iter().all(|member| member.verified);
        verified.then_some(()).ok_or_else(|| format!("{members:?}"))
    })
    .await;
    assert_eq!(reached(&bed.client()).await, Ok(ends.port(Side::Blue)));
}

/// After the decision acts are tried again until they succeed: the first one may meet a connection
/// that died with the router.
async fn again<T, F: Future<Output = Result<T, String>>>(what: &str, mut act: impl FnMut() -> F) {
    let until = deadline();
    while let Err(error) = act().await {
        assert!(tokio::time::Instant::now() < until, "{what}: {error}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
