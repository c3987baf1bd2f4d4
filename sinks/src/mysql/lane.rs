//! One applying session: whole source transactions with their progress.
//!
//! Few changes are written as they come, row by row ([`statements`]); many are reduced to what they
//! come to together ([`crate::net`]) and written with statements for many rows ([`sets`]). What green
//! refuses as a whole, for whatever reason that lies in the data, is rolled back and written row by
//! row, so an error is always the error of one row.
//!
//! COMMIT goes out by itself, when every count before it has been checked.

mod alone;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use decoders::change::{ChangeEvent, Lsn, QualifiedName, RowForm, TableSchema, Transaction};
use decoders::mysql::Ledger;
use decoders::mysql::stream::foreign_keys_checked;
use decoders::source::Disposition;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use self::alone::{Turn, not_alone};
use super::error::target_error;
use super::events::{EventSession, TableEvents};
use super::own::Marks;
use super::plan::{Plan, can_be_emptied, missing_table};
use super::progress::{LaneProgress, advance_statement};
use super::read::{Cascades, GreenTable};
use super::script::{Purpose, Script};
use super::session::{self, Capabilities};
use super::{read, sets, statements};
use crate::caution::{Caution, Ways};
use crate::mark::{LaneMark, Share};
use crate::net::reduce;
use crate::target::{Applied, Lane, LaneId, TargetError};

/// What a lane needs to know at its start.
pub(super) struct LaneStart {
    pub conn: Conn,
    pub id: LaneId,
    pub pipeline: String,
    pub capabilities: Capabilities,
    pub ledger: Arc<Ledger>,
    pub progress: LaneProgress,
    pub marks: Marks,
    pub checks_foreign_keys: bool,
    pub accept_triggers: bool,
    pub applies_definitions: bool,
    /// How many schema changes have come, whichever lane repeated them.
    pub definitions: Arc<AtomicU64>,
    pub cascades: Cascades,
    /// If rows may go as row events.
    pub events: Option<EventSession>,
}

/// Fewer changes in one call are written row by row: a quiet stream pays nothing for the batches of
/// a busy one.
const FEWEST_CHANGES: usize = 16;
/// Table versions whose plans are remembered; beyond it all are made again.
const MOST_PLANS: usize = 16_384;

/// Where the open transaction stands.
#[derive(Clone, Default)]
struct Open {
    begun: bool,
    /// A source transaction whose last part has not come yet.
    unfinished: Option<Lsn>,
    /// Source transactions that ended since the last commit, by their number.
    commits: Vec<Lsn>,
    /// Pieces of a distributed transaction that are kept so far.
    pieces: u32,
}

/// One applying connection to MySQL or MariaDB.
pub struct MysqlLane {
    /// None after a call that failed or was dropped half-way: nothing can be said about the session.
    conn: Option<Conn>,
    id: LaneId,
    pipeline: String,
    capabilities: Capabilities,
    ledger: Arc<Ledger>,
    checks_foreign_keys: bool,
    accept_triggers: bool,
    applies_definitions: bool,
    definitions: Arc<AtomicU64>,
    cascades: Cascades,
    /// Their number when the plans were made.
    plans_of: u64,
    /// By the address of the schema, which is kept beside: no other can get it.
    plans: HashMap<usize, (Arc<TableSchema>, Arc<Plan>)>,
    caution: Caution,
    ways: Ways,
    /// Whether rows go as row events where their table allows it.
    events: Option<EventSession>,
    /// Statements that held row events.
    event_statements: u64,
    /// What each transaction begins with.
    marks: Marks,
    /// What the progress row on green says.
    mark: LaneMark,
    /// What it said when the lane was opened.
    opened: LaneMark,
    /// End of the last source transaction that was written, committed or not.
    written: Option<Lsn>,
    open: Open,
    /// Savepoints that were asked for. Each has a name of its own: going back to one that was never made
    /// has to fail, and not to find an older one.
    savepoints: u64,
}

