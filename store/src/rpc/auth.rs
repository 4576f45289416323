//! The Auth service: users, roles, permissions, and logging in.
//!
//! Changes go through the log like any other write; what they may do is `machine::auth`'s to say.
//! Passwords are hashed before that, so that none is ever written anywhere, and only after the
//! sender was found to be root, so that nobody else makes the member work for it.
//!
//! Logging in writes nothing. The password is checked against the users as they are; the token is
//! handed out only if they are still so afterwards.

use std::sync::Arc;

use proto::{authpb, etcdserverpb as pb};
use tonic::{Request, Response, Status};

use super::{Caller, Member, convert, status};
use crate::command::{
    Access, AuthOp, AuthRefusal, Command, KeyRange, Login, PasswordHash, Permission, ROOT, Refusal,
};
use crate::machine::auth::needs::Need;

/// How often logging in starts again because users changed meanwhile.
const LOGIN_ATTEMPTS: usize = 5;

pub(super) struct Auth(pub(super) Arc<Member>);

#[tonic::async_trait]
impl pb::auth_server::Auth for Auth {
    /// A client must be able to ask before it logs in.
    async fn auth_status(
        &self,
        _: Request<pb::AuthStatusRequest>,
    ) -> Result<Response<pb::AuthStatusResponse>, Status> {
        self.0.linearize().await.map_err(status::unavailable)?;
        let view = self.0.reader.view();
        Ok(Response::new(pb::AuthStatusResponse {
            header: Some(self.0.header(view.revision())),
            enabled: view.auth().enabled(),
            auth_revision: view.auth().revision(),
        }))
    }

    async fn authenticate(
        &self,
        request: Request<pb::AuthenticateRequest>,
    ) -> Result<Response<pb::AuthenticateResponse>, Status> {
        let pb::AuthenticateRequest { name, password } = request.into_inner();
        self.0.linearize().await.map_err(status::unavailable)?;
        let token = self.log_in(&name, &password).await?;
        Ok(Response::new(pb::AuthenticateResponse { header: Some(self.0.header_now()), token }))
    }

    async fn auth_enable(
        &self,
        request: Request<pb::AuthEnableRequest>,
    ) -> Result<Response<pb::AuthEnableResponse>, Status> {
        let header = self.change(self.0.caller(&request)?, AuthOp::Enable).await?;
        Ok(Response::new(pb::AuthEnableResponse { header }))
    }

    async fn auth_disable(
        &self,
        request: Request<pb::AuthDisableRequest>,
    ) -> Result<Response<pb::AuthDisableResponse>, Status> {
        let header = self.change(self.0.caller(&request)?, AuthOp::Disable).await?;
        Ok(Response::new(pb::AuthDisableResponse { header }))
    }

    async fn user_add(
        &self,
        request: Request<pb::AuthUserAddRequest>,
    ) -> Result<Response<pb::AuthUserAddResponse>, Status> {
        let caller = self.root(&request)?;
        let request = request.into_inner();
        let no_password = request.options.is_some_and(|options| options.no_password);
        let hash = match no_password {
            true => PasswordHash::default(),
            false => self.hash(request.password).await?,
        };
        let add = AuthOp::UserAdd { name: request.name, hash, no_password };
        let header = self.change(caller, add).await?;
        Ok(Response::new(pb::AuthUserAddResponse { header }))
    }

    async fn user_get(
        &self,
        request: Request<pb::AuthUserGetRequest>,
    ) -> Result<Response<pb::AuthUserGetResponse>, Status> {
        let caller = self.0.caller(&request)?;
        let name = request.into_inner().name;
        self.0.linearize().await.map_err(status::unavailable)?;
        let view = self.0.reader.view();
        caller.may(&view, &Need::User(&name)).map_err(status::refusal)?;
        let user = view.auth().user(&name).ok_or_else(|| refused(AuthRefusal::UserNotFound))?;
        let roles = user.roles.iter().cloned().collect();
        let header = Some(self.0.header(view.revision()));
        Ok(Response::new(pb::AuthUserGetResponse { header, roles }))
    }

