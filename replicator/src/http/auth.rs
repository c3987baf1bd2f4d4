//! The bearer token.

use std::path::Path;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use cutover::api::{ApiError, ErrorCode};
use cutover::private_file;
use sha2::{Digest, Sha256};

use super::routes::Refusal;

/// The token that requests must carry; only its digest is kept.
#[derive(Clone)]
pub struct Token(Arc<[u8; 32]>);

impl Token {
    /// The token in `text`, without white space around it.
    pub fn new(text: &str) -> Self {
        Self(Arc::new(digest(text.trim())))
    }

    /// Reads the token from a file.
    ///
    /// # Errors
    /// A sentence: the file can't be read, or is empty.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = private_file::read(path).map_err(|error| format!("api.token_file {error}"))?;
        if text.trim().is_empty() {
            return Err(format!("api.token_file {}: empty", path.display()));
        }
        Ok(Self::new(&text))
    }
}

/// Comparing digests takes the same time wherever a guess first differs from the token.
fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Lets a request through if it carries the token, or none is asked for.
pub(super) async fn require(
    State(token): State<Option<Token>>,
    request: Request,
    next: Next,
) -> Response {
    let Some(expected) = token else { return next.run(request).await };
    let given = request
        .headers()
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    if given.is_some_and(|given| digest(given.trim()) == *expected.0) {
        return next.run(request).await;
    }
    let error = ApiError::new(
        ErrorCode::Unauthorized,
        "the bearer token is missing or wrong",
        "replicator's API",
    );
    Refusal(error.next("set CUTOVER_API_TOKEN, or give --token-file")).into_response()
}
