//! Editing PgBouncer's configuration: `host`, `port` and `dbname` of lines in `[databases]`, and
//! not one byte else.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Where a database line shall lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub host: String,
    pub port: u16,
    pub dbname: String,
}

/// Where a database line leads, as `SHOW DATABASES` puts it: an empty host means PgBouncer's own
/// `unix_socket_dir`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub host: String,
    pub port: String,
    /// Of `*` without one: empty, as it is the name that the client asks for.
    pub dbname: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = if self.host.is_empty() { "(socket)" } else { &self.host };
        write!(f, "{host}:{}/{}", self.port, self.dbname)
    }
}

/// The file can't be edited.
#[derive(Debug, thiserror::Error)]
pub(super) enum IniError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("[databases] has no entry for {0} (an entry in an %include file is not looked for)")]
    NoEntry(String),
    #[error("the entry of {0} in [databases] is not a list of key=value")]
    Malformed(String),
}

/// A `key=value` within a line, as byte ranges.
#[derive(Debug, Clone)]
struct Pair {
    key: String,
    value: String,
    /// Of the value, quotes included.
    span: (usize, usize),
}

/// The text with the entries of `databases` leading to `target`.
pub(super) fn retarget(
    text: &str,
    databases: &[String],
    target: &Target,
) -> Result<String, IniError> {
    let mut out = String::with_capacity(text.len() + 64);
    let mut in_databases = false;
    let mut found = vec![false; databases.len()];
    for line in text.split_inclusive('\n') {
        let content = line.trim_end_matches(['\n', '\r']);
        let trimmed = content.trim();
        if trimmed.starts_with('[') {
            in_databases = trimmed.eq_ignore_ascii_case("[databases]");
        }
        let entry = in_databases
            .then(|| name_of(content))
            .flatten()
            .and_then(|(name, rest)| Some((databases.iter().position(|d| *d == name)?, rest)));
        match entry {
            Some((at, rest)) => {
                found[at] = true;
                out.push_str(&edit(content, rest, &databases[at], target)?);
                out.push_str(&line[content.len()..]);
            }
            None => out.push_str(line),
        }
    }
    match databases.iter().zip(found).find(|(_, found)| !found) {
        Some((name, _)) => Err(IniError::NoEntry(name.clone())),
        None => Ok(out),
    }
}

/// Every entry of `[databases]` and where it leads. Of several with one name the last one counts,
/// as in PgBouncer; one that is not a list of key=value is left out.
pub(super) fn places(text: &str) -> Vec<(String, Place)> {
    let mut places: Vec<(String, Place)> = Vec::new();
    let mut in_databases = false;
    for line in text.lines() {
        if line.trim().starts_with('[') {
            in_databases = line.trim().eq_ignore_ascii_case("[databases]");
        }
        let Some((name, from)) = in_databases.then(|| name_of(line)).flatten() else { continue };
        let Some(pairs) = pairs(line, from) else { continue };
        let value = |key: &str, default: &str| {
            let pair = pairs.iter().rfind(|pair| pair.key == key);
            pair.map_or(default, |pair| pair.value.as_str()).to_owned()
        };
        let own = if name == "*" { "" } else { name.as_str() };
        let place = Place {
            host: value("host", ""),
            port: value("port", "5432"),
            dbname: value("dbname", own),
        };
        places.retain(|(other, _)| *other != name);
        places.push((name, place));
    }
    places
}

/// The entry's name and where its parameters begin.
fn name_of(line: &str) -> Option<(String, usize)> {
    let start = line.len() - line.trim_start().len();
    let rest = &line[start..];
    let (name, after) = if let Some(quoted) = rest.strip_prefix('"') {
        let mut name = String::new();
        let mut chars = quoted.char_indices().peekable();
        let end = loop {
            let (at, c) = chars.next()?;
            if c != '"' {
                name.push(c);
            } else if chars.peek().is_some_and(|(_, next)| *next == '"') {
                name.push('"');
                chars.next();
            } else {
                break at + 1;
            }
        };
        (name, start + 1 + end)
    } else {
        let end = rest.find(|c: char| c == '=' || c.is_whitespace())?;
        if rest.starts_with([';', '#', '[', '%']) {
            return None;
        }
        (rest[..end].to_owned(), start + end)
    };
    let gap = line[after..].len() - line[after..].trim_start().len();
    line[after + gap..].starts_with('=').then_some((name, after + gap + 1))
}

