//! What a session's own server says that it carries, and what ties it to that server.
//!
//! Settings are told by the server, but only where one was set at all: it counts the statements of a
//! session by kind (`Com_..`), also those within routines. The same counters tell whether there may
//! be temporary tables, LOCK TABLES, HANDLER, SQL's PREPARE or XA; these tie a session for as long as
//! it lasts, because how they ended is not counted as exactly.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use decoders::mysql::server::RawConnection;
use tokio::io::AsyncWriteExt;

use super::desk::{Desk, Variables};
use super::login::LoginError;
use super::packets::{
    self, Cursor, EOF, ERR, FULL, Inbox, OK, columns, error_of, invalid, status_of_eof,
    status_of_ok,
};

/// How long a server may think about it. Longer than any hold waits: a busy server is no lost one.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Counters that both families have, then those of MariaDB, then of MySQL, and what each means.
const COUNTED: [(&str, &str); 7] = [
    ("Com_set_option", ""),
    ("Com_create_table", "temporary tables"),
    ("Com_lock_tables", "LOCK TABLES"),
    ("Com_flush", "FLUSH"),
    ("Com_ha_open", "HANDLER"),
    ("Com_prepare_sql", "PREPARE"),
    ("Com_xa_start", "XA"),
];
const COUNTED_MARIADB: [(&str, &str); 5] = [
    ("Com_create_temporary_table", "temporary tables"),
    ("Com_create_sequence", "temporary sequences"),
    ("Com_execute_immediate", "EXECUTE IMMEDIATE"),
    ("Com_backup", "BACKUP"),
    ("Com_backup_lock", "BACKUP LOCK"),
];
const COUNTED_MYSQL: [(&str, &str); 3] = [
    ("Com_lock_instance", "LOCK INSTANCE"),
    ("Com_set_resource_group", "SET RESOURCE GROUP"),
    ("Com_set_role", ""),
];

/// Schema, role, the last generated value, a value that was set for the next one, how far the
/// session's clock is from the server's, the character sets, how many rows an answer may have, and the
/// number of user variables.
const ASK: &str = "SELECT hex(database()), hex(current_role()), @@session.last_insert_id, \
     @@session.insert_id, abs(timestampdiff(second, from_unixtime(@@session.timestamp), sysdate(6))) < 5, \
     @@session.character_set_client, @@session.character_set_connection, \
     @@session.character_set_results, @@session.collation_connection, \
     @@session.sql_select_limit, ";
const ASK_VARIABLES: &str = "SHOW SESSION VARIABLES";

/// Variables that always go along, in the order of the question: a login sets them, COM_CHANGE_USER as
/// well, COM_RESET_CONNECTION otherwise, and none of it is counted.
const CHARSETS: [&str; 4] = [
    "character_set_client",
    "character_set_connection",
    "character_set_results",
    "collation_connection",
];
/// Without `SET sql_select_limit` an answer is cut at none that ours could reach.
const ROWS_MIN: u64 = 1 << 32;

/// Variables that are not to be repeated: they follow from others, are each session's own, or have a
/// place of their own here.
const LEFT_OUT: [&str; 20] = [
    "gtid_owned",
    "character_set_database",
    "collation_database",
    "error_count",
    "external_user",
    "identity",
    "in_transaction",
    "insert_id",
    "last_gtid",
    "last_insert_id",
    "max_allowed_packet",
    "max_user_connections",
    "net_buffer_length",
    "proxy_user",
    "pseudo_thread_id",
    "rand_seed1",
    "rand_seed2",
    "statement_id",
    "timestamp",
    "warning_count",
];

/// Variables that go along where anything was set: one that was set to this server's default is not to
/// become the other one's, or what the login says.
const KEPT: [&str; 9] = [
    "autocommit",
    "foreign_key_checks",
    "sql_mode",
    "time_zone",
    "transaction_isolation",
    "transaction_read_only",
    "tx_isolation",
    "tx_read_only",
    "unique_checks",
];

