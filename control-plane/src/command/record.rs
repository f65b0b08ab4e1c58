//! The record that a command would store: from the body as it came to one that passed every check.

use serde_json::{Map, Value};
use shared::entity::{Definition, Plugin, definition};
use shared::schema::FieldErrors;
use shared::snapshot::Key;

use super::{Body, Command, Context, Rejection};
use crate::catalogue::{Catalogue, CatalogueEntry};
use crate::config::{Config, Fields};
use shared::entity::Entity;

/// A record on its way.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    entity: &'static Definition,
    /// The plugin that the record configures, if it is one and its name is known.
    plugin: Option<&'a CatalogueEntry>,
    fields: Fields,
    errors: FieldErrors,
}

impl<'a> Draft<'a> {
    /// The draft of a whole record.
    pub(super) fn new(
        entity: &'static Definition,
        body: &Body,
        command: &Command,
        context: &Context<'a>,
    ) -> Self {
        Self::read(entity, body, command, context.plugins, None)
    }

    /// The draft of a stored record with some fields changed.
    pub(super) fn patch(
        entity: &'static Definition,
        body: &Body,
        command: &Command,
        context: &Context<'a>,
        stored: Option<&Fields>,
    ) -> Self {
        let mut draft = Self::read(entity, body, command, context.plugins, stored);
        let Some(stored) = stored else { return draft };
        let mut patch = std::mem::take(&mut draft.fields);
        if let Some(plugin) = draft.plugin
            && let (Some(Value::Object(old)), Some(Value::Object(new))) =
                (stored.get("config"), patch.get_mut("config"))
        {
            *new = plugin.schema.merge(old, std::mem::take(new));
        }
        draft.fields = entity.schema.merge(stored, patch);
        draft.fields.shift_remove("updated_at");
        draft
    }

    fn read(
        entity: &'static Definition,
        body: &Body,
        command: &Command,
        plugins: &'a Catalogue,
        stored: Option<&Fields>,
    ) -> Self {
        let (Body::Json(fields) | Body::Form(fields)) = body;
        let mut fields = fields.clone();
        let plugin = (entity.kind == Plugin::KIND)
            .then(|| fields.get("name").or_else(|| stored?.get("name"))?.as_str())
            .flatten()
            .and_then(|name| plugins.entry(name));
        if matches!(body, Body::Form(_)) {
            entity.schema.coerce(&mut fields);
            if let (Some(plugin), Some(Value::Object(config))) = (plugin, fields.get_mut("config"))
            {
                // Old names take the types of the fields that they stand for.
                modernize(config, plugin.shorthands);
                plugin.schema.coerce(config);
            }
        }
        if let (Some(plugin), Some(Value::Object(config))) = (plugin, fields.get_mut("config")) {
            modernize(config, plugin.shorthands);
        }
        let mut errors = FieldErrors::default();
        (entity.expand)(&mut fields, &mut errors);
        for (field, id) in &command.parents {
            let mut key = Map::new();
            key.insert("id".to_owned(), id.to_string().into());
            fields.insert((*field).to_owned(), Value::Object(key));
        }
        Self {
            entity,
            plugin,
            fields,
            errors,
        }
    }

    /// Sets a field that the URL dictates.
    pub(super) fn set(&mut self, field: &str, value: Value) {
        self.fields.insert(field.to_owned(), value);
    }

    /// The finished record, or everything that is wrong with it.
    pub(super) fn complete(
        mut self,
        config: &Config,
        stored: Option<&Fields>,
        context: &Context<'_>,
    ) -> Result<Fields, Rejection> {
        resolve_foreign_keys(self.entity, &mut self.fields, config)?;
        for (field, value) in [
            ("id", Value::from(context.id.to_string())),
            ("created_at", context.now.into()),
            ("updated_at", context.now.into()),
        ] {
            let auto = self
                .entity
                .schema
                .field(field)
                .is_some_and(|field| field.auto);
            let made = field == "updated_at" || self.fields.get(field).is_none_or(Value::is_null);
            if auto && made {
                self.fields.insert(field.to_owned(), value);
            }
        }
        let (mut fields, errors) = self.entity.schema.complete_all(&self.fields);
        for (field, error) in errors.0 {
            self.errors.0.entry(field).or_insert(error);
        }
        if self.entity.kind == Plugin::KIND {
            self.complete_plugin(&mut fields, stored);
        }
        if self.errors.is_empty() {
            (self.entity.check)(&fields, &mut self.errors);
        }
        if !self.errors.is_empty() {
            return Err(Rejection::Invalid(self.errors));
        }
        check_foreign_keys(self.entity, &fields, config)?;
        Ok(fields)
    }

