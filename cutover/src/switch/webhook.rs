//! The operator's own HTTP endpoint as a traffic switch: one POST for each act.
//!
//! | Header | Meaning |
//! |---|---|
//! | `Idempotency-Key` | the same for each repetition of one act: `EPOCH.PHASE`. Questions (`holding`, `verify`) have none |
//! | `Cutover-Signature` | `t=SECONDS,v1=HEX`: HMAC-SHA256 with the shared secret over `SECONDS.BODY` |
//!
//! The body is JSON: `schema_version`, `key`, `phase` (`hold`, `holding`, `switch`, `release`,
//! `verify`), `epoch`, `direction`, `from`, `to` (each `host`, `port`, `database`) and
//! `deadline_ms`. A release before the point of no return leads to `from` after all.
//!
//! Any 2xx says that it is done. An answer in JSON may say more: `detail`, for the report;
//! `holding` (true or false); `serving` (`blue` or `green`), which `verify` needs unless a
//! connection string of a client is configured. `verify` is asked before a run, too, with epoch 0.
//! Answers 408, 425, 429 and 5xx, and no answer, are tried again until the deadline; any other one,
//! a redirect among them, is a refusal.
//!
//! Requests of one process follow each other: one that nobody waits for any more comes to its end
//! before the next begins, so that a late hold of that process never overtakes its release. Between
//! two processes - a sidecar that was killed and whoever recovers its run - the endpoint has to
//! see to that by the epoch: a hold of a run whose release it has carried out is void.

mod signature;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::config::{SwitchConfigError, WebhookConfig};
use super::place::{Course, Place, Places, leading_to};
use super::{identity, those_that_did};
use crate::api::{Act, Check, Member};
use crate::evidence::Committed;
use crate::login::Login;
use crate::ports::{Epoch, Moves, PortError, PortResult, SwitchActs, SwitchTraits, TrafficSwitch};
use crate::side::{Direction, Side};
use crate::sql::soon;

const WEBHOOK: &str = "webhook";
/// Before the first repetition; each further one waits twice as long.
const RETRY_FIRST: Duration = Duration::from_millis(50);
/// The longest pause between two.
const RETRY_MAX: Duration = Duration::from_secs(1);
/// The longest answer that is read.
const ANSWER_MAX: u64 = 64 << 10;
/// The epoch of a question that belongs to no run.
const NO_RUN: Epoch = Epoch(0);
/// What of a refusal is shown.
const SHOWN_MAX: usize = 300;

/// Tells an endpoint what to do.
pub struct WebhookSwitch {
    config: WebhookConfig,
    client: Option<Login>,
    ends: [Login; 2],
    places: Places,
    agent: ureq::Agent,
    /// The direction of the run that was armed last, for what comes without a proof.
    armed: Mutex<Direction>,
    course: Course,
    /// One request at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// What an endpoint may say.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    detail: Option<String>,
    holding: Option<bool>,
    serving: Option<Side>,
}

/// Why one request was not carried out.
struct Refusal {
    what: String,
    /// Trying again may help.
    passing: bool,
    /// It may have been carried out all the same.
    in_doubt: bool,
}

impl WebhookSwitch {
    /// From the configuration.
    ///
    /// # Errors
    /// The client's connection string can't be read.
    pub fn new(
        config: WebhookConfig,
        blue: &Login,
        green: &Login,
    ) -> Result<Self, SwitchConfigError> {
        let client =
            config.client.as_deref().map(|client| Login::of_client(client, blue)).transpose();
        let client = client
            .map_err(|error| SwitchConfigError(format!("cutover.webhook.client: {error}")))?;
        // A redirect would be followed with a GET, which does nothing and is answered with 200.
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .build()
            .into();
        Ok(Self {
            config,
            client,
            ends: [blue.clone(), green.clone()],
            places: Places::new(blue, green),
            agent,
            armed: Mutex::default(),
            course: Course::default(),
            turn: Arc::default(),
        })
    }

    fn end(&self, side: Side) -> &Login {
        &self.ends[usize::from(side == Side::Green)]
    }

