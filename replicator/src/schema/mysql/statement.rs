//! A table's definition as SHOW CREATE TABLE prints it, taken apart: keys and foreign keys are put
//! off until the rows are there.
//!
//! No parser of SQL: items are what commas separate outside of quotes and brackets, and an item is
//! known by its first words, which the servers always print in the same way. What is not known stays
//! where it is.

/// A definition in parts. Statements name the table without its database.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Parts {
    /// The table with what its rows need.
    pub create: String,
    /// Statements that add its other keys.
    pub keys: Vec<Addition>,
    /// Statements that add its foreign keys.
    pub foreign_keys: Vec<Addition>,
}

/// A key or foreign key that is added later.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Addition {
    /// Its name.
    pub name: String,
    /// Its definition, for `ALTER TABLE .. ADD`.
    pub definition: String,
}

/// What is put off, and what is known of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Choice<'a> {
    /// Whether keys are added after the rows.
    pub defers_keys: bool,
    /// The column that counts by itself: a key must begin with it at any time.
    pub auto_increment: Option<&'a str>,
    /// The collation of columns that name none.
    pub collation: Option<&'a str>,
}

/// Takes a definition apart. `None` if it is not one.
pub(super) fn split(create: &str, choice: Choice<'_>) -> Option<Parts> {
    let (head, items, tail) = items(create)?;
    let has_primary = items.iter().any(|item| item.starts_with("PRIMARY KEY"));
    let is_counted = |item: &str| {
        choice.auto_increment.is_some_and(|column| first_column(item).as_deref() == Some(column))
    };
    let mut counts = items.iter().any(|item| item.starts_with("PRIMARY KEY") && is_counted(item));
    let mut parts = Parts { create: String::new(), keys: Vec::new(), foreign_keys: Vec::new() };
    let mut kept = Vec::new();
    for item in items {
        let later = if is_foreign_key(item) {
            Some(&mut parts.foreign_keys)
        } else if choice.defers_keys && is_key(item, has_primary) && (counts || !is_counted(item)) {
            Some(&mut parts.keys)
        } else {
            None
        };
        match (later, name_of(item)) {
            (Some(later), Some(name)) => {
                later.push(Addition { name, definition: item.to_owned() });
            }
            _ => {
                counts |= is_counted(item);
                kept.push(item);
            }
        }
    }
    parts.create =
        format!("{head}\n  {}\n{}", kept.join(",\n  "), explicit(tail, choice.collation));
    Some(parts)
}

/// Keys and foreign keys of a definition, by name: what can be added later, in the words of
/// `ALTER TABLE .. ADD`. `None` if it is none.
pub(crate) fn additions(create: &str) -> Option<Vec<(String, String)>> {
    let choice = Choice { defers_keys: true, auto_increment: None, collation: None };
    let parts = split(create, choice)?;
    let all = parts.keys.into_iter().chain(parts.foreign_keys);
    Some(all.map(|added| (added.name, added.definition)).collect())
}

/// A key that rows can do without: without a primary key, a unique one may be what orders them.
fn is_key(item: &str, has_primary: bool) -> bool {
    item.starts_with("KEY ")
        || item.starts_with("FULLTEXT KEY ")
        || (has_primary && item.starts_with("UNIQUE KEY "))
}

fn is_foreign_key(item: &str) -> bool {
    let Some(rest) = item.strip_prefix("CONSTRAINT ") else { return false };
    let end = closing_quote(rest);
    end.is_some_and(|end| rest[end..].trim_start().starts_with("FOREIGN KEY"))
}

/// The first name in backticks.
fn name_of(item: &str) -> Option<String> {
    let from = &item[item.find('`')?..];
    unquoted(from)
}

/// The name that begins the bracket.
fn first_column(item: &str) -> Option<String> {
    let name = &item[item.find('`').unwrap_or(0)..];
    // The name of the key may hold a bracket.
    let behind = match item.starts_with("PRIMARY KEY") {
        true => item,
        false => &name[closing_quote(name)?..],
    };
    unquoted(behind[behind.find('(')? + 1..].trim_start())
}

fn unquoted(text: &str) -> Option<String> {
    let end = closing_quote(text)?;
    Some(text.get(1..end - 1)?.replace("``", "`"))
}

/// Where a name in backticks, which the text begins with, has ended.
fn closing_quote(text: &str) -> Option<usize> {
    let mut rest = text.strip_prefix('`')?;
    loop {
        let at = rest.find('`')?;
        rest = &rest[at + 1..];
        match rest.strip_prefix('`') {
            Some(after) => rest = after,
            None => return Some(text.len() - rest.len()),
        }
    }
}

