//! Clients that are never quiet for long.

use std::collections::BTreeMap;
use std::time::Duration;

use cutover::proxy::control::Order;
use mysql_async::prelude::Queryable;

use super::proxy::{Stage, on_both_families, sites};
use super::support::{Version, until};

on_both_families!(a_busy_client_is_asked_in_a_pause_of_its_own);

async fn a_busy_client_is_asked_in_a_pause_of_its_own(versions: (Version, Version)) {
    let (blue, green) = sites(versions).await;
    let stage = Stage::start(&blue.mover(), &green.mover()).await;
    let mut tied = stage.client().await;
    tied.query_drop("CREATE TEMPORARY TABLE t (x int)").await.unwrap();
    let talking = tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_millis(110));
        while tied.query_drop("SELECT 1").await.is_ok() {
            tick.tick().await;
        }
    });
    let expected = BTreeMap::from([("temporary tables".to_owned(), 1)]);
    until("it is counted", async || stage.must(Order::Survey).await.pinned == expected).await;
    talking.abort();
    // Who never pauses is at least counted.
    let mut restless = stage.client().await;
    let talking =
        tokio::spawn(async move { while restless.query_drop("SELECT 1").await.is_ok() {} });
    until("it is counted", async || stage.must(Order::Survey).await.unasked == 1).await;
    talking.abort();
    until("nobody is left", async || stage.must(Order::Survey).await.unasked == 0).await;
}
