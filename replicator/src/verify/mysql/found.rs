//! What a verification has found, for who makes it right.

use std::sync::Arc;

use cutover::Side;
use cutover::verify::VerifyRequest;

use super::line::Bench;
use super::pair::BinlogPair;
use super::side::End;
use crate::verify::Trouble;

/// The tables that were compared, with all differences that were named. It lives as long as the
/// verification is the last one.
pub(in crate::verify) struct Found {
    /// The servers, and the stream between them.
    pub(super) pair: Arc<BinlogPair>,
    /// What was asked for.
    pub(super) request: VerifyRequest,
    /// By name.
    pub(super) benches: Vec<Arc<Bench>>,
}

impl Found {
    /// The side that was taken as right.
    pub fn source(&self) -> Side {
        self.pair.stream.shared.direction.from()
    }

    /// The side that was compared with it.
    pub fn target(&self) -> Side {
        self.pair.stream.shared.direction.to()
    }

    /// Both servers, asked who they are.
    pub(super) async fn ends(&self) -> Result<[End; 2], Trouble> {
        let ends = tokio::try_join!(
            End::find(self.source(), self.pair.source.clone()),
            End::find(self.target(), self.pair.target.clone()),
        )?;
        Ok(ends.into())
    }
}
