//! A configuration prepared for requests: checked once, everything computed that does not depend on
//! the request.

use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::digest;
use http::{HeaderName, HeaderValue};
use shared::schema::FieldErrors;
use shared::secret::Secret;
use url::{Host, Url};
use uuid::Uuid;

use super::config::{
    AuthMethod, ClientAuth, LoginToken, OpenidConnect, ResponseMode, SameSite, TokenPlace,
    UnsignedMethod,
};
use super::cookie::{Attributes, Names};
use super::headers::HeaderRules;
use super::seal::Binding;

/// Tells apart what was compiled, so that caches of one configuration never answer for another.
static NEXT_COMPILATION: AtomicU64 = AtomicU64::new(1);

/// A configuration and what follows from it.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) config: OpenidConnect,
    pub(super) compilation: u64,
    pub(super) methods: Methods,
    /// The issuer without the well-known suffix and without a slash at its end.
    pub(super) issuer: String,
    /// The issuer's host, for `WWW-Authenticate`.
    pub(super) realm: String,
    /// Names the provider as this configuration reaches it, among all that a node talks to.
    pub(super) provider_key: [u8; 32],
    pub(super) discovery_headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) token_headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) clients: Vec<Client>,
    pub(super) names: Names,
    pub(super) session_cookie: Attributes,
    pub(super) authorization_cookie: Attributes,
    pub(super) binding: Binding,
    pub(super) headers: HeaderRules,
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
    pub(super) refresh_token: bool,
    pub(super) authorization_code: bool,
}

/// One client and the settings that stand at its position.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) id: String,
    pub(super) secret: Option<Secret<String>>,
    pub(super) auth: Option<ClientAuth>,
    pub(super) redirect_uri: Option<String>,
    pub(super) login_redirect_uri: Option<String>,
    pub(super) logout_redirect_uri: Option<String>,
    pub(super) unauthorized_redirect_uri: Option<String>,
    pub(super) forbidden_redirect_uri: Option<String>,
    pub(super) unexpected_redirect_uri: Option<String>,
}

