//! `docs/reference/cli.md`: what both programs print with `--help`.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use tests::documents::generated;
use tests::paths;

const PAGE: &str = "docs/reference/cli.md";

fn help(program: &str, command: &[&str]) -> Result<String> {
    let output = Command::new(paths::our_binary(program)?)
        .args(command)
        .arg("--help")
        // Their values would be shown as defaults.
        .env_clear()
        .output()
        .with_context(|| program.to_owned())?;
    ensure!(output.status.success(), "{program} {command:?} --help: {}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// The names under `Commands:`.
fn commands(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = lines.take_while(|line| line.is_empty() || line.starts_with(' '));
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

fn block(title: &str, help: &str) -> String {
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    format!("{title}\n\n```text\n{}\n```\n\n", lines.join("\n").trim())
}

fn page(program: &str) -> Result<String> {
    let whole = help(program, &[])?;
    let mut text = block(&format!("## `{program}`"), &whole);
    let commands = commands(&whole);
    ensure!(commands.len() > 3, "{program}: {commands:?}");
    for command in commands {
        let one = help(program, &[&command])?;
        text += &block(&format!("### `{program} {command}`"), &one);
    }
    Ok(text)
}

#[test]
fn the_command_lines_are_those_of_the_programs() -> Result<()> {
    generated(PAGE, "cutover", &page("cutover")?)?;
    generated(PAGE, "replicator", &page("replicator")?)
}
