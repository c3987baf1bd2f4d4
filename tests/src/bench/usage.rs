//! What processes used, from `/proc` (proc(5)).

use anyhow::{Context, Result};

use crate::process::children_of;

/// `/proc/PID/stat` counts in USER_HZ, which Linux fixes at 100 for user space.
const TICKS_PER_SECOND: f64 = 100.0;

/// User and system time of one process, seconds, without its children.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    Ok(times(pid)?.0)
}

/// User and system time of a process, of its children that live and of those it has reaped,
/// seconds: of a whole PostgreSQL server, if it is the postmaster.
pub fn tree_cpu_seconds(pid: u32) -> Result<f64> {
    let (own, reaped) = times(pid)?;
    // A child that ends meanwhile is counted among the reaped ones next time.
    let living: f64 =
        children_of(pid).into_iter().filter_map(|child| times(child).ok()).map(|time| time.0).sum();
    Ok(own + reaped + living)
}

/// CPU seconds of the whole machine since it started, whoever used them.
pub fn machine_cpu_seconds() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    parse_machine(&text).context("cannot understand /proc/stat")
}

/// The first line: user, nice, system, idle, iowait, irq, softirq, steal, and the guests' part of
/// user and nice. All but idle and iowait.
fn parse_machine(stat: &str) -> Option<f64> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<f64> =
        line.split_whitespace().map(|field| field.parse().ok()).collect::<Option<_>>()?;
    let busy = fields.iter().take(3).chain(fields.iter().skip(5).take(3)).sum::<f64>();
    Some(busy / TICKS_PER_SECOND)
}

/// Largest resident size so far, bytes (`VmHWM`). Of a PostgreSQL process this includes the shared
/// buffers that it has touched.
pub fn peak_resident_bytes(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    parse_peak(&text).with_context(|| format!("no VmHWM in {path}"))
}

fn parse_peak(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

fn times(pid: u32) -> Result<(f64, f64)> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    parse_times(&text).with_context(|| format!("cannot understand {path}"))
}

/// Own time, and that of reaped children, seconds: fields 14 to 17 of `/proc/PID/stat`.
fn parse_times(stat: &str) -> Option<(f64, f64)> {
    // The command's name stands in parentheses and may hold anything: fields follow the last one.
    let (_, fields) = stat.rsplit_once(')')?;
    let numbers: Vec<f64> = fields
        .split_whitespace()
        .skip(11)
        .take(4)
        .map(|field| field.parse().ok())
        .collect::<Option<_>>()?;
    let [user, system, children_user, children_system] = numbers[..] else { return None };
    let own = (user + system) / TICKS_PER_SECOND;
    Some((own, (children_user + children_system) / TICKS_PER_SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194560 100 200 0 0 150 50 300 100 20 0 1 0 99 0 0";
        assert_eq!(parse_times(stat), Some((2.0, 4.0)));
    }

    #[test]
    fn peak_memory_is_in_kibibytes() {
        assert_eq!(parse_peak("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 1 kB\n"), Some(2 << 20));
        assert_eq!(parse_peak("Name:\tx\n"), None);
    }

    #[test]
    fn idle_time_is_not_counted() {
        let stat = "cpu  100 20 30 9000 8000 1 2 47 5 6\ncpu0 1 2 3 4\n";
        assert_eq!(parse_machine(stat), Some(2.0));
    }

    #[test]
    fn this_process_has_used_something() {
        let me = std::process::id();
        assert!(peak_resident_bytes(me).unwrap() > 0);
        // In this order: it goes on using some.
        let alone = cpu_seconds(me).unwrap();
        assert!(tree_cpu_seconds(me).unwrap() >= alone);
    }
}
