//! Numbers to fill tables with, in SQL that MySQL and MariaDB share.

/// A derived table `numbers` with the numbers from 1 to `count` in its column `n`; at most ten million.
pub fn numbers(count: u64) -> String {
    let digit = "select 0 d union all select 1 union all select 2 union all select 3 union all \
                 select 4 union all select 5 union all select 6 union all select 7 union all \
                 select 8 union all select 9";
    let places = count.max(1).ilog10() + 1;
    let terms: Vec<String> =
        (0..places).map(|place| format!("d{place}.d * {}", 10_u64.pow(place))).collect();
    let tables: Vec<String> = (0..places).map(|place| format!("({digit}) d{place}")).collect();
    let all = format!("select 1 + {} n from {}", terms.join(" + "), tables.join(", "));
    format!("(select n from ({all}) every where n <= {count}) numbers")
}
