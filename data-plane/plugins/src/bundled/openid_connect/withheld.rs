//! Credentials that never go upstream, whatever let their request in: upstreams log URLs, and a refresh token is for the
//! provider alone. With `hide_credentials` none goes there at all.
//!
//! What decided on a request may have been a session or `anonymous`, with a token beside it that nobody needed: it is
//! the client's secret all the same.

use std::borrow::Cow;

use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue, Method};

use super::config::{OpenidConnect, ParamPlace, TokenPlace};
use super::headers::spellings;
use super::request;
use super::rules::Methods;
use crate::exchange::Exchange;
use crate::glance::{Glance, TOKEN_HEADERS, Usual, Value};

/// The name of an access token as an argument (RFC 6750 §2.2).
const ACCESS_TOKEN: &str = "access_token";

/// Where a configuration looks for credentials that are not to go upstream.
#[derive(Debug, Default)]
pub(super) struct Withheld {
    /// Arguments of the query that are tokens.
    tokens: Vec<String>,
    /// Arguments of the query that are credentials together.
    pairs: Vec<[&'static str; 2]>,
    /// Header fields that are.
    fields: Vec<HeaderName>,
    /// The schemes whose `Authorization` is one.
    schemes: Vec<&'static str>,
    /// Fields of a form that are tokens.
    form: Vec<String>,
}

impl Withheld {
    pub(super) fn new(config: &OpenidConnect, methods: Methods) -> Self {
        let credentials = &config.credentials;
        let hides = credentials.hide_credentials;
        let mut withheld = Self::default();
        let mut add = |name: &str, places: [bool; 3], in_header: bool| {
            let [header, query, body] = places;
            if header && in_header {
                withheld.fields.extend(spellings(name));
            }
            if query {
                withheld.tokens.push(name.to_owned());
            }
            if body && hides {
                withheld.form.push(name.to_owned());
            }
        };
        let places = |places: &Option<Vec<ParamPlace>>| {
            let all = places.as_deref().unwrap_or_default();
            [ParamPlace::Header, ParamPlace::Query, ParamPlace::Body].map(|one| all.contains(&one))
        };
        let tokens = credentials.bearer_token_param_type.as_deref();
        let tokens = tokens.unwrap_or_default();
        let of_tokens = [TokenPlace::Header, TokenPlace::Query, TokenPlace::Body]
            .map(|place| methods.tokens() && tokens.contains(&place));
        add(ACCESS_TOKEN, of_tokens, false);
        if let Some(name) = &credentials.id_token_param_name
            && methods.tokens()
        {
            add(name, places(&credentials.id_token_param_type), hides);
        }
        if let Some(name) = &credentials.refresh_token_param_name
            && methods.refresh_token
        {
            add(name, places(&credentials.refresh_token_param_type), true);
        }
        let mut basic = false;
        for (enabled, configured, pairs) in [
            (
                methods.password,
                &credentials.password_param_type,
                &[["username", "password"]][..],
            ),
            (
                methods.client_credentials,
                &credentials.client_credentials_param_type,
                &[["client_id", "client_secret"], ["grant_type", "assertion"]][..],
            ),
        ] {
            let [header, query, _] = places(configured).map(|looked_for| enabled && looked_for);
            basic |= header;
            withheld.pairs.extend(pairs.iter().filter(|_| query));
        }
        if hides {
            let [header, ..] = of_tokens;
            if header {
                withheld.fields.extend(TOKEN_HEADERS.iter().cloned());
                withheld.schemes.extend(["bearer", "dpop"]);
            }
            withheld.schemes.extend(basic.then_some("basic"));
        }
        withheld
    }

    /// Whether `request` may bring one, but for its `Authorization`.
    pub(super) fn is_in(&self, request: &Glance<'_>) -> bool {
        let missing = |name| matches!(request.fields.value(name), Value::Missing);
        let form = || match request.fields.usual(Usual::ContentType) {
            Value::Missing => false,
            Value::Sole(value) => request::is_type(value, request::FORM),
            Value::Repeated => true,
        };
        request.query.is_some_and(|query| self.is_in_query(query))
            || !self.fields.iter().all(missing)
            || (!self.form.is_empty() && *request.method != Method::GET && form())
    }

    /// Whether an `Authorization` may be one.
    pub(super) fn may_be_authorization(&self) -> bool {
        !self.schemes.is_empty()
    }

    fn is_in_query(&self, query: &str) -> bool {
        query.split('&').any(|argument| {
            let name = name(argument);
            let is_secret = |pair: &[&str; 2]| pair.last().is_some_and(|secret| *secret == name);
            self.tokens.iter().any(|token| *token == name) || self.pairs.iter().any(is_secret)
        })
    }

    /// Takes those in query and header fields out of a request, before anything is put there of who it comes from.
    pub(super) fn strip(&self, exchange: &mut Exchange<'_>) {
        self.strip_beside(exchange);
        let headers = &mut exchange.request.headers;
        let authorization = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let scheme = authorization.and_then(|value| value.split(|byte| *byte == b' ').next());
        let is_credential = |scheme: &[u8]| {
            let mut schemes = self.schemes.iter();
            schemes.any(|known| scheme.eq_ignore_ascii_case(known.as_bytes()))
        };
        if scheme.is_some_and(is_credential) {
            headers.remove(AUTHORIZATION);
        }
    }

    /// The same but for `Authorization`, which may be another plugin's.
    pub(super) fn strip_beside(&self, exchange: &mut Exchange<'_>) {
        for name in &self.fields {
            exchange.request.headers.remove(name);
        }
        self.strip_query(exchange);
    }

    /// Takes those in the query out of a request.
    pub(super) fn strip_query(&self, exchange: &mut Exchange<'_>) {
        let query = exchange.request.uri.query().unwrap_or_default();
        if !self.is_in_query(query) {
            return;
        }
        let has = |wanted: &str| query.split('&').any(|argument| name(argument) == wanted);
        let pairs = self
            .pairs
            .iter()
            .filter(|pair| pair.iter().all(|name| has(name)));
        let tokens = self.tokens.iter().map(String::as_str);
        let unwanted: Vec<&str> = tokens.chain(pairs.flatten().copied()).collect();
        request::keep_arguments(exchange, |name| !unwanted.contains(&name));
    }

    /// Takes tokens out of a form.
    pub(super) async fn strip_form(&self, exchange: &mut Exchange<'_>) {
        if self.form.is_empty() || !request::is_form(&exchange.request.headers) {
            return;
        }
        let brought = request::body_arguments(exchange).await;
        for name in &self.form {
            if brought.iter().any(|(found, _)| found == name) {
                request::remove_from_body(exchange, name).await;
            }
        }
    }
}

/// The name of an argument of a query, decoded.
fn name(argument: &str) -> Cow<'_, str> {
    let name = argument.split('=').next().unwrap_or_default();
    let decoded = form_urlencoded::parse(name.as_bytes()).next();
    decoded.map_or(Cow::Borrowed(name), |(name, _)| name)
}
