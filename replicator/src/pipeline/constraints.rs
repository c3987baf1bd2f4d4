//! Constraints that green can't have yet, while the stream goes on: looked at again and again, made
//! when nothing is in their way, and an obstacle to any cutover until then.

use std::sync::Arc;
use std::time::Duration;

use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::session::{self, Session};
use tokio::time::{Instant, sleep};

use super::ends::Ends;
use super::failure::{Failure, of_connect};
use crate::schema::settle::{Open, open, settle};
use crate::status::Shared;

/// A look takes at most this share of the time: it reads whole tables of green.
const SHARE: u32 = 50;
const INTERVAL_MIN: Duration = Duration::from_secs(3);
const INTERVAL_MAX: Duration = Duration::from_secs(1800);

/// Says what green lacks before anything can be decided on it.
///
/// # Errors
/// Green's.
pub(super) async fn begin(target: &Session, shared: &Shared) -> Result<(), Failure> {
    shared.lacks_constraints(words(&open(&**target).await?));
    Ok(())
}

/// Makes what can be made; never returns.
pub(super) async fn watch(target: &ConnInfo, ends: &Ends, shared: &Arc<Shared>) {
    let mut lacks = shared.lacking_constraints().is_some();
    let mut pause = INTERVAL_MIN;
    while lacks {
        sleep(pause).await;
        let begun = Instant::now();
        let looked = async {
            let session = session::connect(target, "cutover constraints").await;
            let mut session = session.map_err(|error| of_connect("green", &error))?;
            Ok::<_, Failure>(settle(&mut session).await?)
        };
        match looked.await {
            Ok(open) => {
                lacks = !open.is_empty();
                shared.lacks_constraints(words(&open).map(|text| ends.words(text)));
            }
            // What was said before still counts.
            Err(failure) => tracing::warn!(
                error = failure.what,
                "constraints that green lacks could not be looked at"
            ),
        }
        pause = (begun.elapsed() * SHARE).clamp(INTERVAL_MIN, INTERVAL_MAX);
    }
    std::future::pending().await
}

/// What no cutover may go past.
fn words(open: &[Open]) -> Option<String> {
    let each = open.iter().map(|Open { what, find, rows }| {
        let rows = match rows {
            Some(0) => "no row is in its way any more, so it is being made".to_owned(),
            Some(rows) => format!("{rows} rows violate it"),
            None => "rows violate it".to_owned(),
        };
        format!("{what} is not valid on green: {rows} ({find})")
    });
    let each: Vec<String> = each.collect();
    (!each.is_empty()).then(|| {
        format!(
            "{}. Repair the rows on blue, the stream brings the repair and green makes the constraint \
             by itself",
            each.join("; ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_are_counted_and_can_be_listed() {
        let one = |rows| Open { what: "FK CONSTRAINT s.c k".into(), find: "SELECT 1".into(), rows };
        let said = words(&[one(Some(3)), one(None)]).unwrap();
        assert!(
            said.contains(
                "FK CONSTRAINT s.c k is not valid on green: 3 rows violate it (SELECT 1)"
            )
        );
        assert_eq!(words(&[]), None);
    }
}
