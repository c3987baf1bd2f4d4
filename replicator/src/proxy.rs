//! `replicator proxy`: the embedded proxy as a process of its own, so that clients don't notice
//! when the sidecar is started again, upgraded or killed. The sidecar starts it: see [`keep`].

mod keep;
mod log;
mod pulse;

use cutover::proxy::Proxy;
use cutover::proxy::control::{Order, order};
use nix::unistd::setsid;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::ProxyArgs;
use crate::config::Config;
use crate::pipeline::failure::EXIT_ERROR;

pub use keep::{Keeper, keep};
pub use pulse::Pulse;

/// Exit code for a command line or a configuration that can't be used.
const EXIT_USAGE: u8 = 2;

/// Serves clients until a signal or an order ends it; their connections end with it.
pub async fn run(args: &ProxyArgs) -> u8 {
    let config = match args.pipeline.resolve() {
        Ok(config) => config,
        Err(error) => return failed(&error, EXIT_USAGE),
    };
    if args.stop {
        return stop(&config).await;
    }
    if args.detached {
        // What ends the sidecar's terminal or process group is not meant for clients.
        if let Err(error) = setsid() {
            tracing::warn!("no session of its own: {error}");
        }
    }
    let Some(proxy) = config.cutover.proxy.clone() else {
        let what = "the configuration names other routers; add [cutover.proxy]";
        return failed(&what, EXIT_USAGE);
    };
    let (blue, green) = match (config.blue.login("blue"), config.green.login("green")) {
        (Ok(blue), Ok(green)) => (blue, green),
        (Err(error), _) | (_, Err(error)) => return failed(&error, EXIT_USAGE),
    };
    let control = proxy.control.clone().unwrap_or_else(|| config.proxy_socket());
    // Started by hand, its log is somebody else's.
    let own_log = args.detached.then(|| log::path(&config));
    let (terminate, interrupt) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (mut terminate, mut interrupt) = match (terminate, interrupt) {
        (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
        (Err(error), _) | (_, Err(error)) => return failed(&error, EXIT_ERROR),
    };
    let proxy = match Proxy::start(proxy, &control, blue, green).await {
        Ok(proxy) => proxy,
        Err(error) => return failed(&error, EXIT_ERROR),
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = proxy.stopped() => {}
        () = log::keep(own_log) => unreachable!("never returns"),
    }
    drop(proxy);
    0
}

/// `replicator proxy --stop`.
async fn stop(config: &Config) -> u8 {
    let proxy = config.cutover.proxy.clone().unwrap_or_default();
    let control = proxy.control.unwrap_or_else(|| config.proxy_socket());
    match order(&control, &Order::Stop).await {
        Ok(answer) => {
            println!("the proxy (pid {}) ends; {} clients were on it", answer.pid, answer.clients);
            0
        }
        Err(error) => failed(&format!("{}: {error}", control.display()), EXIT_ERROR),
    }
}

fn failed(error: &dyn std::fmt::Display, code: u8) -> u8 {
    eprintln!("error: {error}");
    code
}
