//! Numbers that derive from the seed and from what they are for, so that no choice depends on how
//! many were made before it.

/// SplitMix64.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// For one purpose. FNV-1a over the parts gives the state.
    pub fn of(seed: u64, purpose: &str, number: u64) -> Random {
        let parts = seed.to_le_bytes().into_iter().chain(purpose.bytes());
        let state = parts.chain(number.to_le_bytes()).fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
        });
        Random(state)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 on, below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// One of the range, the end included.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    pub fn shuffle<T>(&mut self, all: &mut [T]) {
        for at in (1..all.len()).rev() {
            let other = self.below(at as u64 + 1) as usize;
            all.swap(at, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn purposes_do_not_share_their_numbers() {
        let mut one = Random::of(1, "deck", 0);
        assert_eq!(one.next(), Random::of(1, "deck", 0).next());
        assert_ne!(Random::of(1, "deck", 0).next(), Random::of(1, "pair", 0).next());
        assert_ne!(Random::of(1, "deck", 0).next(), Random::of(2, "deck", 0).next());
        let mut all: Vec<_> = (0..50).collect();
        one.shuffle(&mut all);
        assert_ne!(all, (0..50).collect::<Vec<_>>());
        all.sort_unstable();
        assert_eq!(all, (0..50).collect::<Vec<_>>());
    }
}
