//! What goes wrong in a run.

use std::fmt;

/// When.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// When the sidecar has come to this failpoint.
    Point(&'static str),
    /// So many milliseconds after the run was asked for.
    Time(u64),
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            At::Point(name) => f.write_str(name),
            At::Time(_) => f.write_str("any time"),
        }
    }
}

/// A process of the stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Sidecar,
    Watchdog,
    SidecarAndWatchdog,
    Router,
    /// The side that is being left.
    From,
    /// The side that is to open.
    To,
    /// Everything at once, as in a power cut.
    All,
}

impl Who {
    pub fn name(self) -> &'static str {
        match self {
            Who::Sidecar => "sidecar",
            Who::Watchdog => "watchdog",
            Who::SidecarAndWatchdog => "sidecar+watchdog",
            Who::Router => "router",
            Who::From => "the side left",
            Who::To => "the side to open",
            Who::All => "everything",
        }
    }
}

/// Between whom the network breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    SidecarFrom,
    SidecarTo,
    RouterFrom,
    RouterTo,
}

impl Link {
    pub const ALL: [Link; 4] =
        [Link::SidecarFrom, Link::SidecarTo, Link::RouterFrom, Link::RouterTo];

    pub fn name(self) -> &'static str {
        match self {
            Link::SidecarFrom => "sidecar|left",
            Link::SidecarTo => "sidecar|opening",
            Link::RouterFrom => "router|left",
            Link::RouterTo => "router|opening",
        }
    }
}

/// How it breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    Cut,
    Freeze,
    /// Everything comes two seconds later.
    Delay,
}

impl Break {
    pub const ALL: [Break; 3] = [Break::Cut, Break::Freeze, Break::Delay];

    pub fn name(self) -> &'static str {
        match self {
            Break::Cut => "cut",
            Break::Freeze => "frozen",
            Break::Delay => "2 s late",
        }
    }
}

/// What somebody else does on the side that is being left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Session {
    /// A transaction that has written stays open.
    Writing,
    /// One that has only read does.
    Reading,
    /// One that has written does, through the router.
    WritingThroughRouter,
    /// A transaction is prepared.
    Prepared,
    /// A table is locked against everybody.
    Locking,
}

