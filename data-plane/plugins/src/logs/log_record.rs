//! An exchange as log plugins report it: Kong 3.9's fields, without secrets.

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue};
use serde_json::{Map, Value, json};

use crate::credentials::arguments::Arguments;
use crate::credentials::secret_names::{self, SecretNames};
use crate::exchange::{Log, Matched, Notes, Source, TlsSession, Try, Workspace};
use crate::stream::StreamLog;

/// A note of what filters add to the record of an exchange.
#[derive(Debug, Default)]
pub(crate) struct Additions(Map<String, Value>);

impl Additions {
    /// Those of an exchange with these notes, to be added to.
    pub(crate) fn of(notes: &mut Notes) -> &mut Map<String, Value> {
        if notes.get::<Self>().is_none() {
            notes.put(Self::default());
        }
        &mut notes.get_mut::<Self>().expect("it has just been put").0
    }
}

/// What is told in place of a secret.
pub(crate) const REDACTED: &str = "REDACTED";

/// The record of an exchange.
pub(crate) fn record(log: &Log<'_>) -> Value {
    let (seen, secrets) = (log.seen, log.secrets);
    let query = Arguments::of(&seen.uri);
    let identity = &seen.identity;
    let mut record = json!({
        "request": {
            "id": seen.request_id,
            "method": seen.method.as_str(),
            "uri": target(&seen.uri, &query, secrets),
            "url": url(log, &query),
            "querystring": arguments(&query, secrets),
            "headers": fields(&seen.request.headers, secrets),
            "size": log.received,
        },
        "upstream_uri": upstream_target(log.upstream_uri, secrets),
        "upstream_status": upstream_status(log),
        "response": {
            "status": log.status.as_u16(),
            "headers": fields(log.headers, secrets),
            "size": log.sent,
        },
        "latencies": {
            "kong": log.latencies.kong + log.latencies.receive,
            "proxy": log.latencies.proxy.map_or(json!(-1), |proxy| json!(proxy)),
            "request": log.latencies.request,
            "receive": log.latencies.receive,
        },
        "tries": tries(log.tries),
        "client_ip": seen.client.address,
        "started_at": log.started_at.as_millis(),
        "source": match log.source {
            Source::Service => "upstream",
            Source::Error | Source::Exit => "kong",
        },
    });
    if let (Some(tls), Some(request)) = (log.tls, record.get_mut("request")) {
        put(
            request,
            "tls",
            session(tls, seen.client.certificate.is_some()),
        );
    }
    place(&mut record, log.matched);
    let mut put = |name: &str, value: Value| put(&mut record, name, value);
    if let Some(consumer) = &identity.consumer {
        put("consumer", json!(consumer));
    }
    if let Some(credential) = &identity.credential {
        put("authenticated_entity", json!({ "id": credential }));
    }
    if let Some(Additions(additions)) = seen.notes.get() {
        for (name, value) in additions {
            put(name, value.clone());
        }
    }
    record
}

/// The status of each server that was asked, in order.
fn upstream_status(log: &Log<'_>) -> String {
    let failed = log.tries.iter().filter_map(|one| one.failed);
    let answered = log.upstream_status.map(|status| status.as_u16());
    let all: Vec<_> = failed
        .chain(answered)
        .map(|status| status.to_string())
        .collect();
    all.join(", ")
}

/// The record of a byte stream.
pub(crate) fn stream_record(log: &StreamLog<'_>) -> Value {
    // What goes to one side comes from the other.
    let (received, sent) = if log.connected {
        (log.sent, log.received)
    } else {
        (0, 0)
    };
    let mut record = json!({
        "session": {
            "received": log.received,
            "sent": log.sent,
            "status": log.status.as_u16(),
            "server_port": log.port,
        },
        "upstream": { "received": received, "sent": sent },
        "latencies": { "kong": log.kong, "session": log.session },
        "tries": tries(log.tries),
        "client_ip": log.client,
        "started_at": log.started_at.as_millis(),
    });
    if let (Some(tls), Some(told)) = (log.tls, record.get_mut("session")) {
        put(told, "tls", session(tls, false));
    }
    place(&mut record, Some(log.matched));
    record
}

