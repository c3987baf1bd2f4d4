//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::api::PipelinePhase;
use crate::gate::LagExpr;
use crate::phase::Phase;
use crate::verify::{Accepted, Mode, Predicate};

const EXIT_CODES: &str = "\
Exit codes:
  0 done, plan ready      6 cut over and then rolled    10 sidecar unreachable
  1 failed                  back: blue serves           11 the sidecar can't do this now
  2 wrong usage           7 held: a person decides      12 no longer watched; a run may be going
  3 a precheck failed     8 another run is active          on
  4 not in time           9 what was verified is not   130 interrupted before the gate passed
  5 aborted, put back       what it has to be

Quote the lag condition: an unquoted < is a redirection. --when-lag lt1s and --max-lag 1s need no
quotes.

On the sidecar's host its own user and root need no token: the command finds the socket in the state
directory (--state-dir, --config, or /var/lib/cutover). Elsewhere name --api, and the token by
CUTOVER_API_TOKEN or --token-file.";

/// Moves clients from blue to green: `cutover --when-lag '<1s'`.
#[derive(Debug, Parser)]
#[command(
    name = "cutover",
    version,
    arg_required_else_help = true,
    after_help = EXIT_CODES,
    override_usage = "cutover --when-lag '<1s' [OPTIONS]\n       cutover <COMMAND> [OPTIONS]"
)]
pub struct Cli {
    /// The cutover itself.
    #[command(flatten)]
    pub run: RunArgs,
    /// Anything else.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// What every command takes.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// What every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Everywhere")]
pub struct CommonArgs {
    /// The sidecar's API: http://, https://, or unix: and the path of its socket. [default: the socket
    /// in the state directory; where that is missing, http://127.0.0.1:7654]
    #[arg(long, global = true, env = "CUTOVER_API", value_name = "URL")]
    pub api: Option<String>,
    /// The sidecar's state directory, for its socket and its token [default: /var/lib/cutover].
    #[arg(long, global = true, env = "CUTOVER_STATE_DIR", value_name = "DIRECTORY")]
    pub state_dir: Option<PathBuf>,
    /// The sidecar's configuration file, which says the same.
    #[arg(long, global = true, env = "CUTOVER_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// File with the API's bearer token.
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Authority of the API's certificate, PEM [default: the public ones].
    #[arg(long, global = true, env = "CUTOVER_API_CA", value_name = "FILE")]
    pub api_ca: Option<PathBuf>,
    /// Certificate to show the API, PEM.
    #[arg(long, global = true, value_name = "FILE", requires = "api_key")]
    pub api_cert: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, global = true, value_name = "FILE", requires = "api_cert")]
    pub api_key: Option<PathBuf>,
    /// One JSON object on stdout.
    #[arg(long, global = true)]
    pub json: bool,
    /// No progress; only results, questions and errors.
    #[arg(long, global = true)]
    pub quiet: bool,
    /// No colours. NO_COLOR does the same.
    #[arg(long, global = true)]
    pub no_color: bool,
    /// Why, for the record.
    #[arg(long, global = true, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Who asks, for the record. Default: the user who is logged in.
    #[arg(long, global = true, value_name = "NAME")]
    pub actor: Option<String>,
}

/// When to cut over and how long clients may wait.
#[derive(Debug, Default, Args)]
pub struct GateArgs {
    /// Cut over when the lag is so small: '<1s', '<=5MB', '<100tx', '<1s,<5MB'. Quote it.
    #[arg(long, value_name = "LAG", value_parser = lag, allow_hyphen_values = true)]
    pub when_lag: Option<LagExpr>,
    /// The same without quotes: 1s.
    #[arg(
        long,
        value_name = "LAG",
        value_parser = lag,
        allow_hyphen_values = true,
        conflicts_with = "when_lag"
    )]
    pub max_lag: Option<LagExpr>,
    /// The longest write pause; past it the run aborts and blue serves on [default: 2s].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub max_pause: Option<Duration>,
}

impl GateArgs {
    /// The lag expression, whichever way it was given.
    pub fn lag(&self) -> Option<&LagExpr> {
        self.when_lag.as_ref().or(self.max_lag.as_ref())
    }
}

