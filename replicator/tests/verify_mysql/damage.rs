//! Damage of every kind, in one copy, all of it found and nothing else.

use anyhow::{Context, Result, ensure};
use cutover::verify::{Mode, Verdict};
use tests::mysql::{Mysql, Version};

use super::servers::pair;
use super::support::{EXACT, PAIRS, copy, found, is_equal, request, verify};

fn fill(blue: &Mysql) -> Result<()> {
    blue.run(
        "create database d; use d;
         create table wide (id int primary key, txt varchar(50) character set utf8mb4, n int,
           body longblob, l varchar(300) character set latin1 collate latin1_swedish_ci, f float, g double,
           c decimal(20,6), ts timestamp(6) null, dt datetime(3), t time(2), e enum('a','b'), s set('x','y'), b bit(12),
           big bigint unsigned, j json, twice int as (n * 2) stored, hidden int invisible default 3);
         insert into wide (id, txt, n, body, l, f, g, c, ts, dt, t, e, s, b, big, j)
         with recursive q (i) as (select 1 union all select i + 1 from q where i < 900)
           select i, concat('Text ', i), i, concat(repeat(char(i % 256), 20000), i), concat('l', i), 1, 0.1, i / 7,
             '2024-03-31 02:30:00.000001', '2024-02-29', '-12:30:00.01', 'a', 'x', b'101', 18446744073709551615,
             '{\"a\": [1, 2.5]}' from q;
         update wide set txt = null where id = 45; update wide set txt = '' where id = 46;
         update wide set g = -1.2345678901234567e-300 where id = 102;
         create table words (k varchar(20) character set latin1 collate latin1_swedish_ci, v int, primary key (k, v));
         insert into words select concat('word', id), 1 from wide;
         create table loose (a int, v varchar(20) character set utf8mb4, f double);
         insert into loose select id % 100, 'v', 0.1 from wide; insert into loose values (null, null, null), (null, '', null);
         create table reals (f double primary key, v int) ; insert into reals select id / 3, id from wide;",
    )
}

