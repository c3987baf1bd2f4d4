//! The signature of a request: it was written by who knows the secret, and not long ago.

use std::time::{SystemTime, UNIX_EPOCH};

use ring::hmac;

/// `t=SECONDS,v1=HEX` for a body that is sent now. SECONDS count from the Unix epoch.
pub(super) fn now(secret: &[u8], body: &[u8]) -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    at(since.as_secs(), secret, body)
}

fn at(seconds: u64, secret: &[u8], body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let mut signing = hmac::Context::with_key(&key);
    signing.update(format!("{seconds}.").as_bytes());
    signing.update(body);
    let hex: String = signing.sign().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={seconds},v1={hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_implementation_signs_the_same() {
        // printf '%s' '1700000000.{"a":1}' | openssl dgst -sha256 -hmac secret
        assert_eq!(
            at(1_700_000_000, b"secret", b"{\"a\":1}"),
            "t=1700000000,v1=49f24e537407743fa4a0242bb63b94b9a47ee99cbbe071ccd8a22550ae411686"
        );
    }
}
