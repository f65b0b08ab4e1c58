//! Sign-ins that another site asks for, the provider's own pages above all (OpenID Connect Core §4).
//!
//! It says at which provider, and where to go afterwards. Neither is believed: the provider is one that
//! is configured, and the target a URL of this very host.

use std::sync::Arc;

use http::header::{ALLOW, CONTENT_SECURITY_POLICY, X_FRAME_OPTIONS};
use http::{HeaderValue, Method, StatusCode};
use url::Url;

use super::cookie::Jar;
use super::failure::Failure;
use super::request;
use super::rules::Rules;
use super::sign_in::{self, Cause, Wish};
use crate::answer;
use crate::exchange::Exchange;
use crate::filter::Flow;
use crate::host::Host;

/// Longest hint at who is to sign in, in bytes.
const LONGEST_HINT: usize = 1024;

/// Whether the request is made where sign-ins are asked for.
pub(super) fn is_asked_for(rules: &Rules, exchange: &Exchange<'_>) -> bool {
    let suffix = rules.config.sign_in.login_initiation_uri_suffix.as_deref();
    suffix.is_some_and(|suffix| !suffix.is_empty() && exchange.path.ends_with(suffix))
}

/// Begins the sign-in.
///
/// # Errors
///
/// If it is asked for at another provider, for another host or in a way that is not clear.
pub(super) async fn run(
    rules: &Arc<Rules>,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
) -> Result<Flow, Failure> {
    let given: Vec<_> = match exchange.request.method {
        Method::GET => request::query(exchange).into_owned().collect(),
        Method::POST if request::is_form(&exchange.request.headers) => {
            request::body_arguments(exchange).await
        }
        _ => {
            let status = StatusCode::METHOD_NOT_ALLOWED;
            let mut answer = answer::message(status, "Method not allowed", &exchange.request_id);
            let known = HeaderValue::from_static("GET, POST");
            answer.headers_mut().insert(ALLOW, known);
            return Ok(Flow::Answer(answer));
        }
    };
    let wish = read(rules, exchange, &given)?;
    // Nobody signs in unseen, in a frame of another site.
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, "frame-ancestors 'none'"),
        (X_FRAME_OPTIONS, "DENY"),
    ] {
        let value = HeaderValue::from_static(value);
        exchange.response_headers.push((name, value));
    }
    sign_in::start(rules, exchange, host, jar, Cause::Asked(wish)).await
}

/// What is asked for; other arguments say nothing.
fn read(
    rules: &Rules,
    exchange: &Exchange<'_>,
    given: &[(String, String)],
) -> Result<Wish, Failure> {
    let refused = |detail| Err(Failure::bad_request("login_initiation", detail));
    let one = |wanted: &str| {
        let mut found = given.iter().filter(|(name, _)| name == wanted);
        match (found.next(), found.next()) {
            (first, None) => Ok(first.map(|(_, value)| value.as_str())),
            _ => Err(Failure::bad_request(
                "duplicate_param",
                "an argument is there more than once",
            )),
        }
    };
    let (issuer, hint, target) = (one("iss")?, one("login_hint")?, one("target_link_uri")?);
    if !issuer.is_some_and(|issuer| rules.accepts_issuer(issuer)) {
        return refused("the sign-in is asked for at another provider");
    }
    let Some(target) = place(exchange, target) else {
        return refused("the sign-in is asked for to go to another host");
    };
    let hint = hint.filter(|hint| !hint.is_empty());
    if hint.is_some_and(|hint| hint.len() > LONGEST_HINT || hint.contains(char::is_control)) {
        return refused("the hint at the user is too long or no text");
    }
    let query = target.query().map(str::to_owned);
    let mut target = target;
    target.set_query(None);
    Ok(Wish {
        target: target.into(),
        query: query.filter(|query| !query.is_empty()),
        arguments: hint
            .map(|hint| ("login_hint".to_owned(), hint.to_owned()))
            .into_iter()
            .collect(),
    })
}

/// Where to go afterwards: a URL of this host, read as browsers read it, or its root.
fn place(exchange: &Exchange<'_>, target: Option<&str>) -> Option<Url> {
    let own = Url::parse(&sign_in::own_url(exchange)).ok()?;
    let mut target = match target.filter(|target| !target.is_empty()) {
        Some(target) if target.contains(char::is_control) => return None,
        Some(target) => Url::parse(target).ok()?,
        None => own.join("/").ok()?,
    };
    let plain = target.username().is_empty() && target.password().is_none();
    if !plain || target.origin() != own.origin() {
        return None;
    }
    target.set_fragment(None);
    // It would only ask once more.
    if target.path() == own.path() {
        target = own.join("/").ok()?;
    }
    Some(target)
}
