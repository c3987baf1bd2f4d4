//! How many rows both sides have at one moment: the question of a run, before it holds anybody.

use std::collections::HashMap;
use std::time::Duration;

use cutover::Side;
use cutover::counts::Counted;
use decoders::QualifiedName;
use decoders::mysql::catalog::{TableInfo, TableKind};
use decoders::mysql::server::{Server, ServerUrl};
use decoders::postgres::catalog::TableFilter;
use tokio::time::Instant;

use super::plan::{SOURCE, TARGET};
use super::side::{End, Reader, close, number};
use super::slices::{self, Pair, Stream};
use crate::schema::mysql::qualified;
use crate::verify::Trouble;

/// Tables in one statement.
const AT_ONCE: usize = 20;
/// A server ends a count by itself this long after nobody waits for it any more.
const GRACE: Duration = Duration::from_secs(1);
/// Before a moment is looked for again.
const PAUSE: Duration = Duration::from_millis(500);

/// A count of both sides' rows.
pub struct Counting<'a, S> {
    /// The side that is right.
    pub source: (Side, ServerUrl),
    /// The side that is compared with it.
    pub target: (Side, ServerUrl),
    /// Only this database; all of them without it.
    pub database: Option<String>,
    /// Tables that take part in the move.
    pub filter: TableFilter,
    /// From the source to the target.
    pub stream: &'a S,
    /// So much of the source's tables is counted, smallest first.
    pub bytes: u64,
}

impl<S: Stream> Counting<'_, S> {
    /// Counts until `deadline`; what there was no time for is in the answer.
    ///
    /// # Errors
    /// A server can't be asked.
    pub async fn run(&self, deadline: Instant) -> Result<Counted, Trouble> {
        let Ok(listed) = tokio::time::timeout_at(deadline, self.tables()).await else {
            let blind = Some("listing the tables takes too long".to_owned());
            return Ok(Counted { blind, ..Counted::default() });
        };
        let (ends, tables) = listed?;
        let (mut counted, tables) = self.chosen(tables);
        if tables.is_empty() {
            return Ok(counted);
        }
        let both = [SOURCE, TARGET].map(|side| &ends[side]);
        let mut why = "it takes too long".to_owned();
        let pair = loop {
            match tokio::time::timeout_at(deadline, slices::open(both, self.stream, 1)).await {
                Ok(Ok(mut pairs)) => match pairs.pop() {
                    Some(pair) => break pair,
                    None => return Err(Trouble::unexpected(self.source.0, "no sessions")),
                },
                Ok(Err(trouble)) if trouble.is_transient => why = trouble.to_string(),
                Ok(Err(trouble)) => return Err(trouble),
                Err(_) => return Ok(Counted { blind: Some(why), ..counted }),
            }
            tokio::time::sleep(PAUSE).await;
        };
        count(both, pair, &tables, deadline, &mut counted).await?;
        Ok(counted)
    }

    async fn tables(&self) -> Result<([End; 2], [Vec<TableInfo>; 2]), Trouble> {
        let ends = tokio::try_join!(
            End::find(self.source.0, self.source.1.clone()),
            End::find(self.target.0, self.target.1.clone()),
        )?;
        let database = self.database.as_deref();
        let tables = tokio::try_join!(ends.0.tables(database), ends.1.tables(database))?;
        Ok((ends.into(), tables.into()))
    }

    /// What can be said without counting, and the tables that are to be counted.
    fn chosen(&self, [here, there]: [Vec<TableInfo>; 2]) -> (Counted, Vec<QualifiedName>) {
        let mut counted = Counted::default();
        let mut tables = Vec::new();
        let mut room = self.bytes;
        let is_wanted = |table: &&TableInfo| {
            table.kind != TableKind::Sequence && self.filter.selects(&table.name)
        };
        let mut here: Vec<&TableInfo> = here.iter().filter(is_wanted).collect();
        here.sort_by_key(|table| table.bytes);
        let others: HashMap<_, _> = there.iter().map(|other| (&other.name, other)).collect();
        for table in here {
            let name = table.name.clone();
            let Some(other) = others.get(&name) else {
                counted.lacking.push(name);
                continue;
            };
            if !table.is_transactional() || !other.is_transactional() {
                counted.unseen.push(name);
            } else if table.bytes > room {
                counted.large.push(name);
            } else {
                room -= table.bytes;
                tables.push(name);
            }
        }
        (counted, tables)
    }
}

async fn count(
    ends: [&End; 2],
    mut pair: Pair,
    tables: &[QualifiedName],
    deadline: Instant,
    counted: &mut Counted,
) -> Result<(), Trouble> {
    let mut rest = tables.chunks(AT_ONCE);
    for names in rest.by_ref() {
        let counting = async {
            let limit = deadline.saturating_duration_since(Instant::now()) + GRACE;
            tokio::try_join!(
                counts(&mut pair.source, &ends[SOURCE].server, names, limit),
                counts(&mut pair.target, &ends[TARGET].server, names, limit),
            )
        };
        let Ok(both) = tokio::time::timeout_at(deadline, counting).await else {
            counted.late.extend_from_slice(names);
            break;
        };
        let (here, there) = both?;
        pair.let_go().await?;
        let rows = here.into_iter().zip(there).map(|(here, there)| [here, there]);
        counted.tables.extend(names.iter().cloned().zip(rows));
    }
    counted.late.extend(rest.flatten().cloned());
    match counted.late.is_empty() {
        true => {
            close(pair.source).await;
            close(pair.target).await;
        }
        // A statement may still run, for as long as its limit: its answer is not waited for.
        false => drop(pair),
    }
    Ok(())
}

/// Counts these tables. The server gives up after `limit`: it would not notice that nobody listens, and
/// read a table of terabytes to its end.
async fn counts(
    reader: &mut Reader,
    server: &Server,
    names: &[QualifiedName],
    limit: Duration,
) -> Result<Vec<u64>, Trouble> {
    let limit = match server.is_mariadb() {
        true => format!("SET SESSION max_statement_time = {}", limit.as_secs_f64()),
        false => format!("SET SESSION max_execution_time = {}", limit.as_millis()),
    };
    reader.run("limiting a count", &limit).await?;
    let each = names.iter().enumerate();
    let each = each.map(|(at, name)| {
        format!("SELECT {at} AS place, COUNT(*) AS amount FROM {}", qualified(name))
    });
    let sql = format!("{} ORDER BY place", each.collect::<Vec<_>>().join(" UNION ALL "));
    let rows = reader.rows("counting rows", &sql).await?;
    let counts = rows.iter().map(|row| number(reader.side, row.get(1)));
    let counts = counts.collect::<Result<Vec<u64>, Trouble>>()?;
    match counts.len() == names.len() {
        true => Ok(counts),
        false => Err(Trouble::unexpected(reader.side, "not one count for each table")),
    }
}
