//! The spans of one exchange or stream, as Kong 3.9 makes them: one for the request, one for what the gateway does with
//! it, and one for each server that was tried.

use std::net::IpAddr;

use http::Version;
use serde_json::{Map, Value, json};
use shared::hexadecimal::hexadecimal;

use super::{PhaseFlavor, SpanName, Zipkin};
use crate::exchange::{Log, Matched, Try};
use crate::stream::StreamLog;
use crate::trace::Trace;

type Tags = Map<String, Value>;

/// What the spans of an exchange and those of a stream have in common.
struct Told<'a> {
    config: &'a Zipkin,
    trace: &'a Trace,
    name: String,
    /// Of the request's span.
    tags: Tags,
    /// Phases of the request's span and of the proxy's.
    phases: [Vec<Phase>; 2],
    /// Address and, if it is known, port.
    client: (IpAddr, Option<u16>),
    matched: Option<&'a Matched>,
    tries: &'a [Try],
    /// In microseconds.
    begin: u64,
    duration: u64,
}

/// What the gateway did from when to when, in microseconds: as annotations call it, and as tags do.
struct Phase {
    letter: char,
    tag: &'static str,
    begin: u64,
    end: u64,
}

const fn microseconds(milliseconds: u64) -> u64 {
    milliseconds * 1000
}

/// The spans of an exchange on the node `node`; `tags` are those that the client adds.
pub(super) fn of_exchange(
    config: &Zipkin,
    trace: &Trace,
    tags: &[(String, String)],
    log: &Log<'_>,
    node: &str,
) -> Vec<Value> {
    let seen = log.seen;
    let method = seen.method.as_str();
    let path = seen.uri.path();
    let mut all = common_tags(config, node);
    for (name, value) in tags {
        put(&mut all, name, value);
    }
    put(&mut all, "http.method", method);
    // Without the port, as Kong tells it.
    put(&mut all, "http.host", seen.client.host());
    put(&mut all, "http.path", path);
    put(&mut all, "http.status_code", log.status.as_str());
    let protocol = match seen.request.version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    };
    put(&mut all, "http.protocol", protocol);
    if let Some(consumer) = &seen.identity.consumer {
        put(&mut all, "kong.consumer", &consumer.id.to_string());
    }
    if config.include_credential
        && let Some(credential) = &seen.identity.credential
    {
        put(&mut all, "kong.credential", credential);
    }
    let latencies = &log.latencies;
    let begin = microseconds(log.started_at.as_millis());
    let duration = microseconds(latencies.request);
    let asked = begin + microseconds(latencies.kong);
    let answered =
        (asked + microseconds(latencies.proxy.unwrap_or_default())).min(begin + duration);
    let phase = |letter, tag, begin, end| Phase {
        letter,
        tag,
        begin,
        end,
    };
    let told = Told {
        config,
        trace,
        name: match config.http_span_name {
            SpanName::Method => method.to_owned(),
            SpanName::MethodPath => format!("{method} {path}"),
        },
        tags: all,
        phases: [
            vec![phase('r', "kong.rewrite.duration_ms", begin, begin)],
            vec![
                phase('a', "kong.access.duration_ms", begin, asked),
                phase('h', "kong.header_filter.duration_ms", answered, answered),
                phase(
                    'b',
                    "kong.body_filter.duration_ms",
                    answered,
                    begin + duration,
                ),
            ],
        ],
        client: (seen.client.address, seen.client.source_port),
        matched: log.matched,
        tries: log.tries,
        begin,
        duration,
    };
    told.spans()
}

/// The spans of a stream on the node `node`.
pub(super) fn of_stream(
    config: &Zipkin,
    trace: &Trace,
    log: &StreamLog<'_>,
    node: &str,
) -> Vec<Value> {
    let begin = microseconds(log.started_at.as_millis());
    let preread = Phase {
        letter: 'p',
        tag: "kong.preread.duration_ms",
        begin,
        end: begin + microseconds(log.kong),
    };
    let told = Told {
        config,
        trace,
        name: "stream".to_owned(),
        tags: common_tags(config, node),
        phases: [Vec::new(), vec![preread]],
        client: (log.client, Some(log.client_port)),
        matched: Some(log.matched),
        tries: log.tries,
        begin,
        duration: microseconds(log.session),
    };
    told.spans()
}

fn common_tags(config: &Zipkin, node: &str) -> Tags {
    let mut tags = Tags::new();
    put(&mut tags, "lc", "kong");
    put(&mut tags, "kong.node.id", node);
    for tag in config.static_tags.iter().flatten() {
        put(&mut tags, &tag.name, &tag.value);
    }
    tags
}

fn put(tags: &mut Tags, name: &str, value: &str) {
    tags.insert(name.to_owned(), value.into());
}

