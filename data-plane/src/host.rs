//! What filters may ask of the outside, by way of their core.

mod definitions;
mod direct;
mod flights;
mod ldap;
mod redis;
pub(crate) mod sink;

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fetch::without_query;
use futures::future::LocalBoxFuture;
use http::uri::Authority;
use http::{HeaderValue, Response, Uri};
use plugins::client_keys::ClientKeys;
use plugins::host::ldap::{LdapError, LdapServer};
use plugins::host::redis::{Command, RedisError, RedisServer, Reply};
use plugins::host::sink::{Sink, SinkError};
use plugins::host::{
    Claim, FetchError, FetchLimits, Host, Number, Repeatable, RevokeError, Waits, Work,
};
use plugins::sessions::revocations::Revocations;
use proto::v1::flight::Step;
use proto::v1::request::What;
use proto::v1::{Aside, answer, aside};
use rustls_pki_types::ServerName;
use shared::authority::bare;
use shared::clock::{Ahead, UnixTime, monotonic};
use shared::entity::Revocation;
use shared::secret::Secret;
use shared::telemetry::{Trouble, chain};
use shared::tls::Mistrust;

use self::flights::{AGREED, CLAIMED, claim_of, flight};
use crate::ask::{AGAIN, Unanswered};
use crate::body::RequestBody;
use crate::core::Core;
use crate::forward::{self, Outgoing, Way, fields};
use crate::http1::Framing;
use crate::http1::headers::View;
use crate::http1::kind::Kind;
use crate::memory;
use crate::unstored::{self, Stored};
use crate::upstream::UpstreamError;
use crate::upstream::exchange::Timeouts;
use crate::upstream::origin::{Origin, OriginKey, OriginTls};
use crate::upstream::tls::TlsProfile;

/// The host of one core's filters.
#[derive(Clone, Debug)]
pub(crate) struct CoreHost(Rc<Core>);

impl CoreHost {
    /// The host that works by way of `core`.
    pub(crate) const fn new(core: Rc<Core>) -> Self {
        Self(core)
    }

    async fn fetch_whole(
        &self,
        request: http::Request<Bytes>,
        limits: &FetchLimits,
    ) -> Result<Response<Bytes>, FetchError> {
        let (mut parts, body) = request.into_parts();
        let (origin, host) = origin(&parts.uri, limits)?;
        let authority = parts.uri.authority().map_or("", Authority::as_str);
        let target = parts
            .uri
            .path_and_query()
            .map_or("/", http::uri::PathAndQuery::as_str)
            .to_owned();
        fields::strip_hop_by_hop(&mut parts.headers);
        parts.headers.remove(http::header::HOST);
        parts.headers.remove(http::header::CONTENT_LENGTH);
        // Zero stands for no limit of its own.
        let wait = |step: fn(Waits) -> Duration| {
            let said = limits.waits.map(step).filter(|wait| !wait.is_zero());
            said.unwrap_or(limits.timeout)
        };
        let timeouts = Timeouts {
            connect: wait(|waits| waits.connect),
            write: wait(|waits| waits.send),
            read: wait(|waits| waits.read),
        };
        let repeatable = if parts.method.is_safe() {
            Repeatable::Always
        } else {
            limits.repeatable
        };
        let mut outgoing = Outgoing {
            way: Way::To(&origin),
            method: &parts.method,
            target: &target,
            host: Some(&host),
            headers: View::Map(&parts.headers),
            replaced: Kind::OTHER,
            at_hand: [None; 3],
            added: &[],
            lines: [&[]; 2],
            upgrade: None,
            trailers: false,
            interim: None,
            client: None,
            timeouts,
            retries: 0,
            again: repeatable != Repeatable::Never,
            fresh: repeatable == Repeatable::Never,
            now: monotonic(),
        };
        let framing =
            if body.is_empty() && matches!(parts.method, http::Method::GET | http::Method::HEAD) {
                Framing::None
            } else {
                Framing::Length(u64::try_from(body.len()).unwrap_or(u64::MAX))
            };
        let mut asked = self
            .ask_once(&mut outgoing, framing, &body, limits.body)
            .await;
        if let Err(error) = &asked
            && repeatable == Repeatable::Always
            && is_broken_off(error)
        {
            tracing::debug!(error = %chain(&error), "a connection broke off, asking once more");
            outgoing.now = monotonic();
            asked = self
                .ask_once(&mut outgoing, framing, &body, limits.body)
                .await;
        }
        match asked {
            Ok(Some(response)) => Ok(response),
            Ok(None) => Err(FetchError::TooLarge {
                authority: authority.to_owned(),
                limit: limits.body,
            }),
            Err(error) => Err(fetch_error(authority, &error)),
        }
    }

