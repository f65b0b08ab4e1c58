//! `/schemas/*`: the fields as clients read them, and validation without storing.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use plugins::registry;
use serde_json::{Map, Value, json};
use shared::clock::UnixTime;
use shared::entity::{Definition, Tagging, vault};

use super::Answer;
use super::endpoint::Endpoint;
use super::error::Refusal;
use crate::command::{Body, Context, check, forbids};

/// The answers, each made once: they are the same for as long as the process lives.
#[derive(Debug, Default)]
pub(super) struct Texts(Mutex<HashMap<(Page, String), Bytes>>);

/// What a schema is shown as.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Page {
    Entity,
    Tags,
    Plugin,
    Config,
    Vault,
}

impl Texts {
    /// The schema that `endpoint` shows, if it shows one.
    pub(super) fn show(&self, endpoint: &Endpoint) -> Option<Result<Bytes, Refusal>> {
        Some(match endpoint {
            Endpoint::Schema(shown) => self.text(Page::Entity, shown.kind, |_| Ok(entity(shown))),
            Endpoint::TagsSchema => self.text(Page::Tags, "", |_| Ok(tags())),
            Endpoint::PluginSchema(name) => self.text(Page::Plugin, name, plugin),
            Endpoint::ConfigSchema(name) => self.text(Page::Config, name, config),
            Endpoint::VaultSchema(name) => self.text(Page::Vault, name, vault),
            _ => return None,
        })
    }

    /// What is there is kept, so that no more is kept than there is.
    fn text(
        &self,
        page: Page,
        name: &str,
        make: impl FnOnce(&str) -> Result<Value, Refusal>,
    ) -> Result<Bytes, Refusal> {
        let mut texts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (page, name.to_owned());
        if let Some(text) = texts.get(&key) {
            return Ok(text.clone());
        }
        let text: Bytes = make(name)?.to_string().into();
        texts.insert(key, text.clone());
        Ok(text)
    }
}

fn entity(entity: &Definition) -> Value {
    schema(&entity.schema.kong())
}

/// `/schemas/tags`: of what no record is kept for, but lists are read.
fn tags() -> Value {
    schema(&Tagging::schema().kong())
}

/// A schema as Kong shows it. Our rules between fields are code, and have no form to be shown in.
fn schema(fields: &Value) -> Value {
    json!({ "fields": fields, "entity_checks": [] })
}

fn plugin(name: &str) -> Result<Value, Refusal> {
    let entry = registry::definition(name)
        .ok_or_else(|| Refusal::Absent(format!("No plugin named '{name}'")))?;
    Ok(schema(&fields(entry)))
}

/// `/plugins/schema/{name}`
fn config(name: &str) -> Result<Value, Refusal> {
    let entry = registry::definition(name)
        .ok_or_else(|| Refusal::Absent(format!("No plugin named '{name}'")))?;
    Ok(json!({ "fields": entry.fields.kong() }))
}

/// `/schemas/vaults/{name}`
fn vault(name: &str) -> Result<Value, Refusal> {
    let backend =
        vault::backend(name).ok_or_else(|| Refusal::Absent(format!("No vault named '{name}'")))?;
    let config = json!({ "type": "record", "required": true, "fields": backend.fields.kong() });
    let name = json!({ "name": { "type": "string", "eq": name } });
    Ok(schema(&json!([name, { "config": config }])))
}