/// A cutover.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Cutover")]
pub struct RunArgs {
    /// When.
    #[command(flatten)]
    pub gate: GateArgs,
    /// How long the lag has to stay so small [default: 3s].
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub hold: Option<Duration>,
    /// Give up, with nothing touched, when it has not by then [default: 30m].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub gate_timeout: Option<Duration>,
    /// How long to watch the side that opened [default: as the sidecar is configured].
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub watch: Option<Duration>,
    /// Keep no stream back to the side that is left: it can't be returned to.
    #[arg(long)]
    pub no_way_back: bool,
    /// Only if a verification of everything has found both sides equal within this time [default:
    /// 24h once there is a verification].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub require_verified: Option<Duration>,
    /// Without a value: although the last verification has found differences, or is old. With one
    /// (may be given again): this difference of definitions, rights or settings, and why it is taken.
    #[arg(long, value_name = "KIND OBJECT=REASON", num_args = 0..=1, require_equals = true,
          default_missing_value = "", value_parser = accepted)]
    pub accept_differences: Vec<Option<Accepted>>,
    /// Don't ask. Needed where there is no terminal.
    #[arg(long)]
    pub yes: bool,
    /// Print everything that would be done, and stop.
    #[arg(long)]
    pub dry_run: bool,
    /// How long to try to reach a sidecar that stopped answering during the run.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "30s")]
    pub reconnect_for: Duration,
}

/// Anything but the cutover itself.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check everything and print what a run would do: a cutover while blue serves, a rollback while
    /// green does. Exit code 3 if something stands in the way.
    Plan(PlanArgs),
    /// Take the clients back to blue, without losing what green has written. The same steps,
    /// options and proofs as a cutover; the lag is blue's behind green [default: <1s].
    Rollback(RunArgs),
    /// Give up the way back for good: ends both streams and removes what they need on the servers.
    /// The side that was left stays sealed.
    Finish(FinishArgs),
    /// The pipeline now: lag, positions, the copy, the last error, the run.
    Status(StatusArgs),
    /// Let a stream that is halted, or waits for a server, try again now. It does so by itself, too: this
    /// saves the pause, and begins a halted copy again.
    Retry,
    /// Stop the active run before its point of no return, and wait until everything is put back.
    Abort(AbortArgs),
    /// The runs so far.
    History,
    /// Rehearse the pause on the live system and predict what a run would cost: hold the clients,
    /// drain without a fence, let them go on. Nothing is closed or changed over.
    Drill(DrillArgs),
    /// What a run did, found and left behind, however long ago.
    Report(ReportArgs),
    /// Who asked for what, and what was done: the audit log.
    Audit(AuditArgs),
    /// Compare both sides while they are live, row by row and object by object. Exit code 9 if
    /// something differs.
    Verify(VerifyArgs),
    /// Make the rows equal that the last verification has found to differ: the source's are right.
    /// Exit code 9 if some still differ.
    Repair(RepairArgs),
    /// Wait until the pipeline or its run has come so far.
    Wait(WaitArgs),
}

/// `cutover plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// For which run.
    #[command(flatten)]
    pub gate: GateArgs,
    /// Of a run without a way back.
    #[arg(long)]
    pub no_way_back: bool,
    /// Of a run that asks for a verification within this time: 24h.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub require_verified: Option<Duration>,
    /// Without a value: of a run that goes although the last verification has found differences, or
    /// is old. With one (may be given again): although of this difference, and why.
    #[arg(long, value_name = "KIND OBJECT=REASON", num_args = 0..=1, require_equals = true,
          default_missing_value = "", value_parser = accepted)]
    pub accept_differences: Vec<Option<Accepted>>,
    /// Write the plan to a file, too, as JSON.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

fn contradicts(run: &RunArgs) -> bool {
    run.require_verified.is_some() && run.accept_differences.contains(&None)
}

/// `--accept-differences` without a value is about the last verification.
fn accepted(text: &str) -> Result<Option<Accepted>, String> {
    if text.is_empty() { Ok(None) } else { text.parse().map(Some) }
}

/// `cutover finish`.
#[derive(Debug, Args)]
pub struct FinishArgs {
    /// Also while the side that opened is still being watched.
    #[arg(long)]
    pub force_abandon_rollback: bool,
    /// Don't ask. Needed where there is no terminal.
    #[arg(long)]
    pub yes: bool,
}

