//! `/tags`, `/tags/{tag}`: which record has which tag, in pages.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use shared::entity::{Tagging, definition};
use shared::snapshot::Key;
use uuid::Uuid;

use super::error::Refusal;
use super::page::Page;
use crate::config::Config;

/// Where a page begins: the collection, the id and the tag of an entry.
type Start = (String, Uuid, String);

/// The entries with any tag, or with `only` that one.
pub(super) fn list(
    config: &Config,
    only: Option<&str>,
    query: Option<&str>,
) -> Result<Value, Refusal> {
    let (mut page, start) = Page::<Start>::parse(query)?;
    for (key, tag) in entries(config, only) {
        let at = (key.kind.to_owned(), key.id, tag);
        if start.as_ref().is_some_and(|start| at < *start) {
            continue;
        }
        let entry = Tagging {
            tag: at.2.clone(),
            entity_name: at.0.clone(),
            entity_id: at.1,
        };
        if !page.push(at, || json!(entry)) {
            break;
        }
    }
    let tag = only.map(|tag| format!("/{}", utf8_percent_encode(tag, NON_ALPHANUMERIC)));
    Ok(page.reply(&format!("/tags{}", tag.unwrap_or_default())))
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
