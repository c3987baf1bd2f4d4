//! `make intruder`: a role of the application, the owner of the database and another user of the host try to hide
//! a write, to forge what is ours, and to run code as us.
//!
//! Exit code 0 only if nothing did harm. The last line of standard output is one JSON object.

use std::process::ExitCode;

use clap::Parser;
use tests::intruder;

/// Tries what nobody may do.
#[derive(Debug, Parser)]
struct Arguments {
    /// Majors of blue and green, for example `15:17`; repeat it for more.
    #[arg(long = "pair", default_values = ["15:17"], value_parser = pair)]
    pairs: Vec<(u32, u32)>,
}

fn pair(text: &str) -> Result<(u32, u32), String> {
    let parsed = text.split_once(':').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    parsed.ok_or_else(|| "BLUE:GREEN, for example 15:17".to_owned())
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut all = intruder::Summary::default();
    for (blue, green) in Arguments::parse().pairs {
        match intruder::run(blue, green).await {
            Ok(summary) => all.attempts.extend(summary.attempts),
            Err(error) => {
                eprintln!("intruder: {blue} to {green}: {error:#}");
                return ExitCode::from(2);
            }
        }
    }
    for attempt in all.harmed() {
        eprintln!("HARM by {:?}: {}: {:?}", attempt.who, attempt.what, attempt.harm);
    }
    println!("{}", all.json());
    ExitCode::from(u8::from(all.harmed().next().is_some()))
}