impl MysqlLane {
    pub(super) fn start(start: LaneStart) -> Self {
        Self {
            conn: Some(start.conn),
            id: start.id,
            pipeline: start.pipeline,
            capabilities: start.capabilities,
            ledger: start.ledger,
            checks_foreign_keys: start.checks_foreign_keys,
            accept_triggers: start.accept_triggers,
            applies_definitions: start.applies_definitions,
            plans_of: start.definitions.load(Ordering::Acquire),
            definitions: start.definitions,
            cascades: start.cascades,
            plans: HashMap::new(),
            caution: Caution::default(),
            ways: Ways::default(),
            events: start.events,
            event_statements: 0,
            marks: start.marks,
            written: start.progress.mark.floor,
            opened: start.progress.mark.clone(),
            mark: start.progress.mark,
            open: Open::default(),
            savepoints: 0,
        }
    }

    /// How batches were written so far.
    pub fn ways(&self) -> Ways {
        self.ways
    }

    /// How many statements held row events so far.
    pub fn event_statements(&self) -> u64 {
        self.event_statements
    }

    async fn write(
        &mut self,
        conn: &mut Conn,
        transactions: &[Transaction],
        share: Share,
    ) -> Result<Applied, TargetError> {
        if transactions.is_empty() {
            return Ok(Applied::default());
        }
        match Turn::of(transactions)? {
            Turn::Definition(transaction, definition) => {
                return self.define(conn, transaction, definition, share).await;
            }
            Turn::Step(transaction, step) => {
                return self.distribute(conn, transaction, step, share).await;
            }
            Turn::Rows => {}
        }
        let changes = transactions.iter().flat_map(|transaction| &transaction.changes);
        self.learn(conn, changes).await?;
        let changes: usize = transactions.iter().map(|transaction| transaction.changes.len()).sum();
        let mut refuses_events = false;
        if changes >= FEWEST_CHANGES && !self.caution.skips() && !self.switches_checks(transactions)
        {
            let before = (self.written, self.open.clone());
            let mut script = self.script();
            match self.write_whole(&mut script, conn, transactions, share).await {
                Ok(applied) => {
                    self.caution.succeeded();
                    self.ways.as_a_whole += 1;
                    return Ok(applied);
                }
                Err(error) => {
                    refuses_events = script.refuses_events() && !error.conflict;
                    self.refused(conn, error, before).await?;
                }
            }
        }
        let applied = self.write_rows(conn, transactions, share).await?;
        self.ways.row_by_row += 1;
        // What rows were really missing has ended the lane.
        if refuses_events && self.events.take().is_some() {
            tracing::warn!(
                lane = self.id.0,
                "green took statements where it refused row events: from now on all rows go as statements"
            );
        }
        Ok(applied)
    }

    /// Whether some rows have to be written without checking foreign keys, among others that are
    /// checked: what they come to together is then not to be told.
    fn switches_checks(&self, transactions: &[Transaction]) -> bool {
        let mut changes = transactions.iter().flat_map(|transaction| &transaction.changes);
        self.checks_foreign_keys && changes.any(|change| foreign_keys_checked(change).is_some())
    }

    /// Row by row, in the order of the stream.
    async fn write_rows(
        &mut self,
        conn: &mut Conn,
        transactions: &[Transaction],
        share: Share,
    ) -> Result<Applied, TargetError> {
        let mut script = self.script();
        self.begin(&mut script, conn).await?;
        for transaction in transactions {
            self.admit(transaction)?;
            let commit = transaction.commit_lsn;
            self.write_changes(&mut script, conn, &transaction.changes, commit).await?;
            self.ended(transaction)?;
        }
        self.finish(&mut script, conn, transactions, share).await
    }

