//! The one authorisation layer: every RPC passes here before it does anything.
//!
//! ```text
//! request ──▶ door: what the method's name asks for ([`rule`])
//!         ──▶ caller: who it is, by token or certificate ([`Member::caller`])
//!         ──▶ needs: what this very request touches (`machine::auth::needs`) ──▶ permitted?
//! ```
//!
//! Each method has a declared [`Rule`]. What needs no look into the request (anybody who has logged
//! in; root alone) is decided at the door, so that the service cannot forget it. The others are
//! [`Rule::Content`]: the service translates the request into the store's words and asks with
//! [`Member::allow`] or [`Caller::may`], or proposes it, which asks too. A method without a rule is
//! let through to nobody.
//!
//! Writes are judged twice: here, so that what is not permitted costs no log entry, and by the
//! machine when they are applied, for which the command carries its sender. Reads are judged
//! against the very view that answers them.
//!
//! While logging in is not required all this costs one look at a flag.

use tonic::{Request, Status};

use super::{Member, ThroughGateway, status};
use crate::command::{Login, Refusal, Sender};
use crate::engine::View;
use crate::machine::auth::needs::{Need, Needs};
use crate::machine::lease::Leases;
use crate::tls::PeerCertificate;

/// Who may call a method, as far as its name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Everybody, logged in or not.
    Public,
    /// Whoever has logged in.
    Login,
    /// Who has the role `root`.
    Root,
    /// It depends on what the request holds: the service asks.
    Content,
    /// It is carried out as calls of other methods, each of which asks.
    Steps,
}

/// The rule of a method; none for one that nobody has thought about.
pub(crate) fn rule(path: &str) -> Option<Rule> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    Some(match (service, method) {
        ("grpc.health.v1.Health", _) => Rule::Public,
        ("etcdserverpb.KV", "Range" | "RangeStream" | "Put" | "DeleteRange" | "Txn") => {
            Rule::Content
        }
        ("etcdserverpb.KV", "Compact") => Rule::Root,
        ("etcdserverpb.Watch", "Watch") => Rule::Content,
        ("etcdserverpb.Lease", "LeaseGrant") => Rule::Login,
        (
            "etcdserverpb.Lease",
            "LeaseRevoke" | "LeaseKeepAlive" | "LeaseTimeToLive" | "LeaseLeases",
        ) => Rule::Content,
        ("etcdserverpb.Cluster", "MemberList") => Rule::Login,
        (
            "etcdserverpb.Cluster",
            "MemberAdd" | "MemberRemove" | "MemberUpdate" | "MemberPromote",
        ) => Rule::Root,
        ("etcdserverpb.Maintenance", "Status") => Rule::Login,
        ("etcdserverpb.Maintenance", "Alarm") => Rule::Content,
        (
            "etcdserverpb.Maintenance",
            "Defragment" | "Hash" | "HashKV" | "Snapshot" | "MoveLeader" | "Downgrade",
        ) => Rule::Root,
        ("etcdserverpb.Auth", "Authenticate" | "AuthStatus") => Rule::Public,
        ("etcdserverpb.Auth", "UserGet" | "RoleGet") => Rule::Content,
        (
            "etcdserverpb.Auth",
            "AuthEnable"
            | "AuthDisable"
            | "UserAdd"
            | "UserList"
            | "UserDelete"
            | "UserChangePassword"
            | "UserGrantRole"
            | "UserRevokeRole"
            | "RoleAdd"
            | "RoleList"
            | "RoleDelete"
            | "RoleGrantPermission"
            | "RoleRevokePermission",
        ) => Rule::Root,
        ("v3lockpb.Lock", "Lock" | "Unlock") => Rule::Steps,
        ("v3electionpb.Election", "Campaign" | "Proclaim" | "Leader" | "Observe" | "Resign") => {
            Rule::Steps
        }
        _ => return None,
    })
}

/// What a request shows to say who sent it. Streams keep it: a token may expire while they last.
#[derive(Clone, Default)]
pub(crate) struct Credentials {
    token: Option<String>,
    certificate: Option<PeerCertificate>,
}

