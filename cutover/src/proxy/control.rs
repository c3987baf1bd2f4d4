//! The control socket: JSON, a line for each order and a line for each answer.
//!
//! An order carries the run's epoch, and one of an older run is refused. A hold also carries a
//! serial number: a release makes void every hold that was asked for before it, even one that
//! comes in later, so nobody is left waiting because two connections overtook each other.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::Instant;

use super::config::{HOLD_MAX, InTransaction};
use super::gate::Hold;
use super::named::{Named, told};
use super::opposite::{End, Opposite, TRIALS_MAX};
use super::{Engine, Shared};
use crate::side::Side;

/// The version of the orders that this program gives and takes.
pub const VERSION: u32 = 2;
/// The oldest that it takes: orders that name none.
const OLDEST: u32 = 1;

/// What to do where a proxy and a sidecar are not of one version.
pub(crate) const WAY_OUT: &str = "`replicator proxy --stop` ends the proxy that runs, its clients \
     connect again to the one that is started then; or go on with the version that started it";

/// The longest order or answer.
const LINE_MAX: u64 = 1 << 20;
/// How long clients that are cut may take to be gone, and how long a survey may take.
const SETTLE_MAX: Duration = Duration::from_secs(3);
const SETTLE_MIN: Duration = Duration::from_millis(500);
/// How long a survey waits for busy clients to have a moment to be asked.
const MOMENT_MAX: Duration = Duration::from_millis(500);
/// How long a hold waits for logins that are under way. Who takes longer - somebody types a
/// password - keeps nobody waiting, and has to connect again should the side change.
const LOGIN_GRACE: Duration = Duration::from_millis(300);

/// An order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "snake_case", deny_unknown_fields)]
pub enum Order {
    /// Make clients wait between two transactions.
    Hold {
        /// The run.
        epoch: u64,
        /// Number of the request, growing.
        serial: u64,
        /// How long transactions may take to end.
        wait_ms: u64,
        /// After this they go on by themselves, to where the proxy leads then.
        limit_ms: u64,
    },
    /// Lead to this side from now on.
    Route {
        /// The run.
        epoch: u64,
        /// Where to.
        side: Side,
    },
    /// Let clients go on.
    Release {
        /// The run.
        epoch: u64,
        /// Holds up to this number are void.
        serial: u64,
    },
    /// Say what there is.
    Status,
    /// Ask every idle session what it carries, then say what there is.
    Survey,
    /// End: clients are disconnected.
    Stop,
}

/// An order as it travels.
#[derive(Serialize)]
struct Sent<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u32>,
    #[serde(flatten)]
    order: &'a Order,
}

impl Order {
    /// What only looks, or brings to an end what is under way, means the same in every version and is
    /// given without one: a sidecar that is replaced in the middle of a run still gets its clients on
    /// their way.
    fn version(&self) -> Option<u32> {
        match self {
            Order::Hold { .. } | Order::Survey => Some(VERSION),
            Order::Route { .. } | Order::Release { .. } | Order::Status | Order::Stop => None,
        }
    }

    fn line(&self) -> serde_json::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(&Sent { version: self.version(), order: self })?;
        line.push(b'\n');
        Ok(line)
    }

    /// Reads a line.
    ///
    /// # Errors
    /// What is wrong with it, and the way out if it is of another version.
    fn read(line: &str) -> Result<Self, String> {
        let unreadable = |error: serde_json::Error| format!("the order can't be read: {error}");
        let mut fields: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(line).map_err(unreadable)?;
        let version = match fields.remove("version") {
            None => u64::from(OLDEST),
            Some(version) => serde_json::from_value(version).map_err(unreadable)?,
        };
        if !(u64::from(OLDEST)..=u64::from(VERSION)).contains(&version) {
            return Err(format!(
                "the order is of version {version}, and this proxy takes versions {OLDEST} to \
                 {VERSION}; nothing was changed: {WAY_OUT}"
            ));
        }
        Self::deserialize(serde_json::Value::Object(fields)).map_err(unreadable)
    }
}

