//! The verbs of the API, one path for all kinds.
//!
//! What a kind can do is said by its row in the table of kinds; here each verb is decoded, checked
//! for what only the wire can get wrong (the body's kind, name and namespace against those of the
//! path, the query), handed to the registry, and its outcome given the form the client asked for.

use http::{Response, StatusCode};
use tokio::sync::OwnedSemaphorePermit;

use super::dispatch::{Ask, Server};
use super::negotiate::Form;
use super::options;
use super::respond::{self, Body};
use super::{body, log, present, review, watch};
use crate::api::patch::Patch;
use crate::api::{Key, Kind, Object, Status, kinds, status};
use crate::registry::{Deleted, Part, WriteOptions};

/// The forms that objects and lists come in.
const FORMS: &[Form] = &[Form::Object, Form::Table, Form::Partial];

/// Parts of pods, nodes and services that stream, and are not built.
const STREAMS: &[&str] = &["exec", "attach", "portforward", "proxy"];

/// Whether the answer may last as long as the client likes.
pub(crate) fn stays(ask: &Ask) -> bool {
    let log = ask.target.resource == "pods" && ask.target.subresource.as_deref() == Some("log");
    ask.verb == "watch" || (log && ask.query.flag("follow"))
}

/// Answers a request for an object, a collection or a part of an object. A request that
/// [stays] gives its place back when `slot` is dropped.
pub(crate) async fn answer(
    server: &Server,
    ask: Ask,
    slot: Option<OwnedSemaphorePermit>,
) -> Result<Response<Body>, Status> {
    let target = &ask.target;
    let Some(kind) = kinds::find(&target.group, &target.version, &target.resource) else {
        return review::answer(&ask);
    };
    check_scope(kind, &ask)?;
    let Some(subresource) = target.subresource.clone() else {
        return whole(server, kind, ask, slot).await;
    };
    if STREAMS.contains(&subresource.as_str()) {
        let message = format!("{}/{subresource} is not supported by this server", kind.plural);
        return Err(Status::not_implemented(message));
    }
    let known = kind.subresource(&subresource).ok_or_else(Status::no_such_path)?;
    if !known.verbs.contains(&ask.verb) {
        return Err(Status::no_such_method());
    }
    match subresource.as_str() {
        "status" => part(server, kind, Part::Status, ask).await,
        "scale" => part(server, kind, Part::Scale, ask).await,
        "finalize" => part(server, kind, Part::Finalize, ask).await,
        "binding" => bind(server, kind, ask).await,
        "log" => log::answer(server, ask, slot).await,
        _ => Err(Status::no_such_path()),
    }
}

/// Refuses paths that no object of the kind can have, and verbs that the kind does not know.
fn check_scope(kind: &Kind, ask: &Ask) -> Result<(), Status> {
    let target = &ask.target;
    // A namespace's own path looks like one in a namespace.
    let within = target.namespace.is_some() && *kind != kinds::NAMESPACE;
    if within != kind.namespaced && (within || target.name.is_some()) {
        return Err(Status::no_such_path());
    }
    if target.subresource.is_some() {
        return Ok(());
    }
    // All namespaces at once can be read, not written.
    let everywhere = kind.namespaced && !within;
    let sound = match ask.verb {
        "list" | "watch" => true,
        "create" => !everywhere && target.name.is_none(),
        "update" | "patch" => target.name.is_some(),
        _ => !everywhere,
    };
    if sound && kind.verbs.contains(&ask.verb) { Ok(()) } else { Err(Status::no_such_method()) }
}

async fn whole(
    server: &Server,
    kind: &'static Kind,
    ask: Ask,
    slot: Option<OwnedSemaphorePermit>,
) -> Result<Response<Body>, Status> {
    match ask.verb {
        "get" => get(server, kind, Part::Main, &ask).await,
        "list" => list(server, kind, &ask).await,
        "watch" => watch::answer(server, kind, ask, slot).await,
        "create" => create(server, kind, ask).await,
        "update" => update(server, kind, Part::Main, ask).await,
        "patch" => patch(server, kind, Part::Main, ask).await,
        "delete" => delete(server, kind, ask).await,
        "deletecollection" => delete_collection(server, kind, ask).await,
        _ => Err(Status::no_such_method()),
    }
}

