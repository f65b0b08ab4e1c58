//! Lists: pages that stay stable during a walk, and filters.

use std::sync::Arc;

use base64::Engine;
use base64::alphabet::STANDARD as STANDARD_ALPHABET;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use shared::clock::UnixTime;
use shared::entity::{ConsumerGroup, ConsumerGroupConsumer, Definition, Entity as _, definition};
use shared::snapshot::Key;
use uuid::Uuid;

use super::endpoint::Parent;
use super::error::Refusal;
use super::show::show;
use crate::command::has_expired;
use crate::config::{Config, Fields};

/// What a list call asks for.
#[derive(Debug, Default)]
pub(super) struct Query {
    size: usize,
    /// The first id of the page.
    start: Uuid,
    tags: Tags,
    /// The raw filter, to repeat in `next`.
    tags_text: Option<String>,
    custom_id: Option<String>,
    /// Whether consumer groups come with how many consumers they have.
    counter: bool,
}

/// Which tags a record must have.
#[derive(Debug, Default)]
enum Tags {
    /// None.
    #[default]
    Any,
    /// Every one of these.
    All(Vec<String>),
    /// At least one of these.
    OneOf(Vec<String>),
}

/// How many entries a page has if nothing else is asked.
const DEFAULT_SIZE: usize = 100;

/// Most tags of a filter.
const MOST_TAGS: usize = 5;

/// As Kong reads an `offset`: padding may be left out.
const OFFSETS: GeneralPurpose = GeneralPurpose::new(
    &STANDARD_ALPHABET,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl Query {
    pub(super) fn parse(query: Option<&str>, kind: &str) -> Result<Self, Refusal> {
        let mut parsed = Self {
            size: DEFAULT_SIZE,
            ..Self::default()
        };
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match &*name {
                "size" => parsed.size = size(&value)?,
                "offset" => [parsed.start] = offset(&value)?,
                "tags" => {
                    parsed.tags = tags(&value)?;
                    parsed.tags_text = Some(value.into_owned());
                }
                "custom_id" if kind == "consumers" => parsed.custom_id = Some(value.into_owned()),
                "counter" if kind == ConsumerGroup::KIND => {
                    parsed.counter = matches!(&*value, "1" | "true");
                }
                _ => {}
            }
        }
        Ok(parsed)
    }

    fn takes(&self, fields: &Fields) -> bool {
        let has = |tag: &String| {
            let list = fields.get("tags").and_then(Value::as_array);
            list.is_some_and(|list| list.iter().any(|own| own == tag))
        };
        match &self.tags {
            Tags::Any => true,
            Tags::All(tags) => tags.iter().all(has),
            Tags::OneOf(tags) => tags.iter().any(has),
        }
    }
}

fn size(text: &str) -> Result<usize, Refusal> {
    if text.parse::<f64>().is_err() {
        return Err(Refusal::Size("size must be a number"));
    }
    match text.parse() {
        Ok(size @ 1..=1000) => Ok(size),
        _ => Err(Refusal::Size("size must be an integer between 1 and 1000")),
    }
}

/// Where the page before ended, as its `offset` says: the base64 of JSON.
fn offset<T: DeserializeOwned>(text: &str) -> Result<T, Refusal> {
    let refused = |encoding| Refusal::Offset {
        text: text.to_owned(),
        encoding,
    };
    let decoded = OFFSETS.decode(text).map_err(|_| refused("base64"))?;
    serde_json::from_slice(&decoded).map_err(|_| refused("json"))
}

fn tags(text: &str) -> Result<Tags, Refusal> {
    let invalid = || Refusal::Tags("invalid filter syntax");
    // What stands for bytes that are no UTF-8; no record has such a tag.
    if text.contains(char::REPLACEMENT_CHARACTER) {
        return Err(invalid());
    }
    let split = |mark: char| -> Result<Vec<String>, Refusal> {
        let tags: Vec<String> = text.split(mark).map(str::to_owned).collect();
        let valid = |tag: &String| shared::types::check_format("kong-tag", tag).is_ok();
        if !tags.iter().all(valid) {
            return Err(invalid());
        }
        if tags.len() > MOST_TAGS {
            return Err(Refusal::Tags("cannot query more than 5 tags"));
        }
        Ok(tags)
    };
    match (text.contains(','), text.contains('/')) {
        (true, true) => Err(invalid()),
        (_, false) => split(',').map(Tags::All),
        (false, true) => split('/').map(Tags::OneOf),
    }
}

