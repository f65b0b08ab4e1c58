//! `response-transformer`: changes a response on its way to the client (Kong 3.9, response-transformer).

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use shared::schema::FieldErrors;

use crate::config::pairs::{self, Entries, split};
use crate::exchange::{BodyWish, Reply, WholeBody};
use crate::filter::{Filter, Instance, Phases, Plugin};
use crate::host::Host;

/// Largest body that is changed, in bytes. A larger one is not passed on: what should have been removed
/// would be in it.
const LARGEST: usize = 32 * 1024 * 1024;

/// Configuration of `response-transformer`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct ResponseTransformer {
    /// What is removed: names.
    #[serde(default)]
    pub remove: Removals,

    /// What gets another name: `old:new`.
    #[serde(default)]
    pub rename: Removals,

    /// What gets another value if it is there: `name:value`.
    #[serde(default)]
    pub replace: Values,

    /// What is added if it is not there: `name:value`.
    #[serde(default)]
    pub add: Values,

    /// What gets one more value: `name:value`.
    #[serde(default)]
    pub append: Values,
}

/// Lists of names.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Removals {
    /// Fields of a JSON object.
    #[serde(default)]
    pub json: Vec<String>,

    /// Headers.
    #[serde(default)]
    pub headers: Vec<String>,
}

/// Lists of names and values.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Values {
    /// Fields of a JSON object.
    #[serde(default)]
    pub json: Vec<String>,

    /// What the values of `json` are, in the same order; texts if absent.
    #[serde(default)]
    pub json_types: Vec<JsonType>,

    /// Headers.
    #[serde(default)]
    pub headers: Vec<String>,
}

/// What a value becomes in JSON.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum JsonType {
    /// `true` or `false`.
    Boolean,
    /// A number.
    Number,
    /// A text.
    String,
}

impl Plugin for ResponseTransformer {
    const NAME: &'static str = "response-transformer";
    const PRIORITY: u32 = 800;
    type Filter = ResponseTransformerFilter;

    fn compile(self, _: &Instance) -> Result<ResponseTransformerFilter, FieldErrors> {
        let mut errors = FieldErrors::default();
        for (name, lists, kind, header) in [
            ("remove", &self.remove, Entries::Names, Entries::Headers),
            ("rename", &self.rename, Entries::Pairs, Entries::HeaderNames),
        ] {
            pairs::check(&[name, "json"], &lists.json, kind, &mut errors);
            pairs::check(&[name, "headers"], &lists.headers, header, &mut errors);
        }
        for (name, lists) in [
            ("replace", &self.replace),
            ("add", &self.add),
            ("append", &self.append),
        ] {
            pairs::check(&[name, "json"], &lists.json, Entries::Pairs, &mut errors);
            pairs::check(
                &[name, "headers"],
                &lists.headers,
                Entries::HeaderPairs,
                &mut errors,
            );
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(ResponseTransformerFilter {
            headers: Headers {
                remove: names(&self.remove.headers),
                rename: header_pairs(&self.rename.headers)
                    .filter_map(|(old, new)| Some((old, HeaderName::try_from(new).ok()?)))
                    .collect(),
                replace: header_values(&self.replace.headers),
                add: header_values(&self.add.headers),
                append: header_values(&self.append.headers),
            },
            json: Fields {
                remove: self
                    .remove
                    .json
                    .iter()
                    .map(|entry| split(entry).0.to_owned())
                    .collect(),
                rename: self
                    .rename
                    .json
                    .iter()
                    .map(|entry| split(entry))
                    .map(|(old, new)| (old.to_owned(), new.to_owned()))
                    .collect(),
                replace: values(&self.replace),
                add: values(&self.add),
                append: values(&self.append),
            },
        })
    }
}

fn names(list: &[String]) -> Vec<HeaderName> {
    list.iter()
        .filter_map(|entry| HeaderName::try_from(split(entry).0).ok())
        .collect()
}

fn header_pairs(list: &[String]) -> impl Iterator<Item = (HeaderName, &str)> {
    list.iter().filter_map(|entry| {
        let (name, value) = split(entry);
        Some((HeaderName::try_from(name).ok()?, value))
    })
}

fn header_values(list: &[String]) -> Vec<(HeaderName, HeaderValue)> {
    header_pairs(list)
        .filter(|(_, value)| !value.is_empty())
        .filter_map(|(name, value)| Some((name, HeaderValue::from_str(value).ok()?)))
        .collect()
}

fn values(lists: &Values) -> Vec<(String, Value)> {
    let entries = lists.json.iter().enumerate();
    let pairs = entries.filter_map(|(place, entry)| {
        let (name, text) = split(entry);
        let value = match lists.json_types.get(place) {
            Some(JsonType::Boolean) => json!(text == "true"),
            // A text that is no number changes nothing (Kong 3.9).
            Some(JsonType::Number) => serde_json::from_str::<serde_json::Number>(text)
                .ok()?
                .into(),
            Some(JsonType::String) | None => json!(text),
        };
        Some((name.to_owned(), value))
    });
    pairs.collect()
}

/// Changes responses.
#[derive(Debug)]
pub struct ResponseTransformerFilter {
    headers: Headers,
    json: Fields,
}

#[derive(Debug)]
struct Headers {
    remove: Vec<HeaderName>,
    rename: Vec<(HeaderName, HeaderName)>,
    replace: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
    append: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Debug)]
