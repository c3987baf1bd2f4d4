//! Many transactions in one batch come to what they come to one by one, row by row, and to what a
//! naive model says.

use std::sync::Arc;

use decoders::change::{
    Cell, ChangeEvent, OldRow, ReplicaIdentity as Identity, Row, TableSchema, Transaction,
};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use sinks::postgres::{PgLane, Ways};
use sinks::{Applied, Lane as _, TargetError};

use crate::support::{Db, end, tx};

#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    Int,
    /// A small number that is always there.
    Day,
    Text,
    /// Small numbers in different scales: equal for SQL, not for us.
    Numeric,
    Json,
}

#[derive(Clone, Copy)]
struct Col {
    kind: Kind,
    key: bool,
    unique: bool,
}

const fn col(kind: Kind) -> Col {
    Col { kind, key: false, unique: false }
}

const fn key(kind: Kind) -> Col {
    Col { kind, key: true, unique: false }
}

const fn unique(kind: Kind) -> Col {
    Col { kind, key: false, unique: true }
}

const DDL: &str = "
    CREATE TABLE uniques (id int PRIMARY KEY, u int UNIQUE, x text, v int UNIQUE, j jsonb);
    CREATE TABLE composite (a int, b text, x text, n numeric, PRIMARY KEY (a, b));
    CREATE TABLE scaled (n numeric PRIMARY KEY, x text);
    CREATE TABLE complete (id int PRIMARY KEY, x text, n numeric);
    CREATE TABLE parted (id int, day int, x text, PRIMARY KEY (id, day)) PARTITION BY LIST (day);
    CREATE TABLE parted_0 PARTITION OF parted FOR VALUES IN (0, 1, 2, 3);
    CREATE TABLE parted_1 PARTITION OF parted DEFAULT;
    CREATE TABLE reparted (id int, day int NOT NULL, x text, PRIMARY KEY (id, day))
        PARTITION BY LIST (day);
    CREATE TABLE reparted_0 PARTITION OF reparted FOR VALUES IN (0, 1, 2, 3);
    CREATE TABLE reparted_1 PARTITION OF reparted DEFAULT;
    CREATE TABLE always (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, x text);
    CREATE TABLE keyless (n numeric, x text);
    CREATE TABLE log (x text, n numeric);";

struct Table {
    name: &'static str,
    columns: &'static [Col],
    identity: Identity,
}

const TABLES: [Table; 9] = [
    Table {
        name: "uniques",
        columns: &[
            key(Kind::Int),
            unique(Kind::Int),
            col(Kind::Text),
            unique(Kind::Int),
            col(Kind::Json),
        ],
        identity: Identity::Default,
    },
    Table {
        name: "composite",
        columns: &[key(Kind::Int), key(Kind::Text), col(Kind::Text), col(Kind::Numeric)],
        identity: Identity::Default,
    },
    Table {
        name: "scaled",
        columns: &[key(Kind::Numeric), col(Kind::Text)],
        identity: Identity::Default,
    },
    Table {
        name: "complete",
        columns: &[key(Kind::Int), col(Kind::Text), col(Kind::Numeric)],
        identity: Identity::Full,
    },
    Table {
        name: "parted",
        columns: &[key(Kind::Int), key(Kind::Day), col(Kind::Text)],
        identity: Identity::Default,
    },
    // Blue's is not partitioned and has the key (id).
    Table {
        name: "reparted",
        columns: &[key(Kind::Int), col(Kind::Day), col(Kind::Text)],
        identity: Identity::Default,
    },
    Table {
        name: "always",
        columns: &[key(Kind::Int), col(Kind::Text)],
        identity: Identity::Default,
    },
    Table {
        name: "keyless",
        columns: &[col(Kind::Numeric), col(Kind::Text)],
        identity: Identity::Full,
    },
    Table {
        name: "log",
        columns: &[col(Kind::Text), col(Kind::Numeric)],
        identity: Identity::Nothing,
    },
];

