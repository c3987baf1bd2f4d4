//! The pg_dump that fits.
//!
//! pg_dump refuses servers newer than itself (PostgreSQL manual, pg_dump, Notes), so its major
//! version must be at least blue's. Best is green's: it writes what green reads.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};

use tokio::process::Command;

/// Names a pg_dump and turns off the search.
pub const PG_DUMP_VARIABLE: &str = "CUTOVER_PG_DUMP";

/// A pg_dump that was found and asked for its version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PgDump {
    /// The program.
    pub path: PathBuf,
    /// Its major version.
    pub major: u32,
    /// What `--version` printed, for messages.
    pub version: String,
}

impl fmt::Display for PgDump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.path.display(), self.version)
    }
}

/// There is no pg_dump for this pair of servers.
#[derive(Debug, thiserror::Error)]
pub enum FindPgDumpError {
    /// The one that was asked for by name.
    #[error("{path} (set by {set_by}) can't be used: {reason}", path = path.display())]
    Chosen {
        /// The program.
        path: PathBuf,
        /// The setting that names it.
        set_by: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// None of those that were found.
    #[error(
        "no pg_dump of version {blue_major} or newer: {}. Install one ({}), or name one with \
         schema.pg_dump or {PG_DUMP_VARIABLE}",
        found_text(.found), packages(*.green_major)
    )]
    NoneFits {
        /// Oldest version that will do.
        blue_major: u32,
        /// Version to install.
        green_major: u32,
        /// Those that are there and too old.
        found: Vec<PgDump>,
    },
}

fn found_text(found: &[PgDump]) -> String {
    if found.is_empty() {
        return "found none in PATH nor in the usual places".to_owned();
    }
    let all: Vec<String> = found.iter().map(ToString::to_string).collect();
    format!("found only {}", all.join(", "))
}

fn packages(major: u32) -> String {
    format!(
        "Debian, Ubuntu: postgresql-client-{major}; Red Hat: postgresql{major}; \
         Homebrew: postgresql@{major} or libpq"
    )
}

/// Searches for a pg_dump that can read blue and suits green.
///
/// `configured`, then `CUTOVER_PG_DUMP`, are taken as orders: if they don't fit, nothing else is
/// tried. Otherwise the packages' directories, `$CUTOVER_SERVERS/pgclient` and `PATH` are looked
/// through.
///
/// # Errors
/// [`FindPgDumpError`] with everything that was found and what to install.
pub async fn find_pg_dump(
    blue_major: u32,
    green_major: u32,
    configured: Option<&Path>,
) -> Result<PgDump, FindPgDumpError> {
    let from_environment = env::var_os(PG_DUMP_VARIABLE).filter(|value| !value.is_empty());
    let chosen = match (configured, from_environment) {
        (Some(path), _) => Some((path.to_owned(), "schema.pg_dump")),
        (None, Some(path)) => Some((PathBuf::from(path), PG_DUMP_VARIABLE)),
        (None, None) => None,
    };
    if let Some((path, set_by)) = chosen {
        let refuse = |reason| FindPgDumpError::Chosen { path: path.clone(), set_by, reason };
        let found = ask(&path).await.map_err(refuse)?;
        if found.major < blue_major {
            let refused = format!(
                "it is version {}, and pg_dump refuses servers newer than itself (blue is {blue_major})",
                found.major
            );
            return Err(refuse(refused));
        }
        return Ok(found);
    }
    let mut found = Vec::new();
    for path in candidates() {
        match ask(&path).await {
            Ok(pg_dump) => found.push(pg_dump),
            Err(reason) => tracing::debug!(path = %path.display(), reason, "not a usable pg_dump"),
        }
    }
    choose(found, blue_major, green_major)
}

/// Green's version first, then the smallest above it, then the newest below.
fn choose(
    found: Vec<PgDump>,
    blue_major: u32,
    green_major: u32,
) -> Result<PgDump, FindPgDumpError> {
    let rank = |pg_dump: &PgDump| {
        if pg_dump.major >= green_major {
            (0, pg_dump.major - green_major)
        } else {
            (1, green_major - pg_dump.major)
        }
    };
    match found.iter().filter(|pg_dump| pg_dump.major >= blue_major).min_by_key(|p| rank(p)) {
        Some(best) => Ok(best.clone()),
        None => Err(FindPgDumpError::NoneFits { blue_major, green_major, found }),
    }
}