    /// Writes changes one by one, as those of the transaction `commit`. Their plans are made.
    async fn write_changes<'a>(
        &self,
        script: &mut Script,
        conn: &mut Conn,
        changes: impl IntoIterator<Item = &'a ChangeEvent> + Send,
        commit: Lsn,
    ) -> Result<(), TargetError> {
        // Not a loop over an iterator that lives over an await: that would have to be `Send`, too.
        let changes: Vec<&ChangeEvent> = changes.into_iter().collect();
        for change in changes {
            match change {
                ChangeEvent::Insert { table, .. }
                | ChangeEvent::Update { table, .. }
                | ChangeEvent::Delete { table, .. } => {
                    let plan = self.plan(table).ok_or_else(|| lost_plan(&table.name))?;
                    statements::row(script, conn, &plan, change, commit).await?;
                }
                ChangeEvent::Truncate { .. } => {
                    let checks = self.checks_foreign_keys;
                    statements::truncate(script, conn, change, commit, checks).await?;
                }
                ChangeEvent::Message { .. } => {
                    if let Some(checked) = foreign_keys_checked(change)
                        && self.checks_foreign_keys
                    {
                        statements::check_foreign_keys(script, conn, checked).await?;
                    }
                    // The others are for the controller, who saw them upstream.
                }
                ChangeEvent::Definition(_) | ChangeEvent::Distributed(_) => {
                    return Err(not_alone());
                }
            }
        }
        Ok(())
    }

    /// As net changes, many rows at once.
    async fn write_whole(
        &mut self,
        script: &mut Script,
        conn: &mut Conn,
        transactions: &[Transaction],
        share: Share,
    ) -> Result<Applied, TargetError> {
        if self.open.begun {
            // Before anything can go wrong: what a refusal goes back to is there.
            self.savepoints += 1;
            let sql = format!("SAVEPOINT cutover_{}", self.savepoints);
            script.frame(conn, sql.as_bytes(), "saving the state before a batch").await?;
            script.send(conn).await?;
        }
        for transaction in transactions {
            self.admit(transaction)?;
            self.ended(transaction)?;
        }
        let changes = transactions.iter().flat_map(|transaction| {
            transaction.changes.iter().map(|change| (change, transaction.commit_lsn))
        });
        let steps = reduce(changes, |table| self.plan(table));
        // Row by row it succeeds or shows what is wrong.
        let steps = steps.map_err(|why| TargetError::halt(why.to_string(), "Please report it"))?;
        self.begin(script, conn).await?;
        let as_events = self.events.is_some();
        sets::steps(script, conn, &steps, self.checks_foreign_keys, as_events).await?;
        self.finish(script, conn, transactions, share).await
    }

    /// Commits if the last transaction has ended.
    async fn finish(
        &mut self,
        script: &mut Script,
        conn: &mut Conn,
        transactions: &[Transaction],
        share: Share,
    ) -> Result<Applied, TargetError> {
        let changes = transactions.iter().map(|transaction| transaction.changes.len() as u64).sum();
        if script.has_events()
            && let Some(sql) =
                self.events.as_ref().and_then(|e| e.strictness(&self.pipeline, self.id))
        {
            script.add(conn, &sql, Some(1), 0, Purpose::Strictness).await?;
        }
        if self.open.unfinished.is_some() {
            script.send(conn).await?;
            self.event_statements += script.event_statements();
            return Ok(Applied { end_lsn: None, transactions: 0, changes });
        }
        let mark = self.mark.after(share, &self.open.commits, self.written);
        let place = mark.floor.and_then(|floor| self.ledger.place(floor)).ok_or_else(|| {
            TargetError::halt(
                "the stream has no position for what was applied",
                "This is a defect of the engine: please report it",
            )
        })?;
        let sql = advance_statement(&self.pipeline, self.id, &self.mark, &mark, &place);
        script.add(conn, &sql, Some(1), 0, Purpose::Progress).await?;
        script.send(conn).await?;
        self.event_statements += script.event_statements();
        let committed = conn.query_drop("COMMIT").await;
        committed.map_err(|error| target_error("committing on green", error))?;
        let applied = self.open.commits.len() as u64;
        self.open = Open::default();
        self.mark = mark;
        Ok(Applied { end_lsn: self.written, transactions: applied, changes })
    }

    fn script(&self) -> Script {
        Script::new(self.capabilities.packet_bytes)
    }

    async fn begin(&mut self, script: &mut Script, conn: &mut Conn) -> Result<(), TargetError> {
        if self.open.begun {
            return Ok(());
        }
        self.open.begun = true;
        script.frame(conn, b"START TRANSACTION", "beginning a transaction on green").await?;
        script.add(conn, &self.marks.statement(), Some(1), 0, Purpose::Progress).await
    }

    /// Makes the plans of tables that are not known yet.
    async fn learn<'a>(
        &mut self,
        conn: &mut Conn,
        changes: impl Iterator<Item = &'a ChangeEvent> + Send,
    ) -> Result<(), TargetError> {
        // Not in the middle: the plans of one call are all needed. A table that looks the same to its rows
        // may have other keys.
        let definitions = self.definitions.load(Ordering::Acquire);
        if self.plans.len() >= MOST_PLANS || self.plans_of != definitions {
            self.plans_of = definitions;
            self.plans.clear();
        }
        for change in changes {
            if let ChangeEvent::Truncate { tables, .. } = change {
                for table in tables {
                    let green = self.green(conn, &table.name).await?;
                    can_be_emptied(table, green.as_ref())?;
                }
            }
            let (ChangeEvent::Insert { table, .. }
            | ChangeEvent::Update { table, .. }
            | ChangeEvent::Delete { table, .. }) = change
            else {
                continue;
            };
            if self.plans.contains_key(&address(table)) {
                continue;
            }
            let form = form_of(change);
            let plan = match self.alike(table, form) {
                Some(plan) => plan,
                None => {
                    let green = self.green(conn, &table.name).await?;
                    let green = green.ok_or_else(|| missing_table(table))?;
                    let checks = self.checks_foreign_keys;
                    let plan = Plan::new(table.clone(), &green, checks, self.accept_triggers)?;
                    let events = self.events_of(&plan, &green, form);
                    Arc::new(plan.of_form(form, events))
                }
            };
            self.plans.insert(address(table), (table.clone(), plan));
        }
        Ok(())
    }

    /// A table as green has it now.
    async fn green(
        &self,
        conn: &mut Conn,
        name: &QualifiedName,
    ) -> Result<Option<GreenTable>, TargetError> {
        let server = &self.capabilities.server;
        read::table(conn, server, name, &self.cascades, self.plans_of).await
    }

    /// The plan of a table that is described again as it was: a source does so whenever it opens it
    /// anew.
    fn alike(&self, table: &Arc<TableSchema>, form: Option<&Arc<RowForm>>) -> Option<Arc<Plan>> {
        let is_alike = |(schema, plan): &&(Arc<TableSchema>, Arc<Plan>)| {
            **schema == **table && plan.is_of(form)
        };
        self.plans.values().find(is_alike).map(|(_, plan)| Arc::clone(plan))
    }

    /// How rows of a form go as row events, if they do.
    fn events_of(
        &self,
        plan: &Plan,
        green: &GreenTable,
        form: Option<&Arc<RowForm>>,
    ) -> Option<TableEvents> {
        let session = self.events.as_ref()?;
        let events = match form {
            Some(form) => session.table(plan, green, form, self.checks_foreign_keys),
            None => Err("the stream does not say for sure how its rows are stored".to_owned()),
        };
        let table = plan.schema().name.to_string();
        let lane = self.id.0;
        match events {
            Ok(events) => {
                if lane == 0 {
                    tracing::info!(table, "batches of its rows go as row events");
                }
                Some(events)
            }
            Err(why) => {
                if lane == 0 {
                    tracing::info!(table, why, "its rows go as statements");
                }
                None
            }
        }
    }

    fn plan(&self, table: &Arc<TableSchema>) -> Option<Arc<Plan>> {
        self.plans.get(&address(table)).map(|(_, plan)| Arc::clone(plan))
    }

    /// Takes a batch back that green refused as a whole, so that it can be written row by row. Gives
    /// the error back if that is not the data's fault or can't be done.
    async fn refused(
        &mut self,
        conn: &mut Conn,
        error: TargetError,
        (written, open): (Option<Lsn>, Open),
    ) -> Result<(), TargetError> {
        if error.disposition == Disposition::Retry {
            return Err(error);
        }
        tracing::info!(
            lane = self.id.0,
            reason = error.message,
            "a batch can't be written as a whole; writing it row by row"
        );
        let back = match open.begun {
            true => format!("ROLLBACK TO SAVEPOINT cutover_{}", self.savepoints),
            false => "ROLLBACK".to_owned(),
        };
        if conn.query_drop(back).await.is_err() || self.set_up(conn).await.is_err() {
            return Err(error);
        }
        self.caution.failed();
        self.ways.refused += 1;
        (self.written, self.open) = (written, open);
        Ok(())
    }

    /// Refuses what would break the order or repeat a transaction.
    fn admit(&self, transaction: &Transaction) -> Result<(), TargetError> {
        let number = transaction.commit_lsn;
        let continues = self.open.unfinished == Some(number) && !transaction.part.starts();
        let starts = self.open.unfinished.is_none() && transaction.part.starts();
        if !continues && !starts {
            return Err(TargetError::halt(
                format!(
                    "parts of the source transaction number {} came in the wrong order",
                    number.0
                ),
                "This is a defect of the engine: please report it",
            ));
        }
        // An earlier life's COMMIT came late: the next start knows of it.
        if self.opened.holds(number) {
            return Err(TargetError::retry(format!(
                "the source transaction number {} came again; green has it already",
                number.0
            )));
        }
        // Trying again would begin behind it, and it would be missing for ever.
        if self.mark.holds(number) || self.written.is_some_and(|end| number < end) {
            return Err(TargetError::out_of_order(format!(
                "the source transaction number {} came again, or behind a later one",
                number.0
            )));
        }
        Ok(())
    }

    fn ended(&mut self, transaction: &Transaction) -> Result<(), TargetError> {
        let number = transaction.commit_lsn;
        if !transaction.part.ends() {
            self.open.unfinished = Some(number);
            return Ok(());
        }
        let end = transaction.end_lsn.filter(|end| *end > number).ok_or_else(|| {
            TargetError::halt(
                format!("the source transaction number {} has no end", number.0),
                "This is a defect of the decoder: please report it",
            )
        })?;
        self.open.unfinished = None;
        self.open.commits.push(number);
        self.written = Some(end);
        Ok(())
    }

    /// What a share may begin with. A part of a window, or what is left of one, lies behind the
    /// floor, whatever this lane has committed beyond it.
    fn expect(&mut self, share: Share) {
        if self.open.begun {
            return;
        }
        self.written = match share {
            Share::Rest { .. } => self.mark.floor,
            Share::Part(window) => Some(window.floor).max(self.mark.floor),
        };
    }

    /// What statements that failed half-way may have left otherwise.
    async fn set_up(&self, conn: &mut Conn) -> Result<(), mysql_async::Error> {
        conn.query_drop(session::checks(self.checks_foreign_keys)).await
    }

    /// Ends the failed transaction. On any trouble the connection is gone, and the transaction with it.
    async fn give_up(&mut self, mut conn: Conn, error: TargetError) -> TargetError {
        let is_back =
            conn.query_drop("ROLLBACK").await.is_ok() && self.set_up(&mut conn).await.is_ok();
        if is_back && error.conflict {
            // Nothing is left of the transaction, so the lane is what it was.
            self.open = Open::default();
            self.conn = Some(conn);
        }
        error
    }
}

