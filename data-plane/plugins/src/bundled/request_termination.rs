//! `request-termination`: answers every request, or those that are marked, without an upstream (Kong
//! 3.9, request-termination).

use std::net::IpAddr;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::machine::hostname;
use shared::schema::FieldErrors;

use crate::body::{self, LARGEST};
use crate::config::values::whole_error;
use crate::credentials::arguments::Arguments;
use crate::exchange::{Exchange, Named, Parsing};
use crate::filter::{Filter, Flow, Instance, Phases, Plugin};
use crate::host::Host;
use crate::logs::log_record::grouped;

const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

/// Configuration of `request-termination`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct RequestTermination {
    /// Status of the answer.
    #[serde(default = "unavailable")]
    #[schemars(range(min = 100, max = 599))]
    pub status_code: u16,

    /// Message of the answer.
    #[serde(default)]
    pub message: Option<String>,

    /// Media type of `body`; JSON if absent.
    #[serde(default)]
    pub content_type: Option<String>,

    /// Body of the answer, in place of one with a message.
    #[serde(default)]
    pub body: Option<String>,

    /// Answers with what the request was.
    #[serde(default)]
    pub echo: bool,

    /// Header or query argument that marks the requests to answer; all if absent.
    #[serde(default)]
    pub trigger: Option<TriggerName>,
}

