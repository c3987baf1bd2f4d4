//! Every link between documents, and from a document to a file, leads somewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tests::documents::{anchor, read, root};

/// The longest that README may be, bytes: it is one page.
const README_BYTES_MAX: usize = 9 * 1024;

/// All documents, as paths from the top.
fn documents() -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root())? {
        let name = PathBuf::from(entry?.file_name());
        if name.extension().is_some_and(|extension| extension == "md") {
            found.push(name);
        }
    }
    let mut folders = vec![PathBuf::from("docs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root().join(&folder))? {
            let path = folder.join(entry?.file_name());
            if root().join(&path).is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// A document's lines outside of blocks of code.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut inside = false;
    text.lines().enumerate().filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        !inside && !fence
    })
}

/// The targets of a line's links.
fn targets(line: &str) -> Vec<&str> {
    let parts = line.split("](").skip(1);
    parts.filter_map(|rest| rest.split_once(')').map(|(target, _)| target.trim())).collect()
}

/// The fragments that lead into a document.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut all = BTreeSet::new();
    for (_, line) in prose(text) {
        let Some(heading) = line.strip_prefix('#').map(|line| line.trim_start_matches('#')) else {
            continue;
        };
        let name = anchor(heading);
        let count = seen.entry(name.clone()).or_default();
        all.insert(if *count == 0 { name.clone() } else { format!("{name}-{count}") });
        *count += 1;
    }
    all
}

/// `..` and `.` taken out.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            part => out.push(part),
        }
    }
    out
}

/// A page of the book may be a file of the top level.
fn included(text: &str) -> Option<&str> {
    let line = text.lines().find_map(|line| line.strip_prefix("{{#include "))?;
    line.strip_suffix("}}")
}

fn whole(path: &Path) -> Result<String> {
    let text = read(path)?;
    match included(&text) {
        Some(other) => {
            let folder = path.parent().context("a page without a folder")?;
            read(normal(&folder.join(other)))
        }
        None => Ok(text),
    }
}

/// What is wrong with a link, if something is.
fn broken(from: &Path, target: &str) -> Result<Option<String>> {
    if target.contains("://") || target.starts_with("mailto:") {
        return Ok(None);
    }
    let (path, fragment) = target.split_once('#').unwrap_or((target, ""));
    let folder = from.parent().unwrap_or(Path::new(""));
    let path = if path.is_empty() { from.to_owned() } else { normal(&folder.join(path)) };
    if !root().join(&path).exists() {
        return Ok(Some(format!("there is no {}", path.display())));
    }
    if !fragment.is_empty() && !anchors(&whole(&path)?).contains(fragment) {
        return Ok(Some(format!("{} has no heading #{fragment}", path.display())));
    }
    Ok(None)
}

#[test]
fn every_link_leads_somewhere() -> Result<()> {
    let mut wrong = Vec::new();
    let mut links = 0;
    for document in documents()? {
        let text = read(&document)?;
        for (number, line) in prose(&text) {
            for target in targets(line) {
                links += 1;
                if let Some(why) = broken(&document, target)? {
                    wrong.push(format!("{}:{}: {target}: {why}", document.display(), number + 1));
                }
            }
        }
    }
    ensure!(links > 200, "{links} links were found");
    ensure!(wrong.is_empty(), "{} links lead nowhere:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

#[test]
fn a_link_that_leads_nowhere_is_seen() -> Result<()> {
    let from = Path::new("docs/index.md");
    for wrong in ["nowhere.md", "tutorial.md#nowhere", "#nowhere", "../decoders/src/nowhere.rs"] {
        assert!(broken(from, wrong)?.is_some(), "{wrong}");
    }
    for right in
        ["tutorial.md", "../README.md#what-it-is", "https://example.com/nowhere", "../decoders"]
    {
        assert_eq!(broken(from, right)?, None, "{right}");
    }
    Ok(())
}

#[test]
fn every_page_of_the_book_is_in_its_summary() -> Result<()> {
    let summary = read("docs/SUMMARY.md")?;
    let listed: BTreeSet<PathBuf> =
        summary.lines().flat_map(targets).map(|target| Path::new("docs").join(target)).collect();
    let mut pages: BTreeSet<PathBuf> = documents()?.into_iter().collect();
    pages.retain(|page| page.starts_with("docs") && !page.ends_with("SUMMARY.md"));
    ensure!(pages == listed, "pages {pages:?}\nSUMMARY.md {listed:?}");
    Ok(())
}

#[test]
fn the_readme_is_one_page() -> Result<()> {
    let bytes = read("README.md")?.len();
    ensure!(bytes <= README_BYTES_MAX, "README.md has {bytes} bytes of at most {README_BYTES_MAX}");
    Ok(())
}
