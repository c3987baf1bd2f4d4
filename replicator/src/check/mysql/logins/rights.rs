//! Rights in the lines of SHOW GRANTS.

use std::collections::BTreeMap;

/// One right on one object, or a role (`on` is empty then).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Right {
    /// In capitals; of a role its name as it is written. Columns stand behind it.
    pub right: String,
    /// As the server writes it: `*.*`, `` `shop`.* ``, `` `shop`.`t` ``; `REVOKE` stands before what is taken
    /// away again (MySQL).
    pub on: String,
    /// May be passed on.
    pub grantable: bool,
}

/// What an account was granted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Grants {
    /// Each right, with the statement that gives it.
    pub rights: BTreeMap<Right, String>,
}

const ALL: [&str; 2] = ["ALL PRIVILEGES", "ALL"];

impl Right {
    /// Whether who has this one has the other.
    pub fn covers(&self, other: &Right) -> bool {
        let object = self.on == other.on
            || other.is_of_objects() && (self.on == "*.*" || self.is_on_all_of(&other.on));
        let right = self.right == other.right
            || ALL.contains(&self.right.as_str()) && other.is_of_objects()
            || self.is_whole_of(other);
        object && right && (self.grantable || !other.grantable)
    }

    /// Not a role, and nothing that is taken away.
    fn is_of_objects(&self) -> bool {
        !self.on.is_empty() && !self.on.starts_with("REVOKE ")
    }

    /// A right on whole tables is one on columns.
    fn is_whole_of(&self, other: &Right) -> bool {
        other.right.strip_prefix(self.right.as_str()).is_some_and(|rest| rest.starts_with(" ("))
    }

    fn is_on_all_of(&self, object: &str) -> bool {
        let database = self.on.strip_suffix(".*");
        database.is_some_and(|database| {
            object.strip_prefix(database).is_some_and(|rest| rest.starts_with('.'))
        })
    }

    /// Whether it is on the database or what is in it, on everything, or a role.
    pub fn reaches(&self, database: &str) -> bool {
        let on = self.on.trim_start_matches("REVOKE ");
        if on.is_empty() || on == "*.*" {
            return true;
        }
        let on = ["FUNCTION ", "PROCEDURE ", "PACKAGE BODY ", "PACKAGE "]
            .iter()
            .find_map(|kind| on.strip_prefix(kind))
            .unwrap_or(on);
        let (quoted, _) = quoted_name(on);
        // A pattern may take it, too: whoever may be concerned is.
        quoted == database || quoted.replace('\\', "") == database || quoted.contains('%')
    }

    /// Whether it is on the database itself or on what is in it, and neither on everything nor a role. The
    /// database of a grant is a pattern, that of one on a table is a name.
    pub fn is_on(&self, database: &str) -> bool {
        if !self.is_of_objects() || self.on == "*.*" {
            return false;
        }
        let on = ["FUNCTION ", "PROCEDURE ", "PACKAGE BODY ", "PACKAGE "]
            .iter()
            .find_map(|kind| self.on.strip_prefix(kind))
            .unwrap_or(&self.on);
        let (quoted, rest) = quoted_name(on);
        match rest {
            ".*" => is_like(database.as_bytes(), quoted.as_bytes()),
            _ => quoted == database,
        }
    }

    /// In words.
    pub fn text(&self) -> String {
        let passed = if self.grantable { " WITH GRANT OPTION" } else { "" };
        match (self.on.as_str(), self.on.strip_prefix("REVOKE ")) {
            ("", _) => format!("the role {}{passed}", self.right),
            (_, Some(on)) => format!("no {} on {on}", self.right),
            (on, None) => format!("{} on {on}{passed}", self.right),
        }
    }

    /// The words of the right without its columns.
    pub fn name(&self) -> &str {
        self.right.split(" (").next().unwrap_or(&self.right)
    }

    /// Whether it is a role.
    pub fn is_role(&self) -> bool {
        self.on.is_empty()
    }
}

