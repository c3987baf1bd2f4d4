//! `users_file`: lines of `"user" "secret"` as in PgBouncer's `auth_file`; a quote inside is doubled.

use std::path::Path;

use crate::private_file;

/// Reads it and gives each line's user and secret to `keep`, which may object.
///
/// # Errors
/// What is wrong with it, without any of its content.
pub(super) fn read(
    path: &Path,
    mut keep: impl FnMut(String, String) -> Result<(), &'static str>,
) -> Result<(), String> {
    let failed = |why: &str| format!("users file {}: {why}", path.display());
    let text = private_file::read(path).map_err(|error| format!("users file {error}"))?;
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with([';', '#']) {
            continue;
        }
        let kept = entry(line).and_then(|(user, secret)| keep(user, secret));
        kept.map_err(|why| failed(&format!("line {} {why}", at + 1)))?;
    }
    Ok(())
}

fn entry(line: &str) -> Result<(String, String), &'static str> {
    let parts = quoted(line).and_then(|(user, rest)| Some((user, quoted(rest.trim_start())?.0)));
    parts.ok_or("can't be read")
}

fn quoted(text: &str) -> Option<(String, &str)> {
    let mut rest = text.strip_prefix('"')?;
    let mut value = String::new();
    loop {
        let (part, after) = rest.split_once('"')?;
        value.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                value.push('"');
                rest = more;
            }
            None => return Some((value, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_file_is_read_as_pgbouncer_does() {
        let (user, secret) = entry("\"o\"\"brien\" \"pa ss\" ; comment").unwrap();
        assert_eq!((&user[..], &secret[..]), ("o\"brien", "pa ss"));
        assert!(entry("user pass").is_err());
        assert!(entry("\"user\"").is_err());
    }

    #[test]
    fn a_broken_file_is_not_quoted() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "; ours\n\n\"u\" \"hunter2\"\nhunter3\n").unwrap();
        let error = read(file.path(), |_, _| Ok(())).err().unwrap();
        assert!(error.contains("line 4") && !error.contains("hunter"), "{error}");
    }
}
