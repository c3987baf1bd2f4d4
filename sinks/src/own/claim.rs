//! A mark of ours in the log of a MySQL or MariaDB server: it says which lane's transaction follows, and which
//! number that has among the lane's, with a proof that holds for nothing else.

use ring::hmac;

use super::Secret;

const PROOF_BYTES: usize = 16;

/// What a mark claims.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claim {
    /// The lane that wrote it.
    pub lane: u16,
    /// Grows with each transaction of the lane.
    pub number: u64,
    proof: [u8; PROOF_BYTES],
}

impl Claim {
    /// A claim that [`Claim::is_proven`].
    pub fn make(secret: &Secret, pipeline: &str, lane: u16, number: u64) -> Self {
        let tag = hmac::sign(&key(secret), &said(pipeline, lane, number));
        let mut proof = [0; PROOF_BYTES];
        proof.copy_from_slice(&tag.as_ref()[..PROOF_BYTES]);
        Self { lane, number, proof }
    }

    /// As it is stored: words without spaces in them.
    pub fn words(&self) -> String {
        format!("{} {} {}", self.lane, self.number, Secret(self.proof).hex())
    }

    /// Of what a decoder says: the words, a space, and the pipeline's name, which is given back.
    pub fn read(content: &[u8]) -> Option<(Self, &[u8])> {
        let mut words = content.splitn(4, |byte| *byte == b' ');
        let mut word = || words.next();
        let (lane, number, proof) = (word()?, word()?, word()?);
        let text = |bytes| std::str::from_utf8(bytes).ok();
        let claim = Self {
            lane: text(lane)?.parse().ok()?,
            number: text(number)?.parse().ok()?,
            proof: Secret::of_hex(proof)?.0,
        };
        Some((claim, word()?))
    }

    /// Whether only who knows the secret can have made it.
    pub fn is_proven(&self, secret: &Secret, pipeline: &str) -> bool {
        let made = Self::make(secret, pipeline, self.lane, self.number);
        Secret(made.proof) == Secret(self.proof)
    }
}

fn key(secret: &Secret) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secret.bytes())
}

fn said(pipeline: &str, lane: u16, number: u64) -> Vec<u8> {
    format!("mark {lane} {number} {pipeline}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_proven_for_its_own_words_alone() {
        let secret = Secret::random();
        let made = Claim::make(&secret, "it's a shop", 3, 17);
        let content = format!("{} it's a shop", made.words());
        let (read, pipeline) = Claim::read(content.as_bytes()).unwrap();
        assert_eq!((&read, pipeline), (&made, &b"it's a shop"[..]));
        assert!(read.is_proven(&secret, "it's a shop"));
        assert!(!read.is_proven(&secret, "shop"));
        assert!(!read.is_proven(&Secret::random(), "it's a shop"));
        assert!(!Claim { number: 18, ..read.clone() }.is_proven(&secret, "it's a shop"));
        assert!(!Claim { lane: 2, ..read }.is_proven(&secret, "it's a shop"));
    }

    #[test]
    fn what_is_no_claim_is_none() {
        for content in ["", "1 2 3 shop", "x 1 00000000000000000000000000000000 shop", "shop"] {
            assert_eq!(Claim::read(content.as_bytes()), None, "{content:?}");
        }
        // No name.
        assert_eq!(Claim::read(b"1 2 00000000000000000000000000000000"), None);
    }
}
