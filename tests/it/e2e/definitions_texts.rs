//! Texts that versions write in many ways, what stands beside tables, and a filter: a difference is named, and what was
//! only written in another way is none.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::stage::{DATABASE, Stage};

use super::definitions::{checks, is_ours, told};
use super::{Move, set};

const TABLES: &str = "
    CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE TABLE items (id int PRIMARY KEY, code varchar(9), n int, at date DEFAULT current_date - 1,
        CONSTRAINT kind CHECK (code IN ('a', 'b', 'c') OR code LIKE 'x%'),
        CONSTRAINT few CHECK (n BETWEEN 1 AND 9));
    CREATE UNIQUE INDEX once ON items (lower(code), (n + 1)) WHERE code IN ('a', 'b');
    CREATE TRIGGER acts AFTER UPDATE ON items FOR EACH ROW
        WHEN (OLD.code IN ('a', 'b') AND NEW.n > 1) EXECUTE PROCEDURE act('first', 'second');
    CREATE FUNCTION priced(n int, rate numeric DEFAULT 1 + 2, k text DEFAULT 'a' || 'b') RETURNS numeric
        LANGUAGE sql AS 'SELECT n * rate';
    CREATE FUNCTION counted() RETURNS bigint LANGUAGE sql
        BEGIN ATOMIC SELECT count(*) FROM items WHERE code IN ('a', 'b'); END;
    CREATE PROCEDURE nothing(n int DEFAULT 2 + 3) LANGUAGE sql AS 'SELECT 1 -- RETURNS';
    CREATE DOMAIN grade AS numeric(4, 2) CONSTRAINT high CHECK (VALUE > 1 AND VALUE IN (2, 3));
    CREATE VIEW offers AS SELECT id, code FROM items;
    CREATE TRIGGER offered INSTEAD OF INSERT ON offers FOR EACH ROW EXECUTE PROCEDURE act();
    CREATE RULE quiet AS ON DELETE TO offers WHERE OLD.code IN ('a', 'b') DO INSTEAD NOTHING;
    CREATE SEQUENCE numbers START 5;
    CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
    CREATE TABLE days (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
    CREATE TABLE days_1 PARTITION OF days FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
    CREATE TABLE days_2 PARTITION OF days FOR VALUES FROM ('2026-03-01') TO (MAXVALUE);
    CREATE TABLE audit (id serial PRIMARY KEY, what text);
    CREATE POLICY mine ON items USING (code IN ('a', 'b'));
";

/// On blue, behind the stream's back: of tables that move, and of what stands beside them.
const DEPLOY: &str = "
    ALTER TABLE items DROP CONSTRAINT few, ADD CONSTRAINT few CHECK (n BETWEEN 1 AND 99),
        ALTER at SET DEFAULT current_date - 2;
    DROP INDEX once;
    CREATE UNIQUE INDEX once ON items (lower(code), (n + 2)) WHERE code IN ('a', 'b', 'c');
    DROP TRIGGER acts ON items;
    CREATE TRIGGER acts AFTER UPDATE ON items FOR EACH ROW
        WHEN (OLD.code IN ('a', 'b') AND NEW.n > 2) EXECUTE PROCEDURE act('first', 'third');
    DROP FUNCTION priced(int, numeric, text);
    CREATE FUNCTION priced(n int, rate numeric DEFAULT 2 + 2, k text DEFAULT 'a' || 'b') RETURNS numeric
        LANGUAGE sql AS 'SELECT n * rate';
    CREATE OR REPLACE FUNCTION counted() RETURNS bigint LANGUAGE sql
        BEGIN ATOMIC SELECT count(*) FROM items WHERE code IN ('a', 'c'); END;
    CREATE OR REPLACE PROCEDURE nothing(n int DEFAULT 2 + 4) LANGUAGE sql AS 'SELECT 1 -- RETURNS';
    ALTER DOMAIN grade DROP CONSTRAINT high;
    ALTER DOMAIN grade ADD CONSTRAINT high CHECK (VALUE > 1 AND VALUE IN (2, 4));
    DROP TRIGGER offered ON offers;
    ALTER POLICY mine ON items USING (code IN ('a', 'd'));
    CREATE OR REPLACE RULE quiet AS ON DELETE TO offers WHERE OLD.code IN ('a', 'c') DO INSTEAD NOTHING;
    ALTER SEQUENCE numbers START WITH 7 CACHE 3;
    DROP AGGREGATE total(int);
    CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int, INITCOND = '1');
    REVOKE EXECUTE ON FUNCTION pg_sleep(double precision) FROM PUBLIC;
    GRANT SELECT ON items TO PUBLIC;
";

