//! Refusal → status and Kong's error body; the only such place.

#![deny(clippy::wildcard_enum_match_arm)]

mod text;

use http::{Method, StatusCode};
use serde_json::{Map, Value, json};
use shared::entity::Definition;
use shared::schema::FieldErrors;
use shared::snapshot::Revision;

use self::text::{listed, plural, table, violations};
use super::Answer;
use crate::command::{Rejection, Selector};
use crate::publisher::{ExecuteError, Forbidden, JournalFault};

/// Why a request is not answered as asked.
#[derive(Debug)]
pub(super) enum Refusal {
    /// No such page or record.
    NotFound,
    /// Not with this method; these are.
    Method(&'static [Method]),
    /// For a Kong that is set up otherwise: how.
    NeedsSetting(&'static str),
    /// No token, or none that is good.
    Credentials,
    /// The user may not do that.
    Forbidden(String, &'static str),
    /// The user may not have a record point to that.
    ForbiddenReference(Forbidden),
    /// A role that comes with the program is not to be changed.
    BuiltIn,
    /// No such workspace.
    NoWorkspace(String),
    /// `wait` is no number of seconds.
    Wait,
    /// A declarative configuration is none: the errors as it is nested.
    Declarative(Value),
    /// The same by record.
    Flattened(Box<Flattened>),
    /// No declarative configuration at all.
    NoDocument,
    /// Records of an earlier revision may not come back, or newer ones not go: the errors by collection and id.
    Rollback(Revision, Value),
    /// There is no such thing: the whole text.
    Absent(String),
    /// It is so already: the whole text.
    Conflict(String),
    /// A page of another site asks.
    CrossSite,
    /// A name was asked for that is not ours.
    Host(String),
    /// The body is no JSON object.
    Json,
    /// The body's values are nested too deep.
    TooDeep,
    /// The body is no form.
    Form,
    /// The body ended early.
    Broken,
    /// The body does not get on.
    Slow,
    /// The body is larger than so many bytes.
    TooLarge(usize),
    /// The body's media type is not known.
    MediaType,
    /// The form has too many arguments.
    TooManyArguments,
    /// An argument of the query or the path is none: the whole text.
    Argument(String),
    /// There is no statistics of a DNS client.
    NoDnsClient,
    /// `size` is none.
    Size(&'static str),
    /// `offset` is none.
    Offset {
        /// What was given.
        text: String,
        /// What it is not.
        encoding: &'static str,
    },
    /// `tags` is no filter: why not.
    Tags(&'static str),
    /// The command was rejected. The collection is that of the record it was about.
    Rejected(Rejection, &'static str),
    /// Too many writes wait for each other.
    Busy,
    /// The record is not what `If-Match` says.
    Changed,
    /// What is known here is older than that.
    Behind(Revision),
    /// The store takes no writes, or does not answer where what is asked is only there.
    Unavailable(String),
    /// The configuration would be larger than it may be.
    NoCapacity(String),
    /// A bug.
    Unexpected,
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection, "")
    }
}

impl Refusal {
    /// The refusal for a command on `entity` that failed.
    pub(super) fn of(error: ExecuteError, entity: &'static Definition) -> Self {
        match error {
            ExecuteError::Rejected(rejection) => Self::Rejected(rejection, entity.kind),
            ExecuteError::Changed => Self::Changed,
            ExecuteError::Forbidden(forbidden) => Self::ForbiddenReference(forbidden),
            ExecuteError::Fault(fault) => Self::of_journal(&fault),
        }
    }

    /// The refusal for a write that the store did not take.
    pub(super) fn of_journal(fault: &JournalFault) -> Self {
        if let JournalFault::TooLarge(reason) = fault {
            return Self::NoCapacity(reason.clone());
        }
        tracing::error!(%fault, "write refused");
        Self::Unavailable(fault.to_string())
    }

    #[expect(clippy::too_many_lines, reason = "a table")]
    pub(super) fn answer(self) -> Answer {
        match self {
            Self::NotFound => plain(StatusCode::NOT_FOUND, "Not found"),
            Self::Method(methods) => Answer {
                allow: Some(methods),
                ..plain(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed")
            },
            Self::NeedsSetting(setting) => plain(
                StatusCode::BAD_REQUEST,
                &format!("this endpoint is only available when {setting}"),
            ),
            Self::Credentials => plain(StatusCode::UNAUTHORIZED, "Invalid RBAC credentials"),
            Self::Forbidden(user, action) => plain(
                StatusCode::FORBIDDEN,
                &format!("{user}, you do not have permissions to {action} this resource"),
            ),
            Self::ForbiddenReference(Forbidden { user, field }) => plain(
                StatusCode::FORBIDDEN,
                &format!("{user}, you do not have permissions to use what '{field}' points to"),
            ),
            Self::BuiltIn => plain(
                StatusCode::BAD_REQUEST,
                "a role that comes with the program cannot be changed",
            ),
            Self::NoWorkspace(name) => plain(
                StatusCode::NOT_FOUND,
                &format!("Workspace '{name}' not found"),
            ),
            Self::Wait => plain(
                StatusCode::BAD_REQUEST,
                "wait must be a number of seconds between 0 and 300",
            ),
            Self::Declarative(fields) => declarative(&fields.clone(), fields),
            Self::Flattened(errors) => {
                let mut answer = declarative(&errors.fields, errors.general);
                if let Some(Value::Object(body)) = answer.body.as_mut() {
                    body.insert("flattened_errors".to_owned(), errors.entries.into());
                }
                answer
            }
            Self::NoDocument => plain(
                StatusCode::BAD_REQUEST,
                "expected a declarative configuration",
            ),
            Self::Rollback(to, fields) => {
                let faults = crate::declarative::table(&fields);
                let message = format!("revision {to} cannot be gone back to: {faults}");
                coded(SCHEMA_VIOLATION, &message, Some(("fields", fields)))
            }
            Self::Absent(message) => plain(StatusCode::NOT_FOUND, &message),
            Self::Conflict(message) => plain(StatusCode::CONFLICT, &message),
            Self::Host(name) => plain(
                StatusCode::FORBIDDEN,
                &format!(
                    "the Admin API does not answer to the host name '{name}'; admin_names can list it"
                ),
            ),
            Self::CrossSite => plain(StatusCode::FORBIDDEN, "cross-site requests are not allowed"),
            Self::Json => plain(StatusCode::BAD_REQUEST, "Cannot parse JSON body"),
            Self::TooDeep => plain(
                StatusCode::BAD_REQUEST,
                "the JSON body is nested deeper than 64 levels",
            ),
            Self::Form => plain(StatusCode::BAD_REQUEST, "Cannot parse form body"),
            Self::Broken => plain(StatusCode::BAD_REQUEST, "request body ended early"),
            Self::Slow => plain(StatusCode::REQUEST_TIMEOUT, "request body timed out"),
            Self::TooLarge(limit) => plain(
                StatusCode::PAYLOAD_TOO_LARGE,
                &format!("request body is larger than {} MiB", limit / (1024 * 1024)),
            ),
            Self::MediaType => plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Unsupported media type"),
            Self::TooManyArguments => plain(StatusCode::BAD_REQUEST, "Too many arguments"),
            Self::Argument(message) => plain(StatusCode::BAD_REQUEST, &message),
            Self::NoDnsClient => plain(
                StatusCode::NOT_IMPLEMENTED,
                "not implemented with the legacy DNS client",
            ),
            Self::Size(message) => coded(INVALID_SIZE, message, None),
            Self::Offset { text, encoding } => {
                let message = format!("'{text}' is not a valid offset: bad {encoding} encoding");
                coded(INVALID_OFFSET, &message, None)
            }
            Self::Tags(reason) => {
                let message = format!("invalid option (tags: {reason})");
                let options = json!({ "tags": reason });
                coded(INVALID_OPTIONS, &message, Some(("options", options)))
            }
            Self::Rejected(rejection, kind) => rejected(rejection, kind),
            Self::Changed => plain(
                StatusCode::PRECONDITION_FAILED,
                "the record is not what If-Match says; read it again",
            ),
            Self::Behind(revision) => plain(
                StatusCode::SERVICE_UNAVAILABLE,
                &format!("this control plane does not know revision {revision} yet"),
            ),
            Self::Busy => plain(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many writes wait for the store; send the request again in a moment",
            ),
            Self::Unavailable(message) => plain(StatusCode::SERVICE_UNAVAILABLE, &message),
            Self::NoCapacity(message) => plain(StatusCode::PAYLOAD_TOO_LARGE, &message),
            Self::Unexpected => plain(
                StatusCode::INTERNAL_SERVER_ERROR,
                "An unexpected error occurred",
            ),
        }
    }
}

/// What is wrong with a declarative configuration.
#[derive(Debug)]
pub(super) struct Flattened {
    /// All, as it is nested.
    pub(super) fields: Value,
    /// What is about none of the records.
    pub(super) general: Value,
    /// An entry for each record.
    pub(super) entries: Vec<Value>,
}

/// What `/config` needs of a Kong.
pub(super) const NO_DATABASE: &str = "Kong is configured to not use a database";

/// An error that is none of Kong's data layer.
fn plain(status: StatusCode, message: &str) -> Answer {
    Answer::new(status, json!({ "message": message }))
}

/// A declarative configuration that cannot be, with the errors `fields` in words.
fn declarative(fields: &Value, shown: Value) -> Answer {
    let faults = crate::declarative::table(fields);
    let message = format!("declarative config is invalid: {faults}");
    coded(DECLARATIVE_CONFIG, &message, Some(("fields", shown)))
}

/// A kind of error of Kong's data layer: its number, its name, and the status that it is answered with.
#[derive(Clone, Copy)]
struct Code(u8, &'static str, StatusCode);

const BAD: StatusCode = StatusCode::BAD_REQUEST;
const INVALID_PRIMARY_KEY: Code = Code(1, "invalid primary key", BAD);
const SCHEMA_VIOLATION: Code = Code(2, "schema violation", BAD);
const PRIMARY_KEY_VIOLATION: Code = Code(3, "primary key violation", BAD);
const FOREIGN_KEY_VIOLATION: Code = Code(4, "foreign key violation", BAD);
const UNIQUE_VIOLATION: Code = Code(5, "unique constraint violation", StatusCode::CONFLICT);
const NOT_FOUND: Code = Code(6, "not found", StatusCode::NOT_FOUND);
const INVALID_OFFSET: Code = Code(7, "invalid offset", BAD);
const INVALID_SIZE: Code = Code(9, "invalid size", BAD);
const INVALID_OPTIONS: Code = Code(11, "invalid options", BAD);
const FOREIGN_KEYS_UNRESOLVED: Code = Code(13, "foreign keys unresolved", BAD);
const DECLARATIVE_CONFIG: Code = Code(14, "invalid declarative configuration", BAD);
const REFERENCED_BY_OTHERS: Code = Code(19, "referenced by others", BAD);

/// An error of Kong's data layer; `details` are a field of its body.
fn coded(code: Code, message: &str, details: Option<(&str, Value)>) -> Answer {
    let Code(number, name, status) = code;
    named(number, name, status, message, details)
}

fn named(
    number: u8,
    name: &str,
    status: StatusCode,
    message: &str,
    details: Option<(&str, Value)>,
) -> Answer {
    let mut body = json!({ "message": message, "name": name, "code": number });
    if let (Some((field, details)), Some(body)) = (details, body.as_object_mut()) {
        body.insert(field.to_owned(), details);
    }
    Answer::new(status, body)
}

fn rejected(rejection: Rejection, kind: &'static str) -> Answer {
    let of_fields = |code, message: &str, fields| coded(code, message, Some(("fields", fields)));
    match rejection {
        Rejection::Invalid(errors) => invalid(errors),
        Rejection::InvalidId => {
            let fields = json!({ "id": "expected a valid UUID" });
            let message = "invalid primary key: '{id=\"expected a valid UUID\"}'";
            of_fields(INVALID_PRIMARY_KEY, message, fields)
        }
        Rejection::InvalidUnique(field, message) => {
            named(10, &format!("invalid unique {field}"), BAD, &message, None)
        }
        Rejection::StillUsed { key, by } => {
            let message = format!(
                "ca certificate {} is still referenced by {} (id = {})",
                key.id, by.kind, by.id
            );
            coded(REFERENCED_BY_OTHERS, &message, None)
        }
        Rejection::NotFound(selector, field) => {
            let (message, fields) = match selector {
                Selector::Id(id) => (
                    format!("could not find the entity with primary key '{{id=\"{id}\"}}'"),
                    json!({ "id": id }),
                ),
                Selector::Name(name) => (
                    format!("could not find the entity with '{{{field}=\"{name}\"}}'"),
                    json!({ field: name }),
                ),
            };
            of_fields(NOT_FOUND, &message, fields)
        }
        Rejection::Taken(values) => {
            let message = format!("UNIQUE violation detected on '{}'", table(&values));
            of_fields(UNIQUE_VIOLATION, &message, Value::Object(values))
        }
        Rejection::IdTaken(id) => {
            let message = format!("primary key violation on key '{{id=\"{id}\"}}'");
            of_fields(PRIMARY_KEY_VIOLATION, &message, json!({ "id": id }))
        }
        Rejection::NoParent { field, kind, id } => {
            let message = format!(
                "the foreign key '{{id=\"{id}\"}}' does not reference an existing '{kind}' entity."
            );
            let fields = json!({ field: { "id": id } });
            of_fields(FOREIGN_KEY_VIOLATION, &message, fields)
        }
        Rejection::Unresolved(errors) => {
            let listed = listed(&errors.by_field);
            let (noun, count) = plural(&listed);
            let message = format!(
                "{count}foreign key{noun} unresolved ({})",
                listed.join("; ")
            );
            let fields = Value::Object(errors.by_field);
            of_fields(FOREIGN_KEYS_UNRESOLVED, &message, fields)
        }
        Rejection::Collides => plain(
            StatusCode::CONFLICT,
            "API route collides with an existing API",
        ),
        Rejection::NotEmpty => plain(BAD, "Workspace is not empty"),
        Rejection::Referenced { kind: own, by } => {
            let own = if own.is_empty() { kind } else { own };
            let message = format!("an existing '{by}' entity references this '{own}' entity");
            let fields = json!({ "@referenced_by": by });
            of_fields(FOREIGN_KEY_VIOLATION, &message, fields)
        }
    }
}

/// A schema violation. Fields that were probably meant stand beside Kong's body, so that its text stays.
fn invalid(errors: FieldErrors) -> Answer {
    let message = violations(&errors);
    let fields = Some(("fields", Value::Object(errors.shown())));
    let mut answer = coded(SCHEMA_VIOLATION, &message, fields);
    let hints: Map<String, Value> = errors
        .meant
        .into_iter()
        .map(|(path, meant)| (path, format!("did you mean '{meant}'?").into()))
        .collect();
    if let (false, Some(Value::Object(body))) = (hints.is_empty(), &mut answer.body) {
        body.insert("hints".to_owned(), hints.into());
    }
    answer
}
