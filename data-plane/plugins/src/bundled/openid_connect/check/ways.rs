//! What is known about a provider by its name: what it needs and the configuration lacks.

use serde_json::Value;

use super::Findings;
use crate::bundled::openid_connect::config::preset::{self, Preset};
use crate::bundled::openid_connect::config::{AuthMethod, ClientAuth, OpenidConnect};
use crate::bundled::openid_connect::rules::Rules;

pub(super) fn check(rules: &Rules, findings: &mut Findings) {
    let config = &rules.config;
    let known = Preset::of_issuer(&rules.issuer);
    match (config.provider.preset, known) {
        (Some(set), Some(known)) if set != known => {
            let detail = format!(
                "the preset is {}, and the issuer is one of {}",
                set.name(),
                known.name()
            );
            findings.warn("preset", &detail, "Set preset to the provider's own.");
        }
        (None, Some(known)) => untold(config, known, findings),
        _ => {}
    }
    let Some(provider) = config.provider.preset.or(known) else {
        return;
    };
    let methods = &config.credentials.auth_methods;
    let takes_tokens = rules.methods.bearer && methods.contains(&AuthMethod::Bearer);
    let lacks = |list: &Option<Vec<String>>| list.as_deref().unwrap_or_default().is_empty();
    match provider {
        Preset::Okta if takes_tokens && !rules.issuer.contains("/oauth2/") => findings.warn(
            "bearer",
            "the access tokens of Okta's org authorization server are for Okta only",
            "For bearer tokens use a custom authorization server, such as /oauth2/default behind the issuer.",
        ),
        Preset::Auth0 if takes_tokens && lacks(&config.sign_in.audience) => findings.warn(
            "bearer",
            "Auth0 makes access tokens JWTs only for the audience that is asked for",
            "Set audience to the identifier of an API.",
        ),
        Preset::Cognito if super::logs_out(config) && lacks(&config.logout.logout_redirect_uri) => findings.warn(
            "logout",
            "Cognito's own logout takes only who is to come back: without logout_redirect_uri its session goes on",
            "Set logout_redirect_uri to one of the app client's sign-out URLs.",
        ),
        _ => {}
    }
}

/// Tells algorithms that no client assertion is signed with.
pub(super) fn algorithms(rules: &Rules, findings: &mut Findings) {
    let config = &rules.config.client;
    let named = config.client_alg.iter().flatten().copied();
    for (position, algorithm) in named.enumerate() {
        let client = rules.client(position);
        let by_secret = algorithm.is_symmetric();
        let serves = match client.auth {
            Some(ClientAuth::ClientSecretJwt) => by_secret,
            Some(ClientAuth::PrivateKeyJwt) | None => !by_secret,
            Some(_) => false,
        };
        // Requests are signed with it, too.
        if !serves
            && (by_secret || rules.config.sign_in.require_signed_request_object != Some(true))
        {
            let detail = format!(
                "{algorithm:?} in client_alg signs nothing for the client {}",
                client.id
            );
            findings.warn(
                "client_alg",
                &detail,
                "client_secret_jwt needs an algorithm HS…, private_key_jwt another; leave it out elsewhere.",
            );
        }
    }
}

/// Tells what the preset of a provider would set, where none is named.
fn untold(config: &OpenidConnect, known: Preset, findings: &mut Findings) {
    let mut with = config.clone();
    with.provider.preset = Some(known);
    let fields = |config: &OpenidConnect| serde_json::to_value(config).unwrap_or_default();
    let (now, with) = (fields(config), fields(&preset::applied(with)));
    let needed = known.parameters();
    let needed = needed.as_object().into_iter().flatten();
    let differs = |name: &&String| now.get(name.as_str()) != with.get(name.as_str());
    let differing: Vec<&str> = needed
        .map(|(name, _): (&String, &Value)| name)
        .filter(differs)
        .map(String::as_str)
        .collect();
    if !differing.is_empty() {
        let name = known.name();
        findings.warn(
            "preset",
            &format!(
                "preset={name} would set {}, which are at their defaults",
                differing.join(", ")
            ),
            &format!("Set preset to {name}, or see whether these are right for the provider."),
        );
    }
}
