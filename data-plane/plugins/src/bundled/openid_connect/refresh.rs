//! Refreshing tokens: once per refresh token at a time on a node, to the end even if the request that
//! needed it goes away, and with one result for all that ask with the same token for a while
//! afterwards (OpenID Connect Core §12).

mod contested;
mod continued;
mod heard;
mod results;
mod unjudged;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, LocalBoxFuture, select};
use shared::clock::UnixTime;
use tracing::{debug, info};

use self::contested::Contested;
pub(super) use self::contested::{CONTESTED, REFUSED};
use self::results::{Held, Known, Results, STEPS, Want, replacing};
use self::unjudged::{Given, Unjudged};
use super::config::{AuthMethod, UnsignedMethod};
use super::failure::Failure;
use super::jws::{Claims, Jws};
use super::login;
use super::provider::{self, Document, ProviderError, Reason, Unaccepted};
use super::rules::Rules;
use super::session_store::SessionStore;
use super::single_flight::Flights;
use super::token_endpoint::{self, PassedOn, TokenError, Tokens};
use super::verify::{Expected, Refusal, Verifier};
use crate::host::{Claim, Host, Work};
use crate::sessions::session_keys::KeyRing;

/// How long a result answers for its refresh token: requests sent before their browser had the new
/// cookie come that late.
const LATE: Duration = Duration::from_secs(30);

type Outcome = Result<Arc<Tokens>, Failure>;

/// The refreshes of a node.
#[derive(Debug, Default)]
struct Refreshes {
    flights: Arc<Flights<[u8; 32], Outcome>>,
    results: Results,
    unjudged: Unjudged,
    contested: Contested,
}

/// A refresh on its way to a result.
struct Refresh<H> {
    rules: Arc<Rules>,
    host: H,
    ring: KeyRing,
    first: [u8; 32],
    key: [u8; 32],
    refreshes: Arc<Refreshes>,
    client: usize,
    want: Want,
    id_token: Option<String>,
    session: Option<String>,
    spared_until: Option<UnixTime>,
    passed_on: PassedOn,
    steps: u8,
}

/// What is to be refreshed.
pub(super) struct Asked<'a> {
    /// Position of the client.
    pub(super) client: usize,
    pub(super) refresh_token: &'a str,
    /// The ID token that the session holds.
    pub(super) id_token: Option<&'a str>,
    /// The access token that it holds, and its end.
    pub(super) held: Option<(&'a str, Option<UnixTime>)>,
    /// Until when the caller can do without new ones. `None`: not even now.
    pub(super) spared_until: Option<UnixTime>,
    /// How long the caller waits, if not for as long as it takes. The refresh goes on.
    pub(super) patience: Option<Duration>,
    /// The id of the session that has the token; none if a client has brought it.
    pub(super) session: Option<&'a str>,
    /// What the request passes on to the token endpoint.
    pub(super) passed_on: PassedOn,
    /// How many results were passed over because they have ended.
    pub(super) steps: u8,
}

/// New tokens. `ring` seals them on their way to another node.
///
/// # Errors
///
/// If the provider refuses or cannot be used, or gives an ID token of another user.
pub(super) async fn refresh(
    rules: &Arc<Rules>,
    host: &impl Host,
    ring: &KeyRing,
    asked: Asked<'_>,
) -> Outcome {
    let refreshes = host.node_state::<Refreshes>();
    let first = key(rules, &asked);
    let want = Want {
        token: asked.refresh_token.to_owned(),
        held: asked.held.map(|(access_token, expires_at)| Held {
            access_token: access_token.to_owned(),
            expires_at,
        }),
        is_kept: asked.session.is_some() || rules.config.provider.cache_tokens,
        leeway: rules.config.credentials.leeway.seconds(),
    };
    let key = match refreshes.known(first, &want, host.now()) {
        Known::Outcome(outcome) => return of_now(rules, host, ring, &want, asked, outcome).await,
        Known::Key(key) => key,
    };
    let patience = asked.patience;
    let (waiting, pilot) = refreshes.flights.board(&key);
    if let Some(pilot) = pilot {
        // Between the look and the boarding another one may have landed.
        if let Known::Outcome(outcome) = refreshes.known(first, &want, host.now()) {
            pilot.land(&outcome);
            return of_now(rules, host, ring, &want, asked, outcome).await;
        }
        let mut refresh = Refresh {
            rules: Arc::clone(rules),
            host: host.clone(),
            ring: ring.clone(),
            first,
            key,
            refreshes: Arc::clone(&refreshes),
            client: asked.client,
            want,
            id_token: asked.id_token.map(str::to_owned),
            session: asked.session.map(str::to_owned),
            spared_until: asked.spared_until,
            passed_on: asked.passed_on,
            steps: asked.steps,
        };
        host.spawn(Box::pin(async move {
            let (outcome, is_ours) = refresh.run().await;
            let (rules, now) = (&refresh.rules, refresh.host.now());
            match &outcome {
                Ok(_) => debug!(issuer = rules.issuer, "tokens refreshed"),
                Err(failure) => info!(issuer = rules.issuer, error = %failure, "refresh failed"),
            }
            let until = refresh.remembered_until(&outcome, now);
            refreshes.results.remember(key, &outcome, until, now);
            pilot.land(&outcome);
            if is_ours {
                refresh.go_on_telling().await;
            }
        }));
    }
    let landed = async {
        let given_up = || Failure::unavailable(REFUSED, "the refresh was given up");
        waiting.await.unwrap_or_else(|_| Err(given_up()))
    };
    let Some(patience) = patience else {
        return landed.await;
    };
    match select(pin!(landed), pin!(host.sleep(patience))).await {
        Either::Left((outcome, _)) => outcome,
        Either::Right(_) => Err(Failure::unavailable(
            "idp_unreachable",
            "the OpenID provider takes too long",
        )),
    }
}

