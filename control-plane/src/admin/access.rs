//! Who asks, and whether that is permitted: a token in `Kong-Admin-Token`, a user, the roles of that user.
//!
//! Of the permissions that match a request the most specific ones decide, those for the workspace before those
//! for all, those for the endpoint before those for all; among equals a prohibition. Without one nothing is
//! permitted.

use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use http::{HeaderMap, Method};
use serde_json::Value;
use shared::entity::{Entity, RbacRole, RbacRoleEndpoint, RbacUser, RbacUserRole, definition};
use shared::hexadecimal::hexadecimal;
use shared::snapshot::Key;
use uuid::Uuid;

use super::error::Refusal;
use super::place::Place;
use crate::config::{Config, Fields, foreign_id, workspace_key};

/// The header that carries a token.
const HEADER: &str = "kong-admin-token";

/// The name of the user whose token is in a file.
const OWNER: &str = "kong_admin";

/// Whether and how the Admin API asks for tokens.
#[derive(Clone, Default)]
pub struct Access {
    enforced: bool,
    /// The hash of the token that is always good.
    owner: Option<Arc<str>>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access")
            .field("enforced", &self.enforced)
            .finish_non_exhaustive()
    }
}

/// Whoever asks.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Caller {
    /// Nobody asks for tokens.
    Anyone,
    /// Who has the token that is always good.
    Owner,
    /// A user, by id and name.
    User(Uuid, String),
}

impl Caller {
    /// The name for the log of changes.
    pub(super) fn name(&self) -> Option<String> {
        match self {
            Self::Anyone => None,
            Self::Owner => Some(OWNER.to_owned()),
            Self::User(_, name) => Some(name.clone()),
        }
    }
}

/// The hash that stands for a token in the store.
pub(super) fn hash(token: &str) -> String {
    let domain = [b"wardgate admin token 1\0", token.as_bytes()].concat();
    format!("sha256:{}", hexadecimal(digest(&SHA256, &domain).as_ref()))
}

impl Access {
    /// Asks every request for a token. `owner` is one that is always good.
    pub fn enforced(owner: Option<&str>) -> Self {
        Self {
            enforced: true,
            owner: owner.map(|token| hash(token).into()),
        }
    }

    /// Whether requests are asked for tokens.
    pub const fn is_enforced(&self) -> bool {
        self.enforced
    }

    /// Whether a token is shown that could be one, good or not.
    pub(super) fn shows_token(headers: &HeaderMap) -> bool {
        headers.contains_key(HEADER)
    }

    /// Who asks.
    pub(super) fn identify(&self, headers: &HeaderMap, config: &Config) -> Result<Caller, Refusal> {
        if !self.enforced {
            return Ok(Caller::Anyone);
        }
        let mut tokens = headers.get_all(HEADER).iter();
        let (Some(token), None) = (tokens.next(), tokens.next()) else {
            return Err(Refusal::Credentials);
        };
        let token = hash(token.to_str().map_err(|_| Refusal::Credentials)?);
        let same =
            |other: &str| verify_slices_are_equal(token.as_bytes(), other.as_bytes()).is_ok();
        if self.owner.as_deref().is_some_and(same) {
            return Ok(Caller::Owner);
        }
        let id = config.find(RbacUser::KIND, "user_token", &token);
        let user = id.and_then(|id| {
            config.record(Key {
                kind: RbacUser::KIND,
                id,
            })
        });
        let (Some(id), Some(user)) = (id, user) else {
            return Err(Refusal::Credentials);
        };
        let text = |field: &str| user.get(field).and_then(Value::as_str).unwrap_or_default();
        if user.get("enabled") != Some(&Value::Bool(true)) || !same(text("user_token")) {
            return Err(Refusal::Credentials);
        }
        Ok(Caller::User(id, text("name").to_owned()))
    }

    /// Refuses what the caller may not do. `config` is that of all workspaces.
    pub(super) fn permit(
        caller: &Caller,
        config: &Config,
        place: &Place,
        method: &Method,
    ) -> Result<(), Refusal> {
        let Caller::User(id, name) = caller else {
            return Ok(());
        };
        let endpoints = endpoints(config, *id);
        let segments = place.segments().ok_or(Refusal::NotFound)?;
        let workspace = (!is_shared(place, &segments, method, config)).then_some(&*place.name);
        for action in actions(method) {
            if !permitted(&endpoints, workspace, &segments, action) {
                return Err(Refusal::Forbidden(name.clone(), action));
            }
        }
        Ok(())
    }
}

/// What a method does. PUT may make as well as change.
const fn actions(method: &Method) -> &'static [&'static str] {
    match *method {
        Method::GET | Method::HEAD | Method::OPTIONS => &["read"],
        Method::POST => &["create"],
        Method::PUT => &["update", "create"],
        Method::DELETE => &["delete"],
        _ => &["update"],
    }
}

