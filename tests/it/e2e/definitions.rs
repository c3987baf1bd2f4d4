//! Definitions, rights, settings and logins: what differs is named before the flip, and each statement
//! that is offered ends the difference.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::stage::{DATABASE, Stage};

use super::{Move, SOON, set};

const TABLES: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'ok');
    CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE FUNCTION price(n int) RETURNS int LANGUAGE sql AS 'SELECT n * 2';
    CREATE TABLE items (id int PRIMARY KEY, n int, code varchar(9) DEFAULT 'x', m mood);
    CREATE TABLE days (id int GENERATED ALWAYS AS IDENTITY, day int, note varchar(9) DEFAULT 'none')
        PARTITION BY RANGE (day);
    CREATE TABLE days_1 PARTITION OF days FOR VALUES FROM (1) TO (9);
    ALTER TABLE days_1 ALTER note DROP DEFAULT;
    ALTER TABLE days_1 ADD PRIMARY KEY (id);
    CREATE VIEW offers AS SELECT i.id, i.n FROM items i WHERE i.n > 0;
    CREATE MATERIALIZED VIEW totals AS SELECT count(*) AS n FROM items;
    GRANT SELECT, UPDATE (n) ON items TO staff;
    GRANT INSERT ON items TO staff WITH GRANT OPTION;
    GRANT USAGE ON SCHEMA public TO staff;
    ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO staff;
    COMMENT ON TABLE items IS 'what is for sale';
    REVOKE TEMPORARY ON DATABASE shop FROM PUBLIC;
    COMMENT ON DATABASE shop IS 'blue''s own words';
    ALTER DATABASE shop SET app.tenant = 'it''s';
    ALTER ROLE alice IN DATABASE shop SET search_path = \"$user\", public;
    CREATE PUBLICATION items FOR TABLE items WITH (publish = 'insert');
    CREATE PUBLICATION everything FOR ALL TABLES;
    CREATE EXTENSION pg_trgm;
    CREATE POLICY mine ON items USING (id > 0);
    CREATE DOMAIN price_of AS numeric(10, 2) DEFAULT 1;
    CREATE RULE quiet AS ON DELETE TO offers DO INSTEAD NOTHING;
";

const ROLES: &str = "
    CREATE ROLE staff;
    CREATE ROLE alice LOGIN CONNECTION LIMIT 50 VALID UNTIL '2099-01-01' IN ROLE staff;
    GRANT CONNECT ON DATABASE shop TO alice;
";

/// On blue, behind the stream's back.
const DEPLOY: &str = "
    CREATE OR REPLACE FUNCTION price(n int) RETURNS int LANGUAGE sql AS 'SELECT n * 3';
    CREATE FUNCTION fresh() RETURNS int LANGUAGE sql AS 'SELECT 1';
    CREATE OR REPLACE VIEW offers AS SELECT i.id, i.n FROM items i WHERE i.n > 5;
    CREATE VIEW cheap AS SELECT id FROM items WHERE n < 3;
    CREATE INDEX items_n ON items (n);
    CREATE UNIQUE INDEX items_code ON items (code, id);
    ALTER TABLE items ADD CONSTRAINT positive CHECK (n > 0), ALTER code SET NOT NULL,
        ALTER code SET DEFAULT 'y', ENABLE ROW LEVEL SECURITY;
    CREATE TRIGGER acts BEFORE INSERT ON items FOR EACH ROW EXECUTE PROCEDURE act();
    ALTER TYPE mood RENAME VALUE 'ok' TO 'fine';
    GRANT UPDATE ON days TO staff;
    GRANT TEMPORARY ON DATABASE shop TO alice;
    ALTER DEFAULT PRIVILEGES GRANT INSERT ON TABLES TO staff;
    CREATE PUBLICATION realtime FOR TABLE items;
    ALTER DATABASE shop SET search_path = \"$user\", public, pg_temp;
    ALTER DATABASE shop SET statement_timeout = '1h';
    ALTER ROLE alice IN DATABASE shop SET timezone = 'Asia/Tokyo';
    ALTER ROLE alice CREATEDB PASSWORD 'not shown anywhere';
    COMMENT ON TABLE items IS 'what''s for sale';
    ALTER POLICY mine ON items USING (id > 5);
    ALTER DOMAIN price_of SET DEFAULT 9;
    ALTER TABLE items OWNER TO staff;
    ALTER TABLE items SET (fillfactor = 70), REPLICA IDENTITY FULL,
        ALTER code SET STATISTICS 500, ALTER code SET STORAGE EXTERNAL;
    COMMENT ON DATABASE shop IS 'the shop';
