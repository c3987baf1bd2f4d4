//! `cutover verify` and what no stream brings.

use anyhow::{Context, Result};
use serde_json::Value;
use tests::stage::{DATABASE, Stage};

use super::{Move, SOON};

fn verify(this: &Move) -> Result<(i32, Vec<String>)> {
    let finished = this.stage.cutover(&["verify", "--unlimited", "--json"], 2 * SOON)?;
    let report: Value = serde_json::from_str(&finished.stdout)
        .with_context(|| format!("{}\n{}", finished.stdout, finished.stderr))?;
    let objects = report["objects"].as_array().cloned().unwrap_or_default();
    let large = objects.iter().filter(|found| found["kind"] == "large object");
    Ok((finished.code(), large.map(|found| found["what"].to_string()).collect()))
}

#[tokio::test(flavor = "multi_thread")]
async fn large_objects_are_compared_page_by_page() -> Result<()> {
    let this = Move::streaming(Stage::builder(15, 17).routers(0)).await?;
    assert_eq!(verify(&this)?, (0, vec![]));
    let make = "SELECT lo_from_bytea((70000 + n)::oid, \
                decode(repeat(md5(n::text), (n % 5) * 300), 'hex')) FROM generate_series(1, 2500) n";
    let (blue, green) = (&this.stage.blue, &this.stage.green);
    blue.execute(DATABASE, make).await?;
    let (code, found) = verify(&this)?;
    assert!(code == 9 && found[0].contains("of 2500: 2500 are not on green (70001, "), "{found:?}");
    green.execute(DATABASE, make).await?;
    assert_eq!(verify(&this)?, (0, vec![]));
    let damage = "SELECT lo_put(71999, 5000, '\\x00'), lo_unlink(72000), lo_create(80000)";
    green.execute(DATABASE, damage).await?;
    let (code, found) = verify(&this)?;
    let expected = "of 2501: 1 are not on green (72000), 1 are not on blue (80000), \
                    1 have other contents (71999)";
    assert!(code == 9 && found[0].contains(expected), "{found:?}");
    Ok(())
}
