//! Proofs. Each is made in one place only, from what was observed, and refuses to be made from
//! anything less; their fields are private, so there is no other way to have one.

use decoders::Lsn;
use serde::{Deserialize, Serialize};

use crate::marker::Token;
use crate::phase::Verdict;
use crate::ports::{Epoch, FenceReport, MarkerDecoded, MarkerDurable, MarkerWritten, SealReport};
use crate::side::Side;

/// Why the observations prove nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unproven(pub String);

fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Unproven> {
    if holds { Ok(()) } else { Err(Unproven(otherwise())) }
}

/// No client can commit a write any more on the side that is being closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fenced {
    epoch: Epoch,
    side: Side,
    next_xid: u64,
}

impl Fenced {
    /// Refuses unless nobody else was writing, nothing was prepared and every table was locked.
    /// `side` is the one that was fenced.
    pub fn prove(epoch: Epoch, side: Side, report: &FenceReport) -> Result<Self, Unproven> {
        require(report.foreign_writers.is_empty(), || {
            format!("{side} still has writers: {}", report.foreign_writers.join(", "))
        })?;
        require(report.prepared.is_empty(), || {
            format!("{side} has prepared transactions: {}", report.prepared.join(", "))
        })?;
        require(report.clean_scans >= 2, || {
            format!("{side} was not seen without foreign sessions twice in a row")
        })?;
        require(report.tables_locked >= report.tables_total, || {
            format!(
                "only {} of {} replicated tables are locked",
                report.tables_locked, report.tables_total
            )
        })?;
        Ok(Self { epoch, side, next_xid: report.next_xid })
    }

    /// The run that it belongs to.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }
}

/// Everything that the closed side acknowledged is durable on the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drained {
    fenced: Fenced,
    token: Token,
    marker: Lsn,
    xid: u64,
}

impl Drained {
    /// Refuses unless the marker was written after the fence and the other side has flushed it.
    pub fn prove(
        fenced: &Fenced,
        written: &MarkerWritten,
        durable: &MarkerDurable,
    ) -> Result<Self, Unproven> {
        require(written.token == durable.token, || {
            "the marker that came back is not the one that was written".into()
        })?;
        require(written.token.epoch() == fenced.epoch, || {
            "the marker belongs to another run".into()
        })?;
        require(written.xid >= fenced.next_xid, || {
            format!(
                "the marker's transaction {} is older than the fence ({})",
                written.xid, fenced.next_xid
            )
        })?;
        require(durable.durable >= durable.end_lsn, || {
            format!(
                "{} has flushed only up to {}, the marker ends at {}",
                fenced.side.other(),
                durable.durable,
                durable.end_lsn
            )
        })?;
        Ok(Self {
            fenced: fenced.clone(),
            token: written.token.clone(),
            marker: durable.end_lsn,
            xid: written.xid,
        })
    }

    /// Whether it was drawn from this fence.
    pub fn is_of(&self, fenced: &Fenced) -> bool {
        self.fenced == *fenced
    }

    /// The end of the marker's transaction on the side that was fenced.
    pub fn marker(&self) -> Lsn {
        self.marker
    }

    /// The marker's token.
    pub fn token(&self) -> &Token {
        &self.token
    }
}

/// The stream the other way round has read, on the side that is to open, past everything that was
/// applied there: whatever clients write from now on will be captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WayBackReady {
    epoch: Epoch,
    position: Lsn,
}

impl WayBackReady {
    /// Refuses unless a marker that was written on the side that is to open, after the drain, came
    /// back, and nobody but us has written there.
    pub fn prove(
        drained: &Drained,
        written: &MarkerWritten,
        decoded: &MarkerDecoded,
    ) -> Result<Self, Unproven> {
        let opening = drained.fenced.side.other();
        require(written.token == drained.token.way_back(), || {
            "the marker of the way back belongs to another run".into()
        })?;
        require(written.token == decoded.token, || {
            "the way back's marker that came back is not the one that was written".into()
        })?;
        require(decoded.leaks.count == 0, || {
            format!(
                "{opening} was written by somebody else: {} row changes, the first in {}",
                decoded.leaks.count,
                decoded.leaks.first.as_deref().unwrap_or("an unknown table")
            )
        })?;
        Ok(Self { epoch: drained.fenced.epoch, position: decoded.end_lsn })
    }

    /// The end of the marker's transaction on the side that is to open.
    pub fn position(&self) -> Lsn {
        self.position
    }
}

/// What is known about the way back when it is decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WayBack {
    /// It reads.
    Ready(WayBackReady),
    /// The order was to go without one.
    Waived,
}

impl WayBack {
    /// Whether it is of the same run as this drain.
    pub fn is_of(&self, drained: &Drained) -> bool {
        match self {
            WayBack::Ready(ready) => ready.epoch == drained.fenced.epoch,
            WayBack::Waived => true,
        }
    }
}