impl Rules {
    /// Checks `config` and prepares it for the plugin `id`.
    pub(super) fn new(config: OpenidConnect, id: Uuid) -> Result<Self, FieldErrors> {
        let mut errors = FieldErrors::default();
        let methods = methods(&config, &mut errors);
        check_urls(&config, &mut errors);
        check_sign_in(&config, methods, &mut errors);
        check_cookies(&config, &mut errors);
        check_clients(&config, methods, &mut errors);
        let issuer = issuer(&config.provider.issuer);
        let discovery_headers = pairs(
            config.provider.discovery_headers_names.as_deref(),
            config.provider.discovery_headers_values.as_deref(),
            "discovery_headers_names",
            &mut errors,
        );
        let token_headers = pairs(
            config.client.token_headers_names.as_deref(),
            config.client.token_headers_values.as_deref(),
            "token_headers_names",
            &mut errors,
        );
        let headers = HeaderRules::new(&config.headers, &mut errors);
        if !errors.is_empty() {
            return Err(errors);
        }
        let realm = Url::parse(&issuer)
            .ok()
            .and_then(|url| url.host_str().map(str::to_owned))
            .unwrap_or_else(|| issuer.clone());
        Ok(Self {
            compilation: NEXT_COMPILATION.fetch_add(1, Ordering::Relaxed),
            methods,
            realm,
            provider_key: provider_key(&config, &issuer),
            discovery_headers,
            token_headers,
            clients: clients(&config),
            names: Names::new(
                &config.session.session_cookie_name,
                &config.sign_in.authorization_cookie_name,
            ),
            session_cookie: session_cookie(&config),
            authorization_cookie: authorization_cookie(&config),
            binding: Binding::new(&config, &issuer, id),
            headers,
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

/// The methods that this version serves. At Kong's default, which lists all, the others are never
/// matched; listed by choice, they are refused.
fn methods(config: &OpenidConnect, errors: &mut FieldErrors) -> Methods {
    let listed = &config.credentials.auth_methods;
    let default = super::config::default_auth_methods();
    if *listed != default {
        for method in listed {
            if matches!(
                method,
                AuthMethod::Session
                    | AuthMethod::Bearer
                    | AuthMethod::RefreshToken
                    | AuthMethod::AuthorizationCode
            ) {
                continue;
            }
            let name = serde_json::to_value(method).unwrap_or_default();
            errors.add(
                &["auth_methods"],
                format!(
                    "not supported by this version of Wardgate: {}; leave it out",
                    name.as_str().unwrap_or_default()
                ),
            );
        }
    }
    let has = |method| listed.contains(&method);
    Methods {
        session: has(AuthMethod::Session),
        bearer: has(AuthMethod::Bearer),
        refresh_token: has(AuthMethod::RefreshToken)
            && config.credentials.refresh_token_param_name.is_some(),
        authorization_code: has(AuthMethod::AuthorizationCode),
    }
}

/// Every URL is absolute; those that the gateway calls are `https`, or `http` where that is accepted.
fn check_urls(config: &OpenidConnect, errors: &mut FieldErrors) {
    let called = [
        ("issuer", Some(&config.provider.issuer)),
        (
            "authorization_endpoint",
            config.client.authorization_endpoint.as_ref(),
        ),
        ("token_endpoint", config.client.token_endpoint.as_ref()),
        (
            "revocation_endpoint",
            config.client.revocation_endpoint.as_ref(),
        ),
        (
            "end_session_endpoint",
            config.client.end_session_endpoint.as_ref(),
        ),
    ];
    let insecure = config.provider.allow_insecure_http;
    for (field, value) in called {
        if let Some(value) = value
            && !(field == "issuer" && config.provider.using_pseudo_issuer)
            && let Err(problem) = provider_url(value, insecure)
        {
            errors.add(&[field], problem);
        }
    }
    for value in config.provider.extra_jwks_uris.iter().flatten() {
        if let Err(problem) = provider_url(value, insecure) {
            errors.add(&["extra_jwks_uris"], problem);
        }
    }
    let redirects = [
        ("redirect_uri", &config.sign_in.redirect_uri),
        ("login_redirect_uri", &config.sign_in.login_redirect_uri),
        ("logout_redirect_uri", &config.logout.logout_redirect_uri),
        (
            "unauthorized_redirect_uri",
            &config.access.unauthorized_redirect_uri,
        ),
        (
            "forbidden_redirect_uri",
            &config.access.forbidden_redirect_uri,
        ),
        (
            "unexpected_redirect_uri",
            &config.access.unexpected_redirect_uri,
        ),
    ];
    for (field, values) in redirects {
        for value in values.iter().flatten() {
            let usable = Url::parse(value).is_ok_and(|url| url.has_host());
            if !usable || value.chars().any(char::is_control) {
                errors.add(&[field], "missing host in url");
            }
        }
    }
}

/// Accepts a URL that the gateway may call: `https`, `http` on a loopback host, and `http` elsewhere
/// only if `insecure` says so.
pub(super) fn provider_url(value: &str, insecure: bool) -> Result<Url, String> {
    let Ok(url) = Url::parse(value) else {
        return Err("missing host in url".to_owned());
    };
    if !url.has_host() {
        return Err("missing host in url".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a user name or password in the url is not accepted".to_owned());
    }
    if url.fragment().is_some() {
        return Err("a fragment in the url is not accepted".to_owned());
    }
    let loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    match url.scheme() {
        "https" => Ok(url),
        "http" if loopback || insecure => Ok(url),
        "http" => Err(
            "must be https: http is accepted for loopback hosts only, unless allow_insecure_http is true"
                .to_owned(),
        ),
        _ => Err("must be https".to_owned()),
    }
}

fn check_sign_in(config: &OpenidConnect, methods: Methods, errors: &mut FieldErrors) {
    let sign_in = &config.sign_in;
    if !matches!(
        sign_in.response_mode,
        ResponseMode::Query | ResponseMode::FormPost
    ) {
        errors.add(
            &["response_mode"],
            "not supported by this version of Wardgate: use query or form_post",
        );
    }
    if sign_in.response_type != ["code"] {
        errors.add(
            &["response_type"],
            "not supported by this version of Wardgate: leave it out or at its default code",
        );
    }
    if sign_in
        .login_tokens
        .iter()
        .flatten()
        .any(|token| *token == LoginToken::Introspection)
    {
        errors.add(
            &["login_tokens"],
            "not supported by this version of Wardgate: introspection; leave it out",
        );
    }
    if config.provider.using_pseudo_issuer && methods.authorization_code {
        for (field, value) in [
            (
                "authorization_endpoint",
                &config.client.authorization_endpoint,
            ),
            ("token_endpoint", &config.client.token_endpoint),
        ] {
            if value.is_none() {
                errors.add(&[field], "required with using_pseudo_issuer");
            }
        }
    }
    let places = config.credentials.bearer_token_param_type.as_deref();
    if places.unwrap_or_default().contains(&TokenPlace::Cookie)
        && config.credentials.bearer_token_cookie_name.is_none()
    {
        errors.add(
            &["bearer_token_cookie_name"],
            "required when bearer_token_param_type has cookie",
        );
    }
}

fn check_cookies(config: &OpenidConnect, errors: &mut FieldErrors) {
    let session = &config.session;
    let sign_in = &config.sign_in;
    for (field, name) in [
        ("session_cookie_name", &session.session_cookie_name),
        (
            "authorization_cookie_name",
            &sign_in.authorization_cookie_name,
        ),
    ] {
        let token = !name.is_empty()
            && name.len() <= 100
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
        if !token {
            errors.add(&[field], "must be a cookie name of 1 to 100 characters");
        }
    }
    if session.session_cookie_name == sign_in.authorization_cookie_name {
        errors.add(
            &["session_cookie_name"],
            "must differ from authorization_cookie_name",
        );
    }
    for (field, path) in [
        ("session_cookie_path", &session.session_cookie_path),
        (
            "authorization_cookie_path",
            &sign_in.authorization_cookie_path,
        ),
    ] {
        if !path.starts_with('/') {
            errors.add(&[field], "should start with: /");
        } else if path.contains("//") {
            errors.add(&[field], "must not have empty segments");
        } else if path
            .chars()
            .any(|c| c == ';' || c.is_control() || !c.is_ascii())
        {
            errors.add(&[field], format!("invalid value: {path}"));
        }
    }
    let cookies = [
        (
            "session_cookie",
            &session.session_cookie_name,
            &session.session_cookie_domain,
            &session.session_cookie_path,
            session.session_cookie_same_site,
            session.session_cookie_secure,
        ),
        (
            "authorization_cookie",
            &sign_in.authorization_cookie_name,
            &sign_in.authorization_cookie_domain,
            &sign_in.authorization_cookie_path,
            sign_in.authorization_cookie_same_site,
            sign_in.authorization_cookie_secure,
        ),
    ];
    for (prefix, name, domain, path, same_site, secure) in cookies {
        let field = |end: &str| format!("{prefix}_{end}");
        if let Some(domain) = domain
            && !domain
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte))
        {
            errors.add(&[&field("domain")], format!("invalid value: {domain}"));
        }
        if same_site == SameSite::None && secure == Some(false) {
            errors.add(
                &[&field("same_site")],
                "None needs a secure cookie: browsers drop it otherwise",
            );
        }
        let lower = name.to_ascii_lowercase();
        if (lower.starts_with("__host-") || lower.starts_with("__secure-")) && secure != Some(true)
        {
            errors.add(
                &[&field("secure")],
                "must be true for a cookie name with this prefix",
            );
        }
        if lower.starts_with("__host-") && (domain.is_some() || path != "/") {
            errors.add(
                &[&field("name")],
                "a __Host- cookie has no domain and the path /",
            );
        }
    }
}

fn check_clients(config: &OpenidConnect, methods: Methods, errors: &mut FieldErrors) {
    let named = config
        .client
        .client_id
        .iter()
        .flatten()
        .any(|id| !id.is_empty());
    let default_methods = config.credentials.auth_methods == super::config::default_auth_methods();
    if methods.authorization_code && !named && !default_methods {
        errors.add(
            &["client_id"],
            "required when auth_methods has authorization_code",
        );
    }
    let auths = config
        .client
        .client_auth
        .iter()
        .flatten()
        .map(|auth| ("client_auth", *auth));
    let overrides = [
        (
            "token_endpoint_auth_method",
            config.client.token_endpoint_auth_method,
        ),
        (
            "revocation_endpoint_auth_method",
            config.client.revocation_endpoint_auth_method,
        ),
    ];
    let overrides = overrides
        .into_iter()
        .filter_map(|(field, auth)| Some((field, auth?)));
    for (field, auth) in auths.chain(overrides) {
        if !matches!(
            auth,
            ClientAuth::ClientSecretBasic | ClientAuth::ClientSecretPost | ClientAuth::None
        ) {
            errors.add(
                &[field],
                "not supported by this version of Wardgate: use client_secret_basic, client_secret_post or none",
            );
        }
    }
}

/// The issuer identifier in what an operator wrote (Kong 3.9: with or without the well-known suffix).
fn issuer(configured: &str) -> String {
    let mut issuer = configured.trim_end_matches('/');
    for suffix in [
        "/.well-known/openid-configuration",
        "/.well-known/oauth-authorization-server",
    ] {
        issuer = issuer.strip_suffix(suffix).unwrap_or(issuer);
    }
    issuer.trim_end_matches('/').to_owned()
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
    ]);
    *blake3::hash(parts.to_string().as_bytes()).as_bytes()
}

/// Pairs names with values by position; the shorter list decides.
fn pairs(
    names: Option<&[String]>,
    values: Option<&[String]>,
    field: &str,
    errors: &mut FieldErrors,
) -> Vec<(HeaderName, HeaderValue)> {
    let mut pairs = Vec::new();
    for (name, value) in names
        .unwrap_or_default()
        .iter()
        .zip(values.unwrap_or_default())
    {
        match (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            (Ok(name), Ok(value)) => pairs.push((name, value)),
            _ => errors.add(&[field], format!("invalid header: {name}")),
        }
    }
    pairs
}

fn clients(config: &OpenidConnect) -> Vec<Client> {
    let ids = config.client.client_id.as_deref().unwrap_or_default();
    let at = |list: &Option<Vec<String>>, position: usize| {
        let list = list.as_deref().unwrap_or_default();
        list.get(position).or_else(|| list.first()).cloned()
    };
    (0..ids.len().max(1))
        .map(|position| {
            let secrets = config.client.client_secret.as_deref().unwrap_or_default();
            let auths = config.client.client_auth.as_deref().unwrap_or_default();
            Client {
                id: ids.get(position).cloned().unwrap_or_default(),
                secret: secrets
                    .get(position)
                    .or_else(|| secrets.first())
                    .map(|secret| Secret::new(secret.0.clone())),
                auth: auths.get(position).or_else(|| auths.first()).copied(),
                redirect_uri: at(&config.sign_in.redirect_uri, position),
                login_redirect_uri: at(&config.sign_in.login_redirect_uri, position),
                logout_redirect_uri: at(&config.logout.logout_redirect_uri, position),
                unauthorized_redirect_uri: at(&config.access.unauthorized_redirect_uri, position),
                forbidden_redirect_uri: at(&config.access.forbidden_redirect_uri, position),
                unexpected_redirect_uri: at(&config.access.unexpected_redirect_uri, position),
            }
        })
        .collect()
}

fn session_cookie(config: &OpenidConnect) -> Attributes {
    let session = &config.session;
    Attributes {
        path: session.session_cookie_path.clone(),
        domain: session.session_cookie_domain.clone(),
        same_site: session.session_cookie_same_site,
        http_only: session.session_cookie_http_only,
        secure: session.session_cookie_secure,
        cross_site_over_tls: false,
    }
}

fn authorization_cookie(config: &OpenidConnect) -> Attributes {
    let sign_in = &config.sign_in;
    Attributes {
        path: sign_in.authorization_cookie_path.clone(),
        domain: sign_in.authorization_cookie_domain.clone(),
        same_site: sign_in.authorization_cookie_same_site,
        http_only: sign_in.authorization_cookie_http_only,
        secure: sign_in.authorization_cookie_secure,
        cross_site_over_tls: sign_in.response_mode == ResponseMode::FormPost,
    }
}

/// SHA-256, as an array.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest::digest(&digest::SHA256, bytes)
        .as_ref()
        .try_into()
        .expect("SHA-256 has 32 bytes")
}
