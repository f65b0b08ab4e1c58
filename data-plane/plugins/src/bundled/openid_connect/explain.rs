//! Why a request was refused, for support staff: kept for some minutes under the request's id, shown on the status
//! listener, and counted by reason.
//!
//! Holds what was compared, as issuers, audiences, times and names, and never a token, a code or a
//! secret.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value, json};
use shared::clock::UnixTime;

/// How long an explanation is kept.
const KEPT: Duration = Duration::from_mins(15);

/// Most explanations that a node keeps.
const MOST: usize = 10_000;

/// Longest fact or method, in characters.
const LONGEST_FACT: usize = 300;

/// Longest path or detail.
const LONGEST_TEXT: usize = 500;

/// What a node knows of the requests that it refused of late.
#[derive(Debug, Default)]
pub struct Explanations(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    all: VecDeque<Explanation>,
    counts: BTreeMap<&'static str, u64>,
}

/// Why one request was refused.
#[derive(Clone, Debug)]
pub(super) struct Explanation {
    pub(super) request_id: String,
    pub(super) at: UnixTime,
    pub(super) method: String,
    pub(super) path: String,
    pub(super) plugin: uuid::Uuid,
    pub(super) issuer: String,
    pub(super) status: u16,
    pub(super) reason: &'static str,
    pub(super) detail: String,
    /// Why the session cookie that came along was of no use.
    pub(super) session: Option<&'static str>,
    pub(super) facts: Vec<(&'static str, String)>,
}

impl Explanations {
    /// Keeps and counts `explanation`, and forgets what is old.
    pub(super) fn note(&self, mut explanation: Explanation) {
        explanation.shorten();
        let mut kept = self.lock();
        *kept.counts.entry(explanation.reason).or_default() += 1;
        let now = explanation.at;
        let old = |kept: &Explanation| now.saturating_since(kept.at) >= KEPT;
        while kept.all.len() >= MOST || kept.all.front().is_some_and(old) {
            kept.all.pop_front();
        }
        kept.all.push_back(explanation);
    }

    /// Why the request `request_id` was refused, if that was not long ago.
    pub fn find(&self, request_id: &str, now: UnixTime) -> Option<Value> {
        let kept = self.lock();
        let newest_first = kept.all.iter().rev();
        let fresh = |kept: &&Explanation| now.saturating_since(kept.at) < KEPT;
        let mut fresh = newest_first.filter(fresh);
        let found = fresh.find(|kept| kept.request_id == request_id)?;
        Some(found.tell())
    }

