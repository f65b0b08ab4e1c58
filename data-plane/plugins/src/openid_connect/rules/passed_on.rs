//! The header fields that are passed on from one message to another, by the names that a configuration gives them.

use http::HeaderName;
use http::header::SET_COOKIE;
use shared::schema::FieldErrors;

use crate::openid_connect::config::OpenidConnect;
use crate::reserved_headers::Message;

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