fn edit(line: &str, from: usize, name: &str, target: &Target) -> Result<String, IniError> {
    let pairs = pairs(line, from).ok_or_else(|| IniError::Malformed(name.to_owned()))?;
    let dbname_now = |pairs: &[Pair]| {
        let pair = pairs.iter().find(|pair| pair.key == "dbname");
        pair.map_or(name.to_owned(), |pair| pair.value.clone())
    };
    let mut wanted = vec![("host", target.host.clone()), ("port", target.port.to_string())];
    if dbname_now(&pairs) != target.dbname {
        wanted.push(("dbname", target.dbname.clone()));
    }
    let mut edited = line.trim_end().to_owned();
    let mut present: Vec<_> = Vec::new();
    for (key, value) in wanted {
        match pairs.iter().find(|pair| pair.key == key) {
            Some(pair) => present.push((pair.span, quoted(&value))),
            None => {
                let space = if edited.ends_with('=') { "" } else { " " };
                edited.push_str(&format!("{space}{key}={}", quoted(&value)));
            }
        }
    }
    // From the right, so that the spans before stay true.
    present.sort_by_key(|((start, _), _)| std::cmp::Reverse(*start));
    for ((start, end), value) in present {
        edited.replace_range(start..end, &value);
    }
    Ok(edited)
}

fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/:,".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        value.to_owned()
    } else {
        format!("'{}'", value.replace('\'', "''"))
    }
}

/// `key=value key = 'va''lue' ..`; `None` if it is anything else.
fn pairs(line: &str, from: usize) -> Option<Vec<Pair>> {
    let bytes = line.as_bytes();
    let skip = |mut at: usize| {
        while at < bytes.len() && bytes[at].is_ascii_whitespace() {
            at += 1;
        }
        at
    };
    let mut pairs = Vec::new();
    let mut at = skip(from);
    while at < bytes.len() {
        let key_start = at;
        while at < bytes.len() && bytes[at] != b'=' && !bytes[at].is_ascii_whitespace() {
            at += 1;
        }
        let key = line[key_start..at].to_ascii_lowercase();
        at = skip(at);
        if key.is_empty() || bytes.get(at) != Some(&b'=') {
            return None;
        }
        at = skip(at + 1);
        let start = at;
        let mut value = String::new();
        if bytes.get(at) == Some(&b'\'') {
            at += 1;
            loop {
                let next = line[at..].chars().next()?;
                at += next.len_utf8();
                if next != '\'' {
                    value.push(next);
                } else if bytes.get(at) == Some(&b'\'') {
                    value.push('\'');
                    at += 1;
                } else {
                    break;
                }
            }
        } else {
            while at < bytes.len() && !bytes[at].is_ascii_whitespace() {
                at += 1;
            }
            value.push_str(&line[start..at]);
        }
        pairs.push(Pair { key, value, span: (start, at) });
        at = skip(at);
    }
    Some(pairs)
}

/// Replaces the file's content so that a crash leaves the old or the new one, with the same owner
/// and mode. A symbolic link stays one.
pub(super) fn replace(path: &Path, content: &str) -> Result<(), IniError> {
    let (real, temporary) = write_beside(path, content)?;
    let renamed = fs::rename(&temporary, &real)
        .and_then(|()| fs::File::open(real.parent().unwrap_or(Path::new("/")))?.sync_all());
    renamed.map_err(|source| {
        forget(&temporary);
        IniError::Io { path: real, source }
    })
}

/// Whether [`replace`] could work: everything but the rename.
pub(super) fn try_replace(path: &Path) -> Result<(), IniError> {
    let (_, temporary) = write_beside(path, &read(path)?)?;
    fs::remove_file(&temporary).map_err(|source| IniError::Io { path: temporary, source })
}

/// Removes a file that is of no use after an error; it may not be there at all.
fn forget(temporary: &Path) {
    if let Err(error) = fs::remove_file(temporary) {
        tracing::debug!("{}: {error}", temporary.display());
    }
}

/// Numbers the temporary files of this process.
static TEMPORARY: AtomicU64 = AtomicU64::new(0);

/// A synced file beside the real one, with its owner and mode.
fn write_beside(path: &Path, content: &str) -> Result<(PathBuf, PathBuf), IniError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| IniError::Io { path, source }
    };
    let real = fs::canonicalize(path).map_err(failed(path))?;
    let before = fs::metadata(&real).map_err(failed(&real))?;
    let name = real.file_name().unwrap_or_default().to_string_lossy();
    // A plan and a flip may be at it at the same time, in this process or in two.
    let number = TEMPORARY.fetch_add(1, Ordering::Relaxed);
    let temporary = real.with_file_name(format!(".{name}.cutover.{}.{number}", std::process::id()));
    let written = (|| {
        let mut new = fs::OpenOptions::new();
        let mut file = new.write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.set_permissions(fs::Permissions::from_mode(before.mode() & 0o7777))?;
        let now = file.metadata()?;
        if (now.uid(), now.gid()) != (before.uid(), before.gid()) {
            chown(&temporary, Some(before.uid()), Some(before.gid()))?;
        }
        file.write_all(content.as_bytes())?;
        file.sync_all()
    })();
    if let Err(source) = written {
        forget(&temporary);
        return Err(IniError::Io { path: temporary, source });
    }
    Ok((real, temporary))
}

