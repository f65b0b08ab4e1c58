//! Why a request does not go on, and the answer that its client gets (Kong 3.9, openid-connect error
//! answers; RFC 6750 §3).

use std::borrow::Cow;
use std::fmt::Write;

use bytes::Bytes;
use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use serde_json::json;

use super::config::ProofOfPossession;
use super::config::access::Access;
use super::page;
use super::possession::ALGORITHMS;
use super::rules::{Client, Rules};
use crate::answer;

/// Reasons that say that somebody made a token up, or shows one that is not theirs.
const FORGED: [&str; 10] = [
    "at_sig",
    "at_iss",
    "idt_alg",
    "idt_sig",
    "idt_kid",
    "idt_iss",
    "introspect_sig",
    "userinfo_sig",
    "dpop_proof",
    "mtls_binding",
];

/// The one of these reasons, or of those that a refresh has beside them, that is called `code`.
pub(super) fn known_refusal(code: &str) -> Option<&'static str> {
    let mut all = FORGED.into_iter().chain([OTHER_USER]);
    all.find(|known| *known == code)
}

/// A refresh has brought an ID token of another user or another sign-in.
pub(super) const OTHER_USER: &str = "refresh_sub";

/// Another site made the browser ask for a logout.
pub(super) const LOGOUT_FORGED: &str = "logout_forged";

/// The fact that names the scopes that a token would have to have (`scope` of RFC 6750 §3).
pub(super) const SCOPE: &str = "scope";

/// What kind of answer a failure gets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Class {
    /// The request itself is wrong: 400.
    BadRequest,
    /// Nobody is authenticated: 401.
    Unauthorized,
    /// Somebody is, but may not: 403.
    Forbidden,
    /// The client does too much of it: 429.
    Limited,
    /// The gateway lacks something it needs: 500.
    Unexpected,
    /// The provider's tokens are more than a browser can hold: 502.
    Oversized,
    /// The provider does not do what it is there for: 502.
    Faulty,
    /// The provider cannot be used now: 503.
    Unavailable,
}

/// A failure: its class, a stable code for logs, and words for `display_errors`.
///
/// Neither code nor detail ever holds what a client or a provider sent.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{code}: {detail}")]
pub(super) struct Failure {
    pub(super) class: Class,
    pub(super) code: &'static str,
    pub(super) detail: Cow<'static, str>,
    /// `error` of RFC 6750 §3.1. None if no credential was sent.
    pub(super) error: Option<&'static str>,
    /// Whether the anonymous consumer does not stand in: a user who means to sign in is told that it
    /// failed.
    pub(super) conclusive: bool,
    /// What the client reads in place of its class's words: how to put the matter right.
    pub(super) message: Option<&'static str>,
    /// What was compared, for operators: never a secret, and but for [`SCOPE`] never shown to clients.
    pub(super) facts: Vec<(&'static str, String)>,
    /// Where a browser would have to go for a sign-in.
    pub(super) login_url: Option<Box<str>>,
}

impl Failure {
    fn new(class: Class, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            class,
            code,
            detail: detail.into(),
            error: None,
            conclusive: false,
            message: None,
            facts: Vec::new(),
            login_url: None,
        }
    }

    /// Nobody is authenticated, and nothing was tried.
    pub(super) fn unauthenticated(detail: &'static str) -> Self {
        Self::new(Class::Unauthorized, "no_credential", detail)
    }

