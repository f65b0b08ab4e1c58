//! `/config`: the whole configuration of a workspace at once.

use std::convert::Infallible;

use axum::body::Body;
use axum::extract::Request;
use bytes::Bytes;
use http::{Method, StatusCode, header};
use serde_json::{Value, json};
use shared::clock::UnixTime;
use shared::snapshot::Key;

use super::body;
use super::error::{Flattened, Refusal};
use super::place::Place;
use super::revisions::foreseen;
use super::{Admin, Answer};
use crate::client_keys;
use crate::command::batch;
use crate::config::{Change, Config, Fields};
use crate::declarative::{self, File};
use crate::difference::Difference;
use crate::history::Origin;
use crate::publisher::JournalFault;

/// Largest file, in bytes.
const LIMIT: usize = 256 * 1024 * 1024;

/// What a query asks besides.
#[derive(Clone, Copy, Debug, Default)]
struct Wishes {
    /// Only tell what would change.
    dry_run: bool,
    /// Say so if nothing would.
    check_hash: bool,
    /// Name errors per record.
    flatten_errors: bool,
}

impl Wishes {
    fn parse(query: Option<&str>) -> Self {
        Self {
            dry_run: body::is_set(query, "dry_run"),
            check_hash: body::is_set(query, "check_hash"),
            flatten_errors: body::is_set(query, "flatten_errors"),
        }
    }
}

/// Why a file does not take effect.
enum Fault {
    Items(Vec<batch::ItemFault>),
    Journal(JournalFault),
}

impl From<JournalFault> for Fault {
    fn from(fault: JournalFault) -> Self {
        Self::Journal(fault)
    }
}

pub(super) const METHODS: &[Method] = &[Method::GET, Method::HEAD, Method::OPTIONS, Method::POST];

/// The configuration as YAML, in Kong's wrapping.
pub(super) fn read(config: &Config) -> Result<Answer, Refusal> {
    let document = Value::Object(declarative::write(config));
    let yaml = declarative::encode(&document).map_err(|error| {
        tracing::error!(%error, "writing the configuration as a file failed");
        Refusal::Unexpected
    })?;
    Ok(Answer::ok(json!({ "config": yaml })))
}

pub(super) async fn write(
    admin: &Admin,
    place: &Place,
    origin: Origin,
    request: Request,
) -> Result<Answer, Refusal> {
    let wishes = Wishes::parse(request.uri().query());
    let document = document(request).await?;
    let file = tokio::task::spawn_blocking(move || declarative::read(document))
        .await
        .map_err(|_| Refusal::Unexpected)?;
    if let Some(named) = &file.workspace
        && *named != place.name
    {
        let message = format!(
            "the file is for the workspace '{named}', not '{}'",
            place.name
        );
        return Err(Refusal::Declarative(json!({ "_workspace": message })));
    }
    let publisher = admin.publisher.clone();
    let origin = origin.answered(StatusCode::CREATED);
    // The decision takes a while for many records, and the store blocks.
    let work = move || {
        let now = UnixTime::now();
        let decide = |config: &Config, context: &crate::command::Context| {
            let change = batch::replace(&config.within(origin.workspace), &file.batch, context)
                .map_err(Fault::Items)?;
            // What of the file was understood may be good; the rest may not be left out.
            if file.is_sound() {
                Ok(change)
            } else {
                Err(Fault::Items(Vec::new()))
            }
        };
        if wishes.dry_run {
            let config = publisher.config().within(origin.workspace);
            let context = crate::command::Context::draw(now);
            let change = decide(&config, &context).map_err(|fault| refuse(&file, fault, wishes))?;
            let difference = Difference::of_change(&config, &change);
            return Ok(foreseen(&config, &difference));
        }
        let (revision, change) = publisher
            .transact(&origin, now, decide)
            .map_err(|fault| refuse(&file, fault, wishes))?;
        let revision = client_keys::make_needed(&publisher).unwrap_or(revision);
        if wishes.check_hash && change == Change::default() {
            return Ok(Answer {
                revision: Some(revision),
                ..Answer::without_body(StatusCode::NOT_MODIFIED)
            });
        }
        let config = publisher.config().within(origin.workspace);
        Ok(Answer {
            revision: Some(revision),
            written: Some(written(config)),
            ..Answer::new(StatusCode::CREATED, Value::Null)
        })
    };
    admin.turns.take(work).await?
}

