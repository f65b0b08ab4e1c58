//! `/rbac`: users, roles and their permissions, in Kong's shapes. `/userinfo`: the user who is asking.

mod plan;

use axum::extract::Request;
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};
use shared::clock::UnixTime;
use shared::entity::{
    Definition, Entity, RbacRole, RbacRoleEndpoint, RbacUser, RbacUserRole, definition,
};
use shared::snapshot::Key;
use uuid::Uuid;

use super::access::{self, Bounds, Caller};
use super::endpoint::RECORD;
use super::error::Refusal;
use super::place::Place;
use super::{Admin, Answer, body, page};
use crate::command::{Body, Selector, find};
use crate::config::{Change, Config, Fields, foreign_id};
use crate::history::Origin;
use plan::Plan;

/// A page of `/rbac`.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Page {
    /// `/rbac/users`, `/rbac/roles`
    List(&'static str),
    /// `/rbac/users/{user}`, `/rbac/roles/{role}`
    One(&'static str, Selector),
    /// `/rbac/users/{user}/roles`
    Roles(Selector),
    /// `…/permissions` of a user or a role
    Permissions(&'static str, Selector),
    /// `/rbac/roles/{role}/endpoints`
    Endpoints(Selector),
    /// `/rbac/roles/{role}/endpoints/{workspace}/{endpoint}`
    Endpoint(Selector, String, String),
    /// `/rbac/roles/{role}/entities`: permissions are given for endpoints only.
    Entities(Selector),
    /// `/userinfo`
    Myself,
}

pub(super) fn parse(segments: &[&str]) -> Option<Page> {
    let kind = |word: &str| match word {
        "users" => Some(RbacUser::KIND),
        "roles" => Some(RbacRole::KIND),
        _ => None,
    };
    match segments {
        ["userinfo"] => Some(Page::Myself),
        ["rbac", word] => Some(Page::List(kind(word)?)),
        ["rbac", word, one] => Some(Page::One(kind(word)?, Selector::parse(one))),
        ["rbac", "users", user, "roles"] => Some(Page::Roles(Selector::parse(user))),
        ["rbac", word, one, "permissions"] => {
            Some(Page::Permissions(kind(word)?, Selector::parse(one)))
        }
        ["rbac", "roles", role, "endpoints"] => Some(Page::Endpoints(Selector::parse(role))),
        ["rbac", "roles", role, "entities"] => Some(Page::Entities(Selector::parse(role))),
        ["rbac", "roles", role, "endpoints", workspace, endpoint @ ..] if !endpoint.is_empty() => {
            let path = endpoint.join("/");
            let path = path.trim_start_matches('/');
            let path = if path == "*" {
                path.to_owned()
            } else {
                format!("/{path}")
            };
            Some(Page::Endpoint(
                Selector::parse(role),
                (*workspace).to_owned(),
                path,
            ))
        }
        _ => None,
    }
}

impl Page {
    pub(super) fn methods(&self) -> &'static [Method] {
        const READ: &[Method] = &[Method::GET, Method::HEAD, Method::OPTIONS];
        const LIST: &[Method] = &[Method::GET, Method::HEAD, Method::OPTIONS, Method::POST];
        const ONE: &[Method] = &[
            Method::DELETE,
            Method::GET,
            Method::HEAD,
            Method::OPTIONS,
            Method::PATCH,
        ];
        const SET: &[Method] = &[
            Method::DELETE,
            Method::GET,
            Method::HEAD,
            Method::OPTIONS,
            Method::POST,
        ];
        match self {
            // decK makes roles by PUT, as other records.
            Self::One(RbacRole::KIND, _) => RECORD,
            Self::List(_) | Self::Endpoints(_) | Self::Entities(_) => LIST,
            Self::One(..) | Self::Endpoint(..) => ONE,
            Self::Roles(_) => SET,
            Self::Permissions(..) | Self::Myself => READ,
        }
    }
}

fn entity(kind: &str) -> Result<&'static Definition, Refusal> {
    definition(kind).ok_or(Refusal::NotFound)
}

fn found(config: &Config, kind: &'static str, selector: &Selector) -> Result<Key, Refusal> {
    find(config, entity(kind)?, selector)?.ok_or(Refusal::NotFound)
}

/// The user whose roles are meant, or Kong's words for that there is none.
fn user(config: &Config, selector: &Selector) -> Result<Key, Refusal> {
    find(config, entity(RbacUser::KIND)?, selector)?
        .ok_or_else(|| Refusal::Absent(format!("No RBAC user by name or id {selector}")))
}

