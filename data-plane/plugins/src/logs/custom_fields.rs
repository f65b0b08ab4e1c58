//! Fields of a log record that a configuration adds, changes or takes away (Kong 3.9, `custom_fields_by_lua`).

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};
use shared::schema::FieldErrors;

use crate::credentials::secret_names::SecretNames;
use crate::exchange::Log;
use crate::filter::Over;
use crate::logs::log_record::{self, REDACTED};
use crate::lua::{Expression, Scope, Table, Value, World};
use crate::stream::StreamLog;

/// What expressions may name: what Kong's plugin development kit calls it.
const SCOPE: Scope = Scope {
    tables: &[],
    functions: &[
        "kong.client.get_forwarded_ip",
        "kong.client.get_ip",
        "kong.request.get_header",
        "kong.request.get_host",
        "kong.request.get_method",
        "kong.request.get_path",
        "kong.request.get_query_arg",
        "kong.request.get_scheme",
        "kong.response.get_header",
        "kong.response.get_status",
        "kong.service.response.get_status",
    ],
};

/// How many names lead to a field at most.
const DEEPEST: usize = 16;

/// The fields, each with the way to it.
#[derive(Debug, Default)]
pub(crate) struct CustomFields(Vec<(Vec<String>, Expression)>);

impl CustomFields {
    /// Those of a configuration.
    pub(crate) fn compile(texts: Option<&BTreeMap<String, String>>) -> Result<Self, FieldErrors> {
        let fields = texts.into_iter().flatten().map(|(name, text)| {
            let compiled = Expression::compile_chunk(text, &SCOPE).map_err(|error| {
                let message = format!("Error parsing function: {error}");
                FieldErrors::at(&["custom_fields_by_lua"], message)
            })?;
            let way = way(name);
            if way.len() > DEEPEST {
                let message = format!("a field's name has at most {DEEPEST} parts between dots");
                return Err(FieldErrors::at(&["custom_fields_by_lua"], message));
            }
            Ok((way, compiled))
        });
        Ok(Self(fields.collect::<Result<_, FieldErrors>>()?))
    }

    /// The record of what is over.
    pub(crate) fn record(&self, over: Over<'_>) -> Json {
        match over {
            Over::Exchange(log) => self.change(log_record::record(log), log),
            Over::Stream(log) => self.change(log_record::stream_record(log), log),
        }
    }

    fn change(&self, mut record: Json, world: &impl World) -> Json {
        for (way, expression) in &self.0 {
            match expression.value(world) {
                Ok(value) => put(&mut record, way, json(&value)),
                Err(error) => {
                    let field = way.join(".");
                    // A client can bring this about.
                    tracing::debug!(
                        field,
                        error,
                        "a custom field of a log could not be evaluated"
                    );
                }
            }
        }
        record
    }
}

/// The names that a dot parts, unless a backslash stands before it.
fn way(name: &str) -> Vec<String> {
    let mut way = vec![String::new()];
    let mut rest = name.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            '.' => way.push(String::new()),
            '\\' if rest.peek() == Some(&'.') => {
                rest.next();
                way.last_mut().expect("there is one").push('.');
            }
            _ => way.last_mut().expect("there is one").push(character),
        }
    }
    way
}

/// Puts `value` where `way` leads, or takes away what stands there. What is no record is not looked into.
fn put(record: &mut Json, way: &[String], value: Option<Json>) {
    let (Some((name, rest)), Json::Object(fields)) = (way.split_first(), record) else {
        return;
    };
    match (rest.is_empty(), value) {
        (true, Some(value)) => _ = fields.insert(name.clone(), value),
        (true, None) => _ = fields.shift_remove(name),
        (false, None) => {
            if let Some(inner) = fields.get_mut(name) {
                put(inner, rest, None);
            }
        }
        (false, value) => {
            let inner = fields.entry(name.clone());
            put(
                inner.or_insert_with(|| Json::Object(Map::new())),
                rest,
                value,
            );
        }
    }
}

/// A value in a record; nothing for `nil` and what has no place in one.
fn json(value: &Value) -> Option<Json> {
    match value {
        Value::Nil | Value::Function(_) | Value::Table(Table::Named(_)) => None,
        Value::Boolean(truth) => Some(Json::Bool(*truth)),
        Value::Number(number) => {
            // Whole numbers are told as such.
            let whole = number.fract() == 0.0 && number.abs() < 1e15;
            let whole = whole.then(|| format!("{number:.0}").parse::<i64>().ok());
            whole.flatten().map_or_else(
                || Some(Json::from(*number)),
                |whole| Some(Json::from(whole)),
            )
        }
        Value::Text(text) => Some(Json::from(text.as_str())),
        Value::Table(Table::List(values)) => Some(values.iter().filter_map(json).collect()),
    }
}

/// A status, which a stream has as well.
fn status(status: http::StatusCode) -> Value {
    Value::Number(f64::from(status.as_u16()))
}

fn header(headers: &http::HeaderMap, secrets: &SecretNames, arguments: &[Value]) -> Value {
    let Some(Value::Text(name)) = arguments.first() else {
        return Value::Nil;
    };
    let name = name.to_ascii_lowercase().replace('_', "-");
    headers.get(&name).map_or(Value::Nil, |value| {
        Value::from(&*log_record::shown_field(&name, value, secrets))
    })
}

