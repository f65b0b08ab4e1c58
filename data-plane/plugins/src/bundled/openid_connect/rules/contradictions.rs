//! Settings that defeat each other. Where they are stored they run as they always did; they are not to be written any more.

use shared::schema::FieldErrors;
use url::{Host, Url};

use super::clients;
use crate::bundled::openid_connect::config::{ClientAuth, LogoutMethod, OpenidConnect, TokenPlace};

/// Longest value of a cookie's attribute that browsers heed (RFC 6265bis §5.6).
const LONGEST_ATTRIBUTE: usize = 1024;

/// Finds them.
pub(in crate::bundled::openid_connect) fn find(config: &OpenidConnect, errors: &mut FieldErrors) {
    cookies(config, errors);
    if has_idle_certificate(config) {
        errors.add(
            &["tls_client_auth_cert_id"],
            "would be presented nowhere: set client_auth to tls_client_auth or self_signed_tls_client_auth, or leave it out",
        );
    }
    redirect_uris(config, errors);
    suffixes(config, errors);
}

/// Cookies that no browser keeps, or of which one is taken for another.
fn cookies(config: &OpenidConnect, errors: &mut FieldErrors) {
    let (session, sign_in) = (&config.session, &config.sign_in);
    let places = config.credentials.bearer_token_param_type.as_deref();
    let in_cookie = places.unwrap_or_default().contains(&TokenPlace::Cookie);
    let ours = [
        &session.session_cookie_name,
        &session.session_remember_cookie_name,
        &sign_in.authorization_cookie_name,
    ];
    let token = config.credentials.bearer_token_cookie_name.as_ref();
    if in_cookie && token.is_some_and(|name| ours.contains(&name)) {
        errors.add(
            &["bearer_token_cookie_name"],
            "must differ from the names of the gateway's own cookies",
        );
    }
    for (field, path) in [
        ("session_cookie_path", &session.session_cookie_path),
        (
            "authorization_cookie_path",
            &sign_in.authorization_cookie_path,
        ),
    ] {
        if path.len() > LONGEST_ATTRIBUTE {
            errors.add(
                &[field],
                "must not be longer than 1024 characters: browsers pass a longer one over, or do not keep the cookie",
            );
        }
    }
}

/// URLs of which no sign-in comes back.
fn redirect_uris(config: &OpenidConnect, errors: &mut FieldErrors) {
    let sign_in = &config.sign_in;
    let mut returns = sign_in.redirect_uri.iter().flatten();
    if sign_in.response_mode.is_posted() && returns.clone().any(|uri| is_plain(uri)) {
        errors.add(
            &["redirect_uri"],
            "must be https where response_mode is form_post or form_post.jwt, but for loopback addresses: no browser keeps the sign-in's cookie for a form of another site otherwise",
        );
    }
    if returns.any(|uri| is_never_asked_for(uri)) {
        errors.add(
            &["redirect_uri"],
            "no request for it would be accepted: a % in its path must begin two hexadecimal digits, which are not 00",
        );
    }
}

/// Ends of paths of which one hides another, or takes the requests of a sign-in.
fn suffixes(config: &OpenidConnect, errors: &mut FieldErrors) {
    let (sign_in, logout) = (&config.sign_in, &config.logout);
    // In the order in which a path is held against them.
    let suffixes = [
        (
            "backchannel_logout_uri_suffix",
            &logout.backchannel_logout_uri_suffix,
        ),
        (
            "frontchannel_logout_uri_suffix",
            &logout.frontchannel_logout_uri_suffix,
        ),
        (
            "login_initiation_uri_suffix",
            &sign_in.login_initiation_uri_suffix,
        ),
        ("logout_uri_suffix", &logout.logout_uri_suffix),
    ];
    let suffixes: Vec<_> = suffixes
        .into_iter()
        .filter_map(|(field, suffix)| Some((field, suffix.as_deref()?)))
        .filter(|(_, suffix)| !suffix.is_empty())
        .collect();
    for (place, (field, suffix)) in suffixes.iter().enumerate() {
        let mut earlier = suffixes.iter().take(place);
        if let Some((first, _)) = earlier.find(|(_, earlier)| suffix.ends_with(earlier)) {
            errors.add(
                &[field],
                format!("no path would be found by it: each ends with {first}, too"),
            );
        }
        let mut returns = sign_in.redirect_uri.iter().flatten();
        let way_back = if sign_in.response_mode.is_posted() {
            LogoutMethod::Post
        } else {
            LogoutMethod::Get
        };
        let methods = logout.logout_methods.as_deref().unwrap_or_default();
        let heard = *field != "logout_uri_suffix" || methods.contains(&way_back);
        let ends = |uri: &String| {
            let url = Url::parse(uri);
            url.is_ok_and(|url| url.path().ends_with(suffix))
        };
        if heard && returns.any(ends) {
            errors.add(
                &[field],
                "must not be the end of redirect_uri: no sign-in would come to its end there",
            );
        }
    }
}

/// Whether the path of `uri` is one of which each request is 400.
fn is_never_asked_for(uri: &str) -> bool {
    let ill = |digits: &str| digits == "00" || !digits.bytes().all(|it| it.is_ascii_hexdigit());
    Url::parse(uri).is_ok_and(|url| {
        let path = url.path();
        let mut signs = path.match_indices('%');
        signs.any(|(at, _)| path.get(at + 1..at + 3).is_none_or(ill))
    })
}

