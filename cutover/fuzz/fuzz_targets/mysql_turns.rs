//! A conversation of MySQL or MariaDB.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| cutover::proxy::fuzz::mysql_turns(data));