/// The name of a header or query argument.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(transparent)]
#[schemars(inline)]
pub struct TriggerName(#[schemars(extend("format" = "kong-header-name"))] pub String);

const fn unavailable() -> u16 {
    503
}

/// The status of an answer, unless it is one of those that others follow (RFC 9110 §15.2).
pub(crate) fn final_status(code: u16) -> Option<StatusCode> {
    let status = StatusCode::from_u16(code).ok();
    status.filter(|status| !status.is_informational())
}

/// Refuses a status in `field` with which no answer ends.
pub(crate) fn refuse_interim(field: &str, code: u16, errors: &mut FieldErrors) {
    if final_status(code).is_none() {
        errors.add(
            &[field],
            "1xx is interim: the client would go on waiting for an answer",
        );
    }
}

impl Plugin for RequestTermination {
    const NAME: &'static str = "request-termination";
    const PRIORITY: u32 = 2;
    type Filter = RequestTerminationFilter;

    fn refuse(&self, errors: &mut FieldErrors) {
        refuse_interim("status_code", self.status_code, errors);
    }

    fn compile(self, _: &Instance) -> Result<RequestTerminationFilter, FieldErrors> {
        let mut errors = FieldErrors::default();
        let content_type = match self.content_type.as_deref().map(HeaderValue::from_str) {
            None => JSON,
            Some(Ok(value)) => value,
            Some(Err(_)) => {
                errors.add(&["content_type"], "not a media type");
                JSON
            }
        };
        let trigger = self.trigger.as_ref().and_then(|TriggerName(name)| {
            let header = HeaderName::try_from(name.as_str()).ok();
            if header.is_none() {
                errors.add(&["trigger"], "bad header name");
            }
            header.map(|header| (name.clone(), header))
        });
        if self.message.is_some() && (self.content_type.is_some() || self.body.is_some()) {
            whole_error(
                &mut errors,
                "message cannot be used with content_type or body",
            );
        }
        if self.content_type.is_some() && self.body.is_none() {
            whole_error(&mut errors, "content_type requires a body");
        }
        if self.echo && (self.body.is_some() || self.content_type.is_some()) {
            whole_error(
                &mut errors,
                "echo cannot be used with content_type and body",
            );
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let status = final_status(self.status_code).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        Ok(RequestTerminationFilter {
            message: self
                .message
                .or_else(|| default_message(status).map(str::to_owned)),
            status,
            content_type,
            body: self.body.map(Bytes::from),
            echo: self.echo,
            hostname: self.echo.then(hostname).unwrap_or_default(),
            trigger,
        })
    }
}

/// What an answer without a message of its own says.
const fn default_message(status: StatusCode) -> Option<&'static str> {
    match status.as_u16() {
        401 => Some("Unauthorized"),
        404 => Some("Not found"),
        405 => Some("Method not allowed"),
        500 => Some("An unexpected error occurred"),
        502 => Some("Bad Gateway"),
        503 => Some("Service unavailable"),
        _ => None,
    }
}

/// Answers requests.
#[derive(Debug)]
pub struct RequestTerminationFilter {
    status: StatusCode,
    message: Option<String>,
    content_type: HeaderValue,
    body: Option<Bytes>,
    echo: bool,
    /// The machine that an echo names.
    hostname: String,
    trigger: Option<(String, HeaderName)>,
}

impl Filter for RequestTerminationFilter {
    async fn on_request(&self, exchange: &mut Exchange<'_>, host: &impl Host) -> Flow {
        if let Some((argument, header)) = &self.trigger
            && !exchange.request.headers.contains_key(header)
            && !Arguments::of(&exchange.request.uri).contains(argument)
        {
            return Flow::Continue;
        }
        let body = if self.echo {
            Bytes::from(self.describe(exchange, host).await.to_string())
        } else if let Some(body) = &self.body {
            body.clone()
        } else {
            // A status that says it all has no body (Kong 3.9).
            let message = self.message.as_ref();
            message.map_or_else(Bytes::new, |text| {
                Bytes::from(json!({ "message": text }).to_string())
            })
        };
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        if !response.body().is_empty() || self.body.is_some() {
            response
                .headers_mut()
                .insert(CONTENT_TYPE, self.content_type.clone());
        }
        Flow::Answer(response)
    }

    /// A stream has no answer: it ends.
    fn on_stream(&self, _: IpAddr) -> bool {
        false
    }

    /// What echoes a request shows its route and service whole, which is known where something is logged.
    fn phases(&self) -> Phases {
        if self.echo { Phases::LOG } else { Phases::NONE }
    }
}

impl RequestTerminationFilter {
    /// Lets nothing pass, in the place of a filter that cannot run.
    pub(crate) fn barrier() -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            message: Some("a plugin of this route cannot run as it is configured".to_owned()),
            content_type: JSON,
            body: None,
            echo: false,
            hostname: String::new(),
            trigger: None,
        }
    }

    /// The request, as its own answer.
    async fn describe(&self, exchange: &mut Exchange<'_>, host: &impl Host) -> Value {
        let raw = exchange.body.read(LARGEST, Parsing::Nothing).await;
        let raw = raw.unwrap_or_default();
        let body = body::form(exchange).await.shown();
        let (request, matched) = (&exchange.request, exchange.matched);
        let headers = request.headers.iter().map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes());
            (name.as_str(), json!(value))
        });
        let named = |named: &Named| json!({"id": named.id, "name": named.name});
        let records = matched.records.as_ref();
        let route = records.map(|records| Value::clone(&records.route));
        let service = records.map(|records| Value::clone(&records.service));
        let mut described = json!({
            "kong": {
                "node_id": host.node_id(),
                "worker_pid": std::process::id(),
                "hostname": self.hostname,
            },
            "request": {
                "scheme": if exchange.client.https { "https" } else { "http" },
                "host": exchange.client.host(),
                "port": exchange.client.port,
                "headers": grouped(headers),
                "query": grouped(Arguments::of(&request.uri).shown()),
                "raw_body": String::from_utf8_lossy(&raw),
                "method": request.method.as_str(),
                "path": request.uri.path(),
            },
            "matched_route": route.unwrap_or_else(|| named(&matched.route)),
        });
        let mut put = |place: &str, name: &str, value: Option<Value>| {
            let value = value.filter(|value| !value.is_null());
            if let (Some(Value::Object(map)), Some(value)) = (described.pointer_mut(place), value) {
                map.insert(name.to_owned(), value);
            }
        };
        put("", "message", self.message.as_ref().map(|text| json!(text)));
        put("/request", "body", body);
        let service = service.or_else(|| matched.service.as_ref().map(named));
        put("", "matched_service", service);
        described
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use uuid::Uuid;

    use super::*;
    use crate::exchange::Records;
    use crate::testing::{Answer, FakeHost, Request, answer_of};

    fn ask(config: Value, uri: &str) -> Answer {
        let config: RequestTermination = serde_json::from_value(config).unwrap();
        let filter = config.compile(&Instance { id: Uuid::nil() }).unwrap();
        answer_of(&filter, &FakeHost::default(), &Request::get(uri))
    }

    #[test]
    fn the_answer_is_the_configured_one() {
        let answer = ask(json!({}), "/");
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (503, r#"{"message":"Service unavailable"}"#)
        );
        assert_eq!(
            answer.header("content-type"),
            "application/json; charset=utf-8"
        );
        let answer = ask(json!({"status_code": 404}), "/");
        assert_eq!(
            (answer.status, answer.message().as_str()),
            (404, "Not found")
        );
        let answer = ask(json!({"status_code": 406, "message": "Invalid"}), "/");
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (406, r#"{"message":"Invalid"}"#)
        );
        let answer = ask(json!({"status_code": 204}), "/");
        assert_eq!((answer.status, answer.body.as_str()), (204, ""));
        assert_eq!(answer.header("content-type"), "");
        let body = json!({"status_code": 451, "body": "<html>", "content_type": "text/html"});
        let answer = ask(body, "/");
        assert_eq!((answer.status, answer.body.as_str()), (451, "<html>"));
        assert_eq!(answer.header("content-type"), "text/html");
    }

    #[test]
    fn a_trigger_marks_the_requests_that_are_answered() {
        let config = json!({"trigger": "gothere", "status_code": 200, "echo": true});
        assert_eq!(ask(config.clone(), "/").body, "");
        let answer = ask(config, "/status?gothere&a=1&a=2");
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(body["request"]["path"], "/status");
        assert_eq!(body["kong"]["worker_pid"], std::process::id());
        assert!(body["kong"]["node_id"].is_string() && body["kong"]["hostname"].is_string());
        assert_eq!(
            body["request"]["query"],
            json!({"gothere": true, "a": ["1", "2"]})
        );
        assert_eq!(body["request"]["host"], "gateway.example");
        assert_eq!(body["request"].get("body"), None);
        assert_eq!(
            (body.get("message"), body.get("matched_service")),
            (None, None)
        );
    }

    #[test]
    fn an_echo_shows_the_body_and_the_records() {
        let config = json!({"echo": true, "message": "hi"});
        let config: RequestTermination = serde_json::from_value(config).unwrap();
        let filter = config.compile(&Instance { id: Uuid::nil() }).unwrap();
        let mut request = Request::get("/");
        request.method = http::Method::POST;
        request.body = Bytes::from_static(b"a=1&a=2&b");
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers.push((CONTENT_TYPE, form));
        request.matched.records = Some(Records {
            route: Arc::new(json!({"hosts": ["a"]})),
            service: Arc::new(json!({"host": "up.example"})),
            ..Records::default()
        });
        let answer = answer_of(&filter, &FakeHost::default(), &request);
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(body["message"], "hi");
        assert_eq!(body["request"]["raw_body"], "a=1&a=2&b");
        assert_eq!(body["request"]["body"], json!({"a": ["1", "2"], "b": true}));
        assert_eq!(body["matched_route"]["hosts"], json!(["a"]));
        assert_eq!(body["matched_service"]["host"], "up.example");
        assert!(filter.phases().log);
    }

    #[test]
    fn fields_that_exclude_each_other_are_refused() {
        let message = "message cannot be used with content_type or body";
        for (config, expected) in [
            (json!({"message": "x", "body": "y"}), message),
            (json!({"message": "x", "content_type": "y"}), message),
            (json!({"content_type": "y"}), "content_type requires a body"),
            (
                json!({"echo": true, "body": "y"}),
                "echo cannot be used with content_type and body",
            ),
        ] {
            let config: RequestTermination = serde_json::from_value(config).unwrap();
            let errors = config.compile(&Instance { id: Uuid::nil() }).unwrap_err();
            assert_eq!(
                Value::Object(errors.by_field),
                json!({ "@entity": expected })
            );
        }
    }
}
