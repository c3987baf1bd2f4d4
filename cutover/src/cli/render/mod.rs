//! The API's documents as text for people. Pure: values in, text out.

mod error;
mod finish;
mod history;
mod monitors;
mod paint;
mod plan;
mod repair;
mod report;
mod status;
mod streams;
mod timeline;
pub mod units;
mod verify;

pub use error::{UNKNOWN, render_error};
pub use finish::{render_finish_plan, render_finish_report};
pub use history::render_history;
pub use paint::Paint;
pub use plan::{Detail, render_plan};
pub use repair::{render_repair_plan, render_repaired, render_repairing};
pub use report::render_report;
pub use status::{advice, render_status};
pub use timeline::{render_gate, render_step};
pub use units::clock;
pub use verify::{render_verified, render_verifying};