/// What a session carries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Memory {
    pub schema: Option<String>,
    /// As `SET ROLE` takes it; `None`: never set.
    pub role: Option<String>,
    pub last_insert_id: u64,
    /// Variables that were set, and to what, in an order in which they can be.
    pub variables: BTreeMap<String, String>,
    /// Statements that set something so far.
    set: u64,
    /// What can't be moved.
    pub pins: Vec<String>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// The server's connection is gone.
    Lost,
    /// It refused to answer, or the answer can't be used.
    Refused(String),
}

impl From<io::Error> for Unanswered {
    fn from(error: io::Error) -> Self {
        tracing::debug!("a session's server is gone: {error}");
        Unanswered::Lost
    }
}

/// A row of text.
type Row = Vec<Option<Vec<u8>>>;

/// Asks. `before`: what the same session carried when it was last asked.
pub(super) async fn ask(
    server: &mut RawConnection,
    ends_with_ok: bool,
    desk: &Desk,
    id: u32,
    before: Option<&Memory>,
) -> Result<Memory, Unanswered> {
    let is_mariadb = desk.is_mariadb();
    let counted: Vec<(&str, &str)> = match is_mariadb {
        true => COUNTED.iter().chain(&COUNTED_MARIADB).copied().collect(),
        false => COUNTED.iter().chain(&COUNTED_MYSQL).copied().collect(),
    };
    let names: Vec<_> = counted.iter().map(|(name, _)| format!("'{name}'")).collect();
    let counters = format!("SHOW SESSION STATUS WHERE variable_name IN ({})", names.join(","));
    let own = match is_mariadb {
        true => format!("{ASK}(SELECT count(*) FROM information_schema.user_variables)"),
        false => format!("{ASK}0"),
    };
    let mut dialogue = Dialogue { server, inbox: Inbox::default(), ends_with_ok, status: 0 };
    let answer = answers(&mut dialogue, (&counters, &own), &counted, desk, id, before).await;
    // Where a transaction begins with any statement, ours have begun one.
    if dialogue.status & 1 != 0 && !matches!(answer, Err(Unanswered::Lost)) {
        dialogue.ask("ROLLBACK").await?.map_err(Unanswered::Refused)?;
    }
    answer
}

/// What the session's server and ours there say.
async fn answers(
    dialogue: &mut Dialogue<'_>,
    (counters, own): (&str, &str),
    counted: &[(&str, &str)],
    desk: &Desk,
    id: u32,
    before: Option<&Memory>,
) -> Result<Memory, Unanswered> {
    let is_mariadb = desk.is_mariadb();
    let mut out = Vec::new();
    for sql in [counters, own] {
        query(&mut out, sql);
    }
    dialogue.say(&out).await?;
    let (counts, own) = (dialogue.rows().await?, dialogue.rows().await?);
    let counts = counts.map_err(Unanswered::Refused)?;
    let own = own.map_err(Unanswered::Refused)?;
    let mut memory = Memory::default();
    read_counts(&counts, counted, &mut memory)
        .ok_or_else(|| Unanswered::Refused("its counters can't be read".into()))?;
    let charsets = read_own(&own, is_mariadb, &mut memory)
        .ok_or_else(|| Unanswered::Refused("its answer can't be read".into()))?;
    if !is_mariadb {
        // A desk that is slow says nothing about the session's own server.
        match tokio::time::timeout(ANSWER_MAX, desk.ties(id)).await.ok().flatten() {
            Some(ties) => {
                if ties.variables {
                    memory.pins.push("user variables".into());
                }
                if ties.named_locks {
                    memory.pins.push("GET_LOCK".into());
                }
                if ties.locks && memory.pins.is_empty() {
                    memory.pins.push("locks of its own".into());
                }
            }
            None => memory.pins.push("what ties it can't be asked (performance_schema)".into()),
        }
    }
    match before {
        Some(before) if before.set == memory.set => memory.variables.clone_from(&before.variables),
        _ if memory.set == 0 => {}
        _ => {
            let shown = dialogue.ask(ASK_VARIABLES).await?.map_err(Unanswered::Refused)?;
            match tokio::time::timeout(ANSWER_MAX, desk.defaults()).await {
                Ok(Ok(defaults)) => match changed(&shown, &defaults) {
                    Some(variables) => memory.variables = variables,
                    None => memory.pins.push("settings that can't be repeated".into()),
                },
                Ok(Err(why)) => memory.pins.push(format!("its server's settings: {why}")),
                Err(_) => memory.pins.push("its server's settings can't be asked".into()),
            }
        }
    }
    memory.variables.extend(charsets);
    Ok(memory)
}

