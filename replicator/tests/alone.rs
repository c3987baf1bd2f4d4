//! What needs no server.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use cutover::login::Login;
use nix::sys::signal::Signal;
use replicator::check::{Side, unverified};

/// Set for the process that is to die.
const DIES: &str = "CUTOVER_TEST_PANIC";

#[test]
fn a_panic_in_any_thread_ends_the_process() {
    if std::env::var_os(DIES).is_some() {
        replicator::panics::abort();
        let died = std::thread::spawn(|| panic!("in a thread")).join();
        unreachable!("it goes on: {died:?}");
    }
    let mut this = Command::new(std::env::current_exe().unwrap());
    this.args(["a_panic_in_any_thread_ends_the_process", "--exact", "--nocapture"]);
    let output = this.env(DIES, "1").output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), Some(Signal::SIGABRT as i32), "{output:?}");
    assert!(told.contains("in a thread"), "{told}");
}

#[test]
fn a_server_that_nobody_verifies_is_named() {
    let here = Login::parse("postgresql://u@127.0.0.1/d").unwrap();
    for (text, is_named) in [
        ("postgresql://u@db/d", true),
        ("postgresql://u@db/d?sslmode=require&sslrootcert=/ca.pem", false),
        ("postgresql://u@db/d?sslmode=verify-full&sslrootcert=/ca.pem", false),
        ("postgresql://u@db/d?sslmode=disable", true),
        ("postgresql://u@localhost/d", false),
        ("postgresql:///d?host=/run&user=u", false),
        ("postgresql://u@localhost,db/d", true),
        ("mysql://u@db/d", true),
        ("mysql://u@db/d?ssl-mode=REQUIRED", true),
        ("mysql://u@db/d?ssl-mode=VERIFY_CA", false),
        ("mysql://u@[::1]/d", false),
        ("mysql://u@127.0.0.1/d", false),
    ] {
        let found = unverified(&here, &Login::parse(text).unwrap());
        assert_eq!(found.len(), usize::from(is_named), "{text}: {found:?}");
        assert!(found.iter().all(|finding| finding.side == Side::Green));
    }
}
