//! The set-up of a way back: no copy and no schema, both sides are equal. Publication and slot on
//! its source, the stream registered on its target, and it is ready to stream.
//!
//! Like every set-up it is recorded before its first act, and is done again after a crash. Nothing
//! is lost by that: until the way back carries there is nothing that it could lose.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cutover::api::Act;
use cutover::marker::{self, MarkerKind};
use cutover::ports::{Leftover, PortError};
use decoders::postgres::publication::{self, PublicationOptions};
use decoders::postgres::session::{self, Session};
use decoders::postgres::slot::{self, SlotKind};
use decoders::postgres::state_schema;
use decoders::postgres::wire::ReplicationConnection;
use decoders::{Lsn, QualifiedName};
use sinks::own::keys;
use sinks::postgres::{PgTarget, PgTargetOptions, target_error};
use sinks::progress::{self, StreamIdentity};
use tokio::sync::{Mutex, Notify};

use super::copying::{identify, read_tables};
use super::ends::Ends;
use super::failure::{Failure, of_connect};
use super::firing::Firing;
use super::published::published;
use super::record::Book;
use super::teardown;
use crate::config::Config;
use crate::door::Door;
use crate::engine::resume::Broken;
use crate::store::{Role, Stage, Store};

/// How long the slot's creation may wait for transactions that are writing on its source.
const SLOT_LOCK_TIMEOUT: Duration = Duration::from_secs(20);

/// What a direction that is read from a slot needs to be armed and to write markers.
pub struct SlotRoute {
    /// Of this direction: see [`Config::reversed`].
    pub config: Config,
    /// Of this direction.
    pub ends: Ends,
    /// Into sides that a cutover has closed.
    pub door: Door,
    /// Wakes the pipeline that waits for being armed.
    pub armed: Arc<Notify>,
    /// What is known of triggers on both sides.
    pub firing: Arc<Firing>,
    /// The session on the source that writes markers.
    pub(super) marker: Mutex<Option<Session>>,
    /// When which materialized view was refreshed by a refresh that has not come to its end.
    pub(super) refreshed: std::sync::Mutex<BTreeMap<u32, std::time::Instant>>,
    /// What the flip finds ready on the target, if it has to switch something there.
    pub(super) opening: Mutex<Option<Session>>,
}

impl SlotRoute {
    /// Nothing is connected yet.
    pub fn new(config: Config, ends: Ends, door: Door, firing: Arc<Firing>) -> Self {
        Self {
            config,
            ends,
            door,
            armed: Arc::default(),
            firing,
            marker: Mutex::default(),
            opening: Mutex::default(),
            refreshed: Default::default(),
        }
    }

    /// Sets up what is not there yet and wakes the pipeline. Says what was done, in the engine's
    /// words (see [`Ends::put`]), as its failures are.
    ///
    /// # Errors
    /// A server's, the store's, and a way back that is broken while it carries.
    pub(super) async fn armed_by(&self, store: &Store) -> Result<String, Failure> {
        let _guards = self.enter().await?;
        let source = self.connect("blue", &self.ends.source).await?;
        let found = slot::inspect(&source, &self.config.slot()).await?;
        let is_whole = found.is_some_and(|slot| !slot.is_lost());
        match store.stage()? {
            Some(Stage::Streaming { .. }) if is_whole => {
                // An attempt that failed may wait for its next try.
                self.armed.notify_one();
                return Ok("it is there already".into());
            }
            Some(Stage::CutOver { .. }) => {
                return Err(Failure::halt(
                    "stream",
                    "the way back has been given up (cutover finish)",
                    "replicator teardown, and begin anew",
                ));
            }
            _ if store.role()? == Role::Carry => {
                return Err(Failure::halt(
                    "blue",
                    format!("the replication slot {} is gone", self.config.slot()),
                    Broken::REMEDY,
                ));
            }
            _ => {}
        }
        let made = self.set_up(&source, store).await?;
        self.armed.notify_one();
        Ok(made)
    }

