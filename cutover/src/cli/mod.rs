//! The operator's command `cutover`: a client of the sidecar's HTTP API ([`crate::api`]).
//!
//! It decides nothing about a run. The controller lives in the sidecar, so this process may be
//! killed, lose its terminal or its network at any moment without touching a run.
//!
//! Results go to stdout, one JSON object with `--json`; progress, prompts and errors go to stderr.

mod args;
mod audit;
mod client;
mod confirm;
mod drill;
mod exit;
mod failure;
mod finish;
mod follow;
mod interrupt;
mod look;
mod patience;
mod place;
mod redirect_trap;
mod render;
mod repair;
mod report;
mod run;
mod screen;
mod socket;
mod successor;
mod verify;

use std::process::ExitCode;

use clap::Parser;

pub use exit::Exit;

use crate::side::Direction;

use args::{Cli, Command};
use client::Client;
use failure::Failure;
use screen::Screen;

/// Does what the command line asks for.
pub fn main() -> ExitCode {
    // Before the arguments are looked at: an unquoted `<1s` has left a hole in them, so whatever
    // there is to say about them would be beside the point.
    if let Some(trap) = redirect_trap::sprung() {
        eprintln!("{trap}");
        return Exit::Usage.into();
    }
    let cli = match Cli::try_parse_from(args::words(std::env::args_os())).and_then(Cli::checked) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come as errors that go to stdout with code 0. Nothing is left to
            // do when they can't be written.
            let _unwritten = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() };
        }
    };
    let screen = Screen::new(&cli.common);
    let exit = match dispatch(&cli, &screen) {
        Ok(exit) => exit,
        Err(failure) => {
            screen.failure(&failure);
            failure.exit
        }
    };
    exit.into()
}

fn dispatch(cli: &Cli, screen: &Screen) -> Result<Exit, Failure> {
    let client = Client::new(&cli.common)?;
    match &cli.command {
        None => run::change_over(&client, screen, &cli.common, &cli.run, Direction::Forward),
        Some(Command::Rollback(args)) => {
            run::change_over(&client, screen, &cli.common, args, Direction::Back)
        }
        Some(Command::Finish(args)) => finish::finish(&client, screen, &cli.common, args),
        Some(Command::Plan(args)) => run::show_plan(&client, screen, args),
        Some(Command::Status(args)) => look::status(&client, screen, args),
        Some(Command::Retry) => look::retry(&client, screen, &cli.common),
        Some(Command::Abort(args)) => look::abort(&client, screen, &cli.common, args),
        Some(Command::History) => look::history(&client, screen),
        Some(Command::Drill(args)) => drill::drill(&client, screen, &cli.common, args),
        Some(Command::Report(args)) => report::report(&client, screen, args),
        Some(Command::Audit(args)) => audit::audit(&client, screen, &cli.common, args),
        Some(Command::Verify(args)) => verify::verify(&client, screen, &cli.common, args),
        Some(Command::Repair(args)) => repair::repair(&client, screen, &cli.common, args),
        Some(Command::Wait(args)) => look::wait(client, screen, &cli.common, args),
    }
}
