//! A greeting of MySQL or MariaDB, and an answer to one.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| cutover::proxy::fuzz::hello(data));
