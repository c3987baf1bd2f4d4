//! The authentication exchange of a startup, without IO: server messages in, replies out.
//!
//! PostgreSQL manual, "Start-up" and "SASL Authentication". We never send a password in a weaker
//! way than `channel_binding` allows, and never accept a SCRAM server that did not prove itself.

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    self, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;

use super::conninfo::{ChannelBinding, Password};
use super::error::{AuthError, ServerError};

/// What we know and what we insist on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Credentials<'a> {
    pub user: &'a str,
    pub password: Option<&'a Password>,
    pub channel_binding: ChannelBinding,
    /// `tls-server-end-point` data; `None` without TLS.
    pub end_point: Option<&'a [u8]>,
}

/// Where the exchange is.
enum State {
    Start,
    /// A password was sent; only the verdict is missing.
    Sent,
    ScramFirst(ScramSha256),
    ScramFinal(ScramSha256),
    ScramProven,
    Done,
}

/// One exchange.
pub(super) struct Authenticator<'a> {
    credentials: Credentials<'a>,
    state: State,
}

impl<'a> Authenticator<'a> {
    pub fn new(credentials: Credentials<'a>) -> Authenticator<'a> {
        Authenticator { credentials, state: State::Start }
    }

    /// Takes one server message and appends the reply, if any, to `out`. True when the server
    /// has accepted us.
    pub fn receive(&mut self, message: Message, out: &mut BytesMut) -> Result<bool, AuthError> {
        if let Message::ErrorResponse(body) = message {
            let error = ServerError::from_fields(body.fields()).map_err(unproven)?;
            return Err(AuthError::Refused(error));
        }
        self.state = match (std::mem::replace(&mut self.state, State::Done), message) {
            (State::Start, Message::AuthenticationOk) => {
                self.allow_unbound()?;
                State::Done
            }
            (State::Start, Message::AuthenticationCleartextPassword) => {
                self.allow_unbound()?;
                password_message(self.password()?.reveal().as_bytes(), out)?;
                State::Sent
            }
            (State::Start, Message::AuthenticationMd5Password(body)) => {
                self.allow_unbound()?;
                let secret = self.password()?.reveal().as_bytes();
                let hash = md5_hash(self.credentials.user.as_bytes(), secret, body.salt());
                password_message(hash.as_bytes(), out)?;
                State::Sent
            }
            (State::Start, Message::AuthenticationSasl(body)) => self.scram_start(&body, out)?,
            (State::Sent | State::ScramProven, Message::AuthenticationOk) => State::Done,
            (State::ScramFirst(mut scram), Message::AuthenticationSaslContinue(body)) => {
                scram.update(body.data()).map_err(unproven)?;
                frontend::sasl_response(scram.message(), out).map_err(unproven)?;
                State::ScramFinal(scram)
            }
            (State::ScramFinal(mut scram), Message::AuthenticationSaslFinal(body)) => {
                scram.finish(body.data()).map_err(unproven)?;
                State::ScramProven
            }
            (State::ScramFirst(_) | State::ScramFinal(_), Message::AuthenticationOk) => {
                return Err(AuthError::ServerUnproven(
                    "it ended the SCRAM exchange early".to_owned(),
                ));
            }
            (State::Start, message) => return Err(AuthError::Unsupported(method_name(&message))),
            _ => {
                return Err(AuthError::ServerUnproven(
                    "it left the authentication exchange".to_owned(),
                ));
            }
        };
        Ok(matches!(self.state, State::Done))
    }

    fn scram_start(
        &self,
        body: &AuthenticationSaslBody,
        out: &mut BytesMut,
    ) -> Result<State, AuthError> {
        let offered: Vec<&str> = body.mechanisms().collect().map_err(unproven)?;
        let end_point = self
            .credentials
            .end_point
            .filter(|_| self.credentials.channel_binding != ChannelBinding::Disable);
        let plus_offered = offered.contains(&SCRAM_SHA_256_PLUS);
        let (mechanism, binding) = match end_point {
            Some(hash) if plus_offered => {
                (SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(hash.to_vec()))
            }
            _ if !offered.contains(&SCRAM_SHA_256) => {
                return Err(AuthError::Unsupported(format!(
                    "SASL mechanisms {}",
                    offered.join(", ")
                )));
            }
            // "We could have": lets the server notice that its PLUS offer was stripped.
            Some(_) => (SCRAM_SHA_256, sasl::ChannelBinding::unrequested()),
            None => (SCRAM_SHA_256, sasl::ChannelBinding::unsupported()),
        };
        if mechanism != SCRAM_SHA_256_PLUS {
            self.allow_unbound()?;
        }
        let scram = ScramSha256::new(self.password()?.reveal().as_bytes(), binding);
        frontend::sasl_initial_response(mechanism, scram.message(), out).map_err(unproven)?;
        Ok(State::ScramFirst(scram))
    }

    fn password(&self) -> Result<&'a Password, AuthError> {
        self.credentials.password.ok_or(AuthError::NoPassword)
    }

