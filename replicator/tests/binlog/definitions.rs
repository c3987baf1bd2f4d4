//! Schema changes in the stream: repeated, refused, done by hand, and broken off half-way.

use std::path::Path;
use std::time::Duration;

use decoders::mysql::server::{ServerUrl, connect};
use decoders::mysql::stream::{NumberedStream, StreamOptions};
use decoders::mysql::{Ledger, Place};
use decoders::{Source, SourceEvent};
use mysql_async::prelude::Queryable;
use replicator::config::DdlMode;
use replicator::engine::own::{Counterpart, OwnApply};
use replicator::pipeline::failure::Failure;
use sinks::own::MESSAGE_PREFIX;
use tests::mysql::{Mysql, Version};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::engine::{Engine, PAIRS, PIPELINE, head, pipeline, start, url};

const DEADLINE: Duration = Duration::from_secs(120);

/// A stream in this process.
struct Streaming {
    stop: watch::Sender<bool>,
    running: JoinHandle<Result<(), Failure>>,
}

impl Streaming {
    fn start(
        [blue, green]: [&Mysql; 2],
        state: &Path,
        start: Option<&str>,
        lanes: u16,
        ddl: DdlMode,
    ) -> Streaming {
        let stop = watch::Sender::new(false);
        let urls = [url(blue), url(green)];
        let mut streaming = pipeline(&urls[0], &urls[1], state, start, lanes, stop.subscribe());
        streaming.apply.ddl = ddl;
        let running = tokio::spawn(async move { streaming.run().await.map(drop) });
        Streaming { stop, running }
    }

    /// Waits until a query gives this on green.
    async fn until(&mut self, green: &Mysql, sql: &str, wanted: &str) {
        let what = format!("{sql} to give {wanted}");
        let is_there = tests::wait::until(&what, DEADLINE, || {
            let (found, has_ended) = (green.value(sql).ok(), self.running.is_finished());
            let is_there = found.as_deref() == Some(wanted);
            async move { Ok((is_there || has_ended).then_some(is_there)) }
        });
        if !is_there.await.unwrap() {
            let ended = (&mut self.running).await.unwrap();
            panic!("{}", ended.unwrap_err().report());
        }
    }

    async fn end(self) {
        self.stop.send_replace(true);
        self.running.await.unwrap().unwrap();
    }

    /// What it halts with.
    async fn halted(self) -> Failure {
        tokio::time::timeout(DEADLINE, self.running).await.unwrap().unwrap().unwrap_err()
    }
}

/// What a server says of its tables and views, version by version the same: columns and keys.
fn definitions(server: &Mysql) -> Vec<String> {
    let of = "table_schema not in ('mysql', 'sys', 'information_schema', 'performance_schema', '_cutover')";
    let columns = format!(
        "select concat_ws(' ', table_schema, table_name, ordinal_position, column_name, column_type,
                is_nullable, ifnull(collation_name, '-'), ifnull(column_default, '-'))
         from information_schema.columns where {of} order by 1"
    );
    let keys = format!(
        "select concat_ws(' ', table_schema, table_name, index_name, non_unique, seq_in_index, column_name)
         from information_schema.statistics where {of} order by 1"
    );
    let rows = [columns, keys].map(|sql| server.rows(&sql).unwrap()).concat();
    rows.into_iter().map(|row| String::from_utf8(row.concat()).unwrap()).collect()
}

fn same(blue: &Mysql, green: &Mysql, table: &str) {
    let all = |server: &Mysql| {
        let mut rows = server.rows(&format!("select * from {table}")).unwrap();
        rows.sort();
        rows
    };
    let (blue, green) = (all(blue), all(green));
    assert!(!blue.is_empty(), "{table}");
    assert!(blue == green, "{table}: {blue:?} {green:?}");
}

const BEGIN: &str = "create database t character set utf8mb4 collate utf8mb4_general_ci; use t;
  create table a(id int primary key, v varchar(10), n smallint not null);
  create table g(id int primary key, n int not null);
  insert into a values (1, 'one', 1); insert into g values (1, 1), (2, 2);";

