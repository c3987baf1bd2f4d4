//! An answer that takes as long as it takes.
//!
//! How long a plan takes depends on the databases, so no fixed time is right for it. What is waited for
//! is not the answer but life: while the request runs, the sidecar is asked again and again whether it
//! is there. One that died closes its connections, so the request fails at once; one that hangs, or whose
//! host is gone, leaves those questions without an answer.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::client::ClientError;

/// When a request's sender looks around while it waits.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Between two looks whether the sidecar lives.
    pub every: Duration,
    /// After so long without a sign of life the request is given up.
    pub silence_max: Duration,
}

impl Pace {
    /// What people wait by. Each look has as long as there is between two.
    pub const USUAL: Pace =
        Pace { every: Duration::from_secs(5), silence_max: Duration::from_secs(30) };
}

/// What `ask` answers, on a thread of its own. `lives` is whether the sidecar answers at all, and `say`
/// is told after each look that finds it alive how long the answer has taken so far.
pub fn patiently<T: Send + 'static>(
    pace: Pace,
    ask: impl FnOnce() -> Result<T, ClientError> + Send + 'static,
    mut lives: impl FnMut() -> bool,
    mut say: impl FnMut(Duration),
) -> Result<T, ClientError> {
    let began = Instant::now();
    let (to, answer) = channel();
    // Nobody hears the answer of a request that was given up.
    thread::spawn(move || to.send(ask()).ok());
    let mut seen_at = began;
    loop {
        match answer.recv_timeout(pace.every) {
            Ok(answer) => return answer,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(ClientError::Unreachable("the request has ended without one".into()));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if lives() {
            seen_at = Instant::now();
            say(began.elapsed());
        } else if seen_at.elapsed() >= pace.silence_max {
            let silence = Duration::from_secs(seen_at.elapsed().as_secs());
            let silence = humantime::format_duration(silence);
            return Err(ClientError::Unreachable(format!("no sign of life for {silence}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    const PACE: Pace =
        Pace { every: Duration::from_millis(2), silence_max: Duration::from_millis(20) };

    #[test]
    fn a_sidecar_that_lives_is_waited_for() {
        let (to, answer) = channel();
        let mut looks = 0;
        // Far longer than silence is borne.
        let lives = || {
            looks += 1;
            if looks == 50 {
                to.send("a plan").unwrap();
            }
            true
        };
        let mut said = Vec::new();
        let got = patiently(
            PACE,
            move || Ok(answer.recv().unwrap()),
            lives,
            |so_far| {
                said.push(so_far);
            },
        );
        assert_eq!(got.unwrap(), "a plan");
        assert!(said.len() >= 50 && said.is_sorted() && said[49] > PACE.silence_max, "{said:?}");
    }

    #[test]
    fn a_sidecar_without_a_sign_of_life_is_given_up() {
        let (_never, answer) = channel::<&str>();
        let mut looks = 0;
        // One look that fails proves nothing.
        let lives = || {
            looks += 1;
            looks % 2 == 0 && looks < 20
        };
        let got = patiently(PACE, move || Ok(answer.recv().unwrap()), lives, |_| ());
        assert!(matches!(got, Err(ClientError::Unreachable(why)) if why.contains("sign of life")));
        assert!(looks > 20, "{looks}");
    }

    #[test]
    fn what_the_sidecar_says_at_once_is_not_waited_for() {
        let refused = || Err::<(), _>(ClientError::Foreign("no".into()));
        let got = patiently(Pace::USUAL, refused, || panic!("a look"), |_| panic!("a word"));
        assert!(matches!(got, Err(ClientError::Foreign(_))));
    }
}
