//! A session on the other side that is what the client's was: logged in as the same user, with its
//! settings, its role and its prepared statements.

use std::time::Duration;

use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::raw::{self, RawConnection};
use tokio::io::AsyncWriteExt;

use super::inspect::Memory;
use super::login::{Credential, Entered, LoginError, MESSAGE_MAX, enter};
use super::messages::{self, Inbox, Message};
use super::startup::Startup;

/// How long one try may take.
const TRY_MAX: Duration = Duration::from_secs(5);

/// Name of our statement.
const NAME: &[u8] = b"cutover_proxy_replay";

/// Whether a setting ends statements or sessions that take too long.
fn is_timeout(name: &[u8]) -> bool {
    name.ends_with(b"_timeout")
}

/// A session that is ready for its client.
pub(super) struct Fresh {
    pub server: RawConnection,
    pub entered: Entered,
    /// What the server has said behind its last answer.
    pub rest: Vec<u8>,
}

/// Opens it.
pub(super) async fn open(
    info: &ConnInfo,
    startup: &Startup,
    credential: &Credential,
    memory: &Memory,
    unnamed: Option<&[u8]>,
) -> Result<Fresh, LoginError> {
    let opening = async {
        let connected = raw::connect(info).await;
        let mut server = connected
            .map_err(|e| LoginError { what: e.to_string(), transient: e.is_transient() })?;
        let mut inbox = Inbox::default();
        let packet = startup.packet(info.dbname().as_bytes());
        let entered = enter(&mut server, &mut inbox, &packet, startup.user(), credential).await?;
        let mut fresh = Replay { server, inbox, entered };
        fresh.settings(memory).await?;
        fresh.prepared(memory).await?;
        fresh.unnamed(unnamed).await?;
        fresh.timeouts(memory).await?;
        let rest = fresh.inbox.take_rest();
        Ok(Fresh { server: fresh.server, entered: fresh.entered, rest })
    };
    match tokio::time::timeout(TRY_MAX, opening).await {
        Ok(opened) => opened,
        Err(_) => Err(LoginError { what: "no answer in time".to_owned(), transient: true }),
    }
}

struct Replay {
    server: RawConnection,
    inbox: Inbox,
    entered: Entered,
}

impl Replay {
    async fn settings(&mut self, memory: &Memory) -> Result<(), LoginError> {
        // What follows is in the client's encoding.
        let (encoding, others): (Vec<_>, Vec<_>) = memory
            .settings
            .iter()
            .filter(|(name, _)| !is_timeout(name))
            .partition(|(name, _)| name == b"client_encoding");
        let settings = encoding.into_iter().chain(others);
        let settings = settings.map(|(name, value)| (&name[..], &value[..]));
        // Last: the role may not be allowed to set what was set before it.
        let role = memory.role.iter().map(|role| (&b"role"[..], &role[..]));
        self.set(settings.chain(role)).await
    }

    /// After everything else that is replayed, so that they bound the client's statements only.
    async fn timeouts(&mut self, memory: &Memory) -> Result<(), LoginError> {
        let timeouts = memory.settings.iter().filter(|(name, _)| is_timeout(name));
        self.set(timeouts.map(|(name, value)| (&name[..], &value[..]))).await
    }

    /// By a named statement: the unnamed one is the client's.
    async fn set<'a>(
        &mut self,
        settings: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<(), LoginError> {
        let mut out = Vec::new();
        let sql = b"SELECT pg_catalog.set_config($1, $2, false)";
        messages::parse(&mut out, NAME, sql, &[25, 25]);
        for (name, value) in settings {
            messages::run(&mut out, NAME, &[name, value]);
        }
        messages::close(&mut out, NAME);
        messages::sync(&mut out);
        self.converse(&out, "its settings").await?;
        Ok(())
    }

    async fn prepared(&mut self, memory: &Memory) -> Result<(), LoginError> {
        if memory.prepared.is_empty() {
            return Ok(());
        }
        let mut out = Vec::new();
        if !memory.types.is_empty() {
            messages::parse(&mut out, b"", b"SELECT $1::pg_catalog.regtype::pg_catalog.oid", &[25]);
            for (_, name) in &memory.types {
                messages::run(&mut out, b"", &[name]);
            }
            messages::sync(&mut out);
        }
        let rows = match out.is_empty() {
            true => Vec::new(),
            false => self.converse(&out, "types of its prepared statements").await?,
        };
        let mut here = Vec::new();
        for ((oid, _), row) in memory.types.iter().zip(&rows) {
            let value =
                messages::columns(&row.body).and_then(|columns| columns.into_iter().next()?);
            let value = value.and_then(|value| String::from_utf8(value).ok()?.parse::<u32>().ok());
            here.push((*oid, value.ok_or_else(|| LoginError::new("a type that can't be read"))?));
        }
        out.clear();
        for statement in &memory.prepared {
            let mapped = |oid: &u32| here.iter().find(|(old, _)| old == oid).map_or(*oid, |m| m.1);
            let types: Vec<u32> = statement.types.iter().map(mapped).collect();
            messages::parse(&mut out, &statement.name, &statement.sql, &types);
        }
        messages::sync(&mut out);
        self.converse(&out, "its prepared statements").await?;
        Ok(())
    }

    /// Its types are built in or left to the server: who names others is not moved.
    async fn unnamed(&mut self, unnamed: Option<&[u8]>) -> Result<(), LoginError> {
        let Some(unnamed) = unnamed else { return Ok(()) };
        let mut out = Vec::new();
        Message { tag: b'P', body: unnamed.to_vec() }.append_to(&mut out);
        messages::sync(&mut out);
        self.converse(&out, "its unnamed statement").await.map(|_| ())
    }

    /// Sends, and reads up to the ReadyForQuery. Rows come back.
    async fn converse(&mut self, out: &[u8], what: &str) -> Result<Vec<Message>, LoginError> {
        self.server.write_all(out).await?;
        self.server.flush().await?;
        let mut failure = None;
        let mut rows = Vec::new();
        loop {
            let message = self.inbox.next(&mut self.server, MESSAGE_MAX).await?;
            match message.tag {
                b'D' => rows.push(message),
                b'E' => {
                    let error = LoginError::refused(&message.body);
                    failure.get_or_insert(LoginError {
                        what: format!("{what}: {}", error.what),
                        transient: error.transient,
                    });
                }
                b'S' => {
                    if let Some((name, value)) = messages::pair(&message.body) {
                        let known = &mut self.entered.parameters;
                        known.retain(|(old, _)| old != name);
                        known.push((name.to_vec(), value.to_vec()));
                    }
                }
                b'Z' => return failure.map_or(Ok(rows), Err),
                _ => {}
            }
        }
    }
}
