//! Counts that a node keeps for itself, and brings together with Redis every so often. Its cores count together, and one
//! [`Synchroniser`] per plugin speaks to Redis for all of them.
//!
//! ```text
//!  requests, on any core ─► Client: its counts ─┬─► due: within the rate ─┬─► Synchroniser ─► Redis
//!                                               └─► urgent: they wait    ─┘   on the node's own core
//! ```

mod synchroniser;

use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::channel::oneshot;
use futures::future::join_all;
use quick_cache::sync::Cache;
use shared::clock::UnixTime;
use uuid::Uuid;

use self::synchroniser::Synchroniser;
use super::counters::{self, Usage};
use super::remote::broken;
use super::{Limit, Period};
use crate::host::Host;
use crate::host::redis::{RedisError, RedisServer};

/// Clients that are remembered, of all plugins together. Beyond, some are forgotten that have come but once of late: Redis is
/// told of them all the same, and asked when they come again.
const CLIENTS: usize = 100_000;

/// The clients of a node.
struct Clients {
    known: Cache<u128, Arc<Client>>,
    /// By plugin.
    synchronisers: Mutex<HashMap<Uuid, Arc<Synchroniser>>>,
}

/// The same, as one core holds them.
#[derive(Default)]
struct Held(OnceCell<Arc<Clients>>);

/// One client of one plugin.
struct Client {
    name: String,
    synchroniser: Arc<Synchroniser>,
    counts: Mutex<Counts>,
}

/// What is known of a client's requests.
#[derive(Default)]
struct Counts {
    /// By limit.
    windows: Vec<Window>,
    /// Whether Redis is to be told within the rate, or is being told.
    due: bool,
    /// Requests that wait until Redis has been asked, which is urgent if there are any.
    waiting: Vec<oneshot::Sender<Result<(), RedisError>>>,
}

/// Tells a request that Redis has been asked, or why it could not be.
type Told = oneshot::Receiver<Result<(), RedisError>>;

/// Requests in one period.
#[derive(Clone, Copy)]
struct Window {
    period: Period,
    start: u64,
    /// What all nodes had counted, and when Redis said so.
    heard: Option<(u64, UnixTime)>,
    /// What of this node Redis is being told.
    telling: u64,
    /// What this node has counted since.
    since: u64,
}

impl Default for Clients {
    fn default() -> Self {
        Self {
            known: Cache::new(CLIENTS),
            synchronisers: Mutex::default(),
        }
    }
}