    fn armed(&self) -> Direction {
        *self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn body(&self, phase: &str, direction: Direction, epoch: Epoch, left: Duration) -> Value {
        let place = |place: &Place| {
            let (host, port) = place.address.clone().unzip();
            json!({ "host": host, "port": port, "database": place.database })
        };
        let (from, to) = self.places.of(direction);
        json!({
            "schema_version": 1,
            "key": format!("{epoch}.{phase}"),
            "phase": phase,
            "epoch": epoch,
            "direction": direction,
            "from": place(from),
            "to": place(to),
            "deadline_ms": u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// Posts until the endpoint has done it or refuses, or the deadline passes.
    async fn post(
        &self,
        phase: &'static str,
        direction: Direction,
        epoch: Epoch,
        deadline: Instant,
    ) -> PortResult<Answer> {
        let mut pause = RETRY_FIRST;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let refusal = match self.once(phase, direction, epoch, left).await {
                Ok(answer) => return Ok(answer),
                Err(refusal) => refusal,
            };
            let late = Instant::now() + pause >= deadline;
            if !refusal.passing || late {
                let error = PortError::new(WEBHOOK, format!("{phase}: {}", refusal.what))
                    .remedy(format!("see what {} has to say", shown(&self.config.url)));
                return Err(if refusal.in_doubt { error.in_doubt() } else { error });
            }
            tracing::debug!("{phase} is posted again: {}", refusal.what);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    async fn once(
        &self,
        phase: &'static str,
        direction: Direction,
        epoch: Epoch,
        left: Duration,
    ) -> Result<Answer, Refusal> {
        let refuse = |what: String| Refusal { what, passing: false, in_doubt: false };
        if left.is_zero() {
            return Err(refuse("there was no time left".into()));
        }
        let body = self.body(phase, direction, epoch, left).to_string();
        let secret = std::fs::read(&self.config.secret_file).map_err(|error| {
            refuse(format!("secret_file {}: {error}", self.config.secret_file.display()))
        })?;
        let mut request = self
            .agent
            .post(&self.config.url)
            .header("content-type", "application/json")
            .header("cutover-signature", signature::now(secret.trim_ascii(), body.as_bytes()))
            .config()
            .timeout_global(Some(left))
            .build();
        if !matches!(phase, "holding" | "verify") {
            request = request.header("idempotency-key", format!("{epoch}.{phase}"));
        }
        let turn = self.turn.clone();
        let passing = |what: String| Refusal { what, passing: true, in_doubt: true };
        let waiting = tokio::time::timeout(left, turn.lock_owned()).await;
        let turn = waiting.map_err(|_| passing("an earlier request has not ended".into()))?;
        let posting = tokio::task::spawn_blocking(move || {
            // Not given up with the future that waits for it.
            let _turn = turn;
            let mut response = request.send(body.as_bytes()).map_err(|error| error.to_string())?;
            let text = response.body_mut().with_config().limit(ANSWER_MAX).read_to_string();
            Ok::<_, String>((response.status().as_u16(), text.unwrap_or_default()))
        });
        let posted = posting.await.map_err(|error| passing(error.to_string()))?;
        let (status, text) = posted.map_err(passing)?;
        match status {
            // An answer that is no JSON of this form is a plain "done".
            200..=299 => Ok(serde_json::from_str(&text).unwrap_or_default()),
            408 | 425 | 429 | 500..=599 => {
                Err(passing(format!("status {status}: {}", one_line(&text))))
            }
            _ => Err(refuse(format!("status {status}: {}", one_line(&text)))),
        }
    }

    /// What the endpoint itself says about who serves. One that says nothing would be found out after
    /// the decision only.
    async fn asked(&self, from: Side) -> Check {
        let fix = "set cutover.webhook.client to what a client would use";
        match self.post("verify", leading_to(from), NO_RUN, soon()).await {
            Ok(Answer { serving: Some(side), .. }) if side == from => Check::warn(
                "webhook-verify",
                "which side clients reach afterwards is what the endpoint says, and not looked at",
                fix,
            ),
            Ok(Answer { serving: Some(side), .. }) => Check::fail(
                "webhook-verify",
                format!("the endpoint says that {side} serves, and {from} does"),
                "find out who has turned it",
            ),
            Ok(Answer { serving: None, .. }) => Check::fail(
                "webhook-verify",
                "the endpoint does not say which side serves, and nothing else shows it",
                format!("answer `verify` with {{\"serving\": \"{from}\"}}, or {fix}"),
            ),
            Err(error) => {
                Check::fail("webhook-verify", error.what, error.remedy.unwrap_or_default())
            }
        }
    }

    fn member(&self, to: Side, verified: bool, evidence: String) -> Member {
        Member { member: WEBHOOK.into(), target: to.name().into(), verified, evidence }
    }
}

/// Without what may be a secret: user, password, query.
fn shown(url: &str) -> &str {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    url.rsplit_once('@').map_or(url, |(_, host)| host)
}

fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(SHOWN_MAX).collect()
}

impl TrafficSwitch for WebhookSwitch {
    fn traits(&self) -> SwitchTraits {
        SwitchTraits { holds: self.config.holds, moves: Moves::ByReconnect, members: 1 }
    }

    async fn inspect(&self, from: Side, _max_pause: Duration) -> PortResult<Vec<Check>> {
        let mut checks = Vec::new();
        match std::fs::read(&self.config.secret_file) {
            Ok(secret) if secret.trim_ascii().is_empty() => checks.push(Check::fail(
                "webhook-secret",
                format!("{} is empty", self.config.secret_file.display()),
                "write a secret of at least 32 random bytes into it",
            )),
            Ok(_) => {}
            Err(error) => checks.push(Check::fail(
                "webhook-secret",
                format!("{}: {error}", self.config.secret_file.display()),
                "make it readable for the sidecar",
            )),
        }
        if !self.config.holds {
            checks.push(Check::warn(
                "webhook-hold",
                "the router behind it does not make clients wait: they get errors in the pause",
                "set cutover.webhook.holds = true if it does",
            ));
        }
        match &self.client {
            Some(client) => {
                let serving = identity::of_side(self.end(from), from, soon()).await?;
                checks.push(match identity::through(client, "cutover probe", soon()).await {
                    Ok(reached) if reached == serving => {
                        Check::ok("webhook-probe", format!("leads to {from}, {}", reached.shown))
                    }
                    Ok(reached) => Check::fail(
                        "webhook-probe",
                        format!("the router does not lead to {from} but to {}", reached.shown),
                        format!("name the router that {from}'s clients use"),
                    ),
                    Err(error) => Check::fail(
                        "webhook-probe",
                        error.text,
                        "set cutover.webhook.client to what a client would use",
                    ),
                });
            }
            None => checks.push(self.asked(from).await),
        }
        if checks.is_empty() {
            checks.push(Check::ok("webhook", "configured"));
        }
        Ok(checks)
    }

    async fn arm(&self, to: Side, _deadline: Instant) -> PortResult<()> {
        *self.armed.lock().unwrap_or_else(PoisonError::into_inner) = leading_to(to);
        Ok(())
    }

    async fn hold(&self, epoch: Epoch, deadline: Instant) -> PortResult<String> {
        let answer = self.post("hold", self.armed(), epoch, deadline).await?;
        Ok(answer.detail.unwrap_or_else(|| "the webhook's router holds".into()))
    }

    async fn holding(&self, epoch: Epoch, deadline: Instant) -> PortResult<bool> {
        if !self.config.ask_holding {
            return Ok(true);
        }
        let answer = self.post("holding", self.armed(), epoch, deadline).await?;
        Ok(answer.holding == Some(true))
    }

    async fn switch(&self, proof: &Committed, deadline: Instant) -> PortResult<Vec<Member>> {
        let (to, epoch) = (proof.to(), proof.epoch());
        if self.course.is_open(epoch) {
            return Ok(vec![self.member(to, false, "switched before".into())]);
        }
        let answer = self.post("switch", leading_to(to), epoch, deadline).await?;
        self.course.switched(epoch);
        Ok(vec![self.member(to, false, answer.detail.unwrap_or_default())])
    }

    async fn open_switched(&self, proof: &Committed, deadline: Instant) -> Vec<Member> {
        let (to, epoch) = (proof.to(), proof.epoch());
        let opened = async {
            if !self.course.is_switched(epoch) {
                return Ok(None);
            }
            if !self.course.is_open(epoch) {
                self.release(epoch, deadline).await?;
                self.course.opened(epoch);
            }
            Ok(Some(self.member(to, false, "switched".into())))
        };
        those_that_did(vec![opened.await])
    }

    async fn release(&self, epoch: Epoch, deadline: Instant) -> PortResult<()> {
        self.post("release", self.armed(), epoch, deadline).await.map(|_| ())
    }

    async fn verify(&self, proof: &Committed, deadline: Instant) -> PortResult<Vec<Member>> {
        let to = proof.to();
        if let Some(client) = &self.client {
            let member = identity::verified(client, WEBHOOK, self.end(to), to, deadline).await?;
            return Ok(vec![member]);
        }
        let answer = self.post("verify", leading_to(to), proof.epoch(), deadline).await?;
        let said = answer.detail.unwrap_or_default();
        Ok(vec![match answer.serving {
            Some(serving) => Member {
                target: serving.name().into(),
                ..self.member(to, serving == to, format!("it says that {serving} serves {said}"))
            },
            None => Member {
                target: "unknown".into(),
                ..self.member(to, false, format!("it does not say which side serves {said}"))
            },
        }])
    }

    fn name(&self) -> String {
        WEBHOOK.into()
    }

    fn describe(&self, _to: Side) -> SwitchActs {
        let act = |step: &str, phase: &str| {
            let text = format!("POST {} {phase}", shown(&self.config.url));
            vec![Act { step: step.into(), place: WEBHOOK.into(), text }]
        };
        SwitchActs {
            hold: act("quiesce", "hold"),
            switch: act("flip", "switch"),
            release: act("open", "release"),
            verify: match &self.client {
                Some(client) => vec![Act {
                    step: "open".into(),
                    place: WEBHOOK.into(),
                    text: format!("connect as a client to {}", client.redacted()),
                }],
                None => act("open", "verify"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_a_secret_is_not_shown() {
        assert_eq!(shown("https://u:p@router.example/flip?token=x"), "router.example/flip");
        assert_eq!(shown("http://router/flip#a"), "http://router/flip");
    }
}
