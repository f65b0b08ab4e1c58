//! How a method is called by HTTP (`google.api.http`): by which method and path, and what of a request goes where.

use std::collections::BTreeSet;

use http::Method as HttpMethod;
use percent_encoding::percent_decode_str;
use prost_reflect::{
    Cardinality, DynamicMessage, Kind, MessageDescriptor, MethodDescriptor, Value as Said,
};
use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

use crate::credentials::arguments::Arguments;
use crate::transcoding::definitions::{Definitions, Method, path_of};

/// Most parts of a field's path.
const DEEPEST: usize = 16;

/// Most memory that the expression of a path may take.
const PATTERN: usize = 1024 * 1024;

/// One way to call a method.
#[derive(Debug)]
pub(super) struct Binding {
    method: HttpMethod,
    path: Regex,
    /// The fields that parts of the path are, in their order.
    names: Vec<String>,
    body: Body,
    /// The only field of the answer that is shown.
    pub(super) shown: Option<String>,
    /// What it is called by.
    pub(super) rpc: String,
    pub(super) types: Method,
}

/// What a request's body is.
#[derive(Debug, PartialEq)]
enum Body {
    /// Nothing.
    None,
    /// All fields that the path does not say.
    Whole,
    /// This field.
    Field(String),
}

/// All ways to call the methods of `definitions`, in their order.
pub(super) fn all(definitions: &Definitions) -> Result<Vec<Binding>, String> {
    let mut bindings = Vec::new();
    for method in &definitions.described {
        let options = method.options();
        let pool = method.parent_pool();
        let Some(extension) = pool.get_extension_by_name("google.api.http") else {
            break;
        };
        if !options.has_extension(&extension) {
            continue;
        }
        if let Said::Message(rule) = &*options.get_extension(&extension) {
            bindings.extend(Binding::of(method, rule)?);
            for more in list(rule, "additional_bindings") {
                bindings.extend(Binding::of(method, &more)?);
            }
        }
    }
    Ok(bindings)
}

fn text(rule: &DynamicMessage, field: &str) -> Option<String> {
    let value = rule.get_field_by_name(field)?;
    let text = value.as_str()?;
    (!text.is_empty()).then(|| text.to_owned())
}

fn list(rule: &DynamicMessage, field: &str) -> Vec<DynamicMessage> {
    let value = rule.get_field_by_name(field);
    let list = value.as_deref().and_then(Said::as_list).unwrap_or_default();
    list.iter()
        .filter_map(|one| one.as_message().cloned())
        .collect()
}

impl Binding {
    /// What `rule` says of `method`; nothing if it names no path.
    fn of(method: &MethodDescriptor, rule: &DynamicMessage) -> Result<Option<Self>, String> {
        let ways = [
            ("get", HttpMethod::GET),
            ("put", HttpMethod::PUT),
            ("post", HttpMethod::POST),
            ("delete", HttpMethod::DELETE),
            ("patch", HttpMethod::PATCH),
        ];
        let mut found = ways
            .into_iter()
            .filter_map(|(field, http)| Some((http, text(rule, field)?)));
        let Some((http, template)) = found.next() else {
            return Ok(None);
        };
        let wrong = || format!("{template} of {} is no path", method.full_name());
        let (pattern, names) = pattern(&template).ok_or_else(wrong)?;
        let path = RegexBuilder::new(&pattern).size_limit(PATTERN).build();
        Ok(Some(Self {
            method: http,
            path: path.map_err(|_| wrong())?,
            names,
            body: match text(rule, "body") {
                None => Body::None,
                Some(whole) if whole == "*" => Body::Whole,
                Some(field) => Body::Field(field),
            },
            shown: text(rule, "response_body"),
            rpc: path_of(method),
            types: Method {
                input: method.input(),
                output: method.output(),
            },
        }))
    }

    /// What of `path` is a field, if it is called by `method` and that.
    pub(super) fn captures(&self, method: &HttpMethod, path: &str) -> Option<Vec<(&str, String)>> {
        if *method != self.method {
            return None;
        }
        let captures = self.path.captures(path)?;
        let parts = captures.iter().skip(1).map(|part| {
            let part = part.map_or("", |part| part.as_str());
            percent_decode_str(part).decode_utf8_lossy().into_owned()
        });
        Some(self.names.iter().map(String::as_str).zip(parts).collect())
    }