/// The answer to any order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Answer {
    /// The version of the orders that the proxy takes. 0: it is older than that it would say so.
    pub version: u32,
    /// Why the order was not carried out, or not wholly.
    pub error: Option<String>,
    /// Where the proxy leads.
    pub side: Side,
    /// The newest run that it knows.
    pub epoch: u64,
    /// The largest number that a hold or a release had.
    pub serial: u64,
    /// Clients wait.
    pub holding: bool,
    /// Clients.
    pub clients: u64,
    /// Of them, those that wait.
    pub held: u64,
    /// Of them, those that are still logging in, or wait with that.
    pub entering: u64,
    /// Those that were to wait and have something under way, by what it is.
    pub busy: BTreeMap<String, u64>,
    /// Those with something under way that are longest at it; as of the last hold or survey.
    pub sessions: Vec<Named>,
    /// Those that can't be moved, by the reason; as of the last hold or survey.
    pub pinned: BTreeMap<String, u64>,
    /// Those that were too busy to be asked what they carry.
    pub unasked: u64,
    /// Sessions moved since the proxy was started.
    pub moved: u64,
    /// Clients cut since then.
    pub cut: u64,
    /// The proxy's process.
    pub pid: u32,
    /// Where clients connect.
    pub listen: String,
    /// Processes of the server on the side where the proxy leads that serve its clients.
    pub servers: Vec<u32>,
    /// What it was told is blue.
    pub blue: Option<End>,
    /// What it was told is green.
    pub green: Option<End>,
    /// What a survey has found on the other side.
    pub opposite: Option<Opposite>,
}

impl Answer {
    /// What the proxy was told is that side; `None`: an earlier version, which does not say.
    pub fn end(&self, side: Side) -> Option<&End> {
        match side {
            Side::Blue => self.blue.as_ref(),
            Side::Green => self.green.as_ref(),
        }
    }
}

/// What was ordered so far; the part that outlives the process is written to a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Orders {
    pub side: Side,
    pub epoch: u64,
    #[serde(skip)]
    released: u64,
}

impl Orders {
    /// As the last process left them.
    ///
    /// # Errors
    /// The file is there and can't be read. It says where clients belong: not to be guessed.
    pub fn read(path: &Path) -> io::Result<Self> {
        match std::fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let new = path.with_extension("new");
        let text = serde_json::to_vec(self)?;
        let mut file = std::fs::File::create(&new)?;
        io::Write::write_all(&mut file, &text)?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        std::fs::File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    }
}

