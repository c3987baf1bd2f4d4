//! `make intruder`: a role of the application, the owner of the database, another user of the host and a page in a
//! browser try to hide a write, to forge what is ours, to run code as us, and to give orders; whoever answers in
//! a server's place tries to get a client's password.
//!
//! Exit code 0 only if nothing did harm. The last line of standard output is one JSON object.

use std::process::ExitCode;

use clap::Parser;
use tests::intruder;
use tests::mysql::Version;

/// Tries what nobody may do.
#[derive(Debug, Parser)]
struct Arguments {
    /// Majors of blue and green, for example `15:17`; repeat it for more.
    #[arg(long = "pair", default_values = ["15:17"], value_parser = pair)]
    pairs: Vec<(u32, u32)>,
    /// Leave MySQL and MariaDB out.
    #[arg(long)]
    postgres_only: bool,
}

fn pair(text: &str) -> Result<(u32, u32), String> {
    let parsed = text.split_once(':').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    parsed.ok_or_else(|| "BLUE:GREEN, for example 15:17".to_owned())
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut all = intruder::Summary::default();
    let arguments = Arguments::parse();
    let mut tried = Vec::new();
    for (blue, green) in arguments.pairs {
        tried.push((format!("{blue} to {green}"), intruder::run(blue, green).await));
    }
    if !arguments.postgres_only {
        use Version::{Mariadb10_11, Mariadb11_8, Mysql9_7};
        for (blue, green) in [(Mariadb10_11, Mariadb11_8), (Mysql9_7, Mysql9_7)] {
            let name = format!("{} to {}", blue.name(), green.name());
            tried.push((name, intruder::mysql::run((blue, green)).await));
        }
    }
    for (pair, summary) in tried {
        match summary {
            Ok(summary) => all.attempts.extend(summary.attempts),
            Err(error) => {
                eprintln!("intruder: {pair}: {error:#}");
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
