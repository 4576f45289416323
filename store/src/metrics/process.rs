//! What the kernel knows of this process. A number that it does not tell is left out.

use std::fs;

use nix::sys::resource::{Resource, getrlimit};

use super::page::Page;

/// Ticks of the kernel's accounting clock per second: fixed on Linux.
const TICKS_PER_SECOND: u64 = 100;

pub(super) fn render(page: &mut Page) {
    descriptors(page);
    if let Ok(status) = fs::read_to_string("/proc/self/status") {
        memory(page, &status);
    }
    if let Ok(stat) = fs::read_to_string("/proc/self/stat") {
        times(page, &stat);
    }
    if let Ok(netstat) = fs::read_to_string("/proc/self/net/netstat") {
        network(page, &netstat);
    }
}

fn descriptors(page: &mut Page) {
    let used = fs::read_dir("/proc/self/fd").ok().map(Iterator::count);
    let limit = getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft);
    if let Some(used) = used {
        page.gauge("os_fd_used", "File descriptors in use.", used);
        page.gauge("process_open_fds", "Open file descriptors.", used);
    }
    if let Some(limit) = limit {
        page.gauge("os_fd_limit", "File descriptors this process may open.", limit);
        page.gauge("process_max_fds", "The most file descriptors that may be open.", limit);
    }
}

fn memory(page: &mut Page, status: &str) {
    let names = [
        ("VmRSS:", "process_resident_memory_bytes", "Memory that is in RAM."),
        ("VmSize:", "process_virtual_memory_bytes", "Address space in use."),
    ];
    for (field, name, help) in names {
        if let Some(bytes) = kilobytes(status, field) {
            page.gauge(name, help, bytes);
        }
    }
    if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_AS) {
        let name = "process_virtual_memory_max_bytes";
        page.gauge(name, "The most address space that may be used.", soft);
    }
}

/// A field of `/proc/self/status`, in bytes.
fn kilobytes(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let number: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(number * 1024)
}

fn times(page: &mut Page, stat: &str) {
    // The name in brackets may hold anything; the numbers begin behind it, with the third field.
    let Some((_, rest)) = stat.rsplit_once(')') else { return };
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    if let (Some(user), Some(system)) = (field(14), field(15)) {
        let name = "process_cpu_seconds_total";
        page.counter(name, "Processor time spent, in seconds.", seconds(user + system));
    }
    if let (Some(since_boot), Some(boot)) = (field(22), booted()) {
        let name = "process_start_time_seconds";
        page.gauge(name, "When the process started, as a Unix time.", boot + seconds(since_boot));
    }
}

/// The time, as the kernel tells it: when the machine was started and for how long it has run.
pub(super) fn unix_now() -> Option<f64> {
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let seconds: f64 = uptime.split(' ').next()?.parse().ok()?;
    Some(booted()? + seconds)
}

/// When the machine was started.
fn booted() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

fn seconds(ticks: u64) -> f64 {
    ticks as f64 / TICKS_PER_SECOND as f64
}

/// The network counters of the process's namespace: a line of names, then a line of numbers.
fn network(page: &mut Page, netstat: &str) {
    let mut lines = netstat.lines().filter_map(|line| line.strip_prefix("IpExt:"));
    let (Some(names), Some(numbers)) = (lines.next(), lines.next()) else { return };
    let all = [
        ("InOctets", "process_network_receive_bytes_total", "Bytes received over the network."),
        ("OutOctets", "process_network_transmit_bytes_total", "Bytes sent over the network."),
    ];
    for (field, name, help) in all {
        let at = names.split_whitespace().position(|found| found == field);
        if let Some(number) = at.and_then(|at| numbers.split_whitespace().nth(at)) {
            page.counter(name, help, number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_described() {
        let mut page = Page::new(0);
        render(&mut page);
        let text = page.into_text();
        for name in [
            "os_fd_used",
            "os_fd_limit",
            "process_resident_memory_bytes",
            "process_virtual_memory_bytes",
            "process_cpu_seconds_total",
            "process_start_time_seconds",
            "process_network_receive_bytes_total",
        ] {
            let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
            let value = line.and_then(|line| line.split(' ').nth(1)?.parse::<f64>().ok());
            assert!(value.is_some_and(|value| value >= 0.0), "{name}: {line:?}");
        }
    }

    #[test]
    fn a_name_with_a_bracket_does_not_shift_the_numbers() {
        let mut page = Page::new(0);
        let rest = (4..=22).map(|number| number.to_string()).collect::<Vec<_>>().join(" ");
        times(&mut page, &format!("7 (a) b) S {rest}"));
        assert!(page.into_text().contains("process_cpu_seconds_total 0.29\n"));
    }
}
