//! Doing a fault, and undoing it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{GETTING_THERE, Scene};
use crate::chaos::deck::{Cast, STOP_MS};
use crate::chaos::fault::{At, Break, Fault, Link, Session, Who};
use crate::chaos::marked;
use crate::chaos::pair::{Pair, SOON, Side};
use crate::chaos::server::{Client, run};
use crate::process::{Process, kill_all};
use crate::proxy::Mode;
use crate::stage::DATABASE;

/// How long a process may live on after its failpoint was reached.
const DYING: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(10);
/// How late everything comes over a slow network.
const DELAY: Duration = Duration::from_secs(2);
/// The name of prepared transactions.
const PREPARED: &str = "chaos";
/// What fills the state directory.
const BALLAST: &str = "ballast";

/// What a fault needs while it lasts.
#[derive(Default)]
pub struct Props {
    session: Option<Client>,
    prepared_on: Option<Side>,
    helpers: Vec<Process>,
}

impl Props {
    /// Ends all of it.
    pub async fn clear(&mut self, pair: &mut Pair) -> Result<()> {
        self.session = None;
        self.helpers.clear();
        if let Some(side) = self.prepared_on.take() {
            // Wherever the run has ended: the side may be closed for good.
            let find = format!("SELECT gid FROM pg_prepared_xacts WHERE gid = '{PREPARED}'");
            if !pair.server(side).postgres()?.rows("postgres", &find).await?.is_empty() {
                let until = Instant::now() + SOON;
                let end = format!("COMMIT PREPARED '{PREPARED}'");
                while let Err(error) = pair.server(side).postgres()?.execute(DATABASE, &end).await {
                    ensure!(Instant::now() < until, "the prepared transaction stays: {error:#}");
                    pair.pass(Duration::from_millis(100)).await?;
                }
            }
        }
        Ok(())
    }
}

/// What has to be there before the run begins.
pub async fn prepare(pair: &mut Pair, cast: &Cast) -> Result<Props> {
    let mut props = Props::default();
    let points = pair.points.clone();
    let pause_at = |at: &At| match at {
        At::Point(name) => points.set(name, "pause"),
        At::Time(_) => Ok(()),
    };
    match &cast.fault {
        Fault::None => {}
        Fault::Kill { who: Who::Sidecar, at: At::Point(name) } => points.set(name, "kill")?,
        Fault::KillTwice { at, .. } => points.set(at, "kill")?,
        Fault::KillWatchdogToo { at, then } => {
            points.set(at, "kill")?;
            points.of_watchdog()?.set(then, "kill")?;
        }
        Fault::FailThenKill { at, then } => {
            points.set(at, "error@once")?;
            points.set(then, "kill")?;
        }
        Fault::DoubtThenKill { then } => {
            points.set("act.decide.before", "pause")?;
            if let Some(then) = then {
                points.set(then, "kill")?;
            }
        }
        Fault::Fail { at } => points.set(at, "error@once")?,
        Fault::Session { what, at: None } => begin(pair, cast, *what, &mut props).await?,
        Fault::Session { at: Some(at), .. }
        | Fault::Kill { at, .. }
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
        | Fault::Ddl { at } => pause_at(at)?,
    }
    Ok(props)
}

