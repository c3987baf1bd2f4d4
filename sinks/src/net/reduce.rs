//! Cuts the changes into stretches and sorts them by table.

use std::collections::HashMap;
use std::sync::Arc;

use decoders::change::{ChangeEvent, Lsn, Row, TableSchema};

use super::entities::{Entities, Taken};
use super::{NetChanges, NetPlan, NetTable, NotReducible, Reduces, Step, Why};

/// Reduces `changes`, each with the LSN of blue's commit, to what they come to. `plan` gives a
/// table version's plan; all of them are made before, so nothing here waits. Every change is
/// checked as [`NetPlan::reduces`] does.
///
/// A TRUNCATE ends a stretch, and so does a table that shows up in another version than before.
/// Messages are left out: they are for the controller, who saw them upstream.
///
/// # Errors
/// If the changes contradict each other or can't be judged as a whole: apply them row by row.
pub fn reduce<'a, P: NetPlan>(
    changes: impl IntoIterator<Item = (&'a ChangeEvent, Lsn)>,
    mut plan: impl FnMut(&Arc<TableSchema>) -> Option<Arc<P>>,
) -> Result<Vec<Step<'a, P>>, NotReducible> {
    let mut steps = Vec::new();
    let mut stretch = Stretch::new();
    for (change, commit_lsn) in changes {
        let schema = match change {
            ChangeEvent::Insert { table, .. }
            | ChangeEvent::Update { table, .. }
            | ChangeEvent::Delete { table, .. } => table,
            ChangeEvent::Truncate { .. } => {
                std::mem::replace(&mut stretch, Stretch::new()).finish(&mut steps);
                steps.push(Step::Truncate(change, commit_lsn));
                continue;
            }
            // Those that stand alone don't come here: a lane refuses them among others.
            ChangeEvent::Message { .. }
            | ChangeEvent::Definition(_)
            | ChangeEvent::Distributed(_) => continue,
        };
        let refused = |why| NotReducible { table: schema.clone(), commit_lsn, why };
        if stretch.take(change, schema, commit_lsn, &mut plan).map_err(refused)? {
            continue;
        }
        std::mem::replace(&mut stretch, Stretch::new()).finish(&mut steps);
        if !stretch.take(change, schema, commit_lsn, &mut plan).map_err(refused)? {
            // Only a change whose own images are in different forms finds no place in a new one.
            return Err(refused(Why::Unfit));
        }
    }
    stretch.finish(&mut steps);
    Ok(steps)
}

/// The changes between two barriers.
struct Stretch<'a, P> {
    tables: Vec<Table<'a, P>>,
    /// Address of a schema to its place in `tables`. The changes keep the addresses unique.
    by_address: HashMap<usize, usize>,
}

/// The changes of one table.
struct Table<'a, P> {
    plan: Arc<P>,
    rows: Rows<'a>,
    /// All of them, for a table that turns out to need their order.
    changes: Vec<(&'a ChangeEvent, Lsn)>,
}

/// How a table's changes are reduced.
enum Rows<'a> {
    /// By key.
    Keyed(Entities<'a>),
    /// Only inserts so far, of a table without a usable key.
    Inserts,
    /// Not at all.
    InOrder,
}

impl<'a, P: NetPlan> Stretch<'a, P> {
    fn new() -> Self {
        Self { tables: Vec::new(), by_address: HashMap::new() }
    }

    /// Takes a change in. `false` if it belongs into a new stretch.
    fn take(
        &mut self,
        change: &'a ChangeEvent,
        schema: &Arc<TableSchema>,
        commit_lsn: Lsn,
        plan: &mut impl FnMut(&Arc<TableSchema>) -> Option<Arc<P>>,
    ) -> Result<bool, Why> {
        let address = Arc::as_ptr(schema) as usize;
        let at = match self.by_address.get(&address) {
            Some(at) => *at,
            None => {
                let plan = plan(schema).ok_or(Why::Unfit)?;
                let Some(at) = self.place(plan)? else { return Ok(false) };
                self.by_address.insert(address, at);
                at
            }
        };
        self.tables[at].take(change, commit_lsn)
    }

