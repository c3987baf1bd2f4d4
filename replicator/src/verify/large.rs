//! Large objects: which there are, and what is in them. No stream brings them (PostgreSQL manual,
//! Logical Replication, Restrictions), so they are somebody's own copy.

use std::collections::BTreeMap;

use cutover::Side;
use cutover::api::Severity;
use cutover::verify::ObjectFinding;

use super::gate::Gate;
use super::reader::{Reader, Trouble};

/// Objects of one question, which is one snapshot.
const STEP: u64 = 1000;
/// Objects that are named.
const NAMED: usize = 5;
/// Where a page of an object begins says as much as what is in it.
const CONTENT: &str = "SELECT l.loid, md5(string_agg(l.pageno || ':' || md5(l.data), ',' \
     ORDER BY l.pageno)) FROM pg_catalog.pg_largeobject l WHERE ";

/// What has been found; nothing where neither side has any. `accepted`: the move was begun knowing
/// that they are not replicated.
pub(super) async fn compare(
    gate: &Gate,
    [source, target]: [&Reader; 2],
    accepted: bool,
) -> Result<Option<ObjectFinding>, Trouble> {
    let sides = [source.side, target.side];
    let mut apart = Apart::default();
    let mut from = 0_u64;
    loop {
        let next = format!(
            "SELECT max(o.oid::text::bigint) FROM (SELECT m.oid FROM \
             pg_catalog.pg_largeobject_metadata m WHERE m.oid >= {from}::text::oid \
             ORDER BY m.oid LIMIT {STEP}) o"
        );
        let ends = [end(source, &next).await?, end(target, &next).await?];
        // Up to the nearer end both have been asked for everything.
        let Some(to) = ends.into_iter().flatten().min() else { break };
        if apart.seen == 0 && !(readable(source).await? && readable(target).await?) {
            let what = "there are some, and the role may not read pg_largeobject on both sides";
            return Ok(Some(finding(Severity::Warn, what.to_owned())));
        }
        let range = format!("{from}::text::oid AND {to}::text::oid");
        let _pass = gate.enter().await;
        let both = tokio::try_join!(contents(source, &range), contents(target, &range))?;
        apart.take(both);
        if to >= u64::from(u32::MAX) {
            break;
        }
        from = to + 1;
    }
    let severity = if accepted { Severity::Warn } else { Severity::Fail };
    Ok(apart.told(sides).map(|what| finding(severity, what)))
}

fn finding(severity: Severity, what: String) -> ObjectFinding {
    ObjectFinding { severity, kind: "large object".into(), object: "all".into(), what, fix: None }
}

async fn end(reader: &Reader, sql: &str) -> Result<Option<u64>, Trouble> {
    let rows = reader.rows(sql).await?;
    let told = rows.first().and_then(|row| row.first()?.as_deref());
    Ok(told.and_then(|text| text.parse().ok()))
}

async fn readable(reader: &Reader) -> Result<bool, Trouble> {
    let sql = "SELECT has_table_privilege('pg_catalog.pg_largeobject', 'SELECT')";
    let rows = reader.rows(sql).await?;
    Ok(rows.first().is_some_and(|row| row.first() == Some(&Some("t".into()))))
}

/// Hash by object; of one that is empty, which has no page, nothing.
type Contents = BTreeMap<u64, String>;

async fn contents(reader: &Reader, range: &str) -> Result<Contents, Trouble> {
    let sql = format!(
        "SELECT m.oid, coalesce(x.h, '') FROM pg_catalog.pg_largeobject_metadata m \
         LEFT JOIN ({CONTENT} l.loid BETWEEN {range} GROUP BY l.loid) x(loid, h) \
         ON x.loid = m.oid WHERE m.oid BETWEEN {range}"
    );
    let mut contents = Contents::new();
    for mut row in reader.rows(&sql).await? {
        let hash = row.pop().flatten().unwrap_or_default();
        contents.insert(reader.number(row.first())?, hash);
    }
    Ok(contents)
}

/// Objects that are not the same.
#[derive(Debug, Default)]
struct Apart {
    seen: u64,
    missing: Vec<u64>,
    extra: Vec<u64>,
    different: Vec<u64>,
}

impl Apart {
    fn take(&mut self, (source, mut target): (Contents, Contents)) {
        self.seen += source.len().max(target.len()) as u64;
        for (oid, here) in source {
            match target.remove(&oid) {
                None => self.missing.push(oid),
                Some(there) if there != here => self.different.push(oid),
                Some(_) => {}
            }
        }
        self.extra.extend(target.into_keys());
    }

    fn told(&self, [from, to]: [Side; 2]) -> Option<String> {
        let part = |oids: &[u64], what: &str| {
            let named: Vec<String> = oids.iter().take(NAMED).map(u64::to_string).collect();
            let more = if oids.len() > NAMED { ", .." } else { "" };
            let named = named.join(", ");
            (!oids.is_empty()).then(|| format!("{} {what} ({named}{more})", oids.len()))
        };
        let parts = [
            part(&self.missing, &format!("are not on {to}")),
            part(&self.extra, &format!("are not on {from}")),
            part(&self.different, "have other contents"),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| format!("of {}: {}", self.seen, parts.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_named() {
        let contents = |all: &[(u64, &str)]| -> Contents {
            all.iter().map(|(oid, hash)| (*oid, (*hash).to_owned())).collect()
        };
        let mut apart = Apart::default();
        apart.take((contents(&[(1, "a"), (2, "b")]), contents(&[(1, "a"), (2, "b")])));
        assert_eq!(apart.told([Side::Blue, Side::Green]), None);
        apart.take((contents(&[(3, "a"), (4, "")]), contents(&[(4, "b"), (5, "c")])));
        let expected =
            "of 4: 1 are not on green (3), 1 are not on blue (5), 1 have other contents (4)";
        assert_eq!(apart.told([Side::Blue, Side::Green]).unwrap(), expected);
    }
}
