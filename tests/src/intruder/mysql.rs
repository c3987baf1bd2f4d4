//! The same on MySQL and MariaDB: marks, tables of ours, and sessions that keep a write out of the log.

use anyhow::{Context as _, Result};

use super::{SOON, Summary, Who};
use crate::mysql::{DATABASE, Login, Mysql, Stage, Version};
use crate::process::Process;
use crate::wait;

const TABLES: &str = "
    create table purse (id int primary key, amount int not null);
    insert into purse values (1, 100), (2, 100), (3, 100), (4, 100), (5, 100), (6, 100), (7, 100), (8, 100);
    create table mark (pipeline varchar(200), lane int, opened bigint unsigned, claim varchar(100),
      primary key (pipeline, lane));
    create table marker (id int primary key, token varchar(100));
    insert into marker values (1, 'none');
    create user nobody@'%' identified by 'nobody';
    create user broad@'%' identified by 'broad';
    grant insert, update, select, delete on *.* to broad@'%'";

/// What nobody may do to our tables on either side.
const OURS: [(&str, &str); 9] = [
    ("to read the secret", "select hex(secret) from _cutover.own_mark"),
    ("to change the secret", "update _cutover.own_mark set secret = repeat('a', 16)"),
    ("to write a mark", "insert into _cutover.mark values ('shop', 0, 1, 'x')"),
    ("to move the progress", "update _cutover.progress set pipeline = 'x'"),
    ("to forge a decision", "insert into _cutover.decision (pipeline, epoch) values ('shop', 99)"),
    ("to take the lease", "update _cutover.lease set holder = 'me'"),
    ("to drop our database", "drop database _cutover"),
    ("to make something in it", "create table _cutover.mine (a int)"),
    (
        "to hang a trigger on our table",
        "create trigger _cutover.t before insert on _cutover.mark for each row set @a = 1",
    ),
];

/// Sessions in which a write would not be in the log as a whole row.
const SESSIONS: [(&str, &str); 4] = [
    ("sql_log_bin", "set session sql_log_bin = 0"),
    ("binlog_format", "set session binlog_format = 'STATEMENT'"),
    ("binlog_row_image", "set session binlog_row_image = 'MINIMAL'"),
    ("another server_id", "set session server_id = 4294967290"),
];

/// Where it happens.
struct Ground {
    stage: Stage,
    tokens: u32,
    summary: Summary,
}

/// Tries everything between servers of these versions.
///
/// # Errors
/// The ground could not be laid; an attempt that fails is no error.
pub async fn run(versions: (Version, Version)) -> Result<Summary> {
    let stage = Stage::start(versions, &[], "")?;
    stage.on_blue(TABLES)?;
    stage.green.run(
        "create user nobody@'%' identified by 'nobody'; create user broad@'%' identified by 'broad';
         grant insert, update, select, delete on *.* to broad@'%'",
    )?;
    let mut summary = Summary::default();
    before(&stage, &mut summary)?;
    let mut sidecar = stage.replicator()?;
    stage.api().wait_streaming(&mut sidecar, 1.0, 2 * SOON).await?;
    let mut ground = Ground { stage, tokens: 0, summary };
    ground.ours();
    ground.marks().await?;
    ground.sessions().await?;
    ground.trigger(&mut sidecar).await?;
    ground.forged().await?;
    sidecar.terminate()?;
    Ok(ground.summary)
}

/// Tables with our names that were there before us, with a trigger that would run as us.
fn before(stage: &Stage, summary: &mut Summary) -> Result<()> {
    for (server, side) in [(&stage.blue, "blue"), (&stage.green, "green")] {
        server.run(
            "create database _cutover; create table _cutover.progress (pipeline varchar(10));
             create trigger _cutover.evil before insert on _cutover.progress for each row set @ran = 1",
        )?;
        let harm = match stage.launch("run")?.run(SOON) {
            Ok(ended) if ended.code() != 0 => None,
            Ok(ended) => Some(ended.stderr),
            Err(error) => Some(format!("the sidecar took it: {error:#}")),
        };
        summary.note(
            Who::Owner,
            format!("a table of ours with a trigger, before us on {side}"),
            harm,
        );
        server.run("drop database _cutover")?;
    }
    Ok(())
}

impl Ground {
    fn app(&self, server: &Mysql) -> Login {
        server.login(server.port(), "app", "app")
    }

    fn ours(&mut self) {
        for (server, side) in [(&self.stage.blue, "blue"), (&self.stage.green, "green")] {
            let nobody = server.login(server.port(), "nobody", "nobody");
            for (login, who) in [(self.app(server), Who::Owner), (nobody, Who::Nobody)] {
                for (what, sql) in OURS {
                    let done = login.run(sql);
                    let harm = done.is_ok().then(|| format!("{side} has let it happen"));
                    self.summary.note(who, format!("{what}, on {side}"), harm);
                }
            }
        }
    }

