//! Text of values that does not depend on the server's version.
//!
//! The settings of our sessions pin everything but two output functions: floats, of which servers
//! before 12 print 17 digits and later ones the shortest exact text, and `"char"`, which 16 began to
//! escape. Where a version boundary lies between the two sides, such values go in their binary form.

use std::collections::{HashMap, HashSet};

use decoders::postgres::catalog::{ColumnInfo, quote_ident};

use super::reader::{Reader, Trouble};
use super::row_hash::RECORD_HASH;

/// Since this version floats are printed as the shortest exact text.
const SHORTEST_FLOATS: u32 = 120_000;
/// Since this version `"char"` is escaped.
const ESCAPED_CHAR: u32 = 160_000;
/// Since this version there is `hashtextextended`.
const EXTENDED_HASH: u32 = 110_000;

const CHAR: u32 = 18;

/// Arithmetic makes NaNs with other bits than input does, and which of them arrives is chance: all
/// are called the same, as text calls them.
const NANS: [(u32, &str); 2] = [(700, "float4"), (701, "float8")];

/// Types made of floats, by OID, and their binary output function (`pg_type.dat`).
const FLOATS: [(u32, &str); 9] = [
    (700, "float4send"),
    (701, "float8send"),
    (600, "point_send"),
    (601, "lseg_send"),
    (602, "path_send"),
    (603, "box_send"),
    (604, "poly_send"),
    (628, "line_send"),
    (718, "circle_send"),
];

/// How values of two servers are made comparable.
#[derive(Debug, Clone)]
pub(super) struct Canonical {
    extended_hash: bool,
    record_hash: bool,
    recode: bool,
    floats_differ: bool,
    char_differs: bool,
    /// Types by OID, of the source; only where it matters.
    types: HashMap<u32, Shape>,
}

/// What a type is made of.
#[derive(Debug, Clone, Default)]
struct Shape {
    /// A domain's.
    base: Option<u32>,
    /// An array's.
    element: Option<u32>,
    /// Of attributes, or of a range's bounds.
    parts: Vec<u32>,
}

/// A column's expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expression {
    pub sql: String,
    /// Floats inside of other types: compared to 15 digits.
    pub is_rounded: bool,
}

impl Canonical {
    /// Looks at both servers.
    pub async fn of(source: &Reader, target: &Reader) -> Result<Self, Trouble> {
        let versions = [source, target].map(|side| side.session().server_version());
        let between = |boundary| (versions[0] < boundary) != (versions[1] < boundary);
        let mut encodings = Vec::new();
        for side in [source, target] {
            let rows = side.rows("SELECT current_setting('server_encoding')").await?;
            encodings.push(rows);
        }
        let mut canonical = Self {
            extended_hash: versions.iter().all(|version| *version >= EXTENDED_HASH),
            record_hash: versions.iter().all(|version| *version >= RECORD_HASH),
            recode: encodings[0] != encodings[1],
            floats_differ: between(SHORTEST_FLOATS),
            char_differs: between(ESCAPED_CHAR),
            types: HashMap::new(),
        };
        if canonical.floats_differ || canonical.char_differs {
            canonical.types = shapes(source).await?;
        }
        Ok(canonical)
    }

    /// A column's value in a form that is the same on both servers.
    pub fn column(&self, column: &ColumnInfo) -> Expression {
        let name = format!("t.{}", quote_ident(&column.name));
        let plain = |sql| Expression { sql, is_rounded: false };
        let oid = self.base_of(column.type_oid);
        if let Some(sent) = self.sent(oid, &name) {
            return plain(sent);
        }
        let element = self.types.get(&oid).and_then(|shape| shape.element);
        if let Some(sent) = element.and_then(|element| self.sent(self.base_of(element), "u.e")) {
            return plain(format!(
                "CASE WHEN {name} IS NOT NULL THEN coalesce(array_dims({name}), '') || ':' || \
                 coalesce((SELECT string_agg(coalesce({sent}::text, '-'), ',' ORDER BY u.o) \
                 FROM unnest({name}) WITH ORDINALITY u(e, o)), '') END"
            ));
        }
        let is_rounded = self.floats_differ && self.has_floats(oid, &mut HashSet::new());
        Expression { sql: name, is_rounded }
    }