    async fn user_list(
        &self,
        request: Request<pb::AuthUserListRequest>,
    ) -> Result<Response<pb::AuthUserListResponse>, Status> {
        let caller = self.0.caller(&request)?;
        self.0.linearize().await.map_err(status::unavailable)?;
        let view = self.0.reader.view();
        caller.may(&view, &Need::Root).map_err(status::refusal)?;
        let users = view.auth().users().map(|user| user.name.clone()).collect();
        let header = Some(self.0.header(view.revision()));
        Ok(Response::new(pb::AuthUserListResponse { header, users }))
    }

    async fn user_delete(
        &self,
        request: Request<pb::AuthUserDeleteRequest>,
    ) -> Result<Response<pb::AuthUserDeleteResponse>, Status> {
        let caller = self.0.caller(&request)?;
        let name = request.into_inner().name;
        let header = self.change(caller, AuthOp::UserDelete { name }).await?;
        Ok(Response::new(pb::AuthUserDeleteResponse { header }))
    }

    async fn user_change_password(
        &self,
        request: Request<pb::AuthUserChangePasswordRequest>,
    ) -> Result<Response<pb::AuthUserChangePasswordResponse>, Status> {
        let caller = self.root(&request)?;
        let request = request.into_inner();
        // An empty one locks the user out, as in etcd: no password fits no hash.
        let hash = match request.password.is_empty() {
            true => PasswordHash::default(),
            false => self.hash(request.password).await?,
        };
        let change = AuthOp::UserChangePassword { name: request.name, hash };
        let header = self.change(caller, change).await?;
        Ok(Response::new(pb::AuthUserChangePasswordResponse { header }))
    }

    async fn user_grant_role(
        &self,
        request: Request<pb::AuthUserGrantRoleRequest>,
    ) -> Result<Response<pb::AuthUserGrantRoleResponse>, Status> {
        let caller = self.0.caller(&request)?;
        let pb::AuthUserGrantRoleRequest { user, role } = request.into_inner();
        let header = self.change(caller, AuthOp::UserGrantRole { user, role }).await?;
        Ok(Response::new(pb::AuthUserGrantRoleResponse { header }))
    }

    async fn user_revoke_role(
        &self,
        request: Request<pb::AuthUserRevokeRoleRequest>,
    ) -> Result<Response<pb::AuthUserRevokeRoleResponse>, Status> {
        let caller = self.0.caller(&request)?;
        let pb::AuthUserRevokeRoleRequest { name: user, role } = request.into_inner();
        let header = self.change(caller, AuthOp::UserRevokeRole { user, role }).await?;
        Ok(Response::new(pb::AuthUserRevokeRoleResponse { header }))
    }

    async fn role_add(
        &self,
        request: Request<pb::AuthRoleAddRequest>,
    ) -> Result<Response<pb::AuthRoleAddResponse>, Status> {
        let caller = self.0.caller(&request)?;
        let name = request.into_inner().name;
        let header = self.change(caller, AuthOp::RoleAdd { name }).await?;
        Ok(Response::new(pb::AuthRoleAddResponse { header }))
    }

    async fn role_get(
        &self,
        request: Request<pb::AuthRoleGetRequest>,
    ) -> Result<Response<pb::AuthRoleGetResponse>, Status> {
        let caller = self.0.caller(&request)?;
        let name = request.into_inner().role;
        self.0.linearize().await.map_err(status::unavailable)?;
        let view = self.0.reader.view();
        caller.may(&view, &Need::Role(&name)).map_err(status::refusal)?;
        let role = view.auth().role(&name).ok_or_else(|| refused(AuthRefusal::RoleNotFound))?;
        let perm = match name.as_str() {
            // Whatever was granted to it, it may do everything.
            ROOT => vec![convert::permission(&everything())],
            _ => role.permissions().iter().map(convert::permission).collect(),
        };
        let header = Some(self.0.header(view.revision()));
        Ok(Response::new(pb::AuthRoleGetResponse { header, perm }))
    }

    async fn role_list(
        &self,
        request: Request<pb::AuthRoleListRequest>,
    ) -> Result<Response<pb::AuthRoleListResponse>, Status> {
        let caller = self.0.caller(&request)?;
        self.0.linearize().await.map_err(status::unavailable)?;
        let view = self.0.reader.view();
        caller.may(&view, &Need::Root).map_err(status::refusal)?;
        let roles = view.auth().roles().map(|(name, _)| name.to_owned()).collect();
        let header = Some(self.0.header(view.revision()));
        Ok(Response::new(pb::AuthRoleListResponse { header, roles }))
    }

