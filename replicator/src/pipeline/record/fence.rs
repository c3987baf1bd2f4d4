//! The last look at the source's catalog: its clients are gone, and the other side is not decided on yet.
//!
//! The watch looks every few seconds, so what was done between its last look and the fence has to be looked for
//! here. One question tells if there is anything to look for. It reads the whole catalog, which takes tenths of
//! a second where there are ten thousand tables, so it is asked while the drain's marker is on its way.

use cutover::Direction;
use cutover::ports::{PortError, PortResult};
use decoders::assemble::KnownTables;
use decoders::postgres::session::{self, Session};
use sinks::catalog_record::Mark;
use sinks::postgres::target_error;

use super::Book;
use crate::pipeline::arming::SlotRoute;
use crate::pipeline::catalog_mark::CatalogMark;
use crate::pipeline::failure::Failure;
use crate::status::Shared;
use crate::triggers::Known;

impl SlotRoute {
    /// The mark of the source's catalog. It changes no more: the source is closed.
    ///
    /// # Errors
    /// The source's.
    pub(in crate::pipeline) async fn mark_at_the_fence(&self) -> PortResult<String> {
        // Opened before the door was closed. If it was lost since, another one comes in by the airlock.
        let mut kept = self.marker.lock().await;
        let session = match kept.take() {
            Some(session) if !session.is_closed() => session,
            _ => self.marking().await?,
        };
        let mark = CatalogMark::prepare(&session).await.map_err(|error| self.unread(&error))?;
        let mark = mark.read().await.map_err(|error| self.unread(&error))?;
        *kept = Some(session);
        Ok(mark)
    }

    /// Definitions are about to be compared, by what `source` sees from now on.
    ///
    /// # Errors
    /// The source's.
    pub(crate) async fn defines(&self, shared: &Shared, source: &Session) -> Result<(), Failure> {
        let unread = |error| target_error("reading the catalog's mark", &error);
        let mark = CatalogMark::prepare(source).await.map_err(unread)?;
        let mark = mark.read().await.map_err(unread)?;
        shared.catalog.defined(mark, Known::read(source, &self.config.tables).await?);
        Ok(())
    }

    /// # Errors
    /// A server's; or tables of the source are not what they are known to be: they are named.
    pub(in crate::pipeline) async fn known_at_the_fence(
        &self,
        shared: &Shared,
        mark: &str,
    ) -> PortResult<()> {
        let put = |failure: Failure| crate::controlling::of_failure(self.ends.put(failure));
        let kept = self.marker.lock().await;
        let gone = || PortError::new(self.ends.direction.from().name(), "its session was lost");
        let direction = self.ends.direction;
        // A way back brings no definitions, and is refused for none.
        if direction == Direction::Forward
            && let Some(then) = shared.catalog.defined_otherwise(mark)
        {
            let now = Known::read(kept.as_ref().ok_or_else(gone)?, &self.config.tables).await;
            let now = now.map_err(|error| put(error.into()))?;
            if let Some(which) = then.changed(&now) {
                return Err(moved(self.ends.words(format!("{which} was changed on blue"))));
            }
        }
        if shared.catalog.is_compared(mark) && shared.obstacle().is_none() {
            return Ok(());
        }
        let source = kept.as_ref().ok_or_else(gone)?;
        let target = {
            let _guard = self.door.enter(direction.to()).await?;
            let session = session::connect(&self.ends.target, "cutover probe").await;
            session.map_err(|error| PortError::new(direction.to().name(), error.to_string()))?
        };
        let known = KnownTables::default();
        let book = Book::open(&target, &self.config, &known).await.map_err(put)?;
        let marks = book.marks(&target).await.map_err(put)?;
        if let Some(Mark { table, why, .. }) = marks.first() {
            return Err(moved(format!("rows of {table} may differ: {why}")));
        }
        if let Some(what) = book.differs(source, &self.config).await.map_err(put)? {
            return Err(moved(self.ends.words(what)));
        }
        match self.triggers_are_carried(source, &target).await.map_err(put)? {
            true => Ok(()),
            false => Err(moved("a trigger or rule was enabled or disabled".into())),
        }
    }

    fn unread(&self, error: &tokio_postgres::Error) -> PortError {
        PortError::new(self.ends.direction.from().name(), session::describe(error))
    }
}

fn moved(what: String) -> PortError {
    PortError::new("catalog", format!("tables were changed just before the fence: {what}"))
        .remedy("cutover status shows what to do")
}
