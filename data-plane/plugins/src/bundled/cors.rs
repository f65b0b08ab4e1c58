//! `cors`: tells browsers which other sites' pages may use the service (Fetch Standard §3.2; Kong 3.9,
//! cors).

#[cfg(test)]
mod tests;

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, CONTENT_LENGTH, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response};
use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::schema::FieldErrors;
use shared::types::patterns::{self, PatternError};

use crate::config::values::{Number, yes};
use crate::exchange::{Exchange, Reply};
use crate::filter::{Filter, Flow, Instance, Phases, Plugin, Scope};
use crate::host::Host;

const REQUEST_PRIVATE_NETWORK: HeaderName =
    HeaderName::from_static("access-control-request-private-network");
const ALLOW_PRIVATE_NETWORK: HeaderName =
    HeaderName::from_static("access-control-allow-private-network");

/// Configuration of `cors`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of Kong's")]
pub struct Cors {
    /// Origins that may use the service: `*`, URLs, or regular expressions. `*` if empty.
    #[serde(default)]
    pub origins: Option<Vec<String>>,

    /// Request headers that they may send. Those that a preflight asks for, if empty.
    #[serde(default)]
    pub headers: Option<Vec<String>>,

    /// Response headers that they may read.
    #[serde(default)]
    pub exposed_headers: Option<Vec<String>>,

    /// Methods that they may use.
    #[serde(default = "all_methods")]
    pub methods: Option<Vec<CorsMethod>>,

    /// How long browsers may keep the answer to a preflight, in seconds.
    #[serde(default)]
    pub max_age: Option<Number>,

    /// Lets them send cookies and the like.
    #[serde(default)]
    pub credentials: bool,

    /// Lets pages of public sites use a service of a private network.
    #[serde(default)]
    pub private_network: bool,

    /// Leaves preflights to the upstream.
    #[serde(default)]
    pub preflight_continue: bool,

    /// Answers requests that name no origin as if they came from an allowed one.
    #[serde(default = "yes")]
    pub allow_origin_absent: bool,
}

/// A method that pages may use.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs, reason = "the names are those of RFC 9110 §9.3")]
pub enum CorsMethod {
    Get,
    Head,
    Put,
    Patch,
    Post,
    Delete,
    Options,
    Trace,
    Connect,
}

impl CorsMethod {
    const ALL: [Self; 9] = [
        Self::Get,
        Self::Head,
        Self::Put,
        Self::Patch,
        Self::Post,
        Self::Delete,
        Self::Options,
        Self::Trace,
        Self::Connect,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Post => "POST",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Connect => "CONNECT",
        }
    }
}

#[allow(clippy::unnecessary_wraps, reason = "serde wants the field's type")]
fn all_methods() -> Option<Vec<CorsMethod>> {
    Some(CorsMethod::ALL.to_vec())
}

impl Plugin for Cors {
    const NAME: &'static str = "cors";
    const PRIORITY: u32 = 2000;
    const FORBIDDEN_SCOPES: &'static [Scope] = &[Scope::Consumer];
    type Filter = CorsFilter;

    fn refuse(&self, errors: &mut FieldErrors) {
        for (place, origin) in self.origins.iter().flatten().enumerate() {
            match patterns::check_quantifiers(origin) {
                Ok(()) => {}
                Err(error @ PatternError::Possessive) => {
                    let message = format!("'{origin}' is not a valid regex: {error}");
                    errors.add(&["origins", &(place + 1).to_string()], message);
                }
                Err(_) => no_regex(place, origin, errors),
            }
        }
    }

    fn compile(self, _: &Instance) -> Result<CorsFilter, FieldErrors> {
        let mut errors = FieldErrors::default();
        let origins = self.origins.as_deref().unwrap_or_default();
        let mut rules = Vec::new();
        for (place, origin) in origins.iter().enumerate() {
            match Rule::compile(origin) {
                Some(rule) => rules.push(rule),
                None => no_regex(place, origin, &mut errors),
            }
        }
        let mut value = |field: &str, text: String| {
            let value = HeaderValue::from_str(&text).ok();
            if value.is_none() {
                errors.add(&[field], "not a header value");
            }
            value
        };
        let joined = |list: &Option<Vec<String>>| {
            let list = list.as_deref().unwrap_or_default();
            (!list.is_empty()).then(|| list.join(","))
        };
        let headers = joined(&self.headers).and_then(|text| value("headers", text));
        let exposed = joined(&self.exposed_headers).and_then(|text| value("exposed_headers", text));
        let methods = match &self.methods {
            Some(methods) => methods.as_slice(),
            None => &CorsMethod::ALL,
        };
        let methods: Vec<_> = methods.iter().map(|method| method.as_str()).collect();
        let methods = value("methods", methods.join(","));
        let single = match origins {
            [origin] if rules.iter().all(|rule| matches!(rule, Rule::Origin(_))) => {
                value("origins", origin.clone())
            }
            _ => None,
        };
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(CorsFilter {
            anybody: origins.is_empty() || matches!(rules.as_slice(), [Rule::Any]),
            single,
            rules,
            headers,
            exposed,
            methods: methods.unwrap_or_else(|| HeaderValue::from_static("")),
            max_age: self
                .max_age
                .as_ref()
                .and_then(|age| HeaderValue::from_str(&age.0.to_string()).ok()),
            credentials: self.credentials,
            private_network: self.private_network,
            leaves_preflights: self.preflight_continue,
            origin_optional: self.allow_origin_absent,
        })
    }
}

fn no_regex(place: usize, origin: &str, errors: &mut FieldErrors) {
    let message = format!("'{origin}' is not a valid regex");
    errors.add(&["origins", &(place + 1).to_string()], message);
}

