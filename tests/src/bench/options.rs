//! The environment of a bench.

use anyhow::{Context, Result, ensure};

/// Which of the two are measured. Anything but both is for work on the engine, not for a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sides {
    Both,
    Ours,
    Native,
}

/// How a bench is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// `BENCH_ROUNDS`: how often each side is measured. Default 3.
    pub rounds: usize,
    /// `BENCH_SCALE`: all sizes are multiplied by it. Default 1; 0.05 is a smoke test.
    pub scale: f64,
    /// `BENCH_SIDES`: `both`, `ours` or `native`.
    pub sides: Sides,
    /// `BENCH_BLUE`, `BENCH_GREEN`: major versions. Default 15 and 17.
    pub blue: u32,
    pub green: u32,
    /// `BENCH_CONFIG`: TOML for the replicator, such as `[apply]` with `lanes = 2`.
    pub config: String,
    /// `BENCH_NATIVE`: options of the subscription, such as `binary = true`. Default: none.
    pub native: String,
}

impl Options {
    pub fn from_env() -> Result<Options> {
        let options = Options {
            rounds: number("BENCH_ROUNDS", 3)?,
            scale: number("BENCH_SCALE", 1.0)?,
            sides: match text("BENCH_SIDES").as_str() {
                "" | "both" => Sides::Both,
                "ours" => Sides::Ours,
                "native" => Sides::Native,
                other => anyhow::bail!("BENCH_SIDES is both, ours or native, not {other}"),
            },
            blue: number("BENCH_BLUE", 15)?,
            green: number("BENCH_GREEN", 17)?,
            config: text("BENCH_CONFIG"),
            native: text("BENCH_NATIVE"),
        };
        ensure!(options.rounds > 0, "BENCH_ROUNDS: at least 1");
        ensure!(options.scale > 0.0, "BENCH_SCALE: more than 0");
        Ok(options)
    }

    /// The same with this configuration for the replicator, unless `BENCH_CONFIG` gave one.
    pub fn or_config(&self, toml: &str) -> Options {
        let mut options = self.clone();
        if options.config.is_empty() {
            toml.clone_into(&mut options.config);
        }
        options
    }

    /// A size, scaled.
    pub fn scaled(&self, size: u64) -> u64 {
        ((size as f64 * self.scale).round() as u64).max(1)
    }
}

fn text(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

fn number<T: std::str::FromStr>(name: &str, default: T) -> Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    match text(name).as_str() {
        "" => Ok(default),
        text => text.parse().with_context(|| format!("{name}={text}")),
    }
}