pub(super) fn list(
    config: &Config,
    entity: &'static Definition,
    parent: Option<&Parent>,
    query: &Query,
) -> Value {
    let now = UnixTime::now();
    let with_fields = |key: Key| Some((key, config.record(key)?));
    // Kong's lists below a record know no tags; what has no other list, decK asks for by its tags here.
    let by_tags = query.custom_id.is_none() && (parent.is_none() || !entity.top_level);
    let records: Box<dyn Iterator<Item = (Key, Arc<Fields>)>> = match (&query.custom_id, parent) {
        (Some(custom_id), _) => {
            let id = config.find(entity.kind, "custom_id", custom_id);
            let kind = entity.kind;
            Box::new(id.and_then(|id| with_fields(Key { kind, id })).into_iter())
        }
        (None, None) => Box::new(config.collection(entity.kind, query.start)),
        (None, Some(parent)) => {
            let children = config.children(parent.key, entity.kind, query.start);
            Box::new(children.filter_map(with_fields))
        }
    };
    let mut page = Page::of(query.size);
    for (key, fields) in records {
        let takes = !by_tags || query.takes(&fields);
        if !takes || has_expired(entity, &fields, now) {
            continue;
        }
        let shown = || {
            let mut shown = show(config, key, &fields);
            if query.counter
                && let Value::Object(shown) = &mut shown
            {
                let members = config.children(key, ConsumerGroupConsumer::KIND, Uuid::nil());
                shown.insert("consumers_count".to_owned(), members.count().into());
            }
            shown
        };
        if !page.push([key.id], shown) {
            break;
        }
    }
    let tags = query.tags_text.as_deref().map(|tags| ("tags", tags));
    let counter = query.counter.then_some(("counter", "1"));
    page.reply_with(&path(entity, parent), tags.into_iter().chain(counter))
}

/// Where the list of `entity`, or of what is below `parent`, is.
fn path(entity: &Definition, parent: Option<&Parent>) -> String {
    let Some(Parent { field, key, .. }) = parent else {
        return format!("/{}", entity.path);
    };
    let place = entity.nested.iter().find(|(nested, _)| nested == field);
    let name = place.map_or(entity.path, |(_, name)| name);
    let parent = definition(key.kind).map_or(key.kind, |parent| parent.path);
    format!("/{parent}/{}/{name}", key.id)
}

/// A page under way. An offset is a `T`: where the next page begins.
pub(super) struct Page<T> {
    most: usize,
    data: Vec<Value>,
    next: Option<T>,
}

impl<T: DeserializeOwned + Serialize> Page<T> {
    /// An empty page with room for `most`.
    const fn of(most: usize) -> Self {
        Self {
            most,
            data: Vec::new(),
            next: None,
        }
    }

    /// An empty page, and where it begins if not with the first.
    pub(super) fn parse(query: Option<&str>) -> Result<(Self, Option<T>), Refusal> {
        let (mut most, mut start) = (DEFAULT_SIZE, None);
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match &*name {
                "size" => most = size(&value)?,
                "offset" => start = Some(offset(&value)?),
                _ => {}
            }
        }
        Ok((Self::of(most), start))
    }

    /// Adds what is at `offset`; false if the page is full, so that the next one begins there.
    pub(super) fn push(&mut self, offset: T, show: impl FnOnce() -> Value) -> bool {
        if self.is_full() {
            self.end_before(offset);
            return false;
        }
        self.data.push(show());
        true
    }

    /// How much the page has room for.
    pub(super) const fn room(&self) -> usize {
        self.most.saturating_sub(self.data.len())
    }

    /// Whether nothing more can be added.
    fn is_full(&self) -> bool {
        self.data.len() == self.most
    }

    /// Ends the page: the next one begins with what is at `offset`.
    pub(super) fn end_before(&mut self, offset: T) {
        self.next = Some(offset);
    }

    /// The page as Kong's lists are.
    pub(super) fn reply(self, path: &str) -> Value {
        self.reply_with(path, [])
    }

    /// The same of a list that was asked for with further `arguments`.
    fn reply_with<'a>(
        self,
        path: &str,
        arguments: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Value {
        let mut reply = Map::new();
        reply.insert("data".to_owned(), Value::Array(self.data));
        let next = self.next.map(|next| {
            let offset = STANDARD.encode(json!(next).to_string());
            let mut all = form_urlencoded::Serializer::new(String::new());
            all.append_pair("offset", &offset).extend_pairs(arguments);
            if self.most != DEFAULT_SIZE {
                all.append_pair("size", &self.most.to_string());
            }
            reply.insert("offset".to_owned(), offset.into());
            format!("{path}?{}", all.finish())
        });
        reply.insert("next".to_owned(), next.into());
        Value::Object(reply)
    }
}

/// A page of the list at `path`, of which `rows` gives so many from a name on, in the order of their names.
pub(super) fn of_named(
    path: &str,
    query: Option<&str>,
    rows: impl FnOnce(&str, usize) -> Vec<Value>,
) -> Result<Value, Refusal> {
    let (mut page, start) = Page::parse(query)?;
    let [start]: [String; 1] = start.unwrap_or_default();
    // One more is what the next page begins with.
    for row in rows(&start, page.most + 1) {
        let name = row.get("name").and_then(Value::as_str);
        let name = name.unwrap_or_default().to_owned();
        page.push([name], || row);
    }
    Ok(page.reply(path))
}
