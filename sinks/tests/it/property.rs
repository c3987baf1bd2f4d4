//! Random transactions through the lane are what a naive model says.

use std::collections::BTreeMap;
use std::sync::Arc;

use decoders::change::{ChangeEvent, ReplicaIdentity as Identity, TableSchema};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use sinks::Lane as _;
use sinks::postgres::PgLane;

use crate::support::{Db, delete, insert, tx, update, update_from};

/// What may be tried. What the model can't do (no such row, key taken) is left out.
#[derive(Clone, Debug)]
enum Try {
    Insert {
        id: u8,
        u: Option<u8>,
        text: Option<u8>,
    },
    /// `u` and `text`: None is NULL. `gap`: the text was not sent.
    Update {
        id: u8,
        to: u8,
        u: Option<u8>,
        text: Option<u8>,
        gap: bool,
    },
    Delete {
        id: u8,
    },
    Swap {
        a: u8,
        b: u8,
    },
    Truncate,
    /// The table without a key: its rows are numbers in different scales.
    Add {
        n: u8,
        scale: u8,
    },
    Rescale {
        pick: u8,
        n: u8,
        scale: u8,
    },
    Remove {
        pick: u8,
    },
}

fn tries() -> impl Strategy<Value = Vec<Vec<Try>>> {
    let id = 0..12u8;
    let opt = || proptest::option::of(0..12u8);
    let one = prop_oneof![
        6 => (id.clone(), opt(), opt()).prop_map(|(id, u, text)| Try::Insert { id, u, text }),
        6 => (id.clone(), id.clone(), opt(), opt(), any::<bool>(), any::<bool>()).prop_map(
            |(id, other, u, text, gap, moves)| {
                Try::Update { id, to: if moves { other } else { id }, u, text, gap }
            }
        ),
        3 => id.clone().prop_map(|id| Try::Delete { id }),
        2 => (id.clone(), id.clone()).prop_map(|(a, b)| Try::Swap { a, b }),
        1 => Just(Try::Truncate),
        4 => (0..3u8, 0..3u8).prop_map(|(n, scale)| Try::Add { n, scale }),
        3 => (any::<u8>(), 0..3u8, 0..3u8)
            .prop_map(|(pick, n, scale)| Try::Rescale { pick, n, scale }),
        2 => any::<u8>().prop_map(|pick| Try::Remove { pick }),
    ];
    prop::collection::vec(prop::collection::vec(one, 0..12), 1..8)
}

#[derive(Default)]
struct Model {
    keyed: BTreeMap<u8, (Option<u8>, String)>,
    loose: Vec<String>,
}

struct Tables {
    keyed: Arc<TableSchema>,
    loose: Arc<TableSchema>,
}

fn shown(value: Option<u8>) -> String {
    value.map_or("~".to_owned(), |value| value.to_string())
}

fn decimal(n: u8, scale: u8) -> String {
    if scale == 0 { n.to_string() } else { format!("{n}.{}", "0".repeat(scale.into())) }
}

impl Model {
    fn taken(&self, u: Option<u8>, but: u8) -> bool {
        u.is_some() && self.keyed.iter().any(|(id, row)| *id != but && row.0 == u)
    }