/// What may be tried; what can't be is left out.
#[derive(Clone, Debug)]
struct Try {
    table: u8,
    act: u8,
    pick: u16,
    other: u16,
    values: [u16; 5],
    gaps: u8,
    moves: bool,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Form {
    Text,
    Binary,
    /// By transaction: what a reader sends that changes its way in the middle of a batch.
    Both,
}

#[derive(Clone, Debug)]
struct Case {
    form: Form,
    /// How many different keys there are.
    keys: u16,
    /// Tables that take part, a bit each.
    tables: u16,
    swaps: bool,
    truncates: bool,
    /// The share of transactions that are there before the batch.
    before_percent: usize,
    sizes: Vec<u8>,
    tries: Vec<Try>,
}

fn tries() -> impl Strategy<Value = Vec<Try>> {
    let one = (any::<(u8, u8, u16, u16)>(), any::<[u16; 5]>(), any::<u8>(), any::<bool>())
        .prop_map(|((table, act, pick, other), values, gaps, moves)| Try {
            table,
            act,
            pick,
            other,
            values,
            gaps,
            moves,
        });
    prop_oneof![
        2 => prop::collection::vec(one.clone(), 20..100),
        1 => prop::collection::vec(one, 400..900),
    ]
}

fn cases() -> impl Strategy<Value = Case> {
    let form = prop_oneof![2 => Just(Form::Text), 2 => Just(Form::Binary), 1 => Just(Form::Both)];
    let keys = prop_oneof![Just(8u16), Just(40), Just(2000)];
    let rare = || prop::bool::weighted(0.2);
    (
        form,
        keys,
        1..512u16,
        prop::bool::weighted(0.4),
        rare(),
        0..70usize,
        prop::collection::vec(1..9u8, 8),
        tries(),
    )
        .prop_map(|(form, keys, tables, swaps, truncates, before_percent, sizes, tries)| {
            Case { form, keys, tables, swaps, truncates, before_percent, sizes, tries }
        })
}

/// A row as text; `None` is NULL.
type Texts = Vec<Option<String>>;

fn value(column: Col, from: u16, keys: u16) -> Option<String> {
    if !column.key && column.kind != Kind::Day && from % 7 == 6 {
        return None;
    }
    let from = if column.key { from % keys } else { from };
    Some(match column.kind {
        Kind::Day => (from % 6).to_string(),
        // Few enough that they often move from row to row.
        Kind::Int => if column.key { from } else { from % (keys + keys / 2) }.to_string(),
        Kind::Text if column.key => format!("a {} key", from % 5),
        Kind::Text => match from % 8 {
            0 => String::new(),
            1 => "NULL".to_owned(),
            2 => "{\"a,b\\\\\"}\t\\N".to_owned(),
            3 => "line\nline".to_owned(),
            4 => "long ".repeat(600),
            other => format!("ä{other}"),
        },
        Kind::Numeric => {
            let (number, scale) = (from / 3 % 1000, usize::from(from % 3));
            let zeros = "0".repeat(scale);
            if scale == 0 { number.to_string() } else { format!("{number}.{zeros}") }
        }
        Kind::Json => format!("{{\"a\": {from}}}"),
    })
}

fn same(column: Col, a: &Option<String>, b: &Option<String>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) if column.kind == Kind::Numeric => {
            a.split('.').next() == b.split('.').next()
        }
        (a, b) => a == b,
    }
}

/// The type's binary send format.
fn binary(kind: Kind, text: &str) -> Vec<u8> {
    match kind {
        Kind::Int | Kind::Day => text.parse::<i32>().expect("a number").to_be_bytes().into(),
        Kind::Text => text.into(),
        Kind::Json => [b"\x01", text.as_bytes()].concat(),
        Kind::Numeric => {
            // Number of digits (base 10000), weight, sign, scale, digits.
            let (number, zeros) = text.split_once('.').unwrap_or((text, ""));
            let number: u16 = number.parse().expect("a number");
            let digits: &[u16] = if number == 0 { &[] } else { &[number] };
            let head = [digits.len() as u16, 0, 0, zeros.len() as u16];
            head.iter().chain(digits).flat_map(|word| word.to_be_bytes()).collect()
        }
    }
}

