//! Transaction ids as evidence, where nothing better is to be had.

use super::PostgresFence;
use crate::marker::Token;
use crate::ports::{PortError, PortResult};
use crate::sql::ident;

/// Whether transaction ids are counted between the two markers of a run.
#[derive(Default)]
pub(super) enum Counted {
    #[default]
    No,
    /// From the next marker on.
    Soon,
    From(Token, u64),
}

impl PostgresFence {
    /// Where roles are locked out, and superusers are not, nothing on the server may have taken a
    /// transaction id between the two markers.
    pub(super) async fn count(&self, token: &Token, xid: u64) -> PortResult<()> {
        let mut counted = self.counted.lock().await;
        match &*counted {
            Counted::No => {}
            Counted::From(first, at) if *token == first.sealing() => {
                let foreign = xid.saturating_sub(at + 1);
                if foreign > 0 {
                    return Err(PortError::new(
                        self.place,
                        format!(
                            "{foreign} transactions on {0}'s server are not ours, and may be a \
                             superuser's, whom {0}'s seal does not keep out",
                            self.place
                        ),
                    )
                    .remedy(format!(
                        "make the role that cuts over the owner of {}, or keep its server idle",
                        ident(self.database())
                    )));
                }
            }
            Counted::Soon | Counted::From(..) => *counted = Counted::From(token.clone(), xid),
        }
        Ok(())
    }
}
