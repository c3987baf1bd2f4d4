//! The stream, slots and publications against real servers: the oldest, the newest, and 15.

mod content;
mod network;
mod resume;
mod rolled_back;
mod running;
mod setup;
mod slots;
mod stage;
