//! One look at the source's catalog: what is not as it is kept is judged, and written down on the target.

use std::collections::{BTreeSet, HashMap};

use decoders::QualifiedName;
use decoders::assemble::KnownTables;
use decoders::change::TableId;
use decoders::postgres::catalog::{self, RelationRecord, TableFilter};
use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::session::{self, Session};
use sinks::catalog_record::{self, Kept, Mark, Records};
use sinks::postgres::target_error;
use tokio_postgres::error::SqlState;

use super::compare::{Found, compare};
use super::mirror;
use crate::config::Config;
use crate::pipeline::failure::{Failure, chain, of_connect};

/// Of a stream that an earlier version of this program has begun.
const NEVER_KEPT: &str = "it was copied before a record of its definition was kept";
/// Of a table that may have had rows when it came into the publication.
const JOINED: &str = "it joined the replication after the copy, and may have had rows then";
const MADE_AGAIN: &str = "it was dropped and made again on blue";
/// How long a question about a table may wait for its lock.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '1s'; SET LOCAL row_security = off";

/// What the target keeps of the source's relations.
pub(in crate::pipeline) struct Book {
    pipeline: String,
    records: Records,
    known: KnownTables,
}

/// What one look has found.
#[derive(Debug, Default)]
pub(in crate::pipeline) struct Look {
    /// All tables of users on the source, whatever the filter takes.
    pub source: Vec<RelationRecord>,
    /// The same on the target, after what was made there.
    pub target: Vec<RelationRecord>,
    /// Something was found that ends every proof.
    pub has_moved: bool,
    /// Replaced on the source; the target still has rows of the table before.
    pub made_again: Vec<QualifiedName>,
    /// New partitions that were made on the target.
    pub mirrored: Vec<QualifiedName>,
    /// What could not be done or found out yet, in sentences.
    pub open: Vec<String>,
}

impl Book {
    /// What is kept on `target` for this pipeline. `known` is what the stream goes by.
    ///
    /// # Errors
    /// The server's.
    pub async fn open(
        target: &Session,
        config: &Config,
        known: &KnownTables,
    ) -> Result<Self, Failure> {
        let records = catalog_record::read(target, &config.name).await?;
        let book = Self { pipeline: config.name.clone(), records, known: known.clone() };
        book.tell_known();
        Ok(book)
    }

