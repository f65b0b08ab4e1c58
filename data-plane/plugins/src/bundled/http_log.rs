//! `http-log`: sends a record of each exchange to an HTTP server (Kong 3.9, http-log).

use std::collections::BTreeMap;

use bytes::Bytes;
use http::Method;
use http::header::AUTHORIZATION;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::schema::FieldErrors;

use crate::config::values::{Number, SecretUrl, whole_error};
use crate::filter::{Filter, Instance, Over, Phases, Plugin, Protocols};
use crate::host::Host;
use crate::logs::custom_fields::CustomFields;
use crate::logs::http_target::{self, Endpoint, HttpTarget, more_headers};
use crate::logs::queue::{OldQueue, Outbox, QueueConfig};

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
    #[serde(default = "Number::of::<10_000>")]
    pub timeout: Number,

    /// How long an idle connection is kept, in milliseconds.
    #[serde(default = "Number::of::<60_000>")]
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
        let headers = more_headers("headers", self.headers.as_ref())?;
        let media_type = match self.content_type {
            JsonMediaType::Plain => "application/json",
            JsonMediaType::Utf8 => "application/json; charset=utf-8",
        };
        let target = HttpTarget::new("http_endpoint", &self.http_endpoint, headers, media_type)?;
        Ok(HttpLogFilter {
            custom: CustomFields::compile(self.custom_fields_by_lua.as_ref())?,
            target: HttpTarget {
                method: match self.method {
                    SendMethod::Post => Method::POST,
                    SendMethod::Put => Method::PUT,
                    SendMethod::Patch => Method::PATCH,
                },
                timeout: self.timeout.milliseconds(),
                ..target
            },
            outbox: Outbox::new(instance.id, self.old_queue.over(self.queue)),
        })
    }
}

/// Tells a server of exchanges.
#[derive(Debug)]
pub struct HttpLogFilter {
    custom: CustomFields,
    target: HttpTarget,
    outbox: Outbox,
}

impl Filter for HttpLogFilter {
    fn phases(&self) -> Phases {
        Phases::LOG
    }

    fn on_log(&self, over: Over<'_>, host: &impl Host) {
        let entry = Bytes::from(self.custom.record(over).to_string());
        let single = self.outbox.batch_size() == 1;
        self.target.push(host, &self.outbox, entry, || {
            move |batch: &[Bytes]| match batch {
                [entry] if single => entry.clone(),
                entries => http_target::list(entries),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::time::Duration;

    use serde_json::{Value, json};
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
