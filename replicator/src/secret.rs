//! Text that must not end up in logs, errors or metrics.

use serde::Deserialize;

/// Text that is never printed.
#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<redacted>")
    }
}

/// Whether a URL or a string of keywords holds a password, by its form alone.
pub(crate) fn has_password(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let has_keyword = lower
        .match_indices("password")
        .any(|(at, word)| lower[at + word.len()..].trim_start().starts_with('='));
    let userinfo = text
        .split_once("://")
        .and_then(|(_, rest)| rest.split(['/', '?', '#']).next()?.rsplit_once('@'))
        .map(|(user, _)| user);
    let has_userinfo = userinfo
        .and_then(|user| user.split_once(':'))
        .is_some_and(|(_, password)| !password.is_empty());
    has_keyword || has_userinfo
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_known_by_their_form() {
        for with in [
            "postgres://me:pw@host/db",
            "mysql://me:pw@host:3306",
            "postgres://host/db?user=me&password=pw",
            "host=h user=me password=pw",
            "host=h user=me PASSWORD = 'p w'",
            "host=h sslpassword=pw",
        ] {
            assert!(has_password(with), "{with}");
        }
        for without in [
            "postgres://me@host:5432/db",
            "postgres://[::1]:5432/db",
            "postgres://me:@host/db",
            "host=h user=me passfile=/x",
            "postgres://host/password",
            "postgres://host:5432/db?user=me@corp",
        ] {
            assert!(!has_password(without), "{without}");
        }
    }
}
