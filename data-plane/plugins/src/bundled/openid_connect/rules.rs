//! A configuration prepared for requests: checked once, everything computed that does not depend on
//! the request.

mod checks;
mod clients;
mod configured_headers;
mod contradictions;
mod cookies;
mod logouts;
mod passed_on;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use shared::clock::UnixTime;
use shared::entity::Revocation;
use shared::schema::FieldErrors;
use shared::secret::Secret;
use shared::types::Set;
use url::Url;
use uuid::Uuid;

use configured_headers::ConfiguredHeaders;

pub(super) use checks::provider_url;
pub(super) use contradictions::find as find_contradictions;
pub(super) use logouts::Ends;
pub(super) use passed_on::{is_ours, is_ours_in_authorization};

use super::admission::{Lookups, say_all};
use super::asked_claims::EssentialAcr;
use super::config::preset;
use super::config::{
    AuthMethod, ClientAuth, OpenidConnect, SecretText, SigningAlgorithm, UnsignedMethod,
};
use super::cookie::{Attributes, Names};
use super::glance::Glances;
use super::headers::HeaderRules;
use super::possession::Wanted;
use super::session_store::SessionStore;
use super::shared_answers::SharedAnswers;
use super::withheld::Withheld;
use crate::client_keys::ClientKeys;
use crate::client_keys::signer::Signer;
use crate::proxies::{self, Proxies, Proxy};
use crate::sessions::seal::Binding;

/// Tells apart what was compiled, so that caches of one configuration never answer for another.
static NEXT_COMPILATION: AtomicU64 = AtomicU64::new(1);

/// A configuration and what follows from it.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) config: OpenidConnect,
    /// The plugin record's id.
    pub(super) plugin: Uuid,
    pub(super) compilation: u64,
    pub(super) methods: Methods,
    /// The issuer without the well-known suffix and without a slash at its end.
    pub(super) issuer: String,
    /// What revocations call it.
    pub(super) issuer_name: Uuid,
    /// The issuer's host, for `WWW-Authenticate`.
    pub(super) realm: String,
    /// Names the provider as this configuration reaches it, among all that a node talks to.
    pub(super) provider_key: [u8; 32],
    /// Whether providers on this machine are meant to be asked.
    pub(super) asks_this_machine: bool,
    pub(super) configured_headers: ConfiguredHeaders,
    pub(super) lookups: Lookups,
    /// Whether nothing but a verified bearer token decides on its request, and nothing else follows.
    pub(super) tokens_say_all: bool,
    pub(super) glances: Glances,
    /// Where the nodes share introspection answers, if they do.
    pub(super) shared_answers: Option<SharedAnswers>,
    /// The proxies on the way to the provider.
    pub(super) proxies: Option<Arc<Proxies>>,
    /// The record of the certificate for mutual TLS.
    pub(super) certificate: Option<Uuid>,
    pub(super) possession: Wanted,
    pub(super) essential_acr: Option<EssentialAcr>,
    pub(super) clients: Vec<Client>,
    pub(super) names: Names,
    pub(super) session_cookie: Attributes,
    pub(super) authorization_cookie: Attributes,
    pub(super) binding: Binding,
    /// Where sessions live, if not in cookies.
    pub(super) storage: Option<Arc<SessionStore>>,
    /// Tells the tokens of this configuration from those of others.
    pub(super) token_cache_key: [u8; 32],
    pub(super) headers: HeaderRules,
    /// What never goes upstream of what clients bring.
    pub(super) withheld: Withheld,
}

/// Which credentials are looked for.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each method is on or off on its own"
)]
pub(super) struct Methods {
    pub(super) session: bool,
    pub(super) bearer: bool,
    pub(super) introspection: bool,
    pub(super) userinfo: bool,
    pub(super) refresh_token: bool,
    pub(super) password: bool,
    pub(super) client_credentials: bool,
    pub(super) authorization_code: bool,
}

