//! The host: files, processes, and orders that carry code.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::Result;
use serde_json::json;

use super::{Ground, SOON, Who};
use crate::process::Launch;

/// Conditions that are more than conditions.
const CONDITIONS: [&str; 5] = [
    "set_config('default_transaction_read_only', 'off', false) = 'off'",
    "(SELECT rolpassword FROM pg_authid LIMIT 1)::int = 1",
    "pg_terminate_backend(pg_backend_pid())",
    "id = 1) UNION SELECT (1",
    "id OPERATOR(public.=) 1",
];

pub(super) async fn run(ground: &mut Ground) -> Result<()> {
    let open = open_to_others(&ground.stage.state_dir())?;
    let harm = (!open.is_empty()).then(|| format!("others may use {}", open.join(", ")));
    ground.summary.note(Who::Neighbour, "to read the state directory", harm);
    for condition in CONDITIONS {
        let predicate = json!({ "table": "public.purse", "condition": condition });
        let answer =
            ground.stage.api().post("/v1/verify", &json!({ "predicates": [predicate] }))?;
        let harm = (answer.status != 400).then(|| format!("{}: {}", answer.status, answer.body));
        ground.summary.note(Who::Neighbour, format!("a condition: {condition}"), harm);
    }
    let typed = "postgres://me:hunter2@127.0.0.1:1/db";
    for arguments in [["--blue", typed], ["--green", typed]] {
        let other = if arguments[0] == "--blue" { "--green" } else { "--blue" };
        let launch = Launch::ours("replicator")?.arg("check").args(arguments);
        let ended = launch.args([other, "postgres://127.0.0.1:1/db"]).run(SOON)?;
        let is_refused = ended.code() != 0 && ended.stderr.contains("can read it with ps");
        let is_shown = ended.stderr.contains("hunter2") || ended.stdout.contains("hunter2");
        let harm = (!is_refused || is_shown).then(|| ended.stderr.clone());
        ground.summary.note(Who::Neighbour, "to read a password with ps", harm);
    }
    let token = ground.stage.path().join("token");
    std::fs::write(&token, "a-token")?;
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o644))?;
    let config = ground.stage.path().join("open.toml");
    let text =
        ground.stage.config()?.replace("[api]\n", &format!("[api]\ntoken_file = {token:?}\n"));
    let text = text.replace("/state\"", "/another-state\"");
    let listens = text.lines().find(|line| line.starts_with("listen = ")).unwrap_or_default();
    let text = text.replace(listens, "listen = \"127.0.0.1:0\"");
    std::fs::write(&config, text)?;
    let ended = Launch::ours("replicator")?.args(["run", "--config"]).arg(&config).run(SOON);
    let harm = match ended {
        Ok(ended) if ended.code() != 0 && ended.stderr.contains("chmod 600") => None,
        Ok(ended) => Some(ended.stderr),
        Err(error) => Some(format!("{error:#}")),
    };
    ground.summary.note(Who::Neighbour, "to read a token", harm);
    Ok(())
}

/// What is not for its owner alone.
fn open_to_others(path: &Path) -> Result<Vec<String>> {
    let found = std::fs::symlink_metadata(path)?;
    let mut open = Vec::new();
    if found.permissions().mode() & 0o077 != 0 && !found.is_symlink() {
        open.push(format!("{} ({:o})", path.display(), found.permissions().mode() & 0o777));
    }
    if found.is_dir() {
        for entry in std::fs::read_dir(path)? {
            // RocksDB removes files of its own meanwhile.
            open.extend(open_to_others(&entry?.path()).unwrap_or_default());
        }
    }
    Ok(open)
}