/// Whether a name is one of a pattern's: `%` any characters, `_` one, a backslash before either the character
/// itself.
fn is_like(name: &[u8], pattern: &[u8]) -> bool {
    match (pattern, name) {
        ([], name) => name.is_empty(),
        ([b'%', rest @ ..], name) => (0..=name.len()).any(|at| is_like(&name[at..], rest)),
        ([b'\\', one, rest @ ..], [first, name @ ..]) => one == first && is_like(name, rest),
        ([b'_', rest @ ..], [_, name @ ..]) => is_like(name, rest),
        ([one, rest @ ..], [first, name @ ..]) => one == first && is_like(name, rest),
        (_, []) => false,
    }
}

/// A name in backquotes at the beginning, and what follows it.
fn quoted_name(text: &str) -> (String, &str) {
    let Some(inside) = text.strip_prefix('`') else { return (String::new(), text) };
    let mut name = String::new();
    let mut rest = inside;
    while let Some(end) = rest.find('`') {
        name.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        if !rest.starts_with('`') {
            break;
        }
        name.push('`');
        rest = &rest[1..];
    }
    (name, rest)
}

/// The place of a word outside of quotes.
fn find_word(text: &str, word: &str) -> Option<usize> {
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            (_, Some(_)) => {}
            ('`' | '\'' | '"', None) => quote = Some(c),
            _ if text[at..].starts_with(word) => return Some(at),
            _ => {}
        }
    }
    None
}

/// A list, at the commas outside of quotes and parentheses.
fn members(list: &str) -> Vec<String> {
    let (mut found, mut quote, mut depth) = (vec![String::new()], None, 0_u32);
    for c in list.chars() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            (_, Some(_)) => {}
            ('`' | '\'' | '"', None) => quote = Some(c),
            ('(', None) => depth += 1,
            (')', None) => depth = depth.saturating_sub(1),
            (',', None) if depth == 0 => {
                found.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(last) = found.last_mut() {
            last.push(c);
        }
    }
    found.into_iter().map(|member| member.trim().to_owned()).filter(|m| !m.is_empty()).collect()
}

impl Grants {
    /// Of the lines of SHOW GRANTS FOR one account. What MariaDB shows there of roles that it has is left out,
    /// and so are default roles.
    pub fn of(lines: &[String]) -> Self {
        let mut grants = Self::default();
        let own = lines.iter().find_map(|line| grantee(line)).unwrap_or_default();
        for line in lines.iter().filter(|line| grantee(line).as_deref() == Some(own.as_str())) {
            let (taken, rest) = match (line.strip_prefix("GRANT "), line.strip_prefix("REVOKE ")) {
                (Some(rest), _) => (false, rest),
                (None, Some(rest)) => (true, rest),
                (None, None) => continue,
            };
            let Some(to) = find_word(rest, if taken { " FROM " } else { " TO " }) else { continue };
            let tail = &rest[to..];
            let grantable =
                tail.ends_with("WITH GRANT OPTION") || tail.ends_with("WITH ADMIN OPTION");
            let (list, on) = match find_word(&rest[..to], " ON ") {
                Some(at) => (&rest[..at], rest[at + 4..to].to_owned()),
                None => (&rest[..to], String::new()),
            };
            let on = if taken { format!("REVOKE {on}") } else { on };
            let passes = match (grantable, on.is_empty()) {
                (false, _) => "",
                (true, true) => " WITH ADMIN OPTION",
                (true, false) => " WITH GRANT OPTION",
            };
            // Without the password that MariaDB writes behind the account.
            let statement = match taken {
                true => (*line).clone(),
                false => format!("GRANT {} TO {own}{passes}", &rest[..to]),
            };
            for right in members(list) {
                if right == "USAGE" && !grantable {
                    continue;
                }
                let right = if on.is_empty() { right } else { capitals(&right) };
                let right = Right { right, on: on.clone(), grantable };
                grants.rights.insert(right, statement.clone());
            }
        }
        grants
    }
}

/// A right in capitals, its columns as they are.
fn capitals(right: &str) -> String {
    match right.find('(') {
        Some(at) => {
            format!("{} {}", right[..at].trim_end().to_ascii_uppercase(), &right[at..])
        }
        None => right.to_ascii_uppercase(),
    }
}

