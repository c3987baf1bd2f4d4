//! How many at a time and with how much memory: chosen from what the servers report.
//!
//! What the operator configures is taken as it is. Everything chosen here is set per session and
//! ends with it; nothing is ever written into a server's configuration.

use decoders::postgres::conninfo::{Host, HostAddress};
use decoders::postgres::session::Session;

use super::{BackfillError, CopyConfig};
use crate::schema::SchemaConfig;

/// Most cores that are counted on unless the operator says so: beyond, blue's disk or the network
/// is the limit and not the number of sessions.
const CORES_MAX: usize = 16;
/// Most copy workers that are chosen by ourselves. Each one is a full table scan on blue.
pub(crate) const WORKERS_MAX: usize = 8;
/// Least memory for all index builds together. What green's `shared_buffers` says of its memory is
/// believed only above this: 128 MiB is what an untuned server says, whatever it has.
const MEMORY_BYTES_MIN: u64 = 1 << 30;

/// What a server says about its size.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct ServerFacts {
    /// `server_version_num`.
    pub version: u32,
    /// Whether it runs on this machine, as far as its address tells.
    pub is_local: bool,
    pub max_connections: usize,
    pub max_worker_processes: usize,
    /// 0 before PostgreSQL 11, which builds indexes alone.
    pub max_parallel_workers: usize,
    pub max_parallel_maintenance_workers: usize,
    pub shared_buffers_bytes: u64,
    pub maintenance_work_mem_bytes: u64,
}

impl ServerFacts {
    /// Asks a server.
    pub(crate) async fn read(session: &Session, side: &str) -> Result<Self, BackfillError> {
        const FACTS: &str = "
            SELECT name::text, setting::int8 * CASE unit WHEN 'kB' THEN 1024 WHEN '8kB' THEN 8192
                   WHEN 'MB' THEN 1048576 ELSE 1 END
            FROM pg_catalog.pg_settings
            WHERE name IN ('max_connections', 'max_worker_processes', 'max_parallel_workers',
                           'max_parallel_maintenance_workers', 'shared_buffers',
                           'maintenance_work_mem')";
        let asked = |error| BackfillError::database(format!("reading {side}'s settings"), &error);
        let mut facts = Self {
            version: session.server_version(),
            is_local: is_local(session.host()),
            ..Self::default()
        };
        for row in session.query(FACTS, &[]).await.map_err(asked)? {
            let name: String = row.try_get(0).map_err(asked)?;
            let value: i64 = row.try_get(1).map_err(asked)?;
            let bytes = u64::try_from(value).unwrap_or(0);
            let count = usize::try_from(value).unwrap_or(0);
            match name.as_str() {
                "max_connections" => facts.max_connections = count,
                "max_worker_processes" => facts.max_worker_processes = count,
                "max_parallel_workers" => facts.max_parallel_workers = count,
                "max_parallel_maintenance_workers" => {
                    facts.max_parallel_maintenance_workers = count;
                }
                "shared_buffers" => facts.shared_buffers_bytes = bytes,
                "maintenance_work_mem" => facts.maintenance_work_mem_bytes = bytes,
                _ => {}
            }
        }
        if facts.version < 110_000 {
            facts.max_parallel_workers = 0;
            facts.max_parallel_maintenance_workers = 0;
        }
        Ok(facts)
    }

    /// Cores, and why we think so. SQL does not tell.
    fn cores(&self, config: &CopyConfig) -> (usize, String) {
        if let Some(given) = config.green_cores.fixed() {
            let given = usize::try_from(given).unwrap_or(usize::MAX);
            return (given.max(1), "copy.green_cores".to_owned());
        }
        if self.is_local
            && let Ok(cores) = std::thread::available_parallelism()
        {
            return (cores.get().min(CORES_MAX), "green is on this machine".to_owned());
        }
        let cores = (self.max_worker_processes / 2).clamp(2, CORES_MAX);
        (cores, format!("half of green's max_worker_processes = {}", self.max_worker_processes))
    }
}

/// Whether the server's address is of this machine. A tunnel looks the same; then the guess of
/// its cores is wrong, which costs time only.
fn is_local(host: &Host) -> bool {
    match &host.address {
        HostAddress::Socket(_) => true,
        HostAddress::Address { address, .. } => address.is_loopback(),
        HostAddress::Name(name) => {
            name == "localhost"
                || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
    }
}

/// How the rows are copied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct CopyTuning {
    pub workers: usize,
    /// `None`: by each table's share.
    pub chunk_bytes: Option<u64>,
    pub reason: String,
}

