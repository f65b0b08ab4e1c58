//! The authorization response, judged: does it belong to the sign-in, is it the provider's, what does
//! it bring (RFC 6749 §4.1.2, RFC 9207, JARM, OpenID Connect Core §3.3.2)?

use serde_json::Value;
use shared::clock::UnixTime;
use subtle::ConstantTimeEq;

use super::failure::Failure;
use super::flow::{Callback, Context, Pending, expired};
use super::jws::{self, Claims};
use super::rules;
use super::verify::{Expected, Refusal, Verifier};

/// Error codes that may be named: those of RFC 6749 §4.1.2.1 and OpenID Connect Core §3.1.2.6, and others that are registered
/// for authorization responses (RFC 8707 §2, RFC 9396 §5, OpenID Connect Core Unmet Authentication Requirements 1.0).
const CODES: [&str; 19] = [
    "access_denied",
    "login_required",
    "interaction_required",
    "consent_required",
    "account_selection_required",
    "invalid_request",
    "invalid_scope",
    "unauthorized_client",
    "unsupported_response_type",
    "server_error",
    "temporarily_unavailable",
    "invalid_request_uri",
    "invalid_request_object",
    "request_not_supported",
    "request_uri_not_supported",
    "registration_not_supported",
    "invalid_target",
    "invalid_authorization_details",
    "unmet_authentication_requirements",
];

/// Types of JWTs that say that they are something else than an authorization response, which has none of its own (RFC 8725
/// §3.11).
const OTHER_KINDS: [&str; 6] = [
    "at+jwt",
    "dpop+jwt",
    "logout+jwt",
    "oauth-authz-req+jwt",
    "secevent+jwt",
    "token-introspection+jwt",
];

/// The registered error code that `error` is, if it is one.
pub(super) fn registered(error: &str) -> Option<&'static str> {
    CODES.into_iter().find(|code| *code == error)
}

/// What an authorization response brought.
#[derive(Clone)]
pub(super) struct Accepted {
    pub(super) code: String,
    /// The claims of the ID token that came by way of the browser.
    pub(super) front: Option<Claims>,
}

shared::unsaid!(Accepted);

/// Checks an authorization response.
///
/// # Errors
///
/// If it is not what the sign-in waits for, or if a key is unknown that may have signed it.
pub(super) fn accept(
    context: Context<'_>,
    pending: &Pending,
    callback: &Callback,
    now: UnixTime,
) -> Result<Accepted, Refusal> {
    let refuse = |code, detail: &'static str| Err(Refusal::Bad(Failure::refused(code, detail)));
    if callback.ambiguous {
        return refuse(
            "duplicate_param",
            "the authorization response repeats a parameter",
        );
    }
    let state = callback.state.as_deref().unwrap_or_default();
    if !bool::from(state.as_bytes().ct_eq(pending.state.as_bytes())) {
        return refuse("state_unknown", "the state is not the one that was sent");
    }
    if expired(context.rules, pending.started_at, now) {
        return refuse("state_expired", "the sign-in took too long");
    }
    let verifier = Verifier {
        rules: context.rules,
        document: context.document,
        client: pending.client,
        now,
    };
    if context.rules.config.sign_in.response_mode.is_signed() {
        check_signed(verifier, callback.response.as_deref().unwrap_or_default())?;
    }
    // An ID token in it names the issuer too, and is judged below (RFC 9207 §2.4 wants the two to be the same).
    let is_named = context.rules.wants_front_id_token()
        && context.rules.config.credentials.verify_claims
        && callback.id_token.is_some()
        && callback.error.is_none();
    match &callback.iss {
        Some(iss) if !is_issuer(context, iss) => {
            let detail = "the authorization response is of another issuer";
            let failure = Failure::refused("iss_mismatch", detail)
                .with("iss", iss)
                .with("expected iss", &context.document.issuer);
            return Err(Refusal::Bad(failure));
        }
        None if context.document.sends_iss && !is_named => {
            return refuse("iss_missing", "the authorization response names no issuer");
        }
        _ => {}
    }
    if let Some(error) = &callback.error {
        let known = registered(error).unwrap_or("an error");
        return Err(Refusal::Bad(Failure {
            error: None,
            ..Failure::refused("idp_error", format!("the OpenID provider answered {known}"))
                .with("error", known)
        }));
    }
    let Some(code) = callback.code.clone().filter(|code| !code.is_empty()) else {
        return refuse("code_missing", "the authorization response has no code");
    };
    let front = match (&callback.id_token, context.rules.wants_front_id_token()) {
        (Some(token), true) => {
            let expected = Expected {
                nonce: Some(&pending.nonce),
                access_token: callback.access_token.as_deref().unwrap_or_default(),
                code: Some(&code),
                state: Some(&pending.state),
                front: true,
                asked_at: Some(pending.started_at),
                renewed: false,
            };
            Some(verifier.id_token(token, expected)?)
        }
        (None, true) => {
            return refuse("idt_missing", "the authorization response has no ID token");
        }
        // What was not asked for does not count.
        (_, false) => None,
    };
    Ok(Accepted { code, front })
}

/// Whether `iss` is the provider's, letter by letter (RFC 9207 §2.4), or that of one of its tenants.
fn is_issuer(context: Context<'_>, iss: &str) -> bool {
    let (rules, issuer) = (context.rules, context.document.issuer.as_str());
    // What nobody has discovered is known without a slash at its end.
    let bare = rules.config.provider.using_pseudo_issuer;
    let is_bare = bare && iss.trim_end_matches('/') == issuer.trim_end_matches('/');
    let is_tenant = rules::tenant(issuer, iss).is_some() && rules.accepts_issuer(iss);
    iss == issuer || is_bare || is_tenant
}

/// The signature of a JWT-secured response, and whom it is from and for (JARM §2.4).
fn check_signed(verifier: Verifier<'_>, token: &str) -> Result<(), Refusal> {
    let check = verifier.rules.config.credentials.verify_signature;
    let statement = verifier.statement(token, check, "jarm")?;
    let claims = &statement.claims;
    let bad = |detail: &'static str| Err(Refusal::Bad(Failure::refused("jarm", detail)));
    if statement
        .kind
        .is_some_and(|kind| OTHER_KINDS.contains(&&*kind))
    {
        return bad("the authorization response is a JWT of another kind");
    }
    if verifier.rules.config.credentials.verify_claims {
        for name in ["iss", "aud", "exp"] {
            if claims.get(name).is_none_or(Value::is_null) {
                return bad("the authorization response lacks iss, aud or exp");
            }
        }
        let leeway = verifier.rules.config.credentials.leeway.seconds();
        if !jws::unexpired(claims, verifier.now, leeway) {
            return bad("the authorization response has expired");
        }
        if !jws::begun(claims, "nbf", verifier.now, leeway) {
            return bad("the authorization response is not valid yet");
        }
    }
    Ok(())
}

/// The ID token of the token endpoint and that of the browser speak of one user (OpenID Connect Core
/// §3.3.3.6).
pub(super) fn agree(front: Option<&Claims>, back: Option<&Claims>) -> Result<(), Failure> {
    let (Some(front), Some(back)) = (front, back) else {
        return Ok(());
    };
    if ["iss", "sub"]
        .iter()
        .all(|name| front.get(*name) == back.get(*name))
    {
        return Ok(());
    }
    Err(Failure::refused(
        "idt_sub",
        "the two ID tokens are of different users",
    ))
}