/// Head up to the bracket, the items, tail from the closing bracket on.
fn items(create: &str) -> Option<(&str, Vec<&str>, &str)> {
    let mut items = Vec::new();
    let (mut depth, mut begin, mut open) = (0_usize, 0, 0);
    let mut quote: Option<char> = None;
    let mut characters = create.char_indices();
    while let Some((at, character)) = characters.next() {
        match (quote, character) {
            // A doubled quotation mark ends a text and begins the next.
            (Some(open), _) if open == character => quote = None,
            (Some('\'' | '"'), '\\') => drop(characters.next()),
            (Some(_), _) => {}
            (None, '\'' | '"' | '`') => quote = Some(character),
            (None, '(') => {
                depth += 1;
                if depth == 1 {
                    begin = at + 1;
                    open = begin;
                }
            }
            (None, ',') if depth == 1 => {
                items.push(create[begin..at].trim());
                begin = at + 1;
            }
            (None, ')') => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    items.push(create[begin..at].trim());
                    return Some((&create[..open], items, &create[at..]));
                }
            }
            (None, _) => {}
        }
    }
    None
}

/// With the collation named: the one that a character set has by default differs between versions.
fn explicit(tail: &str, collation: Option<&str>) -> String {
    const CHARSET: &str = "DEFAULT CHARSET=";
    let Some(collation) = collation.filter(|_| !tail.contains("COLLATE=")) else {
        return tail.to_owned();
    };
    let Some(at) = tail.find(CHARSET) else { return tail.to_owned() };
    let name = at + CHARSET.len();
    let length = tail[name..].find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let end = length.map_or(tail.len(), |length| name + length);
    format!("{} COLLATE={collation}{}", &tail[..end], &tail[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Choice<'_> = Choice { defers_keys: true, auto_increment: None, collation: None };

    const TABLE: &str = "CREATE TABLE `t` (
  `id` int(11) NOT NULL COMMENT 'a, (b) `c` \\' d''e',
  `k``ey (` enum('x,y',')') DEFAULT NULL,
  `n` bigint(20) NOT NULL AUTO_INCREMENT,
  PRIMARY KEY (`id`),
  UNIQUE KEY `u` (`k``ey (`,`id`),
  KEY `n (` (`n`,`id`),
  KEY `m` (`n`),
  FULLTEXT KEY `f` (`k``ey (`),
  CONSTRAINT `fk FOREIGN KEY` CHECK (`id` > 0),
  CONSTRAINT `f,k` FOREIGN KEY (`id`) REFERENCES `o` (`id`) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb3 COMMENT='x'
 PARTITION BY RANGE (`id`)
(PARTITION `p` VALUES LESS THAN (5) ENGINE = InnoDB)";

    #[test]
    fn keys_and_foreign_keys_are_put_off() {
        let choice = Choice { auto_increment: Some("n"), collation: Some("utf8mb3_bin"), ..ALL };
        let parts = split(TABLE, choice).unwrap();
        let names = |additions: &[Addition]| -> Vec<String> {
            additions.iter().map(|addition| addition.name.clone()).collect()
        };
        assert_eq!(names(&parts.keys), ["u", "m", "f"], "the first key of `n` stays");
        assert_eq!(names(&parts.foreign_keys), ["f,k"]);
        assert_eq!(parts.keys[0].definition, "UNIQUE KEY `u` (`k``ey (`,`id`)");
        for kept in [
            "CREATE TABLE `t` (\n  `id` int(11)",
            "'a, (b) `c` \\' d''e',",
            "KEY `n (` (`n`,`id`),\n  CONSTRAINT `fk FOREIGN KEY` CHECK (`id` > 0)\n)",
            "CHARSET=utf8mb3 COLLATE=utf8mb3_bin COMMENT='x'\n PARTITION BY RANGE (`id`)\n(PARTITION",
        ] {
            assert!(parts.create.contains(kept), "{kept:?} in {}", parts.create);
        }
    }

    #[test]
    fn without_a_primary_key_the_unique_ones_stay() {
        let table = "CREATE TABLE `t` (\n  `a` int NOT NULL,\n  UNIQUE KEY `u` (`a`),\n  KEY `k` (`a`)\n) ENGINE=InnoDB";
        let parts = split(table, ALL).unwrap();
        assert_eq!(parts.keys.len(), 1);
        assert!(parts.create.contains("UNIQUE KEY `u` (`a`)\n)"), "{}", parts.create);
        let whole = split(table, Choice { defers_keys: false, ..ALL }).unwrap();
        assert_eq!(whole.create, table);
    }

    #[test]
    fn what_is_no_definition_is_refused() {
        for text in ["", "CREATE TABLE `t`", "CREATE TABLE `t` (`a` int", "x ')' (`a"] {
            assert_eq!(split(text, ALL), None, "{text}");
        }
    }
}
