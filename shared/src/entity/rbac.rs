//! Who may use the Admin API: users, roles, and what a role permits.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::Entity;
use crate::clock::UnixTime;
use crate::schema::FieldErrors;
use crate::types::{Ref, Set};

/// Somebody, or a program, that may use the Admin API.
#[derive(Clone, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct RbacUser {
    /// Unique identifier.
    #[schemars(extend("x-auto" = true))]
    pub id: Uuid,
    /// Time of creation, in seconds since 1970.
    #[schemars(extend("x-auto" = true))]
    pub created_at: u64,
    /// Time of the last change, in seconds since 1970.
    #[schemars(extend("x-auto" = true))]
    pub updated_at: u64,
    /// Unique name, which the log of changes shows.
    #[schemars(length(min = 1, max = 255), extend("x-unique" = true))]
    pub name: String,
    /// What the user is for.
    pub comment: Option<String>,
    /// Whether the token is accepted.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// The hash of the token.
    #[schemars(extend("x-encrypted" = true))]
    pub user_token: String,
    /// The beginning of the hash, to tell tokens apart.
    pub user_token_ident: Option<String>,
}

impl std::fmt::Debug for RbacUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RbacUser")
            .field("id", &self.id)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

const fn yes() -> bool {
    true
}

impl Entity for RbacUser {
    const KIND: &'static str = "rbac_users";
    const PATH: &'static str = "rbac/users";
    const NAME_FIELD: Option<&'static str> = Some("name");
    const UNIQUE: &'static [&'static [&'static str]] = &[&["name"], &["user_token"]];
    const PUBLIC: bool = false;
    const WORKSPACED: bool = false;
    const DISTRIBUTED: bool = false;
}

/// A set of permissions.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct RbacRole {
    /// Unique identifier.
    #[schemars(extend("x-auto" = true))]
    pub id: Uuid,
    /// Time of creation, in seconds since 1970.
    #[schemars(extend("x-auto" = true))]
    pub created_at: u64,
    /// Time of the last change, in seconds since 1970.
    #[schemars(extend("x-auto" = true))]
    pub updated_at: u64,
    /// Unique name.
    #[schemars(length(min = 1, max = 255), extend("x-unique" = true))]
    pub name: String,
    /// What it permits, in words.
    pub comment: Option<String>,
}

impl Entity for RbacRole {
    const KIND: &'static str = "rbac_roles";
    const PATH: &'static str = "rbac/roles";
    const NAME_FIELD: Option<&'static str> = Some("name");
    const UNIQUE: &'static [&'static [&'static str]] = &[&["name"]];
    const PUBLIC: bool = false;
    const WORKSPACED: bool = false;
    const DISTRIBUTED: bool = false;
}

/// A role of a user.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct RbacUserRole {
    /// Unique identifier.
    #[schemars(extend("x-auto" = true))]
    pub id: Uuid,
    /// Time of creation, in seconds since 1970.
    #[schemars(extend("x-auto" = true))]
    pub created_at: u64,
    /// The user.
    pub user: Ref<RbacUser>,
    /// The role.
    pub role: Ref<RbacRole>,
}

impl Entity for RbacUserRole {
    const KIND: &'static str = "rbac_user_roles";
    const UNIQUE: &'static [&'static [&'static str]] = &[&["user", "role"]];
    const PUBLIC: bool = false;
    const WORKSPACED: bool = false;
    const DISTRIBUTED: bool = false;
}

/// What may be done with something.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RbacAction {
    /// POST, and PUT of what is not there yet.
    Create,
    /// GET and HEAD.
    Read,
    /// PATCH and PUT.
    Update,
    /// DELETE.
    Delete,
}

/// What a role permits, or forbids, at an endpoint.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct RbacRoleEndpoint {
    /// Unique identifier.
    #[schemars(extend("x-auto" = true))]
    pub id: Uuid,
    /// Time of creation, in seconds since 1970.
    #[schemars(extend("x-auto" = true))]
    pub created_at: u64,
    /// The role.
    pub role: Ref<RbacRole>,
    /// Name of the workspace, or `*` for all, and for what belongs to none.
    pub workspace: String,
    /// A path without the workspace, in which `*` stands for one part; `*` alone for every path.
    pub endpoint: String,
    /// What may be done.
    #[schemars(length(min = 1))]
    pub actions: Set<RbacAction>,
    /// Whether that is forbidden instead.
    #[serde(default)]
    pub negative: bool,
    /// What it is for.
    pub comment: Option<String>,
}

impl Entity for RbacRoleEndpoint {
    const KIND: &'static str = "rbac_role_endpoints";
    const UNIQUE: &'static [&'static [&'static str]] = &[&["role", "workspace", "endpoint"]];
    const PUBLIC: bool = false;
    const WORKSPACED: bool = false;
    const DISTRIBUTED: bool = false;

    fn check(record: &Map<String, Value>, _: UnixTime, errors: &mut FieldErrors) {
        let endpoint = record.get("endpoint").and_then(Value::as_str);
        if endpoint.is_some_and(|path| path != "*" && !path.starts_with('/')) {
            errors.add(&["endpoint"], "should start with: /");
        }
    }
}

/// The roles that are always there: what may be done everywhere, what administrators may do, and reading.
pub const BUILT_IN_ROLES: [(&str, Uuid); 3] = [
    ("super-admin", role_id(1)),
    ("admin", role_id(2)),
    ("read-only", role_id(3)),
];

const fn role_id(number: u128) -> Uuid {
    Uuid::from_u128(0x7761_7264_6761_4000_8000_0000_0000_0000 | number)
}

/// The records of the roles that are always there.
pub fn built_in_roles() -> Vec<(&'static str, Uuid, Map<String, Value>)> {
    let all = json!(["create", "read", "update", "delete"]);
    let mut records = Vec::new();
    let mut put = |kind, id: Uuid, fields: Value| {
        if let Value::Object(mut fields) = fields {
            fields.insert("id".to_owned(), id.to_string().into());
            fields.insert("created_at".to_owned(), 0.into());
            records.push((kind, id, fields));
        }
    };
    for ((name, id), comment) in BUILT_IN_ROLES.into_iter().zip([
        "Full access to all endpoints, across all workspaces",
        "Full access to all endpoints, across all workspaces, except RBAC",
        "Read access to all endpoints, across all workspaces",
    ]) {
        let role = json!({ "updated_at": 0, "name": name, "comment": comment });
        put(RbacRole::KIND, id, role);
        let actions = if name == "read-only" {
            json!(["read"])
        } else {
            all.clone()
        };
        let endpoint = json!({
            "role": { "id": id }, "workspace": "*", "endpoint": "*", "actions": actions,
            "negative": false, "comment": null,
        });
        put(
            RbacRoleEndpoint::KIND,
            role_id(id.as_u128() % 16 * 16),
            endpoint,
        );
        if name == "super-admin" {
            continue;
        }
        // Neither administers who may do what; deeper paths have as many parts as these.
        for depth in 1..=6_u32 {
            let endpoint = json!({
                "role": { "id": id }, "workspace": "*",
                "endpoint": format!("/rbac{}", "/*".repeat(usize::try_from(depth).unwrap_or(1))),
                "actions": all, "negative": true, "comment": null,
            });
            let number = id.as_u128() % 16 * 16 + u128::from(depth);
            put(RbacRoleEndpoint::KIND, role_id(number), endpoint);
        }
    }
    records
}
