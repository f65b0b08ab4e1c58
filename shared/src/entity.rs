//! The kinds of things that operators configure, one struct each, and the registry of them.

mod acl;
mod ca_certificate;
mod certificate;
mod client_key;
mod consumer;
mod consumer_group;
mod credential;
pub mod health_check;
mod key;
mod plugin;
mod rbac;
mod revocation;
mod route;
mod service;
mod session_key;
mod sni;
mod tag;
mod target;
mod upstream;
pub mod vault;
mod workspace;

use std::sync::LazyLock;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::clock::UnixTime;
use crate::schema::{FieldErrors, Record};

pub use acl::Acl;
pub use ca_certificate::CaCertificate;
pub use certificate::Certificate;
pub use client_key::ClientKey;
pub use consumer::Consumer;
pub use consumer_group::{ConsumerGroup, ConsumerGroupConsumer};
pub use credential::{
    BasicauthCredential, ClientType, HmacauthCredential, JwtSecret, KeyauthCredential,
    Oauth2Credential, RedirectUri, SigningAlgorithm, basic_auth_hash,
};
pub use key::{Key, KeySet, PemPair};
pub use plugin::Plugin;
pub use rbac::{
    BUILT_IN_ROLES, RbacAction, RbacRole, RbacRoleEndpoint, RbacUser, RbacUserRole, built_in_roles,
};
pub use revocation::Revocation;
pub use route::{HttpsRedirect, PathHandling, Peer, Route};
pub use service::{Protocol, Service};
pub use session_key::{KeyState, SessionKey};
pub use sni::Sni;
pub use tag::Tagging;
pub use target::Target;
pub use upstream::{Algorithm, HashOn, Upstream};
pub use vault::Vault;
pub use workspace::{DEFAULT_WORKSPACE, Workspace};

/// A kind of thing that is configured.
pub trait Entity: DeserializeOwned + Serialize + JsonSchema + 'static {
    /// The collection's name: in snapshots, in schemas, in error texts.
    const KIND: &'static str;

    /// The collection's name in URLs.
    const PATH: &'static str = Self::KIND;

    /// The unique field that may stand for the id in a URL.
    const NAME_FIELD: Option<&'static str> = None;

    /// Sets of fields that no two records may share; `null` in any of them makes no claim, except
    /// where all of them together are a key.
    const UNIQUE: &'static [&'static [&'static str]] = &[];

    /// Where the collection also hangs below the record that a foreign key points to:
    /// `(foreign field, name in the URL)`.
    const NESTED: &'static [(&'static str, &'static str)] = &[];

    /// What happens to a record when the one that its foreign key points to is deleted.
    const ON_DELETE: OnDelete = OnDelete::Cascade;

    /// Whether the Admin API shows the collection.
    const PUBLIC: bool = true;

    /// Whether each record is in one workspace; the others are shared by all.
    const WORKSPACED: bool = true;

    /// Whether data planes get the records.
    const DISTRIBUTED: bool = true;

    /// Whether what is unique is so across all workspaces.
    const UNIQUE_EVERYWHERE: bool = false;

    /// Whether the collection also stands alone, and not only below its parent.
    const TOP_LEVEL: bool = true;

    /// Fields that say how a record is to be written, and are not part of it.
    const WRITE_ONLY: &'static [&'static str] = &[];

    /// Whether a record is gone `ttl` seconds after its creation.
    const EXPIRES: bool = false;

    /// Expands write-only fields before anything is checked. Errors name the shorthand.
    fn expand(_: &mut Map<String, Value>, _: &mut FieldErrors) {}

    /// Fills defaults that depend on other fields. A PATCH does not ask for them: what it leaves out stays as
    /// it is stored.
    fn prefill(_: &mut Map<String, Value>) {}

    /// Rules between fields. Fields that are not valid by themselves are there as they came, and have
    /// their error already. The time is that of the judgement.
    fn check(_: &Map<String, Value>, _: UnixTime, _: &mut FieldErrors) {}

    /// Computes what a record that passed every check holds besides what was `given`.
    fn derive(_record: &mut Map<String, Value>, _given: &Map<String, Value>) {}
}

/// What becomes of a record when the one it points to is deleted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OnDelete {
    /// It goes too.
    Cascade,
    /// It prevents the deletion.
    Refuse,
}

