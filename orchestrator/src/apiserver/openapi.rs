//! OpenAPI v3 documents, one per group and version.
//!
//! kubectl validates what it sends against them, finds merge keys in them, explains fields from
//! them, and reads in the PATCH operation whether the server knows `fieldValidation`. They are
//! generated from the table of kinds and the schema data, once, when first asked for, and kept as
//! gzip: every real client accepts that, and the two large ones would otherwise be two megabytes.
//!
//! The index gives each document's address with a hash of its content. A document asked for by
//! that hash never changes, so clients are told to keep it for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::sync::LazyLock;

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::discovery::{self, Document, VIRTUAL, hex};
use crate::api::kinds::{self, Kind, Subresource};
use crate::api::schema;

/// One group-version's document.
pub(crate) struct Compressed {
    /// Hash of the uncompressed text: what the index links and the entity tag says.
    pub(crate) hash: String,
    gzip: Bytes,
}

impl Compressed {
    fn new(value: &Value) -> Self {
        let text = serde_json::to_vec(value).expect("a JSON value serialises");
        let hash = hex(&Sha256::digest(&text)).to_uppercase();
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&text).expect("writing to memory cannot fail");
        let gzip = encoder.finish().expect("writing to memory cannot fail").into();
        Self { hash, gzip }
    }

    pub(crate) fn gzip(&self) -> Bytes {
        self.gzip.clone()
    }

    /// The text itself, for the rare client that cannot unpack it.
    pub(crate) fn plain(&self) -> Bytes {
        let mut text = Vec::new();
        GzDecoder::new(&*self.gzip).read_to_end(&mut text).expect("we packed it ourselves");
        text.into()
    }
}

/// The index and every document, by what follows `/openapi/v3/` in its path.
pub(crate) struct OpenApi {
    pub(crate) index: Document,
    documents: BTreeMap<String, Compressed>,
}

pub(crate) static OPENAPI: LazyLock<OpenApi> = LazyLock::new(OpenApi::build);

impl OpenApi {
    pub(crate) fn document(&self, path: &str) -> Option<&Compressed> {
        self.documents.get(path)
    }

    fn build() -> Self {
        let documents: BTreeMap<String, Compressed> = discovery::groups()
            .into_iter()
            .map(|(group, version)| {
                (root(group, version), Compressed::new(&document(group, version)))
            })
            .collect();
        let paths: Map<String, Value> = documents
            .iter()
            .map(|(path, document)| {
                let url = format!("/openapi/v3/{path}?hash={}", document.hash);
                (path.clone(), json!({"serverRelativeURL": url}))
            })
            .collect();
        Self { index: Document::new(&json!({"paths": paths})), documents }
    }
}

/// `api/v1` or `apis/GROUP/VERSION`.
fn root(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn document(group: &str, version: &str) -> Value {
    let mut paths = Map::new();
    let mut wanted = BTreeSet::new();
    for kind in kinds::in_group(group, version) {
        wanted.insert(kind.definition.to_owned());
        wanted.insert(format!("{}List", kind.definition));
        kind_paths(kind, &mut paths);
    }
    for one in VIRTUAL.iter().filter(|one| (one.group, one.version) == (group, version)) {
        let kind = json!({"group": one.group, "version": one.version, "kind": one.kind});
        let post = operation("post", &kind, None);
        paths.insert(format!("/{}/{}", root(group, version), one.plural), json!({"post": post}));
    }
    wanted.insert("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions".to_owned());
    wanted.insert("io.k8s.apimachinery.pkg.apis.meta.v1.Status".to_owned());
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.37.0"},
        "paths": paths,
        "components": {"schemas": schemas(wanted)},
    })
}

fn kind_paths(kind: &Kind, paths: &mut Map<String, Value>) {
    let base = format!("/{}", root(kind.group, kind.version));
    let scope = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("{base}{scope}/{}", kind.plural);
    let gvk = gvk(kind.group, kind.version, kind.kind);
    let schema = Some(kind.definition);
    let list = format!("{}List", kind.definition);
    if kind.namespaced {
        let everywhere = json!({"get": operation("list", &gvk, Some(&list))});
        paths.insert(format!("{base}/{}", kind.plural), everywhere);
    }
    paths.insert(
        collection.clone(),
        json!({
            "get": operation("list", &gvk, Some(&list)),
            "post": operation("post", &gvk, schema),
            "delete": operation("deletecollection", &gvk, None),
        }),
    );
    let item = format!("{collection}/{{name}}");
    paths.insert(
        item.clone(),
        json!({
            "get": operation("get", &gvk, schema),
            "put": operation("put", &gvk, schema),
            "patch": operation("patch", &gvk, schema),
            "delete": operation("delete", &gvk, schema),
        }),
    );
    for sub in kind.subresources {
        paths.insert(format!("{item}/{}", sub.name), subresource_path(kind, sub));
    }
}

