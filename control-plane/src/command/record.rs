//! The record that a command would store: from the body as it came to one that passed every check.

use plugins::filter::Scope;
use plugins::registry;
use serde_json::{Map, Value, json};
use shared::entity::{Definition, Entity, Plugin, Route, Service, Vault, definition, vault};
use shared::schema::{FieldErrors, Kind, Record};
use shared::snapshot::Key;
use uuid::Uuid;

use super::{Body, Command, Context, Rejection};
use crate::config::{Config, Fields, foreign_id};

/// A record on its way.
#[derive(Debug)]
pub(super) struct Draft {
    entity: &'static Definition,
    /// What the record configures, if that is something by a name that is known.
    configured: Option<Configured>,
    fields: Fields,
    /// What the caller gave, with the types of the fields.
    given: Fields,
    errors: FieldErrors,
}

/// What a record's `config` belongs to.
#[derive(Clone, Copy, Debug)]
enum Configured {
    Plugin(&'static registry::Definition),
    Vault(&'static vault::Backend),
}

impl Configured {
    fn find(entity: &'static Definition, name: &str) -> Option<Self> {
        match entity.kind {
            Plugin::KIND => registry::definition(name).map(Self::Plugin),
            Vault::KIND => vault::backend(name).map(Self::Vault),
            _ => None,
        }
    }

    fn fields(self) -> &'static Record {
        match self {
            Self::Plugin(plugin) => &plugin.fields,
            Self::Vault(backend) => &backend.fields,
        }
    }

    /// What is said under names of earlier versions and otherwise under today's.
    fn contradictions(self, config: &Fields) -> FieldErrors {
        match self {
            Self::Plugin(plugin) => plugin.contradictions(config),
            Self::Vault(_) => FieldErrors::default(),
        }
    }

    /// Moves what stands under names of earlier versions to today's.
    fn modernize(self, config: &mut Fields) {
        match self {
            Self::Plugin(plugin) => plugin.modernize(config),
            Self::Vault(_) => {}
        }
    }

    fn check(self, config: &Value) -> Result<Value, FieldErrors> {
        match self {
            Self::Plugin(plugin) => plugin.check(config),
            Self::Vault(backend) => backend.check(config),
        }
    }
}

impl Draft {
    /// The draft of a whole record.
    pub(super) fn new(entity: &'static Definition, body: &Body, command: &Command) -> Self {
        let mut draft = Self::read(entity, body, command, None);
        (entity.prefill)(&mut draft.fields);
        draft
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
        if let (Some(configured), Some(Value::Object(old))) =
            (draft.configured, stored.get("config"))
        {
            let fields = configured.fields();
            // What an earlier version stored and this one does not know is left behind.
            let mut known = old.clone();
            known.retain(|name, _| fields.field(name).is_some());
            match patch.get_mut("config") {
                Some(Value::Object(new)) => *new = fields.merge(&known, std::mem::take(new)),
                Some(_) => {}
                None => _ = patch.insert("config".to_owned(), Value::Object(known)),
            }
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
        let configured = fields
            .get("name")
            .or_else(|| stored?.get("name"))
            .and_then(|name| Configured::find(entity, name.as_str()?));
        if matches!(body, Body::Form(_)) {
            entity.schema.coerce(&mut fields);
        }
        let mut errors = FieldErrors::default();
        if let (Some(configured), Some(Value::Object(config))) =
            (configured, fields.get_mut("config"))
        {
            errors = configured.contradictions(config);
            // Old names take the types of the fields that they stand for.
            configured.modernize(config);
            if matches!(body, Body::Form(_)) {
                configured.fields().coerce(config);
            }
        }
        (entity.expand)(&mut fields, &mut errors);
        // A PATCH may take a record away from the parent that the URL names.
        let taken_away = |field: &str| stored.is_some() && fields.contains_key(field);
        let parents = command.parents.iter();
        let parents: Vec<_> = parents.filter(|(field, _)| !taken_away(field)).collect();
        for (field, id) in parents {
            let mut key = Map::new();
            key.insert("id".to_owned(), id.to_string().into());
            fields.insert((*field).to_owned(), Value::Object(key));
        }
        let given = fields.clone();
        fields.retain(|name, _| !entity.write_only.contains(&name.as_str()));
        Self {
            entity,
            configured,
            fields,
            given,
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
        self.judge_shorthands()?;
        let unresolved =
            resolve_foreign_keys(self.entity, &mut self.fields, config, &mut self.errors);
        if !unresolved.is_empty() && self.errors.is_empty() {
            return Err(Rejection::Unresolved(unresolved));
        }
        let entity = self.entity;
        let fields = self.finish(context)?;
        check_foreign_keys(entity, &fields, config)?;
        if entity.kind == Plugin::KIND {
            check_protocols(&fields, config)?;
        }
        Ok(fields)
    }

    /// The same without a look at other records: a foreign key is good if it could lead to one.
    pub(super) fn complete_alone(mut self, context: &Context) -> Result<Fields, Rejection> {
        self.judge_shorthands()?;
        let nothing = Config::default();
        let unresolved =
            resolve_foreign_keys(self.entity, &mut self.fields, &nothing, &mut self.errors);
        for field in unresolved.by_field.keys() {
            let any = json!({ "id": Uuid::nil() });
            self.fields.insert(field.clone(), any);
        }
        self.finish(context)
    }

    /// Refuses shorthands that could not be expanded, with no word about the fields that they stand for: what
    /// these would be is not known.
    fn judge_shorthands(&mut self) -> Result<(), Rejection> {
        if self.errors.is_empty() {
            return Ok(());
        }
        Err(Rejection::Invalid(std::mem::take(&mut self.errors)))
    }

    fn finish(mut self, context: &Context) -> Result<Fields, Rejection> {
        self.make_automatic(context);
        if let Some(Configured::Plugin(plugin)) = self.configured {
            let own = || json!(plugin.protocols.default);
            self.fields.entry("protocols").or_insert_with(own);
        }
        let (mut fields, errors) = self.entity.schema.complete_all(&self.fields);
        for field in self.entity.schema.nulls(&self.fields) {
            self.errors.add(&[field], "required field missing");
        }
        for (field, error) in errors.by_field {
            self.errors.by_field.entry(field).or_insert(error);
        }
        self.errors.meant.extend(errors.meant);
        if matches!(self.entity.kind, Plugin::KIND | Vault::KIND)
            && !self.complete_config(&mut fields)
        {
            return Err(Rejection::Invalid(self.errors));
        }
        // Rules between fields are judged along with the fields, so that all that is wrong is said at once.
        let mut seen = fields.clone();
        for field in self.errors.by_field.keys() {
            if let Some(value) = self.fields.get(field) {
                seen.insert(field.clone(), value.clone());
            }
        }
        (self.entity.check)(&seen, context.now, &mut self.errors);
        if !self.errors.is_empty() {
            return Err(Rejection::Invalid(self.errors));
        }
        (self.entity.derive)(&mut fields, &self.given);
        // What a data plane cannot read must not be stored: it would keep every later configuration back.
        if let Err(message) = (self.entity.read)(fields.clone()) {
            self.errors
                .by_field
                .insert("@entity".to_owned(), json!([message]));
            return Err(Rejection::Invalid(self.errors));
        }
        Ok(fields)
    }

    /// Makes the values that the caller may leave to us.
    fn make_automatic(&mut self, context: &Context) {
        for field in self.entity.schema.fields.iter().filter(|field| field.auto) {
            let name = field.name.as_str();
            let given = self.fields.get(name).is_some_and(|value| !value.is_null());
            if given && name != "updated_at" {
                continue;
            }
            let made = match (name, &field.kind) {
                ("id", _) => context.id.to_string().into(),
                (_, Kind::Integer(_)) => context.now.as_secs().into(),
                (_, Kind::Number(_)) => fractional_seconds(context),
                _ => context.secret(name).into(),
            };
            self.fields.insert(name.to_owned(), made);
        }
        self.make_automatic_config(context);
    }

    /// The same within the configuration. A `null` there says that none is wanted.
    fn make_automatic_config(&mut self, context: &Context) {
        let Some(configured) = self.configured else {
            return;
        };
        for field in configured.fields().fields.iter().filter(|field| field.auto) {
            let config = self.fields.entry("config").or_insert_with(|| json!({}));
            if let Value::Object(config) = config
                && !config.contains_key(&field.name)
            {
                config.insert(field.name.clone(), context.secret(&field.name).into());
            }
        }
    }

    /// The configuration's own fields, the scopes that a plugin forbids, and its verdict. False if the name
    /// is unknown, so that nothing more can be said.
    fn complete_config(&mut self, fields: &mut Fields) -> bool {
        let Some(configured) = self.configured else {
            let name = self.fields.get("name").unwrap_or(&Value::Null);
            if name.is_null() {
                self.errors = FieldErrors::at(&["name"], "required field missing");
                return false;
            }
            let Some(name) = name.as_str() else {
                return true;
            };
            let message = if self.entity.kind == Plugin::KIND {
                registry::absence(name)
            } else {
                format!("vault '{name}' is not installed")
            };
            self.errors = FieldErrors::at(&["name"], message);
            return false;
        };
        if let Configured::Plugin(plugin) = configured {
            for scope in ["consumer", "consumer_group", "route", "service"] {
                let given = fields.get(scope).is_some_and(|value| !value.is_null());
                if given && forbids(plugin, scope) {
                    self.errors.add(&[scope], "value must be null");
                }
            }
            self.judge_protocols(plugin);
        }
        match configured.check(self.fields.get("config").unwrap_or(&Value::Null)) {
            Err(errors) => self.errors.nest("config", errors),
            Ok(config) => {
                fields.insert("config".to_owned(), config);
            }
        }
        true
    }

    /// Refuses the protocols whose traffic `plugin` cannot see.
    fn judge_protocols(&mut self, plugin: &registry::Definition) {
        let allowed = json!(plugin.protocols.allowed);
        let allowed = allowed.as_array().map_or(&[][..], Vec::as_slice);
        let given = self.fields.get("protocols").and_then(Value::as_array);
        let given = given.map_or(&[][..], Vec::as_slice);
        let wrong = given
            .iter()
            .enumerate()
            .filter(|(_, protocol)| protocol.is_string() && !allowed.contains(protocol));
        let names: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
        let message = format!("expected one of: {}", names.join(", "));
        let wrong: Fields = wrong
            .map(|(place, _)| ((place + 1).to_string(), json!(message)))
            .collect();
        if !wrong.is_empty() {
            self.errors
                .by_field
                .insert("protocols".to_owned(), Value::Object(wrong));
        }
    }
}

/// Seconds since 1970 with milliseconds as the fraction.
fn fractional_seconds(context: &Context) -> Value {
    let milliseconds = context.now.as_millis();
    let text = format!("{}.{:03}", milliseconds / 1000, milliseconds % 1000);
    text.parse::<f64>().map_or(Value::Null, Value::from)
}

/// Whether a plugin must not be attached by the foreign key `scope`. One that cannot be a consumer's cannot be
/// a group's either.
pub(crate) fn forbids(plugin: &registry::Definition, scope: &str) -> bool {
    let own = if scope == "consumer_group" {
        "consumer"
    } else {
        scope
    };
    let mut forbidden = plugin.forbidden_scopes.iter();
    forbidden.any(|forbidden| field_of(*forbidden) == own)
}

/// The foreign key that attaches a plugin to a scope.
const fn field_of(scope: Scope) -> &'static str {
    match scope {
        Scope::Service => "service",
        Scope::Route => "route",
        Scope::Consumer => "consumer",
    }
}

/// Replaces foreign keys that are given by a unique field with the id. Gives an error for each that
/// leads nowhere; one that could not be a value of the field goes to `invalid`.
pub(super) fn resolve_foreign_keys(
    entity: &Definition,
    fields: &mut Fields,
    config: &Config,
    invalid: &mut FieldErrors,
) -> FieldErrors {
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
        if let Some(message) = definition(kind).and_then(|to| unique_error(to, name, value)) {
            invalid.add(&[field, name], message);
            continue;
        }
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

/// Why `value` could not be that of the unique field `name`.
pub(super) fn unique_error(entity: &Definition, name: &str, value: &str) -> Option<String> {
    let mut probe = Fields::new();
    probe.insert(name.to_owned(), value.into());
    let (_, errors) = entity.schema.complete_all(&probe);
    errors.by_field.get(name)?.as_str().map(str::to_owned)
}

/// A plugin on a route, or on a service with routes, speaks a protocol that some request there can have.
fn check_protocols(fields: &Fields, config: &Config) -> Result<(), Rejection> {
    let own = protocols(fields);
    let shares = |key: Key| {
        config
            .record(key)
            .is_some_and(|route| protocols(&route).iter().any(|name| own.contains(name)))
    };
    let refused = |message: &str| Err(Rejection::Invalid(FieldErrors::at(&["protocols"], message)));
    let kind = Route::KIND;
    if let Some(id) = foreign_id(fields, "route") {
        if !shares(Key { kind, id }) {
            return refused("must match the associated route's protocols");
        }
    } else if let Some(id) = foreign_id(fields, "service") {
        let service = Key {
            kind: Service::KIND,
            id,
        };
        let mut routes = config.children(service, kind, Uuid::nil()).peekable();
        if routes.peek().is_some() && !routes.any(shares) {
            return refused(
                "must match the protocols of at least one route pointing to this Plugin's service",
            );
        }
    }
    Ok(())
}

fn protocols(fields: &Fields) -> Vec<String> {
    let list = fields.get("protocols").and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(|name| Some(name.as_str()?.to_owned()))
        .collect()
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
        let Some(id) = foreign_id(fields, field) else {
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