impl Scene<'_> {
    /// Does the fault, for as long as it lasts.
    pub async fn strike(&mut self) -> Result<()> {
        let cast = self.cast;
        let outage = Duration::from_millis(cast.outage_ms);
        match &cast.fault {
            Fault::None => self.struck = Some(self.began),
            Fault::Kill { who: Who::Sidecar, at: At::Point(name) } => {
                self.death_at(name).await?;
            }
            Fault::KillWatchdogToo { at, .. } => {
                self.death_at(at).await?;
                self.able = self.pair.starts_at();
            }
            Fault::KillTwice { at, then } => {
                if self.death_at_and_then(at, Some(then)).await? {
                    self.death_at(then).await?;
                }
            }
            Fault::FailThenKill { then, .. } => {
                self.death_at(then).await?;
            }
            Fault::DoubtThenKill { then } => self.doubt(*then).await?,
            Fault::Fail { at } => {
                self.wait_for("a failpoint", |scene| scene.pair.points.has_been(at)).await?;
                self.struck = Some(Instant::now());
            }
            Fault::Kill { who, at } => {
                if self.reach(at).await? {
                    self.kill(*who, at, outage).await?;
                }
            }
            Fault::Stop { at } => {
                if self.reach(at).await? {
                    self.sidecar()?.freeze()?;
                    self.go_on(at)?;
                    self.pair.restart_after = Some(Duration::from_millis(cast.restart_ms));
                    let stopped = self.sidecar()?.pid();
                    self.pair.pass(Duration::from_millis(STOP_MS)).await?;
                    // A watchdog may have ended it.
                    let same = self.pair.sidecar.as_mut().filter(|now| now.pid() == stopped);
                    if let Some(sidecar) = same {
                        sidecar.unfreeze()?;
                    }
                }
            }
            Fault::Network { link, how, at } => {
                if self.reach(at).await? {
                    let mode = match how {
                        Break::Cut => Mode::Cut,
                        Break::Freeze => Mode::Freeze,
                        Break::Delay => Mode::Delay(DELAY),
                    };
                    self.pair.links.set(*link, cast.direction, mode);
                    self.go_on(at)?;
                    self.pair.pass(outage).await?;
                    self.pair.links.heal();
                    if *how == Break::Delay {
                        // What was under way then is still late: the next run shall not meet it.
                        self.pair.pass(DELAY).await?;
                    }
                    if matches!(link, Link::SidecarFrom | Link::RouterFrom) {
                        self.able = Some(Instant::now());
                    }
                }
            }
            Fault::DiskFull { at } => {
                if self.reach(at).await? {
                    fill(&self.pair.state_dir().join(BALLAST));
                    self.go_on(at)?;
                    self.pair.pass(outage).await?;
                    std::fs::remove_file(self.pair.state_dir().join(BALLAST))?;
                }
            }
            Fault::SlotDropped { at, way_back } => {
                if self.reach(at).await? {
                    let side = if *way_back { cast.direction.to() } else { cast.direction.from() };
                    let dropped = self.drop_slot(side).await;
                    self.go_on(at)?;
                    dropped?;
                }
            }
            Fault::SlotTaken { at } => {
                if self.reach(at).await? {
                    self.go_on(at)?;
                    self.take_slot(cast.direction.from(), outage).await?;
                }
            }
            Fault::Session { at: None, .. } => {
                self.struck = Some(self.began);
                self.pair.pass(outage).await?;
                self.end_session().await;
            }
            Fault::Session { what, at: Some(at) } => {
                if self.reach(at).await? {
                    let begun = begin(self.pair, cast, *what, &mut self.props).await;
                    self.go_on(at)?;
                    begun?;
                    self.pair.pass(outage).await?;
                    self.end_session().await;
                }
            }
            Fault::Abort { at } => {
                if self.reach(at).await? {
                    let api = self.pair.api();
                    let abort = api.known_to(self.pair.launch("cutover")?);
                    let abort = abort.arg("abort").start(&self.pair.path().join("abort"))?;
                    self.props.helpers.push(abort);
                    self.pair.pass(Duration::from_millis(150)).await?;
                    self.go_on(at)?;
                }
            }
            Fault::SecondOperator { at } => {
                if self.reach(at).await? {
                    let mut second = super::start(self.pair, cast.direction)?;
                    let busy = wait_end(self.pair, &mut second).await;
                    self.go_on(at)?;
                    ensure!(busy? != 0, "a second run was let begin while one was under way");
                }
            }
            Fault::SecondSidecar { at } => {
                if self.reach(at).await? {
                    let mut second = self.pair.second_sidecar(false)?;
                    let refused = wait_end(self.pair, &mut second).await;
                    self.go_on(at)?;
                    ensure!(refused? != 0, "a second sidecar was let run");
                }
            }
            Fault::SecondSidecarElsewhere { at } => {
                if self.reach(at).await? {
                    let second = self.pair.second_sidecar(true)?;
                    self.pair.pass(Duration::from_millis(800)).await?;
                    self.go_on(at)?;
                    self.pair.pass(outage).await?;
                    drop(second);
                }
            }
            Fault::StrayResume { at } => {
                if self.reach(at).await? {
                    let router = self.pair.routers.first().context("no PgBouncer")?;
                    let resumed = router.admin(&format!("RESUME {DATABASE}")).await;
                    self.go_on(at)?;
                    resumed?;
                }
            }
            Fault::ApplyConflict { at } => {
                if self.reach(at).await? {
                    let done = self.conflict().await;
                    self.go_on(at)?;
                    done?;
                }
            }
            Fault::Ddl { at } => {
                if self.reach(at).await? {
                    let url = self.pair.server(cast.direction.from()).app_url();
                    let altered = run(
                        &url,
                        "ALTER TABLE victim ADD COLUMN more int DEFAULT 7;
                         UPDATE victim SET n = n + 1 WHERE id = 3",
                    );
                    let altered = altered.await;
                    self.go_on(at)?;
                    altered?;
                }
            }
        }
        Ok(())
    }

    /// Waits until the run stands at the moment, or is over; and notes when.
    async fn reach(&mut self, at: &At) -> Result<bool> {
        match at {
            At::Point(name) => {
                let name = *name;
                self.wait_for(name, |scene| scene.pair.points.is_paused(name)).await?;
            }
            At::Time(ms) => {
                let left = Duration::from_millis(*ms).saturating_sub(self.began.elapsed());
                self.pair.pass(left).await?;
                self.struck = Some(Instant::now());
            }
        }
        Ok(self.struck.is_some())
    }

    /// Waits for something that may never come; `struck` tells.
    async fn wait_for(&mut self, what: &str, mut come: impl FnMut(&Self) -> bool) -> Result<()> {
        let until = Instant::now() + GETTING_THERE;
        loop {
            if come(self) {
                self.struck = Some(Instant::now());
                return Ok(());
            }
            if self.is_over()? {
                return Ok(());
            }
            ensure!(Instant::now() < until, "the run neither ends nor comes to {what}");
            self.pair.pass(TICK).await?;
        }
    }

    /// Lets the sidecar go on from where it pauses.
    fn go_on(&self, at: &At) -> Result<()> {
        match at {
            At::Point(name) => self.pair.points.clear(name),
            At::Time(_) => Ok(()),
        }
    }

    fn sidecar(&mut self) -> Result<&mut Process> {
        self.pair.sidecar.as_mut().context("the sidecar is down")
    }

    async fn death_at(&mut self, name: &'static str) -> Result<bool> {
        self.death_at_and_then(name, None).await
    }

    /// Waits until the sidecar has died at its failpoint, and lets the supervisor start it again;
    /// the next failpoint is set in between. False: it never came there.
    async fn death_at_and_then(
        &mut self,
        name: &'static str,
        then: Option<&'static str>,
    ) -> Result<bool> {
        let deaths = self.pair.deaths;
        let until = Instant::now() + GETTING_THERE;
        let mut been = None;
        while self.pair.deaths == deaths {
            self.pair.tend()?;
            if self.pair.died().is_none() {
                // Once it is up, possibly again, its next death is to be seen before it comes back.
                self.pair.restart_after = None;
            }
            if self.pair.points.has_been(name) {
                // A watchdog that recovers comes by the same moments, and dies of them, too.
                let been = *been.get_or_insert_with(Instant::now);
                if been.elapsed() > DYING {
                    break;
                }
            } else if self.is_over()? {
                break;
            }
            ensure!(Instant::now() < until, "the run neither ends nor comes to {name}");
            tokio::time::sleep(TICK).await;
        }
        let died = self.pair.points.has_been(name);
        if died {
            self.struck = Some(self.pair.died().unwrap_or_else(Instant::now));
            self.killed_at.push(name);
        }
        self.pair.points.clear(name)?;
        if let Some(then) = then.filter(|_| died) {
            self.pair.points.forget_trace()?;
            self.pair.points.set(then, "kill")?;
        }
        self.pair.restart_after = Some(Duration::from_millis(self.cast.restart_ms));
        Ok(died)
    }

    async fn doubt(&mut self, then: Option<&'static str>) -> Result<()> {
        let at = At::Point("act.decide.before");
        if !self.reach(&at).await? {
            return Ok(());
        }
        self.pair.links.set(Link::SidecarTo, self.cast.direction, Mode::Freeze);
        self.go_on(&at)?;
        match then {
            Some(then) => {
                self.struck = None;
                self.death_at(then).await?;
            }
            None => self.pair.pass(Duration::from_millis(4_500)).await?,
        }
        self.pair.links.heal();
        Ok(())
    }

    async fn kill(&mut self, who: Who, at: &At, outage: Duration) -> Result<()> {
        let watchdogs = marked::running(&self.pair.mark, "watchdog");
        let restart = Duration::from_millis(self.cast.restart_ms);
        self.pair.restart_after = Some(restart);
        let (from, to) = (self.cast.direction.from(), self.cast.direction.to());
        if matches!(who, Who::Watchdog) && watchdogs.is_empty() {
            self.struck = None;
        }
        if matches!(who, Who::Watchdog | Who::SidecarAndWatchdog | Who::All) {
            kill_all(&watchdogs);
        }
        if matches!(who, Who::Sidecar | Who::SidecarAndWatchdog | Who::All)
            && let Some(sidecar) = self.pair.sidecar.as_mut()
        {
            sidecar.kill9()?;
        }
        if matches!(who, Who::Router | Who::All) {
            self.pair.kill_router()?;
        }
        for side in [from, to] {
            if who == Who::All
                || (side == from && who == Who::From)
                || (side == to && who == Who::To)
            {
                self.pair.server_mut(side).kill9()?;
            }
        }
        self.go_on(at)?;
        if !matches!(who, Who::Sidecar | Who::Watchdog | Who::SidecarAndWatchdog) {
            self.pair.pass(outage).await?;
        }
        for side in [from, to] {
            if !self.pair.server_mut(side).is_running() {
                self.pair.server_mut(side).start_again()?;
            }
        }
        if matches!(who, Who::Router | Who::All) {
            self.pair.start_router()?;
        }
        self.pair.tend()?;
        match who {
            Who::Router | Who::From => self.able = Some(Instant::now()),
            Who::All => self.able = self.pair.starts_at().max(Some(Instant::now())),
            Who::SidecarAndWatchdog => self.able = self.pair.starts_at(),
            Who::Sidecar | Who::Watchdog | Who::To => {}
        }
        Ok(())
    }

    /// As an administrator would who has mistaken it for an orphan.
    async fn drop_slot(&mut self, side: Side) -> Result<()> {
        let slot = side.slot();
        let end = format!(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots \
             WHERE slot_name = '{slot}' AND active"
        );
        let drop = format!("SELECT pg_drop_replication_slot('{slot}')");
        let client = self.pair.server(side).postgres()?.connect(DATABASE).await?;
        let until = Instant::now() + SOON;
        loop {
            crate::postgres::rows(&client, &end).await?;
            match crate::postgres::rows(&client, &drop).await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= until => return Err(error),
                // Its reader is not gone yet, or was quicker.
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    }

    /// Somebody else reads the slot again and again.
    async fn take_slot(&mut self, side: Side, time: Duration) -> Result<()> {
        let (slot, publication) = (side.slot(), side.publication());
        let take = format!(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots \
             WHERE slot_name = '{slot}' AND active;
             SELECT count(*) FROM pg_logical_slot_peek_binary_changes('{slot}', NULL, NULL, \
             'proto_version', '1', 'publication_names', '{publication}')"
        );
        let until = Instant::now() + time;
        while Instant::now() < until {
            // The fence may keep us out or throw us out, and its owner may be quicker.
            if let Ok(client) = self.pair.server(side).postgres()?.connect(DATABASE).await {
                drop(crate::postgres::rows(&client, &take).await);
            }
            self.pair.pass(TICK).await?;
        }
        Ok(())
    }

    /// A row is gone on the side to open, and written on the other.
    async fn conflict(&mut self) -> Result<()> {
        let to = self.pair.server(self.cast.direction.to());
        to.postgres()?.execute(DATABASE, "DELETE FROM victim WHERE id = 7").await?;
        let from = self.pair.server(self.cast.direction.from()).app_url();
        run(&from, "UPDATE victim SET n = n + 1 WHERE id = 7").await
    }

    /// Ends the fault's transaction, which somebody may have ended already.
    async fn end_session(&mut self) {
        if let Some(mut session) = self.props.session.take() {
            drop(session.run("COMMIT").await);
        }
        if let Some(side) = self.props.prepared_on
            && let Ok(server) = self.pair.server(side).postgres()
        {
            // Refused where the side is closed: [`Props::clear`] tries again.
            let end = format!("COMMIT PREPARED '{PREPARED}'");
            drop(server.execute(DATABASE, &end).await);
        }
    }
}

