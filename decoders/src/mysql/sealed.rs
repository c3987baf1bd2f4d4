//! Bytes that may hold values of rows and must not get into a log.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;

/// Bytes whose `Debug` shows only how many they are.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Sealed(pub Bytes);

impl Deref for Sealed {
    type Target = Bytes;

    fn deref(&self) -> &Bytes {
        &self.0
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}