/// One client and the settings that stand at its position.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) id: String,
    pub(super) secret: Option<Secret<String>>,
    /// Its other secret while one takes the other's place.
    pub(super) spare: Option<Secret<String>>,
    pub(super) auth: Option<ClientAuth>,
    /// The algorithm of its assertions, if one is configured.
    pub(super) algorithm: Option<SigningAlgorithm>,
    /// Signs authorization requests by the secret.
    pub(super) secret_signer: Option<Signer>,
    /// Signs for `private_key_jwt`.
    pub(super) key_signer: Option<Signer>,
    pub(super) redirect_uri: Option<String>,
    pub(super) login_redirect_uri: Option<String>,
    pub(super) logout_redirect_uri: Option<String>,
    pub(super) unauthorized_redirect_uri: Option<String>,
    pub(super) forbidden_redirect_uri: Option<String>,
    pub(super) unexpected_redirect_uri: Option<String>,
}

impl Client {
    /// What signs authorization requests: its own key, its secret if the algorithm says so, or a key
    /// of the cluster.
    pub(super) fn request_signer<'a>(&'a self, keys: &'a ClientKeys) -> Option<&'a Signer> {
        let by_secret = self.algorithm.is_some_and(SigningAlgorithm::is_symmetric);
        if by_secret {
            return self.secret_signer.as_ref();
        }
        let own = self.key_signer.as_ref();
        own.or_else(|| keys.signer(self.algorithm))
    }
}

impl Methods {
    /// Whether access tokens of clients are looked for.
    pub(super) fn tokens(self) -> bool {
        self.bearer || self.introspection || self.userinfo
    }
}

impl Rules {
    /// Checks `config` and prepares it for the plugin `id`.
    pub(super) fn new(config: OpenidConnect, id: Uuid) -> Result<Self, FieldErrors> {
        let config = preset::applied(config);
        let mut errors = FieldErrors::default();
        let methods = checks::methods(&config, &mut errors);
        checks::urls(&config, &mut errors);
        checks::sign_in(&config, methods, &mut errors);
        checks::cookies(&config, &mut errors);
        checks::clients(&config, &mut errors);
        checks::possession(&config, &mut errors);
        checks::http(&config, &mut errors);
        passed_on::headers(&config, &mut errors);
        passed_on::arguments(&config, &mut errors);
        let issuer = issuer(&config.provider.issuer);
        let configured_headers = ConfiguredHeaders::new(&config, &mut errors);
        let clients = clients::read(&config, &mut errors);
        let mut headers = HeaderRules::new(&config, &mut errors);
        let told = config.session.session_request_headers.iter();
        let told = told.flat_map(Set::as_slice);
        headers.owned.extend(told.map(|fact| fact.header()));
        let storage = SessionStore::new(&config, &mut errors).map(Arc::new);
        let shared_answers = SharedAnswers::new(&config, &mut errors);
        let proxies = proxies(&config, &mut errors);
        let certificate = certificate(&config, &mut errors);
        if !errors.is_empty() {
            return Err(errors);
        }
        let session_cookie = cookies::of_session(&config);
        let authorization_cookie = cookies::of_sign_in(&config);
        let realm = Url::parse(&issuer)
            .ok()
            .and_then(|url| url.host_str().map(str::to_owned))
            .unwrap_or_else(|| issuer.clone());
        Ok(Self {
            plugin: id,
            compilation: NEXT_COMPILATION.fetch_add(1, Ordering::Relaxed),
            methods,
            realm,
            provider_key: provider_key(&config, &issuer),
            asks_this_machine: checks::asks_this_machine(&config),
            configured_headers,
            lookups: Lookups::new(&config),
            tokens_say_all: say_all(&config, AuthMethod::Bearer),
            glances: Glances::new(&config, methods),
            shared_answers,
            proxies,
            certificate,
            possession: Wanted::new(&config),
            essential_acr: EssentialAcr::new(&config),
            clients,
            names: cookies::names(&config, methods, &session_cookie, &authorization_cookie),
            session_cookie,
            authorization_cookie,
            binding: binding(&config, &issuer, id),
            storage,
            token_cache_key: token_cache_key(&config, &issuer, id),
            headers,
            withheld: Withheld::new(&config, methods),
            issuer_name: Revocation::issuer(&issuer),
            issuer,
            config,
        })
    }

