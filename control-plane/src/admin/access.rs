//! Who is making a request, and what that user may do: a token in `Kong-Admin-Token` identifies a user, whose roles
//! permit actions.
//!
//! A prohibition of a record by any of its names holds for each of its paths, for what lies below it, for lists, which
//! leave it out, for what others are to point to, and for the pages that tell of a whole workspace or replace it.

mod asked;
mod bounds;
mod rules;

use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::{HeaderMap, Method};
use serde_json::Value;
use shared::digest::sha256;
use shared::entity::{
    DEFAULT_WORKSPACE, Entity, RbacRole, RbacRoleEndpoint, RbacUser, RbacUserRole, definition,
    definition_at,
};
use shared::hexadecimal::hexadecimal;
use shared::snapshot::Key;
use uuid::Uuid;

use super::error::Refusal;
use super::place::{self, Place};
use crate::command::batch::is_replaced;
use crate::config::{Config, Fields, foreign_id, workspace_key};

use asked::Asked;
pub(super) use bounds::Bounds;
use rules::{Rules, Verdict};

/// The header that carries a token.
const HEADER: &str = "kong-admin-token";

/// The name of the user whose token is in a file.
const OWNER: &str = "kong_admin";

/// Whether and how the Admin API asks for tokens.
#[derive(Clone, Default)]
pub struct Access {
    enforced: bool,
    /// The hash of the token that is always good.
    owner: Arc<RwLock<Option<Box<str>>>>,
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
    format!("sha256:{}", hexadecimal(&sha256(&domain)))
}

impl Access {
    /// Asks every request for a token. `owner` is one that is always good.
    pub fn enforced(owner: Option<&str>) -> Self {
        let access = Self {
            enforced: true,
            ..Self::default()
        };
        if let Some(owner) = owner {
            access.renew(owner);
        }
        access
    }

    /// From now on this is the token that is always good.
    pub(crate) fn renew(&self, owner: &str) {
        let owner = Some(hash(owner).into());
        *self.owner.write().unwrap_or_else(PoisonError::into_inner) = owner;
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
        let owner = self.owner.read().unwrap_or_else(PoisonError::into_inner);
        if owner.as_deref().is_some_and(same) {
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

    /// Refuses what the caller may not do. Else the workspace that is asked about, as the caller may see it, and where
    /// records that the caller writes may point to. `whole` is the configuration of all workspaces.
    pub(super) fn view(
        caller: &Caller,
        whole: &Config,
        place: &Place,
        method: &Method,
    ) -> Result<(Config, Bounds), Refusal> {
        let config = whole.within(place.workspace);
        let Caller::User(id, name) = caller else {
            return Ok((config, Bounds::default()));
        };
        let endpoints = of_user(whole, *id);
        let rules = Rules::read(endpoints.iter().map(Arc::as_ref));
        let segments = place.segments().ok_or(Refusal::NotFound)?;
        let workspace = (!is_shared(place, &segments, method, whole)).then_some(&*place.name);
        let asked = Asked::of(place, &segments, method, &config);
        for action in actions(method) {
            let forbidden = |path: &Vec<_>| rules.forbid(workspace, path, action);
            let permitted = match rules.judge(workspace, &asked.path, action) {
                Verdict::Explicit(permitted) => permitted,
                Verdict::General(permitted) => {
                    permitted
                        && !asked.above.iter().any(forbidden)
                        && !is_partly_forbidden(&rules, workspace, &segments, method)
                }
                Verdict::Silent => false,
            };
            if !permitted || asked.record.iter().any(forbidden) {
                return Err(Refusal::Forbidden(name.clone(), action));
            }
        }
        if !reads(method) {
            let judged = asked.on_the_way.into_iter().chain(asked.meant).collect();
            let bounds = Bounds::of(name, rules, workspace, actions(method), judged);
            return Ok((config, bounds));
        }
        // Whoever asks may know of itself.
        let shown = if segments.first().is_some_and(|first| first == "userinfo") {
            config
        } else {
            veiled(config, rules, workspace, asked.on_the_way)
        };
        Ok((shown, Bounds::default()))
    }
}

/// Whether a request is about a whole workspace, or all, of which some is forbidden: what it was and what was done to
/// it, or everything in the place of what is there. What there is is shown without that.
fn is_partly_forbidden(
    rules: &Rules,
    workspace: Option<&str>,
    segments: &[String],
    method: &Method,
) -> bool {
    let all: &[&str] = match segments.first().map(String::as_str) {
        // What one does not see is not to go because one leaves it out.
        Some("config") if !reads(method) => &["create", "read", "update", "delete"],
        Some("revisions" | "audit") if reads(method) => &["read"],
        Some("revisions") => &["create", "update", "delete"],
        _ => return false,
    };
    let of_records = |first: &String| {
        let entity = definition_at(first);
        first == "*" || entity.is_some_and(|entity| is_replaced(entity, DEFAULT_WORKSPACE))
    };
    rules.forbidden(workspace, all).iter().any(of_records)
}

/// The configuration without what a user may not read by name, but with what was `judged` as a part of the path.
fn veiled(config: Config, rules: Rules, workspace: Option<&str>, judged: Vec<Key>) -> Config {
    let forbidden = rules.forbidden(workspace, &["read"]);
    if forbidden.is_empty() {
        return config;
    }
    let workspace = workspace.map(str::to_owned);
    let known = config.clone();
    config.without(move |key| {
        let begins = |first: &str| forbidden.contains("*") || forbidden.contains(first);
        !judged.contains(&key)
            && asked::beginnings(key.kind).any(begins)
            && asked::paths(&known, key)
                .iter()
                .any(|path| rules.forbid(workspace.as_deref(), path, "read"))
    })
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

fn reads(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Whether a request is about the whole cluster, so that permissions for one workspace do not suffice.
fn is_shared(place: &Place, segments: &[String], method: &Method, config: &Config) -> bool {
    let reads = reads(method);
    let first = segments.first().map(String::as_str).unwrap_or_default();
    match first {
        "rbac" | "admins" | "clustering" | "metrics" | "rollouts" | "debug" | "cache" => true,
        "revisions" | "audit" => place.narrowed().is_none(),
        // The keys are the cluster's, and the sessions that end with an issuer those of all workspaces.
        "openid-connect" => !reads && !place::only_judges(&place.path),
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

/// What a user's roles permit and forbid.
pub(super) fn of_user(config: &Config, user: Uuid) -> Vec<Arc<Fields>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_tells_nothing_but_whether_it_is_the_same() {
        assert_eq!(hash("a"), hash("a"));
        assert_ne!(hash("a"), hash("b"));
        assert_eq!(hash("a").len(), 71);
        assert!(!format!("{:?}", Access::enforced(Some("geheim"))).contains("sha"));
    }
}
