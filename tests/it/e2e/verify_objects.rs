//! What is no row: damage to definitions is found between major versions, too.

use anyhow::Result;
use serde_json::Value;
use tests::stage::{DATABASE, Stage};

use super::verify::{ensure_equal, verify};
use super::{Move, SOON};

const TABLES: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'ok');
    CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE TABLE parent (id int PRIMARY KEY, other int NOT NULL UNIQUE, a int DEFAULT 5,
                         b text NOT NULL, c int, m mood);
    CREATE INDEX parent_i ON parent (a DESC, lower(b)) WHERE c > 0;
    CREATE INDEX parent_b ON parent (b text_pattern_ops);
    CREATE INDEX parent_default ON parent (b);
    CREATE TABLE child (id int PRIMARY KEY, p int, q int CHECK (q > 0),
        CONSTRAINT f FOREIGN KEY (p) REFERENCES parent (id) ON DELETE CASCADE);
    CREATE TRIGGER lost BEFORE INSERT ON parent FOR EACH ROW EXECUTE PROCEDURE act();
    CREATE TRIGGER off BEFORE INSERT ON parent FOR EACH ROW EXECUTE PROCEDURE act();
    CREATE TRIGGER moved BEFORE INSERT ON parent FOR EACH ROW EXECUTE PROCEDURE act();
    CREATE TABLE gone (id int PRIMARY KEY);
    CREATE SEQUENCE steps;
    CREATE DOMAIN price AS numeric CHECK (VALUE > 0);
    CREATE VIEW seen AS SELECT p.id, p.b FROM parent p JOIN child c ON c.p = p.id WHERE p.c > 0;
    CREATE VIEW unseen AS SELECT id FROM parent;
    CREATE MATERIALIZED VIEW kept AS SELECT count(*) FROM parent;
    CREATE FUNCTION twice(n int, m numeric DEFAULT 1) RETURNS int LANGUAGE sql IMMUTABLE AS
        $$ SELECT n * 2 $$;
    CREATE AGGREGATE total(int) (sfunc = int4pl, stype = int, initcond = '0');
    ALTER TABLE parent ENABLE ROW LEVEL SECURITY;
    CREATE POLICY visible ON parent FOR SELECT USING (c > 0);
    CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
    CREATE TABLE sorted (id int PRIMARY KEY, v text COLLATE loose);
    CREATE INDEX sorted_v ON sorted (v);
";

const DAMAGE: &str = "
    DROP VIEW unseen; DROP VIEW seen;
    DROP POLICY visible ON parent; CREATE POLICY visible ON parent FOR ALL USING (id > 0);
    DROP TRIGGER lost ON parent;
    ALTER TABLE parent DISABLE TRIGGER off;
    DROP TRIGGER moved ON parent;
    CREATE TRIGGER moved AFTER INSERT ON parent FOR EACH ROW EXECUTE PROCEDURE act();
    DROP INDEX parent_i; CREATE INDEX parent_i ON parent (c DESC, lower(b)) WHERE c > 0;
    DROP INDEX parent_b; CREATE INDEX parent_b ON parent (b);
    ALTER TABLE child DROP CONSTRAINT f, ADD CONSTRAINT f FOREIGN KEY (q) REFERENCES parent (other)
        NOT VALID;
    ALTER TABLE child DROP CONSTRAINT child_q_check,
        ADD CONSTRAINT child_q_check CHECK (p > 0);
    ALTER TABLE parent ALTER a SET DEFAULT 6, ALTER b DROP NOT NULL, ALTER c TYPE bigint;
    UPDATE pg_enum SET enumlabel = 'fine' WHERE enumlabel = 'ok';
    ALTER SEQUENCE steps INCREMENT 2;
    CREATE TABLE more (id int PRIMARY KEY);
    DROP TABLE gone;
    CREATE VIEW seen AS SELECT id FROM parent;
    CREATE OR REPLACE FUNCTION twice(n int, m numeric DEFAULT 1) RETURNS int LANGUAGE sql IMMUTABLE AS
        $$ SELECT n * 3 $$;
    ALTER TABLE parent FORCE ROW LEVEL SECURITY;
    ALTER DOMAIN price DROP CONSTRAINT price_check;
    UPDATE pg_collation SET collversion = '1' WHERE collname = 'loose';
";

/// Kind, object, and how the finding begins; each is a failure.
const EXPECTED: [(&str, &str, &str); 22] = [
    ("trigger", "lost", "green does not have it"),
    ("trigger", "off", "fires: Origin on blue, Disabled"),
    ("trigger", "moved", "acts: before insert on blue, after insert on green"),
    ("index", "parent_i", "columns: \"a\" desc nulls first, an expression"),
    ("index", "parent_b", "columns: \"b\" text_pattern_ops on blue, \"b\" on green"),
    ("constraint", ".f", "columns: \"p\" on blue, \"q\" on green"),
    ("constraint", ".f", "on delete: cascade on blue, no action on green"),
    ("constraint", ".f", "valid: yes on blue, no on green"),
    ("constraint", "child_q_check", "columns: \"q\" on blue, \"p\" on green"),
    ("column", "parent\".a", "expression: 5 on blue, 6 on green"),
    ("column", "parent\".b", "not null: yes on blue, no on green"),
    ("column", "parent\".c", "type: integer on blue, bigint on green"),
    ("sequence", "steps", "increment: 1 on blue, 2 on green"),
    ("table", "more", "blue does not have it"),
    ("table", "gone", "green does not have it"),
    ("collation", "loose", "version 1 is recorded on green"),
    ("view", "unseen", "green does not have it"),
    ("view", "seen", "columns: "),
    ("function", "twice(n integer, m numeric)", "hash of its body: "),
    ("policy", "parent.visible", "command: select on blue, all on green"),
    ("row security", "parent", "forced on the owner: no on blue, yes on green"),
    ("domain", "price", "constraints: "),
];

fn found<'a>(report: &'a Value, severity: &str) -> Vec<[&'a str; 3]> {
    let all = report["objects"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of_it = all.iter().filter(|found| found["severity"] == severity);
    of_it.map(|one| ["kind", "object", "what"].map(|key| one[key].as_str().unwrap_or(""))).collect()
}

async fn damage_is_found(blue: u32, green: u32) -> Result<()> {
    let this = Move::streaming_with(Stage::builder(blue, green).routers(0), TABLES).await?;
    let stage = &this.stage;
    stage.wait_caught_up(SOON).await?;
    ensure_equal(verify(stage, &["--mode", "checksum"])?)?;
    stage.green.execute(DATABASE, DAMAGE).await?;
    for mode in ["full", "checksum"] {
        let (code, report) = verify(stage, &["--mode", mode])?;
        let fails = found(&report, "fail");
        for (kind, object, what) in EXPECTED {
            let is_it = |one: &[&str; 3]| {
                let name = one[1].replace("\".\"", "\".").replace('"', "");
                one[0] == kind
                    && name.contains(&object.replace('"', ""))
                    && one[2].starts_with(what)
            };
            assert!(
                fails.iter().any(is_it),
                "{mode}: {kind} {object} {what}: exit code {code}: {report:#}"
            );
        }
        let mood = fails.iter().any(|one| one[0] == "type" && one[1].contains("mood"));
        assert!(mood, "{fails:#?}");
        assert_eq!((code, &report["verdict"]), (9, &"different".into()), "{report:#}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_that_differ_are_found_from_15_to_17() -> Result<()> {
    damage_is_found(15, 17).await
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_that_differ_are_found_from_12_to_18() -> Result<()> {
    damage_is_found(12, 18).await
}
