use super::*;
use proptest::prelude::*;

const SEGMENT: u64 = 16 * 1024 * 1024;

fn at(start: Instant, ms: u64) -> Instant {
    start + Duration::from_millis(ms)
}

#[test]
fn nothing_is_known_before_the_first_sample_is_applied() {
    let start = Instant::now();
    let mut lag = LagTracker::new();
    assert_eq!(lag.reading(start).seconds, None);
    lag.sample(start, Lsn(1000));
    assert_eq!(lag.reading(at(start, 10)).seconds, None);
    lag.applied(at(start, 20), Lsn(1000));
    assert_eq!(lag.reading(at(start, 20)).seconds, Some(0.0));
}

#[test]
fn an_idle_blue_shows_none() {
    let start = Instant::now();
    let mut lag = LagTracker::new();
    lag.applied(start, Lsn(500));
    for beat in 0..600 {
        lag.sample(at(start, beat * 100), Lsn(500));
        let reading = lag.reading(at(start, beat * 100 + 99));
        assert_eq!((reading.seconds, reading.bytes), (Some(0.0), Some(0)));
    }
}

#[test]
fn a_stalled_green_rises_with_real_time() {
    let start = Instant::now();
    let mut lag = LagTracker::new();
    lag.applied(start, Lsn(100));
    lag.sample(start, Lsn(100));
    for beat in 1..=50_000u64 {
        lag.sample(at(start, beat * 100), Lsn(100 + beat));
        let seconds = lag.reading(at(start, beat * 100)).seconds.unwrap();
        assert!((seconds - beat as f64 / 10.0).abs() < 1e-6, "{beat}: {seconds}");
        assert!(lag.outstanding.len() <= SAMPLES_MAX);
    }
}

#[test]
fn a_blind_sensor_is_unknown_never_zero() {
    let start = Instant::now();
    let mut lag = LagTracker::new();
    lag.applied(start, Lsn(100));
    lag.sample(start, Lsn(100));
    lag.sample_failed("connection refused");
    assert_eq!(lag.reading(at(start, 900)).seconds, Some(0.0));
    let reading = lag.reading(at(start, 1001));
    assert_eq!(reading.seconds, None);
    assert!(reading.reason.unwrap().contains("connection refused"));
}

#[test]
fn what_green_has_lost_is_not_applied_any_more() {
    let start = Instant::now();
    let mut lag = LagTracker::new();
    lag.sample(start, Lsn(100));
    lag.applied(start, Lsn(100));
    assert_eq!(lag.reading(start).seconds, Some(0.0));
    lag.applied(at(start, 10), Lsn(60));
    let reading = lag.reading(at(start, 10));
    assert_eq!((reading.seconds, reading.bytes), (None, Some(40)));
    // Nothing new on blue.
    lag.sample(at(start, 100), Lsn(100));
    assert_eq!(lag.reading(at(start, 110)).seconds, None);
    lag.applied(at(start, 120), Lsn(100));
    let reading = lag.reading(at(start, 120));
    assert_eq!((reading.seconds, reading.bytes), (Some(0.0), Some(0)));
}

#[test]
fn far_behind_the_lag_is_known_again_once_the_loss_is_made_good() {
    let start = Instant::now();
    let mut lag = LagTracker::new();
    for beat in 0..100 {
        lag.sample(at(start, beat * 100), Lsn(100 + beat));
    }
    lag.applied(at(start, 9_900), Lsn(120));
    lag.applied(at(start, 9_910), Lsn(110));
    assert_eq!(lag.reading(at(start, 9_920)).seconds, None);
    lag.applied(at(start, 9_930), Lsn(121));
    assert_eq!(lag.reading(at(start, 10_000)).seconds, Some(7.9));
}

#[test]
fn a_head_that_goes_backwards_makes_it_unknown() {
    let start = Instant::now();
    let mut lag = LagTracker::new();
    lag.applied(start, Lsn(100));
    lag.sample(start, Lsn(100));
    lag.sample(at(start, 100), Lsn(50));
    assert_eq!(lag.reading(at(start, 100)).seconds, None);
}

#[test]
fn the_drain_estimate_is_bytes_over_rate() {
    let start = Instant::now();
    let mut lag = LagTracker::new();
    lag.applied(start, Lsn(0));
    lag.sample(start, Lsn(0));
    lag.applied(at(start, 1000), Lsn(1000));
    lag.sample(at(start, 1000), Lsn(1500));
    let estimate = lag.reading(at(start, 1000)).drain_estimate_seconds.unwrap();
    assert!((estimate - 0.5).abs() < 1e-9, "{estimate}");
}

#[test]
fn positions_behind_page_headers_are_the_end_of_the_page_before() {
    assert_eq!(normalized_head(Lsn(3 * 8192 + 24), SEGMENT), Lsn(3 * 8192));
    assert_eq!(normalized_head(Lsn(2 * SEGMENT + 40), SEGMENT), Lsn(2 * SEGMENT));
    // A record may end 16 bytes into an ordinary page's data.
    assert_eq!(normalized_head(Lsn(3 * 8192 + 40), SEGMENT), Lsn(3 * 8192 + 40));
    assert_eq!(normalized_head(Lsn(3 * 8192 + 32), SEGMENT), Lsn(3 * 8192 + 32));
}

proptest! {
    /// Against the definition: the age of the newest sample whose head is applied.
    #[test]
    fn agrees_with_the_naive_model(
        steps in proptest::collection::vec((0u64..50, 0u64..80, 1u64..150), 1..200),
    ) {
        let start = Instant::now();
        let mut lag = LagTracker::new();
        let (mut head, mut applied, mut now_ms) = (0u64, 0u64, 0u64);
        let mut samples: Vec<(u64, u64)> = Vec::new();
        for (written, drained, elapsed_ms) in steps {
            now_ms += elapsed_ms;
            head += written;
            applied = (applied + drained).min(head);
            samples.push((now_ms, head));
            lag.sample(at(start, now_ms), Lsn(head));
            lag.applied(at(start, now_ms), Lsn(applied));
            let newest_applied = samples.iter().rev().find(|(_, head)| *head <= applied);
            let expected = newest_applied.map(|(asked, _)| {
                let caught_up = samples.last().is_some_and(|(_, head)| *head <= applied);
                if caught_up { 0.0 } else { (now_ms - asked) as f64 / 1000.0 }
            });
            let seconds = lag.reading(at(start, now_ms)).seconds;
            match (seconds, expected) {
                (Some(seconds), Some(expected)) => prop_assert!((seconds - expected).abs() < 1e-6),
                (seconds, expected) => prop_assert_eq!(seconds, expected),
            }
        }
    }
}