/// The header that gRPC clients send, and the one that the gateway passes on.
const TOKEN_HEADERS: [&str; 2] = ["token", "authorization"];

impl Credentials {
    pub(crate) fn of<T>(request: &Request<T>) -> Self {
        let header = |name| request.metadata().get(name)?.to_str().ok();
        Self::new(header, request.extensions())
    }

    fn new<'a>(
        header: impl Fn(&'static str) -> Option<&'a str>,
        extensions: &http::Extensions,
    ) -> Self {
        let token = TOKEN_HEADERS.into_iter().find_map(&header);
        let token = token.map(|token| token.strip_prefix("Bearer ").unwrap_or(token).to_owned());
        // A gateway, ours or another, speaks for somebody else than the certificate's owner.
        let relayed =
            extensions.get::<ThroughGateway>().is_some() || header("grpcgateway-accept").is_some();
        Self { token, certificate: extensions.get().filter(|_| !relayed).cloned() }
    }
}

/// Who sent a request: the sender that its commands will name. Nobody, if he did not say; and
/// nobody is asked while logging in is not required.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caller(Option<Sender>);

impl Caller {
    /// Whether the caller may ask this of a view.
    pub(crate) fn may(&self, view: &View, request: &impl Needs) -> Result<(), Refusal> {
        let auth = view.auth();
        if !auth.enabled() {
            return Ok(());
        }
        let by = self.0.as_ref();
        Ok(request.each(&mut |need| auth.permits(by, need, &Leases::default()))?)
    }

    pub(super) fn into_sender(self) -> Option<Sender> {
        self.0
    }
}

impl Member {
    /// Stops who may not call a method at all.
    pub(super) fn door<B>(&self, request: &http::Request<B>) -> Result<(), Status> {
        if !self.reader.auth_enabled() {
            return Ok(());
        }
        let need = match rule(request.uri().path()) {
            Some(Rule::Public | Rule::Content | Rule::Steps) => return Ok(()),
            Some(Rule::Login) => Need::Login,
            Some(Rule::Root) => Need::Root,
            None => return Err(status::undeclared()),
        };
        let header = |name| request.headers().get(name)?.to_str().ok();
        let credentials = Credentials::new(header, request.extensions());
        self.allow(&self.recognise(&credentials)?, &need)
    }

    /// Who sent a request; an error if he shows a token that is not good.
    pub(crate) fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        if !self.reader.auth_enabled() {
            return Ok(Caller::default());
        }
        self.recognise(&Credentials::of(request))
    }

    /// Who shows this. A token says more than a certificate, and a bad token is not made good by
    /// one.
    pub(crate) fn recognise(&self, credentials: &Credentials) -> Result<Caller, Status> {
        let view = self.reader.view();
        let auth = view.auth();
        if !auth.enabled() {
            return Ok(Caller::default());
        }
        let certificate = credentials.certificate.as_ref().filter(|_| self.gate.names_count());
        let login = match (&credentials.token, certificate) {
            (Some(token), _) => Some(self.gate.recognise(token, auth).map_err(status::denied)?),
            (None, Some(certificate)) => certificate
                .common_name()
                .map(|name| Login { user: name.to_owned(), revision: auth.revision() }),
            (None, None) => None,
        };
        Ok(Caller(login.map(Sender::User)))
    }

    /// Refuses what the caller is not permitted, as things are now.
    pub(crate) fn allow(&self, caller: &Caller, request: &impl Needs) -> Result<(), Status> {
        self.check(caller, request).map_err(status::refusal)
    }

    pub(super) fn check(&self, caller: &Caller, request: &impl Needs) -> Result<(), Refusal> {
        if !self.reader.auth_enabled() {
            return Ok(());
        }
        let (view, by) = (self.reader.view(), caller.0.as_ref());
        Ok(request.each(&mut |need| match need {
            // Only these need to know what is attached.
            Need::Lease(..) => {
                self.reader.with_leases(|auth, leases| auth.permits(by, need, leases))
            }
            need => view.auth().permits(by, need, &Leases::default()),
        })?)
    }
}