/// The same of a table that does not move.
const BESIDE: &str = "
    ALTER TABLE audit ENABLE ROW LEVEL SECURITY;
    CREATE POLICY theirs ON audit USING (true);
    CREATE RULE quiet AS ON DELETE TO audit DO INSTEAD NOTHING;
    CREATE TRIGGER audited AFTER INSERT ON audit FOR EACH ROW EXECUTE PROCEDURE act();
    GRANT SELECT (what), INSERT ON audit TO PUBLIC;
    COMMENT ON TABLE audit IS 'stays'; COMMENT ON COLUMN audit.what IS 'stays, too';
";

/// What fails, and how the evidence begins.
const EXPECTED: [&str; 19] = [
    "constraint public.items.few: condition: another on green than on blue",
    "column public.items.at: expression: another on green than on blue",
    "index public.once: predicate: another on green than on blue",
    "index public.once: expressions: another on green than on blue",
    "trigger public.items.acts: condition: another on green than on blue",
    "trigger public.items.acts: hash of its arguments: ",
    "function public.priced(n integer, rate numeric, k text): defaults and body: another",
    "function public.counted(): defaults and body: another",
    "function public.nothing(n integer): defaults and body: another",
    "domain public.grade: definitions: another on green than on blue",
    "trigger public.offers.offered: blue does not have it",
    "policy public.items.mine: condition: another on green than on blue",
    "rule public.offers.quiet: definition: another on green than on blue",
    "sequence public.numbers: start: 7 on blue, 5 on green",
    "sequence public.numbers: cached values: 3 on blue, 1 on green",
    "function public.total(integer): aggregate: sfunc int4pl, stype integer, initcond 1 on blue",
    "grant on table public.items to PUBLIC: green does not have it",
    "table public.days_1: partition of: public.days FOR VALUES FROM (2026-01-01) TO (2026-02-01) on blue",
    "table public.days_2: partition of: public.days FOR VALUES FROM (2026-03-01) TO (MAXVALUE) on blue",
];

#[tokio::test(flavor = "multi_thread")]
async fn what_texts_say_is_compared_between_versions_and_beside_a_filter() -> Result<()> {
    let builder = Stage::builder(14, 18).routers(0);
    let builder = builder.config("[tables]\nexclude = [\"public.audit\"]");
    let (stage, ledger) = set(builder, "SELECT").await?;
    stage.blue.execute(DATABASE, TABLES).await?;
    let sidecar = stage.replicator()?;
    let mut this = Move { stage, sidecar, ledger };
    this.wait_streaming().await?;
    let before = checks(&this, &json!({}))?;
    ensure!(told(&before).is_empty(), "{:#?}", told(&before));
    ensure!(before.iter().any(is_ours), "nothing was compared: {before:#?}");

    this.stage.blue.execute(DATABASE, BESIDE).await?;
    let beside = checks(&this, &json!({}))?;
    ensure!(told(&beside).is_empty(), "{:#?}", told(&beside));

    this.stage.blue.execute(DATABASE, DEPLOY).await?;
    // What the watch of the tables does not see: rows of the other month are refused there.
    let moved = "ALTER TABLE days DETACH PARTITION days_1; ALTER TABLE days DETACH PARTITION days_2; \
         ALTER TABLE days ATTACH PARTITION days_1 FOR VALUES FROM ('2025-01-01') TO ('2026-02-01'); \
         ALTER TABLE days ATTACH PARTITION days_2 FOR VALUES FROM ('2026-04-01') TO (MAXVALUE)";
    let client = this.stage.green.connect(DATABASE).await?;
    client.batch_execute(moved).await?;
    let after = checks(&this, &json!({}))?;
    for evidence in EXPECTED {
        let is_it = |check: &&serde_json::Value| {
            let text = check["evidence"].as_str().unwrap_or_default();
            text.replace(['"', '\''], "").contains(evidence)
        };
        let found = after.iter().find(is_it);
        let found = found.with_context(|| format!("{evidence}: {:#?}", told(&after)))?;
        assert_eq!(found["severity"], "fail", "{found}");
    }

    let revoked =
        "changed privilege on function \"pg_catalog\".\"pg_sleep\"(double precision) of PUBLIC";
    ensure!(serde_json::to_string(&after)?.contains(&revoked.replace('"', "\\\"")), "{after:#?}");

    for check in told(&after) {
        let fix = check["fix"].as_str().unwrap_or_default();
        let fix = fix.split("; to go all the same").next().unwrap_or_default();
        if let Some(sql) = fix.strip_prefix("on green: ") {
            client.batch_execute(sql).await.with_context(|| sql.to_owned())?;
        }
    }
    let by_hand = "ALTER DOMAIN grade DROP CONSTRAINT high; \
         ALTER DOMAIN grade ADD CONSTRAINT high CHECK (VALUE > 1 AND VALUE IN (2, 4)); \
         ALTER POLICY mine ON items USING (code IN ('a', 'd')); DROP AGGREGATE total(int); \
         CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int, INITCOND = '1')";
    client.batch_execute(by_hand).await?;
    let mended = checks(&this, &json!({}))?;
    ensure!(told(&mended).is_empty(), "{:#?}", told(&mended));
    this.more(20).await
}