async fn part(
    server: &Server,
    kind: &'static Kind,
    part: Part,
    ask: Ask,
) -> Result<Response<Body>, Status> {
    match ask.verb {
        "get" => get(server, kind, part, &ask).await,
        "update" => update(server, kind, part, ask).await,
        "patch" => patch(server, kind, part, ask).await,
        _ => Err(Status::no_such_method()),
    }
}

/// The object that the path names.
fn key(kind: &Kind, ask: &Ask) -> Result<Key, Status> {
    let name = ask.target.name.clone().ok_or_else(Status::no_such_method)?;
    match &ask.target.namespace {
        Some(namespace) if kind.namespaced => Ok(Key::namespaced(namespace.clone(), name)),
        _ => Ok(Key::cluster(name)),
    }
}

async fn get(
    server: &Server,
    kind: &'static Kind,
    part: Part,
    ask: &Ask,
) -> Result<Response<Body>, Status> {
    let forms = if part == Part::Main { FORMS } else { &[Form::Object] };
    let shape = present::Shape::of(ask, forms)?;
    let object = server.registry.get_part(kind, &key(kind, ask)?, part).await?;
    Ok(respond::value(StatusCode::OK, &shape.one(kind, object), shape.spelling))
}

async fn list(server: &Server, kind: &'static Kind, ask: &Ask) -> Result<Response<Body>, Status> {
    let shape = present::Shape::of(ask, FORMS)?;
    let options = options::list(kind, &ask.query)?;
    let namespace = namespace(kind, ask);
    let list = server.registry.list(kind, namespace, &options).await?;
    Ok(respond::value(StatusCode::OK, &shape.list(kind, list), shape.spelling))
}

/// The namespace a collection is limited to.
fn namespace<'a>(kind: &Kind, ask: &'a Ask) -> Option<&'a str> {
    ask.target.namespace.as_deref().filter(|_| kind.namespaced)
}

async fn create(server: &Server, kind: &'static Kind, ask: Ask) -> Result<Response<Body>, Status> {
    let shape = present::Shape::of(&ask, FORMS)?;
    let options = options::write(&ask.query)?;
    let mut object = object(kind, &ask, &options, kind.kind, &kind.api_version())?;
    if let Some(namespace) = namespace(kind, &ask) {
        object.set("/metadata/namespace", namespace);
    }
    let created = server.registry.create(&ask.actor, kind, object, &options).await?;
    let answer = respond::value(StatusCode::CREATED, &shape.one(kind, created), shape.spelling);
    Ok(with_warnings(answer, &options))
}

async fn update(
    server: &Server,
    kind: &'static Kind,
    part: Part,
    ask: Ask,
) -> Result<Response<Body>, Status> {
    let forms = if part == Part::Scale { &[Form::Object] } else { FORMS };
    let shape = present::Shape::of(&ask, forms)?;
    let options = options::write(&ask.query)?;
    let (name, version) = match part {
        Part::Scale => ("Scale", "autoscaling/v1".to_owned()),
        Part::Main | Part::Status | Part::Finalize => (kind.kind, kind.api_version()),
    };
    let object = object(kind, &ask, &options, name, &version)?;
    let key = key(kind, &ask)?;
    if object.name() != key.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            object.name(),
            key.name
        )));
    }
    let updated = server.registry.update(&ask.actor, kind, &key, part, object, &options).await?;
    let answer = respond::value(StatusCode::OK, &shape.one(kind, updated), shape.spelling);
    Ok(with_warnings(answer, &options))
}

async fn patch(
    server: &Server,
    kind: &'static Kind,
    part: Part,
    ask: Ask,
) -> Result<Response<Body>, Status> {
    const TAKEN: &str = "application/json-patch+json, application/merge-patch+json, \
                         application/strategic-merge-patch+json";
    let forms = if part == Part::Scale { &[Form::Object] } else { FORMS };
    let shape = present::Shape::of(&ask, forms)?;
    let options = options::write(&ask.query)?;
    let media = body::media_type(&ask.headers);
    let of = match media.as_str() {
        "application/json-patch+json" => Patch::Json,
        "application/merge-patch+json" => Patch::Merge,
        "application/strategic-merge-patch+json" => Patch::Strategic,
        "application/apply-patch+yaml" => {
            return Err(Status::unsupported_media_type(format!(
                "server-side apply is not supported by this server - accepted media types \
                 include: {TAKEN}"
            )));
        }
        _ => {
            return Err(Status::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types \
                 include: {TAKEN}"
            )));
        }
    };
    let (document, twice) = body::decode("application/json", &ask.body, options.field_validation)?;
    twice.into_iter().for_each(|warning| options.warnings.add(warning));
    let key = key(kind, &ask)?;
    let patch = of(document);
    let patched = server.registry.patch(&ask.actor, kind, &key, part, &patch, &options).await?;
    let answer = respond::value(StatusCode::OK, &shape.one(kind, patched), shape.spelling);
    Ok(with_warnings(answer, &options))
}

