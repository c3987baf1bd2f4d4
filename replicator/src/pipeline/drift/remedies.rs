//! What a person does about tables that differ, in words and statements.

use decoders::QualifiedName;
use decoders::postgres::catalog::quote_ident;

use super::NAMED_MAX;

/// What to do about a table whose columns differ. A column that green alone has was dropped or renamed on blue, or
/// was added on green first: the catalogs don't tell which.
pub(super) fn altered(
    table: &QualifiedName,
    on_green_only: &[(String, String)],
    is_that_all: bool,
) -> String {
    let again = format!(
        "the same ALTER TABLE {table} as on blue (where it fills the rows that are there, other values \
         may come of it: cutover verify --table '{table}')"
    );
    if on_green_only.is_empty() {
        return again;
    }
    let all = |write: &dyn Fn(&str, &str) -> String| {
        let clauses = on_green_only.iter().map(|(column, kind)| write(&quote_ident(column), kind));
        format!("ALTER TABLE {table} {};", clauses.collect::<Vec<_>>().join(", "))
    };
    let drop = all(&|column, _| format!("DROP COLUMN {column}"));
    let add = all(&|column, kind| format!("ADD COLUMN {column} {kind}"));
    let add = format!("{add} on blue, with the default and the constraints that green has");
    match is_that_all {
        true => format!(
            "{drop} - or, if the column was added on green first and is to stay, {add} (rows may \
             differ then: cutover verify --table '{table}')"
        ),
        false => format!(
            "{again}; of a column that was added on green first instead: {drop} - or, if it is to \
             stay, {add}"
        ),
    }
}

/// Blue's tables that are in no stream, and what can be done about them.
///
/// The lock belongs to it: it waits for whoever has written to the table and is under way. A server may keep in
/// mind that the table isn't published while it decodes such a transaction, and leave out what comes behind it
/// (PostgreSQL without its commit 4909b38af of April 2025).
pub(super) fn unpublished(names: &[&QualifiedName], publication: &str) -> Option<String> {
    let named = &names[..names.len().min(NAMED_MAX)];
    let list = |before: &str, between: &str| {
        let each = named.iter().map(|name| format!("{before}{name}"));
        each.collect::<Vec<_>>().join(between)
    };
    let of_verify = named.iter().map(|name| format!(" --table '{name}'")).collect::<String>();
    let who = match (names, names.len() - named.len()) {
        ([], _) => return None,
        ([name], _) => format!("{name} is"),
        (_, 0) => format!("{} are", list("", ", ")),
        (_, more) => format!("{} and {more} more tables are", list("", ", ")),
    };
    Some(format!(
        "{who} on blue and not replicated (created after the copy, or taken out of the publication): \
         drop, exclude (tables.exclude), copy again (replicator teardown, then run), or take in: make \
         it on green as on blue; on blue, where it has a primary key or a replica identity: BEGIN; LOCK \
         TABLE {} IN SHARE ROW EXCLUSIVE MODE; ALTER PUBLICATION {} ADD TABLE {}; COMMIT; then \
         cutover verify{of_verify}, cutover repair, and at last cutover verify, of all tables: \
         differences that were found count until then. Until the repair an UPDATE or DELETE of a row \
         that it had before halts the stream: keep writers off",
        list("ONLY ", ", "),
        quote_ident(publication),
        list("ONLY ", ", "),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_is_not_published_can_be_taken_in() {
        let tables: Vec<_> =
            (0..9).map(|n| QualifiedName::new("public", format!("t{n}").as_str())).collect();
        let tables: Vec<_> = tables.iter().collect();
        let said = unpublished(&tables[..1], "cutover_shop").unwrap();
        for part in [
            "\"public\".\"t0\" is on blue and not replicated",
            "LOCK TABLE ONLY \"public\".\"t0\" IN SHARE ROW EXCLUSIVE MODE",
            "ALTER PUBLICATION \"cutover_shop\" ADD TABLE ONLY \"public\".\"t0\";",
            "cutover verify --table '\"public\".\"t0\"'",
        ] {
            assert!(said.contains(part), "{part} is missing in {said}");
        }
        let said = unpublished(&tables, "cutover_shop").unwrap();
        assert!(said.contains("and 4 more tables are") && !said.contains("t5"), "{said}");
        assert_eq!(unpublished(&[], "cutover_shop"), None);
    }
}