    /// Keeps all relations that are replicated, as they are in `snapshot` of the source: what goes to the
    /// target from that moment on comes in the stream.
    ///
    /// # Errors
    /// A server's.
    pub async fn begin(
        source: &ConnInfo,
        snapshot: &str,
        target: &Session,
        config: &Config,
    ) -> Result<(), Failure> {
        let blue = session::connect(source, &config.application_name()).await;
        let blue = blue.map_err(|error| of_connect("blue", &error))?;
        let begun = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
            catalog::quote_literal(snapshot)
        );
        let begun = blue.batch_execute(&begun).await;
        begun.map_err(|error| target_error("taking the copy's snapshot on blue", &error))?;
        let all = read(&blue, &config.tables, &config.publication(), "blue").await?;
        let kept = all.into_iter().filter(|relation| relation.membership.is_some());
        let kept: Vec<_> = kept.map(|relation| keep(relation, None)).collect();
        catalog_record::create(target).await?;
        Ok(catalog_record::begin(target, &config.name, &kept).await?)
    }

    /// What is kept, by name.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// The tables that are not proven.
    ///
    /// # Errors
    /// The server's.
    pub async fn marks(&self, target: &Session) -> Result<Vec<Mark>, Failure> {
        Ok(catalog_record::marks(target, &self.pipeline).await?)
    }

    /// Looks, makes new partitions on the target, and writes down what was found. `is_passed`: whatever the source had
    /// written when this began is on the target.
    ///
    /// # Errors
    /// A server's.
    pub async fn look(
        &mut self,
        source: &Session,
        target: &Session,
        config: &Config,
        is_passed: bool,
    ) -> Result<Look, Failure> {
        let everything = TableFilter::default();
        let mut look = Look {
            source: read(source, &everything, &config.publication(), "blue").await?,
            target: read(target, &everything, "", "green").await?,
            ..Look::default()
        };
        if self.records.is_empty() {
            self.begin_late(&look.source, &config.tables, target).await?;
            look.has_moved = true;
        }
        let found = compare(&self.records, &look.source, &config.tables);
        let mut changed = found.changed;
        for relation in found.joined {
            match self.joined(source, &relation).await? {
                Some(unproven) => changed.push(keep(relation, unproven)),
                None => look.open.push(format!(
                    "{} has joined the replication, and somebody has locked it: it can't be looked at yet",
                    relation.name
                )),
            }
        }
        for relation in found.made_again {
            let former = self.former(&relation.name);
            let is_gone =
                relation.is_root || is_empty_on_target(target, &look.target, &relation).await?;
            match (is_gone, is_passed) {
                (false, _) => look.made_again.push(relation.name),
                (true, true) => {
                    let why = (!relation.is_root).then(|| MADE_AGAIN.to_owned());
                    changed.push(Kept { former, ..keep(relation, why) });
                }
                (true, false) => look.open.push(format!(
                    "{}: {MADE_AGAIN}, and green still has to apply what came before",
                    relation.name
                )),
            }
        }
        // What is gone on both sides is dealt with, and what the operator has left out is not our matter.
        let there: BTreeSet<_> = look.target.iter().map(|relation| relation.name.clone()).collect();
        let gone = found.gone.into_iter().filter(|name| !there.contains(name));
        let gone = gone.chain(found.left_out).collect();
        look.has_moved |= changed.iter().any(|kept| kept.unproven.is_some());
        self.save(target, changed, gone).await?;
        let missing = self.records.values().filter(|kept| !there.contains(&kept.relation.name));
        let missing: Vec<_> = missing
            .filter(|kept| kept.unproven.is_none() && kept.relation.is_partition())
            .map(|kept| kept.relation.clone())
            .collect();
        for relation in &missing {
            match mirror::create(target, &look.target, relation).await {
                Ok(()) => look.mirrored.push(relation.name.clone()),
                Err(why) => {
                    look.open.push(format!("{} can't be made on green: {why}", relation.name))
                }
            }
        }
        if !look.mirrored.is_empty() {
            look.target = read(target, &everything, "", "green").await?;
        }
        Ok(look)
    }

    /// Rows of these tables may not be the source's. A table of the source that holds none itself is passed over: its
    /// partitions have them.
    ///
    /// # Errors
    /// The server's.
    pub async fn doubt(
        &mut self,
        target: &Session,
        tables: &BTreeSet<QualifiedName>,
        why: &str,
    ) -> Result<(), Failure> {
        let kept = self.records.values().filter(|kept| tables.contains(&kept.relation.name));
        let kept = kept.filter(|kept| !kept.relation.is_root);
        let kept: Vec<_> =
            kept.map(|kept| Kept { unproven: Some(why.to_owned()), ..kept.clone() }).collect();
        self.save(target, kept, Vec::new()).await
    }

    /// Whether anything is not as it is kept, but for harmless changes, on the source now. Writes nothing.
    ///
    /// # Errors
    /// The server's.
    pub async fn differs(
        &self,
        source: &Session,
        config: &Config,
    ) -> Result<Option<String>, Failure> {
        let now = read(source, &config.tables, &config.publication(), "blue").await?;
        let found = compare(&self.records, &now, &config.tables);
        Ok((!found.is_harmless()).then(|| named(&found)))
    }

    /// Why a table that is not kept is unproven, within; `None`: that can't be found out now.
    async fn joined(
        &self,
        source: &Session,
        relation: &RelationRecord,
    ) -> Result<Option<Option<String>>, Failure> {
        if relation.is_root {
            return Ok(Some(None));
        }
        // The table above has been in the publication since before the last look at it.
        let is_below = |above: &Kept| {
            let (above, own) = (&above.relation, &relation.membership);
            let through = above.membership.as_ref().map(|member| format!("{member}/"));
            relation.parents.iter().any(|parent| parent.oid == above.oid)
                && own.as_ref().zip(through).is_some_and(|(own, through)| own.starts_with(&through))
        };
        if relation.is_born_child && self.records.values().any(is_below) {
            return Ok(Some(None));
        }
        Ok(match is_empty(source, &relation.name).await {
            Ok(true) => Some(None),
            Ok(false) => Some(Some(JOINED.to_owned())),
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => None,
            Err(error) if error.as_db_error().is_some() => Some(Some(JOINED.to_owned())),
            Err(error) => return Err(Failure::retry("blue", chain(&error))),
        })
    }

    fn former(&self, name: &QualifiedName) -> Vec<u32> {
        let Some(kept) = self.records.get(name) else { return Vec::new() };
        kept.former.iter().copied().chain([kept.relation.oid]).collect()
    }

    async fn begin_late(
        &mut self,
        now: &[RelationRecord],
        filter: &TableFilter,
        target: &Session,
    ) -> Result<(), Failure> {
        let is_ours = |relation: &&RelationRecord| {
            relation.membership.is_some() && filter.takes(&relation.name)
        };
        let kept = now.iter().filter(is_ours);
        let why = |relation: &RelationRecord| (!relation.is_root).then(|| NEVER_KEPT.to_owned());
        let kept: Vec<_> = kept.map(|relation| keep(relation.clone(), why(relation))).collect();
        catalog_record::create(target).await?;
        self.save(target, kept, Vec::new()).await
    }

    async fn save(
        &mut self,
        target: &Session,
        changed: Vec<Kept>,
        gone: Vec<QualifiedName>,
    ) -> Result<(), Failure> {
        if changed.is_empty() && gone.is_empty() {
            return Ok(());
        }
        catalog_record::save(target, &self.pipeline, &changed, &gone).await?;
        for kept in &changed {
            if let Some(why) = &kept.unproven {
                let table = kept.relation.name.to_string();
                tracing::warn!(pipeline = self.pipeline, table, why, "rows may differ: unproven");
            }
        }
        for name in &gone {
            self.records.remove(name);
        }
        for kept in changed {
            self.records.insert(kept.relation.name.clone(), kept);
        }
        self.tell_known();
        Ok(())
    }

    fn tell_known(&self) {
        let ids = |kept: &Kept| {
            let all = kept.former.iter().copied().chain([kept.relation.oid]);
            all.map(TableId).collect::<Vec<_>>()
        };
        let known: HashMap<_, _> =
            self.records.iter().map(|(name, kept)| (name.clone(), ids(kept))).collect();
        self.known.set(known);
    }
}