/// What the registry knows of one entity.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each answers a question of its own"
)]
pub struct Definition {
    /// See [`Entity::KIND`].
    pub kind: &'static str,
    /// See [`Entity::PATH`].
    pub path: &'static str,
    /// See [`Entity::NAME_FIELD`].
    pub name_field: Option<&'static str>,
    /// See [`Entity::UNIQUE`].
    pub unique: &'static [&'static [&'static str]],
    /// See [`Entity::NESTED`].
    pub nested: &'static [(&'static str, &'static str)],
    /// See [`Entity::ON_DELETE`].
    pub on_delete: OnDelete,
    /// See [`Entity::PUBLIC`].
    pub public: bool,
    /// See [`Entity::WORKSPACED`].
    pub workspaced: bool,
    /// See [`Entity::DISTRIBUTED`].
    pub distributed: bool,
    /// See [`Entity::UNIQUE_EVERYWHERE`].
    pub unique_everywhere: bool,
    /// See [`Entity::TOP_LEVEL`].
    pub top_level: bool,
    /// See [`Entity::WRITE_ONLY`].
    pub write_only: &'static [&'static str],
    /// See [`Entity::EXPIRES`].
    pub expires: bool,
    /// See [`Entity::expand`].
    pub expand: fn(&mut Map<String, Value>, &mut FieldErrors),
    /// See [`Entity::prefill`].
    pub prefill: fn(&mut Map<String, Value>),
    /// See [`Entity::check`].
    pub check: fn(&Map<String, Value>, UnixTime, &mut FieldErrors),
    /// See [`Entity::derive`].
    pub derive: fn(&mut Map<String, Value>, &Map<String, Value>),
    /// Whether a data plane could read a record: an error says why not.
    pub read: fn(Map<String, Value>) -> Result<(), String>,
    /// The fields.
    pub schema: LazyLock<Record>,
}

impl Definition {
    const fn of<E: Entity>() -> Self {
        Self {
            kind: E::KIND,
            path: E::PATH,
            name_field: E::NAME_FIELD,
            unique: E::UNIQUE,
            nested: E::NESTED,
            on_delete: E::ON_DELETE,
            public: E::PUBLIC,
            workspaced: E::WORKSPACED,
            distributed: E::DISTRIBUTED,
            unique_everywhere: E::UNIQUE_EVERYWHERE,
            top_level: E::TOP_LEVEL,
            write_only: E::WRITE_ONLY,
            expires: E::EXPIRES,
            expand: E::expand,
            prefill: E::prefill,
            check: E::check,
            derive: E::derive,
            read: |fields| {
                let read = serde_json::from_value::<E>(Value::Object(fields));
                read.map(drop).map_err(|error| error.to_string())
            },
            schema: LazyLock::new(Record::of::<E>),
        }
    }

    /// The foreign keys: field name and the collection pointed to.
    pub fn foreign_keys(&self) -> impl Iterator<Item = (&str, &'static str)> {
        self.schema
            .fields
            .iter()
            .filter_map(|field| Some((field.name.as_str(), field.foreign()?)))
    }
}

/// Every entity. A new one adds its file and a line here.
static DEFINITIONS: [Definition; 28] = [
    Definition::of::<Workspace>(),
    Definition::of::<Certificate>(),
    Definition::of::<CaCertificate>(),
    Definition::of::<Sni>(),
    Definition::of::<Service>(),
    Definition::of::<Route>(),
    Definition::of::<Consumer>(),
    Definition::of::<ConsumerGroup>(),
    Definition::of::<ConsumerGroupConsumer>(),
    Definition::of::<Plugin>(),
    Definition::of::<Upstream>(),
    Definition::of::<Target>(),
    Definition::of::<Vault>(),
    Definition::of::<KeySet>(),
    Definition::of::<Key>(),
    Definition::of::<Acl>(),
    Definition::of::<KeyauthCredential>(),
    Definition::of::<BasicauthCredential>(),
    Definition::of::<HmacauthCredential>(),
    Definition::of::<JwtSecret>(),
    Definition::of::<Oauth2Credential>(),
    Definition::of::<RbacUser>(),
    Definition::of::<RbacRole>(),
    Definition::of::<RbacUserRole>(),
    Definition::of::<RbacRoleEndpoint>(),
    Definition::of::<SessionKey>(),
    Definition::of::<ClientKey>(),
    Definition::of::<Revocation>(),
];

/// Every entity, parents before children.
pub fn definitions() -> &'static [Definition] {
    &DEFINITIONS
}

/// The entity of a collection.
pub fn definition(kind: &str) -> Option<&'static Definition> {
    DEFINITIONS
        .iter()
        .find(|definition| definition.kind == kind)
}

/// The entity that URLs call `path`.
pub fn definition_at(path: &str) -> Option<&'static Definition> {
    DEFINITIONS
        .iter()
        .find(|definition| definition.path == path)
}

/// Says that a rule for one field follows from the value of another.
fn conditional(field: &str, errors: &mut FieldErrors) {
    errors.add_rule(format!(
        "failed conditional validation given value of field '{field}'"
    ));
}

/// Demands `needed` because of the value of `field`.
fn required(record: &Map<String, Value>, needed: &str, field: &str, errors: &mut FieldErrors) {
    if is_empty(record, needed) {
        errors.replace(needed, "required field missing".to_owned());
        conditional(field, errors);
    }
}

/// Forbids `forbidden` because of the value of `field`.
fn forbidden(record: &Map<String, Value>, forbidden: &str, field: &str, errors: &mut FieldErrors) {
    if record.get(forbidden).is_some_and(|value| !value.is_null()) {
        errors.replace(forbidden, "value must be null".to_owned());
        conditional(field, errors);
    }
}

/// Whether a field holds nothing.
fn is_empty(record: &Map<String, Value>, field: &str) -> bool {
    match record.get(field) {
        None | Some(Value::Null) => true,
        Some(Value::Array(list)) => list.is_empty(),
        Some(Value::Object(map)) => map.is_empty(),
        Some(_) => false,
    }
}