    /// Sends a request and reads the whole answer. `None`: its body is longer than `limit`.
    async fn ask_once(
        &self,
        outgoing: &mut Outgoing<'_>,
        framing: Framing,
        body: &Bytes,
        limit: usize,
    ) -> Result<Option<Response<Bytes>>, UpstreamError> {
        let body = if body.is_empty() {
            RequestBody::Empty
        } else {
            RequestBody::Read(body.clone(), Box::new(RequestBody::Empty))
        };
        let (answer, _hold) = forward::send(&self.0, outgoing, framing, body, None).await?;
        let mut source = answer.body;
        let mut whole = BytesMut::new();
        while let Some(frame) = std::future::poll_fn(|cx| source.poll_frame(cx)).await {
            whole.extend_from_slice(&frame?.into_data().unwrap_or_default());
            if whole.len() > limit {
                return Ok(None);
            }
        }
        let mut response = Response::new(whole.freeze());
        *response.status_mut() = answer.head.status;
        *response.headers_mut() = answer.head.headers.into_map();
        Ok(Some(response))
    }
}

/// Whether a connection that stood has ended before its answer did.
fn is_broken_off(error: &UpstreamError) -> bool {
    matches!(
        error,
        UpstreamError::Closed | UpstreamError::Send(_) | UpstreamError::Receive(_)
    )
}

/// The server that `url` names, and the `Host` that it is asked with.
fn origin(url: &Uri, limits: &FetchLimits) -> Result<(Arc<Origin>, HeaderValue), FetchError> {
    let bad = || FetchError::Url(without_query(url));
    let authority = url.authority().ok_or_else(bad)?;
    let tls = match url.scheme_str() {
        _ if authority.as_str().contains('@') => return Err(bad()),
        Some("https") => true,
        Some("http") => false,
        _ => return Err(bad()),
    };
    let host = bare(authority.host()).to_ascii_lowercase();
    let server_name = ServerName::try_from(host.clone()).map_err(|_| bad())?;
    let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let tls = tls.then_some(OriginTls {
        server_name,
        profile: TlsProfile::plain(limits.verify_tls),
    });
    let origin = Origin::of(OriginKey {
        host,
        port,
        tls,
        http2: false,
        reach: limits.reach,
    });
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| bad())?;
    Ok((origin, host))
}

fn fetch_error(authority: &str, error: &UpstreamError) -> FetchError {
    let (authority, reason) = (authority.to_owned(), chain(error).to_string());
    match error {
        UpstreamError::Tls { source, .. } if let Some(why) = Mistrust::of(source) => {
            FetchError::Untrusted {
                authority,
                reason,
                why,
            }
        }
        UpstreamError::Forbidden { address } => FetchError::Forbidden {
            authority,
            address: *address,
        },
        UpstreamError::Resolve { .. }
        | UpstreamError::Connect { .. }
        | UpstreamError::ConnectTimeout
        | UpstreamError::Tls { .. } => FetchError::Connect { authority, reason },
        _ => FetchError::Broken { authority, reason },
    }
}

/// How long a control plane may take to keep what is put aside. Nobody waits that long.
const HEARD: Duration = Duration::from_secs(10);

/// How long it may take to find it, also with other control planes: a user waits.
const FOUND: Duration = Duration::from_secs(3);

