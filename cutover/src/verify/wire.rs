//! What the sidecar and the operator's command say to each other about a verification.
//!
//! | Request | Body | Answer |
//! |---|---|---|
//! | `POST /v1/verify` | [`VerifyRequest`] | 202 [`VerifyStatus`], 409 when one is under way |
//! | `GET /v1/verify/{id}?wait_ms=M` | - | [`VerifyStatus`]; waits at most `M` for its end |
//! | `POST /v1/verify/{id}/stop` | - | [`VerifyStatus`] |
//!
//! `{id}` may be `last`. Keys of rows that differ are in the report, because without them nobody
//! can look; values never are, and logs have neither.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::predicate::Predicate;
use crate::api::{ApiError, SCHEMA_VERSION, Severity};
use crate::side::Side;

/// How closely rows are compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Every row, every column, value by value: no hash in between but for columns' values longer
    /// than 8 KiB.
    Full,
    /// A hash of every row, summed up by chunk; row by row where sums differ.
    #[default]
    Checksum,
    /// The same for some chunks, taken at random.
    Sample,
    /// Only whether every key is there, and the number of rows where there is no key.
    Count,
}

impl Mode {
    /// The name as it is written.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Full => "full",
            Mode::Checksum => "checksum",
            Mode::Sample => "sample",
            Mode::Count => "count",
        }
    }
}

impl std::str::FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Mode::Full, Mode::Checksum, Mode::Sample, Mode::Count];
        let found = all.into_iter().find(|mode| mode.name() == text);
        found.ok_or_else(|| "full, checksum, sample or count".to_owned())
    }
}

/// `POST /v1/verify`. Absent fields take their defaults.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VerifyRequest {
    /// How closely.
    pub mode: Mode,
    /// Patterns of tables, `schema.table` with `*` and `?`; none: all that are replicated.
    pub tables: Vec<String>,
    /// Only the rows of some tables for which a condition holds; the other tables are compared
    /// whole.
    pub predicates: Vec<Predicate>,
    /// Percent of the chunks of a sample. Default 1.
    pub sample_percent: Option<f64>,
    /// Connections that read from each server, 2 to 32. Default 3. One more to the source asks how its
    /// clients are served, unless `unlimited`.
    pub connections: Option<u32>,
    /// Most rows a second that are read from each server. Default: no limit.
    pub rows_per_second: Option<u64>,
    /// Read all the time, whoever works. Otherwise, while clients work on the source, chunks are
    /// read for such a part of the time that the 99th percentile of what clients see does not grow
    /// by more than a tenth, and less while the stream is behind.
    pub unlimited: bool,
    /// Rows in a chunk. Default: by the width of the table's rows.
    pub chunk_rows: Option<u32>,
    /// How long a row that looks different may take to settle, milliseconds. Default 60 s.
    pub settle_ms: Option<u64>,
    /// Don't go on with a verification that the sidecar's end has interrupted, or that was stopped.
    pub fresh: bool,
    /// Leave out everything but rows.
    pub rows_only: bool,
    /// If everything is equal, look again at every row that the stream writes from then on.
    pub continuous: bool,
    /// Who asks, for the record.
    pub actor: Option<String>,
    /// Why, for the record.
    pub reason: Option<String>,
}

impl VerifyRequest {
    /// Whether everything is asked for: all replicated tables, all of their rows, and what is no
    /// row. Only such a verification can be a proof for a cutover.
    pub fn is_whole(&self) -> bool {
        self.tables.is_empty() && self.predicates.is_empty() && !self.rows_only
    }
}

/// How far a verification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerifyState {
    /// Under way.
    Running,
    /// Over; the report is there.
    Done,
    /// An operator stopped it; the report tells what was found until then.
    Stopped,
    /// It could not go on; the error is there.
    Failed,
}

/// Who is spared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldBy {
    /// Clients work on the source, and would feel more.
    Clients,
    /// The stream is behind, or nobody knows how far.
    Lag,
}

/// How much a verification may read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    /// Part of the time, above 0; 1: all the time.
    pub share: f64,
    /// Why it is not all the time.
    pub held_by: Option<HeldBy>,
}

/// What has been done.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Tables in all.
    pub tables: u64,
    /// Tables that are done.
    pub tables_done: u64,
    /// Rows in all, as the planner estimates; a sample reads its part of them.
    pub rows_estimated: u64,
    /// Rows of the source that were compared.
    pub rows_done: u64,
    /// Rows that looked different at first and were looked at again.
    pub rows_rechecked: u64,
    /// Differences found.
    pub differences: u64,
    /// Rows a second, on average.
    pub rows_per_second: f64,
    /// Seconds that remain at that rate; `None`: not known yet.
    pub eta_seconds: Option<f64>,
    /// How much it may read now; `None`: it has not begun to read.
    #[serde(default)]
    pub limit: Option<Limit>,
}

