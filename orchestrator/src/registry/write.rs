//! The write path: create, update, patch, modify.
//!
//! All four go through the same steps. What differs is only where the wished-for object comes
//! from: the client sends it, a patch is applied to the present one, or a function edits it. An
//! update that names no revision, and every patch and function, is tried again when somebody else
//! wrote in between; an update that names one is refused then.

use super::commit::{Change, Outcome};
use super::options::{Actor, WriteOptions};
use super::{Registry, admission, codec, service};
use crate::api::lifecycle::{self, Part};
use crate::api::patch::Patch;
use crate::api::{Key, Kind, Object, Status, convert, defaults, kinds, patch, schema, validate};
use crate::client::etcd::Entry;

/// Writers that race for one object: the loser of so many rounds is told of the conflict.
const ATTEMPTS_MAX: usize = 64;
/// Tries to find a free generated name.
const NAMES_MAX: usize = 8;

impl Registry {
    /// Creates an object. Its namespace must be set for kinds that have one.
    pub async fn create(
        &self,
        actor: &Actor,
        kind: &'static Kind,
        object: Object,
        options: &WriteOptions,
    ) -> Result<Object, Status> {
        let mut object = object;
        fill_type(kind, &mut object)?;
        options.warn(schema::check(kind, &mut object, options.field_validation)?);
        let prefix = object.text("/metadata/generateName").unwrap_or("").to_owned();
        let generated = object.name().is_empty() && !prefix.is_empty();
        for _ in 0..if generated { NAMES_MAX } else { 1 } {
            let mut attempt = object.clone();
            if generated {
                attempt.set("/metadata/name", super::generate_name(&prefix));
            }
            match self.create_named(actor, kind, attempt, options).await {
                Err(status) if generated && status.is_already_exists() => {}
                done => return done,
            }
        }
        Err(Status::generate_name_conflict(kind, &prefix))
    }

    async fn create_named(
        &self,
        actor: &Actor,
        kind: &'static Kind,
        mut object: Object,
        options: &WriteOptions,
    ) -> Result<Object, Status> {
        let now = super::now();
        lifecycle::begin(kind, &mut object, &super::new_uid(), now)?;
        defaults::apply(kind, &mut object);
        admission::admit_create(kind, &mut object)?;
        let mut service = service::Plan::create(kind, &object);
        let causes = validate::create(kind, &object, self.limits());
        if !causes.is_empty() {
            return Err(Status::invalid(kind, object.name(), causes));
        }
        let key = Key::of(&object);
        super::check_scope(kind, &key)?;
        let lease = if options.dry_run { 0 } else { self.lease_for(kind).await? };
        for _ in 0..ATTEMPTS_MAX {
            let namespace = self.active_namespace(kind, &object).await?;
            self.allocate(&mut service, &mut object).await?;
            let stored = convert::to_stored(kind, object.clone());
            let mut change = Change::new(kind, &key, None, Some(&stored));
            change.lease = lease;
            change.unchanged.extend(namespace);
            change.take.extend(service.taken());
            if options.dry_run {
                return match self.entry(kind, &key).await {
                    Ok(_) => Err(Status::already_exists(kind, &key.name)),
                    Err(status) if status.is_not_found() => Ok(object),
                    Err(status) => Err(status),
                };
            }
            match self.commit(&change).await? {
                Outcome::Done(revision) => {
                    object.set_resource_version(revision);
                    tracing::debug!(kind = kind.kind, %key, user = actor.user, "created");
                    return Ok(object);
                }
                Outcome::Changed(_) => return Err(Status::already_exists(kind, &key.name)),
                Outcome::Refused => {
                    // The namespace changed, or an address that was free is taken: look again.
                    self.forget_namespace(&object);
                }
            }
        }
        Err(Status::timeout("the object could not be created: others kept changing its namespace"))
    }