/// How long a revocation may be on its way before it is kept on disk meanwhile.
const SOON: Duration = Duration::from_millis(500);

impl Host for CoreHost {
    fn read_definition(&self, path: &str) -> Result<String, String> {
        definitions::read(path)
    }

    fn kept(&self, key: &[u8; 32]) -> Option<Bytes> {
        self.0.node.discovered.find(key)
    }

    fn keep(&self, key: [u8; 32], value: Bytes) {
        self.0.node.discovered.keep(key, value);
    }

    fn room(&self, most: usize) -> usize {
        memory::room(most, self.0.node.limits.memory, 1)
    }

    fn room_of_core(&self, most: usize) -> usize {
        let node = &self.0.node;
        memory::room(most, node.limits.memory, node.workers)
    }

    async fn fetch(
        &self,
        request: http::Request<Bytes>,
        limits: FetchLimits,
    ) -> Result<Response<Bytes>, FetchError> {
        let authority = request
            .uri()
            .authority()
            .map(ToString::to_string)
            .unwrap_or_default();
        let fetching = async {
            if direct::is_needed(request.uri(), &limits) {
                let means = direct::Means {
                    resolver: &self.0.resolver,
                    permitted: &self.0.node.provider_networks,
                    limits: &limits,
                };
                return direct::fetch(request, means).await;
            }
            self.fetch_whole(request, &limits).await
        };
        tokio::time::timeout(limits.timeout, Box::pin(fetching))
            .await
            .unwrap_or(Err(FetchError::Timeout {
                authority,
                timeout: limits.timeout,
            }))
    }

    async fn redis(
        &self,
        server: &Arc<RedisServer>,
        commands: Vec<Command>,
    ) -> Result<Vec<Reply>, RedisError> {
        redis::ask(&self.0, server, commands).await
    }

    async fn bind(
        &self,
        server: &LdapServer,
        name: &str,
        password: &Secret<String>,
    ) -> Result<bool, LdapError> {
        ldap::bind(&self.0.resolver, server, name, password).await
    }

    async fn write(&self, sink: &Sink, bytes: Bytes) -> Result<(), SinkError> {
        sink::write(&self.0, sink, bytes).await
    }

    fn node_id(&self) -> &str {
        &self.0.node.id
    }

    fn sampling_rate(&self) -> f64 {
        self.0.node.sampling_rate
    }

    fn client_keys(&self) -> Arc<ClientKeys> {
        let snapshot = self.0.snapshot();
        let keys = snapshot.map(|snapshot| Arc::clone(&snapshot.environment.client_keys));
        keys.unwrap_or_default()
    }

    fn now(&self) -> UnixTime {
        UnixTime::now()
    }

    fn ahead(&self) -> Ahead {
        self.0.node.contact.clocks.ahead(self.now(), monotonic())
    }

    fn random(&self, buffer: &mut [u8]) {
        aws_lc_rs::rand::fill(buffer)
            .expect("the system's random source does not fail once it is seeded");
    }

    fn spawn(&self, task: LocalBoxFuture<'static, ()>) {
        tokio::task::spawn_local(task);
    }

    fn spawn_on_node(
        &self,
        task: impl FnOnce(Self) -> LocalBoxFuture<'static, ()> + Send + 'static,
    ) {
        // The node does not start without that core, which ends after those that serve clients.
        let _ = self.0.node.background.send(Box::new(task));
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    fn core_state<T: Default + 'static>(&self) -> Rc<T> {
        self.0.states.of()
    }