    /// Whether the two servers print a column's value with other digits.
    pub fn prints_floats(&self, column: &ColumnInfo) -> bool {
        self.floats_differ && self.has_floats(column.type_oid, &mut HashSet::new())
    }

    /// The text of several columns: `record_out` tells NULL from empty, and where a value ends.
    pub fn text(&self, expressions: &[String]) -> String {
        format!("ROW({})::text", expressions.join(", "))
    }

    /// Whether both servers hash records alike: they can, and texts are the same bytes on both.
    pub fn hashes_records(&self) -> bool {
        self.record_hash && !self.recode
    }

    /// A hash of 64 bits of a text. Only 11 and later have a fast one; MD5 is everywhere.
    pub fn hash(&self, text: &str) -> String {
        // Hashes are of bytes, so both have to be in one encoding.
        let text = match self.recode {
            true => format!("encode(convert_to({text}, 'UTF8'), 'hex')"),
            false => text.to_owned(),
        };
        match self.extended_hash {
            true => format!("hashtextextended(({text}) COLLATE \"C\", 0)"),
            false => format!("('x' || substr(md5({text}), 1, 16))::bit(64)::int8"),
        }
    }

    /// A value in binary form, where its text is not the same on both servers.
    fn sent(&self, oid: u32, value: &str) -> Option<String> {
        if oid == CHAR {
            return self.char_differs.then(|| format!("charsend({value})"));
        }
        let known = FLOATS.iter().find(|(known, _)| *known == oid);
        let (_, send) = known.filter(|_| self.floats_differ)?;
        let nan = NANS.iter().find(|(known, _)| *known == oid);
        Some(nan.map_or_else(
            || format!("{send}({value})"),
            |(_, kind)| {
                let nan = format!("'NaN'::{kind}");
                format!("{send}(CASE WHEN {value} = {nan} THEN {nan} ELSE {value} END)")
            },
        ))
    }

    fn base_of(&self, oid: u32) -> u32 {
        let mut oid = oid;
        // Domains over domains end somewhere.
        while let Some(base) = self.types.get(&oid).and_then(|shape| shape.base) {
            oid = base;
        }
        oid
    }

    fn has_floats(&self, oid: u32, seen: &mut HashSet<u32>) -> bool {
        if FLOATS.iter().any(|(known, _)| *known == oid) {
            return true;
        }
        if !seen.insert(oid) {
            return false;
        }
        let Some(shape) = self.types.get(&oid) else { return false };
        let inner = shape.base.iter().chain(&shape.element).chain(&shape.parts);
        inner.copied().collect::<Vec<_>>().into_iter().any(|inner| self.has_floats(inner, seen))
    }
}

async fn shapes(source: &Reader) -> Result<HashMap<u32, Shape>, Trouble> {
    let sql = "SELECT t.oid, t.typbasetype, \
                      CASE WHEN t.typlen = -1 THEN t.typelem ELSE 0 END, \
                      (SELECT string_agg(a.atttypid::text, ' ') FROM pg_attribute a \
                       WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 \
                         AND NOT a.attisdropped), \
                      (SELECT r.rngsubtype::text FROM pg_range r WHERE r.rngtypid = t.oid) \
               FROM pg_type t";
    let mut types = HashMap::new();
    for row in source.rows(sql).await? {
        let some = |at: usize| {
            source.number::<u32>(row.get(at)).map(|oid| Some(oid).filter(|oid| *oid != 0))
        };
        let inner = row.iter().skip(3).flatten();
        let parts = inner.flat_map(|oids| oids.split(' ')).filter_map(|oid| oid.parse().ok());
        let shape = Shape { base: some(1)?, element: some(2)?, parts: parts.collect() };
        types.insert(source.number(row.first())?, shape);
    }
    Ok(types)
}
