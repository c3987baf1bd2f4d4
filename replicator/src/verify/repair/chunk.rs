//! Some rows of a table, repaired: the order that [`super`] argues about.

use std::time::Duration;

use cutover::verify::suspect::{Look, Ruling, Seen, Suspect};
use cutover::verify::{KeyPart, repair::LeftRow, repair::RepairedTable};
use decoders::change::{ChangeEvent, Lsn};
use decoders::source::Disposition;
use tokio::sync::watch;
use tokio::time::Instant;

use super::super::plan::TablePlan;
use super::super::reader::Trouble;
use super::super::settle::{Suspects, look_before, look_on, settle};
use super::super::work::{Pair, Shop};
use super::rows::{Act, Fitted, values};
use super::{Pen, Standing, decided, trouble};

/// The longest that the stream is kept from a table.
pub(super) const HELD_MAX: Duration = Duration::from_secs(5);
/// Between two looks, at first and at most.
const PAUSE: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(500)];
/// Rows that were left, in a table's report.
const NAMED: usize = 100;
/// Rows with one content that are written together.
const COPIES_MAX: i64 = 1000;

/// Where it is done.
pub(super) struct Site<'a> {
    pub shop: &'a Shop,
    pub pair: &'a Pair,
    pub plan: &'a TablePlan,
    pub fitted: &'a Fitted,
    pub standing: &'a Standing,
    /// How long a row may take to be caught at rest.
    pub settle: Duration,
    /// Nobody wants it to go on.
    pub stop: watch::Receiver<bool>,
}

/// How changed rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// With the columns that differ.
    Updated,
    /// Taken out and put in again.
    Anew,
}

/// Rows that are dealt with together, and what is known of them.
struct Group {
    suspects: Suspects,
    states: Vec<Suspect>,
    manner: Manner,
}

impl Group {
    fn new(suspects: Suspects, manner: Manner) -> Self {
        let states = vec![Suspect::default(); suspects.len()];
        Self { suspects, states, manner }
    }
}

/// How a look under the lock has ended.
enum Held {
    /// These are settled; the others are open.
    Settled(Vec<usize>),
    /// The target has refused what was to be written, and nothing was.
    Refused(String),
}

/// Repairs these rows and looks at them again.
///
/// # Errors
/// A server's, and the reason why nothing may be written now. What was done until then is in `tally`.
pub(super) async fn repair(
    site: &Site<'_>,
    pen: &mut Pen<'_>,
    suspects: Suspects,
    tally: &mut RepairedTable,
) -> Result<(), Trouble> {
    let all: Vec<usize> = (0..suspects.len()).collect();
    let mut groups = vec![Group::new(suspects.only(&all), Manner::Updated)];
    while let Some(mut group) = groups.pop() {
        let Some((open, why)) = attempt(site, pen, &mut group, tally).await? else { continue };
        match (group.manner, open.as_slice()) {
            (Manner::Updated, open) => {
                groups.push(Group::new(group.suspects.only(open), Manner::Anew));
            }
            (Manner::Anew, [at]) => left(site.plan, &group.suspects, *at, &why, tally),
            // One of them is at fault, and the others are not to suffer for it.
            (Manner::Anew, several) => {
                let (some, others) = several.split_at(several.len() / 2);
                groups.push(Group::new(group.suspects.only(others), Manner::Updated));
                groups.push(Group::new(group.suspects.only(some), Manner::Updated));
            }
        }
    }
    if *site.stop.borrow() {
        return Ok(());
    }
    let rows = suspects.len() as u64;
    let settled = settle(site.shop, site.pair, site.plan, &suspects, usize::MAX).await?;
    let unequal = settled.differences.len() as u64 + settled.in_motion + settled.unsettled;
    tally.verified += rows.saturating_sub(unequal);
    Ok(())
}

fn left(plan: &TablePlan, suspects: &Suspects, at: usize, why: &str, tally: &mut RepairedTable) {
    tally.refused += 1;
    if tally.left.len() < NAMED {
        let key = match suspects {
            Suspects::Keys(keys) => keys[at].as_slice(),
            Suspects::Contents(_) => &[],
        };
        let part = |(column, value): (&super::super::plan::KeyColumn, &String)| KeyPart {
            column: column.name.clone(),
            value: value.clone(),
        };
        let key = plan.key.iter().zip(key).map(part).collect();
        tally.left.push(LeftRow { key, why: why.to_owned() });
    }
}

