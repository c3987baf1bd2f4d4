//! The comparison of two PostgreSQL databases, from what there is on both sides to the report.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use cutover::Side;
use cutover::api::Severity;
use cutover::verify::{Dialect, Mode, ObjectFinding, VerifyReport, VerifyRequest, objects};
use decoders::QualifiedName;
use decoders::postgres::catalog::{self, SequenceInfo, SequenceValue, TableInfo, TableShape};

use super::canonical::Canonical;
use super::chosen::Chosen;
use super::continuous::Continuous;
use super::definitions::{self, Definitions, SequenceValues};
use super::gate::Gate;
use super::job::{Comparison, Job, Work};
use super::large;
use super::plan::TablePlan;
use super::printed;
use super::reader::{Reader, Trouble};
use super::rechecking;
use super::resume::Memory;
use super::turning::Turning;
use super::unproven;
use super::work::{self, Bench, Counts, Pace, Shop};
use crate::controlling::EngineReplication;
use crate::store::FinishedChunk;

/// Connections to each server: one finds chunks, the others compare them.
pub(super) const CONNECTIONS: RangeInclusive<u32> = 2..=32;
const CONNECTIONS_DEFAULT: u32 = 3;
/// Percent of the chunks.
const SAMPLE_DEFAULT: f64 = 1.0;
pub(super) const SETTLE_DEFAULT: Duration = Duration::from_secs(60);

/// Of the target of `stream` with its source.
pub(super) struct PostgresComparison {
    pub stream: EngineReplication,
    pub chosen: Chosen,
}

impl Comparison for PostgresComparison {
    fn source(&self) -> Side {
        self.stream.route.ends.direction.from()
    }

