//! `http-log`: tells an HTTP server of each exchange (Kong 3.9, http-log).

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::schema::FieldErrors;
use url::Url;

use crate::config::values::{Number, SecretUrl, whole_error};
use crate::exchange::Log;
use crate::filter::{Filter, Instance, Phases, Plugin, Protocols};
use crate::host::{FetchLimits, Host, Reach, Waits};
use crate::logs::custom_fields::CustomFields;
use crate::logs::queue::{self, OldQueue, Outbox, QueueConfig};
use crate::stream::StreamLog;

/// Configuration of `http-log`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct HttpLog {
    /// URL that records are sent to. May hold a user name and a password.
    #[schemars(extend("x-referenceable" = true, "x-encrypted" = true))]
    pub http_endpoint: SecretUrl,

    /// Method to send them with.
    #[serde(default = "post")]
    pub method: SendMethod,

    /// Media type to send them as.
    #[serde(default = "json")]
    pub content_type: JsonMediaType,

    /// Longest wait for the server, in milliseconds.
    #[serde(default = "ten_seconds")]
    pub timeout: Number,

    /// How long an idle connection is kept, in milliseconds.
    #[serde(default = "one_minute")]
    pub keepalive: Number,

    /// Further header fields to send.
    #[serde(default)]
    #[schemars(extend("x-referenceable" = true))]
    pub headers: Option<BTreeMap<String, String>>,

    /// How records wait and are sent.
    #[serde(default)]
    pub queue: QueueConfig,

    /// Names of earlier versions.
    #[serde(flatten)]
    pub old_queue: OldQueue,

    /// Fields of records to add or change, or with `nil` to take away, with dots into records: `return` and an
    /// expression of Lua.
    #[serde(default)]
    pub custom_fields_by_lua: Option<BTreeMap<String, String>>,
}

/// A method that sends.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum SendMethod {
    /// `POST`.
    Post,
    /// `PUT`.
    Put,
    /// `PATCH`.
    Patch,
}

/// A media type of JSON.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum JsonMediaType {
    /// Without a charset.
    #[serde(rename = "application/json")]
    Plain,
    /// With one.
    #[serde(rename = "application/json; charset=utf-8")]
    Utf8,
}

const fn post() -> SendMethod {
    SendMethod::Post
}

const fn json() -> JsonMediaType {
    JsonMediaType::Plain
}

fn ten_seconds() -> Number {
    Number(10_000.into())
}

fn one_minute() -> Number {
    Number(60_000.into())
}

impl Plugin for HttpLog {
    const NAME: &'static str = "http-log";
    const PRIORITY: u32 = 12;
    const DISPENSABLE: bool = true;
    const PROTOCOLS: Protocols = Protocols::ALL;
    type Filter = HttpLogFilter;

    fn refuse(&self, errors: &mut FieldErrors) {
        let is_named = |name: &String| name.eq_ignore_ascii_case(AUTHORIZATION.as_str());
        let endpoint = Endpoint::parse(&self.http_endpoint.0);
        if self
            .headers
            .iter()
            .flatten()
            .any(|(name, _)| is_named(name))
            && endpoint.is_ok_and(|endpoint| endpoint.authorization.is_some())
        {
            whole_error(
                errors,
                "specifying both an 'Authorization' header and user info in 'http_endpoint' is not allowed",
            );
        }
    }

    fn compile(self, instance: &Instance) -> Result<HttpLogFilter, FieldErrors> {
        let endpoint = Endpoint::parse(&self.http_endpoint.0)
            .map_err(|message| FieldErrors::at(&["http_endpoint"], message))?;
        let mut headers = more_headers("headers", self.headers.as_ref())?;
        if let Some(authorization) = endpoint.authorization {
            headers.insert(AUTHORIZATION, authorization);
        }
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static(match self.content_type {
                JsonMediaType::Plain => "application/json",
                JsonMediaType::Utf8 => "application/json; charset=utf-8",
            }),
        );
        Ok(HttpLogFilter {
            custom: CustomFields::compile(self.custom_fields_by_lua.as_ref())?,
            target: Target {
                uri: endpoint.uri,
                method: match self.method {
                    SendMethod::Post => Method::POST,
                    SendMethod::Put => Method::PUT,
                    SendMethod::Patch => Method::PATCH,
                },
                headers,
                timeout: self.timeout.milliseconds(),
                waits: None,
            },
            outbox: Outbox::new(instance.id, self.old_queue.over(self.queue)),
        })
    }
}