/// Whether the server is still there, and its status.
pub(super) async fn ping(server: &mut RawConnection) -> Result<u16, Unanswered> {
    let answered = async {
        let mut out = Vec::new();
        packets::packet(&mut out, 0, &[0x0e]);
        server.write_all(&out).await?;
        server.flush().await?;
        let packet = Inbox::default().next(server, FULL - 1).await?;
        match (packet.first(), status_of_ok(&packet.body)) {
            (OK, Ok(status)) => Ok(status),
            // Nothing was asked that could fail: it says goodbye.
            _ => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
        }
    };
    match tokio::time::timeout(ANSWER_MAX, answered).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Unanswered::Lost),
    }
}

/// COM_QUERY.
pub(super) fn query(out: &mut Vec<u8>, sql: &str) {
    packets::packet(out, 0, &[b"\x03", sql.as_bytes()].concat());
}

/// A conversation of ours on a session that has nothing under way.
pub(super) struct Dialogue<'a> {
    pub server: &'a mut RawConnection,
    pub inbox: Inbox,
    pub ends_with_ok: bool,
    /// Of the last answer.
    pub status: u16,
}

impl Dialogue<'_> {
    /// Runs one statement. The inner error is the server's.
    pub async fn ask(&mut self, sql: &str) -> io::Result<Result<Vec<Row>, String>> {
        let mut out = Vec::new();
        query(&mut out, sql);
        self.say(&out).await?;
        self.rows().await
    }

    async fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        let said = async {
            self.server.write_all(bytes).await?;
            self.server.flush().await
        };
        in_time(said).await
    }

    /// Reads the answer to a statement.
    pub async fn rows(&mut self) -> io::Result<Result<Vec<Row>, String>> {
        in_time(self.all_rows()).await
    }

    async fn all_rows(&mut self) -> io::Result<Result<Vec<Row>, String>> {
        let first = self.inbox.next(self.server, FULL - 1).await?;
        match first.first() {
            OK => {
                self.status = status_of_ok(&first.body)?;
                return Ok(Ok(Vec::new()));
            }
            ERR => return Ok(Err(refusal(&first.body))),
            _ => {}
        }
        let count = Cursor(&first.body).number().ok_or_else(|| invalid("no number of columns"))?;
        let definitions = count + u64::from(!self.ends_with_ok);
        for _ in 0..definitions {
            self.inbox.next(self.server, FULL - 1).await?;
        }
        let mut rows = Vec::new();
        loop {
            let packet = self.inbox.next(self.server, FULL - 1).await?;
            match packet.first() {
                ERR => return Ok(Err(refusal(&packet.body))),
                EOF if self.ends_with_ok => {
                    self.status = status_of_ok(&packet.body)?;
                    return Ok(Ok(rows));
                }
                EOF if packet.body.len() < 9 => {
                    self.status = status_of_eof(&packet.body)?;
                    return Ok(Ok(rows));
                }
                _ => {
                    let row = columns(&packet.body);
                    rows.push(row.ok_or_else(|| invalid("a row that can't be read"))?);
                }
            }
        }
    }
}

