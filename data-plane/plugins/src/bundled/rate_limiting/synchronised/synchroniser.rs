//! Brings the counts of one plugin together with Redis, for all cores of a node. It has one exchange at a time, so that what
//! it is told of a client is never older than what is known.

use std::borrow::Cow;
use std::mem::{replace, take};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use shared::clock::UnixTime;
use uuid::Uuid;

use super::super::Period;
use super::super::remote::{broken, key};
use super::Client;
use crate::host::Host;
use crate::host::redis::{Command, RedisError, RedisServer, Reply};

pub(super) struct Synchroniser {
    /// The plugin.
    instance: Uuid,
    work: Mutex<Work>,
    /// Whose turn it is to speak to Redis.
    turn: futures::lock::Mutex<()>,
}

struct Work {
    /// Where and how often counts are told, as the newest configuration has it.
    server: Arc<RedisServer>,
    rate: Duration,
    /// Clients of whom Redis is to be told.
    due: Vec<Arc<Client>>,
    /// How many it is just told of besides.
    under_way: usize,
    /// Clients for whose requests Redis is to be asked at once.
    urgent: Vec<Arc<Client>>,
    /// Whether a task tells Redis every so often.
    telling: bool,
    /// Whether a task asks Redis.
    asking: bool,
    /// Whether the server was out of reach when it was last told or asked.
    failing: bool,
}

/// What Redis is told or asked of a client in one period.
struct Sent {
    period: Period,
    start: u64,
    /// How much is added; nothing is only asked for.
    count: u64,
}

/// How long a server that is out of reach is left alone.
const PATIENCE: Duration = Duration::from_secs(5);

/// Most clients of which Redis is to be told. Others are counted on the node alone until there is room.
const MOST: usize = 100_000;

/// So many are told of before it is time.
const MANY: usize = MOST / 2;

/// Most clients of which Redis is told at once. Requests that wait go along with each of these.
const AT_ONCE: usize = 1_000;

impl Synchroniser {
    pub(super) fn new(instance: Uuid, server: &Arc<RedisServer>) -> Self {
        Self {
            instance,
            work: Mutex::new(Work {
                server: Arc::clone(server),
                rate: Duration::ZERO,
                due: Vec::new(),
                under_way: 0,
                urgent: Vec::new(),
                telling: false,
                asking: false,
                failing: false,
            }),
            turn: futures::lock::Mutex::default(),
        }
    }

    /// Held for moments only: each request takes it.
    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes by the newest configuration. Answers whether the server is out of reach.
    pub(super) fn follow(&self, server: &Arc<RedisServer>, rate: Duration) -> bool {
        let mut work = self.lock();
        if !Arc::ptr_eq(&work.server, server) {
            work.server = Arc::clone(server);
        }
        work.rate = rate;
        work.failing
    }

    /// How many clients there are of whom Redis is to be told.
    pub(super) fn due(&self) -> usize {
        self.lock().due.len()
    }

    /// Has Redis asked for `client` at once.
    pub(super) fn hurry(self: &Arc<Self>, host: &impl Host, client: &Arc<Client>) {
        let mut work = self.lock();
        work.urgent.push(Arc::clone(client));
        if !replace(&mut work.asking, true) {
            let own = Arc::clone(self);
            host.spawn_on_node(move |host| Box::pin(async move { own.ask(&host).await }));
        }
    }

    /// Has Redis told of `client` within the rate, if there is room.
    pub(super) fn list(self: &Arc<Self>, host: &impl Host, client: &Arc<Client>) -> bool {
        let mut work = self.lock();
        if work.due.len() + work.under_way >= MOST {
            return false;
        }
        work.due.push(Arc::clone(client));
        if !replace(&mut work.telling, true) {
            let own = Arc::clone(self);
            host.spawn_on_node(move |host| {
                Box::pin(async move { own.tell_until_idle(&host).await })
            });
        }
        if work.due.len() == MANY {
            let own = Arc::clone(self);
            host.spawn_on_node(move |host| Box::pin(async move { own.tell(&host).await }));
        }
        true
    }