    /// Replaces a part of an object. With a `resourceVersion` only if nobody wrote in between.
    pub async fn update(
        &self,
        actor: &Actor,
        kind: &'static Kind,
        key: &Key,
        part: Part,
        object: Object,
        options: &WriteOptions,
    ) -> Result<Object, Status> {
        let mut object = object;
        if part != Part::Scale {
            fill_type(kind, &mut object)?;
            options.warn(schema::check(kind, &mut object, options.field_validation)?);
        }
        check_name(key, &object)?;
        if part == Part::Main && creates_on_update(kind) && self.is_absent(kind, key).await? {
            if object.text("/metadata/uid").is_some_and(|uid| !uid.is_empty()) {
                let why = format!(
                    "Precondition failed: UID in precondition: {}, UID in object meta: ",
                    object.uid()
                );
                return Err(Status::conflict(kind, &key.name, &why));
            }
            object.remove("/metadata/resourceVersion");
            return self.create(actor, kind, object, options).await;
        }
        let sent = object;
        self.change(actor, kind, key, part, options, |_| Ok(sent.clone())).await
    }

    async fn is_absent(&self, kind: &'static Kind, key: &Key) -> Result<bool, Status> {
        match self.entry(kind, key).await {
            Ok(_) => Ok(false),
            Err(status) if status.is_not_found() => Ok(true),
            Err(status) => Err(status),
        }
    }

    /// Changes a part of an object by a patch.
    pub async fn patch(
        &self,
        actor: &Actor,
        kind: &'static Kind,
        key: &Key,
        part: Part,
        change: &Patch,
        options: &WriteOptions,
    ) -> Result<Object, Status> {
        let definition = match part {
            Part::Scale => "io.k8s.api.autoscaling.v1.Scale",
            Part::Main | Part::Status | Part::Finalize => kind.definition,
        };
        let apply = |current: &Object| {
            let mut next = patch::apply(definition, current, change)?;
            check_name(key, &next)?;
            if part != Part::Scale {
                fill_type(kind, &mut next)?;
                options.warn(schema::check(kind, &mut next, options.field_validation)?);
            }
            Ok(next)
        };
        self.change(actor, kind, key, part, options, apply).await
    }

    /// Changes a part of an object by a function, again and again until nobody wrote in between.
    /// The function sees the whole object; what it changes outside the part is ignored. An object
    /// that comes out unchanged is not written.
    pub async fn modify(
        &self,
        actor: &Actor,
        kind: &'static Kind,
        key: &Key,
        part: Part,
        mut change: impl FnMut(&mut Object) -> Result<(), Status> + Send,
    ) -> Result<Object, Status> {
        let edit = |current: &Object| {
            let mut next = current.clone();
            change(&mut next)?;
            Ok(next)
        };
        self.change(actor, kind, key, part, &WriteOptions::default(), edit).await
    }

    /// Reads, changes and writes until the write meets what was read.
    async fn change(
        &self,
        actor: &Actor,
        kind: &'static Kind,
        key: &Key,
        part: Part,
        options: &WriteOptions,
        mut wish: impl FnMut(&Object) -> Result<Object, Status> + Send,
    ) -> Result<Object, Status> {
        let mut entry = self.entry(kind, key).await?;
        for _ in 0..ATTEMPTS_MAX {
            let current = codec::present(kind, codec::decode(&entry)?);
            let wanted = match part {
                Part::Scale => wish(&lifecycle::scale(&current))?,
                Part::Main | Part::Status | Part::Finalize => wish(&current)?,
            };
            check_wanted(kind, part, &current, &wanted)?;
            match self.write(kind, key, part, &current, wanted, options).await? {
                Written::Done(object) => {
                    tracing::debug!(kind = kind.kind, %key, ?part, user = actor.user, "written");
                    return Ok(match part {
                        Part::Scale => lifecycle::scale(&object),
                        Part::Main | Part::Status | Part::Finalize => object,
                    });
                }
                Written::Lost(Some(newer)) => entry = newer,
                Written::Lost(None) => return Err(Status::not_found(kind, &key.name)),
            }
        }
        Err(Status::modified(kind, &key.name))
    }

