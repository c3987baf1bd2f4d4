//! Password files (`~/.pgpass`, `PGPASSFILE`): PostgreSQL manual, libpq, "The Password File".

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What a line is compared with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    /// Host name or address as given; the directory for a Unix socket.
    pub host: &'a str,
    pub port: u16,
    pub dbname: &'a str,
    pub user: &'a str,
}

/// Finds the first matching line's password.
///
/// A missing file is "no password". A file that others may read, or that is not a plain file, is
/// ignored with a warning, as libpq does.
pub(super) fn lookup(path: &Path, target: Target<'_>) -> io::Result<Option<String>> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !metadata.is_file() {
        tracing::warn!(path = %path.display(), "password file ignored: it is not a plain file");
        return Ok(None);
    }
    if metadata.mode() & 0o077 != 0 {
        tracing::warn!(
            path = %path.display(),
            "password file ignored: group or others have access; permissions should be u=rw (0600) or less"
        );
        return Ok(None);
    }
    Ok(find(&std::fs::read_to_string(path)?, target))
}

fn find(text: &str, target: Target<'_>) -> Option<String> {
    let host = if is_default_socket_directory(target.host) { "localhost" } else { target.host };
    let port = target.port.to_string();
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).find_map(|line| {
        let rest = matching(line, host)?;
        let rest = matching(rest, &port)?;
        let rest = matching(rest, target.dbname)?;
        let rest = matching(rest, target.user)?;
        Some(unescape(rest.trim_end_matches('\r')))
    })
}

/// libpq's compiled-in directory: `/tmp` upstream, `/var/run/postgresql` in Debian's and the
/// PGDG's packages. A password file written for either must keep working here.
pub(super) fn is_default_socket_directory(host: &str) -> bool {
    matches!(host, "/tmp" | "/var/run/postgresql" | "/run/postgresql")
}

/// The rest of the line after a field that equals `value` (with `\` escapes) or is `*`.
fn matching<'a>(line: &'a str, value: &str) -> Option<&'a str> {
    if let Some(rest) = line.strip_prefix("*:") {
        return Some(rest);
    }
    let mut wanted = value.chars();
    let mut escaped = false;
    for (offset, c) in line.char_indices() {
        match c {
            '\\' if !escaped => escaped = true,
            ':' if !escaped => {
                return wanted.next().is_none().then(|| &line[offset + 1..]);
            }
            c => {
                escaped = false;
                if wanted.next() != Some(c) {
                    return None;
                }
            }
        }
    }
    None
}

/// The password runs to the end of the line; an unescaped `:` ends it.
fn unescape(field: &str) -> String {
    let mut value = String::with_capacity(field.len());
    let mut chars = field.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => value.extend(chars.next()),
            ':' => break,
            c => value.push(c),
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const TARGET: Target<'_> =
        Target { host: "db.example", port: 5432, dbname: "shop", user: "repl" };

    #[test]
    fn first_match_wins_with_wildcards_and_escapes() {
        let text = "# comment\n\nother:*:*:*:no\ndb.example:5433:*:*:no\n*:*:shop:repl:a\\:b\\\\c\n*:*:*:*:late\n";
        assert_eq!(find(text, TARGET).as_deref(), Some("a:b\\c"));
        let colon_host = Target { host: "::1", ..TARGET };
        assert_eq!(find("\\:\\:1:5432:shop:repl:six", colon_host).as_deref(), Some("six"));
        assert_eq!(find("db.example:5432:shop:rep:x", TARGET), None);
        assert_eq!(find("db.example:5432:shop:replica:x", TARGET), None);
        assert_eq!(find("db.example:5432:shop", TARGET), None);
    }

    #[test]
    fn a_default_socket_directory_is_localhost() {
        let socket = Target { host: "/tmp", ..TARGET };
        assert_eq!(find("localhost:*:*:*:here", socket).as_deref(), Some("here"));
        let other = Target { host: "/srv/pg", ..TARGET };
        assert_eq!(find("localhost:*:*:*:here", other), None);
        assert_eq!(find("/srv/pg:*:*:*:here", other).as_deref(), Some("here"));
    }

    #[test]
    fn a_file_that_others_can_read_is_ignored() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "*:*:*:*:secret\n").unwrap();
        let mode = |mode| {
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(0o640);
        assert_eq!(lookup(file.path(), TARGET).unwrap(), None);
        mode(0o600);
        assert_eq!(lookup(file.path(), TARGET).unwrap().as_deref(), Some("secret"));
        assert_eq!(lookup(Path::new("/nonexistent/pgpass"), TARGET).unwrap(), None);
    }
}