/// Each class, with rows of the table right before and behind.
const CHANGES: &str = "use t;
  insert into a select 100 + x.n * 10 + y.n, 'v', 7 from
    (select 0 n union select 1 union select 2 union select 3 union select 4) x,
    (select 0 n union select 1 union select 2 union select 3 union select 4) y;
  insert into a values (2, 'two', 2);
  alter table a add column w int;
  insert into a values (3, 'three', 3, 33); update a set w = id where id < 3;
  alter table a add column x varchar(20) not null default 'x y' after v, add unique key u (w);
  insert into a(id, n, w) values (4, 4, 44); update a set w = 45 where id = 4; update a set w = 44 where id = 3;
  alter table a modify n int not null, change v u varchar(30) comment 'rename to u';
  insert into a values (5, 'longer than ten', 'y', 70000, 5);
  alter table a drop column u; insert into a values (6, 'z', 6, 6);
  create index i on a(x); insert into a values (7, 'z', 7, 7); drop index i on a; drop index u on a;
  insert into a values (8, 'z', 8, 7);
  create table b(id int primary key, a int, foreign key (a) references a(id) on delete cascade);
  insert into b values (1, 8); delete from a where id = 8; insert into b values (2, 7);
  create table c like b; insert into c values (1, 1); rename table c to d; insert into d values (2, 2);
  alter table d rename to e; insert into e values (3, 3); truncate e; insert into e values (4, 4);
  create table gone(id int primary key); insert into gone values (1); drop table gone;
  create table ts(id int primary key, x timestamp, y timestamp null);
  set explicit_defaults_for_timestamp = 0; create table ts0(id int primary key, x timestamp);
  set explicit_defaults_for_timestamp = 1; create table ts1(id int primary key, x timestamp);
  create table copied(primary key(id)) as select id, x from a; insert into copied values (999, 'more');
  create view few as select id from a where id < 5; create database u;
  create table u.x(id int primary key, s varchar(5)); insert into u.x values (1, 's');
  set sql_mode = 'ansi_quotes'; create table \"odd `name\"(\"größe\" int primary key, s varchar(9) default 'x\\ty');
  insert into \"odd `name\"(\"größe\") values (1); set names latin1;
  alter table \"odd `name\" add t varchar(20) charset latin1 collate latin1_bin default 'süß', add k timestamp null;
  insert into \"odd `name\" values (2, 's', 't', null); set names utf8mb4, sql_mode = '';";

/// gh-ost, as it does it on its source: a table beside, filled and swapped in. Its new type would not hold
/// every value of a table with rows.
const GHOST: &str = "use t;
  create /* gh-ost */ table _g_ghc(id bigint auto_increment primary key, hint varchar(64) charset ascii not null);
  create /* gh-ost */ table _g_gho like g; alter /* gh-ost */ table _g_gho modify n smallint, add m varchar(5);
  insert into _g_ghc(hint) values ('copy'); insert ignore into _g_gho(id, n) select id, n from g;
  insert into g values (3, 3); replace into _g_gho(id, n) values (3, 3);
  create table _g_del(id int primary key) comment = 'ghost-cut-over-sentry'; drop table _g_del;
  rename table g to _g_del, _g_gho to g; drop table _g_ghc; insert into g values (4, 4, 'm');
  drop table _g_del; insert into g values (5, 5, 'end');";

#[tokio::test(flavor = "multi_thread")]
async fn schema_changes_are_repeated_in_their_place() {
    for ((blue, green), lanes) in PAIRS.into_iter().zip([4, 1]) {
        let [blue, green] = [blue, green].map(|version| start(version, BEGIN));
        let name = blue.version().name();
        let scratch = tempfile::tempdir().unwrap();
        let begin = head(&blue);
        // All of it waits when the stream begins: windows are as large as can be.
        blue.run(CHANGES).unwrap();
        let ends = [&blue, &green];
        let mut streaming =
            Streaming::start(ends, scratch.path(), Some(&begin), lanes, DdlMode::Apply);
        streaming.until(&green, "select count(*) from t.`odd ``name` where t = 't'", "1").await;
        assert_eq!(definitions(&blue), definitions(&green), "{name}");
        for table in ["t.a", "t.b", "t.e", "t.copied", "u.x", "t.few", "t.`odd ``name`"] {
            same(&blue, &green, table);
        }
        let head_before = head(&green);
        blue.run(GHOST).unwrap();
        streaming.until(&green, "select count(*) from t.g where m = 'end'", "1").await;
        assert_eq!(definitions(&blue), definitions(&green), "{name}");
        same(&blue, &green, "t.g");
        streaming.end().await;
        let open = "select count(*) from _cutover.definition where state <> 'done'";
        assert_eq!(green.value(open).unwrap(), "0", "{name}");
        assert_eq!(
            green.value("select sum(transactions) from _cutover.progress").unwrap(),
            blue_transactions(&blue, &begin).await.to_string(),
            "{name}: each once"
        );
        nothing_goes_back(&green, &head_before).await;
    }
}

