//! The query of one gulp: the rows by COPY, and how the copy stands behind them.

use crate::change::Lsn;
use crate::postgres::ident::{quote_identifier, quote_literal};
use crate::postgres::pgoutput::PROTOCOL_VERSION;
use crate::postgres::stream::StreamOptions;
use crate::postgres::wire::TextRow;

/// What is decoded again may be so many times what is gained.
const REREAD_FACTOR_MAX: u64 = 4;

/// Everything of the query but its bounds.
#[derive(Debug)]
pub(super) struct GulpQuery {
    before: String,
    after: String,
}

impl GulpQuery {
    pub(super) fn new(copy: &str, options: &StreamOptions, version_num: u32, binary: bool) -> Self {
        let publications: Vec<_> =
            options.publications.iter().map(|name| quote_identifier(name)).collect();
        let copy = quote_literal(copy);
        let mut after = format!(
            ", 'proto_version', '{PROTOCOL_VERSION}', 'publication_names', {}",
            quote_literal(&publications.join(","))
        );
        if version_num >= 140_000 {
            after.push_str(", 'messages', 'true'");
        }
        if binary {
            after.push_str(", 'binary', 'true'");
        }
        if options.origin.is_sent(version_num) {
            after.push_str(", 'origin', 'none'");
        }
        after.push_str(&format!(
            ")) TO STDOUT (FORMAT binary);
             SELECT confirmed_flush_lsn, restart_lsn, pg_catalog.pg_current_wal_insert_lsn()
             FROM pg_catalog.pg_replication_slots WHERE slot_name = {copy}"
        ));
        let before = format!(
            "COPY (SELECT data FROM pg_catalog.pg_logical_slot_get_binary_changes({copy}, "
        );
        Self { before, after }
    }

    /// The query for whole transactions of together at least `changes` messages, or all that commit
    /// up to `upto` or to the end of the log.
    pub(super) fn sql(&self, upto: Lsn, changes: u32) -> String {
        format!("{}'{upto}', {changes}{}", self.before, self.after)
    }
}

/// How the copy and the log stand after a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Status {
    /// Everything that commits before has been returned.
    pub(super) confirmed: Lsn,
    /// Where the next call begins to decode.
    restart: Lsn,
    /// The end of the source's log.
    pub(super) head: Lsn,
}

/// What a call must not do.
#[derive(Debug, thiserror::Error)]
pub(super) enum GulpError {
    #[error("the positions of the slot's copy can't be read")]
    Status,
    #[error("a gulp ended inside a transaction")]
    OpenEnd,
    #[error("the slot's copy stands at {0}, behind what it has given")]
    Behind(Lsn),
}

impl Status {
    pub(super) fn read(row: &TextRow) -> Result<Self, GulpError> {
        let lsn = |at: usize| {
            let text = row.get(at).and_then(Option::as_deref);
            text.and_then(|text| text.parse().ok()).ok_or(GulpError::Status)
        };
        Ok(Self { confirmed: lsn(0)?, restart: lsn(1)?, head: lsn(2)? })
    }

    /// Whether the call since `before` decoded again more than `reread_bytes`, and much more than
    /// it moved on.
    pub(super) fn is_rereading_since(&self, before: &Status, reread_bytes: u64) -> bool {
        let again = before.confirmed.bytes_since(before.restart);
        let gained = self.confirmed.bytes_since(before.confirmed);
        again > reread_bytes && again / REREAD_FACTOR_MAX > gained
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::stream::OriginFilter;

    #[test]
    fn the_query_fits_the_version() {
        let options = StreamOptions::new("s", vec!["p".to_owned(), "it's".to_owned()], "cutover");
        let old = GulpQuery::new("s_gulp_1", &options, 130_000, false).sql(Lsn(16), 7);
        let call = "COPY (SELECT data FROM pg_catalog.pg_logical_slot_get_binary_changes(\
                    's_gulp_1', '0/10', 7, 'proto_version', '1', 'publication_names', \
                    '\"p\",\"it''s\"'";
        assert!(old.starts_with(&format!("{call})) TO STDOUT (FORMAT binary);")), "{old}");
        let new = GulpQuery::new("s_gulp_1", &options, 140_000, true).sql(Lsn(16), 7);
        let more = ", 'messages', 'true', 'binary', 'true')) TO STDOUT";
        assert!(new.starts_with(&format!("{call}{more}")), "{new}");
        let options = StreamOptions { origin: OriginFilter::None, ..options };
        let sql =
            |version_num| GulpQuery::new("s_gulp_1", &options, version_num, false).sql(Lsn(16), 7);
        assert!(sql(160_000).contains(", 'origin', 'none')) TO"), "{}", sql(160_000));
        assert!(!sql(150_000).contains("origin"), "{}", sql(150_000));
    }

    #[test]
    fn decoding_much_for_little_is_noticed() {
        let at = |confirmed: u64, restart: u64| Status {
            confirmed: Lsn(confirmed),
            restart: Lsn(restart),
            head: Lsn(u64::MAX),
        };
        let gib = 1 << 30;
        assert!(at(3 * gib + 1_000, 0).is_rereading_since(&at(3 * gib, 0), gib));
        assert!(!at(4 * gib, 0).is_rereading_since(&at(3 * gib, 0), gib), "it moved on enough");
        assert!(
            !at(gib + 1_000, 1).is_rereading_since(&at(gib, 1), gib),
            "little is decoded again"
        );
    }
}