/// The TLS that a client spoke, who has shown a certificate or not.
fn session(tls: TlsSession, certified: bool) -> Value {
    let mut told = json!({"version": tls.version, "cipher": tls.cipher});
    if !certified {
        // One that is there is taken from whoever has issued it: nothing has been verified.
        put(&mut told, "client_verify", json!("NONE"));
    }
    told
}

fn tries(tries: &[Try]) -> Value {
    tries.iter().map(told).collect()
}

/// Says which route and service a record is of, and the workspace that they are in.
fn place(record: &mut Value, matched: Option<&Matched>) {
    let records = matched.and_then(|matched| matched.records.as_ref());
    let workspace = records.map(|records| records.workspace.clone());
    let Workspace { id, name } = workspace.unwrap_or_default();
    put(record, "workspace", json!(id));
    put(record, "workspace_name", json!(&*name));
    if let Some(records) = records {
        put(record, "route", (*records.route).clone());
        if !records.service.is_null() {
            put(record, "service", (*records.service).clone());
        }
    }
}

fn put(record: &mut Value, name: &str, value: Value) {
    if let Value::Object(map) = record {
        map.insert(name.to_owned(), value);
    }
}

/// An attempt.
fn told(one: &Try) -> Value {
    let mut told = json!({
        "ip": one.host,
        "port": one.port,
        "balancer_start": one.started_at,
        "balancer_start_ns": one.started_at.saturating_mul(1_000_000),
        "balancer_latency": one.chosen_within / 1_000_000,
        "balancer_latency_ns": one.chosen_within,
    });
    if let Some(status) = one.failed {
        put(&mut told, "state", json!("failed"));
        put(&mut told, "code", json!(status));
    }
    told
}

/// Path and query that the client has sent, without secrets.
pub(crate) fn shown_target(log: &Log<'_>) -> String {
    let uri = &log.seen.uri;
    target(uri, &Arguments::of(uri), log.secrets)
}

fn target(uri: &http::Uri, query: &Arguments, secrets: &SecretNames) -> String {
    let whole = uri.path_and_query();
    let target = whole.map_or(uri.path(), |target| target.as_str());
    redacted(target, query, secrets)
}

fn upstream_target(target: &str, secrets: &SecretNames) -> String {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    redacted(target, &Arguments::parse(query), secrets)
}

/// `target`, whose query is `query`, without secrets.
fn redacted(target: &str, query: &Arguments, secrets: &SecretNames) -> String {
    let is_secret = |name: &str| secrets.has_argument(name);
    if !query.iter().any(|(name, _)| is_secret(name)) {
        return target.to_owned();
    }
    let path = target.split('?').next().unwrap_or_default();
    let mut shown = Arguments::default();
    for (name, value) in query.iter() {
        shown.push(name, if is_secret(name) { REDACTED } else { value });
    }
    format!("{path}?{}", shown.encode())
}

fn url(log: &Log<'_>, query: &Arguments) -> String {
    let client = &log.seen.client;
    let scheme = if client.https { "https" } else { "http" };
    // The port that the client has come to, whichever it has asked for, as Kong tells it.
    let (host, port) = (client.host(), client.port);
    format!(
        "{scheme}://{host}:{port}{}",
        target(&log.seen.uri, query, log.secrets)
    )
}

fn arguments(query: &Arguments, secrets: &SecretNames) -> Value {
    grouped(query.shown().map(|(name, value)| {
        let shown = if secrets.has_argument(name) {
            json!(REDACTED)
        } else {
            value
        };
        (name, shown)
    }))
}

fn fields(headers: &HeaderMap, secrets: &SecretNames) -> Value {
    grouped(headers.iter().map(|(name, value)| {
        let name = name.as_str();
        (name, json!(shown_field(name, value, secrets)))
    }))
}

/// The value of the header field `name`, in lower case, without secrets.
pub(crate) fn shown_field<'a>(
    name: &str,
    value: &'a HeaderValue,
    secrets: &SecretNames,
) -> Cow<'a, str> {
    let text = String::from_utf8_lossy(value.as_bytes());
    if secrets.has_field(name) {
        Cow::Borrowed(REDACTED)
    } else if secret_names::URLS.contains(&name) {
        Cow::Owned(secrets.redact_url(&text, REDACTED))
    } else {
        text
    }
}

