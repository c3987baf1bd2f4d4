//! Applying to PostgreSQL.

mod array;
pub mod catalog;
mod conflicts;
mod connect;
pub mod copy;
mod copy_rows;
mod error;
mod flush;
mod frame;
mod inner_oids;
mod lane;
mod pipeline;
mod repair;
pub mod sequences;
pub mod session;
mod sets;
mod statements;
mod target;
mod wire;
mod writer;

pub use error::{Refusal, target_error};
pub use flush::PgFlusher;
pub use lane::PgLane;
pub use repair::{Repairer, printed};

pub use crate::caution::Ways;
pub use session::{Blocker, Capabilities, OriginTracking, TriggerSuppression, blockers};
pub use target::{PgTarget, PgTargetOptions};