";

/// On green.
const LOST: &str = "
    REVOKE staff FROM alice;
    REFRESH MATERIALIZED VIEW totals WITH NO DATA;
    ALTER ROLE alice NOLOGIN;
    DROP EXTENSION pg_trgm; CREATE EXTENSION pg_trgm VERSION '1.3';
";

/// The check's name, how bad it is, and what its evidence has in it.
const EXPECTED: [(&str, &str, &str); 33] = [
    ("definitions", "warn", "comment on table public.items: hash of its text"),
    ("definitions", "fail", "policy public.items.mine: condition: another on green than on blue"),
    ("definitions", "fail", "domain public.price_of: default: another on green than on blue"),
    ("definitions", "warn", "extension pg_trgm: version: the server's own on blue, 1.3 on green"),
    ("definitions", "warn", "table public.items: replica identity: FULL on blue, DEFAULT on green"),
    ("definitions", "warn", "table public.items: storage parameters: fillfactor=70 on blue"),
    ("definitions", "warn", "items.code: storage: STORAGE EXTERNAL, STATISTICS 500 on blue"),
    ("definitions", "fail", "function public.price(n integer): hash of its body"),
    ("definitions", "fail", "function public.fresh(): green does not have it"),
    ("definitions", "fail", "view public.offers: definition"),
    ("definitions", "fail", "view public.cheap: green does not have it"),
    ("definitions", "warn", "index public.items_n: green does not have it"),
    ("definitions", "fail", "index public.items_code: green does not have it"),
    ("definitions", "fail", "positive: green does not have it"),
    ("definitions", "fail", "code: not null: yes on blue, no on green"),
    ("definitions", "fail", "code: expression: 'y'"),
    ("definitions", "fail", "row security public.items: green does not have it"),
    ("definitions", "fail", "acts: green does not have it"),
    ("definitions", "fail", "mood: labels"),
    ("definitions", "fail", "view public.totals: populated: yes on blue, no on green"),
    ("definitions", "warn", "publication realtime: green does not have it"),
    ("definitions", "warn", "comment of database shop"),
    ("rights", "fail", "owner table public.items: owner: staff on blue"),
    ("rights", "fail", "database privilege of alice: CONNECT, TEMPORARY on blue, CONNECT on green"),
    ("rights", "fail", "default privilege of "),
    ("settings", "fail", "database setting search_path: "),
    ("settings", "fail", "database setting statement_timeout: '1h' on blue"),
    ("settings", "fail", "role setting alice in this database: timezone"),
    ("logins", "fail", "membership of alice in staff: green does not have it"),
    ("logins", "fail", "role alice: can log in: yes on blue, no on green"),
    ("logins", "fail", "role alice: CREATEDB on blue, not on green"),
    ("rights", "fail", "grant on table public.days to staff: green does not have it"),
    ("logins", "fail", "password of alice: green has none"),
];

pub(super) fn checks(this: &Move, request: &Value) -> Result<Vec<Value>> {
    let planned = this.stage.api().post("/v1/plan", request)?;
    ensure!(planned.status == 200, "{}: {}", planned.status, planned.body);
    let plan: Value = serde_json::from_str(&planned.body)?;
    Ok(plan["checks"].as_array().context("no checks")?.clone())
}

pub(super) fn is_ours(check: &Value) -> bool {
    ["definitions", "rights", "settings", "logins"].iter().any(|name| check["name"] == *name)
}

