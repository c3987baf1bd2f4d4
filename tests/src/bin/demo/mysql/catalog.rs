//! Tables of many types that are changed while the stream runs and left alone during the cutover:
//! what is on blue then must be on green exactly.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use tests::mysql::numbers::numbers;
use tests::mysql::oltp::Oltp;
use tests::mysql::{DATABASE, Login, Row, Stage};

/// Its rows by table, sorted.
pub type Content = BTreeMap<String, Vec<Row>>;

const ITEMS: u64 = 20_000;

const CREATE: &str = "
    create table items (
        id bigint unsigned auto_increment primary key,
        name varchar(100) character set utf8mb4 not null,
        western varchar(40) character set latin1,
        mood enum('sad', 'ok', 'happy'),
        tags set('new', 'red', 'old'),
        price decimal(12, 2) not null,
        twice decimal(13, 2) generated always as (price * 2) stored,
        small tinyint not null,
        counted bigint unsigned not null,
        spec json,
        weight double,
        flags bit(10),
        day date,
        clock time(3),
        born year,
        at datetime(6),
        seen timestamp(3) null,
        picture mediumblob,
        place point,
        token char(36) character set ascii not null unique,
        key (day));
    create table `Größen & Maße` (
        `Artikel` bigint unsigned not null,
        `Maß` decimal(6, 2) not null,
        primary key (`Artikel`, `Maß`),
        foreign key (`Artikel`) references items (id) on delete cascade);
    create table keyless (n int, t text);
    create table scratchpad (id int primary key, t text);";

/// The tables, and their columns where the client would not show them as they are.
const TABLES: [(&str, &str); 4] = [
    (
        "items",
        "id, name, western, mood, tags, price, twice, small, counted, spec, weight, hex(flags), day, \
         clock, born, at, seen, hex(picture), st_astext(place), token",
    ),
    ("`Größen & Maße`", "*"),
    ("keyless", "*"),
    ("scratchpad", "*"),
];

fn insert(count: u64) -> String {
    let source = numbers(count);
    format!(
        "insert into items (name, western, mood, tags, price, small, counted, spec, weight, flags, day,
                 clock, born, at, seen, picture, place, token)
             select concat('item ', n, ' äöü 💶'), concat('caf', char(233 using latin1), n),
                 elt(1 + n % 4, 'sad', 'ok', 'happy', null), elt(1 + n % 3, '', 'new,old', 'red'),
                 round(n / 7, 2), n % 256 - 128, 18446744073709551615 - n,
                 json_object('n', n, 'list', json_array(n, n / 3, 'ü', null)),
                 n / 3e0, n % 1024, date '2020-02-29' + interval n day,
                 sec_to_time(n - 10000.125), 1901 + n % 200,
                 timestamp '1999-12-31 23:59:59.123456' + interval n minute,
                 if(n % 6 = 0, null, timestamp '2024-02-29 12:00:00.123' + interval n second),
                 unhex(sha2(n, 256)), point(n, -n / 8), uuid()
             from {source};
         insert into `Größen & Maße`
             select id, m from items, (select 1.5 m union all select 2.5) sizes
             where id % 10 = 0 and id not in (select `Artikel` from `Größen & Maße`);
         insert into keyless select n, nullif(concat('row ', n), 'row 7') from {};",
        numbers(50)
    )
}

/// Creates and fills the tables on blue. Gives the number of items.
pub fn create(stage: &Stage) -> Result<u64> {
    stage.on_blue(CREATE).context("the catalog's tables")?;
    stage.on_blue(&insert(ITEMS)).context("the catalog's rows")?;
    let scratchpad = format!("insert into scratchpad select n, 'gone soon' from {}", numbers(100));
    stage.on_blue(&scratchpad).context("the scratchpad")?;
    Ok(ITEMS)
}

/// Every kind of change, some transactions of many rows.
pub fn change(stage: &Stage) -> Result<()> {
    for sql in [
        insert(500).as_str(),
        "update items set price = price + 1 where id % 1000 in (1, 2)",
        "update items set picture = repeat(unhex(sha2(id, 256)), 1500) where id % 1000 = 1",
        "update items set spec = json_set(spec, '$.n', -1, '$.more', 'ß') where id % 100 = 3",
        "update items set name = concat(name, ' ..'), mood = null, place = null where id % 50 = 0",
        "delete from items where id % 70 = 0",
        "update keyless set t = 'changed' where n = 7",
        "delete from keyless where n = 8",
        "update `Größen & Maße` set `Maß` = 3 where `Maß` = 2.5 and `Artikel` % 20 = 0",
        "truncate scratchpad",
        "begin; insert into scratchpad values (1, 'never'); rollback",
    ] {
        stage.on_blue(sql).with_context(|| sql.to_owned())?;
    }
    Ok(())
}

/// What is there now, with the tables of the load.
pub fn read(server: &Login, bulk: Oltp) -> Result<Content> {
    let bulk = bulk
        .names()
        .into_iter()
        .map(|name| (name, "id, k, sha2(c, 256), sha2(pad, 256)".to_owned()));
    let tables = TABLES.map(|(name, columns)| (name.to_owned(), columns.to_owned()));
    let mut content = Content::new();
    for (table, columns) in bulk.chain(tables) {
        let mut rows = server.rows(&format!("select {columns} from {DATABASE}.{table}"))?;
        rows.sort();
        content.insert(table, rows);
    }
    Ok(content)
}

/// Gives the number of rows that are exactly equal, or the first difference of each table.
pub fn compare(expected: &Content, found: &Content) -> Result<u64> {
    let mut differences = Vec::new();
    for (table, rows) in expected {
        let there = found.get(table).with_context(|| format!("no table {table}"))?;
        if let Some((wanted, is)) = rows.iter().zip(there).find(|(wanted, is)| wanted != is) {
            let show = |row: &Row| String::from_utf8_lossy(&row.join(&b'|')).into_owned();
            differences.push(format!("{table}: blue had {}, green has {}", show(wanted), show(is)));
        } else if rows.len() != there.len() {
            let (had, has) = (rows.len(), there.len());
            differences.push(format!("{table}: blue had {had} rows, green has {has}"));
        }
    }
    ensure!(differences.is_empty(), "the catalog differs: {}", differences.join("; "));
    Ok(expected.values().map(|rows| rows.len() as u64).sum())
}
