//! Writes that are said to be ours.

use anyhow::Result;

use super::{Ground, SOON, Who};
use crate::stage::{APP, DATABASE};

const EMIT: &str = "SELECT pg_logical_emit_message(true, 'cutover.own', ";

pub(super) async fn run(ground: &mut Ground) -> Result<()> {
    let zeros = "0".repeat(32);
    let contents = [
        ("the other direction's name", format!("'{DATABASE}_back'")),
        ("this direction's name", format!("'{DATABASE}'")),
        ("a guessed secret", format!("'{zeros} {DATABASE}_back'")),
        ("bytes", format!("convert_to('{DATABASE}_back', 'UTF8')")),
    ];
    let mut id = 0;
    for (role, who) in [(APP, Who::Owner), ("nobody", Who::Nobody)] {
        for (what, content) in &contents {
            id += 1;
            let sql = format!(
                "BEGIN; {EMIT}{content}); UPDATE public.purse SET amount = -1 WHERE id = {id}; COMMIT"
            );
            let done = ground.tries(false, role, &sql).await?;
            let harm = match done {
                Err(_) => None,
                Ok(()) => {
                    is_missing(ground, &format!("SELECT amount FROM purse WHERE id = {id}"), "-1")
                        .await?
                }
            };
            ground.summary.note(who, format!("a write with a mark of {what}"), harm);
        }
    }
    let large = format!(
        "BEGIN; {EMIT}'{DATABASE}_back'); \
         INSERT INTO public.big SELECT n, repeat(md5(n::text), 10) FROM generate_series(1, 3000) n; COMMIT"
    );
    let done = ground.tries(false, APP, &large).await?;
    let harm = match done {
        Err(_) => None,
        Ok(()) => is_missing(ground, "SELECT count(*) FROM big", "3000").await?,
    };
    ground.summary.note(Who::Owner, "a large write with a mark", harm);
    let in_part = format!(
        "BEGIN; SAVEPOINT a; {EMIT}'{DATABASE}_back'); RELEASE a; \
         UPDATE public.purse SET amount = -2 WHERE id = 400; {EMIT}'{DATABASE}_back'); COMMIT"
    );
    let done = ground.tries(false, APP, &in_part).await?;
    let harm = match done {
        Err(_) => None,
        Ok(()) => is_missing(ground, "SELECT amount FROM purse WHERE id = 400", "-2").await?,
    };
    ground.summary.note(Who::Owner, "marks in a subtransaction and at the end", harm);
    for role in [APP, "nobody"] {
        for origin in [format!("cutover_{DATABASE}_back"), format!("cutover_{DATABASE}")] {
            let sql = format!(
                "SELECT pg_replication_origin_create('{origin}'); \
                 SELECT pg_replication_origin_session_setup('{origin}')"
            );
            ground.is_refused(role, "to take an origin of ours", &sql).await?;
        }
    }
    Ok(())
}

/// The harm, if green does not get to this value.
async fn is_missing(ground: &Ground, sql: &str, expected: &str) -> Result<Option<String>> {
    ground.stage.wait_caught_up(SOON).await?;
    let found = ground.stage.green.value(DATABASE, sql).await?;
    Ok((found != expected).then(|| format!("green has {found} for {expected}")))
}