    async fn role_delete(
        &self,
        request: Request<pb::AuthRoleDeleteRequest>,
    ) -> Result<Response<pb::AuthRoleDeleteResponse>, Status> {
        let caller = self.0.caller(&request)?;
        let name = request.into_inner().role;
        let header = self.change(caller, AuthOp::RoleDelete { name }).await?;
        Ok(Response::new(pb::AuthRoleDeleteResponse { header }))
    }

    async fn role_grant_permission(
        &self,
        request: Request<pb::AuthRoleGrantPermissionRequest>,
    ) -> Result<Response<pb::AuthRoleGrantPermissionResponse>, Status> {
        let caller = self.root(&request)?;
        let pb::AuthRoleGrantPermissionRequest { name: role, perm } = request.into_inner();
        let permission = grant(perm.ok_or_else(status::permission_not_given)?)?;
        let header = self.change(caller, AuthOp::RoleGrantPermission { role, permission }).await?;
        Ok(Response::new(pb::AuthRoleGrantPermissionResponse { header }))
    }

    async fn role_revoke_permission(
        &self,
        request: Request<pb::AuthRoleRevokePermissionRequest>,
    ) -> Result<Response<pb::AuthRoleRevokePermissionResponse>, Status> {
        let caller = self.0.caller(&request)?;
        let pb::AuthRoleRevokePermissionRequest { role, key, range_end } = request.into_inner();
        let revoke = AuthOp::RoleRevokePermission { role, range: KeyRange::new(key, range_end) };
        let header = self.change(caller, revoke).await?;
        Ok(Response::new(pb::AuthRoleRevokePermissionResponse { header }))
    }
}

impl Auth {
    async fn change(
        &self,
        caller: Caller,
        op: AuthOp,
    ) -> Result<Option<pb::ResponseHeader>, Status> {
        let bytes = 512 + op.range_bytes();
        let (revision, _) = self.0.propose(caller, Command::Auth(op), bytes).await?;
        Ok(Some(self.0.header(revision)))
    }

    /// The caller, who must be root if anybody is asked.
    fn root<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let caller = self.0.caller(request)?;
        self.0.allow(&caller, &Need::Root)?;
        Ok(caller)
    }

    async fn hash(&self, password: String) -> Result<PasswordHash, Status> {
        self.0.gate.hash(password, &self.0.chance).await.map_err(status::password)
    }

    async fn log_in(&self, name: &str, password: &str) -> Result<String, Status> {
        let (reader, gate) = (&self.0.reader, &self.0.gate);
        for _ in 0..LOGIN_ATTEMPTS {
            let view = reader.view();
            if !view.auth().enabled() {
                return Err(status::auth_not_enabled());
            }
            let fitted = gate.check(view.auth(), name, password.to_owned()).await;
            let fitted = fitted.map_err(|denied| {
                tracing::warn!(user = name, %denied, "invalid authentication was requested");
                status::denied(denied)
            })?;
            let login = Login { user: name.to_owned(), revision: reader.view().auth().revision() };
            let index = self.0.raft.status().applied;
            let token = gate.token(login, index, &self.0.chance).map_err(status::denied)?;
            // Tokens are taken back when a change is applied. One that was applied while the
            // password was being checked did not find this token yet.
            let view = reader.view();
            let still = view.auth().user(name).is_some_and(|user| user.hash == fitted);
            if still && view.auth().enabled() {
                return Ok(token);
            }
            gate.forget(&token);
        }
        Err(status::denied(crate::auth::Denied::Failed))
    }
}

fn refused(refusal: AuthRefusal) -> Status {
    status::refusal(Refusal::Auth(refusal))
}

/// As etcd shows what root may do.
fn everything() -> Permission {
    Permission { access: Access::ReadWrite, range: KeyRange::all() }
}

/// A kind of access outside the enum permits nothing in etcd; here it is refused.
fn grant(permission: authpb::Permission) -> Result<Permission, Status> {
    convert::granted(permission).ok_or_else(|| refused(AuthRefusal::InvalidManagement))
}
