//! Traffic at a steady rate, however long the answers take: nobody asks less often because others wait.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use harness::eventually;
use http::header::{CONNECTION, COOKIE, HOST};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use shared::clock::monotonic;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// The longest that a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often requests are sent.
const TICK: Duration = Duration::from_millis(10);

/// One of so many requests comes on a connection of its own.
const NEW: usize = 5;

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Target {
    /// The node's address.
    pub(crate) address: String,
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) cookie: Option<String>,
}

impl Target {
    /// The URL `base` and `path`.
    pub(crate) fn of(base: &str, path: &str) -> Self {
        let address = base.trim_start_matches("http://").to_owned();
        Self {
            host: address.clone(),
            address,
            path: path.to_owned(),
            cookie: None,
        }
    }
}

/// What has happened to some requests.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) failed: Vec<String>,
    /// Of those that were answered 200, sorted.
    pub(crate) latencies: Vec<Duration>,
    /// Of those that were answered 503 or 429, sorted.
    pub(crate) refusals: Vec<Duration>,
}

impl Figures {
    pub(crate) fn count(&self) -> usize {
        self.failed.len() + self.latencies.len() + self.refusals.len()
    }

    /// The time in which `percent` of those that were answered 200 were.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        percentile(&self.latencies, percent)
    }

    /// Fails if a request has failed or was refused.
    #[track_caller]
    pub(crate) fn none_failed(&self) {
        let (failed, refused) = (self.failed.len(), self.refusals.len());
        let examples = &self.failed[..failed.min(5)];
        assert!(
            failed + refused == 0,
            "{failed} failed, {refused} refused: {examples:?}"
        );
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} requests, {} failed, {} refused, p50 {:.1?}, p99 {:.1?}",
            self.count(),
            self.failed.len(),
            self.refusals.len(),
            self.percentile(50),
            self.percentile(99)
        )
    }
}

/// The value below which `percent` of `sorted` lie.
pub(crate) fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let last = sorted.len().saturating_sub(1);
    let at = (sorted.len() * percent / 100).min(last);
    sorted.get(at).copied().unwrap_or_default()
}

/// Requests that go on until they are ended.
#[derive(Clone)]
pub(crate) struct Load {
    shared: Arc<Shared>,
    sending: Arc<Mutex<Option<JoinHandle<()>>>>,
}

struct Shared {
    targets: Mutex<Vec<Target>>,
    kept: Mutex<HashMap<String, Vec<SendRequest<Empty<bytes::Bytes>>>>>,
    figures: Mutex<Figures>,
    under_way: AtomicUsize,
    ends: AtomicBool,
}

impl Load {
    /// Sends `rate` requests each second to `targets` in turn.
    pub(crate) fn start(rate: usize, targets: Vec<Target>) -> Self {
        let shared = Arc::new(Shared {
            targets: Mutex::new(targets),
            kept: Mutex::default(),
            figures: Mutex::default(),
            under_way: AtomicUsize::new(0),
            ends: AtomicBool::new(false),
        });
        let sending = tokio::spawn(send(Arc::clone(&shared), rate));
        Self {
            shared,
            sending: Arc::new(Mutex::new(Some(sending))),
        }
    }

    /// How many requests to `targets` are answered in a second if so many clients ask again as soon as they are.
    pub(crate) async fn capacity(targets: Vec<Target>, clients: usize, time: Duration) -> usize {
        let load = Self::start(0, targets.clone());
        let started = monotonic();
        let asking = (0..clients).map(|client| {
            let (shared, targets) = (Arc::clone(&load.shared), targets.clone());
            tokio::spawn(async move {
                let mut turn = client;
                while started.elapsed() < time {
                    turn += 1;
                    let target = targets[turn % targets.len()].clone();
                    shared.one(target, turn % NEW == 0, monotonic()).await;
                }
            })
        });
        for asking in asking.collect::<Vec<_>>() {
            asking.await.unwrap();
        }
        let took = started.elapsed();
        let figures = load.end().await;
        figures.none_failed();
        let count = u32::try_from(figures.count()).unwrap();
        let rate = f64::from(count) / took.as_secs_f64();
        // Far below what could not be held exactly.
        format!("{rate:.0}").parse().unwrap()
    }

    /// Takes the place of what was asked for, as a balancer does that finds a node gone.
    pub(crate) fn turn_to(&self, targets: Vec<Target>) {
        *self.shared.targets.lock().unwrap() = targets;
    }

    /// What has happened since the last call, or from the start.
    pub(crate) fn lap(&self) -> Figures {
        let mut figures = std::mem::take(&mut *self.shared.figures.lock().unwrap());
        figures.latencies.sort_unstable();
        figures.refusals.sort_unstable();
        figures
    }

