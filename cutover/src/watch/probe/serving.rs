//! Whether the side that serves can be reached.

use std::time::Duration;

use tokio::time::Instant;

use super::Place;
use super::session::Session;
use crate::sql::Kind;
use crate::watch::sample::Sample;

/// How our session calls itself: like all of our own it begins with `cutover`, so that no fence
/// takes it for a client's.
const NAME: &str = "cutover watch";

/// `SELECT 1` over a new connection.
#[derive(Debug, Clone, Copy)]
pub struct ServingProbe {
    /// The longest wait for the connection and the answer together.
    pub timeout: Duration,
}

impl ServingProbe {
    pub(in crate::watch) async fn take(&self, place: &Place) -> Sample {
        let began = Instant::now();
        let deadline = began + self.timeout;
        let answered = async {
            let mut session = Session::open(&place.serving, NAME, Kind::Server, deadline).await?;
            session.run("SELECT 1", deadline).await
        };
        match answered.await {
            Ok(()) => Sample::Good(format!("an answer after {:.1?}", began.elapsed())),
            Err(error) => Sample::Bad(error.text),
        }
    }
}
