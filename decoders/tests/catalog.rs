//! The catalog readers against real servers, the oldest and the newest among them.

use decoders::postgres::catalog::{
    self, Firing, Identity, MissingIdentity, Persistence, RelationKind, ResolvedIdentity,
    TableFilter, TableInfo, TableKind, TypeDetail,
};
use decoders::{Generated, QualifiedName, ReplicaIdentity};
use tests::postgres::Postgres;

const SCHEMA: &str = r#"
    CREATE SCHEMA "Größe ""x""";
    CREATE TYPE "Größe ""x"""."Mood" AS ENUM ('sad', 'it''s ok', 'happy');
    CREATE DOMAIN public.positive AS integer CHECK (VALUE > 0);
    CREATE TYPE public.pair AS (a integer, b text);
    CREATE TABLE "Größe ""x"""."Täble" (
        "Id" bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        mood "Größe ""x"""."Mood" NOT NULL,
        moods "Größe ""x"""."Mood"[],
        amount numeric(10,2) DEFAULT 1,
        gone integer,
        n public.positive,
        c text COLLATE "C",
        j json,
        p public.pair);
    ALTER TABLE "Größe ""x"""."Täble" DROP COLUMN gone;
    CREATE TABLE public.no_key (a integer, b integer NOT NULL UNIQUE, c json);
    CREATE TABLE public.by_index (a integer NOT NULL UNIQUE, b integer);
    ALTER TABLE public.by_index REPLICA IDENTITY USING INDEX by_index_a_key;
    CREATE TABLE public.index_gone (a integer NOT NULL UNIQUE);
    ALTER TABLE public.index_gone REPLICA IDENTITY USING INDEX index_gone_a_key;
    ALTER TABLE public.index_gone DROP CONSTRAINT index_gone_a_key;
    CREATE TABLE public.deferred (a integer PRIMARY KEY DEFERRABLE);
    CREATE TABLE public.everything (a integer);
    ALTER TABLE public.everything REPLICA IDENTITY FULL;
    CREATE UNLOGGED TABLE public.scratch (a serial PRIMARY KEY);
    CREATE TEMP TABLE nobody_cares (a integer);
    CREATE TABLE public.empty_handed ();
    CREATE TABLE public.parted (k integer, v text) PARTITION BY RANGE (k);
    CREATE TABLE public.parted_1 PARTITION OF public.parted FOR VALUES FROM (0) TO (10);
    CREATE TABLE public.child (extra integer) INHERITS (public.no_key);
    CREATE TABLE public.orders (
        id integer PRIMARY KEY,
        t bigint REFERENCES "Größe ""x"""."Täble" ON DELETE CASCADE);
    CREATE FUNCTION public.noop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE TRIGGER always BEFORE INSERT ON public.orders FOR EACH ROW EXECUTE PROCEDURE noop();
    ALTER TABLE public.orders ENABLE ALWAYS TRIGGER always;
    CREATE RULE quiet AS ON DELETE TO public.orders DO INSTEAD NOTHING;
    ALTER TABLE public.orders ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
    CREATE VIEW public.v AS SELECT 1 AS x;
    CREATE MATERIALIZED VIEW public.mv AS SELECT 1 AS x WITH NO DATA;
    CREATE SEQUENCE public.lonely INCREMENT -3 CYCLE MINVALUE -100 MAXVALUE 7;
    SELECT setval('public.lonely', -5, false);
    CREATE SCHEMA _cutover; CREATE TABLE _cutover.progress (a integer);
    CREATE PUBLICATION p FOR TABLE public.orders;
    SELECT lo_create(0), lo_create(0);
"#;

fn find<'a>(tables: &'a [TableInfo], schema: &str, name: &str) -> &'a TableInfo {
    let wanted = QualifiedName::new(schema, name);
    tables.iter().find(|table| table.name == wanted).unwrap_or_else(|| panic!("no {wanted}"))
}

