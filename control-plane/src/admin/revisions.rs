//! `/revisions`: the history of the configuration, and rollbacks.

use axum::extract::Request;
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};
use shared::clock::UnixTime;
use shared::snapshot::Revision;

use super::body;
use super::error::Refusal;
use super::page::Page;
use super::place::{Place, name_of};
use super::{Admin, Answer, audit};
use crate::command::{Context, recheck};
use crate::config::{Change, Config};
use crate::declarative;
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
    /// Records that may not come back, or go.
    Rejected(Revision, Vec<recheck::Fault>),
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
            Fault::Rejected(to, faults) => {
                let mut fields: Map<String, Value> = Map::new();
                for (key, rejection) in faults {
                    let kind = fields.entry(key.kind).or_insert_with(|| json!({}));
                    if let Value::Object(kind) = kind {
                        kind.insert(
                            key.id.to_string(),
                            declarative::errors(key.kind, &rejection).into(),
                        );
                    }
                }
                Self::Rollback(to, Value::Object(fields))
            }
            Fault::Journal(fault) => Self::of_journal(&fault),
        }
    }
}

impl From<HistoryFault> for Refusal {
    fn from(fault: HistoryFault) -> Self {
        match fault {
            HistoryFault::TooOld(_) => Self::NotFound,
            HistoryFault::Unreachable(reason) => {
                tracing::warn!(reason, "history not read");
                Self::Unavailable(reason)
            }
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
        Past::List => list(admin, place, query)?,
        Past::Requests => audit::list(admin, place, query)?,
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
fn list(admin: &Admin, place: &Place, query: Option<&str>) -> Result<Value, Refusal> {
    let config = admin.publisher.config();
    let (mut page, start) = Page::parse(query)?;
    let [start] = start.unwrap_or([u64::MAX]);
    let mut from = config.revision().min(Revision(start));
    while from.0 > 0 {
        let entry = match admin.publisher.history().entry(from) {
            Ok(Some(entry)) => entry,
            Ok(None) | Err(HistoryFault::TooOld(_)) => break,
            Err(fault) => return Err(fault.into()),
        };
        let difference = Difference::of_entry(&entry).within(place.narrowed());
        let concerns = place.narrowed().is_none() || !difference.is_empty();
        let shown = || Value::Object(summary(&config, &entry, &difference));
        if concerns && !page.push([from.0], shown) {
            break;
        }
        from = Revision(from.0 - 1);
    }
    Ok(page.reply(&place.path))
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
    let origin = origin.answered(StatusCode::CREATED);
    let work = move || {
        let decide = |config: &Config, context: &Context| -> Result<(Difference, Change), Fault> {
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
            let mut change = difference.change(config);
            let along = recheck::recheck(config, &change, context);
            change
                .removes
                .extend(along.map_err(|faults| Fault::Rejected(to, faults))?);
            Ok((difference, change))
        };
        if dry_run {
            let config = publisher.config();
            let (difference, _) = decide(&config, &Context::draw(UnixTime::now()))?;
            return Ok(foreseen(&config, &difference));
        }
        let mut counts = Value::Null;
        let (revision, _) = publisher.transact(&origin, UnixTime::now(), |config, context| {
            let (difference, change) = decide(config, context)?;
            counts = difference.counts();
            Ok::<_, Fault>(change)
        })?;
        let body = json!({ "revision": revision, "rolled_back_to": to, "changes": counts });
        Ok(Answer {
            revision: Some(revision),
            ..Answer::new(StatusCode::CREATED, body)
        })
    };
    admin.turns.take(work).await?
}

/// What a dry run answers: what would change, and at which revision that was looked at.
pub(super) fn foreseen(config: &Config, difference: &Difference) -> Answer {
    let body = json!({
        "dry_run": true,
        "changes": difference.counts(),
        "data": difference.show(),
    });
    Answer {
        revision: Some(config.revision()),
        ..Answer::ok(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_past_that_is_out_of_reach_is_told_from_one_that_is_damaged() {
        let status = |fault| Refusal::from(fault).answer().status;
        let unreachable = HistoryFault::Unreachable("etcd cannot be reached".to_owned());
        assert_eq!(status(unreachable), StatusCode::SERVICE_UNAVAILABLE);
        let damaged = HistoryFault::Unreadable {
            revision: Revision(3),
            what: "it is not as written".to_owned(),
        };
        assert_eq!(status(damaged), StatusCode::INTERNAL_SERVER_ERROR);
    }
}
