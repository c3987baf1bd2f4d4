//! Tools that do the same, measured one after the other, the other way round in each next round.

use anyhow::{Context, Result};

use super::report::Series;

/// The seconds of each tool.
#[derive(Debug)]
pub struct Found<T>(Vec<(T, Series)>);

impl<T: PartialEq> Found<T> {
    /// Those of one; empty if it had no turn.
    pub fn of(&self, tool: T) -> Series {
        let found = self.0.iter().find(|(known, _)| *known == tool);
        found.map(|(_, series)| series.clone()).unwrap_or_default()
    }
}

/// Measures the seconds that each tool takes, in each of `rounds`. `measure` gets the number of the round,
/// from 0.
///
/// # Errors
/// Those of `measure`, with the tool's name.
pub async fn in_turns<T: Copy>(
    rounds: usize,
    tools: &[(T, &str)],
    mut measure: impl AsyncFnMut(usize, T) -> Result<f64>,
) -> Result<Found<T>> {
    let mut found: Vec<_> = tools.iter().map(|(tool, _)| (*tool, Series::default())).collect();
    let mut order: Vec<usize> = (0..tools.len()).collect();
    for round in 0..rounds {
        for &at in &order {
            let (tool, name) = tools[at];
            let seconds = measure(round, tool).await.with_context(|| name.to_owned())?;
            eprintln!("  round {} {name:>22}: {seconds:.1} s", round + 1);
            found[at].1.push(seconds);
        }
        order.reverse();
    }
    Ok(Found(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_has_its_turn_and_nobody_is_always_first() {
        let mut seen = Vec::new();
        let measure = async |round, tool| {
            seen.push((round, tool));
            Ok(f64::from(tool))
        };
        let found = in_turns(2, &[(1, "one"), (2, "two")], measure).await.unwrap();
        assert_eq!(seen, [(0, 1), (0, 2), (1, 2), (1, 1)]);
        let both = |seconds: f64| [seconds; 2].into_iter().collect::<Series>();
        assert_eq!([1, 2, 3].map(|tool| found.of(tool)), [both(1.0), both(2.0), Series::default()]);
        let fails = async |_, _: i32| -> Result<f64> { anyhow::bail!("no disk") };
        let error = in_turns(1, &[(1, "one")], fails).await.unwrap_err();
        assert_eq!(format!("{error:#}"), "one: no disk");
    }
}
