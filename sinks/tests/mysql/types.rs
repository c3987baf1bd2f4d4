//! Every type with the values at its edges comes out on green as blue selects it, row by row and as a
//! set.

use tests::mysql::{Mysql, Version};

use super::support::{PAIRS, Pair};

const TABLES: [&str; 3] = ["numbers", "times", "texts"];
const MYSQL_TABLES: [&str; 4] = ["jsons", "shapes", "hidden", "squeezed"];
const MARIADB_TABLES: [&str; 3] = ["mariadb", "shapes", "squeezed"];

struct Scripts {
    tables: String,
    rows: String,
    names: Vec<&'static str>,
}

fn scripts(version: Version) -> Scripts {
    let (tables, rows, names) = match version.is_mariadb() {
        true => (
            include_str!("types/mariadb.tables.sql"),
            include_str!("types/mariadb.rows.sql"),
            &MARIADB_TABLES[..],
        ),
        false => (
            include_str!("types/mysql.tables.sql"),
            include_str!("types/mysql.rows.sql"),
            &MYSQL_TABLES[..],
        ),
    };
    Scripts {
        tables: format!("{}{tables}", include_str!("types/common.tables.sql")),
        rows: format!("{}{rows}", include_str!("types/common.rows.sql")),
        names: [&TABLES[..], names].concat(),
    }
}

fn fill(blue: &Mysql, rows: &str) {
    blue.run(&format!("use t; set sql_mode = ''; {rows}")).unwrap();
}

/// Through to another server and there again as old images and new ones.
pub async fn through(versions: (Version, Version), at_once: usize) {
    {
        let Scripts { tables, rows, names } = scripts(versions.0);
        let pair = Pair::start(versions, &tables);
        let mut opened = pair.open().await;
        fill(&pair.blue, &rows);
        opened.catch_up(&pair.blue, at_once).await;
        pair.assert_same(&names);
        // Every row once more as an old image and a new one, and half of them as a delete.
        for name in &names {
            pair.blue
                .run(&format!(
                    "use t; set sql_mode = ''; update {name} set id = id + 1000000;
                     delete from {name} where id % 2 = 1; update {name} set id = id - 1000000;"
                ))
                .unwrap();
        }
        opened.catch_up(&pair.blue, at_once).await;
        pair.assert_same(&names);
        assert!(opened.lane.event_statements() > 0 || at_once == 1, "{}", pair.name());
        opened.close().await;
    }
}

#[tokio::test]
async fn all_types_go_through_row_by_row() {
    for versions in PAIRS {
        through(versions, 1).await;
    }
}

#[tokio::test]
async fn all_types_go_through_as_sets() {
    for versions in PAIRS {
        through(versions, usize::MAX).await;
    }
}

/// Rows are told apart exactly where no key does it: collations, spaces and NULLs.
#[tokio::test]
async fn rows_without_a_key_are_found_by_all_their_values() {
    for versions in PAIRS {
        let json = if versions.0.is_mariadb() { "" } else { ", j json" };
        let table = format!(
            "create table keyless(v varchar(10) character set latin1, n decimal(6,2), f float, b varbinary(4),
               e enum('a','b'), g geometry, p datetime(3){json});"
        );
        let pair = Pair::start(versions, &table);
        let mut opened = pair.open().await;
        let columns = "(v, n, f, b, e, g, p)";
        pair.blue
            .run(&format!(
                "use t; insert into keyless {columns} values
                 ('a',1,1.1,x'00','a',point(1,2),'2024-01-01 00:00:00.5'),
                 ('A',1,1.1,x'00','a',point(1,2),'2024-01-01 00:00:00.5'),
                 ('ä',1,1.1,x'00','b',point(1,2),'2024-01-01 00:00:00.5'),
                 ('a ',1,1.1,x'00','a',point(1,2),'2024-01-01 00:00:00.5'),
                 ('a',1,1.1,x'00','a',point(1,2),'2024-01-01 00:00:00.5'),
                 (null,null,null,null,null,null,null), ('b',2,null,x'00ff',null,null,null);
                 update keyless set n = 3 where v = binary 'A'; delete from keyless where hex(v) = 'E4';
                 update keyless set n = 7 where v = binary 'a' limit 1;
                 delete from keyless where v is null; update keyless set b = x'00' where v = 'b';"
            ))
            .unwrap();
        opened.catch_up(&pair.blue, 1).await;
        pair.assert_same(&["keyless"]);
        assert_eq!(pair.green.value("select count(*) from t.keyless").unwrap(), "5");
        opened.close().await;
    }
}
