//! Which chunks a sample takes, and what it is worth.

/// The seed of one table: each draws for itself, or a sample would take the same numbers of all.
pub fn seed_of(seed: u64, table: &str) -> u64 {
    table.bytes().fold(mixed(seed), |seed, byte| mixed(seed ^ u64::from(byte)))
}

/// Whether a sample of `percent` takes chunk `number` of a table. The choice is the same for the
/// same seed, and independent from chunk to chunk. The first chunk is always taken, so that no
/// table goes without a look; it is not drawn, so it says nothing about the others.
pub fn takes(seed: u64, number: u64, percent: f64) -> bool {
    let drawn = mixed(seed ^ mixed(number)) as f64 / u64::MAX as f64;
    number == 0 || drawn * 100.0 < percent
}

/// SplitMix64's finalizer.
fn mixed(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The smallest damaged part of all chunks but the first of each table that so many drawn ones would
/// have hit with a probability of 95 %: `1 - 0.05^(1/n)`, and 0 if everything was taken.
pub fn bound_95(taken: u64, in_all: u64) -> Option<f64> {
    match taken {
        _ if taken >= in_all => Some(0.0),
        0 => None,
        taken => Some(1.0 - 0.05_f64.powf(1.0 / taken as f64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_takes_about_as_much_as_asked_for() {
        let taken = (1..100_001).filter(|number| takes(7, *number, 5.0)).count();
        assert!((4_700..5_300).contains(&taken), "{taken}");
        assert!(takes(7, 0, 0.0) && !takes(7, 1, 0.0) && (0..999).all(|n| takes(7, n, 100.0)));
    }

    #[test]
    fn tables_draw_for_themselves() {
        let drawn = |table: &str| -> Vec<u64> {
            let seed = seed_of(7, table);
            (1..2_000).filter(|number| takes(seed, *number, 10.0)).collect()
        };
        let (one, other) = (drawn("\"s\".\"a\""), drawn("\"s\".\"b\""));
        assert_eq!(one, drawn("\"s\".\"a\""));
        let both = one.iter().filter(|number| other.contains(number)).count();
        // Of about 200 each a tenth.
        assert!((5..50).contains(&both) && one.len() > 120, "{both} of {}", one.len());
    }

    #[test]
    fn the_bound_is_the_rule_of_three() {
        assert_eq!((bound_95(0, 9), bound_95(9, 9)), (None, Some(0.0)));
        assert_eq!(bound_95(0, 0), Some(0.0), "nothing was left to be drawn");
        let bound = bound_95(300, 100_000).unwrap();
        assert!((0.0098..0.0102).contains(&bound), "{bound}");
    }
}
