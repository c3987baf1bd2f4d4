//! A lane's session, which two speak on in turn: the client library for what is rare, and our own
//! pipeline for rows ([`super::pipeline`]).

use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use decoders::postgres::error::WireError;
use decoders::postgres::pipelined::{Pipelined, Reply};
use decoders::postgres::session::Session;
use tokio_postgres::types::{BorrowToSql, Kind, Type};

use super::error::{target_error, wire_error};
use crate::target::TargetError;

/// Statements leave us in pieces of at least this size, unless somebody waits for them: a small
/// transaction is one packet, of a large one green gets something to do at once.
const PUSH_BYTES: usize = 16 * 1024;

/// A statement prepared on a wire.
pub(super) type Statement = Arc<Prepared>;

/// What a [`Statement`] is. Green forgets it when the last of them is dropped.
pub(super) struct Prepared {
    name: String,
    types: Vec<Type>,
    unused: Names,
}

type Names = Arc<Mutex<Vec<String>>>;

impl Drop for Prepared {
    fn drop(&mut self) {
        // Every change is one push, or a take.
        let mut unused = self.unused.lock().unwrap_or_else(PoisonError::into_inner);
        unused.push(mem::take(&mut self.name));
    }
}

/// Whose turn it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// The library's, which may still be told things that nobody has waited for.
    Library,
    Ours,
}

/// The session. What is sent here is answered in order; [`Wire::session`] waits for all of it.
pub(super) struct Wire {
    session: Session,
    pipelined: Pipelined,
    turn: Turn,
    /// Statements so far.
    prepared: u64,
    /// What green is to forget.
    unused: Names,
}

impl Wire {
    pub fn new(session: Session, pipelined: Pipelined) -> Self {
        let unused = Names::default();
        Self { session, pipelined, turn: Turn::Library, prepared: 0, unused }
    }

    /// The session, for the library's methods. Nobody asks for what was unanswered any more.
    ///
    /// # Errors
    /// The connection's.
    pub async fn session(&mut self) -> Result<&Session, TargetError> {
        if self.turn == Turn::Ours {
            let given_back = self.pipelined.give_back().await;
            given_back.map_err(|error| wire_error("waiting for green's answers", &error))?;
            self.turn = Turn::Library;
        }
        Ok(&self.session)
    }

    /// From now on it is us who speak.
    async fn take(&mut self) -> Result<(), TargetError> {
        if self.turn == Turn::Ours {
            return Ok(());
        }
        // The library's last words may be the end of a statement, for which nobody has waited.
        let silent = self.session.batch_execute("").await;
        silent.map_err(|error| target_error("waiting for green's answers", &error))?;
        self.pipelined.take();
        self.turn = Turn::Ours;
        let unused = mem::take(&mut *self.unused.lock().unwrap_or_else(PoisonError::into_inner));
        for name in unused {
            self.pipelined.close(&name).map_err(|error| sending(&error))?;
        }
        Ok(())
    }

    /// Prepares a statement; a type that is not given is green's choice. Nothing may be unanswered.
    ///
    /// # Errors
    /// Green's, about `doing`.
    pub async fn prepare(
        &mut self,
        sql: &str,
        types: &[u32],
        doing: &str,
    ) -> Result<Statement, TargetError> {
        self.take().await?;
        self.prepared += 1;
        let name = format!("cutover_{}", self.prepared);
        let parsed = self.pipelined.parse(&name, sql, types);
        parsed.map_err(|error| wire_error(doing, &error))?;
        self.pipelined.sync();
        let types = loop {
            match self.pipelined.reply().await.map_err(|error| wire_error(doing, &error))? {
                Reply::Parameters(types) => break types,
                // Of an earlier Sync.
                Reply::Ready => {}
                Reply::Complete(_) => {
                    let defect = "green answers a statement that nobody waits for";
                    return Err(TargetError::retry(defect));
                }
            }
        };
        let types = types.into_iter().map(parameter_type).collect();
        Ok(Arc::new(Prepared { name, types, unused: self.unused.clone() }))
    }

    /// Writes a statement; see [`Wire::push_if_much`].
    ///
    /// # Errors
    /// A parameter that is none of the statement's.
    pub async fn execute<P: BorrowToSql>(
        &mut self,
        statement: &Prepared,
        params: &[P],
    ) -> Result<(), TargetError> {
        self.take().await?;
        let written = self.pipelined.execute(&statement.name, &statement.types, params);
        written.map_err(|error| sending(&error))
    }

    /// Writes a piece of the data of the COPY that was executed last.
    pub fn copy_data(&mut self, piece: &[u8]) -> Result<(), TargetError> {
        self.pipelined.copy_data(piece).map_err(|error| sending(&error))
    }

    /// Ends that data.
    pub fn copy_done(&mut self) -> Result<(), TargetError> {
        self.pipelined.copy_done().map_err(|error| sending(&error))
    }

    /// Sends what was written, if it is worth a packet.
    ///
    /// # Errors
    /// The connection's.
    pub async fn push_if_much(&mut self) -> Result<(), TargetError> {
        if self.pipelined.unsent_bytes() < PUSH_BYTES {
            return Ok(());
        }
        self.pipelined.push().await.map_err(|error| sending(&error))
    }

    /// Sends what was written.
    ///
    /// # Errors
    /// The connection's.
    pub async fn push(&mut self) -> Result<(), TargetError> {
        self.pipelined.push().await.map_err(|error| sending(&error))
    }

    /// Green is to answer everything that was sent so far.
    pub fn ask(&mut self) {
        self.pipelined.sync();
    }

    /// How many rows the oldest unanswered statement came to. It must have been asked for.
    pub async fn answer(&mut self) -> Result<u64, WireError> {
        loop {
            match self.pipelined.reply().await? {
                Reply::Complete(rows) => return Ok(rows),
                Reply::Ready | Reply::Parameters(_) => {}
            }
        }
    }
}

fn sending(error: &WireError) -> TargetError {
    wire_error("sending statements to green", error)
}

/// Only the OID matters to those who write values.
fn parameter_type(oid: u32) -> Type {
    Type::from_oid(oid)
        .unwrap_or_else(|| Type::new(format!("type {oid}"), oid, Kind::Simple, String::new()))
}