/// What an outcome of before, for whoever `asked`, has become by now.
async fn of_now<H: Host>(
    rules: &Arc<Rules>,
    host: &H,
    ring: &KeyRing,
    want: &Want,
    asked: Asked<'_>,
    outcome: Outcome,
) -> Outcome {
    let tokens = outcome?;
    match want.outlived(&tokens, asked.steps, host.now()) {
        Some(next) => go_on(rules, host, ring, asked.after(&tokens, next)).await,
        None => Ok(tokens),
    }
}

/// New tokens for a refresh token that came in the place of another one, which others may be at, too.
fn go_on<'a, H: Host>(
    rules: &'a Arc<Rules>,
    host: &'a H,
    ring: &'a KeyRing,
    asked: Asked<'a>,
) -> LocalBoxFuture<'a, Outcome> {
    Box::pin(async move {
        let (next, id_token) = (asked.refresh_token, asked.id_token);
        let tokens = refresh(rules, host, ring, asked).await?;
        if tokens.refresh_token.is_some() && tokens.id_token.is_some() {
            return Ok(tokens);
        }
        // They serve on (RFC 6749 §6). Whoever asked knows only those before.
        let mut tokens = Tokens::clone(&tokens);
        let kept = || Some(next.to_owned());
        tokens.refresh_token = tokens.refresh_token.or_else(kept);
        tokens.id_token = tokens.id_token.or_else(|| id_token.map(str::to_owned));
        Ok(Arc::new(tokens))
    })
}

/// When an access token is to be refreshed: `leeway` before its end, but not before half of its life is over. Else one that
/// lives for no longer than that would be due at each request.
pub(super) fn due(issued_at: UnixTime, end: UnixTime, leeway: Duration) -> UnixTime {
    let life = end.saturating_since(issued_at);
    let due = issued_at.saturating_add(life.saturating_sub(early(life, leeway)));
    due.min(end)
}

/// How long that is before its end.
fn early(life: Duration, leeway: Duration) -> Duration {
    leeway.min(life / 2)
}

/// How long tokens that a client's own refresh token was traded for serve for it (Kong 3.9,
/// `cache_tokens`): until they would have to be refreshed.
fn lasts_until(rules: &Rules, tokens: &Tokens, now: UnixTime) -> UnixTime {
    let leeway = rules.config.credentials.leeway.seconds();
    let due = tokens.expires_at.map(|end| due(now, end, leeway));
    rules.remembered_until(due, now)
}

impl<H: Host> Refresh<H> {
    /// Until when the outcome serves whoever comes later with the same token.
    fn remembered_until(&self, outcome: &Outcome, now: UnixTime) -> UnixTime {
        let late = now.saturating_add(LATE);
        match outcome {
            Ok(tokens) if self.session.is_none() => {
                let lasts = lasts_until(&self.rules, tokens, now);
                match (self.want.is_kept, self.want.used_up(tokens)) {
                    (true, _) => lasts,
                    (false, true) => lasts.min(late),
                    (false, false) => now,
                }
            }
            // No session hangs on it, and it may be taken the next time.
            Err(_) if self.session.is_none() => now,
            _ => late,
        }
    }

