//! What is configured, against what the provider says that it supports.

use serde_json::Value;

use super::super::provider::{Document, ProviderError};
use super::super::rules::Rules;
use crate::bundled::openid_connect::config::default_auth_methods;

/// Holds the configuration against what the provider says that it supports (Kong 3.9,
/// `verify_parameters`).
///
/// # Errors
///
/// If something is configured that it does not support.
pub(in crate::bundled::openid_connect) fn verify_parameters(
    rules: &Rules,
    document: &Document,
) -> Result<(), ProviderError> {
    if !rules.config.credentials.verify_parameters {
        return Ok(());
    }
    let supported = &document.supported;
    let lacks = |list: &Option<Vec<String>>, value: &str| {
        list.as_ref()
            .is_some_and(|list| !list.iter().any(|known| known == value))
    };
    let sign_in = &rules.config.sign_in;
    let unsupported = |parameter| Err(ProviderError::Unsupported(parameter));
    if sign_in
        .scopes
        .iter()
        .flatten()
        .any(|scope| lacks(&supported.scopes, scope))
    {
        return unsupported("scopes");
    }
    if rules.methods.authorization_code {
        if lacks(&supported.response_types, &sign_in.response_type.join(" ")) {
            return unsupported("response_type");
        }
        if lacks(&supported.response_modes, sign_in.response_mode.name()) {
            return unsupported("response_mode");
        }
    }
    // By Kong's default all are listed: nobody has chosen those that a provider lacks.
    let chosen = rules.config.credentials.auth_methods != default_auth_methods();
    for (enabled, grant) in [
        (rules.methods.authorization_code, "authorization_code"),
        (rules.methods.password, "password"),
        (rules.methods.client_credentials, "client_credentials"),
        (rules.methods.refresh_token, "refresh_token"),
    ] {
        if chosen && enabled && lacks(&supported.grant_types, grant) {
            return unsupported("auth_methods");
        }
    }
    let configured = rules.config.client.client_auth.iter().flatten();
    let mut names = configured.filter_map(|auth| serde_json::to_value(auth).ok());
    let unknown = |name: &Value| {
        lacks(
            &supported.token_auth_methods,
            name.as_str().unwrap_or_default(),
        )
    };
    if names.any(|name| unknown(&name)) {
        return unsupported("client_auth");
    }
    Ok(())
}
