//! Chosen tables, and chosen rows of them.

use anyhow::Result;
use serde_json::{Value, json};
use tests::stage::{DATABASE, Stage};

use super::verify::{ensure_equal, rows, verify};
use super::{Move, SOON};

const TABLES: &str = "
    CREATE TABLE orders (id int PRIMARY KEY, state text, v int);
    INSERT INTO orders SELECT n, CASE WHEN n % 2 = 0 THEN 'it''s (' ELSE 'open' END, n
        FROM generate_series(1, 2000) n;
    CREATE TABLE log (n int, what text);
    ALTER TABLE log REPLICA IDENTITY FULL;
    INSERT INTO log SELECT n, 'w' || n FROM generate_series(1, 500) n;
    CREATE TABLE other (id int PRIMARY KEY);
    INSERT INTO other SELECT generate_series(1, 10)";

const DAMAGE: &str = "
    UPDATE orders SET v = 0 WHERE id = 500;
    UPDATE orders SET v = 0 WHERE id = 1500;
    DELETE FROM orders WHERE id = 1501;
    DELETE FROM log WHERE n IN (100, 400)";

fn table<'a>(report: &'a Value, name: &str) -> &'a Value {
    let tables = report["tables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found =
        tables.iter().find(|table| table["table"].as_str().is_some_and(|t| t.contains(name)));
    found.unwrap_or(&Value::Null)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_holds_on_both_sides_and_is_told() -> Result<()> {
    let this = Move::streaming_with(Stage::builder(15, 17).routers(0), TABLES).await?;
    let stage = &this.stage;
    stage.wait_caught_up(SOON).await?;
    stage.green.execute(DATABASE, DAMAGE).await?;
    let both = ["--where", "orders: id > 1000", "--where", "public.log: n < 200 AND what <> ''"];
    for mode in ["checksum", "full"] {
        let mut arguments = vec!["--mode", mode, "--chunk-rows", "100"];
        arguments.extend(both);
        let (code, report) = verify(stage, &arguments)?;
        let expected = [
            r#""public"."log" missing 1/0 []"#,
            r#""public"."orders" different id=1500 [v]"#,
            r#""public"."orders" missing id=1501 []"#,
        ];
        assert_eq!((code, rows(&report)), (9, expected.map(str::to_owned).to_vec()), "{report:#}");
        assert_eq!(table(&report, "orders")["rows"], 1000);
        assert_eq!(table(&report, "orders")["predicate"], "id > 1000");
        assert_eq!(table(&report, "log")["rows"], 199);
        // The others are compared whole.
        assert_eq!(table(&report, "other")["rows"], 10);
        assert!(table(&report, "other")["predicate"].is_null());
    }
    // A row that left the condition on one side only.
    let moved = "UPDATE orders SET state = 'gone' WHERE id = 501";
    stage.green.execute(DATABASE, moved).await?;
    let arguments = ["--table", "orders", "--where", "orders: state = 'open' AND id < 1000"];
    let (code, report) = verify(stage, &arguments)?;
    let expected = r#""public"."orders" different id=501 [state]"#;
    assert_eq!((code, rows(&report)), (9, vec![expected.to_owned()]), "{report:#}");
    // Where nothing was damaged nothing is found: quotes and parentheses are the condition's own.
    let arguments =
        ["--table", "orders", "--where", "orders: (state = 'it''s (' AND \"id\" < 400)"];
    let report = ensure_equal(verify(stage, &arguments)?)?;
    assert_eq!(report["rows"], 199);
    Ok(())
}

/// Only a look at everything is remembered as a proof.
#[tokio::test(flavor = "multi_thread")]
async fn a_part_is_no_proof_for_a_cutover() -> Result<()> {
    let this = Move::streaming_with(Stage::builder(15, 17).routers(0), TABLES).await?;
    let stage = &this.stage;
    let known = stage.path().join("state").join("verify.json");
    for part in [["--where", "orders: id > 0"], ["--table", "orders"]] {
        ensure_equal(verify(stage, &part)?)?;
        assert!(!known.exists(), "{part:?} counts as a proof");
    }
    ensure_equal(verify(stage, &[])?)?;
    assert!(known.exists());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_condition_is_refused() -> Result<()> {
    let this = Move::streaming_with(Stage::builder(15, 17).routers(0), TABLES).await?;
    let api = this.stage.api();
    let ask = |table: &str, condition: &str| {
        let predicate = json!({ "table": table, "condition": condition });
        api.post("/v1/verify", &json!({ "predicates": [predicate] }))
    };
    for escape in [
        "true); DROP TABLE orders; SELECT (true",
        "true) OR (true",
        "true --",
        "1 = 1, 2",
        "set_config('default_transaction_read_only', 'off', false) = 'off'",
        "(SELECT rolpassword FROM pg_authid LIMIT 1)::int = 1",
    ] {
        let answer = ask("orders", escape)?;
        assert_eq!(answer.status, 400, "{escape}: {}", answer.body);
    }
    for (table, wrong) in
        [("orders", "nosuch > 1"), ("orders", "v"), ("orders", "state = 1"), ("nosuch", "true")]
    {
        let answer = ask(table, wrong)?;
        assert_eq!(answer.status, 202, "{wrong}: {}", answer.body);
        let ended = api.json("/v1/verify/last?wait_ms=9000")?;
        assert_eq!(ended["state"], "failed", "{wrong}: {ended:#}");
        assert!(ended["error"]["what"].is_string(), "{ended:#}");
    }
    Ok(())
}
