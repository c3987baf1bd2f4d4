//! Whose a closed side is. It says so itself, and only its closer's acts change it.
//!
//! Between closing a side and opening it again lies whatever can happen to a process: it dies, its
//! machine stops for minutes and wakes up as if nothing had been, its disk is lost or comes back from
//! a backup, and somebody starts another sidecar elsewhere meanwhile. What it remembers is worth
//! nothing then. A lease does not help: who puts everything back after a crash (the watchdog, the
//! next life) holds none, and between a look at a clock and the statement that follows lies another
//! stop. So the right to change a closed side is not looked up and then used; the side itself
//! refuses, in the transaction that would change it.
//!
//! **The claim.** The transaction that closes a side writes into the comment of what it closes (the
//! database; with NOLOGIN each role) which run of which state directory has done so, and the
//! transaction that opens it takes that out again. Comments of databases and roles are shared
//! catalogs: they can be read and written from another database while the door is closed, need the
//! same rights as closing it does, survive restarts and failovers together with the door, and whoever
//! wonders why it is closed finds them. What stood there before stays.
//!
//! **The guard.** Every transaction that closes, opens or leaves ajar first takes an advisory lock
//! and then fails unless the claim is what it has to be ([`Needs`]): nobody else's to close; our
//! own run's to open, to close again, to let a session of ours in, to shut the door behind it. All of
//! it is one message, so no client stands between look and act, however long it is stopped; READ
//! COMMITTED, so the look comes after the lock. A statement that a dead client had sent is bound by
//! it, too.
//!
//! Two writers would need a side that its closer has closed for a decision, and that somebody else
//! opens. He needs the closer's claim for that:
//! - a run of another state directory has another one, and changes nothing: it is held, and says by
//!   whom;
//! - an older run of the same directory (one from a backup) has another run and epoch: the same;
//! - a life of the same run has it, and is bound as before: it opens only what was never decided, which
//!   is in its journal before the decision can be sent;
//! - a claim that is gone means that somebody had the right to open the side: there is nothing to put
//!   back, and nothing to close again either, for clients may be there.
//!
//! **Cannot be read.** The claim is on the server that would be changed, in the same transaction. A
//! server that does not say whose its door is does not open it.
//!
//! **No claim in the journal** (closed by a version without claims, or without a lease): acts as those
//! versions did, but only where nobody has left a claim. Such a side is closed and says nothing, so
//! none of ours that has claims opens it; somebody who took the pipeline over has one, and is safe
//! from it.
//!
//! **Finish** leaves claim and seal: the statements that it prints take out both. **Teardown** changes
//! no door, and so no claim. Somebody who opens a side by hand and forgets the comment has opened it:
//! the next run that leaves it is refused by a check that says what to type.
//!
//! **Who can forge one.** The database's owner can write its comment, but no role's (manual, COMMENT: that takes
//! CREATEROLE). So a role of an undo list counts only if the role itself carries the same claim: otherwise an owner
//! could have us give LOGIN to whom he names.
//!
//! **A dead one's fence.** The claim carries the undo list, so who takes over without the dead one's
//! disk can open the side - as the dead one, with its claim. When that may be done is argued in
//! `controller/ownership.rs`.

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{PostgresUndo, acts, doing, quoted_database};
use crate::ports::{Claim, Claimed, Epoch, PortError, PortResult};
use crate::sql::{Slot, Sql, ident, literal};

pub(super) use crate::fence::held::{Held, superseded};

/// Begins every claim.
const TAG: &str = "[cutover fence ";
/// Comes before the undo list.
const UNDO: &str = " Undo list: ";
/// What a guard that refuses ends with: it turns text into a number.
const REFUSED: &str = "22P02";
/// `lock_not_available`: `lock_timeout` is over.
const LOCK_NOT_AVAILABLE: &str = "55P03";
/// How long the guard's lock is waited for before it is looked who holds it. One of ours holds it for milliseconds.
const LOCK_WAIT_MS: u32 = 300;

/// The comment of something that a fence closes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comment {
    /// The role; `None`: the database.
    pub role: Option<String>,
    /// What it says.
    pub text: String,
}

/// What a transaction needs to go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    /// Nobody else has claimed it.
    Free,
    /// The run of the undo list has, and nobody else.
    Ours,
}

