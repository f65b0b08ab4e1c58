//! The request as it goes upstream: without what was only for the gateway.

use super::Place;
use crate::body;
use crate::exchange::Exchange;
use crate::openid_connect::rules::Rules;

/// Removes the credential at `place` from what goes upstream, if that is configured. From a URL it goes in any case:
/// upstreams log those.
pub(in crate::openid_connect) async fn hide(
    rules: &Rules,
    exchange: &mut Exchange<'_>,
    place: &Place,
) {
    if rules.config.credentials.hide_credentials || matches!(place, Place::Query(_)) {
        remove(exchange, place).await;
    }
}

/// Removes a refresh token from what goes upstream: from a body only if that is configured.
pub(in crate::openid_connect) async fn hide_refresh_token(
    rules: &Rules,
    exchange: &mut Exchange<'_>,
    place: &Place,
) {
    match place {
        Place::Body(_) => hide(rules, exchange, place).await,
        _ => remove(exchange, place).await,
    }
}

async fn remove(exchange: &mut Exchange<'_>, place: &Place) {
    match place {
        Place::Header(name) => _ = exchange.request.headers.remove(name),
        Place::Query(name) => keep_arguments(exchange, |found| found != name),
        Place::Body(name) => {
            let mut form = body::form(exchange).await;
            if form.remove(name)
                && let Some(bytes) = form.encode()
            {
                exchange.upstream.body = Some(bytes.into());
            }
        }
        Place::Cookie => {}
    }
}

/// Rewrites the query to the arguments that `keep` likes, each as it came.
pub(in crate::openid_connect) fn keep_arguments(
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
pub(in crate::openid_connect) fn kept_arguments(
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
pub(in crate::openid_connect) fn set_query(exchange: &mut Exchange<'_>, query: &str) {
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
