//! `If-Match`: a record is changed only as long as it is as the caller has seen it (RFC 9110 §13.1.1).

use http::{HeaderMap, HeaderValue, header};
use shared::entity::Definition;
use shared::snapshot::Key;

use super::endpoint::Endpoint;
use super::error::Refusal;
use crate::command::{Selector, find};
use crate::config::{Config, Stored};

/// What one record has to be for a write to be carried out.
#[derive(Clone, Debug)]
pub(super) struct Precondition {
    target: Target,
    /// The states that it may be in; none: whatever it is, it has to be there.
    tags: Option<Vec<HeaderValue>>,
}

#[derive(Clone, Debug)]
enum Target {
    /// What a URL names.
    Named(&'static Definition, Selector),
    Known(Key),
    /// There is none.
    Nothing,
}

/// What tells the state that a record is in from every other one.
pub(super) fn etag(config: &Config, key: Key) -> Option<HeaderValue> {
    etag_of(config.stored(key)?)
}

/// The same of a state.
pub(super) fn etag_of(record: &Stored) -> Option<HeaderValue> {
    let digest = blake3::hash(record.json());
    let hex = digest.to_hex();
    HeaderValue::from_str(&format!("\"{}\"", hex.get(..32)?)).ok()
}

/// The record that an endpoint shows.
pub(super) fn record_of(endpoint: &Endpoint, config: &Config) -> Option<Key> {
    match endpoint {
        Endpoint::Record {
            entity, selector, ..
        } => find(config, entity, selector).ok().flatten(),
        Endpoint::Foreign { key, .. } => *key,
        _ => None,
    }
}

/// Refuses a condition on a request that is about no one record: it would not be acted on.
pub(super) fn refuse(headers: &HeaderMap, writes: bool) -> Result<(), Refusal> {
    if writes && headers.contains_key(header::IF_MATCH) {
        let message = "If-Match is for requests about one record";
        return Err(Refusal::Argument(message.to_owned()));
    }
    Ok(())
}

impl Precondition {
    /// What the headers of a write demand, if they demand something.
    pub(super) fn of(headers: &HeaderMap, endpoint: &Endpoint) -> Result<Option<Self>, Refusal> {
        if !headers.contains_key(header::IF_MATCH) {
            return Ok(None);
        }
        let target = match endpoint {
            Endpoint::Record {
                entity, selector, ..
            } => Target::Named(entity, selector.clone()),
            Endpoint::Foreign { key, .. } => key.map_or(Target::Nothing, Target::Known),
            Endpoint::Unborn { .. } => Target::Nothing,
            _ => return refuse(headers, true).map(|()| None),
        };
        let mut tags = Vec::new();
        for value in headers.get_all(header::IF_MATCH) {
            let text = value.to_str().map_err(|_| malformed())?;
            for tag in text.split(',').map(str::trim).filter(|tag| !tag.is_empty()) {
                // A weak one says that the record is much the same, which is not enough.
                let is_tag = tag.trim_start_matches("W/").starts_with('"') && tag.ends_with('"');
                if tag != "*" && !is_tag {
                    return Err(malformed());
                }
                tags.push(HeaderValue::from_str(tag).map_err(|_| malformed())?);
            }
        }
        let any = tags.iter().any(|tag| tag == "*");
        Ok(Some(Self {
            target,
            tags: (!any).then_some(tags),
        }))
    }

    /// Whether the record is so in `config`.
    pub(super) fn holds(&self, config: &Config) -> bool {
        let key = match &self.target {
            Target::Named(entity, selector) => find(config, entity, selector).ok().flatten(),
            Target::Known(key) => Some(*key),
            Target::Nothing => None,
        };
        let Some(is) = key.and_then(|key| etag(config, key)) else {
            return false;
        };
        self.tags.as_ref().is_none_or(|tags| tags.contains(&is))
    }
}

fn malformed() -> Refusal {
    Refusal::Argument("If-Match takes the ETag of an answer, or *".to_owned())
}
