//! Pushes authorization requests (RFC 9126).

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use serde_json::Value;
use shared::telemetry::chain;
use tracing::warn;

use super::super::failure::Failure;
use super::super::provider::{self, Document, ProviderError};
use super::super::rules::Rules;
use super::super::strict_json;
use super::{Caller, Endpoint, Post, post_guarded};
use crate::host::{Host, Repeatable};

/// Longest name of a request, in bytes: it goes into the URL that the browser is sent to.
const LONGEST_NAME: usize = 2048;

/// What follows where a request is not taken: no sign-in, and none by a plain request instead.
pub(in crate::bundled::openid_connect) fn push_failure(error: &ProviderError) -> Failure {
    match error {
        ProviderError::Status(_) | ProviderError::Unusable(_) => Failure::faulty(
            "idp_error",
            "the OpenID provider did not take the authorization request",
        ),
        other => other.failure(),
    }
}

/// Sends an authorization request to the provider, which answers what it calls it (RFC 9126 §2).
///
/// # Errors
///
/// If the provider does not take it.
pub(in crate::bundled::openid_connect) async fn push(
    rules: &Arc<Rules>,
    document: &Document,
    client: usize,
    host: &impl Host,
    form: Vec<(String, String)>,
) -> Result<String, ProviderError> {
    let sign_in = &rules.config.sign_in;
    let mut caller = Caller::configured(rules, client);
    caller.auth = sign_in
        .pushed_authorization_request_endpoint_auth_method
        .or(caller.auth);
    let place = |document: &Document| Endpoint::PushedRequest.of(rules, document, caller.auth);
    let ask = async |endpoint: &str| {
        let post = Post {
            endpoint,
            form: form.clone(),
            headers: &[],
            accept: "application/json",
            repeatable: Repeatable::Never,
        };
        post_guarded(rules, document, caller, host, post).await
    };
    let again = provider::looks_moved;
    let pushed = provider::call(rules, host, document, place, again, ask).await;
    let nowhere = ProviderError::Unusable("there is no endpoint to push to");
    let pushed = pushed.ok_or(nowhere).and_then(|pushed| pushed);
    let read = |response: Response<Bytes>| {
        if !response.status().is_success() {
            return Err(ProviderError::Status(response.status().as_u16()));
        }
        let answer = strict_json::object(response.body())
            .ok_or(ProviderError::Unusable("it is not a JSON object"))?;
        let request_uri = answer.get("request_uri").and_then(Value::as_str);
        request_uri
            .filter(|request_uri| (1..=LONGEST_NAME).contains(&request_uri.len()))
            .map(str::to_owned)
            .ok_or(ProviderError::Unusable(
                "request_uri is missing or too long",
            ))
    };
    pushed.and_then(read).inspect_err(|error| {
        warn!(issuer = rules.issuer, error = %chain(error), "the authorization request was not taken");
    })
}