    fn node_state<T: Default + Send + Sync + 'static>(&self) -> Arc<T> {
        self.0.node.states.of()
    }

    fn revocations(&self) -> &Revocations {
        &self.0.node.revocations
    }

    async fn revoke(&self, revocations: Vec<Revocation>) -> Result<(), RevokeError> {
        let known = &self.0.node.revocations;
        if !known.add_own(revocations.iter().copied(), self.now()) {
            tracing::error!(
                "there are more revocations than this node accepts: a logout is refused"
            );
            return Err(RevokeError::Full);
        }
        let unstored = &self.0.node.unstored;
        let (questions, mut refusals) = (&self.0.node.questions, Trouble::default());
        let mut asked = pin!(unstored::store(questions, &revocations, &mut refusals));
        let soon = tokio::time::timeout(SOON, &mut asked).await;
        let stored = if let Ok(stored) = soon {
            stored
        } else {
            // This process may end before it learns more.
            unstored.keep(&revocations, self.now()).await;
            asked.await
        };
        if stored == Stored::Yes {
            unstored.forget(&revocations).await;
            return Ok(());
        }
        tracing::warn!("a logout holds on this node only, so far");
        unstored.keep(&revocations, self.now()).await;
        Err(RevokeError::NotStored)
    }

    async fn claim(&self, key: [u8; 32], work: Work) -> Claim {
        let mut joining = flight(key, Step::Join, None);
        joining.yields = work == Work::Code;
        let node = &self.0.node;
        let began = monotonic();
        let waited = || monotonic().saturating_duration_since(began);
        let answer = loop {
            let what = What::Flight(joining.clone());
            let left = CLAIMED.saturating_sub(waited());
            let is_expected = || node.contact.is_expected(monotonic());
            let asked = node.questions.ask_patiently(what, left, is_expected);
            match asked.await {
                // It waits for the next stream.
                Err(Unanswered::Cut) if node.contact.is_there(monotonic()) => {
                    tokio::time::sleep(AGAIN).await;
                }
                answer => break answer.ok(),
            }
        };
        let is_late = node
            .contact
            .came_back_within(waited() + AGREED, monotonic());
        let given = &node.questions.given;
        let claim = claim_of(answer, waited(), is_late, || given.number(&key));
        if claim == Claim::Alone && given.is_of_another(&key) {
            return Claim::Taken;
        }
        claim
    }

    fn undertake(&self, key: [u8; 32]) -> Number {
        self.0.node.questions.given.begins(&key)
    }

    fn publish(&self, key: [u8; 32], begun: Number, sealed: Option<Vec<u8>>) {
        let step = if sealed.is_some() {
            Step::Land
        } else {
            Step::Abandon
        };
        let ended = What::Flight(flight(key, step, sealed));
        let Some(landing) = self.0.node.questions.land(&key, begun, ended) else {
            tracing::debug!("no control plane hears that an operation has ended");
            return;
        };
        let core = Rc::clone(&self.0);
        tokio::task::spawn_local(async move {
            core.node.questions.landed(landing).await;
        });
    }

    async fn put_aside(&self, key: [u8; 32], sealed: Vec<u8>) {
        let questions = &self.0.node.questions;
        let kept = questions.ask_at_length(aside(key, aside::Step::Keep, sealed), HEARD);
        if kept.await != Ok(answer::What::Stored(true)) {
            tracing::debug!("no control plane keeps what is put aside");
        }
    }

    async fn take_aside(&self, key: [u8; 32]) -> Option<Vec<u8>> {
        let taking = aside(key, aside::Step::Take, Vec::new());
        let node = &self.0.node;
        let is_expected = || node.contact.is_expected(monotonic());
        let taken = node.questions.ask_patiently(taking, FOUND, is_expected);
        match taken.await {
            Ok(answer::What::Result(sealed)) => Some(sealed.to_vec()),
            _ => None,
        }
    }

    fn forget_aside(&self, key: [u8; 32]) {
        let forgetting = aside(key, aside::Step::Forget, Vec::new());
        // What is not forgotten is not kept for long.
        self.0.node.questions.tell(forgetting);
    }
}

/// What is said of something that a node keeps for another.
fn aside(key: [u8; 32], step: aside::Step, sealed: Vec<u8>) -> What {
    What::Aside(Aside {
        key: key.to_vec().into(),
        step: step.into(),
        sealed: sealed.into(),
    })
}