fn address(table: &Arc<TableSchema>) -> usize {
    Arc::as_ptr(table) as usize
}

/// How the rows of a change are written in the source's log.
fn form_of(change: &ChangeEvent) -> Option<&Arc<RowForm>> {
    let row = match change {
        ChangeEvent::Insert { new, .. } => new,
        ChangeEvent::Update { old: Some(old), .. } | ChangeEvent::Delete { old, .. } => old.row(),
        _ => return None,
    };
    row.image().map(|image| image.form)
}

fn lost_plan(table: &QualifiedName) -> TargetError {
    TargetError::halt(
        format!("no plan was made for {table}"),
        "This is a defect of the engine: please report it",
    )
}

impl Lane for MysqlLane {
    async fn apply_share(
        &mut self,
        transactions: &[Transaction],
        share: Share,
    ) -> Result<Applied, TargetError> {
        let Some(mut conn) = self.conn.take() else {
            return Err(TargetError::retry("this lane failed before and can't be used again"));
        };
        self.expect(share);
        match self.write(&mut conn, transactions, share).await {
            Ok(applied) => {
                self.conn = Some(conn);
                Ok(applied)
            }
            Err(error) => Err(self.give_up(conn, error).await),
        }
    }

    async fn close(self) {
        // In the middle of a transaction, or after an error, the end of the session rolls back.
        let Some(conn) = self.conn else { return };
        if let Err(error) = conn.disconnect().await {
            tracing::debug!(lane = self.id.0, reason = %error, "a lane was not closed in order");
        }
    }
}
