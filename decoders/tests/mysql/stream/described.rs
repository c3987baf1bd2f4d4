//! Binlogs that describe their tables too little: the catalog has to say the rest.

use decoders::source::Disposition;
use tests::mysql::Version;

use super::support::{after, failing, lines, open, options, server};

#[tokio::test]
async fn without_metadata_the_catalog_tells_names_and_types() {
    for version in Version::ALL {
        let metadata = if version.is_mariadb() { "NO_LOG" } else { "MINIMAL" };
        let server = server(version, &[&format!("--binlog-row-metadata={metadata}")]);
        let mut stream = open(&server, options(&server)).await;
        let mut found = after(
            &server,
            &mut stream,
            "use t; create table a(`ü` bigint unsigned, id int, e enum('no','yes'),
               c varchar(9) character set latin1, primary key (id));
             insert into a values (18446744073709551615, -1, 'yes', _latin1 x'e9');",
        )
        .await;
        let altered = "use t; alter table a add column m mediumint unsigned first;
                       insert into a values (16777215, 0, 1, 'no', 'x');";
        found.extend(after(&server, &mut stream, altered).await);
        let name = version.name();
        let rows: Vec<_> = lines(&found).into_iter().filter(|line| line.starts_with('+')).collect();
        assert_eq!(rows, ["+a 18446744073709551615,-1,yes,é", "+a 16777215,0,1,no,x"], "{name}");
        let tables: Vec<_> = found.iter().flat_map(|t| t.rows()).collect();
        let [first, second] = tables[..] else { panic!("{name}: {tables:?}") };
        let columns = |change: &decoders::ChangeEvent| {
            let decoders::ChangeEvent::Insert { table, .. } = change else { panic!("{name}") };
            let names: Vec<_> = table.columns.iter().map(|column| column.name.clone()).collect();
            let key: Vec<_> = table.key_positions().collect();
            (table.id, names.join(" "), key)
        };
        let ((one, before, key), (other, behind, key_behind)) = (columns(first), columns(second));
        assert_eq!((before.as_str(), key), ("ü id e c", vec![1]), "{name}");
        assert_eq!((behind.as_str(), key_behind), ("m ü id e c", vec![2]), "{name}");
        assert_eq!(one, other, "{name}: it is the same table");
    }
}

/// What the catalog says now is not what it was: nothing is guessed.
#[tokio::test]
async fn a_table_that_has_changed_since_stops_the_stream() {
    for version in Version::ALL {
        let metadata = if version.is_mariadb() { "NO_LOG" } else { "MINIMAL" };
        let server = server(version, &[&format!("--binlog-row-metadata={metadata}")]);
        server
            .run("use t; create table a(id int primary key); create table b(id int primary key)")
            .unwrap();
        for (table, after) in [("a", "alter table t.a add column v int"), ("b", "drop table t.b")] {
            let mut stream = open(&server, options(&server)).await;
            server.run(&format!("insert into t.{table} values (1); {after}")).unwrap();
            let error = failing(&mut stream).await;
            assert_eq!(error.disposition, Disposition::Halt);
            let text = error.to_string();
            assert!(text.contains(&format!("\"t\".\"{table}\"")), "{}: {text}", version.name());
            let remedy = error.remedy.unwrap();
            assert!(
                remedy.contains("binlog_row_metadata") || remedy.contains("--exclude-table"),
                "{remedy}"
            );
        }
    }
}

/// The binlog of MariaDB has UUIDs and addresses as bytes, whatever its metadata.
#[tokio::test]
async fn types_that_mariadb_stores_as_bytes_are_told_from_bytes() {
    let server = server(Version::Mariadb11_8, &[]);
    let mut stream = open(&server, options(&server)).await;
    let found = after(
        &server,
        &mut stream,
        "use t; create table a(id int primary key, u uuid, i4 inet4, i6 inet6, b binary(4), c char(16));
         insert into a values (1, '6ba7b810-9dad-11d1-80b4-00c04fd430c8', '1.2.3.4', '::1', 'abcd', 'x');",
    )
    .await;
    let expected = "+a 1,6ba7b810-9dad-11d1-80b4-00c04fd430c8,1.2.3.4,::1,abcd,x";
    assert_eq!(lines(&found)[1], expected);
}