/// Looks at a group until each row is settled or time is up. What the target refuses comes back by
/// its numbers, with the reason.
async fn attempt(
    site: &Site<'_>,
    pen: &mut Pen<'_>,
    group: &mut Group,
    tally: &mut RepairedTable,
) -> Result<Option<(Vec<usize>, String)>, Trouble> {
    let until = Instant::now() + site.settle;
    let mut open: Vec<usize> = (0..group.suspects.len()).collect();
    let mut pause = PAUSE[0];
    let mut is_first = true;
    loop {
        may_write(site)?;
        let suspects = group.suspects.only(&open);
        let before = look_before(site.shop, site.pair, site.plan, &suspects).await?;
        if is_first {
            // Nothing can be ruled to differ by one look: no reason to keep anybody waiting.
            let looks = look_on(site.shop, site.pair, site.plan, &suspects, before.0).await?;
            let observed = open.iter().zip(&looks);
            let equal: Vec<usize> = observed
                .filter(|(at, look)| group.states[**at].observe(look) == Ruling::Equal)
                .map(|(at, _)| *at)
                .collect();
            tally.equal_before += equal.len() as u64;
            open.retain(|at| !equal.contains(at));
            is_first = false;
        } else {
            let (before, position) = before;
            let begun = Begun { open: open.clone(), suspects, before, position };
            match hold(site, pen, group, begun, tally).await? {
                Held::Settled(settled) => open.retain(|at| !settled.contains(at)),
                Held::Refused(why) => return Ok(Some((open, why))),
            }
        }
        if open.is_empty() {
            return Ok(None);
        }
        if Instant::now() >= until || *site.stop.borrow() {
            tally.in_motion += open.len() as u64;
            return Ok(None);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE[1]);
    }
}

/// The first half of a look.
struct Begun {
    open: Vec<usize>,
    suspects: Suspects,
    before: Vec<Seen>,
    position: Lsn,
}

/// A look with the target's table locked, and what follows from it.
async fn hold(
    site: &Site<'_>,
    pen: &mut Pen<'_>,
    group: &mut Group,
    begun: Begun,
    tally: &mut RepairedTable,
) -> Result<Held, Trouble> {
    let later = Ok(Held::Settled(Vec::new()));
    let repairer = pen.get().await?;
    if let Err(error) = repairer.begin(&site.plan.name).await {
        return match error.disposition {
            // Somebody has the table for longer.
            Disposition::Retry => later,
            Disposition::Halt => Err(trouble(site.shop.target.1, &error)),
        };
    }
    match tokio::time::timeout(HELD_MAX, under_lock(site, pen, group, begun, tally)).await {
        Ok(Ok(held)) => Ok(held),
        Ok(Err(trouble)) => {
            pen.lose();
            Err(trouble)
        }
        Err(_) => {
            pen.lose();
            later
        }
    }
}

