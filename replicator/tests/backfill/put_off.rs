//! Constraints that the rows violate: green goes on without them, and gets them when it can.

use anyhow::Result;
use decoders::postgres::session;
use replicator::schema::settle::settle;

use super::catalog;
use super::stage::{DATABASE, Stage};

const TABLES: &str = "
    CREATE TABLE parents (id int PRIMARY KEY);
    CREATE TABLE children (id int PRIMARY KEY, parent int CONSTRAINT child_fk REFERENCES parents,
                           code text);
    CREATE UNIQUE INDEX children_code ON children (lower(code)) WHERE id > 0;
    CREATE TABLE uniq (id int PRIMARY KEY, u int CONSTRAINT uniq_u UNIQUE);
    COMMENT ON CONSTRAINT uniq_u ON uniq IS 'kept';
    CREATE TABLE refers (id int PRIMARY KEY, u int CONSTRAINT refers_u REFERENCES uniq (u));
    INSERT INTO parents VALUES (1);
    INSERT INTO children VALUES (1, 1, 'a'), (2, 1, 'b');
    INSERT INTO uniq VALUES (1, 1), (2, 2);
    INSERT INTO refers VALUES (1, 1)";

#[tokio::test(flavor = "multi_thread")]
async fn what_rows_violate_is_put_off_named_and_made_when_they_are_repaired() -> Result<()> {
    let stage = Stage::new(15, 17).await?;
    stage.on_blue(TABLES).await?;
    let snapshot = stage.snapshot().await?;
    stage.pre_data(&snapshot).await?;
    stage.rows(&snapshot).await?;
    stage
        .on_green(
            "INSERT INTO children VALUES (3, 888, 'c'), (4, 888, 'A'), (5, NULL, NULL), (-1, 1, 'a');
             INSERT INTO uniq VALUES (3, 1), (4, NULL), (5, NULL)",
        )
        .await?;
    let report = stage.post_data().await?;
    assert_eq!(report.warnings.len(), 4, "{report:?}");
    assert!(!format!("{report:?}").contains("888"), "no values: {report:?}");
    let valid = "SELECT convalidated FROM pg_constraint WHERE conname = 'child_fk'";
    assert_eq!(stage.green.value(DATABASE, valid).await?, "f");
    let plain =
        "SELECT indisunique FROM pg_index WHERE indexrelid = 'children_code_not_unique'::regclass";
    assert_eq!(stage.green.value(DATABASE, plain).await?, "f");
    assert_eq!(stage.post_data().await?.statements, 0, "it is not tried at every start");

    let mut green = session::connect(&stage.green_info()?, "test").await?;
    let open = settle(&mut green).await?;
    let rows = |what: &str| {
        let one = open.iter().find(|one| one.what.contains(what)).unwrap();
        one.rows.unwrap()
    };
    assert_eq!((rows("child_fk"), rows("children_code"), rows("uniq_u")), (2, 1, 1), "{open:?}");
    for one in &open {
        // What it counts can be listed.
        let listed = stage.green.rows(DATABASE, &one.find).await?.len();
        assert_eq!(listed > 0, one.rows != Some(0), "{one:?}");
    }
    // One after the other, as somebody repairs them.
    stage.on_green("DELETE FROM children WHERE id = 4").await?;
    let open = settle(&mut green).await?;
    let left: Vec<&str> = open.iter().map(|one| one.what.as_str()).collect();
    assert!(!left.iter().any(|what| what.contains("children_code")), "{left:?}");
    assert_eq!(open.len(), 3, "{left:?}");
    stage.on_green("DELETE FROM children WHERE id <> ALL ('{1,2}')").await?;
    stage.on_green("DELETE FROM uniq WHERE id > 2").await?;
    // A foreign key to a unique constraint comes after it, at the latest with the next look.
    settle(&mut green).await?;
    assert_eq!(settle(&mut green).await?, []);
    catalog::ensure_equal(&stage.blue, &stage.green, DATABASE).await?;
    Ok(())
}