/// `cutover status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Again every second, until ^C. With --json: one object a line.
    #[arg(long)]
    pub watch: bool,
}

/// `cutover abort`.
#[derive(Debug, Args)]
pub struct AbortArgs {
    /// How long to wait until everything is put back.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "30s")]
    pub timeout: Duration,
}

/// `cutover drill`.
#[derive(Debug, Args)]
pub struct DrillArgs {
    /// When, and how long clients may wait each time.
    #[command(flatten)]
    pub gate: GateArgs,
    /// How many times.
    #[arg(long, value_name = "COUNT", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// How long the lag has to stay small before each [default: 3s].
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub hold: Option<Duration>,
    /// Give up when it has not by then [default: 30m].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub gate_timeout: Option<Duration>,
    /// Of a run that keeps no stream back.
    #[arg(long)]
    pub no_way_back: bool,
    /// Don't ask. Needed where there is no terminal.
    #[arg(long)]
    pub yes: bool,
}

/// `cutover report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// The run's id or its epoch.
    #[arg(default_value = "last")]
    pub run: String,
    /// In which form. `--json` is the same as `json`.
    #[arg(long, value_enum, default_value_t = Format::Md)]
    pub format: Format,
}

/// The form of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Markdown, for people.
    Md,
    /// One JSON object.
    Json,
}

/// `cutover audit`.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// Check that every line is as it was written and in its place. Exit code 9 if one is not.
    #[arg(long)]
    pub verify: bool,
    /// How many lines to show, the newest.
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    pub last: usize,
    /// Of this file, or of all files of the log in this directory, without a sidecar.
    #[arg(long, value_name = "PATH")]
    pub file: Option<PathBuf>,
    /// The key that lines are sealed with [default: audit.key beside the log, or in the state
    /// directory].
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
}

/// `cutover verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// full: every value; checksum: a hash of every row; sample: the same for some chunks; count:
    /// only which keys there are.
    #[arg(long, default_value = "checksum")]
    pub mode: Mode,
    /// Only these tables: schema.table, with * and ?. May be repeated.
    #[arg(long, value_name = "TABLE")]
    pub table: Vec<String>,
    /// Only the rows of this table for which a condition holds, on both sides: 'public.orders: id >
    /// 1000'. Once for each table. Such a verification is no proof for a cutover.
    #[arg(long = "where", value_name = "TABLE: CONDITION")]
    pub predicates: Vec<Predicate>,
    /// Percent of the chunks that a sample takes [default: 1].
    #[arg(long, value_name = "PERCENT")]
    pub sample: Option<f64>,
    /// Connections that read from each server [default: 3]. One more to the side that serves asks how
    /// its clients fare, unless --unlimited.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(2..=32))]
    pub connections: Option<u32>,
    /// Most rows a second [default: no limit].
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: Option<u64>,
    /// Read all the time. Otherwise clients of the database are spared: only so much is read that
    /// the slowest of their answers stay about as slow as they are.
    #[arg(long)]
    pub unlimited: bool,
    /// Rows in a chunk [default: by the width of the rows].
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..))]
    pub chunk_rows: Option<u32>,
    /// How long a row that is being written may take to be caught at rest [default: 60s].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub settle: Option<Duration>,
    /// Start anew, also where a verification of the same was interrupted or stopped.
    #[arg(long, conflicts_with_all = ["attach", "stop"])]
    pub fresh: bool,
    /// Nothing but rows: no definitions, no sequences.
    #[arg(long)]
    pub rows_only: bool,
    /// If everything is equal, go on: look again at every row that is written from then on, so that
    /// only the last seconds before a cutover are without a proof. Ends with --stop.
    #[arg(long)]
    pub continuous: bool,
    /// The result as Markdown.
    #[arg(long, conflicts_with = "json")]
    pub markdown: bool,
    /// Follow the verification that is under way, or show the last one.
    #[arg(long, conflicts_with = "stop")]
    pub attach: bool,
    /// Stop the one that is under way.
    #[arg(long)]
    pub stop: bool,
}

