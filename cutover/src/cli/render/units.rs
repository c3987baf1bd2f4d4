//! Numbers with their units.

use std::time::Duration;

use jiff::{Timestamp, Unit};

/// `2014` as `2,014`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A rate or another measured number, rounded to a whole one.
pub fn rate(number: f64) -> String {
    // The cast saturates: a negative or impossible rate shows as 0.
    count(number.round() as u64)
}

/// `1536` as `1.5 KiB`.
pub fn bytes(number: u64) -> String {
    let (mut value, mut unit) = (number as f64, "B");
    for larger in ["KiB", "MiB", "GiB", "TiB", "PiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if unit == "B" { format!("{number} B") } else { format!("{value:.1} {unit}") }
}

/// Milliseconds as `59.7 ms`, `1.20 s` or `4m12s`.
pub fn ms(ms: f64) -> String {
    if ms < 1000.0 { format!("{ms:.1} ms") } else { seconds(ms / 1000.0) }
}

/// Seconds as `0.24 s`, `12.0 s` or `4m12s`.
pub fn seconds(seconds: f64) -> String {
    if seconds < 10.0 {
        return format!("{seconds:.2} s");
    }
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes}m{:02}s", whole % 60),
        (0, _) => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}

/// How long ago `then` was at `now`, as [`seconds`]; nothing if it lies ahead.
pub fn since(now: Timestamp, then: Timestamp) -> String {
    let ago = Duration::try_from(now.duration_since(then)).unwrap_or_default();
    if ago.as_secs() < 60 { format!("{} s", ago.as_secs()) } else { seconds(ago.as_secs_f64()) }
}

/// A part of a whole as percent, never more than 100. `None` when the whole is not known.
pub fn percent(part: u64, whole: u64) -> Option<String> {
    (whole > 0).then(|| format!("{:.0}%", (part as f64 / whole as f64 * 100.0).min(100.0)))
}

/// The time of day, UTC: `12:00:04.118`.
pub fn clock(at: Timestamp) -> String {
    at.strftime("%H:%M:%S%.3f").to_string()
}

/// Date and time, UTC, whole seconds.
pub fn date(at: Timestamp) -> String {
    let at = at.round(Unit::Second).unwrap_or(at);
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!((count(0), count(999), count(2014)), ("0".into(), "999".into(), "2,014".into()));
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(
            (bytes(0), bytes(1023), bytes(1536)),
            ("0 B".into(), "1023 B".into(), "1.5 KiB".into())
        );
        assert_eq!(rate(-1.0), "0");
        assert_eq!((ms(59.68), ms(1204.0)), ("59.7 ms".into(), "1.20 s".into()));
        assert_eq!((seconds(0.24), seconds(252.0)), ("0.24 s".into(), "4m12s".into()));
        assert_eq!((seconds(3_660.0), seconds(90_000.0)), ("1h01m".into(), "1d01h".into()));
        assert_eq!(
            (percent(3, 4), percent(9, 4), percent(1, 0)),
            (Some("75%".into()), Some("100%".into()), None)
        );
    }

    #[test]
    fn times_are_utc() {
        let at: Timestamp = "2026-11-21T12:00:04.118Z".parse().unwrap();
        assert_eq!(clock(at), "12:00:04.118");
        assert_eq!(date(at), "2026-11-21 12:00:04 UTC");
        let later: Timestamp = "2026-11-21T12:04:16.118Z".parse().unwrap();
        assert_eq!((since(later, at), since(at, later)), ("4m12s".into(), "0 s".into()));
    }
}