impl World for Log<'_> {
    fn look_up(&self, _: &str, _: &Value) -> Value {
        Value::Nil
    }

    fn call(&self, function: &str, arguments: &[Value]) -> Value {
        let client = &self.seen.client;
        match function {
            "kong.client.get_forwarded_ip" => Value::Text(client.address.to_string()),
            "kong.client.get_ip" => Value::Text(client.peer.to_string()),
            "kong.request.get_header" => {
                header(&self.seen.request.headers, self.secrets, arguments)
            }
            "kong.request.get_host" => Value::from(client.host()),
            "kong.request.get_method" => Value::from(self.seen.method.as_str()),
            "kong.request.get_path" => Value::from(self.seen.uri.path()),
            "kong.request.get_query_arg" => match arguments.first() {
                Some(Value::Text(name)) if self.secrets.has_argument(name) => Value::from(REDACTED),
                Some(Value::Text(name)) => {
                    let query = crate::credentials::arguments::Arguments::of(&self.seen.uri);
                    let found = query.values(name).next();
                    found.map_or(Value::Nil, |value| {
                        value.map_or(Value::Boolean(true), Value::from)
                    })
                }
                _ => Value::Nil,
            },
            "kong.request.get_scheme" => Value::from(if client.https { "https" } else { "http" }),
            "kong.response.get_header" => header(self.headers, self.secrets, arguments),
            "kong.response.get_status" => status(self.status),
            "kong.service.response.get_status" => self.upstream_status.map_or(Value::Nil, status),
            _ => Value::Nil,
        }
    }
}

impl World for StreamLog<'_> {
    fn look_up(&self, _: &str, _: &Value) -> Value {
        Value::Nil
    }

    fn call(&self, function: &str, _: &[Value]) -> Value {
        match function {
            "kong.client.get_forwarded_ip" | "kong.client.get_ip" => {
                Value::Text(self.client.to_string())
            }
            "kong.response.get_status" => status(self.status),
            _ => Value::Nil,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::bundled::line_logs::TcpLog;
    use crate::filter::{Instance, Plugin as _};
    use crate::host::Host as _;
    use crate::testing::{FakeHost, Request, log_of};

    /// What a `tcp-log` with these fields tells of a request.
    fn told(fields: &Json) -> Json {
        let config = json!({"host": "logs.example", "port": 1, "custom_fields_by_lua": fields});
        let config = crate::registry::check("tcp-log", &config).unwrap();
        let config: TcpLog = serde_json::from_value(config).unwrap();
        let filter = config.compile(&Instance { id: Uuid::nil() }).unwrap();
        let host = FakeHost::default();
        let mut request = Request::get("/a?x=1&code=secret");
        let name = http::HeaderName::from_static("x-tenant");
        request
            .headers
            .push((name, http::HeaderValue::from_static("blue")));
        log_of(&filter, &host, &request);
        host.run(host.sleep(std::time::Duration::from_secs(1)));
        let (_, line) = host.written().pop().unwrap();
        serde_json::from_slice(&line).unwrap()
    }

    #[test]
    fn fields_are_added_changed_and_taken_away() {
        let told = told(&json!({
            "number": "return 123",
            "half": "return 1 / 2;",
            "noted": "return 1 --[[ not - ]] + 2 -- 3",
            "route": "return nil",
            "response.status": "return kong.response.get_status() + 1",
            "response.headers": "return nil",
            "a.b.c": "return true",
            "dotted\\.name": "return 'x'",
            "client_ip.more": "return 1",
            "none.such": "return nil",
            "tenant": "return kong.request.get_header('X_Tenant'):upper() .. '-' .. kong.request.get_method()",
            "secret": "return kong.request.get_header('authorization') or kong.request.get_query_arg('code')",
            "argument": "return kong.request.get_query_arg(\"x\")",
            "broken": "return kong.request.get_header('none') .. 'x'",
        }));
        for (pointer, expected) in [
            ("/number", json!(123)),
            ("/half", json!(0.5)),
            ("/noted", json!(3)),
            ("/response/status", json!(201)),
            ("/a/b/c", json!(true)),
            ("/dotted.name", json!("x")),
            ("/client_ip", json!("127.0.0.1")),
            ("/tenant", json!("BLUE-GET")),
            ("/secret", json!("REDACTED")),
            ("/argument", json!("1")),
        ] {
            assert_eq!(told.pointer(pointer), Some(&expected), "{pointer}");
        }
        for pointer in ["/route", "/response/headers", "/none", "/broken"] {
            assert_eq!(told.pointer(pointer), None, "{pointer}");
        }
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        for (text, expected) in [
            ("1", "only 'return' with one expression is supported"),
            (
                "returning",
                "only 'return' with one expression is supported",
            ),
            ("return", "an expression is missing"),
            ("return 1 return 2", "unexpected 'return'"),
            (
                "return kong.request.get_raw_body()",
                "kong.request.get_raw_body is not supported",
            ),
        ] {
            let fields = BTreeMap::from([("a".to_owned(), text.to_owned())]);
            let errors = CustomFields::compile(Some(&fields)).unwrap_err();
            let expected = format!("Error parsing function: {expected}");
            assert_eq!(errors.by_field["custom_fields_by_lua"], expected, "{text}");
        }
        for (dots, fits) in [(15, true), (16, false), (100_000, false)] {
            let name = format!("a{}", ".a".repeat(dots));
            let fields = BTreeMap::from([(name, "return 1".to_owned())]);
            let compiled = CustomFields::compile(Some(&fields));
            assert_eq!(compiled.is_ok(), fits, "{dots}");
        }
    }

    #[test]
    fn a_host_is_told_without_its_port() {
        for (authority, expected) in [
            ("a.example", "a.example"),
            ("a.example:8443", "a.example"),
            ("[::1]", "[::1]"),
            ("[::1]:8443", "[::1]"),
            ("a.example:", "a.example:"),
        ] {
            Request::get("/").with_exchange(|exchange| {
                exchange.client.authority = authority.into();
                assert_eq!(exchange.client.host(), expected);
            });
        }
    }
}