struct Fields {
    remove: Vec<String>,
    rename: Vec<(String, String)>,
    replace: Vec<(String, Value)>,
    add: Vec<(String, Value)>,
    append: Vec<(String, Value)>,
}

impl Filter for ResponseTransformerFilter {
    fn phases(&self) -> Phases {
        Phases::RESPONSE
    }

    fn on_response(&self, reply: &mut Reply<'_>, _: &impl Host) {
        let json = is_json(reply.headers);
        self.headers.change(reply.headers);
        let bodiless = matches!(
            *reply.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::SWITCHING_PROTOCOLS
        );
        if !json || bodiless || self.json.is_empty() {
            return;
        }
        if reply.seen.method == http::Method::HEAD {
            // Of the body that would follow, nobody knows how long it would be.
            reply.headers.remove(http::header::CONTENT_LENGTH);
        } else {
            reply.wish = BodyWish::Need(LARGEST);
        }
    }

    fn on_body(&self, whole: &mut WholeBody<'_>, _: &impl Host) {
        let Ok(mut body) = serde_json::from_slice::<Value>(&whole.body) else {
            return;
        };
        match &mut body {
            Value::Object(map) => self.json.change(map),
            Value::Array(list) => {
                for map in list.iter_mut().filter_map(Value::as_object_mut) {
                    self.json.change(map);
                }
            }
            _ => return,
        }
        if let Ok(bytes) = serde_json::to_vec(&body) {
            whole.body = Bytes::from(bytes);
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let text = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    text.is_some_and(|text| {
        text.split(',').any(|part| {
            let media = part.split(';').next().unwrap_or_default();
            let media = media.trim().to_ascii_lowercase();
            let subtype = media.strip_prefix("application/");
            subtype.is_some_and(|subtype| subtype == "json" || subtype.ends_with("+json"))
        })
    })
}

impl Headers {
    fn change(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (old, new) in &self.rename {
            let values: Vec<_> = headers.get_all(old).iter().cloned().collect();
            if old == new || values.is_empty() {
                continue;
            }
            headers.remove(old);
            headers.remove(new);
            for value in values {
                headers.append(new.clone(), value);
            }
        }
        for (name, value) in &self.replace {
            if headers.contains_key(name) {
                headers.insert(name.clone(), value.clone());
            }
        }
        for (name, value) in &self.add {
            if !headers.contains_key(name) {
                headers.insert(name.clone(), value.clone());
            }
        }
        for (name, value) in &self.append {
            headers.append(name.clone(), value.clone());
        }
    }
}

impl Fields {
    fn is_empty(&self) -> bool {
        self.remove.is_empty()
            && self.rename.is_empty()
            && self.replace.is_empty()
            && self.add.is_empty()
            && self.append.is_empty()
    }

    fn change(&self, map: &mut Map<String, Value>) {
        for name in &self.remove {
            map.shift_remove(name);
        }
        for (old, new) in &self.rename {
            if let Some(value) = map.shift_remove(old) {
                map.insert(new.clone(), value);
            }
        }
        for (name, value) in &self.replace {
            if let Some(kept) = map.get_mut(name) {
                *kept = value.clone();
            }
        }
        for (name, value) in &self.add {
            if !map.contains_key(name) {
                map.insert(name.clone(), value.clone());
            }
        }
        for (name, value) in &self.append {
            match map.get_mut(name) {
                Some(Value::Array(list)) => list.push(value.clone()),
                Some(text @ Value::String(_)) => *text = json!([text.take(), value]),
                _ => _ = map.insert(name.clone(), json!([value])),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::testing::{FakeHost, Request, reply_of};

    fn filter(config: Value) -> ResponseTransformerFilter {
        let config: ResponseTransformer = serde_json::from_value(config).unwrap();
        config.compile(&Instance { id: Uuid::nil() }).unwrap()
    }

    fn change(
        config: Value,
        headers: &[(&'static str, &'static str)],
        body: &'static str,
    ) -> (HeaderMap, Bytes) {
        let reply = reply_of(
            &filter(config),
            &FakeHost::default(),
            &Request::get("/"),
            headers,
            body,
        );
        (reply.headers, reply.body)
    }

    #[test]
    fn headers_change_in_order() {
        let config = json!({
            "remove": {"headers": ["x-gone"]},
            "rename": {"headers": ["x-old:x-new"]},
            "replace": {"headers": ["x-there:2", "x-absent:2"]},
            "add": {"headers": ["x-there:3", "x-added:a:b"]},
            "append": {"headers": ["x-more:2"]},
        });
        let before = [
            ("x-gone", "1"),
            ("x-old", "o"),
            ("x-old", "p"),
            ("x-there", "1"),
            ("x-more", "1"),
        ];
        let (headers, body) = change(config, &before, "same");
        assert_eq!(body, "same");
        let all = |name: &str| {
            let values = headers.get_all(name).iter();
            values
                .map(|value| value.to_str().unwrap())
                .collect::<Vec<_>>()
                .join(",")
        };
        for (name, expected) in [
            ("x-gone", ""),
            ("x-old", ""),
            ("x-new", "o,p"),
            ("x-there", "2"),
            ("x-absent", ""),
            ("x-added", "a:b"),
            ("x-more", "1,2"),
        ] {
            assert_eq!(all(name), expected, "{name}");
        }
    }

    #[test]
    fn json_changes_with_types_and_everything_else_stays() {
        let config = json!({
            "remove": {"json": ["gone"]},
            "rename": {"json": ["old:new"]},
            "replace": {"json": ["there:-1.5", "absent:x"], "json_types": ["number"]},
            "add": {"json": ["flag:true", "text:a:b"], "json_types": ["boolean", "string"]},
            "append": {"json": ["more:2", "list:x"]},
        });
        let json = [("content-type", "application/json; charset=utf-8")];
        let body = r#"{"gone":1,"old":[],"there":0,"more":"1"}"#;
        let (_, changed) = change(config.clone(), &json, body);
        let changed: Value = serde_json::from_slice(&changed).unwrap();
        let expected = json!({
            "new": [], "there": -1.5, "more": ["1", "2"], "flag": true, "text": "a:b", "list": ["x"],
        });
        assert_eq!(changed, expected);
        let problem = [("content-type", "text/html, Application/Problem+JSON")];
        let (_, changed) = change(
            json!({"remove": {"json": ["gone"]}}),
            &problem,
            r#"{"gone":1}"#,
        );
        assert_eq!(changed, "{}");
        let head = |config: &Value, content_type: &'static str| {
            let filter = filter(config.clone());
            let mut request = Request::get("/");
            request.method = http::Method::HEAD;
            let (name, value) = ("content-length", "10");
            let headers = [("content-type", content_type), (name, value)];
            let told = reply_of(&filter, &FakeHost::default(), &request, &headers, "");
            told.headers.contains_key(name)
        };
        assert!(!head(&config, json[0].1), "its length would be another");
        assert!(head(&config, "text/plain") && head(&json!({}), json[0].1));
        for (headers, body) in [
            ([("content-type", "text/plain")], r#"{"gone":1}"#),
            (json, "no json"),
            (json, "17"),
        ] {
            assert_eq!(change(config.clone(), &headers, body).1, body);
        }
    }
}
