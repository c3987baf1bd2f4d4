//! Medians, and the line of JSON that a bench ends with.

use serde_json::{Value, json};

/// Which way a figure is better. The ratio is always "greater than 1 is better for us".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// A rate.
    More,
    /// A time, or a size.
    Less,
}

/// The measurements of one side.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Series(Vec<f64>);

impl Series {
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The middle one, or the mean of the two in the middle; `None` without a measurement.
    pub fn median(&self) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let half = sorted.len() / 2;
        match sorted.len() {
            0 => None,
            odd if odd % 2 == 1 => Some(sorted[half]),
            _ => Some((sorted[half - 1] + sorted[half]) / 2.0),
        }
    }

    /// (max - min) / median; `None` without a measurement.
    pub fn spread(&self) -> Option<f64> {
        let (low, high) = self.0.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |found, value| {
            (found.0.min(*value), found.1.max(*value))
        });
        Some((high - low) / self.median()?)
    }
}

impl FromIterator<f64> for Series {
    fn from_iter<T: IntoIterator<Item = f64>>(values: T) -> Self {
        Series(values.into_iter().collect())
    }
}

/// The value below which this share (0 to 1) of them lies, by the nearest rank.
pub fn percentile(values: &mut [f64], share: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() as f64 * share).ceil() as usize;
    values.get(rank.clamp(1, values.len().max(1)) - 1).copied()
}

/// What a bench found.
#[derive(Debug, Clone)]
pub struct Report {
    pub bench: &'static str,
    pub ours: Series,
    /// Empty where there is nobody to compare with.
    pub peer: Series,
    pub unit: &'static str,
    pub better: Better,
}

impl Report {
    fn ratio(&self) -> Option<f64> {
        let (ours, peer) = (self.ours.median()?, self.peer.median()?);
        Some(match self.better {
            Better::More => ours / peer,
            Better::Less => peer / ours,
        })
    }

    /// The line of JSON; its keys stay in this order.
    pub fn line(&self) -> String {
        format!(
            "{{\"bench\":{},\"ours\":{},\"peer\":{},\"ratio\":{},\"unit\":{},\"runs\":{},\"spread\":{}}}",
            json!(self.bench),
            number(self.ours.median()),
            number(self.peer.median()),
            number(self.ratio()),
            json!(self.unit),
            self.ours.len().max(self.peer.len()),
            number(self.ours.spread()),
        )
    }

    /// The line, to standard output.
    pub fn print(&self) {
        println!("{}", self.line());
    }
}

fn number(value: Option<f64>) -> Value {
    json!(value.map(rounded))
}

/// Four digits are more than any of this is good for.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let digits = 3 - value.abs().log10().floor() as i32;
    let factor = 10f64.powi(digits.max(0));
    (value * factor).round() / factor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_spreads_and_percentiles() {
        let series: Series = [30.0, 10.0, 20.0].into_iter().collect();
        assert_eq!((series.median(), series.spread()), (Some(20.0), Some(1.0)));
        assert_eq!(Series::default().median(), None);
        assert_eq!([1.0, 2.0].into_iter().collect::<Series>().median(), Some(1.5));
        let mut values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(percentile(&mut values, 0.99), Some(198.0));
        assert_eq!(percentile(&mut [7.0], 0.99), Some(7.0));
        assert_eq!(percentile(&mut [], 0.99), None);
    }

    #[test]
    fn the_line_says_how_much_better_we_are() {
        let mut report = Report {
            bench: "latency",
            ours: [2.0].into_iter().collect(),
            peer: [5.0].into_iter().collect(),
            unit: "ms",
            better: Better::Less,
        };
        assert_eq!(
            report.line(),
            r#"{"bench":"latency","ours":2.0,"peer":5.0,"ratio":2.5,"unit":"ms","runs":1,"spread":0.0}"#
        );
        report.better = Better::More;
        assert_eq!(report.ratio(), Some(0.4));
        report.peer = Series::default();
        assert!(report.line().contains(r#""peer":null,"ratio":null"#), "{}", report.line());
    }

    #[test]
    fn four_digits_remain() {
        assert_eq!(rounded(1.234_567), 1.235);
        assert_eq!(rounded(0.012_345_6), 0.01235);
        assert_eq!(rounded(123_456.7), 123_457.0);
    }
}