    /// Writes with something like a mark, by an account that can't write where marks are.
    async fn marks(&mut self) -> Result<()> {
        let own = self.stage.green.value("select count(*) from _cutover.mark")?;
        anyhow::ensure!(own != "0", "our lanes have marked nothing on green");
        let zeros = "0".repeat(32);
        let claims = [
            ("a guess", format!("1 {zeros}")),
            ("nothing", String::new()),
            ("the pipeline's name", "shop_back".to_owned()),
        ];
        for (at, (what, claim)) in claims.iter().enumerate() {
            let id = at as u32 + 1;
            self.app(&self.stage.blue).run(&format!(
                "use {DATABASE}; begin; replace into mark values ('shop_back', 0, {id}, '{claim}');
                 update purse set amount = -1 where id = {id}; commit"
            ))?;
            let harm = self.is_missing(id, "-1").await?;
            self.summary.note(Who::Owner, format!("a write with a mark of {what}"), harm);
        }
        Ok(())
    }

    /// A write with a mark where marks are, by an account that may write everywhere: it is on green, or the stream
    /// stands and says so. Nothing comes after it.
    async fn forged(&mut self) -> Result<()> {
        // The trigger of before would change this write, too.
        self.stage.green.run(&format!("drop trigger if exists {DATABASE}.evil"))?;
        let blue = &self.stage.blue;
        blue.run(
            "create database if not exists _cutover;
             create table if not exists _cutover.mark (pipeline varchar(200), lane int, opened bigint unsigned,
               claim varchar(100), primary key (pipeline, lane))",
        )?;
        let zeros = "0".repeat(32);
        blue.login(blue.port(), "broad", "broad").run(&format!(
            "use {DATABASE}; begin; replace into _cutover.mark values ('shop_back', 0, 1, '1 {zeros}');
             update purse set amount = -2 where id = 7; commit"
        ))?;
        let (api, green) = (self.stage.api(), &self.stage.green);
        let amount = format!("select amount from {DATABASE}.purse where id = 7");
        let seen = wait::until("the write on green, or a halt", SOON, || async {
            let is_told = !api.status()?["halt"].is_null();
            Ok((is_told || green.value(&amount)? == "-2").then_some(()))
        })
        .await;
        let harm = seen.err().map(|error| format!("{error:#}"));
        self.summary.note(Who::Owner, "a write with a guessed mark in _cutover.mark", harm);
        Ok(())
    }

    /// Writes that the log does not have as rows: refused by the server, or on green all the same.
    async fn sessions(&mut self) -> Result<()> {
        for (at, (what, setting)) in SESSIONS.iter().enumerate() {
            let amount = format!("-{}", 10 + at);
            let done = self.app(&self.stage.blue).run(&format!(
                "use {DATABASE}; {setting}; update purse set amount = {amount} where id = 8"
            ));
            let harm = match done {
                Err(_) => None,
                Ok(()) => self.is_missing(8, &amount).await?,
            };
            self.summary.note(Who::Owner, format!("a session with {what} of its own"), harm);
        }
        Ok(())
    }

    /// A trigger on green that changes what the stream writes: a run has to be refused.
    async fn trigger(&mut self, sidecar: &mut Process) -> Result<()> {
        self.stage.green.run("set global log_bin_trust_function_creators = 1")?;
        let made = self.app(&self.stage.green).run(&format!(
            "use {DATABASE}; create trigger evil before update on purse for each row set new.amount = 7"
        ));
        if made.is_err() {
            self.summary.note(Who::Owner, "a trigger on green that changes rows", None);
            return Ok(());
        }
        self.stage.api().wait_streaming(sidecar, 1.0, SOON).await?;
        let run = self
            .stage
            .cutover(&["--when-lag", "<1s", "--yes", "--gate-timeout", "5s"], 2 * SOON)?;
        let harm = (run.code() == 0).then(|| format!("a run was completed: {}", run.stdout));
        self.summary.note(Who::Owner, "a trigger on green that changes rows", harm);
        Ok(())
    }

    /// The harm, if green does not get to this amount.
    async fn is_missing(&mut self, id: u32, amount: &str) -> Result<Option<String>> {
        self.tokens += 1;
        let token = format!("token {}", self.tokens);
        self.stage.on_blue(&format!("update marker set token = '{token}'"))?;
        let green = &self.stage.green;
        wait::until("the marker row on green", SOON, || async {
            let found = green.value(&format!("select token from {DATABASE}.marker"))?;
            Ok((found == token).then_some(()))
        })
        .await
        .with_context(|| {
            let status = self.stage.api().status();
            status.map_or_else(|error| format!("{error:#}"), |status| status["halt"].to_string())
        })?;
        let found = green.value(&format!("select amount from {DATABASE}.purse where id = {id}"))?;
        Ok((found != amount).then(|| format!("green has {found} for {amount}")))
    }
}
