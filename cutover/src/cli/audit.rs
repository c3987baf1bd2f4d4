//! `cutover audit`.

use std::path::Path;

use crate::api::{ApiError, AuditPage, ErrorCode};
use crate::audit::{self, Line};

use super::args::AuditArgs;
use super::client::Client;
use super::exit::Exit;
use super::failure::Failure;
use super::screen::Screen;

/// What an unreachable sidecar means to somebody who only reads.
const UNSEEN: &str = "unknown; the log is a file, too: cutover audit --file STATE_DIR/audit.jsonl";

/// Shows the newest lines; with `--verify` follows the whole chain, too, in this process.
pub fn audit(client: &Client, screen: &Screen, args: &AuditArgs) -> Result<Exit, Failure> {
    let mut page = match &args.file {
        Some(file) => read(file, args.last)?,
        None => {
            let last = if args.verify { usize::MAX } else { args.last };
            client.audit(last).map_err(|error| client.failure(error, UNSEEN))?
        }
    };
    if args.verify && args.file.is_none() {
        // What the sidecar says of its own log is not what was asked for.
        let followed = audit::chain::follow_all(page.lines.iter().map(String::as_str));
        page.verified = followed.lines;
        page.last_hash = followed.tip.hash;
        page.broken = followed.broken;
        page.lines.drain(..page.lines.len().saturating_sub(args.last));
    }
    screen.result(&text(&page, args.verify));
    screen.object(&page);
    match page.broken.as_ref().filter(|_| args.verify) {
        None => Ok(Exit::Done),
        Some(broken) => {
            let what = format!("the audit log is not what was written: {broken}");
            let error = ApiError::new(ErrorCode::Internal, what, "audit.jsonl")
                .in_state("the databases and runs are not touched by this")
                .next("compare it with a copy; the journal and the reports say what runs did");
            Err(Failure::new(Exit::Mismatch, error))
        }
    }
}

fn read(file: &Path, last: usize) -> Result<AuditPage, Failure> {
    let failed = |error: std::io::Error| {
        let what = format!("the log can't be read: {error}");
        Failure::usage(what, file.display().to_string(), "check --file")
    };
    if let Err(error) = std::fs::metadata(file) {
        return Err(failed(error));
    }
    audit::page(file, 0, last).map_err(failed)
}

fn text(page: &AuditPage, verify: bool) -> String {
    let mut text = String::new();
    for line in &page.lines {
        match serde_json::from_str::<Line>(line) {
            Ok(line) => text.push_str(&shown(&line.to_string())),
            Err(_) => text.push_str(&format!("     ?  not a line of this log: {}", shown(line))),
        }
        text.push('\n');
    }
    if page.lines.is_empty() {
        text.push_str("nothing yet\n");
    }
    if verify && page.broken.is_none() {
        let (lines, hash) = (page.verified, &page.last_hash);
        text.push_str(&format!("{lines} lines prove each other; the last hash is {hash}\n"));
    }
    text
}

/// Nothing in the log may steer a terminal.
fn shown(text: &str) -> String {
    text.replace(|c: char| c.is_control(), "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_line_is_shown_and_steers_nothing() {
        let page = AuditPage {
            schema_version: 1,
            lines: vec!["\u{1b}[2J".into()],
            verified: 0,
            last_hash: audit::chain::GENESIS.into(),
            broken: None,
        };
        let text = text(&page, true);
        assert!(text.contains("not a line of this log: \u{fffd}[2J"), "{text}");
        assert!(text.contains("0 lines prove each other"), "{text}");
    }
}
