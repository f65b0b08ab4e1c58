//! The headers that tell the upstream who a request comes from (Kong 3.9, upstream headers).

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::exchange::Identity;

const CONSUMER_ID: HeaderName = HeaderName::from_static("x-consumer-id");
const CONSUMER_USERNAME: HeaderName = HeaderName::from_static("x-consumer-username");
const CONSUMER_CUSTOM_ID: HeaderName = HeaderName::from_static("x-consumer-custom-id");
pub(crate) const CONSUMER_GROUPS: HeaderName = HeaderName::from_static("x-consumer-groups");
const ANONYMOUS: HeaderName = HeaderName::from_static("x-anonymous-consumer");
const CREDENTIAL: HeaderName = HeaderName::from_static("x-credential-identifier");
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

/// Longest value that is made of claims, in bytes.
pub(crate) const LONGEST: usize = 8 * 1024;

/// What the headers say of a credential and its groups, made once for many requests. A value that is no
/// header value (control characters) or too long is left out, never repaired.
#[derive(Clone, Default)]
pub(crate) struct Asserted {
    credential: Option<HeaderValue>,
    groups: Option<HeaderValue>,
}

shared::unsaid!(Asserted);

impl Asserted {
    pub(crate) fn new(credential: Option<&str>, groups: Option<&[String]>) -> Self {
        Self {
            credential: credential.and_then(text).filter(is_short),
            groups: groups.and_then(asserted_groups),
        }
    }
}

fn is_short(value: &HeaderValue) -> bool {
    value.len() <= LONGEST
}

/// Groups that an authentication asserts, in one header; none if there are none. A comma in a name is percent-encoded,
/// so that nobody has more groups than they are in.
pub(crate) fn asserted_groups(groups: &[String]) -> Option<HeaderValue> {
    let escaped = groups.iter().map(|group| escaped(group));
    let joined = escaped.collect::<Vec<_>>().join(", ");
    text(&joined).filter(|value| !value.is_empty() && is_short(value))
}

/// A group as it stands among others: what would be read as an escape is escaped as well, so that no two have one name.
fn escaped(group: &str) -> String {
    let mut escaped = String::with_capacity(group.len());
    for (at, character) in group.char_indices() {
        let mut behind = group.bytes().skip(at + 1).take(2);
        match character {
            ',' => escaped.push_str("%2C"),
            '%' if behind.len() == 2 && behind.all(|byte| byte.is_ascii_hexdigit()) => {
                escaped.push_str("%25");
            }
            other => escaped.push(other),
        }
    }
    escaped
}

/// Makes `headers` say what `identity` says and nothing else.
pub(crate) fn write(headers: &mut HeaderMap, identity: &Identity) {
    let groups = identity.authenticated_groups.as_deref();
    let asserted = Asserted::new(identity.credential.as_deref(), groups);
    write_asserted(headers, identity, &asserted);
}

/// The same, where `asserted` is made of `identity` already.
pub(crate) fn write_asserted(headers: &mut HeaderMap, identity: &Identity, asserted: &Asserted) {
    for name in ALL {
        headers.remove(name);
    }
    let mut set = |name: HeaderName, value: Option<HeaderValue>| {
        if let Some(value) = value {
            headers.insert(name, value);
        }
    };
    if let Some(consumer) = identity.consumer.as_deref() {
        set(CONSUMER_ID, text(&consumer.id.to_string()));
        set(
            CONSUMER_USERNAME,
            consumer.username.as_deref().and_then(text),
        );
        set(
            CONSUMER_CUSTOM_ID,
            consumer.custom_id.as_deref().and_then(text),
        );
    }
    if identity.anonymous {
        set(ANONYMOUS, Some(HeaderValue::from_static("true")));
    }
    if identity.credential.is_some() {
        set(CREDENTIAL, asserted.credential.clone());
    }
    if identity.authenticated_groups.is_some() {
        set(AUTHENTICATED_GROUPS, asserted.groups.clone());
    }
}

/// `value` as a header value, unless it holds control characters (RFC 9110 §5.5).
pub(crate) fn text(value: &str) -> Option<HeaderValue> {
    if value.chars().any(char::is_control) {
        return None;
    }
    HeaderValue::from_bytes(value.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::asserted_groups;

    #[test]
    fn rule_84_a_group_with_a_comma_is_one_group() {
        let groups = ["a, admin", "b"].map(str::to_owned);
        assert_eq!(asserted_groups(&groups).unwrap(), "a%2C admin, b");
        assert_eq!(asserted_groups(&[]), None);
        // Nor is another group the one that is told.
        let groups = ["a%2C admin", "50%", "%4", "%%2c", "%é%25"].map(str::to_owned);
        let told = "a%252C admin, 50%, %4, %%252c, %é%2525";
        assert_eq!(
            asserted_groups(&groups).unwrap().as_bytes(),
            told.as_bytes()
        );
    }
}
