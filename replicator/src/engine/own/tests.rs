use std::collections::VecDeque;

use bytes::Bytes;
use decoders::source::Disposition;
use decoders::{ChangeEvent, Lsn, Part, UNTOLD_ORIGIN};
use proptest::prelude::*;
use sinks::own::{Claim, Secret};

use super::*;
use crate::engine::frontier::Frontier;

const SECRET_OF: &str = "shop_back";

fn transaction(part: Part, origin: Option<&str>, mark: Option<&str>) -> Transaction {
    let mark = mark.map(|content| ChangeEvent::Message {
        prefix: own::MESSAGE_PREFIX.into(),
        content: Bytes::copy_from_slice(content.as_bytes()),
    });
    Transaction {
        part,
        xid: 7,
        commit_lsn: Lsn(100),
        end_lsn: part.ends().then_some(Lsn(108)),
        committed_at_us: 0,
        origin: origin.map(Into::into),
        changes: mark.into_iter().chain([row()]).collect(),
        bytes: 1,
    }
}

/// Anything that is no mark.
fn row() -> ChangeEvent {
    ChangeEvent::Message { prefix: "app".into(), content: Bytes::from_static(b"a change") }
}

fn known(secret: Secret) -> Known {
    Known {
        secret: Some(secret),
        since: Lsn(50),
        origin_since: None,
        has_written: true,
        as_of: Lsn(1000),
    }
}

fn told(known: Known) -> OwnApply {
    OwnApply::of(Counterpart {
        pipeline: SECRET_OF.into(),
        witness: Witness::Keys(Box::new(known), None),
    })
}

fn whole(origin: Option<&str>, mark: Option<&str>) -> Transaction {
    transaction(Part::Whole, origin, mark)
}

fn claiming(secret: &Secret, number: u64) -> Transaction {
    let claim = Claim::make(secret, SECRET_OF, 0, number);
    whole(None, Some(&format!("\0{} {SECRET_OF}", claim.words())))
}

fn told_by_claims(secret: Option<Secret>, has_written: bool) -> OwnApply {
    let known = binlog::Known { secret, unproven_until: None, has_written };
    let source = Box::new(ServerUrl::parse("mysql://127.0.0.1:1").unwrap());
    OwnApply::of(Counterpart {
        pipeline: SECRET_OF.into(),
        witness: Witness::Claims(Box::new(known), source),
    })
}

#[test]
fn a_claim_is_believed_once_and_with_its_proof() {
    let secret = Secret::random();
    let mut own = told_by_claims(Some(secret), true);
    assert!(own.is_ours(&claiming(&secret, 5)).unwrap());
    assert!(!own.is_ours(&claiming(&secret, 5)).unwrap(), "it was copied");
    assert!(!own.is_ours(&claiming(&secret, 4)).unwrap(), "it was copied");
    assert!(own.is_ours(&claiming(&secret, 7)).unwrap(), "one was rolled back");
    assert!(!own.is_ours(&claiming(&Secret::random(), 8)).unwrap());
    assert!(!own.is_ours(&whole(None, Some(SECRET_OF))).unwrap(), "a name alone");
    assert!(!own.is_ours(&whole(None, None)).unwrap());
    assert!(own.is_ours(&claiming(&secret, 8)).unwrap());
}

#[test]
fn a_claim_where_no_lane_has_written_halts() {
    let secret = Secret::random();
    for mut own in [told_by_claims(None, false), told_by_claims(Some(secret), false)] {
        let error = own.is_ours(&claiming(&secret, 1)).unwrap_err();
        assert_eq!(error.disposition, Disposition::Halt, "{error}");
    }
}

#[test]
fn an_origin_of_ours_is_believed_where_we_have_written() {
    let mut own = told(known(Secret::random()));
    assert!(own.is_ours(&whole(Some("cutover_shop_back"), None)).unwrap());
    assert!(own.is_ours(&whole(Some("cutover_shop_back_3"), None)).unwrap());
    assert!(!own.is_ours(&whole(Some("cutover_shop"), Some("shop"))).unwrap());
    assert!(!own.is_ours(&whole(Some("pg_16400"), None)).unwrap());
    let mut never = told(Known::never(Lsn(1000)));
    let error = never.is_ours(&whole(Some("cutover_shop_back"), None)).unwrap_err();
    assert_eq!(error.disposition, Disposition::Halt, "{error}");
}

/// Everybody may write a message.
#[test]
fn a_name_without_the_secret_is_data() {
    let secret = Secret::random();
    let other = own::content(&Secret::random(), SECRET_OF);
    for mut own in [told(known(secret)), told(Known::never(Lsn(1000)))] {
        for mark in [SECRET_OF, &other, "shop", &other[..32]] {
            assert!(!own.is_ours(&whole(None, Some(mark))).unwrap(), "{mark}");
            assert!(!own.is_ours(&whole(Some("pg_1"), Some(mark))).unwrap(), "{mark}");
            assert!(!own.is_ours(&whole(Some(UNTOLD_ORIGIN), Some(mark))).unwrap(), "{mark}");
        }
    }
}

