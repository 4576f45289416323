//! Users, roles and who speaks for whom.
//!
//! A session about users draws these requests among the others. A client that has logged in sends
//! its token with everything from then on, so whatever else the session draws is asked by root, by a
//! user with some permissions, by one who no longer exists, or by nobody.

use proto::authpb;
use proto::etcdserverpb as pb;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::answer::Answer;
use pb::auth_client::AuthClient;

/// A connection in somebody's name.
pub(super) type Line = InterceptedService<Channel, Token>;

/// What a client sends to say who it is.
#[derive(Clone, Debug, Default)]
pub(super) struct Token(pub(super) Option<String>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            let value = MetadataValue::try_from(token).expect("a token is plain text");
            request.metadata_mut().insert("token", value);
        }
        Ok(request)
    }
}

/// One request of the Auth service.
#[derive(Clone, Debug, PartialEq)]
pub enum AuthStep {
    /// Requires logging in from now on.
    Enable,
    /// No longer requires it.
    Disable,
    /// Asks whether it is required.
    Status,
    /// Logs the client in, or out where the name is empty.
    Login(String, String),
    /// Makes a user.
    UserAdd(String, String, bool),
    /// Asks about a user.
    UserGet(String),
    /// Lists users.
    UserList,
    /// Removes a user.
    UserDelete(String),
    /// Changes a password.
    Password(String, String),
    /// Gives a user a role.
    Grant(String, String),
    /// Takes a role from a user.
    Revoke(String, String),
    /// Makes a role.
    RoleAdd(String),
    /// Asks about a role.
    RoleGet(String),
    /// Lists roles.
    RoleList,
    /// Removes a role.
    RoleDelete(String),
    /// Permits a role something.
    Permit(String, Option<authpb::Permission>),
    /// Takes a permission from a role.
    Forbid(String, bytes::Bytes, bytes::Bytes),
}

/// Asks it; a login's token comes back beside the answer.
pub(super) async fn ask(line: Line, step: &AuthStep) -> Result<(Answer, Option<String>), Status> {
    let mut client = AuthClient::new(line);
    macro_rules! told {
        ($call:ident, $request:expr) => {{
            let answer = client.$call($request).await?.into_inner();
            let header = answer.header.clone();
            (
                header,
                format!("{:?}", {
                    let mut answer = answer;
                    answer.header = None;
                    answer
                }),
            )
        }};
    }
    let (header, text) = match step.clone() {
        AuthStep::Enable => told!(auth_enable, pb::AuthEnableRequest {}),
        AuthStep::Disable => told!(auth_disable, pb::AuthDisableRequest {}),
        AuthStep::Status => told!(auth_status, pb::AuthStatusRequest {}),
        AuthStep::Login(name, password) => {
            let request = pb::AuthenticateRequest { name, password };
            let answer = client.authenticate(request).await?.into_inner();
            let told = Answer::Auth(answer.header, "a token".into());
            return Ok((told, Some(answer.token)));
        }
        AuthStep::UserAdd(name, password, no_password) => {
            let options = Some(authpb::UserAddOptions { no_password });
            let request = pb::AuthUserAddRequest { name, password, options, ..Default::default() };
            told!(user_add, request)
        }
        AuthStep::UserGet(name) => told!(user_get, pb::AuthUserGetRequest { name }),
        AuthStep::UserList => told!(user_list, pb::AuthUserListRequest {}),
        AuthStep::UserDelete(name) => told!(user_delete, pb::AuthUserDeleteRequest { name }),
        AuthStep::Password(name, password) => {
            let request =
                pb::AuthUserChangePasswordRequest { name, password, ..Default::default() };
            told!(user_change_password, request)
        }
        AuthStep::Grant(user, role) => {
            told!(user_grant_role, pb::AuthUserGrantRoleRequest { user, role })
        }
        AuthStep::Revoke(name, role) => {
            told!(user_revoke_role, pb::AuthUserRevokeRoleRequest { name, role })
        }
        AuthStep::RoleAdd(name) => told!(role_add, pb::AuthRoleAddRequest { name }),
        AuthStep::RoleGet(role) => {
            let mut answer = client.role_get(pb::AuthRoleGetRequest { role }).await?.into_inner();
            // etcd sorts them by key alone: differences.md.
            answer.perm.sort_by(|a, b| (&a.key, &a.range_end).cmp(&(&b.key, &b.range_end)));
            (answer.header.take(), format!("{answer:?}"))
        }
        AuthStep::RoleList => told!(role_list, pb::AuthRoleListRequest {}),
        AuthStep::RoleDelete(role) => told!(role_delete, pb::AuthRoleDeleteRequest { role }),
        AuthStep::Permit(name, perm) => {
            told!(role_grant_permission, pb::AuthRoleGrantPermissionRequest { name, perm })
        }
        AuthStep::Forbid(role, key, range_end) => {
            let request = pb::AuthRoleRevokePermissionRequest { role, key, range_end };
            told!(role_revoke_permission, request)
        }
    };
    Ok((Answer::Auth(header, text), None))
}
