//! One attempt at streaming: connect both ends, find out where to resume, run, and watch that
//! blue's tables stay what they were.

use std::sync::Arc;
use std::time::Duration;

use decoders::assemble::KnownTables;
use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::session::Session;
use decoders::postgres::stream::{Binary, StreamOptions};
use decoders::postgres::{session, slot};
use decoders::source::Disposition;
use decoders::spool::Spool;
use sinks::Target;
use sinks::postgres::{PgTarget, PgTargetOptions};
use sinks::progress::StreamIdentity;
use tokio::sync::watch;

use super::arming::of_door;
use super::failure::{Failure, GREEN_INCOMPLETE, of_connect};
use super::firing::Switching;
use super::reader::{self, Reader};
use super::record::{self, Book};
use super::{Pipeline, constraints, drift};
use crate::backfill::copied_at;
use crate::config::{BinaryMode, Config, ReaderMode, StreamingMode};
use crate::engine::apply::{Applier, BatchLimits};
use crate::engine::copied_at::CopiedAt;
use crate::engine::own::Counterpart;
use crate::engine::resume::{self, Known, Resume};
use crate::engine::stream::{self, Outcome, StreamContext};
use crate::own_thread::on_own_thread;
use crate::status::Shared;
use crate::store::Store;

/// How long an orderly end of the stream may take.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);
/// Who reads a stream does not answer blue while it works a batch out, so its batches stay small. More than
/// that waits only far behind, where another thread applies.
const BESIDE_BYTES_MAX: usize = 16 << 20;

impl Pipeline {
    /// Streams until stopped, finished, or an error, by one reader after the other.
    pub(super) async fn stream(&mut self, identity: StreamIdentity) -> Result<(), Failure> {
        while self.read(&identity).await? == Outcome::Handover {}
        Ok(())
    }

    /// One reader, until stopped, finished, an error, or the handover to another.
    async fn read(&mut self, identity: &StreamIdentity) -> Result<Outcome, Failure> {
        self.shared.hot.send_replace(false);
        let (from, to) = (self.ends.direction.from(), self.ends.direction.to());
        // Its errors say which side they mean.
        let put = |error| self.ends.put(of_door(error));
        let doors =
            [self.door.enter(from).await.map_err(put)?, self.door.enter(to).await.map_err(put)?];
        let options = PgTargetOptions {
            stream: identity.clone(),
            use_origin: true,
            accept_triggers: self.config.apply.accept_triggers,
        };
        let target = PgTarget::open(self.ends.target.clone(), options).await?;
        let green = target.progress().await?;
        let copied_at = self.copied_at(identity).await?;
        let blue = session::connect(&self.ends.source, "cutover setup").await;
        let blue = blue.map_err(|error| of_connect("blue", &error))?;
        let found = slot::inspect(&blue, &identity.slot).await?;
        let found = found.filter(|slot| !slot.is_lost()).ok_or_else(|| {
            let gone = format!("the replication slot {} is gone or was invalidated", identity.slot);
            Failure {
                data: GREEN_INCOMPLETE,
                ..Failure::halt("blue", gone, resume::Broken::REMEDY)
            }
        })?;
        let known = KnownTables::default();
        self.keep_record(&blue, &known, true).await?;
        let at = resume::resume(Known {
            consistent_point: identity.consistent_point,
            green,
            checkpoint: self.store.checkpoint()?,
            slot: found.confirmed_flush_lsn.unwrap_or(identity.consistent_point),
        })?;
        let stands_by = !*self.shared.carries.borrow();
        if !stands_by {
            self.shared.hold_back(&self.ends.words(drift::NOT_COMPARED.into()));
        }
        let ending = watch::Sender::new(false);
        let lanes_open = watch::Sender::new(false);
        let reading = Reading {
            config: self.config.clone(),
            from: self.ends.source.clone(),
            store: self.store.clone(),
            shared: Arc::clone(&self.shared),
            options: StreamOptions {
                known_tables: known.clone(),
                ..self.stream_options(identity, &at)?
            },
            lanes_open: lanes_open.clone(),
            ending: ending.subscribe(),
            stands_by,
            copied_at,
        };
        let mut choice = std::mem::take(&mut self.choice);
        let run = on_own_thread(move || async move {
            let ran = reading.run(&mut choice, blue, target, at).await;
            (ran, choice)
        });
        let mut drifted = None;
        let (ran, choice) = {
            let switching = Switching {
                config: &self.config,
                ends: &self.ends,
                door: &self.door,
                firing: &self.firing,
                store: &self.store,
            };
            let ends = async {
                tokio::select! {
                    _ = self.stop.wait_for(|stop| *stop) => {}
                    _ = self.finished.wait_for(|finished| *finished) => {}
                    failure = drift::watch(
                        &switching,
                        &self.shared,
                        &self.store,
                        &known,
                    ) => {
                        drifted = Some(failure);
                    }
                }
                ending.send_replace(true);
                // What is under way ends in order; `run` then returns.
                std::future::pending::<()>().await
            };
            let enters = async {
                let mut opened = lanes_open.subscribe();
                if opened.wait_for(|open| *open).await.is_ok() {
                    drop(doors);
                    self.shared.runs(true);
                }
                std::future::pending::<()>().await
            };
            tokio::select! {
                ran = run => ran,
                () = constraints::watch(&self.ends.target, &self.ends, &self.shared) => {
                    unreachable!("never returns")
                }
                () = enters => unreachable!("never returns"),
                () = ends => unreachable!("never returns"),
            }
        };
        self.choice = choice;
        let outcome = match ran {
            Ok(outcome) => outcome,
            Err(failure) => return Err(self.mended(failure, &known).await),
        };
        match drifted {
            Some(failure) => Err(failure),
            None => Ok(outcome),
        }
    }

