//! `/revisions`: what has become of the configuration, and the way back. `/audit`: the same as a list of requests.

use axum::extract::Request;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Method, StatusCode};
use plugins::registry;
use serde_json::{Map, Value, json};
use shared::clock::UnixTime;
use shared::schema::FieldErrors;
use shared::snapshot::Revision;
use uuid::Uuid;

use super::body;
use super::error::Refusal;
use super::page::{offset, size};
use super::place::Place;
use super::{Admin, Answer};
use crate::command::Rejection;
use crate::config::{Change, Config, workspace_key};
use crate::difference::Difference;
use crate::history::{Entry, HistoryFault, Origin};
use crate::publisher::JournalFault;

/// Which page of the past.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Past {
    /// `/revisions`
    List,
    /// `/revisions/{n}`
    One(Revision),
    /// `/revisions/{a}..{b}`
    Between(Revision, Revision),
    /// `/revisions/{n}/rollback`
    Rollback(Revision),
    /// `/audit/requests`
    Requests,
}

/// What the parts of a path mean, if they are about the past.
pub(super) fn parse(segments: &[&str]) -> Option<Result<Past, Refusal>> {
    let number = |text: &str| text.parse().map(Revision).ok();
    let found = match segments {
        ["revisions"] => Some(Past::List),
        ["revisions", range] if range.contains("..") => {
            let (from, to) = range.split_once("..")?;
            number(from)
                .zip(number(to))
                .map(|(from, to)| Past::Between(from, to))
        }
        ["revisions", one] => number(one).map(Past::One),
        ["revisions", one, "rollback"] => number(one).map(Past::Rollback),
        ["audit", "requests"] => Some(Past::Requests),
        _ => return None,
    };
    Some(found.ok_or(Refusal::NotFound))
}

impl Past {
    pub(super) const fn methods(&self) -> &'static [Method] {
        match self {
            Self::Rollback(_) => &[Method::OPTIONS, Method::POST],
            _ => &[Method::GET, Method::HEAD, Method::OPTIONS],
        }
    }
}

/// Why a rollback is not carried out.
enum Fault {
    /// The past is not kept.
    Forgotten,
    Unreadable(HistoryFault),
    Rejected(Rejection),
    Journal(JournalFault),
}

impl From<JournalFault> for Fault {
    fn from(fault: JournalFault) -> Self {
        Self::Journal(fault)
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Forgotten => Self::NotFound,
            Fault::Unreadable(fault) => fault.into(),
            Fault::Rejected(rejection) => Self::Rejected(rejection, "plugins"),
            Fault::Journal(fault) => Self::of_journal(&fault),
        }
    }
}

impl From<HistoryFault> for Refusal {
    fn from(fault: HistoryFault) -> Self {
        match fault {
            HistoryFault::TooOld(_) => Self::NotFound,
            HistoryFault::Unreadable { .. } => {
                tracing::error!(%fault, "history not read");
                Self::Unexpected
            }
        }
    }
}

/// Reads a page of the past. Below a workspace's prefix it tells of that workspace only.
pub(super) fn read(
    admin: &Admin,
    place: &Place,
    past: &Past,
    query: Option<&str>,
) -> Result<Answer, Refusal> {
    let history = admin.publisher.history();
    let config = admin.publisher.config();
    let body = match past {
        Past::List => list(admin, place, query, &|entry, difference| {
            summary(&config, entry, difference)
        })?,
        Past::Requests => list(admin, place, query, &|entry, _| request(&config, entry))?,
        Past::One(revision) => {
            let entry = history.entry(*revision)?.ok_or(Refusal::NotFound)?;
            let difference = Difference::of_entry(&entry).within(place.narrowed());
            if place.narrowed().is_some() && difference.is_empty() {
                return Err(Refusal::NotFound);
            }
            let mut shown = summary(&config, &entry, &difference);
            shown.insert("data".to_owned(), difference.show().into());
            Value::Object(shown)
        }
        Past::Between(from, to) => {
            if *from.max(to) > config.revision() {
                return Err(Refusal::NotFound);
            }
            let difference = Difference::between(history, *from, *to)?.ok_or(Refusal::NotFound)?;
            let difference = difference.within(place.narrowed());
            json!({
                "from": from,
                "to": to,
                "changes": difference.counts(),
                "data": difference.show(),
            })
        }
        Past::Rollback(_) => return Err(Refusal::Method(past.methods())),
    };
    Ok(Answer::ok(body))
}

