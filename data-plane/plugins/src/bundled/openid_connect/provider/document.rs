//! What a provider says of itself (OpenID Connect Discovery §3, RFC 8414), and how it is fetched.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::join;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, DATE, LOCATION};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shared::clock::UnixTime;
use tracing::warn;
use url::Url;

use super::error::ProviderError;
use super::further;
use super::keys::Keys;
use crate::bundled::openid_connect::request;
use crate::bundled::openid_connect::rules::{Rules, provider_url};
use crate::bundled::openid_connect::strict_json;
use crate::host::{FetchLimits, Host, Reach, Repeatable};

/// Longest discovery document, in bytes.
const DOCUMENT_LIMIT: usize = 1024 * 1024;

/// Longest JWKS document, in bytes.
pub(super) const KEYS_LIMIT: usize = 256 * 1024;

/// Most redirects that a discovery or JWKS request follows.
const MOST_REDIRECTS: usize = 3;

/// How far the provider's clock may be from ours without a word.
const TOLERATED_SKEW: Duration = Duration::from_mins(1);

/// Numbers documents, so that caches notice a new one.
static NEXT_VERSION: AtomicU64 = AtomicU64::new(1);

/// A discovery document with the keys that it leads to.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one thing that the provider does or not"
)]
pub(crate) struct Document {
    pub(crate) issuer: String,
    pub(crate) authorization_endpoint: Option<String>,
    pub(crate) token_endpoint: Option<String>,
    pub(crate) revocation_endpoint: Option<String>,
    pub(crate) introspection_endpoint: Option<String>,
    pub(crate) userinfo_endpoint: Option<String>,
    pub(crate) pushed_authorization_request_endpoint: Option<String>,
    /// Endpoints for clients that present a certificate (RFC 8705 §5).
    pub(crate) mutual_tls: MutualTls,
    /// Whether authorization requests must be pushed (RFC 9126).
    pub(crate) requires_pushed_requests: bool,
    /// Whether authorization requests must be signed (RFC 9101).
    pub(crate) requires_signed_requests: bool,
    /// What it says that it supports, by the name in discovery.
    pub(crate) supported: Supported,
    pub(crate) end_session_endpoint: Option<String>,
    pub(crate) token_auth_methods: Option<Vec<String>>,
    /// Those of other endpoints, where it says that they have others.
    pub(crate) introspection_auth_methods: Option<Vec<String>>,
    pub(crate) revocation_auth_methods: Option<Vec<String>>,
    /// Whether every authorization response carries `iss` (RFC 9207).
    pub(crate) sends_iss: bool,
    pub(crate) keys: Keys,
    /// Whether some of them are the provider's own.
    pub(crate) has_keys: bool,
    /// Those among them that come from elsewhere, by where.
    pub(crate) further: HashMap<String, Keys>,
    pub(crate) fetched_at: UnixTime,
    /// The provider's epoch before that: in a later one an operator has dropped what was discovered.
    pub(crate) epoch: u64,
    /// How far the provider's clock was behind ours, if that was a second or more.
    pub(crate) behind: Duration,
    /// How long it is fresh, if its own servers say so.
    pub(crate) fresh_for: Option<Duration>,
    #[serde(skip)]
    pub(crate) version: u64,
}

/// Endpoints for clients that present a certificate.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct MutualTls {
    pub(crate) token: Option<String>,
    pub(crate) introspection: Option<String>,
    pub(crate) revocation: Option<String>,
    pub(crate) pushed_request: Option<String>,
    pub(crate) user_info: Option<String>,
}

/// What a provider says that it supports.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Supported {
    pub(crate) scopes: Option<Vec<String>>,
    pub(crate) response_types: Option<Vec<String>>,
    pub(crate) response_modes: Option<Vec<String>>,
    pub(crate) grant_types: Option<Vec<String>>,
    pub(crate) token_auth_methods: Option<Vec<String>>,
    /// What assertions of clients may be signed by.
    pub(crate) token_auth_algorithms: Option<Vec<String>>,
}

impl Document {
    /// It as a node keeps it.
    pub(super) fn to_bytes(&self) -> Option<Bytes> {
        serde_json::to_vec(self).ok().map(Bytes::from)
    }

    /// What a node has kept, unless that is of another format or of a time that is yet to come.
    pub(super) fn restore(bytes: &[u8], now: UnixTime) -> Option<Self> {
        let kept: Self = serde_json::from_slice(bytes).ok()?;
        (kept.fetched_at <= now).then(|| Self {
            version: NEXT_VERSION.fetch_add(1, Ordering::Relaxed),
            ..kept
        })
    }
}

