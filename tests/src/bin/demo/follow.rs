//! Shows what another program says while it says it.

use std::process::ExitStatus;
use std::time::Duration;

use anyhow::Result;
use tests::process::Process;
use tests::wait;

use crate::story::Story;

/// Quotes both outputs line by line until the program ends.
pub async fn to_the_end(
    process: &mut Process,
    story: &Story,
    deadline: Duration,
) -> Result<ExitStatus> {
    let (mut out, mut err) = (0, 0);
    let what = format!("the end of {}", process.name());
    wait::until(&what, deadline, || {
        let step = (|| {
            // Asked before its output is read: what it said last must not be missed.
            let ended = process.ended()?;
            let last = ended.is_some();
            err += show(&process.stderr()?[err..], story, last);
            out += show(&process.stdout()?[out..], story, last);
            Ok(ended)
        })();
        async { step }
    })
    .await
}

/// Quotes whole lines; gives how many bytes they were.
fn show(text: &str, story: &Story, last: bool) -> usize {
    let end = if last { text.len() } else { text.rfind('\n').map_or(0, |at| at + 1) };
    for line in text[..end].lines() {
        story.quote(line);
    }
    end
}
