//! Binlogs as real servers wrote them, and what the decoder makes of them.
//!
//! `golden/<server>.binlog` is a file of the server, `.txt` beside it a line for each event and each
//! row. `UPDATE=1 cargo test -p decoders --test mysql recorded` records both anew; read the difference
//! before committing it. No Debian suite has a server of MySQL 8.0: `mysql-8.0.binlog` was recorded by others
//! (`tests/parse_file_tests/mysql-bin.000057` of the crate `mysql-binlog-connector-rust` 0.3.3, MIT or Apache-2.0), a
//! server 8.0.31 with compressed transactions, and is never recorded anew.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::PathBuf;

use decoders::mysql::{Body, CatalogColumn, Cell, Event, Layout, Special, Value};
use tests::mysql::{Mysql, Version};

use super::binlog;

const COMMON: &str = "
create database t; use t; set sql_mode = '';
create table defects(id int primary key, m mediumint, t1 time(1), t2 time(2), y year, ts timestamp null,
  v varchar(10) character set latin1, b binary(4), e enum('a','ü'), d decimal(20,5), dt datetime(3));
insert into defects values (1,-1,'-00:00:00.1','-00:00:01.50',0,'2001-02-03 04:05:06',_latin1 x'e980',
  x'01020000','ü',-0.00001,'2024-00-00 00:00:00.5'),(2,-8388608,'-838:59:58.9','-12:34:56.78',1901,null,null,
  null,null,-123456789012345.5,null);
update defects set m = 8388607, y = 2155 where id = 2;
delete from defects where id = 1;
create database t2; drop table if exists t.nothing, t2.nothing;
";

const MYSQL: &str = "
create table jsons(id int primary key, j json); insert into jsons values
 (1, json_object('d', cast(1.50 as decimal(10,2)), 'u', 18446744073709551615, 'x', cast('abc' as binary)));
set binlog_row_value_options = PARTIAL_JSON;
update jsons set j = json_set(j, '$.d', cast(-2.50 as decimal(10,2)));
set binlog_row_value_options = '';
set gtid_next = 'AUTOMATIC:tag'; insert into jsons values (2, '[]'); set gtid_next = AUTOMATIC;
set binlog_transaction_compression = on; insert into jsons values (3, json_array(repeat('z', 300)));
set binlog_transaction_compression = off;
xa start 'x'; insert into jsons values (4, null); xa end 'x'; xa prepare 'x'; xa commit 'x';
create table v(id int primary key, v vector(2), i int invisible, s int as (id) stored); insert into v(id, v) values (1, to_vector('[1,-2]'));
";

const MARIADB: &str = "
create table own(id int unsigned primary key, u uuid, i6 inet6, vc varchar(300) compressed, bc blob compressed);
insert into own values (4000000000, '6ba7b810-9dad-11d1-80b4-00c04fd430c8', '::1', repeat('é', 150), repeat('b', 200));
set global log_bin_compress = on; set global log_bin_compress_min_len = 10;
insert into own values (1, null, null, repeat('long', 60), '');
update own set bc = 'x' where id = 1; delete from own where id = 1;
set global log_bin_compress = off;
set gtid_domain_id = 7; insert into own values (2, null, null, null, null); set gtid_domain_id = 0;
xa start 'x'; insert into own values (3, null, null, null, null); xa end 'x'; xa prepare 'x'; xa commit 'x';
";

const MARIADB_11_8: &str = "
create table late(id int primary key, ts timestamp(3) null, i4 inet4);
insert into late values (1, '2106-02-07 06:28:15.999', '1.2.3.4'), (2, '2100-01-01 00:00:00', null);
";

pub const NAMES: [&str; 3] = ["mariadb-10.11", "mariadb-11.8", "mysql-9.7"];

/// Recorded by others: not of the statements above.
const OF_OTHERS: [&str; 1] = ["mysql-8.0"];

fn path(name: &str) -> PathBuf {
    // Asked for when the test runs: checkouts may share a target directory.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("run by cargo");
    PathBuf::from(package).join("tests/mysql/golden").join(name)
}

/// A recorded binlog.
pub fn load(name: &str) -> Vec<u8> {
    binlog::read(&path(&format!("{name}.binlog")))
}