    fn allow_unbound(&self) -> Result<(), AuthError> {
        match self.credentials.channel_binding {
            ChannelBinding::Disable | ChannelBinding::Prefer => Ok(()),
            ChannelBinding::Require => Err(AuthError::NoChannelBinding),
        }
    }
}

fn password_message(secret: &[u8], out: &mut BytesMut) -> Result<(), AuthError> {
    // Only a NUL byte makes this fail, which no PostgreSQL password can hold.
    frontend::password_message(secret, out)
        .map_err(|_| AuthError::Unsupported("a password that contains a NUL byte".to_owned()))
}

fn unproven(error: std::io::Error) -> AuthError {
    AuthError::ServerUnproven(error.to_string())
}

fn method_name(message: &Message) -> String {
    match message {
        Message::AuthenticationGss => "GSSAPI authentication",
        Message::AuthenticationSspi => "SSPI authentication",
        Message::AuthenticationKerberosV5 => "Kerberos V5 authentication",
        Message::AuthenticationScmCredential => "SCM credentials",
        _ => "an unknown authentication step",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An authentication request: code and data.
    fn request(code: i32, data: &[u8]) -> Message {
        let mut bytes = BytesMut::new();
        bytes.extend_from_slice(b"R");
        bytes.extend_from_slice(&(data.len() as i32 + 8).to_be_bytes());
        bytes.extend_from_slice(&code.to_be_bytes());
        bytes.extend_from_slice(data);
        Message::parse(&mut bytes).unwrap().unwrap()
    }

    const BOTH: &[u8] = b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";
    const PLAIN: &[u8] = b"SCRAM-SHA-256\0\0";

    fn begin(
        binding: ChannelBinding,
        end_point: Option<&[u8]>,
        message: Message,
    ) -> Result<Vec<u8>, AuthError> {
        let password = Password::new("secret");
        let mut authenticator = Authenticator::new(Credentials {
            user: "u",
            password: Some(&password),
            channel_binding: binding,
            end_point,
        });
        let mut out = BytesMut::new();
        authenticator.receive(message, &mut out)?;
        Ok(out.to_vec())
    }

    #[test]
    fn the_strongest_binding_that_is_offered_and_possible_is_taken() {
        use ChannelBinding::{Disable, Prefer, Require};
        let hash: Option<&[u8]> = Some(b"hash");
        // (our rule, TLS, offer, GS2 header that the reply must carry; None: refuse)
        for (binding, end_point, offer, header) in [
            (Prefer, hash, BOTH, Some("p=tls-server-end-point,,")),
            (Require, hash, BOTH, Some("p=tls-server-end-point,,")),
            (Disable, hash, BOTH, Some("n,,")),
            (Prefer, hash, PLAIN, Some("y,,")),
            (Prefer, None, PLAIN, Some("n,,")),
            (Require, hash, PLAIN, None),
            (Require, None, BOTH, None),
        ] {
            let reply = begin(binding, end_point, request(10, offer));
            match header {
                Some(header) => {
                    let reply = reply.unwrap();
                    let found = reply.windows(header.len()).any(|part| part == header.as_bytes());
                    assert!(found, "{binding} {end_point:?} {header}");
                }
                None => assert!(matches!(reply, Err(AuthError::NoChannelBinding))),
            }
        }
        assert!(matches!(
            begin(Prefer, None, request(10, b"OAUTHBEARER\0\0")),
            Err(AuthError::Unsupported(_))
        ));
    }

    #[test]
    fn required_binding_sends_no_password_in_a_weaker_way() {
        for message in [request(0, b""), request(3, b""), request(5, b"salt")] {
            assert!(matches!(
                begin(ChannelBinding::Require, Some(b"hash"), message),
                Err(AuthError::NoChannelBinding)
            ));
        }
        for code in [2, 6, 7, 9] {
            assert!(matches!(
                begin(ChannelBinding::Prefer, None, request(code, b"")),
                Err(AuthError::Unsupported(_))
            ));
        }
    }

    #[test]
    fn a_server_that_does_not_prove_itself_is_refused() {
        let password = Password::new("secret");
        let credentials = Credentials {
            user: "u",
            password: Some(&password),
            channel_binding: ChannelBinding::Prefer,
            end_point: None,
        };
        let final_ = b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=";
        for messages in [
            // "You are in" without a proof.
            vec![request(10, PLAIN), request(0, b"")],
            // A continuation that is not for our nonce, rubbish, and a proof out of turn.
            vec![request(10, PLAIN), request(11, b"r=theirs,s=QSXCR+Q6sek8bf92,i=4096")],
            vec![request(10, PLAIN), request(11, b"\xff")],
            vec![request(10, PLAIN), request(12, final_)],
            vec![request(3, b""), request(3, b"")],
        ] {
            let mut authenticator = Authenticator::new(credentials);
            let mut out = BytesMut::new();
            let count = messages.len();
            for (at, message) in messages.into_iter().enumerate() {
                let result = authenticator.receive(message, &mut out);
                if at + 1 == count {
                    assert!(matches!(result, Err(AuthError::ServerUnproven(_))));
                } else {
                    assert!(!result.unwrap());
                }
            }
        }
    }
}