    async fn set_up(&self, source: &Session, store: &Store) -> Result<String, Failure> {
        let application = self.config.application_name();
        let slot_name = self.config.slot();
        store.save_stage(&Stage::Preparing)?;
        slot::drop(source, &slot_name, Some(&application)).await?;
        store.forget_checkpoint()?;
        store.forget_quiet()?;
        let tables = self.publish(source).await?;
        let replication = ReplicationConnection::connect(&self.ends.source, &application).await;
        let mut replication = replication.map_err(|error| of_connect("blue", &error))?;
        let identity = identify(&mut replication).await?;
        let created = slot::create(
            &mut replication,
            source,
            &slot_name,
            SlotKind::Lasting,
            SLOT_LOCK_TIMEOUT,
        )
        .await?;
        let stream = StreamIdentity {
            pipeline: self.config.name.clone(),
            system_identifier: identity.system_id.to_string(),
            database: self.ends.source.dbname().to_owned(),
            slot: slot_name,
            consistent_point: created.consistent_point,
        };
        store.save_source(&identity)?;
        self.register(&stream, &created.snapshot).await?;
        drop(replication);
        let from: Lsn = stream.consistent_point;
        store.save_stage(&Stage::Streaming { stream })?;
        Ok(format!("{tables} tables of {}, from {from}", self.ends.direction.from()))
    }

    /// The target knows the stream before it is closed: its tables are made now.
    /// It also keeps the record of the source's catalog as it was when the slot's stream begins (`snapshot`).
    async fn register(&self, stream: &StreamIdentity, snapshot: &str) -> Result<(), Failure> {
        let target = self.connect("green", &self.ends.target).await?;
        progress::create(&target).await?;
        progress::forget(&target, &self.config.name).await?;
        Book::begin(&self.ends.source, snapshot, &target, &self.config).await?;
        let options = PgTargetOptions {
            stream: stream.clone(),
            use_origin: true,
            accept_triggers: self.config.apply.accept_triggers,
        };
        PgTarget::open(self.ends.target.clone(), options).await?;
        Ok(())
    }

    /// The tables that the other direction publishes, on this side; how many there are.
    async fn publish(&self, source: &Session) -> Result<usize, Failure> {
        let target = self.connect("green", &self.ends.target).await?;
        let theirs = self.theirs(&target).await?;
        let tables = read_tables(source, &self.config.tables).await?;
        let tables: Vec<_> = tables
            .into_iter()
            .filter(|table| !table.is_decoded() || theirs.contains(&table.name))
            .collect();
        let version_num = source.server_version();
        let mut names = published(&tables, &self.config.tables, version_num);
        let count = names.len();
        keys::refuse_strangers(source).await?;
        if MarkerKind::for_version(version_num) == MarkerKind::Row {
            let made = source.batch_execute(&marker_table()).await;
            made.map_err(|error| target_error("making the marker table", &error))?;
            names.push(QualifiedName::new(marker::SCHEMA, marker::MARKER_TABLE));
        }
        let publication = self.config.publication();
        publication::drop(source, &publication).await?;
        publication::create(source, &publication, &names, PublicationOptions::default()).await?;
        Ok(count)
    }

    /// What the stream to this direction's source publishes, as it names it.
    pub(crate) async fn theirs(
        &self,
        target: &Session,
    ) -> Result<BTreeSet<QualifiedName>, Failure> {
        let publication = format!("cutover_{}", self.config.counterpart());
        let tables = publication::tables(target, &publication).await?;
        Ok(tables.into_iter().map(|table| table.name).collect())
    }

    /// Into both sides, whichever is closed.
    async fn enter(&self) -> Result<[cutover::ports::Airlock; 2], Failure> {
        let direction = self.ends.direction;
        // Its errors say which side they mean.
        let put = |error| self.ends.put(of_door(error));
        let source = self.door.enter(direction.from()).await.map_err(put)?;
        Ok([source, self.door.enter(direction.to()).await.map_err(put)?])
    }

