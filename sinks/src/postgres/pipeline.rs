//! Statements on their way: sent in order, without waiting for each other's answers.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use decoders::change::{Lsn, TableSchema, Value};
use decoders::postgres::error::WireError;
use tokio_postgres::types::{BorrowToSql, Format, IsNull, ToSql, Type};

use super::error::Refusal;
use super::wire::{Statement, Wire};
use crate::plan::{InnerOids, one_row};
use crate::target::TargetError;

/// Statements that may be unanswered: enough to hide a round trip of some milliseconds.
const WINDOW_STATEMENTS: usize = 1024;
/// Bytes of values in unanswered statements: what the pipeline adds to memory.
const WINDOW_BYTES: usize = 4 * 1024 * 1024;

/// A value as it came, bound in the form in which it came.
pub(super) struct Param<'a> {
    pub value: Value<'a>,
    /// Replaced in the copy that goes to green.
    pub inner_oids: Option<Arc<InnerOids>>,
}

/// The client library logs parameters at its debug level: values stay out of logs.
impl fmt::Debug for Param<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("_")
    }
}

impl ToSql for Param<'_> {
    fn to_sql(
        &self,
        _type: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        let Some(bytes) = self.value.bytes() else { return Ok(IsNull::Yes) };
        let start = out.len();
        out.extend_from_slice(bytes);
        if let (Value::Binary(_), Some(inner)) = (self.value, &self.inner_oids) {
            inner.replace(&mut out[start..]);
        }
        Ok(IsNull::No)
    }

    fn accepts(_type: &Type) -> bool {
        true
    }

    fn to_sql_checked(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        self.to_sql(ty, out)
    }

    fn encode_format(&self, _type: &Type) -> Format {
        match self.value {
            Value::Text(_) => Format::Text,
            Value::Null | Value::Binary(_) => Format::Binary,
        }
    }
}

