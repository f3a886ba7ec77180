//! What the kernel tells of a process: the programs that are measured are processes of their own.

use anyhow::{Context, Result};
use std::fs;
use std::time::Duration;

/// This process, in place of a process id.
pub(crate) const SELF: &str = "self";

/// The processor time that a process has used, of all its threads.
pub(crate) fn cpu(process: &str) -> Result<Duration> {
    /// The unit of the kernel's counts for user space.
    const TICK: Duration = Duration::from_millis(10);
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name in parentheses may hold blanks; behind it are the state and ten more fields before these two.
    let (_, fields) = stat.rsplit_once(')').context("not a line of /proc")?;
    let used: u32 = fields.split_whitespace().skip(11).take(2).map_while(|field| field.parse::<u32>().ok()).sum();
    Ok(TICK * used)
}

/// The same of its threads with this name, to the nanosecond. They must not have ended.
pub(crate) fn cpu_of_threads(process: &str, name: &str) -> Result<Duration> {
    let mut nanoseconds = 0;
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let thread = thread?.path();
        if fs::read_to_string(thread.join("comm"))?.trim() == name {
            let used = fs::read_to_string(thread.join("schedstat"))?;
            nanoseconds += used.split_whitespace().next().context("a number")?.parse::<u64>()?;
        }
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// The bytes that it caused to be written to the disk.
pub(crate) fn written(process: &str) -> Result<u64> {
    let counts = fs::read_to_string(format!("/proc/{process}/io"))?;
    let count = counts.lines().find_map(|line| line.strip_prefix("write_bytes: ")).context("a count of bytes")?;
    Ok(count.trim().parse()?)
}

/// A figure of its memory, in kB: `VmRSS` is what is resident, `VmHWM` the most that ever was.
pub(crate) fn memory(process: &str, field: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')?.trim().strip_suffix(" kB"));
    Ok(value.with_context(|| format!("no {field}"))?.parse()?)
}

/// How many files this process, and those that it starts, may have open.
pub(crate) fn open_files() -> Result<usize> {
    let limits = fs::read_to_string("/proc/self/limits")?;
    let soft = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next());
    soft.context("no limit of open files")?.parse().context("the limit of open files")
}
