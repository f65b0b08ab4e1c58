//! A part of the configuration with names of its own.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{DEFINITIONS, Entity};
use crate::clock::UnixTime;
use crate::schema::FieldErrors;
use crate::types::{Name, Set, Tag};

/// The workspace of everything that is put into none by name.
pub const DEFAULT_WORKSPACE: Uuid = Uuid::nil();

/// First parts of URLs that are no entity, and so no workspace's name either.
const RESERVED: [&str; 17] = [
    "admins",
    "audit",
    "cache",
    "clustering",
    "config",
    "debug",
    "endpoints",
    "kong",
    "metrics",
    "rbac",
    "revisions",
    "rollouts",
    "schemas",
    "status",
    "tags",
    "timers",
    "userinfo",
];

/// First parts of URLs of pages that came later: workspaces may be called so, and keep what is not such a page.
const LATER: [&str; 2] = ["openid-connect", "proxy-cache"];

/// A part of the configuration with names of its own. Nothing in it can point to what is in another. Data planes learn
/// what each but the default one is called, whose name is fixed.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Workspace {
    /// Unique identifier.
    #[schemars(extend("x-auto" = true))]
    pub id: Uuid,
    /// Time of creation, in seconds since 1970.
    #[schemars(extend("x-auto" = true))]
    pub created_at: u64,
    /// Time of the last change, in seconds since 1970.
    #[schemars(extend("x-auto" = true))]
    pub updated_at: u64,
    /// Unique name, which begins the path of what is asked of the workspace. It cannot be changed.
    #[schemars(extend("x-unique" = true))]
    pub name: Name,
    /// What it is for.
    pub comment: Option<String>,
    /// How consoles show it.
    #[serde(default)]
    pub meta: Appearance,
    /// Settings of a developer portal, which there is none of.
    #[serde(default)]
    pub config: Portal,
    /// Labels to select records by.
    #[serde(default)]
    pub tags: Option<Set<Tag>>,
}

/// How consoles show a workspace.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Appearance {
    /// A colour, as in CSS.
    pub color: Option<String>,
    /// A picture's URL.
    pub thumbnail: Option<String>,
}

/// Settings of a workspace's developer portal: none, in a place that Kong's clients expect.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Portal {}

impl Workspace {
    /// Whether URLs begin with `word` that have nothing to do with a workspace of that name.
    pub fn is_reserved(word: &str) -> bool {
        let entity = |definition: &super::Definition| {
            definition.kind == word
                || definition.path == word
                || definition.nested.iter().any(|(_, place)| *place == word)
        };
        RESERVED.contains(&word) || DEFINITIONS.iter().any(entity)
    }

    /// The default workspace as long as nobody has changed it.
    pub fn first() -> Map<String, Value> {
        let fields = json!({
            "id": DEFAULT_WORKSPACE,
            "created_at": 0,
            "updated_at": 0,
            "name": "default",
            "comment": null,
            "meta": { "color": null, "thumbnail": null },
            "config": {},
            "tags": null,
        });
        match fields {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }
}

impl Entity for Workspace {
    const KIND: &'static str = "workspaces";
    const NAME_FIELD: Option<&'static str> = Some("name");
    const UNIQUE: &'static [&'static [&'static str]] = &[&["name"]];
    const WORKSPACED: bool = false;

    fn check(record: &Map<String, Value>, _: UnixTime, errors: &mut FieldErrors) {
        let name = record
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if Self::is_reserved(name) || LATER.contains(&name) {
            errors.add(&["name"], format!("must not be one of: {name}"));
        }
    }
}
