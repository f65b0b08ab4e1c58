//! What is configured, against what the provider says that it supports.

use serde_json::Value;

use super::super::provider::{Document, ProviderError};
use super::super::rules::Rules;
use crate::bundled::openid_connect::config::lists_all;

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
    let mut scopes = sign_in.scope_words().into_iter();
    if scopes.any(|scope| lacks(&supported.scopes, scope)) {
        return unsupported("scopes");
    }
    if rules.methods.authorization_code {
        let wanted = sign_in.response_type.join(" ");
        let mut types = supported.response_types.iter();
        if types.any(|known| !known.iter().any(|known| have_same_words(known, &wanted))) {
            return unsupported("response_type");
        }
        if lacks(&supported.response_modes, sign_in.response_mode.name()) {
            return unsupported("response_mode");
        }
    }
    // By Kong's default all are listed: nobody has chosen those that a provider lacks.
    let chosen = !lists_all(&rules.config.credentials.auth_methods);
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

/// Whether two response types are one: their words stand in any order (OAuth 2.0 Multiple Response Type Encoding Practices
/// §3).
pub(in crate::bundled::openid_connect) fn have_same_words(one: &str, other: &str) -> bool {
    sorted(one) == sorted(other)
}

fn sorted(text: &str) -> Vec<&str> {
    let mut words: Vec<_> = text.split(' ').collect();
    words.sort_unstable();
    words
}