    /// A session on one end, able to write although it may be closed to everybody else. The caller
    /// has the door open.
    pub(crate) async fn connect(
        &self,
        end: &'static str,
        info: &decoders::postgres::conninfo::ConnInfo,
    ) -> Result<Session, Failure> {
        let session = session::connect(info, &self.config.application_name()).await;
        let session = session.map_err(|error| of_connect(end, &error))?;
        let writable = session.batch_execute("SET default_transaction_read_only = off").await;
        writable.map_err(|error| target_error("making a session writable", &error))?;
        Ok(session)
    }

    /// Removes one kind of what this stream left on the servers.
    pub(super) async fn removed(&self, what: Leftover) -> Result<String, Failure> {
        let _guards = self.enter().await?;
        let (config, direction) = (&self.config, self.ends.direction);
        let [from, to] = [direction.from(), direction.to()];
        match what {
            Leftover::Slot => {
                let source = self.connect("blue", &self.ends.source).await?;
                slot::drop(&source, &config.slot(), Some(&config.application_name())).await?;
                Ok(format!("{from}: replication slot {}", config.slot()))
            }
            Leftover::Publication => {
                let source = self.connect("blue", &self.ends.source).await?;
                publication::drop(&source, &config.publication()).await?;
                Ok(format!("{from}: publication {}", config.publication()))
            }
            Leftover::Origins => {
                *self.opening.lock().await = None;
                let target = self.connect("green", &self.ends.target).await?;
                let mut done = teardown::triggers(&target, config, direction, to.name()).await?;
                progress::remove(&target, &config.name).await?;
                done.push(format!("{to}: progress and origins of {}", config.name));
                Ok(done.join(", "))
            }
            Leftover::Objects => {
                *self.marker.lock().await = None;
                let source = self.connect("blue", &self.ends.source).await?;
                let mut done = teardown::markers(&source).await?;
                done.extend(teardown::tables_but_decisions(&source).await?);
                if done.is_empty() {
                    done.push("nothing else was left".into());
                }
                Ok(format!("{from}: {}", done.join(", ")))
            }
        }
    }

    /// What removing one kind does, for a plan.
    pub(super) fn removal_of(&self, what: Leftover) -> Act {
        let config = &self.config;
        let [from, to] = [self.ends.direction.from(), self.ends.direction.to()];
        let (place, text) = match what {
            Leftover::Slot => (from, format!("drop replication slot {}", config.slot())),
            Leftover::Publication => (from, format!("DROP PUBLICATION {}", config.publication())),
            Leftover::Origins => {
                (to, format!("drop the progress and the replication origins of {}", config.name))
            }
            Leftover::Objects => {
                (from, "drop our tables but _cutover.decision, and our triggers".to_owned())
            }
        };
        Act { step: "finish".into(), place: place.name().into(), text }
    }

    /// What arming does, for a plan.
    pub(super) fn acts(&self) -> Vec<Act> {
        let [from, to] = [self.ends.direction.from().name(), self.ends.direction.to().name()];
        let act = |place: &str, text: String| Act { step: "arm".into(), place: place.into(), text };
        let (slot, publication) = (self.config.slot(), self.config.publication());
        vec![
            act(from, format!("CREATE PUBLICATION {publication} for the replicated tables")),
            act(from, format!("CREATE_REPLICATION_SLOT {slot} LOGICAL pgoutput")),
            act(to, format!("register stream {} in _cutover.stream", self.config.name)),
        ]
    }
}

/// Makes the table of row markers, for nobody else.
pub(super) fn marker_table() -> String {
    format!("{}; {}", marker::CREATE_MARKER_TABLE, state_schema::REVOKE)
}

/// A door that does not open is a matter of time.
pub(super) fn of_door(error: PortError) -> Failure {
    Failure { remedy: error.remedy, ..Failure::retry(error.place, error.what) }
}