async fn begin(pair: &mut Pair, cast: &Cast, what: Session, props: &mut Props) -> Result<()> {
    let from = cast.direction.from();
    let direct = pair.server(from).app_url();
    let url = match what {
        Session::WritingThroughRouter => pair.app_url().to_owned(),
        _ => direct,
    };
    let mut client = Client::open(&url).await.context("the fault's own session")?;
    let sql = match what {
        Session::Writing | Session::WritingThroughRouter => {
            "BEGIN; UPDATE victim SET n = n + 1 WHERE id = 1".to_owned()
        }
        Session::Reading => "BEGIN; SELECT count(*) FROM victim".to_owned(),
        Session::Prepared => format!(
            "BEGIN; UPDATE victim SET n = n + 1 WHERE id = 2; PREPARE TRANSACTION '{PREPARED}'"
        ),
        Session::Locking if pair.blue.kind().is_postgres() => "BEGIN; LOCK TABLE victim".to_owned(),
        Session::Locking => "LOCK TABLES victim WRITE".to_owned(),
    };
    client.run(&sql).await?;
    if what == Session::Prepared {
        props.prepared_on = Some(from);
    } else {
        props.session = Some(client);
    }
    Ok(())
}

/// Waits for the end of a command that is to be refused.
async fn wait_end(pair: &mut Pair, process: &mut Process) -> Result<i32> {
    let until = Instant::now() + SOON;
    loop {
        if let Some(status) = process.ended()? {
            return Ok(status.code().unwrap_or(-1));
        }
        if Instant::now() >= until {
            bail!("it was not refused: {}", process.log_tail());
        }
        pair.pass(TICK).await?;
    }
}

/// Writes until no more goes in.
fn fill(path: &std::path::Path) {
    let Ok(mut file) = std::fs::File::create(path) else { return };
    let block = vec![0_u8; 1 << 20];
    for size in [block.len(), 4096, 1] {
        while std::io::Write::write_all(&mut file, &block[..size]).is_ok() {}
    }
}
