//! Whether a page answers 2xx, and in time.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::private_file;
use crate::watch::config::HttpConfig;
use crate::watch::sample::Sample;

/// One page.
#[derive(Clone)]
pub struct HttpProbe {
    agent: ureq::Agent,
    url: String,
    token_file: Option<PathBuf>,
    latency_ms_max: f64,
}

impl std::fmt::Debug for HttpProbe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpProbe").finish_non_exhaustive()
    }
}

/// An agent that tells an answer of any status from none, and keeps no connection: a health check
/// that only knows an old one would not see that new ones are refused.
pub(super) fn agent(timeout: Duration) -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_global(Some(timeout))
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .max_idle_connections(0)
        .build()
        .into()
}

/// `GET` with the token of a file; what is wrong with the file is told without the token.
pub(super) fn get(
    agent: &ureq::Agent,
    url: &str,
    token_file: Option<&PathBuf>,
) -> Result<ureq::RequestBuilder<ureq::typestate::WithoutBody>, String> {
    let request = agent.get(url);
    let Some(path) = token_file else { return Ok(request) };
    let token = private_file::read(path).map_err(|error| format!("token_file {error}"))?;
    Ok(request.header("Authorization", format!("Bearer {}", token.trim())))
}

impl HttpProbe {
    /// By the configuration.
    pub fn new(config: &HttpConfig) -> Self {
        Self {
            agent: agent(Duration::from_millis(config.timeout_ms)),
            url: config.url.clone(),
            token_file: config.token_file.clone(),
            latency_ms_max: config.latency_ms_max.unwrap_or(f64::INFINITY),
        }
    }

    pub(in crate::watch) async fn take(&self) -> Sample {
        let probe = self.clone();
        let taken = tokio::task::spawn_blocking(move || probe.look()).await;
        taken.unwrap_or_else(|error| Sample::Nothing(format!("the probe ended early: {error}")))
    }

    fn look(&self) -> Sample {
        let request = match get(&self.agent, &self.url, self.token_file.as_ref()) {
            Ok(request) => request,
            // Our own doing, not the page's.
            Err(error) => return Sample::Nothing(error),
        };
        let began = Instant::now();
        let answer = request.call().and_then(|mut response| {
            // The whole answer has to arrive.
            let read = std::io::copy(&mut response.body_mut().as_reader(), &mut std::io::sink());
            read.map_err(ureq::Error::from).map(|_| response.status().as_u16())
        });
        let took_ms = began.elapsed().as_secs_f64() * 1e3;
        match answer {
            // What is connected to fails as clients would see it.
            Err(error) => Sample::Bad(error.to_string()),
            Ok(status) if !(200..300).contains(&status) => Sample::Bad(format!("status {status}")),
            Ok(status) if took_ms > self.latency_ms_max => {
                Sample::Bad(format!("status {status} after {took_ms:.0} ms"))
            }
            Ok(status) => Sample::Good(format!("status {status} after {took_ms:.0} ms")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::serve;
    use super::*;
    use crate::api::MonitorAction;

    fn probe(url: &str, latency_ms_max: Option<f64>) -> HttpProbe {
        HttpProbe::new(&HttpConfig {
            name: "shop".into(),
            url: url.to_owned(),
            token_file: None,
            interval_s: 1.0,
            timeout_ms: 5000,
            latency_ms_max,
            failures: 1,
            of: 1,
            action: MonitorAction::Alert,
        })
    }

    #[test]
    fn any_2xx_is_good_and_nothing_else() {
        let cases = [(200, true), (204, true), (302, false), (404, false), (503, false)];
        for (status, good) in cases {
            let url = serve(vec![(status, String::new())]);
            let sample = probe(&url, None).look();
            assert_eq!(matches!(sample, Sample::Good(_)), good, "{status}: {sample:?}");
            assert_eq!(matches!(sample, Sample::Bad(_)), !good, "{status}: {sample:?}");
        }
    }

    #[test]
    fn late_or_refused_is_bad_and_no_token_is_no_data() {
        let url = serve(vec![(200, String::new())]);
        assert!(matches!(probe(&url, Some(0.0)).look(), Sample::Bad(_)));
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(matches!(probe(&format!("http://{free}/"), None).look(), Sample::Bad(_)));
        let mut blind = probe(&url, None);
        blind.token_file = Some("/nonexistent/token".into());
        assert!(matches!(blind.look(), Sample::Nothing(_)));
    }
}
