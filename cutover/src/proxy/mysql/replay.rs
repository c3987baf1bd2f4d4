//! The same session on the other side.

use std::io;
use std::time::Duration;

use decoders::mysql::server::{RawConnection, ServerUrl};
use tokio::io::AsyncWriteExt;

use super::hello::Hello;
use super::inspect::{Dialogue, Memory};
use super::login::{Entered, Greeted, LoginError, enter, greeted};
use super::packets::{self, ERR, FULL, Prepared, invalid};
use super::statements::Statement;
use super::users::Credential;

/// How long it may take.
const OPEN_MAX: Duration = Duration::from_secs(10);

/// A session, opened anew.
pub(super) struct Fresh {
    pub server: RawConnection,
    /// Its number on the server.
    pub id: u32,
    pub is_mariadb: bool,
    pub status: u16,
    /// Numbers of the prepared statements, in their order.
    pub numbers: Vec<u32>,
}

/// What is to be there again.
pub(super) struct Wanted<'a> {
    pub hello: &'a Hello,
    pub credential: &'a Credential,
    pub memory: &'a Memory,
    /// The last value of COM_SET_OPTION.
    pub option: Option<u16>,
    pub statements: Vec<&'a Statement>,
}

/// Logs in and makes it the same.
///
/// # Errors
/// What the server has refused; [`LoginError::transient`] says whether waiting may help.
pub(super) async fn open(url: &ServerUrl, wanted: &Wanted<'_>) -> Result<Fresh, LoginError> {
    match tokio::time::timeout(OPEN_MAX, open_now(url, wanted)).await {
        Ok(fresh) => fresh,
        Err(_) => Err(LoginError { what: "no answer in time".into(), transient: true }),
    }
}

/// A connection whose server has greeted.
///
/// # Errors
/// It can't be reached, or refuses.
pub(super) async fn reach(url: &ServerUrl) -> Result<Greeted, LoginError> {
    match greeted(url).await? {
        Ok(greeted) => Ok(greeted),
        Err(refusal) => Err(LoginError::refused(&refusal)),
    }
}

async fn open_now(url: &ServerUrl, wanted: &Wanted<'_>) -> Result<Fresh, LoginError> {
    let greeted = reach(url).await?;
    let id = greeted.greeting.id;
    let is_mariadb = greeted.greeting.is_mariadb();
    let hello = wanted.hello;
    let database = wanted.memory.schema.as_deref().map(str::as_bytes);
    let entered = enter(greeted, url, hello, database, wanted.credential).await?;
    let Entered { mut server, inbox, status } = entered;
    let ends_with_ok = hello.ends_with_ok();
    let mut dialogue = Dialogue { server: &mut server, inbox, ends_with_ok, status };
    for sql in wanted.memory.statements() {
        let refused = |what| LoginError::new(format!("what it had set is refused: {what}"));
        dialogue.ask(&sql).await?.map_err(refused)?;
    }
    let mut numbers = Vec::new();
    for statement in &wanted.statements {
        let Some(text) = &statement.text else {
            return Err(LoginError::new("a prepared statement was not kept"));
        };
        let prepared = prepare(&mut dialogue, text).await?;
        let (number, parameters) = prepared
            .map_err(|what| LoginError::new(format!("a prepared statement is refused: {what}")))?;
        if parameters != statement.parameters {
            return Err(LoginError::new("a prepared statement has other parameters there"));
        }
        numbers.push(number);
    }
    if let Some(option) = wanted.option {
        let mut out = Vec::new();
        packets::packet(&mut out, 0, &[&[0x1b], &option.to_le_bytes()[..]].concat());
        dialogue.server.write_all(&out).await?;
        dialogue.server.flush().await?;
        let answer = dialogue.inbox.next(dialogue.server, FULL - 1).await?;
        if answer.first() == ERR {
            return Err(LoginError::refused(&answer.body));
        }
    }
    let status = dialogue.status;
    if !dialogue.inbox.is_empty() {
        return Err(invalid("more than was asked for").into());
    }
    Ok(Fresh { server, id, is_mariadb, status, numbers })
}

/// The server's number of a statement, and the number of its parameters. The inner error is the
/// server's.
async fn prepare(
    dialogue: &mut Dialogue<'_>,
    text: &[u8],
) -> io::Result<Result<(u32, u16), String>> {
    let mut out = Vec::new();
    packets::packet(&mut out, 0, &[b"\x16", text].concat());
    dialogue.server.write_all(&out).await?;
    dialogue.server.flush().await?;
    let answer = dialogue.inbox.next(dialogue.server, FULL - 1).await?;
    if answer.first() == ERR {
        return Ok(Err(LoginError::refused(&answer.body).what));
    }
    let prepared = Prepared::parse(&answer.body)?;
    for _ in 0..prepared.definitions(dialogue.ends_with_ok) {
        dialogue.inbox.next(dialogue.server, FULL - 1).await?;
    }
    Ok(Ok((prepared.number, prepared.parameters)))
}
