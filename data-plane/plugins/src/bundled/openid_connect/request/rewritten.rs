//! The request as it goes upstream: without what was only for the gateway.

use super::Place;
use super::navigation::ADDED_BY_PROVIDER;
use crate::body;
use crate::bundled::openid_connect::rules::Rules;
use crate::exchange::Exchange;

/// Removes the credential at `place`, if it is in the body and that is configured. From elsewhere it goes with all that are
/// [withheld](crate::bundled::openid_connect::withheld).
pub(in crate::bundled::openid_connect) async fn hide(
    rules: &Rules,
    exchange: &mut Exchange<'_>,
    place: &Place,
) {
    if let Place::Body(name) = place
        && rules.config.credentials.hide_credentials
    {
        remove_from_body(exchange, name).await;
    }
}

/// Removes the argument `name` from the body that goes upstream.
pub(in crate::bundled::openid_connect) async fn remove_from_body(
    exchange: &mut Exchange<'_>,
    name: &str,
) {
    let mut form = body::form(exchange).await;
    if form.remove(name)
        && let Some(bytes) = form.encode()
    {
        exchange.upstream.body = Some(bytes.into());
    }
}

/// Takes the provider's answer out of the body that goes upstream.
pub(in crate::bundled::openid_connect) async fn remove_answer(exchange: &mut Exchange<'_>) {
    let mut form = body::form(exchange).await;
    let mut changed = false;
    for name in ADDED_BY_PROVIDER {
        changed |= form.remove(name);
    }
    if changed && let Some(bytes) = form.encode() {
        exchange.upstream.body = Some(bytes.into());
    }
}

/// Rewrites the query to the arguments that `keep` likes, each as it came.
pub(in crate::bundled::openid_connect) fn keep_arguments(
    exchange: &mut Exchange<'_>,
    keep: impl Fn(&str) -> bool,
) {
    let Some(query) = exchange.request.uri.query() else {
        return;
    };
    let kept = kept_arguments(query, keep);
    set_query(exchange, &kept);
}

/// The arguments of `query` that `keep` likes, each as it came.
pub(in crate::bundled::openid_connect) fn kept_arguments(
    query: &str,
    keep: impl Fn(&str) -> bool,
) -> String {
    let kept = query.split('&').filter(|argument| {
        form_urlencoded::parse(argument.as_bytes())
            .next()
            .is_none_or(|(name, _)| keep(&name))
    });
    kept.collect::<Vec<_>>().join("&")
}

/// Puts `query` in the place of the request's query.
pub(in crate::bundled::openid_connect) fn set_query(exchange: &mut Exchange<'_>, query: &str) {
    let path = exchange.request.uri.path();
    let path_and_query = if query.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{query}")
    };
    let mut parts = exchange.request.uri.clone().into_parts();
    let Ok(path_and_query) = path_and_query.parse() else {
        return;
    };
    parts.path_and_query = Some(path_and_query);
    if let Ok(uri) = http::Uri::from_parts(parts) {
        exchange.request.uri = uri;
    }
}