impl CopyTuning {
    /// `room`: connections that blue may be asked for.
    pub(crate) fn choose(config: &CopyConfig, green: &ServerFacts, room: usize) -> Self {
        let (cores, known_by) = green.cores(config);
        // A quarter of green's connections at most: others are needed for indexes.
        let green_room = (green.max_connections / 4).max(1);
        let auto = cores.clamp(2, WORKERS_MAX).min(room).min(green_room);
        let workers = config.workers.count_or(auto).min(room.max(1));
        let reason = match config.workers.fixed() {
            Some(_) => format!("copy.workers; room for {room} on blue"),
            None => format!(
                "{cores} cores on green ({known_by}), room for {room} on blue and {green_room} on \
                 green"
            ),
        };
        let chunk_bytes = config.chunk_mib.fixed().map(|mib| mib.max(1).saturating_mul(1 << 20));
        Self { workers, chunk_bytes, reason }
    }
}

/// How indexes are built.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct IndexTuning {
    /// Sessions.
    pub jobs: usize,
    pub cores: usize,
    /// Most `maintenance_work_mem` of each session, MiB; all of it for the checks of foreign keys,
    /// which hash a whole table.
    pub memory_mib: u64,
    /// The operator has said how much, so each build gets it.
    is_memory_configured: bool,
    /// Most parallel workers of one build; `None` leaves it to green (before PostgreSQL 11).
    pub parallel_max: Option<usize>,
    pub reason: String,
}

impl IndexTuning {
    pub(crate) fn choose(copy: &CopyConfig, schema: &SchemaConfig, green: &ServerFacts) -> Self {
        let (cores, known_by) = green.cores(copy);
        let auto = cores.min((green.max_connections / 4).max(1));
        let jobs = schema.jobs.count_or(auto);
        // A server that was tuned gives shared_buffers a quarter of its memory (manual, 19.4.1);
        // the builds together may have as much again.
        let together = green.shared_buffers_bytes.max(MEMORY_BYTES_MIN);
        let each = (together / jobs as u64).max(green.maintenance_work_mem_bytes) >> 20;
        let memory_mib =
            schema.index_memory_mib.fixed().unwrap_or(each).clamp(1, MAINTENANCE_MIB_MAX);
        let parallel_max = (green.version >= 110_000)
            .then(|| cores.saturating_sub(1).min(green.max_parallel_workers));
        let reason = format!(
            "{cores} cores on green ({known_by}); shared_buffers {} MiB, maintenance_work_mem {} \
             MiB, max_parallel_workers {}",
            green.shared_buffers_bytes >> 20,
            green.maintenance_work_mem_bytes >> 20,
            green.max_parallel_workers
        );
        let is_memory_configured = schema.index_memory_mib.fixed().is_some();
        Self { jobs, cores, memory_mib, is_memory_configured, parallel_max, reason }
    }

    /// `maintenance_work_mem` for the build of an index on so many bytes, with so many helpers, MiB.
    ///
    /// More memory is not better: runs that fit into the processor's caches sort faster, and one
    /// merge of them costs less than what that saves (measured, 4 M integers: 2.5 s of CPU with
    /// 8 MiB, 3.7 s with 512 MiB, which held them all). So as little as merges all runs at once:
    /// `runs = bytes / memory` of them, each with a buffer of 264 KiB (`tuplesort.c`,
    /// `MERGE_BUFFER_SIZE` and `TAPE_BUFFER_OVERHEAD`), hence `memory = sqrt(bytes * 264 KiB)`;
    /// twice that, because a table's size tells its index entries' only roughly.
    pub(crate) fn build_memory_mib(&self, bytes: u64, helpers: usize) -> u64 {
        const RUN_BUFFER_BYTES: f64 = (264 << 10) as f64;
        const MIB_MIN: u64 = 8;
        /// With less for each, the server uses fewer helpers (`plan_create_index_workers`).
        const MIB_EACH: u64 = 32;
        if self.is_memory_configured {
            return self.memory_mib;
        }
        let one_merge = 2.0 * (bytes as f64 * RUN_BUFFER_BYTES).sqrt();
        let wanted = ((one_merge as u64) >> 20).max(MIB_MIN);
        let for_helpers = if helpers == 0 { 0 } else { MIB_EACH * (helpers as u64 + 1) };
        wanted.max(for_helpers).min(self.memory_mib)
    }

