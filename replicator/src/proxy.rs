//! `replicator proxy`: the embedded proxy as a process of its own, so that clients don't notice
//! when the sidecar is started again, upgraded or killed.

use cutover::proxy::{Proxy, ProxyConfig};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::ProxyArgs;
use crate::pipeline::failure::EXIT_ERROR;

/// Exit code for a command line or a configuration that can't be used.
const EXIT_USAGE: u8 = 2;

/// Serves clients until a signal ends it; their connections end with it.
pub async fn run(args: &ProxyArgs) -> u8 {
    let config = match args.pipeline.resolve() {
        Ok(config) => config,
        Err(error) => return failed(&error, EXIT_USAGE),
    };
    let proxy = match (config.cutover.proxy.clone(), args.client_listen) {
        (Some(proxy), None) => proxy,
        (Some(proxy), Some(listen)) => ProxyConfig { listen, ..proxy },
        (None, Some(listen)) => ProxyConfig::new(listen),
        (None, None) => {
            let what = "the configuration has no [cutover.proxy]; add it, or give --client-listen";
            return failed(&what, EXIT_USAGE);
        }
    };
    let (blue, green) = match (config.blue.resolve("blue"), config.green.resolve("green")) {
        (Ok(blue), Ok(green)) => (blue, green),
        (Err(error), _) | (_, Err(error)) => return failed(&error, EXIT_USAGE),
    };
    let control = proxy.control.clone().unwrap_or_else(|| config.proxy_socket());
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
    }
    drop(proxy);
    0
}

fn failed(error: &dyn std::fmt::Display, code: u8) -> u8 {
    eprintln!("error: {error}");
    code
}
