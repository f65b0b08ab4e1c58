//! `opentelemetry`: tells a collector of traces, and of exchanges as a log (OTLP over HTTP; Kong 3.9, opentelemetry).

mod otlp;

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::hexadecimal::hexadecimal;
use shared::schema::FieldErrors;

use self::otlp::records;
use crate::config::values::{Number, SecretUrl};
use crate::exchange::{Exchange, Reply, Seen};
use crate::filter::{Filter, Flow, Instance, Over, Phases, Plugin};
use crate::host::{Host, Waits};
use crate::logs::http_target::{HttpTarget, more_headers};
use crate::logs::queue::{Outbox, QueueConfig};
use crate::trace::{Carrier, InjectFormat, Propagation, Sampling, Trace, response_header};

/// Configuration of `opentelemetry`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Opentelemetry {
    /// URL of the collector for traces.
    #[serde(default)]
    #[schemars(extend("x-referenceable" = true))]
    pub traces_endpoint: Option<SecretUrl>,

    /// URL of the collector for logs: it is sent a record of each exchange.
    #[serde(default)]
    #[schemars(extend("x-referenceable" = true))]
    pub logs_endpoint: Option<SecretUrl>,

    /// Further header fields to send.
    #[serde(default)]
    #[schemars(extend("x-referenceable" = true))]
    pub headers: Option<BTreeMap<String, String>>,

    /// What the gateway calls itself: `service.name` and the like.
    #[serde(default)]
    pub resource_attributes: Option<BTreeMap<String, String>>,

    /// How spans wait and are sent.
    #[serde(default = "large_batches")]
    pub queue: QueueConfig,

    /// Use `queue.max_batch_size`.
    #[serde(default)]
    pub batch_span_count: Option<i64>,

    /// Use `queue.max_coalescing_delay`.
    #[serde(default)]
    pub batch_flush_delay: Option<i64>,

    /// Longest wait for a connection, in milliseconds.
    #[serde(default = "Number::of::<1000>")]
    pub connect_timeout: Number,

    /// Longest wait while sending, in milliseconds.
    #[serde(default = "Number::of::<5000>")]
    pub send_timeout: Number,

    /// Longest wait for the answer, in milliseconds.
    #[serde(default = "Number::of::<5000>")]
    pub read_timeout: Number,

    /// Response header that tells the client the trace's id.
    #[serde(default)]
    pub http_response_header_for_traceid: Option<String>,

    /// Format that the upstream is told in.
    #[serde(default)]
    pub header_type: Option<InjectFormat>,

    /// Share of traces that is kept, from 0 to 1, unless their callers want none of them; that of the node,
    /// `tracing_sampling_rate`, if absent. The trace's id decides, so that all gateways on the way keep the same ones.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1))]
    pub sampling_rate: Option<Number>,

    /// How trace context is read and told.
    #[serde(default)]
    pub propagation: Propagation,
}

fn large_batches() -> QueueConfig {
    QueueConfig {
        max_batch_size: 200,
        ..QueueConfig::default()
    }
}

impl Plugin for Opentelemetry {
    const NAME: &'static str = "opentelemetry";
    const PRIORITY: u32 = 14;
    const DISPENSABLE: bool = true;
    const SHORTHANDS: &'static [(&'static str, &'static str)] = &[("endpoint", "traces_endpoint")];
    const SHOWS_OLD_NAMES: bool = true;
    type Filter = OpentelemetryFilter;