    /// How often each reason occurred since the node started, in Prometheus's text form.
    pub fn metrics(&self) -> String {
        use std::fmt::Write;
        let kept = self.lock();
        let mut text = String::from(
            "# HELP wardgate_openid_connect_refusals_total Requests that openid-connect refused, by reason.\n# TYPE wardgate_openid_connect_refusals_total counter\n",
        );
        for (reason, count) in &kept.counts {
            _ = writeln!(
                text,
                "wardgate_openid_connect_refusals_total{{reason=\"{reason}\"}} {count}"
            );
        }
        text
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Explanation {
    /// Leaves of what requests and tokens say only what is told: anybody may send as much as a request can be.
    fn shorten(&mut self) {
        self.method = shown(&self.method, LONGEST_FACT);
        self.path = shown(&self.path, LONGEST_TEXT);
        self.detail = shown(&self.detail, LONGEST_TEXT);
        for (_, value) in &mut self.facts {
            *value = shown(value, LONGEST_FACT);
        }
    }

    fn tell(&self) -> Value {
        let (step, fix) = known(self.reason);
        let error = self.facts.iter().find(|(name, _)| *name == "error");
        let of_error = error.filter(|_| OF_TOKEN_REQUESTS.contains(&self.reason));
        let fix = of_error
            .and_then(|(_, error)| self::of_error(error))
            .unwrap_or(fix);
        let compared: Map<String, Value> = self
            .facts
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.as_str().into()))
            .collect();
        json!({
            "request_id": self.request_id,
            "at": self.at.as_millis(),
            "method": self.method,
            "path": self.path,
            "plugin": self.plugin,
            "issuer": self.issuer,
            "status": self.status,
            "step": step,
            "reason": self.reason,
            "detail": self.detail,
            "compared": compared,
            "session": self.session,
            "fix": fix,
        })
    }
}

/// A text without control characters and of a bearable length.
fn shown(text: &str, longest: usize) -> String {
    text.chars()
        .filter(|character| !character.is_control())
        .take(longest)
        .collect()
}

/// The step that refuses for `reason`, and what puts the matter right.
fn known(reason: &str) -> (&'static str, &'static str) {
    let found = KNOWN.iter().find(|(reasons, ..)| reasons.contains(&reason));
    found.map_or(("request", "See the node's log."), |(_, step, fix)| {
        (*step, *fix)
    })
}

/// The reasons of refusals by the token endpoint.
const OF_TOKEN_REQUESTS: [&str; 4] = [
    "token_http",
    "grant_refused",
    "refresh_failed",
    "client_refused",
];

/// What puts right what the token endpoint refuses with this error code, if that says more than the reason does.
pub(super) fn of_error(code: &str) -> Option<&'static str> {
    Some(match code {
        "invalid_request" => {
            "The provider misses something in the request, or does not take a part of it: its log says what. Compare token_post_args_names, token_post_args_client and client_auth with what it wants."
        }
        "unauthorized_client" => {
            "The provider knows the client, and does not let it use this grant: allow it there, or take its method out of auth_methods."
        }
        "unsupported_grant_type" => {
            "The provider does not offer this grant: take its method out of auth_methods, or see whether token_endpoint is the provider's."
        }
        "interaction_required" | "login_required" | "consent_required" | "access_denied" => {
            "The provider does not do that without its user, or does not let this one: have the user sign in there, or let the client do it at the provider."
        }
        "invalid_scope" => "Let the client have each of scopes at the provider, or ask for fewer.",
        "invalid_target" => {
            "The provider knows no such resource for the client: compare resource and audience among the arguments of the token request with what it calls its APIs."
        }
        "invalid_authorization_details" => {
            "The provider does not take authorization_details as they are among the arguments of the token request."
        }
        "invalid_dpop_proof" | "use_dpop_nonce" => {
            "The provider wants proofs of possession of the gateway itself, which shows none: register the client without dpop_bound_access_tokens, or bind tokens by certificate (tls_client_auth)."
        }
        _ => return None,
    })
}

