//! The log that blue has to keep for our slot: a budget, and what happens when it is used up.
//!
//! A slot keeps all log since the oldest transaction that it may still have to decode. While the
//! rows are copied nothing is consumed, so the log grows with every write of blue's; slowing the
//! copy down would only make it worse. What is left is to tell early, and, if the operator wants
//! that, to give the slot up before blue's disk is full.

use std::time::Duration;

use cutover::Direction;
use cutover::api::Problem;
use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::{session, slot};
use jiff::Timestamp;
use tokio::time::{MissedTickBehavior, interval};

use super::{OnWalLimit, ProtectConfig};
use crate::config::Config;
use crate::pipeline::failure::{Failure, GREEN_INCOMPLETE, Resumes, of_connect};
use crate::pipeline::words;
use crate::status::{Shared, SlotReading};

/// How often the budget is looked at; the probe reads the slot as often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// With no limit anywhere, this much is worth a word.
const WARN_BYTES_MIN: u64 = 10 << 30;

/// What blue says about a slot's log (`pg_replication_slots.wal_status`, PostgreSQL 13).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WalStatus {
    /// Older servers, or no answer.
    #[default]
    Unknown,
    /// Within `max_wal_size`, or beyond it and kept all the same.
    Kept,
    /// Beyond `max_slot_wal_keep_size`: gone at the next checkpoint unless it is read before.
    Unreserved,
    /// Gone.
    Lost,
}

impl WalStatus {
    /// From the column's text.
    pub fn parse(text: Option<&str>) -> Self {
        match text {
            Some("reserved" | "extended") => Self::Kept,
            Some("unreserved") => Self::Unreserved,
            Some("lost") => Self::Lost,
            _ => Self::Unknown,
        }
    }
}

/// How much log blue may keep for us, bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    /// Somebody should know.
    pub warn: u64,
    /// No more; `None`: nobody has set a limit.
    pub limit: Option<u64>,
}

/// How much of the budget is used.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Level {
    /// Little, or not known.
    #[default]
    Fine,
    /// More than `warn`.
    High,
    /// All of it, or blue itself is about to give the slot up.
    Exhausted,
}

impl Budget {
    /// From the configuration and what blue reports.
    pub fn of(config: &ProtectConfig, slot: &SlotReading) -> Self {
        let keep = slot.retained_bytes_max;
        let limit = config.retained_wal_bytes.fixed().or(keep.map(|keep| keep / 10 * 9));
        let warn = config.retained_wal_warn_bytes.fixed().unwrap_or(match limit {
            Some(limit) => limit / 2,
            None => slot.max_wal_size_bytes.saturating_mul(4).max(WARN_BYTES_MIN),
        });
        Self { warn, limit }
    }

    /// How much of it is used.
    pub fn level(&self, slot: &SlotReading) -> Level {
        if slot.wal_status == WalStatus::Unreserved {
            return Level::Exhausted;
        }
        match slot.retained_bytes {
            Some(bytes) if self.limit.is_some_and(|limit| bytes >= limit) => Level::Exhausted,
            Some(bytes) if bytes >= self.warn => Level::High,
            _ => Level::Fine,
        }
    }
}

/// Watches the budget for as long as it is polled: says when it is used up, in log and status.
/// Returns when the slot has to be given up.
///
/// Not while a cutover is under way: it waits for the last of the stream, and blue writes no more. Nor while the
/// stream stands by: it reads everything then, the other side serves, and what it keeps is needed to go forth again.
///
/// `told` is what was said last, and outlives the future.
pub async fn watch(shared: &Shared, config: &ProtectConfig, told: &mut Level) {
    let mut tick = interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let slot = shared.slot();
        let budget = Budget::of(config, &slot);
        let level = budget.level(&slot);
        if level != *told {
            if *told == Level::Exhausted {
                shared.log_budget(None);
            }
            tell(shared, config, level, &budget, &slot);
            *told = level;
        }
        let is_cutting_over = shared.gate.watch().borrow().armed.is_some();
        let gives_up = may_give_up(shared, config) && !is_cutting_over;
        if level == Level::Exhausted && gives_up {
            return;
        }
    }
}

fn may_give_up(shared: &Shared, config: &ProtectConfig) -> bool {
    config.on_wal_limit == OnWalLimit::DropSlot && *shared.carries.borrow()
}

