//! `correlation-id`: names each request, for all systems that it passes (Kong 3.9, correlation-id).

use std::cell::Cell;

use http::{HeaderMap, HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::schema::FieldErrors;
use uuid::{Builder, Uuid};

use crate::config::reserved_headers::Message;
use crate::exchange::{Client, Exchange, Reply};
use crate::filter::{Filter, Flow, Instance, Phases, Plugin};
use crate::glance::{self, Glance, Looks, Pass};
use crate::host::Host;
use crate::logs::log_record::Additions;

/// Configuration of `correlation-id`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct CorrelationId {
    /// Header that carries the name. One that the client sends is kept.
    #[serde(default = "header_name")]
    pub header_name: String,

    /// How a name is made.
    #[serde(default = "counter")]
    pub generator: Generator,

    /// Tells the client the name too.
    #[serde(default)]
    pub echo_downstream: bool,
}

/// A way to make names.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Generator {
    /// A random UUID for each request.
    #[serde(rename = "uuid")]
    Uuid,
    /// One UUID for each core, and a number.
    #[serde(rename = "uuid#counter")]
    UuidCounter,
    /// Address, port, process, a number, and the time.
    #[serde(rename = "tracker")]
    Tracker,
}

fn header_name() -> String {
    "Kong-Request-ID".to_owned()
}

const fn counter() -> Generator {
    Generator::UuidCounter
}

impl Plugin for CorrelationId {
    const NAME: &'static str = "correlation-id";
    const PRIORITY: u32 = 100_001;
    const DISPENSABLE: bool = true;
    type Filter = CorrelationIdFilter;

    fn compile(self, _: &Instance) -> Result<CorrelationIdFilter, FieldErrors> {
        let header = HeaderName::try_from(self.header_name.as_str())
            .map_err(|_| FieldErrors::at(&["header_name"], "bad header name"))?;
        if let Some(refusal) = Message::Own.refusal(&header) {
            return Err(FieldErrors::at(&["header_name"], refusal));
        }
        Ok(CorrelationIdFilter {
            header,
            generator: self.generator,
            echo: self.echo_downstream,
        })
    }
}

/// Names requests.
#[derive(Debug)]
pub struct CorrelationIdFilter {
    header: HeaderName,
    generator: Generator,
    echo: bool,
}

/// The name of this exchange, for the answer.
struct Named(HeaderValue);

/// What the names of one core are made of.
#[derive(Default)]
struct Sequence {
    uuid: Cell<Option<Uuid>>,
    count: Cell<u64>,
}

impl Filter for CorrelationIdFilter {
    fn looks(&self) -> Looks {
        match Message::Request.refusal(&self.header) {
            None => Looks::Sometimes,
            // The gateway sends its own in place of this one.
            Some(_) => Looks::Never,
        }
    }

    fn on_glance(&self, request: &Glance<'_>, pass: &mut Pass, host: &impl Host) -> Option<()> {
        match request.fields.value(&self.header) {
            glance::Value::Sole(given) if !given.is_empty() => Some(()),
            glance::Value::Missing => {
                let name = HeaderValue::from_str(&self.make(request.client, host)).ok()?;
                pass.fields.push((self.header.clone(), name));
                Some(())
            }
            glance::Value::Sole(_) | glance::Value::Repeated => None,
        }
    }

    async fn on_request(&self, exchange: &mut Exchange<'_>, host: &impl Host) -> Flow {
        let headers = &mut exchange.request.headers;
        let Some(name) = self.name(headers, &exchange.client, host) else {
            return Flow::Continue;
        };
        headers.insert(self.header.clone(), name.clone());
        let told = String::from_utf8_lossy(name.as_bytes());
        Additions::of(&mut exchange.notes).insert("correlation_id".to_owned(), told.into());
        if self.echo {
            exchange.notes.put(Named(name));
        }
        Flow::Continue
    }

    fn phases(&self) -> Phases {
        if self.echo {
            Phases::RESPONSE
        } else {
            Phases::NONE
        }
    }

    fn on_response(&self, reply: &mut Reply<'_>, host: &impl Host) {
        let seen = &reply.seen;
        let name = match seen.notes.get() {
            Some(Named(name)) => Some(name.clone()),
            // Of a request without a route only the answer is seen.
            None => self.name(&seen.request.headers, &seen.client, host),
        };
        if let Some(name) = name {
            reply.headers.insert(self.header.clone(), name);
        }
    }
}

impl CorrelationIdFilter {
    /// What a request with these fields is called.
    fn name(&self, headers: &HeaderMap, client: &Client, host: &impl Host) -> Option<HeaderValue> {
        let given = headers.get(&self.header).filter(|value| !value.is_empty());
        given
            .cloned()
            .or_else(|| HeaderValue::from_str(&self.make(client, host)).ok())
    }

