//! `docs/reference/exit-codes.md`.

use anyhow::{Context, Result, bail};
use syn::{Expr, ExprLit, Item, Lit};
use tests::documents::{cell, generated, read};

use crate::rust::{comment, parse};

const PAGE: &str = "docs/reference/exit-codes.md";
const RUNBOOK: &str = "docs/operate/runbook.md";

/// Where the codes of `replicator` stand, each as a constant.
const OF_REPLICATOR: [&str; 2] =
    ["replicator/src/pipeline/failure.rs", "replicator/src/sidecar.rs"];

fn number(value: &Expr) -> Option<u8> {
    match value {
        Expr::Lit(ExprLit { lit: Lit::Int(number), .. }) => number.base10_parse().ok(),
        _ => None,
    }
}

fn of_cutover() -> Result<Vec<(u8, String)>> {
    let file = parse("cutover/src/cli/exit.rs")?;
    let found = file.items.iter().find_map(|item| match item {
        Item::Enum(found) if found.ident == "Exit" => Some(found),
        _ => None,
    });
    let found = found.context("there is no enum Exit")?;
    let codes = found.variants.iter().map(|variant| {
        let code = variant.discriminant.as_ref().and_then(|(_, value)| number(value));
        Ok((code.with_context(|| variant.ident.to_string())?, comment(&variant.attrs)))
    });
    codes.collect()
}

fn of_replicator() -> Result<Vec<(u8, String)>> {
    let mut codes = vec![(0, "It stopped in order, or nothing stands in the way.".to_owned())];
    for path in OF_REPLICATOR {
        for item in parse(path)?.items {
            if let Item::Const(item) = item
                && item.ident.to_string().starts_with("EXIT_")
            {
                let code = number(&item.expr).with_context(|| item.ident.to_string())?;
                let meaning = comment(&item.attrs);
                let meaning = meaning.strip_prefix("Exit code ").unwrap_or(&meaning);
                codes.push((code, meaning[..1].to_uppercase() + &meaning[1..]));
            }
        }
    }
    codes.sort();
    Ok(codes)
}

fn table(program: &str, codes: &[(u8, String)]) -> String {
    let rows = codes.iter().map(|(code, meaning)| {
        let entry = format!("../operate/runbook.md#{program}-ended-with-{code}");
        format!("| [{code}]({entry}) | {} |\n", cell(meaning))
    });
    format!("| Code | Meaning |\n|---|---|\n{}", rows.collect::<String>())
}

#[test]
fn exit_codes_are_those_of_the_code() -> Result<()> {
    generated(PAGE, "cutover", &table("cutover", &of_cutover()?))?;
    generated(PAGE, "replicator", &table("replicator", &of_replicator()?))
}

#[test]
fn every_exit_code_has_an_entry_in_the_runbook() -> Result<()> {
    let runbook = read(RUNBOOK)?;
    for (program, codes) in [("cutover", of_cutover()?), ("replicator", of_replicator()?)] {
        for (code, _) in codes {
            let heading = format!("\n### `{program}` ended with {code}\n");
            if !runbook.contains(&heading) {
                bail!("{RUNBOOK} has no entry {:?}", heading.trim());
            }
        }
    }
    Ok(())
}