/// Fetches document and keys. Of further keys that are away, those of `before` stay.
pub(super) async fn fetch(
    rules: &Rules,
    host: &impl Host,
    before: Option<&Document>,
) -> Result<Document, ProviderError> {
    let epoch = host.revocations().epoch(rules.issuer_name);
    let (own, further) = join(own(rules, host), further::fetch(rules, host)).await;
    let mut document = own?;
    // What an operator has dropped does not come back.
    let before = before.filter(|before| before.epoch >= epoch);
    further::add(rules, &mut document, further, before)?;
    document.epoch = epoch;
    document.fetched_at = host.now();
    document.version = NEXT_VERSION.fetch_add(1, Ordering::Relaxed);
    Ok(document)
}

/// Fetches document and keys of the provider itself.
async fn own(rules: &Rules, host: &impl Host) -> Result<Document, ProviderError> {
    if rules.config.provider.using_pseudo_issuer {
        return Ok(Document {
            issuer: rules.issuer.clone(),
            ..Document::default()
        });
    }
    let found = discover(rules, host).await?;
    let mut document = read(rules, &found.value)?;
    let jwks_uri = found
        .value
        .get("jwks_uri")
        .and_then(Value::as_str)
        .ok_or(ProviderError::Unusable("jwks_uri is missing"))?;
    let (keys, fresh_for) = keys(rules, host, jwks_uri).await?;
    document.has_keys = !keys.is_empty();
    document.keys = keys;
    document.fresh_for = [found.fresh_for, fresh_for].into_iter().flatten().min();
    document.behind = found.behind;
    if let Some(skew) = found.skew {
        warn!(
            issuer = rules.issuer,
            seconds = skew.as_secs(),
            reason = "clock_skew",
            "the provider's clock and ours differ"
        );
    }
    Ok(document)
}

/// What was fetched, and what its head says.
#[derive(Debug)]
pub(crate) struct Fetched<T> {
    pub(crate) value: T,
    /// How long it is fresh (RFC 9111 §5.2.2).
    pub(crate) fresh_for: Option<Duration>,
    /// How far the server's clock is from ours, if that is worth a word.
    pub(crate) skew: Option<Duration>,
    /// How far it is behind ours, if that is a second or more: it tells whole ones.
    pub(crate) behind: Duration,
}

