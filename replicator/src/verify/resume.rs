//! What a verification has done, over a restart of the sidecar.
//!
//! A chunk's proof does not grow old by a restart: the stream goes on where it was. It is void when
//! the stream is another one (the copy was made again), when the sides have changed their roles in
//! the meantime, and when the table or the question is not the same any more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cutover::Side;
use cutover::verify::{Mode, VerifyRequest};
use jiff::Timestamp;

use super::compare::Compared;
use super::plan::{Range, TablePlan};
use super::reader::Trouble;
use crate::store::{FinishedChunk, Ground, Store, StoreError, Unfinished};

/// An older one is not taken up again: a proof counts from its beginning.
const AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// The unfinished verification that answers this request, if there is one.
pub(super) fn unfinished(
    store: &Store,
    source: Side,
    ground: &Ground,
    request: &VerifyRequest,
) -> Result<Option<Unfinished>, StoreError> {
    // What one that goes on has not watched from its beginning is no proof to it.
    if request.fresh || request.continuous {
        return Ok(None);
    }
    let age = |since: Timestamp| Duration::try_from(Timestamp::now().duration_since(since));
    Ok(store.unfinished_verification()?.filter(|found| {
        found.source == source
            && found.ground == *ground
            && asks_the_same(&found.request, request)
            // A clock that was set back makes it young, not old: that is as bad.
            && age(found.started).is_ok_and(|age| age <= AGE_MAX)
    }))
}

fn asks_the_same(one: &VerifyRequest, other: &VerifyRequest) -> bool {
    let asked = |request: &VerifyRequest| {
        (request.mode, request.tables.clone(), request.predicates.clone())
    };
    asked(one) == asked(other)
}

/// Where finished chunks are kept.
pub(super) struct Memory {
    /// `None`: nowhere.
    store: Option<Store>,
    failed: AtomicBool,
}

impl Memory {
    /// Of what is not to be taken up again.
    pub fn nowhere() -> Self {
        Self { store: None, failed: AtomicBool::new(false) }
    }

    /// Of a verification that goes on (its chunks are there), or of one that begins.
    pub async fn open(
        store: &Store,
        is_resumed: bool,
        (id, started, source): (&str, Timestamp, Side),
        ground: &Ground,
        request: &VerifyRequest,
    ) -> Result<(Self, Vec<FinishedChunk>), Trouble> {
        let nowhere = Self::nowhere();
        // A sample is small, and which chunks it takes depends on where they lie.
        if request.mode == Mode::Sample {
            return Ok((nowhere, Vec::new()));
        }
        let (store, request, ground) = (store.clone(), request.clone(), ground.clone());
        let id = id.to_owned();
        let opened = blocking(move || {
            if is_resumed {
                let chunks = store.verified_chunks()?;
                return Ok((Self { store: Some(store), ..nowhere }, chunks));
            }
            store.begin_verification(&Unfinished { id, request, started, source, ground })?;
            Ok((Self { store: Some(store), ..nowhere }, Vec::new()))
        });
        opened.await.map_err(|what| Trouble::new("state directory", what))
    }

    /// Keeps a chunk, if all of its rows were settled.
    pub async fn keep(&self, plan: &TablePlan, range: Option<&Range>, compared: &Compared) {
        if self.store.is_none() || compared.settled.unsettled > 0 {
            return;
        }
        let range = range.cloned().unwrap_or_default();
        let chunk = FinishedChunk {
            table: plan.name.to_string(),
            plan: plan.fingerprint(),
            number: range.number,
            lo: range.lo,
            hi: range.hi,
            rows: compared.rows,
            rechecked: compared.rechecked,
            in_motion: compared.settled.in_motion,
            differences: compared.settled.differences.clone(),
        };
        self.save(chunk).await;
    }

    /// Keeps a chunk. Not being able to is no reason to stop: it costs a second look after a crash.
    pub async fn save(&self, chunk: FinishedChunk) {
        let Some(store) = self.store.clone() else { return };
        if let Err(error) = blocking(move || store.save_verified(&chunk)).await
            && !self.failed.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(error, "a crash would make this verification start anew");
        }
    }

    /// It has come to its end.
    pub async fn forget(&self) {
        let Some(store) = self.store.clone() else { return };
        if let Err(error) = blocking(move || store.forget_verification()).await {
            tracing::warn!(error, "a finished verification is not forgotten");
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}
