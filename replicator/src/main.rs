//! The sidecar: `replicator run`, `check`, `tail`, `proxy`, `teardown`.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use nix::sys::stat::{Mode, umask};
use replicator::cli::{Cli, Command, LogFormat};
use replicator::{panics, proxy, sidecar, watchdog};
use tracing_subscriber::EnvFilter;

/// A run of the controller is one deep future; without optimization it has filled tokio's 2 MiB. Only
/// what is used takes memory.
const THREAD_STACK_BYTES: usize = 16 << 20;

/// How long threads may take to let go of what they hold.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(300);

fn main() -> ExitCode {
    // Rows and their keys lie in files of ours, and orders come by sockets of ours: for our own user only.
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
    let cli = Cli::parse();
    start_logging(cli.log_format);
    if !matches!(cli.command, Command::Proxy(_)) {
        panics::abort();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_stack_size(THREAD_STACK_BYTES)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the runtime can't be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run(cli.command));
    // Everything that holds RocksDB has to be gone before the process tears down its C++ side, or
    // the exit is an abort. Threads that wait for a server must not hold up the exit for long.
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    ExitCode::from(code)
}

async fn run(command: Command) -> u8 {
    match command {
        Command::Run(args) => {
            // As a task, not on the main thread: the worker that hears a socket can then go on
            // with what waited for it, instead of waking another thread.
            match tokio::spawn(async move { sidecar::run(&args).await }).await {
                Ok(code) => code,
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        Command::Check(args) => sidecar::check(&args).await,
        Command::Tail(args) => sidecar::tail(&args).await,
        Command::Proxy(args) => proxy::run(&args).await,
        Command::Watchdog => watchdog::run().await,
        Command::Teardown(args) => sidecar::teardown(&args).await,
    }
}

fn start_logging(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // A watchdog may outlive whoever reads its log, and must not die of that.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => subscriber.with_target(false).init(),
        LogFormat::Json => subscriber.json().init(),
    }
}
