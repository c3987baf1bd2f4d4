//! All types of all servers.

use anyhow::{Context, Result, ensure};
use cutover::verify::{Mode, Predicate, Verdict};
use tests::mysql::{Mysql, Version};

use super::rows::{TYPES, TYPES_MARIADB, TYPES_MYSQL, keyed_by_everything};
use super::servers::{self, pair};
use super::support::{EXACT, PAIRS, copy, found, is_equal, request, verify};

async fn filled(versions: (Version, Version)) -> Result<(Mysql, Mysql)> {
    let (blue, green) = pair(versions)?;
    blue.run(TYPES)?;
    blue.run(if versions.0.is_mariadb() { TYPES_MARIADB } else { TYPES_MYSQL })?;
    blue.run(&keyed_by_everything(versions.0))?;
    if versions.0.is_mariadb() {
        blue.run(
            "use t; create table momentary (id int primary key, v int, a datetime(6) as (now(6)) virtual,
               c int as (connection_id()) virtual, d int as (v + 1) virtual);
             insert into momentary (id, v) values (1, 2);
             create table versions (id int primary key, v int) with system versioning;
             create table periods (id int primary key, v int, st timestamp(6) generated always as row start,
               en timestamp(6) generated always as row end, period for system_time (st, en)) with system versioning;
             insert into versions values (1, 2), (2, 3); insert into periods (id, v) values (1, 2), (2, 3);
             update versions set v = 5; update periods set v = 5 where id = 1;",
        )?;
    }
    copy(&blue, &green).await?;
    Ok((blue, green))
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_of_all_types_are_equal() -> Result<()> {
    for versions in servers::PAIRS {
        let (blue, green) = filled(versions).await?;
        // Settings of a server must not show in what is compared.
        for (name, value) in [
            ("time_zone", "'+05:30'"),
            ("sql_mode", "'PAD_CHAR_TO_FULL_LENGTH,ANSI_QUOTES,NO_ZERO_DATE'"),
            ("div_precision_increment", "9"),
            ("character_set_connection", "'latin1'"),
        ] {
            green.run(&format!("set global {name} = {value}"))?;
        }
        let rows = blue.value("select count(*) from t.seqs")?.parse::<u64>()?;
        for mode in [Mode::Checksum, Mode::Full, Mode::Count, Mode::Sample] {
            let report = verify(&blue, &green, request(mode)).await?;
            is_equal(&report).with_context(|| format!("{versions:?} {mode:?}"))?;
            // The servers' own sums have proven it.
            ensure!(
                report.tables.iter().all(|table| table.rechecked == 0),
                "{versions:?} {mode:?}"
            );
            let table = |name: &str| {
                let of = |table: &&cutover::verify::TableReport| table.table.ends_with(name);
                report.tables.iter().find(of).with_context(|| format!("{name} is not compared"))
            };
            let seqs = table("`seqs`")?;
            match mode {
                Mode::Sample => ensure!(seqs.chunks < seqs.chunks_in_all, "{seqs:?}"),
                _ => ensure!(seqs.rows == rows && seqs.chunks == seqs.chunks_in_all, "{seqs:?}"),
            }
            ensure!(seqs.chunks_in_all > 20, "{seqs:?}");
            ensure!(table("`by_latin`")?.chunks_in_all > 20);
            ensure!(table("`keyless`")?.rows == 3 && table("`texts`")?.key == ["id"]);
        }
    }
    Ok(())
}

/// Every column that may be NULL becomes NULL, in one row of each table.
#[tokio::test(flavor = "multi_thread")]
async fn no_column_of_any_type_is_left_out() -> Result<()> {
    for versions in PAIRS {
        let (blue, green) = filled(versions).await?;
        let tables = ["numbers", "times", "texts", "shapes", "made", "own"];
        let mut expected = Vec::new();
        for table in tables {
            let sql = format!(
                "select column_name from information_schema.columns where table_schema = 't'
                   and table_name = '{table}' and is_nullable = 'YES'
                   and generation_expression is null or table_schema = 't' and table_name = '{table}'
                   and is_nullable = 'YES' and generation_expression = ''"
            );
            let key = if table == "own" && versions.0.is_mariadb() { "u" } else { "id" };
            let mut columns = Vec::new();
            for row in green.rows(&sql)? {
                let column = String::from_utf8(row[0].clone())?;
                let least = format!(
                    "select min(k) from (select {key} as k from t.{table} where {column} is not null) as there"
                );
                green.run(&format!(
                    "set @k = ({least}); update t.{table} set {column} = null where {key} = @k"
                ))?;
                columns.push(column);
            }
            expected.push((table, columns));
        }
        for mode in EXACT {
            let report = verify(&blue, &green, request(mode)).await?;
            ensure!(report.verdict == Verdict::Different);
            for (table, columns) in &expected {
                let rows = found(&report, table).join("\n");
                ensure!(columns.len() >= usize::from(*table == "made"), "{table} {columns:?}");
                for column in columns {
                    let named = rows.split([' ', ',', '\n']).any(|word| word == column);
                    ensure!(named, "{versions:?} {mode:?} {table}.{column}: {rows}");
                }
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_chosen_rows_are_compared() -> Result<()> {
    let (blue, green) = filled(PAIRS[0]).await?;
    green.run("update t.seqs set seq = seq + 100000 where seq > 1500")?;
    let mut request = request(Mode::Checksum);
    request.tables = vec!["t.seqs".into(), "t.keyless".into()];
    let predicate =
        |condition: &str| Predicate { table: "t.seqs".into(), condition: condition.into() };
    request.predicates = vec![predicate("seq <= 1500")];
    let report = verify(&blue, &green, request.clone()).await?;
    is_equal(&report)?;
    ensure!(report.tables.len() == 2 && report.tables.iter().any(|table| table.rows == 1500));
    request.predicates = vec![predicate("seq <= 1501")];
    let report = verify(&blue, &green, request.clone()).await?;
    assert_eq!(found(&report, "seqs"), ["missing [1501]  1:0"]);
    for wrong in ["nothing = 1", "seq = 1 # ", "seq = '\\' or ("] {
        request.predicates = vec![predicate(wrong)];
        ensure!(verify(&blue, &green, request.clone()).await.is_err(), "{wrong}");
    }
    Ok(())
}
