//! Tokens for programs that bring a user's name and password, a client's id and secret (RFC 6749 §4.3,
//! §4.4), or an assertion (RFC 7523 §2.1): asked for once, verified, and used while they live.
//!
//! ```text
//! Basic, or arguments ─► granted before? ─► token endpoint, one request at a time ─► verify ─► principal
//! ```
//!
//! The provider's refusals are not remembered: a password may have been changed a moment ago.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use shared::clock::UnixTime;
use tracing::debug;

use super::admission;
use super::assertion::Audience;
use super::config::{AuthMethod, ClientAuth, UnsignedMethod};
use super::cookie::Jar;
use super::failure::{Class, Failure};
use super::login;
use super::possession::Presented;
use super::provider::{self, Document, Reason, Unaccepted};
use super::rate::{self, Deed};
use super::request::{self, Pair};
use super::rules::Rules;
use super::session::{News, Session};
use super::sign_in;
use super::single_flight::Flights;
use super::token_endpoint::{self, Caller, PassedOn, Tokens};
use super::verify::{Expected, Refusal, Verifier};
use crate::exchange::Exchange;
use crate::expiring::Expiring;
use crate::filter::Flow;
use crate::host::Host;

/// Most grants that a node remembers.
const MOST: usize = 10_000;

/// What the provider refuses, the same credentials may still be good for as another grant.
const REFUSED: &str = "grant_refused";

/// What a request that brings an assertion says (RFC 7523 §2.1).
const ASSERTION: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

type Outcome = Result<Arc<Granted>, Failure>;

/// Which grant credentials are good for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Grant {
    /// A user's name and password.
    Password,
    /// A client's own id and secret.
    ClientCredentials,
    /// What somebody whom the provider trusts has signed for the client (RFC 7523 §2.1).
    Assertion,
}

/// What credentials were traded for.
struct Granted {
    tokens: Tokens,
    /// The document whose keys verified the tokens.
    version: u64,
    until: UnixTime,
}

shared::unsaid!(Granted);

/// The grants of a node.
#[derive(Default)]
struct Grants {
    /// Keys the names of credentials, so that they tell nothing outside of this process.
    salt: OnceLock<[u8; 32]>,
    flights: Arc<Flights<[u8; 32], Outcome>>,
    granted: Mutex<Expiring<[u8; 32], Arc<Granted>, MOST>>,
}

/// A trade to be made.
struct Trade {
    grant: Grant,
    /// Position of the client that asks, or whose settings hold for a client of its own.
    client: usize,
    credentials: Pair,
    /// What is let through of the request.
    passed_on: PassedOn,
}

/// Lets the request go on by the credentials that it brings. `None`: it brings none.
///
/// # Errors
///
/// If the provider refuses them or cannot be used, or if they are not enough.
pub(super) async fn authenticate(
    rules: &Arc<Rules>,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
) -> Result<Option<Flow>, Failure> {
    let mut guess = Guess::new(rules, exchange.client.address);
    // What one grant did not take, if another one was to try it.
    let mut refused = None;
    for grant in [Grant::Password, Grant::ClientCredentials, Grant::Assertion] {
        let Some(trade) = grant.find(rules, exchange).await? else {
            continue;
        };
        let both = rules.methods.password && rules.methods.client_credentials;
        let shared = both && trade.credentials.basic;
        let places = trade.credentials.places.clone();
        match trade.make(rules, host, &mut guess).await {
            Ok(granted) => {
                guess.take_back(host);
                for place in &places {
                    request::hide(rules, exchange, place).await;
                }
                return admit(rules, exchange, host, jar, grant, &granted)
                    .await
                    .map(Some);
            }
            Err(failure)
                if shared
                    && grant == Grant::Password
                    && (failure.code == REFUSED || failure.class == Class::Faulty) =>
            {
                refused = Some(failure);
            }
            Err(failure) => {
                refused = Some(failure);
                break;
            }
        }
    }
    let Some(failure) = refused else {
        return Ok(None);
    };
    if failure.code != REFUSED {
        guess.take_back(host);
    }
    Err(failure)
}

