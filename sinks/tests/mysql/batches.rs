//! Batches come to what their changes come to one by one.

use sinks::Lane;

use super::support::{PAIRS, Pair};

const TABLES: &str = "
  create table t(id bigint unsigned primary key, a varchar(20), b decimal(12,4), u int, unique key(u));
  create table names(name varchar(20) collate utf8mb4_general_ci primary key, v int, s timestamp(6) default current_timestamp(6) on update current_timestamp(6));
  create table two(x int, y varchar(10), v int, primary key(x, y));";

/// Many changes of the same rows, of keys that move, and of values that several rows share in turn.
fn workload(pair: &Pair) {
    let mut sql = String::from("use t;");
    for n in 0..300u64 {
        let id = u64::MAX - n;
        sql += &format!("insert into t values ({id}, 'x{n}', {n}.5, {n});");
        sql += &format!("insert into two values ({}, 'k{n}', {n});", n % 7);
        sql += &format!("insert into names(name, v) values ('Name{n}', {n});");
    }
    for n in 0..300u64 {
        let id = u64::MAX - n;
        sql += &format!("update t set a = concat(a, '!'), b = b * 2 where id = {id};");
        sql += &format!("update names set v = v + 1 where name = 'name{n}';");
        if n % 3 == 0 {
            sql +=
                &format!("update two set v = -v where y = 'k{n}'; delete from t where id = {id};");
        }
        if n % 5 == 0 {
            sql += &format!("update names set name = 'NAME{n}' where name = 'name{n}';");
            sql += &format!("update two set y = 'm{n}' where y = 'k{n}';");
        }
        if n % 7 == 0 {
            sql += &format!(
                "delete from two where v = {n}; insert into t values ({n}, null, null, null);"
            );
        }
    }
    pair.blue.run(&sql).unwrap();
}

#[tokio::test]
async fn sets_come_to_what_rows_come_to() {
    for versions in PAIRS {
        for at_once in [1, 40, usize::MAX] {
            let pair = Pair::start(versions, TABLES);
            let mut opened = pair.open().await;
            workload(&pair);
            opened.catch_up(&pair.blue, at_once).await;
            pair.assert_same(&["t", "names", "two"]);
            if at_once > 1 {
                assert!(opened.lane.ways().as_a_whole > 0, "{:?}", opened.lane.ways());
            }
            opened.close().await;
        }
    }
}

/// A unique value that moves between rows is refused as a set and succeeds in blue's order.
#[tokio::test]
async fn unique_values_that_move_are_written_in_order() {
    for versions in PAIRS {
        let pair = Pair::start(versions, TABLES);
        let mut opened = pair.open().await;
        let rows: Vec<String> = (0..40).map(|n| format!("({n},'a',0,{n})")).collect();
        pair.blue.run(&format!("insert into t.t values {}", rows.join(","))).unwrap();
        opened.catch_up(&pair.blue, 1).await;
        let mut sql = String::from("use t; begin;");
        for n in 0..20 {
            sql += &format!(
                "update t set u = null where id = {n}; update t set u = {n} where id = {};
                 update t set u = {} where id = {n};",
                n + 20,
                n + 20
            );
        }
        pair.blue.run(&(sql + "commit;")).unwrap();
        opened.catch_up(&pair.blue, 1).await;
        pair.assert_same(&["t"]);
        assert_eq!(opened.lane.ways().refused, 1);
        pair.blue.run("truncate table t.t; insert into t.t values (1,'a',1,1);").unwrap();
        opened.catch_up(&pair.blue, usize::MAX).await;
        pair.assert_same(&["t"]);
        opened.close().await;
    }
}

/// What blue's foreign keys did to other rows is on green, whether blue has logged it or not.
#[tokio::test]
async fn cascades_are_repeated_once() {
    const FAMILY: &str = "
      create table parent(id int primary key, v int);
      create table child(id int primary key, p int, foreign key (p) references parent(id) on delete cascade on update cascade);
      create table loose(id int primary key, p int, foreign key (p) references parent(id) on delete set null);";
    for versions in PAIRS {
        for at_once in [1, usize::MAX] {
            let pair = Pair::start(versions, FAMILY);
            let mut opened = pair.open().await;
            let mut sql = String::from("use t;");
            for n in 0..30 {
                sql += &format!(
                    "insert into parent values ({n}, 0); insert into child values ({n}, {n}), ({}, {n});
                     insert into loose values ({n}, {n});",
                    n + 100
                );
            }
            sql += "update parent set id = id + 1000 where id between 20 and 25;";
            sql += "delete from loose where p > 1000; delete from parent where id < 10;";
            sql += "begin; delete from parent where id = 11; insert into parent values (11, 5);
                    insert into child values (11, 11); commit;";
            // A parent that loose rows refer to keeps its key.
            let sql = sql.replace(
                "update parent set id = id + 1000",
                "delete from loose where p between 20 and 25; update parent set id = id + 1000",
            );
            pair.blue.run(&sql).unwrap();
            opened.catch_up(&pair.blue, at_once).await;
            pair.assert_same(&["parent", "child", "loose"]);
            opened.close().await;
        }
    }
}

/// A transaction in parts is one transaction of green, also if a part is refused as a set.
#[tokio::test]
async fn large_transactions_come_in_parts_and_at_once() {
    for versions in PAIRS {
        let pair = Pair::start(versions, TABLES);
        let mut opened = pair.open_in_parts(20_000).await;
        let mut sql = String::from("use t; begin;");
        for n in 0..2000 {
            sql += &format!("insert into t values ({n}, 'row {n}', {n}, {n});");
        }
        // Values that move, in the middle of it.
        for n in 0..50 {
            sql += &format!(
                "update t set u = null where id = {n}; update t set u = {n} where id = {};
                 update t set u = {} where id = {n};",
                n + 1000,
                n + 1000
            );
        }
        for n in 0..500 {
            sql += &format!("delete from t where id = {};", n * 3);
        }
        pair.blue.run(&(sql + "commit;")).unwrap();
        let parts = opened.read(&pair.blue).await;
        assert!(parts.len() > 5, "{} parts", parts.len());
        for part in &parts {
            assert_eq!(pair.green.value("select count(*) from t.t").unwrap(), "0");
            opened.lane.apply(std::slice::from_ref(part)).await.unwrap();
        }
        pair.assert_same(&["t"]);
        assert!(opened.lane.ways().refused > 0, "{:?}", opened.lane.ways());
        opened.close().await;
    }
}
