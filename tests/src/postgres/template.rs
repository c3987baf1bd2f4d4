//! `initdb` once per version, then copies: a server is up in a fraction of a second.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::{AccessFlags, access};

use crate::paths;
use crate::process::Launch;
use crate::scratch::Account;

const DEADLINE: Duration = Duration::from_secs(120);

/// Makes a data directory at `data`, which must not exist.
pub fn copy_to(bin: &Path, initdb_arguments: &[String], data: &Path) -> Result<()> {
    let template = template(bin, initdb_arguments)?;
    Launch::new("cp")
        .args(["-a", "--reflink=auto"])
        .arg(&template)
        .arg(data)
        .run(DEADLINE)?
        .success()
        .with_context(|| format!("cannot copy {}", template.display()))?;
    Ok(())
}

/// The cached data directory for this very build and these arguments.
fn template(bin: &Path, arguments: &[String]) -> Result<PathBuf> {
    let version = Launch::new(bin.join("postgres")).arg("--version").run(DEADLINE)?.success()?;
    let directory = directory()?;
    let template = directory.join(name(version.stdout.trim(), arguments));
    let lock_path = template.with_extension("lock");
    let lock = File::options().create(true).truncate(false).write(true).open(&lock_path);
    let lock = lock.with_context(|| format!("cannot open {}", lock_path.display()))?;
    lock.lock().with_context(|| format!("cannot lock {}", lock_path.display()))?;
    if !template.join("PG_VERSION").is_file() {
        let fresh = template.with_extension("new");
        if fresh.exists() {
            std::fs::remove_dir_all(&fresh)?;
        }
        std::fs::create_dir(&fresh)?;
        Account::of_servers()?.own(&fresh)?;
        initdb(bin, arguments, &fresh)?;
        include_settings(&fresh)?;
        std::fs::rename(&fresh, &template)
            .with_context(|| format!("cannot keep {}", template.display()))?;
    }
    Ok(template)
}

fn initdb(bin: &Path, arguments: &[String], data: &Path) -> Result<()> {
    Launch::new(bin.join("initdb"))
        .arg("-D")
        .arg(data)
        .args(["-U", super::SUPERUSER, "-A", "trust", "-E", "UTF8", "--no-sync"])
        // Alone, LANG decides, and it differs between machines.
        .args(["--lc-messages=C", "--locale=C"])
        .args(arguments)
        .as_server()?
        .run(DEADLINE)?
        .success()
        .with_context(|| format!("initdb of {} failed", bin.display()))?;
    Ok(())
}

/// Each server's own settings are one file, written at every start.
fn include_settings(data: &Path) -> Result<()> {
    let path = data.join("postgresql.conf");
    let text = std::fs::read_to_string(&path)?;
    std::fs::write(&path, format!("{text}\ninclude 'conf.d.conf'\n"))?;
    Ok(())
}

/// Where data directories to copy from are kept.
pub fn directory() -> Result<PathBuf> {
    let preferred = paths::servers().join("templates");
    let ours = std::fs::create_dir_all(&preferred).is_ok();
    if ours && access(&preferred, AccessFlags::W_OK).is_ok() {
        return Ok(preferred);
    }
    let fallback =
        std::env::temp_dir().join(format!("cutover-templates-{}", nix::unistd::geteuid()));
    std::fs::create_dir_all(&fallback)
        .with_context(|| format!("cannot create {}", fallback.display()))?;
    Ok(fallback)
}

/// `postgres (PostgreSQL) 15.18 (Debian ..)` and arguments as a file name. No dots: extensions are
/// added to it.
fn name(version: &str, arguments: &[String]) -> String {
    let words = version.trim_start_matches("postgres (PostgreSQL) ").to_owned();
    let all = std::iter::once(words).chain(arguments.iter().cloned()).collect::<Vec<_>>();
    all.join("_").chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::name;

    #[test]
    fn names_tell_builds_and_arguments_apart() {
        assert_eq!(name("postgres (PostgreSQL) 15.18 (Debian 1)", &[]), "15_18__Debian_1_");
        assert_ne!(name("x", &["--a".into()]), name("x", &["--b".into()]));
    }
}
