//! Takes tokens back at the provider.

use tracing::{debug, warn};

use super::super::provider::{self, Document};
use super::super::rules::Rules;
use super::{Caller, Endpoint, Post};
use crate::host::Host;

/// Revokes tokens (RFC 7009), refresh token first. A failure is logged and changes nothing.
pub(in crate::openid_connect) async fn revoke(
    rules: &Rules,
    document: &Document,
    client: usize,
    host: &impl Host,
    tokens: Vec<(&'static str, String)>,
) {
    let config = &rules.config.client;
    let mut caller = Caller::configured(rules, client);
    caller.auth = config.revocation_endpoint_auth_method.or(caller.auth);
    let Some(endpoint) = Endpoint::Revocation.of(rules, document, caller.auth) else {
        return;
    };
    let endpoint = endpoint.as_str();
    for (hint, token) in tokens {
        let form = vec![
            (config.revocation_token_param_name.clone(), token),
            ("token_type_hint".to_owned(), hint.to_owned()),
        ];
        let post = Post {
            endpoint,
            form,
            headers: &[],
            accept: "application/json",
        };
        match super::post(rules, document, caller, host, post).await {
            Ok(response) if response.status().is_success() => debug!(hint, "token revoked"),
            Ok(response) => {
                warn!(
                    issuer = rules.issuer,
                    hint,
                    status = response.status().as_u16(),
                    "revocation refused"
                );
            }
            Err(error) => {
                warn!(issuer = rules.issuer, hint, error = %provider::chain(&error), "revocation failed");
            }
        }
    }
}
