//! Directories for one run, and the account under which servers run.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::unistd::{Gid, Uid, User};
use tempfile::TempDir;

const PREFIX: &str = "cutover-it-";

/// A directory under the system's temporary directory, removed on drop. Servers that run under
/// another account may enter it. `CUTOVER_KEEP=1` keeps it for a look afterwards.
#[derive(Debug)]
pub struct Scratch {
    dir: Option<TempDir>,
    path: PathBuf,
}

impl Scratch {
    pub fn new() -> Result<Scratch> {
        remove_orphans();
        let prefix = format!("{PREFIX}{}-", std::process::id());
        let dir = tempfile::Builder::new().prefix(&prefix).tempdir();
        let dir = dir.context("cannot create a temporary directory")?;
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
        let path = dir.path().to_path_buf();
        if std::env::var_os("CUTOVER_KEEP").is_some() {
            let mut scratch = Scratch { dir: Some(dir), path };
            scratch.keep();
            return Ok(scratch);
        }
        Ok(Scratch { dir: Some(dir), path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the directory in place: after a failure its logs are wanted.
    pub fn keep(&mut self) -> &Path {
        if let Some(dir) = self.dir.take() {
            self.path = dir.keep();
            // Best effort: without the mark the next run tidies the directory up.
            drop(std::fs::write(self.path.join(KEEP_MARK), b""));
        }
        &self.path
    }

    /// A directory of this name that belongs to the account of the servers.
    pub fn server_dir(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        std::fs::create_dir_all(&path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        Account::of_servers()?.own(&path)?;
        Ok(path)
    }
}

/// Writes a file that only its owner can read, as files that hold passwords have to be.
pub fn write_private(path: &Path, text: impl AsRef<[u8]>) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;

    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_ref())
}

/// A run that was killed could not remove its directory. Its name carries the process id, so the
/// next run can tell.
fn remove_orphans() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
            let pid = pid.and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
            if let Some(pid) = pid
                && !Path::new(&format!("/proc/{pid}")).exists()
                && !kept(&entry.path())
            {
                // Somebody else's directory cannot be removed, and need not be.
                drop(std::fs::remove_dir_all(entry.path()));
            }
        }
    });
}

/// Kept directories stay for a day.
fn kept(path: &Path) -> bool {
    let modified = std::fs::metadata(path).and_then(|meta| meta.modified());
    let age = modified.ok().and_then(|at| at.elapsed().ok());
    path.join(KEEP_MARK).exists() && age.is_some_and(|age| age.as_secs() < 86_400)
}

/// A file of this name tells later runs to leave the directory alone.
const KEEP_MARK: &str = ".keep";

/// The account under which database servers run: `postgres` refuses to run as root, so root uses
/// the account of that name; everybody else uses their own.
#[derive(Debug, Clone, Copy)]
pub struct Account {
    switch_to: Option<(Uid, Gid)>,
}

impl Account {
    pub fn of_servers() -> Result<Account> {
        if !nix::unistd::geteuid().is_root() {
            return Ok(Account { switch_to: None });
        }
        let user = User::from_name("postgres").context("cannot look up user postgres")?;
        let user = user.context("servers do not run as root, and there is no user postgres")?;
        Ok(Account { switch_to: Some((user.uid, user.gid)) })
    }

    /// Our own account: for programs that need no other.
    pub fn own_account() -> Account {
        Account { switch_to: None }
    }

    /// Arguments for `setpriv` that make a child run under this account.
    pub fn setpriv_arguments(self) -> Vec<String> {
        match self.switch_to {
            None => Vec::new(),
            Some((uid, gid)) => {
                vec![format!("--reuid={uid}"), format!("--regid={gid}"), "--init-groups".into()]
            }
        }
    }

    /// Gives a file or directory to this account.
    pub fn own(self, path: &Path) -> Result<()> {
        if let Some((uid, gid)) = self.switch_to {
            chown(path, Some(uid.as_raw()), Some(gid.as_raw()))
                .with_context(|| format!("cannot give {} to the servers", path.display()))?;
        }
        Ok(())
    }
}
