//! A command that could not do what it was asked for.

use crate::api::{ApiError, ErrorCode};

use super::exit::Exit;

/// Why, in the one form that errors have, and the exit code.
#[derive(Debug)]
pub struct Failure {
    /// What is shown. Boxed: it is large, and rare.
    pub error: Box<ApiError>,
    /// How the command ends.
    pub exit: Exit,
}

impl Failure {
    /// The failure with its own exit code.
    pub fn new(exit: Exit, error: ApiError) -> Self {
        Self { error: Box::new(error), exit }
    }

    /// The command line or what belongs to it is wrong; nothing was started.
    pub fn usage(what: impl Into<String>, place: impl Into<String>, next: &str) -> Self {
        let error = ApiError::new(ErrorCode::BadRequest, what, place)
            .in_state("unchanged: this command has started nothing")
            .next(next);
        Self::new(Exit::Usage, error)
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::new(error.code.into(), error)
    }
}