#[test]
fn the_secret_is_believed_unless_there_has_to_be_an_origin() {
    let secret = Secret::random();
    let mark = own::content(&secret, SECRET_OF);
    assert!(told(known(secret)).is_ours(&whole(None, Some(&mark))).unwrap());
    let with_origins = |since| Known { origin_since: Some(Lsn(since)), ..known(secret) };
    // Those before it had none.
    assert!(told(with_origins(101)).is_ours(&whole(None, Some(&mark))).unwrap());
    let error = told(with_origins(100)).is_ours(&whole(None, Some(&mark))).unwrap_err();
    assert_eq!(error.disposition, Disposition::Halt, "{error}");
    assert!(!error.to_string().contains(&mark[..32]), "{error}");
    // The server does not say it.
    let received_while_running = whole(Some(UNTOLD_ORIGIN), Some(&mark));
    assert!(told(with_origins(100)).is_ours(&received_while_running).unwrap());
}

#[test]
fn a_name_alone_is_believed_only_of_the_time_before_secrets() {
    let before = Known { since: Lsn(101), ..known(Secret::random()) };
    assert!(told(before.clone()).is_ours(&whole(None, Some(SECRET_OF))).unwrap());
    let behind = Known { since: Lsn(100), ..before.clone() };
    assert!(!told(behind).is_ours(&whole(None, Some(SECRET_OF))).unwrap());
    let never = Known { has_written: false, ..before };
    assert!(!told(never).is_ours(&whole(None, Some(SECRET_OF))).unwrap());
}

/// It flushes the log, and leaving it out loses nothing.
#[test]
fn a_mark_that_stands_alone_is_left_out() {
    let mut alone = whole(None, Some(SECRET_OF));
    alone.changes.truncate(1);
    assert!(told(Known::never(Lsn(1000))).is_ours(&alone).unwrap());
    alone.part = Part::First;
    assert!(!told(Known::never(Lsn(1000))).is_ours(&alone).unwrap());
}

#[test]
fn all_parts_share_the_answer_of_the_first() {
    let secret = Secret::random();
    let mark = own::content(&secret, SECRET_OF);
    let mut own = told(known(secret));
    assert!(own.is_ours(&transaction(Part::First, None, Some(&mark))).unwrap());
    assert!(own.is_ours(&transaction(Part::Middle, None, None)).unwrap());
    assert!(own.is_ours(&transaction(Part::Last, None, None)).unwrap());
    assert!(!own.is_ours(&transaction(Part::First, None, None)).unwrap());
    assert!(!own.is_ours(&transaction(Part::Last, None, Some(&mark))).unwrap());
}

/// One side's log and what its stream has made of it.
#[derive(Default)]
struct Log {
    head: u64,
    /// End of a transaction, and whether its writer is our own lane.
    unread: VecDeque<(u64, bool)>,
    frontier: Frontier,
    held: VecDeque<u64>,
    writes: usize,
}

impl Log {
    fn write(&mut self, is_ours: bool) {
        self.head += 8;
        self.unread.push_back((self.head, is_ours));
        self.writes += 1;
    }

    /// Reads one transaction. Ours is idle time; what stands by holds the others.
    fn read(&mut self) {
        match self.unread.pop_front() {
            Some((end, true)) => self.frontier.idle(Lsn(end)),
            Some((end, false)) => {
                self.frontier.transaction_received(Lsn(end));
                self.held.push_back(end);
            }
            None => {}
        }
    }

    /// Applies one transaction to the other side.
    fn apply(&mut self, other: &mut Log) {
        if let Some(end) = self.held.pop_front() {
            self.frontier.transactions_applied(Lsn(end), 1);
            other.write(true);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(bool),
    Read(bool),
    Apply(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        any::<bool>().prop_map(Step::Write),
        any::<bool>().prop_map(Step::Read),
        any::<bool>().prop_map(Step::Apply),
    ]
}

proptest! {
    /// Both streams hot, in any order of events: nothing that is held is ever passed, and when
    /// the clients stop, both come to rest having written once for each client's transaction.
    #[test]
    fn two_streams_between_two_sides_come_to_rest(
        steps in proptest::collection::vec(step(), 1..100),
    ) {
        let (mut blue, mut green) = (Log::default(), Log::default());
        let mut clients = 0;
        for step in steps {
            match step {
                Step::Write(true) => blue.write(false),
                Step::Write(false) => green.write(false),
                Step::Read(true) => blue.read(),
                Step::Read(false) => green.read(),
                Step::Apply(true) => blue.apply(&mut green),
                Step::Apply(false) => green.apply(&mut blue),
            }
            clients += usize::from(matches!(step, Step::Write(_)));
            for log in [&blue, &green] {
                if let Some(oldest) = log.held.front() {
                    prop_assert!(log.frontier.applied().0 < *oldest);
                }
            }
        }
        for _ in 0..2 * clients + 2 {
            blue.read();
            green.read();
            blue.apply(&mut green);
            green.apply(&mut blue);
        }
        prop_assert_eq!(blue.writes + green.writes, 2 * clients);
        for log in [&blue, &green] {
            prop_assert!(log.unread.is_empty() && log.held.is_empty());
            prop_assert_eq!(log.frontier.applied(), Lsn(log.head));
        }
    }
}
