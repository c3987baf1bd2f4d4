//! Connections of clients, counted from the moment at which they are taken: a connection that says
//! nothing takes a descriptor as well as one that is served.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::lock;

/// Connections beyond `clients_max` that may be open: who is one too many is told so in its own
/// protocol, and requests to cancel something come by connections of their own.
const BEYOND: usize = 64;

/// How many there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Connections.
    pub open_max: usize,
    /// Of them, those from one address.
    pub of_address_max: usize,
    /// Of those, the ones that have not logged in.
    pub entering_of_address_max: usize,
}

impl Limits {
    /// For so many clients. One address alone can't take the place of all others before it has logged
    /// in.
    pub fn new(clients_max: usize, of_address_max: Option<usize>) -> Self {
        let open_max = clients_max + BEYOND;
        Self {
            open_max,
            of_address_max: of_address_max.unwrap_or(open_max),
            entering_of_address_max: clients_max.div_ceil(2) + BEYOND / 2,
        }
    }
}

/// Why a connection is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// There are too many.
    All,
    /// There are too many from its address.
    Address,
}

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    open: usize,
    entering: usize,
}

#[derive(Debug, Default)]
struct Counts {
    open: usize,
    by_address: HashMap<IpAddr, Count>,
}

/// All connections.
#[derive(Debug)]
pub(super) struct Arrivals {
    limits: Limits,
    counts: Mutex<Counts>,
}

/// A connection that counts for as long as this lives.
#[derive(Debug)]
pub(super) struct Arrival {
    all: Arc<Arrivals>,
    address: IpAddr,
    entering: AtomicBool,
}

impl Arrivals {
    pub fn new(limits: Limits) -> Self {
        Self { limits, counts: Mutex::default() }
    }

    /// A new connection.
    ///
    /// # Errors
    /// There are as many as there may be.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Result<Arrival, Full> {
        let mut counts = lock(&self.counts);
        if counts.open >= self.limits.open_max {
            return Err(Full::All);
        }
        let count = counts.by_address.entry(address).or_default();
        if count.open >= self.limits.of_address_max
            || count.entering >= self.limits.entering_of_address_max
        {
            return Err(Full::Address);
        }
        count.open += 1;
        count.entering += 1;
        counts.open += 1;
        Ok(Arrival { all: self.clone(), address, entering: AtomicBool::new(true) })
    }
}

impl Arrival {
    /// It has logged in.
    pub fn logged_in(&self) {
        let mut counts = lock(&self.all.counts);
        self.no_longer_entering(&mut counts);
    }

    fn no_longer_entering(&self, counts: &mut Counts) {
        if self.entering.swap(false, Ordering::Relaxed)
            && let Some(count) = counts.by_address.get_mut(&self.address)
        {
            count.entering -= 1;
        }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        let mut counts = lock(&self.all.counts);
        self.no_longer_entering(&mut counts);
        counts.open -= 1;
        if let Some(count) = counts.by_address.get_mut(&self.address) {
            count.open -= 1;
            if count.open == 0 {
                counts.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn one_address_leaves_room_for_others() {
        let limits = Limits { open_max: 4, of_address_max: 3, entering_of_address_max: 2 };
        let all = Arc::new(Arrivals::new(limits));
        let one = all.enter(address(1)).unwrap();
        let _two = all.enter(address(1)).unwrap();
        assert_eq!(all.enter(address(1)).unwrap_err(), Full::Address);
        one.logged_in();
        one.logged_in();
        let three = all.enter(address(1)).unwrap();
        three.logged_in();
        assert_eq!(all.enter(address(1)).unwrap_err(), Full::Address);
        let _four = all.enter(address(2)).unwrap();
        assert_eq!(all.enter(address(3)).unwrap_err(), Full::All);
        drop((one, three));
        let _five = all.enter(address(3)).unwrap();
        assert_eq!(lock(&all.counts).open, 3);
        assert_eq!(lock(&all.counts).by_address.len(), 3);
    }

    #[test]
    fn nobody_is_kept_in_mind_who_is_gone() {
        let all = Arc::new(Arrivals::new(Limits::new(2, None)));
        drop(all.enter(address(1)));
        let counts = lock(&all.counts);
        assert_eq!((counts.open, counts.by_address.len()), (0, 0));
    }
}
