//! The record that a command would store: from the body as it came to one that passed every check.

use plugins::filter::Scope;
use plugins::registry;
use serde_json::{Map, Value, json};
use shared::entity::{Definition, Plugin, definition};
use shared::schema::FieldErrors;
use shared::snapshot::Key;
use uuid::Uuid;

use super::{Body, Command, Context, Rejection};
use crate::config::{Config, Fields};
use shared::entity::Entity;

/// A record on its way.
#[derive(Debug)]
pub(super) struct Draft {
    entity: &'static Definition,
    /// The plugin that the record configures, if it is one and its name is known.
    plugin: Option<&'static registry::Definition>,
    fields: Fields,
    errors: FieldErrors,
}

impl Draft {
    /// The draft of a whole record.
    pub(super) fn new(entity: &'static Definition, body: &Body, command: &Command) -> Self {
        Self::read(entity, body, command, None)
    }

    /// The draft of a stored record with some fields changed.
    pub(super) fn patch(
        entity: &'static Definition,
        body: &Body,
        command: &Command,
        stored: Option<&Fields>,
    ) -> Self {
        let mut draft = Self::read(entity, body, command, stored);
        let Some(stored) = stored else { return draft };
        let mut patch = std::mem::take(&mut draft.fields);
        if let Some(plugin) = draft.plugin
            && let (Some(Value::Object(old)), Some(Value::Object(new))) =
                (stored.get("config"), patch.get_mut("config"))
        {
            *new = plugin.fields.merge(old, std::mem::take(new));
        }
        draft.fields = entity.schema.merge(stored, patch);
        draft.fields.shift_remove("updated_at");
        draft
    }

    fn read(
        entity: &'static Definition,
        body: &Body,
        command: &Command,
        stored: Option<&Fields>,
    ) -> Self {
        let (Body::Json(fields) | Body::Form(fields)) = body;
        let mut fields = fields.clone();
        let plugin = (entity.kind == Plugin::KIND)
            .then(|| fields.get("name").or_else(|| stored?.get("name"))?.as_str())
            .flatten()
            .and_then(registry::definition);
        if matches!(body, Body::Form(_)) {
            entity.schema.coerce(&mut fields);
            if let (Some(plugin), Some(Value::Object(config))) = (plugin, fields.get_mut("config"))
            {
                // Old names take the types of the fields that they stand for.
                plugin.modernize(config);
                plugin.fields.coerce(config);
            }
        }
        if let (Some(plugin), Some(Value::Object(config))) = (plugin, fields.get_mut("config")) {
            plugin.modernize(config);
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
        context: &Context,
    ) -> Result<Fields, Rejection> {
        let unresolved = resolve_foreign_keys(self.entity, &mut self.fields, config);
        if !unresolved.is_empty() {
            return Err(Rejection::Unresolved(unresolved));
        }
        let entity = self.entity;
        let fields = self.finish(context)?;
        check_foreign_keys(entity, &fields, config)?;
        Ok(fields)
    }

    /// The same without a look at other records: a foreign key is good if it could lead to one.
    pub(super) fn complete_alone(mut self, context: &Context) -> Result<Fields, Rejection> {
        let unresolved = resolve_foreign_keys(self.entity, &mut self.fields, &Config::default());
        for field in unresolved.0.keys() {
            let any = json!({ "id": Uuid::nil() });
            self.fields.insert(field.clone(), any);
        }
        self.finish(context)
    }

    fn finish(mut self, context: &Context) -> Result<Fields, Rejection> {
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
            self.complete_plugin(&mut fields);
        }
        if self.errors.is_empty() {
            (self.entity.check)(&fields, &mut self.errors);
        }
        if !self.errors.is_empty() {
            return Err(Rejection::Invalid(self.errors));
        }
        Ok(fields)
    }

    /// The configuration's own fields, the scopes that the plugin forbids, and the plugin's verdict.
    fn complete_plugin(&mut self, fields: &mut Fields) {
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
        for scope in plugin.forbidden_scopes {
            let scope = field_of(*scope);
            if fields.get(scope).is_some_and(|value| !value.is_null()) {
                self.errors.add(&[scope], "value must be null");
            }
        }
        match plugin.check(self.fields.get("config").unwrap_or(&Value::Null)) {
            Err(errors) => self.errors.nest("config", errors),
            Ok(config) => {
                fields.insert("config".to_owned(), config);
            }
        }
    }
}

/// The foreign key that attaches a plugin to a scope.
pub(crate) const fn field_of(scope: Scope) -> &'static str {
    match scope {
        Scope::Service => "service",
        Scope::Route => "route",
        Scope::Consumer => "consumer",
    }
}

/// Replaces foreign keys that are given by a unique field with the id. Gives an error for each that
/// leads nowhere.
fn resolve_foreign_keys(entity: &Definition, fields: &mut Fields, config: &Config) -> FieldErrors {
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
    errors
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
        if !config.contains(Key { kind, id }) {
            return Err(Rejection::NoParent {
                field: field.to_owned(),
                kind,
                id,
            });
        }
    }
    Ok(())
}