fn fnv(parts: [&str; 2]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// What tells claims apart.
fn key(claim: &Claim) -> String {
    let who = fnv([&claim.pipeline, &claim.holder]);
    format!("{TAG}{}.{}.{who:016x}]", claim.run, claim.epoch)
}

/// The line that goes into comments.
fn line(undo: &PostgresUndo, claim: &Claim) -> String {
    // The tables may be many, and opening does not need them.
    let undo = PostgresUndo { tables: Vec::new(), comments: Vec::new(), ..undo.clone() };
    // Maps with text as keys, text and numbers: all of it can be JSON.
    let list = serde_json::to_string(&undo).unwrap_or_default();
    let who = claim.to_string().replace(['\n', '\r'], " ");
    format!("{} closed by {who}, which opens it again.{UNDO}{list}", key(claim))
}

fn line_of(text: &str) -> Option<&str> {
    text.lines().find(|line| line.starts_with(TAG))
}

fn undo_of(line: &str) -> Option<PostgresUndo> {
    let (_, list) = line.split_once(UNDO)?;
    serde_json::from_str(list).ok()
}

/// A comment without claims. `None`: nothing is left.
fn without(text: &str) -> Option<String> {
    let kept: Vec<_> = text.lines().filter(|line| !line.starts_with(TAG)).collect();
    Some(kept.join("\n")).filter(|kept| !kept.is_empty())
}

/// Who it is, by the comments that were found.
pub(super) fn held(found: &[Comment], claim: Option<&Claim>) -> Held {
    let ours = claim.map(key);
    let mut held = Held::Nobody;
    for line in found.iter().filter_map(|comment| line_of(&comment.text)) {
        if ours.as_ref().is_some_and(|ours| line.starts_with(ours)) {
            held = Held::Us;
            continue;
        }
        let who = undo_of(line).and_then(|undo| undo.claim).map(|claim| claim.to_string());
        return Held::Other(who.unwrap_or_else(|| line.chars().take(120).collect()));
    }
    held
}

/// Comments of everything that a fence by `undo` closes.
fn comments_sql(undo: &PostgresUndo) -> String {
    if undo.closes_door() {
        return of_database(&undo.database);
    }
    let roles: Vec<_> = undo.roles.iter().map(|role| literal(role)).collect();
    let roles = if roles.is_empty() { "NULL".to_owned() } else { roles.join(", ") };
    of_roles(&format!("o.rolname IN ({roles})"))
}

fn of_database(database: &str) -> String {
    format!(
        "SELECT NULL::text AS role, d.description AS text FROM pg_catalog.pg_shdescription d \
         JOIN pg_catalog.pg_database o ON o.oid = d.objoid \
         WHERE d.classoid = 'pg_catalog.pg_database'::pg_catalog.regclass AND o.datname = {}",
        literal(database)
    )
}

fn of_roles(which: &str) -> String {
    format!(
        "SELECT o.rolname::text AS role, d.description AS text FROM pg_catalog.pg_shdescription d \
         JOIN pg_catalog.pg_roles o ON o.oid = d.objoid \
         WHERE d.classoid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND {which}"
    )
}

async fn comments(
    sql: &Sql,
    place: &'static str,
    query: &str,
    deadline: Instant,
) -> PortResult<Vec<Comment>> {
    let rows =
        sql.rows(query, deadline).await.map_err(doing(place, "reading who has closed it"))?;
    let comment = |row: &crate::sql::TextRow| Comment {
        role: row.get("role").map(str::to_owned),
        text: row.get("text").unwrap_or_default().to_owned(),
    };
    Ok(rows.iter().map(comment).collect())
}

/// The comments as they are.
pub(super) async fn read(
    sql: &Sql,
    place: &'static str,
    undo: &PostgresUndo,
    deadline: Instant,
) -> PortResult<Vec<Comment>> {
    comments(sql, place, &comments_sql(undo), deadline).await
}

/// The claim on a database, or on roles that were locked out of it, whoever made it.
pub(super) async fn find(
    sql: &Sql,
    place: &'static str,
    database: &str,
    deadline: Instant,
) -> PortResult<Option<Claimed<PostgresUndo>>> {
    let tagged = format!("pg_catalog.strpos(d.description, {}) > 0", literal(TAG));
    let query = format!("{} UNION ALL {}", of_database(database), of_roles(&tagged));
    let found = comments(sql, place, &query, deadline).await?;
    for line in found.iter().filter_map(|comment| line_of(&comment.text)) {
        let Some(undo) = undo_of(line) else {
            return Err(PortError::new(
                place,
                format!("{place} is closed by a claim that can't be read: {line:.120}"),
            )
            .remedy("start the version of the sidecar that has closed it"));
        };
        // A role may be locked out of another database.
        if undo.database == database
            && let Some(claim) = undo.claim.clone()
        {
            if let Some(role) =
                existing(sql, place, &unmarked(&undo, line, &found), deadline).await?
            {
                return Err(PortError::new(
                    place,
                    format!(
                        "{place} has a claim that says it has locked out the role {role:?}, and that role's own \
                         comment does not say so: whoever wrote the comment of the database may have made it up"
                    ),
                )
                .remedy(format!(
                    "find out who wrote it (\\l+ {database}); if nothing of ours has closed {place}, take the line \
                     that begins with {TAG:?} out of the comment"
                )));
            }
            return Ok(Some(Claimed { claim, undo }));
        }
    }
    Ok(None)
}

/// One of these roles that is there: somebody may have dropped one since.
async fn existing(
    sql: &Sql,
    place: &'static str,
    roles: &[&str],
    deadline: Instant,
) -> PortResult<Option<String>> {
    if roles.is_empty() {
        return Ok(None);
    }
    let names: Vec<_> = roles.iter().map(|role| literal(role)).collect();
    let query = format!(
        "SELECT rolname FROM pg_catalog.pg_roles WHERE rolname IN ({}) LIMIT 1",
        names.join(", ")
    );
    let rows = sql.rows(&query, deadline).await;
    let rows = rows.map_err(doing(place, "looking for the roles of a claim"))?;
    Ok(rows.first().and_then(|row| row.at(0)).map(str::to_owned))
}

/// Roles that the undo list of this claim names, and that do not carry the claim themselves.
fn unmarked<'a>(undo: &'a PostgresUndo, line: &str, found: &[Comment]) -> Vec<&'a str> {
    let carries = |role: &str| {
        found.iter().any(|comment| {
            comment.role.as_deref() == Some(role) && line_of(&comment.text) == Some(line)
        })
    };
    undo.roles.iter().map(String::as_str).filter(|role| !carries(role)).collect()
}

