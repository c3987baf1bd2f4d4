//! What a caller would read from `information_schema`.

use decoders::mysql::charset::Charset;
use decoders::mysql::{CatalogColumn, Special, labels};
use tests::mysql::Mysql;

/// The columns of `t.<table>` in their order.
pub fn columns(server: &Mysql, table: &str) -> Vec<CatalogColumn> {
    let sql = format!(
        "select data_type, column_type, ifnull(character_set_name, '')
           from information_schema.columns
          where table_schema = 't' and table_name = '{table}' order by ordinal_position"
    );
    server.rows(&sql).unwrap().iter().map(|row| column(row)).collect()
}

fn column(row: &[Vec<u8>]) -> CatalogColumn {
    let text = |at: usize| String::from_utf8(row[at].clone()).unwrap();
    let (data_type, column_type, charset) = (text(0), text(1), text(2));
    let binary = matches!(data_type.as_str(), "binary" | "varbinary" | "vector")
        || data_type.ends_with("blob");
    CatalogColumn {
        unsigned: Some(column_type.contains("unsigned") || column_type.contains("zerofill")),
        charset: if binary { Some(Charset::Binary) } else { Charset::by_name(&charset) },
        labels: labels(&column_type),
        special: match data_type.as_str() {
            "uuid" => Some(Special::Uuid),
            "inet4" => Some(Special::Inet4),
            "inet6" => Some(Special::Inet6),
            _ => None,
        },
    }
}