    /// Whether anything of a request's body is looked at.
    pub(super) fn has_body(&self) -> bool {
        self.body != Body::None
    }

    /// The message of a request, from its path, its query and its body.
    pub(super) fn message(
        &self,
        captures: &[(&str, String)],
        query: &Arguments,
        body: &[u8],
    ) -> Result<Value, String> {
        let mut message = Map::new();
        if self.has_body() && !body.is_empty() {
            let said: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
            if has_null(&said) {
                return Err("null is no value".to_owned());
            }
            match (&self.body, said) {
                (Body::Field(name), said) => _ = message.insert(name.clone(), said),
                (_, Value::Object(fields)) => message = fields,
                _ => return Err("body must be a table".to_owned()),
            }
        }
        // Of the body all fields count that the path does not say: nothing is left for the query.
        if self.body != Body::Whole {
            let names: BTreeSet<&str> = query.iter().map(|(name, _)| name).collect();
            for name in names {
                let values: Vec<&str> = query.values(name).flatten().collect();
                put(&mut message, &self.types.input, name, &values)?;
            }
        }
        for (name, value) in captures {
            put(&mut message, &self.types.input, name, &[value])?;
        }
        Ok(Value::Object(message))
    }
}

/// Whether there is a `null` in `value` (Kong 3.9 takes none).
fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.iter().any(has_null),
        Value::Object(fields) => fields.values().any(has_null),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// Puts `values` into the field of `message`, of the form `form`, that `path` leads to with dots. What is no field is
/// passed by.
fn put(
    message: &mut Map<String, Value>,
    form: &MessageDescriptor,
    path: &str,
    values: &[&str],
) -> Result<(), String> {
    let (mut message, mut form) = (message, form.clone());
    for (depth, name) in path.split('.').enumerate() {
        let field = form.get_field_by_name(name);
        let Some(field) = field.or_else(|| form.get_field_by_json_name(name)) else {
            return Ok(());
        };
        let is_last = path.split('.').count() == depth + 1;
        let key = field.name().to_owned();
        match field.kind() {
            Kind::Message(inner) if !is_last && !field.is_list() && !field.is_map() => {
                let below = message.entry(key).or_insert_with(|| Map::new().into());
                let Value::Object(below) = below else {
                    return Ok(());
                };
                if depth >= DEEPEST {
                    return Err(format!("{path} is too deep"));
                }
                (message, form) = (below, inner);
            }
            kind if is_last => {
                let mut said = values.iter().map(|text| scalar(&kind, text));
                let value = if field.cardinality() == Cardinality::Repeated {
                    Some(Value::Array(said.collect()))
                } else {
                    said.next_back()
                };
                message.extend(value.map(|value| (key, value)));
                return Ok(());
            }
            _ => return Ok(()),
        }
    }
    Ok(())
}

/// `text` as a value of `kind`. Numbers and the rest are read from texts by their form.
fn scalar(kind: &Kind, text: &str) -> Value {
    match kind {
        Kind::Bool => match text {
            "false" | "0" | "" => Value::Bool(false),
            _ => Value::Bool(true),
        },
        Kind::Enum(_) => match text.parse::<i32>() {
            Ok(number) => number.into(),
            Err(_) => text.into(),
        },
        _ => text.into(),
    }
}

/// The expression of a path template, and the fields that its groups are (`google/api/http.proto`).
fn pattern(template: &str) -> Option<(String, Vec<String>)> {
    let (mut pattern, mut names) = ("^".to_owned(), Vec::new());
    let mut rest = template.strip_prefix('/').map(|_| template)?;
    while let Some((before, after)) = rest.split_once('{') {
        segments(before, &mut pattern);
        let (variable, behind) = after.split_once('}')?;
        let (name, own) = variable.split_once('=').unwrap_or((variable, "*"));
        if name.is_empty() || own.contains('{') {
            return None;
        }
        pattern.push('(');
        segments(own, &mut pattern);
        pattern.push(')');
        names.push(name.to_owned());
        rest = behind;
    }
    segments(rest, &mut pattern);
    pattern.push('$');
    Some((pattern, names))
}

