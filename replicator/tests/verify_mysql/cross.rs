//! From one family to the other, as far as types exist on both.

use anyhow::{Context, Result, ensure};
use cutover::verify::VerifyRequest;
use tests::mysql::Version;

use super::rows::TYPES;
use super::servers::pair;
use super::support::{EXACT, found, is_equal, request, verify};

const DOCS: &str = "use t; create table docs (id int primary key, j json, f float, g double);
insert into docs values (1, '{\"b\": [1.0, 2.50, -0.0, 1e5, 18446744073709551615],  \"a\" : null}', -1e-30, 1e22),
  (2, '\"\\\\u00e4\\\\/\"', 1.1e-38, 5e-324), (3, null, null, null), (4, '[]', 3e38, 0.1), (5, '{}', 16777217, 9007199254740993);
create table loose_docs (j json, f float); insert into loose_docs select j, f from docs; insert into loose_docs select j, f from docs;
";

/// What MySQL 9.7 makes of `-0e0`, MariaDB 10.11.19 and 11.8.9 store as 0.
const NO_NEGATIVE_ZERO: &str =
    "update t.numbers set f = 0 where f = 0; update t.numbers set g = 0 where g = 0;";

/// A DOUBLE is printed in another way there, and JSON is kept as text.
#[tokio::test(flavor = "multi_thread")]
async fn both_families_are_compared_value_by_value() -> Result<()> {
    for versions in
        [(Version::Mysql9_7, Version::Mariadb11_8), (Version::Mariadb11_8, Version::Mysql9_7)]
    {
        let (blue, green) = pair(versions)?;
        for server in [&blue, &green] {
            server.run(TYPES)?;
            server.run(DOCS)?;
            server.run(NO_NEGATIVE_ZERO)?;
        }
        let asked = |mode| VerifyRequest { rows_only: true, ..request(mode) };
        for mode in EXACT {
            let report = verify(&blue, &green, asked(mode)).await?;
            is_equal(&report).with_context(|| format!("{versions:?} {mode:?}"))?;
        }
        green.run(
            "use t; replace into docs values (1, '{\"b\": [1, 2.50, -0.0, 1e5, 18446744073709551615],  \"a\" : null}', -1e-30, 1e22);
             update docs set f = 1.1000002e-38 where id = 2; update docs set g = 0.10000000000000002 where id = 4;
             update loose_docs set j = '[1]' where j = json_array() or j = '[]'",
        )?;
        for mode in EXACT {
            let report = verify(&blue, &green, asked(mode)).await?;
            let docs = ["different [1] j 1:1", "different [2] f 1:1", "different [4] g 1:1"];
            assert_eq!(found(&report, "docs"), docs, "{versions:?} {mode:?}");
            assert_eq!(found(&report, "loose_docs"), ["extra []  0:2", "missing []  2:0"]);
            ensure!(report.differences == 5);
        }
    }
    Ok(())
}