    /// The client at `position`, or the first.
    pub(super) fn client(&self, position: usize) -> &Client {
        self.clients
            .get(position)
            .or_else(|| self.clients.first())
            .expect("there is always a first client")
    }

    /// Whether tokens of this issuer are accepted. A slash at its end makes no difference (Kong 3.9).
    ///
    /// The discovered issuer is the configured one, or one of `issuers_allowed`: nothing else passes
    /// discovery.
    pub(super) fn accepts_issuer(&self, found: &str) -> bool {
        let same = |known: &str| known.trim_end_matches('/') == found.trim_end_matches('/');
        match self.config.provider.issuers_allowed.as_deref() {
            Some(allowed) if !allowed.is_empty() => allowed.iter().any(|known| same(known)),
            _ => same(&self.issuer),
        }
    }

    /// Whether a discovery document that names the issuer `found` is the configured provider's. Of one for several
    /// tenants it is a template, which the accepted issuers fill (Microsoft Entra ID).
    pub(super) fn is_described_by(&self, found: &str) -> bool {
        let allowed = self.config.provider.issuers_allowed.iter().flatten();
        let mut allowed = allowed.filter(|other| *other == found || tenant(found, other).is_some());
        found.trim_end_matches('/') == self.issuer || allowed.next().is_some()
    }

    /// Until when an answer of the provider is remembered whose token ends at `end`, if it says so:
    /// within the bounds of `cache_ttl_*`, and never longer than that.
    pub(super) fn remembered_until(&self, end: Option<UnixTime>, now: UnixTime) -> UnixTime {
        let provider = &self.config.provider;
        let left = end.map(|end| end.saturating_since(now));
        let mut lifetime = left.unwrap_or_else(|| provider.cache_ttl.seconds());
        if let Some(least) = &provider.cache_ttl_min {
            lifetime = lifetime.max(least.seconds());
        }
        let access = &self.config.access;
        for most in provider.cache_ttl_max.iter().chain(&access.max_claim_age) {
            lifetime = lifetime.min(most.seconds());
        }
        now.saturating_add(left.map_or(lifetime, |left| lifetime.min(left)))
    }

    /// Whether the browser is to bring an ID token along with the code.
    pub(super) fn wants_front_id_token(&self) -> bool {
        let mut words = self
            .config
            .sign_in
            .response_type
            .iter()
            .flat_map(|element| element.split(' '));
        words.any(|word| word == "id_token")
    }

    /// Whether the provider is asked for users whom it knows already (`prompt=none`).
    pub(super) fn asks_silently(&self) -> bool {
        let sign_in = &self.config.sign_in;
        let names = sign_in.authorization_query_args_names.iter().flatten();
        let values = sign_in.authorization_query_args_values.iter().flatten();
        names
            .zip(values)
            .any(|(name, value)| name == "prompt" && value == "none")
    }

    /// Whether access tokens of `method` go unverified.
    pub(super) fn ignores_signature(&self, method: UnsignedMethod) -> bool {
        !self.config.credentials.verify_signature
            || self.config.credentials.ignore_signature.contains(&method)
    }

    /// Whether a success by `method` starts or renews a session.
    pub(super) fn keeps_session(&self, method: AuthMethod) -> bool {
        let disabled = self.config.credentials.disable_session.as_deref();
        self.methods.session && !disabled.unwrap_or_default().contains(&method)
    }
}

/// The issuer identifier in what an operator wrote (Kong 3.9: with or without the well-known suffix).
pub(super) fn issuer(configured: &str) -> String {
    let mut issuer = configured.trim_end_matches('/');
    for suffix in [
        "/.well-known/openid-configuration",
        "/.well-known/oauth-authorization-server",
    ] {
        issuer = issuer.strip_suffix(suffix).unwrap_or(issuer);
    }
    issuer.trim_end_matches('/').to_owned()
}