/// One side is closed, and nothing was written between the marker and the closing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    drained: Drained,
    xids: Xids,
    way_back: WayBack,
}

/// Transaction ids that the closed side gave away between the two markers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xids {
    /// The first marker's.
    pub marker: u64,
    /// The second marker's.
    pub seal: u64,
    /// What our own sealing used in between.
    pub own: u64,
}

impl Xids {
    /// Transactions between the two that were not ours. Other databases of the same server count
    /// too, and so do autovacuum's, so a number above 0 proves nothing; 0 proves that nobody
    /// was even assigned one.
    pub fn foreign(self) -> u64 {
        self.seal.saturating_sub(self.marker).saturating_sub(1 + self.own)
    }
}

impl std::fmt::Display for Xids {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.foreign() {
            0 => write!(f, "xid frozen at {}", self.marker),
            moved => write!(f, "{moved} transactions elsewhere on the server, none in the stream"),
        }
    }
}

impl Sealed {
    /// Refuses unless a second marker, written under the seal, came back with no row change
    /// between the two, and the side refuses connections.
    pub fn prove(
        drained: &Drained,
        report: &SealReport,
        written: &MarkerWritten,
        decoded: &MarkerDecoded,
        way_back: WayBack,
    ) -> Result<Self, Unproven> {
        let side = drained.fenced.side;
        require(report.refuses_clients, || format!("{side} still accepts connections"))?;
        require(report.foreign_writers.is_empty(), || {
            format!("{side} has writers again: {}", report.foreign_writers.join(", "))
        })?;
        require(report.prepared.is_empty(), || {
            format!("{side} has prepared transactions: {}", report.prepared.join(", "))
        })?;
        require(report.unbroken, || {
            format!(
                "what kept writers out of {side} was lost before the seal: it was restarted, or our session there broke"
            )
        })?;
        require(way_back.is_of(drained), || "the way back was proven by another run".into())?;
        require(written.token == drained.token.sealing(), || {
            "the second marker belongs to another run".into()
        })?;
        require(written.token == decoded.token, || {
            "the second marker that came back is not the one that was written".into()
        })?;
        require(decoded.end_lsn > drained.marker, || {
            format!(
                "the second marker ({}) is not behind the first ({})",
                decoded.end_lsn, drained.marker
            )
        })?;
        require(decoded.leaks.count == 0, || {
            format!(
                "fence leak: {} row changes after the marker, the first in {}",
                decoded.leaks.count,
                decoded.leaks.first.as_deref().unwrap_or("an unknown table")
            )
        })?;
        let xids = Xids { marker: drained.xid, seal: written.xid, own: report.own_xids };
        Ok(Self { drained: drained.clone(), xids, way_back })
    }

    /// Whether it was drawn from this drain.
    pub fn is_of(&self, drained: &Drained) -> bool {
        self.drained == *drained
    }

    /// The run that it belongs to.
    pub fn epoch(&self) -> Epoch {
        self.drained.fenced.epoch
    }

    /// End of the marker's transaction on the closed side; the other side has everything up to it.
    pub fn marker(&self) -> Lsn {
        self.drained.marker
    }

    /// The transaction ids between the markers.
    pub fn xids(&self) -> Xids {
        self.xids
    }

    /// The way back.
    pub fn way_back(&self) -> &WayBack {
        &self.way_back
    }

    /// The side that is to open.
    pub fn opening(&self) -> Side {
        self.drained.fenced.side.other()
    }
}

/// The decision row says commit: one side is closed for good, the other one serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    epoch: Epoch,
    to: Side,
}

impl Committed {
    /// From a decision that was made over `sealed` and read back.
    pub fn decide(sealed: &Sealed, epoch: Epoch, verdict: Verdict) -> Result<Self, Unproven> {
        let to = sealed.opening();
        require(verdict == Verdict::Commit, || format!("{to}'s decision row says abort"))?;
        require(sealed.epoch() == epoch, || format!("{to}'s decision row is of another run"))?;
        Ok(Self { epoch, to })
    }

    /// From a decision row that an earlier life of this process had written on `to`. Such a row
    /// exists only if a [`Sealed`] existed then.
    pub fn recovered(epoch: Epoch, to: Side, verdict: Verdict) -> Result<Self, Unproven> {
        require(verdict == Verdict::Commit, || format!("{to}'s decision row says abort"))?;
        Ok(Self { epoch, to })
    }

    /// Whether it was decided over this seal.
    pub fn is_of(&self, sealed: &Sealed) -> bool {
        self.epoch == sealed.epoch() && self.to == sealed.opening()
    }

    /// The run that it belongs to.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The side that serves from now on.
    pub fn to(&self) -> Side {
        self.to
    }
}
