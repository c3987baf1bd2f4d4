//! Whether the way back carries, and how far it is behind.

use super::Place;
use crate::watch::sample::Sample;

/// The lag of the stream back.
#[derive(Debug, Clone, Copy)]
pub struct WayBackProbe {
    /// The largest lag, seconds.
    pub lag_s_max: f64,
}

impl WayBackProbe {
    pub(in crate::watch) fn take(&self, place: &Place) -> Sample {
        let Some(progress) = &place.way_back else {
            return Sample::Nothing("there is no way back".into());
        };
        let progress = progress.borrow();
        if let Some(blocked) = &progress.blocked {
            return Sample::Bad(blocked.why.clone());
        }
        match progress.lag.seconds {
            // A lag that nobody knows is neither small nor large.
            None => Sample::Nothing(
                progress.lag.reason.clone().unwrap_or_else(|| "the lag is not known".into()),
            ),
            Some(lag) if lag > self.lag_s_max => Sample::Bad(format!("{lag:.1} s behind")),
            Some(lag) => Sample::Good(format!("{lag:.1} s behind")),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;
    use tokio::time::Instant;

    use super::*;
    use crate::lag::LagReading;
    use crate::login::Login;
    use crate::ports::{Obstacle, Progress};

    fn sample(seconds: Option<f64>, blocked: Option<&str>) -> Sample {
        let lag = LagReading { seconds, ..LagReading::unknown(Instant::now(), "green is away") };
        let blocked = blocked.map(Obstacle::staying);
        let progress = Progress { lag, blocked, transactions_per_second: None };
        let sender = watch::Sender::new(progress);
        let place = Place {
            serving: Login::parse("postgres://green/shop").unwrap(),
            way_back: Some(sender.subscribe()),
        };
        WayBackProbe { lag_s_max: 30.0 }.take(&place)
    }

    #[test]
    fn an_unknown_lag_is_no_data_and_a_broken_stream_is_bad() {
        assert_eq!(sample(Some(0.2), None), Sample::Good("0.2 s behind".into()));
        assert_eq!(sample(Some(31.0), None), Sample::Bad("31.0 s behind".into()));
        assert_eq!(sample(None, None), Sample::Nothing("green is away".into()));
        assert_eq!(sample(Some(0.2), Some("halted")), Sample::Bad("halted".into()));
    }
}