    /// A token or a sign-in is refused.
    pub(super) fn refused(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            error: Some("invalid_token"),
            ..Self::new(Class::Unauthorized, code, detail)
        }
    }

    /// A user or token is known but not let through.
    pub(super) fn forbidden(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            error: Some("insufficient_scope"),
            ..Self::new(Class::Forbidden, code, detail)
        }
    }

    /// The gateway itself cannot do its part now, as `message` says.
    pub(super) fn paused(
        code: &'static str,
        message: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            message: Some(message),
            ..Self::unavailable(code, detail)
        }
    }

    /// The provider cannot be used now.
    pub(super) fn unavailable(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Class::Unavailable, code, detail)
    }

    /// This failure, of something that may be put right by itself in a moment.
    pub(super) fn for_now(self) -> Self {
        Self {
            class: Class::Unavailable,
            error: None,
            ..self
        }
    }

    /// The gateway lacks something.
    pub(super) fn unexpected(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Class::Unexpected, code, detail)
    }

    /// The client address begins too many sign-ins.
    pub(super) fn limited() -> Self {
        Self::new(
            Class::Limited,
            "sign_in_limit",
            "the client address begins too many sign-ins",
        )
    }

    /// The client address has tried too many credentials that the provider refused.
    pub(super) fn guessing() -> Self {
        Self {
            message: Some("Too many credentials that are not valid"),
            ..Self::new(
                Class::Limited,
                "guess_limit",
                "the client address tries too many credentials that are refused",
            )
        }
    }

    /// The session does not fit into the cookies that a browser keeps.
    pub(super) fn oversized() -> Self {
        let detail = "the session is too large for cookies";
        Self {
            message: Some(
                "The session does not fit into cookies: let the OpenID provider put fewer claims \
                 (groups, above all) into its tokens",
            ),
            ..Self::new(Class::Oversized, "session_too_large", detail)
        }
    }

    /// The session is larger than what is kept of one on a server.
    pub(super) fn too_large_to_store() -> Self {
        Self {
            detail: "the session is too large for the session storage".into(),
            message: Some(
                "The session is larger than what is stored of one (64 KiB, and 36 KiB compressed): \
                 let the OpenID provider put fewer claims (groups, above all) into its tokens",
            ),
            ..Self::oversized()
        }
    }

    /// The provider answers, but does not do what it is there for.
    pub(super) fn faulty(code: &'static str, detail: &'static str) -> Self {
        Self::new(Class::Faulty, code, detail)
    }

    /// The request contradicts itself.
    pub(super) fn bad_request(code: &'static str, detail: &'static str) -> Self {
        Self {
            error: Some("invalid_request"),
            ..Self::new(Class::BadRequest, code, detail)
        }
    }

    /// This failure, with something that was compared.
    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.facts.push((name, value.into()));
        self
    }

    /// This failure, with no anonymous consumer to stand in.
    pub(super) fn concluded(self) -> Self {
        Self {
            conclusive: true,
            ..self
        }
    }

    /// Whether the provider could not do without its user (OpenID Connect Core §3.1.2.6).
    pub(super) fn wants_user(&self) -> bool {
        let error = self.facts.iter().find(|(name, _)| *name == "error");
        self.code == "idp_error"
            && error.is_some_and(|(_, error)| {
                matches!(
                    error.as_str(),
                    "login_required"
                        | "interaction_required"
                        | "consent_required"
                        | "account_selection_required"
                )
            })
    }

    /// Whether the anonymous consumer may stand in: for nobody who means to sign in, and for no token that
    /// was forged, unless that is configured.
    pub(super) fn leaves_anonymous(&self, rules: &Rules) -> bool {
        let forged = FORGED.contains(&self.code);
        self.class == Class::Unauthorized
            && !self.conclusive
            && rules.config.access.anonymous.is_some()
            && (!forged || rules.config.access.anonymous_for_forged_tokens)
    }

    /// Whether this ends the session that the request came with.
    pub(super) fn destroys_session(&self, rules: &Rules) -> bool {
        if self.code == LOGOUT_FORGED {
            return false; // It would be the logout that the other site wanted.
        }
        match self.class {
            Class::Unauthorized => rules.config.access.unauthorized_destroy_session,
            Class::Forbidden => rules.config.access.forbidden_destroy_session,
            Class::BadRequest
            | Class::Limited
            | Class::Unexpected
            | Class::Oversized
            | Class::Faulty
            | Class::Unavailable => false,
        }
    }

    /// Whether it meets a person in the middle of a sign-in.
    fn has_page(&self) -> bool {
        self.conclusive && self.code != "no_credential"
            || matches!(
                self.class,
                Class::Unavailable | Class::Oversized | Class::Faulty
            )
    }

    /// What a client is to bring (RFC 6750 §3, RFC 9449 §7.1). Without its error code, a client that
    /// proves possession could not go on, so that is always told.
    fn challenge(&self, rules: &Rules) -> String {
        let proof = matches!(self.error, Some("invalid_dpop_proof" | "use_dpop_nonce"));
        let bound = self.code == "dpop_proof";
        let dpop = proof || bound || rules.possession.key == ProofOfPossession::Strict;
        let scheme = if dpop { "DPoP" } else { "Bearer" };
        let mut challenge = format!("{scheme} realm=\"{}\"", rules.realm);
        if let Some(error) = self.error
            && (proof || rules.config.access.expose_error_code)
        {
            write!(challenge, ", error=\"{error}\"").expect("writing to a string succeeds");
            if let Some((_, scope)) = self.facts.iter().find(|(name, _)| *name == SCOPE) {
                write!(challenge, ", scope=\"{scope}\"").expect("writing to a string succeeds");
            }
        }
        if dpop {
            write!(challenge, ", algs=\"{ALGORITHMS}\"").expect("writing to a string succeeds");
        }
        challenge
    }

    /// The status, what it means to a person, and where `client` has them sent instead.
    fn shown<'a>(
        &self,
        access: &'a Access,
        client: &'a Client,
    ) -> (StatusCode, &'a str, Option<&'a str>) {
        match self.class {
            Class::BadRequest => (StatusCode::BAD_REQUEST, "Bad request", None),
            Class::Unauthorized => (
                StatusCode::UNAUTHORIZED,
                access.unauthorized_error_message.as_str(),
                client.unauthorized_redirect_uri.as_deref(),
            ),
            Class::Forbidden => (
                StatusCode::FORBIDDEN,
                access.forbidden_error_message.as_str(),
                client.forbidden_redirect_uri.as_deref(),
            ),
            Class::Limited => (StatusCode::TOO_MANY_REQUESTS, "Too many sign-ins", None),
            Class::Unexpected => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "An unexpected error occurred",
                client.unexpected_redirect_uri.as_deref(),
            ),
            Class::Oversized => (
                StatusCode::BAD_GATEWAY,
                "The tokens of the OpenID provider are too large",
                client.unexpected_redirect_uri.as_deref(),
            ),
            Class::Faulty => (
                StatusCode::BAD_GATEWAY,
                "The OpenID provider does not accept sign-ins from here",
                client.unexpected_redirect_uri.as_deref(),
            ),
            Class::Unavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "The OpenID provider is unavailable",
                client.unexpected_redirect_uri.as_deref(),
            ),
        }
    }

    /// The answer for the client at position `client`.
    ///
    /// A person who was signing in gets a page, if `page` says that one can be shown.
    pub(super) fn answer(
        &self,
        rules: &Rules,
        client: usize,
        request_id: &str,
        page: bool,
    ) -> Response<Bytes> {
        let access = &rules.config.access;
        let (status, text, target) = self.shown(access, rules.client(client));
        if let Some(target) = target {
            return answer::redirect(target, request_id);
        }
        let mut message = self.message.unwrap_or(text).to_owned();
        if access.display_errors {
            write!(message, " ({})", self.detail).expect("writing to a string succeeds");
        }
        let mut response = if page && self.has_page() {
            let title = match self.class {
                // Not always the provider, or what it says of us.
                Class::Unavailable | Class::Faulty => self.message.unwrap_or(text),
                _ => text,
            };
            page::page(
                status,
                title,
                &[
                    &message,
                    "Go back and try again, or tell whoever runs this site the reference below.",
                ],
                request_id,
            )
        } else if let Some(url) = &self.login_url {
            answer::json(
                status,
                &json!({ "message": message, "request_id": request_id, "login_url": url }),
            )
        } else {
            // As `kong.response.exit` has it; the request's id is in a header.
            answer::json(status, &json!({ "message": message }))
        };
        let headers = response.headers_mut();
        if matches!(
            self.class,
            Class::Unauthorized | Class::Forbidden | Class::BadRequest
        ) && let Ok(challenge) = HeaderValue::from_str(&self.challenge(rules))
        {
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        match self.class {
            Class::Unavailable => _ = headers.insert(RETRY_AFTER, HeaderValue::from_static("5")),
            Class::Limited => _ = headers.insert(RETRY_AFTER, HeaderValue::from_static("60")),
            _ => {}
        }
        response
    }
}
