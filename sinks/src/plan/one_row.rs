//! Statements that green refuses unless they affect exactly one row.
//!
//! Were the counts checked here, COMMIT could not be sent before they have come: a round trip more
//! for each transaction of a quiet stream. So the statement counts for itself, and fails its
//! transaction on green; a COMMIT that is on its way behind it rolls back then (PostgreSQL's
//! `EndTransactionBlock`, `TBLOCK_ABORT`, in src/backend/access/transam/xact.c).

/// Names the count in the error that green makes of it.
const SAYS: &str = "cutover: rows=";

/// `query`, which gives a row for each row that it writes, as a statement that gives one row, or
/// fails. `before` are queries that it refers to, each `name AS (..)`.
///
/// No function that always fails is there in every version without being created; a text that is
/// no number does as well, and the error quotes it.
pub fn demanded(before: &[String], query: &str) -> String {
    let mut with = before.to_vec();
    with.push(format!("done AS ({query})"));
    format!(
        "WITH {} SELECT CASE pg_catalog.count(*) WHEN 1 THEN 1 ELSE \
         pg_catalog.format('{SAYS}%s', pg_catalog.count(*))::pg_catalog.int4 END FROM done",
        with.join(", ")
    )
}

/// How many rows it were, if that is what green says with this error.
pub fn counted(code: &str, message: &str) -> Option<u64> {
    // invalid_text_representation, in green's language.
    let (_, rest) = message.split_once(SAYS).filter(|_| code == "22P02")?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    rest[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_read_from_the_error() {
        let message = "invalid input syntax for type integer: \"cutover: rows=0\"";
        assert_eq!(counted("22P02", message), Some(0));
        assert_eq!(counted("22P02", "Syntaxe en entrée : « cutover: rows=12 »"), Some(12));
        assert_eq!(counted("22P02", "invalid input syntax for type integer: \"x\""), None);
        assert_eq!(counted("22012", message), None);
    }
}
