//! The lane's session, set up as the one that ran a schema change on the source, and back.

use decoders::change::{Definition, Setting};
use decoders::mysql::server::{Server, code, describe, identifier, literal};
use decoders::mysql::stream::Kind;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};

use crate::mysql::error::target_error;
use crate::target::TargetError;

/// How long the statement waits for somebody else's transaction on its table, in seconds.
const LOCK_WAIT_S: u32 = 10;

/// No such variable, or none of a session: another version.
const NOT_THERE: [u16; 2] = [1193, 1238];
/// ER_BAD_DB_ERROR.
const UNKNOWN_DATABASE: u16 = 1049;
/// A version may lack it, or let only some set it; so it is only set where it differs.
const EXPLICIT_TIMESTAMPS: &str = "explicit_defaults_for_timestamp";
const UTF8MB4_COLLATION: &str = "default_collation_for_utf8mb4";
const CHARSET_COLLATIONS: &str = "character_set_collations";
const INVISIBLE_KEY: &str = "sql_generate_invisible_primary_key";

/// What the lane's session had, of what is set only for some statements.
#[derive(Default)]
pub(super) struct Before(Vec<(&'static str, String)>);

/// Sets the session up. Gives a reason, if green can't have what the statement's outcome depends on.
///
/// # Errors
/// Green can't be asked.
pub(super) async fn enter(
    conn: &mut Conn,
    definition: &Definition,
    server: &Server,
    before: &mut Before,
) -> Result<Option<String>, TargetError> {
    let mut all = vec![format!("lock_wait_timeout = {LOCK_WAIT_S}")];
    let mut sql_mode = None;
    // MySQL's log has a key that blue has made by itself as any other, and one that green makes is none of
    // blue's.
    let makes_table = definition.kind == Kind::CreateTable.label();
    let without_key = Setting { name: INVISIBLE_KEY, value: "0".to_owned() };
    let without_key = (makes_table && !server.is_mariadb()).then_some(&without_key);
    for setting in definition.settings.iter().chain(without_key) {
        let needed = match setting.name {
            EXPLICIT_TIMESTAMPS | UTF8MB4_COLLATION | CHARSET_COLLATIONS | INVISIBLE_KEY => {
                match special(conn, setting.name, &setting.value, before).await {
                    Ok(()) => continue,
                    Err(error) => error,
                }
            }
            "sql_mode" => {
                sql_mode = Some(format!("sql_mode = {}", setting.value));
                continue;
            }
            "character_set_client" => {
                let charset = client_charset(conn, &setting.value).await;
                let charset = charset
                    .map_err(|error| target_error("setting up a session on green", error))?;
                all.push(format!("character_set_client = {charset}"));
                continue;
            }
            name => {
                all.push(format!("{name} = {}", setting.value));
                continue;
            }
        };
        let is_missing = code(&needed).is_some_and(|code| NOT_THERE.contains(&code));
        let is_neutral = match setting.name {
            CHARSET_COLLATIONS => {
                setting.value.is_empty() || !definition.safety.leaves_collation_open
            }
            UTF8MB4_COLLATION => !definition.safety.leaves_collation_open,
            _ => true,
        };
        match code(&needed) {
            None => return Err(target_error("setting up a session on green", needed)),
            Some(_) if is_missing && is_neutral => {}
            Some(_) => return Ok(Some(cannot(setting.name, &needed))),
        }
    }
    // MariaDB says of a database that it makes that it is the default one.
    let makes_it = definition.databases.contains(&definition.schema);
    if !definition.schema.is_empty()
        && let Err(error) = conn.query_drop(format!("USE {}", identifier(&definition.schema))).await
        && !(makes_it && code(&error) == Some(UNKNOWN_DATABASE))
    {
        return refusal(error, "its default database");
    }
    // Last: how quotes are read depends on it.
    all.extend(sql_mode);
    match conn.query_drop(format!("SET SESSION {}", all.join(", SESSION "))).await {
        Ok(()) => Ok(None),
        Err(error) => refusal(error, "its settings"),
    }
}

/// What the server says is a reason, everything else an error.
fn refusal(error: Error, what: &str) -> Result<Option<String>, TargetError> {
    match code(&error) {
        Some(_) => Ok(Some(cannot(what, &error))),
        None => Err(target_error("setting up a session on green", error)),
    }
}

fn cannot(what: &str, error: &Error) -> String {
    format!("green can't have {what} of the session that ran it ({})", describe(error))
}

/// MariaDB numbers the collations of UCA 14.0 (`uca1400`) from here on (seen on 10.11: 2048 to 3271); all
/// others have less (to 1270), and MySQL has none so high.
const UCA1400_FROM: u32 = 2048;

/// The log has the number of a collation, which a session may set its client's character set by. But not by
/// one of those that a newer MariaDB has for its default.
async fn client_charset(conn: &mut Conn, collation: &str) -> Result<String, Error> {
    if collation.parse().is_ok_and(|id: u32| id < UCA1400_FROM) {
        return Ok(collation.to_owned());
    }
    let sql = format!(
        "SELECT character_set_name FROM information_schema.collation_character_set_applicability
         WHERE id = {collation}"
    );
    let charset: Option<String> = conn.query_first(sql).await?;
    Ok(charset.unwrap_or_else(|| collation.to_owned()))
}

/// Settings that are numbers of collations in the log and names in a session, or that not everybody may
/// set.
async fn special(
    conn: &mut Conn,
    name: &'static str,
    value: &str,
    before: &mut Before,
) -> Result<(), Error> {
    let now: Option<String> =
        conn.query_first(format!("SELECT CAST(@@SESSION.{name} AS CHAR)")).await?;
    let wanted: Option<String> = match name {
        UTF8MB4_COLLATION => {
            let sql = format!(
                "SELECT collation_name FROM information_schema.collations WHERE id = {value}"
            );
            conn.query_first(sql).await?
        }
        CHARSET_COLLATIONS if value.is_empty() => Some(String::new()),
        CHARSET_COLLATIONS => {
            let sql = format!(
                "SELECT group_concat(concat(character_set_name, '=', full_collation_name)
                   ORDER BY character_set_name)
                 FROM information_schema.collation_character_set_applicability WHERE id IN ({value})"
            );
            conn.query_first::<Option<String>, _>(sql).await?.flatten()
        }
        _ => Some(value.to_owned()),
    };
    let wanted = wanted.unwrap_or_else(|| value.to_owned());
    if now.as_deref() == Some(wanted.as_str()) {
        return Ok(());
    }
    conn.query_drop(assignment(name, &wanted)).await?;
    before.0.extend(now.map(|now| (name, now)));
    Ok(())
}

fn assignment(name: &str, value: &str) -> String {
    match name {
        EXPLICIT_TIMESTAMPS | INVISIBLE_KEY => format!("SET SESSION {name} = {value}"),
        _ => format!("SET SESSION {name} = {}", literal(value)),
    }
}

/// Gives the lane its own settings back.
///
/// # Errors
/// Green's: the session is of no use then.
pub(super) async fn leave(conn: &mut Conn, before: Before) -> Result<(), TargetError> {
    // First those of every statement: how quotes are read depends on them.
    let always = [
        "SET SESSION sql_mode = '', SESSION time_zone = '+00:00', SESSION unique_checks = 1, \
         SESSION lock_wait_timeout = DEFAULT, SESSION collation_server = DEFAULT",
        "SET NAMES utf8mb4",
    ];
    let special = before.0.iter().map(|(name, value)| assignment(name, value));
    for sql in always.map(str::to_owned).into_iter().chain(special) {
        let set = conn.query_drop(sql).await;
        set.map_err(|error| target_error("setting up a session on green", error))?;
    }
    Ok(())
}