/// `cutover repair`.
#[derive(Debug, Args)]
pub struct RepairArgs {
    /// Print the statements, with the rows' values in them, and change nothing.
    #[arg(long)]
    pub plan: bool,
    /// Only these tables: schema.table, with * and ?. May be repeated.
    #[arg(long, value_name = "TABLE")]
    pub table: Vec<String>,
    /// How long a row that is being written may take to be caught at rest [default: the
    /// verification's].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub settle: Option<Duration>,
    /// Don't ask. Needed where there is no terminal.
    #[arg(long, conflicts_with = "plan")]
    pub yes: bool,
    /// Follow the repair that is under way, or show the last one.
    #[arg(long, conflicts_with_all = ["plan", "stop", "yes"])]
    pub attach: bool,
    /// Stop the one that is under way.
    #[arg(long, conflicts_with_all = ["plan", "yes"])]
    pub stop: bool,
}

/// `cutover wait`.
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// A state of the pipeline (copying, indexing, catching_up, streaming, cutting_over, cut_over,
    /// reconnecting, halted) or of its run (armed, gate, quiesced .. open, done, aborted, held).
    #[arg(long, value_name = "STATE", value_parser = Awaited::parse)]
    pub for_state: Awaited,
    /// How long to wait for it. Exit code 4 after that.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10m")]
    pub timeout: Duration,
}

/// A state that can be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    /// Of the pipeline.
    Pipeline(PipelinePhase),
    /// Of a run.
    Run(Phase),
}

impl Awaited {
    fn parse(text: &str) -> Result<Self, String> {
        let name = text.trim().to_ascii_lowercase().replace('-', "_");
        let name = serde_json::Value::String(name);
        if let Ok(phase) = serde_json::from_value(name.clone()) {
            return Ok(Awaited::Pipeline(phase));
        }
        serde_json::from_value(name)
            .map(Awaited::Run)
            .map_err(|_| "no such state; try streaming, cut_over, open or done".to_owned())
    }

    /// The state's name.
    pub fn name(self) -> &'static str {
        match self {
            Awaited::Pipeline(phase) => phase.name(),
            Awaited::Run(phase) => phase.name(),
        }
    }
}

/// Takes an option and its condition apart that were quoted as one word: `'--when-lag<1s'`. No shell
/// needs it so, but it looks right, and what it means is plain.
pub(super) fn words(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let apart = |arg: OsString| {
        let word = arg.to_str().unwrap_or_default();
        let condition = ["--when-lag", "--max-lag"].into_iter().find_map(|option| {
            let condition = word.strip_prefix(option)?;
            condition.trim_start().starts_with('<').then(|| (option, condition.trim_start()))
        });
        match condition {
            Some((option, condition)) => vec![option.into(), condition.into()],
            None => vec![arg],
        }
    };
    args.into_iter().flat_map(apart).collect()
}

fn lag(text: &str) -> Result<LagExpr, String> {
    text.parse().map_err(|error| {
        let mut why = format!("{error}");
        if text.starts_with('-') {
            why.push_str(
                ". If you typed an unquoted <, the shell took it as a redirection and \
                 this option took the word after it",
            );
        }
        format!("{why}. The safe forms: --when-lag '<1s', --when-lag lt1s, --max-lag 1s")
    })
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if duration.is_zero() {
        return Err("it has to be longer than nothing".into());
    }
    Ok(duration)
}

