//! What a request brings: arguments, credentials, the choice of a client.

mod arguments;
mod navigation;
mod rewritten;

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue};

pub(super) use self::arguments::{body_arguments, has_body_argument, has_empty_body};
pub(super) use self::navigation::{
    accepts, added_by_provider, is_grpc, is_navigation, is_prefetch, may_be_navigation,
};
pub(super) use self::rewritten::{
    hide, keep_arguments, kept_arguments, remove_answer, remove_from_body, set_query,
};
use super::config::{ParamPlace, TokenPlace};
use super::cookie::Jar;
use super::failure::Failure;
use super::rules::Rules;
use crate::exchange::Exchange;
use crate::glance::TOKEN_HEADERS;

/// Longest bearer token, in bytes.
const LONGEST_TOKEN: usize = 16 * 1024;

/// A token and where it was found. Not to be printed.
#[derive(Clone)]
pub(super) struct Found {
    pub(super) token: String,
    pub(super) place: Place,
}

/// A name with its secret, and where they were found. Not to be printed.
#[derive(Clone)]
pub(super) struct Pair {
    pub(super) name: String,
    pub(super) secret: String,
    pub(super) places: Vec<Place>,
    /// Whether they came as HTTP Basic, which does not say whose they are.
    pub(super) basic: bool,
}

/// Where a credential was found.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// A header.
    Header,
    /// An argument of the query.
    Query,
    /// A field of the body.
    Body(String),
    /// A cookie. It leaves with the gateway's own.
    Cookie,
}

/// The arguments of a query, decoded.
pub(super) fn query<'a>(exchange: &'a Exchange<'_>) -> form_urlencoded::Parse<'a> {
    form_urlencoded::parse(exchange.request.uri.query().unwrap_or_default().as_bytes())
}

/// The first argument `name` of the query.
fn query_argument<'a>(exchange: &'a Exchange<'_>, name: &str) -> Option<Cow<'a, str>> {
    exchange.request.uri.query()?;
    query(exchange)
        .find(|(found, _)| found == name)
        .map(|(_, value)| value)
}

/// The media type of forms.
pub(super) const FORM: &str = "application/x-www-form-urlencoded";

/// Whether the body is a form.
pub(super) fn is_form(headers: &HeaderMap) -> bool {
    has_type(headers, FORM)
}

/// Whether the body is of this media type.
fn has_type(headers: &HeaderMap, wanted: &str) -> bool {
    let value = headers.get(CONTENT_TYPE);
    value.is_some_and(|value| is_type(value.as_bytes(), wanted))
}

/// Whether a `Content-Type` names this media type, whatever its parameters.
pub(super) fn is_type(value: &[u8], wanted: &str) -> bool {
    let essence = value.split(|byte| *byte == b';').next().unwrap_or(value);
    essence.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes())
}

/// Arguments of the request that the configuration lets through to the provider: of query and body,
/// and, if `headers` says so, of headers that are named alike. Of each name the first counts.
pub(super) async fn let_through(
    exchange: &mut Exchange<'_>,
    wanted: Option<&[String]>,
    headers: bool,
) -> Vec<(String, String)> {
    let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) else {
        return Vec::new();
    };
    let mut given: Vec<_> = query(exchange).into_owned().collect();
    given.extend(body_arguments(exchange).await);
    wanted
        .iter()
        .filter_map(|name| {
            let argument = given.iter().find(|(found, _)| found == name);
            let value = argument.map(|(_, value)| value.clone()).or_else(|| {
                let name = HeaderName::try_from(name.replace('_', "-")).ok()?;
                let value = exchange.request.headers.get(&name).filter(|_| headers)?;
                value.to_str().ok().map(str::to_owned)
            })?;
            Some((name.clone(), value))
        })
        .collect()
}

/// Headers of the request that the configuration lets through to the provider.
pub(super) fn headers_let_through(
    headers: &HeaderMap,
    wanted: Option<&[String]>,
) -> Vec<(HeaderName, HeaderValue)> {
    let wanted = wanted.unwrap_or_default().iter();
    wanted
        .filter_map(|name| {
            let value = header_named(headers, name)?.clone();
            Some((HeaderName::try_from(name).ok()?, value))
        })
        .collect()
}