/// Binds the socket, for our own user only.
///
/// # Errors
/// Somebody answers there already, or the path can't be used.
pub(super) async fn bind(path: &Path) -> io::Result<UnixListener> {
    if UnixStream::connect(path).await.is_ok() {
        let what = format!("another proxy answers at {}", path.display());
        return Err(io::Error::new(io::ErrorKind::AddrInUse, what));
    }
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Carries out orders until it is dropped.
pub(super) async fn obey<E: Engine>(shared: Arc<Shared<E>>, listener: UnixListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = shared.clone();
                tokio::spawn(async move {
                    if let Err(error) = converse(&shared, stream).await {
                        tracing::debug!("a control connection broke: {error}");
                    }
                });
            }
            Err(error) => {
                tracing::warn!("the control socket takes no connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse<E: Engine>(shared: &Arc<Shared<E>>, stream: UnixStream) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        if (&mut stream).take(LINE_MAX).read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let order = Order::read(&line);
        let last = matches!(order, Ok(Order::Stop));
        let mut opposite = None;
        let error = match order {
            Ok(Order::Survey) => {
                opposite = Some(survey(shared).await);
                None
            }
            Ok(order) => carry_out(shared, order).await.err(),
            Err(error) => Some(error),
        };
        let answer = Answer { opposite, ..shared.answer(error) };
        let mut answer = serde_json::to_vec(&answer)?;
        answer.push(b'\n');
        stream.write_all(&answer).await?;
        if last {
            shared.stop.notify_one();
        }
    }
}

/// Gives one order and waits for its answer.
///
/// # Errors
/// Nobody answers at `path`, or not with an answer.
pub async fn order(path: &Path, order: &Order) -> io::Result<Answer> {
    let mut stream = BufReader::new(UnixStream::connect(path).await?);
    stream.write_all(&order.line()?).await?;
    let mut answer = String::new();
    stream.take(LINE_MAX).read_line(&mut answer).await?;
    Ok(serde_json::from_str(&answer)?)
}

async fn carry_out<E: Engine>(shared: &Arc<Shared<E>>, order: Order) -> Result<(), String> {
    match order {
        Order::Status | Order::Stop | Order::Survey => Ok(()),
        Order::Release { epoch, serial } => shared.admit_order(epoch, |orders| {
            orders.released = orders.released.max(serial);
            shared.gates.change(|gate| gate.hold = None);
        }),
        Order::Route { epoch, side } => {
            let path = shared.orders_file.clone();
            shared.admit_order(epoch, |orders| {
                let new = Orders { side, epoch, ..*orders };
                new.write(&path).map_err(|error| format!("{}: {error}", path.display()))?;
                *orders = new;
                if shared.gates.now().side != side {
                    shared.gates.change(|gate| gate.side = side);
                }
                Ok(())
            })?
        }
        Order::Hold { epoch, serial, wait_ms, limit_ms } => {
            shared.admit_order(epoch, |orders| {
                if serial <= orders.released {
                    return Err("this hold was released before it came".to_owned());
                }
                let again = shared.gates.now().hold.is_some_and(|hold| hold.serial == serial);
                if !again {
                    let hold = Hold { serial, cut_busy: false };
                    shared.gates.change(|gate| gate.hold = Some(hold));
                }
                Ok(())
            })??;
            let limit = Duration::from_millis(limit_ms).min(HOLD_MAX);
            tokio::spawn(end_hold(shared.clone(), serial, limit));
            let until = Instant::now() + Duration::from_millis(wait_ms);
            let grace = until.min(Instant::now() + LOGIN_GRACE);
            let complete =
                |census: &super::gate::Census| census.at_rest() && census.logging_in == 0;
            if shared.wait_for(grace, complete).await
                || shared.wait_for(until, |census| census.at_rest()).await
            {
                return Ok(());
            }
            if shared.config.in_transaction == InTransaction::Cut {
                let ours = |hold: &Hold| hold.serial == serial;
                let gate = shared.gates.change(|gate| {
                    if let Some(hold) = gate.hold.as_mut().filter(|hold| ours(hold)) {
                        hold.cut_busy = true;
                    }
                });
                if !gate.hold.as_ref().is_some_and(ours) {
                    return Err("another hold has taken its place, or it was released".to_owned());
                }
                // Who asks waits for the answer about as long as transactions may take.
                let settle = Duration::from_millis(wait_ms).clamp(SETTLE_MIN, SETTLE_MAX);
                let until = Instant::now() + settle;
                if shared.wait_for(until, |census| census.at_rest()).await {
                    return Ok(());
                }
            }
            let census = shared.gates.census();
            let mut busy = told(&Named::oldest(census.under_way));
            if census.behind > 0 {
                let separator = if busy.is_empty() { "" } else { "; " };
                busy += &format!("{separator}{} that the proxy got no answer from", census.behind);
            }
            Err(format!("its clients did not come to rest in time: {busy}"))
        }
    }
}

/// Asks every idle session what it carries, and the other side which server it is and whether it
/// takes their logins.
async fn survey<E: Engine>(shared: &Shared<E>) -> Opposite {
    shared.engine.begin_survey();
    let gate = shared.gates.change(|gate| gate.survey += 1);
    let other = gate.side.other();
    let until = Instant::now() + SETTLE_MAX;
    let asking = async {
        shared.wait_for(until, |census| census.behind == 0).await;
        let moment = until.min(Instant::now() + MOMENT_MAX);
        shared.wait_for(moment, |census| census.unasked == 0).await
    };
    let (_, mut opposite) = tokio::join!(asking, shared.engine.server(other, until));
    if !shared.address.ip().is_loopback() {
        let until = Instant::now() + TRIALS_MAX;
        let (blue, green) = tokio::join!(
            shared.engine.unasked(Side::Blue, until),
            shared.engine.unasked(Side::Green, until)
        );
        opposite.unasked = [(Side::Blue, blue), (Side::Green, green)].into();
        opposite.unasked.retain(|_, users| !users.is_empty());
    }
    if opposite.server.is_some() {
        let until = Instant::now() + TRIALS_MAX;
        opposite.refused = shared.engine.refused(other, until).await;
    }
    opposite
}

/// Nobody came to end it.
async fn end_hold<E: Engine>(shared: Arc<Shared<E>>, serial: u64, limit: Duration) {
    tokio::time::sleep(limit).await;
    let held = |hold: Hold| hold.serial == serial;
    if shared.gates.now().hold.is_some_and(held) {
        tracing::warn!("a hold has reached its limit: clients go on");
        shared.gates.change(|gate| gate.hold = gate.hold.filter(|hold| !held(*hold)));
    }
}

impl<E: Engine> Shared<E> {
    /// Takes an order unless a newer run has given one.
    fn admit_order<T>(&self, epoch: u64, act: impl FnOnce(&mut Orders) -> T) -> Result<T, String> {
        let mut orders = super::lock(&self.orders);
        if epoch < orders.epoch {
            return Err(format!("run {} is newer than run {epoch}", orders.epoch));
        }
        orders.epoch = epoch;
        Ok(act(&mut orders))
    }

    async fn wait_for(
        &self,
        until: Instant,
        enough: impl Fn(&super::gate::Census) -> bool,
    ) -> bool {
        let mut progress = self.gates.progress();
        loop {
            progress.mark_unchanged();
            if enough(&self.gates.census()) {
                return true;
            }
            if tokio::time::timeout_at(until, progress.changed()).await.is_err() {
                return enough(&self.gates.census());
            }
        }
    }

    fn answer(&self, error: Option<String>) -> Answer {
        let census = self.gates.census();
        let gate = self.gates.now();
        let orders = *super::lock(&self.orders);
        Answer {
            version: VERSION,
            error,
            side: gate.side,
            epoch: orders.epoch,
            serial: gate.hold.map_or(orders.released, |hold| hold.serial.max(orders.released)),
            holding: gate.hold.is_some(),
            clients: census.clients,
            held: census.held,
            entering: census.entering + census.logging_in,
            busy: census.busy.into_iter().map(|(what, count)| (what.to_owned(), count)).collect(),
            sessions: Named::oldest(census.under_way),
            pinned: census.pinned,
            unasked: census.unasked,
            moved: self.totals.moved.load(Ordering::Relaxed),
            cut: self.totals.cut.load(Ordering::Relaxed),
            pid: std::process::id(),
            listen: self.address.to_string(),
            servers: self.engine.servers(gate.side),
            blue: Some(self.engine.end(Side::Blue)),
            green: Some(self.engine.end(Side::Green)),
            opposite: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_clients_belong_outlives_the_process() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("proxy.route");
        assert_eq!(Orders::read(&path).unwrap(), Orders::default());
        let orders = Orders { side: Side::Green, epoch: 7, released: 0 };
        orders.write(&path).unwrap();
        assert_eq!(Orders::read(&path).unwrap(), orders);
        std::fs::write(&path, "{").unwrap();
        assert!(Orders::read(&path).is_err());
    }

    #[test]
    fn orders_are_lines_that_people_can_write() {
        let order =
            Order::read(r#"{"cmd":"hold","epoch":3,"serial":1,"wait_ms":10,"limit_ms":1000}"#);
        assert!(matches!(order.unwrap(), Order::Hold { epoch: 3, .. }));
        let order = Order::read(r#"{"cmd":"route","epoch":3,"side":"green"}"#);
        assert_eq!(order.unwrap(), Order::Route { epoch: 3, side: Side::Green });
    }

    #[test]
    fn an_order_of_another_version_is_refused_and_told_the_way_out() {
        for order in [Order::Survey, Order::Status, Order::Release { epoch: 1, serial: 2 }] {
            let line = String::from_utf8(order.line().unwrap()).unwrap();
            assert_eq!(Order::read(&line).unwrap(), order);
        }
        assert!(Order::read(r#"{"cmd":"release","epoch":1,"serial":2,"news":true}"#).is_err());
        for version in ["0", "3", "99"] {
            let line = format!(r#"{{"version":{version},"cmd":"survey","news":true}}"#);
            let why = Order::read(&line).unwrap_err();
            assert!(why.contains(WAY_OUT) && why.contains(version), "{why}");
        }
        assert!(Order::read(r#"{"version":"2","cmd":"survey"}"#).is_err());
        assert!(Order::read("7").is_err());
    }
}