fn tell(
    shared: &Shared,
    config: &ProtectConfig,
    level: Level,
    budget: &Budget,
    slot: &SlotReading,
) {
    let pipeline = shared.pipeline.as_str();
    let words = |text: String| words(shared.direction, text);
    let (retained_bytes, warn_bytes, limit_bytes) =
        (slot.retained_bytes, budget.warn, budget.limit);
    let next = match may_give_up(shared, config) {
        false => "blue goes on keeping it as long as its own settings let it",
        true => "at the limit the slot is dropped",
    };
    let remedy = match shared.direction {
        Direction::Forward => {
            "see what holds the stream up (cutover status); watch blue's disk, raise \
             max_slot_wal_keep_size, or let protect.on_wal_limit = \"drop_slot\" give up"
        }
        // The way back is given up by a person alone.
        Direction::Back => {
            "see what holds the stream up (cutover status); watch blue's disk, raise \
             max_slot_wal_keep_size, or give the way back up (cutover finish)"
        }
    };
    match level {
        Level::Fine => {
            let what = words("blue keeps little log for us again".into());
            tracing::info!(pipeline, retained_bytes, "{what}");
        }
        Level::High => tracing::warn!(
            pipeline,
            retained_bytes,
            warn_bytes,
            limit_bytes,
            "{}",
            words(format!("blue keeps much log for us; {next}"))
        ),
        Level::Exhausted => {
            tracing::error!(
                pipeline,
                retained_bytes,
                limit_bytes,
                "{}",
                words(format!(
                    "blue keeps as much log for us as it may; slowing the copy would make it \
                     worse; {next}"
                ))
            );
            shared.log_budget(Some(Problem {
                what: words(format!(
                    "blue keeps {} MiB of its log for us, as much as it may; {next}",
                    retained_bytes.unwrap_or(0) >> 20
                )),
                place: words("blue".into()),
                at: Timestamp::now(),
                data_safe: true,
                next: Some(words(remedy.to_owned())),
            }));
        }
    }
}

/// Gives the slot up, so that blue can remove its log, and says what that means. Whoever of us still
/// reads from it is cut off.
pub async fn give_up(config: &Config, blue: &ConnInfo, slot_seen: SlotReading) -> Failure {
    let application = config.application_name();
    let name = config.slot();
    let session = match session::connect(blue, &application).await {
        Ok(session) => session,
        Err(error) => return of_connect("blue", &error),
    };
    if let Err(error) = slot::drop(&session, &name, Some(&application)).await {
        return error.into();
    }
    let budget = Budget::of(&config.protect, &slot_seen);
    let given_up = Failure::halt(
        "blue",
        format!(
            "blue had to keep {} MiB of its log for slot {name}, {}: the slot was dropped as \
             protect.on_wal_limit says. Blue is safe and removes the log at its next checkpoint; \
             green can't be completed any more, the copy must be made again",
            slot_seen.retained_bytes.unwrap_or(0) >> 20,
            match budget.limit {
                Some(limit) => format!("and may keep {} MiB", limit >> 20),
                None => "more than it may".to_owned(),
            }
        ),
        "make room (max_slot_wal_keep_size, disk, protect.retained_wal_bytes) or choose a quieter \
         time; then stop this sidecar (SIGTERM), replicator teardown --yes, empty green, and replicator run",
    );
    Failure { data: GREEN_INCOMPLETE, resumes: Resumes::OnRequest, ..given_up }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backfill::Setting;

    const GIB: u64 = 1 << 30;

    fn slot(retained: u64, keep: Option<u64>) -> SlotReading {
        SlotReading {
            retained_bytes: Some(retained),
            retained_bytes_max: keep,
            max_wal_size_bytes: GIB,
            wal_status: WalStatus::Kept,
            ..SlotReading::default()
        }
    }

    fn level(config: &ProtectConfig, slot: SlotReading) -> Level {
        Budget::of(config, &slot).level(&slot)
    }

    #[test]
    fn blues_own_limit_is_the_budget() {
        let config = ProtectConfig::default();
        let at = |gib| level(&config, slot(gib * GIB, Some(100 * GIB)));
        assert_eq!(
            [0, 44, 45, 89, 90].map(at),
            [Level::Fine, Level::Fine, Level::High, Level::High, Level::Exhausted]
        );
    }

    #[test]
    fn without_a_limit_there_is_only_a_word() {
        let config = ProtectConfig::default();
        assert_eq!(level(&config, slot(9 * GIB, None)), Level::Fine);
        assert_eq!(level(&config, slot(1_000 * GIB, None)), Level::High);
        let large = SlotReading { max_wal_size_bytes: 100 * GIB, ..slot(399 * GIB, None) };
        assert_eq!(level(&config, large), Level::Fine);
    }

    #[test]
    fn the_operators_limits_hold() {
        let config = ProtectConfig {
            retained_wal_warn_bytes: Setting::Fixed(10),
            retained_wal_bytes: Setting::Fixed(20),
            ..ProtectConfig::default()
        };
        let at = |bytes| level(&config, slot(bytes, Some(100 * GIB)));
        assert_eq!([9, 10, 20].map(at), [Level::Fine, Level::High, Level::Exhausted]);
    }

    #[test]
    fn what_is_not_known_is_no_reason_to_act() {
        let config = ProtectConfig { retained_wal_bytes: Setting::Fixed(1), ..Default::default() };
        assert_eq!(level(&config, SlotReading::default()), Level::Fine);
        let threatened = SlotReading { wal_status: WalStatus::Unreserved, ..slot(0, None) };
        assert_eq!(level(&config, threatened), Level::Exhausted);
    }
}
