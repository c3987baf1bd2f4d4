//! Every metric and every path of the API stands in its page.

use anyhow::{Result, ensure};
use tests::documents::read;

/// Literals that begin with `start`, outside of tests.
fn literals(path: &str, start: &str) -> Result<Vec<String>> {
    let text = read(path)?;
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let found = code.split('"').skip(1).step_by(2).filter(|word| word.starts_with(start));
    Ok(found.map(str::to_owned).collect())
}

#[test]
fn every_metric_is_in_its_page() -> Result<()> {
    let page = read("docs/reference/metrics.md")?;
    let rows: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("| `")).collect();
    let mut names = Vec::new();
    for path in ["metrics.rs", "metrics/stream.rs", "alerts/series.rs"] {
        names.extend(literals(&format!("replicator/src/{path}"), "cutover_")?);
    }
    ensure!(names.len() > 50, "{} metrics were understood", names.len());
    // What the registry adds: a unit, and `_total` of a counter.
    const ADDED: [&str; 6] = ["", "_seconds", "_bytes", "_total", "_seconds_total", "_bytes_total"];
    let is_named = |row: &str, name: &str| {
        let added = row.strip_prefix(name).and_then(|rest| rest.split(['`', '{']).next());
        added.is_some_and(|added| ADDED.contains(&added))
    };
    let is_there = |name: &&String| rows.iter().any(|row| is_named(row, name));
    let missing: Vec<&String> = names.iter().filter(|name| !is_there(name)).collect();
    ensure!(missing.is_empty(), "docs/reference/metrics.md lacks {missing:?}");
    Ok(())
}

#[test]
fn every_route_is_in_its_page() -> Result<()> {
    let page = read("docs/reference/api.md")?;
    let paths = literals("replicator/src/http/table.rs", "/")?;
    ensure!(paths.len() > 20, "{} routes were understood", paths.len());
    let missing: Vec<&String> =
        paths.iter().filter(|path| !page.contains(&format!("| `{path}` |"))).collect();
    ensure!(missing.is_empty(), "docs/reference/api.md lacks {missing:?}");
    Ok(())
}
