//! What a configuration must keep to beyond the shape of its fields, and what this version does not
//! serve yet.

use shared::schema::FieldErrors;
use shared::types::Set;
use url::{Host, Url};

use super::Methods;
use crate::bundled::openid_connect::config::{
    self, AuthMethod, ClientAuth, OpenidConnect, ProofOfPossession, SameSite, TokenPlace,
};
use crate::bundled::openid_connect::possession::METHODS;

/// The methods that this version serves. At Kong's default, which lists all, the others are never
/// matched; listed by choice, they are refused.
pub(super) fn methods(config: &OpenidConnect, errors: &mut FieldErrors) -> Methods {
    let listed = &config.credentials.auth_methods;
    let is_default = config::lists_all(listed);
    if !is_default {
        for method in listed {
            if matches!(
                method,
                AuthMethod::Session
                    | AuthMethod::Bearer
                    | AuthMethod::Introspection
                    | AuthMethod::Userinfo
                    | AuthMethod::RefreshToken
                    | AuthMethod::Password
                    | AuthMethod::ClientCredentials
                    | AuthMethod::AuthorizationCode
            ) {
                continue;
            }
            let name = serde_json::to_value(method).unwrap_or_default();
            errors.add(
                &["auth_methods"],
                format!(
                    "not supported by this version of Wardgate: {}; leave it out, and send tokens of the provider (bearer, introspection)",
                    name.as_str().unwrap_or_default()
                ),
            );
        }
    }
    let has = |method| listed.contains(&method);
    // By Kong's default nobody has chosen what needs a client: a resource server for bearer tokens has none.
    let serves = |method| has(method) && (!is_default || has_client(config));
    Methods {
        session: has(AuthMethod::Session),
        bearer: has(AuthMethod::Bearer),
        introspection: serves(AuthMethod::Introspection),
        userinfo: has(AuthMethod::Userinfo),
        refresh_token: has(AuthMethod::RefreshToken)
            && config.credentials.refresh_token_param_name.is_some(),
        password: serves(AuthMethod::Password),
        client_credentials: has(AuthMethod::ClientCredentials),
        authorization_code: serves(AuthMethod::AuthorizationCode),
    }
}

/// The URLs that a configuration has the gateway call, by parameter.
fn called(config: &OpenidConnect) -> [(&'static str, Option<&String>); 12] {
    [
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
        (
            "introspection_endpoint",
            config.client.introspection_endpoint.as_ref(),
        ),
        (
            "userinfo_endpoint",
            config.client.userinfo_endpoint.as_ref(),
        ),
        (
            "token_exchange_endpoint",
            config.client.token_exchange_endpoint.as_ref(),
        ),
        (
            "mtls_token_endpoint",
            config.client.mtls_token_endpoint.as_ref(),
        ),
        (
            "mtls_introspection_endpoint",
            config.client.mtls_introspection_endpoint.as_ref(),
        ),
        (
            "mtls_revocation_endpoint",
            config.client.mtls_revocation_endpoint.as_ref(),
        ),
        (
            "pushed_authorization_request_endpoint",
            config
                .sign_in
                .pushed_authorization_request_endpoint
                .as_ref(),
        ),
    ]
}

/// Whether a URL that an operator configured leads to this machine: then providers on it are meant.
pub(super) fn asks_this_machine(config: &OpenidConnect) -> bool {
    let provider = &config.provider;
    let proxies = [&provider.http_proxy, &provider.https_proxy];
    called(config)
        .into_iter()
        .filter_map(|(_, url)| url)
        .chain(provider.extra_jwks_uris.iter().flat_map(Set::as_slice))
        .chain(proxies.into_iter().flatten())
        .any(|url| Url::parse(url).is_ok_and(|url| is_loopback(&url)))
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Every URL is absolute; those that the gateway calls are `https`, or `http` where that is accepted.
pub(super) fn urls(config: &OpenidConnect, errors: &mut FieldErrors) {
    let insecure = config.provider.allow_insecure_http;
    for (field, value) in called(config) {
        if let Some(value) = value
            && !(field == "issuer" && config.provider.using_pseudo_issuer)
            && let Err(problem) = provider_url(value, insecure)
        {
            errors.add(&[field], problem);
        }
    }
    for value in config
        .provider
        .extra_jwks_uris
        .iter()
        .flat_map(Set::as_slice)
    {
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
            } else if field == "redirect_uri" && value.contains('#') {
                errors.add(&[field], "a fragment in the url is not accepted");
            }
        }
    }
}

/// Accepts a URL that the gateway may call: `https`, `http` on a loopback host, and `http` elsewhere
/// only if `insecure` says so.
pub(in crate::bundled::openid_connect) fn provider_url(
    value: &str,
    insecure: bool,
) -> Result<Url, String> {
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
    // Numbers that readers of URLs take for different addresses (security of RFC 3986 §7.4).
    if let Some(Host::Ipv4(address)) = url.host()
        && written_host(value) != address.to_string()
    {
        return Err("an IPv4 address must be written as four decimal numbers".to_owned());
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_loopback(&url) || insecure => Ok(url),
        "http" => Err(
            "must be https: http is accepted for loopback hosts only, unless allow_insecure_http is true"
                .to_owned(),
        ),
        _ => Err("must be https".to_owned()),
    }
}