async fn delete(server: &Server, kind: &'static Kind, ask: Ask) -> Result<Response<Body>, Status> {
    let shape = present::Shape::of(&ask, FORMS)?;
    let options = options::delete(&ask)?;
    let key = key(kind, &ask)?;
    let answer = match server.registry.delete(&ask.actor, kind, &key, &options).await? {
        Deleted::Gone(object) => status::deleted(kind, object.name(), object.uid()),
        Deleted::Waiting(object) => shape.one(kind, object),
    };
    Ok(respond::value(StatusCode::OK, &answer, shape.spelling))
}

async fn delete_collection(
    server: &Server,
    kind: &'static Kind,
    ask: Ask,
) -> Result<Response<Body>, Status> {
    let shape = present::Shape::of(&ask, FORMS)?;
    let options = options::delete(&ask)?;
    let which = options::list(kind, &ask.query)?;
    let namespace = namespace(kind, &ask);
    let gone =
        server.registry.delete_collection(&ask.actor, kind, namespace, &options, &which).await?;
    Ok(respond::value(StatusCode::OK, &shape.list(kind, gone), shape.spelling))
}

/// `pods/NAME/binding`: the scheduler's verdict.
async fn bind(server: &Server, kind: &'static Kind, ask: Ask) -> Result<Response<Body>, Status> {
    let (_, spelling) = ask.form(&[Form::Object])?;
    let options = options::write(&ask.query)?;
    let binding = object(kind, &ask, &options, "Binding", "v1")?;
    let target = binding.text("/target/name").unwrap_or_default();
    if target.is_empty() || !matches!(binding.text("/target/kind"), None | Some("" | "Node")) {
        return Err(Status::unprocessable(
            "Binding is invalid: target: must name a Node to bind the pod to",
        ));
    }
    let uid = binding.text("/metadata/uid").filter(|uid| !uid.is_empty());
    server.registry.bind(&ask.actor, &key(kind, &ask)?, uid, target, &options).await?;
    Ok(respond::value(StatusCode::CREATED, &status::success(201), spelling))
}

/// The object in a body, which must be what the path says it is. Kind and version may be left out
/// and are then those of the path.
fn object(
    kind: &Kind,
    ask: &Ask,
    options: &WriteOptions,
    wanted_kind: &str,
    wanted_version: &str,
) -> Result<Object, Status> {
    let media = body::media_type(&ask.headers);
    let (value, twice) = body::decode(&media, &ask.body, options.field_validation)?;
    twice.into_iter().for_each(|warning| options.warnings.add(warning));
    let mut object = Object::from_value(value)
        .ok_or_else(|| Status::bad_request("the body of the request must be one object"))?;
    let given = (object.kind().to_owned(), object.api_version().to_owned());
    if !given.0.is_empty() && given.0 != wanted_kind {
        return Err(Status::bad_request(format!(
            "{} in version {:?} cannot be handled as a {wanted_kind}: the path takes a {wanted_kind}",
            given.0,
            given.1.rsplit('/').next().unwrap_or_default(),
        )));
    }
    if !given.1.is_empty() && given.1 != wanted_version {
        return Err(Status::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version \
             ({wanted_version})",
            given.1
        )));
    }
    object.set("/kind", wanted_kind);
    object.set("/apiVersion", wanted_version);
    let inside = object.namespace().filter(|namespace| !namespace.is_empty());
    let on_path = namespace(kind, ask);
    match (inside, on_path) {
        (Some(inside), Some(on_path)) if inside != on_path => {
            return Err(Status::bad_request(format!(
                "the namespace of the provided object does not match the namespace sent on the \
                 request: {inside:?} and {on_path:?}"
            )));
        }
        (Some(_), None) if !kind.namespaced => {
            object.remove("/metadata/namespace");
        }
        _ => {}
    }
    Ok(object)
}

fn with_warnings(mut answer: Response<Body>, options: &WriteOptions) -> Response<Body> {
    respond::warn(&mut answer, &options.warnings.take());
    answer
}
