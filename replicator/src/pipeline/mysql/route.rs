//! The route of a stream that is read from a binlog. Nothing on a source waits for who reads it, so being
//! armed is a place in its history, and the target that knows the stream.

use std::sync::Arc;
use std::time::Duration;

use cutover::Direction;
use cutover::api::{Act, Check};
use cutover::counts::Counted;
use cutover::marker::{MARKER_TABLE, MarkerKind, Token};
use cutover::ports::{Handed, Leftover, PortError, PortResult};
use decoders::mysql::gtid::BinlogPosition;
use decoders::mysql::server::{self, Conn, Server, ServerUrl, literal};
use decoders::mysql::stream::head;
use decoders::{Lsn, SourceError};
use mysql_async::prelude::Queryable;
use sinks::mysql::{BinlogStreamIdentity, MysqlTarget, MysqlTargetOptions};
use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;

use super::{Reading, comparing, inspecting, markers, writable};
use crate::config::{Config, DdlMode};
use crate::pipeline::Ends;
use crate::pipeline::failure::Failure;
use crate::pipeline::route::Route;
use crate::schema::mysql::{Automation, Moved, QUIETLY};
use crate::status::Shared;
use crate::store::{Role, Store};
use crate::verify::mysql::{Counting, EngineStream};

/// Between two looks whether a place has been read.
const LOOK: Duration = Duration::from_millis(5);

/// What is left on a source beside what is whose server's own: the decisions, and who has closed it.
const KEPT: [&str; 2] = ["decision", "fence"];
/// What ran by itself on a source before it was closed, among others.
const NOTES: &str = "copy_notes";

/// What was made of what runs by itself, for the controller.
pub(crate) fn handed((moved, missing): (Moved, Vec<String>)) -> Handed {
    Handed { made: (!moved.is_none()).then(|| format!("{moved} made")), missing }
}

/// One direction between two servers of MySQL or MariaDB.
pub struct BinlogRoute {
    /// Of this direction: see [`Config::reversed`].
    pub config: Config,
    /// Of this direction.
    pub ends: Ends<ServerUrl>,
    /// What the stream tells while it runs.
    pub reading: Reading,
    /// Wakes the pipeline that waits for being armed.
    pub armed: Arc<Notify>,
    /// The session on the source that writes markers.
    marker: Mutex<Option<Conn>>,
}

impl BinlogRoute {
    /// Nothing is connected yet.
    pub fn new(config: Config, ends: Ends<ServerUrl>, reading: Reading) -> Self {
        Self { config, ends, reading, armed: Arc::default(), marker: Mutex::default() }
    }

    fn source(&self) -> &'static str {
        self.ends.direction.from().name()
    }

    /// Makes a new incarnation of the stream, which begins where its source is now. What was held of the
    /// one before is not looked at any more, so that is only for a stream that the target does not know.
    ///
    /// Whatever breaks it off: the stream is not known to the store or not to the target then, so the
    /// pipeline waits or halts, and the next run arms it again.
    async fn set_up(&self, store: &Store, shared: &Shared) -> Result<String, Failure> {
        let mut source = server::connect(&self.ends.source).await?;
        let server = Server::read(&mut source).await?;
        markers::make_table(&mut source, &self.config.name).await;
        let stream = BinlogStreamIdentity {
            pipeline: self.config.name.clone(),
            source: server::identity(&mut source, &server).await?,
            start: head(&mut source, &server).await?,
        };
        // The numbers of an incarnation before mean nothing any more: all that comes is held.
        if let Role::Standby { token, .. } = store.role()? {
            store.stand_by(&token, Lsn::INVALID)?;
            shared.stand_by(&token, Lsn::INVALID);
        }
        store.forget_checkpoint()?;
        store.unname_binlog_stream()?;
        MysqlTarget::forget(&self.ends.target, &self.config.name).await?;
        let options = MysqlTargetOptions {
            stream: stream.clone(),
            accept_triggers: self.config.apply.accept_triggers,
            applies_definitions: self.config.apply.ddl == DdlMode::Apply,
            row_events: false,
        };
        MysqlTarget::open(self.ends.target.clone(), options).await?;
        store.save_binlog_stream(&stream)?;
        Ok(format!("the binlog of {}, from {}", self.source(), stream.start))
    }

    fn automation(&self) -> Automation {
        let ends = [&self.ends.source, &self.ends.target];
        Automation::of(self.config.name.clone(), ends, self.config.tables.clone())
    }

    async fn connect(&self) -> PortResult<Conn> {
        let conn = server::connect(&self.ends.source).await;
        let mut conn = conn.map_err(|error| PortError::new(self.source(), error.message))?;
        // A session is read-only by default where the server's sessions are.
        let writable = conn.query_drop("SET SESSION TRANSACTION READ WRITE").await;
        writable.map_err(|error| self.unwritten(&error))?;
        Ok(conn)
    }

    fn unwritten(&self, error: &mysql_async::Error) -> PortError {
        let what = format!("the marker can't be written: {}", server::describe(error));
        PortError::new(self.source(), what)
    }

    /// Our tables on the source, but for those that stay.
    async fn drop_objects(&self) -> Result<Vec<String>, SourceError> {
        let failed = |error| server::failure("removing our own tables", error);
        let mut source = server::connect(&self.ends.source).await?;
        let sql = "SELECT table_name FROM information_schema.tables \
                   WHERE table_schema = '_cutover' ORDER BY 1";
        let there: Vec<String> = source.query(sql).await.map_err(failed)?;
        if there.iter().any(|table| table == "stream") {
            let others = "SELECT 1 FROM _cutover.stream LIMIT 1";
            // Another pipeline keeps everything.
            if source.query_first::<u8, _>(others).await.map_err(failed)?.is_some() {
                return Ok(Vec::new());
            }
        }
        // Nobody else knows what ran by itself here, should it ever be opened by hand.
        let notes = there.iter().any(|table| table == NOTES);
        let waits = "SELECT 1 FROM _cutover.copy_notes WHERE kind IN ('trigger', 'event') LIMIT 1";
        let notes = notes && source.query_first::<u8, _>(waits).await.map_err(failed)?.is_some();
        let is_kept = |table: &str| KEPT.contains(&table) || (notes && table == NOTES);
        let mut done = Vec::new();
        for table in there.into_iter().filter(|table| !is_kept(table)) {
            let sql = format!("DROP TABLE IF EXISTS _cutover.`{table}`");
            source.query_drop(sql).await.map_err(failed)?;
            done.push(format!("_cutover.{table} dropped"));
        }
        Ok(done)
    }
}

