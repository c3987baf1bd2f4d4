//! Triggers and rules that are enabled ALWAYS or REPLICA: each write sets them off once, on the side that it was
//! made on, whoever serves and whoever dies.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::postgres::Postgres;
use tests::stage::{DATABASE, Stage};
use tests::wait;

use super::rollback::expect;
use super::watchdog::sidecar;
use super::{Move, SOON, set};

pub(super) const GO: [&str; 5] = ["--when-lag", "<1s", "--yes", "--max-pause", "30s"];
const BACK: [&str; 4] = ["rollback", "--yes", "--max-pause", "30s"];

/// Entries are noted by a trigger that always fires; probes by one of a partitioned table and by a rule. One
/// for replicas alone must never have fired.
pub(super) const FIRING: &str = "
    CREATE TABLE noted (id bigserial PRIMARY KEY, client int NOT NULL, seq bigint NOT NULL);
    CREATE INDEX ON noted (client, seq);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
      'BEGIN INSERT INTO public.noted (client, seq) VALUES (NEW.client, NEW.seq); RETURN NULL; END';
    CREATE TRIGGER note AFTER INSERT ON ledger.entries FOR EACH ROW EXECUTE PROCEDURE note();
    ALTER TABLE ledger.entries ENABLE ALWAYS TRIGGER note;

    CREATE TABLE probe (id int NOT NULL, v int) PARTITION BY RANGE (id);
    CREATE TABLE probe_1 PARTITION OF probe (PRIMARY KEY (id)) FOR VALUES FROM (0) TO (1000000);
    CREATE TABLE seen (id bigserial PRIMARY KEY, probe int NOT NULL, who text NOT NULL);
    CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS
      'BEGIN INSERT INTO public.seen (probe, who) VALUES (NEW.id, TG_ARGV[0]); RETURN NULL; END';
    CREATE TRIGGER see AFTER INSERT ON probe_1 FOR EACH ROW EXECUTE PROCEDURE see('trigger');
    CREATE TRIGGER never AFTER INSERT ON probe_1 FOR EACH ROW EXECUTE PROCEDURE see('replica');
    ALTER TABLE probe_1 ENABLE ALWAYS TRIGGER see, ENABLE REPLICA TRIGGER never;
    CREATE RULE see AS ON INSERT TO probe_1 DO ALSO
      INSERT INTO seen (probe, who) VALUES (NEW.id, 'rule');
    ALTER TABLE probe_1 ENABLE ALWAYS RULE see;
";

/// One that partitions have of their parent. Before 13 only a superuser may change its state.
const ABOVE: &str = "
    CREATE TRIGGER above AFTER INSERT ON probe FOR EACH ROW EXECUTE PROCEDURE see('above');
    ALTER TABLE probe ENABLE ALWAYS TRIGGER above;
";

/// How each of them is on a side.
pub(super) const STATES: &str = "
    SELECT string_agg(concat(one, '=', state), ' ' ORDER BY one) FROM (
      SELECT tgname::text, tgenabled::text FROM pg_trigger
      WHERE NOT tgisinternal AND tgname IN ('note', 'see', 'never')
      UNION ALL SELECT 'rule', ev_enabled::text FROM pg_rewrite WHERE rulename = 'see') s(one, state)";
pub(super) const ON: &str = "never=R note=A rule=A see=A";
pub(super) const OFF: &str = "never=D note=D rule=D see=D";

/// Entries without a note, and notes that are not of one entry.
const EACH_ONCE: &str = "
    SELECT concat_ws(' ', 'entries', (SELECT count(*) FROM ledger.entries),
      'lacking', (SELECT count(*) FROM ledger.entries e
                  WHERE NOT EXISTS (SELECT FROM noted n WHERE (n.client, n.seq) = (e.client, e.seq))),
      'twice', (SELECT count(*) - count(DISTINCT (client, seq)) FROM noted),
      'seen', (SELECT string_agg(concat(who, ':', n, '/', ids), ',' ORDER BY who) FROM (
                 SELECT who, count(*) AS n, count(DISTINCT probe) AS ids FROM seen GROUP BY who) s),
      'of', (SELECT count(*) FROM probe))";

fn server<'a>(this: &'a Move, side: &str) -> &'a Postgres {
    if side == "blue" { &this.stage.blue } else { &this.stage.green }
}

fn other(side: &str) -> &'static str {
    if side == "blue" { "green" } else { "blue" }
}

/// Writes probes through the router, and knows how many there are.
pub(super) struct Probes {
    count: i32,
    /// Whether the partitioned table has a trigger, too.
    above: bool,
}