/// What green suffers, and what has to be said of it.
const WIDE: [(&str, &[&str]); 22] = [
    (
        "update wide set body = concat(left(body, 15000), 'X', substr(body, 15002)) where id = 17",
        &["different [17] body 1:1"],
    ),
    ("delete from wide where id = 230", &["missing [230]  1:0"]),
    ("insert into wide (id) values (100001), (-5)", &["extra [-5]  0:1", "extra [100001]  0:1"]),
    (
        "update wide set txt = if(id = 31, 'Text 32', 'Text 31') where id in (31, 32)",
        &["different [31] txt 1:1", "different [32] txt 1:1"],
    ),
    ("update wide set txt = '' where id = 45", &["different [45] txt 1:1"]),
    ("update wide set txt = null where id = 46", &["different [46] txt 1:1"]),
    ("update wide set txt = concat(txt, ' ') where id = 60", &["different [60] txt 1:1"]),
    ("update wide set ts = ts + interval 1 hour where id = 77", &["different [77] ts 1:1"]),
    ("update wide set f = 1.0000001 where id = 88", &["different [88] f 1:1"]),
    ("update wide set g = 0.10000000000000002 where id = 89", &["different [89] g 1:1"]),
    // More digits than MySQL gives a DOUBLE in an expression.
    (
        "update wide set g = g * (1 + 2.220446049250313e-16) where id = 102",
        &["different [102] g 1:1"],
    ),
    ("update wide set c = c + 0.000001 where id = 90", &["different [90] c 1:1"]),
    ("update wide set txt = 'TEXT 91' where id = 91", &["different [91] txt 1:1"]),
    ("update wide set hidden = 4 where id = 93", &["different [93] hidden 1:1"]),
    ("update wide set n = 7 where id = 94", &["different [94] n,twice 1:1"]),
    ("update wide set b = b'1101', e = 'b' where id = 95", &["different [95] e,b 1:1"]),
    ("update wide set s = 'x,y', big = big - 1 where id = 96", &["different [96] s,big 1:1"]),
    ("update wide set t = '-12:30:00.02' where id = 97", &["different [97] t 1:1"]),
    ("update wide set dt = '2024-02-29 00:00:00.001' where id = 98", &["different [98] dt 1:1"]),
    ("update wide set j = '{\"a\": [1, 2.6]}' where id = 99", &["different [99] j 1:1"]),
    ("update wide set l = 'L101' where id = 101", &["different [101] l 1:1"]),
    (
        "update wide a join wide b on b.id = 801 set a.body = b.body, a.n = b.n where a.id = 800",
        &["different [800] n,body,twice 1:1"],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_damage_is_found_and_named() -> Result<()> {
    for versions in PAIRS {
        let (blue, green) = pair(versions)?;
        fill(&blue)?;
        copy(&blue, &green).await?;
        is_equal(&verify(&blue, &green, request(Mode::Checksum)).await?)?;
        let mut expected = Vec::new();
        for (sql, names) in WIDE {
            green.run(&format!("use d; {sql}"))?;
            expected.extend_from_slice(names);
        }
        expected.sort_unstable();
        green.run(
            "use d; update words set k = 'word7 ' where k = 'word7'; update words set k = 'Word8' where k = 'word8';
             insert into loose values (5, 'v', 0.1), (null, '', null); delete from loose where a = 9;
             insert into loose values (9, 'v ', 0.1);
             update loose set f = 0.10000000000000002 where a = 11;
             update reals set v = 0 where v = 5; delete from reals where v = 600",
        )?;
        for mode in EXACT {
            let report = verify(&blue, &green, request(mode)).await?;
            let place = || format!("{versions:?} {mode:?}");
            ensure!(report.verdict == Verdict::Different);
            assert_eq!(found(&report, "wide"), expected, "{}", place());
            // Another text is another key, even if the server takes it for the same.
            let words = [
                "extra [Word8|1]  0:1",
                "extra [word7 |1]  0:1",
                "missing [word7|1]  1:0",
                "missing [word8|1]  1:0",
            ];
            assert_eq!(found(&report, "words"), words, "{}", place());
            let loose = [
                "extra []  0:1",
                "extra []  0:9",
                "extra []  1:2",
                "extra []  9:10",
                "missing []  9:0",
                "missing []  9:0",
            ];
            assert_eq!(found(&report, "loose"), loose, "{}", place());
            let reals = found(&report, "reals");
            ensure!(reals.len() == 2 && reals[1].starts_with("missing"), "{reals:?}");
        }
        // Content does not matter where only keys are asked for.
        let report = verify(&blue, &green, request(Mode::Count)).await?;
        let keys = ["extra [-5]  0:1", "extra [100001]  0:1", "missing [230]  1:0"];
        assert_eq!(found(&report, "wide"), keys);
        assert_eq!(found(&report, "loose"), ["missing []  902:896"]);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_without_its_key_or_table_is_judged_all_the_same() -> Result<()> {
    for versions in PAIRS {
        let (blue, green) = pair(versions)?;
        fill(&blue)?;
        copy(&blue, &green).await?;
        green.run(
            "use d; alter table words drop primary key; insert into words values ('word7', 1);
             drop table loose; alter table reals drop column v; alter table wide drop column hidden",
        )?;
        for mode in EXACT {
            let report = verify(&blue, &green, request(mode)).await?;
            assert_eq!(found(&report, "words"), ["extra []  1:2"], "{versions:?}");
            assert_eq!(found(&report, "loose"), ["green does not have it"]);
            for table in report.tables.iter().filter(|table| table.key.len() == 1) {
                ensure!(table.left_out.len() == 1 && table.differing() == 0, "{table:?}");
            }
        }
    }
    Ok(())
}

/// A table that was never filled must not fill our memory or the report.
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_copy_is_given_up_soon() -> Result<()> {
    let (blue, green) = pair((Version::Mariadb11_8, Version::Mariadb11_8))?;
    blue.run(
        "create database d; use d; create table many (id int primary key, v int);
         insert into many select seq, 0 from seq_1_to_30000",
    )?;
    copy(&blue, &green).await?;
    green.run("delete from d.many")?;
    let report = verify(&blue, &green, request(Mode::Checksum)).await.context("verifying")?;
    let table = &report.tables[0];
    ensure!(table.cut_short && table.missing >= 10_000 && table.missing < 12_000, "{table:?}");
    ensure!(table.differences.len() == 100);
    // All in one chunk, which is not read to its end: rows that have not met yet are not missing.
    green.run("use d; insert into many select seq, 1 from seq_1_to_30000")?;
    for mode in EXACT {
        let asked = cutover::verify::VerifyRequest { chunk_rows: None, ..request(mode) };
        let report = verify(&blue, &green, asked).await.context("verifying")?;
        let table = &report.tables[0];
        ensure!(table.cut_short && table.different == table.differing(), "{table:?}");
    }
    Ok(())
}