impl Route for BinlogRoute {
    type Place = BinlogPosition;
    /// Its log brings every change of a definition.
    type Seen = ();

    fn direction(&self) -> Direction {
        self.ends.direction
    }

    fn put(&self, failure: Failure) -> Failure {
        self.ends.put(failure)
    }

    async fn inspect(&self, _store: &Store) -> PortResult<Vec<Check>> {
        Ok(inspecting::inspect(&self.config, &self.ends).await)
    }

    async fn compare(&self) -> PortResult<Vec<Check>> {
        Ok(comparing::compare(&self.config, &self.ends).await)
    }

    async fn arm(&self, store: &Store, shared: &Shared) -> Result<String, Failure> {
        if store.binlog_stream_has_ended()? {
            return Err(Failure::halt(
                "stream",
                "the way back has been given up (cutover finish)",
                "replicator teardown, and begin anew",
            ));
        }
        // One that is broken is not begun anew by itself: what it held, or has not read, may be somebody
        // else's writes. A person who has looked removes it from the target: see `rearming`.
        let (url, name) = (&self.ends.target, &self.config.name);
        let is_there = store.binlog_stream()?.is_some()
            && (*shared.hot.borrow() || MysqlTarget::registered(url, name).await?.is_some());
        if is_there {
            // An attempt that failed may wait for its next try.
            self.armed.notify_one();
            return Ok("it is there already".into());
        }
        if store.role()? == Role::Carry {
            return Err(Failure::halt(
                "stream",
                shared.trouble().unwrap_or_else(|| "the stream that carries is gone".into()),
                "see `cutover status`; blue is untouched",
            ));
        }
        let made = self.set_up(store, shared).await?;
        self.armed.notify_one();
        Ok(made)
    }

    fn describe(&self) -> Vec<Act> {
        let [from, to] = [self.ends.direction.from().name(), self.ends.direction.to().name()];
        let act = |place: &str, text: String| Act { step: "arm".into(), place: place.into(), text };
        vec![
            act(from, format!("read the binlog from where {from} is then")),
            act(to, format!("register stream {} in _cutover.stream", self.config.name)),
        ]
    }

    fn rearming(&self) -> String {
        format!(
            "stop the sidecar, DELETE FROM _cutover.stream WHERE pipeline = {} on {}, and start it",
            literal(&self.config.name),
            self.ends.direction.to()
        )
    }

    async fn open_marker(&self) -> PortResult<()> {
        let mut kept = self.marker.lock().await;
        let is_there = match kept.as_mut() {
            Some(conn) => conn.ping().await.is_ok(),
            None => false,
        };
        if !is_there {
            *kept = Some(self.connect().await?);
        }
        Ok(())
    }

    async fn mark(&self, token: &Token) -> PortResult<(u64, BinlogPosition)> {
        let mut kept = self.marker.lock().await;
        // Taken out: a call that is given up half-way leaves none behind.
        let mut conn = match kept.take() {
            Some(conn) => conn,
            None => self.connect().await?,
        };
        // Written already if an earlier answer was lost.
        let sql =
            format!("{} ON DUPLICATE KEY UPDATE token = token", MarkerKind::Row.statement(token));
        conn.query_drop(sql).await.map_err(|error| self.unwritten(&error))?;
        let asked = |error: SourceError| PortError::new(self.source(), error.message);
        let server = Server::read(&mut conn).await.map_err(asked)?;
        let place = head(&mut conn, &server).await.map_err(asked)?;
        *kept = Some(conn);
        // Transactions have no numbers here.
        Ok((0, place))
    }