    fn compile(self, instance: &Instance) -> Result<OpentelemetryFilter, FieldErrors> {
        let traces = self.traces_endpoint.as_ref();
        let logs = self.logs_endpoint.as_ref();
        if traces.or(logs).is_none() {
            let mut errors = FieldErrors::default();
            errors.add_rule("at least one of these fields must be non-empty: 'config.traces_endpoint', 'config.logs_endpoint'");
            return Err(errors);
        }
        let headers = more_headers("headers", self.headers.as_ref())?;
        let waits = Waits {
            connect: self.connect_timeout.milliseconds(),
            send: self.send_timeout.milliseconds(),
            read: self.read_timeout.milliseconds(),
        };
        // What was the default says nothing, as in Kong 3.9.
        let delay = self.batch_flush_delay.filter(|delay| *delay != 3);
        let delay = delay.map(|delay| Number(delay.into()));
        let size = self.batch_span_count.filter(|count| *count != 200);
        let queue = self.queue.with(size, delay.as_ref());
        let channel = |field: &'static str, url: &SecretUrl| {
            let target = HttpTarget::new(field, url, headers.clone(), "application/x-protobuf")?;
            Ok::<_, FieldErrors>(Box::new(Channel {
                target: target.within(waits),
                outbox: Outbox::new(instance.id, queue.clone()).of_part(field),
            }))
        };
        let traces = traces.map(|url| channel("traces_endpoint", url));
        let logs = logs.map(|url| channel("logs_endpoint", url));
        let mut carrier = Carrier::new(&self.propagation)
            .ok_or_else(|| FieldErrors::at(&["propagation", "clear"], "bad header name"))?;
        if let Some(format) = self.header_type
            && !self.propagation.is_told()
        {
            carrier = carrier.told_in(format);
        }
        let shown = response_header(self.http_response_header_for_traceid.as_deref())?;
        Ok(OpentelemetryFilter {
            traces: traces.transpose()?,
            logs: logs.transpose()?,
            carrier,
            sampling_rate: self.sampling_rate.map(|rate| rate.value()),
            shown,
            resource: otlp::resource(self.resource_attributes.unwrap_or_default()),
        })
    }
}

/// Where something is told, and what waits for that.
#[derive(Debug)]
struct Channel {
    target: HttpTarget,
    outbox: Outbox,
}

/// Traces exchanges, and tells of them.
#[derive(Debug)]
pub struct OpentelemetryFilter {
    /// Of traces. Without it there are none: they are not even passed on.
    traces: Option<Box<Channel>>,
    logs: Option<Box<Channel>>,
    carrier: Carrier,
    /// None leaves it to the node.
    sampling_rate: Option<f64>,
    shown: Option<HeaderName>,
    resource: otlp::Resource,
}

/// The trace of this exchange, as this plugin has it.
struct Traced(Trace);

impl Filter for OpentelemetryFilter {
    async fn on_request(&self, exchange: &mut Exchange<'_>, host: &impl Host) -> Flow {
        if self.traces.is_some() {
            let sampling = self.sampling(host);
            let trace = self.carrier.carry(exchange, sampling, true, host);
            exchange.notes.put(Traced(trace));
        }
        Flow::Continue
    }

    fn phases(&self) -> Phases {
        Phases::ALL
    }

    fn on_response(&self, reply: &mut Reply<'_>, host: &impl Host) {
        if self.traces.is_none() {
            return;
        }
        if reply.seen.notes.get::<Traced>().is_none() {
            let traced = self.late(reply.seen, host);
            reply.seen.notes.put(traced);
        }
        if let Some(name) = &self.shown
            && let Some(Traced(trace)) = reply.seen.notes.get()
            && let Ok(value) = HeaderValue::from_str(&hexadecimal(&trace.id))
        {
            reply.headers.insert(name.clone(), value);
        }
    }

    fn on_log(&self, over: Over<'_>, host: &impl Host) {
        let Over::Exchange(log) = over else {
            return;
        };
        let late;
        let trace = match log.seen.notes.get() {
            _ if self.traces.is_none() => None,
            Some(Traced(trace)) => Some(trace),
            None => {
                late = self.late(log.seen, host).0;
                Some(&late)
            }
        };
        if let Some(logs) = &self.logs {
            let entry = records::record(trace, log);
            self.tell(logs, host, entry, records::records_request);
        }
        if let Some(traces) = &self.traces
            && let Some(trace) = trace.filter(|trace| trace.sampled)
        {
            self.tell(traces, host, otlp::spans(trace, log), otlp::request);
        }
    }
}

impl OpentelemetryFilter {
    /// Has `entry` sent, in what `request` makes of a batch.
    fn tell(
        &self,
        Channel { target, outbox }: &Channel,
        host: &impl Host,
        entry: Bytes,
        request: fn(&otlp::Resource, &[Bytes]) -> Bytes,
    ) {
        target.push(host, outbox, entry, || {
            let resource = self.resource.of_node(host.node_id());
            move |batch: &[Bytes]| request(&resource, batch)
        });
    }