/// Further header fields of a configuration. A name that is no header name, or has an invalid value, is
/// named.
pub(crate) fn more_headers(
    field: &str,
    texts: Option<&BTreeMap<String, String>>,
) -> Result<HeaderMap, FieldErrors> {
    let mut headers = HeaderMap::new();
    for (name, value) in texts.into_iter().flatten() {
        let wrong = |message: String| FieldErrors::at(&[field], message);
        let lower = name.to_ascii_lowercase();
        if lower == "host" {
            return Err(wrong("cannot contain 'Host' header".to_owned()));
        }
        if field == "headers" && lower == "content-length" {
            return Err(wrong("cannot contain 'Content-Length' header".to_owned()));
        }
        if field == "headers" && lower == "content-type" {
            return Err(wrong("cannot contain 'Content-Type' header".to_owned()));
        }
        let parsed = HeaderName::try_from(name.as_str()).map_err(|_| {
            wrong(format!(
                "bad header name '{name}', allowed characters are A-Z, a-z, 0-9, '_', and '-'"
            ))
        })?;
        let value = HeaderValue::from_str(value)
            .map_err(|_| wrong(format!("the value of '{name}' is none of a header")))?;
        headers.insert(parsed, value);
    }
    Ok(headers)
}

/// A URL to send to, its user name and password apart.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) uri: Uri,
    pub(crate) authorization: Option<HeaderValue>,
}

impl Endpoint {
    /// Reads an `http` or `https` URL; the error is Kong's.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        const WRONG: &str = "missing host in url";
        let mut url = Url::parse(text).map_err(|_| WRONG.to_owned())?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(WRONG.to_owned());
        }
        let decode = |text: &str| {
            form_urlencoded::parse(text.replace('+', "%2B").as_bytes())
                .next()
                .map(|(name, _)| name.into_owned())
                .unwrap_or_default()
        };
        let credentials = (!url.username().is_empty() || url.password().is_some()).then(|| {
            let password = url.password().unwrap_or_default();
            format!("{}:{}", decode(url.username()), decode(password))
        });
        let authorization = credentials.and_then(|credentials| {
            let text = format!("Basic {}", STANDARD.encode(credentials));
            let mut value = HeaderValue::from_str(&text).ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        // Without them, the URL stays one.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        Ok(Self {
            uri: url.as_str().parse().map_err(|_| WRONG.to_owned())?,
            authorization,
        })
    }
}

/// Tells a server of exchanges.
#[derive(Debug)]
pub struct HttpLogFilter {
    custom: CustomFields,
    target: Target,
    outbox: Outbox,
}

/// Where batches go and how.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) uri: Uri,
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    pub(crate) timeout: Duration,
    /// How long single steps may take, if that is known.
    pub(crate) waits: Option<Waits>,
}

impl Target {
    /// Sends one body; every status below 300 says that it was taken.
    pub(crate) async fn send(&self, host: &impl Host, body: Bytes) -> Result<(), String> {
        let mut request = http::Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        let limits = FetchLimits {
            timeout: self.timeout,
            waits: self.waits,
            body: 64 * 1024,
            verify_tls: false,
            certificate: None,
            proxies: None,
            keep_alive: true,
            http_1_0: false,
            repeatable: false,
            reach: Reach::Anywhere,
        };
        let answer = host
            .fetch(request, limits)
            .await
            .map_err(|error| error.to_string())?;
        let status = answer.status().as_u16();
        if status < 300 {
            return Ok(());
        }
        let (host, port) = (self.uri.host().unwrap_or_default(), self.uri.port_u16());
        let port = port.map_or_else(String::new, |port| format!(":{port}"));
        Err(format!(
            "request to {host}{port} returned status code {status}"
        ))
    }
}

impl Filter for HttpLogFilter {
    fn phases(&self) -> Phases {
        Phases::LOG
    }

    fn on_log(&self, log: &Log<'_>, host: &impl Host) {
        self.push(&self.custom.record(log), host);
    }

    fn on_stream_log(&self, log: &StreamLog<'_>, host: &impl Host) {
        self.push(&self.custom.stream_record(log), host);
    }
}