struct Model<'t> {
    schemas: &'t [Arc<TableSchema>],
    rows: Vec<Vec<Texts>>,
    out: Vec<ChangeEvent>,
    binary: bool,
}

impl Model<'_> {
    fn row(
        &self,
        table: usize,
        texts: &[Option<String>],
        sent: impl Fn(usize) -> Cell<'static>,
    ) -> Row {
        let values: Vec<Option<Vec<u8>>> = texts
            .iter()
            .zip(TABLES[table].columns)
            .map(|(text, column)| {
                let text = text.as_ref()?;
                Some(if self.binary { binary(column.kind, text) } else { text.clone().into() })
            })
            .collect();
        let cells = values.iter().enumerate().map(|(at, value)| match (sent(at), value) {
            (Cell::Unchanged, _) => Cell::Unchanged,
            (_, None) => Cell::NULL,
            (_, Some(bytes)) if self.binary => Cell::binary(bytes),
            (_, Some(bytes)) => Cell::text(bytes),
        });
        cells.collect()
    }

    fn whole(&self, table: usize, texts: &[Option<String>]) -> Row {
        self.row(table, texts, |_| Cell::NULL)
    }

    fn old(&self, table: usize, texts: &[Option<String>]) -> OldRow {
        if TABLES[table].identity == Identity::Full {
            return OldRow::Full(self.whole(table, texts));
        }
        let columns = TABLES[table].columns;
        let key: Texts =
            texts.iter().zip(columns).map(|(text, col)| text.clone().filter(|_| col.key)).collect();
        OldRow::Key(self.whole(table, &key))
    }

    fn admits(&self, table: usize, new: &Texts, but: Option<usize>) -> bool {
        let columns = TABLES[table].columns;
        let keyed = columns.iter().any(|column| column.key);
        self.rows[table].iter().enumerate().filter(|(at, _)| Some(*at) != but).all(|(_, row)| {
            let mut pairs = columns.iter().zip(row.iter().zip(new));
            let key_taken =
                pairs.clone().filter(|(c, _)| c.key).all(|(c, (row, new))| same(*c, row, new));
            let value_taken =
                pairs.any(|(c, (row, new))| c.unique && new.is_some() && same(*c, row, new));
            !(value_taken || keyed && key_taken)
        })
    }

    fn insert(&mut self, table: usize, new: Texts) {
        if self.admits(table, &new, None) {
            let row = self.whole(table, &new);
            self.out.push(ChangeEvent::Insert { table: self.schemas[table].clone(), new: row });
            self.rows[table].push(new);
        }
    }

    /// `gaps`: columns that are not sent if they can be left out, a bit each.
    fn update(&mut self, table: usize, at: usize, mut new: Texts, gaps: u8) -> bool {
        let columns = TABLES[table].columns;
        let left_out = |at: usize| {
            let toasts = matches!(columns[at].kind, Kind::Text | Kind::Json);
            !columns[at].key && toasts && gaps & (1 << at) != 0
        };
        let before = self.rows[table][at].clone();
        for (column, text) in new.iter_mut().enumerate() {
            if left_out(column) {
                text.clone_from(&before[column]);
            }
        }
        if !self.admits(table, &new, Some(at)) {
            return false;
        }
        let sent = |at| if left_out(at) { Cell::Unchanged } else { Cell::NULL };
        let row = self.row(table, &new, sent);
        // By bytes, as heap_update compares: 1.0 and 1.00 are different keys.
        let moved = columns.iter().zip(before.iter().zip(&new)).any(|(c, (a, b))| c.key && a != b);
        let full = TABLES[table].identity == Identity::Full;
        let old = (moved || full).then(|| self.old(table, &before));
        self.out.push(ChangeEvent::Update { table: self.schemas[table].clone(), old, new: row });
        self.rows[table][at] = new;
        true
    }

    fn delete(&mut self, table: usize, at: usize) {
        let old = self.rows[table].swap_remove(at);
        let old = self.old(table, &old);
        self.out.push(ChangeEvent::Delete { table: self.schemas[table].clone(), old });
    }

    /// Two rows take each other's value, by way of one that is free.
    fn swap(&mut self, table: usize, a: usize, b: usize, column: usize) {
        let (of_a, of_b) = (self.rows[table][a].clone(), self.rows[table][b].clone());
        if of_a[column] == of_b[column] {
            return;
        }
        let with = |row: &Texts, value: Option<String>| {
            let mut row = row.clone();
            row[column] = value;
            row
        };
        let free = (!TABLES[table].columns[column].unique).then(|| "1000000".to_owned());
        if self.update(table, a, with(&of_a, free), 0xFF)
            && self.update(table, b, with(&of_b, of_a[column].clone()), 0xFF)
        {
            self.update(table, a, with(&of_a, of_b[column].clone()), 0xFF);
        }
    }

    fn perform(&mut self, case: &Case, wanted: &Try) {
        // A third of all is for the table with the most to go wrong.
        let table = usize::from(wanted.table.saturating_sub(80)) % TABLES.len();
        if case.tables & (1 << table) == 0 {
            return;
        }
        let Table { columns, identity, .. } = TABLES[table];
        let new: Texts =
            columns.iter().zip(wanted.values).map(|(c, from)| value(*c, from, case.keys)).collect();
        let there = self.rows[table].len();
        let pick = |pick: u16| usize::from(pick) % there.max(1);
        match wanted.act {
            0..100 => self.insert(table, new),
            _ if there == 0 || identity == Identity::Nothing => self.insert(table, new),
            100..200 => {
                let at = pick(wanted.pick);
                let mut new = new;
                if !wanted.moves {
                    for (column, text) in columns.iter().zip(0..) {
                        if column.key {
                            new[text].clone_from(&self.rows[table][at][text]);
                        }
                    }
                }
                self.update(table, at, new, wanted.gaps);
            }
            200..230 => self.delete(table, pick(wanted.pick)),
            230..250 if case.swaps => {
                let swappable = |c: &Col| c.kind == Kind::Int && (c.unique || c.key);
                let columns: Vec<usize> =
                    (0..columns.len()).filter(|at| swappable(&columns[*at])).collect();
                if !columns.is_empty() {
                    let column = columns[usize::from(wanted.values[0]) % columns.len()];
                    self.swap(table, pick(wanted.pick), pick(wanted.other), column);
                }
            }
            250.. if case.truncates => {
                let other = usize::from(wanted.other) % TABLES.len();
                let tables = if other == table { vec![table] } else { vec![table, other] };
                tables.iter().for_each(|table| self.rows[*table].clear());
                self.out.push(ChangeEvent::Truncate {
                    tables: tables.iter().map(|table| self.schemas[*table].clone()).collect(),
                    cascade: false,
                    restart_identity: false,
                });
            }
            _ => {}
        }
    }

    fn lines(&self, table: usize) -> Vec<String> {
        let line = |row: &Texts| {
            row.iter().map(|text| text.as_deref().unwrap_or("~")).collect::<Vec<_>>().join("|")
        };
        let mut lines: Vec<String> = self.rows[table].iter().map(line).collect();
        lines.sort();
        lines
    }
}