/// As on the way back to the version before. A session of 11.8 has a client collation by default whose number
/// 10.11 knows and does not take for a character set.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_mariadb_takes_the_sessions_of_a_newer_one() {
    let versions = [Version::Mariadb11_8, Version::Mariadb10_11];
    let [blue, green] = versions.map(|version| start(version, BEGIN));
    let scratch = tempfile::tempdir().unwrap();
    let begin = head(&blue);
    blue.run(
        "set names utf8mb4; use t; alter table a add column w int, add column x varchar(9) default 'süß';
         create table b(id int primary key, s varchar(5)); insert into b values (1, 'b');
         create table c(id int primary key, s varchar(5)) charset utf8mb4 collate utf8mb4_uca1400_as_ci;
         set names utf8mb4 collate utf8mb4_uca1400_as_cs; alter table c add t varchar(5) default 'ö';
         insert into c values (1, 'c', 'd');",
    )
    .unwrap();
    let ends = [&blue, &green];
    let mut streaming = Streaming::start(ends, scratch.path(), Some(&begin), 1, DdlMode::Apply);
    streaming.until(&green, "select count(*) from t.c where t = 'd'", "1").await;
    assert_eq!(definitions(&blue), definitions(&green));
    ["t.a", "t.b", "t.c"].iter().for_each(|table| same(&blue, &green, table));
    // Which collation that is only 11.8 has a setting for.
    blue.run("set names utf8mb4; create table t.o(id int primary key, s char(9) charset utf8mb4)")
        .unwrap();
    let report = streaming.halted().await.report();
    assert!(report.contains("green can't have character_set_collations"), "{report}");
}

/// Transactions that a stream of `blue` has for its target.
async fn blue_transactions(blue: &Mysql, begin: &str) -> usize {
    let end = head(blue).parse().unwrap();
    let mut stream = numbered(blue, begin).await;
    let mut count = 0;
    while !stream.position().covers(&end) {
        let event = tokio::time::timeout(DEADLINE, stream.next()).await.unwrap().unwrap();
        count += usize::from(matches!(event, SourceEvent::Transaction(_)));
    }
    count
}

async fn numbered(server: &Mysql, begin: &str) -> NumberedStream {
    let place = Place { number: Ledger::START, position: begin.parse().unwrap() };
    let options = StreamOptions::new(u32::from(server.port()) + 100_000, "test");
    let url = ServerUrl::parse(&url(server)).unwrap();
    NumberedStream::open(&url, options, place, MESSAGE_PREFIX).await.unwrap()
}

/// What was repeated is known as ours in green's own log, and what somebody else defines there is not.
async fn nothing_goes_back(green: &Mysql, begin: &str) {
    green.run("alter table t.a add column own int").unwrap();
    let end = head(green).parse().unwrap();
    let mut stream = numbered(green, begin).await;
    let known = ServerUrl::parse(&url(green)).unwrap();
    let mut own = OwnApply::of(Counterpart::of_binlog(PIPELINE, &known).await.unwrap());
    let mut others = Vec::new();
    while !stream.position().covers(&end) {
        let event = tokio::time::timeout(DEADLINE, stream.next()).await.unwrap().unwrap();
        if let SourceEvent::Transaction(transaction) = event
            && !own.is_ours(&transaction).unwrap()
        {
            others.extend(transaction.definition().map(|definition| definition.text.clone()));
        }
    }
    assert_eq!(others, ["alter table t.a add column own int"]);
}