    /// Parallel workers for a build that is `share` of all that is left to do. With as many builds
    /// as cores, workers only cost: each writes its sorted run out, and one merges them. A build
    /// that will run on when the others are done gets the cores that would idle.
    pub(crate) fn parallel_workers(&self, share: f64) -> Option<usize> {
        let cores_earned = (self.cores as f64 * share).floor() as usize;
        self.parallel_max.map(|max| cores_earned.saturating_sub(1).min(max))
    }
}

/// `maintenance_work_mem` takes no more on 64-bit builds (2 TiB - 1 kB, `MAX_KILOBYTES`).
const MAINTENANCE_MIB_MAX: u64 = (2 << 20) - 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backfill::Setting;

    fn remote() -> ServerFacts {
        ServerFacts {
            version: 170_000,
            is_local: false,
            max_connections: 100,
            max_worker_processes: 8,
            max_parallel_workers: 8,
            max_parallel_maintenance_workers: 2,
            shared_buffers_bytes: 128 << 20,
            maintenance_work_mem_bytes: 64 << 20,
        }
    }

    #[test]
    fn an_untuned_server_gets_four_of_everything() {
        let copy = CopyTuning::choose(&CopyConfig::default(), &remote(), 10);
        assert_eq!((copy.workers, copy.chunk_bytes), (4, None));
        let index =
            IndexTuning::choose(&CopyConfig::default(), &SchemaConfig::default(), &remote());
        assert_eq!((index.jobs, index.memory_mib, index.parallel_max), (4, 256, Some(3)));
    }

    #[test]
    fn a_large_server_gets_more_but_blue_decides() {
        let facts = ServerFacts {
            max_worker_processes: 64,
            max_connections: 500,
            shared_buffers_bytes: 64 << 30,
            ..remote()
        };
        let config = CopyConfig::default();
        assert_eq!(CopyTuning::choose(&config, &facts, 20).workers, WORKERS_MAX);
        assert_eq!(CopyTuning::choose(&config, &facts, 3).workers, 3);
        let index = IndexTuning::choose(&config, &SchemaConfig::default(), &facts);
        assert_eq!((index.jobs, index.memory_mib), (16, 4096));
    }

    #[test]
    fn the_operator_is_obeyed_within_blues_connections() {
        let config = CopyConfig {
            workers: Setting::Fixed(30),
            chunk_mib: Setting::Fixed(64),
            green_cores: Setting::Fixed(3),
            ..CopyConfig::default()
        };
        let copy = CopyTuning::choose(&config, &remote(), 40);
        assert_eq!((copy.workers, copy.chunk_bytes), (30, Some(64 << 20)));
        assert_eq!(CopyTuning::choose(&config, &remote(), 5).workers, 5);
        let schema = SchemaConfig { index_memory_mib: Setting::Fixed(7), ..Default::default() };
        let index = IndexTuning::choose(&config, &schema, &remote());
        assert_eq!((index.jobs, index.cores, index.memory_mib), (3, 3, 7));
    }

    #[test]
    fn a_build_gets_what_merges_its_runs_at_once() {
        let index =
            IndexTuning::choose(&CopyConfig::default(), &SchemaConfig::default(), &remote());
        let memory = |bytes: u64, helpers| index.build_memory_mib(bytes, helpers);
        assert_eq!(
            [0, 1 << 20, 256 << 20, 10 << 30].map(|bytes| memory(bytes, 0)),
            [8, 8, 16, 102]
        );
        assert_eq!(memory(1 << 40, 0), 256, "a session's share is the most");
        assert_eq!(memory(256 << 20, 1), 64, "with less there would be no helper");
        let schema = SchemaConfig { index_memory_mib: Setting::Fixed(77), ..Default::default() };
        let index = IndexTuning::choose(&CopyConfig::default(), &schema, &remote());
        assert_eq!(index.build_memory_mib(1 << 40, 3), 77);
    }

    #[test]
    fn cores_that_would_idle_go_to_the_large_build() {
        let index =
            IndexTuning::choose(&CopyConfig::default(), &SchemaConfig::default(), &remote());
        let workers: Vec<_> =
            [1.0, 0.75, 0.5, 0.25, 0.01].map(|share| index.parallel_workers(share).unwrap()).into();
        assert_eq!(workers, [3, 2, 1, 0, 0]);
        let old = ServerFacts { version: 100_000, ..remote() };
        let old = IndexTuning::choose(&CopyConfig::default(), &SchemaConfig::default(), &old);
        assert_eq!(old.parallel_workers(1.0), None);
    }
}