    fn make(&self, client: &Client, host: &impl Host) -> String {
        let random = || {
            let mut bytes = [0; 16];
            host.random(&mut bytes);
            Builder::from_random_bytes(bytes).into_uuid()
        };
        let sequence = host.core_state::<Sequence>();
        let next = || {
            sequence.count.set(sequence.count.get() + 1);
            sequence.count.get()
        };
        match self.generator {
            Generator::Uuid => random().to_string(),
            Generator::UuidCounter => {
                let uuid = sequence.uuid.get().unwrap_or_else(random);
                sequence.uuid.set(Some(uuid));
                format!("{uuid}#{}", next())
            }
            Generator::Tracker => {
                let now = host.now().as_millis();
                let number = next();
                format!(
                    "{}-{}-{}-{number}-1-{}.{:03}",
                    client.peer,
                    client.port,
                    std::process::id(),
                    now / 1000,
                    now % 1000,
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use serde_json::{Value, json};

    use super::*;
    use crate::exchange::{BodyWish, Notes, Seen, Source};
    use crate::testing::{FakeHost, Request, answer_of};

    fn named(config: Value, request: &Request, host: &FakeHost) -> String {
        let config: CorrelationId = serde_json::from_value(config).unwrap();
        let filter = config.compile(&Instance { id: Uuid::nil() }).unwrap();
        let answer = answer_of(&filter, host, request);
        answer.upstream_header(filter.header.as_str())
    }

    #[test]
    fn rule_111_a_name_frames_no_message() {
        for name in ["Transfer-Encoding", "content-length", "Connection", "host"] {
            let config: CorrelationId =
                serde_json::from_value(json!({ "header_name": name })).unwrap();
            let refused = config.compile(&Instance { id: Uuid::nil() }).unwrap_err();
            assert!(refused.by_field.contains_key("header_name"), "{name}");
        }
    }

    #[test]
    fn a_name_is_made_unless_the_client_gives_one() {
        let host = FakeHost::default();
        let request = Request::get("/");
        let first = named(json!({}), &request, &host);
        let second = named(json!({}), &request, &host);
        let (uuid, number) = first.split_once('#').unwrap();
        assert!(Uuid::parse_str(uuid).is_ok() && number == "1", "{first}");
        assert_eq!(second, format!("{uuid}#2"));
        let alone = named(json!({"generator": "uuid"}), &request, &host);
        assert!(Uuid::parse_str(&alone).is_ok(), "{alone}");
        let tracker = named(json!({"generator": "tracker"}), &request, &host);
        assert_eq!(tracker.split('-').count(), 6, "{tracker}");
        let mut given = Request::get("/");
        let header = HeaderName::from_static("kong-request-id");
        given
            .headers
            .push((header, HeaderValue::from_static("mine")));
        assert_eq!(named(json!({}), &given, &host), "mine");
        given.headers.clear();
        let header = HeaderName::from_static("x-trace");
        given.headers.push((header, HeaderValue::from_static("")));
        let made = named(json!({"header_name": "X-Trace"}), &given, &host);
        assert!(made.contains('#'), "{made}");
    }

    #[test]
    fn a_glance_makes_a_name_unless_the_client_gives_one() {
        let filter = |config: Value| {
            let config: CorrelationId = serde_json::from_value(config).unwrap();
            config.compile(&Instance { id: Uuid::nil() }).unwrap()
        };
        let host = FakeHost::default();
        let named = filter(json!({"header_name": "X-Trace"}));
        let header = || HeaderName::from_static("x-trace");
        for (given, expected) in [
            (&[][..], Some(1)),
            (&["mine"], Some(0)),
            (&[""], None),
            (&["mine", "more"], None),
        ] {
            let mut request = Request::get("/");
            let given = given.iter().map(|text| HeaderValue::from_static(text));
            request.headers = given.map(|value| (header(), value)).collect();
            let made = request.glance(&named, &host).map(|pass| pass.fields);
            assert_eq!(
                made.as_ref().map(Vec::len),
                expected,
                "{:?}",
                request.headers
            );
            assert!(made.iter().flatten().all(|(name, _)| *name == header()));
        }
        assert_eq!(named.looks(), Looks::Sometimes);
        let via = filter(json!({"header_name": "Via"}));
        assert_eq!(via.looks(), Looks::Never);
    }

    #[test]
    fn an_answer_without_a_request_that_was_seen_is_named_all_the_same() {
        let config: CorrelationId =
            serde_json::from_value(json!({"echo_downstream": true})).unwrap();
        let filter = config.compile(&Instance { id: Uuid::nil() }).unwrap();
        let host = FakeHost::default();
        let mut request = Request::get("/");
        let shown = |request: &Request| {
            request.with_exchange(|exchange| {
                let mut seen = Seen {
                    method: exchange.request.method.clone(),
                    uri: exchange.request.uri.clone(),
                    request: exchange.request.clone(),
                    client: exchange.client.clone(),
                    identity: exchange.identity.clone(),
                    notes: Notes::default(),
                    request_id: exchange.request_id,
                };
                let (mut status, mut headers) = (StatusCode::NOT_FOUND, HeaderMap::new());
                let mut reply = Reply {
                    seen: &mut seen,
                    matched: None,
                    status: &mut status,
                    headers: &mut headers,
                    source: Source::Error,
                    wish: BodyWish::Nothing,
                    maps: Vec::new(),
                };
                filter.on_response(&mut reply, &host);
                headers["kong-request-id"].clone()
            })
        };
        assert!(shown(&request).to_str().unwrap().contains('#'));
        let header = HeaderName::from_static("kong-request-id");
        let given = HeaderValue::from_static("mine");
        request.headers.push((header, given));
        assert_eq!(shown(&request), "mine");
    }
}