    /// Looks at blue's catalog against its record on green, which is renewed; a stream that stands by only
    /// learns what it has to know. Gives how many partitions were made on green.
    async fn keep_record(
        &self,
        blue: &Session,
        known: &KnownTables,
        is_passed: bool,
    ) -> Result<usize, Failure> {
        let green = session::connect(&self.ends.target, "cutover setup").await;
        let green = green.map_err(|error| of_connect("green", &error))?;
        record::make_writable(&green).await?;
        let mut book = Book::open(&green, &self.config, known).await?;
        if !*self.shared.carries.borrow() {
            return Ok(0);
        }
        let look = book.look(blue, &green, &self.config, is_passed).await?;
        if look.has_moved {
            record::end_proofs(&self.config, &self.shared, &self.store)?;
        }
        Ok(look.mirrored.len())
    }

    /// A row of a partition that blue has just got may be here before the watch has seen the partition. If it can be
    /// made on green now, the stream goes on.
    async fn mended(&self, failure: Failure, known: &KnownTables) -> Failure {
        if failure.is_transient() {
            return failure;
        }
        let blue = session::connect(&self.ends.source, "cutover setup").await;
        let looked = match blue {
            Ok(blue) => self.keep_record(&blue, known, false).await,
            Err(error) => Err(of_connect("blue", &error)),
        };
        match looked {
            Ok(0) => failure,
            Ok(_) => Failure { disposition: Disposition::Retry, ..failure },
            Err(looked) => {
                // What stopped the stream is what has to be told; the next attempt looks again.
                tracing::warn!(
                    place = looked.place,
                    "the catalogs could not be looked at: {}",
                    looked.what
                );
                failure
            }
        }
    }

    /// What green itself says of the copy: from which snapshots, and what is still missing.
    async fn copied_at(&self, identity: &StreamIdentity) -> Result<CopiedAt, Failure> {
        let target = session::connect(&self.ends.target, "cutover setup").await;
        let target = target.map_err(|error| of_connect("green", &error))?;
        constraints::begin(&target, &self.shared).await?;
        if *self.shared.carries.borrow() {
            record::make_writable(&target).await?;
            let switching = self.switching();
            let quieted = switching.quiet(&target).await?;
            if !quieted.fired.is_empty() {
                let mut book = Book::open(&target, &self.config, &KnownTables::default()).await?;
                switching.doubt(&mut book, &target, &quieted).await?;
                record::end_proofs(&self.config, &self.shared, &self.store)?;
            }
            quieted.ensure_off()?;
        }
        Ok(copied_at::read(&*target, identity).await?)
    }

    fn stream_options(
        &self,
        identity: &StreamIdentity,
        at: &Resume,
    ) -> Result<StreamOptions, Failure> {
        let mut options = StreamOptions::new(
            identity.slot.clone(),
            vec![self.config.publication()],
            self.config.application_name(),
        );
        options.start = Some(at.from);
        options.applied = at.beyond.last().copied().max(Some(at.transaction));
        options.expected_identity = self.store.source()?;
        options.part_bytes = options.part_bytes.min(self.config.apply.memory_bytes / 4);
        options.binary = match self.config.apply.binary {
            BinaryMode::Auto => Binary::Auto,
            BinaryMode::Off => Binary::Off,
        };
        options.spool = self.spool();
        Ok(options)
    }

