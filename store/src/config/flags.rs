//! What was typed: options in Go's flag syntax, and the same options as `ETCD_*` variables.
//!
//! Go's `flag` package takes one or two dashes, `=` or a space before the value, and needs `=` for
//! booleans. Scripts rely on all of it, so this is a small parser of our own over the table. Values
//! are checked for their shape as they arrive; what they mean together is checked later, wherever
//! they came from.
//!
//! An option given both as a flag and in the environment is fatal, as in etcd: nobody can tell
//! which one was meant.

use std::collections::BTreeMap;
use std::fmt;

use super::table::{self, Flag, Kind, Meaning};
use super::{Allowed, ConfigError, FeatureGates, Url, duration};

/// The way an option came, for messages.
#[derive(Clone, Copy)]
pub(super) enum Way<'a> {
    /// On the command line.
    Flag,
    /// As this variable.
    Env(&'a str),
    /// Under this key of the file.
    File(&'a str),
}

/// The options that were given, by flag name, whatever way they came.
#[derive(Default)]
pub(super) struct Given {
    values: BTreeMap<&'static str, String>,
    /// What should be said but stops nothing.
    pub(super) warnings: Vec<String>,
    /// `-h` or `--help`.
    pub(super) help: bool,
    /// What was asked for, so that a test finds a flag that nobody asks for.
    #[cfg(test)]
    pub(super) asked: std::cell::RefCell<std::collections::BTreeSet<String>>,
}

impl Given {
    /// The value given, or the table's default.
    pub(super) fn text(&self, name: &str) -> &str {
        self.set(name).unwrap_or_else(|| line(name).default)
    }

    /// The value given, if any was and it is not empty.
    pub(super) fn set(&self, name: &str) -> Option<&str> {
        self.value(name).filter(|value| !value.is_empty())
    }

    /// The value given even if it is empty, or the table's default.
    pub(super) fn text_or_empty(&self, name: &str) -> &str {
        self.value(name).unwrap_or_else(|| line(name).default)
    }

    fn value(&self, name: &str) -> Option<&str> {
        #[cfg(test)]
        self.asked.borrow_mut().insert(name.to_owned());
        self.values.get(name).map(String::as_str)
    }

    /// Whether nothing but this was given.
    pub(super) fn is_only(&self, name: &str) -> bool {
        self.values.keys().all(|given| *given == name)
    }

    /// The value as a switch.
    pub(super) fn switch(&self, name: &str) -> bool {
        go_bool(self.text(name)).expect("switches are checked when they are given")
    }

    /// The value as a duration.
    pub(super) fn time(&self, name: &str) -> std::time::Duration {
        duration::parse(self.text(name)).expect("durations are checked when they are given")
    }

    /// The value as a number that `T` can hold.
    pub(super) fn number<T: TryFrom<i128>>(&self, name: &str) -> Result<T, ConfigError> {
        let text = self.text(name);
        let number = go_integer(text).expect("numbers are checked when they are given");
        T::try_from(number).map_err(|_| {
            ConfigError::Usage(format!(
                "invalid value {text:?} for flag -{name}: value out of range"
            ))
        })
    }

    /// The parts of a comma-separated value, without blanks.
    pub(super) fn list(&self, name: &str) -> Vec<String> {
        let parts = self.text(name).split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(str::to_owned).collect()
    }

    /// Takes a value, if it has the shape the table asks for.
    pub(super) fn put(
        &mut self,
        flag: &'static Flag,
        value: String,
        way: Way<'_>,
    ) -> Result<(), ConfigError> {
        if let Err(reason) = shape(flag, &value) {
            return Err(match way {
                Way::Flag if flag.kind == Kind::Switch => ConfigError::Usage(format!(
                    "invalid boolean value {value:?} for -{}: {reason}",
                    flag.name
                )),
                Way::Flag => ConfigError::Usage(format!(
                    "invalid value {value:?} for flag -{}: {reason}",
                    flag.name
                )),
                Way::Env(key) | Way::File(key) => {
                    ConfigError::Invalid(format!("invalid value {value:?} for {key}: {reason}"))
                }
            });
        }
        let said = Said(flag, way);
        match flag.meaning {
            Meaning::Works => {}
            _ if same(flag, &value, flag.default) => {}
            Meaning::Idle(reason) => {
                self.warnings.extend(table::leaving(flag.name).map(str::to_owned));
                self.warnings.push(format!("{said} changes nothing: {reason}"));
            }
            Meaning::Dead => {
                self.warnings.push(format!("{said} changes nothing, nor does it in etcd"))
            }
            Meaning::Refused(reason) => {
                return Err(ConfigError::Invalid(format!("{said} cannot be used: {reason}")));
            }
        }
        // Gates add up; of anything else the last counts.
        let before = self.values.remove(flag.name).filter(|_| flag.name == "feature-gates");
        let value = before.map_or_else(|| value.clone(), |before| format!("{before},{value}"));
        self.values.insert(flag.name, value);
        Ok(())
    }
}

/// An option as the user knows it.
struct Said<'a>(&'static Flag, Way<'a>);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Way::Flag => write!(f, "--{}", self.0.name),
            Way::Env(key) | Way::File(key) => f.write_str(key),
        }
    }
}