/// What a server may still say after that would end up in the client's conversation, so it is lost.
async fn in_time<T>(what: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(ANSWER_MAX, what).await {
        Ok(result) => result,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

fn refusal(body: &[u8]) -> String {
    let LoginError { what, .. } = LoginError::refused(body);
    let (code, _) = error_of(body);
    tracing::debug!("a session could not be asked: error {code}");
    what
}

fn text(row: &Row, at: usize) -> Option<&str> {
    std::str::from_utf8(row.get(at)?.as_deref()?).ok()
}

fn read_counts(rows: &[Row], counted: &[(&str, &str)], memory: &mut Memory) -> Option<()> {
    let mut found = BTreeMap::new();
    for row in rows {
        found.insert(text(row, 0)?.to_ascii_lowercase(), text(row, 1)?.parse::<u64>().ok()?);
    }
    for (at, (name, meaning)) in counted.iter().enumerate() {
        let count = match found.get(&name.to_ascii_lowercase()) {
            Some(count) => *count,
            // Not every version has the rarer ones.
            None if at >= COUNTED.len() => 0,
            None => return None,
        };
        match *name {
            "Com_set_option" | "Com_set_role" => memory.set += count,
            _ if count > 0 && !memory.pins.iter().any(|pin| pin == meaning) => {
                memory.pins.push((*meaning).to_owned());
            }
            _ => {}
        }
    }
    Some(())
}

/// The character sets, by the names of their variables.
fn read_own(rows: &[Row], is_mariadb: bool, memory: &mut Memory) -> Option<Vec<(String, String)>> {
    let [row] = rows else { return None };
    let decoded = |at: usize| -> Option<Option<String>> {
        match row.get(at)? {
            None => Some(None),
            Some(hex) => Some(Some(String::from_utf8(from_hex(hex)?).ok()?)),
        }
    };
    memory.schema = decoded(0)?;
    if memory.schema.as_ref().is_some_and(|name| !name.is_ascii()) {
        memory.pins.push("a schema with a name that is not ASCII".into());
    }
    if memory.set > 0 {
        // MariaDB gives one name, MySQL what the statement takes.
        memory.role = Some(match (decoded(1)?, is_mariadb) {
            (None, _) => "NONE".to_owned(),
            (Some(role), true) if role == "NONE" => role,
            (Some(role), true) => format!("`{}`", role.replace('`', "``")),
            (Some(role), false) => role,
        });
    }
    memory.last_insert_id = text(row, 2)?.parse().ok()?;
    if text(row, 3)? != "0" {
        memory.pins.push("SET insert_id".into());
    }
    if text(row, 4)? != "1" {
        memory.pins.push("SET timestamp".into());
    }
    let mut charsets = Vec::new();
    for (at, name) in CHARSETS.iter().enumerate() {
        // NULL: results are not converted.
        let value = match row.get(5 + at)? {
            None => "",
            Some(value) => std::str::from_utf8(value).ok()?,
        };
        if !value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return None;
        }
        charsets.push(((*name).to_owned(), value.to_owned()));
    }
    // Our own questions would be answered in part.
    if text(row, 9)?.parse::<u64>().ok()? < ROWS_MIN {
        memory.pins.push("SET sql_select_limit".into());
    }
    if text(row, 10)? != "0" {
        memory.pins.push("user variables".into());
    }
    Some(charsets)
}

fn from_hex(digits: &[u8]) -> Option<Vec<u8>> {
    let digits = std::str::from_utf8(digits).ok()?;
    let pair = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    (0..digits.len()).step_by(2).map(pair).collect()
}

/// Variables that are not as in a session that has set none. `None`: one can't be repeated.
fn changed(rows: &[Row], defaults: &Variables) -> Option<BTreeMap<String, String>> {
    let mut changed = BTreeMap::new();
    for row in rows {
        let (name, value) = (text(row, 0)?, text(row, 1)?);
        // What is the server's only is not among the defaults.
        let is_kept = defaults.contains_key(name) && KEPT.contains(&name);
        let is_changed = is_kept || defaults.get(name).is_some_and(|default| default != value);
        if LEFT_OUT.contains(&name) || !is_changed {
            continue;
        }
        let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        // Backslashes mean something or not, depending on what is being set.
        if !is_name || !value.is_ascii() || value.contains('\\') {
            return None;
        }
        changed.insert(name.to_owned(), value.to_owned());
    }
    // Newer versions of MariaDB have two names for these, older ones only the shorter.
    for (one, other) in
        [("tx_isolation", "transaction_isolation"), ("tx_read_only", "transaction_read_only")]
    {
        if changed.contains_key(one) {
            changed.remove(other);
        }
    }
    Some(changed)
}

impl Memory {
    /// Statements that make another session the same.
    pub fn statements(&self) -> Vec<String> {
        let mut statements = Vec::new();
        if let Some(role) = &self.role {
            statements.push(format!("SET ROLE {role}"));
        }
        if !self.variables.is_empty() {
            let set = |(name, value): (&String, &String)| {
                format!("@@session.{name} = {}", word(name, value))
            };
            let set: Vec<_> = self.variables.iter().map(set).collect();
            statements.push(format!("SET {}", set.join(", ")));
        }
        if self.last_insert_id != 0 {
            statements.push(format!("SET @@session.last_insert_id = {}", self.last_insert_id));
        }
        statements
    }
}

/// A value as `SET` takes it.
fn word(name: &str, value: &str) -> String {
    if value.is_empty() && name.starts_with("character_set") {
        return "NULL".into();
    }
    let is_number = value.parse::<f64>().is_ok() && !value.contains(|c: char| c.is_alphabetic());
    match is_number {
        true => value.to_owned(),
        false => format!("'{}'", value.replace('\'', "''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[&str]) -> Row {
        values.iter().map(|value| Some(value.as_bytes().to_vec())).collect()
    }

    #[test]
    fn what_was_set_is_set_again() {
        let defaults: Variables = [
            ("autocommit", "ON"),
            ("init", ""),
            ("long_query_time", "10.0"),
            ("sql_mode", "STRICT_ALL_TABLES"),
            ("time_zone", "SYSTEM"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        let shown = [
            row(&["autocommit", "OFF"]),
            row(&["gtid_executed", "a:1-7"]),
            row(&["long_query_time", "1.5"]),
            row(&["pseudo_thread_id", "7"]),
            row(&["sql_mode", "STRICT_ALL_TABLES"]),
            row(&["time_zone", "it's"]),
        ];
        let variables = changed(&shown, &defaults).unwrap();
        let memory = Memory { variables, last_insert_id: 9, ..Memory::default() };
        assert_eq!(
            memory.statements(),
            [
                "SET @@session.autocommit = 'OFF', @@session.long_query_time = 1.5, @@session.sql_mode = 'STRICT_ALL_TABLES', \
                 @@session.time_zone = 'it''s'",
                "SET @@session.last_insert_id = 9"
            ]
        );
        assert_eq!(changed(&[row(&["init", "a\\b"])], &defaults), None);
    }

    #[test]
    fn character_sets_always_go_along() {
        let mut own: Row = row(&["73", "4e4f4e45", "0", "0", "1"]);
        own.extend(row(&["latin1", "utf8mb4", "", "utf8mb4_bin", "18446744073709551615", "0"]));
        own[7] = None;
        let mut memory = Memory::default();
        let charsets = read_own(&[own.clone()], true, &mut memory).unwrap();
        assert!(memory.pins.is_empty());
        memory.variables.extend(charsets);
        assert_eq!(
            memory.statements(),
            ["SET @@session.character_set_client = 'latin1', \
              @@session.character_set_connection = 'utf8mb4', \
              @@session.character_set_results = NULL, \
              @@session.collation_connection = 'utf8mb4_bin'"]
        );
        // What cuts our questions short leaves nothing to go by.
        own[9] = Some(b"20".to_vec());
        read_own(&[own.clone()], true, &mut memory).unwrap();
        assert_eq!(memory.pins, ["SET sql_select_limit"]);
        own[8] = Some(b"x'y".to_vec());
        assert_eq!(read_own(&[own], true, &mut memory), None);
    }

    #[test]
    fn a_counter_that_is_missing_is_no_zero() {
        let counted = COUNTED.iter().chain(&COUNTED_MYSQL).copied().collect::<Vec<_>>();
        let mut rows: Vec<Row> = COUNTED.iter().map(|(name, _)| row(&[name, "0"])).collect();
        let mut memory = Memory::default();
        assert_eq!(read_counts(&rows, &counted, &mut memory), Some(()));
        assert_eq!(memory, Memory::default());
        rows[1] = row(&["Com_create_table", "2"]);
        read_counts(&rows, &counted, &mut memory).unwrap();
        assert_eq!(memory.pins, ["temporary tables"]);
        assert_eq!(read_counts(&rows[1..], &counted, &mut memory), None);
    }
}