    /// Where large transactions wait that are received while they run.
    fn spool(&self) -> Option<Arc<dyn Spool>> {
        let spool = self.store.spool();
        let wanted = self.config.apply.streaming == StreamingMode::Auto && spool.is_usable();
        wanted.then(|| Arc::new(spool.clone()) as Arc<dyn Spool>)
    }
}

/// A reader and what it brings, on a thread of their own.
struct Reading {
    config: Config,
    from: ConnInfo,
    store: Store,
    shared: Arc<Shared>,
    options: StreamOptions,
    lanes_open: watch::Sender<bool>,
    /// True ends it in order.
    ending: watch::Receiver<bool>,
    /// Nothing is applied for now.
    stands_by: bool,
    /// Tables that were copied from a later snapshot.
    copied_at: CopiedAt,
}

impl Reading {
    /// Opens the reader that fits, and runs until it is told to end, or hands over, or fails. `blue` is
    /// for questions.
    async fn run(
        mut self,
        choice: &mut reader::Choice,
        blue: Session,
        target: PgTarget,
        at: Resume,
    ) -> Result<Outcome, Failure> {
        let options = self.options.clone();
        let mut source = match self.stands_by {
            // Gulps hand over when they are done, and nothing is handed over behind a closed gate.
            true => Reader::stream(&self.from, options).await?,
            false => choice.open(&self.from, &blue, &self.config.apply, options).await?,
        };
        // After a failover the next comparison is with the server that is followed now, whatever is
        // applied of it by then.
        if Some(source.identity()) != self.options.expected_identity {
            self.store.save_source(&source.identity())?;
        }
        let counterpart = Counterpart::learned(self.config.counterpart(), blue).await;
        let counterpart = counterpart
            .map_err(|error| Failure { place: "blue".into(), ..Failure::from(error) })?;
        tracing::info!(
            pipeline = self.config.name,
            reader = source.name(),
            from = %at.from,
            stands_by = self.stands_by,
            binary = source.is_binary(),
            streaming_running = source.is_streaming_running(),
            triggers = ?target.capabilities().triggers,
            "streaming"
        );
        let handover = watch::Sender::new(false);
        let may_gulp =
            matches!(source, Reader::Stream(_)) && self.config.apply.reader == ReaderMode::Auto;
        let applier = if may_gulp { choice.applier(at.from) } else { Applier::Apart };
        let context = self.context(counterpart, applier, handover.subscribe());
        self.shared.healed();
        let ran = {
            let run = stream::run(&mut source, Arc::new(target), at, &context, &mut self.ending);
            let mut carries = self.shared.carries.subscribe();
            let falls_behind = async {
                // A sender that is gone ends the run by itself.
                let _ = carries.wait_for(|carries| *carries).await;
                if may_gulp {
                    let far_bytes = self.config.apply.far_behind_bytes;
                    let (shared, store) = (&self.shared, &self.store);
                    let next = reader::far_behind(shared, choice, store, far_bytes, applier).await;
                    tracing::info!(pipeline = self.config.name, next, "far behind: going over");
                    handover.send_replace(true);
                }
                std::future::pending::<()>().await
            };
            tokio::select! {
                ran = run => ran,
                () = falls_behind => unreachable!("never returns"),
            }
        };
        let outcome = ran?;
        choice.handed_over(&source);
        // In good order, so that the slot is free for the next start at once. An error loses
        // nothing: what was not reported is sent again. In the middle of a large transaction blue
        // first sends the rest of it, which nobody waits for.
        match tokio::time::timeout(CLOSE_TIMEOUT, source.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the stream was not closed in order"),
            Err(_) => tracing::debug!("the stream was cut off while blue was sending"),
        }
        Ok(outcome)
    }

    fn context(
        &self,
        counterpart: Counterpart,
        applier: Applier,
        handover: watch::Receiver<bool>,
    ) -> StreamContext {
        let bytes = self.config.apply.batch_bytes();
        let bytes = match applier {
            Applier::Beside => bytes.min(BESIDE_BYTES_MAX),
            Applier::Apart => bytes,
        };
        StreamContext {
            store: self.store.clone(),
            positions: None,
            progress: Arc::clone(&self.shared.progress),
            totals: self.shared.totals.clone(),
            touched: Arc::clone(&self.shared.touched),
            tables: self.config.tables.clone(),
            copied_at: self.copied_at.clone(),
            gate: self.shared.gate.clone(),
            hold: self.shared.hold.clone(),
            counterpart,
            lanes_open: self.lanes_open.clone(),
            budget: self.shared.budget.clone(),
            limits: BatchLimits { bytes, transactions: self.config.apply.batch_transactions },
            lanes: self.config.apply.lanes,
            applier,
            handover,
        }
    }
}
