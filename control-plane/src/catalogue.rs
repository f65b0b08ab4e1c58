//! What the write path knows of plugins: their fields and who judges a configuration.

use serde_json::Value;
use shared::schema::{FieldErrors, Record};

/// Judges a completed configuration beyond what its schema says.
pub type Judge = fn(&Value) -> Result<(), FieldErrors>;

/// One plugin that can be configured.
#[derive(Clone, Debug)]
pub struct CatalogueEntry {
    /// The name that operators configure it by.
    pub name: &'static str,
    /// Its version, as the Admin API shows it.
    pub version: &'static str,
    /// Its place in the order of plugins.
    pub priority: u32,
    /// Foreign keys that a configuration of it must leave empty.
    pub forbidden_scopes: Vec<&'static str>,
    /// The fields of its configuration.
    pub schema: Record,
    /// Old names of fields, accepted on write: `(old, new)`. A dot leads into a record; an empty new
    /// name means that the value is accepted and ignored.
    pub shorthands: &'static [(&'static str, &'static str)],
    /// What the data plane would say.
    pub judge: Judge,
}

/// Every plugin that can be configured.
#[derive(Clone, Debug, Default)]
pub struct Catalogue(pub Vec<CatalogueEntry>);

impl Catalogue {
    /// The plugin `name`.
    pub fn entry(&self, name: &str) -> Option<&CatalogueEntry> {
        self.0.iter().find(|entry| entry.name == name)
    }
}