    /// The result, and whether it was for this node to have it.
    async fn run(&mut self) -> (Outcome, bool) {
        let Some(claim) = self.claim().await else {
            return (self.ask_alone().await, false);
        };
        match claim {
            Claim::Theirs(sealed) => {
                if let Some(refusal) = self.hear_refusal(&sealed) {
                    return (Err(refusal), false);
                }
                if let Some(tokens) = self.hear(&sealed) {
                    return (self.take(tokens).await, false);
                }
                (self.ask_in_turn().await, false)
            }
            Claim::Alone => {
                let begun = self.host.undertake(self.key);
                let outcome = self.ask_alone().await;
                self.host.publish(self.key, begun, self.tell(&outcome));
                (outcome, true)
            }
            Claim::Taken => (Err(contested::contested()), false),
            Claim::Ours(begun) => {
                let outcome = self.ask_in_turn().await;
                self.host.publish(self.key, begun, self.tell(&outcome));
                (outcome, true)
            }
        }
    }

    /// Who is to ask, beyond the results of refreshes before the one that is wanted. `None`: each for itself, whatever others
    /// were told.
    async fn claim(&mut self) -> Option<Claim> {
        for _ in 0..STEPS {
            let claim = self.host.claim(self.key, Work::Refresh).await;
            let Claim::Theirs(sealed) = &claim else {
                return Some(claim);
            };
            let found = self.open(sealed);
            let Some(past) = found.filter(|found| !self.want.takes(found, self.host.now())) else {
                return Some(claim);
            };
            if self.want.held.is_none() {
                break;
            }
            self.key = replacing(&self.first, &past.access_token);
        }
        None
    }

    /// What another node was given, or what serves in its place if that has ended.
    async fn take(&self, tokens: Tokens) -> Outcome {
        let now = self.host.now();
        match self.want.outlived(&tokens, self.steps, now) {
            Some(next) => {
                let asked = self.asked().after(&tokens, next);
                go_on(&self.rules, &self.host, &self.ring, asked).await
            }
            None => Ok(Arc::new(tokens)),
        }
    }

    /// What was asked for, as far as a further refresh has to know.
    fn asked(&self) -> Asked<'_> {
        let held = self.want.held.as_ref();
        Asked {
            client: self.client,
            refresh_token: &self.want.token,
            id_token: self.id_token.as_deref(),
            held: held.map(|held| (held.access_token.as_str(), held.expires_at)),
            patience: None,
            session: self.session.as_deref(),
            spared_until: self.spared_until,
            passed_on: self.passed_on.clone(),
            steps: self.steps,
        }
    }

    async fn go_on_telling(&self) {
        let (rules, ring, host) = (&self.rules, &self.ring, &self.host);
        let unjudged = &self.refreshes.unjudged;
        let name = (self.key, self.want.token.as_str());
        unjudged.go_on_telling(rules, ring, host, name).await;
    }

    /// New tokens, judged: those that the provider has given before, should nobody have been able to judge them until now,
    /// or those that it gives.
    async fn ask(&self) -> Outcome {
        let (rules, ring, host) = (&self.rules, &self.ring, &self.host);
        let unjudged = &self.refreshes.unjudged;
        let store = self.store();
        let before = unjudged.look(rules, ring, host, store, &self.key).await?;
        let given = match before {
            Some(given) if self.serves(&given) => given,
            before => {
                if let Some(next) = before
                    .as_ref()
                    .and_then(|before| before.next(&self.want.token))
                {
                    // What nobody could judge has ended.
                    let asked = Asked {
                        refresh_token: next,
                        ..self.asked()
                    };
                    return go_on(rules, host, ring, asked).await;
                }
                let tokens = self.fetch().await?;
                // What is spent for them is not to be kept for less than other tokens are.
                let before = before.filter(|_| !self.want.used_up(&tokens));
                Given::now(Arc::new(tokens), before.as_ref(), host.now())
            }
        };
        let id_token = self.id_token.as_deref();
        let judged = judge(rules, host, self.client, &given, id_token).await;
        let why = judged.as_ref().err();
        // Named by what is replaced, which another node's success changes as well.
        let is_overdue = unjudged.is_overdue(self.replaces(), why, host.now());
        let why = why.filter(|_| !is_overdue);
        let name = (self.key, self.want.token.as_str());
        unjudged
            .note(rules, ring, host, store, name, (&given, why))
            .await;
        judged.map_err(|why| {
            if is_overdue {
                why.failure()
            } else {
                why.failure_for_now()
            }
        })?;
        Ok(given.tokens)
    }

    /// Where sessions are stored, for a session's token: what a client brings is nothing that was stored there, and does not
    /// depend on it.
    fn store(&self) -> Option<&SessionStore> {
        let store = self.rules.storage.as_deref();
        store.filter(|_| self.session.is_some())
    }

    /// Whether what was given before may be the result. Of a refresh token that is not used up the provider gives newer ones.
    fn serves(&self, given: &Given) -> bool {
        let now = self.host.now();
        match given.next(&self.want.token) {
            Some(_) => !given.is_over(&self.rules, now),
            None => self.want.takes(&given.tokens, now),
        }
    }

    async fn fetch(&self) -> Result<Tokens, Failure> {
        let (rules, host) = (&self.rules, &self.host);
        let document = document(rules, host)
            .await
            .map_err(|error| error.failure())?;
        let method = AuthMethod::RefreshToken;
        if self.session.is_none()
            && let Some(store) = &rules.storage
            && rules.keeps_session(method)
            && !login::tells_refresh_token(rules, method)
        {
            // What takes the place of a client's token would be lost.
            store.try_out(host).await?;
        }
        let form = vec![
            ("grant_type".to_owned(), "refresh_token".to_owned()),
            ("refresh_token".to_owned(), self.want.token.clone()),
        ];
        let asked =
            token_endpoint::request(rules, &document, self.client, host, form, &self.passed_on);
        asked.await.map_err(|error| match error {
            // That ends no session: it says nothing of the token.
            TokenError::Unexplained(status) => ProviderError::Status(status).failure(),
            // The user can sign in again by another grant; who has brought the token cannot.
            TokenError::NotAllowed(code) if self.session.is_some() => {
                TokenError::Refused(code).failure(REFUSED)
            }
            error => error.failure(REFUSED),
        })
    }
}

