//! The first packet of a client of PostgreSQL.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| cutover::proxy::fuzz::startup(data));
