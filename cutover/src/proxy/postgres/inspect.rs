//! What a session's own server says that it carries: settings to take along, prepared statements,
//! and what can't be moved. Asked by a named statement, because a simple query would drop the
//! client's unnamed one. In a transaction of its own without `statement_timeout`, because a client's
//! may be shorter than the question takes; and once more if it was cancelled, because a cancel
//! request that a client has sent for its last statement may come that late.

use std::io;
use std::time::Duration;

use decoders::postgres::raw::RawConnection;
use tokio::io::AsyncWriteExt;

use super::messages::{self, Inbox};

/// How long a server may think about it. Longer than any hold waits: a busy server is no lost one.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// The longest answer: statements can be long.
const MESSAGE_MAX: usize = 64 << 20;
/// Name of our statement.
const NAME: &[u8] = b"cutover_proxy_inspect";

/// Two columns: what, and up to three texts.
const ASK: &str = "SELECT 'set', name, setting, NULL::text FROM pg_catalog.pg_settings \
       WHERE source = 'session' \
         AND name NOT IN ('transaction_isolation', 'transaction_read_only', 'transaction_deferrable', \
                          'statement_timeout') \
   UNION ALL SELECT 'set', n, pg_catalog.current_setting(n, true), NULL \
       FROM pg_catalog.unnest($1::text[]) AS n WHERE pg_catalog.current_setting(n, true) IS NOT NULL \
   UNION ALL SELECT 'role', pg_catalog.current_setting('role'), session_user::text, NULL \
   UNION ALL SELECT 'prepared', name, statement, \
         pg_catalog.array_to_string(parameter_types::pg_catalog.oid[], ',') \
       FROM pg_catalog.pg_prepared_statements WHERE NOT from_sql AND name <> 'cutover_proxy_inspect' \
   UNION ALL SELECT 'type', t::text, t::pg_catalog.regtype::text, NULL \
       FROM (SELECT DISTINCT pg_catalog.unnest(parameter_types::pg_catalog.oid[]) AS t \
             FROM pg_catalog.pg_prepared_statements) AS u WHERE t >= 16384 \
   UNION ALL SELECT 'pin', 'PREPARE', NULL, NULL \
       WHERE EXISTS (SELECT FROM pg_catalog.pg_prepared_statements WHERE from_sql) \
   UNION ALL SELECT 'pin', 'LISTEN', NULL, NULL \
       WHERE EXISTS (SELECT FROM pg_catalog.pg_listening_channels()) \
   UNION ALL SELECT 'pin', 'a cursor WITH HOLD', NULL, NULL \
       WHERE EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable) \
   UNION ALL SELECT 'pin', 'an advisory lock', NULL, NULL \
       WHERE EXISTS (SELECT FROM pg_catalog.pg_locks \
                     WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid()) \
   UNION ALL SELECT 'pin', 'temporary objects', NULL, NULL \
       WHERE CASE WHEN pg_catalog.pg_my_temp_schema() = 0 THEN false ELSE \
         EXISTS (SELECT FROM pg_catalog.pg_class WHERE relnamespace = pg_catalog.pg_my_temp_schema()) \
         OR EXISTS (SELECT FROM pg_catalog.pg_proc WHERE pronamespace = pg_catalog.pg_my_temp_schema()) \
         OR EXISTS (SELECT FROM pg_catalog.pg_type WHERE typnamespace = pg_catalog.pg_my_temp_schema()) \
         END";

const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";
/// The limit, and none from here on. So short that a limit of a millisecond lets it pass; whether
/// the client or somebody for it has set that one would take longer, so it always goes along.
const UNLIMITED: &str = "SELECT pg_catalog.current_setting('statement_timeout'), \
     pg_catalog.set_config('statement_timeout', '0', true)";
const ROLLBACK: &str = "ROLLBACK";
/// CloseComplete.
const CLOSED: u8 = b'3';
/// SQLSTATE query_canceled.
const CANCELED: &str = "57014";

/// A prepared statement of the extended protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Prepared {
    pub name: Vec<u8>,
    pub sql: Vec<u8>,
    pub types: Vec<u32>,
}

