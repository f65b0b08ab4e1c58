//! What well-known providers need that others do not, by one field.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use url::Url;

use super::OpenidConnect;

/// A provider whose ways are known.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// Okta, with a custom authorization server.
    Okta,
    /// Microsoft Entra ID.
    Entra,
    /// Google.
    Google,
    /// Auth0.
    Auth0,
    /// Amazon Cognito.
    Cognito,
    /// Keycloak.
    Keycloak,
}

impl Preset {
    /// The provider that `issuer` is one of, as far as its host tells.
    pub(crate) fn of_issuer(issuer: &str) -> Option<Self> {
        let url = Url::parse(issuer).ok()?;
        let host = url.host_str()?;
        let below = |domain: &&str| {
            let name = host.strip_suffix(*domain);
            name.is_some_and(|name| name.is_empty() || name.ends_with('.'))
        };
        let is = |domains: &[&str]| domains.iter().any(below);
        if is(&["okta.com", "oktapreview.com", "okta-emea.com"]) {
            Some(Self::Okta)
        } else if is(&["login.microsoftonline.com", "login.microsoftonline.us"]) {
            Some(Self::Entra)
        } else if is(&["accounts.google.com"]) {
            Some(Self::Google)
        } else if is(&["auth0.com"]) {
            Some(Self::Auth0)
        } else if host.starts_with("cognito-idp.") && is(&["amazonaws.com"]) {
            Some(Self::Cognito)
        } else if url.path().contains("/realms/") {
            Some(Self::Keycloak)
        } else {
            None
        }
    }

    /// Its name as the parameter has it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Okta => "okta",
            Self::Entra => "entra",
            Self::Google => "google",
            Self::Auth0 => "auth0",
            Self::Cognito => "cognito",
            Self::Keycloak => "keycloak",
        }
    }

    /// What the provider needs, by parameter.
    pub(crate) fn parameters(self) -> Value {
        match self {
            // Scopes are an array of its own name; a refresh token is asked for by scope.
            Self::Okta => json!({
                "scopes_claim": ["scp"],
                "scopes": ["openid", "email", "profile", "offline_access"],
                "authenticated_groups_claim": ["groups"],
            }),
            // `sub` differs from client to client; `oid` is the user.
            Self::Entra => json!({
                "scopes_claim": ["scp"],
                "scopes": ["openid", "email", "profile", "offline_access"],
                "credential_claim": ["oid"],
                "authenticated_groups_claim": ["groups"],
            }),
            // A refresh token is asked for by arguments, and `offline_access` is refused.
            Self::Google => json!({
                "scopes": ["openid", "email", "profile"],
                "authorization_query_args_names": ["access_type", "prompt"],
                "authorization_query_args_values": ["offline", "consent"],
            }),
            Self::Auth0 => json!({
                "scopes": ["openid", "email", "profile", "offline_access"],
            }),
            // Access tokens name their client in place of an audience.
            Self::Cognito => json!({
                "audience_claim": ["client_id"],
                "scopes": ["openid", "email", "profile"],
                "groups_claim": ["cognito:groups"],
                "authenticated_groups_claim": ["cognito:groups"],
            }),
            Self::Keycloak => json!({
                "scopes": ["openid", "email", "profile"],
                "roles_claim": ["realm_access", "roles"],
                "authenticated_groups_claim": ["groups"],
            }),
        }
    }

    /// The issuers that tokens of the provider `issuer` name, if these are several.
    fn issuers(self, issuer: &str) -> Option<[&'static str; 2]> {
        let is_google = self == Self::Google && Self::of_issuer(issuer) == Some(self);
        // Google's documentation of ID tokens: the one or the other.
        is_google.then_some(["https://accounts.google.com", "accounts.google.com"])
    }

    /// What is wise with any provider and not Kong's default: no tokens in URLs, no passwords, and
    /// clocks that differ a little.
    fn common() -> Value {
        json!({
            "leeway": 30,
            "bearer_token_param_type": ["header", "body"],
            "auth_methods": ["session", "authorization_code", "bearer"],
        })
    }
}

/// `config` with what its preset says wherever it is at its default.
pub(crate) fn applied(config: OpenidConnect) -> OpenidConnect {
    let Some(preset) = config.provider.preset else {
        return config;
    };
    let fields = |config: &OpenidConnect| match serde_json::to_value(config) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    let mut all = fields(&config);
    let issuer = json!({ "issuer": config.provider.issuer });
    let Ok(plain) = serde_json::from_value::<OpenidConnect>(issuer) else {
        return config;
    };
    let plain = fields(&plain);
    for parameters in [preset.parameters(), Preset::common()] {
        let Value::Object(parameters) = parameters else {
            continue;
        };
        let issuers = preset.issuers(&config.provider.issuer);
        let issuers = issuers.map(|issuers| ("issuers_allowed".to_owned(), json!(issuers)));
        for (name, value) in parameters.into_iter().chain(issuers) {
            if all.get(&name) == plain.get(&name) {
                all.insert(name, value);
            }
        }
    }
    serde_json::from_value(Value::Object(all)).unwrap_or(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(fields: &Value) -> Map<String, Value> {
        let config: OpenidConnect = serde_json::from_value(fields.clone()).unwrap();
        let applied = serde_json::to_value(applied(config)).unwrap();
        applied.as_object().unwrap().clone()
    }

    #[test]
    fn every_preset_sets_only_parameters_that_there_are() {
        for preset in ["okta", "entra", "google", "auth0", "cognito", "keycloak"] {
            let fields = json!({ "issuer": "https://idp.example", "preset": preset });
            let applied = config(&fields);
            let parsed: Preset = serde_json::from_value(json!(preset)).unwrap();
            for (name, value) in parsed.parameters().as_object().unwrap() {
                assert_eq!(applied.get(name), Some(value), "{preset} {name}");
            }
            assert_eq!(applied["leeway"], 30);
        }
    }

    #[test]
    fn a_provider_is_known_by_its_issuer() {
        for (issuer, known) in [
            ("https://dev-1.okta.com/oauth2/default", Some("okta")),
            ("https://x.oktapreview.com", Some("okta")),
            ("https://login.microsoftonline.com/t/v2.0", Some("entra")),
            ("https://accounts.google.com", Some("google")),
            ("https://tenant.eu.auth0.com/", Some("auth0")),
            (
                "https://cognito-idp.eu-west-1.amazonaws.com/p",
                Some("cognito"),
            ),
            ("https://sso.example/realms/a", Some("keycloak")),
            ("https://notokta.com", None),
            ("https://okta.com.example", None),
            ("https://s3.amazonaws.com", None),
            ("okta.com", None),
        ] {
            let found = Preset::of_issuer(issuer);
            assert_eq!(found.map(Preset::name), known, "{issuer}");
            if let Some(found) = found {
                assert_eq!(json!(found), json!(found.name()));
            }
        }
    }

    #[test]
    fn what_is_configured_stays() {
        let fields = json!({
            "issuer": "https://idp.example", "preset": "okta", "scopes": ["openid"],
            "scopes_claim": ["scopes"], "leeway": 5,
        });
        let applied = config(&fields);
        assert_eq!(applied["scopes_claim"], json!(["scopes"]));
        assert_eq!(applied["leeway"], 5);
        let plain = config(&json!({ "issuer": "https://idp.example" }));
        assert_eq!(plain["scopes_claim"], json!(["scope"]));
    }
}
