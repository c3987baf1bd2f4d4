//! Whether each column of green takes what blue's holds, or may be given later: types, lengths, labels,
//! and the years that a TIMESTAMP reaches. On a way back blue is the newer server and green the older one.

use decoders::mysql::catalog::{ColumnInfo, TableInfo};
use decoders::mysql::server::{Server, identifier};
use decoders::mysql::{SourceType, labels};

use super::super::finding::{Finding, Fix, Side, count};
use super::BinlogCheckRequest;
use super::facts::SideFacts;
use super::tables::quoted;

/// From here on a TIMESTAMP of MariaDB reaches 2106 (release notes of 11.5.1).
const LONG_TIMESTAMPS: (u16, u16, u16) = (11, 5, 0);

pub(super) fn evaluate(
    request: &BinlogCheckRequest,
    blue: &SideFacts,
    green: &SideFacts,
) -> Vec<Finding> {
    let Ok(tables) = &blue.tables else { return Vec::new() };
    let mut findings = Vec::from_iter(timestamps(&blue.server, &green.server, tables));
    // What we make ourselves is made as on blue.
    if let Ok(there) = &green.tables
        && request.schema_exists
    {
        let pairs: Vec<(&TableInfo, &TableInfo)> = tables
            .iter()
            .filter_map(|table| Some((table, there.iter().find(|other| other.name == table.name)?)))
            .collect();
        findings.push(unfit(&pairs));
        findings.extend(narrower(&pairs));
    }
    findings
}

fn column_name(table: &TableInfo, column: &ColumnInfo) -> String {
    format!("{}.{}", quoted(table), identifier(&column.name))
}

fn timestamps(blue: &Server, green: &Server, tables: &[TableInfo]) -> Option<Finding> {
    let reaches_far = |server: &Server| server.is_mariadb() && server.number >= LONG_TIMESTAMPS;
    let summary = match (reaches_far(blue), reaches_far(green)) {
        (false, true) => {
            "green takes TIMESTAMPs up to 2106, blue only up to 2038-01-19: after the cutover a row with a \
             later one would stop the way back"
        }
        (true, false) => {
            "blue takes TIMESTAMPs up to 2106, green only up to 2038-01-19: a row with a later one would \
             stop the stream"
        }
        _ => return None,
    };
    let of_table = |table| {
        let stamps = |column: &&ColumnInfo| column.data_type == "timestamp";
        let columns = TableInfo::copied_columns(table).filter(stamps);
        columns.map(move |column| column_name(table, column))
    };
    let found: Vec<String> = tables.iter().flat_map(of_table).collect();
    (!found.is_empty()).then(|| {
        Finding::warning("timestamps-2038", Side::Both, summary)
            .evidence(format!("{}; {blue}, {green}", count(found.len(), "column")))
            .objects(found)
            .fix(Fix::advice(
                "keep later times out of these columns as long as there may be a way back, or make them \
                 DATETIME on both sides",
            ))
    })
}

/// What stops the stream at the first row, whatever is in it.
fn unfit(pairs: &[(&TableInfo, &TableInfo)]) -> Finding {
    let found: Vec<String> =
        pairs.iter().flat_map(|(table, there)| reasons(table, there)).collect();
    if found.is_empty() {
        return Finding::ok("columns", Side::Both, "green's columns take the types of blue's");
    }
    Finding::blocker(
        "columns",
        Side::Green,
        "columns are missing on green, or would give back other values than blue's: the first row stops \
         the stream",
    )
    .evidence(count(found.len(), "column"))
    .objects(found)
    .fix(Fix::advice("give green's tables blue's columns, with blue's types"))
}

fn reasons(table: &TableInfo, there: &TableInfo) -> Vec<String> {
    let of_column = |column: &ColumnInfo| {
        let name = column_name(table, column);
        let Some(other) = there.column(&column.name) else {
            return Some(format!("{name} is missing"));
        };
        let source = SourceType::of_catalog(column)?;
        let fits = other.generated.is_some() || source.fits(other);
        (!fits).then(|| format!("{name}: {} for {}", other.column_type, column.column_type))
    };
    let needed = |column: &&ColumnInfo| {
        let fills_itself = column.default.is_some()
            || column.generated.is_some()
            || column.auto_increment
            || column.nullable;
        !fills_itself && table.column(&column.name).is_none()
    };
    let unfillable = there.columns.iter().filter(needed);
    let unfillable =
        unfillable.map(|column| format!("{} has no default", column_name(there, column)));
    table.columns.iter().filter_map(of_column).chain(unfillable).collect()
}

/// What stops the stream at a row whose value does not fit.
fn narrower(pairs: &[(&TableInfo, &TableInfo)]) -> Option<Finding> {
    let found: Vec<String> = pairs
        .iter()
        .flat_map(|(table, there)| {
            table.copied_columns().filter_map(|column| {
                let why = narrower_in(column, there.column(&column.name)?)?;
                Some(format!("{} {why}", column_name(table, column)))
            })
        })
        .collect();
    (!found.is_empty()).then(|| {
        Finding::warning(
            "narrower-columns",
            Side::Green,
            "green's columns don't take every value that blue's do: a row with another one would stop the \
             stream",
        )
        .evidence(count(found.len(), "column"))
        .objects(found)
        .fix(Fix::advice("make green's columns as wide as blue's"))
    })
}

fn narrower_in(column: &ColumnInfo, there: &ColumnInfo) -> Option<String> {
    if column.nullable && !there.nullable {
        return Some("may not be NULL there".to_owned());
    }
    if there.is_unsigned() && !column.is_unsigned() {
        return Some("takes no negative numbers there".to_owned());
    }
    if let (Some(length), Some(most)) = (longest(column), longest(there))
        && most < length
    {
        return Some(format!("is {} there, {} here", there.column_type, column.column_type));
    }
    if let (Some(used), Some(known)) = (labels(&column.column_type), labels(&there.column_type))
        && used.iter().any(|label| !known.contains(label))
    {
        return Some("lacks labels there".to_owned());
    }
    let all = |charset: &str| charset == "utf8mb4";
    match (&column.charset, &there.charset) {
        (Some(one), Some(other)) if one != other && !all(other) && one != "ascii" => {
            Some(format!("is in {other} there, in {one} here"))
        }
        _ => None,
    }
}

/// The longest value of a text or of bytes, in whatever its length is counted.
fn longest(column: &ColumnInfo) -> Option<u64> {
    Some(match column.data_type.as_str() {
        "char" | "varchar" | "binary" | "varbinary" => {
            let (_, rest) = column.column_type.split_once('(')?;
            rest.split_once(')')?.0.parse().ok()?
        }
        "tinytext" | "tinyblob" => u8::MAX.into(),
        "text" | "blob" => u16::MAX.into(),
        "mediumtext" | "mediumblob" => (1 << 24) - 1,
        "longtext" | "longblob" => u32::MAX.into(),
        _ => return None,
    })
}
