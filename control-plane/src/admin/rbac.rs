//! `/rbac`: users, roles and what these permit, in Kong's shapes. `/userinfo`: who one is.

use axum::extract::Request;
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};
use shared::clock::UnixTime;
use shared::entity::{
    BUILT_IN_ROLES, Definition, Entity, RbacRole, RbacRoleEndpoint, RbacUser, RbacUserRole,
    definition,
};
use shared::schema::FieldErrors;
use shared::snapshot::Key;
use uuid::Uuid;

use super::access::{self, Bounds, Caller};
use super::endpoint::RECORD;
use super::error::Refusal;
use super::place::Place;
use super::{Admin, Answer, body, page};
use crate::command::{Action, Body, Command, Rejection, Selector, find};
use crate::config::{Change, Config, Fields, foreign_id};
use crate::history::Origin;

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

/// Shortest token that is accepted: a hash does not protect what can be guessed.
const SHORTEST: usize = 16;

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

/// A command, its status, and what is to be shown of what it leaves.
struct Plan {
    command: Command,
    status: StatusCode,
    /// The token that was made up, which is shown this once.
    token: Option<String>,
    /// The user whose roles are shown instead of the record.
    user: Option<Key>,
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
    let plan = plan(config, place, page, &method, fields)?;
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

#[expect(clippy::too_many_lines, reason = "a table")]
fn plan(
    config: &Config,
    place: &Place,
    page: Page,
    method: &Method,
    mut fields: Fields,
) -> Result<Plan, Refusal> {
    let planned = |kind, action, status| Plan {
        command: Command {
            entity: kind,
            action,
            parents: Vec::new(),
        },
        status,
        token: None,
        user: None,
    };
    let deletes = *method == Method::DELETE;
    Ok(match page {
        Page::List(kind) => {
            let token = if kind == RbacUser::KIND {
                take_token(&mut fields, true)?
            } else {
                None
            };
            Plan {
                token,
                ..planned(
                    kind,
                    Action::Create(Body::Json(fields)),
                    StatusCode::CREATED,
                )
            }
        }
        Page::One(kind, one) => {
            let key = found(config, kind, &one);
            let built_in = |key: &Key| BUILT_IN_ROLES.iter().any(|(_, id)| *id == key.id);
            if key.as_ref().is_ok_and(built_in) {
                return Err(Refusal::BuiltIn);
            }
            if deletes {
                planned(kind, Action::Delete(one), StatusCode::NO_CONTENT)
            } else if *method == Method::PUT {
                let action = Action::Upsert(one, Body::Json(fields));
                planned(kind, action, StatusCode::OK)
            } else {
                let selector = Selector::Id(key?.id);
                if kind == RbacUser::KIND {
                    take_token(&mut fields, false)?;
                }
                planned(
                    kind,
                    Action::Patch(selector, Body::Json(fields)),
                    StatusCode::OK,
                )
            }
        }
        Page::Roles(one) => {
            let user = user(config, &one)?;
            let commands = role_commands(config, user, deletes, &fields)?;
            let status = if deletes {
                StatusCode::NO_CONTENT
            } else {
                StatusCode::CREATED
            };
            Plan {
                user: Some(user),
                ..planned(RbacUserRole::KIND, Action::Several(commands), status)
            }
        }
        Page::Endpoints(role) => {
            let role = found(config, RbacRole::KIND, &role)?;
            if BUILT_IN_ROLES.iter().any(|(_, id)| *id == role.id) {
                return Err(Refusal::BuiltIn);
            }
            spread_actions(&mut fields);
            fields.insert("role".to_owned(), json!({ "id": role.id }));
            fields
                .entry("workspace")
                .or_insert_with(|| place.name.clone().into());
            let workspace = fields
                .get("workspace")
                .and_then(Value::as_str)
                .unwrap_or_default();
            if workspace != "*" && config.find("workspaces", "name", workspace).is_none() {
                let message = format!("Workspace '{workspace}' not found");
                let errors = FieldErrors::at(&["workspace"], message);
                return Err(Rejection::Invalid(errors).into());
            }
            let action = Action::Create(Body::Json(fields));
            planned(RbacRoleEndpoint::KIND, action, StatusCode::CREATED)
        }
        Page::Endpoint(role, workspace, endpoint) => {
            let key = endpoint_of(config, &role, &workspace, &endpoint)?;
            if BUILT_IN_ROLES.iter().any(|(name, id)| {
                role == Selector::Id(*id) || role == Selector::Name((*name).to_owned())
            }) {
                return Err(Refusal::BuiltIn);
            }
            let selector = Selector::Id(key.id);
            if deletes {
                planned(
                    RbacRoleEndpoint::KIND,
                    Action::Delete(selector),
                    StatusCode::NO_CONTENT,
                )
            } else {
                spread_actions(&mut fields);
                let action = Action::Patch(selector, Body::Json(fields));
                planned(RbacRoleEndpoint::KIND, action, StatusCode::OK)
            }
        }
        // A permission that is stored and not enforced would be a promise.
        Page::Entities(role) => {
            found(config, RbacRole::KIND, &role)?;
            let message = "permissions are not given for single entities; give the role an endpoint instead: \
                           /rbac/roles/{role}/endpoints";
            return Err(Refusal::Argument(message.to_owned()));
        }
        Page::Permissions(..) | Page::Myself => return Err(Refusal::NotFound),
    })
}

/// Puts a hash in the place of a token. One that is needed and not given is made, and returned.
fn take_token(fields: &mut Fields, needed: bool) -> Result<Option<String>, Refusal> {
    let refused = |message: &str| Rejection::Invalid(FieldErrors::at(&["user_token"], message));
    fields.shift_remove("user_token_ident");
    let (token, made) = match fields.get("user_token") {
        Some(Value::String(token)) if token.len() < SHORTEST => {
            return Err(refused(&format!("length must be at least {SHORTEST}")).into());
        }
        Some(Value::String(token)) => (token.clone(), None),
        None | Some(Value::Null) if needed => {
            let mut random = [0; 24];
            aws_lc_rs::rand::fill(&mut random).expect("the system's random source works");
            let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
            let token = base64::Engine::encode(&engine, random);
            (token.clone(), Some(token))
        }
        None => return Ok(None),
        Some(_) => return Err(refused("expected a string").into()),
    };
    let hash = access::hash(&token);
    let ident: String = hash.chars().skip("sha256:".len()).take(5).collect();
    fields.insert("user_token".to_owned(), hash.into());
    fields.insert("user_token_ident".to_owned(), ident.into());
    Ok(made)
}

/// `actions` as Kong takes them: a text with commas, or `*` for all.
fn spread_actions(fields: &mut Fields) {
    if let Some(Value::String(text)) = fields.get("actions") {
        let text = if text == "*" {
            "create,read,update,delete"
        } else {
            text
        };
        let list: Vec<&str> = text.split(',').map(str::trim).collect();
        fields.insert("actions".to_owned(), json!(list));
    }
    // A form has only texts.
    if let Some(Value::String(text)) = fields.get("negative")
        && let Ok(truth) = text.parse::<bool>()
    {
        fields.insert("negative".to_owned(), truth.into());
    }
}

/// The commands that give roles to a user, or take them.
fn role_commands(
    config: &Config,
    user: Key,
    deletes: bool,
    fields: &Fields,
) -> Result<Vec<Command>, Refusal> {
    let refused = |message: String| Rejection::Invalid(FieldErrors::at(&["roles"], message));
    let names: Vec<String> = match fields.get("roles") {
        Some(Value::String(text)) => text.split(',').map(|name| name.trim().to_owned()).collect(),
        Some(Value::Array(list)) => list
            .iter()
            .filter_map(|name| Some(name.as_str()?.to_owned()))
            .collect(),
        _ => return Err(refused("required field missing".to_owned()).into()),
    };
    let mut commands = Vec::new();
    for name in names.into_iter().filter(|name| !name.is_empty()) {
        let role = find(config, entity(RbacRole::KIND)?, &Selector::parse(&name))?
            .ok_or_else(|| refused(format!("role not found with name '{name}'")))?;
        let held = config
            .children(user, RbacUserRole::KIND, Uuid::nil())
            .find(|key| {
                let record = config.record(*key);
                record.is_some_and(|record| foreign_id(&record, "role") == Some(role.id))
            });
        let action = match (deletes, held) {
            (true, Some(key)) => Action::Delete(Selector::Id(key.id)),
            (false, None) => {
                let mut body = Fields::new();
                body.insert("user".to_owned(), json!({ "id": user.id }));
                body.insert("role".to_owned(), json!({ "id": role.id }));
                Action::Create(Body::Json(body))
            }
            (true, None) => continue,
            (false, Some(_)) => {
                return Err(refused(format!("the user has the role '{name}' already")).into());
            }
        };
        commands.push(Command {
            entity: RbacUserRole::KIND,
            action,
            parents: Vec::new(),
        });
    }
    Ok(commands)
}