/// A verification, as it is now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VerifyStatus {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Its name.
    pub id: String,
    /// How closely.
    pub mode: Mode,
    /// How far.
    pub state: VerifyState,
    /// When it began.
    pub started: Timestamp,
    /// What has been done.
    pub progress: Progress,
    /// When it is over.
    pub report: Option<VerifyReport>,
    /// When it failed.
    pub error: Option<ApiError>,
}

/// What a verification has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// No difference in what was compared, and everything that was asked for was compared.
    Equal,
    /// There are differences; each of them is real.
    Different,
    /// No difference was found, but something could not be compared.
    Incomplete,
}

/// What happened to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowKind {
    /// The target lacks it.
    Missing,
    /// The source does not have it.
    Extra,
    /// Some of its columns have other values.
    Different,
}

impl RowKind {
    /// The name as it is written.
    pub fn name(self) -> &'static str {
        match self {
            RowKind::Missing => "missing",
            RowKind::Extra => "extra",
            RowKind::Different => "different",
        }
    }
}

/// A column of a row's key. It is a row's value: for the operator, never for a log.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyPart {
    /// The column.
    pub column: String,
    /// Its value as text.
    pub value: String,
}

impl std::fmt::Debug for KeyPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyPart").field("column", &self.column).finish_non_exhaustive()
    }
}

/// A row that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowDifference {
    /// How.
    pub kind: RowKind,
    /// Which row, where the table has a key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key: Vec<KeyPart>,
    /// Which rows, where it has none: the hash of their content, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row_hash: Option<String>,
    /// Columns with other values, of a row that is on both sides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// Rows with this key or this content on the source.
    pub on_source: u64,
    /// The same on the target.
    pub on_target: u64,
}

/// A table that was compared.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TableReport {
    /// Its name, quoted.
    pub table: String,
    /// Columns of the key by which rows were matched; empty: rows were compared as a multiset.
    pub key: Vec<String>,
    /// Only rows for which this holds were compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicate: Option<String>,
    /// Rows of the source that were compared.
    pub rows: u64,
    /// Chunks that were compared.
    pub chunks: u64,
    /// Chunks in all.
    pub chunks_in_all: u64,
    /// Rows among them that were read before the verification was interrupted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rows_before: u64,
    /// Chunks of those.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub chunks_before: u64,
    /// Rows that looked different at first, because they were being written, and were looked at
    /// again.
    pub rechecked: u64,
    /// Rows that the target lacks.
    pub missing: u64,
    /// Rows that only the target has.
    pub extra: u64,
    /// Rows with other values.
    pub different: u64,
    /// Rows that were written so often that no two looks saw the same version: whatever column of
    /// theirs differed was being written on the source, and the stream writes it anew.
    pub in_motion: u64,
    /// Rows that looked different and could not be settled in time.
    pub unsettled: u64,
    /// The first rows that differ.
    pub differences: Vec<RowDifference>,
    /// It was given up because so much differs; the numbers are lower bounds.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut_short: bool,
    /// What of its rows was not compared; the table is not proven.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// What limits the comparison of this table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<String>,
    /// Why it could not be compared (to its end).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How long it took.
    pub seconds: f64,
}

impl TableReport {
    /// Rows that differ, in all.
    pub fn differing(&self) -> u64 {
        self.missing + self.extra + self.different
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Something that is no row: a sequence, a constraint, an index, a column, a type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectFinding {
    /// `fail`: a difference. `warn`: worth a look, not compared, or put right by the cutover.
    pub severity: Severity,
    /// What it is: `table`, `column`, `constraint`, `index`, `trigger`, `type`, `sequence`.
    pub kind: String,
    /// Its name, quoted.
    pub object: String,
    /// What was found, one sentence.
    pub what: String,
    /// Where to do what to make both sides equal, where that can be written exactly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// What a sample is worth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SampleWorth {
    /// Chunks that were compared.
    pub chunks: u64,
    /// Chunks in all.
    pub chunks_in_all: u64,
    /// Had more than this part of the chunks been damaged, the sample would have hit one with a
    /// probability of 95 %. It is about all chunks but the first of each table, which are always
    /// compared. `None` where nothing was drawn.
    pub bound_95: Option<f64>,
}

impl std::fmt::Display for SampleWorth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a sample of {} of {} chunks: ", self.chunks, self.chunks_in_all)?;
        match self.bound_95 {
            Some(bound) => write!(
                f,
                "had more than {:.2} % of the chunks behind each table's first been damaged, it \
                 would have hit one with 95 %",
                bound * 100.0
            ),
            None => f.write_str("only first chunks, none was drawn"),
        }
    }
}

/// A verification that was interrupted and went on: what was not read again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumed {
    /// When it went on (the last time).
    pub at: Timestamp,
    /// Rows that had been compared before.
    pub rows: u64,
    /// Chunks of those.
    pub chunks: u64,
}

