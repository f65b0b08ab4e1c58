//! `/tags`, `/tags/{tag}`: which record has which tag, in pages.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use shared::entity::{Tagging, definition};
use shared::snapshot::Key;
use uuid::Uuid;

use super::error::Refusal;
use super::page::{offset, size};
use crate::config::Config;

/// Which page.
#[derive(Debug)]
struct Query {
    size: usize,
    /// The last entry of the page before: collection, id and tag.
    after: Option<(String, Uuid, String)>,
}

impl Query {
    fn parse(query: Option<&str>) -> Result<Self, Refusal> {
        let mut parsed = Self {
            size: 100,
            after: None,
        };
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match &*name {
                "size" => parsed.size = size(&value)?,
                "offset" => parsed.after = Some(offset(&value)?),
                _ => {}
            }
        }
        Ok(parsed)
    }
}

/// The entries with any tag, or with `only` that one.
pub(super) fn list(
    config: &Config,
    only: Option<&str>,
    query: Option<&str>,
) -> Result<Value, Refusal> {
    let query = Query::parse(query)?;
    let mut page = Vec::new();
    for (key, tag) in entries(config, only) {
        if query.after.as_ref().is_some_and(|after| {
            let (kind, id, last) = after;
            (key.kind, key.id, tag.as_str()) <= (kind.as_str(), *id, last.as_str())
        }) {
            continue;
        }
        page.push((key, tag));
        if page.len() > query.size {
            break;
        }
    }
    let more = page.len() > query.size;
    page.truncate(query.size);
    let entry = |(key, tag): &(Key, String)| Tagging {
        tag: tag.clone(),
        entity_name: key.kind.to_owned(),
        entity_id: key.id,
    };
    let mut reply = Map::new();
    let data: Vec<Tagging> = page.iter().map(entry).collect();
    reply.insert("data".to_owned(), json!(data));
    let mut next = Value::Null;
    if let Some((key, tag)) = page.last().filter(|_| more) {
        let offset = STANDARD.encode(json!([key.kind, key.id, tag]).to_string());
        next = link(only, &offset, query.size).into();
        reply.insert("offset".to_owned(), offset.into());
    }
    reply.insert("next".to_owned(), next);
    Ok(Value::Object(reply))
}

/// The tags of the records that the Admin API shows, by collection, id and tag.
fn entries<'a>(config: &'a Config, only: Option<&'a str>) -> impl Iterator<Item = (Key, String)> {
    let public = |key: &Key| definition(key.kind).is_some_and(|entity| entity.public);
    let records = config.records().filter(move |(key, _)| public(key));
    records.flat_map(move |(key, record)| {
        let fields = record.pick(|field| field == "tags");
        let tags = fields.get("tags").and_then(Value::as_array);
        let mut tags: Vec<String> = tags
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .filter(|tag| only.is_none_or(|only| only == *tag))
            .map(str::to_owned)
            .collect();
        tags.sort_unstable();
        tags.into_iter().map(|tag| (*key, tag))
    })
}

fn link(only: Option<&str>, offset: &str, size: usize) -> String {
    let mut arguments = form_urlencoded::Serializer::new(String::new());
    arguments.append_pair("offset", offset);
    if size != 100 {
        arguments.append_pair("size", &size.to_string());
    }
    let arguments = arguments.finish();
    let tag = only.map(|tag| {
        let encoded =
            percent_encoding::utf8_percent_encode(tag, percent_encoding::NON_ALPHANUMERIC);
        format!("/{encoded}")
    });
    format!("/tags{}?{arguments}", tag.unwrap_or_default())
}
