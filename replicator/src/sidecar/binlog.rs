//! `replicator run` between two servers of MySQL or MariaDB: copy, stream, verify. Without a controller:
//! nothing can be cut over yet, and the API says so.

use std::sync::Arc;

use cutover::{Direction, api};
use decoders::mysql::server::ServerUrl;
use tokio::sync::watch;

use super::{Quiesced, Tasks, of_another_engine, open_chronicle, open_store, stop_on_signals};
use crate::alerts;
use crate::config::Config;
use crate::engine::intake::Budget;
use crate::http::{self, Api, Token};
use crate::pipeline::failure::Failure;
use crate::pipeline::mysql::{BinlogPipeline, CopyFirst, Reading, replica_id, watch_server};
use crate::status::Shared;
use crate::store::RocksJournal;
use crate::verify::Verifier;
use crate::verify::mysql::{BinlogPair, EngineStream};

/// Runs until stopped, or halted by something that only a person can resolve.
///
/// # Errors
/// The failure that halted it.
pub(super) async fn run(config: Config, urls: [ServerUrl; 2]) -> Result<(), Failure> {
    let token = config.api.token_file.as_deref().map(Token::read).transpose();
    let token =
        token.map_err(|problem| Failure::halt("configuration", problem, "write a token"))?;
    let store = open_store(&config.state_dir).await?;
    if store.stage()?.is_some() {
        return Err(of_another_engine(&store, "PostgreSQL"));
    }
    let _quiesced = Quiesced(store.clone());
    let listener = http::bind(config.api.listen).await.map_err(|error| {
        Failure::halt(
            "api",
            format!("{} can't be listened on: {error}", config.api.listen),
            "stop what listens there, or choose another api.listen",
        )
    })?;
    let server = |url: &ServerUrl| api::Server {
        url: url.to_string(),
        database: url.database().unwrap_or_default().to_owned(),
        version: None,
        up: false,
    };
    let [blue, green] = &urls;
    let shared = Arc::new(Shared::new(
        config.name.clone(),
        Direction::Forward,
        server(blue),
        server(green),
        Budget::new(config.apply.memory_bytes),
    ));
    let stop = watch::Sender::new(false);
    let journal = RocksJournal::new(store.clone());
    let chronicle = open_chronicle(&config.state_dir, &journal).await?;

    let mut tasks = Tasks::default();
    let database = blue.database().or(green.database()).map(str::to_owned);
    let reading = Reading::default();
    let pair = BinlogPair {
        source: blue.clone(),
        target: green.clone(),
        database: database.clone(),
        tables: config.tables.clone(),
        stream: EngineStream { shared: Arc::clone(&shared), reading: reading.clone() },
        store: store.clone(),
    };
    let verifier = Verifier::of_binlog(pair, config.state_dir.clone());
    let api = Api { shared: Arc::clone(&shared), verifier, controls: None, chronicle };
    tasks.spawn(http::serve(listener, api, token, stop.subscribe()));
    tasks.spawn(stop_on_signals(stop.clone()));
    let (seen, ours) = (Arc::clone(&shared), reading.clone());
    tasks.spawn(watch_server(
        blue.clone(),
        move |session| ours.opened("probe", session),
        move |version, up| seen.blue_seen(version, up),
    ));
    let seen = Arc::clone(&shared);
    tasks.spawn(watch_server(
        green.clone(),
        |_| {},
        move |version, up| seen.green_seen(version, up),
    ));
    let (read, failed) = (Arc::clone(&shared), Arc::clone(&shared));
    tasks.spawn(alerts::watch(
        config.alerts.clone(),
        config.name.clone(),
        move || read.readings(),
        move || failed.alert_failed(),
    ));
    tracing::info!(
        pipeline = config.name,
        %blue,
        %green,
        api = %config.api.listen,
        "replicator {}",
        env!("CARGO_PKG_VERSION")
    );

    let mut pipeline = BinlogPipeline {
        name: config.name.clone(),
        counterpart: config.reversed().name,
        source: blue.clone(),
        target: green.clone(),
        start: None,
        copy: Some(CopyFirst::of(&config, &urls, replica_id(&config.name))),
        tables: config.tables.clone(),
        database,
        apply: config.apply.clone(),
        store,
        shared: Arc::clone(&shared),
        reading,
        stop: stop.subscribe(),
    };
    pipeline.run().await?;
    shared.enter(api::PipelinePhase::Stopping);
    tracing::info!(pipeline = config.name, "stopped");
    Ok(())
}
