//! The statements of the fence, for a plan. They come from the functions that run them.

use super::facts::Facts;
use super::{MysqlUndo, accounts, frozen, sessions, settings};
use crate::api::Act;
use crate::marker::{MarkerKind, Token};
use crate::ports::{Epoch, FenceActs};
use crate::sql::mysql::UNLOGGED;

/// What keeps clients out.
pub(super) fn mechanism(place: &str, undo: &MysqlUndo) -> String {
    match undo.is_mariadb {
        true => format!("every account that may write is locked on {place}, and it is read-only"),
        false => format!("{place} is in offline mode, and read-only"),
    }
}

/// Everything.
pub(super) fn describe(place: &str, undo: &MysqlUndo) -> FenceActs {
    let acts = |step: &'static str, statements: Vec<String>| {
        let act = move |text| Act { step: step.into(), place: place.into(), text };
        statements.into_iter().map(act).collect::<Vec<_>>()
    };
    let facts = Facts {
        is_mariadb: undo.is_mariadb,
        account: String::new(),
        login: String::new(),
        lost_threads: false,
    };
    let scan = format!("{}; KILL each that is not of our account", sessions::list_sql(&facts));
    let [stop, go_on] = match undo.is_mariadb {
        true => frozen::BARRIER_MARIADB,
        false => frozen::BARRIER_MYSQL,
    };
    let barrier = format!("{}; read the position; {}", stop.join("; "), go_on.join("; "));
    let mut raise = vec![
        UNLOGGED.to_owned(),
        "INSERT INTO _cutover.fence VALUES (1, 'RUN.EPOCH', ...)".to_owned(),
    ];
    raise.extend(settings::door_sql(undo));
    raise.extend(accounts::lock_sql(undo));
    raise.push(scan.clone());
    raise.extend(settings::read_only_sql(undo));
    raise.push(barrier.clone());
    let token = Token::draining("RUN", Epoch(0));
    let mark = MarkerKind::Row.statement(&token).replace(&token.to_string(), "RUN.EPOCH.drain");
    let back = settings::by_hand(undo, &settings::fenced(undo));
    FenceActs {
        raise: acts("fence", raise),
        mark: acts("drain", vec![mark]),
        seal: acts("seal", vec![scan, barrier]),
        lower: acts("abort", back),
    }
}
