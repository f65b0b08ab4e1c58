//! The names under which secrets travel: what stands under them is told to no log.

use http::HeaderName;

/// Header fields that carry secrets on any route, in lower case.
const FIELDS: [&str; 12] = [
    "access-token",
    "apikey",
    "authorization",
    "cookie",
    "dpop",
    "id-token",
    "proxy-authorization",
    "refresh-token",
    "set-cookie",
    "x-access-token",
    "x-api-key",
    "x-id-token",
];

/// Query arguments that do.
const ARGUMENTS: [&str; 16] = [
    "access_token",
    "apikey",
    "assertion",
    "client_assertion",
    "client_secret",
    "code",
    "id_token",
    "id_token_hint",
    "jwt",
    "logout_token",
    "password",
    "refresh_token",
    "request",
    "response",
    "state",
    "token",
];

/// Those that filters are configured with, beside the ones that are known on any route.
#[derive(Clone, Debug, Default)]
pub struct SecretNames {
    /// Of query arguments.
    pub arguments: Vec<String>,
    /// Of header fields, of requests and of answers.
    pub fields: Vec<HeaderName>,
}

impl SecretNames {
    /// Adds those of another filter.
    pub fn extend(&mut self, other: Self) {
        self.arguments.extend(other.arguments);
        self.fields.extend(other.fields);
    }

    /// Whether the query argument `name` carries a secret.
    pub fn has_argument(&self, name: &str) -> bool {
        let configured = self.arguments.iter().map(String::as_str);
        let mut known = ARGUMENTS.into_iter().chain(configured);
        known.any(|known| name.eq_ignore_ascii_case(known))
    }

    /// Whether the header field `name`, in lower case, does.
    pub fn has_field(&self, name: &str) -> bool {
        FIELDS.contains(&name) || self.fields.iter().any(|field| field == name)
    }
}
