//! Where binaries are found. The rules are those of `scripts/env.sh`, so that a bare `cargo test`
//! finds the same servers as `make test`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The directory that `scripts/setup` fills with servers: `$CUTOVER_SERVERS`, or its default.
pub fn servers() -> PathBuf {
    if let Some(dir) = std::env::var_os("CUTOVER_SERVERS") {
        return PathBuf::from(dir);
    }
    if nix::unistd::geteuid().is_root() {
        return PathBuf::from("/var/cache/cutover");
    }
    cache()
}

/// What survives a fresh clone: `$CUTOVER_CACHE`, or its default.
pub fn cache() -> PathBuf {
    if let Some(dir) = std::env::var_os("CUTOVER_CACHE") {
        return PathBuf::from(dir);
    }
    if let Some(dir) = std::env::var_os("XDG_CACHE_HOME") {
        return PathBuf::from(dir).join("cutover");
    }
    let home = std::env::var_os("HOME").unwrap_or_else(|| "/tmp".into());
    PathBuf::from(home).join(".cache/cutover")
}

/// The `bin` directory of a PostgreSQL server of this major version.
pub fn postgres_bin(major: u32) -> Result<PathBuf> {
    let candidates = [
        servers().join(format!("pg/{major}/bin")),
        PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")),
    ];
    first_with(&candidates, "postgres").with_context(|| {
        format!("PostgreSQL {major} is not installed; `scripts/setup servers` fetches it")
    })
}

/// A PostgreSQL client program (`psql`, `pg_dump`, `pgbench`) of the newest major that has it.
pub fn postgres_client(program: &str) -> Result<PathBuf> {
    let mut candidates = Vec::new();
    for major in (10..=30).rev() {
        candidates.push(servers().join(format!("pgclient/{major}/bin")));
        candidates.push(PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")));
    }
    candidates.push(PathBuf::from("/usr/bin"));
    Ok(first_with(&candidates, program)?.join(program))
}

/// The PgBouncer program.
pub fn pgbouncer() -> Result<PathBuf> {
    let candidates = [
        servers().join("pgbouncer/bin"),
        PathBuf::from("/usr/sbin"),
        PathBuf::from("/usr/local/sbin"),
        PathBuf::from("/usr/bin"),
    ];
    Ok(first_with(&candidates, "pgbouncer")?.join("pgbouncer"))
}

/// One of our own programs: from `$CUTOVER_BIN` if that is set (an optimized build, for one), or
/// from the directory where cargo put this very program.
pub fn our_binary(name: &str) -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("CUTOVER_BIN") {
        return Ok(first_with(&[PathBuf::from(dir)], name)?.join(name));
    }
    let me = std::env::current_exe().context("cannot tell where this program lies")?;
    let mut dir = me.parent().context("a program without a directory")?;
    if dir.ends_with("deps") {
        dir = dir.parent().context("deps without a parent directory")?;
    }
    let path = dir.join(name);
    if !path.is_file() {
        bail!("{} does not exist; build it first: cargo build --workspace --bins", path.display());
    }
    Ok(path)
}

fn first_with(candidates: &[PathBuf], program: &str) -> Result<PathBuf> {
    match candidates.iter().find(|dir| dir.join(program).is_file()) {
        Some(dir) => Ok(dir.clone()),
        None => {
            let places: Vec<_> = candidates.iter().map(|dir| show(dir)).take(4).collect();
            bail!("no `{program}` in {} (and the other usual places)", places.join(", "))
        }
    }
}

fn show(path: &Path) -> String {
    path.display().to_string()
}
