//! `cutover report`.

use crate::report::markdown;

use super::args::{Format, ReportArgs};
use super::client::Client;
use super::exit::Exit;
use super::failure::Failure;
use super::screen::Screen;

/// What an unreachable sidecar means to somebody who only reads.
const UNSEEN: &str =
    "unknown; the reports are files, too: reports/ in the sidecar's state directory";

/// The report of a run that is over.
pub fn report(client: &Client, screen: &Screen, args: &ReportArgs) -> Result<Exit, Failure> {
    let is_name = args.run.chars().all(|c| c.is_ascii_alphanumeric()) && !args.run.is_empty();
    if !is_name {
        let what = "a run has a name of letters and digits, or a number";
        return Err(Failure::usage(what, "cutover report", "cutover history"));
    }
    let report = client.report(&args.run).map_err(|error| client.failure(error, UNSEEN))?;
    match args.format {
        Format::Json => screen.json(&report),
        Format::Md => {
            screen.result(&markdown(&report));
            screen.object(&report);
        }
    }
    Ok(Exit::Done)
}