async fn under_lock(
    site: &Site<'_>,
    pen: &mut Pen<'_>,
    group: &mut Group,
    begun: Begun,
    tally: &mut RepairedTable,
) -> Result<Held, Trouble> {
    let Begun { open, suspects, before, position } = begun;
    let looks = look_on(site.shop, site.pair, site.plan, &suspects, before).await?;
    let mut settled = Vec::new();
    let mut differing: Vec<(usize, &Look)> = Vec::new();
    for (at, look) in open.iter().zip(&looks) {
        match group.states[*at].observe(look) {
            Ruling::Equal => settled.push(*at),
            Ruling::Different if group.states[*at].is_at_rest(look) => differing.push((*at, look)),
            Ruling::Different | Ruling::Open => {}
        }
    }
    let mut done = RepairedTable { equal_before: settled.len() as u64, ..RepairedTable::default() };
    let mut changes: Vec<(Act, ChangeEvent)> = Vec::new();
    let numbers: Vec<usize> = differing.iter().map(|(at, _)| *at).collect();
    let part = group.suspects.only(&numbers);
    let source = values(&site.pair.source, site.plan, site.fitted, &part).await?;
    // Only of rows without a key: which one of several equal rows is of no matter.
    let target = match &part {
        Suspects::Keys(_) => vec![None; numbers.len()],
        Suspects::Contents(_) => values(&site.pair.target, site.plan, site.fitted, &part).await?,
    };
    for (((at, look), source), target) in differing.into_iter().zip(source).zip(target) {
        let Suspects::Keys(keys) = &group.suspects else {
            let more = count(&look.after) - count(&look.target);
            let copies = if more > 0 { source } else { target };
            match copies.filter(|_| more.abs() <= COPIES_MAX) {
                Some(copy) => {
                    changes.extend(site.fitted.copies(&copy.values, more));
                    done.inserted += more.max(0).unsigned_abs();
                    done.deleted += more.min(0).unsigned_abs();
                }
                // Gone since: the next look sees it.
                None if more.abs() <= COPIES_MAX => continue,
                None => left(site.plan, &group.suspects, at, "too many of the same", &mut done),
            }
            settled.push(at);
            continue;
        };
        let key = &keys[at];
        let is_one = look.after.rows.len() <= 1;
        let version = source.as_ref().map_or("", |found| found.version.as_str());
        if is_one && version != look.after.version {
            // Written again since: the next look sees it.
            continue;
        }
        settled.push(at);
        let values = source.as_ref().map(|found| found.values.as_slice());
        let Some((act, change)) = site.fitted.change(site.plan, key, look, values) else {
            let why = "the key is not unique on one of the sides";
            left(site.plan, &group.suspects, at, why, &mut done);
            continue;
        };
        match act {
            Act::Delete => done.deleted += 1,
            Act::Update => done.updated += 1,
            Act::Insert => done.inserted += 1,
        }
        match (act, group.manner, values) {
            (Act::Update, Manner::Anew, Some(values)) => {
                changes.extend(site.fitted.anew(site.plan, key, values));
            }
            _ => changes.push((act, change)),
        }
    }
    changes.sort_by_key(|(act, _)| *act);
    let changes: Vec<ChangeEvent> = changes.into_iter().map(|(_, change)| change).collect();
    if let Some(ended) = write(site, pen, &changes, position).await? {
        return Ok(ended);
    }
    tally.deleted += done.deleted;
    tally.updated += done.updated;
    tally.inserted += done.inserted;
    tally.equal_before += done.equal_before;
    tally.refused += done.refused;
    let room = NAMED.saturating_sub(tally.left.len());
    tally.left.extend(done.left.into_iter().take(room));
    Ok(Held::Settled(settled))
}

/// Writes and commits, or ends the transaction if there is nothing to write. `None`: it is done.
async fn write(
    site: &Site<'_>,
    pen: &mut Pen<'_>,
    changes: &[ChangeEvent],
    position: Lsn,
) -> Result<Option<Held>, Trouble> {
    let side = site.shop.target.1;
    let at_begin = pen.decided;
    // The one that has the lock, and no other.
    let Some(repairer) = pen.repairer.as_mut() else {
        return Err(Trouble::unexpected(side, "no session"));
    };
    if changes.is_empty() {
        repairer.roll_back().await;
        return Ok(None);
    }
    may_write(site)?;
    let now = decided(repairer).await.map_err(|error| trouble(side, &error))?;
    if Some(now) != at_begin {
        return Err(Trouble::new(side, "a run has decided which side serves"));
    }
    let written = match repairer.write(changes, position).await {
        Ok(()) => repairer.commit().await,
        Err(error) => Err(error),
    };
    match written {
        Ok(()) => Ok(None),
        Err(error) if repairer.is_lost() => Err(trouble(side, &error)),
        // A lane was in the way.
        Err(error) if error.disposition == Disposition::Retry => {
            Ok(Some(Held::Settled(Vec::new())))
        }
        Err(error) => Ok(Some(Held::Refused(error.message))),
    }
}

fn may_write(site: &Site<'_>) -> Result<(), Trouble> {
    let carries = *site.shop.stream.shared.carries.borrow();
    let why = match carries {
        true => (site.standing)(),
        false => Some("the stream has changed its direction".into()),
    };
    why.map_or(Ok(()), |why| Err(Trouble::new("repair", why)))
}

/// Rows with one content, as a look tells their number.
pub(super) fn count(seen: &Seen) -> i64 {
    let told = seen.rows.first().and_then(|row| row.first()?.as_deref()?.parse().ok());
    told.unwrap_or_default()
}