/// Reasons, the step that refuses for them, and what puts the matter right.
const KNOWN: &[(&[&str], &str, &str)] = &[
    (
        &["no_credential"],
        "credentials",
        "Send one of the credentials of auth_methods; in a browser, open the page by navigation rather than from a script.",
    ),
    (
        &["duplicate_param"],
        "request",
        "Send each parameter, header and token once, in one place.",
    ),
    (
        &[
            "state_missing",
            "state_unknown",
            "state_reused",
            "state_expired",
            "state_wrong_browser",
        ],
        "authorization response",
        "Begin the sign-in again, in the browser that began it; check that its cookies are kept and that redirect_uri leads to the same plugin.",
    ),
    (
        &["iss_missing", "iss_mismatch"],
        "authorization response",
        "The answer is not of the configured provider: compare issuer with what the provider sends, and look for a second provider at the same redirect_uri.",
    ),
    (
        &["idp_error"],
        "provider",
        "The provider refused or sent what cannot be used: see its log, and check client, scopes and endpoints with POST /openid-connect/check.",
    ),
    (
        &["idp_forbidden"],
        "provider",
        "The provider's address is not public: if it is meant to be asked there, list its network in the setting provider_networks of every node.",
    ),
    (
        &["code_missing"],
        "authorization response",
        "The provider sent no code: check that the client allows the authorization code grant.",
    ),
    (
        &["token_http"],
        "token request",
        "Check client_id, client_secret, client_auth and that redirect_uri is registered as it is configured.",
    ),
    (
        &["grant_refused"],
        "token request",
        "The provider does not take the user's name and password, the client's id and secret, or the assertion: compare them with what is registered there, and see whether the account is locked.",
    ),
    (
        &["token_shape", "token_type"],
        "token answer",
        "What the token endpoint answers are no bearer tokens: check that token_endpoint is the provider's, and look at what stands before it.",
    ),
    (
        &["client_key_missing"],
        "client",
        "Keys of the cluster are made with its first openid-connect plugin: see whether GET /clustering/data-planes shows this node as connected, and whether a control plane's log says that they were not made. A certificate of tls_client_auth_cert_id has to be stored.",
    ),
    (
        &["client_refused"],
        "client",
        "The provider does not know the gateway as its client: compare client_id, client_secret and client_auth with what is registered there; for private_key_jwt register /openid-connect/jwks of the Admin API.",
    ),
    (
        &["request_unsigned"],
        "client",
        "client_alg names an algorithm that signs with client_secret: set that, or another client_alg and register /openid-connect/jwks of the Admin API at the provider, or set client_jwk.",
    ),
    (
        &["login_initiation"],
        "sign-in",
        "Name the configured issuer as iss, and a URL of this host as target_link_uri.",
    ),
    (
        &["idt_missing"],
        "ID token",
        "Ask for the scope openid, and check that the client may have ID tokens.",
    ),
    (
        &["idt_alg"],
        "ID token",
        "Let the provider sign with RS256, ES256 or another public-key algorithm, or set enable_hs_signatures; where it encrypts ID tokens, register the client without id_token_encrypted_response_alg.",
    ),
    (
        &["idt_sig", "idt_kid"],
        "ID token",
        "The keys of the provider do not verify the token: check issuer and its jwks_uri; after a key change wait for rediscovery_lifetime or DELETE /openid-connect/issuers.",
    ),
    (
        &["idt_iss"],
        "ID token",
        "Set issuer to the value that the provider puts into its tokens, or list that in issuers_allowed.",
    ),
    (
        &["idt_aud", "idt_azp"],
        "ID token",
        "The token is for another client: compare client_id with the client at the provider.",
    ),
    (
        &["idt_exp", "idt_iat", "idt_nbf", "clock_skew"],
        "ID token",
        "Compare the clocks of gateway and provider; leeway tolerates small differences.",
    ),
    (
        &["idt_nonce"],
        "ID token",
        "The token was not made for this sign-in: begin again; check that the provider copies the nonce.",
    ),
    (
        &["idt_auth_time", "idt_acr"],
        "ID token",
        "The user authenticated too long ago or too weakly for this route: sign in again at the provider.",
    ),
    (
        &["idt_at_hash", "idt_c_hash", "idt_s_hash"],
        "ID token",
        "The token does not fit to what came with it: the provider is at fault, or the client brought two that do not belong together.",
    ),
    (
        &["idt_sub"],
        "ID token",
        "The provider has to name the user in sub. An ID token that a client brings beside its access token has to be of the same user, or to name that token in at_hash.",
    ),
    (
        &["jarm"],
        "authorization response",
        "The signed response is not the provider's, for another client, or late: compare issuer, client_id and the clocks, and look whether its keys have changed.",
    ),
    (
        &["userinfo_refused"],
        "user info",
        "The provider does not tell of the token's user: get a new token, with the scope openid.",
    ),
    (
        &["exchange_refused"],
        "token exchange",
        "The token exchange endpoint does not take the access token: see its log.",
    ),
    (
        &["userinfo_sub", "userinfo_sig", "userinfo_shape"],
        "user info",
        "The user info is not of the user who signed in, or malformed: the provider is at fault.",
    ),
    (
        &[
            "at_sig", "at_iss", "at_aud", "at_exp", "at_nbf", "at_typ", "at_scope",
        ],
        "access token",
        "Get a new access token from the configured issuer, for this audience; an ID token is none.",
    ),
    (
        &["at_long"],
        "access token",
        "Let the provider put less into its access tokens: of one of more than 16 KiB nothing is read.",
    ),
    (
        &["introspect_sig"],
        "introspection",
        "The signed answer is not of the provider, or for another client: compare issuer, client_id and the provider's keys.",
    ),
    (
        &["introspect_inactive"],
        "introspection",
        "The provider says that the token is not active, or nothing of it: get a new one. If each is refused, its log says why: compare client_auth and introspection_accept with how the client is registered.",
    ),
    (
        &["dpop_proof", "mtls_binding"],
        "proof of possession",
        "Send the token with the proof or over the certificate that it is bound to.",
    ),
    (
        &[
            "session_bad",
            "session_expired",
            "session_revoked",
            "session_wrong_binding",
        ],
        "session",
        "Sign in again. If that happens too early, compare the session_* timeouts, and session_secret where plugins share sessions.",
    ),
    (
        &["session_too_large"],
        "session",
        "Let the provider put fewer claims into its tokens, or set session_storage to redis.",
    ),
    (
        &["refresh_contested"],
        "refresh",
        "Try again in a moment. If it happens often, see that the node hears a control plane: that has a session refreshed once.",
    ),
    (
        &["refresh_failed", "refresh_sub"],
        "refresh",
        "Sign in again. If that happens too early, check how long the provider's refresh tokens live, or, for refresh_sub, that it keeps sub, auth_time and nonce of ID tokens at a refresh (OpenID Connect Core §12.2).",
    ),
    (
        &["authz_denied"],
        "authorisation",
        "Give the user what scopes_required, audience_required, groups_required or roles_required ask for, or correct the *_claim that names where it is.",
    ),
    (
        &["consumer_missing"],
        "consumer",
        "Create the consumer or the consumer group that the claim names, or set anonymous, consumer_optional or consumer_groups_optional.",
    ),
    (
        &["idp_unreachable"],
        "provider",
        "The provider does not answer this node: check name, route, certificate and proxy. Sessions go on for refresh_grace.",
    ),
    (
        &["loop"],
        "sign-in",
        "The browser does not keep the gateway's cookies, or does not send them: check cookie domain, path, Secure and SameSite (Strict needs a provider of the same site).",
    ),
    (
        &["sign_in_limit"],
        "sign-in",
        "Wait a minute, or raise login_rate_limit.",
    ),
    (
        &["guess_limit"],
        "token request",
        "The provider has refused too many passwords or secrets of this address: wait a minute, or raise login_rate_limit.",
    ),
    (
        &["logout_token"],
        "back-channel logout",
        "Compare what the provider posts with OpenID Connect Back-Channel Logout 1.0: a form (§2.5) with a token by §2.6. Its log tells why if it is a key that is not known.",
    ),
    (
        &["logout_forged"],
        "logout",
        "Let users log out from a page of the same site.",
    ),
    (
        &["dpop_proof_store"],
        "proof of possession",
        "The nodes of the cluster share in Redis which proofs were used (cluster_cache_redis), and it fails: see the node's log.",
    ),
    (
        &["session_storage"],
        "session",
        "Redis does not keep or tell sessions: see the node's log, and the record redis.",
    ),
    (
        &["revocations_unknown"],
        "session",
        "The node has heard no control plane for longer than its setting sessions_max_silence: see that it reaches one.",
    ),
    (
        &["target_too_large"],
        "sign-in",
        "Open the page by a shorter URL: it is kept over the sign-in.",
    ),
    (
        &["no_session_key"],
        "session",
        "The node has no session key: it has not reached a control plane yet.",
    ),
    (&["client_missing"], "configuration", "Set client_id."),
    (&["method"], "request", "Use a method that Allow lists."),
];

#[cfg(test)]
mod tests;