/// Adds `text`, in which `*` stands for a segment and `**` for several, to `pattern`.
fn segments(text: &str, pattern: &mut String) {
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('*') {
        pattern.push_str(&regex::escape(before));
        if let Some(after) = after.strip_prefix('*') {
            pattern.push_str(".+");
            rest = after;
        } else {
            pattern.push_str("[^/]+");
            rest = after;
        }
    }
    pattern.push_str(&regex::escape(rest));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::transcoding::tests::definitions;

    fn check(method: &str, target: &str, body: &str, expected: Option<(&str, Value)>) {
        let bindings = all(&definitions()).unwrap();
        let method = HttpMethod::from_bytes(method.as_bytes()).unwrap();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let found = bindings
            .iter()
            .find_map(|binding| Some((binding, binding.captures(&method, path)?)));
        let made = found.map(|(binding, captures)| {
            let query = Arguments::parse(query);
            let message = binding.message(&captures, &query, body.as_bytes());
            (binding.rpc.clone(), message.unwrap())
        });
        let expected = expected.map(|(rpc, message)| (format!("/greet.v1.Greeter/{rpc}"), message));
        assert_eq!(made, expected, "{method} {target}");
    }

    #[test]
    fn a_request_is_a_call_by_its_method_path_query_and_body() {
        check(
            "GET",
            "/v1/messages/john%20doe",
            "",
            Some(("Say", json!({"name": "john doe"}))),
        );
        check(
            "GET",
            "/v1/messages/legacy/a?loud=1&times=1&times=2&mood=1&none=3&name.x=4",
            "",
            Some((
                "Say",
                json!({"name": "a", "loud": true, "times": ["1", "2"], "mood": 1}),
            )),
        );
        for (said, loud) in [("true", true), ("2", true), ("false", false), ("0", false)] {
            let target = format!("/v1/messages/a?loud={said}");
            let expected = json!({"name": "a", "loud": loud});
            check("GET", &target, "", Some(("Say", expected)));
        }
        check(
            "POST",
            "/v1/messages:send?name=b",
            r#"{"name": "a", "loud": true}"#,
            Some(("Say", json!({"name": "a", "loud": true}))),
        );
        check(
            "GET",
            "/v1/grow/tip?legs.count=4&legs.endings=toes&tail.count=1",
            "",
            Some((
                "Grow",
                json!({"legs": {"count": "4", "endings": "toes"}, "tail": {"count": "1", "endings": "tip"}}),
            )),
        );
        check(
            "PUT",
            "/v1/bodies/shelves/3/legs",
            r#"{"count": 2}"#,
            Some(("Grow", json!({"name": "shelves/3", "legs": {"count": 2}}))),
        );
        check("GET", "/v1/messages/a/b", "", None);
        check("PUT", "/v1/messages/a", "", None);
        check("GET", "/greet.v1.Greeter/Plain", "", None);
    }

    #[test]
    fn a_body_that_says_nothing_usable_is_refused() {
        let bindings = all(&definitions()).unwrap();
        let send = bindings.iter().find(|one| one.body == Body::Whole).unwrap();
        for body in ["[1]", "{", r#"{"name": null}"#, r#"{"times": [1, null]}"#] {
            let made = send.message(&[], &Arguments::default(), body.as_bytes());
            assert!(made.is_err(), "{body}");
        }
    }

    #[test]
    fn templates_are_read_to_their_letter() {
        for (template, expected) in [
            ("/a.b/*", Some((r"^/a\.b/[^/]+$", vec![]))),
            ("/{x=a/**}:do", Some((r"^/(a/.+):do$", vec!["x"]))),
            (
                "/{x}/{y.z=*}",
                Some(("^/([^/]+)/([^/]+)$", vec!["x", "y.z"])),
            ),
            ("a", None),
            ("/{x", None),
            ("/{=a}", None),
        ] {
            let expected = expected.map(|(pattern, names): (&str, Vec<&str>)| {
                let names = names.into_iter().map(str::to_owned);
                (pattern.to_owned(), names.collect::<Vec<_>>())
            });
            assert_eq!(pattern(template), expected, "{template}");
        }
    }
}