    async fn look_at_source(&self) -> PortResult<()> {
        Ok(())
    }

    async fn ensure_known(&self, _shared: &Shared, (): ()) -> PortResult<()> {
        Ok(())
    }

    async fn head(&self) -> PortResult<BinlogPosition> {
        let mut kept = self.marker.lock().await;
        let gone = || PortError::new(self.source(), "the session that writes markers is gone");
        let conn = kept.as_mut().ok_or_else(gone)?;
        let asked = |error: SourceError| PortError::new(self.source(), error.message);
        let server = Server::read(conn).await.map_err(asked)?;
        head(conn, &server).await.map_err(asked)
    }

    async fn position(&self, place: BinlogPosition) -> Lsn {
        loop {
            // Of the newest run: a reader that was opened anew counts on.
            let read = self.reading.ledger().map(|ledger| ledger.read());
            if let Some(read) = read.filter(|read| read.position.covers(&place)) {
                return read.number;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn count_rows(
        &self,
        shared: &Arc<Shared>,
        bytes: u64,
        deadline: Instant,
    ) -> PortResult<Counted> {
        let [source, target] = [&self.ends.source, &self.ends.target];
        let stream = EngineStream { shared: Arc::clone(shared), reading: self.reading.clone() };
        let counting = Counting {
            source: (self.ends.direction.from(), source.clone()),
            target: (self.ends.direction.to(), target.clone()),
            database: source.database().or(target.database()).map(str::to_owned),
            filter: self.config.tables.clone(),
            stream: &stream,
            bytes,
        };
        let counted = counting.run(deadline).await;
        counted.map_err(|trouble| PortError::new(trouble.place, trouble.what))
    }

    async fn note_automation(&self) -> Result<(), Failure> {
        writable::ensure(&self.config, &self.ends).await?;
        self.automation().note().await?;
        Ok(())
    }

    async fn bring_automation(&self) -> Result<Handed, Failure> {
        Ok(handed(self.automation().bring().await?))
    }

    fn bringing(&self) -> Vec<Act> {
        let [from, to] = [self.ends.direction.from(), self.ends.direction.to()];
        let text = format!(
            "{QUIETLY}; DROP and CREATE TRIGGER .., EVENT .. that {to} has not as {from} shows them behind \
             the fence"
        );
        vec![Act { step: "flip".into(), place: to.name().into(), text }]
    }

    fn quiets_by_itself(&self) -> bool {
        // Tables with triggers are refused then, until they are gone.
        self.ends.direction == Direction::Back && !self.config.apply.accept_triggers
    }

    fn quieting(&self) -> Vec<Act> {
        let to = self.ends.direction.to();
        let text = format!(
            "{QUIETLY}; DROP TRIGGER .., DROP EVENT .. and CREATE EVENT .. DISABLE, each noted in \
             _cutover.copy_notes before"
        );
        vec![Act { step: "finish".into(), place: to.name().into(), text }]
    }

    async fn quiet_automation(&self) -> Result<Option<String>, Failure> {
        let quiet = self.automation().quiet().await?;
        Ok((!quiet.is_none())
            .then(|| format!("{quiet} kept quiet on {}", self.ends.direction.to())))
    }

    async fn remove(&self, what: Leftover) -> Result<String, Failure> {
        let [from, to] = [self.ends.direction.from(), self.ends.direction.to()];
        match what {
            Leftover::Slot => Ok(format!("{from}: nothing waits for a reader there")),
            Leftover::Publication => Ok(format!("{from}: nothing is published there")),
            Leftover::Origins => {
                MysqlTarget::forget(&self.ends.target, &self.config.name).await?;
                Ok(format!("{to}: progress of {}", self.config.name))
            }
            Leftover::Objects => {
                *self.marker.lock().await = None;
                let mut done = self.drop_objects().await?;
                if done.is_empty() {
                    done.push("nothing else was left".into());
                }
                Ok(format!("{from}: {}", done.join(", ")))
            }
        }
    }

    fn removal(&self, what: Leftover) -> Act {
        let [from, to] = [self.ends.direction.from(), self.ends.direction.to()];
        let (place, text) = match what {
            Leftover::Slot => (from, "nothing: the binlog goes when it expires".to_owned()),
            Leftover::Publication => (from, "nothing: nothing is published".to_owned()),
            Leftover::Origins => (to, format!("remove the progress of {}", self.config.name)),
            Leftover::Objects => (
                from,
                format!(
                    "drop our tables (_cutover.{MARKER_TABLE} and others) but _cutover.{}",
                    KEPT.join(" and _cutover.")
                ),
            ),
        };
        Act { step: "finish".into(), place: place.name().into(), text }
    }
}
