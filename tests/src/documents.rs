//! Pages of `docs/` that are made from the code: a test says what has to stand there, and fails if something
//! else does. `UPDATE_DOCS=1` writes it instead.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

const END: &str = "<!-- end of generated -->";

/// The top of the checkout.
pub fn root() -> PathBuf {
    // The manifest's directory is a folder of the top level.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_owned)
}

/// A file of the checkout, whose path begins at the top.
///
/// # Errors
/// It can't be read.
pub fn read(path: impl AsRef<Path>) -> Result<String> {
    let path = root().join(path);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// What stands in `page` between `<!-- generated: PART -->` and the next end is `text`.
///
/// # Errors
/// It is not, and `UPDATE_DOCS` is not set; or the page has no such place.
pub fn generated(page: &str, part: &str, text: &str) -> Result<()> {
    let before = read(page)?;
    let begin = format!("<!-- generated: {part} -->\n");
    let Some((head, rest)) = before.split_once(&begin) else {
        bail!("{page}: there is no line {begin:?}");
    };
    let Some((_, tail)) = rest.split_once(END) else { bail!("{page}: there is no line {END:?}") };
    let after = format!("{head}{begin}\n{}\n\n{END}{tail}", text.trim());
    if before == after {
        return Ok(());
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let path = root().join(page);
        return fs::write(&path, after).with_context(|| path.display().to_string());
    }
    let differs = before.lines().zip(after.lines()).find(|(old, new)| old != new);
    let (old, new) = differs.unwrap_or(("(the end)", "(the end)"));
    bail!(
        "{page}: the part {part:?} is not what the code says; `make docs-update` writes it\n  there: {old}\n  code:  {new}"
    );
}

/// A cell of a table.
pub fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

/// What a link's fragment has to be to lead to a heading: as GitHub and mdBook make it.
pub fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_are_those_of_the_readers() {
        for (heading, expected) in [
            ("What a run is refused for", "what-a-run-is-refused-for"),
            ("`[[cutover.pgbouncer]]`", "cutoverpgbouncer"),
            ("Held: did it?", "held-did-it"),
            ("`on_wal_limit`", "on_wal_limit"),
        ] {
            assert_eq!(anchor(heading), expected);
        }
    }
}