/// A try of a request's credentials. It counts from before the provider is asked, so that those who ask at the same time, or
/// do not wait for the answer, have no more tries than others.
struct Guess {
    of: u64,
    address: IpAddr,
    most: u32,
    /// Since when the window is open in which it counts.
    counted: Option<UnixTime>,
}

impl Guess {
    fn new(rules: &Rules, address: IpAddr) -> Self {
        Self {
            of: rules.compilation,
            address,
            most: rules.config.sign_in.login_rate_limit,
            counted: None,
        }
    }

    /// Counts it, once for all grants.
    ///
    /// # Errors
    ///
    /// If there are too many of this address.
    fn count(&mut self, host: &impl Host) -> Result<(), Failure> {
        if self.most > 0 && self.counted.is_none() {
            let counted = rate::count(host, Deed::Guess, self.of, self.address, self.most);
            self.counted = Some(counted.map_err(|_| Failure::guessing())?);
        }
        Ok(())
    }

    /// It was none, or another request's.
    fn take_back(&mut self, host: &impl Host) {
        if let Some(since) = self.counted.take() {
            rate::take_back(host, Deed::Guess, self.of, self.address, since);
        }
    }
}

async fn admit(
    rules: &Arc<Rules>,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
    grant: Grant,
    granted: &Granted,
) -> Result<Flow, Failure> {
    let method = grant.method();
    let client = grant.client(rules, exchange).await;
    let tokens = &granted.tokens;
    let mut session = Session::begin(rules, tokens, method, client, host);
    admission::admit(rules, exchange, host, jar, &mut session, Presented::Token).await?;
    exchange
        .response_headers
        .extend(tokens.headers.iter().cloned());
    if rules.keeps_session(method)
        && let Err(failure) =
            sign_in::keep(rules, exchange, host, jar, &session, News::Tokens).await
    {
        // The credentials themselves serve for the next request too.
        debug!(error = %failure, "no session for a grant");
    }
    let answer = login::answer(rules, exchange, rules.client(client), method, None, tokens);
    Ok(answer.map_or(Flow::Continue, Flow::Answer))
}

impl Grant {
    fn method(self) -> AuthMethod {
        match self {
            Self::Password => AuthMethod::Password,
            Self::ClientCredentials | Self::Assertion => AuthMethod::ClientCredentials,
        }
    }

    fn unsigned(self) -> UnsignedMethod {
        match self {
            Self::Password => UnsignedMethod::Password,
            Self::ClientCredentials | Self::Assertion => UnsignedMethod::ClientCredentials,
        }
    }

