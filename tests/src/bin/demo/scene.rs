//! What differs between the engines: servers, routers, data, and who writes.

use std::path::{Path, PathBuf};

use anyhow::Result;
use tests::api::Api;
use tests::process::Process;
pub use tests::side::Side;

use crate::Options;
use crate::load::Load;
use crate::story::Story;
use crate::verdict::Finding;

/// What the clients go through.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    pub name: &'static str,
    /// Whether it makes clients wait. One that can't cuts each client off once, and turns away who
    /// comes while both sides are closed.
    pub holds: bool,
    /// The sidecar starts it: no client comes through before.
    pub needs_sidecar: bool,
}

/// Where the story is played.
pub trait Scene: Sized {
    fn way(&self) -> Way;

    /// Starts the servers and the routers, and tells of them.
    async fn set(options: &Options, story: &Story) -> Result<Self>;

    /// The data that is there before anything of ours is.
    async fn fill(&self, options: &Options, story: &Story) -> Result<()>;

    /// Lets clients write through the routers.
    fn load(&self, options: &Options) -> Result<Load>;

    /// Changes rows of every type on blue, some in large transactions, and remembers what blue has then:
    /// nobody touches these tables again.
    async fn change(&mut self) -> Result<()>;

    /// Starts `replicator run`.
    fn sidecar(&self) -> Result<Process>;

    fn api(&self) -> Api;

    fn config_file(&self) -> PathBuf;

    /// A directory for the files of this run.
    fn path(&self) -> &Path;

    fn port(&self, side: Side) -> u16;

    /// The ports of the servers that the clients of each router reach.
    async fn reached(&self) -> Result<Vec<u16>>;

    /// For the ledger's judge.
    fn judge_url(&self, side: Side) -> String;

    /// What else is on green, when the load has stopped.
    async fn findings(&self, load: &Load) -> Result<Vec<Finding>>;

    /// After a failure: logs in one directory that stays.
    fn keep_logs(&mut self) -> Result<PathBuf>;
}
