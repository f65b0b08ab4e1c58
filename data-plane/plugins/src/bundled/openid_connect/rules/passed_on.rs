//! What a configuration has sent along with our own requests, or passed on from one message to another: nothing that we
//! say ourselves, or that would frame the message.

use http::HeaderName;
use http::header::SET_COOKIE;
use shared::schema::FieldErrors;

use crate::bundled::openid_connect::config::OpenidConnect;
use crate::config::reserved_headers::Message;

/// Refuses what would frame a message of ours as another one was framed.
pub(super) fn headers(config: &OpenidConnect, errors: &mut FieldErrors) {
    let (client, credentials) = (&config.client, &config.credentials);
    let prefix = client.token_headers_prefix.as_deref().unwrap_or_default();
    for (field, names, prefix, message) in [
        (
            "token_headers_client",
            &client.token_headers_client,
            "",
            Message::Own,
        ),
        (
            "introspection_headers_client",
            &credentials.introspection_headers_client,
            "",
            Message::Own,
        ),
        (
            "userinfo_headers_client",
            &credentials.userinfo_headers_client,
            "",
            Message::Own,
        ),
        (
            "token_headers_replay",
            &client.token_headers_replay,
            prefix,
            Message::Answer,
        ),
    ] {
        for name in names.iter().flatten() {
            let Ok(name) = HeaderName::try_from(format!("{prefix}{name}")) else {
                continue;
            };
            // A cookie that the provider sets stands beside ours.
            if name == SET_COOKIE {
                continue;
            }
            if let Some(refusal) = message.refusal(&name) {
                errors.add(&[field], refusal);
            }
        }
    }
}

/// Arguments of an authorization request that are ours alone to say.
const AUTHORIZATION: [&str; 9] = [
    "client_id",
    "code_challenge",
    "code_challenge_method",
    "nonce",
    "redirect_uri",
    "request",
    "request_uri",
    "response_type",
    "state",
];

/// Whether an argument of an authorization request is ours alone to say: a client's of that name is passed by.
pub(in crate::bundled::openid_connect) fn is_ours_in_authorization(name: &str) -> bool {
    AUTHORIZATION.contains(&name)
}

/// Arguments of a request to an endpoint that are.
const TOKEN: [&str; 9] = [
    "client_assertion",
    "client_assertion_type",
    "client_secret",
    "code",
    "code_verifier",
    "grant_type",
    "redirect_uri",
    "refresh_token",
    "token",
];

/// Whether an argument of a request to an endpoint is ours alone to say: a client's of that name is passed by.
pub(in crate::bundled::openid_connect) fn is_ours(name: &str) -> bool {
    TOKEN.contains(&name)
}

/// Refuses arguments that would stand beside our own or in their place (RFC 6749 §3.1, §3.2).
pub(super) fn arguments(config: &OpenidConnect, errors: &mut FieldErrors) {
    let (client, credentials, sign_in) = (&config.client, &config.credentials, &config.sign_in);
    for (field, names, ours) in [
        (
            "authorization_query_args_names",
            &sign_in.authorization_query_args_names,
            &AUTHORIZATION,
        ),
        (
            "token_post_args_names",
            &client.token_post_args_names,
            &TOKEN,
        ),
        (
            "introspection_post_args_names",
            &credentials.introspection_post_args_names,
            &TOKEN,
        ),
    ] {
        if let Some(name) = names
            .iter()
            .flatten()
            .find(|name| ours.contains(&name.as_str()))
        {
            errors.add(
                &[field],
                format!("{name} is for the gateway itself to send: leave it out"),
            );
        }
    }
}
