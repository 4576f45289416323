//! The text of a kubeconfig with and without the cluster. No files.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

/// What the cluster is called, unless the name is taken.
const NAME: &str = "orchestrator";
/// Names tried before giving up: `orchestrator`, `orchestrator-2`, …
const NAMES_MAX: usize = 100;

/// The cluster and who may use it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Address of the API, e.g. `https://127.0.0.1:6443`.
    pub server: String,
    pub ca_pem: String,
    pub cert_pem: String,
    pub key_pem: String,
}

/// Why a text cannot be merged with.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    #[error("it is not YAML: {0}")]
    NotYaml(String),
    #[error("{0} is not {1}")]
    Shape(&'static str, &'static str),
    #[error("every name from {NAME} to {NAME}-{NAMES_MAX} is taken by another cluster")]
    NoName,
}

/// The text with the cluster in it and current, and the name it has there.
pub(super) fn with(before: Option<&str>, entry: &Entry) -> Result<(String, String), MergeError> {
    let mut root = parse(before.unwrap_or_default())?;
    let name = free_name(&root, entry)?;
    root.entry("apiVersion").or_insert_with(|| "v1".into());
    root.entry("kind").or_insert_with(|| "Config".into());
    root.entry("preferences").or_insert_with(|| json!({}));
    put(
        &mut root,
        "clusters",
        &name,
        "cluster",
        json!({
            "server": entry.server,
            "certificate-authority-data": STANDARD.encode(&entry.ca_pem),
        }),
    )?;
    put(
        &mut root,
        "users",
        &name,
        "user",
        json!({
            "client-certificate-data": STANDARD.encode(&entry.cert_pem),
            "client-key-data": STANDARD.encode(&entry.key_pem),
        }),
    )?;
    // A namespace chosen by `kubectl config set-context` outlives a restart of `up`.
    let mut context = find(&root, "contexts", &name)
        .and_then(|held| held.get("context")?.as_object().cloned())
        .unwrap_or_default();
    context.insert("cluster".into(), name.as_str().into());
    context.insert("user".into(), name.as_str().into());
    put(&mut root, "contexts", &name, "context", context.into())?;
    root.insert("current-context".into(), name.as_str().into());
    Ok((print(&root)?, name))
}

/// The text without the cluster; `None` when it is not in there.
pub(super) fn without(
    before: &str,
    name: &str,
    ca_pem: &str,
) -> Result<Option<String>, MergeError> {
    let mut root = parse(before)?;
    if authority(&root, name) != Some(STANDARD.encode(ca_pem)) {
        return Ok(None);
    }
    for list in ["clusters", "users", "contexts"] {
        if let Some(entries) = entries(&mut root, list)? {
            entries.retain(|held| held.get("name").and_then(Value::as_str) != Some(name));
        }
    }
    if root.get("current-context").and_then(Value::as_str) == Some(name) {
        root.insert("current-context".into(), "".into());
    }
    print(&root).map(Some)
}

fn parse(text: &str) -> Result<Map<String, Value>, MergeError> {
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    let value: Value =
        serde_saphyr::from_str(text).map_err(|error| MergeError::NotYaml(first_line(&error)))?;
    match value {
        Value::Object(root) => Ok(root),
        Value::Null => Ok(Map::new()),
        _ => Err(MergeError::Shape("it", "a mapping")),
    }
}

fn print(root: &Map<String, Value>) -> Result<String, MergeError> {
    serde_saphyr::to_string(root).map_err(|error| MergeError::NotYaml(first_line(&error)))
}

fn first_line(error: &impl ToString) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// A name nobody else uses. The cluster keeps the name it has, also when its authority was made anew
/// at the same address.
fn free_name(root: &Map<String, Value>, entry: &Entry) -> Result<String, MergeError> {
    let ca = STANDARD.encode(&entry.ca_pem);
    let names = (1..=NAMES_MAX).map(|nth| match nth {
        1 => NAME.to_owned(),
        _ => format!("{NAME}-{nth}"),
    });
    let mut free = names.filter(|name| {
        let Some(held) = find(root, "clusters", name) else {
            // A context of that name may still lead to a cluster of another name.
            return find(root, "contexts", name).is_none() && find(root, "users", name).is_none();
        };
        let server = held.get("cluster").and_then(|cluster| cluster.get("server"));
        authority(root, name).as_ref() == Some(&ca)
            || server.and_then(Value::as_str) == Some(&entry.server)
    });
    free.next().ok_or(MergeError::NoName)
}

fn authority(root: &Map<String, Value>, name: &str) -> Option<String> {
    let cluster = find(root, "clusters", name)?.get("cluster")?;
    cluster.get("certificate-authority-data")?.as_str().map(str::to_owned)
}

fn find<'a>(root: &'a Map<String, Value>, list: &str, name: &str) -> Option<&'a Value> {
    let entries = root.get(list)?.as_array()?;
    entries.iter().find(|held| held.get("name").and_then(Value::as_str) == Some(name))
}

fn entries<'a>(
    root: &'a mut Map<String, Value>,
    list: &'static str,
) -> Result<Option<&'a mut Vec<Value>>, MergeError> {
    match root.get_mut(list) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(entries)) => Ok(Some(entries)),
        Some(_) => Err(MergeError::Shape(list, "a list")),
    }
}

fn put(
    root: &mut Map<String, Value>,
    list: &'static str,
    name: &str,
    field: &str,
    value: Value,
) -> Result<(), MergeError> {
    let entry = json!({ "name": name, field: value });
    match entries(root, list)? {
        None => {
            root.insert(list.into(), json!([entry]));
        }
        Some(entries) => {
            let held = entries.iter_mut().find(|held| held.get("name") == entry.get("name"));
            match held {
                Some(held) => *held = entry,
                None => entries.push(entry),
            }
        }
    }
    Ok(())
}
