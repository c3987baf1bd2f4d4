//! A fresh data directory once per version, then copies.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::Version;
use crate::postgres::template_directory;
use crate::process::Launch;
use crate::scratch::Account;

/// In the data directory, which is the server's working directory.
const KEY: &str = "of-the-tests-key.pem";
const CERTIFICATE: &str = "of-the-tests-cert.pem";

const DEADLINE: Duration = Duration::from_secs(120);

/// Makes a data directory at `data`, which must not exist.
pub fn copy_to(version: Version, data: &Path) -> Result<()> {
    copy(&template(version)?, data)
}

/// Copies the data directory of a server that is down.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    let copy = Launch::new("cp").args(["-a", "--reflink=auto"]).arg(from).arg(to);
    let copied = copy.run(DEADLINE)?.success();
    copied.with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(())
}

fn template(version: Version) -> Result<PathBuf> {
    // The stamp of the set-up is part of the name: another recipe is another server.
    let recipe = std::fs::read_to_string(version.directory()?.join(".recipe"))?;
    let name = format!("{} {} certificate", version.name(), recipe.trim());
    let name = name.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    let template = template_directory()?.join(name);
    let lock_path = template.with_extension("lock");
    let lock = File::options().create(true).truncate(false).write(true).open(&lock_path);
    let lock = lock.with_context(|| format!("cannot open {}", lock_path.display()))?;
    lock.lock().with_context(|| format!("cannot lock {}", lock_path.display()))?;
    if !template.join("ibdata1").is_file() {
        let fresh = template.with_extension("new");
        if fresh.exists() {
            std::fs::remove_dir_all(&fresh)?;
        }
        std::fs::create_dir(&fresh)?;
        Account::of_servers()?.own(&fresh)?;
        match version.is_mariadb() {
            true => bootstrap(version, &fresh)?,
            false => initialize(version, &fresh)?,
        }
        if !certificate_options(version).is_empty() {
            certify(&fresh)?;
        }
        std::fs::rename(&fresh, &template)
            .with_context(|| format!("cannot keep {}", template.display()))?;
    }
    Ok(template)
}

fn initialize(version: Version, data: &Path) -> Result<()> {
    let launch = version.launch(data)?.arg("--initialize-insecure");
    launch.run(DEADLINE)?.success().context("cannot initialize")?;
    // The identity belongs to each copy.
    std::fs::remove_file(data.join("auto.cnf"))?;
    Ok(())
}

/// Without a certificate, MariaDB 11.8 makes an RSA key at each start. 10.11 offers no TLS without one. MySQL
/// keeps its own in its data directory.
pub fn certificate_options(version: Version) -> Vec<String> {
    match version {
        Version::Mariadb11_8 => {
            vec![format!("--ssl-key={KEY}"), format!("--ssl-cert={CERTIFICATE}")]
        }
        _ => Vec::new(),
    }
}

fn certify(data: &Path) -> Result<()> {
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let files = [(KEY, pair.signing_key.serialize_pem()), (CERTIFICATE, pair.cert.pem())];
    for (name, pem) in files {
        let path = data.join(name);
        std::fs::write(&path, pem)?;
        Account::of_servers()?.own(&path)?;
    }
    Ok(())
}

/// Feeds the system tables' SQL to the server: `mariadb-install-db` does no more.
fn bootstrap(version: Version, data: &Path) -> Result<()> {
    let share = version.directory()?.join("usr/share");
    let mut sql = String::from(
        "create database if not exists mysql;\nuse mysql;\nset @auth_root_socket = null;\n",
    );
    for file in ["system_tables", "performance_tables", "system_tables_data"] {
        let candidates = [
            share.join(format!("mariadb/mariadb_{file}.sql")),
            share.join(format!("mysql/mysql_{file}.sql")),
        ];
        let path = candidates.iter().find(|path| path.is_file());
        let path = path.with_context(|| format!("no {file}.sql in {}", share.display()))?;
        sql.push_str(&std::fs::read_to_string(path)?);
    }
    let mut script = tempfile::NamedTempFile::new()?;
    script.write_all(sql.as_bytes())?;
    Account::of_servers()?.own(script.path())?;
    let server = version.launch(data)?.args(["--bootstrap", "--skip-log-bin"]);
    server.input(script.path()).run(DEADLINE)?.success().context("cannot bootstrap")?;
    Ok(())
}
