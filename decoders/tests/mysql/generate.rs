//! Random tables with random values, decoded and selected. `SEED=n` repeats one, `ROUNDS=n` makes
//! more of them.

use tests::mysql::{Mysql, Version};

use super::oracle;
use super::random::Random;

const ROWS: usize = 12;

/// A column's type and something that makes literals for it.
struct Column {
    sql: String,
    value: Box<dyn Fn(&mut Random) -> String>,
}

fn column(sql: impl Into<String>, value: impl Fn(&mut Random) -> String + 'static) -> Column {
    Column { sql: sql.into(), value: Box::new(value) }
}

fn hex(bytes: &[u8]) -> String {
    format!("x'{}'", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

fn text(random: &mut Random, most: usize) -> String {
    let alphabet: Vec<char> =
        "aZ09 ~\t\n\\'\"%_-é€ßЖдあ漢字한𝄞😀\u{0}\u{7f}\u{80}".chars().collect();
    (0..random.below(most + 1)).map(|_| *random.pick(&alphabet)).collect()
}

fn integer(random: &mut Random) -> Column {
    let widths = [("tinyint", 8), ("smallint", 16), ("mediumint", 24), ("int", 32), ("bigint", 64)];
    let (name, bits) = *random.pick(&widths);
    if random.one_in(2) {
        return column(format!("{name} unsigned"), move |random| {
            (random.number() >> (64 - bits).min(random.below(65 - bits)))
                .min(u64::MAX >> (64 - bits))
                .to_string()
        });
    }
    column(name, move |random| ((random.number() << (64 - bits)) as i64 >> (64 - bits)).to_string())
}

fn decimal(random: &mut Random) -> Column {
    let scale = random.below(31);
    let precision = scale.max(1) + random.below(66 - scale.max(1));
    column(format!("decimal({precision},{scale})"), move |random| {
        let digits = |random: &mut Random, most: usize| -> String {
            let zeros = random.one_in(3);
            (0..most)
                .map(|_| if zeros { '0' } else { char::from(b'0' + random.below(10) as u8) })
                .collect()
        };
        let whole = precision - scale;
        let whole = random.below(whole + 1);
        let sign = if random.one_in(2) { "-" } else { "" };
        format!("{sign}0{}.{}", digits(random, whole), digits(random, scale) + "0")
    })
}

fn float(random: &mut Random) -> Column {
    if random.one_in(2) {
        return column("float", |random| {
            loop {
                let number = f32::from_bits(random.bits() as u32);
                if number.is_normal() {
                    return format!("{number:e}");
                }
            }
        });
    }
    column("double", |random| {
        loop {
            let any = f64::from_bits(random.bits());
            let number = if random.one_in(2) { any } else { random.number() as f64 / 1024.0 };
            if number.is_normal() {
                return format!("{number:e}");
            }
        }
    })
}

fn time(random: &mut Random) -> Column {
    let digits = random.below(7);
    match random.below(6) {
        0 => column("year", |random| random.pick(&[0, 1901, 1999, 2024, 2155]).to_string()),
        1 => column("date", |random| {
            format!("'{:04}-{:02}-{:02}'", random.below(10_000), random.below(13), random.below(29))
        }),
        2 => column(format!("time({digits})"), move |random| {
            let sign = if random.one_in(2) { "-" } else { "" };
            let hours = if random.one_in(3) { 0 } else { random.below(838) };
            let (minutes, seconds) = (random.below(60), random.below(60));
            let minutes = if random.one_in(3) { 0 } else { minutes };
            format!("'{sign}{hours:02}:{minutes:02}:{seconds:02}.{:06}'", random.below(1_000_000))
        }),
        3 | 4 => column(format!("datetime({digits})"), move |random| {
            let (year, month, day) = (random.below(9999), random.below(13), random.below(29));
            let (hour, minute, second) = (random.below(24), random.below(60), random.below(59));
            let micros = random.below(1_000_000);
            format!("'{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{micros:06}'")
        }),
        _ => column(format!("timestamp({digits}) null"), move |random| {
            format!("from_unixtime({}.{:06})", random.below(0x7FFF_FFFE) + 1, random.below(999_999))
        }),
    }
}

fn characters(random: &mut Random, version: Version) -> Column {
    let mut charsets = vec![
        "latin1", "utf8mb3", "utf8mb4", "cp1251", "koi8r", "cp850", "greek", "hebrew", "ucs2",
        "utf16", "utf32", "latin2", "cp1257", "tis620", "macroman", "ascii", "utf16le",
    ];
    if version.is_mariadb() {
        charsets.push("utf8mb4 collate utf8mb4_nopad_bin");
    }
    let charset = *random.pick(&charsets);
    let kind = match random.below(7) {
        0 => format!("char({})", 1 + random.below(255)),
        1 => format!("varchar({})", 1 + random.below(255)),
        2 => format!("varchar({})", 1 + random.below(1000)),
        3 => "tinytext".into(),
        4 => "text".into(),
        5 => "mediumtext".into(),
        _ => "longtext".into(),
    };
    column(format!("{kind} character set {charset}"), |random| {
        let text = text(random, 30);
        format!("_utf8mb4 {}", hex(text.as_bytes()))
    })
}

fn binary(random: &mut Random) -> Column {
    match random.below(6) {
        0 => column(format!("binary({})", 1 + random.below(255)), |random| hex(&random.bytes(30))),
        1 => column(format!("varbinary({})", 1 + random.below(1000)), |random| {
            hex(&random.bytes(300))
        }),
        2 => column("blob", |random| hex(&random.bytes(700))),
        3 => column("tinyblob", |random| hex(&random.bytes(255))),
        4 => column("longblob", |random| hex(&random.bytes(70_000))),
        _ => {
            let bits = 1 + random.below(64);
            column(format!("bit({bits})"), move |random| {
                format!("b'{:b}'", random.number() >> (64 - bits))
            })
        }
    }
}

fn labels(random: &mut Random) -> Column {
    let all = ["a", "b", "ä", "x y", "it''s", "É", "q\"", "", "1", "ñ"];
    let count = 1 + random.below(all.len());
    let list = all[..count].join("','");
    let charset = *random.pick(&["utf8mb4", "latin1", "cp850", "ucs2"]);
    match random.one_in(2) {
        true => column(format!("enum('{list}') character set {charset}"), move |random| {
            (1 + random.below(count)).to_string()
        }),
        // A SET whose member is the empty text can't tell it from no member.
        false => column(
            format!("set('{}') character set {charset}", all[..count.min(7)].join("','")),
            move |random| random.below(1 << count.min(7)).to_string(),
        ),
    }
}

fn json(random: &mut Random, depth: usize) -> String {
    let scalars = 9;
    let quoted = |random: &mut Random| {
        let text = text(random, 12);
        format!(
            "cast({} as char character set utf8mb4)",
            format_args!("_utf8mb4 {}", hex(text.as_bytes()))
        )
    };
    match random.below(scalars + if depth < 4 { 4 } else { 0 }) {
        0 => "null".into(),
        1 => "cast('true' as json)".into(),
        2 => (random.number() as i64).to_string(),
        3 => random.number().to_string(),
        4 => format!("{:e}", random.number() as f64 / 4096.0),
        5 => format!("cast({} as decimal(40,{}))", random.number() as i64, random.below(20)),
        6 => format!("cast('{}' as datetime(6))", "2024-02-29 12:34:56.789012"),
        7 => hex(&random.bytes(20)),
        8 => quoted(random),
        9 | 10 => {
            let items: Vec<_> = (0..random.below(6)).map(|_| json(random, depth + 1)).collect();
            format!("json_array({})", items.join(","))
        }
        _ => {
            let members = (0..random.below(6))
                .map(|_| format!("{},{}", quoted(random), json(random, depth + 1)));
            format!("json_object({})", members.collect::<Vec<_>>().join(","))
        }
    }
}

fn special(random: &mut Random, version: Version) -> Column {
    if version == Version::Mysql9_7 {
        return match random.below(3) {
            0 => column("vector", |random| {
                let floats =
                    (0..1 + random.below(8)).map(|_| format!("{}", random.below(100) as f32 / 8.0));
                format!("to_vector('[{}]')", floats.collect::<Vec<_>>().join(","))
            }),
            _ => column("json", |random| format!("json_array({})", json(random, 0))),
        };
    }
    let uuid = |random: &mut Random| {
        let digits = format!("{:016x}{:016x}", random.bits(), random.bits());
        format!(
            "'{}-{}-{}-{}-{}'",
            &digits[..8],
            &digits[8..12],
            &digits[12..16],
            &digits[16..20],
            &digits[20..]
        )
    };
    match random.below(if version == Version::Mariadb11_8 { 6 } else { 4 }) {
        0 => column("uuid", uuid),
        1 => column("inet6", |random| {
            let group = |random: &mut Random| match random.one_in(2) {
                true => "0".to_owned(),
                false => format!("{:x}", random.bits() as u16),
            };
            let groups: Vec<_> = (0..8).map(|_| group(random)).collect();
            format!("'{}'", groups.join(":"))
        }),
        2 => column("varchar(500) compressed", |random| {
            format!("_utf8mb4 {}", hex(text(random, 400).as_bytes()))
        }),
        3 => column("blob compressed", |random| hex(&random.bytes(2000))),
        4 => column("inet4", |random| {
            let [a, b, c, d] = (random.number() as u32).to_be_bytes();
            format!("'{a}.{b}.{c}.{d}'")
        }),
        _ => column("vector(2)", |random| {
            format!("vec_fromtext('[{},{}]')", random.below(100), random.below(9) as f32 / 8.0)
        }),
    }
}

fn any(random: &mut Random, version: Version) -> Column {
    match random.below(9) {
        0 => integer(random),
        1 => decimal(random),
        2 => float(random),
        3 | 4 => time(random),
        5 => characters(random, version),
        6 => binary(random),
        7 => labels(random),
        _ => special(random, version),
    }
}

/// Statements that make, fill and change `t.<name>`.
fn table(random: &mut Random, version: Version, name: &str) -> String {
    let columns: Vec<Column> = (0..1 + random.below(20)).map(|_| any(random, version)).collect();
    let definitions =
        columns.iter().enumerate().map(|(at, column)| format!("c{at} {}", column.sql));
    let definitions: Vec<String> = definitions.collect();
    let mut sql = format!(
        "create table {name}(id int primary key, {}) row_format=dynamic;\n",
        definitions.join(", ")
    );
    let value = |random: &mut Random, at: usize| match random.one_in(6) {
        true => "null".to_owned(),
        false => (columns[at].value)(random),
    };
    for id in 0..ROWS {
        let values: Vec<String> = (0..columns.len()).map(|at| value(random, at)).collect();
        sql += &format!("insert into {name} values ({id}, {});\n", values.join(", "));
    }
    for _ in 0..ROWS / 2 {
        let (at, id) = (random.below(columns.len()), random.below(ROWS));
        sql += &format!("update {name} set c{at} = {} where id = {id};\n", value(random, at));
    }
    sql + &format!("delete from {name} where id = {};\n", random.below(ROWS))
}

fn seeds() -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("ROUNDS").unwrap_or(40)).collect(),
    }
}

