//! Where data planes read the secrets that the configuration refers to.

use std::sync::LazyLock;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::Entity;
use crate::schema::{FieldErrors, Record};
use crate::types::{Set, Tag};

/// Where data planes read secrets that the configuration only refers to, as `{vault://prefix/secret}`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Vault {
    /// Unique identifier.
    #[schemars(extend("x-auto" = true))]
    pub id: Uuid,
    /// What references call it by; not the name of a backend.
    #[schemars(extend("x-unique" = true, "format" = "kong-vault-prefix"))]
    pub prefix: String,
    /// The backend: `env` or `file`.
    #[schemars(length(min = 1))]
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// The backend's configuration.
    #[serde(default)]
    #[schemars(extend("x-plugin-config" = true))]
    pub config: Map<String, Value>,
    /// Time of creation, in seconds since 1970.
    #[schemars(extend("x-auto" = true))]
    pub created_at: u64,
    /// Time of the last change, in seconds since 1970.
    #[schemars(extend("x-auto" = true))]
    pub updated_at: u64,
    /// Labels to select records by.
    pub tags: Option<Set<Tag>>,
}

impl Entity for Vault {
    const KIND: &'static str = "vaults";
    const NAME_FIELD: Option<&'static str> = Some("prefix");
    const UNIQUE: &'static [&'static [&'static str]] = &[&["prefix"]];
    const UNIQUE_EVERYWHERE: bool = true;
}

/// Configuration of the backend `env`: variables of the data plane's environment.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct EnvironmentVault {
    /// What is put before the secret's name.
    #[schemars(extend("format" = "kong-env-prefix"))]
    pub prefix: Option<String>,
}

/// Configuration of the backend `file`: files below the data plane's directory for secrets.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct FileVault {
    /// A directory below that one.
    #[schemars(extend("format" = "kong-vault-directory"))]
    pub prefix: Option<String>,
}

/// Kinds of vaults.
#[derive(Debug)]
pub struct Backend {
    /// What a vault names it by.
    pub name: &'static str,
    /// The fields of its configuration.
    pub fields: Record,
}

impl Backend {
    /// Completes a configuration with its defaults.
    pub fn check(&self, config: &Value) -> Result<Value, FieldErrors> {
        let config = match config {
            Value::Object(fields) => fields.clone(),
            _ => Map::new(),
        };
        self.fields.complete(&config).map(Value::Object)
    }
}

static BACKENDS: LazyLock<[Backend; 2]> = LazyLock::new(|| {
    [
        Backend {
            name: "env",
            fields: Record::of::<EnvironmentVault>(),
        },
        Backend {
            name: "file",
            fields: Record::of::<FileVault>(),
        },
    ]
});

/// The backend of this name.
pub fn backend(name: &str) -> Option<&'static Backend> {
    BACKENDS.iter().find(|backend| backend.name == name)
}
