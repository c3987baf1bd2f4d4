//! 128 random bits that only we know.

use std::fmt;

use ring::rand::{SecureRandom as _, SystemRandom};
use subtle::ConstantTimeEq as _;

/// What a mark has to hold to be believed. Never shown; compared in constant time.
#[derive(Clone, Copy)]
pub struct Secret(pub(super) [u8; 16]);

impl Secret {
    pub(super) const HEX_BYTES: usize = 32;

    /// A new one, from the operating system.
    ///
    /// # Panics
    /// If the operating system has no random numbers.
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        SystemRandom::new().fill(&mut bytes).expect("the operating system's random numbers");
        Self(bytes)
    }

    /// As it is stored.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Of what is stored; `None` if that is not one.
    pub fn of_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub(super) fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub(super) fn of_hex(hex: &[u8]) -> Option<Self> {
        let hex = std::str::from_utf8(hex).ok().filter(|hex| hex.len() == Self::HEX_BYTES)?;
        let mut bytes = [0; 16];
        for (at, byte) in bytes.iter_mut().enumerate() {
            let digits = hex.get(2 * at..2 * at + 2)?;
            if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return None;
            }
            *byte = u8::from_str_radix(digits, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_survives_its_text_and_is_never_printed() {
        let secret = Secret::random();
        assert_eq!(Secret::of_hex(secret.hex().as_bytes()), Some(secret));
        assert_eq!(Secret::of_bytes(secret.bytes()), Some(secret));
        assert_ne!(Secret::random(), secret);
        assert!(!format!("{secret:?}").contains(&secret.hex()));
    }

    #[test]
    fn what_is_no_secret_is_none() {
        assert_eq!(Secret::of_hex(b"+f00000000000000000000000000000f"), None);
        assert_eq!(Secret::of_hex(b"00"), None);
        assert_eq!(Secret::of_bytes(&[0; 15]), None);
    }
}