fn subresource_path(kind: &Kind, sub: &Subresource) -> Value {
    let gvk = gvk(sub.group, sub.version, sub.kind);
    // Other kinds than the parent's own are described in their own group's document.
    let schema = (sub.kind == kind.kind && sub.name != "log").then_some(kind.definition);
    let operations = sub.verbs.iter().filter_map(|verb| {
        let (method, action) = match *verb {
            "get" => ("get", "get"),
            "create" => ("post", "post"),
            "update" => ("put", "put"),
            "patch" => ("patch", "patch"),
            _ => return None,
        };
        Some((method.to_owned(), operation(action, &gvk, schema)))
    });
    Value::Object(operations.collect())
}

fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

/// One operation: its action, its kind, the parameters clients look for, and what it answers.
fn operation(action: &str, gvk: &Value, schema: Option<&str>) -> Value {
    let mut answer = json!({"description": "OK"});
    let reference = schema.map(|name| json!({"schema": {"$ref": reference(name)}}));
    if let Some(reference) = &reference {
        answer["content"] = json!({"application/json": reference});
    }
    let mut operation = json!({
        "responses": {"200": answer, "401": {"description": "Unauthorized"}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": gvk,
    });
    let names: &[&str] = match action {
        "list" => &[
            "continue",
            "fieldSelector",
            "labelSelector",
            "limit",
            "resourceVersion",
            "resourceVersionMatch",
            "timeoutSeconds",
            "watch",
            "allowWatchBookmarks",
        ],
        "post" | "put" | "patch" => &["dryRun", "fieldManager", "fieldValidation"],
        "delete" | "deletecollection" => &["dryRun", "gracePeriodSeconds", "propagationPolicy"],
        _ => &[],
    };
    let parameters: Vec<Value> = names.iter().map(|name| parameter(name)).collect();
    if !parameters.is_empty() {
        operation["parameters"] = json!(parameters);
    }
    match (action, reference) {
        ("post" | "put", Some(reference)) => {
            operation["requestBody"] =
                json!({"content": {"application/json": reference}, "required": true});
        }
        ("patch", _) => operation["requestBody"] = patch_body(),
        _ => {}
    }
    operation
}

fn parameter(name: &str) -> Value {
    let kind = match name {
        "limit" | "timeoutSeconds" | "gracePeriodSeconds" => "integer",
        "watch" | "allowWatchBookmarks" => "boolean",
        _ => "string",
    };
    json!({"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": true}})
}

fn patch_body() -> Value {
    let types = [
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
    ];
    let content: Map<String, Value> = types
        .into_iter()
        .map(|name| (name.to_owned(), json!({"schema": {"type": "object"}})))
        .collect();
    json!({"content": content, "required": true})
}

/// The wanted definitions and all they refer to, in the v3 dialect.
fn schemas(mut wanted: BTreeSet<String>) -> Map<String, Value> {
    let mut done = Map::new();
    while let Some(name) = wanted.pop_first() {
        let Some(mut definition) = schema::definition(&name) else { continue };
        convert(&mut definition, &mut wanted);
        wanted.retain(|name| !done.contains_key(name));
        done.insert(name, definition);
        wanted.retain(|name| !done.contains_key(name));
    }
    done
}

/// Rewrites references to where v3 keeps schemas, and notes what they name. A reference with
/// siblings becomes `allOf`: v3 ignores whatever stands beside a `$ref`.
fn convert(value: &mut Value, names: &mut BTreeSet<String>) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(|item| convert(item, names)),
        Value::Object(map) => {
            map.values_mut().for_each(|item| convert(item, names));
            let target = map.get("$ref").and_then(Value::as_str);
            let name = target.and_then(|text| text.rsplit('/').next()).map(str::to_owned);
            if let Some(name) = name {
                let link = json!({"$ref": reference(&name)});
                names.insert(name);
                if map.len() == 1 {
                    *value = link;
                } else {
                    map.remove("$ref");
                    map.insert("allOf".to_owned(), json!([link]));
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn reference(name: &str) -> String {
    format!("#/components/schemas/{name}")
}
