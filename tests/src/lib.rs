//! What the tests and the demo stand on: real servers on loopback, a router, a network that can be
//! broken, our own binaries as child processes, and judges that do not trust them.
//!
//! | module | what it gives |
//! | --- | --- |
//! | [`postgres`] | one PostgreSQL server of any installed major |
//! | [`mysql`] | one MariaDB or MySQL server; a stage of two behind an HAProxy |
//! | [`pgbouncer`] | one or several PgBouncers in front of it |
//! | [`haproxy`] | an HAProxy in front of both servers |
//! | [`proxysql`] | a stand-in for ProxySQL, admin interface and all |
//! | [`proxy`] | a TCP proxy that cuts, freezes and delays |
//! | [`embedded`] | the embedded proxy, seen from outside |
//! | [`process`] | child processes that never outlive the test, and our binaries among them |
//! | [`monitoring`] | a Prometheus and an Alertmanager |
//! | [`exposition`] | a sidecar's metrics with chosen samples |
//! | [`api`] | the sidecar's HTTP API, as a stranger sees it |
//! | [`stage`] | all of it put together: blue, green, router, configuration |
//! | [`ledger`] | a workload that knows what was acknowledged, and its judge |
//! | [`pgbench`] | pgbench through the router, and its own invariant |
//! | [`compare`] | are two databases exactly equal? |
//! | [`bench`] | what the benches stand on |
//! | [`chaos`] | runs in which everything goes wrong that can, and their judge |
//! | [`intruder`] | what nobody may do, tried |
//! | [`unseen`] | blue changes in every way that no row announces, a cutover is tried, and the judge |
//! | [`documents`] | pages of docs/ that are made from the code |
//! | [`wait`] | wait on progress with a deadline; there are no sleeps in tests |
//!
//! Nothing here depends on another crate of the workspace: the judge must not share a bug with the
//! one it judges.

pub mod api;
pub mod bench;
pub mod chaos;
pub mod compare;
pub mod documents;
pub mod embedded;
pub mod exposition;
pub mod haproxy;
pub mod intruder;
pub mod ledger;
pub mod monitoring;
pub mod mysql;
pub mod paths;
pub mod pgbench;
pub mod pgbouncer;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod proxysql;
pub mod scratch;
pub mod side;
pub mod stage;
pub mod unseen;
pub mod wait;
pub mod wide;
