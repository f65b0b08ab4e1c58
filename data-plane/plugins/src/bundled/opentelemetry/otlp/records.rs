//! Records of a log as OTLP has them (opentelemetry-proto 1.5, logs and collector): one for each exchange.

use bytes::Bytes;
use http::StatusCode;
use prost::Message;

use super::{
    AnyValue, KeyValue, MILLISECOND, Resource, Scope, Value, matched, of_request, scope, text,
};
use crate::exchange::Log;
use crate::logs::log_record;
use crate::trace::Trace;

#[derive(Clone, PartialEq, Message)]
struct ExportLogsServiceRequest {
    #[prost(message, repeated, tag = "1")]
    resource_logs: Vec<ResourceLogs>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceLogs {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_logs: Vec<ScopeLogs>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeLogs {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    log_records: Vec<LogRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct LogRecord {
    #[prost(fixed64, tag = "1")]
    time_unix_nano: u64,
    #[prost(int32, tag = "2")]
    severity_number: i32,
    #[prost(string, tag = "3")]
    severity_text: String,
    #[prost(message, optional, tag = "5")]
    body: Option<AnyValue>,
    #[prost(message, repeated, tag = "6")]
    attributes: Vec<KeyValue>,
    #[prost(fixed32, tag = "8")]
    flags: u32,
    #[prost(bytes = "vec", tag = "9")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "10")]
    span_id: Vec<u8>,
    #[prost(fixed64, tag = "11")]
    observed_time_unix_nano: u64,
}

/// The record of one exchange, which belongs to `trace`: what other logs are told of it, in JSON.
pub(in super::super) fn record(trace: Option<&Trace>, log: &Log<'_>) -> Bytes {
    let ended = (log.started_at.as_millis() + log.latencies.request) * MILLISECOND;
    let (severity_number, severity_text) = severity(log.status);
    let mut attributes = of_request(log);
    attributes.extend(matched(log));
    attributes.push(text("request.id", &*log.seen.request_id));
    let record = LogRecord {
        time_unix_nano: ended,
        severity_number,
        severity_text: severity_text.to_owned(),
        body: Some(AnyValue {
            value: Some(Value::Text(log_record::record(log).to_string())),
        }),
        attributes,
        flags: trace.map_or(0, |trace| trace.sampled.into()),
        trace_id: trace.map(|trace| trace.id.to_vec()).unwrap_or_default(),
        span_id: trace.map(|trace| trace.server.to_vec()).unwrap_or_default(),
        observed_time_unix_nano: ended,
    };
    Bytes::from(record.encode_to_vec())
}

/// The number and the name of how severe it is that an exchange ends in `status`.
fn severity(status: StatusCode) -> (i32, &'static str) {
    if status.is_server_error() {
        (17, "ERROR")
    } else if status.is_client_error() {
        (13, "WARN")
    } else {
        (9, "INFO")
    }
}

/// The body of a request that exports the records of several exchanges.
pub(in super::super) fn records_request(resource: &Resource, batch: &[Bytes]) -> Bytes {
    let records = batch
        .iter()
        .filter_map(|entry| LogRecord::decode(entry.clone()).ok());
    let request = ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs {
            resource: Some(resource.clone()),
            scope_logs: vec![ScopeLogs {
                scope: Some(scope()),
                log_records: records.collect(),
            }],
        }],
    };
    Bytes::from(request.encode_to_vec())
}

#[cfg(test)]
pub(in super::super) mod tests {
    use serde_json::json;
    use shared::hexadecimal::hexadecimal;

    use super::*;

    /// The severity of each record of a request, whether it is of a trace that is kept, and the status that its body
    /// tells.
    pub(in super::super::super) fn decode(body: &Bytes) -> Vec<String> {
        let request = ExportLogsServiceRequest::decode(body.clone()).unwrap();
        let mut found = Vec::new();
        for logs in request.resource_logs {
            assert!(!logs.resource.unwrap().attributes.is_empty());
            for record in logs
                .scope_logs
                .into_iter()
                .flat_map(|scope| scope.log_records)
            {
                assert!(record.time_unix_nano > 0 && record.observed_time_unix_nano > 0);
                let Some(Value::Text(told)) = record.body.unwrap().value else {
                    panic!("the body is no text");
                };
                let told: serde_json::Value = serde_json::from_str(&told).unwrap();
                let id = told["request"]["id"].as_str().unwrap();
                assert!(record.attributes.contains(&text("request.id", id)));
                let trace = hexadecimal(&record.trace_id);
                found.push(format!(
                    "{} {} {trace} {} {}",
                    record.severity_number,
                    record.severity_text,
                    record.flags,
                    told["response"]["status"]
                ));
            }
        }
        found
    }

    #[test]
    fn a_status_says_how_severe_an_exchange_is() {
        for (status, expected) in [
            (StatusCode::OK, json!([9, "INFO"])),
            (StatusCode::FOUND, json!([9, "INFO"])),
            (StatusCode::NOT_FOUND, json!([13, "WARN"])),
            (StatusCode::BAD_GATEWAY, json!([17, "ERROR"])),
        ] {
            assert_eq!(json!(severity(status)), expected, "{status}");
        }
    }
}