/// To whom a line of SHOW GRANTS grants, as it is written.
fn grantee(line: &str) -> Option<String> {
    let (word, rest) = match line.strip_prefix("GRANT ") {
        Some(rest) => (" TO ", rest),
        None => (" FROM ", line.strip_prefix("REVOKE ")?),
    };
    let tail = &rest[find_word(rest, word)? + word.len()..];
    let (_, after) = quoted_name(tail);
    let after = match after.strip_prefix('@') {
        Some(host) => quoted_name(host).1,
        None => after,
    };
    Some(tail[..tail.len() - after.len()].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(lines: &[&str]) -> Grants {
        Grants::of(&lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>())
    }

    fn right(right: &str, on: &str) -> Right {
        Right { right: right.to_owned(), on: on.to_owned(), grantable: false }
    }

    #[test]
    fn rights_are_read_one_by_one_and_never_a_password() {
        let found = grants(&[
            "GRANT USAGE ON *.* TO `a`@`%` IDENTIFIED BY PASSWORD '*0' REQUIRE SSL",
            "GRANT SELECT, INSERT (`id`, `x y`) ON `my ON db`.`t` TO `a`@`%`",
            "GRANT ALL PRIVILEGES ON `shop`.* TO `a`@`%` WITH GRANT OPTION",
            "GRANT `r1`@`%` TO `a`@`%`",
            "GRANT DROP ON *.* TO `r1`",
        ]);
        let texts: Vec<_> = found.rights.keys().map(Right::text).collect();
        assert_eq!(
            texts,
            [
                "ALL PRIVILEGES on `shop`.* WITH GRANT OPTION",
                "INSERT (`id`, `x y`) on `my ON db`.`t`",
                "SELECT on `my ON db`.`t`",
                "the role `r1`@`%`"
            ]
        );
        assert!(found.rights.values().all(|statement| !statement.contains("PASSWORD")));
        assert!(found.rights.values().any(|statement| statement
            == "GRANT ALL PRIVILEGES ON `shop`.* TO `a`@`%` WITH GRANT OPTION"));
    }

    #[test]
    fn a_wider_right_covers_a_narrower_one() {
        let all = right("ALL PRIVILEGES", "`shop`.*");
        assert!(all.covers(&right("SELECT", "`shop`.`t`")));
        assert!(right("SELECT", "`shop`.`t`").covers(&right("SELECT (`id`)", "`shop`.`t`")));
        assert!(!all.covers(&right("SELECT", "`shop2`.`t`")));
        assert!(!all.covers(&right("`r`@`%`", "")));
        assert!(!right("SELECT", "`shop`.`t`").covers(&right("SELECT", "`shop`.*")));
        assert!(!all.covers(&Right { grantable: true, ..right("SELECT", "`shop`.`t`") }));
    }

    #[test]
    fn what_is_granted_on_a_database_itself_is_known() {
        for (on, expected) in [
            ("`_cutover`.*", true),
            ("`\\_cutover`.*", true),
            ("`%`.*", true),
            ("`_cut%`.*", true),
            ("`_cutover`.`mark`", true),
            ("PROCEDURE `_cutover`.`p`", true),
            ("*.*", false),
            ("", false),
            ("REVOKE `_cutover`.*", false),
            ("`shop%`.*", false),
            ("`\\_%`.*", true),
            ("`my_cutover`.*", false),
            ("`%over`.`mark`", false),
        ] {
            assert_eq!(right("SELECT", on).is_on("_cutover"), expected, "{on}");
        }
    }

    #[test]
    fn whom_a_database_concerns_is_seen_by_his_rights() {
        for (on, expected) in [
            ("*.*", true),
            ("`shop`.*", true),
            ("`sh\\_op`.*", false),
            ("`shop`.`t`", true),
            ("PROCEDURE `shop`.`p`", true),
            ("`other`.*", false),
            ("`sh%`.*", true),
            ("", true),
        ] {
            assert_eq!(right("SELECT", on).reaches("shop"), expected, "{on}");
        }
        assert!(right("SELECT", "`my\\_shop`.*").reaches("my_shop"));
    }
}
