//! Row counts of both sides at one moment, and which databases take part.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cutover::Side;
use cutover::verify::Mode;
use decoders::QualifiedName;
use decoders::mysql::server;
use decoders::postgres::catalog::TableFilter;
use mysql_async::prelude::Queryable;
use replicator::verify::mysql::Counting;
use tests::mysql::Mysql;
use tokio::time::Instant;

use super::servers::{pair, url};
use super::support::{PAIRS, Still, copy, found, request, verify};

const DEADLINE: Duration = Duration::from_secs(60);
/// Statements that count, of others than who asks.
const UNDER_WAY: &str = "select count(*) from information_schema.processlist
     where info like '%COUNT(*) AS amount%' and id <> connection_id()";

fn counting<'a>(blue: &Mysql, green: &Mysql) -> Counting<'a, Still> {
    Counting {
        source: (Side::Blue, url(blue)),
        target: (Side::Green, url(green)),
        database: None,
        filter: TableFilter::default(),
        stream: &Still,
        bytes: u64::MAX,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_that_nobody_waits_for_ends_on_the_server() -> Result<()> {
    for versions in PAIRS {
        let (blue, green) = pair(versions)?;
        for server in [&blue, &green] {
            server.run("create database d; create table d.t (id int primary key)")?;
        }
        // A count that takes as long as somebody has the table for himself.
        let mut other = server::connect(&url(&green)).await?;
        other.query_drop("lock tables d.t write").await?;
        let until = Instant::now() + Duration::from_secs(3);
        let counted = counting(&blue, &green).run(until).await.map_err(anyhow::Error::msg)?;
        ensure!(counted.late == [QualifiedName::new("d", "t")], "{counted:?}");
        let name = green.version().name();
        tests::wait::until("the count to end", DEADLINE, || async {
            Ok((green.value(UNDER_WAY)? == "0").then_some(()))
        })
        .await
        .context(name)?;
        other.query_drop("unlock tables").await?;
        let until = Instant::now() + DEADLINE;
        let counted = counting(&blue, &green).run(until).await.map_err(anyhow::Error::msg)?;
        ensure!(counted.tables == [(QualifiedName::new("d", "t"), [0, 0])], "{name}: {counted:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_with_a_name_that_is_postgresqls_own_is_looked_at() -> Result<()> {
    for versions in PAIRS {
        let (blue, green) = pair(versions)?;
        blue.run("create database pg_stats; create table pg_stats.t (id int primary key)")?;
        copy(&blue, &green).await?;
        green.run("insert into pg_stats.t values (7)")?;
        let report = verify(&blue, &green, request(Mode::Checksum)).await?;
        let rows = found(&report, "t");
        ensure!(rows == ["extra [7]  0:1"], "{rows:?}");
        let until = Instant::now() + DEADLINE;
        let counted = counting(&blue, &green).run(until).await.map_err(anyhow::Error::msg)?;
        ensure!(counted.tables == [(QualifiedName::new("pg_stats", "t"), [0, 1])], "{counted:?}");
    }
    Ok(())
}
