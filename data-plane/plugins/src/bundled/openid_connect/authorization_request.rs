//! The authorization request: what the browser carries to the provider, or the gateway itself does
//! (OpenID Connect Core §3.1.2.1, RFC 9126), signed if the provider wants it so (RFC 9101).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use shared::clock::UnixTime;
use shared::digest::sha256;
use url::Url;

use super::config::{ResponseMode, SigningAlgorithm};
use super::failure::Failure;
use super::flow::{Arrival, Context, Pending};
use super::page;
use super::provider::Document;
use super::rules::{Client, Rules};
use super::token_endpoint::Endpoint;

/// How long a signed request may be on its way, in seconds.
const LIFETIME: u64 = 300;

/// A sign-in that begins, and how the provider learns of it.
pub(super) enum Begun {
    /// The browser carries the request there.
    Redirect(Pending, String),
    /// The browser carries it there too, but it is too long for a URL (OpenID Connect Core §3.1.2.1).
    Post(Pending, Url, Arguments),
    /// The gateway sends this form there itself, and the browser carries only its name.
    Push(Pending, Vec<(String, String)>),
}

/// The arguments of an authorization request, in their order.
pub(super) type Arguments = Vec<(String, String)>;

/// Makes the request of a browser that arrived.
///
/// # Errors
///
/// If the provider or the configuration lacks something.
pub(super) fn begin(
    context: Context<'_>,
    arrival: Arrival,
    now: UnixTime,
) -> Result<Begun, Failure> {
    let config = &context.rules.config;
    let client = context.rules.client(arrival.client);
    if client.id.is_empty() {
        return Err(Failure::unexpected(
            "client_missing",
            "client_id is needed for the authorization code flow",
        ));
    }
    let jti = arrival.jti.clone();
    let challenged = config.sign_in.require_proof_key_for_code_exchange != Some(false);
    let let_through = arrival.arguments;
    let pending = Pending {
        verifier: challenged.then_some(arrival.verifier),
        seed: arrival.seed,
        state: arrival.state,
        nonce: arrival.nonce,
        client: arrival.client,
        redirect_uri: arrival.redirect_uri,
        target: arrival.target,
        query: arrival.query,
        form: arrival.form,
        interactive: arrival.interactive,
        wished: arrival.wished,
        posted: config.sign_in.response_mode.is_posted(),
        started_at: now,
        epoch: arrival.epoch,
    };
    let mut arguments = arguments(context, &pending, let_through);
    let is_signed = is_signed(context.rules, context.document);
    if is_signed {
        arguments = signed(context, &arguments, pending.client, &jti, now)?;
    }
    let target = authorization_endpoint(context)?;
    let location = page::url(&target, &arguments);
    let long = location.len() > page::LONGEST_URL;
    let endpoint = Endpoint::PushedRequest.of(context.rules, context.document, client.auth);
    let pushes = pushes(context.rules, context.document.requires_pushed_requests);
    if pushes && endpoint.is_none() {
        return Err(Failure::faulty(
            "idp_error",
            "the OpenID provider has no pushed authorization request endpoint",
        ));
    }
    let never = config.sign_in.require_pushed_authorization_requests == Some(false);
    if pushes || (long && endpoint.is_some() && !never) {
        // Of a signed request the form holds nothing else (RFC 9126 §3).
        if is_signed {
            arguments.retain(|(name, _)| name == "request");
        }
        return Ok(Begun::Push(pending, arguments));
    }
    if long {
        return Ok(Begun::Post(pending, target, arguments));
    }
    Ok(Begun::Redirect(pending, location))
}

/// Whether requests are signed.
pub(super) fn is_signed(rules: &Rules, document: &Document) -> bool {
    let configured = rules.config.sign_in.require_signed_request_object;
    configured.unwrap_or(document.requires_signed_requests)
}

/// Whether requests are pushed to the provider, which may `demand` it (RFC 9126 §5).
pub(super) fn pushes(rules: &Rules, demands: bool) -> bool {
    let configured = rules.config.sign_in.require_pushed_authorization_requests;
    configured.unwrap_or(demands)
}

/// Where the browser goes once the provider has taken the request and called it `request_uri`: with
/// nothing else than that and the client (RFC 9126 §4).
///
/// # Errors
///
/// If the provider has no authorization endpoint.
pub(super) fn pushed(
    context: Context<'_>,
    pending: &Pending,
    request_uri: String,
) -> Result<String, Failure> {
    let client = context.rules.client(pending.client).id.clone();
    let arguments = vec![
        ("client_id".to_owned(), client),
        ("request_uri".to_owned(), request_uri),
    ];
    let endpoint = authorization_endpoint(context)?;
    Ok(page::url(&endpoint, &arguments))
}