/// Whether a request is about the whole cluster, so that permissions for one workspace do not suffice.
fn is_shared(place: &Place, segments: &[String], method: &Method, config: &Config) -> bool {
    let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    let first = segments.first().map(String::as_str).unwrap_or_default();
    match first {
        "rbac" | "admins" | "clustering" | "rollouts" | "debug" | "cache" => true,
        "revisions" | "audit" => place.narrowed().is_none(),
        "config" => !reads && place.narrowed().is_none(),
        // A workspace may be told of itself.
        "workspaces" => {
            let own = segments
                .get(1)
                .is_some_and(|name| *name == place.name || name.parse() == Ok(place.workspace));
            let there = config.contains(workspace_key(place.workspace));
            !(reads && own && there && place.narrowed().is_some())
        }
        // What all workspaces use is not one's to change.
        _ => !reads && definition(first).is_some_and(|entity| entity.public && !entity.workspaced),
    }
}

/// What the roles of a user permit and forbid.
fn endpoints(config: &Config, user: Uuid) -> Vec<Arc<Fields>> {
    let user = Key {
        kind: RbacUser::KIND,
        id: user,
    };
    let roles = config.children(user, RbacUserRole::KIND, Uuid::nil());
    roles
        .filter_map(|key| foreign_id(&*config.record(key)?, "role"))
        .flat_map(|role| of_role(config, role))
        .collect()
}

/// What a role permits and forbids.
pub(super) fn of_role(config: &Config, role: Uuid) -> Vec<Arc<Fields>> {
    let role = Key {
        kind: RbacRole::KIND,
        id: role,
    };
    let endpoints = config.children(role, RbacRoleEndpoint::KIND, Uuid::nil());
    endpoints.filter_map(|key| config.record(key)).collect()
}

/// What a user's roles permit and forbid.
pub(super) fn of_user(config: &Config, user: Uuid) -> Vec<Arc<Fields>> {
    endpoints(config, user)
}

fn permitted(
    endpoints: &[Arc<Fields>],
    workspace: Option<&str>,
    segments: &[String],
    action: &str,
) -> bool {
    let text = |fields: &Fields, field: &str| {
        fields
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let mut levels = Vec::new();
    for own in workspace.into_iter().chain(["*"]) {
        levels.push((own, false));
        levels.push((own, true));
    }
    for (own, any) in levels {
        let mut allowed = false;
        for fields in endpoints {
            let pattern = text(fields, "endpoint");
            let fits = if any {
                pattern == "*"
            } else {
                pattern != "*" && matches(&pattern, segments)
            };
            let acts = fields
                .get("actions")
                .and_then(Value::as_array)
                .is_some_and(|actions| actions.iter().any(|own| own == action));
            if text(fields, "workspace") != own || !fits || !acts {
                continue;
            }
            if fields.get("negative") != Some(&Value::Bool(false)) {
                return false;
            }
            allowed = true;
        }
        if allowed {
            return true;
        }
    }
    false
}

/// Whether a pattern covers a path: part by part, `*` for any one.
fn matches(pattern: &str, segments: &[String]) -> bool {
    let parts: Vec<&str> = pattern.trim_matches('/').split('/').collect();
    parts.len() == segments.len()
        && parts
            .iter()
            .zip(segments)
            .all(|(part, segment)| *part == "*" || part == segment)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn endpoint(workspace: &str, endpoint: &str, actions: &[&str], negative: bool) -> Arc<Fields> {
        let fields = json!({
            "workspace": workspace, "endpoint": endpoint, "actions": actions, "negative": negative,
        });
        Arc::new(fields.as_object().unwrap().clone())
    }

    #[test]
    fn the_most_specific_permission_decides() {
        let all = ["create", "read", "update", "delete"];
        let rules = [
            endpoint("*", "*", &["read"], false),
            endpoint("team", "*", &all, false),
            endpoint("team", "/plugins", &["create"], true),
            endpoint("*", "/consumers/*", &["read"], true),
            endpoint("*", "/services/*/routes", &["create"], false),
        ];
        for (workspace, path, action, expected) in [
            (Some("team"), "services", "create", true),
            (Some("team"), "plugins", "create", false),
            (Some("team"), "plugins", "read", true),
            (Some("team"), "plugins/x", "update", true),
            (Some("other"), "services", "create", false),
            (Some("other"), "services", "read", true),
            (Some("other"), "services/x/routes", "create", true),
            (Some("other"), "services/x/routes/y", "create", false),
            (Some("other"), "consumers/x", "read", false),
            (Some("team"), "consumers/x", "read", true),
            (None, "rbac/users", "create", false),
            (None, "rbac/users", "read", true),
        ] {
            let segments: Vec<String> = path.split('/').map(str::to_owned).collect();
            let decided = permitted(&rules, workspace, &segments, action);
            assert_eq!(decided, expected, "{workspace:?} {path} {action}");
        }
        assert!(!permitted(
            &[],
            Some("team"),
            &["services".to_owned()],
            "read"
        ));
    }

    #[test]
    fn a_hash_tells_nothing_but_whether_it_is_the_same() {
        assert_eq!(hash("a"), hash("a"));
        assert_ne!(hash("a"), hash("b"));
        assert_eq!(hash("a").len(), 71);
        assert!(!format!("{:?}", Access::enforced(Some("geheim"))).contains("sha"));
    }
}