/// Tries where OpenID Connect and then where RFC 8414 puts the document, and where it would be if the two
/// agreed.
pub(super) async fn discover(
    rules: &Rules,
    host: &impl Host,
) -> Result<Fetched<Map<String, Value>>, ProviderError> {
    let mut first_error = None;
    for place in places(&rules.issuer) {
        match get_json(rules, host, &place, DOCUMENT_LIMIT).await {
            Ok(found) => {
                let Value::Object(value) = found.value else {
                    return Err(ProviderError::Unusable("discovery is not a JSON object"));
                };
                return Ok(Fetched {
                    value,
                    fresh_for: found.fresh_for,
                    skew: found.skew,
                    behind: found.behind,
                });
            }
            // Only a document that is not there is looked for elsewhere.
            Err(error @ ProviderError::Status(status)) if status < 500 => {
                first_error.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(first_error.unwrap_or(ProviderError::Unusable("the issuer is no URL")))
}

fn places(issuer: &str) -> Vec<String> {
    let mut places = vec![format!("{issuer}/.well-known/openid-configuration")];
    if let Ok(mut url) = Url::parse(issuer) {
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("/.well-known/oauth-authorization-server{path}"));
        places.push(url.into());
        // Kong 3.9 puts it behind the path, and so do some providers.
        if !path.is_empty() {
            places.push(format!("{issuer}/.well-known/oauth-authorization-server"));
        }
    }
    places
}

fn read(rules: &Rules, metadata: &Map<String, Value>) -> Result<Document, ProviderError> {
    let text = |name: &str| metadata.get(name).and_then(Value::as_str);
    let issuer = text("issuer").ok_or(ProviderError::Unusable("issuer is missing"))?;
    let provider = &rules.config.provider;
    if !rules.is_described_by(issuer) {
        return Err(ProviderError::Issuer {
            expected: rules.issuer.clone(),
            found: issuer
                .chars()
                .filter(|c| !c.is_control())
                .take(200)
                .collect(),
        });
    }
    let aliases = metadata.get("mtls_endpoint_aliases");
    let usable = |url: &str| match provider_url(url, provider.allow_insecure_http) {
        Ok(_) => Ok(Some(url.to_owned())),
        Err(_) => Err(ProviderError::Unusable("an endpoint is not an https URL")),
    };
    let endpoint = |name: &str| text(name).map_or(Ok(None), usable);
    // What nobody can ask is not there; a provider serves without.
    let if_url = |url: &&str| Url::parse(url).is_ok();
    let optional = |name: &str| text(name).filter(if_url).map_or(Ok(None), usable);
    let alias = |name: &str| {
        let url = aliases.and_then(|aliases| aliases.get(name)?.as_str());
        url.filter(if_url).map_or(Ok(None), usable)
    };
    let flag = |name: &str| {
        let value = metadata.get(name).and_then(Value::as_bool);
        value.unwrap_or_default()
    };
    let list = |name: &str| {
        let items = metadata.get(name)?.as_array()?;
        Some(
            items
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
        )
    };
    Ok(Document {
        issuer: issuer.to_owned(),
        authorization_endpoint: endpoint("authorization_endpoint")?,
        token_endpoint: endpoint("token_endpoint")?,
        revocation_endpoint: optional("revocation_endpoint")?,
        introspection_endpoint: optional("introspection_endpoint")?,
        userinfo_endpoint: optional("userinfo_endpoint")?,
        pushed_authorization_request_endpoint: optional("pushed_authorization_request_endpoint")?,
        mutual_tls: MutualTls {
            token: alias("token_endpoint")?,
            introspection: alias("introspection_endpoint")?,
            revocation: alias("revocation_endpoint")?,
            pushed_request: alias("pushed_authorization_request_endpoint")?,
            user_info: alias("userinfo_endpoint")?,
        },
        requires_pushed_requests: flag("require_pushed_authorization_requests"),
        requires_signed_requests: flag("require_signed_request_object"),
        supported: Supported {
            scopes: list("scopes_supported"),
            response_types: list("response_types_supported"),
            response_modes: list("response_modes_supported"),
            grant_types: list("grant_types_supported"),
            token_auth_methods: list("token_endpoint_auth_methods_supported"),
            token_auth_algorithms: list("token_endpoint_auth_signing_alg_values_supported"),
        },
        end_session_endpoint: optional("end_session_endpoint")?,
        token_auth_methods: list("token_endpoint_auth_methods_supported"),
        introspection_auth_methods: list("introspection_endpoint_auth_methods_supported"),
        revocation_auth_methods: list("revocation_endpoint_auth_methods_supported"),
        sends_iss: flag("authorization_response_iss_parameter_supported"),
        ..Document::default()
    })
}

pub(super) async fn keys(
    rules: &Rules,
    host: &impl Host,
    uri: &str,
) -> Result<(Keys, Option<Duration>), ProviderError> {
    let found = get_json(rules, host, uri, KEYS_LIMIT).await?;
    let keys = Keys::read(&found.value);
    let keys = keys.ok_or(ProviderError::Unusable("the JWKS document has no keys"))?;
    Ok((keys, found.fresh_for))
}

/// How long the answer with these headers is fresh, if it says so.
fn fresh_for(headers: &HeaderMap) -> Option<Duration> {
    let directives = headers.get(CACHE_CONTROL)?.to_str().ok()?;
    let seconds = directives.split(',').find_map(|directive| {
        let (name, value) = directive.trim().split_once('=')?;
        let asked = name.eq_ignore_ascii_case("max-age");
        asked.then(|| value.trim_matches('"').parse::<u64>().ok())?
    })?;
    Some(Duration::from_secs(seconds))
}

/// The time by the clock that wrote these headers, since 1970.
fn clock(headers: &HeaderMap) -> Option<Duration> {
    let date = headers.get(DATE)?.to_str().ok()?;
    let date = httpdate::parse_http_date(date).ok()?;
    date.duration_since(SystemTime::UNIX_EPOCH).ok()
}

/// Gets a JSON document, over at most three redirects, each to a URL that could have been configured.
pub(super) async fn get_json(
    rules: &Rules,
    host: &impl Host,
    uri: &str,
    limit: usize,
) -> Result<Fetched<Value>, ProviderError> {
    let provider = &rules.config.provider;
    let mut uri = provider_url(uri, provider.allow_insecure_http)
        .map_err(|_| ProviderError::Unusable("a URL that is not https"))?;
    let first = uri.clone();
    for _ in 0..=MOST_REDIRECTS {
        let mut request = Request::get(uri.as_str())
            .body(Bytes::new())
            .map_err(|_| ProviderError::Unusable("a URL that cannot be asked"))?;
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if is_same_server(&first, &uri) {
            for (name, value) in &rules.configured_headers.discovery {
                headers.append(name, value.clone());
            }
        }
        let response = host
            .fetch(request, limits(rules, limit))
            .await
            .map_err(ProviderError::Fetch)?;
        if response.status() == StatusCode::OK {
            let page = (response.headers().get(CONTENT_TYPE))
                .is_some_and(|kind| request::is_type(kind.as_bytes(), "text/html"));
            let value = strict_json::object(response.body()).filter(|_| !page);
            let unusable = "it is not a JSON object, or one that readers may take differently";
            let now = Duration::from_millis(host.now().as_millis());
            let its = clock(response.headers()).unwrap_or(now);
            let behind = now.saturating_sub(its);
            return Ok(Fetched {
                value: Value::Object(value.ok_or(ProviderError::Unusable(unusable))?),
                fresh_for: fresh_for(response.headers()),
                skew: Some(its.abs_diff(now)).filter(|skew| *skew > TOLERATED_SKEW),
                behind: Some(behind)
                    .filter(|behind| behind.as_secs() > 0)
                    .unwrap_or_default(),
            });
        }
        if !response.status().is_redirection() {
            return Err(ProviderError::Status(response.status().as_u16()));
        }
        let target = response
            .headers()
            .get(LOCATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|target| uri.join(target).ok())
            .filter(|target| !(uri.scheme() == "https" && target.scheme() == "http"))
            .ok_or(ProviderError::Unusable("a redirect that is not followed"))?;
        uri = provider_url(target.as_str(), provider.allow_insecure_http)
            .map_err(|_| ProviderError::Unusable("a redirect that is not followed"))?;
    }
    Err(ProviderError::Unusable("too many redirects"))
}

/// Whether a redirect from `first` to `other` leads to the server that it came from, if need be from HTTP to HTTPS: what
/// is sent along for one is not for another.
fn is_same_server(first: &Url, other: &Url) -> bool {
    let upgraded = other.scheme() == "https" && other.port().is_none();
    first.origin() == other.origin() || (upgraded && first.host() == other.host())
}

/// What one request to the provider may cost.
pub(crate) fn limits(rules: &Rules, body: usize) -> FetchLimits {
    let provider = &rules.config.provider;
    let timeout = provider.timeout.milliseconds();
    FetchLimits {
        timeout: if timeout.is_zero() {
            Duration::from_secs(10)
        } else {
            timeout
        },
        waits: None,
        body,
        verify_tls: provider.ssl_verify,
        certificate: None,
        proxies: rules.proxies.clone(),
        keep_alive: provider.keepalive,
        http_1_0: provider.http_version.0.as_f64() == Some(1.0),
        repeatable: Repeatable::Never,
        reach: Reach::Public {
            loopback: rules.asks_this_machine,
        },
    }
}

/// A URL as the target of a request.
pub(crate) fn target(url: &str) -> Result<Uri, ProviderError> {
    url.parse()
        .map_err(|_| ProviderError::Unusable("an endpoint is not a URL"))
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::{is_same_server, places};

    #[test]
    fn rule_76_what_is_sent_along_for_one_server_is_not_for_another() {
        let check = |from: &str, to: &str, same: bool| {
            let [first, other] = [from, to].map(|url| Url::parse(url).unwrap());
            assert_eq!(is_same_server(&first, &other), same, "{from} {to}");
        };
        check("https://a/x", "https://a/y", true);
        check("http://a:8080/x", "http://a:8080/y", true);
        check("http://a/x", "https://a/x", true);
        check("http://a:8080/x", "https://a/x", true);
        check("https://a/x", "https://b/x", false);
        check("https://a/x", "https://a:8443/x", false);
        check("http://a/x", "http://a:8080/x", false);
        check("http://a/x", "https://b/x", false);
    }

    #[test]
    fn rule_70_a_document_is_looked_for_in_both_forms() {
        let check = |issuer: &str, expected: &[&str]| assert_eq!(places(issuer), expected);
        check(
            "https://a",
            &[
                "https://a/.well-known/openid-configuration",
                "https://a/.well-known/oauth-authorization-server",
            ],
        );
        check(
            "https://a/b",
            &[
                "https://a/b/.well-known/openid-configuration",
                "https://a/.well-known/oauth-authorization-server/b",
                "https://a/b/.well-known/oauth-authorization-server",
            ],
        );
    }
}