fn authorization_endpoint(context: Context<'_>) -> Result<Url, Failure> {
    let configured = &context.rules.config.client.authorization_endpoint;
    let endpoint = configured
        .as_ref()
        .or(context.document.authorization_endpoint.as_ref())
        .and_then(|endpoint| Url::parse(endpoint).ok());
    endpoint.ok_or_else(|| {
        Failure::unavailable(
            "idp_error",
            "the OpenID provider has no authorization endpoint",
        )
    })
}

fn arguments(context: Context<'_>, pending: &Pending, let_through: Arguments) -> Arguments {
    let sign_in = &context.rules.config.sign_in;
    let client = context.rules.client(pending.client);
    let mut arguments: Vec<(&str, String)> = vec![
        ("response_type", sign_in.response_type.join(" ")),
        ("client_id", client.id.clone()),
        ("redirect_uri", pending.redirect_uri.clone()),
        ("state", pending.state.clone()),
        ("nonce", pending.nonce.clone()),
    ];
    let scopes = sign_in.scope_words();
    if !scopes.is_empty() {
        arguments.push(("scope", scopes.join(" ")));
    }
    if let Some(verifier) = &pending.verifier {
        let challenge = URL_SAFE_NO_PAD.encode(sha256(verifier.as_bytes()));
        arguments.push(("code_challenge", challenge));
        arguments.push(("code_challenge_method", "S256".to_owned()));
    }
    if sign_in.response_mode != ResponseMode::Query {
        arguments.push(("response_mode", sign_in.response_mode.name().to_owned()));
    }
    for audience in sign_in.audience.iter().flatten() {
        arguments.push(("audience", audience.clone()));
    }
    if let Some(most) = &sign_in.max_age {
        arguments.push(("max_age", most.seconds().as_secs().to_string()));
    }
    let mut arguments: Arguments = arguments
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    let names = sign_in.authorization_query_args_names.iter().flatten();
    let values = sign_in.authorization_query_args_values.iter().flatten();
    let configured = names.cloned().zip(values.cloned());
    let configured = configured.filter(|(name, _)| name != "prompt" || !pending.interactive);
    let configured: Arguments = configured.collect();
    // What is configured by name stands in the place of what other fields say.
    arguments.retain(|(name, _)| configured.iter().all(|(taken, _)| taken != name));
    arguments.extend(configured);
    // A client's argument never comes beside one that the gateway sets itself.
    for (name, value) in let_through {
        if !arguments.iter().any(|(taken, _)| *taken == name) {
            arguments.push((name, value));
        }
    }
    arguments
}

/// Why a request that has to be signed is not.
fn missing(client: &Client) -> Failure {
    if client.algorithm.is_some_and(SigningAlgorithm::is_symmetric) {
        return Failure::faulty(
            "request_unsigned",
            "authorization requests have to be signed with the client's secret, and it has none",
        );
    }
    Failure::paused(
        "client_key_missing",
        "The gateway has nothing yet to prove itself with at the OpenID provider",
        "there is no key that could sign the authorization request",
    )
}

/// The same request as a JWT that the client signed. What OpenID Connect Core §6.1 wants to be seen
/// from outside as well, says the same as inside.
fn signed(
    context: Context<'_>,
    arguments: &Arguments,
    position: usize,
    jti: &str,
    now: UnixTime,
) -> Result<Arguments, Failure> {
    let client = context.rules.client(position);
    let mut claims = Map::new();
    for (name, value) in arguments {
        let said = match claims.remove(name) {
            None => Value::from(value.as_str()),
            Some(Value::Array(mut several)) => {
                several.push(value.as_str().into());
                Value::Array(several)
            }
            Some(one) => Value::Array(vec![one, value.as_str().into()]),
        };
        claims.insert(name.clone(), said);
    }
    if let Some(Value::String(age)) = claims.get("max_age")
        && let Ok(seconds) = age.parse::<u64>()
    {
        claims.insert("max_age".to_owned(), seconds.into());
    }
    let seconds = now.as_secs();
    for (name, value) in [
        ("iss", Value::from(client.id.as_str())),
        ("aud", Value::from(context.document.issuer.as_str())),
        ("iat", seconds.into()),
        ("nbf", seconds.into()),
        ("exp", seconds.saturating_add(LIFETIME).into()),
        ("jti", Value::from(jti)),
    ] {
        claims.insert(name.to_owned(), value);
    }
    let request = context
        .signer
        .and_then(|signer| signer.sign_claims("oauth-authz-req+jwt", &Value::Object(claims)))
        .ok_or_else(|| missing(client))?;
    let outside = ["response_type", "client_id", "scope"];
    let mut outer: Arguments = arguments
        .iter()
        .filter(|(name, _)| outside.contains(&name.as_str()))
        .cloned()
        .collect();
    outer.push(("request".to_owned(), request));
    Ok(outer)
}
