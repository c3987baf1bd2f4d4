//! TCP ports on loopback that belong to one test, also while its server is down.

use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};

/// Below the kernel's ephemeral range (32768 on Linux), so that no outgoing connection can take a
/// port while its server is being restarted.
const FIRST: u32 = 21_000;
const COUNT: u32 = 11_000;

/// A port of ours until this value is dropped. Held by a lock on a file, which the kernel gives
/// back however the process ends; the port itself stays free for the server to bind.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Takes a port that nothing listens on and no other test holds.
    pub fn reserve() -> Result<Port> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let directory = lock_directory();
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        // Processes start at different places, so they seldom meet.
        let start = std::process::id().wrapping_mul(131);
        for _ in 0..COUNT {
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            let number = u16::try_from(FIRST + start.wrapping_add(step) % COUNT)?;
            let path = directory.join(number.to_string());
            let lock = File::options().create(true).truncate(false).write(true).open(&path);
            let lock = lock.with_context(|| format!("cannot open {}", path.display()))?;
            if lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Ok(Port { number, _lock: lock });
            }
        }
        bail!("no free port between {FIRST} and {}", FIRST + COUNT)
    }

    pub fn number(&self) -> u16 {
        self.number
    }
}

fn lock_directory() -> PathBuf {
    std::env::temp_dir().join(format!("cutover-ports-{}", nix::unistd::geteuid()))
}
