//! Where text goes: results to stdout, everything else to stderr.

use std::cell::Cell;
use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use super::args::CommonArgs;
use super::failure::Failure;
use super::render::{Paint, render_error};

/// The two streams and how they may be used.
#[derive(Debug)]
pub struct Screen {
    json: bool,
    quiet: bool,
    colors: bool,
    out_terminal: bool,
    err_terminal: bool,
    /// A line on stderr that the next one replaces.
    line_open: Cell<bool>,
    /// The one JSON object is out.
    object_written: Cell<bool>,
}

impl Screen {
    /// As the command line and the environment ask for it.
    pub fn new(common: &CommonArgs) -> Self {
        let unset = |name| std::env::var_os(name).is_none_or(|value| value.is_empty());
        Self {
            json: common.json,
            quiet: common.quiet,
            // https://no-color.org: any value but an empty one.
            colors: !common.no_color && unset("NO_COLOR"),
            out_terminal: io::stdout().is_terminal(),
            err_terminal: io::stderr().is_terminal(),
            line_open: Cell::new(false),
            object_written: Cell::new(false),
        }
    }

    /// Colours for stdout.
    pub fn out_paint(&self) -> Paint {
        Paint::new(self.colors && self.out_terminal)
    }

    /// Colours for stderr.
    pub fn err_paint(&self) -> Paint {
        Paint::new(self.colors && self.err_terminal)
    }

    /// Whether stdout is a terminal that can be redrawn.
    pub fn can_redraw(&self) -> bool {
        self.out_terminal
    }

    /// Whether a line on stderr can be replaced.
    pub fn can_replace(&self) -> bool {
        self.err_terminal
    }

    /// Whether stdout is for a program.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Progress, unless nobody wants any.
    pub fn progress(&self, text: &str) {
        if !self.quiet {
            self.notice(text);
        }
    }

    /// To stderr in any case.
    pub fn notice(&self, text: &str) {
        let end = if text.ends_with('\n') { "" } else { "\n" };
        self.to_stderr(&format!("{}{text}{end}", self.end_of_line()));
    }

    /// Progress that the next such line replaces, on a terminal.
    pub fn replace(&self, line: &str) {
        if self.quiet {
            return;
        }
        if self.err_terminal {
            // 7l and 7h: a line that is too long is cut off instead of wrapped, else it could not
            // be replaced.
            self.to_stderr(&format!("\r\x1b[2K\x1b[?7l{line}\x1b[?7h"));
            self.line_open.set(true);
        } else {
            self.notice(line);
        }
    }

    /// The result for people.
    pub fn result(&self, text: &str) {
        if !self.json {
            self.to_stderr(self.end_of_line());
            self.to_stdout(text);
        }
    }

    /// The result for programs.
    pub fn object(&self, object: &impl Serialize) {
        if self.json && !self.object_written.replace(true) {
            self.json_text(serde_json::to_string_pretty(object));
        }
    }

    /// The result as an object, whoever asks.
    pub fn json(&self, object: &impl Serialize) {
        if !self.object_written.replace(true) {
            self.json_text(serde_json::to_string_pretty(object));
        }
    }

    /// One of several objects, on a line of its own.
    pub fn object_line(&self, object: &impl Serialize) {
        if self.json {
            self.object_written.set(true);
            self.json_text(serde_json::to_string(object));
        }
    }

    /// What went wrong: for people on stderr, and for a program if it has got nothing else.
    pub fn failure(&self, failure: &Failure) {
        self.notice(&render_error(&failure.error, self.err_paint()));
        self.object(failure.error.as_ref());
    }

    /// Text on stdout as it is, for redrawing.
    pub fn raw(&self, text: &str) {
        self.to_stdout(text);
    }

    fn json_text(&self, text: serde_json::Result<String>) {
        match text {
            Ok(text) => self.to_stdout(&format!("{text}\n")),
            Err(error) => self.notice(&format!("error: the result can't be written: {error}")),
        }
    }

    fn end_of_line(&self) -> &'static str {
        if self.line_open.replace(false) { "\n" } else { "" }
    }

    fn to_stdout(&self, text: &str) {
        let mut out = io::stdout().lock();
        let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        match written {
            Ok(()) => {}
            // `| head`: whoever reads has read enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) => self.to_stderr(&format!("error: stdout can't be written: {error}\n")),
        }
    }

    fn to_stderr(&self, text: &str) {
        let mut err = io::stderr().lock();
        // Nobody is left who could be told. The run must still be followed to its end.
        let _lost = err.write_all(text.as_bytes()).and_then(|()| err.flush());
    }
}