/// Names with one value, or a list of them.
pub(crate) fn grouped<'a>(pairs: impl Iterator<Item = (&'a str, Value)>) -> Value {
    let mut map = Map::new();
    for (name, value) in pairs {
        match map.get_mut(name) {
            None => _ = map.insert(name.to_owned(), value),
            Some(Value::Array(list)) => list.push(value),
            Some(first) => *first = json!([first.take(), value]),
        }
    }
    Value::Object(map)
}

#[cfg(test)]
mod tests {
    use http::HeaderName;
    use uuid::Uuid;

    use super::*;
    use crate::bundled::line_logs::FileLog;
    use crate::filter::{Instance, Plugin as _};
    use crate::host::Host as _;
    use crate::testing::{FakeHost, Request, log_of};

    #[test]
    fn rule_129_what_stands_under_configured_names_is_not_told() {
        let fields = json!({
            "url": "return kong.request.get_header('referer')",
            "field": "return kong.request.get_header('X_Tok')",
            "argument": "return kong.request.get_query_arg('RT')",
            "answer": "return kong.response.get_header('x-answer')",
        });
        let config = json!({"path": "/tmp/a.log", "custom_fields_by_lua": fields});
        let config: FileLog = serde_json::from_value(config).unwrap();
        let filter = config.compile(&Instance { id: Uuid::nil() }).unwrap();
        let mut request = Request::get("/a?rt=canary&art=shown&RT=canary");
        for (name, value) in [
            ("x-tok", "canary"),
            ("x-token", "shown"),
            (
                "referer",
                "https://a.example/?rt=canary&a=1#id_token=canary",
            ),
            (
                "location",
                "https://idp.example/end?id_token_hint=canary&a=1",
            ),
        ] {
            let name = HeaderName::from_static(name);
            request
                .headers
                .push((name, HeaderValue::from_static(value)));
        }
        let told = |request: &Request| -> Value {
            let host = FakeHost::default();
            log_of(&filter, &host, request);
            host.run(host.sleep(std::time::Duration::from_secs(1)));
            let (_, line) = host.written().pop().unwrap();
            serde_json::from_slice(&line).unwrap()
        };
        let failed = Try {
            failed: Some(502),
            started_at: 7,
            ..Try::default()
        };
        request.tries.insert(0, failed);
        let plain = told(&request);
        assert_eq!(plain["tries"][0]["balancer_start_ns"], 7_000_000);
        assert_eq!(plain["upstream_status"], "502, 200");
        assert_eq!(plain["request"]["querystring"]["rt"], "canary");
        assert_eq!(plain["response"]["headers"]["x-answer"], "42");
        request.secrets = SecretNames {
            arguments: vec!["rt".to_owned()],
            fields: ["x-tok", "x-answer"].map(HeaderName::from_static).into(),
        };
        let told = told(&request);
        assert!(!told.to_string().contains("canary"), "{told}");
        for (pointer, expected) in [
            ("/request/uri", "/a?rt=REDACTED&art=shown&RT=REDACTED"),
            ("/request/querystring/rt", REDACTED),
            ("/request/querystring/art", "shown"),
            ("/request/headers/x-tok", REDACTED),
            ("/request/headers/x-token", "shown"),
            ("/response/headers/x-answer", REDACTED),
            (
                "/request/headers/referer",
                "https://a.example/?rt=REDACTED&a=1#id_token=REDACTED",
            ),
            (
                "/request/headers/location",
                "https://idp.example/end?id_token_hint=REDACTED&a=1",
            ),
            (
                "/url",
                "https://a.example/?rt=REDACTED&a=1#id_token=REDACTED",
            ),
            ("/field", REDACTED),
            ("/argument", REDACTED),
            ("/answer", REDACTED),
        ] {
            assert_eq!(told.pointer(pointer), Some(&json!(expected)), "{pointer}");
        }
        // What the upstream was asked for, which a filter may have changed.
        let asked = upstream_target("/b?art=shown&Rt=canary", &request.secrets);
        assert_eq!(asked, "/b?art=shown&Rt=REDACTED");
    }
}
