//! Turns a write below `/rbac` into what it asks of the configuration.

use http::{Method, StatusCode};
use serde_json::{Value, json};
use shared::entity::{BUILT_IN_ROLES, Entity, RbacRole, RbacRoleEndpoint, RbacUser, RbacUserRole};
use shared::schema::FieldErrors;
use shared::snapshot::Key;
use uuid::Uuid;

use super::super::access;
use super::super::error::Refusal;
use super::super::place::Place;
use super::{Page, endpoint_of, entity, found, user};
use crate::command::{Action, Body, Command, Rejection, Selector, find};
use crate::config::{Config, Fields, foreign_id};

/// Shortest token that is accepted: a hash does not protect what can be guessed.
const SHORTEST: usize = 16;

/// A command, its status, and what is to be shown of what it leaves.
pub(super) struct Plan {
    pub(super) command: Command,
    pub(super) status: StatusCode,
    /// The token that was made up, which is shown this once.
    pub(super) token: Option<String>,
    /// The user whose roles are shown instead of the record.
    pub(super) user: Option<Key>,
}

impl Plan {
    /// Does `action` with records of `kind`; nothing else is shown of it.
    fn new(kind: &'static str, action: Action, status: StatusCode) -> Self {
        Self {
            command: Command {
                entity: kind,
                action,
                parents: Vec::new(),
            },
            status,
            token: None,
            user: None,
        }
    }

    /// What `method` asks of `page` with `fields`.
    pub(super) fn of(
        config: &Config,
        place: &Place,
        page: Page,
        method: &Method,
        fields: Fields,
    ) -> Result<Self, Refusal> {
        match page {
            Page::List(kind) => create(kind, fields),
            Page::One(kind, one) => change(config, kind, one, method, fields),
            Page::Roles(one) => give_roles(config, &one, method, &fields),
            Page::Endpoints(role) => create_endpoint(config, place, &role, fields),
            Page::Endpoint(role, workspace, endpoint) => {
                let key = endpoint_of(config, &role, &workspace, &endpoint)?;
                let role = found(config, RbacRole::KIND, &role)?;
                change_endpoint(key, role, method, fields)
            }
            // A permission that is stored and not enforced would be a promise.
            Page::Entities(role) => {
                found(config, RbacRole::KIND, &role)?;
                let message = "permissions are not given for single entities; give the role an endpoint instead: \
                               /rbac/roles/{role}/endpoints";
                Err(Refusal::Argument(message.to_owned()))
            }
            Page::Permissions(..) | Page::Myself => Err(Refusal::NotFound),
        }
    }
}

/// A role that comes with the program cannot be changed.
fn check_changeable(role: Key) -> Result<(), Refusal> {
    if BUILT_IN_ROLES.iter().any(|(_, id)| *id == role.id) {
        return Err(Refusal::BuiltIn);
    }
    Ok(())
}

/// A user or a role to be made.
fn create(kind: &'static str, mut fields: Fields) -> Result<Plan, Refusal> {
    let token = if kind == RbacUser::KIND {
        take_token(&mut fields, true)?
    } else {
        None
    };
    let action = Action::Create(Body::Json(fields));
    Ok(Plan {
        token,
        ..Plan::new(kind, action, StatusCode::CREATED)
    })
}

/// A user or a role to be changed or deleted; a role also to be put.
fn change(
    config: &Config,
    kind: &'static str,
    one: Selector,
    method: &Method,
    mut fields: Fields,
) -> Result<Plan, Refusal> {
    let key = found(config, kind, &one);
    if let Ok(key) = &key {
        check_changeable(*key)?;
    }
    if *method == Method::DELETE {
        let action = Action::Delete(one);
        return Ok(Plan::new(kind, action, StatusCode::NO_CONTENT));
    }
    if *method == Method::PUT {
        let action = Action::Upsert(one, Body::Json(fields));
        return Ok(Plan::new(kind, action, StatusCode::OK));
    }
    let selector = Selector::Id(key?.id);
    if kind == RbacUser::KIND {
        take_token(&mut fields, false)?;
    }
    let action = Action::Patch(selector, Body::Json(fields));
    Ok(Plan::new(kind, action, StatusCode::OK))
}

/// Roles to be given to a user, or taken.
fn give_roles(
    config: &Config,
    one: &Selector,
    method: &Method,
    fields: &Fields,
) -> Result<Plan, Refusal> {
    let user = user(config, one)?;
    let deletes = *method == Method::DELETE;
    let commands = role_commands(config, user, deletes, fields)?;
    let status = if deletes {
        StatusCode::NO_CONTENT
    } else {
        StatusCode::CREATED
    };
    Ok(Plan {
        user: Some(user),
        ..Plan::new(RbacUserRole::KIND, Action::Several(commands), status)
    })
}

/// What a role may do at an endpoint, to be added.
fn create_endpoint(
    config: &Config,
    place: &Place,
    role: &Selector,
    mut fields: Fields,
) -> Result<Plan, Refusal> {
    let role = found(config, RbacRole::KIND, role)?;
    check_changeable(role)?;
    spread_actions(&mut fields);
    fields.insert("role".to_owned(), json!({ "id": role.id }));
    let workspace = fields
        .entry("workspace")
        .or_insert_with(|| place.name.clone().into());
    let workspace = workspace.as_str().unwrap_or_default();
    if workspace != "*" && config.find("workspaces", "name", workspace).is_none() {
        let message = format!("Workspace '{workspace}' not found");
        let errors = FieldErrors::at(&["workspace"], message);
        return Err(Rejection::Invalid(errors).into());
    }
    let action = Action::Create(Body::Json(fields));
    let kind = RbacRoleEndpoint::KIND;
    Ok(Plan::new(kind, action, StatusCode::CREATED))
}

/// What `role` may do at an endpoint, to be changed or deleted.
fn change_endpoint(
    key: Key,
    role: Key,
    method: &Method,
    mut fields: Fields,
) -> Result<Plan, Refusal> {
    check_changeable(role)?;
    let selector = Selector::Id(key.id);
    let kind = RbacRoleEndpoint::KIND;
    if *method == Method::DELETE {
        let action = Action::Delete(selector);
        return Ok(Plan::new(kind, action, StatusCode::NO_CONTENT));
    }
    spread_actions(&mut fields);
    let action = Action::Patch(selector, Body::Json(fields));
    Ok(Plan::new(kind, action, StatusCode::OK))
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