    /// Asks Redis until no request waits any more.
    async fn ask(&self, host: &impl Host) {
        let _turn = self.turn.lock().await;
        loop {
            {
                let mut work = self.lock();
                work.asking = !work.urgent.is_empty();
                if !work.asking {
                    return;
                }
            }
            self.exchange(host, &[]).await;
        }
    }

    /// Tells Redis every so often, until nobody is due any more.
    async fn tell_until_idle(&self, host: &impl Host) {
        loop {
            self.pause(host).await;
            {
                let mut work = self.lock();
                work.telling = !work.due.is_empty();
                if !work.telling {
                    return;
                }
            }
            self.tell(host).await;
        }
    }

    /// Waits until Redis is to be told. How often that is may change meanwhile, and a server that is out of reach is tried sooner.
    async fn pause(&self, host: &impl Host) {
        let mut waited = Duration::ZERO;
        loop {
            let part = self.lock().pause().saturating_sub(waited).min(PATIENCE);
            host.sleep(part).await;
            waited += part;
            if waited >= self.lock().pause() {
                return;
            }
        }
    }

    /// Tells Redis of all who are due, or as far as the server takes it.
    pub(super) async fn tell(&self, host: &impl Host) {
        let _turn = self.turn.lock().await;
        let (mut due, failing) = {
            let mut work = self.lock();
            work.under_way = work.due.len();
            (take(&mut work.due), work.failing)
        };
        let mut told = 0;
        // A server that was out of reach has but a moment: what it then does not answer in time may count, and is told again.
        let (first, others) = due.split_at(usize::from(failing).min(due.len()));
        for part in first.chunks(1).chain(others.chunks(AT_ONCE)) {
            told += part.len();
            if !self.exchange(host, part).await {
                break;
            }
        }
        let mut left = due.split_off(told);
        let mut work = self.lock();
        left.append(&mut work.due);
        (work.due, work.under_way) = (left, 0);
    }

    /// Tells Redis of those who are `due`, asks it for those who are urgent, and hears what all nodes have counted. Answers
    /// whether the server does its work.
    async fn exchange(&self, host: &impl Host, due: &[Arc<Client>]) -> bool {
        let (server, urgent) = {
            let mut work = self.lock();
            (Arc::clone(&work.server), take(&mut work.urgent))
        };
        // What is left half done is counts, which are told again.
        let speaking = AssertUnwindSafe(self.speak(host, &server, due, &urgent));
        let Ok(spoke) = speaking.catch_unwind().await else {
            // Whoever waits would wait for ever, and nobody begin anew.
            let failure = broken(&server, "the task that asks it has panicked".to_owned());
            for client in &urgent {
                client.stops_waiting(&Err(failure.clone()));
            }
            for client in due.iter().chain(&urgent) {
                client.is_untold();
            }
            let mut work = self.lock();
            work.due.extend_from_slice(due);
            work.note(Some(&failure));
            return false;
        };
        spoke
    }

    /// The same with `server`, of those who are `urgent`.
    async fn speak(
        &self,
        host: &impl Host,
        server: &Arc<RedisServer>,
        due: &[Arc<Client>],
        urgent: &[Arc<Client>],
    ) -> bool {
        let now = host.now();
        let (mut commands, mut sent) = (Vec::new(), Vec::new());
        for client in due.iter().chain(urgent) {
            sent.push(client.send(self.instance, now, &mut commands));
        }
        let replies = if commands.is_empty() {
            Ok(Vec::new())
        } else {
            host.redis(server, commands).await
        };
        let heard_at = host.now();
        let mut replies = replies.map(Vec::into_iter);
        let mut next = || match &mut replies {
            Ok(replies) => Ok(replies.next()),
            Err(error) => Err(error.clone()),
        };
        let (mut answered, mut again, mut failure) = (0, Vec::new(), None);
        for (number, (client, sent)) in due.iter().chain(urgent).zip(sent).enumerate() {
            let mut outcome = Ok(());
            for sent in sent {
                let total = next().and_then(|reply| {
                    total(reply).map_err(|reason| broken(server, reason.to_string()))
                });
                if sent.count > 0 {
                    // That of the other command.
                    let _ = next();
                }
                client.hear(&sent, total.as_ref().ok().copied(), heard_at);
                match total {
                    Ok(_) => answered += 1,
                    Err(error) => outcome = Err(error),
                }
            }
            if number < due.len() {
                let mut counts = client.lock();
                // Some have come again meanwhile.
                counts.due =
                    outcome.is_err() || counts.windows.iter().any(|window| window.since > 0);
                if counts.due {
                    again.push(Arc::clone(client));
                }
            } else {
                client.stops_waiting(&outcome);
            }
            failure = failure.or(outcome.err());
        }
        // That one count is refused, perhaps since its key is something else, says nothing of the others.
        let failure = failure.filter(|_| answered == 0);
        let mut work = self.lock();
        work.due.append(&mut again);
        if answered > 0 || failure.is_some() {
            work.note(failure.as_ref());
        }
        failure.is_none()
    }
}

