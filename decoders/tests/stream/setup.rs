//! Publications on servers of every age.

use decoders::postgres::publication::{self, PublicationOptions};
use decoders::{ChangeEvent, QualifiedName};

use crate::stage::{PUBLICATION, Stage, table, transaction};

async fn a_publication_is_made_changed_and_dropped(major: u32) {
    let stage = Stage::new(major).await;
    let odd = QualifiedName::new("S \"x\"", "Größe");
    stage
        .sql(
            "CREATE SCHEMA \"S \"\"x\"\"\"; CREATE TABLE \"S \"\"x\"\"\".\"Größe\" (id int);
             CREATE TABLE a (id int); CREATE TABLE a_child () INHERITS (a)",
        )
        .await;
    let session = &stage.session;
    assert!(!publication::exists(session, PUBLICATION).await.unwrap());
    stage.publish(&[]).await;
    assert!(publication::exists(session, PUBLICATION).await.unwrap());
    publication::add_tables(session, PUBLICATION, &[odd.clone(), table("a")]).await.unwrap();
    let names = async || -> Vec<QualifiedName> {
        let tables = publication::tables(session, PUBLICATION).await.unwrap();
        tables.into_iter().map(|table| table.name).collect()
    };
    assert_eq!(names().await, [odd.clone(), table("a")], "children are listed by themselves");
    publication::drop_tables(session, PUBLICATION, &[table("a")]).await.unwrap();
    assert_eq!(names().await, [odd]);
    let types = publication::column_types(session, &[PUBLICATION.to_owned()]).await.unwrap();
    assert_eq!(types, [23]);
    let again = publication::create(session, PUBLICATION, &[], Default::default()).await;
    let again = again.unwrap_err();
    assert!(again.message.contains("already exists"), "{again}");
    assert!(again.remedy.is_some_and(|remedy| remedy.contains("teardown")));
    publication::drop(session, PUBLICATION).await.unwrap();
    publication::drop(session, PUBLICATION).await.unwrap();
    assert!(!publication::exists(session, PUBLICATION).await.unwrap());
}

#[tokio::test]
async fn a_publication_is_made_changed_and_dropped_10() {
    a_publication_is_made_changed_and_dropped(10).await;
}

#[tokio::test]
async fn a_publication_is_made_changed_and_dropped_18() {
    a_publication_is_made_changed_and_dropped(18).await;
}

#[tokio::test]
async fn partitions_are_named_as_the_publication_says() {
    let stage = Stage::new(15).await;
    stage
        .sql(
            "CREATE TABLE p (id int PRIMARY KEY) PARTITION BY LIST (id);
             CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1)",
        )
        .await;
    for (via_partition_root, name) in [(false, "p1"), (true, "p")] {
        let options = PublicationOptions { via_partition_root };
        let tables = [table("p")];
        publication::create(&stage.session, PUBLICATION, &tables, options).await.unwrap();
        let listed = publication::tables(&stage.session, PUBLICATION).await.unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].name, table(name));
        stage.slot().await;
        let mut stream = stage.stream().await;
        stage.sql("DELETE FROM p; INSERT INTO p VALUES (1)").await;
        let got = transaction(&mut stream).await;
        let Some(ChangeEvent::Insert { table: streamed, .. }) = got.changes.last() else {
            panic!("{got:?}")
        };
        assert_eq!(streamed.name, listed[0].name);
        assert_eq!(streamed.id, listed[0].id);
        stream.close().await.unwrap();
        decoders::postgres::slot::drop(&stage.session, crate::stage::SLOT, None).await.unwrap();
        publication::drop(&stage.session, PUBLICATION).await.unwrap();
    }
}