/// What a statement is for, and what must come of it.
#[derive(Clone, Debug)]
pub(super) enum Purpose {
    /// One row of a table, exactly one.
    Row { op: &'static str, table: Arc<TableSchema>, commit_lsn: Lsn },
    /// So many rows of a table, exactly; what several of blue's commits come to.
    Rows { op: &'static str, table: Arc<TableSchema>, rows: usize, commits: (Lsn, Lsn) },
    /// Whether the tables of a batch share no rows: no row, or they do.
    Apart,
    /// The lane's progress: one row, unless another writer moved it.
    Progress,
    /// Part of the transaction's frame.
    Frame(&'static str),
}

/// Why the transaction can't go on.
#[derive(Debug)]
pub(super) struct Failure {
    pub error: TargetError,
    /// The table whose definition on green may have changed.
    pub suspect: Option<Arc<TableSchema>>,
}

impl From<TargetError> for Failure {
    fn from(error: TargetError) -> Self {
        Failure { error, suspect: None }
    }
}

type Answer = Result<u64, WireError>;

struct Sent {
    purpose: Purpose,
    bytes: usize,
}

/// The unanswered statements of one session, oldest first.
///
/// They go out as they fill a packet, and are answered together: when the first answer is waited for,
/// green is asked for all of them. Answers are taken in order, and after an error there are no more,
/// so the error is the first that happened.
pub(super) struct Pipeline<'a> {
    wire: &'a mut Wire,
    sent: VecDeque<Sent>,
    bytes: usize,
    /// How many of them, from the oldest on, green was asked to answer.
    asked: usize,
}

impl<'a> Pipeline<'a> {
    pub fn new(wire: &'a mut Wire) -> Self {
        Self { wire, sent: VecDeque::new(), bytes: 0, asked: 0 }
    }

    /// Sends a statement; waits only for older ones, and only if too much is unanswered.
    pub async fn send<P: BorrowToSql>(
        &mut self,
        statement: &Statement,
        params: &[P],
        bytes: usize,
        purpose: Purpose,
    ) -> Result<(), Failure> {
        self.make_room(bytes).await?;
        self.wire.execute(statement, params).await?;
        self.note(purpose, bytes);
        Ok(self.wire.push_if_much().await?)
    }

    /// COPY of rows. Its data follows at once: should green refuse the statement, or anything before
    /// it, it does not look at them.
    pub async fn copy(
        &mut self,
        statement: &Statement,
        pieces: impl Iterator<Item = Bytes>,
        purpose: Purpose,
    ) -> Result<(), Failure> {
        self.make_room(0).await?;
        let none: [Param<'_>; 0] = [];
        self.wire.execute(statement, &none).await?;
        self.note(purpose, 0);
        for piece in pieces {
            self.wire.copy_data(&piece)?;
            self.wire.push_if_much().await?;
        }
        Ok(self.wire.copy_done()?)
    }

    /// Waits until everything is answered as it must be.
    pub async fn drain(&mut self) -> Result<(), Failure> {
        while !self.sent.is_empty() {
            self.take_oldest().await?;
        }
        Ok(())
    }

    /// The session, once everything is answered as it must be.
    pub async fn settled(&mut self) -> Result<&mut Wire, Failure> {
        self.drain().await?;
        Ok(self.wire)
    }

    /// Sends everything with the question behind it, and waits for nothing: what is unanswered is given
    /// back, and [`oldest`] hears it.
    pub async fn leave(self) -> Result<VecDeque<Purpose>, Failure> {
        if self.asked > 0 {
            return Err(
                TargetError::retry("a pipeline was left in the middle of its answers").into()
            );
        }
        self.wire.ask();
        self.wire.push().await?;
        Ok(self.sent.into_iter().map(|sent| sent.purpose).collect())
    }

    async fn make_room(&mut self, bytes: usize) -> Result<(), Failure> {
        while self.sent.len() >= WINDOW_STATEMENTS
            || (self.bytes + bytes > WINDOW_BYTES && !self.sent.is_empty())
        {
            self.take_oldest().await?;
        }
        Ok(())
    }

    fn note(&mut self, purpose: Purpose, bytes: usize) {
        self.bytes += bytes;
        self.sent.push_back(Sent { purpose, bytes });
    }

    async fn take_oldest(&mut self) -> Result<(), Failure> {
        if self.asked == 0 {
            self.wire.ask();
            self.asked = self.sent.len();
        }
        let Some(Sent { purpose, bytes }) = self.sent.pop_front() else { return Ok(()) };
        self.bytes -= bytes;
        self.asked -= 1;
        check(purpose, self.wire.answer().await)
    }
}

/// The answer to the oldest of what [`Pipeline::leave`] has given back; it is taken out when it has come.
/// Cancel-safe. After an error there are no more.
pub(super) async fn oldest(
    wire: &mut Wire,
    unanswered: &mut VecDeque<Purpose>,
) -> Result<(), Failure> {
    if unanswered.is_empty() {
        return Ok(());
    }
    let answer = wire.answer().await;
    unanswered.pop_front().map_or(Ok(()), |purpose| check(purpose, answer))
}

/// The count of a statement that green refused because it was not one ([`one_row`]).
fn count_told(error: &WireError) -> Option<u64> {
    let error = error.server_error()?;
    one_row::counted(&error.sqlstate, &error.message)
}

fn check(purpose: Purpose, answer: Answer) -> Result<(), Failure> {
    let answer = match (&purpose, answer) {
        (Purpose::Row { .. } | Purpose::Progress, Err(e)) => count_told(&e).ok_or(e),
        (_, answer) => answer,
    };
    match (purpose, answer) {
        (Purpose::Frame(_), Ok(_))
        | (Purpose::Apart, Ok(0))
        | (Purpose::Progress | Purpose::Row { .. }, Ok(1)) => Ok(()),
        (Purpose::Apart, Ok(_)) => {
            // Row by row the order is blue's.
            let message = "a partitioned table and a partition of it are in one batch";
            Err(TargetError::halt(message, "Please report it").into())
        }
        (Purpose::Apart, Err(e)) => {
            Err(Refusal::of_wire(&e).into_error("reading green's partitions").into())
        }
        (Purpose::Row { op, table, commit_lsn }, Ok(rows)) => {
            let message = format!(
                "{op} on {} matched {rows} rows on green instead of one (blue's commit {commit_lsn})",
                table.name
            );
            let remedy = "Green differs from blue: something else wrote to green, or the table was \
                          not copied completely. Nothing of this transaction was kept. Compare the \
                          table (cutover verify) and copy it again";
            Err(TargetError::halt(message, remedy).into())
        }
        (Purpose::Rows { rows, .. }, Ok(written)) if written == rows as u64 => Ok(()),
        (Purpose::Rows { op, table, rows, commits: (first, last) }, Ok(written)) => {
            let message = format!(
                "{op} on {} matched {written} rows on green instead of {rows} (blue's commits \
                 {first} to {last})",
                table.name
            );
            // The batch is repeated row by row, which says which row it is.
            Err(TargetError::halt(message, "Compare the table (cutover verify)").into())
        }
        (Purpose::Rows { op, table, rows, commits: (first, last) }, Err(e)) => {
            let refusal = Refusal::of_wire(&e);
            let suspect = refusal.hints_at_changed_catalog().then(|| table.clone());
            let doing =
                format!("{op} of {rows} rows on {} (blue's commits {first} to {last})", table.name);
            Err(Failure { error: refusal.into_error(&doing), suspect })
        }
        (Purpose::Progress, Ok(_)) => {
            Err(TargetError::retry("somebody else moved this lane's progress on green").into())
        }
        (Purpose::Row { op, table, commit_lsn }, Err(e)) => {
            let refusal = Refusal::of_wire(&e);
            let suspect = refusal.hints_at_changed_catalog().then(|| table.clone());
            let doing = format!("{op} on {} (blue's commit {commit_lsn})", table.name);
            Err(Failure { error: refusal.into_error(&doing), suspect })
        }
        (Purpose::Progress, Err(e)) => {
            Err(Refusal::of_wire(&e).into_error("writing progress on green").into())
        }
        (Purpose::Frame(doing), Err(e)) => Err(Refusal::of_wire(&e).into_error(doing).into()),
    }
}