/// What the catalog would say of the recorded tables.
pub fn catalog(table: &str) -> Vec<CatalogColumn> {
    let special = |special| CatalogColumn { special: Some(special), ..CatalogColumn::default() };
    let plain = CatalogColumn::default;
    match table {
        "own" => vec![plain(), special(Special::Uuid), special(Special::Inet6), plain(), plain()],
        "late" => vec![plain(), plain(), special(Special::Inet4)],
        _ => vec![],
    }
}

fn record(version: Version) {
    let mut server = Mysql::start(version, &[]).unwrap();
    let own = match version {
        Version::Mysql9_7 => MYSQL.to_owned(),
        Version::Mariadb10_11 => MARIADB.to_owned(),
        Version::Mariadb11_8 => MARIADB.to_owned() + MARIADB_11_8,
    };
    server.run(&format!("{COMMON}{own}")).unwrap();
    let file = server.binlogs().unwrap().remove(0);
    server.stop().unwrap();
    let name = version.name().replace('/', "-");
    let file = binlog::read(&file);
    std::fs::write(path(&format!("{name}.txt")), render(&binlog::decode(&file).unwrap())).unwrap();
    std::fs::write(path(&format!("{name}.binlog")), file).unwrap();
}

/// A line for each event, and below row events a line for each row.
fn render(events: &[Event]) -> String {
    let mut out = String::new();
    let mut layouts = HashMap::new();
    for event in events {
        write!(out, "{}: ", event.header.event_type).unwrap();
        match &event.body {
            Body::TableMap(map) => {
                layouts.insert(map.table_id, Layout::new(map, &catalog(&map.table)).unwrap());
                writeln!(out, "{}.{}, key {:?}", map.schema, map.table, map.primary_key).unwrap();
                for column in &map.columns {
                    writeln!(out, "    {column:?}").unwrap();
                }
            }
            Body::Rows(rows) => {
                writeln!(out, "{:?}, flags {}", rows.operation, rows.flags).unwrap();
                let layout = &layouts[&rows.table_id];
                let mut reader = rows.reader(layout).unwrap();
                while let Some(change) = reader.read().unwrap() {
                    for image in
                        [change.has_before().then_some(true), change.has_after().then_some(false)]
                    {
                        let Some(before) = image else { continue };
                        let cells = (0..rows.width).map(|column| match before {
                            true => show(&change.before(column).unwrap()),
                            false => show(&change.after(column).unwrap()),
                        });
                        let cells: Vec<String> = cells.collect();
                        writeln!(
                            out,
                            "    {} {}",
                            if before { '-' } else { '+' },
                            cells.join(" | ")
                        )
                        .unwrap();
                    }
                }
            }
            Body::Query(query) => {
                writeln!(out, "{:?} in {:?}", query.text().unwrap(), query.schema).unwrap()
            }
            other => writeln!(out, "{other:?}").unwrap(),
        }
    }
    out
}

fn show(cell: &Cell) -> String {
    match cell {
        Cell::Absent => "(absent)".to_owned(),
        Cell::Value(Value::Null) => "NULL".to_owned(),
        Cell::Value(value) => value.text().unwrap().escape_ascii().to_string(),
    }
}

#[test]
fn recorded_binlogs_mean_what_is_written_beside_them() {
    if std::env::var_os("UPDATE").is_some() {
        Version::ALL.into_iter().for_each(record);
    }
    for name in NAMES.into_iter().chain(OF_OTHERS) {
        let expected = std::fs::read_to_string(path(&format!("{name}.txt"))).unwrap();
        let found = render(&binlog::decode(&load(name)).unwrap());
        assert!(found == expected, "{name}: not what is expected; it is now\n{found}");
    }
}

/// The texts of a column in all new images of `t.<table>`.
pub fn column(name: &str, table: &str, column: usize) -> Vec<Option<String>> {
    let events = binlog::decode(&load(name)).unwrap();
    let mut layouts = HashMap::new();
    let mut texts = Vec::new();
    for event in &events {
        match &event.body {
            Body::TableMap(map) if map.table == table => {
                layouts.insert(map.table_id, Layout::new(map, &catalog(table)).unwrap());
            }
            Body::Rows(rows) => {
                let Some(layout) = layouts.get(&rows.table_id) else { continue };
                let mut reader = rows.reader(layout).unwrap();
                while let Some(change) = reader.read().unwrap() {
                    if let Cell::Value(value) = change.after(column).unwrap() {
                        texts.push(value.text().map(|text| String::from_utf8(text).unwrap()));
                    }
                }
            }
            _ => {}
        }
    }
    texts
}
