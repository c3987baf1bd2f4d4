//! Clients that write all the time, through the router and past it.

use std::sync::Arc;
use std::time::Duration;

use super::world::Shared;
use crate::side::Side;

/// One through a router: it waits while that holds or is dead, and starts over after an error.
pub async fn through_a_router(shared: Arc<Shared>, at: usize) {
    loop {
        let (pause, takes, answer) = {
            let mut state = shared.lock();
            (state.random.ms(20, 80), state.random.ms(1, 8), state.random.ms(0, 2))
        };
        tokio::time::sleep(pause).await;
        let begun = {
            let mut state = shared.lock();
            let router = &mut state.routers[at];
            if router.held || !router.is_up() {
                None
            } else {
                router.busy += 1;
                let side = router.target;
                Some((side, state.side(side).kills))
            }
        };
        let Some((side, kills)) = begun else { continue };
        tokio::time::sleep(takes).await;
        let written = {
            let mut state = shared.lock();
            state.routers[at].busy -= 1;
            state.write(side, false, kills)
        };
        tokio::time::sleep(answer).await;
        if let Some(id) = written {
            shared.lock().acknowledged.push((id, side));
        }
    }
}

/// One past the router, who says READ WRITE and goes to whichever side serves, or did: he tries
/// them in turn, as a client with two hosts in its connection string does.
pub async fn past_the_router(shared: Arc<Shared>) {
    let mut side = Side::Blue;
    loop {
        let pause = shared.lock().random.ms(30, 150);
        tokio::time::sleep(pause).await;
        // Green, before anything has closed it, is guarded by nothing but manners.
        let is_new = shared.lock().commits == 0;
        let kills = shared.lock().side(side).kills;
        tokio::time::sleep(Duration::from_millis(2)).await;
        let written = shared.lock().write(side, true, kills);
        match written {
            Some(id) => shared.lock().acknowledged.push((id, side)),
            None if is_new => {}
            None => side = side.other(),
        }
    }
}