/// The host of a URL without user name, as it is written.
fn written_host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.split(':').next().unwrap_or_default()
}

pub(super) fn sign_in(config: &OpenidConnect, methods: Methods, errors: &mut FieldErrors) {
    let sign_in = &config.sign_in;
    let words: Vec<&str> = sign_in
        .response_type
        .iter()
        .flat_map(|element| element.split(' '))
        .filter(|word| !word.is_empty())
        .collect();
    if !words.contains(&"code") {
        errors.add(
            &["response_type"],
            "must have code: tokens for a gateway do not travel through browsers only",
        );
    } else if let Some(word) = words
        .iter()
        .find(|word| !matches!(**word, "code" | "id_token" | "token"))
    {
        errors.add(&["response_type"], format!("unknown response type: {word}"));
    } else if words.len() > 1
        && !(sign_in.response_mode.is_posted() || sign_in.response_mode.is_in_fragment())
    {
        errors.add(
            &["response_mode"],
            "must be form_post or form_post.jwt where response_type has tokens",
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
    let initiation = sign_in.login_initiation_uri_suffix.as_deref();
    if initiation.is_some_and(|suffix| !suffix.is_empty())
        && sign_in.redirect_uri.iter().flatten().next().is_none()
    {
        errors.add(
            &["redirect_uri"],
            "required with login_initiation_uri_suffix: another site names the page to end at, not the one that the provider leads back to",
        );
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

/// HTTP towards the provider is 1.0 or 1.1 (Kong 3.9).
pub(super) fn http(config: &OpenidConnect, errors: &mut FieldErrors) {
    let version = config.provider.http_version.0.as_f64();
    if !(version == Some(1.0) || version == Some(1.1)) {
        errors.add(&["http_version"], "expected one of: 1.0, 1.1");
    }
}

fn cookie_names(config: &OpenidConnect, errors: &mut FieldErrors) {
    let session = &config.session;
    let sign_in = &config.sign_in;
    for (field, name) in [
        ("session_cookie_name", &session.session_cookie_name),
        (
            "session_remember_cookie_name",
            &session.session_remember_cookie_name,
        ),
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
    let remember = &session.session_remember_cookie_name;
    if session.session_remember
        && (*remember == session.session_cookie_name
            || *remember == sign_in.authorization_cookie_name)
    {
        errors.add(
            &["session_remember_cookie_name"],
            "must differ from session_cookie_name and authorization_cookie_name",
        );
    }
    for (field, name) in [
        (
            "authorization_cookie_name",
            &sign_in.authorization_cookie_name,
        ),
        ("session_remember_cookie_name", remember),
    ] {
        let chunk = name.strip_prefix(&session.session_cookie_name);
        if chunk.is_some_and(|end| matches!(end.as_bytes(), [b'2'..=b'9'])) {
            errors.add(
                &[field],
                "must not be the name of a further session cookie (session_cookie_name and a digit)",
            );
        }
    }
}

pub(super) fn cookies(config: &OpenidConnect, errors: &mut FieldErrors) {
    cookie_names(config, errors);
    let session = &config.session;
    let sign_in = &config.sign_in;
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

pub(super) fn clients(config: &OpenidConnect, errors: &mut FieldErrors) {
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
        (
            "introspection_endpoint_auth_method",
            config.client.introspection_endpoint_auth_method,
        ),
        (
            "pushed_authorization_request_endpoint_auth_method",
            config
                .sign_in
                .pushed_authorization_request_endpoint_auth_method,
        ),
    ];
    let overrides = overrides
        .into_iter()
        .filter_map(|(field, auth)| Some((field, auth?)));
    for (field, auth) in auths.chain(overrides) {
        if auth.is_mutual_tls() && config.client.tls_client_auth_cert_id.is_none() {
            errors.add(
                &["tls_client_auth_cert_id"],
                format!("required when {field} has tls_client_auth or self_signed_tls_client_auth"),
            );
        }
        if auth == ClientAuth::ClientSecretJwt && config.client.client_secret.is_none() {
            errors.add(
                &["client_secret"],
                format!("required when {field} has client_secret_jwt"),
            );
        }
    }
}

/// Proofs of possession are for the methods that can be bound (Kong 3.9).
pub(super) fn possession(config: &OpenidConnect, errors: &mut FieldErrors) {
    let credentials = &config.credentials;
    if !credentials.proof_of_possession_auth_methods_validation {
        return;
    }
    for (field, wanted) in [
        (
            "proof_of_possession_mtls",
            credentials.proof_of_possession_mtls,
        ),
        (
            "proof_of_possession_dpop",
            credentials.proof_of_possession_dpop,
        ),
    ] {
        let other = credentials
            .auth_methods
            .iter()
            .any(|method| !METHODS.contains(method));
        if wanted != ProofOfPossession::Off && other {
            errors.add(
                &[field],
                "auth_methods may only have bearer, introspection and session, unless proof_of_possession_auth_methods_validation is false",
            );
        }
    }
}

fn has_client(config: &OpenidConnect) -> bool {
    let ids = config.client.client_id.as_deref().unwrap_or_default();
    ids.iter().any(|id| !id.is_empty())
}