impl Work {
    /// How long the server is not told anything.
    const fn pause(&self) -> Duration {
        if self.failing { PATIENCE } else { self.rate }
    }

    /// Notes whether the server could be reached.
    fn note(&mut self, failure: Option<&RedisError>) {
        if replace(&mut self.failing, failure.is_some()) != failure.is_some() {
            match failure {
                None => tracing::info!("rate limits are synchronised again"),
                // What was not told is told later; it is said once.
                Some(error) => tracing::error!(%error, "rate limits are not synchronised"),
            }
        }
    }
}

impl Client {
    /// Adds to `commands` what tells Redis of the client, and asks for what all nodes have counted.
    fn send(&self, instance: Uuid, now: UnixTime, commands: &mut Vec<Command>) -> Vec<Sent> {
        let mut sent = Vec::new();
        for window in &mut self.lock().windows {
            let (period, start) = (window.period, window.start);
            if start != period.start(now) {
                if start < period.start(now) {
                    // Nobody asks for it any more.
                    window.since = 0;
                }
                continue;
            }
            let count = take(&mut window.since);
            window.telling += count;
            let key = key(instance, &self.name, period, start);
            if count == 0 {
                commands.push(Command::new("GET").arg(key));
            } else {
                let add = Command::new("INCRBY").arg(key.clone());
                commands.push(add.arg(count.to_string()));
                let expire = Command::new("EXPIRE").arg(key);
                commands.push(expire.arg(period.seconds().to_string()));
            }
            sent.push(Sent {
                period,
                start,
                count,
            });
        }
        sent
    }

    /// Tells the requests that wait what has come of it.
    fn stops_waiting(&self, outcome: &Result<(), RedisError>) {
        for waiting in self.lock().waiting.drain(..) {
            // Some have left meanwhile.
            let _ = waiting.send(outcome.clone());
        }
    }

    /// What was told last may not have been heard.
    fn is_untold(&self) {
        for window in &mut self.lock().windows {
            window.since += take(&mut window.telling);
        }
    }

    /// Takes over the `total` that was heard at `now`. Without one what was `sent` is told again.
    fn hear(&self, sent: &Sent, total: Option<u64>, now: UnixTime) {
        let mut counts = self.lock();
        let Some(window) = counts.window(sent.period, sent.start) else {
            return;
        };
        let told = sent.count.min(window.telling);
        window.telling -= told;
        match total {
            Some(total) => window.heard = Some((total, now)),
            None => window.since += told,
        }
    }
}

/// A count, as Redis tells it, or why it does not.
fn total(reply: Option<Reply>) -> Result<u64, Cow<'static, str>> {
    match reply {
        // Nobody has counted yet.
        Some(Reply::Nil) => Ok(0),
        Some(Reply::Error(reason)) => Err(reason.into()),
        reply => {
            let number = reply.and_then(|reply| reply.integer());
            let total = number.and_then(|number| u64::try_from(number).ok());
            total.ok_or("an unexpected reply".into())
        }
    }
}