    /// The configuration's own fields, the scopes that the plugin forbids, and the plugin's verdict.
    fn complete_plugin(&mut self, fields: &mut Fields, _: Option<&Fields>) {
        let Some(plugin) = self.plugin else {
            let Some(name) = self.fields.get("name").and_then(Value::as_str) else {
                return;
            };
            // Without a plugin nothing can be said about the rest.
            self.errors = FieldErrors::at(
                &["name"],
                format!(
                    "plugin '{name}' not enabled; add it to the 'plugins' configuration property"
                ),
            );
            return;
        };
        for scope in &plugin.forbidden_scopes {
            if fields.get(*scope).is_some_and(|value| !value.is_null()) {
                self.errors.add(&[scope], "value must be null");
            }
        }
        let given = match self.fields.get("config") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(config)) => config.clone(),
            Some(_) => return,
        };
        match plugin.schema.complete(&given) {
            Err(errors) => self.errors.nest("config", errors),
            Ok(config) => {
                let config = Value::Object(config);
                if let Err(errors) = (plugin.judge)(&config) {
                    self.errors.nest("config", errors);
                }
                fields.insert("config".to_owned(), config);
            }
        }
    }
}

/// Moves values from old names to new ones. A value under the new name wins.
fn modernize(config: &mut Fields, shorthands: &[(&str, &str)]) {
    for (old, new) in shorthands {
        let Some(value) = config.shift_remove(*old) else {
            continue;
        };
        if value.is_null() || new.is_empty() {
            continue;
        }
        let (target, field) = match new.split_once('.') {
            None => (Some(&mut *config), *new),
            Some((record, field)) => {
                let record = config
                    .entry(record.to_owned())
                    .or_insert_with(|| Value::Object(Map::new()));
                (record.as_object_mut(), field)
            }
        };
        if let Some(target) = target {
            target.entry(field.to_owned()).or_insert(value);
        }
    }
}

/// Replaces foreign keys that are given by a unique field with the id.
fn resolve_foreign_keys(
    entity: &Definition,
    fields: &mut Fields,
    config: &Config,
) -> Result<(), Rejection> {
    let mut errors = FieldErrors::default();
    for (field, kind) in entity.foreign_keys() {
        let Some(Value::Object(key)) = fields.get_mut(field) else {
            continue;
        };
        if key.contains_key("id") || key.is_empty() {
            continue;
        }
        let unique: Vec<&str> = definition(kind)
            .map(|target| target.unique.iter().filter_map(|set| single(set)).collect())
            .unwrap_or_default();
        let given = key.iter().find(|(name, _)| unique.contains(&name.as_str()));
        let Some((name, value)) = given.and_then(|(name, value)| Some((name, value.as_str()?)))
        else {
            continue;
        };
        match config.find(kind, name, value) {
            Some(id) => {
                key.clear();
                key.insert("id".to_owned(), id.to_string().into());
            }
            None => errors.add(
                &[field, name],
                format!(
                    "the foreign key cannot be resolved with '{{{name}=\"{value}\"}}' for an existing \
                     '{kind}' entity"
                ),
            ),
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Rejection::Unresolved(errors))
    }
}

fn single(set: &'static [&'static str]) -> Option<&'static str> {
    if let [field] = set { Some(field) } else { None }
}

fn check_foreign_keys(
    entity: &Definition,
    fields: &Fields,
    config: &Config,
) -> Result<(), Rejection> {
    for (field, kind) in entity.foreign_keys() {
        let Some(id) = crate::config::foreign_id(fields, field) else {
            continue;
        };
        if config.record(Key { kind, id }).is_none() {
            return Err(Rejection::NoParent {
                field: field.to_owned(),
                kind,
                id,
            });
        }
    }
    Ok(())
}