/// These statements in one transaction, if the claim is what it has to be; see above.
fn guarded(undo: &PostgresUndo, needs: Needs, statements: &[String]) -> String {
    let has = |text: &str| format!("pg_catalog.strpos(text, {}) > 0", literal(text));
    let ours = undo.claim.as_ref().map_or_else(|| "false".to_owned(), |claim| has(&key(claim)));
    let any = |condition: &str| format!("coalesce(pg_catalog.bool_or({condition}), false)");
    let foreign = any(&format!("{} AND NOT ({ours})", has(TAG)));
    let right = match needs {
        Needs::Ours if undo.claim.is_some() => format!("NOT {foreign} AND {}", any(&ours)),
        // By the journals of versions without claims.
        Needs::Ours | Needs::Free => format!("NOT {foreign}"),
    };
    // The error has to depend on a row, or it would be thrown by the planner. It is in the server's
    // log.
    let refusal = "CAST('held: ' || coalesce(pg_catalog.left(pg_catalog.string_agg(text, ' '), 80), \
                   'by nobody') AS integer)";
    let guard = format!(
        "SELECT CASE WHEN {right} THEN 0 ELSE {refusal} END AS held FROM ({}) AS marked",
        comments_sql(undo)
    );
    let mut batch = vec![
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE".to_owned(),
        // A door that is said to be closed, or open, stays so when the server crashes right behind the answer.
        "SELECT pg_catalog.set_config('synchronous_commit', 'local', true) \
         WHERE pg_catalog.current_setting('synchronous_commit') = 'off'"
            .to_owned(),
        format!("SET LOCAL lock_timeout = '{LOCK_WAIT_MS}ms'"),
        format!("SELECT pg_catalog.pg_advisory_xact_lock({})", lock_key(undo)),
        "SET LOCAL lock_timeout TO DEFAULT".to_owned(),
    ];
    // Nobody is locked out: there is nothing to claim.
    if undo.closes_door() || !undo.roles.is_empty() {
        batch.push(guard);
    }
    batch.extend_from_slice(statements);
    batch.push("COMMIT".to_owned());
    batch.join("; ")
}

/// The guard's advisory lock.
fn lock_key(undo: &PostgresUndo) -> i64 {
    fnv(["cutover fence", &undo.database]) as i64
}