    /// The trace of an exchange that was answered before this filter's turn: no route was met, or another filter
    /// has answered.
    fn late(&self, seen: &Seen, host: &impl Host) -> Traced {
        let headers = &seen.request.headers;
        Traced(self.carrier.read(headers, self.sampling(host), true, host))
    }

    fn sampling(&self, host: &impl Host) -> Sampling {
        Sampling::Id(self.sampling_rate.unwrap_or_else(|| host.sampling_rate()))
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
    use crate::exchange::Try;
    use crate::testing::{FakeHost, Request, answer_of, log_of, unrouted};

    fn filter(config: Value) -> OpentelemetryFilter {
        let config: Opentelemetry = serde_json::from_value(config).unwrap();
        config.compile(&Instance { id: Uuid::nil() }).unwrap()
    }

    fn traced(traceparent: &str) -> Request {
        let mut request = Request::get("/a");
        let name = HeaderName::from_static("traceparent");
        request
            .headers
            .push((name, HeaderValue::from_str(traceparent).unwrap()));
        request
    }

    #[test]
    fn the_callers_trace_goes_on_and_a_new_one_begins_without() {
        let told = |rate: f64, request: &Request| {
            let endpoint = "http://otel.example/v1/traces";
            let filter = filter(json!({"traces_endpoint": endpoint, "sampling_rate": rate}));
            answer_of(&filter, &FakeHost::default(), request).upstream_header("traceparent")
        };
        // Of half of all traces, Kong keeps the first of these and not the second.
        let (kept, left) = (
            "92a54b3e1a7c4f2da9e44b8a6f3e1dab",
            "4bf92f3577b34da6a3ce929d0e0e4736",
        );
        for (id, asked, rate, expected) in [
            (kept, "01", 0.5, "01"),
            (left, "01", 0.5, "00"),
            (left, "01", 1.0, "01"),
            (kept, "01", 0.0, "00"),
            (kept, "00", 1.0, "00"),
        ] {
            let parent = format!("00-{id}-00f067aa0ba902b7-{asked}");
            let told = told(rate, &traced(&parent));
            let (start, end) = (format!("00-{id}-"), format!("-{expected}"));
            assert!(told.starts_with(&start) && told.ends_with(&end), "{told}");
            assert!(!told.contains("00f067aa0ba902b7"), "{told}");
        }
        for (rate, expected) in [(0.0, "-00"), (1.0, "-01")] {
            let told = told(rate, &Request::get("/"));
            assert!(told.len() == 55 && told.ends_with(expected), "{told}");
        }
    }

    #[test]
    fn what_is_told_of_propagation_takes_the_place_of_the_header_type() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        for (propagation, goes_on) in [
            (json!({}), true),
            (json!({"default_format": "w3c"}), true),
            (json!({"extract": ["w3c"]}), true),
            (json!({"extract": ["b3"]}), false),
            (json!({"extract": []}), false),
        ] {
            let filter = filter(json!({
                "traces_endpoint": "http://otel.example/v1/traces", "header_type": "preserve",
                "propagation": propagation,
            }));
            let answer = answer_of(&filter, &FakeHost::default(), &traced(parent));
            let told = answer.upstream_header("traceparent");
            assert_eq!(
                told.starts_with(&parent[..35]),
                goes_on,
                "{propagation} {told}"
            );
        }
    }