/// Every pg_dump in the usual places, in order of preference among equals.
fn candidates() -> Vec<PathBuf> {
    let mut directories = Vec::new();
    if let Some(servers) = env::var_os("CUTOVER_SERVERS").filter(|value| !value.is_empty()) {
        directories.extend(children(&Path::new(&servers).join("pgclient"), "bin"));
    }
    directories.extend(children(Path::new("/usr/lib/postgresql"), "bin"));
    let starts_with = |path: &PathBuf, prefix: &str| {
        path.parent()
            .and_then(Path::file_name)
            .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    };
    directories.extend(
        children(Path::new("/usr"), "bin").into_iter().filter(|path| starts_with(path, "pgsql-")),
    );
    directories.extend(children(Path::new("/opt"), "bin"));
    directories.extend(children(Path::new("/opt/postgresql"), "bin"));
    directories.extend(children(Path::new("/opt/PostgreSQL"), "bin"));
    for prefix in ["/opt/homebrew/opt", "/usr/local/opt", "/home/linuxbrew/.linuxbrew/opt"] {
        let formulae = children(Path::new(prefix), "bin");
        directories.extend(
            formulae
                .into_iter()
                .filter(|path| starts_with(path, "postgresql") || starts_with(path, "libpq")),
        );
    }
    let path = env::var_os("PATH").unwrap_or_default();
    directories.extend(env::split_paths(&path));

    let mut seen = std::collections::BTreeSet::new();
    directories
        .into_iter()
        .map(|directory| directory.join("pg_dump"))
        .filter(|program| program.is_file())
        // /bin is often a link to /usr/bin.
        .filter(|program| seen.insert(program.canonicalize().unwrap_or_else(|_| program.clone())))
        .collect()
}

/// `directory/*/inside`, sorted.
fn children(directory: &Path, inside: &str) -> Vec<PathBuf> {
    // A directory that isn't there, or can't be read, holds nothing for us.
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut found: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path().join(inside)).filter(|p| p.is_dir()).collect();
    found.sort();
    found
}

async fn ask(path: &Path) -> Result<PgDump, String> {
    let output = Command::new(path)
        .arg("--version")
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match major(&text) {
        Some(major) if output.status.success() => {
            Ok(PgDump { path: path.to_owned(), major, version: text })
        }
        _ => Err("--version did not print a version".to_owned()),
    }
}

/// The major version in `pg_dump (PostgreSQL) 17.12 (Debian 17.12-1)`, `.. 19beta1`, `.. 9.6.24`.
fn major(text: &str) -> Option<u32> {
    let (_, version) = text.split_once("(PostgreSQL) ")?;
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(major: u32) -> PgDump {
        PgDump {
            path: format!("/bin{major}/pg_dump").into(),
            major,
            version: format!("pg_dump (PostgreSQL) {major}.1"),
        }
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(major("pg_dump (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)"), Some(15));
        assert_eq!(major("pg_dump (PostgreSQL) 19beta1"), Some(19));
        assert_eq!(major("pg_dump (PostgreSQL) 9.6.24"), Some(9));
        assert_eq!(major("something else"), None);
    }

    #[test]
    fn greens_version_is_best_and_blues_the_least() {
        let pick = |majors: &[u32], blue, green| {
            choose(majors.iter().copied().map(of).collect(), blue, green).map(|p| p.major)
        };
        assert_eq!(pick(&[13, 15, 17, 18], 13, 17).ok(), Some(17));
        assert_eq!(pick(&[13, 15, 18], 13, 16).ok(), Some(18));
        assert_eq!(pick(&[13, 15], 13, 17).ok(), Some(15));
        assert_eq!(pick(&[13, 15], 10, 18).ok(), Some(15));
        assert!(pick(&[13, 15], 16, 17).is_err());
    }

    #[test]
    fn the_error_says_what_is_there_and_what_to_install() {
        let error = choose(vec![of(13)], 16, 17).unwrap_err().to_string();
        for part in ["version 16", "/bin13/pg_dump", "postgresql-client-17", PG_DUMP_VARIABLE] {
            assert!(error.contains(part), "{error}");
        }
    }
}