/// The tenant whose issuer is `issuer`, where `template` is that of a provider for several.
pub(super) fn tenant<'a>(template: &str, issuer: &'a str) -> Option<&'a str> {
    let (before, after) = template.split_once("{tenantid}")?;
    let tenant = issuer.strip_prefix(before)?.strip_suffix(after)?;
    (!tenant.is_empty() && !tenant.contains('/')).then_some(tenant)
}

/// Covers all that changes what discovery answers.
fn provider_key(config: &OpenidConnect, issuer: &str) -> [u8; 32] {
    let provider = &config.provider;
    let parts = serde_json::json!([
        issuer,
        provider.issuers_allowed,
        provider.discovery_headers_names,
        provider.discovery_headers_values,
        provider.extra_jwks_uris,
        provider.allow_insecure_http,
        provider.using_pseudo_issuer,
        provider.ssl_verify,
        provider.timeout,
        provider.http_proxy,
        provider.https_proxy,
        provider.no_proxy,
        checks::asks_this_machine(config),
    ]);
    *blake3::hash(parts.to_string().as_bytes()).as_bytes()
}

/// Covers all that a token or introspection request is made of besides the caller's credentials. Plugins with an equal
/// salt share their tokens, as far as they ask for the same (Kong 3.9, `cache_tokens_salt`).
fn token_cache_key(config: &OpenidConnect, issuer: &str, id: Uuid) -> [u8; 32] {
    let own = match &config.provider.cache_tokens_salt {
        Some(salt) => salt.clone(),
        None => id.to_string(),
    };
    let provider = provider_key(config, issuer);
    let scopes = config.sign_in.scopes.as_ref();
    let scopes = scopes.filter(|_| config.provider.token_cache_key_include_scope);
    let parts = serde_json::json!([own, provider, config.client, config.credentials, scopes]);
    *blake3::hash(parts.to_string().as_bytes()).as_bytes()
}

fn proxies(config: &OpenidConnect, errors: &mut FieldErrors) -> Option<Arc<Proxies>> {
    let provider = &config.provider;
    let mut read = |field: &str, url: &Option<String>, authorization: &Option<SecretText>| {
        let url = url.as_deref().filter(|url| !url.is_empty())?;
        let parsed = url.parse::<http::Uri>().ok();
        let known = |url: &http::Uri| {
            matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some()
        };
        let Some(url) = parsed.filter(known) else {
            errors.add(&[field], "missing host in url");
            return None;
        };
        let authorization = authorization.as_ref();
        Some(Proxy {
            url,
            authorization: authorization.map(|value| Secret::new(value.expose().to_owned())),
        })
    };
    let http = read(
        "http_proxy",
        &provider.http_proxy,
        &provider.http_proxy_authorization,
    );
    let https = read(
        "https_proxy",
        &provider.https_proxy,
        &provider.https_proxy_authorization,
    );
    if http.is_none() && https.is_none() {
        return None;
    }
    let without = provider.no_proxy.as_deref().unwrap_or_default();
    Some(Arc::new(Proxies {
        http,
        https,
        without: proxies::hosts(without),
    }))
}

/// Binds what is sealed to issuer, clients and audience and to the plugin, or to the secret that it shares.
fn binding(config: &OpenidConnect, issuer: &str, id: Uuid) -> Binding {
    let mut parts = vec![issuer];
    let clients = config.client.client_id.as_deref().unwrap_or_default();
    parts.extend(clients.iter().map(String::as_str));
    parts.push(&config.session.session_audience);
    Binding::of(&parts, config.session.session_secret.as_ref(), id)
}

fn certificate(config: &OpenidConnect, errors: &mut FieldErrors) -> Option<Uuid> {
    let id = config.client.tls_client_auth_cert_id.as_deref()?;
    let parsed = id.parse().ok();
    if parsed.is_none() {
        errors.add(&["tls_client_auth_cert_id"], "expected a valid UUID");
    }
    parsed
}