impl Probes {
    pub(super) fn new(above: bool) -> Self {
        Self { count: 0, above }
    }

    async fn write(&mut self, this: &Move) -> Result<()> {
        let app = tests::postgres::connect_url(&this.stage.app_url()?).await?;
        for _ in 0..5 {
            self.count += 1;
            // Of the partition itself: a rule is not asked for rows that are routed to it.
            let sql = format!("INSERT INTO probe_1 (id, v) VALUES ({}, 0)", self.count);
            app.batch_execute(&sql).await.context("a probe")?;
        }
        Ok(())
    }
}

/// Reads on the side that does not serve, which may be closed, and stays as it is.
async fn peek(server: &Postgres, sql: &str) -> Result<String> {
    let door = |open: bool| format!("ALTER DATABASE {DATABASE} ALLOW_CONNECTIONS {open}");
    wait::until("the closed side to let us in", SOON, || async {
        if let Ok(value) = server.value(DATABASE, sql).await {
            return Ok(Some(value));
        }
        server.execute("postgres", &door(true)).await?;
        // The sidecar closes it behind its own sessions: then it is the next try.
        let value = server.value(DATABASE, sql).await.ok();
        server.execute("postgres", &door(false)).await?;
        Ok(value)
    })
    .await
}

/// `serves` has each note once and everything on, the other side has the same rows and everything off.
pub(super) async fn ensure_once(this: &mut Move, probes: &mut Probes, serves: &str) -> Result<()> {
    probes.write(this).await?;
    this.more(100).await?;
    this.ledger.rest(SOON).await?;
    let [here, there] = [server(this, serves), server(this, other(serves))];
    assert_eq!(here.value(DATABASE, STATES).await?, ON, "on {serves}, which serves");
    let counts = here.value(DATABASE, EACH_ONCE).await?;
    let of = probes.count;
    let above = if probes.above { format!("above:{of}/{of},") } else { String::new() };
    let expected =
        format!("lacking 0 twice 0 seen {above}rule:{of}/{of},trigger:{of}/{of} of {of}");
    ensure!(counts.ends_with(&expected), "on {serves}: {counts}, not .. {expected}");
    let arrived = wait::until("the other side to have everything", SOON, || {
        let (there, counts) = (peek(there, EACH_ONCE), counts.clone());
        async move { Ok((there.await? == counts).then_some(())) }
    });
    let arrived = arrived.await;
    let found = peek(there, EACH_ONCE).await?;
    arrived.with_context(|| format!("{counts} on {serves}, and on the other side {found}"))?;
    assert_eq!(peek(there, STATES).await?, OFF, "on the side that does not serve");
    this.ledger.go_on();
    Ok(())
}

async fn forth_and_back_and_forth(blue: u32, green: u32, more: &str) -> Result<()> {
    let sql = format!("{FIRING}{more}");
    let mut this = Move::streaming_with(Stage::builder(blue, green), &sql).await?;
    let mut probes = Probes::new(!more.is_empty());
    ensure_once_through(&mut this, &mut probes, "blue").await?;
    let plan = expect(&this, &["plan"], 0)?.stdout;
    ensure!(plan.contains("ENABLE [ALWAYS | REPLICA] TRIGGER"), "{plan}");
    for (command, serves) in [(&GO[..], "green"), (&BACK[..], "blue"), (&GO[..], "green")] {
        let finished = expect(&this, command, 0)?;
        ensure_once_through(&mut this, &mut probes, serves).await.with_context(|| {
            format!("{command:?}: {}{}", finished.stdout, this.sidecar.log_tail())
        })?;
    }
    this.ledger.stop()?;
    this.ledger.check(&this.stage.green.url(DATABASE)).await?.ensure_unnoticed()?;
    expect(&this, &["finish", "--yes"], 0)?;
    assert_eq!(this.stage.green.value(DATABASE, STATES).await?, ON);
    this.stage.blue.execute("postgres", "ALTER DATABASE shop ALLOW_CONNECTIONS true").await?;
    assert_eq!(this.stage.blue.value(DATABASE, STATES).await?, ON, "blue is given back as it was");
    Ok(())
}

async fn ensure_once_through(this: &mut Move, probes: &mut Probes, serves: &str) -> Result<()> {
    ensure_once(this, probes, serves).await.with_context(|| format!("{serves} serves"))
}

