//! Who asks for something: whom the API has seen, and what he calls himself. Pure.

use std::fmt;

/// Separates the name that was seen from the one that the client gave.
const FOR: &str = " for ";
/// How names begin that the API gives; none has a blank in it.
const SEEN: [&str; 3] = ["token:", "user:", "certificate:"];
/// What the sidecar calls itself in the journal.
const OURSELVES: [&str; 2] = ["watch", "replicator"];

/// Somebody who was let in. As a text, which the journal and reports carry, it is `token:ops for ann`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asker {
    /// `token:NAME`, `user:NAME` or `certificate:NAME`.
    pub name: String,
    /// What he called himself, which nobody has checked.
    pub said_by: Option<String>,
}

impl Asker {
    /// Who was seen, and what he called himself, in such a text. Former releases wrote only the second.
    pub fn told_apart(text: &str) -> (Option<String>, Option<String>) {
        if OURSELVES.contains(&text) {
            return (Some(text.into()), None);
        }
        let (first, rest) = match text.split_once(FOR) {
            Some((first, rest)) => (first, Some(rest.to_owned())),
            None => (text, None),
        };
        let is_seen = SEEN.iter().any(|kind| first.starts_with(kind)) && !first.contains(' ');
        if is_seen { (Some(first.into()), rest) } else { (None, Some(text.into())) }
    }
}

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match &self.said_by {
            Some(name) => write!(f, "{FOR}{name}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_somebody_calls_himself_he_stays_who_was_seen() {
        for claim in ["ann", "user:root", "ann for user:root", "", "watch", "größe"] {
            let asker = Asker { name: "token:ops".into(), said_by: Some(claim.into()) };
            let told = Asker::told_apart(&asker.to_string());
            assert_eq!(told, (Some("token:ops".into()), Some(claim.into())));
        }
        let silent = Asker { name: "user:root".into(), said_by: None };
        assert_eq!(Asker::told_apart(&silent.to_string()), (Some("user:root".into()), None));
        assert_eq!(Asker::told_apart("ann"), (None, Some("ann".into())));
        assert_eq!(Asker::told_apart("watch"), (Some("watch".into()), None));
    }
}