fn keep(relation: RelationRecord, unproven: Option<String>) -> Kept {
    Kept { relation, former: Vec::new(), unproven }
}

/// The tables that a change was found of, for people.
fn named(found: &Found) -> String {
    let moved = found.changed.iter().filter_map(|kept| {
        let why = kept.unproven.as_ref()?;
        Some(format!("{}: {why}", kept.relation.name))
    });
    let gone = found.gone.iter().map(|name| format!("{name} was dropped or renamed"));
    let again = found.made_again.iter().map(|relation| format!("{}: {MADE_AGAIN}", relation.name));
    let joined =
        found.joined.iter().map(|relation| format!("{} has joined the replication", relation.name));
    moved.chain(gone).chain(again).chain(joined).collect::<Vec<_>>().join("; ")
}

async fn read(
    session: &Session,
    filter: &TableFilter,
    publication: &str,
    place: &str,
) -> Result<Vec<RelationRecord>, Failure> {
    let records = catalog::relation_records(session, filter, publication).await;
    records.map_err(|error| Failure::retry(place, chain(&error)))
}

/// Whether nobody has rows in the table itself, as far as a new snapshot shows.
async fn is_empty(session: &Session, name: &QualifiedName) -> Result<bool, tokio_postgres::Error> {
    session.batch_execute(&format!("BEGIN READ ONLY; {LOCK_TIMEOUT}")).await?;
    let sql = format!("SELECT NOT EXISTS (SELECT FROM ONLY {name})");
    let is_empty = session.query_one(&sql, &[]).await.map(|row| row.get(0));
    session.batch_execute("ROLLBACK").await?;
    is_empty
}

async fn is_empty_on_target(
    target: &Session,
    there: &[RelationRecord],
    relation: &RelationRecord,
) -> Result<bool, Failure> {
    if !there.iter().any(|other| other.name == relation.name) {
        return Ok(true);
    }
    let is_empty = is_empty(target, &relation.name).await;
    is_empty.map_err(|error| target_error("looking for rows on green", &error).into())
}