impl Clients {
    /// Those of the node that `host` belongs to.
    fn of(host: &impl Host) -> Arc<Self> {
        let held = host.core_state::<Held>();
        Arc::clone(held.0.get_or_init(|| host.node_state()))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Arc<Synchroniser>>> {
        self.synchronisers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The client `name` of the plugin `instance`, which has its counts in `server`.
    fn find(&self, instance: Uuid, name: &str, server: &Arc<RedisServer>) -> Arc<Client> {
        let key = counters::key(instance, name);
        if let Some(client) = self.known.get(&key) {
            return client;
        }
        let made = Arc::new(Client {
            name: name.to_owned(),
            synchroniser: self.synchroniser(instance, server),
            counts: Mutex::default(),
        });
        // Another core may have made one meanwhile.
        let kept = (self.known).get_or_insert_with(&key, || Ok::<_, ()>(Arc::clone(&made)));
        kept.unwrap_or(made)
    }

    fn synchroniser(&self, instance: Uuid, server: &Arc<RedisServer>) -> Arc<Synchroniser> {
        let mut all = self.lock();
        if !all.contains_key(&instance) {
            // Of plugins that are gone no client is remembered, sooner or later.
            all.retain(|_, known| Arc::strong_count(known) > 1);
        }
        let known = all.entry(instance);
        let known = known.or_insert_with(|| Arc::new(Synchroniser::new(instance, server)));
        Arc::clone(known)
    }
}

/// Counts a request of a client on this node, and tells Redis within `rate`.
///
/// # Errors
///
/// Where that is `strict`, that Redis cannot be asked for what others have counted.
pub(super) async fn count(
    host: &impl Host,
    server: &Arc<RedisServer>,
    (instance, name): (Uuid, &str),
    limits: &[Limit],
    (rate, strict): (Duration, bool),
) -> Result<Usage, RedisError> {
    let client = Clients::of(host).find(instance, name, server);
    let failing = client.synchroniser.follow(server, rate);
    // Where a server is away that need not be asked, the node counts for itself.
    if (strict || !failing)
        && let Some(told) = client.ask(host, limits, (rate, strict))
    {
        let stops = || broken(server, "the node stops".to_owned());
        let asked = told.await.unwrap_or_else(|_| Err(stops()));
        if strict {
            asked?;
        }
    }
    Ok(client.count(host, limits))
}

/// Tells Redis what the node has counted since it was last told. Answers how many clients are left of whom it could not be told.
pub(super) async fn flush(host: &impl Host) -> usize {
    let all: Vec<_> = Clients::of(host).lock().values().cloned().collect();
    join_all(all.iter().map(|one| one.tell(host))).await;
    all.iter().map(|one| one.due()).sum()
}

impl Client {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has Redis asked, if that is to be waited for: of what it is not known what others have counted, or not of late (Kong 3.9:
    /// a count that a node does not have is read). Unless that is `strict`, one request waits for what is known of before, and
    /// none where Redis is to be told soon.
    fn ask(
        self: &Arc<Self>,
        host: &impl Host,
        limits: &[Limit],
        (rate, strict): (Duration, bool),
    ) -> Option<Told> {
        let now = host.now();
        let mut counts = self.lock();
        counts.roll(limits, now);
        let heard = || counts.windows.iter().map(|window| window.heard);
        let known = heard().all(|heard| heard.is_some());
        let fresh = |heard: Option<(u64, UnixTime)>| {
            heard.is_some_and(|(_, at)| now.saturating_since(at) < rate)
        };
        let soon = counts.due || !counts.waiting.is_empty();
        if heard().all(fresh) || (known && soon && !strict) {
            return None;
        }
        let (tell, told) = oneshot::channel();
        if counts.waiting.is_empty() {
            self.synchroniser.hurry(host, self);
        }
        counts.waiting.push(tell);
        Some(told)
    }

    /// Counts a request, one for each of `limits`, unless one is reached.
    fn count(self: &Arc<Self>, host: &impl Host, limits: &[Limit]) -> Usage {
        let mut counts = self.lock();
        counts.roll(limits, host.now());
        let used = counts.windows.iter().map(Window::used).collect();
        let usage = Usage::new(limits, used);
        for window in &mut counts.windows {
            window.since += u64::from(usage.exceeded.is_none());
        }
        counts.due = counts.due || self.synchroniser.list(host, self);
        usage
    }
}

impl Counts {
    /// Goes on to the windows of `limits` that `now` lies in.
    fn roll(&mut self, limits: &[Limit], now: UnixTime) {
        let periods = || limits.iter().map(|limit| limit.period);
        if !self
            .windows
            .iter()
            .map(|window| window.period)
            .eq(periods())
        {
            // The plugin is new, or has been given other limits.
            let known = std::mem::take(&mut self.windows);
            let of = |period| known.iter().find(|window| window.period == period).copied();
            let windows = periods().map(|period| of(period).unwrap_or(Window::new(period, 0)));
            self.windows = windows.collect();
        }
        for window in &mut self.windows {
            let start = window.period.start(now);
            if window.start != start {
                *window = Window::new(window.period, start);
            }
        }
    }

    /// The one of `period` that begins at `start`, if it lasts.
    fn window(&mut self, period: Period, start: u64) -> Option<&mut Window> {
        let mut windows = self.windows.iter_mut();
        windows.find(|window| window.period == period && window.start == start)
    }
}

impl Window {
    const fn new(period: Period, start: u64) -> Self {
        Self {
            period,
            start,
            heard: None,
            telling: 0,
            since: 0,
        }
    }

    /// The requests that are known of.
    fn used(&self) -> u64 {
        self.heard.map_or(0, |(total, _)| total) + self.telling + self.since
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use serde_json::json;

    use super::super::RateLimiting;
    use super::*;
    use crate::filter::{Instance, Plugin as _};
    use crate::host::redis::Reply;
    use crate::testing::FakeHost;

    #[test]
    fn redis_is_told_of_clients_that_are_forgotten() {
        let host = FakeHost::default();
        let known = Clients {
            known: Cache::new(4),
            ..Clients::default()
        };
        assert!(host.core_state::<Held>().0.set(Arc::new(known)).is_ok());
        let told: Rc<RefCell<Vec<Vec<u8>>>> = Rc::default();
        let heard = Rc::clone(&told);
        host.connect_redis(Rc::new(move |commands| {
            let replies = commands.iter().map(|command| {
                if *command.0[0] == *b"INCRBY" {
                    heard.borrow_mut().push(command.0[1].to_vec());
                    return Reply::Integer(1);
                }
                Reply::Nil
            });
            Ok(replies.collect())
        }));
        let config = json!({ "year": 9, "policy": "redis", "redis": { "host": "redis" } });
        let config: RateLimiting = serde_json::from_value(config).unwrap();
        let filter = config.compile(&Instance { id: Uuid::nil() }).unwrap();
        let (server, limits) = (filter.remote.unwrap(), filter.limits);
        let rate = (Duration::from_secs(1), false);
        for client in 0..100 {
            let name = client.to_string();
            let counting = count(&host, &server, (Uuid::nil(), &name), &limits, rate);
            assert_eq!(host.run(counting).unwrap().before, [0]);
        }
        assert!(Clients::of(&host).known.len() <= 4);
        assert_eq!(host.run(flush(&host)), 0);
        assert_eq!(told.borrow().len(), 100);
    }
}
