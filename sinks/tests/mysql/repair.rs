//! The session that repairs.

use std::sync::Arc;

use decoders::change::{Cell, ChangeEvent, Column, ReplicaIdentity, TableId, TableSchema};
use decoders::{Lsn, QualifiedName};
use sinks::mysql::Repairer;

use super::support::{DEADLINE, PAIRS, Pair, url};

fn schema() -> Arc<TableSchema> {
    let column =
        |name: &str| Column { name: name.into(), type_oid: 0, type_modifier: -1, in_key: true };
    Arc::new(TableSchema {
        id: TableId(0),
        name: QualifiedName::new("t", "t"),
        identity: ReplicaIdentity::Full,
        columns: vec![column("id"), column("v")],
    })
}

fn insert(schema: &Arc<TableSchema>, id: &str, v: &str) -> (ChangeEvent, u64) {
    let new = [Cell::text(id), Cell::text(v)].into_iter().collect();
    (ChangeEvent::Insert { table: Arc::clone(schema), new }, 1)
}

async fn repairer(pair: &Pair) -> Repairer {
    drop(pair.target().await);
    Repairer::open(&url(&pair.green), &pair.identity().pipeline).await.unwrap()
}

#[tokio::test]
async fn a_session_that_the_server_has_ended_is_no_obstacle() {
    for versions in PAIRS {
        let pair = Pair::start(versions, "create table t(id int primary key, v varchar(3));");
        let mut repairer = repairer(&pair).await;
        let schema = schema();
        let fitted = repairer.fit(Arc::clone(&schema)).await.unwrap();
        // As by its wait_timeout, while a moment is waited for.
        let id = repairer.rows("select connection_id()").await.unwrap();
        let id = String::from_utf8(id[0][0].clone().unwrap()).unwrap();
        pair.green.run(&format!("kill {id}")).unwrap();
        let gone = format!("select count(*) from information_schema.processlist where id = {id}");
        let ended = || async { Ok((pair.green.value(&gone)? == "0").then_some(())) };
        tests::wait::until("the session to end", DEADLINE, ended).await.unwrap();

        repairer.begin().await.unwrap();
        repairer.write(&fitted, &[insert(&schema, "1", "a")], Lsn::INVALID).await.unwrap();
        repairer.commit().await.unwrap();
        assert_eq!(pair.green.value("select v from t.t").unwrap(), "a", "{}", pair.name());
    }
}

#[tokio::test]
async fn a_row_that_is_refused_is_told_from_a_table_that_can_not_be_written() {
    for versions in PAIRS {
        let pair = Pair::start(versions, "create table t(id int primary key, v varchar(3));");
        let mut repairer = repairer(&pair).await;
        let schema = schema();
        let fitted = repairer.fit(Arc::clone(&schema)).await.unwrap();
        pair.green.run("insert into t.t values (1, 'a')").unwrap();
        for (id, v, conflict) in [("1", "b", true), ("2", "too long", false)] {
            repairer.begin().await.unwrap();
            let written = repairer.write(&fitted, &[insert(&schema, id, v)], Lsn::INVALID).await;
            let error = written.unwrap_err();
            assert!(error.about_row && error.conflict == conflict, "{error}");
        }
        pair.green.run("rename table t.t to t.elsewhere").unwrap();
        repairer.begin().await.unwrap();
        let written = repairer.write(&fitted, &[insert(&schema, "3", "c")], Lsn::INVALID).await;
        let error = written.unwrap_err();
        assert!(!error.about_row, "{error}");
    }
}