    /// Its name on the wire (RFC 6749 §4.3.2, §4.4.2).
    fn name(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::ClientCredentials => "client_credentials",
            Self::Assertion => ASSERTION,
        }
    }

    /// The configured client that asks. A client with credentials of its own chooses none.
    async fn client(self, rules: &Rules, exchange: &mut Exchange<'_>) -> usize {
        match self {
            Self::Password | Self::Assertion => request::client(rules, exchange).await,
            Self::ClientCredentials => 0,
        }
    }

    /// The trade that a request asks for.
    async fn find(
        self,
        rules: &Rules,
        exchange: &mut Exchange<'_>,
    ) -> Result<Option<Trade>, Failure> {
        let credentials = &rules.config.credentials;
        if self == Self::Assertion {
            return Ok(self.find_assertion(rules, exchange).await);
        }
        let (enabled, places, names) = match self {
            Self::Password => (
                rules.methods.password,
                &credentials.password_param_type,
                ["username", "password"],
            ),
            Self::ClientCredentials | Self::Assertion => (
                rules.methods.client_credentials,
                &credentials.client_credentials_param_type,
                ["client_id", "client_secret"],
            ),
        };
        if !enabled {
            return Ok(None);
        }
        let places = places.as_deref().unwrap_or_default();
        let Some(credentials) = request::pair(exchange, places, names).await? else {
            return Ok(None);
        };
        Ok(Some(self.trade(rules, exchange, credentials).await))
    }

    /// The trade of an assertion, of a request that says that it brings one.
    async fn find_assertion(self, rules: &Rules, exchange: &mut Exchange<'_>) -> Option<Trade> {
        if !rules.methods.client_credentials || rules.client(0).id.is_empty() {
            return None;
        }
        let credentials = &rules.config.credentials;
        let places = credentials.client_credentials_param_type.as_deref();
        let names = ["grant_type", "assertion"];
        let found = request::arguments(exchange, places.unwrap_or_default(), names).await;
        let found = found.filter(|found| found.name == ASSERTION)?;
        Some(self.trade(rules, exchange, found).await)
    }

    async fn trade(self, rules: &Rules, exchange: &mut Exchange<'_>, credentials: Pair) -> Trade {
        Trade {
            grant: self,
            client: self.client(rules, exchange).await,
            credentials,
            passed_on: PassedOn::of(rules, exchange).await,
        }
    }
}

impl Trade {
    /// The tokens: those of an earlier trade, of one under way, or new ones.
    async fn make(self, rules: &Arc<Rules>, host: &impl Host, guess: &mut Guess) -> Outcome {
        let configured = rules.config.client.token_endpoint.as_ref();
        let document = provider::document_for(rules, host, configured)
            .await
            .map_err(|error| error.failure())?;
        if !rules.config.provider.cache_tokens {
            guess.count(host)?;
            return self.run(rules, host, document).await;
        }
        let grants = host.node_state::<Grants>();
        let key = self.key(rules, grants.salt(host));
        let known = || grants.find(&key, document.version, host.now());
        if let Some(granted) = known() {
            return Ok(granted);
        }
        guess.count(host)?;
        let (waiting, pilot) = grants.flights.board(&key);
        if pilot.is_none() {
            guess.take_back(host);
        }
        if let Some(pilot) = pilot {
            // Between the look and the boarding another one may have landed.
            if let Some(granted) = known() {
                let outcome = Ok(granted);
                pilot.land(&outcome);
                return outcome;
            }
            let (grants, rules, its_host) = (Arc::clone(&grants), Arc::clone(rules), host.clone());
            host.spawn(Box::pin(async move {
                let outcome = self.run(&rules, &its_host, document).await;
                if let Ok(granted) = &outcome {
                    grants.remember(key, granted, its_host.now());
                }
                pilot.land(&outcome);
            }));
        }
        let given_up = || Failure::unavailable("idp_unreachable", "the token request was given up");
        waiting.await.unwrap_or_else(|_| Err(given_up()))
    }

    async fn run(&self, rules: &Arc<Rules>, host: &impl Host, document: Arc<Document>) -> Outcome {
        let mut tokens = self.request(rules, host, &document).await?;
        if self.grant == Grant::ClientCredentials {
            // There is no user whom they could speak of (RFC 6749 §4.4.3).
            (tokens.id_token, tokens.refresh_token) = (None, None);
        }
        let verify = |verifier: &Verifier<'_>| self.verify(verifier, &tokens);
        let ((), document) = provider::judged(
            rules,
            self.client,
            host,
            document,
            Reason::ProviderToken,
            verify,
        )
        .await
        .map_err(Unaccepted::failure)?;
        let now = host.now();
        Ok(Arc::new(Granted {
            until: until(rules, &tokens, now),
            tokens,
            version: document.version,
        }))
    }

