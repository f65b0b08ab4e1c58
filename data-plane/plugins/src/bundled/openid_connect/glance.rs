//! Requests of whose session or bearer token all is known and nothing is due.
//!
//! A configuration that asks more of each request takes part in none of this: see [`Glances::new`]. Neither does a
//! request that may mean anything but "go on as before".

use std::rc::Rc;

use http::header::SET_COOKIE;
use http::{HeaderName, Method, header};

use super::admission::say_all;
use super::bearer;
use super::config::{AuthMethod, OpenidConnect, Storage, TokenPlace};
use super::cookie::Glimpse;
use super::opened;
use super::request;
use super::rules::{Methods, Rules};
use crate::glance::{Glance, Pass, Value};
use crate::host::Host;

static AUTHORIZATION: HeaderName = header::AUTHORIZATION;
static CONTENT_TYPE: HeaderName = header::CONTENT_TYPE;
static COOKIE: HeaderName = header::COOKIE;

/// What stands before a bearer token.
const SCHEME: &[u8] = b"Bearer ";

/// Which credentials a glance may be enough for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Glances {
    session: bool,
    bearer: bool,
}

impl Glances {
    /// What `config` leaves to a glance: nothing where a request is told of, or asked about, each time.
    pub(super) fn new(config: &OpenidConnect, methods: Methods) -> Self {
        let (credentials, session) = (&config.credentials, &config.session);
        // Groups that a claim names are looked for by a whole look.
        let groups = config.access.consumer_groups_claim.as_deref();
        let both = groups.is_none_or(<[String]>::is_empty)
            && credentials.bearer_token_cookie_name.is_none();
        let told = [
            &session.session_request_headers,
            &session.session_response_headers,
        ];
        let clients = config.client.client_id.as_deref().unwrap_or_default();
        let places = credentials.bearer_token_param_type.as_deref();
        Self {
            session: both
                && methods.session
                && say_all(config, AuthMethod::Session)
                && session.session_storage == Storage::Cookie
                && session.session_bind.is_none()
                && told
                    .into_iter()
                    .flatten()
                    .all(|told| told.as_slice().is_empty())
                && !credentials.reverify,
            bearer: both
                && methods.bearer
                && say_all(config, AuthMethod::Bearer)
                && !(methods.introspection && credentials.introspect_jwt_tokens)
                && credentials.id_token_param_name.is_none()
                && clients.len() < 2
                && places.and_then(<[_]>::first) == Some(&TokenPlace::Header),
        }
    }

    /// Whether it is enough for any.
    pub(super) const fn any(self) -> bool {
        self.session || self.bearer
    }
}

/// Lets `request` go on if it brings a session or a token that is known.
pub(super) fn look(
    rules: &Rules,
    request: &Glance<'_>,
    pass: &mut Pass,
    host: &impl Host,
) -> Option<()> {
    let glances = rules.glances;
    if may_mean_more(rules, request) || rules.withheld.is_in(request) {
        return None;
    }
    let cookies = match request.fields.value(&COOKIE) {
        Value::Missing => Glimpse::default(),
        Value::Sole(text) => Glimpse::of(text, &rules.names, request.client.https)?,
        Value::Repeated => return None,
    };
    if cookies.others.is_none() {
        let token = bearer_token(rules, request).filter(|_| glances.bearer)?;
        let consumers = &request.environment.consumers;
        return bearer::at_hand(rules, host, token, consumers, pass);
    }
    if !glances.session || host.revocations().are_unknown() {
        return None;
    }
    let beside = !matches!(request.fields.value(&AUTHORIZATION), Value::Missing);
    if beside && rules.withheld.may_be_authorization() {
        return None;
    }
    let ring = &request.environment.session_keys;
    let now = host.now();
    let opened = opened::at_hand(rules, ring, host, &cookies, now)?;
    let consumers = &request.environment.consumers;
    pass.admit(opened.principal.known(rules, consumers, None)?)?;
    pass.cookies = cookies.others;
    pass.response_headers.extend(opened.principal.told());
    pass.tenure = Some(Rc::clone(&opened.tenure));
    if opened.is_use_due(now) {
        // Made by a whole look, and told again to whoever still brings the old cookie.
        let renewal = opened.renewal(ring, request.client.https, now)?;
        let cookies = renewal
            .cookies
            .iter()
            .map(|cookie| (SET_COOKIE, cookie.clone()));
        pass.response_headers.extend(cookies);
        pass.tenure.clone_from(&renewal.tenure);
    }
    Some(())
}

/// Whether the request may be a preflight, a sign-in, a way back from the provider, or a logout.
fn may_mean_more(rules: &Rules, request: &Glance<'_>) -> bool {
    let (sign_in, logout) = (&rules.config.sign_in, &rules.config.logout);
    let suffixes = [
        &sign_in.login_initiation_uri_suffix,
        &logout.backchannel_logout_uri_suffix,
        &logout.frontchannel_logout_uri_suffix,
        &logout.logout_uri_suffix,
    ];
    let mut suffixes = suffixes.into_iter().flatten();
    if suffixes.any(|suffix| request.path.ends_with(suffix.as_str())) {
        return true;
    }
    let told = |query: &str| {
        logout.logout_query_arg.is_some() || query.contains("state=") || query.contains("response=")
    };
    request.query.is_some_and(told)
        || match *request.method {
            Method::POST | Method::DELETE => {
                let mode = sign_in.response_mode;
                logout.logout_post_arg.is_some() || mode.is_posted() || mode.is_in_fragment()
            }
            Method::OPTIONS => true,
            _ => false,
        }
}

/// The only token of a request, if it is plain to see that there is no other.
fn bearer_token<'a>(rules: &Rules, request: &Glance<'a>) -> Option<&'a [u8]> {
    let places = rules.config.credentials.bearer_token_param_type.as_deref();
    let looked_for = |place| places.unwrap_or_default().contains(&place);
    if request.query.is_some() && looked_for(TokenPlace::Query) {
        return None;
    }
    if looked_for(TokenPlace::Body) {
        match request.fields.value(&CONTENT_TYPE) {
            Value::Missing => {}
            Value::Sole(value) if !request::is_type(value, request::FORM) => {}
            Value::Sole(_) | Value::Repeated => return None,
        }
    }
    let Value::Sole(value) = request.fields.value(&AUTHORIZATION) else {
        return None;
    };
    let (scheme, token) = value.split_at_checked(SCHEME.len())?;
    scheme
        .eq_ignore_ascii_case(SCHEME)
        .then_some(token.trim_ascii())
}
