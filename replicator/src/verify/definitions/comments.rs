//! Comments on objects of the users. What differs is worth a look.

use cutover::verify::objects::{Described, Rigor};
use decoders::postgres::catalog::quote_literal;

use super::super::reader::{Reader, Trouble};
use super::property;

/// A longer one has no statement: it is on the other side.
const TEXT_MAX: usize = 1000;
/// Oids below are those of objects that initdb makes (PostgreSQL source, access/transam.h, FirstNormalObjectId).
const OF_USERS: u32 = 16_384;

/// The word of COMMENT ON for a type of object as `pg_identify_object` has it, where its identity may follow.
fn word(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "table" => "TABLE",
        "table column" | "view column" | "materialized view column" | "composite type column" => {
            "COLUMN"
        }
        "view" => "VIEW",
        "materialized view" => "MATERIALIZED VIEW",
        "index" => "INDEX",
        "sequence" => "SEQUENCE",
        "function" => "FUNCTION",
        "procedure" => "PROCEDURE",
        "type" | "composite type" => "TYPE",
        "domain" => "DOMAIN",
        "schema" => "SCHEMA",
        "table constraint" => "CONSTRAINT",
        "trigger" => "TRIGGER",
        "policy" => "POLICY",
        "rule" => "RULE",
        _ => return None,
    })
}

/// Those of one side. Of extensions' objects and of ours there are none.
pub(super) async fn read(reader: &Reader, objects: &mut Vec<Described>) -> Result<(), Trouble> {
    let sql = format!(
        "SELECT o.type, o.identity, d.description, md5(d.description) \
         FROM pg_description d, LATERAL pg_identify_object(d.classoid, d.objoid, d.objsubid) o \
         WHERE (d.objoid >= {OF_USERS} OR d.objoid = to_regnamespace('public')) \
           AND o.identity IS NOT NULL AND o.schema IS DISTINCT FROM '_cutover' AND o.type <> 'extension' \
           AND o.identity NOT LIKE '\\_cutover%' \
           AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = d.classoid AND e.objid = d.objoid \
                           AND e.deptype IN ('e', 'i'))"
    );
    for row in reader.rows(&sql).await? {
        let [Some(kind), Some(identity), Some(text), Some(hash)] = row.as_slice() else { continue };
        let mut comment = Described::new(
            "comment",
            format!("on {kind} {identity}"),
            vec![property("hash of its text", hash, Rigor::Noted)],
        );
        if let Some(word) = word(kind) {
            // "x on public.t" as COMMENT ON has it.
            let on = format!("COMMENT ON {word} {identity} IS");
            if text.len() <= TEXT_MAX {
                let statement = format!("{on} {}", quote_literal(text));
                comment.properties[0].fix = Some(statement.clone());
                comment = comment.made_by(statement);
            }
            comment = comment.unmade_by(format!("{on} NULL"));
        }
        objects.push(comment);
    }
    Ok(())
}