/// The case as transactions, and the rows that are there in the end.
fn play(
    case: &Case,
    schemas: &[Arc<TableSchema>],
    first: u64,
) -> (Vec<Transaction>, Vec<Vec<String>>) {
    let rows = vec![Vec::new(); TABLES.len()];
    let mut model = Model { schemas, rows, out: Vec::new(), binary: case.form == Form::Binary };
    let mut transactions = Vec::new();
    let mut sizes = case.sizes.iter().cycle();
    let mut room = 1;
    for wanted in &case.tries {
        model.perform(case, wanted);
        if model.out.len() >= room {
            let changes = std::mem::take(&mut model.out);
            transactions.push(tx(first + transactions.len() as u64, changes));
            room = usize::from(*sizes.next().expect("endless"));
            model.binary ^= case.form == Form::Both;
        }
    }
    transactions.push(tx(first + transactions.len() as u64, std::mem::take(&mut model.out)));
    let rows = (0..TABLES.len()).map(|table| model.lines(table)).collect();
    (transactions, rows)
}

async fn rows(db: &Db, table: &Table) -> Vec<String> {
    let mut rows = db.rows(&format!("SELECT * FROM {}", table.name)).await;
    rows.sort();
    rows
}

async fn schemas(db: &Db) -> Vec<Arc<TableSchema>> {
    let mut schemas = Vec::new();
    for table in &TABLES {
        let mut schema = (*db.table(table.name, table.identity).await).clone();
        if table.identity != Identity::Full {
            for (column, ours) in schema.columns.iter_mut().zip(table.columns) {
                column.in_key = ours.key;
            }
        }
        schemas.push(Arc::new(schema));
    }
    schemas
}