/// The header that a configuration calls `name`, which may have `_` in the place of `-`.
pub(super) fn header_named<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a HeaderValue> {
    let dashed = || headers.get(name.replace('_', "-"));
    headers.get(name).or_else(dashed)
}

/// The ID token that accompanies an access token, if one is looked for.
pub(super) async fn id_token(rules: &Rules, exchange: &mut Exchange<'_>) -> Option<Found> {
    let credentials = &rules.config.credentials;
    let name = credentials.id_token_param_name.as_deref()?;
    named(exchange, name, credentials.id_token_param_type.as_deref()).await
}

/// The position of the client that the request chooses; the first if it chooses none (Kong 3.9,
/// `client_arg`).
pub(super) async fn client(rules: &Rules, exchange: &mut Exchange<'_>) -> usize {
    if rules.clients.len() < 2 {
        return 0;
    }
    let name = &rules.config.client.client_arg;
    let dashed = name.replace('_', "-");
    let headers = &exchange.request.headers;
    let header = [format!("x-{dashed}"), dashed]
        .into_iter()
        .find_map(|name| headers.get(name)?.to_str().ok().map(Cow::Borrowed));
    let early = header.or_else(|| query_argument(exchange, name));
    let choice = match early.map(Cow::into_owned) {
        Some(choice) => choice,
        None => match argument(body_arguments(exchange).await, name) {
            Some(found) => found.token,
            None => return 0,
        },
    };
    let number = choice.parse::<usize>().ok();
    let by_number = number.and_then(|number| number.checked_sub(1));
    let by_number = by_number.filter(|position| *position < rules.clients.len());
    let by_id = || rules.clients.iter().position(|client| client.id == choice);
    by_number.or_else(by_id).unwrap_or_default()
}