/// The file's content.
pub(super) fn read(path: &Path) -> Result<String, IniError> {
    fs::read_to_string(path).map_err(|source| IniError::Io { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn green() -> Target {
        Target { host: "db-green".into(), port: 6432, dbname: "shop".into() }
    }

    fn edited(text: &str, database: &str) -> String {
        retarget(text, &[database.to_owned()], &green()).unwrap()
    }

    #[test]
    fn only_host_and_port_of_the_line_change() {
        let before = "; head\n[databases]\nother = host=db-blue port=5432\n\
            shop = host=db-blue port=5432 dbname=shop user=app password='it''s' pool_size=5\n\
            [pgbouncer]\nshop = host=x port=1\nlisten_port = 6432\n";
        let after = before.replace(
            "shop = host=db-blue port=5432 dbname=shop",
            "shop = host=db-green port=6432 dbname=shop",
        );
        assert_eq!(edited(before, "shop"), after);
    }

    #[test]
    fn what_is_missing_is_added() {
        for (line, expected) in [
            ("shop =", "shop =host=db-green port=6432"),
            ("shop = dbname=shop", "shop = dbname=shop host=db-green port=6432"),
            ("\"shop\" = port = 5", "\"shop\" = port = 6432 host=db-green"),
            ("shop=host='/a b' dbname=old", "shop=host=db-green dbname=shop port=6432"),
        ] {
            let text = format!("[databases]\r\n{line}\r\n");
            assert_eq!(edited(&text, "shop"), format!("[databases]\r\n{expected}\r\n"));
        }
    }

    #[test]
    fn comments_and_other_sections_are_no_entries() {
        for text in ["[databases]\n;shop = host=a\n", "[pgbouncer]\nshop = host=a\n", ""] {
            let result = retarget(text, &["shop".into()], &green());
            assert!(matches!(result, Err(IniError::NoEntry(_))), "{text:?}");
        }
        let malformed = retarget("[databases]\nshop = host\n", &["shop".into()], &green());
        assert!(matches!(malformed, Err(IniError::Malformed(_))));
    }

    #[test]
    fn where_entries_lead_is_read_as_pgbouncer_does() {
        let text = "[databases]\n;no = host=x\nbare =\nshop = host=a\n\
            \"o\"\"dd\" = host=/tmp dbname='sh op' port = 1\n* = port=2\nshop = host=b port=3 dbname=s\n\
            broken = host\n[users]\nslow = pool_mode=session\n";
        let shown: Vec<_> =
            places(text).iter().map(|(name, place)| format!("{name} {place}")).collect();
        let expected =
            ["bare (socket):5432/bare", "o\"dd /tmp:1/sh op", "* (socket):2/", "shop b:3/s"];
        assert_eq!(shown, expected);
    }

    #[test]
    fn two_at_once_do_not_get_into_each_others_way() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgbouncer.ini");
        fs::write(&path, "before").unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..50).for_each(|_| try_replace(&path).unwrap()));
            scope.spawn(|| (0..50).for_each(|_| replace(&path, "after").unwrap()));
        });
        assert_eq!(read(&path).unwrap(), "after");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn going_there_twice_is_going_there_once() {
        let once = edited("[databases]\nshop = host=a port=1 dbname=b\n", "shop");
        assert_eq!(edited(&once, "shop"), once);
    }

    #[test]
    fn replacing_keeps_mode_and_link() {
        let directory = tempfile::tempdir().unwrap();
        let real = directory.path().join("real.ini");
        let link = directory.path().join("link.ini");
        fs::write(&real, "old").unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        replace(&link, "new").unwrap();
        assert_eq!(fs::read_to_string(&real).unwrap(), "new");
        assert_eq!(fs::metadata(&real).unwrap().mode() & 0o7777, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "(?s).{0,200}", line in "[a-z ='\"]{0,60}") {
            let _ = retarget(&text, &["shop".into()], &green());
            let _ = retarget(&format!("[databases]\nshop{line}\n"), &["shop".into()], &green());
        }
    }
}
