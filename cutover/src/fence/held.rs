//! Whose a closed side is, whatever it is closed by.

use crate::ports::{Nature, PortError};

/// Whose a side is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Held {
    /// Nobody's.
    Nobody,
    /// Our own run's.
    Us,
    /// Somebody else's: who.
    Other(String),
}

/// The error of who has no right to a side any more.
pub(super) fn superseded(place: &str, held: &Held) -> PortError {
    let what = match held {
        Held::Other(who) => {
            format!("{place} is closed by somebody else, and stays so: {who}")
        }
        Held::Nobody | Held::Us => {
            format!("{place} is not as this run has left it: somebody else has opened it since")
        }
    };
    PortError::new(place, what)
        .remedy(
            "stop this sidecar, and ask the one that acts now who serves (cutover status, on its \
             host)",
        )
        .of(Nature::Superseded)
}
