//! From the records of a workspace to a document that means the same records.

use serde_json::{Map, Value};
use shared::entity::{DEFAULT_WORKSPACE, definitions};
use uuid::Uuid;

use crate::command::batch::is_replaced;
use crate::config::{Config, Fields, workspace_key};

/// The document for the workspace that `config` is narrowed to. Holds secrets in clear.
pub fn write(config: &Config) -> Map<String, Value> {
    let mut document = Map::new();
    document.insert("_format_version".to_owned(), "3.0".into());
    // Values are as they are stored.
    document.insert("_transform".to_owned(), false.into());
    let workspace = config.workspace();
    if workspace != DEFAULT_WORKSPACE
        && let Some(record) = config.record(workspace_key(workspace))
        && let Some(name) = record.get("name")
    {
        document.insert("_workspace".to_owned(), name.clone());
    }
    for entity in definitions()
        .iter()
        .filter(|entity| is_replaced(entity, workspace))
    {
        let list: Vec<Value> = config
            .collection(entity.kind, Uuid::nil())
            .map(|(_, fields)| {
                let mut fields = Fields::clone(&fields);
                for (field, _) in entity.foreign_keys() {
                    if let Some(id) = fields.get(field).and_then(|key| key.get("id")) {
                        let id = id.clone();
                        fields.insert(field.to_owned(), id);
                    }
                }
                Value::Object(fields)
            })
            .collect();
        if !list.is_empty() {
            document.insert(entity.kind.to_owned(), Value::Array(list));
        }
    }
    document
}
