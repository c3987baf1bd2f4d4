//! What the two streams between blue and green are for, at any time: one carries, the other stands
//! by.

use cutover::Direction;
use cutover::marker::Token;
use cutover::ports::Epoch;
use decoders::Lsn;
use rocksdb::{WriteBatch, WriteOptions};
use serde::{Deserialize, Serialize};

use super::stage::FAMILY;
use super::{Store, StoreError};

const KEYS: [&str; 2] = ["role-forward", "role-back"];

/// Whether what fires for replicated changes was off on the target once, since the stream carries.
const QUIET_KEYS: [&str; 2] = ["quiet-forward", "quiet-back"];

/// What a stream is for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "snake_case")]
pub enum Role {
    /// What its source writes goes to its target.
    Carry,
    /// It reads, and holds whatever its source commits at or behind `since`.
    Standby {
        /// The marker that stands there, or a name for where the stream began.
        token: Token,
        /// The end of the marker's transaction on the source.
        since: Lsn,
    },
}

impl Store {
    /// The role of this direction's stream. Before the first cutover blue serves.
    pub fn role(&self) -> Result<Role, StoreError> {
        let role = self.get(FAMILY, self.key(KEYS))?;
        Ok(role.unwrap_or_else(|| match self.direction {
            Direction::Forward => Role::Carry,
            Direction::Back => {
                Role::Standby { token: Token::draining("never", Epoch(0)), since: Lsn::INVALID }
            }
        }))
    }

    /// From now on the stream of this direction carries, and the other one stands by behind
    /// `token`, which is at `since` on its source. Both or neither; durable when this returns.
    pub fn turn(&self, token: &Token, since: Lsn) -> Result<(), StoreError> {
        let other = self.towards(self.direction.reversed());
        let standby = Role::Standby { token: token.clone(), since };
        let mut both = WriteBatch::default();
        let family = self.family(FAMILY);
        both.put_cf(family, self.key(KEYS), self.encode(FAMILY, &Role::Carry)?);
        both.put_cf(family, other.key(KEYS), self.encode(FAMILY, &standby)?);
        both.delete_cf(family, other.key(QUIET_KEYS));
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        self.db.write_opt(both, &synced).map_err(|error| self.io("written", error))
    }

    /// From now on the stream of this direction, which stands by anyway, does so behind `token`, which
    /// is at `since`; durable when this returns.
    pub fn stand_by(&self, token: &Token, since: Lsn) -> Result<(), StoreError> {
        let standby = Role::Standby { token: token.clone(), since };
        self.put(FAMILY, self.key(KEYS), &standby)
    }

    /// Whether [`Store::save_quiet`] was said since the stream of this direction carries.
    pub fn was_quiet(&self) -> Result<bool, StoreError> {
        Ok(self.get(FAMILY, self.key(QUIET_KEYS))?.unwrap_or(false))
    }

    /// Nothing on the target fires for what this direction's stream will apply; durable when this returns.
    pub fn save_quiet(&self) -> Result<(), StoreError> {
        self.put(FAMILY, self.key(QUIET_KEYS), &true)
    }

    /// The stream of this direction begins anew.
    pub fn forget_quiet(&self) -> Result<(), StoreError> {
        self.delete(FAMILY, self.key(QUIET_KEYS))
    }

    pub(super) fn forget_role(&self) -> Result<(), StoreError> {
        self.forget_quiet()?;
        self.delete(FAMILY, self.key(KEYS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_streams_turn_together_and_back() {
        let directory = tempfile::tempdir().unwrap();
        let token = Token::draining("abc", Epoch(7));
        let standby = |since| Role::Standby { token: token.clone(), since };
        {
            let forward = Store::open(directory.path()).unwrap();
            let back = forward.towards(Direction::Back);
            assert_eq!(forward.role().unwrap(), Role::Carry);
            assert!(matches!(back.role().unwrap(), Role::Standby { since: Lsn::INVALID, .. }));
            back.turn(&token, Lsn(100)).unwrap();
        }
        let forward = Store::open(directory.path()).unwrap();
        let back = forward.towards(Direction::Back);
        assert_eq!(forward.role().unwrap(), standby(Lsn(100)));
        assert_eq!(back.role().unwrap(), Role::Carry);
        forward.turn(&token, Lsn(200)).unwrap();
        assert_eq!(forward.role().unwrap(), Role::Carry);
        assert_eq!(back.role().unwrap(), standby(Lsn(200)));
    }
}