#[tokio::test(flavor = "multi_thread")]
async fn from_15_to_17_each_write_sets_them_off_once() -> Result<()> {
    forth_and_back_and_forth(15, 17, ABOVE).await
}

/// Where the clones of such a trigger are marked as internal, and a statement for the parent's reaches them.
#[tokio::test(flavor = "multi_thread")]
async fn from_13_to_14_each_write_sets_them_off_once() -> Result<()> {
    forth_and_back_and_forth(13, 14, ABOVE).await
}

#[tokio::test(flavor = "multi_thread")]
async fn from_11_to_18_each_write_sets_them_off_once() -> Result<()> {
    forth_and_back_and_forth(11, 18, "").await
}

/// A run that is killed at a moment, by itself, and the next life of the sidecar.
pub(super) async fn killed_at(this: &mut Move, point: &str, command: &[&str]) -> Result<Value> {
    let file = this.stage.path().join("failpoints").join(point);
    std::fs::write(&file, "kill")?;
    let log = this.stage.path().join("operator");
    let mut operator = this.stage.cutover_command()?.args(command).start(&log)?;
    let died = this.sidecar.wait(2 * SOON);
    died.with_context(|| format!("nobody came to {point}: {}", operator.log_tail()))?;
    operator.kill9()?;
    ensure!(!file.exists(), "nobody came to {point}");
    // Its watchdog has done by itself what clients wait for.
    this.more(20).await.with_context(|| format!("killed at {point}"))?;
    this.sidecar = sidecar(&this.stage)?;
    let (stage, sidecar) = (&this.stage, &mut this.sidecar);
    let ended = stage.wait_status(sidecar, "the end of the run", 2 * SOON, |status| {
        !status["cutover"]["report"].is_null()
    });
    let status = ended.await.with_context(|| point.to_owned())?;
    Ok(status["cutover"]["report"].clone())
}

