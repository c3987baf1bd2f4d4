//! Runs the cases on a real server. The frames are read through SQL: the output plugin is the
//! same as behind a walsender, and each frame comes alone.

use bytes::Bytes;
use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::session::{self, Session};
use tests::postgres::Postgres;

use crate::case::{Case, Statement};
use crate::recording::Recording;
use crate::render;

pub async fn record_all(major: u32) {
    let server = Postgres::start_major(major).unwrap();
    for case in Case::all().iter().filter(|case| case.exists_on(major)) {
        record(&server, case).await;
    }
}

async fn connect(server: &Postgres, database: &str) -> Session {
    let info = ConnInfo::parse(&server.url(database)).unwrap();
    let session = session::connect(&info, "golden").await.unwrap();
    session.batch_execute("SET search_path = public").await.unwrap();
    session
}

async fn record(server: &Postgres, case: &Case) {
    let major = server.major();
    let admin = connect(server, "postgres").await;
    let database = format!("golden_{}", case.name);
    admin.batch_execute(&format!("CREATE DATABASE {database}")).await.unwrap();
    let main = connect(server, &database).await;
    let other = connect(server, &database).await;
    run(&main, &other, &case.setup(major)).await;
    let options = case.publication.as_ref().map_or(String::new(), |with| format!(" WITH ({with})"));
    main.batch_execute(&format!("CREATE PUBLICATION golden FOR ALL TABLES{options}"))
        .await
        .unwrap();
    let slot = &database;
    let create = format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')");
    main.batch_execute(&create).await.unwrap();
    run(&main, &other, &case.changes(major)).await;

    let plugin = case.plugin.as_ref().map_or(String::new(), |on| format!(", '{on}', 'true'"));
    let sql = format!(
        "SELECT data FROM pg_logical_slot_get_binary_changes('{slot}', NULL, NULL,
             'proto_version', '1', 'publication_names', 'golden'{plugin})"
    );
    // A session of its own: the others' origin or search_path must not matter.
    let reader = connect(server, &database).await;
    reader.batch_execute("SET search_path = ''").await.unwrap();
    let rows = reader.query(&sql, &[]).await.unwrap();
    let frames: Vec<Bytes> =
        rows.iter().map(|row| Bytes::copy_from_slice(row.get::<_, &[u8]>(0))).collect();
    let drop = format!("SELECT pg_drop_replication_slot('{slot}')");
    admin.batch_execute(&drop).await.unwrap();
    let expected = render::text(&frames);
    Recording { frames, expected }.save(&case.name, major);
}

async fn run(main: &Session, other: &Session, statements: &[Statement<'_>]) {
    for statement in statements {
        let session = if statement.other { other } else { main };
        let done = session.batch_execute(statement.sql).await;
        done.unwrap_or_else(|error| panic!("{}: {error:?}", statement.sql));
    }
}