/// Whether there is a certificate for the client, which proves itself otherwise everywhere.
fn has_idle_certificate(config: &OpenidConnect) -> bool {
    let client = &config.client;
    let is_empty = |values: Option<usize>| values.is_none_or(|count| count == 0);
    let auths = client.client_auth.as_deref().unwrap_or_default();
    let own_ways = clients::own_ways(config);
    let named = auths.iter().copied().chain(own_ways.into_iter().flatten());
    let is_named = named.clone().any(ClientAuth::is_mutual_tls);
    // Who has nothing else goes by it, if nothing is said.
    let is_all = named.count() == 0
        && is_empty(client.client_secret.as_ref().map(Vec::len))
        && is_empty(client.client_jwk.as_ref().map(Vec::len));
    client.tls_client_auth_cert_id.is_some() && !is_named && !is_all
}

/// Whether `uri` is plain HTTP to another machine.
fn is_plain(uri: &str) -> bool {
    let Ok(url) = Url::parse(uri) else {
        return false;
    };
    let is_here = match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    url.scheme() == "http" && !is_here
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    fn check(more: &Value, field: &str) {
        let mut config = json!({ "issuer": "https://idp.example", "client_id": ["client"] });
        let members = config.as_object_mut().unwrap();
        members.extend(more.as_object().unwrap().clone());
        let refused = crate::registry::check("openid-connect", &config);
        let refused = refused.err().map(|errors| errors.by_field);
        let fields: Vec<String> = refused
            .into_iter()
            .flatten()
            .map(|(name, _)| name)
            .collect();
        let expected: Vec<&str> = [field]
            .into_iter()
            .filter(|field| !field.is_empty())
            .collect();
        assert_eq!(fields, expected, "{config}");
    }

    #[test]
    fn what_defeats_itself_is_refused_by_name() {
        let cookie = |name: &str| json!({ "bearer_token_param_type": ["cookie"], "bearer_token_cookie_name": name });
        check(&cookie("token"), "");
        for name in ["session", "authorization", "remember"] {
            check(&cookie(name), "bearer_token_cookie_name");
        }
        check(
            &json!({ "logout_uri_suffix": "/logout", "backchannel_logout_uri_suffix": "/logout" }),
            "logout_uri_suffix",
        );
        check(
            &json!({ "logout_uri_suffix": "/bye", "backchannel_logout_uri_suffix": "/back/bye" }),
            "",
        );
        check(
            &json!({ "logout_uri_suffix": "/back/bye", "frontchannel_logout_uri_suffix": "/bye" }),
            "logout_uri_suffix",
        );
        let certified = |more: Value| {
            let mut config = json!({
                "tls_client_auth_cert_id": "7fca84d6-7d37-4a74-a7b0-93e576089a41",
            });
            let members = config.as_object_mut().unwrap();
            members.extend(more.as_object().unwrap().clone());
            config
        };
        let field = "tls_client_auth_cert_id";
        for (more, field) in [
            (json!({}), ""),
            (json!({ "client_secret": ["s"] }), field),
            (
                json!({ "client_auth": ["client_secret_post"], "client_secret": ["s"] }),
                field,
            ),
            (json!({ "client_auth": ["none"] }), field),
            (
                json!({ "introspection_endpoint_auth_method": "none" }),
                field,
            ),
            (
                json!({ "client_auth": ["tls_client_auth"], "client_secret": ["s"] }),
                "",
            ),
            (
                json!({ "client_auth": ["none", "self_signed_tls_client_auth"] }),
                "",
            ),
            (
                json!({ "introspection_endpoint_auth_method": "tls_client_auth", "client_secret": ["s"] }),
                "",
            ),
        ] {
            check(&certified(more), field);
        }
        // Rule 58.
        for field in ["session_cookie_path", "authorization_cookie_path"] {
            for (length, refused) in [(1024, ""), (1025, field)] {
                check(
                    &json!({ field: format!("/{}", "a".repeat(length - 1)) }),
                    refused,
                );
            }
        }
        // Rule 7.
        for (mode, uri, field) in [
            ("form_post", "http://app.example/cb", "redirect_uri"),
            ("form_post.jwt", "http://app.example/cb", "redirect_uri"),
            ("form_post", "https://app.example/cb", ""),
            ("form_post", "http://localhost:8000/cb", ""),
            ("form_post", "http://127.0.0.1:8000/cb", ""),
            ("form_post", "http://[::1]/cb", ""),
            ("query", "http://app.example/cb", ""),
        ] {
            let posted = json!({ "response_mode": mode, "redirect_uri": [uri] });
            check(&posted, field);
        }
        for (uri, field) in [
            ("https://a.example/%zz", "redirect_uri"),
            ("https://a.example/100%", "redirect_uri"),
            ("https://a.example/%00", "redirect_uri"),
            ("https://a.example/%2Fa%c3%a4?b=100%", ""),
        ] {
            check(&json!({ "redirect_uri": [uri] }), field);
            // Elsewhere it is others that are asked.
            check(
                &json!({ "login_redirect_uri": [uri], "logout_redirect_uri": [uri] }),
                "",
            );
        }
        let back = |methods: Value, mode: &str| {
            json!({
                "redirect_uri": ["https://a.example/app/done?x=/y"], "logout_uri_suffix": "/done",
                "logout_methods": methods, "response_mode": mode,
            })
        };
        check(&back(json!(["GET"]), "query"), "logout_uri_suffix");
        check(&back(json!(["POST"]), "form_post"), "logout_uri_suffix");
        check(&back(json!(["POST", "DELETE"]), "query"), "");
        check(
            &json!({
                "redirect_uri": ["https://a.example/done"], "backchannel_logout_uri_suffix": "/done",
            }),
            "backchannel_logout_uri_suffix",
        );
    }
}