impl Told<'_> {
    fn spans(mut self) -> Vec<Value> {
        let tags = std::mem::take(&mut self.tags);
        let mut proxy_tags = Tags::new();
        let [of_request, of_proxy] = std::mem::take(&mut self.phases);
        let Trace {
            server,
            client,
            caller,
            ..
        } = *self.trace;
        let (begin, duration) = (self.begin, self.duration);
        let mut request = self.span(server, "SERVER", &self.name, begin, duration);
        request.insert(
            "parentId".to_owned(),
            caller.map(|id| hexadecimal(&id)).into(),
        );
        let (address, port) = self.client;
        let remote = endpoint(Some(address), port, None);
        request.insert("remoteEndpoint".to_owned(), remote);
        self.finish(&mut request, tags, &of_request);
        self.place(&mut proxy_tags);
        let name = format!("{} (proxy)", self.name);
        let mut proxy = self.span(client, "CLIENT", &name, begin, duration);
        if let Some(last) = self.tries.last() {
            put(&mut proxy_tags, "peer.hostname", &last.name);
        }
        proxy.insert("remoteEndpoint".to_owned(), self.server(self.tries.last()));
        self.finish(&mut proxy, proxy_tags, &of_proxy);
        let mut spans = vec![Value::Object(request), Value::Object(proxy)];
        spans.extend(
            (1..)
                .zip(self.tries)
                .map(|(number, one)| self.attempt(number, one)),
        );
        spans
    }

    /// The span of an attempt, which is of the length that it took to choose the server.
    fn attempt(&self, number: u64, one: &Try) -> Value {
        let id = u64::from_be_bytes(self.trace.client)
            .wrapping_add(number)
            .to_be_bytes();
        let name = format!("{} (balancer try {number})", self.name);
        let begin = microseconds(one.started_at);
        let mut span = self.span(id, "CLIENT", &name, begin, one.chosen_within / 1000);
        let mut tags = Tags::new();
        put(&mut tags, "kong.balancer.try", &number.to_string());
        if let Some(code) = one.failed {
            put(&mut tags, "error", "true");
            put(&mut tags, "kong.balancer.state", "failed");
            put(&mut tags, "http.status_code", &code.to_string());
        }
        self.place(&mut tags);
        span.insert("remoteEndpoint".to_owned(), self.server(Some(one)));
        self.finish(&mut span, tags, &[]);
        Value::Object(span)
    }

    fn span(&self, id: [u8; 8], kind: &str, name: &str, begin: u64, duration: u64) -> Tags {
        let local = json!({ "serviceName": self.config.local_service_name });
        let span = json!({
            "traceId": self.trace.short_id(),
            "id": hexadecimal(&id),
            "parentId": hexadecimal(&self.trace.server),
            "kind": kind,
            "name": name,
            "timestamp": begin,
            "duration": duration.max(1),
            "localEndpoint": local,
        });
        match span {
            Value::Object(span) => span,
            _ => Tags::new(),
        }
    }

    /// Says of `span` what took how long, and gives it its `tags`.
    fn finish(&self, span: &mut Tags, mut tags: Tags, phases: &[Phase]) {
        match self.config.phase_duration_flavor {
            PhaseFlavor::Annotations => {
                let annotations = phases.iter().flat_map(|phase| {
                    [('s', phase.begin), ('f', phase.end)].map(|(side, timestamp)| {
                        json!({ "value": format!("k{}{side}", phase.letter), "timestamp": timestamp })
                    })
                });
                let annotations: Vec<Value> = annotations.collect();
                if !annotations.is_empty() {
                    span.insert("annotations".to_owned(), annotations.into());
                }
            }
            PhaseFlavor::Tags => {
                for phase in phases {
                    let milliseconds = (phase.end - phase.begin) / 1000;
                    put(&mut tags, phase.tag, &milliseconds.to_string());
                }
            }
        }
        if !tags.is_empty() {
            span.insert("tags".to_owned(), tags.into());
        }
    }

    /// Tells of route and service.
    fn place(&self, tags: &mut Tags) {
        let Some(matched) = self.matched else {
            return;
        };
        for (named, id, name) in [
            (Some(&matched.route), "kong.route", "kong.route_name"),
            (
                matched.service.as_ref(),
                "kong.service",
                "kong.service_name",
            ),
        ] {
            let Some(named) = named else {
                continue;
            };
            put(tags, id, &named.id.to_string());
            if let Some(text) = &named.name {
                put(tags, name, text);
            }
        }
    }

    /// The server of an attempt.
    fn server(&self, attempt: Option<&Try>) -> Value {
        let service = self.matched.and_then(|matched| matched.service.as_ref());
        let name = service.and_then(|service| service.name.as_deref());
        let name = name.or(self.config.default_service_name.as_deref());
        let address = attempt.and_then(|attempt| attempt.host.parse().ok());
        endpoint(address, attempt.map(|attempt| attempt.port), name)
    }
}

/// An endpoint as Zipkin has it; null if nothing is known of it.
fn endpoint(address: Option<IpAddr>, port: Option<u16>, name: Option<&str>) -> Value {
    let mut endpoint = Tags::new();
    if let Some(name) = name {
        put(&mut endpoint, "serviceName", name);
    }
    if let Some(address) = address {
        let version = if address.is_ipv4() { "ipv4" } else { "ipv6" };
        put(&mut endpoint, version, &address.to_string());
    }
    if let Some(port) = port {
        endpoint.insert("port".to_owned(), port.into());
    }
    if endpoint.is_empty() {
        Value::Null
    } else {
        endpoint.into()
    }
}