async fn reads_a_schema_of_every_kind(major: u32) {
    let server = Postgres::start_major(major).unwrap();
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute(SCHEMA).await.unwrap();

    let info = catalog::ServerInfo::read(&client).await.unwrap();
    assert_eq!(info.major(), major);
    assert_eq!(info.database, "postgres");
    assert_eq!(info.locale.encoding, "UTF8");
    assert_eq!(info.setting("wal_level"), Some("logical"));
    assert!(info.system_identifier.is_some() && info.role.superuser && info.role.may_replicate());
    assert!(!info.in_recovery && info.may_create && info.provider.is_none());
    assert!(info.database_bytes.unwrap() > 0 && info.bytes("wal_segment_size").unwrap() > 0);

    let tables = catalog::tables(&client, &TableFilter::default()).await.unwrap();
    assert!(tables.iter().all(|table| table.name.schema != "_cutover"));
    assert!(tables.iter().all(|table| table.name.name != "nobody_cares"));
    let shapes = catalog::table_shapes(&client, &TableFilter::default()).await.unwrap();
    assert_eq!(shapes, tables.iter().map(catalog::TableShape::from).collect::<Vec<_>>());

    let odd = find(&tables, "Größe \"x\"", "Täble");
    assert_eq!(odd.kind, TableKind::Plain);
    let types: Vec<&str> = odd.columns.iter().map(|c| c.type_name.as_str()).collect();
    assert_eq!(
        types,
        [
            "bigint",
            "\"Größe \"\"x\"\"\".\"Mood\"",
            "\"Größe \"\"x\"\"\".\"Mood\"[]",
            "numeric(10,2)",
            "public.positive",
            "text",
            "json",
            "public.pair"
        ]
    );
    assert_eq!(odd.columns[0].identity, Some(Identity::Always));
    assert_eq!(odd.columns[4].number, 6, "a dropped column leaves a gap");
    assert!(odd.columns[3].has_default && odd.columns[1].not_null);
    assert_eq!(odd.columns[5].collation.as_deref(), Some("pg_catalog.\"C\""));
    assert_eq!(odd.columns[3].collation, None);
    assert_ne!(odd.columns[2].element_oid, 0);
    let comparable: Vec<bool> = odd.columns.iter().map(|c| c.comparable).collect();
    assert_eq!(comparable, [true, true, true, true, true, true, false, true]);
    assert_eq!(odd.key_columns().unwrap()[0].name, "Id");
    assert_eq!(odd.primary_key().unwrap()[0].name, "Id");

    let identity = |name: &str| find(&tables, "public", name).identity.clone();
    use MissingIdentity::{DeferrablePrimaryKey, IndexGone, NoPrimaryKey};
    assert_eq!(identity("no_key"), ResolvedIdentity::Missing(NoPrimaryKey));
    assert_eq!(identity("index_gone"), ResolvedIdentity::Missing(IndexGone));
    assert_eq!(identity("deferred"), ResolvedIdentity::Missing(DeferrablePrimaryKey));
    assert_eq!(identity("everything"), ResolvedIdentity::Full);
    let by_index = ResolvedIdentity::Key { index: "by_index_a_key".into(), columns: vec![1] };
    assert_eq!(identity("by_index"), by_index);
    assert_eq!(find(&tables, "public", "by_index").identity_setting, ReplicaIdentity::Index);

    let no_key = find(&tables, "public", "no_key");
    assert!(no_key.unique_indexes[0].can_identify(&no_key.columns));
    assert_eq!(find(&tables, "public", "child").inherits, [no_key.oid]);
    assert_eq!(find(&tables, "public", "scratch").persistence, Persistence::Unlogged);
    assert!(find(&tables, "public", "empty_handed").columns.is_empty());
    let root = find(&tables, "public", "parted");
    assert_eq!(root.kind, TableKind::PartitionRoot);
    let leaf = find(&tables, "public", "parted_1");
    assert_eq!((leaf.kind, leaf.partition_of), (TableKind::PartitionLeaf, Some(root.oid)));
    assert!(leaf.inherits.is_empty());

    let orders = find(&tables, "public", "orders");
    assert_eq!(orders.foreign_keys[0].references, odd.name);
    assert_eq!(orders.foreign_keys[0].referenced_columns, ["Id"]);
    assert!(orders.foreign_keys[0].cascades);
    assert_eq!(orders.triggers[0].firing, Firing::Always);
    assert!(orders.rules[0].instead);
    assert!(orders.row_security && orders.row_security_forced && !orders.access.rows_hidden);
    assert!(orders.access.select && orders.access.write && orders.access.own);

    let relations = catalog::relations(&client).await.unwrap();
    let kinds: Vec<_> = relations.iter().map(|r| (r.name.name.as_str(), r.kind)).collect();
    assert_eq!(kinds, [("mv", RelationKind::MaterializedView), ("v", RelationKind::View)]);
    assert!(!relations[0].populated);

    let sequences = catalog::sequences(&client).await.unwrap();
    let names: Vec<&str> = sequences.iter().map(|s| s.name.name.as_str()).collect();
    assert_eq!(names, ["Täble_Id_seq", "lonely", "scratch_a_seq"]);
    assert!(sequences[0].identity && !sequences[2].identity);
    assert_eq!(sequences[0].owned_by, Some((odd.name.clone(), "Id".to_owned())));
    assert_eq!((sequences[1].increment, sequences[1].cycles), (-3, true));
    let names: Vec<QualifiedName> = sequences.iter().map(|s| s.name.clone()).collect();
    let values = catalog::sequence_values(&client, &names).await.unwrap();
    assert_eq!((values[1].last_value, values[1].is_called), (-5, false));
    assert!(catalog::sequence_values(&client, &[]).await.unwrap().is_empty());

    let types = catalog::user_types(&client).await.unwrap();
    let labels = |labels: [&str; 3]| TypeDetail::Enum(labels.map(str::to_owned).to_vec());
    assert_eq!(types[0].detail, labels(["sad", "it's ok", "happy"]));
    let names: Vec<&str> = types.iter().map(|t| t.name.name.as_str()).collect();
    assert_eq!(names, ["Mood", "pair", "positive"]);

    let extensions = catalog::extensions(&client).await.unwrap();
    assert_eq!(extensions[0].name, "plpgsql");
    if major >= 13 {
        // The packages of 10 to 12 come with control files that these servers refuse to parse.
        let available = catalog::available_extensions(&client).await.unwrap();
        assert!(available.iter().any(|(name, versions)| name == "plpgsql" && !versions.is_empty()));
    }
    let roles = catalog::referenced_roles(&client).await.unwrap();
    assert_eq!(roles.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["postgres"]);
    assert_eq!(catalog::large_objects(&client).await.unwrap().count, 2);
    assert_eq!(catalog::publications(&client).await.unwrap()[0].name, "p");
    assert!(catalog::subscriptions(&client).await.unwrap().is_empty());
    assert!(catalog::event_triggers(&client).await.unwrap().is_empty());
    assert_eq!(catalog::schema_names(&client).await.unwrap(), ["Größe \"x\"", "public"]);

    let filter = TableFilter::parse(&["public.*"], &["*.parted*"]).unwrap();
    let some = catalog::tables(&client, &filter).await.unwrap();
    assert_eq!(some.len(), tables.len() - 3);

    if major >= 12 {
        client
            .batch_execute(
                "CREATE TABLE public.computed (a integer PRIMARY KEY,
                     b integer GENERATED ALWAYS AS (a * 2) STORED)",
            )
            .await
            .unwrap();
        let tables = catalog::tables(&client, &TableFilter::default()).await.unwrap();
        let computed = find(&tables, "public", "computed");
        assert_eq!(computed.columns[1].generated, Some(Generated::Stored));
        assert!(!computed.columns[1].has_default);
        assert_eq!(computed.copied_columns().count(), 1);
    }
}

