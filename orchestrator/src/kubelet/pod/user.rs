//! Who a container runs as: the pod's wishes over the image's, checked against `runAsNonRoot`.

use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::env::ConfigError;

/// A resolved identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
}

/// Resolves the identity of `container`. `image_user` is the image's own wish; `passwd` and `group`
/// are the image's files.
pub fn resolve(
    spec: &PodSpec,
    container: &Container,
    image_user: &str,
    passwd: Option<&str>,
    group: Option<&str>,
) -> Result<User, ConfigError> {
    let pod = spec.security_context.as_ref();
    let own = container.security_context.as_ref();
    let wished_uid = own.and_then(|c| c.run_as_user).or_else(|| pod.and_then(|p| p.run_as_user));
    let wished_gid = own.and_then(|c| c.run_as_group).or_else(|| pod.and_then(|p| p.run_as_group));
    let non_root =
        own.and_then(|c| c.run_as_non_root).or_else(|| pod.and_then(|p| p.run_as_non_root));
    let (image_name, image_group) = match image_user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (image_user, None),
    };
    let image_uid = lookup(image_name, passwd, 2);
    let uid = match wished_uid {
        Some(uid) => id(uid)?,
        None if image_name.is_empty() => 0,
        None => image_uid
            .ok_or_else(|| ConfigError(format!("no user {image_name} in the image's passwd")))?,
    };
    if non_root == Some(true) {
        if wished_uid.is_none() && !image_name.is_empty() && image_name.parse::<u32>().is_err() {
            return Err(ConfigError(format!(
                "container has runAsNonRoot and image has non-numeric user ({image_name}), cannot \
                 verify user is non-root"
            )));
        }
        if uid == 0 {
            let who = if wished_uid.is_some() {
                "container's runAsUser breaks non-root policy"
            } else {
                "container has runAsNonRoot and image will run as root"
            };
            return Err(ConfigError(who.to_owned()));
        }
    }
    let gid = match (wished_gid, image_group) {
        (Some(gid), _) => id(gid)?,
        (None, Some(name)) if wished_uid.is_none() => lookup(name, group, 2)
            .ok_or_else(|| ConfigError(format!("no group {name} in the image's group file")))?,
        // As container engines do: the primary group of that user, if the image knows it.
        _ => primary_group(uid, passwd).unwrap_or(0),
    };
    let mut groups = Vec::new();
    for extra in pod.iter().flat_map(|p| p.supplemental_groups.iter().flatten().chain(&p.fs_group))
    {
        let extra = id(*extra)?;
        if extra != gid && !groups.contains(&extra) {
            groups.push(extra);
        }
    }
    Ok(User { uid, gid, groups })
}

fn id(number: i64) -> Result<u32, ConfigError> {
    u32::try_from(number).map_err(|_| ConfigError(format!("{number} is no user or group id")))
}

/// A numeric id as it is, a name by the colon-separated `file`.
fn lookup(name: &str, file: Option<&str>, column: usize) -> Option<u32> {
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    let line = file?.lines().find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(column)?.parse().ok()
}

fn primary_group(uid: u32, passwd: Option<&str>) -> Option<u32> {
    let uid = uid.to_string();
    let line = passwd?.lines().find(|line| line.split(':').nth(2) == Some(&uid))?;
    line.split(':').nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const PASSWD: &str = "root:x:0:0::/:\nweb:x:33:34::/:\n";
    const GROUP: &str = "root:x:0:\nwww:x:35:\n";

    fn run(pod: serde_json::Value, own: serde_json::Value, image: &str) -> Result<User, String> {
        let spec: PodSpec =
            serde_json::from_value(json!({"containers": [], "securityContext": pod}))
                .expect("a spec");
        let container: Container =
            serde_json::from_value(json!({"name": "c", "securityContext": own})).expect("one");
        resolve(&spec, &container, image, Some(PASSWD), Some(GROUP)).map_err(|error| error.0)
    }

    #[test]
    fn the_container_wins_over_the_pod_and_the_pod_over_the_image() {
        let user = |uid, gid| Ok(User { uid, gid, groups: vec![] });
        assert_eq!(run(json!({}), json!({}), ""), user(0, 0));
        assert_eq!(run(json!({}), json!({}), "web"), user(33, 34));
        assert_eq!(run(json!({}), json!({}), "web:www"), user(33, 35));
        assert_eq!(run(json!({}), json!({}), "7:8"), user(7, 8));
        assert_eq!(run(json!({"runAsUser": 5}), json!({}), "web:www"), user(5, 0));
        assert_eq!(
            run(json!({"runAsUser": 5, "runAsGroup": 6}), json!({"runAsUser": 33}), ""),
            user(33, 6)
        );
        let with_groups = run(json!({"fsGroup": 9, "supplementalGroups": [10, 9]}), json!({}), "");
        assert_eq!(with_groups, Ok(User { uid: 0, gid: 0, groups: vec![10, 9] }));
    }

    #[test]
    fn run_as_non_root_is_checked_not_hoped_for() {
        let strict = || json!({"runAsNonRoot": true});
        assert!(run(strict(), json!({}), "").is_err());
        assert!(run(strict(), json!({"runAsUser": 0}), "").is_err());
        assert!(run(strict(), json!({}), "web").is_err(), "a name may mean root");
        assert!(run(strict(), json!({}), "33").is_ok());
        assert!(run(strict(), json!({"runAsNonRoot": false}), "").is_ok());
    }
}
