//! Schema changes on a green whose settings and rights are not blue's.

use std::sync::Arc;

use decoders::change::{ChangeEvent, Definition};
use decoders::source::Disposition;
use sinks::Lane;
use tests::mysql::Version;

use super::support::{PAIRS, Pair};

fn start(versions: (Version, Version), tables: &str) -> Pair {
    Pair { applies_definitions: true, ..Pair::start(versions, tables) }
}

/// A session that says nothing of a setting gets green's own, and not that of the statement before.
#[tokio::test]
async fn settings_of_one_schema_change_are_not_those_of_the_next() {
    const EXPLICIT: &str = "explicit_defaults_for_timestamp";
    for versions in PAIRS {
        let pair = start(versions, "");
        pair.blue
            .run(&format!(
                "use t; set {EXPLICIT} = 0; create table a(id int primary key, x timestamp);
                 set {EXPLICIT} = 1; create table b(id int primary key, x timestamp);"
            ))
            .unwrap();
        let mut opened = pair.open().await;
        let mut all = opened.read(&pair.blue).await;
        for change in &mut all.last_mut().unwrap().changes {
            if let ChangeEvent::Definition(definition) = change {
                let mut silent = Definition::clone(definition);
                silent.settings.retain(|setting| setting.name != EXPLICIT);
                *definition = Arc::new(silent);
            }
        }
        for each in &all {
            opened.lane.apply(std::slice::from_ref(each)).await.unwrap();
        }
        let nullable = "select group_concat(is_nullable order by table_name)
                        from information_schema.columns where table_schema = 't' and column_name = 'x'";
        assert_eq!(pair.green.value(nullable).unwrap(), "NO,YES", "{}", pair.name());
        opened.close().await;
    }
}

#[tokio::test]
async fn a_green_that_makes_primary_keys_by_itself_has_blues_columns() {
    let pair = start((Version::Mysql9_7, Version::Mysql9_7), "");
    pair.green.run("set global sql_generate_invisible_primary_key = 1").unwrap();
    pair.blue.run("use t; create table a(x int); insert into a values (1)").unwrap();
    let mut opened = pair.open().await;
    opened.catch_up(&pair.blue, 1).await;
    opened.close().await;
    let columns = "select group_concat(column_name) from information_schema.columns
                   where table_schema = 't'";
    assert_eq!(pair.green.value(columns).unwrap(), "x");
    pair.assert_same(&["a"]);
}

#[tokio::test]
async fn a_schema_change_of_many_tables_is_noted_with_all_their_names() {
    for versions in PAIRS {
        let pair = start(versions, "");
        let names: Vec<String> = (0..1100).map(|n| format!("t{n:063}")).collect();
        pair.blue.run(&format!("use t; drop table if exists {}", names.join(","))).unwrap();
        let mut opened = pair.open().await;
        opened.catch_up(&pair.blue, 1).await;
        opened.close().await;
        let noted = "select length(objects) > 65535, state from _cutover.definition";
        assert_eq!(pair.green.rows(noted).unwrap(), [[b"1".to_vec(), b"done".to_vec()]]);
    }
}

#[tokio::test]
async fn a_view_of_another_definer_waits_for_the_right_to_make_it() {
    for versions in PAIRS {
        let pair = start(versions, "create table t(id int primary key); insert into t values (1)");
        let right = if versions.1.is_mariadb() { "set user" } else { "set_any_definer, super" };
        pair.green.run(&format!("revoke {right} on *.* from 'cutover'@'%'")).unwrap();
        pair.blue.run("create view t.v as select id from t.t").unwrap();
        let mut opened = pair.open().await;
        let all = opened.read(&pair.blue).await;
        let error = opened.lane.apply(&all).await.unwrap_err();
        let told = format!("{error} {}", error.remedy.clone().unwrap_or_default());
        assert_eq!(error.disposition, Disposition::Halt, "{told}");
        assert!(told.contains("SET_ANY_DEFINER on MySQL, SET USER on MariaDB"), "{told}");
        opened.close().await;
        let first = right.split(',').next().unwrap();
        pair.green.run(&format!("grant {first} on *.* to 'cutover'@'%'")).unwrap();
        let mut opened = pair.open().await;
        opened.catch_up(&pair.blue, 1).await;
        opened.close().await;
        let definer = "select definer from information_schema.views where table_schema = 't'";
        let [blue, green] = [&pair.blue, &pair.green].map(|server| server.value(definer).unwrap());
        assert_eq!(green, blue);
        assert_eq!(pair.green.value("select id from t.v").unwrap(), "1", "{}", pair.name());
    }
}
