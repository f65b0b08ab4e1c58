//! Responses of the Admin API, and the headers that all of them carry.

use std::sync::Arc;
use std::time::Instant;

use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use serde_json::Value;
use shared::snapshot::Revision;
use shared::told::{Told, USUAL};
use shared::version::KONG_PRODUCT;

use super::{Admin, newest, wait};
use crate::fleet::Progress;

/// What the Admin API tells of itself in header fields.
#[derive(Clone, Debug)]
pub struct Headers {
    names: Arc<[String]>,
    told: Told,
}

impl Headers {
    /// What the setting `headers` names.
    ///
    /// # Errors
    ///
    /// A name that is unknown.
    pub fn read(names: &[String]) -> Result<Self, String> {
        let told = Told::parse(names, &[])?;
        let names = names.iter().map(|name| name.trim().to_owned());
        let names = names.filter(|name| !name.is_empty()).collect();
        Ok(Self { names, told })
    }

    pub(super) fn names(&self) -> &[String] {
        &self.names
    }
}

impl Default for Headers {
    fn default() -> Self {
        let usual: Vec<String> = USUAL.split(',').map(str::to_owned).collect();
        Self::read(&usual).expect("what is usual is known")
    }
}

impl Admin {
    /// Tells `headers` of itself.
    #[must_use]
    pub fn with_headers(mut self, headers: Headers) -> Self {
        Arc::make_mut(&mut self.node).headers = headers;
        self
    }
}

/// An answer before the headers that every answer has.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Option<Value>,
    /// The body, if it was made before.
    pub(super) text: Option<Bytes>,
    /// The body, if it is too long to be held as one value.
    pub(super) written: Option<axum::body::Body>,
    /// The body's type, if it is not JSON.
    pub(super) content_type: Option<&'static str>,
    /// How long others may keep the body, if that is said (RFC 9111 §5.2.2).
    pub(super) cache_control: Option<&'static str>,
    pub(super) revision: Option<Revision>,
    /// Whether nothing but keys and revocations changed with that.
    pub(super) urgent: bool,
    /// What the record that is shown is told from its earlier and later states by.
    pub(super) etag: Option<HeaderValue>,
    pub(super) deprecated: bool,
    pub(super) allow: Option<&'static [Method]>,
    /// How far the data planes are, if that was waited for.
    pub(super) rollout: Option<Progress>,
}

impl Answer {
    pub(super) fn new(status: StatusCode, body: Value) -> Self {
        Self {
            status,
            body: Some(body),
            text: None,
            written: None,
            content_type: None,
            cache_control: None,
            revision: None,
            urgent: false,
            etag: None,
            deprecated: false,
            allow: None,
            rollout: None,
        }
    }

    pub(super) fn without_body(status: StatusCode) -> Self {
        Self {
            body: None,
            ..Self::new(status, Value::Null)
        }
    }

    /// What the methods of a path are.
    pub(super) fn allowing(methods: &'static [Method]) -> Self {
        Self {
            allow: Some(methods),
            ..Self::without_body(StatusCode::NO_CONTENT)
        }
    }

    pub(super) fn ok(body: Value) -> Self {
        Self::new(StatusCode::OK, body)
    }

    /// The response to a request that came at `started`, for its `head` only or whole, from a page that `wished` to
    /// send these headers.
    pub(super) fn respond(
        self,
        head: bool,
        wished: Option<HeaderValue>,
        (started, told): (Instant, &Headers),
    ) -> Response {
        let (body, length) = if let Some(written) = self.written {
            (written, None)
        } else {
            let made = || self.body.map(|body| body.to_string().into());
            let text = self.text.or_else(made).unwrap_or_default();
            let length = text.len();
            (if head { Bytes::new() } else { text }.into(), Some(length))
        };
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        let has_body = !matches!(
            self.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        );
        if has_body {
            let kind = self
                .content_type
                .unwrap_or("application/json; charset=utf-8");
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            if let Some(length) = length {
                headers.insert(header::CONTENT_LENGTH, length.into());
            }
        }
        if told.told.server {
            headers.insert(header::SERVER, HeaderValue::from_static(KONG_PRODUCT));
        }
        if told.told.admin_latency {
            let latency = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            headers.insert("x-kong-admin-latency", latency.into());
        }
        if let Some(kept) = self.cache_control {
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(kept));
        }
        if let Some(etag) = self.etag {
            headers.insert(header::ETAG, etag);
        }
        if let Some(revision) = self.revision {
            headers.insert(newest::REVISION, revision.0.into());
        }
        for (name, nodes) in self.rollout.iter().flat_map(wait::headers) {
            if let Ok(nodes) = HeaderValue::from_str(&nodes) {
                headers.insert(name, nodes);
            }
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.deprecated {
            headers.insert("deprecation", HeaderValue::from_static("true"));
        }
        if let Some(methods) = self.allow {
            let listed: Vec<&str> = methods.iter().map(Method::as_str).collect();
            if let Ok(value) = HeaderValue::from_str(&listed.join(", ")) {
                headers.insert(header::ALLOW, value.clone());
                headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, value);
                let allowed = wished.unwrap_or(HeaderValue::from_static("Content-Type"));
                headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
            }
        }
        response
    }
}
