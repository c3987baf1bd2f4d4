//! The commands: what each starts, and how each ends.

mod binlog;
mod recovery;
mod running;
mod slot;

use std::time::Duration;

use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::session;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::check::mysql::BinlogCheckRequest;
use crate::cli::{CheckArgs, RunArgs, TailArgs, TeardownArgs};
use crate::config::Config;
use crate::pipeline::failure::{EXIT_ERROR, Failure};
use crate::pipeline::preflight::{Moment, preflight};
use crate::pipeline::{mysql, teardown as removal};
use crate::proxy::Keeper;
use crate::{check, tail as tailing};

/// Exit code for a command line or a configuration that can't be used.
const EXIT_USAGE: u8 = 2;
/// Exit code after a second signal.
const EXIT_KILLED: i32 = 130;

/// `replicator run`.
pub async fn run(args: &RunArgs) -> u8 {
    let mut config = match args.pipeline.resolve() {
        Ok(config) => config,
        Err(error) => return usage(&error),
    };
    config.halt.exit_on_halt |= args.exit_on_halt;
    let keeper = Keeper::new(&args.pipeline, &config);
    let ran = match config.mysql_urls() {
        Ok(Some(urls)) => binlog::run(config, urls, keeper).await.map_err(|mut failure| {
            failure.state.get_or_insert_with(|| mysql::STOPPED.to_owned());
            failure
        }),
        Ok(None) => slot::run(config, keeper).await,
        Err(problem) => return usage(&problem),
    };
    match ran {
        Ok(()) => 0,
        Err(failure) => {
            eprintln!("{}", failure.report());
            failure.exit_code
        }
    }
}

/// `replicator check`.
pub async fn check(args: &CheckArgs) -> u8 {
    let config = match args.pipeline.resolve() {
        Ok(config) => config,
        Err(error) => return usage(&error),
    };
    let report = match config.mysql_urls() {
        Ok(Some(_)) if args.deep => {
            return usage(&"--deep looks at the rows of a PostgreSQL database only");
        }
        Ok(Some([blue, green])) => {
            let request = BinlogCheckRequest::of(&config, &blue, &green);
            check::mysql::check(&request, &blue, &green).await
        }
        Ok(None) => match endpoints(&config) {
            Ok((blue, green)) => {
                let report = preflight(&config, &blue, &green, Moment::Any).await.report;
                match args.deep {
                    true => report.with(deep(&config, &blue, args.timeout).await),
                    false => report,
                }
            }
            Err(failure) => return usage(&failure),
        },
        Err(problem) => return usage(&problem),
    };
    let report = match (config.blue.login("blue"), config.green.login("green")) {
        (Ok(blue), Ok(green)) => report.with(check::unverified(&blue, &green)),
        (Err(problem), _) | (_, Err(problem)) => return usage(&problem),
    };
    if let Some(fixes) = &args.fix {
        match fixes.script(&report) {
            Some(script) => print!("{script}"),
            None => eprintln!("there is nothing to run for that; the findings: replicator check"),
        }
    } else if args.json {
        match serde_json::to_string(&report) {
            Ok(json) => println!("{json}"),
            Err(error) => return usage(&error),
        }
    } else {
        println!("{report}");
    }
    report.exit_code()
}

/// What blue's rows say. That nobody could ask is a finding, too: what was asked for was not done.
async fn deep(config: &Config, blue: &ConnInfo, timeout: Duration) -> Vec<check::Finding> {
    let looked = match session::connect(blue, "cutover check").await {
        Ok(session) => {
            let looked = check::deep::look(&session, &config.tables, timeout).await;
            looked.map_err(|error| format!("{}: {}", error.what, error.reason))
        }
        Err(error) => Err(error.to_string()),
    };
    looked.unwrap_or_else(|why| vec![check::deep::not_looked_at(why)])
}

/// `replicator tail`.
pub async fn tail(args: &TailArgs) -> u8 {
    let stop = watch::Sender::new(false);
    let stopped = stop.subscribe();
    let ended = tokio::select! {
        ended = tailing::tail(args, stopped) => ended,
        () = stop_on_signals(stop) => unreachable!("passes the stop on and never returns"),
    };
    match ended {
        Ok(()) => 0,
        Err(failure) => {
            eprintln!("{}", failure.report());
            failure.exit_code
        }
    }
}

/// `replicator teardown`.
pub async fn teardown(args: &TeardownArgs) -> u8 {
    let config = match args.pipeline.resolve() {
        Ok(config) => config,
        Err(error) => return usage(&error),
    };
    let urls = match config.mysql_urls() {
        Ok(urls) => urls,
        Err(problem) => return usage(&problem),
    };
    if !args.yes && urls.is_some() {
        eprintln!(
            "This removes our own tables (_cutover) from both servers and forgets the pipeline: it can't be \
             resumed. Copied data stays on green.\nRun it again with --yes."
        );
        return EXIT_USAGE;
    }
    if !args.yes {
        eprintln!(
            "This removes slot {}, publication {}, the way back and our own tables, and forgets the pipeline: it \
             can't be resumed. Copied data stays on green.\nRun it again with --yes.",
            config.slot(),
            config.publication()
        );
        return EXIT_USAGE;
    }
    let removed = match &urls {
        Some(urls) => mysql::teardown(&config, urls).await,
        None => removal::teardown(&config).await,
    };
    match removed {
        Ok(done) => {
            for line in done {
                println!("{line}");
            }
            0
        }
        Err(failure) => {
            eprintln!(
                "error: {}\n  state: what is left is still there; the other parts are removed\n  \
                 data:  safe\n  next:  replicator teardown --yes, again",
                failure.what
            );
            EXIT_ERROR
        }
    }
}

fn usage(error: &dyn std::fmt::Display) -> u8 {
    eprintln!("error: {error}");
    EXIT_USAGE
}

fn endpoints(config: &Config) -> Result<(ConnInfo, ConnInfo), Failure> {
    let wrong = |problem: String| Failure::halt("configuration", problem, "correct it");
    Ok((config.blue.resolve("blue").map_err(wrong)?, config.green.resolve("green").map_err(wrong)?))
}

/// Turns SIGTERM and SIGINT into the stop; never returns.
async fn stop_on_signals(stop: watch::Sender<bool>) {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals can't be received; stop with SIGKILL, which is safe");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping; a second signal ends it at once");
    stop.send_replace(true);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    std::process::exit(EXIT_KILLED)
}