/// Which origins one entry stands for.
#[derive(Debug)]
enum Rule {
    Any,
    /// An origin, or what is compared with one.
    Origin(String),
    /// An expression for whole origins, or for hosts alone if it has no colon.
    Regex {
        regex: Regex,
        hosts: bool,
    },
}

impl Rule {
    fn compile(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Any);
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".:/-".contains(&byte);
        if text.bytes().all(plain) {
            return Some(Self::Origin(normalized(text).0));
        }
        let inner = text.strip_prefix('^').unwrap_or(text);
        let inner = inner.strip_suffix('$').unwrap_or(inner);
        let regex = Regex::new(&format!("^(?:{inner})$")).ok()?;
        Some(Self::Regex {
            regex,
            hosts: !text.contains(':'),
        })
    }
}

/// An origin without its scheme's own port, and its host.
fn normalized(origin: &str) -> (String, String) {
    let Some((scheme, rest)) = origin.split_once("://") else {
        return (origin.to_owned(), origin.to_owned());
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port))
            if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            (host, Some(port))
        }
        _ => (authority, None),
    };
    let port = port.filter(|port| !matches!((scheme, *port), ("http", "80") | ("https", "443")));
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    (format!("{scheme}://{host}{port}"), host.to_owned())
}

/// Answers preflights and marks responses.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of Kong's")]
pub struct CorsFilter {
    /// Whether every origin may use the service, without a look at it.
    anybody: bool,
    /// The only origin, which is told to everybody.
    single: Option<HeaderValue>,
    rules: Vec<Rule>,
    headers: Option<HeaderValue>,
    exposed: Option<HeaderValue>,
    methods: HeaderValue,
    max_age: Option<HeaderValue>,
    credentials: bool,
    private_network: bool,
    leaves_preflights: bool,
    origin_optional: bool,
}

/// A preflight, whose answer is left as it is.
struct Preflight;

impl Filter for CorsFilter {
    async fn on_request(&self, exchange: &mut Exchange<'_>, _: &impl Host) -> Flow {
        let request = &exchange.request.headers;
        let Some(origin) = request.get(ORIGIN) else {
            return Flow::Continue;
        };
        if exchange.request.method != Method::OPTIONS
            || !request.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
        {
            return Flow::Continue;
        }
        exchange.notes.put(Preflight);
        if self.leaves_preflights {
            return Flow::Continue;
        }
        let mut response = Response::new(Bytes::new());
        let headers = response.headers_mut();
        self.allow(headers, Some(origin));
        let asked = request.get(ACCESS_CONTROL_REQUEST_HEADERS);
        if let Some(allowed) = self.headers.as_ref().or(asked) {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed.clone());
        }
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, self.methods.clone());
        if let Some(age) = &self.max_age {
            headers.insert(ACCESS_CONTROL_MAX_AGE, age.clone());
        }
        let wanted = request.get(REQUEST_PRIVATE_NETWORK);
        if self.private_network && wanted.is_some_and(|value| value == "true") {
            headers.insert(ALLOW_PRIVATE_NETWORK, HeaderValue::from_static("true"));
        }
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        Flow::Answer(response)
    }

    fn phases(&self) -> Phases {
        Phases::RESPONSE
    }

    fn on_response(&self, reply: &mut Reply<'_>, _: &impl Host) {
        if reply.seen.notes.get::<Preflight>().is_some() {
            return;
        }
        let origin = reply.seen.request.headers.get(ORIGIN);
        let origin = origin.filter(|origin| !origin.is_empty());
        if origin.is_none() && !self.origin_optional {
            return;
        }
        self.allow(reply.headers, origin);
        if let Some(exposed) = &self.exposed {
            reply
                .headers
                .insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed.clone());
        }
    }
}

impl CorsFilter {
    /// Says who may see the answer.
    fn allow(&self, headers: &mut HeaderMap, origin: Option<&HeaderValue>) {
        let anybody = self.allow_origin(headers, origin);
        if !self.credentials {
            return;
        }
        let yes = HeaderValue::from_static("true");
        if !anybody {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
        } else if let Some(origin) = origin {
            // `*` and credentials exclude each other (Fetch Standard §3.2.5).
            vary(headers);
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
        }
    }

    /// Whether that is everybody.
    fn allow_origin(&self, headers: &mut HeaderMap, origin: Option<&HeaderValue>) -> bool {
        let star = HeaderValue::from_static("*");
        if self.anybody {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, star);
            return true;
        }
        vary(headers);
        if let Some(single) = &self.single {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, single.clone());
            return false;
        }
        if let Some(origin) = origin.and_then(|value| value.to_str().ok()) {
            if self.rules.iter().any(|rule| matches!(rule, Rule::Any)) {
                headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, star);
                return true;
            }
            let (whole, host) = normalized(origin);
            let matches = |rule: &Rule| match rule {
                Rule::Any => true,
                Rule::Origin(allowed) => *allowed == whole,
                Rule::Regex { regex, hosts } => regex.is_match(if *hosts { &host } else { &whole }),
            };
            if self.rules.iter().any(matches)
                && let Ok(value) = HeaderValue::from_str(&whole)
            {
                headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, value);
                return false;
            }
        }
        headers.remove(ACCESS_CONTROL_ALLOW_ORIGIN);
        false
    }
}

/// Says that the answer depends on the origin.
fn vary(headers: &mut HeaderMap) {
    let known = headers.get_all(VARY).iter().any(|value| {
        value
            .to_str()
            .is_ok_and(|text| text.split(',').any(|part| part.trim() == "Origin"))
    });
    if !known {
        headers.append(VARY, HeaderValue::from_static("Origin"));
    }
}
