//! One binary for all integration tests: it links once. Each module is one subject.

mod e2e;
mod support_compare;
mod support_ledger;
mod support_network;
mod support_router;
mod support_servers;
