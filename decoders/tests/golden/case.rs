//! A case: what to set up and what to change, as a file of SQL with one statement a line.

use std::fs;

/// `-- key: value` lines at the top say where a case applies; `-- setup` and `-- changes` begin
/// the two sections. A statement may begin with `<major>: ` (only from that version on) or
/// `other: ` (on a second connection).
#[derive(Debug, Default)]
pub struct Case {
    pub name: String,
    since: u32,
    only: Option<u32>,
    /// Options of the publication.
    pub publication: Option<String>,
    /// An option of the plugin that is set to true.
    pub plugin: Option<String>,
    setup: Vec<String>,
    changes: Vec<String>,
}

/// One statement and where it runs.
pub struct Statement<'a> {
    pub other: bool,
    pub sql: &'a str,
}

impl Case {
    pub fn all() -> Vec<Case> {
        let directory = super::directory().join("cases");
        let mut paths: Vec<_> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let case = |path: &std::path::PathBuf| {
            let name = path.file_stem().unwrap().to_str().unwrap();
            Case::parse(name, &fs::read_to_string(path).unwrap())
        };
        paths.iter().map(case).collect()
    }

    fn parse(name: &str, text: &str) -> Case {
        let mut case = Case { name: name.to_owned(), ..Case::default() };
        let mut in_changes = false;
        for line in text.lines() {
            match line.strip_prefix("-- ") {
                Some("setup") => in_changes = false,
                Some("changes") => in_changes = true,
                Some(comment) => match comment.split_once(": ") {
                    Some(("since", major)) => case.since = major.parse().unwrap(),
                    Some(("only", major)) => case.only = Some(major.parse().unwrap()),
                    Some(("publication", options)) => case.publication = Some(options.to_owned()),
                    Some(("plugin", option)) => case.plugin = Some(option.to_owned()),
                    _ => {}
                },
                None if in_changes => case.changes.push(line.to_owned()),
                None => case.setup.push(line.to_owned()),
            }
        }
        case
    }

    pub fn exists_on(&self, major: u32) -> bool {
        major >= self.since && self.only.is_none_or(|only| only == major)
    }

    pub fn setup(&self, major: u32) -> Vec<Statement<'_>> {
        statements(&self.setup, major)
    }

    pub fn changes(&self, major: u32) -> Vec<Statement<'_>> {
        statements(&self.changes, major)
    }
}

fn statements(lines: &[String], major: u32) -> Vec<Statement<'_>> {
    lines.iter().filter_map(|line| statement(line, major)).collect()
}

fn statement(line: &str, major: u32) -> Option<Statement<'_>> {
    if let Some(sql) = line.strip_prefix("other: ") {
        return Some(Statement { other: true, sql });
    }
    match line.split_once(": ").map(|(since, sql)| (since.parse::<u32>(), sql)) {
        Some((Ok(since), sql)) => (since <= major).then_some(Statement { other: false, sql }),
        _ => Some(Statement { other: false, sql: line }),
    }
}