/// Ends the sessions of other roles that hold the guard's lock or wait for it. Every role may take an advisory lock;
/// whoever takes this one keeps a side closed, or open, for as long as he likes.
fn end_squatters(undo: &PostgresUndo) -> String {
    format!(
        "SELECT pg_catalog.count(pg_catalog.pg_terminate_backend(l.pid)) AS ended \
         FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
         WHERE l.locktype = 'advisory' AND l.objsubid = 1 \
           AND l.database = (SELECT oid FROM pg_catalog.pg_database \
                             WHERE datname = pg_catalog.current_database()) \
           AND ((l.classid::bigint << 32) | l.objid::bigint) = {} \
           AND a.usename IS DISTINCT FROM session_user",
        lock_key(undo)
    )
}

/// Makes a change, and gives back the version of the database's entry that it has led to. Who of another role
/// keeps it waiting is ended.
///
/// # Errors
/// Of [`Nature::Superseded`] if the claim is not what it has to be; nothing was changed then.
pub(super) async fn change(
    outside: &Slot,
    place: &'static str,
    undo: &PostgresUndo,
    needs: Needs,
    mut statements: Vec<String>,
    what: &'static str,
    deadline: Instant,
) -> PortResult<Option<String>> {
    statements.push(acts::stamp_sql(&undo.database));
    let batch = guarded(undo, needs, &statements);
    let session = outside.get(deadline).await?;
    let mut changed = session.row(&batch, deadline).await;
    while let Err(error) = &changed
        && error.is(LOCK_NOT_AVAILABLE)
        && Instant::now() < deadline
    {
        session.run("ROLLBACK", deadline).await.map_err(|error| error.at(place, what))?;
        let ended = session.row(&end_squatters(undo), deadline).await;
        let ended = ended.map_err(|error| error.at(place, "ending who holds the fence's lock"))?;
        let count = ended.get("ended").unwrap_or_default().to_owned();
        tracing::warn!(place, what, ended = count, "others hold the lock of the fence: ended");
        changed = session.row(&batch, deadline).await;
    }
    match changed {
        Ok(row) => Ok(row.get("stamp").map(str::to_owned)),
        Err(error) => {
            // It may be inside a failed transaction.
            outside.close().await;
            if !error.is(REFUSED) {
                return Err(error.at(place, what));
            }
            let session = outside.get(deadline).await?;
            let found = read(&session, place, undo, deadline).await?;
            Err(match held(&found, undo.claim.as_ref()) {
                Held::Us => PortError::new(place, format!("{what}: it was claimed just now")),
                held => superseded(place, &held),
            })
        }
    }
}

/// Says who closes it.
pub(super) fn mark(undo: &PostgresUndo) -> Vec<String> {
    marked(undo).iter().map(|comment| statement(undo, &comment.role, Some(&comment.text))).collect()
}

/// The same for a plan, which has no run to name yet.
pub(super) fn mark_planned(undo: &PostgresUndo) -> Vec<String> {
    let nobody = String::new;
    let claim = Claim { pipeline: nobody(), holder: nobody(), run: "RUN".into(), epoch: Epoch(0) };
    let signs = key(&claim);
    let undo = PostgresUndo { claim: Some(claim), ..undo.clone() };
    let cut = |sql: String| match sql.split_once(&signs) {
        Some((before, _)) => format!("{before}{TAG}RUN.EPOCH...'"),
        None => sql,
    };
    mark(&undo).into_iter().map(cut).collect()
}

fn statement(undo: &PostgresUndo, role: &Option<String>, text: Option<&str>) -> String {
    let what = match role {
        None => format!("DATABASE {}", quoted_database(undo)),
        Some(role) => format!("ROLE {}", ident(role)),
    };
    format!("COMMENT ON {what} IS {}", text.map_or("NULL".into(), literal))
}

/// Takes our claim out of the comments that were found.
pub(super) fn unmark(undo: &PostgresUndo, found: &[Comment]) -> Vec<String> {
    let Some(ours) = undo.claim.as_ref().map(key) else { return Vec::new() };
    let is_ours =
        |comment: &&Comment| line_of(&comment.text).is_some_and(|line| line.starts_with(&ours));
    let unmarked =
        |comment: &Comment| statement(undo, &comment.role, without(&comment.text).as_deref());
    found.iter().filter(is_ours).map(unmarked).collect()
}

