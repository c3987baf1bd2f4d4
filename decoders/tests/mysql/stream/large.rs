//! Transactions that are larger than what may be in memory.

use decoders::change::Part;
use tests::mysql::Version;

use super::support::{head, next, open, options, server};

const PART_BYTES: usize = 256 << 10;

async fn in_parts(version: Version, prepare: &str) {
    let server = server(version, &[]);
    server.run("create table t.a(id int primary key auto_increment, v varchar(500))").unwrap();
    let mut options = options(&server);
    options.part_bytes = PART_BYTES;
    let mut stream = open(&server, options).await;
    server
        .run(&format!(
            "use t; {prepare} begin; insert into a(v) values (repeat('x', 400));
             {} update a set v = 'y' order by id limit 16384; commit; insert into a(v) values ('small');",
            "insert into a(v) select v from a;".repeat(15)
        ))
        .unwrap();
    let head = head(&server);
    let mut parts = Vec::new();
    while !stream.position().covers(&head) {
        parts.extend(next(&mut stream).await.unwrap());
    }
    let name = version.name();
    let small = parts.pop().unwrap();
    assert_eq!((small.part, small.changes.len()), (Part::Whole, 1), "{name}");
    let rows: usize = parts.iter().map(|part| part.changes.len()).sum();
    assert_eq!(rows, (1 << 15) + (1 << 14), "{name}");
    assert!(parts.len() > 20, "{name}: {} parts", parts.len());
    // An event of 8 KiB may take several times that as rows.
    let largest = parts.iter().map(|part| part.bytes).max().unwrap();
    assert!(largest < PART_BYTES + (256 << 10), "{name}: a part has {largest} bytes");
    let last = parts.len() - 1;
    for (at, part) in parts.iter().enumerate() {
        let expected = match at {
            0 => Part::First,
            at if at == last => Part::Last,
            _ => Part::Middle,
        };
        assert_eq!((part.part, part.position.is_some()), (expected, at == last), "{name}");
        assert_eq!(part.id, parts[0].id, "{name}");
    }
}

#[tokio::test]
async fn large_transactions_of_mariadb_come_in_parts() {
    in_parts(Version::Mariadb10_11, "set global log_bin_compress = on;").await;
    in_parts(Version::Mariadb11_8, "").await;
}

#[tokio::test]
async fn large_transactions_of_mysql_come_in_parts() {
    in_parts(Version::Mysql9_7, "").await;
}

#[tokio::test]
async fn large_compressed_transactions_of_mysql_come_in_parts() {
    in_parts(Version::Mysql9_7, "set binlog_transaction_compression = on;").await;
}

/// 16 MiB is where packets of the protocol end, and the servers' default `max_allowed_packet`.
#[tokio::test]
async fn events_larger_than_a_packet_come_whole() {
    for version in Version::ALL {
        let server = server(version, &["--max-allowed-packet=64M"]);
        server.run("create table t.a(id int primary key, v longtext)").unwrap();
        let mut stream = open(&server, options(&server)).await;
        server
            .run("insert into t.a values (1, repeat('x', 20000000)); update t.a set v = concat(v, 'y');")
            .unwrap();
        let head = head(&server);
        let mut parts = Vec::new();
        while !stream.position().covers(&head) {
            parts.extend(next(&mut stream).await.unwrap());
        }
        // Each is over the part size, so its end comes by itself.
        let sizes: Vec<usize> = parts.iter().map(|part| part.bytes).collect();
        let [insert, 0, update, 0] = sizes[..] else { panic!("{}: {sizes:?}", version.name()) };
        assert!(insert > 20_000_000 && update > 40_000_000, "{sizes:?}");
    }
}
