//! What sign-ins ask for against what the provider offers, and what goes unverified.

use super::Findings;
use crate::bundled::openid_connect::rules::Rules;
use crate::bundled::openid_connect::token_endpoint::have_same_words;

/// Tells what is trusted without a look at it.
pub(super) fn unverified(rules: &Rules, findings: &mut Findings) {
    let credentials = &rules.config.credentials;
    for (verified, parameter, risk) in [
        (
            credentials.verify_signature,
            "verify_signature",
            "signatures are not verified: anyone can forge tokens",
        ),
        (
            credentials.verify_claims,
            "verify_claims",
            "claims are not verified: tokens of others, and those that have expired, are accepted",
        ),
        (
            credentials.verify_nonce,
            "verify_nonce",
            "nonces are not verified: an ID token of another sign-in is accepted",
        ),
    ] {
        if !verified {
            findings.warn(parameter, risk, &format!("Set {parameter} to true."));
        }
    }
    if rules.config.provider.extra_jwks_uris.is_some() {
        findings.warn(
            "extra_jwks_uris",
            "keys of other servers sign tokens of this provider",
            "List only servers that are trusted as the provider is.",
        );
    }
}

/// Tells what a sign-in needs that the provider's list of it does not have. A list that is not there says nothing.
pub(super) fn check<'a>(
    rules: &Rules,
    list: impl Fn(&str) -> Option<Vec<&'a str>>,
    findings: &mut Findings,
) {
    if !rules.methods.authorization_code {
        return;
    }
    let config = &rules.config.sign_in;
    let mode = serde_json::to_value(config.response_mode).unwrap_or_default();
    let kind = config.response_type.join(" ");
    for (name, needed, parameter) in [
        ("response_types_supported", kind.as_str(), "response_type"),
        (
            "response_modes_supported",
            mode.as_str().unwrap_or_default(),
            "response_mode",
        ),
        (
            "grant_types_supported",
            "authorization_code",
            "auth_methods",
        ),
    ] {
        let Some(offered) = list(name) else { continue };
        if !offered.iter().any(|one| have_same_words(one, needed)) {
            findings.warn(
                parameter,
                &format!("the provider does not announce {needed} in {name}"),
                &format!("Compare {parameter} with what the client may use at the provider."),
            );
        }
    }
}
