//! What a session's own server says that it carries: settings to take along, prepared statements,
//! and what can't be moved. Asked by a named statement, because a simple query would drop the
//! client's unnamed one.

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
         AND name NOT IN ('transaction_isolation', 'transaction_read_only', 'transaction_deferrable') \
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

/// A prepared statement of the extended protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Prepared {
    pub name: Vec<u8>,
    pub sql: Vec<u8>,
    pub types: Vec<u32>,
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
    user: &[u8],
    customs: &[String],
    aside: &mut Vec<u8>,
) -> Result<Memory, Unanswered> {
    match tokio::time::timeout(ANSWER_MAX, converse(server, user, customs, aside)).await {
        Ok(Ok(answer)) => answer.map_err(Unanswered::Refused),
        Ok(Err(error)) => {
            tracing::debug!("a session's server is gone: {error}");
            Err(Unanswered::Lost)
        }
        // What it may still say would end up in the client's conversation.
        Err(_) => Err(Unanswered::Lost),
    }
}

/// Whether the server is still there: it answers a Sync. What else it says goes to `aside`.
pub(super) async fn ping(
    server: &mut RawConnection,
    aside: &mut Vec<u8>,
) -> Result<(), Unanswered> {
    let answered = async {
        let mut out = Vec::new();
        messages::sync(&mut out);
        server.write_all(&out).await?;
        server.flush().await?;
        let mut inbox = Inbox::default();
        loop {
            let message = inbox.next(server, MESSAGE_MAX).await?;
            match message.tag {
                b'Z' => {
                    aside.extend_from_slice(&inbox.take_rest());
                    return Ok(());
                }
                // Nothing was asked that could fail: it says goodbye.
                b'E' => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                _ => message.append_to(aside),
            }
        }
    };
    match tokio::time::timeout(ANSWER_MAX, answered).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err::<_, std::io::Error>(error)) => {
            tracing::debug!("a session's server is gone: {error}");
            Err(Unanswered::Lost)
        }
        Err(_) => Err(Unanswered::Lost),
    }
}

async fn converse(
    server: &mut RawConnection,
    user: &[u8],
    customs: &[String],
    aside: &mut Vec<u8>,
) -> std::io::Result<Result<Memory, String>> {
    let names = format!("{{{}}}", customs.join(","));
    let mut out = Vec::new();
    messages::parse(&mut out, NAME, ASK.as_bytes(), &[]);
    messages::run(&mut out, NAME, &[names.as_bytes()]);
    messages::close(&mut out, NAME);
    messages::sync(&mut out);
    server.write_all(&out).await?;
    server.flush().await?;
    let mut inbox = Inbox::default();
    let mut memory = Memory::default();
    let mut failure = None;
    loop {
        let message = inbox.next(server, MESSAGE_MAX).await?;
        match message.tag {
            b'D' if row(&message.body, user, &mut memory).is_none() => {
                failure.get_or_insert_with(|| "its answer can't be read".to_owned());
            }
            b'E' => {
                let (sqlstate, what) = messages::error_fields(&message.body);
                failure.get_or_insert_with(|| format!("{what} (SQLSTATE {sqlstate})"));
            }
            b'Z' => {
                aside.extend_from_slice(&inbox.take_rest());
                return Ok(failure.map_or(Ok(memory), Err));
            }
            b'N' | b'A' | b'S' => message.append_to(aside),
            _ => {}
        }
    }
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
