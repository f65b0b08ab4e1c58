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

/// Header fields that are URLs, which may have arguments.
pub(crate) const URLS: [&str; 3] = ["content-location", "location", "referer"];

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

    /// `arguments`, as they stand in a URL, with `hidden` in place of secrets.
    pub fn redact(&self, arguments: &str, hidden: &str) -> String {
        let is_secret = |name: &str| {
            let name = form_urlencoded::parse(name.as_bytes()).next();
            name.is_some_and(|(name, _)| self.has_argument(&name))
        };
        let shown = arguments
            .split('&')
            .map(|argument| match argument.split_once('=') {
                Some((name, _)) if is_secret(name) => format!("{name}={hidden}"),
                _ => argument.to_owned(),
            });
        shown.collect::<Vec<_>>().join("&")
    }

    /// `url` with `hidden` in place of secrets in its query and its fragment.
    pub(crate) fn redact_url(&self, url: &str, hidden: &str) -> String {
        let (rest, fragment) = match url.split_once('#') {
            Some((rest, fragment)) => (rest, Some(fragment)),
            None => (url, None),
        };
        let (path, query) = match rest.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (rest, None),
        };
        let mut shown = path.to_owned();
        for (sign, arguments) in [('?', query), ('#', fragment)] {
            if let Some(arguments) = arguments {
                shown.push(sign);
                shown.push_str(&self.redact(arguments, hidden));
            }
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_arguments_are_hidden() {
        let secrets = SecretNames {
            arguments: vec!["rt".to_owned(), "my key".to_owned()],
            fields: Vec::new(),
        };
        for (arguments, expected) in [
            ("", ""),
            (
                "a=1&code=x&st%61te=y&Access_Token=z&b",
                "a=1&code=-&st%61te=-&Access_Token=-&b",
            ),
            // Keys, and a code inside of a signed response (JARM).
            (
                "apikey=x&jwt=y&response=z&client_assertion=a",
                "apikey=-&jwt=-&response=-&client_assertion=-",
            ),
            // What the route's plugins look for.
            (
                "RT=x&r%74=y&my+key=z&my%20key=z&art=z",
                "RT=-&r%74=-&my+key=-&my%20key=-&art=z",
            ),
        ] {
            assert_eq!(secrets.redact(arguments, "-"), expected, "{arguments}");
        }
        for (url, expected) in [
            ("https://a.example/b", "https://a.example/b"),
            ("/b?#", "/b?#"),
            ("/b?x=1&code=a?b&rt=#c", "/b?x=1&code=-&rt=-#c"),
            ("/b#x=?1&id_token=a#b", "/b#x=?1&id_token=-"),
            ("/code=1?code=2", "/code=1?code=-"),
        ] {
            assert_eq!(secrets.redact_url(url, "-"), expected, "{url}");
        }
    }
}
