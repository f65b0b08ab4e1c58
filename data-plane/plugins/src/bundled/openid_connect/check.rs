//! A configuration against the live provider, before it is saved: what is asked of the provider, and
//! what each answer means. What a provider that cannot be reached says is told in fixed words, so that
//! nobody learns of a network what they could not ask themselves.

mod armed;
mod discovered;
mod offered;
mod reached;
mod same_site;
mod way_back;
mod ways;

use std::sync::Arc;

use serde_json::{Map, Value, json};
use shared::schema::FieldErrors;
use uuid::Uuid;

use super::OpenidConnect;
use super::authorization_request::pushes;
use super::config::preset::Preset;
use super::config::{AuthMethod, ClientAuth, default_audience};
use super::explain;
use super::provider::{self, Document, ProviderError};
use super::rules::Rules;
use super::token_endpoint::{self, Exchanged, PassedOn, TokenError};
use crate::client_keys::ClientKeys;
use crate::filter::Plugin;
use crate::host::Host;
use crate::registry;

pub use discovered::{Discovered, Said, discover};
use reached::tell;

/// The issuer that a configuration names, without a well-known suffix and without a slash at its end.
pub fn issuer(config: &Value) -> Option<String> {
    let configured = config.get("issuer")?.as_str()?;
    Some(super::rules::issuer(configured))
}

fn rules(config: &Value) -> Result<Arc<Rules>, FieldErrors> {
    let completed = registry::check(OpenidConnect::NAME, config)?;
    let config: OpenidConnect = serde_json::from_value(completed)
        .map_err(|error| FieldErrors::at(&["@entity"], error.to_string()))?;
    Rules::new(config, Uuid::nil()).map(Arc::new)
}

/// Checks `config` against its provider and tells each finding.
///
/// # Errors
///
/// Every field that is wrong, before the provider is asked.
pub async fn run(config: &Value, host: &impl Host) -> Result<Value, FieldErrors> {
    let rules = rules(config)?;
    let mut findings = Findings::default();
    findings.pass("configuration", "every parameter is valid");
    transport(&rules, &mut findings);
    audience(&rules, &mut findings);
    openid(&rules, &mut findings);
    offered::unverified(&rules, &mut findings);
    same_site::check(&rules, &mut findings);
    ways::check(&rules, &mut findings);
    ways::algorithms(&rules, &mut findings);
    armed::certificate(&rules, &host.client_keys(), &mut findings);
    if rules.config.provider.using_pseudo_issuer {
        findings.pass("discovery", "using_pseudo_issuer: nothing is discovered");
    } else {
        match provider::metadata(&rules, host).await {
            Err(error) => {
                let fix = "Compare issuer with the provider's documentation.";
                findings.fail("discovery", &tell(&error), reached::fix(&error, fix));
            }
            Ok(found) => {
                findings.pass("discovery", "the discovery document is there");
                clock(found.skew, &mut findings);
                document(&rules, &found.value, &host.client_keys(), &mut findings);
            }
        }
    }
    client(&rules, host, &mut findings).await;
    Ok(json!({
        "ok": !findings.failed,
        "issuer": rules.issuer,
        "findings": findings.all,
    }))
}

/// What there is to say of `config` beside `others`, the plugins that are stored: a browser holds one cookie of a name
/// for each host, so that sessions that are not shared would end each other.
pub fn beside(config: &Value, others: impl Iterator<Item = Value>) -> Option<Value> {
    let of = |config: &Value, name: &str| config.get(name).cloned().unwrap_or_default();
    let same = |other: &Value, name| of(config, name) == of(other, name);
    let keeps = |config: &Value| {
        let methods = of(config, "auth_methods");
        let mut methods = methods.as_array().into_iter().flatten();
        methods.any(|method| method == "session")
    };
    let shared = |other: &Value| {
        let named = ["session_secret", "client_id", "session_audience"];
        !of(config, "session_secret").is_null()
            && issuer(config) == issuer(other)
            && named.into_iter().all(|name| same(other, name))
    };
    // Audiences have cookies of their own, unless they are to have one subject.
    let apart = |config: &Value| {
        let is_one = of(config, "session_enforce_same_subject") == Value::Bool(true);
        (!is_one).then(|| of(config, "session_audience"))
    };
    let audience = |config: &Value| apart(config).unwrap_or_else(|| default_audience().into());
    let has_name =
        |other: &Value| same(other, "session_cookie_name") && audience(other) == audience(config);
    let in_the_way = |other: &Value| keeps(other) && has_name(other) && !shared(other);
    let count = others.filter(in_the_way).count();
    if count == 0 || !keeps(config) {
        return None;
    }
    let mut findings = Findings::default();
    findings.warn(
        "cookies",
        &format!(
            "{count} other plugins have session cookies of this name and share no sessions with this one"
        ),
        "If a host has routes with both, give each a session_cookie_name of its own, or the same session_secret.",
    );
    findings.all.pop()
}

