//! What green's catalog says of the objects of a schema change.

use decoders::change::Definition;
use decoders::mysql::server::{code, identifier};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};

use crate::mysql::error::target_error;
use crate::target::TargetError;

/// No such table, or no such database.
const ABSENT: [u16; 2] = [1146, 1049];
/// A view whose tables are gone.
const BROKEN_VIEW: u16 = 1356;

/// Their definitions, as the server writes them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Shape {
    pub text: String,
    /// None of them is there.
    pub is_all_absent: bool,
}

impl Shape {
    pub(super) async fn read(
        conn: &mut Conn,
        definition: &Definition,
    ) -> Result<Shape, TargetError> {
        let tables = definition.objects.iter().map(|name| {
            let name = format!("{}.{}", identifier(&name.schema), identifier(&name.name));
            (format!("SHOW CREATE TABLE {name}"), name)
        });
        let databases = definition.databases.iter().map(|name| {
            let name = identifier(name);
            (format!("SHOW CREATE DATABASE {name}"), name)
        });
        let mut shape = Shape { text: String::new(), is_all_absent: true };
        for (sql, name) in tables.chain(databases) {
            let row: Result<Option<Row>, _> = conn.query_first(sql).await;
            let shown = match row {
                Ok(row) => row.and_then(|row| row.get_opt::<String, _>(1)?.ok()),
                Err(error) if code(&error).is_some_and(|code| ABSENT.contains(&code)) => None,
                Err(error) if code(&error) == Some(BROKEN_VIEW) => Some("broken".to_owned()),
                Err(error) => {
                    let doing = format!("reading the definition of {name} on green");
                    return Err(target_error(doing, error));
                }
            };
            shape.is_all_absent &= shown.is_none();
            let shown = shown.map_or("absent".to_owned(), |shown| without_counter(&shown));
            shape.text.push_str(&format!("{name}: {shown}\n"));
        }
        Ok(shape)
    }
}

/// Without the next number of AUTO_INCREMENT: it moves with rows.
fn without_counter(shown: &str) -> String {
    const COUNTER: &str = " AUTO_INCREMENT=";
    let mut parts = shown.split(COUNTER);
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_no_part_of_a_definition() {
        let shown = "CREATE TABLE `t` (\n `id` int AUTO_INCREMENT\n) ENGINE=InnoDB AUTO_INCREMENT=42 CHARSET=x";
        let kept = "CREATE TABLE `t` (\n `id` int AUTO_INCREMENT\n) ENGINE=InnoDB CHARSET=x";
        assert_eq!(without_counter(shown), kept);
        assert_eq!(without_counter(kept), kept);
    }
}