/// What is asked.
pub(super) struct Question<'a> {
    /// Who has logged in.
    pub user: &'a [u8],
    /// Custom settings that there may be.
    pub customs: &'a [String],
    /// The client has sent a Parse of the unnamed statement.
    pub unnamed: bool,
}

/// What a session carries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Memory {
    /// Settings of the session. Texts are in the client's encoding.
    pub settings: Vec<(Vec<u8>, Vec<u8>)>,
    /// `SET ROLE`.
    pub role: Option<Vec<u8>>,
    pub prepared: Vec<Prepared>,
    /// Types of theirs that are not built in: another server has them under other OIDs.
    pub types: Vec<(u32, Vec<u8>)>,
    /// There is no unnamed statement although one was sent: the server has refused it.
    pub lacks_unnamed: bool,
    /// What can't be moved.
    pub pins: Vec<String>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// The server's connection is gone.
    Lost,
    /// It refused to answer.
    Refused(String),
}

/// Asks. What the server says beside the answer (notices, notifications, changed settings) goes
/// to `aside`.
pub(super) async fn ask(
    server: &mut RawConnection,
    question: &Question<'_>,
    aside: &mut Vec<u8>,
) -> Result<Memory, Unanswered> {
    let inbox = Inbox::behind(aside);
    let mut dialogue = Dialogue { server, inbox, aside };
    match tokio::time::timeout(ANSWER_MAX, dialogue.ask(question)).await {
        Ok(Ok(answer)) => answer.map_err(|refused| {
            Unanswered::Refused(format!("{} (SQLSTATE {})", refused.1, refused.0))
        }),
        Ok(Err(error)) => {
            tracing::debug!("a session's server is gone: {error}");
            Err(Unanswered::Lost)
        }
        // What it may still say would end up in the client's conversation.
        Err(_) => Err(Unanswered::Lost),
    }
}

/// Whether the server is still there: it answers a Close. What else it says goes to `aside`.
pub(super) async fn ping(
    server: &mut RawConnection,
    aside: &mut Vec<u8>,
) -> Result<(), Unanswered> {
    let answered = async {
        let mut out = Vec::new();
        messages::close(&mut out, NAME);
        messages::sync(&mut out);
        let mut inbox = Inbox::behind(aside);
        server.write_all(&out).await?;
        server.flush().await?;
        let mut is_ours = false;
        loop {
            let message = inbox.next(server, MESSAGE_MAX).await?;
            match message.tag {
                CLOSED => is_ours = true,
                b'Z' if is_ours => {
                    aside.extend_from_slice(&inbox.take_rest());
                    return Ok(());
                }
                // Nothing was asked that could fail: it says goodbye.
                b'E' => return Err(io::ErrorKind::UnexpectedEof.into()),
                _ => message.append_to(aside),
            }
        }
    };
    match tokio::time::timeout(ANSWER_MAX, answered).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err::<_, io::Error>(error)) => {
            tracing::debug!("a session's server is gone: {error}");
            Err(Unanswered::Lost)
        }
        Err(_) => Err(Unanswered::Lost),
    }
}

/// SQLSTATE and text of an error.
type Refused = (String, String);

struct Dialogue<'a> {
    server: &'a mut RawConnection,
    inbox: Inbox,
    aside: &'a mut Vec<u8>,
}

