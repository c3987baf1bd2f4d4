//! Where sessions are: a client keeps the number that it was given at its login, whichever server
//! its session is on now.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::proxy::lock;
use crate::side::Side;

/// Numbers of ours, where a server's is taken by a client whose session was moved.
const OURS: u32 = 1 << 31;

/// A session's side, and its number there.
type Place = (Side, u32);

/// All sessions by their clients' numbers.
#[derive(Debug, Clone, Default)]
pub(super) struct Places(Arc<Mutex<BTreeMap<u32, Place>>>);

/// Whom a client means that says a session's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whom {
    /// Nobody who came through us, or nobody who was moved: the server knows.
    AsSaid,
    /// A client's session, which has this number on the server.
    Number(u32),
    /// One on the other side, or one of two.
    Unknown,
}

/// An entry that goes with its session.
#[derive(Debug)]
pub(super) struct Entry {
    all: Places,
    shown: u32,
}

impl Places {
    /// A new session.
    pub fn enter(&self, side: Side, id: u32) -> Entry {
        let mut places = lock(&self.0);
        let mut shown = id;
        while places.contains_key(&shown) {
            shown = OURS | shown.wrapping_add(1);
        }
        places.insert(shown, (side, id));
        Entry { all: self.clone(), shown }
    }

    /// Numbers of the sessions on `side`.
    pub fn servers(&self, side: Side) -> Vec<u32> {
        let places = lock(&self.0);
        places.values().filter(|(at, _)| *at == side).map(|(_, id)| *id).collect()
    }

    /// Whom a client on `side` means by a number: a client's own, from its greeting, or a server's, which
    /// statements show (`CONNECTION_ID()`). Once sessions were moved the two are not the same.
    pub fn whom(&self, side: Side, number: u32) -> Whom {
        let places = lock(&self.0);
        let Some((at, id)) = places.get(&number) else { return Whom::AsSaid };
        let is_another =
            |(shown, place): (&u32, &Place)| *shown != number && *place == (side, number);
        match *at == side && !places.iter().any(is_another) {
            true => Whom::Number(*id),
            false => Whom::Unknown,
        }
    }
}

impl Entry {
    /// What the client is told.
    pub fn shown(&self) -> u32 {
        self.shown
    }

    /// Its session is on another server now.
    pub fn moved(&self, side: Side, id: u32) {
        lock(&self.all.0).insert(self.shown, (side, id));
    }

    /// Its number on the server.
    pub fn id(&self) -> u32 {
        lock(&self.all.0).get(&self.shown).map_or(self.shown, |(_, id)| *id)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        lock(&self.all.0).remove(&self.shown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_one_client_s() {
        let places = Places::default();
        let first = places.enter(Side::Blue, 7);
        first.moved(Side::Green, 40);
        assert_eq!(places.whom(Side::Green, 7), Whom::Number(40));
        assert_eq!(places.whom(Side::Green, 40), Whom::AsSaid);
        assert_eq!(places.whom(Side::Blue, 7), Whom::Unknown, "its session is on the other side");
        let second = places.enter(Side::Green, 7);
        assert_ne!(second.shown(), 7);
        assert_eq!(places.whom(Side::Green, 7), Whom::Unknown, "one client's, or the other's");
        assert_eq!(places.whom(Side::Green, second.shown()), Whom::Number(7));
        assert_eq!((first.id(), second.id()), (40, 7));
        assert_eq!(places.servers(Side::Green), [40, 7]);
        drop(first);
        assert_eq!(places.enter(Side::Blue, 7).shown(), 7);
    }
}
