//! What the demo says: one line for each thing that happens, with the time since the start.

use std::time::Instant;

pub struct Story {
    start: Instant,
}

impl Story {
    pub fn new() -> Story {
        Story { start: Instant::now() }
    }

    pub fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// A line of the story.
    pub fn tell(&self, what: &str, text: &str) {
        println!("{:6.1}s  {what:<12}{text}", self.seconds());
    }

    /// Something that another program said.
    pub fn quote(&self, line: &str) {
        println!("         | {line}");
    }
}

/// `1234567` as `1,234,567`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_000), "1,000");
        assert_eq!(count(1_234_567), "1,234,567");
    }
}