    /// One attempt: merges the wish into the present object, checks and writes it.
    async fn write(
        &self,
        kind: &'static Kind,
        key: &Key,
        part: Part,
        current: &Object,
        mut wanted: Object,
        options: &WriteOptions,
    ) -> Result<Written, Status> {
        if part == Part::Main {
            service::keep_allocated(kind, current, &mut wanted);
            defaults::apply(kind, &mut wanted);
        }
        let mut next = lifecycle::merge(kind, part, current, wanted);
        let mut service = service::Plan::update(kind, current, &next);
        let causes = validate::update(kind, part, current, &next, self.limits());
        if !causes.is_empty() {
            return Err(Status::invalid(kind, &key.name, causes));
        }
        self.allocate(&mut service, &mut next).await?;
        let before = convert::to_stored(kind, current.clone());
        let after = convert::to_stored(kind, next.clone());
        let ends = lifecycle::ends_with_update(kind, &next);
        let mut change = Change::new(kind, key, Some(&before), (!ends).then_some(&after));
        change.take.extend(service.taken());
        change.give_back.extend(service.given_back());
        if ends {
            change.give_back.extend(service::held(kind, current));
        }
        if options.dry_run {
            return Ok(Written::Done(next));
        }
        if !ends {
            change.lease = self.lease_for(kind).await?;
        }
        Ok(match self.commit(&change).await? {
            Outcome::Done(revision) => {
                next.set_resource_version(revision);
                Written::Done(next)
            }
            Outcome::Changed(newer) => Written::Lost(newer),
            // Somebody took an address or a port that was free: another round finds another.
            Outcome::Refused => Written::Lost(Some(self.entry(kind, key).await?)),
        })
    }
}

enum Written {
    Done(Object),
    /// Somebody else wrote in between; this is what is there now.
    Lost(Option<Entry>),
}

/// Kinds whose writers may put an object that does not exist yet, as in Kubernetes.
fn creates_on_update(kind: &Kind) -> bool {
    [&kinds::LEASE, &kinds::EVENT, &kinds::EVENT_V1].contains(&kind)
}

/// Fills in or checks what the object says of its own type.
fn fill_type(kind: &Kind, object: &mut Object) -> Result<(), Status> {
    let (version, own) = (kind.api_version(), object.api_version());
    if !own.is_empty() && own != version {
        return Err(Status::bad_request(format!(
            "the API version in the data ({own}) does not match the expected API version ({version})"
        )));
    }
    if !object.kind().is_empty() && object.kind() != kind.kind {
        return Err(Status::bad_request(format!(
            "the kind in the data ({}) does not match the expected kind ({})",
            object.kind(),
            kind.kind
        )));
    }
    object.set("/apiVersion", version);
    object.set("/kind", kind.kind);
    Ok(())
}

/// The object must be the one the path names.
fn check_name(key: &Key, object: &Object) -> Result<(), Status> {
    if !object.name().is_empty() && object.name() != key.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            object.name(),
            key.name
        )));
    }
    match (object.namespace(), key.namespace.as_deref()) {
        (Some(own), Some(namespace)) if own != namespace => Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        )),
        _ => Ok(()),
    }
}

/// The revision and identity the writer names must be those of the present object.
fn check_wanted(
    kind: &'static Kind,
    part: Part,
    current: &Object,
    wanted: &Object,
) -> Result<(), Status> {
    let name = current.name();
    let uid = wanted.uid();
    if !uid.is_empty() && uid != current.uid() {
        let why = format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            current.uid()
        );
        return Err(Status::conflict(kind, name, &why));
    }
    match wanted.text("/metadata/resourceVersion").unwrap_or("") {
        "" | "0" if *kind == kinds::LEASE && part == Part::Main => {
            let cause = validate::invalid_value(
                "metadata.resourceVersion",
                &0.into(),
                "must be specified for an update",
            );
            Err(Status::invalid(kind, name, vec![cause]))
        }
        "" | "0" => Ok(()),
        version => {
            let revision = super::parse_revision(version)?;
            if current.resource_version() == Some(revision) {
                Ok(())
            } else {
                Err(Status::modified(kind, name))
            }
        }
    }
}
