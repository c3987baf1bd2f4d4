//! Connection parameters that are one word of a few.

use std::fmt;
use std::str::FromStr;

use super::parameters::ConnInfoError;

macro_rules! keyword_enum {
    ($(#[$meta:meta])* $name:ident, $keyword:literal, $expected:literal, { $($(#[$vmeta:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$vmeta])* $variant),+ }

        impl $name {
            /// The value as libpq spells it.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = ConnInfoError;
            fn from_str(text: &str) -> Result<$name, ConnInfoError> {
                match text {
                    $($text => Ok($name::$variant),)+
                    _ => Err(ConnInfoError::Invalid { keyword: $keyword, expected: $expected }),
                }
            }
        }
    };
}

keyword_enum! {
    /// How much TLS is asked for, weakest first. Ignored on Unix sockets, as in libpq.
    SslMode, "sslmode", "disable, allow, prefer, require, verify-ca or verify-full", {
        /// Never.
        Disable = "disable",
        /// Plain first; TLS if the server refuses that.
        Allow = "allow",
        /// TLS first; plain if the server cannot or refuses.
        Prefer = "prefer",
        /// TLS. The chain is checked only when a root certificate file exists.
        Require = "require",
        /// TLS and a chain to a trusted root.
        VerifyCa = "verify-ca",
        /// TLS, chain, and the host's name in the certificate.
        VerifyFull = "verify-full",
    }
}

keyword_enum! {
    /// Whether SCRAM must be tied to the TLS session.
    ChannelBinding, "channel_binding", "disable, prefer or require", {
        Disable = "disable",
        Prefer = "prefer",
        Require = "require",
    }
}

keyword_enum! {
    /// How TLS is started.
    SslNegotiation, "sslnegotiation", "postgres or direct", {
        Postgres = "postgres",
        /// PostgreSQL 17+: the TLS handshake without a preceding request.
        Direct = "direct",
    }
}

keyword_enum! {
    /// Which servers of several will do.
    TargetSessionAttrs, "target_session_attrs",
    "any, read-write, read-only, primary, standby or prefer-standby", {
        Any = "any",
        ReadWrite = "read-write",
        ReadOnly = "read-only",
        Primary = "primary",
        Standby = "standby",
        PreferStandby = "prefer-standby",
    }
}

keyword_enum! {
    /// Protocol versions that rustls speaks.
    TlsVersion, "ssl_min_protocol_version", "TLSv1.2 or TLSv1.3", {
        Tls12 = "TLSv1.2",
        Tls13 = "TLSv1.3",
    }
}