/// Reads the command line.
pub(super) fn from_args(args: impl Iterator<Item = String>) -> Result<Given, ConfigError> {
    let mut given = Given::default();
    let mut args = args;
    while let Some(arg) = args.next() {
        let Some(body) = arg.strip_prefix('-').filter(|body| !body.is_empty()) else {
            return Err(ConfigError::Invalid(match arg.as_str() {
                "gateway" | "grpc-proxy" => {
                    format!("{arg}: etcd's proxies are not part of this program")
                }
                _ => format!("{arg:?} is not a valid flag"),
            }));
        };
        if body == "-" {
            // Go ends the flags here; whatever follows is a stray word.
            return args.next().map_or(Ok(given), |stray| {
                Err(ConfigError::Invalid(format!("{stray:?} is not a valid flag")))
            });
        }
        let body = body.strip_prefix('-').unwrap_or(body);
        if body.starts_with(['-', '=']) {
            return Err(ConfigError::Usage(format!("bad flag syntax: {arg}")));
        }
        let (name, inline) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (body, None),
        };
        if name == "help" || name == "h" {
            given.help = true;
            return Ok(given);
        }
        let flag = table::find(name).ok_or_else(|| {
            ConfigError::Usage(format!("flag provided but not defined: -{name}{}", nearest(name)))
        })?;
        let value = match inline {
            Some(value) => value,
            None if flag.kind == Kind::Switch => "true".to_owned(),
            None => args
                .next()
                .ok_or_else(|| ConfigError::Usage(format!("flag needs an argument: -{name}")))?,
        };
        given.put(flag, value, Way::Flag)?;
    }
    Ok(given)
}

/// Adds what the environment says. `given` must hold the command line already.
pub(super) fn add_env(
    given: &mut Given,
    env: impl Iterator<Item = (String, String)>,
) -> Result<(), ConfigError> {
    let typed: Vec<&str> = given.values.keys().copied().collect();
    for (key, value) in env {
        let Some(rest) = key.strip_prefix("ETCD_") else { continue };
        if value.is_empty() || key == "ETCD_UNSUPPORTED_ARCH" {
            continue;
        }
        let name = rest.to_ascii_lowercase().replace('_', "-");
        let known =
            table::find(&name).filter(|flag| flag.name != "version" && env_name(flag) == key);
        let Some(flag) = known else {
            // Never its value: it may be a secret that was meant for somebody else.
            given.warnings.push(format!("unrecognized environment variable {key}"));
            continue;
        };
        if typed.contains(&flag.name) {
            return Err(ConfigError::Invalid(format!(
                "conflicting environment variable {key} is shadowed by the command-line flag \
                 --{name} (unset the one or leave out the other)"
            )));
        }
        given.put(flag, value, Way::Env(&key))?;
    }
    Ok(())
}

/// The variable of a flag.
pub(super) fn env_name(flag: &Flag) -> String {
    format!("ETCD_{}", flag.name.to_ascii_uppercase().replace('-', "_"))
}

fn line(name: &str) -> &'static Flag {
    table::find(name).expect("only flags of the table are asked for")
}

/// Whether a value looks as it must, or what is wrong with it.
fn shape(flag: &Flag, value: &str) -> Result<(), String> {
    let fits = match flag.kind {
        Kind::Text | Kind::List if flag.name == "feature-gates" => {
            return FeatureGates::parse(value).map(drop);
        }
        Kind::Text | Kind::List if flag.name == "cors" => return Allowed::origins(value).map(drop),
        Kind::Text | Kind::List => true,
        Kind::Switch => go_bool(value).is_some(),
        Kind::Count | Kind::Integer if is_too_large(value) => {
            return Err("value out of range".to_owned());
        }
        Kind::Count => go_integer(value).is_some_and(|number| number >= 0),
        Kind::Integer => go_integer(value).is_some(),
        Kind::Time => duration::parse(value).is_some(),
        Kind::Urls if value.is_empty() => true,
        Kind::Urls => return Url::parse_list(value).map(drop),
        Kind::Choice(all) if all.contains(&value) => true,
        Kind::Choice(all) => return Err(format!("it must be one of {}", all.join(", "))),
    };
    if fits { Ok(()) } else { Err("parse error".to_owned()) }
}

/// Whether a value is a number, only beyond 64 bits.
fn is_too_large(value: &str) -> bool {
    let digits = value.strip_prefix('-').unwrap_or(value);
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number && go_integer(value).is_none() && digits.len() > 18
}

/// Whether two values of a flag mean the same.
fn same(flag: &Flag, one: &str, other: &str) -> bool {
    match flag.kind {
        Kind::Switch => go_bool(one) == go_bool(other),
        Kind::Count | Kind::Integer => go_integer(one) == go_integer(other),
        Kind::Time => duration::parse(one) == duration::parse(other),
        _ => one == other,
    }
}

/// The spellings Go's `strconv.ParseBool` takes.
pub(super) fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A whole number as Go's flags read it: decimal, `0x`, `0o` or `0` and `0b`, with underscores
/// between digits of the prefixed ones.
fn go_integer(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let prefixes = [("0x", 16), ("0o", 8), ("0b", 2)];
    let prefixed =
        prefixes.iter().find_map(|(prefix, base)| Some((lower.strip_prefix(prefix)?, *base)));
    let (body, base) = match prefixed {
        Some(found) => found,
        None if lower.len() > 1 && lower.starts_with('0') => (&lower[1..], 8),
        None => (lower.as_str(), 10),
    };
    let body = if base == 10 { body.to_owned() } else { body.replace('_', "") };
    if !body.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return None;
    }
    // Nothing that a flag takes is beyond 64 bits.
    let number = i128::from(u64::from_str_radix(&body, base).ok()?);
    Some(if negative { -number } else { number })
}

/// ` (did you mean -x?)` for a name that is one slip away from a real one.
fn nearest(name: &str) -> String {
    table::groups()
        .flat_map(|(_, flags)| flags)
        .filter(|flag| flag.meaning == Meaning::Works)
        .map(|flag| (distance(name, flag.name), flag.name))
        .min()
        .filter(|(distance, _)| *distance <= 2)
        .map_or_else(String::new, |(_, near)| format!(" (did you mean -{near}?)"))
}

/// Edits between two names (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.bytes().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}