    /// Where the table is, made if need be. `None` if it is there in another version.
    fn place(&mut self, plan: Arc<P>) -> Result<Option<usize>, Why> {
        let same = |table: &Table<'_, P>| table.plan.is_same_table(&plan);
        if let Some(at) = self.tables.iter().position(same) {
            return Ok(Arc::ptr_eq(&self.tables[at].plan, &plan).then_some(at));
        }
        if plan.fires() {
            return Err(Why::Fires);
        }
        let rows = match plan.key_positions() {
            Some(_) if plan.key_is_unique() => Rows::Keyed(Entities::default()),
            Some(_) | None => Rows::Inserts,
        };
        self.tables.push(Table { plan, rows, changes: Vec::new() });
        Ok(Some(self.tables.len() - 1))
    }

    fn finish(self, steps: &mut Vec<Step<'a, P>>) {
        let tables = self.tables.into_iter().map(Table::finish);
        let tables: Vec<NetTable<'a, P>> = tables.filter(|table| !table.is_empty()).collect();
        if !tables.is_empty() {
            steps.push(Step::Rows(NetChanges { tables }));
        }
    }
}

impl<'a, P: NetPlan> Table<'a, P> {
    fn take(&mut self, change: &'a ChangeEvent, commit_lsn: Lsn) -> Result<bool, Why> {
        let reduces = self.plan.reduces(change)?;
        match (&mut self.rows, reduces) {
            (Rows::InOrder, _) => {}
            (Rows::Inserts, _) if matches!(change, ChangeEvent::Insert { .. }) => {}
            (Rows::Keyed(_), Reduces::InOrder) => self.rows = Rows::InOrder,
            (Rows::Keyed(entities), _) => {
                let positions = self.plan.key_positions().unwrap_or_default();
                if entities.take(change, positions)? == Taken::OtherForm {
                    return Ok(false);
                }
            }
            (Rows::Inserts, _) => self.rows = Rows::InOrder,
        }
        self.changes.push((change, commit_lsn));
        Ok(true)
    }

    fn finish(self) -> NetTable<'a, P> {
        let lsn = |entry: Option<&(_, Lsn)>| entry.map_or(Lsn::INVALID, |(_, lsn)| *lsn);
        let commits = (lsn(self.changes.first()), lsn(self.changes.last()));
        let empty = NetTable::new(self.plan.clone(), commits);
        match self.rows {
            Rows::Keyed(entities) => {
                let positions = self.plan.key_positions().unwrap_or_default();
                let mut net = NetTable::new(self.plan.clone(), commits);
                match entities.finish(&*self.plan, positions, &mut net) {
                    true => net,
                    false => NetTable { in_order: self.changes, ..empty },
                }
            }
            Rows::Inserts => {
                let inserts = self.changes.iter().filter_map(|(change, _)| inserted(change));
                NetTable { inserts: inserts.map(std::borrow::Cow::Borrowed).collect(), ..empty }
            }
            Rows::InOrder => NetTable { in_order: self.changes, ..empty },
        }
    }
}

fn inserted(change: &ChangeEvent) -> Option<&Row> {
    match change {
        ChangeEvent::Insert { new, .. } => Some(new),
        _ => None,
    }
}

impl<P> NetTable<'_, P> {
    fn new(plan: Arc<P>, commits: (Lsn, Lsn)) -> Self {
        let (deletes, updates, inserts) = (Vec::new(), Vec::new(), Vec::new());
        NetTable { plan, commits, deletes, updates, inserts, in_order: Vec::new() }
    }

    /// Whether nothing is to be written.
    pub fn is_empty(&self) -> bool {
        self.deletes.is_empty()
            && self.updates.is_empty()
            && self.inserts.is_empty()
            && self.in_order.is_empty()
    }
}