    async fn request(
        &self,
        rules: &Arc<Rules>,
        host: &impl Host,
        document: &Document,
    ) -> Result<Tokens, Failure> {
        let mut form = vec![("grant_type".to_owned(), self.grant.name().to_owned())];
        let Pair { name, secret, .. } = &self.credentials;
        match self.grant {
            Grant::Password => {
                form.push(("username".to_owned(), name.clone()));
                form.push(("password".to_owned(), secret.clone()));
            }
            Grant::Assertion => form.push(("assertion".to_owned(), secret.clone())),
            Grant::ClientCredentials => {}
        }
        let scopes = rules.config.sign_in.scope_words();
        if !scopes.is_empty() {
            form.push(("scope".to_owned(), scopes.join(" ")));
        }
        let passed_on = &self.passed_on;
        let result = match self.grant {
            Grant::Password | Grant::Assertion => {
                token_endpoint::request(rules, document, self.client, host, form, passed_on).await
            }
            Grant::ClientCredentials => {
                let configured = Caller::configured(rules, self.client).auth;
                let auth = rules
                    .config
                    .client
                    .token_endpoint_auth_method
                    .or(configured);
                let algorithms = rules.config.client.client_alg.as_deref();
                let algorithm = algorithms.and_then(|algorithms| algorithms.first().copied());
                let caller = Caller {
                    id: name,
                    secret: Some(secret),
                    // A secret that came is what is shown (Kong 3.9, `token_endpoint_auth_method`).
                    auth: auth.filter(|auth| {
                        !matches!(auth, ClientAuth::None | ClientAuth::PrivateKeyJwt)
                            && !auth.is_mutual_tls()
                    }),
                    spare: None,
                    key_signer: None,
                    position: None,
                    algorithm,
                    audience: Audience::default(),
                };
                token_endpoint::request_as(rules, document, caller, host, form, passed_on).await
            }
        };
        result.map_err(|error| error.failure(REFUSED))
    }

    fn verify(&self, verifier: &Verifier<'_>, tokens: &Tokens) -> Result<(), Refusal> {
        if let Some(token) = &tokens.id_token {
            let expected = Expected {
                access_token: &tokens.access_token,
                ..Expected::default()
            };
            verifier.id_token(token, expected)?;
        }
        let check = !verifier.rules.ignores_signature(self.grant.unsigned());
        verifier.issued(&tokens.access_token, check).map(|_| ())
    }

    /// Names the trade. Every part has its length before it, so that no two trades have one name.
    fn key(&self, rules: &Rules, salt: &[u8; 32]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(salt);
        hasher.update(&rules.token_cache_key);
        let mut add = |part: &[u8]| {
            hasher.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hasher.update(part);
        };
        add(self.grant.name().as_bytes());
        add(rules.client(self.client).id.as_bytes());
        add(self.credentials.name.as_bytes());
        add(self.credentials.secret.as_bytes());
        self.passed_on.parts(add);
        *hasher.finalize().as_bytes()
    }
}

impl Grants {
    fn salt(&self, host: &impl Host) -> &[u8; 32] {
        self.salt.get_or_init(|| {
            let mut salt = [0; 32];
            host.random(&mut salt);
            salt
        })
    }

    fn lock(&self) -> MutexGuard<'_, Expiring<[u8; 32], Arc<Granted>, MOST>> {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was granted before, unless it has ended or the provider's keys have changed since.
    fn find(&self, key: &[u8; 32], version: u64, now: UnixTime) -> Option<Arc<Granted>> {
        let granted = Arc::clone(self.lock().get(key, now)?);
        (granted.version == version).then_some(granted)
    }

    fn remember(&self, key: [u8; 32], granted: &Arc<Granted>, now: UnixTime) {
        self.lock()
            .keep(key, Arc::clone(granted), granted.until, now);
    }
}

/// How long tokens serve: as long as the access token lives, within the bounds of `cache_ttl_*`.
fn until(rules: &Rules, tokens: &Tokens, now: UnixTime) -> UnixTime {
    match tokens.expires_at {
        Some(end) if end <= now => now,
        end => rules.remembered_until(end, now),
    }
}