    /// Does what can be done, and says it as the source's changes.
    fn perform(&mut self, t: &Tables, wanted: &Try, out: &mut Vec<ChangeEvent>) {
        match wanted.clone() {
            Try::Insert { id, u, text } => {
                if !self.keyed.contains_key(&id) && !self.taken(u, id) {
                    self.keyed.insert(id, (u, shown(text)));
                    out.push(insert(&t.keyed, &[&id.to_string(), &shown(u), &shown(text)]));
                }
            }
            Try::Update { id, to, u, text, gap } => {
                let free = to == id || !self.keyed.contains_key(&to);
                if !free || self.taken(u, id) {
                    return;
                }
                let Some((_, before)) = self.keyed.remove(&id) else { return };
                let after = if gap { before } else { shown(text) };
                self.keyed.insert(to, (u, after));
                let text = if gap { "?".to_owned() } else { shown(text) };
                let (new_id, u) = (to.to_string(), shown(u));
                let new = [new_id.as_str(), &u, &text];
                out.push(match to == id {
                    true => update(&t.keyed, &new),
                    false => update_from(&t.keyed, &[&id.to_string(), "~", "~"], &new),
                });
            }
            Try::Delete { id } => {
                if self.keyed.remove(&id).is_some() {
                    out.push(delete(&t.keyed, &[&id.to_string(), "~", "~"]));
                }
            }
            Try::Swap { a, b } => {
                let (Some(of_a), Some(of_b)) = (self.keyed.get(&a), self.keyed.get(&b)) else {
                    return;
                };
                let (ua, ub) = (of_a.0, of_b.0);
                for (id, u) in [(a, None), (b, ua), (a, ub)] {
                    if a != b {
                        out.push(update(&t.keyed, &[&id.to_string(), &shown(u), "?"]));
                        if let Some(row) = self.keyed.get_mut(&id) {
                            row.0 = u;
                        }
                    }
                }
            }
            Try::Truncate => {
                self.keyed.clear();
                self.loose.clear();
                out.push(ChangeEvent::Truncate {
                    tables: [t.keyed.clone(), t.loose.clone()].into(),
                    cascade: false,
                    restart_identity: false,
                });
            }
            Try::Add { n, scale } => {
                self.loose.push(decimal(n, scale));
                out.push(insert(&t.loose, &[&decimal(n, scale)]));
            }
            Try::Rescale { pick, n, scale } => {
                if self.loose.is_empty() {
                    return;
                }
                let at = usize::from(pick) % self.loose.len();
                let old = std::mem::replace(&mut self.loose[at], decimal(n, scale));
                out.push(update_from(&t.loose, &[&old], &[&decimal(n, scale)]));
            }
            Try::Remove { pick } => {
                if !self.loose.is_empty() {
                    let old = self.loose.swap_remove(usize::from(pick) % self.loose.len());
                    out.push(delete(&t.loose, &[&old]));
                }
            }
        }
    }
}

async fn check(db: &Db, tables: &Tables, lane: &mut PgLane, n: &mut u64, case: Vec<Vec<Try>>) {
    let mut model = Model::default();
    db.exec("TRUNCATE keyed, loose").await;
    let transactions: Vec<_> = case
        .iter()
        .map(|one| {
            let mut changes = Vec::new();
            one.iter().for_each(|wanted| model.perform(tables, wanted, &mut changes));
            *n += 1;
            tx(*n, changes)
        })
        .collect();
    for some in transactions.chunks(3) {
        lane.apply(some).await.expect("applied");
    }
    let keyed: Vec<String> =
        model.keyed.iter().map(|(id, (u, text))| format!("{id}|{}|{text}", shown(*u))).collect();
    assert_eq!(db.rows("SELECT * FROM keyed ORDER BY id").await, keyed);
    let mut loose = model.loose;
    loose.sort();
    assert_eq!(db.rows("SELECT n FROM loose ORDER BY n::text COLLATE \"C\"").await, loose);
    let progress = db.rows("SELECT transactions FROM _cutover.progress").await;
    assert_eq!(progress, [n.to_string()]);
}

#[test]
fn random_transactions() {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let (db, tables, lane) = runtime.block_on(async {
        let db = Db::new(
            "CREATE TABLE keyed (id int PRIMARY KEY, u int UNIQUE, text text);
             CREATE TABLE loose (n numeric)",
        )
        .await;
        let tables = Tables {
            keyed: db.table("keyed", Identity::Default).await,
            loose: db.table("loose", Identity::Full).await,
        };
        let lane = db.lane().await;
        (db, tables, lane)
    });
    let shared = std::cell::RefCell::new((lane, 0u64));
    let config = ProptestConfig { cases: 150, failure_persistence: None, ..Default::default() };
    TestRunner::new(config)
        .run(&tries(), |case| {
            let (lane, n) = &mut *shared.borrow_mut();
            runtime.block_on(check(&db, &tables, lane, n, case));
            Ok(())
        })
        .expect("the model agrees");
}