/// What stops the stream, and what somebody does by hand where the statement itself can't be run again.
const REFUSED: [(&str, DdlMode, &str); 6] = [
    ("alter table a add column w int", DdlMode::Stop, "apply.ddl"),
    ("create table _a_gho like a", DdlMode::Stop, "gh-ost for a"),
    ("alter table a add column k int auto_increment unique", DdlMode::Apply, "numbers the rows"),
    ("alter table a modify v varchar(5)", DdlMode::Apply, "may not hold every value"),
    ("rename table a to tmp, g to a, tmp to g", DdlMode::Apply, "change places"),
    ("drop table p_old, p", DdlMode::Apply, "not moved"),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_repeated_stops_the_stream_and_is_done_by_hand() {
    for (blue, green) in PAIRS {
        let more = "create table p_old(id int primary key); create table p(id int primary key);
                    create table n(id int primary key);";
        let [blue, green] = [blue, green].map(|version| start(version, &format!("{BEGIN} {more}")));
        let name = blue.version().name();
        let scratch = tempfile::tempdir().unwrap();
        let mut begin = Some(head(&blue));
        for (at, (statement, ddl, why)) in REFUSED.into_iter().enumerate() {
            let at = at + 1;
            let (before, behind) = (2 * at, 2 * at + 1);
            blue.run(&format!(
                "use t; insert into n values ({before}); {statement}; insert into n values ({behind})"
            ))
            .unwrap();
            for _ in 0..2 {
                let stop = watch::Sender::new(false);
                let urls = [url(&blue), url(&green)];
                let mut streaming = pipeline(
                    &urls[0],
                    &urls[1],
                    scratch.path(),
                    begin.take().as_deref(),
                    2,
                    stop.subscribe(),
                );
                streaming.apply.ddl = ddl;
                streaming.tables.exclude = vec!["t.p_old".parse().unwrap()];
                let running = tokio::spawn(async move { streaming.run().await.map(drop) });
                let failure = Streaming { stop, running }.halted().await;
                let told = failure.report();
                assert!(told.contains(why), "{name} {statement}: {told}");
                assert!(
                    !told.contains(statement),
                    "{name}: its text may hold what nobody should read"
                );
                let found = green.value("select max(id) from t.n").unwrap();
                assert_eq!(found, before.to_string(), "{name} {statement}: exactly there");
            }
            let open = "_cutover.definition where state = 'waits'";
            let noted = green.value(&format!("select statement from {open}")).unwrap();
            // As the message says.
            green.run(&format!("use t; {noted}")).unwrap();
            let number = green.value(&format!("select number from {open}")).unwrap();
            green
                .run(&format!(
                    "update _cutover.definition set state = 'done'
                     where pipeline = '{PIPELINE}' and number = {number}"
                ))
                .unwrap();
        }
        let ends = [&blue, &green];
        let mut streaming = Streaming::start(ends, scratch.path(), None, 1, DdlMode::Apply);
        let last = (2 * REFUSED.len() + 1).to_string();
        streaming.until(&green, "select max(id) from t.n", &last).await;
        blue.run("insert into t.a values (77, 77)").unwrap();
        streaming.until(&green, "select count(*) from t.a where id = 77", "1").await;
        streaming.end().await;
        assert_eq!(definitions(&blue), definitions(&green), "{name}");
        for table in ["t.a", "t.g", "t.n"] {
            same(&blue, &green, table);
        }
    }
}

fn wait(what: &str, mut ready: impl FnMut() -> bool) {
    tests::wait::until_blocking(what, DEADLINE, || Ok(ready().then_some(()))).unwrap();
}

/// A crash between a schema change and its progress, at exactly that point.
#[tokio::test(flavor = "multi_thread")]
async fn a_schema_change_whose_progress_was_not_written_is_not_done_again() {
    for (blue, green) in PAIRS {
        let [blue, green] = [blue, green].map(|version| start(version, BEGIN));
        let name = blue.version().name();
        let scratch = tempfile::tempdir().unwrap();
        let begin = head(&blue);
        let start = |begin: Option<&str>| {
            Engine::start_with(&blue, &green, scratch.path(), begin, 2, DdlMode::Apply)
        };
        let engine = start(Some(&begin));
        blue.run("insert into t.a values (2, 'two', 2)").unwrap();
        wait("the first row", || {
            green.value("select count(*) from t.a").is_ok_and(|count| count == "2")
        });
        let mut holder = connect(&ServerUrl::parse(&url(&green)).unwrap()).await.unwrap();
        holder
            .query_drop("start transaction; select * from _cutover.progress for update")
            .await
            .unwrap();
        // Twice it would fail, or make another column.
        blue.run("use t; alter table a add column w int not null default 5; insert into a values (3, 'three', 3, 3)")
            .unwrap();
        let columns = "select count(*) from information_schema.columns
                       where table_schema = 't' and table_name = 'a'";
        wait("the column", || green.value(columns).unwrap() == "4");
        engine.kill();
        let state = "select state from _cutover.definition";
        assert_eq!(green.value(state).unwrap(), "begun", "{name}");
        holder.query_drop("rollback").await.unwrap();
        let mut engine = start(None);
        wait("the row behind it", || {
            assert!(!engine.has_ended(), "{name}: the engine ended by itself");
            green.value("select count(*) from t.a where w = 3").unwrap() == "1"
        });
        engine.kill();
        assert_eq!(green.value(state).unwrap(), "done", "{name}");
        same(&blue, &green, "t.a");
    }
}
