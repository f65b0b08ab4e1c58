//! Requests of whose session or bearer token all is known and nothing is due.
//!
//! A configuration that asks more of each request takes part in none of this: see [`Glances::new`]. Neither does a
//! request that may mean anything but "go on as before".

use std::rc::{Rc, Weak};

use http::Method;
use http::header::SET_COOKIE;
use shared::clock::UnixTime;

use super::admission::say_all;
use super::bearer;
use super::config::{AuthMethod, OpenidConnect, Storage, TokenPlace};
use super::cookie::Glimpse;
use super::opened::{self, Opened};
use super::request;
use super::rules::{Methods, Rules};
use crate::glance::{Glance, Pass, Usual, Value};
use crate::host::Host;

/// What stands before a bearer token.
const SCHEME: &[u8] = b"Bearer ";

/// Which credentials a glance may be enough for.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a part of the configuration"
)]
pub(super) struct Glances {
    session: bool,
    bearer: bool,
    /// Whether a token may also be in the query, or in a form.
    in_query: bool,
    in_form: bool,
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
        let places = places.unwrap_or_default();
        Self {
            in_query: places.contains(&TokenPlace::Query),
            in_form: places.contains(&TokenPlace::Body),
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
                && !credentials.introspect_jwt_tokens
                && credentials.id_token_param_name.is_none()
                && clients.len() < 2
                && places.first() == Some(&TokenPlace::Header),
        }
    }

    /// Whether it is enough for any.
    pub(super) const fn any(self) -> bool {
        self.session || self.bearer
    }
}

/// Whose cookies a request brings.
enum Cookies {
    /// None of them is ours.
    Theirs,
    /// A session of which nothing is due, and what is left without its cookies.
    Session(Rc<Opened>, Rc<[u8]>),
}

/// What a `Cookie` was found to be, for as long as a connection brings the very same.
struct Brought {
    https: bool,
    /// The session in it, if it is still remembered, and what is left; none if nothing of it is ours.
    session: Option<(Weak<Opened>, Rc<[u8]>)>,
}

/// Lets `request` go on if it brings a session or a token that is known.
pub(super) fn look(
    rules: &Rules,
    request: &Glance<'_>,
    pass: &mut Pass,
    host: &impl Host,
) -> Option<()> {
    if may_mean_more(rules, request) || rules.withheld.is_in(request) {
        return None;
    }
    let now = host.now();
    let (opened, others) = match cookies(rules, request, host, now)? {
        Cookies::Theirs => {
            let token = bearer_token(rules.glances, request)?;
            return bearer::at_hand(rules, request, host, token, now, pass);
        }
        Cookies::Session(opened, others) => (opened, others),
    };
    if host.revocations().are_unknown() {
        return None;
    }
    let beside = !matches!(request.fields.usual(Usual::Authorization), Value::Missing);
    if beside && rules.withheld.may_be_authorization() {
        return None;
    }
    let consumers = &request.environment.consumers;
    pass.admit(opened.principal.known(rules, consumers, None)?)?;
    pass.cookies = Some(others);
    pass.response_headers.extend(opened.principal.told());
    pass.tenure = Some(Rc::clone(&opened.tenure));
    if opened.is_use_due(now) {
        // Made by a whole look, and told again to whoever still brings the old cookie.
        let ring = &request.environment.session_keys;
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

/// Whose cookies `request` brings, if that is plain to see.
fn cookies(
    rules: &Rules,
    request: &Glance<'_>,
    host: &impl Host,
    now: UnixTime,
) -> Option<Cookies> {
    let text = match request.fields.usual(Usual::Cookie) {
        Value::Missing => return Some(Cookies::Theirs),
        Value::Sole(text) => text,
        Value::Repeated => return None,
    };
    let (https, ring) = (request.client.https, &request.environment.session_keys);
    let rests = |opened: &Rc<Opened>| opened.rests(ring, host, now);
    let made = request.fields.made(Usual::Cookie);
    let before = made.and_then(|made| made.find::<Brought>(rules.compilation));
    if let Some(before) = before.filter(|before| before.https == https) {
        let Some((opened, others)) = &before.session else {
            return Some(Cookies::Theirs);
        };
        if let Some(opened) = opened.upgrade().filter(rests) {
            return Some(Cookies::Session(opened, Rc::clone(others)));
        }
    }
    let found = Glimpse::of(text, &rules.names, https)?;
    let session = match &found.others {
        None => None,
        Some(others) if rules.glances.session => {
            let opened = opened::at_hand(rules, host, &found).filter(rests)?;
            Some((opened, Rc::from(others.as_slice())))
        }
        Some(_) => return None,
    };
    if let Some(made) = made {
        let session = session.as_ref();
        let session = session.map(|(opened, others)| (Rc::downgrade(opened), Rc::clone(others)));
        made.keep(rules.compilation, Rc::new(Brought { https, session }));
    }
    Some(match session {
        None => Cookies::Theirs,
        Some((opened, others)) => Cookies::Session(opened, others),
    })
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
fn bearer_token<'a>(glances: Glances, request: &Glance<'a>) -> Option<&'a [u8]> {
    if !glances.bearer || (glances.in_query && request.query.is_some()) {
        return None;
    }
    if glances.in_form {
        match request.fields.usual(Usual::ContentType) {
            Value::Missing => {}
            Value::Sole(value) if !request::is_type(value, request::FORM) => {}
            Value::Sole(_) | Value::Repeated => return None,
        }
    }
    let Value::Sole(value) = request.fields.usual(Usual::Authorization) else {
        return None;
    };
    if request.fields.bring_token() {
        return None;
    }
    let (scheme, token) = value.split_at_checked(SCHEME.len())?;
    scheme
        .eq_ignore_ascii_case(SCHEME)
        .then_some(token.trim_ascii())
}
