//! Statements for what is no row: what is safe to be typed on the target while it is no copy yet.
//! Both sides are asked again, because the findings are a verification's and may be old.

use cutover::verify::ObjectFinding;
use cutover::verify::repair::PlannedObject;
use decoders::postgres::catalog::quote_literal;

use super::super::reader::{Reader, TextRow, Trouble};
use super::super::work::Pair;

/// Since this version an index can be rebuilt beside its users.
const REINDEX_CONCURRENTLY: u32 = 120_000;

/// Each finding with the statements that put it right; none where a person has to look.
pub(super) async fn planned(
    pair: &Pair,
    findings: &[ObjectFinding],
) -> Result<Vec<PlannedObject>, Trouble> {
    let mut planned = Vec::new();
    for found in findings {
        let statements = match found.kind.as_str() {
            "sequence" => sequence(pair, &found.object).await?,
            "index" => index(pair, &found.object).await?,
            "constraint" => constraint(pair, &found.object).await?,
            _ => Vec::new(),
        };
        planned.push(PlannedObject {
            kind: found.kind.clone(),
            object: found.object.clone(),
            what: found.what.clone(),
            statements,
        });
    }
    Ok(planned)
}

/// The only row, if there is one and nothing in it is NULL.
async fn one(reader: &Reader, sql: &str) -> Result<Option<Vec<String>>, Trouble> {
    let rows: Vec<TextRow> = reader.rows(sql).await?;
    Ok(rows.into_iter().next().and_then(|row| row.into_iter().collect()))
}

/// The target's sequence to where the source's is; a cutover does it anyway.
async fn sequence(pair: &Pair, name: &str) -> Result<Vec<String>, Trouble> {
    let there = format!("SELECT relkind FROM pg_class WHERE oid = to_regclass({})", literal(name));
    let kind = Some(vec!["S".to_owned()]);
    if one(&pair.source, &there).await? != kind || one(&pair.target, &there).await? != kind {
        return Ok(Vec::new());
    }
    let value = one(&pair.source, &format!("SELECT last_value, is_called FROM {name}")).await?;
    let Some([last, called]) = value.as_deref() else { return Ok(Vec::new()) };
    let called = called == "t";
    Ok(vec![format!("SELECT pg_catalog.setval({}, {last}, {called});", literal(name))])
}

async fn index(pair: &Pair, name: &str) -> Result<Vec<String>, Trouble> {
    let here = format!(
        "SELECT c.relkind, pg_get_indexdef(x.indexrelid), \
                EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = x.indexrelid \
                          AND k.contype IN ('p', 'u', 'x')) \
         FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid \
         WHERE x.indexrelid = to_regclass({})",
        literal(name)
    );
    let there = format!(
        "SELECT x.indisvalid AND x.indisready FROM pg_index x \
         WHERE x.indexrelid = to_regclass({})",
        literal(name)
    );
    let valid = one(&pair.target, &there).await?;
    let found = one(&pair.source, &here).await?;
    let Some([kind, definition, is_constraint]) = found.as_deref() else { return Ok(Vec::new()) };
    Ok(match valid.as_deref() {
        // Its constraint makes it, and is found to be missing too.
        None if is_constraint == "t" => Vec::new(),
        None => vec![format!("{};", beside_users(definition, kind == "i"))],
        Some([valid]) if valid == "f" && kind == "i" => {
            let how = match pair.target.session().server_version() >= REINDEX_CONCURRENTLY {
                true => "CONCURRENTLY ",
                false => "",
            };
            vec![format!("REINDEX INDEX {how}{name};")]
        }
        Some(_) => Vec::new(),
    })
}

/// Without a lock that the stream would wait for. A partitioned table's can't be made like that.
fn beside_users(definition: &str, is_plain: bool) -> String {
    match definition.split_once(" INDEX ") {
        Some((create, rest)) if is_plain => format!("{create} INDEX CONCURRENTLY {rest}"),
        _ => definition.to_owned(),
    }
}

async fn constraint(pair: &Pair, name: &str) -> Result<Vec<String>, Trouble> {
    let sql = format!(
        "SELECT x.t, x.k, x.contype, x.convalidated, x.def FROM \
         (SELECT '\"' || replace(n.nspname, '\"', '\"\"') || '\".\"' \
                 || replace(c.relname, '\"', '\"\"') || '\"' AS t, \
                 '\"' || replace(k.conname, '\"', '\"\"') || '\"' AS k, \
                 k.contype, k.convalidated, pg_get_constraintdef(k.oid) AS def, \
                 quote_ident(k.conname) AS q \
          FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid \
          JOIN pg_namespace n ON n.oid = c.relnamespace) x \
         WHERE x.t || '.' || x.k = {0} OR x.t || '.' || x.q = {0}",
        literal(name)
    );
    let (here, there) = (one(&pair.source, &sql).await?, one(&pair.target, &sql).await?);
    let Some([table, constraint, kind, valid, definition]) = here.as_deref() else {
        return Ok(Vec::new());
    };
    let validate = format!("ALTER TABLE {table} VALIDATE CONSTRAINT {constraint};");
    Ok(match there.as_deref() {
        None => {
            // Checked afterwards, without keeping writers away.
            let later = matches!(kind.as_str(), "c" | "f") && !definition.ends_with("NOT VALID");
            let how = if later { " NOT VALID" } else { "" };
            let add = format!("ALTER TABLE {table} ADD CONSTRAINT {constraint} {definition}{how};");
            if later { vec![add, validate] } else { vec![add] }
        }
        Some([_, _, _, there, _]) if valid == "t" && there == "f" => vec![validate],
        Some(_) => Vec::new(),
    })
}

fn literal(name: &str) -> String {
    quote_literal(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_made_beside_its_users() {
        let unique = "CREATE UNIQUE INDEX a ON public.t USING btree (v)";
        let expected = "CREATE UNIQUE INDEX CONCURRENTLY a ON public.t USING btree (v)";
        assert_eq!(beside_users(unique, true), expected);
        assert_eq!(beside_users(unique, false), unique);
    }
}
