//! A statement, as the proxy of MySQL and MariaDB looks at it.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| cutover::proxy::fuzz::words(data));
