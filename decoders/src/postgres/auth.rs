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