#[tokio::test]
async fn reads_every_supported_version() {
    for major in 10..=18 {
        reads_a_schema_of_every_kind(major).await;
    }
}

/// An ordinary role sees the same tables, and what it may do with them.
#[tokio::test]
async fn an_ordinary_role_may_read_the_catalog() {
    let server = Postgres::start_major(15).unwrap();
    let admin = server.connect("postgres").await.unwrap();
    admin.batch_execute(SCHEMA).await.unwrap();
    admin
        .batch_execute(
            "CREATE ROLE plain LOGIN; GRANT USAGE ON SCHEMA public TO plain;
             GRANT SELECT ON public.orders, public.by_index TO plain;
             ALTER TABLE public.by_index OWNER TO plain",
        )
        .await
        .unwrap();
    let client = tests::postgres::connect_url(&server.url_as("plain", "postgres")).await.unwrap();
    let info = catalog::ServerInfo::read(&client).await.unwrap();
    assert_eq!(info.role.name, "plain");
    assert!(!info.role.may_replicate() && !info.may_create);
    let tables = catalog::tables(&client, &TableFilter::default()).await.unwrap();
    let orders = find(&tables, "public", "orders");
    assert!(orders.access.select && !orders.access.write && !orders.access.own);
    assert!(orders.access.rows_hidden, "row-level security binds an ordinary role");
    let by_index = find(&tables, "public", "by_index");
    assert!(by_index.access.own && !by_index.access.rows_hidden);
    assert!(!find(&tables, "Größe \"x\"", "Täble").access.select, "no USAGE on the schema");
}

/// A table that somebody holds exclusively must not make a reader wait.
#[tokio::test]
async fn reading_never_waits_for_a_lock() {
    let server = Postgres::start_major(15).unwrap();
    let holder = server.connect("postgres").await.unwrap();
    holder
        .batch_execute(
            "CREATE TABLE t (a integer PRIMARY KEY); CREATE TABLE u (a serial PRIMARY KEY); COMMIT;
             BEGIN; LOCK TABLE t, u IN ACCESS EXCLUSIVE MODE",
        )
        .await
        .unwrap();
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("SET lock_timeout = '1ms'").await.unwrap();
    let tables = catalog::tables(&client, &TableFilter::default()).await.unwrap();
    assert_eq!(tables.len(), 2);
    catalog::sequences(&client).await.unwrap();
    catalog::relations(&client).await.unwrap();
}

/// Six queries whatever the number of tables.
#[tokio::test]
async fn ten_thousand_tables_are_read_fast() {
    let server =
        Postgres::builder(15).setting("max_locks_per_transaction", "4096").start().unwrap();
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "DO $$ BEGIN FOR i IN 1..10000 LOOP
                 EXECUTE format('CREATE TABLE t%s (a integer PRIMARY KEY, b text)', i);
             END LOOP; END $$",
        )
        .await
        .unwrap();
    let started = std::time::Instant::now();
    let tables = catalog::tables(&client, &TableFilter::default()).await.unwrap();
    assert_eq!(tables.len(), 10_000);
    let took = started.elapsed();
    eprintln!("10,000 tables in {took:?}");
    assert!(took.as_secs() < 20, "took {took:?}");
}
