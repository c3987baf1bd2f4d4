//! A conversation of PostgreSQL, in any portions.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| cutover::proxy::fuzz::turns(data));