impl Dialogue<'_> {
    async fn ask(&mut self, question: &Question<'_>) -> io::Result<Result<Memory, Refused>> {
        let mut answer = self.ask_once(question).await?;
        if matches!(&answer, Err((sqlstate, _)) if sqlstate == CANCELED) {
            answer = self.ask_once(question).await?;
        }
        if let Ok(memory) = &mut answer
            && question.unnamed
        {
            let mut out = Vec::new();
            messages::close(&mut out, NAME);
            messages::describe(&mut out, b"");
            messages::sync(&mut out);
            memory.lacks_unnamed = self.exchange(&out, |_| {}).await?.is_err();
        }
        self.aside.extend_from_slice(&self.inbox.take_rest());
        Ok(answer)
    }

    async fn ask_once(&mut self, question: &Question<'_>) -> io::Result<Result<Memory, Refused>> {
        let names = format!("{{{}}}", question.customs.join(","));
        let mut memory = Memory::default();
        let mut is_readable = true;
        let mut begin = Vec::new();
        statement(&mut begin, BEGIN, &[]);
        statement(&mut begin, UNLIMITED, &[]);
        messages::sync(&mut begin);
        let begun = self.exchange(&begin, |body| {
            match messages::columns(body).and_then(|columns| columns.into_iter().next()?) {
                Some(limit) => memory.settings.push((b"statement_timeout".to_vec(), limit)),
                None => is_readable = false,
            }
        });
        let mut answer = begun.await?;
        if answer.is_ok() {
            let mut asking = Vec::new();
            statement(&mut asking, ASK, &[names.as_bytes()]);
            messages::sync(&mut asking);
            let asked = self.exchange(&asking, |body| {
                is_readable &= row(body, question.user, &mut memory).is_some();
            });
            answer = asked.await?;
        }
        let mut end = Vec::new();
        statement(&mut end, ROLLBACK, &[]);
        messages::sync(&mut end);
        // Without a transaction it warns, which is nothing to the client.
        let before = self.aside.len();
        let ended = self.exchange(&end, |_| {}).await?;
        if answer.is_err() {
            self.aside.truncate(before);
        }
        Ok(match answer.and(ended) {
            Ok(()) if !is_readable => Err(("XX000".into(), "its answer can't be read".into())),
            Ok(()) => Ok(memory),
            Err(refused) => Err(refused),
        })
    }

    /// Sends what begins with a Close, and reads up to the ReadyForQuery. One that comes before the
    /// Close is answered is the client's: see `Turns`.
    async fn exchange(
        &mut self,
        out: &[u8],
        mut row: impl FnMut(&[u8]),
    ) -> io::Result<Result<(), Refused>> {
        self.server.write_all(out).await?;
        self.server.flush().await?;
        let mut answer = Ok(());
        let mut is_ours = false;
        loop {
            let message = self.inbox.next(self.server, MESSAGE_MAX).await?;
            match message.tag {
                CLOSED => is_ours = true,
                b'Z' if !is_ours => message.append_to(self.aside),
                b'D' => row(&message.body),
                b'E' if answer.is_ok() => answer = Err(messages::error_fields(&message.body)),
                b'Z' => return Ok(answer),
                b'N' | b'A' | b'S' => message.append_to(self.aside),
                _ => {}
            }
        }
    }
}

/// By our name, which an earlier question that failed may have left.
fn statement(out: &mut Vec<u8>, sql: &str, values: &[&[u8]]) {
    messages::close(out, NAME);
    messages::parse(out, NAME, sql.as_bytes(), &[]);
    messages::run(out, NAME, values);
    messages::close(out, NAME);
}

fn row(body: &[u8], user: &[u8], memory: &mut Memory) -> Option<()> {
    let mut columns = messages::columns(body)?.into_iter();
    let what = columns.next()??;
    let first = columns.next()??;
    let second = columns.next()?.unwrap_or_default();
    let third = columns.next()?.unwrap_or_default();
    match &what[..] {
        b"set" => memory.settings.push((first, second)),
        b"role" => {
            memory.role = (first != b"none").then_some(first);
            if second != user {
                memory.pins.push("SET SESSION AUTHORIZATION".to_owned());
            }
        }
        b"prepared" => {
            let types = std::str::from_utf8(&third).ok()?;
            let types = types.split(',').filter(|oid| !oid.is_empty());
            let types = types.map(|oid| oid.parse().ok()).collect::<Option<_>>()?;
            memory.prepared.push(Prepared { name: first, sql: second, types });
        }
        b"type" => {
            let oid = std::str::from_utf8(&first).ok()?.parse().ok()?;
            memory.types.push((oid, second));
        }
        _ => memory.pins.push(String::from_utf8_lossy(&first).into_owned()),
    }
    Some(())
}