fn decodes_to_what_is_selected(version: Version, options: &[&str]) {
    let server = Mysql::start(version, options).unwrap();
    server.run("create database t").unwrap();
    let names: Vec<(u64, String)> =
        seeds().into_iter().map(|seed| (seed, format!("t{seed}"))).collect();
    let mut sql = "use t; set sql_mode = ''; set innodb_strict_mode = off;\n".to_owned();
    for (seed, name) in &names {
        sql += &table(&mut Random::new(*seed), version, name);
    }
    server.run(&sql).unwrap();
    let names: Vec<&str> = names.iter().map(|(_, name)| name.as_str()).collect();
    oracle::check(&server, &names);
}

#[test]
fn random_tables_of_mariadb_10_11() {
    decodes_to_what_is_selected(Version::Mariadb10_11, &[]);
}

#[test]
fn random_tables_of_mariadb_10_11_without_metadata_and_compressed() {
    let options =
        ["--binlog-row-metadata=NO_LOG", "--log-bin-compress=ON", "--log-bin-compress-min-len=10"];
    decodes_to_what_is_selected(Version::Mariadb10_11, &options);
}

#[test]
fn random_tables_of_mariadb_11_8() {
    decodes_to_what_is_selected(Version::Mariadb11_8, &[]);
}

#[test]
fn random_tables_of_mysql_9_7() {
    decodes_to_what_is_selected(Version::Mysql9_7, &[]);
}

#[test]
fn random_tables_of_mysql_9_7_compressed_with_minimal_metadata() {
    let options = ["--binlog-row-metadata=MINIMAL", "--binlog-transaction-compression=ON"];
    decodes_to_what_is_selected(Version::Mysql9_7, &options);
}