impl Session {
    pub const ALL: [Session; 5] = [
        Session::Writing,
        Session::Reading,
        Session::WritingThroughRouter,
        Session::Prepared,
        Session::Locking,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Session::Writing => "long write transaction",
            Session::Reading => "idle in transaction",
            Session::WritingThroughRouter => "long write through router",
            Session::Prepared => "prepared transaction",
            Session::Locking => "LOCK TABLE held",
        }
    }
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// None: the run has to do what was asked for.
    None,
    /// `kill -9`; a supervisor starts it again after the outage.
    Kill { who: Who, at: At },
    /// The sidecar is killed, and its next life is, too.
    KillTwice { at: &'static str, then: &'static str },
    /// The sidecar is killed, and its watchdog while it does what has to be done.
    KillWatchdogToo { at: &'static str, then: &'static str },
    /// An act fails, and the sidecar is killed while it puts everything back.
    FailThenKill { at: &'static str, then: &'static str },
    /// The answer to the commit is lost, and the sidecar is killed (or not) while it finds out.
    DoubtThenKill { then: Option<&'static str> },
    /// An act or a journal entry fails.
    Fail { at: &'static str },
    /// SIGSTOP of the sidecar, for longer than its lease, then SIGCONT.
    Stop { at: At },
    /// The network between two.
    Network { link: Link, how: Break, at: At },
    /// The state directory's disk is full.
    DiskFull { at: At },
    /// Somebody drops the slot of the stream that carries, or of the way back.
    SlotDropped { at: At, way_back: bool },
    /// Somebody else reads it.
    SlotTaken { at: At },
    /// Somebody's transaction is in the way, from before the run on or from then on.
    Session { what: Session, at: Option<At> },
    /// An operator asks to abort.
    Abort { at: At },
    /// A second operator starts a run, too.
    SecondOperator { at: At },
    /// A second sidecar is started for the same pipeline, with the same state directory.
    SecondSidecar { at: At },
    /// A second sidecar with a state directory of its own.
    SecondSidecarElsewhere { at: At },
    /// Somebody lets the router's clients go.
    StrayResume { at: At },
    /// The last transaction can't be applied on the other side.
    ApplyConflict { at: At },
    /// A table is changed.
    Ddl { at: At },
}

impl Fault {
    /// For the table: what, without when.
    pub fn name(&self) -> String {
        match self {
            Fault::None => "nothing".into(),
            Fault::Kill { who, .. } => format!("kill -9 {}", who.name()),
            Fault::KillTwice { .. } => "kill -9 sidecar twice".into(),
            Fault::KillWatchdogToo { .. } => "kill -9 sidecar, its watchdog later".into(),
            Fault::FailThenKill { .. } => "act fails, then kill -9 sidecar".into(),
            Fault::DoubtThenKill { then: None } => "commit's answer lost".into(),
            Fault::DoubtThenKill { then: Some(_) } => {
                "commit's answer lost, then kill -9 sidecar".into()
            }
            Fault::Fail { .. } => "act fails".into(),
            Fault::Stop { .. } => "SIGSTOP sidecar".into(),
            Fault::Network { link, how, .. } => format!("network {} {}", link.name(), how.name()),
            Fault::DiskFull { .. } => "state directory full".into(),
            Fault::SlotDropped { way_back: false, .. } => "slot dropped".into(),
            Fault::SlotDropped { way_back: true, .. } => "slot of the way back dropped".into(),
            Fault::SlotTaken { .. } => "slot taken".into(),
            Fault::Session { what, .. } => what.name().into(),
            Fault::Abort { .. } => "operator aborts".into(),
            Fault::SecondOperator { .. } => "second operator".into(),
            Fault::SecondSidecar { .. } => "second sidecar".into(),
            Fault::SecondSidecarElsewhere { .. } => "second sidecar, other state".into(),
            Fault::StrayResume { .. } => "RESUME during the pause".into(),
            Fault::ApplyConflict { .. } => "apply conflict".into(),
            Fault::Ddl { .. } => "DDL".into(),
        }
    }

    /// For the table: when.
    pub fn place(&self) -> String {
        match self {
            Fault::None => "-".into(),
            Fault::Kill { at, .. }
            | Fault::Stop { at }
            | Fault::Network { at, .. }
            | Fault::DiskFull { at }
            | Fault::SlotDropped { at, .. }
            | Fault::SlotTaken { at }
            | Fault::Abort { at }
            | Fault::SecondOperator { at }
            | Fault::SecondSidecar { at }
            | Fault::SecondSidecarElsewhere { at }
            | Fault::StrayResume { at }
            | Fault::ApplyConflict { at }
            | Fault::Ddl { at } => at.to_string(),
            Fault::KillTwice { at, then }
            | Fault::KillWatchdogToo { at, then }
            | Fault::FailThenKill { at, then } => {
                format!("{at}, {then}")
            }
            Fault::DoubtThenKill { then } => {
                format!(
                    "act.decide.before{}",
                    then.map_or(String::new(), |then| format!(", {then}"))
                )
            }
            Fault::Fail { at } => (*at).into(),
            Fault::Session { at, .. } => at.map_or("before the run".into(), |at| at.to_string()),
        }
    }

    /// Whether the stream does not survive it: that is no mistake of the product, and the servers
    /// are of no use afterwards.
    pub fn breaks_the_pair(&self) -> bool {
        matches!(self, Fault::SlotDropped { .. } | Fault::ApplyConflict { .. } | Fault::Ddl { .. })
    }

    /// Whether it needs a side to open that was never closed: a closed one lets nobody in who could
    /// do it.
    pub fn wants_a_fresh_pair(&self) -> bool {
        self.breaks_the_pair()
    }

    /// Whether it needs a state directory that can be filled.
    pub fn needs_small_disk(&self) -> bool {
        matches!(self, Fault::DiskFull { .. })
    }

    /// Whether only PostgreSQL has what it does: slots, streams that end with a table's change.
    pub fn is_of_postgres(&self) -> bool {
        match self {
            Fault::SlotDropped { .. } | Fault::SlotTaken { .. } | Fault::StrayResume { .. } => true,
            Fault::ApplyConflict { .. } | Fault::Ddl { .. } => true,
            Fault::Session { what, .. } => *what == Session::Prepared,
            _ => false,
        }
    }

    /// Whether the router is killed when the run may already have looked through it for the last time:
    /// one that forgets where it leads then leads to the side that was left.
    pub fn needs_a_memory(&self) -> bool {
        match self {
            Fault::Kill { who: Who::Router | Who::All, at: At::Time(_) } => true,
            Fault::Kill { who: Who::Router | Who::All, at: At::Point(name) } => {
                ["turn_streams", "confirm_way_back", "watch"].iter().any(|act| name.contains(act))
            }
            _ => false,
        }
    }

    /// Whether only PgBouncer has what it does.
    pub fn needs_pgbouncer(&self) -> bool {
        matches!(self, Fault::StrayResume { .. })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name(), self.place())
    }
}
