//! Passwords on the command line: `ps` shows them to every user of the host.

use crate::secret::has_password;

/// Refuses a connection string with a password that was typed as an argument. The environment and files
/// are for the process's own user.
///
/// # Errors
/// The ways to give it instead; never the string.
pub(crate) fn refuse_password(flag: &str, url: Option<&str>) -> Result<(), String> {
    let typed = |url: &str| std::env::args().any(|argument| is_value(&argument, flag, url));
    match url {
        Some(url) if has_password(url) && typed(url) => Err(refusal(flag)),
        _ => Ok(()),
    }
}

fn refusal(flag: &str) -> String {
    let variable = flag.trim_start_matches('-').to_uppercase();
    format!(
        "{flag} holds a password, and every user of this host can read it with ps. Leave it out and give it by \
         PGPASSFILE (~/.pgpass), PGPASSWORD or MYSQL_PWD; or give the whole string by the environment variable \
         CUTOVER_{variable}, or in a file that only you can read ({}.url_file). Change that password",
        flag.trim_start_matches('-')
    )
}

fn is_value(argument: &str, flag: &str, url: &str) -> bool {
    let joined = argument.strip_prefix(flag).and_then(|rest| rest.strip_prefix('='));
    joined.unwrap_or(argument) == url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_typed_is_refused() {
        let url = "postgres://me:pw@host/db";
        assert!(is_value(url, "--blue", url));
        assert!(is_value(&format!("--blue={url}"), "--blue", url));
        assert!(!is_value("postgres://me@host/db", "--blue", url));
        // Here it comes from nowhere else but this test.
        assert_eq!(refuse_password("--blue", Some(url)), Ok(()));
        assert!(
            !refusal("--green").contains("pw@") && refusal("--green").contains("CUTOVER_GREEN")
        );
    }
}