struct Both {
    one_by_one: Db,
    batch: Db,
    schemas: Vec<Arc<TableSchema>>,
    /// Transactions so far.
    done: u64,
    ways: Ways,
}

impl Both {
    /// An error is told, not thrown: a smaller case may follow on the same databases.
    async fn check(&mut self, case: &Case) -> Result<(), TestCaseError> {
        let (transactions, expected) = play(case, &self.schemas, self.done + 1);
        self.done += transactions.len() as u64;
        let names: Vec<&str> = TABLES.iter().map(|table| table.name).collect();
        let empty = format!("TRUNCATE {}", names.join(", "));
        let failed = |e: TargetError| TestCaseError::fail(e.to_string());

        self.one_by_one.exec(&empty).await;
        let mut lane = self.one_by_one.lane().await;
        let applied = alone(&mut lane, &transactions).await;
        let ways = lane.ways();
        lane.close().await;
        applied.map_err(failed)?;
        prop_assert_eq!(ways.as_a_whole, 0);

        self.batch.exec(&empty).await;
        // A new lane: one that met refusals tries less often to write a batch as a whole.
        let mut lane = self.batch.lane().await;
        let (before, batch) = transactions.split_at(transactions.len() * case.before_percent / 100);
        let mut applied = alone(&mut lane, before).await;
        let before = lane.ways();
        if applied.is_ok() {
            applied = lane.apply(batch).await;
        }
        let after = lane.ways();
        lane.close().await;
        let applied = applied.map_err(failed)?;
        prop_assert_eq!(applied.end_lsn, Some(end(self.done)));
        prop_assert_eq!(applied.transactions, batch.len() as u64);
        self.ways.as_a_whole += after.as_a_whole - before.as_a_whole;
        self.ways.refused += after.refused - before.refused;

        for (table, expected) in TABLES.iter().zip(&expected) {
            prop_assert_eq!(&rows(&self.one_by_one, table).await, expected, "{} alone", table.name);
            prop_assert_eq!(&rows(&self.batch, table).await, expected, "{} in a batch", table.name);
        }
        Ok(())
    }
}

async fn alone(lane: &mut PgLane, transactions: &[Transaction]) -> Result<Applied, TargetError> {
    let mut applied = Applied::default();
    for one in transactions {
        applied = lane.apply(std::slice::from_ref(one)).await?;
    }
    Ok(applied)
}

#[test]
fn a_batch_is_what_its_transactions_are_one_by_one() {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let both = runtime.block_on(async {
        let (one_by_one, batch) = (Db::new(DDL).await, Db::new(DDL).await);
        let schemas = schemas(&batch).await;
        Both { one_by_one, batch, schemas, done: 0, ways: Ways::default() }
    });
    let both = std::cell::RefCell::new(both);
    let cases_wanted = std::env::var("SINKS_TEST_CASES").ok().and_then(|text| text.parse().ok());
    let config = ProptestConfig {
        cases: cases_wanted.unwrap_or(80),
        failure_persistence: None,
        max_shrink_iters: 300,
        ..Default::default()
    };
    TestRunner::new(config)
        .run(&cases(), |case| runtime.block_on(both.borrow_mut().check(&case)))
        .expect("the same");
    let ways = both.borrow().ways;
    // Both were tried: batches that green takes, and batches that it refuses as a whole.
    assert!(ways.as_a_whole > 10 && ways.refused > 0, "{ways:?}");
}