/// What is known of the provider: of one that is away, nothing is needed for tokens that nobody has to verify.
async fn document(rules: &Arc<Rules>, host: &impl Host) -> Result<Arc<Document>, ProviderError> {
    let configured = rules.config.client.token_endpoint.as_ref();
    provider::document_for(rules, host, configured).await
}

/// Holds new tokens against the provider's keys, and against the ID token that the session holds. What was good when it
/// was given is good, though it has ended while it waited for its key: it brought the refresh token that serves now.
async fn judge(
    rules: &Arc<Rules>,
    host: &impl Host,
    client: usize,
    given: &Given,
    id_token: Option<&str>,
) -> Result<(), Unaccepted> {
    let document = match document(rules, host).await {
        Ok(document) => document,
        Err(error) => return Err(Unaccepted::Keyless(error.failure(), error)),
    };
    let old = id_token.and_then(|token| Some(Jws::parse(token, token.len()).ok()?.claims));
    let verify = |verifier: &Verifier<'_>| {
        let now = verifier.now.min(given.at);
        verify(&Verifier { now, ..*verifier }, &given.tokens, old.as_ref())
    };
    let judged =
        provider::judged(rules, client, host, document, Reason::ProviderToken, verify).await;
    judged.map(|_| ())
}

/// A new ID token must be of the same user and the same authentication; the access token must verify.
fn verify(verifier: &Verifier<'_>, tokens: &Tokens, old: Option<&Claims>) -> Result<(), Refusal> {
    if let Some(token) = &tokens.id_token {
        let expected = Expected {
            access_token: &tokens.access_token,
            renewed: true,
            ..Expected::default()
        };
        let new = verifier.id_token(token, expected)?;
        if let Some(old) = old {
            let asks_nonce = verifier.rules.config.credentials.verify_nonce;
            continued::check(old, &new, asks_nonce).map_err(Refusal::Bad)?;
        }
    }
    let check = !verifier
        .rules
        .ignores_signature(UnsignedMethod::RefreshToken);
    verifier.issued(&tokens.access_token, check).map(|_| ())
}

impl<'a> Asked<'a> {
    /// The same for the refresh token that came with `tokens`, which have ended.
    fn after(self, tokens: &'a Tokens, refresh_token: &'a str) -> Self {
        Asked {
            refresh_token,
            id_token: tokens.id_token.as_deref().or(self.id_token),
            held: Some((&tokens.access_token, tokens.expires_at)),
            steps: self.steps + 1,
            ..self
        }
    }
}

impl Refreshes {
    fn known(&self, first: [u8; 32], want: &Want, now: UnixTime) -> Known {
        let runs = |key: &[u8; 32]| self.flights.runs(key);
        self.results.known(first, want, now, runs)
    }
}

/// Names a refresh, every part with its length before it. Its result was judged by the rules of whoever asked first:
/// it is for nobody else but those who trust that one anyway, since they take its sessions or share its tokens. How
/// plugins that share sessions reach the provider makes no difference: a second refresh would find the token used up.
fn key(rules: &Rules, asked: &Asked<'_>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    let mut add = |part: &[u8]| {
        let length = u64::try_from(part.len()).unwrap_or(u64::MAX);
        hasher.update(&length.to_be_bytes()).update(part);
    };
    add(rules.client(asked.client).id.as_bytes());
    add(asked.refresh_token.as_bytes());
    let brought = asked.session.is_none();
    add(&[u8::from(brought)]);
    if brought {
        add(&rules.token_cache_key);
        asked.passed_on.parts(add);
    } else {
        add(rules.binding.context());
    }
    *hasher.finalize().as_bytes()
}
