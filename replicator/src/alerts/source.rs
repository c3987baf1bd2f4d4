//! What the rules look at now: the stream that carries, the runs, and everything that keeps them up.

use std::path::PathBuf;
use std::sync::Arc;

use cutover::audit::Audit;
use jiff::Timestamp;

use super::{ProxyReadings, Readings, RunReadings, Upkeep};
use crate::config::Config;
use crate::controller::Controller;
use crate::metrics::StreamSample;
use crate::protect::ProtectConfig;
use crate::proxy::Pulse;
use crate::status::Shared;
use crate::verify::Verifier;

/// Where readings come from. Cheap to clone.
#[derive(Clone)]
pub struct Source {
    streams: [Arc<Shared>; 2],
    service: Controller,
    verifier: Verifier,
    beside: Beside,
    protect: ProtectConfig,
    state_dir: PathBuf,
}

/// What runs beside the streams. Cheap to clone.
#[derive(Clone)]
pub struct Beside {
    /// Says whether what was read of the audit log is what was written.
    pub audit: Audit,
    /// Whether our own proxy answers; knows nothing where there is none.
    pub proxy: Pulse,
}

impl Source {
    /// Of a running sidecar.
    pub fn of(
        streams: [&Arc<Shared>; 2],
        service: &Controller,
        verifier: &Verifier,
        beside: Beside,
        config: &Config,
    ) -> Self {
        Self {
            streams: streams.map(Arc::clone),
            service: service.clone(),
            verifier: verifier.clone(),
            beside,
            protect: config.protect.clone(),
            state_dir: config.state_dir.clone(),
        }
    }

    /// What a scrape shows of one of its streams.
    pub fn sample(&self, stream: &Shared) -> StreamSample {
        stream.sample(&self.protect)
    }

    /// Now. Reads small files; no server is asked.
    pub fn read(&self) -> Readings {
        let [forward, back] = &self.streams;
        let carries_back = *back.carries.borrow();
        let carrying = if carries_back { back } else { forward };
        let (run, breach) = (self.service.current(), self.service.breach());
        let runs = RunReadings::of(run.as_ref(), breach.as_ref(), Timestamp::now());
        let upkeep = Upkeep {
            log: carrying.log_kept(&self.protect),
            copy: forward.copy_readings(),
            verify: self.verifier.readings(),
            proxy: ProxyReadings {
                up: self.beside.proxy.is_up(),
                lost_age_seconds: self.beside.proxy.lost_age_seconds(),
            },
            audit_broken: self.beside.audit.broken().is_some(),
            ..Upkeep::of_process(&self.state_dir)
        };
        Readings { way_back: carries_back, runs, upkeep, ..carrying.readings() }
    }
}