impl Cli {
    /// Refuses what clap's own rules can't: a run's options beside another command, and a run
    /// without its condition.
    pub fn checked(self) -> Result<Self, clap::Error> {
        let refuse = |kind, why: &str| Err(Cli::command().error(kind, why));
        let run = &self.run;
        let choices = [
            ("--when-lag", run.gate.when_lag.is_some()),
            ("--max-lag", run.gate.max_lag.is_some()),
            ("--max-pause", run.gate.max_pause.is_some()),
            ("--for", run.hold.is_some()),
            ("--gate-timeout", run.gate_timeout.is_some()),
            ("--watch", run.watch.is_some()),
            ("--no-way-back", run.no_way_back),
            ("--require-verified", run.require_verified.is_some()),
            ("--accept-differences", !run.accept_differences.is_empty()),
            ("--yes", run.yes),
            ("--dry-run", run.dry_run),
        ];
        let given = choices.iter().find(|(_, given)| *given).map(|(name, _)| *name);
        match (&self.command, given) {
            (Some(_), Some(option)) => refuse(
                ErrorKind::ArgumentConflict,
                &format!("{option} belongs to a cutover, not to another command (or after it)"),
            ),
            (_, _) if contradicts(run) => refuse(
                ErrorKind::ArgumentConflict,
                "--require-verified and --accept-differences without a value contradict each other",
            ),
            (Some(Command::Rollback(args)), None)
                if args.require_verified.is_some() || !args.accept_differences.is_empty() =>
            {
                refuse(
                    ErrorKind::ArgumentConflict,
                    "a way back is never refused: --require-verified and --accept-differences \
                     belong to a cutover",
                )
            }
            (None, _) if run.gate.lag().is_none() => refuse(
                ErrorKind::MissingRequiredArgument,
                "a cutover needs a condition: cutover --when-lag '<1s'",
            ),
            _ => Ok(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
        let args = std::iter::once(&"cutover").chain(args).map(OsString::from);
        Cli::try_parse_from(words(args)).and_then(Cli::checked)
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_lag_is_taken_quoted_and_quote_free() {
        for args in [["--when-lag", "<1s"], ["--when-lag", "lt1s"], ["--max-lag", "1s"]] {
            let cli = parse(&args).unwrap();
            assert_eq!(cli.run.gate.lag().unwrap().to_string(), "<1s");
        }
        assert!(parse(&["--when-lag", "<1s", "--max-lag", "1s"]).is_err());
    }

    #[test]
    fn an_option_quoted_together_with_its_condition_is_understood() {
        for word in ["--when-lag<1s", "--when-lag <1s", "--max-lag<1s", "--when-lag=<1s"] {
            let cli = parse(&[word]).unwrap();
            assert_eq!(cli.run.gate.lag().unwrap().to_string(), "<1s", "{word}");
        }
        let cli = parse(&["plan", "--when-lag<=5MB,<1s"]).unwrap();
        let Some(Command::Plan(plan)) = cli.command else { panic!("no plan") };
        assert_eq!(plan.gate.lag().unwrap().to_string(), "<=5MB,<1s");
    }

    #[test]
    fn a_swallowed_option_is_no_lag() {
        let error = parse(&["--when-lag", "--yes"]).unwrap_err().to_string();
        assert!(error.contains("redirection") && error.contains("--when-lag '<1s'"), "{error}");
    }

    #[test]
    fn options_of_every_command_go_anywhere() {
        for args in [
            ["--api", "http://h:1", "status", "--json"],
            ["status", "--json", "--api", "http://h:1"],
            ["--json", "status", "--api", "http://h:1"],
        ] {
            let cli = parse(&args).unwrap();
            assert!(cli.common.json && cli.common.api.as_deref() == Some("http://h:1"));
        }
    }

    #[test]
    fn a_runs_options_belong_to_a_run() {
        assert!(parse(&["--yes", "status"]).is_err());
        assert!(parse(&["--yes"]).is_err());
        assert!(parse(&["--json"]).is_err());
        assert!(parse(&["--when-lag", "<1s", "--max-pause", "0s"]).is_err());
        assert!(parse(&["--when-lag", "<1s", "--for", "0s"]).is_ok());
        assert!(parse(&["plan", "--when-lag", "<1s", "--max-pause", "1s"]).is_ok());
        assert!(parse(&["--no-way-back", "rollback"]).is_err());
        assert!(parse(&["--when-lag", "<1s", "--no-way-back", "--watch", "0s"]).is_ok());
    }

    #[test]
    fn a_rollback_needs_no_condition_and_takes_what_a_cutover_takes() {
        assert!(parse(&["rollback"]).is_ok());
        let cli = parse(&["rollback", "--max-lag", "5s", "--yes", "--watch", "1m"]).unwrap();
        let Some(Command::Rollback(args)) = cli.command else { panic!("another command") };
        assert_eq!(args.gate.lag().unwrap().to_string(), "<5s");
        assert!(args.yes && args.watch == Some(Duration::from_secs(60)));
        assert!(parse(&["finish", "--force-abandon-rollback", "--yes"]).is_ok());
    }

    #[test]
    fn states_are_named_as_they_are_shown() {
        assert_eq!(Awaited::parse("OPEN"), Ok(Awaited::Run(Phase::Open)));
        let cut_over = Awaited::Pipeline(PipelinePhase::CutOver);
        assert_eq!(Awaited::parse("cut-over"), Ok(cut_over));
        assert!(Awaited::parse("nowhere").is_err());
    }
}
