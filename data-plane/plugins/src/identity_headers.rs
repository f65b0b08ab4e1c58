//! The headers that tell the upstream who a request comes from (Kong 3.9, upstream headers).

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::exchange::Identity;

pub(crate) const CONSUMER_ID: HeaderName = HeaderName::from_static("x-consumer-id");
pub(crate) const CONSUMER_USERNAME: HeaderName = HeaderName::from_static("x-consumer-username");
pub(crate) const CONSUMER_CUSTOM_ID: HeaderName = HeaderName::from_static("x-consumer-custom-id");
pub(crate) const CONSUMER_GROUPS: HeaderName = HeaderName::from_static("x-consumer-groups");
pub(crate) const ANONYMOUS: HeaderName = HeaderName::from_static("x-anonymous-consumer");
pub(crate) const CREDENTIAL: HeaderName = HeaderName::from_static("x-credential-identifier");
pub(crate) const AUTHENTICATED_GROUPS: HeaderName =
    HeaderName::from_static("x-authenticated-groups");

/// All of them: none ever comes from a client.
pub(crate) const ALL: [HeaderName; 7] = [
    CONSUMER_ID,
    CONSUMER_USERNAME,
    CONSUMER_CUSTOM_ID,
    CONSUMER_GROUPS,
    ANONYMOUS,
    CREDENTIAL,
    AUTHENTICATED_GROUPS,
];

/// Makes `headers` say what `identity` says and nothing else.
pub(crate) fn write(headers: &mut HeaderMap, identity: &Identity) {
    let consumer = identity.consumer.as_deref();
    let id = consumer.map(|consumer| consumer.id.to_string());
    set(headers, CONSUMER_ID, id.as_deref());
    set(
        headers,
        CONSUMER_USERNAME,
        consumer.and_then(|consumer| consumer.username.as_deref()),
    );
    set(
        headers,
        CONSUMER_CUSTOM_ID,
        consumer.and_then(|consumer| consumer.custom_id.as_deref()),
    );
    set(headers, ANONYMOUS, identity.anonymous.then_some("true"));
    set(headers, CREDENTIAL, identity.credential.as_deref());
    let groups = identity
        .authenticated_groups
        .as_ref()
        .filter(|groups| !groups.is_empty())
        .map(|groups| groups.join(", "));
    set(headers, AUTHENTICATED_GROUPS, groups.as_deref());
    headers.remove(CONSUMER_GROUPS);
}

/// A value that is no header value (control characters) is left out, never repaired.
fn set(headers: &mut HeaderMap, name: HeaderName, value: Option<&str>) {
    match value.and_then(text) {
        Some(value) => headers.insert(name, value),
        None => headers.remove(name),
    };
}

/// `value` as a header value, unless it holds control characters (RFC 9110 §5.5).
pub(crate) fn text(value: &str) -> Option<HeaderValue> {
    if value.chars().any(char::is_control) {
        return None;
    }
    HeaderValue::from_bytes(value.as_bytes()).ok()
}
