//! What a verification leaves to others: statements of any text, and tables to alter.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cutover::verify::{Mode, VerifyRequest};
use decoders::mysql::server;
use mysql_async::prelude::Queryable;
use tokio::sync::watch;

use super::servers::{pair, url};
use super::support::{PAIRS, Still, copy, is_equal, request, verification, verify};

const SOON: Duration = Duration::from_secs(60);

/// MySQL's `information_schema` can't show the text of such a statement, and says so to everybody who reads its
/// tables with texts of statements.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_with_a_character_of_four_bytes_stops_nothing() -> Result<()> {
    for versions in PAIRS {
        let (blue, green) = pair(versions)?;
        let name = blue.version().name();
        blue.run("create database w; create table w.a (id int primary key); insert into w.a values (1), (2)")?;
        let over = Arc::new(AtomicBool::new(false));
        let mut client = server::connect(&url(&blue)).await?;
        client.query_drop("begin").await?;
        let writing = tokio::spawn({
            let over = Arc::clone(&over);
            async move {
                // Each is short: behind a long one no moment is looked for.
                while !over.load(Ordering::Relaxed) {
                    client.query_drop("select sleep(0.5), '\u{1f600}' from w.a limit 1").await?;
                }
                client.query_drop("rollback").await
            }
        });
        copy(&blue, &green).await.context(name)?;
        // Not unlimited: it looks for clients that it has to spare.
        let asked = VerifyRequest { unlimited: false, ..request(Mode::Checksum) };
        let report = verify(&blue, &green, asked).await.context(name)?;
        is_equal(&report).context(name)?;
        over.store(true, Ordering::Relaxed);
        writing.await?.context(name)?;
    }
    Ok(())
}

/// They are altered while a larger one is still being compared in the snapshot in which they were read.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_read_can_be_altered_before_the_verification_ends() -> Result<()> {
    // The first two are the largest, and come first; the last has the fewest bytes.
    const FILL: &str = "create database w; use w;
        create table altered (id int primary key, pad varchar(4000) character set latin1);
        insert into altered with recursive s (n) as (select 1 union all select n + 1 from s where n < 200)
          select n, repeat('x', 4000) from s;
        create table emptied like altered; insert into emptied select * from altered;
        create table many (id int primary key);
        insert into many with recursive s (n) as (select 1 union all select n + 1 from s where n < 900)
          select n from s;
        insert into many select id + 900 from many; insert into many select id + 1800 from many;
        create table later (id int primary key); insert into later values (1), (2);
        analyze table altered, emptied, many, later;";
    for versions in PAIRS {
        let (blue, green) = pair(versions)?;
        let name = blue.version().name();
        blue.run(FILL)?;
        copy(&blue, &green).await?;
        // As fast as the tables that are altered are read at once, and the others keep it busy for long after.
        let asked = VerifyRequest {
            rows_per_second: Some(300),
            connections: Some(1),
            rows_only: true,
            ..request(Mode::Checksum)
        };
        let (_going, stop) = watch::channel(false);
        let run = verification(&blue, &green, asked, Still);
        let mut progress = run.progress.subscribe();
        let seen = progress.clone();
        let running = tokio::spawn(run.run(stop));
        let both = progress.wait_for(|progress| progress.rows_done > 400);
        tokio::time::timeout(SOON, both).await.context(name)??;
        for server in [&blue, &green] {
            server.run(
                "alter table w.altered add column more int; truncate w.emptied; truncate w.later",
            )?;
        }
        let done = seen.borrow().rows_done;
        ensure!(
            done < 3600,
            "{name}: {done} rows were compared before the tables could be altered"
        );
        let report = running.await?.context(name)?;
        // What comes later is in another snapshot, and equal there.
        ensure!(report.differences == 0, "{name}: {report:?}");
        let rows = |table: &str| {
            let found = report.tables.iter().find(|one| one.table.ends_with(&format!("`{table}`")));
            found.map(|table| (table.rows, table.error.is_some()))
        };
        assert_eq!(rows("many"), Some((3600, false)), "{name}");
        assert_eq!(rows("later"), Some((0, false)), "{name}");
        assert_eq!(rows("altered"), Some((200, true)), "{name}: its definition is another one now");
    }
    Ok(())
}
