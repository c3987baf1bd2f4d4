//! `docs/reference/catalog-changes.md`: what `make unseen` changes on blue, and what has to come of it.

use anyhow::{Result, ensure};
use tests::documents::{cell, generated};
use tests::unseen::{Engine, Impact, Kind, kinds};

const PAGE: &str = "docs/reference/catalog-changes.md";
/// The oldest major of PostgreSQL: what it has needs no word.
const OLDEST: u32 = 10;

/// What the judge holds a run with this change alone against. The page explains the words.
fn demanded(impact: Impact) -> &'static str {
    match impact {
        Impact::Harmless => "carried",
        Impact::Minor => "carried or named",
        Impact::Major => "carried or refused",
        Impact::Verified => "refused once verified",
    }
}

/// Statements in a code span, which may have backquotes in it.
fn span(sql: &str) -> String {
    let mark = if sql.contains('`') { "``" } else { "`" };
    format!("{mark}{sql}{mark}")
}

fn row(kind: &Kind) -> String {
    let since = match kind.since {
        OLDEST => String::new(),
        since => format!(" ({since}+)"),
    };
    let sql: Vec<_> = kind.sql.iter().map(|sql| span(&cell(sql))).collect();
    format!("| `{}`{since} | {} | {} |\n", kind.name, demanded(kind.impact), sql.join(" then "))
}

fn table(engine: Engine) -> String {
    let all: Vec<_> = kinds(engine).collect();
    let of = |impact| all.iter().filter(|kind| kind.impact == impact).count();
    let rows: String = all.iter().map(|kind| row(kind)).collect();
    format!(
        "{} kinds: {} carried, {} carried or named, {} carried or refused, {} refused once verified.\n\n\
         | Kind | What has to come of it | Statements |\n|---|---|---|\n{rows}",
        all.len(),
        of(Impact::Harmless),
        of(Impact::Minor),
        of(Impact::Major),
        of(Impact::Verified),
    )
}

#[test]
fn every_kind_of_change_has_a_row() -> Result<()> {
    for (part, engine) in
        [("postgresql", Engine::Postgres), ("mariadb", Engine::Mariadb), ("mysql", Engine::Mysql)]
    {
        let text = table(engine);
        ensure!(text.lines().count() > 80, "{part}: {} lines", text.lines().count());
        generated(PAGE, part, &text)?;
    }
    Ok(())
}
