//! Definitions, judged by pg_dump.
//!
//! Blue's dump is restored into a database of its own on green's server, and that one is dumped by
//! the same program as green's. So both dumps come from one version, and what differs between
//! versions differs in neither.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::paths;
use crate::postgres::Postgres;
use crate::process::Launch;
use crate::stage::{DATABASE, Stage};

const DEADLINE: Duration = Duration::from_secs(120);
/// Where blue's dump is restored.
const REFERENCE: &str = "unseen_reference";
/// Ours, and nothing that blue has.
const OURS: [&str; 2] = ["_cutover", "cutover_"];

/// Objects by type and name, each with the statements that make it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definitions(BTreeMap<String, String>);

impl Definitions {
    /// The names of what one has and the other has not, or not alike.
    pub fn differences(&self, other: &Definitions) -> BTreeSet<String> {
        let all = self.0.keys().chain(other.0.keys());
        all.filter(|name| self.0.get(*name) != other.0.get(*name)).cloned().collect()
    }

    /// The statements of one object, for a report.
    pub fn of(&self, name: &str) -> &str {
        self.0.get(name).map_or("(absent)", String::as_str)
    }
}

/// Writes blue's dump into the stage's directory.
pub fn keep(stage: &Stage) -> Result<PathBuf> {
    let file = stage.path().join("blue.sql");
    pg_dump(&stage.blue, DATABASE, Some(&file))?;
    Ok(file)
}

/// What a restore of blue's dump makes of an empty database on green's server.
pub async fn reference(stage: &Stage, dump: &PathBuf) -> Result<Definitions> {
    let green = &stage.green;
    green.create_database(REFERENCE).await?;
    Launch::new(paths::postgres_client("psql")?)
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=0", "-d", &green.url(REFERENCE), "-f"])
        .arg(dump)
        .run(DEADLINE)?
        .success()
        .context("restoring blue's dump")?;
    read(green, REFERENCE)
}

/// Green's own definitions.
pub fn of_green(stage: &Stage) -> Result<Definitions> {
    read(&stage.green, DATABASE)
}

fn read(server: &Postgres, database: &str) -> Result<Definitions> {
    let text = pg_dump(server, database, None)?;
    Ok(Definitions(objects(&text)))
}

fn pg_dump(server: &Postgres, database: &str, file: Option<&PathBuf>) -> Result<String> {
    let mut launch = Launch::new(paths::postgres_client("pg_dump")?)
        .args(["--schema-only", "--exclude-schema=_cutover", "--no-tablespaces", "-d"])
        .arg(server.url(database));
    if let Some(file) = file {
        launch = launch.arg("-f").arg(file);
    }
    Ok(launch.run(DEADLINE)?.success().context("pg_dump")?.stdout)
}

/// A plain dump puts `-- Name: X; Type: Y; Schema: Z; Owner: O` above each object.
fn objects(dump: &str) -> BTreeMap<String, String> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    let mut current: Option<String> = None;
    for line in dump.lines() {
        if let Some(header) = line.strip_prefix("-- Name: ") {
            current = Some(name_of(header));
        } else if let Some(name) = &current
            && !line.starts_with("--")
            && !line.starts_with("SET ")
            && !line.starts_with("\\")
            && !line.trim().is_empty()
        {
            let text = found.entry(name.clone()).or_default();
            text.push_str(line);
            text.push('\n');
        }
    }
    found.retain(|name, _| !OURS.iter().any(|ours| name.contains(ours)));
    for text in found.values_mut() {
        if text.contains("\nINHERITS (") {
            *text = without_inherited_not_null(text);
        }
        if text.starts_with("CREATE TABLE ") {
            *text = without_names_of_not_null(text);
        }
    }
    found
}

/// PostgreSQL 18 gives a column's NOT NULL a name, a partition's the one of its parent. Older versions have
/// no such names, so none of them can be blue's.
fn without_names_of_not_null(text: &str) -> String {
    let without = |line: &str| match line.split_once(" CONSTRAINT ") {
        Some((column, rest)) if rest.contains("_not_null NOT NULL") => {
            format!("{column} {}\n", rest.split_once(' ').map_or(rest, |(_, rest)| rest))
        }
        _ => format!("{line}\n"),
    };
    text.lines().map(without).collect()
}

/// PostgreSQL 18 knows whether a child's NOT NULL is its own as well as its parent's. That depends on the
/// order in which the primary keys of both were made, and older versions can't tell.
fn without_inherited_not_null(text: &str) -> String {
    let is_not_null = |line: &str| {
        let words: Vec<_> = line.trim_end_matches(',').split_whitespace().collect();
        matches!(words.as_slice(), ["CONSTRAINT", _, "NOT", "NULL", _])
    };
    text.lines().filter(|line| !is_not_null(line)).map(|line| format!("{line}\n")).collect()
}

fn name_of(header: &str) -> String {
    let mut parts = header.split("; ");
    let name = parts.next().unwrap_or_default();
    let mut part = |prefix: &str| {
        let found = parts.next().and_then(|part| part.strip_prefix(prefix));
        found.unwrap_or_default().to_owned()
    };
    let (kind, schema) = (part("Type: "), part("Schema: "));
    format!("{kind} {schema}.{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = "
SET search_path = '';
-- Name: tax(numeric); Type: FUNCTION; Schema: public; Owner: app
--

CREATE FUNCTION public.tax(n numeric) RETURNS numeric
    AS 'SELECT n * 1.2';


--
-- Name: cutover_shop; Type: PUBLICATION; Schema: -; Owner: postgres
--

CREATE PUBLICATION cutover_shop;
";

    #[test]
    fn the_name_that_18_gives_a_not_null_does_not_count() {
        let table = |null: &str| {
            let dump = format!(
                "-- Name: t; Type: TABLE; Schema: public; Owner: app\n--\n\n\
                 CREATE TABLE public.t (\n    at integer {null},\n    v integer\n);\n"
            );
            objects(&dump)
        };
        assert_eq!(table("CONSTRAINT p_at_not_null NOT NULL"), table("NOT NULL"));
        assert_ne!(table("NOT NULL"), table("DEFAULT 1"));
    }

    #[test]
    fn an_object_is_its_statements_and_ours_are_left_out() {
        let found = objects(DUMP);
        assert_eq!(found.len(), 1, "{found:?}");
        let text = &found["FUNCTION public.tax(numeric)"];
        assert!(text.starts_with("CREATE FUNCTION") && text.contains("1.2"), "{text}");
        let other = objects(&DUMP.replace("1.2", "1.3"));
        let differ = Definitions(found).differences(&Definitions(other));
        assert_eq!(differ.into_iter().collect::<Vec<_>>(), ["FUNCTION public.tax(numeric)"]);
    }
}
