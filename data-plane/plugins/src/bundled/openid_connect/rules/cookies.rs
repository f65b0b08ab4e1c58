//! The names of the cookies that a configuration has, and what they come with.

use shared::digest::sha256;
use shared::hexadecimal::hexadecimal;

use super::Methods;
use crate::bundled::openid_connect::config::{OpenidConnect, default_audience};
use crate::bundled::openid_connect::cookie::{AUDIENCE, Attributes, Names, Used};

/// The names of all cookies.
pub(super) fn names(
    config: &OpenidConnect,
    methods: Methods,
    session_cookie: &Attributes,
    authorization_cookie: &Attributes,
) -> Names {
    let session = &config.session;
    let authorization = &config.sign_in.authorization_cookie_name;
    let names = Names::new(
        (&session.session_cookie_name, session_cookie),
        &session.session_remember_cookie_name,
        (authorization, authorization_cookie),
        Used::of(config, methods),
    );
    match audience(config) {
        Some(digest) => names.of_audience(&digest),
        None => names,
    }
}

/// What tells the cookies of a session, and of what restores it, from those of other audiences. Each audience but the one that
/// Kong has by default has cookies of its own, so that a browser holds several (Kong 3.9, `session_audience`) and sign-ins that
/// end at once all land; unless one subject is wanted for all of them: then the last one that has signed in has the cookies.
fn audience(config: &OpenidConnect) -> Option<String> {
    let session = &config.session;
    let audience = &session.session_audience;
    if *audience == default_audience() || session.session_enforce_same_subject {
        return None;
    }
    let digest = hexadecimal(&sha256(audience.as_bytes()));
    digest.get(..AUDIENCE).map(str::to_owned)
}

/// What the cookies of a session come with.
pub(super) fn of_session(config: &OpenidConnect) -> Attributes {
    let session = &config.session;
    Attributes {
        path: session.session_cookie_path.clone(),
        domain: session.session_cookie_domain.clone(),
        same_site: session.session_cookie_same_site,
        http_only: session.session_cookie_http_only,
        secure: session.session_cookie_secure,
        cross_site_over_tls: false,
        host_prefix: session.cookie_host_prefix,
    }
}

/// What the cookies of a sign-in under way come with.
pub(super) fn of_sign_in(config: &OpenidConnect) -> Attributes {
    let sign_in = &config.sign_in;
    Attributes {
        path: sign_in.authorization_cookie_path.clone(),
        domain: sign_in.authorization_cookie_domain.clone(),
        same_site: sign_in.authorization_cookie_same_site,
        http_only: sign_in.authorization_cookie_http_only,
        secure: sign_in.authorization_cookie_secure,
        cross_site_over_tls: sign_in.response_mode.is_posted(),
        host_prefix: config.session.cookie_host_prefix,
    }
}