    async fn compare(
        &self,
        job: &Job,
        request: &VerifyRequest,
        turning: &Arc<Turning>,
    ) -> Result<VerifyReport, Trouble> {
        let Self { stream, chosen } = self;
        let (ends, config) = (stream.route.ends.clone(), stream.route.config.clone());
        let (from, to) = (ends.direction.from(), ends.direction.to());
        let door = stream.route.door.clone();
        let (source, target) = tokio::try_join!(
            Reader::open(&ends.source, from, &door),
            Reader::open(&ends.target, to, &door),
        )?;
        // Before anything is read: what is marked later is not answered by this.
        let marks = unproven::marks(&target, &config.name).await?;
        let wanted = |name: &QualifiedName| chosen.takes(name);
        let filter = &config.tables;
        let (here, there) = tokio::try_join!(tables(&source, filter), tables(&target, filter))?;
        let canonical = Canonical::of(&source, &target).await?;
        let question = (job.id(), job.started(), from);
        let is_resumed = job.resumed().is_some();
        let ground = &turning.ground;
        let opened = Memory::open(&stream.store, is_resumed, question, ground, request).await;
        let (memory, before) = opened?;
        let mut benches = Vec::new();
        let others: HashMap<&QualifiedName, &TableInfo> =
            there.iter().map(|other| (&other.name, other)).collect();
        let mut finished: HashMap<&str, Vec<&FinishedChunk>> = HashMap::new();
        for done in &before {
            finished.entry(&done.table).or_default().push(done);
        }
        for table in here.iter().filter(|table| table.is_decoded() && wanted(&table.name)) {
            // A table that the target lacks is among the objects, or an error if those are not
            // asked for.
            let other = others.get(&table.name).copied();
            let lacking = TableInfo { columns: Vec::new(), ..table.clone() };
            let plan = TablePlan::new(table, other.unwrap_or(&lacking), &canonical, request);
            let plan = plan.restricted_to(chosen.restriction(&table.name, Dialect::Postgres)?);
            let (name, fingerprint) = (plan.name.to_string(), plan.fingerprint());
            let of_it = finished.get(name.as_str()).into_iter().flatten();
            let of_plan = of_it.filter(|done| done.plan == fingerprint);
            let done = of_plan.copied().cloned().collect();
            let bench = Bench::new(plan, done);
            if other.is_none() {
                bench.report.lock().await.error = Some(format!("{to} does not have it"));
            }
            benches.push(Arc::new(bench));
        }
        if benches.is_empty() {
            return Err(Trouble::new(from, "no replicated table has such a name"));
        }
        let plans: Vec<&TablePlan> = benches.iter().map(|bench| &bench.plan).collect();
        chosen.check(&plans, [&source, &target]).await?;
        // The largest first, so that they do not end last.
        benches.sort_by_key(|bench| std::cmp::Reverse(bench.plan.bytes));
        let mut objects = match request.rows_only {
            true => Vec::new(),
            false => {
                // Both read rows no more.
                tokio::try_join!(source.reads_catalogs(), target.reads_catalogs())?;
                let is_whole = request.is_whole();
                let values = SequenceValues::Read;
                let shapes =
                    [&here, &there].map(|all| all.iter().map(TableShape::from).collect::<Vec<_>>());
                let (one, other) = tokio::try_join!(
                    definitions::read(&source, &shapes[0], wanted, filter, is_whole, values),
                    definitions::read(&target, &shapes[1], wanted, filter, is_whole, values),
                )?;
                let mut both = [one, other];
                let states = definitions::noted_states(&target, &config, ends.direction).await?;
                definitions::as_noted(&mut both[1].objects, &states);
                let majors = [&source, &target].map(|r| r.session().server_version() / 10_000);
                let mut found =
                    compare_objects([&both[0], &both[1]], [from, to], majors[0] == majors[1]);
                let texts = [&both[0], &both[1]].map(|side| side.objects.iter().collect());
                found.extend(printed::compare(&target, texts, [from, to]).await?);
                let unlogged =
                    here.iter().filter(|table| table.holds_rows() && !table.is_decoded());
                found.extend(unlogged.filter(|table| wanted(&table.name)).map(|table| {
                    let what = format!("its rows are not compared: {from} does not log them");
                    noted("table", table.name.to_string(), what)
                }));
                found
            }
        };
        let seed = u64::from_str_radix(job.id(), 16).unwrap_or_default();
        let percent = request.sample_percent.unwrap_or(SAMPLE_DEFAULT);
        let shop = Arc::new(Shop {
            mode: job.mode(),
            settle: request.settle_ms.map_or(SETTLE_DEFAULT, Duration::from_millis),
            source: (ends.source, from),
            target: (ends.target, to),
            door,
            stream: stream.clone(),
            sample: (job.mode() == Mode::Sample).then_some((percent, seed)),
            pace: Pace::new(request.rows_per_second),
            memory,
            gate: Gate::new(!request.unlimited),
            counts: Counts::default(),
        });
        if request.continuous {
            let (turning, state_dir) = (Arc::clone(turning), config.state_dir.clone());
            let tables = benches.iter().map(rechecking::watched);
            let begun = Continuous::begin(job.id(), request, from, turning, state_dir, tables);
            job.continues(begun);
            // What was given to the lanes before is not noted: it has to be there before the first look.
            shop.await_head().await?;
        }
        job.works_on(Work::Postgres { shop: Arc::clone(&shop), benches: benches.clone() });
        drop((source, target));
        let workers = request.connections.unwrap_or(CONNECTIONS_DEFAULT) - 1;
        let mut stop = job.stopping();
        let stopped = tokio::select! {
            done = async {
                work::all(Arc::clone(&shop), benches.clone(), workers).await?;
                if request.is_whole() {
                    let accepted = config.check.accept.contains("large-objects");
                    let pair = shop.open().await?;
                    let sides = [&pair.source, &pair.target];
                    let found = large::compare(&shop.gate, sides, accepted).await?;
                    objects.extend(found);
                }
                Ok::<_, Trouble>(())
            } => done.map(|()| false)?,
            _ = stop.wait_for(|stop| *stop) => true,
            () = shop.govern(), if !request.unlimited => unreachable!("governs for ever"),
        };
        let mut reports = Vec::new();
        for bench in benches {
            reports.push(bench.report.lock().await.clone());
        }
        // What could not be compared to its end goes on with what was; differences that somebody
        // may put right until then are looked for again.
        let goes_on = reports.iter().any(|report| report.error.is_some())
            && reports.iter().all(|report| report.differing() == 0);
        if !stopped && !goes_on {
            shop.memory.forget().await;
        }
        turning.check()?;
        if !is_resumed && unproven::proves(job.mode()) {
            unproven::answer(stream, marks, &reports).await?;
        }
        reports.sort_by(|a, b| a.table.cmp(&b.table));
        let (id, started) = (job.id().to_owned(), job.started());
        let sides = [from, to];
        let report =
            VerifyReport::judged(id, job.mode(), sides, started, reports, objects, stopped);
        Ok(report.resumed_at(job.resumed()))
    }
}

pub(super) async fn tables(
    reader: &Reader,
    filter: &catalog::TableFilter,
) -> Result<Vec<TableInfo>, Trouble> {
    let tables = catalog::tables(reader.session(), filter).await;
    tables.map_err(|error| Trouble::new(reader.side, error.to_string()))
}

pub(super) fn compare_objects(
    [source, target]: [&Definitions; 2],
    sides: [Side; 2],
    same_major: bool,
) -> Vec<ObjectFinding> {
    let mut found = objects::compare([&source.objects, &target.objects], sides, same_major);
    found.extend(definitions::compare_collations([&source.collations, &target.collations], sides));
    let others: HashMap<&QualifiedName, &(SequenceInfo, Option<SequenceValue>)> =
        target.sequences.iter().map(|other| (&other.0.name, other)).collect();
    for (info, here) in &source.sequences {
        let there = others.get(&info.name);
        let values = here.as_ref().zip(there.and_then(|(_, value)| value.as_ref()));
        let name = info.name.to_string();
        found.extend(match values {
            Some((here, there)) => {
                let both = [here, there].map(|value| (value.last_value, value.is_called));
                objects::compare_sequence(&name, info.increment, both, sides)
            }
            // One that is not there at all is among the differences.
            None => there.map(|_| {
                let what = "its value is not compared: our role may not read it on both sides";
                noted("sequence", name, what.into())
            }),
        });
    }
    found
}

fn noted(kind: &str, object: String, what: String) -> ObjectFinding {
    ObjectFinding { severity: Severity::Warn, kind: kind.into(), object, what, fix: None }
}
