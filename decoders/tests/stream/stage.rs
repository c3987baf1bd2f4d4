//! A server with a publication and a slot, and a stream to read it.

use std::time::{Duration, Instant};

use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::session::{self, Session};
use decoders::postgres::slot::{self, CreatedSlot, SlotKind};
use decoders::postgres::stream::{PgStream, StreamOptions};
use decoders::postgres::wire::ReplicationConnection;
use decoders::{Lsn, Position, Source, SourceEvent, Transaction};
use tests::postgres::Postgres;

pub const NAME: &str = "cutover test";
pub const SLOT: &str = "cutover_slot";
pub const PUBLICATION: &str = "Cutover \"p\"";

/// How long any wait may take before the test fails.
pub const DEADLINE: Duration = Duration::from_secs(30);

pub struct Stage {
    pub server: Postgres,
    pub info: ConnInfo,
    pub session: Session,
}

impl Stage {
    pub async fn new(major: u32) -> Stage {
        Stage::on(Postgres::start_major(major).unwrap()).await
    }

    pub async fn on(server: Postgres) -> Stage {
        let info = ConnInfo::parse(&server.url("postgres")).unwrap();
        let session = session::connect(&info, NAME).await.unwrap();
        session.batch_execute("SET search_path = public").await.unwrap();
        Stage { server, info, session }
    }

    pub async fn sql(&self, sql: &str) {
        self.session.batch_execute(sql).await.unwrap();
    }

    pub async fn publish(&self, tables: &[decoders::QualifiedName]) {
        let options = Default::default();
        decoders::postgres::publication::create(&self.session, PUBLICATION, tables, options)
            .await
            .unwrap();
    }

    /// The slot; the snapshot ends with the connection.
    pub async fn slot(&self) -> CreatedSlot {
        let mut replication = ReplicationConnection::connect(&self.info, NAME).await.unwrap();
        slot::create(&mut replication, &self.session, SLOT, SlotKind::Lasting, DEADLINE)
            .await
            .unwrap()
    }

    pub fn options(&self) -> StreamOptions {
        StreamOptions::new(SLOT, vec![PUBLICATION.to_owned()], NAME)
    }

    pub async fn stream(&self) -> PgStream {
        PgStream::open(&self.info, self.options()).await.unwrap()
    }

    pub async fn stream_from(&self, start: Lsn) -> PgStream {
        let mut options = self.options();
        options.start = Some(start);
        PgStream::open(&self.info, options).await.unwrap()
    }

    /// The end of the log as it is now.
    pub async fn head(&self) -> Lsn {
        let sql = "SELECT pg_current_wal_lsn()::text";
        let row = self.session.query_one(sql, &[]).await.unwrap();
        row.get::<_, &str>(0).parse().unwrap()
    }

    pub async fn confirmed(&self) -> Lsn {
        let state = slot::inspect(&self.session, SLOT).await.unwrap().unwrap();
        state.confirmed_flush_lsn.unwrap()
    }
}

/// The next transaction, or part of one.
pub async fn transaction(stream: &mut PgStream) -> Transaction {
    loop {
        let event = tokio::time::timeout(DEADLINE, stream.next()).await.unwrap().unwrap();
        if let SourceEvent::Transaction(transaction) = event {
            return transaction;
        }
    }
}

/// Reads until everything before `position` has been delivered; gives the transactions on the way.
pub async fn drain(stream: &mut PgStream, position: Lsn) -> Vec<Transaction> {
    let mut seen = Vec::new();
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < DEADLINE, "the stream did not reach {position}");
        let event = tokio::time::timeout(DEADLINE, stream.next()).await.unwrap().unwrap();
        let reached = match event {
            SourceEvent::Transaction(transaction) => {
                let end = transaction.end_lsn;
                seen.push(transaction);
                end
            }
            SourceEvent::Idle(Position::Lsn(lsn)) => Some(lsn),
            SourceEvent::Handover => panic!("a stream never hands over"),
        };
        if reached.is_some_and(|reached| reached >= position) {
            return seen;
        }
    }
}

pub async fn acknowledge(stream: &mut PgStream, lsn: Lsn) {
    stream.acknowledge(Position::Lsn(lsn)).await.unwrap();
}

pub fn table(name: &str) -> decoders::QualifiedName {
    decoders::QualifiedName::new("public", name)
}

/// A row's values, `~` for NULL and `*` for a value that was left out.
pub fn texts(row: &decoders::Row) -> Vec<String> {
    let text = |cell: decoders::Cell<'_>| match cell.value() {
        None => "*".to_owned(),
        Some(value) => match value.bytes() {
            None => "~".to_owned(),
            Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        },
    };
    row.cells().map(text).collect()
}