#[derive(Debug, Default)]
struct Findings {
    all: Vec<Value>,
    failed: bool,
}

impl Findings {
    fn pass(&mut self, check: &str, detail: &str) {
        self.add(check, "pass", detail, None);
    }

    fn warn(&mut self, check: &str, detail: &str, fix: &str) {
        self.add(check, "warn", detail, Some(fix));
    }

    fn fail(&mut self, check: &str, detail: &str, fix: &str) {
        self.failed = true;
        self.add(check, "fail", detail, Some(fix));
    }

    fn add(&mut self, check: &str, result: &str, detail: &str, fix: Option<&str>) {
        self.all
            .push(json!({ "check": check, "result": result, "detail": detail, "fix": fix }));
    }
}

fn transport(rules: &Rules, findings: &mut Findings) {
    if !rules.config.provider.ssl_verify {
        let fix = "Set ssl_verify to true, and give the machines the provider's authority.";
        findings.warn(
            "tls",
            "the gateway does not verify the provider's certificate",
            fix,
        );
    }
    if rules.issuer.starts_with("http://") {
        findings.warn("tls", "the provider is asked without TLS", "Use https.");
    }
}

/// Tokens for others pass where nobody says whom they have to be for (RFC 9700 §2.3).
fn audience(rules: &Rules, findings: &mut Findings) {
    let required = rules.config.access.audience_required.as_deref();
    if rules.methods.tokens() && required.unwrap_or_default().is_empty() {
        findings.warn(
            "audience",
            "bearer tokens are accepted whomever they are for",
            "Set audience_required to what the provider puts into tokens for this service.",
        );
    }
}

/// Without the scope `openid` there is no ID token, and nobody vouches for who has signed in (OpenID Connect Core
/// §3.1.2.1).
fn openid(rules: &Rules, findings: &mut Findings) {
    let scopes = rules.config.sign_in.scope_words();
    if rules.methods.authorization_code && !scopes.contains(&"openid") {
        findings.warn(
            "scopes",
            "sign-ins do not ask for an ID token",
            "Add openid to scopes, unless the provider speaks OAuth 2.0 only.",
        );
    }
}

fn clock(skew: Option<std::time::Duration>, findings: &mut Findings) {
    match skew {
        Some(skew) => findings.warn(
            "clock",
            &format!(
                "the provider's clock differs from this one's by {} seconds",
                skew.as_secs()
            ),
            "Let both follow the time of the network; leeway tolerates small differences.",
        ),
        None => findings.pass("clock", "the provider's clock agrees with this one's"),
    }
}

/// What discovery offers, against what is configured.
fn document(
    rules: &Rules,
    metadata: &Map<String, Value>,
    keys: &ClientKeys,
    findings: &mut Findings,
) {
    own_name(rules, metadata, findings);
    let is_signed = rules.config.sign_in.require_signed_request_object;
    if rules.methods.authorization_code
        && is_signed.unwrap_or_else(|| announces(metadata, "require_signed_request_object"))
    {
        armed::requests(rules, keys, findings);
    }
    endpoints(rules, metadata, findings);
    supported(rules, metadata, findings);
}

/// Whether the provider says of itself what `name` means.
fn announces(metadata: &Map<String, Value>, name: &str) -> bool {
    metadata.get(name) == Some(&Value::Bool(true))
}

/// Whether the provider names itself as it is configured.
fn own_name(rules: &Rules, metadata: &Map<String, Value>, findings: &mut Findings) {
    let found = metadata
        .get("issuer")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if found == rules.issuer {
        findings.pass("issuer", "the provider names the configured issuer");
    } else if rules.is_described_by(found) || rules.accepts_issuer(found) {
        findings.pass("issuer", "the provider names an accepted issuer");
    } else {
        let fix = if found.contains("{tenantid}") {
            "Put the id of the tenant into issuer, or the issuer of each tenant that may sign in into issuers_allowed."
        } else {
            "Set issuer to the value that the provider names."
        };
        findings.fail(
            "issuer",
            &format!("the provider names the issuer {found}"),
            fix,
        );
    }
}

