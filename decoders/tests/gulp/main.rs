//! The gulping reader against real servers: the same transactions as the stream, from a slot that
//! only ever moves to what was acknowledged.

mod content;
mod failing;
mod limits;
mod positions;
mod reading;
// What the stream's own tests stand on.
#[path = "../stream/stage.rs"]
#[allow(dead_code, reason = "the stream's tests use all of it")]
mod stage;
