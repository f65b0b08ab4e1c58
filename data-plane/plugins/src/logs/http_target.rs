//! HTTP servers that receive batches from log plugins.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use shared::schema::FieldErrors;
use url::Url;

use crate::config::values::SecretUrl;
use crate::host::{FetchLimits, Host, Reach, Repeatable, Waits};
use crate::logs::queue::{self, Outbox};

/// Longest exchange with a server of which nothing is said.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where batches go and how.
#[derive(Clone, Debug)]
pub(crate) struct HttpTarget {
    pub(crate) uri: Uri,
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    pub(crate) timeout: Duration,
    /// How long single steps may take, if that is known.
    pub(crate) waits: Option<Waits>,
}

impl HttpTarget {
    /// The server at `url`, which `field` of a configuration names, and which takes bodies of `media_type` by POST.
    pub(crate) fn new(
        field: &str,
        SecretUrl(url): &SecretUrl,
        mut headers: HeaderMap,
        media_type: &'static str,
    ) -> Result<Self, FieldErrors> {
        let endpoint =
            Endpoint::parse(url).map_err(|message| FieldErrors::at(&[field], message))?;
        if let Some(authorization) = endpoint.authorization {
            headers.insert(AUTHORIZATION, authorization);
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        Ok(Self {
            uri: endpoint.uri,
            method: Method::POST,
            headers,
            timeout: DEFAULT_TIMEOUT,
            waits: None,
        })
    }

    /// The same, given up when one of `waits` is over.
    pub(crate) fn within(self, waits: Waits) -> Self {
        Self {
            timeout: waits.sum(),
            waits: Some(waits),
            ..self
        }
    }

    /// Lets `entry` wait to be sent along with others, in the body that is made of a batch.
    pub(crate) fn push<Body: Fn(&[Bytes]) -> Bytes + 'static>(
        &self,
        host: &impl Host,
        outbox: &Outbox,
        entry: Bytes,
        body: impl FnOnce() -> Body,
    ) {
        queue::push(host, outbox, entry, || {
            let (host, target, body) = (host.clone(), self.clone(), body());
            Rc::new(move |batch: Vec<Bytes>| {
                let (host, target, body) = (host.clone(), target.clone(), body(&batch));
                Box::pin(async move { target.send(&host, body).await })
            })
        });
    }

    /// Sends one body; every status below 300 says that it was taken.
    async fn send(&self, host: &impl Host, body: Bytes) -> Result<(), String> {
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
            repeatable: Repeatable::Unanswered,
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

/// A batch of values in JSON as one list.
pub(crate) fn list(batch: &[Bytes]) -> Bytes {
    Bytes::from([&b"["[..], &batch.join(&b","[..]), b"]"].concat())
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