/// The bearer token of the request, looked for where the configuration says, in its order.
///
/// # Errors
///
/// If there are several tokens, in headers or in header, query and form: which one counts must not be
/// a matter of luck (RFC 6750 §2).
pub(super) async fn bearer(
    rules: &Rules,
    exchange: &mut Exchange<'_>,
    jar: &Jar,
) -> Result<Option<Found>, Failure> {
    check_authorization(&exchange.request.headers)?;
    let credentials = &rules.config.credentials;
    for place in credentials.bearer_token_param_type.iter().flatten() {
        let found = match place {
            TokenPlace::Header => bearer_header(&exchange.request.headers, rules.possession.key()),
            TokenPlace::Query => query_argument(exchange, "access_token").map(|token| Found {
                token: token.into_owned(),
                place: Place::Query,
            }),
            TokenPlace::Cookie => credentials
                .bearer_token_cookie_name
                .as_ref()
                .and_then(|name| {
                    Some(Found {
                        token: jar.other(name)?.to_owned(),
                        place: Place::Cookie,
                    })
                }),
            TokenPlace::Body => argument(body_arguments(exchange).await, "access_token"),
        };
        if let Some(found) = found.filter(|found| !found.token.is_empty()) {
            check_alone(rules, exchange, &found).await?;
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Refuses a second token beside the one that was found: another one in a header, or any in the query or in a form, there
/// too if it is the same place. What stands in JSON is the application's, unless the token was found there. A cookie comes
/// with every request, whatever its client means by that: which of them counts, the order of the places says.
async fn check_alone(
    rules: &Rules,
    exchange: &mut Exchange<'_>,
    found: &Found,
) -> Result<(), Failure> {
    let place = &found.place;
    if matches!(place, Place::Cookie) {
        return Ok(());
    }
    let places = rules.config.credentials.bearer_token_param_type.as_deref();
    let looked_for = |place| places.unwrap_or_default().contains(&place);
    // What has no value is as good as not there (RFC 6749 §3.1).
    let is_token = |name: &str, value: &str| name == "access_token" && !value.is_empty();
    let own = usize::from(matches!(place, Place::Query));
    let in_query = looked_for(TokenPlace::Query)
        && query(exchange)
            .filter(|(name, value)| is_token(name, value))
            .count()
            > own;
    let own = usize::from(matches!(place, Place::Body(_)));
    let counts = own > 0 || is_form(&exchange.request.headers);
    let in_body = looked_for(TokenPlace::Body) && counts && {
        let arguments = body_arguments(exchange).await;
        let tokens = arguments
            .iter()
            .filter(|(name, value)| is_token(name, value));
        tokens.count() > own
    };
    let headers = &exchange.request.headers;
    let mut others = header_tokens(headers, rules.possession.key());
    let in_header =
        looked_for(TokenPlace::Header) && others.any(|other| other != Some(found.token.as_str()));
    if in_query || in_body || in_header {
        return Err(Failure::bad_request(
            "duplicate_param",
            "there is more than one access token",
        ));
    }
    Ok(())
}

/// Whether `text` is a token (RFC 6750 §2.1, `b64token`) of a bearable length.
pub(super) fn is_token(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    let sound = body.bytes().fold(true, |sound, byte| sound & fits(byte));
    text.len() <= LONGEST_TOKEN && !body.is_empty() && sound
}

/// Whether `byte` may be in a token. Without a branch, so that many are judged at once: tokens of a kilobyte are
/// common, and each request brings one.
fn fits(byte: u8) -> bool {
    let within = |first: u8, last: u8| u8::from(byte.wrapping_sub(first) <= last - first);
    let is = |character: u8| u8::from(byte == character);
    // From `-` to `9` are `.`, `/` and the digits.
    let letter = within(b'a', b'z') | within(b'A', b'Z');
    (letter | within(b'-', b'9') | is(b'+') | is(b'_') | is(b'~')) != 0
}

/// Refuses several `Authorization` headers: which one counts must not be a matter of luck.
fn check_authorization(headers: &HeaderMap) -> Result<(), Failure> {
    if headers.get_all(AUTHORIZATION).iter().nth(1).is_some() {
        return Err(Failure::bad_request(
            "duplicate_param",
            "there is more than one Authorization header",
        ));
    }
    Ok(())
}

/// A name and its secret, looked for in `places`, in their order: as HTTP Basic (RFC 7617), or as the
/// two arguments `names`.
///
/// # Errors
///
/// If there are several `Authorization` headers.
pub(super) async fn pair(
    exchange: &mut Exchange<'_>,
    places: &[ParamPlace],
    names: [&'static str; 2],
) -> Result<Option<Pair>, Failure> {
    check_authorization(&exchange.request.headers)?;
    for place in places {
        let found = match place {
            ParamPlace::Header => basic(&exchange.request.headers).map(|(name, secret)| Pair {
                name,
                secret,
                places: vec![Place::Header],
                basic: true,
            }),
            ParamPlace::Query | ParamPlace::Body => arguments(exchange, &[*place], names).await,
        };
        if let Some(found) = found.filter(|found| !found.name.is_empty()) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The two arguments `names`, looked for in the query and the body, in the order of `places`.
pub(super) async fn arguments(
    exchange: &mut Exchange<'_>,
    places: &[ParamPlace],
    names: [&'static str; 2],
) -> Option<Pair> {
    for place in places {
        let found = match place {
            ParamPlace::Header => None,
            ParamPlace::Query => {
                let [name, secret] = names.map(|name| query_argument(exchange, name));
                name.zip(secret).map(|(name, secret)| Pair {
                    name: name.into_owned(),
                    secret: secret.into_owned(),
                    places: vec![Place::Query],
                    basic: false,
                })
            }
            ParamPlace::Body => {
                let arguments = body_arguments(exchange).await;
                let [name, secret] = names.map(|name| argument(arguments.clone(), name));
                name.zip(secret).map(|(name, secret)| Pair {
                    name: name.token,
                    secret: secret.token,
                    places: names.map(|name| Place::Body(name.to_owned())).to_vec(),
                    basic: false,
                })
            }
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

/// Name and secret of HTTP Basic. Bare ones, without base64, are taken as well (Kong 3.9).
fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, credentials) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let credentials = credentials.trim();
    let pair = match STANDARD.decode(credentials) {
        Ok(bytes) => String::from_utf8(bytes).ok()?,
        Err(_) => credentials.to_owned(),
    };
    let (name, secret) = pair.split_once(':')?;
    Some((name.to_owned(), secret.to_owned()))
}

fn bearer_header(headers: &HeaderMap, dpop: bool) -> Option<Found> {
    let token = header_tokens(headers, dpop).flatten().next()?;
    Some(Found {
        token: token.to_owned(),
        place: Place::Header,
    })
}

/// The tokens in headers, those in `Authorization` first; none in the place of what is no text.
fn header_tokens(headers: &HeaderMap, dpop: bool) -> impl Iterator<Item = Option<&str>> {
    let authorization = headers.get(AUTHORIZATION).and_then(|value| {
        let (scheme, token) = str::from_utf8(value.as_bytes()).ok()?.split_once(' ')?;
        let known =
            scheme.eq_ignore_ascii_case("bearer") || (dpop && scheme.eq_ignore_ascii_case("dpop"));
        known.then_some(token.trim())
    });
    let beside = TOKEN_HEADERS.iter().flat_map(|name| headers.get_all(name));
    let beside = beside.map(|value| value.to_str().ok().map(without_scheme));
    let beside = beside.filter(|token| *token != Some(""));
    authorization.map(Some).into_iter().chain(beside)
}

/// The refresh token of the request, if one is looked for.
pub(super) async fn refresh_token(rules: &Rules, exchange: &mut Exchange<'_>) -> Option<Found> {
    let credentials = &rules.config.credentials;
    let name = credentials.refresh_token_param_name.as_deref()?;
    let places = credentials.refresh_token_param_type.as_deref();
    named(exchange, name, places).await
}

/// The token called `name`, looked for in `places`, in their order.
async fn named(
    exchange: &mut Exchange<'_>,
    name: &str,
    places: Option<&[ParamPlace]>,
) -> Option<Found> {
    for place in places.unwrap_or_default() {
        let found = match place {
            ParamPlace::Header => header_of(&exchange.request.headers, name),
            ParamPlace::Query => query_argument(exchange, name).map(|token| Found {
                token: token.into_owned(),
                place: Place::Query,
            }),
            ParamPlace::Body => argument(body_arguments(exchange).await, name),
        };
        if let Some(found) = found.filter(|found| !found.token.is_empty()) {
            return Some(found);
        }
    }
    None
}

fn header_of(headers: &HeaderMap, name: &str) -> Option<Found> {
    let value = header_named(headers, name)?.to_str().ok()?;
    Some(Found {
        token: without_scheme(value).to_owned(),
        place: Place::Header,
    })
}

fn argument(arguments: Vec<(String, String)>, name: &str) -> Option<Found> {
    let (_, token) = arguments.into_iter().find(|(found, _)| found == name)?;
    Some(Found {
        token,
        place: Place::Body(name.to_owned()),
    })
}

fn without_scheme(value: &str) -> &str {
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        _ => value.trim(),
    }
}

#[cfg(test)]
mod tests {
    use super::{LONGEST_TOKEN, is_token};

    #[test]
    fn a_token_has_the_characters_that_its_standard_lists() {
        for character in (0..=u8::MAX).map(char::from) {
            let listed = character.is_ascii_alphanumeric() || "-._~+/".contains(character);
            assert_eq!(
                is_token(&format!("ab{character}c==")),
                listed,
                "{character:?}"
            );
        }
        assert!(!is_token("") && !is_token("==") && !is_token("a=b"));
        assert!(is_token(&"a".repeat(LONGEST_TOKEN)));
        assert!(!is_token(&"a".repeat(LONGEST_TOKEN + 1)));
    }
}