    /// Waits until `count` more requests have been answered. Those that are not within [`PATIENCE`] have failed.
    ///
    /// # Panics
    ///
    /// If one has failed or was refused since the last lap.
    pub(crate) async fn goes_on(&self, count: usize) {
        let answered = || {
            let figures = self.shared.figures.lock().unwrap();
            let failure = figures.failed.first().cloned();
            let (count, refused) = (figures.count(), figures.refusals.len());
            // A panic with it in hand would be everybody's.
            drop(figures);
            assert!(
                (&failure, refused) == (&None, 0),
                "{refused} refused, {failure:?}"
            );
            count
        };
        let until = answered() + count;
        eventually("requests are answered", async || {
            (answered() >= until).then_some(())
        })
        .await;
    }

    /// What happens within `time`.
    pub(crate) async fn within(&self, time: Duration) -> Figures {
        let _ = self.lap();
        tokio::time::sleep(time).await;
        self.lap()
    }

    /// Ends it, waits for the answers that are still to come, and says what has happened since the last lap.
    pub(crate) async fn end(self) -> Figures {
        self.shared.ends.store(true, Ordering::Relaxed);
        let sending = self.sending.lock().unwrap().take();
        if let Some(sending) = sending {
            sending.await.unwrap();
        }
        eventually("the last requests are answered", async || {
            (self.shared.under_way.load(Ordering::Relaxed) == 0).then_some(())
        })
        .await;
        self.lap()
    }
}

async fn send(shared: Arc<Shared>, rate: usize) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut turn, mut owed) = (0, 0);
    while !shared.ends.load(Ordering::Relaxed) {
        let due = ticks.tick().await.into_std();
        owed += rate;
        while owed >= 100 {
            owed -= 100;
            turn += 1;
            let target = {
                let targets = shared.targets.lock().unwrap();
                targets.get(turn % targets.len().max(1)).cloned()
            };
            let Some(target) = target else { continue };
            shared.under_way.fetch_add(1, Ordering::Relaxed);
            let shared = Arc::clone(&shared);
            tokio::spawn(async move {
                shared.one(target, turn % NEW == 0, due).await;
                shared.under_way.fetch_sub(1, Ordering::Relaxed);
            });
        }
    }
}

impl Shared {
    /// One request that was due at `due`.
    async fn one(&self, target: Target, new: bool, due: Instant) {
        let answer = tokio::time::timeout(PATIENCE, self.ask(&target, new)).await;
        let took = monotonic().saturating_duration_since(due);
        let targets = self.targets.lock().unwrap();
        let still_there = targets.iter().any(|other| other.address == target.address);
        drop(targets);
        let mut figures = self.figures.lock().unwrap();
        let failure = match answer {
            Ok(Ok(StatusCode::OK)) => return figures.latencies.push(took),
            Ok(Ok(StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS)) => {
                return figures.refusals.push(took);
            }
            // It was taken out while the request was on its way.
            _ if !still_there => return,
            Ok(Ok(status)) => status.to_string(),
            Ok(Err(failure)) => failure,
            Err(_) => format!("no answer within {PATIENCE:?}"),
        };
        figures
            .failed
            .push(format!("{}{}: {failure}", target.address, target.path));
    }

    /// A connection that was kept may have been closed meanwhile: the request is sent again then, as every client
    /// does (RFC 9110 §9.2.2). A new one must do.
    async fn ask(&self, target: &Target, new: bool) -> Result<StatusCode, String> {
        loop {
            let kept = if new {
                None
            } else {
                let mut kept = self.kept.lock().unwrap();
                kept.get_mut(&target.address).and_then(Vec::pop)
            };
            let Some(mut sender) = kept else { break };
            if sender.ready().await.is_ok()
                && let Ok(status) = self.exchange(sender, target, new).await
            {
                return Ok(status);
            }
        }
        let stream = TcpStream::connect(&target.address).await;
        let stream = stream.map_err(|error| format!("connecting: {error}"))?;
        let text = |error: hyper::Error| format!("on a new connection: {error:?}");
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(text)?;
        tokio::spawn(connection);
        self.exchange(sender, target, new).await.map_err(text)
    }

    async fn exchange(
        &self,
        mut sender: SendRequest<Empty<bytes::Bytes>>,
        target: &Target,
        new: bool,
    ) -> hyper::Result<StatusCode> {
        let mut request = Request::get(&target.path).header(HOST, &target.host);
        if let Some(cookie) = &target.cookie {
            request = request.header(COOKIE, cookie);
        }
        if new {
            request = request.header(CONNECTION, "close");
        }
        let request = request.body(Empty::new()).expect("it is a request");
        let response = sender.send_request(request).await?;
        let status = response.status();
        let closes = response
            .headers()
            .get(CONNECTION)
            .is_some_and(|value| value == "close");
        response.into_body().collect().await?;
        if !new && !closes {
            let mut kept = self.kept.lock().unwrap();
            kept.entry(target.address.clone()).or_default().push(sender);
        }
        Ok(status)
    }
}