/// The result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Of which verification.
    pub id: String,
    /// How closely.
    pub mode: Mode,
    /// What it has come to.
    pub verdict: Verdict,
    /// The side that was taken as right: the one that serves.
    pub source: Side,
    /// The side that was compared with it.
    pub target: Side,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// Rows of the source that were compared.
    pub rows: u64,
    /// Differences: rows and objects.
    pub differences: u64,
    /// What a sample is worth.
    pub sample: Option<SampleWorth>,
    /// By name.
    pub tables: Vec<TableReport>,
    /// What is no row.
    pub objects: Vec<ObjectFinding>,
    /// Somebody stopped it.
    pub stopped: bool,
    /// It was interrupted and went on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed: Option<Resumed>,
}

impl VerifyReport {
    /// The same, of a verification that went on at this moment.
    pub fn resumed_at(self, at: Option<Timestamp>) -> Self {
        let rows = self.tables.iter().map(|table| table.rows_before).sum();
        let chunks = self.tables.iter().map(|table| table.chunks_before).sum();
        Self { resumed: at.map(|at| Resumed { at, rows, chunks }), ..self }
    }

    /// Puts a report together and judges it.
    pub fn judged(
        id: String,
        mode: Mode,
        [source, target]: [Side; 2],
        started: Timestamp,
        tables: Vec<TableReport>,
        objects: Vec<ObjectFinding>,
        stopped: bool,
    ) -> Self {
        let rows_differing: u64 = tables.iter().map(TableReport::differing).sum();
        let failed = objects.iter().filter(|found| found.severity == Severity::Fail).count() as u64;
        let differences = rows_differing + failed;
        let is_open = |table: &TableReport| {
            table.error.is_some() || table.unsettled > 0 || !table.left_out.is_empty()
        };
        let verdict = match differences {
            0 if stopped || tables.iter().any(is_open) => Verdict::Incomplete,
            0 => Verdict::Equal,
            _ => Verdict::Different,
        };
        let chunks: u64 = tables.iter().map(|table| table.chunks).sum();
        let chunks_in_all: u64 = tables.iter().map(|table| table.chunks_in_all).sum();
        let firsts = tables.iter().filter(|table| table.chunks > 0).count() as u64;
        let sample = (mode == Mode::Sample).then(|| SampleWorth {
            chunks,
            chunks_in_all,
            bound_95: super::sample::bound_95(
                chunks.saturating_sub(firsts),
                chunks_in_all.saturating_sub(firsts),
            ),
        });
        Self {
            schema_version: SCHEMA_VERSION,
            id,
            mode,
            verdict,
            source,
            target,
            started,
            ended: Timestamp::now(),
            rows: tables.iter().map(|table| table.rows).sum(),
            differences,
            sample,
            tables,
            objects,
            stopped,
            resumed: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(table: TableReport, stopped: bool) -> Verdict {
        let sides = [Side::Blue, Side::Green];
        let started = Timestamp::UNIX_EPOCH;
        let tables = vec![table];
        VerifyReport::judged("x".into(), Mode::Checksum, sides, started, tables, vec![], stopped)
            .verdict
    }

    #[test]
    fn what_was_not_compared_is_never_equal() {
        assert_eq!(judged(TableReport::default(), false), Verdict::Equal);
        assert_eq!(judged(TableReport::default(), true), Verdict::Incomplete);
        let unsettled = TableReport { unsettled: 1, ..TableReport::default() };
        assert_eq!(judged(unsettled, false), Verdict::Incomplete);
        let failed = TableReport { error: Some("no right".into()), ..TableReport::default() };
        assert_eq!(judged(failed.clone(), false), Verdict::Incomplete);
        let partly = TableReport { left_out: vec!["column v".into()], ..TableReport::default() };
        assert_eq!(judged(partly, false), Verdict::Incomplete);
        let both = TableReport { extra: 1, ..failed };
        assert_eq!(judged(both, true), Verdict::Different);
    }

    #[test]
    fn the_first_chunk_of_a_table_is_no_draw() {
        let table =
            |chunks, chunks_in_all| TableReport { chunks, chunks_in_all, ..TableReport::default() };
        let bound = |tables: Vec<TableReport>| {
            let sides = [Side::Blue, Side::Green];
            let started = Timestamp::UNIX_EPOCH;
            VerifyReport::judged("x".into(), Mode::Sample, sides, started, tables, vec![], false)
                .sample
                .unwrap()
                .bound_95
        };
        assert_eq!(bound(vec![table(1, 100), table(1, 100)]), None);
        assert_eq!(bound(vec![table(1, 1), table(3, 3)]), Some(0.0));
        let drawn = bound(vec![table(11, 100), table(11, 100)]);
        assert_eq!(drawn, super::super::sample::bound_95(20, 198));
    }

    #[test]
    fn a_key_is_not_in_debug_output() {
        let part = KeyPart { column: "id".into(), value: "hunter2".into() };
        assert!(!format!("{part:?}").contains("hunter2"));
    }
}