pub(super) async fn with_points() -> Result<Move> {
    let (stage, ledger) = set(Stage::builder(14, 16), FIRING).await?;
    std::fs::create_dir(stage.path().join("failpoints"))?;
    let sidecar = sidecar(&stage)?;
    let mut this = Move { stage, sidecar, ledger };
    this.wait_streaming().await?;
    Ok(this)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_the_decision_greens_stay_off() -> Result<()> {
    let mut this = with_points().await?;
    let mut probes = Probes::new(false);
    for point in ["act.sync_sequences.after", "act.seal.after", "act.decide.before"] {
        killed_at(&mut this, point, &GO).await?;
        ensure_once(&mut this, &mut probes, "blue").await.with_context(|| point.to_owned())?;
    }
    // One that fails and is put back by the process itself.
    std::fs::write(this.stage.path().join("failpoints/act.decide.before"), "error @once")?;
    let failed = this.stage.cutover(&GO, 2 * SOON)?;
    ensure!(failed.code() != 0, "{}", failed.stdout);
    ensure_once(&mut this, &mut probes, "blue").await.context("put back")?;
    expect(&this, &GO, 0)?;
    ensure_once(&mut this, &mut probes, "green").await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_around_the_flip_they_are_switched_once() -> Result<()> {
    switched_once_whenever_it_dies(["act.decide.after", "act.flip.before", "act.flip.after"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_around_the_turn_they_are_switched_once() -> Result<()> {
    let points = ["act.release.after", "act.turn_streams.before", "act.turn_streams.after"];
    switched_once_whenever_it_dies(points).await
}

/// Behind the decision, there and back.
async fn switched_once_whenever_it_dies(points: [&str; 3]) -> Result<()> {
    let mut this = with_points().await?;
    let mut probes = Probes::new(false);
    let mut serves = "blue";
    for point in points {
        for command in [&GO[..], &BACK[..]] {
            let report = killed_at(&mut this, point, command).await?;
            serves = other(serves);
            assert_eq!(report["serving"], serves, "{point}: {report}");
            ensure_once(&mut this, &mut probes, serves).await.with_context(|| {
                format!("{command:?} killed at {point}; {}", this.sidecar.log_tail())
            })?;
        }
    }
    this.ledger.stop()?;
    this.ledger.check(&this.stage.blue.url(DATABASE)).await?.ensure_exact()
}

/// Until a side has its triggers in these states.
pub(super) async fn wait_states(server: &Postgres, what: &str, states: &str) -> Result<()> {
    let waited = wait::until(what, SOON, || async {
        Ok((server.value(DATABASE, STATES).await? == states).then_some(()))
    });
    let waited = waited.await;
    let found = server.value(DATABASE, STATES).await?;
    waited.with_context(|| format!("they are {found}"))
}

/// A session that holds a lock which the flip needs. The stream writes nothing there meanwhile.
pub(super) async fn locked(server: &Postgres) -> Result<tokio_postgres::Client> {
    let session = server.connect(DATABASE).await?;
    session.batch_execute("BEGIN; LOCK TABLE probe_1 IN SHARE MODE").await?;
    Ok(session)
}

/// Nobody may work on green before it opens: who holds a lock there is ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_on_green_does_not_keep_the_flip_waiting() -> Result<()> {
    let mut this = Move::streaming_with(Stage::builder(15, 17), FIRING).await?;
    let holder = locked(&this.stage.green).await?;
    let finished = expect(&this, &GO, 0)?;
    ensure!(!finished.stdout.contains("NOT MADE"), "{}", finished.stdout);
    assert_eq!(this.stage.green.value(DATABASE, STATES).await?, ON, "{}", this.sidecar.log_tail());
    ensure!(holder.batch_execute("COMMIT").await.is_err(), "who held the lock was not ended");
    ensure_once(&mut this, &mut Probes::new(false), "green").await
}

/// Where clients may be at work already nobody is ended, and nobody waits: what can't be switched is named, and is
/// switched later.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_recovered_flip_can_not_switch_is_named_and_switched_later() -> Result<()> {
    let mut this = with_points().await?;
    let holder = locked(&this.stage.green).await?;
    let report = killed_at(&mut this, "act.decide.after", &GO).await?;
    assert_eq!(report["outcome"], "completed", "{report}");
    let states = this.stage.green.value(DATABASE, STATES).await?;
    assert_eq!(states, "never=D note=A rule=D see=D", "those whose table was not locked are on");
    this.more(50).await?;
    let log = this.sidecar.log_tail();
    wait_said(&mut this, "NOT MADE on green, and tried again", true).await.context(log)?;
    holder.batch_execute("COMMIT").await?;
    wait_states(&this.stage.green, "the rest to be switched", ON).await?;
    ensure_once(&mut this, &mut Probes::new(false), "green").await
}

/// What the plan says of triggers.
pub(super) fn told(this: &Move) -> Result<Vec<String>> {
    let planned = this.stage.api().post("/v1/plan", &serde_json::json!({}))?;
    ensure!(planned.status == 200, "{}: {}", planned.status, planned.body);
    let plan: Value = serde_json::from_str(&planned.body)?;
    let checks = plan["checks"].as_array().context("no checks")?;
    let of_triggers = checks.iter().filter(|check| {
        let text = check.to_string();
        check["severity"] == "fail" && (text.contains("trigger") || text.contains("rule"))
    });
    Ok(of_triggers.map(|check| format!("{} {}", check["evidence"], check["fix"])).collect())
}

/// Waits until the status says something, or does not say it any more.
pub(super) async fn wait_said(this: &mut Move, word: &str, is_said: bool) -> Result<()> {
    let Move { stage, sidecar, .. } = this;
    let doing = format!("{word:?}, said: {is_said}");
    let waited = stage
        .wait_status(sidecar, &doing, SOON, |status| status.to_string().contains(word) == is_said);
    waited.await.map(drop)
}

pub(super) const DOUBTED: &str = "fired for replicated changes";

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_enabled_while_changes_are_applied_is_off_again_and_told() -> Result<()> {
    let mut this = Move::streaming_with(Stage::builder(15, 17), FIRING).await?;
    assert_eq!(told(&this)?, Vec::<String>::new(), "what is off on purpose is no difference");
    let enable = "ALTER TABLE probe_1 ENABLE ALWAYS TRIGGER see, ENABLE REPLICA TRIGGER never";
    this.stage.green.execute(DATABASE, enable).await?;
    wait_states(&this.stage.green, "it to be off again", OFF).await?;
    wait_said(&mut this, DOUBTED, true).await?;
    let refused =
        this.stage.cutover(&["--when-lag", "<1s", "--yes", "--gate-timeout", "3s"], 2 * SOON)?;
    ensure!(refused.code() != 0, "{}", refused.stdout);
    // Nothing fired in fact, and a comparison shows it.
    expect(&this, &["verify"], 0)?;
    wait_said(&mut this, DOUBTED, false).await?;
    expect(&this, &GO, 0)?;
    assert_eq!(this.stage.green.value(DATABASE, STATES).await?, ON);
    ensure_once(&mut this, &mut Probes::new(false), "green").await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_blue_changes_green_gets_at_the_flip() -> Result<()> {
    let this = Move::streaming_with(Stage::builder(15, 17), FIRING).await?;
    this.stage
        .on_blue(
            "ALTER TABLE ledger.entries ENABLE TRIGGER note;
             ALTER TABLE probe_1 DISABLE TRIGGER never, ENABLE REPLICA TRIGGER see",
        )
        .await?;
    // Whether the watch has seen it or the fence does: never a flip without it.
    let finished = this.stage.cutover(&GO, 2 * SOON)?;
    if finished.code() != 0 {
        wait::until("the notes to follow", SOON, || async {
            Ok(told(&this)?.is_empty().then_some(()))
        })
        .await?;
        expect(&this, &GO, 0)?;
    }
    let changed = "never=D note=O rule=A see=R";
    assert_eq!(this.stage.green.value(DATABASE, STATES).await?, changed);
    expect(&this, &BACK, 0)?;
    assert_eq!(this.stage.blue.value(DATABASE, STATES).await?, changed);
    Ok(())
}

const BARRED: &str = "may not switch";
const HELD: &str = "could not be switched back";

/// A role that may do what a move takes, but is no superuser and owns nothing of this.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_not_switch_them_is_told_so_and_teardown_gives_them_back() -> Result<()> {
    let mut this = Move::streaming_with(Stage::builder(15, 17), FIRING).await?;
    let (stage, sidecar) = (&mut this.stage, &mut this.sidecar);
    sidecar.terminate()?;
    sidecar.wait(SOON)?;
    for server in [&stage.blue, &stage.green] {
        server
            .execute(
                DATABASE,
                "CREATE ROLE mover LOGIN REPLICATION;
                 GRANT pg_signal_backend, pg_read_all_stats, app TO mover;
                 GRANT SET ON PARAMETER session_replication_role TO mover;
                 CREATE ROLE stranger;
                 GRANT ALL ON DATABASE shop TO mover",
            )
            .await?;
    }
    // Whatever ours is, is his now; the table is a stranger's.
    stage
        .green
        .execute(
            DATABASE,
            "DO $$ DECLARE one regclass; BEGIN
               FOR one IN SELECT oid FROM pg_class
                          WHERE relnamespace = '_cutover'::regnamespace AND relkind = 'r' LOOP
                 EXECUTE format('ALTER TABLE %s OWNER TO mover', one);
               END LOOP; END $$;
             ALTER SCHEMA _cutover OWNER TO mover;
             ALTER TABLE probe_1 OWNER TO stranger; GRANT ALL ON probe_1 TO app",
        )
        .await?;
    let config = std::fs::read_to_string(stage.config_file())?;
    let [before, after] = config.split_once("[green]").map(<[&str; 2]>::from).context("green")?;
    let mover = stage.green.url_as("mover", DATABASE);
    let url = format!("url = {mover:?}\n\n[api]");
    let rest = after.split_once("[api]").context("api")?.1;
    std::fs::write(stage.config_file(), format!("{before}[green]\n{url}{rest}"))?;
    this.restart_sidecar()?;
    wait_said(&mut this, BARRED, true).await?;
    let refused =
        this.stage.cutover(&["--when-lag", "<1s", "--yes", "--gate-timeout", "3s"], 2 * SOON)?;
    ensure!(refused.code() != 0, "{}: {}", refused.code(), refused.stdout);
    this.stage.green.execute(DATABASE, "GRANT stranger TO mover").await?;
    wait_said(&mut this, BARRED, false).await?;

    this.sidecar.terminate()?;
    this.sidecar.wait(SOON)?;
    this.stage.green.execute(DATABASE, "REVOKE stranger FROM mover").await?;
    let teardown = this.stage.replicator_command("teardown")?.arg("--yes").run(SOON)?;
    ensure!(teardown.code() != 0 && teardown.stderr.contains(HELD), "{}", teardown.stderr);
    let kept = "SELECT count(*) > 0 FROM _cutover.trigger_states";
    assert_eq!(this.stage.green.value(DATABASE, kept).await?, "t", "{}", teardown.stderr);
    this.stage.green.execute(DATABASE, "GRANT stranger TO mover").await?;
    // Origins that a superuser made are not this role's to drop, and are not the matter here.
    let teardown = this.stage.replicator_command("teardown")?.arg("--yes").run(SOON)?;
    ensure!(!teardown.stderr.contains(HELD), "{}", teardown.stderr);
    assert_eq!(this.stage.green.value(DATABASE, STATES).await?, ON);
    Ok(())
}