/// A plugin's fields: its scopes, the protocols and its configuration.
fn fields(entry: &registry::Definition) -> Value {
    let mut fields = Vec::new();
    for (scope, reference) in [
        ("consumer", "consumers"),
        ("consumer_group", "consumer_groups"),
        ("route", "routes"),
        ("service", "services"),
    ] {
        let mut attributes = json!({ "type": "foreign", "reference": reference });
        if forbids(entry, scope)
            && let Some(attributes) = attributes.as_object_mut()
        {
            attributes.insert("eq".to_owned(), Value::Null);
        }
        fields.push(json!({ scope: attributes }));
    }
    let plugins = shared::entity::definition("plugins").map(|entity| entity.schema.kong());
    let plugins = plugins.as_ref().and_then(Value::as_array);
    let protocols = plugins.into_iter().flatten();
    fields.extend(protocols.filter_map(|field| {
        let mut attributes = field.get("protocols")?.clone();
        // Each plugin has its own.
        for (place, own) in [
            ("/default", entry.protocols.default),
            ("/elements/one_of", entry.protocols.allowed),
        ] {
            *attributes.pointer_mut(place)? = json!(own);
        }
        Some(json!({ "protocols": attributes }))
    }));
    let mut config = json!({ "type": "record", "required": true, "fields": entry.fields.kong() });
    let old = shorthands(entry);
    if let (false, Some(config)) = (old.is_empty(), config.as_object_mut()) {
        config.insert("shorthand_fields".to_owned(), old.into());
    }
    fields.push(json!({ "config": config }));
    Value::Array(fields)
}

/// Names of earlier versions, each with the field that has taken its place: decK compares by them.
fn shorthands(entry: &registry::Definition) -> Vec<Value> {
    let shown = entry.fields.kong();
    let attributes = |path: &[&str]| {
        let mut fields = shown.as_array()?;
        let (last, parents) = path.split_last()?;
        for parent in parents {
            let record = fields.iter().find_map(|field| field.get(*parent))?;
            fields = record.get("fields")?.as_array()?;
        }
        fields.iter().find_map(|field| field.get(*last))
    };
    let shorthand = |(old, new): &(&str, &str)| {
        let path: Vec<&str> = new.split('.').collect();
        let kept = ["type", "elements", "keys", "values", "fields"];
        let mut shape = Map::new();
        for (name, value) in attributes(&path)?.as_object()? {
            if kept.contains(&name.as_str()) {
                shape.insert(name.clone(), value.clone());
            }
        }
        let deprecation = json!({
            "message": format!(
                "{name}: config.{old} is deprecated, please use config.{new} instead",
                name = entry.name,
            ),
            "removal_in_version": "4.0",
            "replaced_with": [{ "path": path }],
        });
        shape.insert("deprecation".to_owned(), deprecation);
        Some(json!({ *old: shape }))
    };
    entry.shorthands.iter().filter_map(shorthand).collect()
}

/// Checks a body by its schema alone: no foreign keys, no uniqueness, nothing stored.
pub(super) fn validate(entity: &'static Definition, body: &Body) -> Result<Answer, Refusal> {
    let mut body = body.clone();
    // decK's check of a file calls it as its own program does.
    if let Body::Json(fields) = &mut body
        && entity.write_only.contains(&"skip_hash")
        && let Some(value) = fields.remove("SkipHash").filter(|value| !value.is_null())
    {
        fields.insert("skip_hash".to_owned(), value);
    }
    check(entity, &body, &Context::draw(UnixTime::now()))?;
    Ok(Answer::ok(
        json!({ "message": "schema validation successful" }),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_is_made_once_and_what_is_not_there_is_not_kept() {
        let texts = Texts::default();
        for (page, name, value) in [
            (Page::Plugin, "acl", 1),
            (Page::Config, "acl", 2),
            (Page::Plugin, "cors", 3),
        ] {
            let made = texts.text(page, name, |_| Ok(json!(value)));
            assert_eq!(made.unwrap(), value.to_string());
            let again = texts.text(page, name, |_| panic!("made again"));
            assert_eq!(again.unwrap(), value.to_string());
        }
        let before = texts.0.lock().unwrap().len();
        let absent = Endpoint::PluginSchema("nothing".to_owned());
        assert!(matches!(texts.show(&absent), Some(Err(Refusal::Absent(_)))));
        assert_eq!(texts.0.lock().unwrap().len(), before);
    }
}
