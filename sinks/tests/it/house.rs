//! The schema `_cutover` is ours alone, and so are the marks of our own transactions.

use decoders::change::ReplicaIdentity as Identity;
use decoders::postgres::state_schema::strangers;
use decoders::source::Disposition;
use sinks::own::keys::learn;
use sinks::postgres::{PgTarget, PgTargetOptions};
use sinks::{LaneId, Target as _};

use crate::support::{Db, apply, insert, options};

/// What somebody may have done to our schema, and what is said of it.
const STRANGE: [(&str, &str); 12] = [
    ("GRANT USAGE ON SCHEMA _cutover TO PUBLIC", "PUBLIC has rights on schema _cutover"),
    ("GRANT SELECT ON _cutover.own_mark TO app_{}", "has rights on _cutover.own_mark"),
    ("GRANT UPDATE (end_lsn) ON _cutover.progress TO app_{}", "has rights on _cutover.progress"),
    ("ALTER TABLE _cutover.stream OWNER TO app_{}", "_cutover.stream is owned by app_"),
    ("ALTER SCHEMA _cutover OWNER TO app_{}", "schema _cutover is owned by app_"),
    (
        "CREATE TRIGGER evil BEFORE INSERT ON _cutover.stream FOR EACH ROW EXECUTE PROCEDURE evil()",
        "_cutover.stream has the trigger evil",
    ),
    (
        "CREATE RULE evil AS ON INSERT TO _cutover.stream DO ALSO NOTIFY evil",
        "_cutover.stream has the rule evil",
    ),
    (
        "ALTER TABLE _cutover.progress ENABLE ROW LEVEL SECURITY",
        "_cutover.progress has row security",
    ),
    ("CREATE TABLE child () INHERITS (_cutover.stream)", "_cutover.stream inherits"),
    ("ALTER TABLE _cutover.stream ADD COLUMN extra int DEFAULT evil_number()", "code of others"),
    (
        "ALTER TABLE _cutover.stream ADD COLUMN extra evil_type",
        "_cutover.stream has the column extra of a type of others",
    ),
    ("CREATE VIEW _cutover.decision AS SELECT 1", "_cutover.decision is no ordinary table"),
];

const CODE: &str = "
    CREATE FUNCTION evil() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE FUNCTION evil_number() RETURNS int LANGUAGE sql AS 'SELECT 1';
    CREATE DOMAIN evil_type AS int CHECK (evil_number() = 1);";

#[tokio::test]
async fn whatever_is_strange_in_our_schema_is_named() {
    let db = Db::new(CODE).await;
    db.exec(&format!("CREATE ROLE app_{}", db.name)).await;
    db.target().await;
    assert_eq!(strangers(&db.sql).await.unwrap(), Vec::<String>::new());
    for (done, said) in STRANGE {
        let done = done.replace("{}", &db.name);
        db.exec(&format!("BEGIN; {done}")).await;
        let found = strangers(&db.sql).await.unwrap();
        db.exec("ROLLBACK").await;
        assert!(found.iter().any(|found| found.contains(said)), "{done}: {found:?}");
    }
    assert_eq!(strangers(&db.sql).await.unwrap(), Vec::<String>::new());
    db.exec(&format!("DROP ROLE app_{}", db.name)).await;
}

/// The application may create schemas, and was there before us.
#[tokio::test]
async fn a_schema_that_was_made_before_us_is_not_written_to() {
    let db = Db::new("CREATE TABLE ran (as_role text); GRANT INSERT ON ran TO PUBLIC").await;
    let app = format!("squatter_{}", db.name);
    db.exec(&format!(
        "CREATE ROLE {app}; GRANT CREATE ON DATABASE {} TO {app};
         GRANT CREATE ON SCHEMA public TO {app}; SET ROLE {app};
         CREATE SCHEMA _cutover;
         CREATE TABLE _cutover.stream (pipeline text PRIMARY KEY, system_identifier text,
           database text, slot text, consistent_point pg_lsn, created_at timestamptz,
           schema_version int);
         CREATE FUNCTION public.evil() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN INSERT INTO public.ran VALUES (current_user); RETURN NEW; END $$;
         CREATE TRIGGER evil BEFORE INSERT ON _cutover.stream
           FOR EACH ROW EXECUTE PROCEDURE public.evil();
         RESET ROLE",
        db.name
    ))
    .await;
    let error = PgTarget::open(db.green.clone(), options(&db)).await.map(drop).unwrap_err();
    assert_eq!(error.disposition, Disposition::Halt, "{error}");
    assert!(error.message.contains("schema _cutover is owned by squatter_"), "{error}");
    assert!(error.remedy.unwrap().contains("DROP SCHEMA _cutover CASCADE"));
    assert_eq!(db.rows("SELECT * FROM ran").await, Vec::<String>::new());
    // Who reads this server's log believes nothing of it either.
    let error = learn(&db.sql, &db.name).await.unwrap_err();
    assert_eq!(error.disposition, Disposition::Halt, "{error}");
    db.exec("DROP SCHEMA _cutover CASCADE").await;
    db.target().await;
    db.exec(&format!("DROP OWNED BY {app}; DROP ROLE {app}")).await;
}