pub(super) fn read(
    config: &Config,
    page: &Page,
    caller: &Caller,
    query: Option<&str>,
) -> Result<Answer, Refusal> {
    let body = match page {
        Page::List(kind) => {
            let query = page::Query::parse(query, kind)?;
            let mut list = page::list(config, entity(kind)?, None, &query);
            if let Some(Value::Array(data)) = list.get_mut("data") {
                for user in data.iter_mut().filter_map(Value::as_object_mut) {
                    user.shift_remove("user_token");
                }
            }
            list
        }
        Page::One(kind, selector) => show(config, found(config, kind, selector)?)?,
        Page::Roles(one) => roles(config, user(config, one)?)?,
        Page::Permissions(kind, one) => {
            let key = found(config, kind, one)?;
            let endpoints = if *kind == RbacUser::KIND {
                access::of_user(config, key.id)
            } else {
                access::of_role(config, key.id)
            };
            json!({ "endpoints": permissions(&endpoints), "entities": {} })
        }
        Page::Endpoints(role) => {
            let key = found(config, RbacRole::KIND, role)?;
            let data: Vec<Value> = access::of_role(config, key.id)
                .iter()
                .map(|fields| Value::Object(Fields::clone(fields)))
                .collect();
            json!({ "data": data, "next": null })
        }
        Page::Endpoint(role, workspace, endpoint) => {
            show(config, endpoint_of(config, role, workspace, endpoint)?)?
        }
        Page::Entities(role) => {
            found(config, RbacRole::KIND, role)?;
            json!({ "data": [], "next": null })
        }
        Page::Myself => myself(config, caller),
    };
    Ok(Answer::ok(body))
}

fn show(config: &Config, key: Key) -> Result<Value, Refusal> {
    let mut fields = Fields::clone(&*config.record(key).ok_or(Refusal::NotFound)?);
    if key.kind == RbacUser::KIND {
        fields.shift_remove("user_token");
    }
    Ok(Value::Object(fields))
}

fn roles(config: &Config, user: Key) -> Result<Value, Refusal> {
    let roles: Vec<Value> = config
        .children(user, RbacUserRole::KIND, Uuid::nil())
        .filter_map(|key| foreign_id(&*config.record(key)?, "role"))
        .filter_map(|id| {
            let kind = RbacRole::KIND;
            show(config, Key { kind, id }).ok()
        })
        .collect();
    Ok(json!({ "user": show(config, user)?, "roles": roles }))
}

/// What is permitted and forbidden, by workspace and endpoint.
fn permissions(endpoints: &[std::sync::Arc<Fields>]) -> Value {
    let mut workspaces: Map<String, Value> = Map::new();
    for fields in endpoints {
        let text = |field: &str| {
            fields
                .get(field)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let entry = workspaces
            .entry(text("workspace"))
            .or_insert_with(|| json!({}));
        if let Value::Object(entry) = entry {
            let permission = json!({
                "actions": fields.get("actions"),
                "negative": fields.get("negative"),
            });
            entry.insert(text("endpoint").to_owned(), permission);
        }
    }
    Value::Object(workspaces)
}

fn myself(config: &Config, caller: &Caller) -> Value {
    let (user, endpoints) = match caller {
        Caller::User(id, _) => {
            let key = Key {
                kind: RbacUser::KIND,
                id: *id,
            };
            let user = show(config, key).unwrap_or_default();
            (user, permissions(&access::of_user(config, *id)))
        }
        Caller::Anyone | Caller::Owner => {
            let actions = json!(["create", "read", "update", "delete"]);
            let everything = json!({ "*": { "*": { "actions": actions, "negative": false } } });
            (json!({ "name": caller.name() }), everything)
        }
    };
    json!({ "user": user, "permissions": { "endpoints": endpoints, "entities": {} } })
}

fn endpoint_of(
    config: &Config,
    role: &Selector,
    workspace: &str,
    endpoint: &str,
) -> Result<Key, Refusal> {
    let role = found(config, RbacRole::KIND, role)?;
    let same = |key: &Key| {
        config.record(*key).is_some_and(|fields| {
            fields.get("workspace").and_then(Value::as_str) == Some(workspace)
                && fields.get("endpoint").and_then(Value::as_str) == Some(endpoint)
        })
    };
    let mut endpoints = config.children(role, RbacRoleEndpoint::KIND, Uuid::nil());
    endpoints.find(same).ok_or(Refusal::NotFound)
}

pub(super) async fn write(
    admin: &Admin,
    place: &Place,
    config: &Config,
    page: Page,
    (origin, bounds): (Origin, Bounds),
    request: Request,
) -> Result<Answer, Refusal> {
    let method = request.method().clone();
    let (Body::Json(fields) | Body::Form(fields)) = body::read(request).await?;
    let plan = Plan::of(config, place, page, &method, fields)?;
    let entity = entity(plan.command.entity)?;
    let publisher = admin.publisher.clone();
    let origin = origin.answered(plan.status);
    let executing = move || {
        let permits = |config: &Config, change: &Change| bounds.check(config, change);
        let (command, now) = (&plan.command, UnixTime::now());
        let outcome = publisher.execute_if(&origin, command, now, |_| true, permits);
        outcome.map(|outcome| (outcome, plan.status, plan.token, plan.user))
    };
    let (outcome, status, token, user) = admin
        .turns
        .take(executing)
        .await?
        .map_err(|error| Refusal::of(error, entity))?;
    let config = admin.publisher.config();
    let mut shown = match (user, &outcome.decision.record) {
        (Some(user), _) => Some(roles(&config, user)?),
        (None, Some((key, _))) => Some(show(&config, *key)?),
        (None, None) => None,
    };
    if let (Some(token), Some(Value::Object(shown))) = (token, &mut shown) {
        shown.insert("user_token".to_owned(), token.into());
    }
    Ok(Answer {
        revision: Some(outcome.revision),
        body: shown.filter(|_| status != StatusCode::NO_CONTENT),
        ..Answer::new(status, Value::Null)
    })
}