/// The comments as a fence by `undo` leaves them.
pub(super) fn marked(undo: &PostgresUndo) -> Vec<Comment> {
    let Some(claim) = &undo.claim else { return Vec::new() };
    let line = line(undo, claim);
    let roles: Vec<_> = match undo.closes_door() {
        true => vec![None],
        false => undo.roles.iter().cloned().map(Some).collect(),
    };
    let comment = |role: Option<String>| {
        let prior = undo.comments.iter().find(|comment| comment.role == role);
        let prior = prior.and_then(|comment| without(&comment.text));
        let text = prior.map_or_else(|| line.clone(), |prior| format!("{prior}\n{line}"));
        Comment { role, text }
    };
    roles.into_iter().map(comment).collect()
}

#[cfg(test)]
mod tests {
    use super::super::SealBy;
    use super::*;

    fn undo(run: &str, holder: &str) -> PostgresUndo {
        let claim = Claim {
            pipeline: "shop".into(),
            holder: holder.into(),
            run: run.into(),
            epoch: Epoch(4),
        };
        PostgresUndo {
            database: "shop".into(),
            at: None,
            may_alter: true,
            read_only: None,
            allow_connections: true,
            seal_by: SealBy::AllowConnections,
            roles: vec!["app".into()],
            tables: Vec::new(),
            version_num: 150_000,
            connect: None,
            comments: vec![Comment { role: None, text: "ours since 2012\nask Ann".into() }],
            claim: Some(claim),
        }
    }

    #[test]
    fn a_claim_is_read_back_and_leaves_the_rest_of_a_comment_alone() {
        let ours = undo("7f3a", "host:/\"a\" {b} undo: {");
        let marked = marked(&ours);
        assert_eq!(held(&marked, ours.claim.as_ref()), Held::Us);
        let read = undo_of(line_of(&marked[0].text).unwrap()).unwrap();
        assert_eq!(read.claim, ours.claim);
        assert_eq!(
            unmark(&ours, &marked),
            ["COMMENT ON DATABASE \"shop\" IS 'ours since 2012\nask Ann'"]
        );
        let nothing = PostgresUndo { comments: Vec::new(), ..ours.clone() };
        let bare = super::marked(&nothing);
        assert_eq!(unmark(&nothing, &bare), ["COMMENT ON DATABASE \"shop\" IS NULL"]);
        // A claim of ours in an old comment is not kept for ever.
        let again = PostgresUndo { comments: marked.clone(), ..ours.clone() };
        assert_eq!(super::marked(&again), marked);
    }

    /// Who owns the database can write its comment, and no role's.
    #[test]
    fn an_undo_list_counts_for_roles_that_carry_it() {
        let roles = PostgresUndo {
            seal_by: SealBy::NoLogin,
            roles: vec!["app".into(), "web".into()],
            ..undo("7f3a", "host:/a")
        };
        let found = marked(&roles);
        let line = line_of(&found[0].text).unwrap();
        assert!(unmarked(&roles, line, &found).is_empty());
        assert_eq!(unmarked(&roles, line, &found[..1]), ["web"]);
        let on_database = [Comment { role: None, text: line.into() }];
        assert_eq!(unmarked(&roles, line, &on_database), ["app", "web"]);
    }

    #[test]
    fn another_run_another_directory_and_nobody_are_told_apart() {
        let ours = undo("7f3a", "host:/a");
        let claim = ours.claim.as_ref();
        let prior = |undo: &PostgresUndo| undo.comments.clone();
        assert_eq!(held(&prior(&ours), claim), Held::Nobody);
        for other in [undo("7f3b", "host:/a"), undo("7f3a", "host:/b")] {
            let Held::Other(who) = held(&marked(&other), claim) else { panic!("{other:?}") };
            assert!(who.contains(&other.claim.as_ref().unwrap().run), "{who}");
            assert!(unmark(&ours, &marked(&other)).is_empty());
        }
        assert!(matches!(held(&marked(&ours), None), Held::Other(_)), "a version without claims");
        let roles = PostgresUndo {
            seal_by: SealBy::NoLogin,
            roles: vec!["app".into(), "web".into()],
            ..ours
        };
        assert_eq!(marked(&roles).len(), 2);
        assert_eq!(mark(&roles).len(), 2);
        assert_eq!(unmark(&roles, &marked(&roles)).len(), 2);
    }
}
