//! `cutover audit`.

use std::path::Path;

use crate::api::{ApiError, AuditPage, ErrorCode};
use crate::audit::chain::Key;
use crate::audit::{self, Followed, Line, Part};

use super::args::{AuditArgs, CommonArgs};
use super::client::Client;
use super::exit::Exit;
use super::failure::Failure;
use super::place;
use super::screen::Screen;

/// What an unreachable sidecar means to somebody who only reads.
const UNSEEN: &str = "unknown; the log is in files, too: cutover audit --file STATE_DIR";
/// Lines that are asked for at once.
const PAGE: usize = 5_000;

/// Shows the newest lines; with `--verify` follows the whole chain, too, in this process: what the
/// sidecar says of its own log is not what is asked for then.
pub fn audit(
    client: &Client,
    screen: &Screen,
    common: &CommonArgs,
    args: &AuditArgs,
) -> Result<Exit, Failure> {
    let key = key(common, args)?;
    let unseen = |error| client.failure(error, UNSEEN);
    let page = match &args.file {
        Some(path) if path.is_dir() => {
            let log =
                |after| audit::page_of(path, Part::First { after, lines: PAGE }, key.as_ref());
            followed(
                |after| log(after).map_err(|error| unreadable(path, &error)),
                args.last,
                key.as_ref(),
            )?
        }
        Some(path) => {
            std::fs::metadata(path).map_err(|error| unreadable(path, &error))?;
            let page = audit::page(path, args.last, key.as_ref());
            page.map_err(|error| unreadable(path, &error))?
        }
        None if args.verify => {
            let log = |after| client.audit_after(after, PAGE).map_err(unseen);
            followed(log, args.last, key.as_ref())?
        }
        None => client.audit(args.last).map_err(unseen)?,
    };
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

/// The whole log, page by page; of its lines the last `last` are kept.
fn followed(
    page_after: impl Fn(u64) -> Result<AuditPage, Failure>,
    last: usize,
    key: Option<&Key>,
) -> Result<AuditPage, Failure> {
    let mut followed = Followed::default();
    let mut lines: Vec<String> = Vec::new();
    loop {
        let page = page_after(followed.tip.number)?;
        for line in &page.lines {
            followed.follow(line, key);
        }
        let is_last = page.lines.len() < PAGE || followed.broken.is_some();
        lines.extend(page.lines);
        lines.drain(..lines.len().saturating_sub(last));
        if is_last {
            return Ok(audit::page_with(lines, followed));
        }
    }
}

/// The key that is named, or that this user may read where it should be.
fn key(common: &CommonArgs, args: &AuditArgs) -> Result<Option<Key>, Failure> {
    if let Some(path) = &args.key_file {
        let missing = || std::io::Error::from(std::io::ErrorKind::NotFound);
        let read = audit::key::read_at(path).and_then(|key| key.ok_or_else(missing));
        return read.map(Some).map_err(|error| unreadable(path, &error));
    }
    let directory = match &args.file {
        Some(path) if path.is_dir() => path.clone(),
        Some(path) => path.parent().map(Path::to_owned).unwrap_or_default(),
        None => place::state_dir(common).unwrap_or_default(),
    };
    // Without it the page says what could not be proven.
    Ok(audit::key::read(&directory).ok().flatten())
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    let what = format!("it can't be read: {error}");
    Failure::usage(what, path.display().to_string(), "check --file and --key-file")
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
        if page.first > 1 {
            let before = page.first - 1;
            text.push_str(&format!("the {before} lines before them are not here\n"));
        }
        if page.unproven > 0 {
            text.push_str(&format!(
                "NOT PROVEN: {} of them were only seen to follow each other; that nobody has written them \
                 anew shows with the key: --key-file STATE_DIR/audit.key\n",
                page.unproven
            ));
        }
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
            first: 0,
            verified: 0,
            unproven: 0,
            last_hash: audit::chain::GENESIS.into(),
            broken: None,
        };
        let text = text(&page, true);
        assert!(text.contains("not a line of this log: \u{fffd}[2J"), "{text}");
        assert!(text.contains("0 lines prove each other"), "{text}");
    }
}
