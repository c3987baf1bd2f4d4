//! The table of rules in `docs/operate/alerts.md`, from the rules that Prometheus takes.

use anyhow::{Context, Result, ensure};
use tests::documents::{cell, generated, read};

const RULES: &str = "replicator/alerts/cutover.rules.yml";
const PAGE: &str = "docs/operate/alerts.md";
const RUNBOOK: &str = "docs/operate/runbook.md";

/// What one rule says. The file is written in one form, so its lines tell it.
#[derive(Default)]
struct Rule {
    name: String,
    group: String,
    severity: String,
    lasts: String,
    expression: String,
    summary: String,
}

fn rules() -> Result<Vec<Rule>> {
    let mut rules: Vec<Rule> = Vec::new();
    let mut group = String::new();
    for line in read(RULES)?.lines() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix("- name: ") {
            name.clone_into(&mut group);
        } else if let Some(name) = line.strip_prefix("- alert: ") {
            rules.push(Rule { name: name.into(), group: group.clone(), ..Rule::default() });
        } else if let Some(rule) = rules.last_mut() {
            let text = |value: &str| value.trim_matches('"').to_owned();
            match line.split_once(": ") {
                Some(("expr", value)) => rule.expression = value.to_owned(),
                Some(("for", value)) => rule.lasts = text(value),
                Some(("summary", value)) => rule.summary = text(value),
                Some(("labels", value)) => {
                    let severity = value.trim_matches(['{', '}']).strip_prefix("severity: ");
                    rule.severity = severity.context("a rule without severity")?.to_owned();
                }
                _ => {}
            }
        }
    }
    ensure!(rules.len() > 20, "{RULES}: {} rules were understood", rules.len());
    Ok(rules)
}

/// Without the template's own words.
fn plain(summary: &str) -> String {
    let mut out = String::new();
    let mut rest = summary;
    while let Some((head, tail)) = rest.split_once("{{") {
        out.push_str(head);
        let (inner, tail) = tail.split_once("}}").unwrap_or((tail, ""));
        out.push_str(match inner.trim() {
            "$labels.pipeline" => "pipeline",
            "$labels.direction" => "direction",
            _ => "..",
        });
        rest = tail;
    }
    out.push_str(rest);
    out.split_once(": ").map_or(out.clone(), |(_, what)| what.to_owned())
}

#[test]
fn the_table_of_alerts_is_that_of_the_rules() -> Result<()> {
    let mut table =
        "| Alert | Severity | For | Says | Evaluated by |\n|---|---|---|---|---|\n".to_owned();
    for rule in rules()? {
        ensure!(
            !rule.severity.is_empty() && !rule.expression.is_empty() && !rule.summary.is_empty(),
            "{} was not understood",
            rule.name
        );
        let anchor = rule.name.to_lowercase();
        let lasts = if rule.lasts.is_empty() { "at once" } else { &rule.lasts };
        let by = if rule.group.ends_with("prometheus-only") { "Prometheus only" } else { "both" };
        table += &format!(
            "| [{}](runbook.md#{anchor}) | {} | {lasts} | {} | {by} |\n",
            rule.name,
            rule.severity,
            cell(&plain(&rule.summary)),
        );
    }
    generated(PAGE, "rules", &table)
}

#[test]
fn every_alert_has_an_entry_in_the_runbook_and_no_other_has() -> Result<()> {
    let runbook = read(RUNBOOK)?;
    let mut there: Vec<&str> =
        runbook.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    there.retain(|name| name.starts_with("Cutover"));
    there.sort_unstable();
    let rules = rules()?;
    let mut wanted: Vec<&str> = rules.iter().map(|rule| rule.name.as_str()).collect();
    wanted.sort_unstable();
    ensure!(there == wanted, "{RUNBOOK} has {there:?}\nthe rules are {wanted:?}");
    Ok(())
}
