//! A table of an ENUM whose labels stand in another order on the target, for tests.

use cutover::verify::{Mode, VerifyRequest};
use decoders::QualifiedName;
use decoders::mysql::Flavor;
use decoders::mysql::catalog::{ColumnInfo, KeyColumn, TableInfo, TableKind, UniqueKey};
use decoders::mysql::server::Server;

use super::super::plan::TablePlan;
use super::super::side::ByteRow;
use super::images::Images;
use super::subjects::Table;

fn column(name: &str, column_type: &str, position: u32) -> ColumnInfo {
    ColumnInfo {
        name: name.into(),
        position,
        data_type: column_type.split('(').next().unwrap().into(),
        column_type: column_type.into(),
        nullable: false,
        charset: column_type.starts_with("enum").then(|| "utf8mb4".into()),
        collation: column_type.starts_with("enum").then(|| "utf8mb4_bin".into()),
        default: None,
        generated: None,
        invisible: false,
        auto_increment: false,
    }
}

fn info(labels: &str, has_key: bool) -> TableInfo {
    let key = KeyColumn { column: Some("id".into()), prefix: None };
    let key = UniqueKey { name: "PRIMARY".into(), columns: vec![key] };
    TableInfo {
        name: QualifiedName::new("shop", "t"),
        kind: TableKind::Plain,
        engine: Some("InnoDB".into()),
        collation: None,
        auto_increment: None,
        estimated_rows: None,
        bytes: 0,
        columns: vec![column("id", "int", 1), column("e", labels, 2)],
        unique_keys: if has_key { vec![key] } else { Vec::new() },
        foreign_keys: Vec::new(),
        triggers: Vec::new(),
    }
}

/// `t (id int, e enum(..))`.
pub fn table(has_key: bool) -> Table {
    let server = Server {
        flavor: Flavor::Mariadb,
        version: "11.8.3-MariaDB".into(),
        number: (11, 8, 3),
        server_id: 1,
    };
    let (here, there) = (info("enum('a','b')", has_key), info("enum('b','a')", has_key));
    let request = VerifyRequest { mode: Mode::Full, ..VerifyRequest::default() };
    let plan = TablePlan::new(&here, &there, [&server, &server], &request, None);
    Table { plan, images: Images::new(&here, &there).unwrap() }
}

/// A row as a side gives it: what is compared, and the values behind it.
pub fn row(id: &str, compared: &str, label: &str) -> ByteRow {
    [id, compared, id, label].map(|text| Some(text.as_bytes().to_vec())).into()
}
