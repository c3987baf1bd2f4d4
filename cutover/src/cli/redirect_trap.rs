//! The shell takes an unquoted `--when-lag <1s` apart: `<1s` becomes a redirection, and the option
//! swallows whatever comes after it. If a file of that name exists, we are started all the same.
//! `>5s` is worse: it creates the file and sends our output there.

use std::fmt;
use std::path::{Path, PathBuf};

/// A standard stream that is redirected from or to a file with a name like a lag.
#[derive(Debug, PartialEq, Eq)]
pub struct Trap {
    stream: &'static str,
    file: String,
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, did) = match self.stream {
            "stdin" => ('<', "connected stdin to"),
            _ => ('>', "created or emptied and connected stdout to"),
        };
        let bound = self.file.trim_start_matches('=');
        write!(
            f,
            "error: the shell took {sign}{file} as a redirection and {did} a file named '{file}'\n \
             state  unchanged: nothing was asked of the sidecar\n \
             data   safe\n \
             next   did you mean --when-lag '<{bound}'? Quote it, or type --when-lag lt{bound}",
            file = self.file,
        )
    }
}

/// Whether stdin or stdout of this process is such a file.
pub fn sprung() -> Option<Trap> {
    [("stdin", 0), ("stdout", 1)].into_iter().find_map(|(stream, fd)| {
        let link = PathBuf::from(format!("/proc/self/fd/{fd}"));
        // Without /proc, or with the stream closed, there is nothing to be found out.
        let file = std::fs::read_link(&link).ok()?;
        let is_file = std::fs::metadata(&link).is_ok_and(|meta| meta.is_file());
        (is_file && is_like_a_lag(&file)).then(|| Trap {
            stream,
            file: file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        })
    })
}

/// Whether a file's name reads as a duration, a size or a count: what is left of `<1s`, `<=5MB`
/// or `<1s,<5MB`.
fn is_like_a_lag(file: &Path) -> bool {
    let Some(name) = file.file_name().and_then(|name| name.to_str()) else {
        return false;
    };
    let name = name.trim_start_matches('=');
    name.split(',').next().is_some_and(|clause| {
        let digits =
            clause.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(clause.len());
        let (number, unit) = clause.split_at(digits);
        number.parse::<f64>().is_ok()
            && matches!(
                unit.to_ascii_lowercase().as_str(),
                "ms" | "s"
                    | "sec"
                    | "m"
                    | "min"
                    | "h"
                    | "b"
                    | "k"
                    | "kb"
                    | "kib"
                    | "mb"
                    | "mib"
                    | "g"
                    | "gb"
                    | "gib"
                    | "tx"
            )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_like_lags_are_seen() {
        for name in ["1s", "/tmp/1s", "100ms", "=1s", "5MB", "0.5s", "10tx", "1s,", "2KiB", "3m"] {
            assert!(is_like_a_lag(Path::new(name)), "{name}");
        }
    }

    #[test]
    fn other_names_are_let_through() {
        for name in ["plan.json", "1", "s", "/dev/null", "log.1s.txt", "1s.json", "", "run-1s", "."]
        {
            assert!(!is_like_a_lag(Path::new(name)), "{name}");
        }
    }

    #[test]
    fn the_hint_names_the_form_that_works() {
        let text = Trap { stream: "stdout", file: "=5s".into() }.to_string();
        assert!(text.contains("--when-lag '<5s'") && text.contains("lt5s"), "{text}");
    }
}
