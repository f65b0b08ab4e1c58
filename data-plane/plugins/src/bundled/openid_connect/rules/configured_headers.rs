//! Headers that the configuration adds to what the provider is asked.

use http::{HeaderName, HeaderValue};
use shared::schema::FieldErrors;

use crate::bundled::openid_connect::config::OpenidConnect;
use crate::config::reserved_headers::Message;

type Headers = Vec<(HeaderName, HeaderValue)>;

/// Those for each of the provider's endpoints.
#[derive(Debug)]
pub(in crate::bundled::openid_connect) struct ConfiguredHeaders {
    pub(in crate::bundled::openid_connect) discovery: Headers,
    pub(in crate::bundled::openid_connect) token: Headers,
    pub(in crate::bundled::openid_connect) introspection: Headers,
    pub(in crate::bundled::openid_connect) userinfo: Headers,
}

impl ConfiguredHeaders {
    pub(super) fn new(config: &OpenidConnect, errors: &mut FieldErrors) -> Self {
        let (provider, client) = (&config.provider, &config.client);
        let credentials = &config.credentials;
        let secrets = credentials.introspection_headers_values.iter().flatten();
        let secrets: Vec<_> = secrets.map(|value| value.expose().to_owned()).collect();
        Self {
            discovery: pairs(
                provider.discovery_headers_names.as_deref(),
                provider.discovery_headers_values.as_deref(),
                "discovery_headers_names",
                errors,
            ),
            token: pairs(
                client.token_headers_names.as_deref(),
                client.token_headers_values.as_deref(),
                "token_headers_names",
                errors,
            ),
            introspection: pairs(
                credentials.introspection_headers_names.as_deref(),
                Some(&secrets),
                "introspection_headers_names",
                errors,
            ),
            userinfo: pairs(
                credentials.userinfo_headers_names.as_deref(),
                credentials.userinfo_headers_values.as_deref(),
                "userinfo_headers_names",
                errors,
            ),
        }
    }
}

/// Pairs names with values by position; the shorter list decides.
fn pairs(
    names: Option<&[String]>,
    values: Option<&[String]>,
    field: &str,
    errors: &mut FieldErrors,
) -> Headers {
    let mut pairs = Vec::new();
    for (name, value) in names
        .unwrap_or_default()
        .iter()
        .zip(values.unwrap_or_default())
    {
        match (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            (Ok(name), Ok(value)) => match Message::Own.refusal(&name) {
                None => pairs.push((name, value)),
                Some(refusal) => errors.add(&[field], refusal),
            },
            _ => errors.add(&[field], format!("invalid header: {name}")),
        }
    }
    pairs
}
