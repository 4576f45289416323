//! Hides what differs between two runs of the same server: ports, terms, indexes, sizes, times,
//! and the last part of a version.

/// Numbers that depend on the clock, the disk, or how often the server was started.
const NUMBERS: [&str; 18] = [
    "\"raft_term\":",
    "\"RaftTerm\" : ",
    "\"ttl\":",
    "\"TTL\" : ",
    "\"TTL\":",
    "remaining(",
    "\"raftTerm\":",
    "\"raftIndex\":",
    "\"RaftIndex\" : ",
    "\"raftAppliedIndex\":",
    "\"RaftAppliedIndex\" : ",
    "\"dbSize\":",
    "\"DBSize\" : ",
    "\"dbSizeInUse\":",
    "\"DBSizeInUse\" : ",
    "\"size\":",
    "\"totalSize\":",
    "raft_term: ",
];
/// The quota of a member's status; what follows it in its line are terms and indexes.
const QUOTA: &str = "2.1 GB";

/// A lease's id in JSON and in fields; a member's stands at the same place, and does not change.
const IDS: [&str; 2] = ["\"ID\":", "\"ID\" : "];
const MEMBER: &str = "10276657743932975437";

/// One line, masked.
pub(super) fn line(line: &str) -> String {
    let mut line = NUMBERS.iter().fold(line.to_string(), |line, name| field(&line, name));
    if let Some(at) = line.find(QUOTA) {
        let (head, tail) = line.split_at(at + QUOTA.len());
        line = format!("{}{}", sizes(head), digits(tail));
    }
    for version in ["3.7.0", "3.7.3"] {
        line = line.replace(version, "3.7.*");
    }
    table(&lease_keys(&durations(&line)))
}

/// The ids of leases that have no name in the script.
pub(super) fn leases(line: &str) -> String {
    if let Some(rest) = line.strip_prefix("lease ")
        && let Some((id, rest)) = rest.split_once(" granted ")
        && !id.starts_with('@')
    {
        return format!("lease * granted {rest}");
    }
    if line.contains(MEMBER) && !line.contains("granted-ttl") && !line.contains("TTL") {
        return line.to_string();
    }
    IDS.iter().fold(line.to_string(), |line, name| field(&line, name))
}

/// Replaces the number behind `name` by a star.
fn field(line: &str, name: &str) -> String {
    let Some(at) = line.find(name) else { return line.to_string() };
    let (head, tail) = line.split_at(at + name.len());
    let rest = tail.trim_start_matches(|c: char| c.is_ascii_digit());
    if rest.len() == tail.len() {
        return format!("{head}{}", field(rest, name));
    }
    format!("{head}*{}", field(rest, name))
}

/// Every run of digits as a star.
fn digits(text: &str) -> String {
    let mut masked = String::new();
    for c in text.chars() {
        match c {
            '0'..='9' if masked.ends_with('*') => {}
            '0'..='9' => masked.push('*'),
            c => masked.push(c),
        }
    }
    masked
}

/// Words such as `25 kB` and `17%`.
fn sizes(text: &str) -> String {
    let number =
        |word: &str| word.chars().all(|c| c.is_ascii_digit() || c == '.') && !word.is_empty();
    let mut words: Vec<String> = text.split(' ').map(String::from).collect();
    for at in 0..words.len() {
        let unit = words.get(at + 1).map(|unit| unit.trim_end_matches(','));
        let share = words[at].trim_end_matches(',').trim_end_matches('%');
        if number(&words[at]) && matches!(unit, Some("B" | "kB" | "MB")) {
            (words[at], words[at + 1]) = ("*".into(), words[at + 1].replace(['k', 'M'], ""));
        } else if words[at].contains('%') && number(share) {
            words[at] = words[at].replace(share, "*");
        }
    }
    words.join(" ")
}

/// Times with a fraction, such as `2.5ms`; a lease's `100s` stays.
fn durations(text: &str) -> String {
    let mut masked = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let (head, tail) = rest.split_at(at);
        let end = tail.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(tail.len());
        let (number, after) = tail.split_at(end);
        masked.push_str(head);
        let unit = ["ms", "µs", "s"].into_iter().find(|unit| after.starts_with(unit));
        match unit {
            Some(unit) if number.contains('.') => {
                masked.push_str("*s");
                rest = &after[unit.len()..];
            }
            _ => {
                masked.push_str(number);
                rest = after;
            }
        }
    }
    masked + rest
}

/// The lease in the name of a lock's or an election's key.
fn lease_keys(text: &str) -> String {
    let hex = |c: char| matches!(c, '0'..='9' | 'a'..='f');
    match text.rsplit_once('/') {
        Some((head, tail)) if (15..=16).contains(&tail.len()) && tail.chars().all(hex) => {
            format!("{head}/LEASE")
        }
        _ => text.to_string(),
    }
}

/// Columns are as wide as what is in them.
fn table(text: &str) -> String {
    if !text.contains(['│', '─']) {
        return text.to_string();
    }
    let mut narrow = String::new();
    for c in text.chars() {
        if !(matches!(c, ' ' | '─') && narrow.ends_with(c)) {
            narrow.push(c);
        }
    }
    narrow
}