#[tokio::test]
async fn nobody_else_can_read_the_secret() {
    let db = Db::new("SELECT").await;
    db.target().await;
    let app = format!("curious_{}", db.name);
    db.exec(&format!("CREATE ROLE {app}; SET ROLE {app}")).await;
    let error = db.sql.simple_query("SELECT secret FROM _cutover.own_mark").await.unwrap_err();
    assert_eq!(error.code().map(|code| code.code()), Some("42501"));
    db.exec(&format!("RESET ROLE; DROP ROLE {app}")).await;
}

/// What who reads the target's log has to know.
#[tokio::test]
async fn what_is_known_of_a_pipelines_own_transactions() {
    let db = Db::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    let t = db.table("t", Identity::Default).await;
    let never = learn(&db.sql, &db.name).await.unwrap();
    assert!(!never.has_written && never.secret.is_none(), "{never:?}");
    let target = db.target().await;
    let armed = learn(&db.sql, &db.name).await.unwrap();
    assert!(!armed.has_written && armed.secret.is_some(), "{armed:?}");
    let mut lane = target.open_lane(LaneId(0)).await.unwrap();
    apply(&mut lane, 1, vec![insert(&t, &["1"])]).await.unwrap();
    let writes = learn(&db.sql, &db.name).await.unwrap();
    // We are a superuser here: each commit has an origin.
    assert!(writes.has_written && writes.origin_since.is_some(), "{writes:?}");
    assert_eq!(writes.secret, armed.secret);
    // No statement that others may look at shows the secret.
    let shown = format!(
        "SELECT count(*) FROM pg_stat_activity a, _cutover.own_mark m
         WHERE a.query ~ encode(m.secret, 'hex') AND a.pid = {}",
        lane.backend_pid()
    );
    assert_eq!(db.rows(&shown).await, ["0"]);
    let pid = lane.backend_pid();
    drop(lane);
    db.gone(pid).await;
    // A version that knew no secrets has written before: its marks are believed up to here.
    db.exec("DROP TABLE _cutover.own_mark").await;
    let taken_over = learn(&db.sql, &db.name).await.unwrap();
    assert!(taken_over.has_written && taken_over.since > armed.since, "{taken_over:?}");
    assert_ne!(taken_over.secret, armed.secret);
    // Without origins nobody may ask for one.
    let options = PgTargetOptions { use_origin: false, ..options(&db) };
    let target = PgTarget::open(db.green.clone(), options).await.unwrap();
    target.progress().await.unwrap();
    target.open_lane(LaneId(0)).await.unwrap();
    assert_eq!(learn(&db.sql, &db.name).await.unwrap().origin_since, None);
}

/// Default privileges of our role give others rights on whatever it makes: an ordinary setting, and no
/// stranger's work.
#[tokio::test]
async fn default_privileges_give_nobody_rights_on_our_tables() {
    let db = Db::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    db.exec(&format!("CREATE ROLE staff_{}", db.name)).await;
    db.exec(&format!(
        "ALTER DEFAULT PRIVILEGES GRANT SELECT, UPDATE ON TABLES TO staff_{0}; \
         ALTER DEFAULT PRIVILEGES GRANT USAGE ON SCHEMAS TO staff_{0}, PUBLIC",
        db.name
    ))
    .await;
    db.target().await;
    assert_eq!(strangers(&db.sql).await.unwrap(), Vec::<String>::new());
    db.exec(&format!("DROP OWNED BY staff_{0}; DROP ROLE staff_{0}", db.name)).await;
}
