//! The configuration file: etcd's YAML (or JSON, which is YAML too), turned into the same options
//! that flags give, so that both are checked in one place.
//!
//! A file stands alone: other flags and variables are not looked at. Its shape is etcd's, with
//! its corners: durations are whole nanoseconds, lists of URLs are one string with commas, TLS
//! options are grouped in maps. A key that etcd does not know is left out there without a word;
//! here it is named in a warning, because a typing error in a security option must be noticed.
//!
//! What comes from outside has bounds: the size of the file, and the expansion of YAML aliases.

use serde_json::{Map, Value};

use super::ConfigError;
use super::flags::{Given, Way};
use super::table::{self, Flag, Kind};
use crate::limits::CONFIG_FILE_BYTES_MAX;

/// Reads the text of a file.
pub(super) fn from_yaml(text: &str) -> Result<Given, ConfigError> {
    let bad = |reason: String| ConfigError::Invalid(format!("the configuration file {reason}"));
    if text.len() > CONFIG_FILE_BYTES_MAX {
        return Err(bad(format!("is longer than {CONFIG_FILE_BYTES_MAX} bytes")));
    }
    let value: Value = serde_saphyr::from_str(text).map_err(|error| {
        let line = error.to_string();
        bad(format!("is not YAML: {}", line.lines().next().unwrap_or("it ends early")))
    })?;
    let keys = match value {
        Value::Null => Map::new(),
        Value::Object(keys) => keys,
        _ => return Err(bad("must hold keys and values at its top".to_owned())),
    };
    let mut given = Given::default();
    for (key, value) in keys {
        take(&mut given, &key, value)?;
    }
    Ok(given)
}

/// The maps of the file, and which flag each of their keys stands for.
const GROUPS: &[(&str, &[(&str, &str)])] = &[
    (
        "client-transport-security",
        &[
            ("cert-file", "cert-file"),
            ("key-file", "key-file"),
            ("client-cert-file", "client-cert-file"),
            ("client-key-file", "client-key-file"),
            ("client-cert-auth", "client-cert-auth"),
            ("trusted-ca-file", "trusted-ca-file"),
            ("auto-tls", "auto-tls"),
            ("allowed-hostname", "client-cert-allowed-hostname"),
            // etcd's file has no place for this flag.
            ("crl-file", "client-crl-file"),
        ],
    ),
    (
        "peer-transport-security",
        &[
            ("cert-file", "peer-cert-file"),
            ("key-file", "peer-key-file"),
            ("client-cert-file", "peer-client-cert-file"),
            ("client-key-file", "peer-client-key-file"),
            ("client-cert-auth", "peer-client-cert-auth"),
            ("trusted-ca-file", "peer-trusted-ca-file"),
            ("auto-tls", "peer-auto-tls"),
            ("allowed-cn", "peer-cert-allowed-cn"),
            ("allowed-hostname", "peer-cert-allowed-hostname"),
            ("skip-client-san-verification", "peer-skip-client-san-verification"),
            ("crl-file", "peer-crl-file"),
        ],
    ),
    (
        "socket-options",
        &[("reuse-port", "socket-reuse-port"), ("reuse-address", "socket-reuse-address")],
    ),
    (
        "discovery-config",
        &[("discovery-token", "discovery-token"), ("discovery-endpoints", "discovery-endpoints")],
    ),
];

fn take(given: &mut Given, key: &str, value: Value) -> Result<(), ConfigError> {
    if let Some((group, keys)) = GROUPS.iter().find(|(group, _)| group.eq_ignore_ascii_case(key)) {
        return take_group(given, group, keys, value);
    }
    let grouped = GROUPS.iter().find(|(_, keys)| keys.iter().any(|(_, flag)| *flag == key));
    if let Some((group, _)) = grouped {
        given.warnings.push(format!("key {key:?} belongs under {group:?} and is not read here"));
        return Ok(());
    }
    // Go matches keys without regard to case.
    let name = key.to_ascii_lowercase();
    let outside = ["config-file", "version", "discovery-fallback"];
    match table::find(&name).filter(|flag| !outside.contains(&flag.name)) {
        Some(flag) => put(given, flag, key, value),
        None => {
            given.warnings.push(format!("unknown key {key:?} in the configuration file"));
            Ok(())
        }
    }
}

fn take_group(
    given: &mut Given,
    group: &str,
    keys: &[(&str, &str)],
    value: Value,
) -> Result<(), ConfigError> {
    let inner = match value {
        Value::Null => return Ok(()),
        Value::Object(inner) => inner,
        _ => return Err(ConfigError::Invalid(format!("invalid {group}: it must be a map"))),
    };
    for (key, value) in inner {
        let path = format!("{group}.{key}");
        let flag = keys.iter().find(|(name, _)| name.eq_ignore_ascii_case(&key));
        match flag.and_then(|(_, flag)| table::find(flag)) {
            Some(flag) => put(given, flag, &path, value)?,
            None => given.warnings.push(format!("unknown key {path:?} in the configuration file")),
        }
    }
    Ok(())
}

fn put(given: &mut Given, flag: &'static Flag, key: &str, value: Value) -> Result<(), ConfigError> {
    if value.is_null() {
        return Ok(());
    }
    let text = text(flag, &value).ok_or_else(|| {
        ConfigError::Invalid(format!("{key} in the configuration file must be {}", wanted(flag)))
    })?;
    given.put(flag, text, Way::File(key))
}

/// Kinds of text whose value the file writes as a list.
fn is_list(flag: &Flag) -> bool {
    flag.kind == Kind::List && flag.name != "host-whitelist"
}

/// The value as a flag would have it.
fn text(flag: &Flag, value: &Value) -> Option<String> {
    match (flag.kind, value) {
        (Kind::Switch, Value::Bool(on)) => Some(on.to_string()),
        (Kind::Count | Kind::Integer, Value::Number(number)) if !number.is_f64() => {
            Some(number.to_string())
        }
        (Kind::Time, Value::Number(number)) if !number.is_f64() => Some(format!("{number}ns")),
        (Kind::List, Value::Array(items)) if is_list(flag) => {
            let items: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
            Some(items?.join(","))
        }
        (Kind::Text | Kind::Urls | Kind::Choice(_), Value::String(text)) => Some(text.clone()),
        (Kind::List, Value::String(text)) if !is_list(flag) => Some(text.clone()),
        _ => None,
    }
}

fn wanted(flag: &Flag) -> &'static str {
    match flag.kind {
        Kind::Switch => "true or false",
        Kind::Count | Kind::Integer => "a whole number",
        Kind::Time => "a whole number of nanoseconds",
        Kind::List if is_list(flag) => "a list of strings",
        _ => "a string",
    }
}