/// A page of entries, the newest first.
fn list(
    admin: &Admin,
    place: &Place,
    query: Option<&str>,
    show: &dyn Fn(&Entry, &Difference) -> Map<String, Value>,
) -> Result<Value, Refusal> {
    let mut most = 100;
    let mut from = admin.publisher.config().revision();
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        match &*name {
            "size" => most = size(&value)?,
            "offset" => {
                let [after] = offset(&value)?;
                from = from.min(Revision(after));
            }
            _ => {}
        }
    }
    let (mut data, mut next) = (Vec::new(), None);
    while from.0 > 0 {
        let entry = match admin.publisher.history().entry(from) {
            Ok(Some(entry)) => entry,
            Ok(None) | Err(HistoryFault::TooOld(_)) => break,
            Err(fault) => return Err(fault.into()),
        };
        let difference = Difference::of_entry(&entry).within(place.narrowed());
        if place.narrowed().is_none() || !difference.is_empty() {
            if data.len() == most {
                next = Some(from);
                break;
            }
            data.push(Value::Object(show(&entry, &difference)));
        }
        from = Revision(from.0 - 1);
    }
    let mut reply = Map::new();
    reply.insert("data".to_owned(), data.into());
    let mut link = Value::Null;
    if let Some(next) = next {
        let offset = STANDARD.encode(json!([next]).to_string());
        let mut arguments = form_urlencoded::Serializer::new(String::new());
        arguments.append_pair("offset", &offset);
        if most != 100 {
            arguments.append_pair("size", &most.to_string());
        }
        link = format!("{}?{}", place.path, arguments.finish()).into();
        reply.insert("offset".to_owned(), offset.into());
    }
    reply.insert("next".to_owned(), link);
    Ok(Value::Object(reply))
}

/// The name of a workspace, as far as it still has one.
fn name_of(config: &Config, workspace: Uuid) -> Value {
    let name = config
        .record(workspace_key(workspace))
        .and_then(|record| record.get("name").cloned());
    name.unwrap_or_else(|| workspace.to_string().into())
}

fn summary(config: &Config, entry: &Entry, difference: &Difference) -> Map<String, Value> {
    let origin = &entry.origin;
    let shown = json!({
        "revision": entry.revision,
        "at": entry.at.as_secs(),
        "user": origin.user,
        "method": (!origin.method.is_empty()).then_some(&origin.method),
        "path": (!origin.path.is_empty()).then_some(&origin.path),
        "client_ip": origin.client_ip,
        "workspace": name_of(config, origin.workspace),
        "changes": difference.counts(),
    });
    match shown {
        Value::Object(shown) => shown,
        _ => Map::new(),
    }
}

/// An entry as Kong's audit log shows requests.
fn request(config: &Config, entry: &Entry) -> Map<String, Value> {
    let origin = &entry.origin;
    let system = origin.method.is_empty();
    let shown = json!({
        "request_id": format!("{:032x}", entry.revision.0),
        "revision": entry.revision,
        "request_timestamp": entry.at.as_secs(),
        "method": if system { "" } else { &origin.method },
        "path": origin.path,
        "client_ip": origin.client_ip,
        "rbac_user_name": if system { Some("control plane") } else { origin.user.as_deref() },
        "workspace": origin.workspace,
        "workspace_name": name_of(config, origin.workspace),
    });
    match shown {
        Value::Object(shown) => shown,
        _ => Map::new(),
    }
}

/// Goes back to an earlier state: a new revision with the old content.
pub(super) async fn write(
    admin: &Admin,
    place: &Place,
    origin: Origin,
    to: Revision,
    request: Request,
) -> Result<Answer, Refusal> {
    let dry_run = body::is_set(request.uri().query(), "dry_run");
    let publisher = admin.publisher.clone();
    let narrowed = place.narrowed();
    tokio::task::spawn_blocking(move || {
        let decide = |config: &Config| -> Result<(Difference, Change), Fault> {
            if to > config.revision() {
                return Err(Fault::Forgotten);
            }
            let history = publisher.history();
            // The state after a commit is known only if that commit is: before the oldest one there may have
            // been anything.
            history
                .entry(to)
                .map_err(Fault::Unreadable)?
                .ok_or(Fault::Forgotten)?;
            let difference = Difference::back(history, config, to)
                .map_err(Fault::Unreadable)?
                .ok_or(Fault::Forgotten)?;
            let difference = difference.within(narrowed);
            let change = difference.change(config);
            check(&change).map_err(Fault::Rejected)?;
            Ok((difference, change))
        };
        if dry_run {
            let config = publisher.config();
            let (difference, _) = decide(&config)?;
            let body = json!({
                "dry_run": true,
                "changes": difference.counts(),
                "data": difference.show(),
            });
            return Ok(Answer {
                revision: Some(config.revision()),
                ..Answer::ok(body)
            });
        }
        let mut counts = Value::Null;
        let (revision, _) = publisher.transact(&origin, UnixTime::now(), |config, _| {
            let (difference, change) = decide(config)?;
            counts = difference.counts();
            Ok::<_, Fault>(change)
        })?;
        let body = json!({ "revision": revision, "rolled_back_to": to, "changes": counts });
        Ok(Answer {
            revision: Some(revision),
            ..Answer::new(StatusCode::CREATED, body)
        })
    })
    .await
    .map_err(|_| Refusal::Unexpected)?
}

/// Refuses plugin configurations that this version could not run: an older one may have accepted them.
fn check(change: &Change) -> Result<(), Rejection> {
    for (key, record) in change.puts.iter().filter(|(key, _)| key.kind == "plugins") {
        let fields = record.fields();
        let name = fields
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let Some(plugin) = registry::definition(name) else {
            let message = format!("plugin '{name}' of {} is not enabled", key.id);
            return Err(Rejection::Invalid(FieldErrors::at(&["name"], message)));
        };
        if let Err(errors) = plugin.check(fields.get("config").unwrap_or(&Value::Null)) {
            let mut nested = FieldErrors::default();
            nested.nest("config", errors);
            return Err(Rejection::Invalid(nested));
        }
    }
    Ok(())
}
