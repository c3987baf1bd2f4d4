//! Why a frame is not a pgoutput message.

/// A frame that does not follow the manual ("Logical Replication Message Formats").
///
/// Says where, never what: no byte of a value gets into the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("pgoutput message {} is malformed at byte {offset}: {kind}", tag_name(*.tag))]
pub struct DecodeError {
    /// Bytes from the start of the frame.
    pub offset: usize,
    /// The message's first byte; `None` for an empty frame.
    pub tag: Option<u8>,
    /// What is wrong there.
    pub kind: DecodeErrorKind,
}

/// What is wrong with a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeErrorKind {
    /// The frame ends inside a field.
    #[error("{needed} bytes are needed and {left} are left")]
    Truncated {
        /// Bytes that the field needs.
        needed: usize,
        /// Bytes that the frame still has.
        left: usize,
    },
    /// The frame goes on after the message's last field.
    #[error("{0} bytes follow the end of the message")]
    TrailingBytes(usize),
    /// A Stream Abort with a position and a time at its end (protocol 4, PostgreSQL 16+).
    #[error("this form belongs to streaming = parallel, which was not asked for")]
    ParallelAbort,
    /// A message of a newer protocol, or not pgoutput at all.
    #[error("unknown message type")]
    UnknownTag,
    /// A byte that must be one of a few letters is another one.
    #[error("{found:#04x} is not a {what}")]
    UnknownByte {
        /// What the byte stands for.
        what: &'static str,
        /// The byte.
        found: u8,
    },
    /// Flags that this version of the protocol does not define.
    #[error("flags {found:#04x} of the {what} are not defined")]
    UnknownFlags {
        /// What the flags belong to.
        what: &'static str,
        /// The flags.
        found: u8,
    },
    /// A length or a count below zero.
    #[error("the {what} is negative: {found}")]
    Negative {
        /// What is counted.
        what: &'static str,
        /// The number.
        found: i32,
    },
    /// A length beyond what the source can hold.
    #[error("the {what} is impossible: {found}")]
    TooLong {
        /// What has the length.
        what: &'static str,
        /// The length.
        found: usize,
    },
    /// A string without its terminating zero byte.
    #[error("a string is not terminated")]
    Unterminated,
    /// A name that is not UTF-8, which the server promised with `client_encoding`.
    #[error("a name is not valid UTF-8")]
    NotUtf8,
    /// A time beyond what microseconds since 1970 can count.
    #[error("the commit time is out of range")]
    TimeOutOfRange,
}

fn tag_name(tag: Option<u8>) -> String {
    match tag {
        None => "(empty frame)".to_owned(),
        Some(tag) if tag.is_ascii_graphic() => format!("'{}'", char::from(tag)),
        Some(tag) => format!("{tag:#04x}"),
    }
}