impl HttpLogFilter {
    fn push(&self, record: &Value, host: &impl Host) {
        let entry = Bytes::from(record.to_string());
        queue::push(host, &self.outbox, entry, || {
            let (host, target) = (host.clone(), self.target.clone());
            let single = self.outbox.batch_size() == 1;
            Rc::new(move |batch: Vec<Bytes>| {
                let (host, target) = (host.clone(), target.clone());
                Box::pin(async move {
                    let body = match batch.as_slice() {
                        [entry] if single => entry.clone(),
                        entries => {
                            Bytes::from([&b"["[..], &entries.join(&b","[..]), b"]"].concat())
                        }
                    };
                    target.send(&host, body).await
                })
            })
        });
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::testing::{FakeHost, Request, log_of};

    fn filter(config: Value) -> HttpLogFilter {
        let config: HttpLog = serde_json::from_value(config).unwrap();
        config.compile(&Instance { id: Uuid::nil() }).unwrap()
    }

    /// What the server was sent for `count` exchanges.
    fn sent(config: Value, count: usize) -> Vec<(http::request::Parts, Value)> {
        let host = FakeHost::default();
        let requests: Rc<RefCell<Vec<_>>> = Rc::default();
        let seen = Rc::clone(&requests);
        host.connect(Rc::new(move |request| {
            let (parts, body) = request.clone().into_parts();
            seen.borrow_mut()
                .push((parts, serde_json::from_slice(&body).unwrap()));
            Ok(http::Response::new(Bytes::new()))
        }));
        let filter = filter(config);
        for _ in 0..count {
            log_of(&filter, &host, &Request::get("/a?code=secret&x=1"));
        }
        host.run(host.sleep(Duration::from_secs(10)));
        requests.take()
    }

    #[test]
    fn each_exchange_is_told_without_its_secrets() {
        let config = json!({
            "http_endpoint": "http://user:pa%40ss@logs.example:8080/in", "headers": {"X-A": "1"},
        });
        let sent = sent(config, 1);
        let (parts, record) = &sent[0];
        assert_eq!(
            (&parts.method, parts.uri.to_string().as_str()),
            (&Method::POST, "http://logs.example:8080/in")
        );
        assert_eq!(parts.headers["content-type"], "application/json");
        assert_eq!(parts.headers["authorization"], "Basic dXNlcjpwYUBzcw==");
        assert_eq!(parts.headers["x-a"], "1");
        assert_eq!(record["request"]["uri"], "/a?code=REDACTED&x=1");
        assert_eq!(
            record["request"]["querystring"],
            json!({"code": "REDACTED", "x": "1"})
        );
        assert_eq!(record["request"]["headers"]["authorization"], "REDACTED");
        assert_eq!(record["upstream_uri"], "/up?code=REDACTED&x=1");
        assert_eq!(record["response"]["status"], 200);
        assert_eq!(
            record["latencies"],
            json!({"kong": 7, "proxy": 3, "request": 10, "receive": 5})
        );
        assert_eq!(record["source"], "upstream");
        assert_eq!(record["client_ip"], "127.0.0.1");
    }

    #[test]
    fn several_exchanges_are_told_together_on_wish() {
        let check = |more: Value, lengths: &[Option<usize>]| {
            let mut config = json!({"http_endpoint": "https://logs.example", "method": "PUT"});
            config
                .as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            let config = crate::registry::check("http-log", &config).unwrap();
            assert_eq!(
                config["queue_size"], more["queue_size"],
                "shown as it was said"
            );
            let sent = sent(config, 3);
            assert_eq!(sent[0].0.method, Method::PUT);
            let found = sent.iter().map(|(_, body)| body.as_array().map(Vec::len));
            assert_eq!(found.collect::<Vec<_>>(), lengths, "{more}");
        };
        let two = json!({"max_batch_size": 2});
        check(json!({}), &[None, None, None]);
        check(json!({ "queue": two }), &[Some(2), Some(1)]);
        // The names of earlier versions say so too, unless they say what was the default.
        check(json!({"queue_size": 2}), &[Some(2), Some(1)]);
        check(
            json!({"queue_size": 3, "flush_timeout": 5, "queue": two}),
            &[Some(3)],
        );
        check(
            json!({"queue_size": 1, "retry_count": 10, "queue": two}),
            &[Some(2), Some(1)],
        );
    }

    #[test]
    fn a_password_in_the_url_and_in_a_header_are_one_too_many() {
        let config = json!({"http_endpoint": "http://a:b@x", "headers": {"AuthoRIZATion": "c"}});
        let errors = crate::registry::check("http-log", &config).unwrap_err();
        let expected = "specifying both an 'Authorization' header and user info in 'http_endpoint' is not allowed";
        assert_eq!(errors.by_field["@entity"], expected);
    }

    #[test]
    fn what_cannot_be_sent_is_refused() {
        for config in [
            json!({"http_endpoint": "ftp://x"}),
            json!({"http_endpoint": "x"}),
            json!({"http_endpoint": "http://x", "headers": {"Host": "x"}}),
            json!({"http_endpoint": "http://x", "headers": {"Content-Type": "x"}}),
            json!({"http_endpoint": "http://x", "headers": {"X-A": ""}}),
            json!({"http_endpoint": "http://x", "custom_fields_by_lua": {"a": "os.exit()"}}),
        ] {
            assert!(
                crate::registry::check("http-log", &config).is_err(),
                "{config}"
            );
        }
    }
}
