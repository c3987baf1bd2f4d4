//! A client's prepared statements. It knows each by a number of ours, because a session that was
//! moved has other numbers on its server.

use std::collections::BTreeMap;

/// The number of a statement that no server has: it says so.
const NOBODY: u32 = u32::MAX - 1;
/// MariaDB: the one that was prepared last.
const LAST: u32 = u32::MAX;
/// Most text of all statements of a session that is kept.
const KEPT_MAX: usize = 16 << 20;

/// A prepared statement.
#[derive(Debug, Clone, Default)]
pub(super) struct Statement {
    /// Its number on the server.
    pub server: u32,
    /// Number of its parameters.
    pub parameters: u16,
    /// `None`: too large to be kept.
    pub text: Option<Vec<u8>>,
    /// What names and literals meant when it was prepared; see [`super::talk`].
    pub meaning: u64,
    /// Types of its parameters as they were last bound, two bytes each.
    pub types: Option<Vec<u8>>,
    /// The server has not been told these.
    pub types_untold: bool,
    /// It has a cursor on the server.
    pub cursor: bool,
    /// The server keeps data for its next execution.
    pub long_data: bool,
    /// Asks for something about the statement before it; is about the next transaction; may lock.
    pub said: super::words::Said,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Statements {
    by_number: BTreeMap<u32, Statement>,
    next: u32,
    last: Option<u32>,
    kept: usize,
}

impl Statements {
    /// A new one; its number for the client.
    pub fn insert(&mut self, mut statement: Statement) -> u32 {
        loop {
            self.next = self.next.wrapping_add(1) % NOBODY;
            if self.next != 0 && !self.by_number.contains_key(&self.next) {
                break;
            }
        }
        let bytes = statement.text.as_ref().map_or(0, Vec::len);
        if self.kept + bytes > KEPT_MAX {
            statement.text = None;
        } else {
            self.kept += bytes;
        }
        self.by_number.insert(self.next, statement);
        self.last = Some(self.next);
        self.next
    }

    /// The server has refused one.
    pub fn refused(&mut self) {
        self.last = None;
    }

    fn number(&self, client: u32) -> Option<u32> {
        if client == LAST { self.last } else { Some(client) }
    }

    /// The client's.
    pub fn get_mut(&mut self, client: u32) -> Option<&mut Statement> {
        let number = self.number(client)?;
        self.by_number.get_mut(&number)
    }

    /// The server's number.
    pub fn server_number(&self, client: u32) -> u32 {
        let statement = self.number(client).and_then(|number| self.by_number.get(&number));
        statement.map_or(NOBODY, |statement| statement.server)
    }

    /// It is closed.
    pub fn remove(&mut self, client: u32) {
        let Some(number) = self.number(client) else { return };
        if let Some(gone) = self.by_number.remove(&number) {
            self.kept -= gone.text.map_or(0, |text| text.len());
        }
    }

    /// The session has begun anew.
    pub fn clear(&mut self) {
        let next = self.next;
        *self = Self { next, ..Self::default() };
    }

    pub fn iter(&self) -> impl Iterator<Item = &Statement> {
        self.by_number.values()
    }

    /// Another server has them by these numbers, in the order of [`Statements::iter`].
    pub fn moved(&mut self, numbers: &[u32]) {
        for (statement, number) in self.by_number.values_mut().zip(numbers) {
            statement.server = *number;
            statement.types_untold = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_keeps_its_numbers() {
        let mut all = Statements::default();
        let with = |server| Statement { server, ..Statement::default() };
        let (one, two) = (all.insert(with(70)), all.insert(with(80)));
        assert_ne!(one, two);
        assert_eq!((all.server_number(one), all.server_number(LAST)), (70, 80));
        all.moved(&[5, 6]);
        assert_eq!((all.server_number(one), all.server_number(two)), (5, 6));
        all.remove(one);
        assert_eq!(all.server_number(one), NOBODY);
        all.refused();
        assert_eq!(all.server_number(LAST), NOBODY);
        let three = all.insert(with(1));
        assert!(three != one && three != two);
    }

    #[test]
    fn what_is_too_large_is_not_kept() {
        let mut all = Statements::default();
        let with = |bytes| Statement { text: Some(vec![b'x'; bytes]), ..Statement::default() };
        let first = all.insert(with(KEPT_MAX));
        assert_eq!(all.insert(with(1)), 2);
        assert!(all.get_mut(2).unwrap().text.is_none());
        all.remove(first);
        let third = all.insert(with(1));
        assert!(all.get_mut(third).unwrap().text.is_some());
    }
}