/// What the comparison says, but for what is as it should be.
pub(super) fn told(checks: &[Value]) -> Vec<&Value> {
    checks.iter().filter(|check| is_ours(check) && check["severity"] != "ok").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_a_schema_public_is_compared_like_any() -> Result<()> {
    let (stage, ledger) = set(Stage::builder(15, 17).routers(0), "SELECT").await?;
    for side in [&stage.blue, &stage.green] {
        side.execute(DATABASE, "ALTER SCHEMA public RENAME TO elsewhere").await?;
    }
    stage.green.execute(DATABASE, "DROP SCHEMA elsewhere").await?;
    let sidecar = stage.replicator()?;
    let mut this = Move { stage, sidecar, ledger };
    this.wait_streaming().await?;
    let checks = checks(&this, &json!({}))?;
    // It was compared: a right that went with the old name is among what is told.
    let is_told = |check: &Value| check["evidence"].as_str().unwrap_or("").contains("elsewhere");
    ensure!(checks.iter().any(|check| is_ours(check) && is_told(check)), "{checks:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_while_the_stream_runs_is_named_and_what_is_offered_mends_it() -> Result<()> {
    let builder = Stage::builder(13, 17).routers(0);
    let (stage, ledger) = set(builder, "SELECT").await?;
    for side in [&stage.blue, &stage.green] {
        side.execute(DATABASE, ROLES).await?;
    }
    stage.blue.execute(DATABASE, TABLES).await?;
    let sidecar = stage.replicator()?;
    let mut this = Move { stage, sidecar, ledger };
    this.wait_streaming().await?;

    // A pair that nobody has touched: not a word.
    let began = std::time::Instant::now();
    let before = checks(&this, &json!({}))?;
    eprintln!("a plan takes {:?}", began.elapsed());
    ensure!(told(&before).is_empty(), "{:#?}", told(&before));
    ensure!(before.iter().any(is_ours), "nothing was compared: {before:#?}");

    this.stage.blue.execute(DATABASE, DEPLOY).await?;
    this.stage.green.execute(DATABASE, LOST).await?;
    let after = checks(&this, &json!({}))?;
    for (name, severity, evidence) in EXPECTED {
        let is_it = |check: &Value| {
            check["name"] == name
                && check["severity"] == severity
                && check["evidence"]
                    .as_str()
                    .is_some_and(|text| text.replace('"', "").contains(evidence))
        };
        ensure!(after.iter().any(is_it), "{name} {severity} {evidence}: {:#?}", told(&after));
    }
    let whole = serde_json::to_string(&after)?;
    ensure!(!whole.contains("not shown anywhere") && !whole.contains("SCRAM-"), "{whole}");

    // A script that looks at no plan is refused by the run itself, before a client is held.
    let request = json!({ "when_lag": "<1s", "confirmation": "--yes", "no_way_back": true });
    let started = this.stage.api().post("/v1/cutover", &request)?;
    ensure!(started.status == 202, "{}: {}", started.status, started.body);
    let status = this
        .stage
        .wait_status(&mut this.sidecar, "the run to be over", 2 * SOON, |status| {
            status["cutover"]["report"].is_object()
        })
        .await?;
    let report = &status["cutover"]["report"];
    assert_eq!(report["outcome"], "precheck_failed", "{report}");
    assert!(report["pause_ms"].is_null(), "{report}");

    // What is accepted by name is told with its reason, and nothing else is accepted.
    let accepts = json!([{ "object": "type *", "reason": "nobody writes it" }]);
    let accepted = checks(&this, &json!({ "accepts": accepts }))?;
    let reasons: Vec<_> = told(&accepted)
        .into_iter()
        .filter(|check| {
            check["evidence"].as_str().unwrap_or("").ends_with("accepted: nobody writes it")
        })
        .collect();
    ensure!(reasons.len() == 1 && reasons[0]["severity"] == "warn", "{accepted:#?}");

    // Each statement is what it says.
    let client = this.stage.green.connect(DATABASE).await?;
    for check in told(&after) {
        let fix = check["fix"].as_str().unwrap_or_default();
        let fix = fix.split("; to go all the same").next().unwrap_or_default();
        if let Some(sql) = fix.strip_prefix("on green: ") {
            client.batch_execute(sql).await.with_context(|| sql.to_owned())?;
        }
    }
    // Without a statement: labels of an enum, a policy's condition, a domain's default, and what belongs to the role that initdb made.
    let by_hand = "ALTER TYPE mood RENAME VALUE 'ok' TO 'fine'; \
                   ALTER POLICY mine ON items USING (id > 5); ALTER DOMAIN price_of SET DEFAULT 9; \
                   ALTER DEFAULT PRIVILEGES GRANT INSERT ON TABLES TO staff";
    client.batch_execute(by_hand).await?;
    let verifier = "SELECT rolpassword FROM pg_authid WHERE rolname = 'alice'";
    let row = this.stage.blue.connect(DATABASE).await?.query_one(verifier, &[]).await?;
    let verifier: String = row.try_get(0)?;
    client.batch_execute(&format!("ALTER ROLE alice PASSWORD '{verifier}'")).await?;
    let mended = checks(&this, &json!({}))?;
    ensure!(told(&mended).is_empty(), "{:#?}", told(&mended));
    this.more(20).await?;
    this.ensure_exact_copy().await?;
    Ok(())
}