/// Whether the provider offers the endpoints that are needed and not configured.
fn endpoints(rules: &Rules, metadata: &Map<String, Value>, findings: &mut Findings) {
    let config = &rules.config;
    // Theirs is another, which is known.
    let own = [Some(Preset::Cognito), Some(Preset::Auth0)].contains(&config.provider.preset);
    let logs_out = logs_out(config) && !own;
    let vouches = listed(rules, AuthMethod::Userinfo);
    for (name, own, needed, fatal) in [
        (
            "authorization_endpoint",
            &config.client.authorization_endpoint,
            rules.methods.authorization_code,
            true,
        ),
        (
            "token_endpoint",
            &config.client.token_endpoint,
            rules.methods.authorization_code
                || rules.methods.password
                || rules.methods.refresh_token
                || listed(rules, AuthMethod::ClientCredentials),
            true,
        ),
        (
            "pushed_authorization_request_endpoint",
            &config.sign_in.pushed_authorization_request_endpoint,
            rules.methods.authorization_code
                && pushes(
                    rules,
                    announces(metadata, "require_pushed_authorization_requests"),
                ),
            true,
        ),
        (
            "introspection_endpoint",
            &config.client.introspection_endpoint,
            listed(rules, AuthMethod::Introspection)
                || (rules.methods.bearer && config.credentials.introspect_jwt_tokens),
            true,
        ),
        (
            "userinfo_endpoint",
            &config.client.userinfo_endpoint,
            vouches || rules.lookups.asks_user_info(),
            // What the tokens say themselves may be enough.
            vouches,
        ),
        (
            "revocation_endpoint",
            &config.client.revocation_endpoint,
            config.logout.logout_revoke,
            false,
        ),
        (
            "end_session_endpoint",
            &config.client.end_session_endpoint,
            logs_out,
            false,
        ),
    ] {
        if !needed || own.is_some() || metadata.get(name).is_some_and(Value::is_string) {
            continue;
        }
        let detail = format!("the provider does not offer {name}");
        let fix = format!("Configure {name}, or leave out what needs it.");
        if fatal {
            findings.fail("endpoints", &detail, &fix);
        } else {
            findings.warn("endpoints", &detail, &fix);
        }
    }
}

/// Whether the configuration says what means logout.
fn logs_out(config: &OpenidConnect) -> bool {
    let logout = &config.logout;
    let means = [
        &logout.logout_uri_suffix,
        &logout.logout_query_arg,
        &logout.logout_post_arg,
    ];
    means.into_iter().any(Option::is_some)
}

/// Whether a method is configured by name, rather than by Kong's default that lists all.
fn listed(rules: &Rules, method: AuthMethod) -> bool {
    let methods = &rules.config.credentials.auth_methods;
    !super::config::lists_all(methods) && methods.contains(&method)
}

fn supported(rules: &Rules, metadata: &Map<String, Value>, findings: &mut Findings) {
    let config = &rules.config;
    let list = |name: &str| {
        let items = metadata.get(name)?.as_array()?;
        Some(items.iter().filter_map(Value::as_str).collect::<Vec<_>>())
    };
    if let Some(offered) = list("scopes_supported") {
        let mut missing = config.sign_in.scope_words();
        missing.retain(|scope| !offered.contains(scope));
        if missing.is_empty() {
            findings.pass(
                "scopes",
                "the provider offers every scope that is asked for",
            );
        } else {
            let detail = format!("the provider does not announce {}", missing.join(", "));
            findings.warn(
                "scopes",
                &detail,
                "Correct scopes, or look whether the client may ask for them.",
            );
        }
    }
    match list("code_challenge_methods_supported") {
        Some(offered) if !offered.contains(&"S256") => findings.warn(
            "pkce",
            "the provider does not announce S256, which is sent nonetheless",
            "If it refuses, set require_proof_key_for_code_exchange to false.",
        ),
        Some(_) => findings.pass("pkce", "the provider supports S256"),
        None if config.sign_in.require_proof_key_for_code_exchange == Some(true) => findings.warn(
            "pkce",
            "the provider does not announce that it checks code verifiers",
            "Look whether it does: S256 is sent nonetheless.",
        ),
        None => {}
    }
    offered::check(rules, list, findings);
    if let Some(offered) = list("token_endpoint_auth_methods_supported") {
        let auths = config.client.client_auth.iter().flatten().copied();
        for auth in auths.filter(|auth| *auth != ClientAuth::None) {
            let name = serde_json::to_value(auth).unwrap_or_default();
            let name = name.as_str().unwrap_or_default();
            if !offered.contains(&name) {
                let detail = format!("the provider does not announce {name}");
                findings.warn(
                    "client_auth",
                    &detail,
                    "Choose one that it announces, or leave it out.",
                );
            }
        }
    }
    if let Some(offered) = list("id_token_signing_alg_values_supported") {
        let hmac_only = offered
            .iter()
            .all(|alg| alg.starts_with("HS") || *alg == "none");
        if hmac_only && !config.credentials.enable_hs_signatures {
            let fix = "Let the provider sign with a key pair, or set enable_hs_signatures.";
            findings.fail(
                "signatures",
                "the provider signs with client secrets only",
                fix,
            );
        }
    }
}

