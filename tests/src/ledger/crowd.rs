//! All clients of one workload together: who may write, and whether anybody does.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Between two looks of a client whether it may go on.
const LOOK: Duration = Duration::from_millis(5);

/// Shared by the clients and whoever conducts them.
#[derive(Debug)]
pub struct Crowd {
    stop: AtomicBool,
    rest: AtomicBool,
    resting: AtomicUsize,
    all: usize,
    /// One for each direct client.
    admitted: Vec<AtomicBool>,
}

impl Crowd {
    pub fn new(clients: usize, direct: usize) -> Crowd {
        Crowd {
            stop: AtomicBool::new(false),
            rest: AtomicBool::new(false),
            resting: AtomicUsize::new(0),
            all: clients + direct,
            admitted: (0..direct).map(|_| AtomicBool::new(false)).collect(),
        }
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    pub fn rest(&self, rest: bool) {
        self.rest.store(rest, Ordering::SeqCst);
    }

    /// Whether nobody has a transaction open, and nobody begins one.
    pub fn rests(&self) -> bool {
        self.rest.load(Ordering::SeqCst) && self.resting.load(Ordering::SeqCst) == self.all
    }

    pub fn admit(&self, direct: usize, admitted: bool) {
        if let Some(flag) = self.admitted.get(direct) {
            flag.store(admitted, Ordering::SeqCst);
        }
    }

    fn must_wait(&self, direct: Option<usize>) -> bool {
        let admitted =
            direct.and_then(|at| self.admitted.get(at)).is_none_or(|at| at.load(Ordering::SeqCst));
        self.rest.load(Ordering::SeqCst) || !admitted
    }

    /// Returns at once, or when the rest is over. A client calls it between two transactions.
    pub async fn between(&self, direct: Option<usize>) {
        if !self.must_wait(direct) {
            return;
        }
        self.resting.fetch_add(1, Ordering::SeqCst);
        while self.must_wait(direct) && !self.is_stopped() {
            tokio::time::sleep(LOOK).await;
        }
        self.resting.fetch_sub(1, Ordering::SeqCst);
    }
}
