//! `docs/reference/metrics.md` is what the registry has.

use std::collections::BTreeMap;

use cutover::Direction;
use cutover::api::StreamState;
use tests::documents::{cell, generated};

use super::tests::unknown;
use super::{Sample, render};

/// What a scrape says of one family.
#[derive(Default)]
struct Described {
    help: String,
    kind: String,
    labels: Vec<String>,
}

fn families(text: &str) -> BTreeMap<String, Described> {
    let mut families: BTreeMap<String, Described> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(name), Some(help)) => {
                families.entry(name.into()).or_default().help = help.trim_end_matches('.').into();
            }
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                families.entry(name.into()).or_default().kind = kind.into();
            }
            _ => {
                let Some((series, labels)) = line.split_once('{') else { continue };
                let parts = ["_total", "_bucket", "_count", "_sum"];
                let family = parts.iter().find_map(|part| series.strip_suffix(part));
                let family = family.filter(|name| families.contains_key(*name)).unwrap_or(series);
                let Some(family) = families.get_mut(family) else { continue };
                for label in labels.split(',').filter_map(|pair| pair.split_once("=\"")) {
                    let label = label.0.to_owned();
                    if label != "pipeline" && !family.labels.contains(&label) {
                        family.labels.push(label);
                    }
                }
            }
        }
    }
    families
}

#[test]
fn every_metric_is_in_its_page() -> anyhow::Result<()> {
    let text = render(&Sample {
        pipeline: "shop".into(),
        state: "streaming",
        serving: "blue",
        runs: vec![("completed", 1)],
        pauses_seconds: vec![0.06],
        streams: vec![
            unknown(Direction::Forward, StreamState::NotReady),
            unknown(Direction::Back, StreamState::NotArmed),
        ],
        ..Sample::default()
    })?;
    let families = families(&text);
    anyhow::ensure!(families.len() > 40, "{} metrics were understood", families.len());
    let mut table = "| Metric | Kind | Labels | Meaning |\n|---|---|---|---|\n".to_owned();
    for (name, family) in families {
        let name = if family.kind == "counter" { format!("{name}_total") } else { name };
        let labels = family.labels.join(", ");
        table += &format!("| `{name}` | {} | {labels} | {} |\n", family.kind, cell(&family.help));
    }
    generated("docs/reference/metrics.md", "metrics", &table)
}