    #[test]
    fn what_is_kept_reaches_the_collector_and_nothing_else() {
        let requests: Rc<RefCell<Vec<http::Request<Bytes>>>> = Rc::default();
        let host = FakeHost::default();
        let seen = Rc::clone(&requests);
        host.connect(Rc::new(move |request| {
            seen.borrow_mut().push(request.clone());
            Ok(http::Response::new(Bytes::new()))
        }));
        let filter = filter(json!({
            "endpoint_is_renamed": null, "traces_endpoint": "http://otel.example:4318/v1/traces",
            "http_response_header_for_traceid": "x-trace", "headers": {"x-auth": "t"}, "resource_attributes": {"service.name": "shop"}, "sampling_rate": 1,
        }));
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7";
        log_of(&filter, &host, &traced(&format!("{parent}-00")));
        let mut kept = traced(&format!("{parent}-01"));
        let failed = Try {
            host: "10.0.0.1".to_owned(),
            name: "a.example".to_owned(),
            failed: Some(502),
            ..Try::default()
        };
        kept.tries.insert(0, failed);
        log_of(&filter, &host, &kept);
        let headers = unrouted(&filter, &host, &traced(&format!("{parent}-01")));
        assert_eq!(headers["x-trace"], "4bf92f3577b34da6a3ce929d0e0e4736");
        host.run(host.sleep(Duration::from_secs(10)));
        let requests = requests.take();
        assert_eq!(requests.len(), 1);
        let request = &requests[0];
        assert_eq!(request.headers()["content-type"], "application/x-protobuf");
        assert_eq!(request.headers()["x-auth"], "t");
        let spans = otlp::tests::decode(request.body());
        let expected = [
            "shop kong 2 127.0.0.1",
            "shop kong.balancer 3 1 10.0.0.1 a.example failed",
            "shop kong.balancer 3 2 127.0.0.1 up.example",
            "shop kong 2 127.0.0.1",
        ];
        assert_eq!(spans, expected);
    }

    #[test]
    fn a_collector_of_logs_is_told_of_every_exchange() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7";
        let traces = json!("http://otel.example/v1/traces");
        for (traces, asked, expected) in [
            (json!(null), "01", "9 INFO  0 200"),
            (
                traces.clone(),
                "01",
                "9 INFO 4bf92f3577b34da6a3ce929d0e0e4736 1 200",
            ),
            (
                traces,
                "00",
                "9 INFO 4bf92f3577b34da6a3ce929d0e0e4736 0 200",
            ),
        ] {
            let requests: Rc<RefCell<Vec<http::Request<Bytes>>>> = Rc::default();
            let (host, seen) = (FakeHost::default(), Rc::clone(&requests));
            host.connect(Rc::new(move |request| {
                seen.borrow_mut().push(request.clone());
                Ok(http::Response::new(Bytes::new()))
            }));
            let filter = filter(json!({
                "logs_endpoint": "http://otel.example/v1/logs", "traces_endpoint": traces,
                "sampling_rate": 1, "http_response_header_for_traceid": "x-trace",
            }));
            let request = traced(&format!("{parent}-{asked}"));
            let told = answer_of(&filter, &host, &request).upstream_header("traceparent");
            let goes_on = told.starts_with(&format!("{parent}-"));
            assert_eq!(goes_on, traces.is_null(), "{told}");
            let shown = unrouted(&filter, &host, &request).contains_key("x-trace");
            assert_eq!(shown, !traces.is_null());
            log_of(&filter, &host, &request);
            host.run(host.sleep(Duration::from_secs(10)));
            let mut requests = requests.take();
            requests.retain(|request| request.uri().path() == "/v1/logs");
            assert_eq!(
                requests[0].headers()["content-type"],
                "application/x-protobuf"
            );
            let told = requests
                .iter()
                .map(|one| records::tests::decode(one.body()));
            let told: Vec<String> = told.flatten().collect();
            assert!(told.iter().any(|one| one == expected), "{told:?}");
        }
    }

    #[test]
    fn old_names_are_accepted() {
        let config = json!({"endpoint": "http://otel.example", "batch_span_count": 7});
        let config = crate::registry::check("opentelemetry", &config).unwrap();
        assert_eq!(config["traces_endpoint"], "http://otel.example");
        assert_eq!(config["batch_span_count"], 7);
        let mut shown = config.as_object().unwrap().clone();
        crate::registry::definition("opentelemetry")
            .unwrap()
            .show(&mut shown);
        assert_eq!(shown["endpoint"], "http://otel.example");
        for (count, expected) in [(7, 7), (200, 5)] {
            let config = json!({
                "traces_endpoint": "http://otel.example", "batch_span_count": count,
                "queue": {"max_batch_size": 5},
            });
            let traces = filter(config).traces.unwrap();
            assert_eq!(traces.outbox.batch_size(), expected);
        }
        assert!(crate::registry::check("opentelemetry", &json!({})).is_err());
    }
}
