//! CPU time and memory of processes, read from `/proc`.
//!
//! CPU time comes in ticks of 10 ms, which is the unit of `/proc/PID/stat` on Linux for programs
//! of every architecture that we build for.

use std::fs;

use anyhow::{Context, Result};

/// Ticks a second in `/proc`, see `USER_HZ`.
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process has used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Usage {
    /// CPU seconds since its start, of all its threads.
    pub cpu_seconds: f64,
    /// Resident memory, MiB.
    pub rss_mib: f64,
}

/// What a process has used so far.
pub(crate) fn usage(pid: u32) -> Result<Usage> {
    let read = |file: &str| {
        let path = format!("/proc/{pid}/{file}");
        fs::read_to_string(&path).with_context(|| format!("read {path}: is process {pid} gone?"))
    };
    let cpu_seconds = cpu_seconds_of_stat(&read("stat")?)
        .with_context(|| format!("/proc/{pid}/stat has no CPU times"))?;
    let rss_mib = rss_of_status(&read("status")?)
        .with_context(|| format!("/proc/{pid}/status has no VmRSS: has process {pid} ended?"))?;
    Ok(Usage {
        cpu_seconds,
        rss_mib,
    })
}

/// CPU seconds that all processes of the machine have used since it started.
pub(crate) fn machine_cpu_seconds() -> Result<f64> {
    let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    busy_of_machine(&text).context("/proc/stat has no CPU times in its first line")
}

/// User and system time from `/proc/PID/stat`. The name before them may hold anything.
fn cpu_seconds_of_stat(text: &str) -> Option<f64> {
    let (_, fields) = text.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    // Fields 14 and 15 of proc(5), where the state after the name is field 3.
    let user: u64 = fields.get(11)?.parse().ok()?;
    let system: u64 = fields.get(12)?.parse().ok()?;
    Some((user + system) as f64 / TICKS_PER_SECOND)
}

/// Resident memory from `/proc/PID/status`, MiB.
fn rss_of_status(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib as f64 / 1_024.0)
}

/// Time that was not idle, from `/proc/stat`: user, nice, system, irq and softirq.
fn busy_of_machine(text: &str) -> Option<f64> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .map(|field| field.parse().ok())
        .collect::<Option<_>>()?;
    let mut busy = 0;
    for field in [0, 1, 2, 5, 6] {
        busy += ticks.get(field)?;
    }
    Some(busy as f64 / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_a_name_with_spaces_and_brackets() {
        let text = "42 (a) b (c)) S 1 42 42 0 -1 4194560 7 0 0 0 250 125 9 9 20 0 4 0 100 1 1";
        assert_eq!(cpu_seconds_of_stat(text), Some(3.75));
        assert_eq!(cpu_seconds_of_stat("42 (a) S 1"), None);
        assert_eq!(cpu_seconds_of_stat(""), None);
    }

    #[test]
    fn memory_is_told_in_mib() {
        assert_eq!(
            rss_of_status("Name:\tx\nVmRSS:\t  5120 kB\nThreads:\t1\n"),
            Some(5.0)
        );
        // A process that has ended and was not waited for has none.
        assert_eq!(rss_of_status("Name:\tx\nState:\tZ (zombie)\n"), None);
    }

    #[test]
    fn idle_time_and_waiting_for_disks_are_not_busy() {
        let text = "cpu  100 20 30 9999 9999 4 6 9999 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(busy_of_machine(text), Some(1.6));
        assert_eq!(busy_of_machine("cpu0 1 1"), None);
    }

    #[test]
    fn this_process_uses_memory_and_one_that_is_not_there_is_named() {
        let own = usage(std::process::id()).expect("it runs");
        assert!(own.rss_mib > 0.1 && own.cpu_seconds >= 0.0);
        let error = usage(u32::MAX).expect_err("there is no such process");
        assert!(format!("{error:#}").contains("4294967295"), "{error:#}");
        assert!(machine_cpu_seconds().expect("Linux") > 0.0);
    }
}
