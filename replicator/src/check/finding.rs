//! One obstacle, or the word that there is none.

use std::fmt;

use serde::Serialize;

/// How bad it is. The order is the order of importance.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The move can't work or would lose data: nothing is started.
    Blocker,
    /// The move works; somebody should know this first.
    Warning,
    /// Looked at and found in order.
    Ok,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Severity::Blocker => "BLOCKER",
            Severity::Warning => "WARNING",
            Severity::Ok => "ok",
        })
    }
}

/// Where it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The database in production.
    Blue,
    /// The database to move to.
    Green,
    /// The two compared.
    Both,
    /// The machine that the sidecar runs on.
    Here,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Side::Blue => "blue",
            Side::Green => "green",
            Side::Both => "both",
            Side::Here => "here",
        })
    }
}

/// What makes a finding go away.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Fix {
    /// Statements to run in the database of `side`, as they are.
    Sql {
        /// Blue or green.
        side: Side,
        /// Complete statements without the final semicolon.
        statements: Vec<String>,
        /// What has to follow, such as a restart.
        then: Option<String>,
    },
    /// A command line for a shell.
    Command {
        /// The command.
        command: String,
    },
    /// Something that only a person can choose or do elsewhere.
    Advice {
        /// A sentence or two.
        text: String,
    },
}

impl Fix {
    /// In one line, as a check of a run shows it.
    pub fn line(&self) -> String {
        match self {
            Fix::Sql { side, statements, then } => {
                let then = then.as_ref().map_or(String::new(), |then| format!("; {then}"));
                format!("on {side}: {}{then}", statements.join("; "))
            }
            Fix::Command { command } => command.clone(),
            Fix::Advice { text } => text.clone(),
        }
    }

    /// Statements for a database.
    pub fn sql(side: Side, statements: Vec<String>) -> Self {
        Fix::Sql { side, statements, then: None }
    }

    /// A setting, which takes effect at a restart.
    pub fn setting_and_restart(side: Side, name: &str, value: &str) -> Self {
        Fix::Sql {
            side,
            statements: vec![format!("ALTER SYSTEM SET {name} = {value}")],
            then: Some("restart the server".into()),
        }
    }

    /// A setting, which takes effect at a reload.
    pub fn setting_and_reload(side: Side, name: &str, value: &str) -> Self {
        Fix::sql(
            side,
            vec![format!("ALTER SYSTEM SET {name} = {value}"), "SELECT pg_reload_conf()".into()],
        )
    }

    /// A command line.
    pub fn command(command: impl Into<String>) -> Self {
        Fix::Command { command: command.into() }
    }

    /// Words.
    pub fn advice(text: impl Into<String>) -> Self {
        Fix::Advice { text: text.into() }
    }
}

/// What one check found. There is one finding for each kind of problem and side, however many
/// objects have it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// Stable name of the check, such as `identity-missing`.
    pub id: &'static str,
    /// Where.
    pub side: Side,
    /// How bad.
    pub severity: Severity,
    /// What it means for the move, in one sentence.
    pub summary: String,
    /// What was seen.
    pub evidence: String,
    /// The objects concerned, all of them; names are quoted as in SQL.
    pub objects: Vec<String>,
    /// What to do.
    pub fix: Option<Fix>,
    /// Whether `accept` turns this blocker into a warning: true where the move itself works and
    /// what is lost may be of no worth to the operator.
    pub acceptable: bool,
}

impl Finding {
    fn new(id: &'static str, side: Side, severity: Severity, summary: impl Into<String>) -> Self {
        Self {
            id,
            side,
            severity,
            summary: summary.into(),
            evidence: String::new(),
            objects: Vec::new(),
            fix: None,
            acceptable: false,
        }
    }

    /// Something that stops the move.
    pub fn blocker(id: &'static str, side: Side, summary: impl Into<String>) -> Self {
        Self::new(id, side, Severity::Blocker, summary)
    }

    /// Something to know.
    pub fn warning(id: &'static str, side: Side, summary: impl Into<String>) -> Self {
        Self::new(id, side, Severity::Warning, summary)
    }

    /// Something in order.
    pub fn ok(id: &'static str, side: Side, summary: impl Into<String>) -> Self {
        Self::new(id, side, Severity::Ok, summary)
    }

    /// With what was seen.
    pub fn evidence(mut self, evidence: impl Into<String>) -> Self {
        self.evidence = evidence.into();
        self
    }

    /// With the objects concerned.
    pub fn objects(mut self, objects: Vec<String>) -> Self {
        self.objects = objects;
        self
    }

    /// With what to do.
    pub fn fix(mut self, fix: Fix) -> Self {
        self.fix = Some(fix);
        self
    }

    /// As one that the operator may accept.
    pub fn acceptable(mut self) -> Self {
        self.acceptable = true;
        self
    }
}

/// "1 table", "2 tables".
pub fn count(number: usize, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}
