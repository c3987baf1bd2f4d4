//! Every way around a fence that is known, on servers of all kinds: each is blocked, or it is seen
//! as a leak that stops the run. Afterwards everything is as before.

mod airlock;
mod doors;
mod leaks;
mod nologin;
mod sessions;

use std::sync::atomic::{AtomicU64, Ordering};

use cutover::Side;
use cutover::evidence::{Drained, Fenced, Sealed, WayBack};
use cutover::fence::{PostgresFence, PostgresUndo};
use cutover::marker::{CREATE_MARKER_TABLE, Token};
use cutover::ports::{Epoch, Fence, Leaks, MarkerDecoded, MarkerDurable, PortError};
use decoders::Lsn;
use decoders::postgres::session::{Session, connect_plain};

use super::fence::settings;
use super::support::{Login, Postgres, deadline, number, text};

/// One test for each version.
macro_rules! on_versions {
    ($of:ident: $($name:ident = $major:literal),+ $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            $of($major).await;
        }
    )+};
}
pub(super) use on_versions;

/// `t`, `w` and the partitioned `p` are replicated, `u` is not.
const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, who text); \
    CREATE TABLE u (id serial PRIMARY KEY, who text); \
    CREATE TABLE p (id int) PARTITION BY RANGE (id); \
    CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (1000); \
    CREATE TABLE w (id int PRIMARY KEY); CREATE SEQUENCE s; \
    INSERT INTO t VALUES (1, 'before'); INSERT INTO u (who) VALUES ('before')";

/// Everything that a client could have left behind.
const TRACES: &str = "SELECT (SELECT string_agg(id || who, ',' ORDER BY id) FROM t) || ' ' || \
    (SELECT string_agg(id || who, ',' ORDER BY id) FROM u) || ' p' || (SELECT count(*) FROM p) || \
    ' lo' || (SELECT count(*) FROM pg_largeobject_metadata) || \
    ' s' || (SELECT last_value || ':' || is_called FROM s) || \
    ' relations' || (SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace) || \
    ' 2pc' || (SELECT count(*) FROM pg_prepared_xacts)";

/// Blue, its fence, and a session that looks on from within under our own name.
struct Blue {
    server: Postgres,
    login: Login,
    outside: Session,
    witness: Session,
    fence: PostgresFence,
    before: String,
}

/// A fence that is up and drained.
struct Raised {
    undo: PostgresUndo,
    token: Token,
    drained: Drained,
    traces: String,
}

impl Blue {
    /// `setup` runs in database postgres, as superuser; we are `who`.
    async fn start(major: &str, who: &str, setup: &str) -> Self {
        let server = Postgres::of(major).await;
        let schema = format!(
            "{SCHEMA}; {CREATE_MARKER_TABLE}; \
             CREATE PUBLICATION move FOR TABLE t, w, p1, _cutover.marker; \
             GRANT USAGE ON SCHEMA _cutover TO PUBLIC; \
             GRANT ALL ON ALL TABLES IN SCHEMA public, _cutover TO PUBLIC; \
             GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO PUBLIC"
        );
        server.database("shop", &schema).await;
        let outside = server.info("postgres").open().await;
        outside
            .batch_execute("CREATE ROLE app LOGIN; CREATE ROLE boss LOGIN SUPERUSER")
            .await
            .unwrap();
        outside.batch_execute(setup).await.unwrap();
        let login = server.login(who, "shop");
        let witness = login.open_as_ours("cutover witness").await;
        let before = settings(&login, &server.info("postgres")).await;
        let fence = PostgresFence::new(login.info(), "move");
        Self { server, login, outside, witness, fence, before }
    }

    /// A session of a client.
    async fn client(&self, role: &str) -> Session {
        self.server.login(role, "shop").open().await
    }

    async fn traces(&self) -> String {
        text(&self.witness, TRACES).await.unwrap()
    }

    /// Why nobody comes in this way: the server's code.
    async fn refused(&self, login: &Login, name: &str) -> String {
        match connect_plain(&login.info(), name).await {
            Ok(_) => panic!("{} came in as {name}", login.0),
            Err(error) => error.server_error().expect("an answer").sqlstate.clone(),
        }
    }

    async fn raise(&self) -> Raised {
        self.raise_from(self.fence.prepare().await.unwrap()).await
    }

    async fn raise_from(&self, undo: PostgresUndo) -> Raised {
        static EPOCH: AtomicU64 = AtomicU64::new(1);
        let token = Token::draining("bypass", Epoch(EPOCH.fetch_add(1, Ordering::SeqCst)));
        let report = self.fence.raise(&undo, deadline()).await.unwrap();
        let fenced = Fenced::prove(token.epoch(), Side::Blue, &report).unwrap();
        let traces = self.traces().await;
        let written = self.fence.mark(&token, deadline()).await.unwrap();
        let durable = MarkerDurable { token: token.clone(), end_lsn: Lsn(1), durable: Lsn(1) };
        let drained = Drained::prove(&fenced, &written, &durable).unwrap();
        Raised { undo, token, drained, traces }
    }

    /// As the controller does; the stream has seen nothing.
    async fn seal(&self, raised: &Raised) -> Result<Sealed, String> {
        let because = |error: PortError| error.to_string();
        let report = self.fence.seal(&raised.undo, deadline()).await.map_err(because)?;
        let token = raised.token.sealing();
        let written = self.fence.mark(&token, deadline()).await.map_err(because)?;
        let decoded = MarkerDecoded { token, end_lsn: Lsn(2), leaks: Leaks::default() };
        Sealed::prove(&raised.drained, &report, &written, &decoded, WayBack::Waived)
            .map_err(|unproven| unproven.to_string())
    }

    /// Blue is put back; nobody has left anything, and every setting is as it was.
    async fn lower(&self, raised: &Raised) {
        self.fence.lower(&raised.undo, deadline()).await.unwrap();
        assert_eq!(settings(&self.login, &self.server.info("postgres")).await, self.before);
        let session = self.login.open().await;
        assert_eq!(text(&session, TRACES).await.unwrap(), raised.traces);
        session.batch_execute("BEGIN; INSERT INTO t VALUES (99, 'open'); ROLLBACK").await.unwrap();
    }

    async fn clients_inside(&self) -> i64 {
        let query = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'shop' \
            AND application_name NOT LIKE 'cutover%' AND pid <> pg_backend_pid() \
            AND backend_type NOT LIKE 'autovacuum%'";
        number(&self.outside, query).await
    }
}