fn refuse(file: &File, fault: Fault, wishes: Wishes) -> Refusal {
    match fault {
        Fault::Items(faults) if wishes.flatten_errors => Refusal::Flattened(Box::new(Flattened {
            fields: declarative::nested(file, &faults),
            general: declarative::general(file),
            entries: declarative::flattened(file, &faults),
        })),
        Fault::Items(faults) => Refusal::Declarative(declarative::nested(file, &faults)),
        Fault::Journal(fault) => Refusal::of_journal(&fault),
    }
}

/// What the workspace holds, by collection and id, as Kong answers. Written piece by piece while it is sent: there
/// may be a hundred thousand records.
fn written(config: Config) -> Body {
    let pieces = Pieces {
        config,
        last: None,
        ended: false,
    };
    Body::from_stream(futures::stream::iter(pieces.map(Ok::<_, Infallible>)))
}

/// Records of a piece.
const PIECE: usize = 256;

/// The pieces of an answer that lists every record.
struct Pieces {
    config: Config,
    /// The record that was written last.
    last: Option<Key>,
    ended: bool,
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let workspace = self.config.workspace();
        let replaced = |key: &Key| {
            shared::entity::definition(key.kind)
                .is_some_and(|entity| batch::is_replaced(entity, workspace))
        };
        let mut piece = Vec::new();
        let mut last = self.last;
        let records = self.config.records_after(self.last);
        for (key, record) in records.filter(|(key, _)| replaced(key)).take(PIECE) {
            let start = match last {
                Some(last) if last.kind == key.kind => ",".to_owned(),
                Some(_) => format!("}},\"{}\":{{", key.kind),
                None => format!("{{\"{}\":{{", key.kind),
            };
            last = Some(*key);
            piece.extend_from_slice(format!("{start}\"{}\":", key.id).as_bytes());
            piece.extend_from_slice(&record.shown());
        }
        if last == self.last {
            self.ended = true;
            let end = if last.is_some() { "}}" } else { "{}" };
            piece.extend_from_slice(end.as_bytes());
        }
        self.last = last;
        Some(piece.into())
    }
}

/// The document in a body: as such, or as a text in the field `config`.
async fn document(request: Request) -> Result<Fields, Refusal> {
    let kind = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let bytes = body::collect(request.into_body(), LIMIT).await?;
    let yaml = |text: &str| match declarative::decode(text) {
        Ok(Value::Object(document)) => Ok(document),
        Ok(_) => Err("expected an object".to_owned()),
        Err(error) => Err(error),
    };
    let refused = |error: String| {
        let error = format!("failed parsing declarative configuration: {error}");
        Refusal::Declarative(json!({ "error": error }))
    };
    let starts_with = |start: &str| {
        let given = kind.get(..start.len());
        given.is_some_and(|given| given.eq_ignore_ascii_case(start))
    };
    if [
        "text/yaml",
        "application/yaml",
        "application/x-yaml",
        "text/x-yaml",
    ]
    .iter()
    .any(|yaml| starts_with(yaml))
    {
        let text = String::from_utf8(bytes.into()).map_err(|error| refused(error.to_string()))?;
        return tokio::task::spawn_blocking(move || yaml(&text))
            .await
            .map_err(|_| Refusal::Unexpected)?
            .map_err(refused);
    }
    let (crate::command::Body::Json(mut fields) | crate::command::Body::Form(mut fields)) =
        body::decode(&kind, bytes).await?;
    match fields.shift_remove("config") {
        None if fields.is_empty() => Err(Refusal::NoDocument),
        None => Ok(fields),
        Some(Value::String(text)) => tokio::task::spawn_blocking(move || yaml(&text))
            .await
            .map_err(|_| Refusal::Unexpected)?
            .map_err(refused),
        Some(Value::Object(document)) => Ok(document),
        Some(_) => Err(Refusal::NoDocument),
    }
}
