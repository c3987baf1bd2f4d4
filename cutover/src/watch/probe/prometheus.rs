//! A value that a Prometheus knows.
//!
//! The instant query of its HTTP API:
//! <https://prometheus.io/docs/prometheus/latest/querying/api/#instant-queries>. No answer, an
//! error, an empty result and NaN are no data, whatever is watched: they say how the Prometheus
//! does.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::http::{agent, get};
use crate::watch::config::PrometheusConfig;
use crate::watch::sample::Sample;

/// Which values are bad.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// Those above.
    Above(f64),
    /// Those below.
    Below(f64),
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bound::Above(limit) => write!(f, "at most {limit}"),
            Bound::Below(limit) => write!(f, "at least {limit}"),
        }
    }
}

impl Bound {
    /// The worst of several values; NaN is none.
    fn worst(self, values: &[f64]) -> Option<f64> {
        let values = values.iter().copied().filter(|value| !value.is_nan());
        match self {
            Bound::Above(_) => values.max_by(f64::total_cmp),
            Bound::Below(_) => values.min_by(f64::total_cmp),
        }
    }

    fn judge(self, values: &[f64]) -> Sample {
        let Some(value) = self.worst(values) else {
            return Sample::Nothing("the query has no value now".into());
        };
        let is_bad = match self {
            Bound::Above(limit) => value > limit,
            Bound::Below(limit) => value < limit,
        };
        let seen = format!("{value}");
        if is_bad { Sample::Bad(seen) } else { Sample::Good(seen) }
    }
}

/// One query.
#[derive(Clone)]
pub struct PrometheusProbe {
    agent: ureq::Agent,
    url: String,
    query: String,
    bound: Bound,
    token_file: Option<PathBuf>,
}

impl fmt::Debug for PrometheusProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrometheusProbe").field("bound", &self.bound).finish_non_exhaustive()
    }
}

impl PrometheusProbe {
    /// By the configuration, which has one bound.
    pub fn new(config: &PrometheusConfig) -> Self {
        let bound = match (config.above, config.below) {
            (None, Some(limit)) => Bound::Below(limit),
            (limit, _) => Bound::Above(limit.unwrap_or_default()),
        };
        Self {
            agent: agent(Duration::from_millis(config.timeout_ms)),
            url: format!("{}/api/v1/query", config.url.trim_end_matches('/')),
            query: config.query.clone(),
            bound,
            token_file: config.token_file.clone(),
        }
    }

    /// Which values are bad.
    pub fn bound(&self) -> Bound {
        self.bound
    }

    pub(in crate::watch) async fn take(&self) -> Sample {
        let probe = self.clone();
        let taken = tokio::task::spawn_blocking(move || probe.look()).await;
        taken.unwrap_or_else(|error| Sample::Nothing(format!("the probe ended early: {error}")))
    }

    fn look(&self) -> Sample {
        match self.ask() {
            Ok(values) => self.bound.judge(&values),
            Err(error) => Sample::Nothing(format!("the Prometheus: {error}")),
        }
    }

    fn ask(&self) -> Result<Vec<f64>, String> {
        let request = get(&self.agent, &self.url, self.token_file.as_ref())?;
        let mut response =
            request.query("query", &self.query).call().map_err(|error| error.to_string())?;
        let status = response.status();
        let answer = response.body_mut().read_json::<Answer>();
        match answer {
            Ok(answer) => answer.values(),
            Err(_) => Err(format!("status {status} without an answer that can be read")),
        }
    }
}

/// `{"status": "success", "data": {"resultType": "vector", "result": [...]}}`.
#[derive(Deserialize)]
struct Answer {
    status: String,
    data: Option<Data>,
    error: Option<String>,
}

#[derive(Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "snake_case")]
enum Data {
    Scalar(Point),
    Vector(Vec<Element>),
    Matrix(serde::de::IgnoredAny),
    String(serde::de::IgnoredAny),
}

/// Seconds since 1970, and the value as text: `NaN` and `+Inf` are none of JSON's numbers.
#[derive(Deserialize)]
struct Point(#[expect(dead_code, reason = "its place in the pair")] f64, String);

#[derive(Deserialize)]
struct Element {
    value: Point,
}

impl Answer {
    fn values(self) -> Result<Vec<f64>, String> {
        if self.status != "success" {
            return Err(self.error.unwrap_or(self.status));
        }
        let points = match self.data {
            Some(Data::Scalar(point)) => vec![point],
            Some(Data::Vector(elements)) => {
                elements.into_iter().map(|element| element.value).collect()
            }
            Some(Data::Matrix(_) | Data::String(_)) | None => {
                return Err("the query gives neither a scalar nor an instant vector".into());
            }
        };
        let number = |point: &Point| {
            point.1.parse().map_err(|_| format!("a value that is no number: {:?}", point.1))
        };
        points.iter().map(number).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::serve;
    use super::*;
    use crate::api::MonitorAction;

    fn sample(bound: Bound, status: u16, body: &str) -> Sample {
        let url = serve(vec![(status, body.to_owned())]);
        let (above, below) = match bound {
            Bound::Above(limit) => (Some(limit), None),
            Bound::Below(limit) => (None, Some(limit)),
        };
        PrometheusProbe::new(&PrometheusConfig {
            name: "errors".into(),
            url,
            query: "sum(rate(errors[1m]))".into(),
            above,
            below,
            token_file: None,
            interval_s: 1.0,
            timeout_ms: 5000,
            failures: 1,
            of: 1,
            action: MonitorAction::Alert,
        })
        .look()
    }

    fn vector(values: &[&str]) -> String {
        let elements: Vec<_> = values
            .iter()
            .map(|value| {
                format!(r#"{{"metric":{{"job":"shop"}},"value":[1732276800.781,"{value}"]}}"#)
            })
            .collect();
        let elements = elements.join(",");
        format!(r#"{{"status":"success","data":{{"resultType":"vector","result":[{elements}]}}}}"#)
    }

    #[test]
    fn the_worst_element_counts() {
        let body = vector(&["0.01", "0.2"]);
        assert_eq!(sample(Bound::Above(0.1), 200, &body), Sample::Bad("0.2".into()));
        assert_eq!(sample(Bound::Above(0.2), 200, &body), Sample::Good("0.2".into()));
        assert_eq!(sample(Bound::Below(0.1), 200, &body), Sample::Bad("0.01".into()));
        let scalar =
            r#"{"status":"success","data":{"resultType":"scalar","result":[1732276800,"+Inf"]}}"#;
        assert_eq!(sample(Bound::Above(0.1), 200, scalar), Sample::Bad("inf".into()));
    }

    #[test]
    fn whatever_has_no_value_is_no_data() {
        let matrix = r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#;
        let error = r#"{"status":"error","errorType":"bad_data","error":"parse error"}"#;
        let cases = [
            (200, vector(&[])),
            (200, vector(&["NaN"])),
            (200, matrix.to_owned()),
            (400, error.to_owned()),
            (502, "Bad Gateway".to_owned()),
        ];
        for (status, body) in cases {
            let sample = sample(Bound::Above(0.1), status, &body);
            assert!(matches!(sample, Sample::Nothing(_)), "{body}: {sample:?}");
        }
    }
}