/// Whether tokens can be verified.
fn keys(rules: &Rules, document: &Document, findings: &mut Findings) {
    let config = &rules.config.credentials;
    let is_named = rules.config.provider.using_pseudo_issuer;
    // Where none are discovered, those who verify nothing need none.
    let verifies = !is_named || rules.methods.authorization_code || rules.methods.bearer;
    if document.keys.is_empty()
        && verifies
        && config.verify_signature
        && !config.enable_hs_signatures
    {
        let fix = if is_named {
            "Put the URL of the provider's keys into extra_jwks_uris: with using_pseudo_issuer none are discovered."
        } else {
            "Let the provider publish RSA keys of 2048 bits or more, or keys on P-256, P-384, P-521 or Ed25519, that are \
             not for encryption."
        };
        findings.fail("keys", "no key of the provider can verify a signature", fix);
    } else if document.keys.are_cut() {
        findings.warn(
            "keys",
            "the provider publishes more keys than are read: a token that one of those beyond signs is refused",
            "Let it publish those alone that it signs with, or signed with of late.",
        );
    } else {
        findings.pass("keys", "the provider's keys are there");
    }
}

/// Whether the keys are there and the client is known: a code that nobody gave out is refused as such
/// only to a client that has authenticated.
async fn client(rules: &Arc<Rules>, host: &impl Host, findings: &mut Findings) {
    let document = match provider::document(rules, host).await {
        Ok(document) => document,
        Err(error) => {
            let fix =
                "See whether jwks_uri is reachable and its keys are of a kind that is accepted.";
            findings.fail("keys", &tell(&error), reached::fix(&error, fix));
            return;
        }
    };
    keys(rules, &document, findings);
    if !rules.methods.authorization_code {
        return;
    }
    for position in 0..rules.clients.len() {
        way_back::check(rules, &document, host, position, findings).await;
        let redirect_uri = rules.client(position).redirect_uri.clone();
        let form = vec![
            ("grant_type".to_owned(), "authorization_code".to_owned()),
            ("code".to_owned(), "configuration-check".to_owned()),
            (
                "redirect_uri".to_owned(),
                redirect_uri.unwrap_or_else(|| rules.issuer.clone()),
            ),
        ];
        let passed_on = PassedOn::default();
        let asked = token_endpoint::request(rules, &document, position, host, form, &passed_on);
        let id = &rules.client(position).id;
        match asked.await {
            Err(TokenError::Client) => findings.fail(
                "client",
                &format!("the provider does not accept the client {id}"),
                "Compare client_id, client_secret and client_auth with the client at the provider.",
            ),
            Err(TokenError::NotAllowed(code)) => findings.fail(
                "client",
                &format!("the provider does not let the client {id} redeem codes: {code}"),
                explain::of_error(code).unwrap_or("Let it do that at the provider."),
            ),
            Err(TokenError::Refused(_)) | Ok(_)
                if host.node_state::<Exchanged>().has(rules, position) =>
            {
                let (by, fix) = if rules.client(position).spare.is_some() {
                    ("client_secret_alternate and not by client_secret", "Let the one take the other's place.")
                } else {
                    ("the keys before those of /openid-connect/jwks", "Have the provider read that page again.")
                };
                let detail = format!("the provider accepts the client {id} by {by}");
                findings.warn("client", &detail, fix);
            }
            Err(TokenError::Refused(_)) | Ok(_) => {
                findings.pass("client", &format!("the provider accepts the client {id}"));
            }
            Err(error @ TokenError::Unusable(..)) => findings.fail(
                "client",
                &error.to_string(),
                "See whether token_endpoint is the provider's token endpoint.",
            ),
            Err(error @ TokenError::Unexplained(_)) => findings.fail(
                "client",
                &error.to_string(),
                "See whether what stands before the provider lets the gateway through.",
            ),
            Err(TokenError::Provider(ProviderError::Unarmed(detail))) => findings.warn(
                "client",
                detail,
                "Keys of the cluster are made once the plugin is saved: register /openid-connect/jwks at the provider then, and check again. A certificate has to be stored first.",
            ),
            Err(TokenError::Provider(error)) => findings.fail(
                "client",
                &tell(&error),
                reached::fix(&error, "See whether token_endpoint is the provider's."),
            ),
        }
    }
}
