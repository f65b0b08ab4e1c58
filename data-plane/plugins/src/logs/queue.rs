//! What waits to be sent to a server that keeps logs: in batches, again after a failure, and never more
//! than so much (Kong 3.9, queue).

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::channel::oneshot;
use futures::future::{Either, LocalBoxFuture, select};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::config::values::Number;
use crate::host::Host;

/// How entries wait and are sent.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct QueueConfig {
    /// Most entries that are sent together.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_batch_size: u32,

    /// How long an entry waits for others to be sent with, in seconds.
    #[serde(default = "one_number")]
    #[schemars(range(min = 0, max = 3600))]
    pub max_coalescing_delay: Number,

    /// Most entries that wait; the oldest are dropped.
    #[serde(default = "ten_thousand")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_entries: u32,

    /// Most bytes that wait; the oldest are dropped.
    #[serde(default)]
    pub max_bytes: Option<u64>,

    /// How long sending is tried again before a batch is dropped, in seconds.
    #[serde(default = "sixty")]
    pub max_retry_time: Number,

    /// Pause before the first further attempt, in seconds; it doubles each time.
    #[serde(default = "hundredth")]
    pub initial_retry_delay: Number,

    /// Longest such pause, in seconds.
    #[serde(default = "sixty")]
    pub max_retry_delay: Number,

    /// How many batches are sent at a time: one, or with -1 as many as there are cores.
    #[serde(default = "one_at_a_time")]
    #[schemars(range(min = -1, max = 1))]
    pub concurrency_limit: i32,
}

const fn one() -> u32 {
    1
}

const fn one_at_a_time() -> i32 {
    1
}

fn one_number() -> Number {
    Number(1.into())
}

const fn ten_thousand() -> u32 {
    10_000
}

fn sixty() -> Number {
    Number(60.into())
}

fn hundredth() -> Number {
    Number(serde_json::Number::from_f64(0.01).expect("0.01 is finite"))
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self {
            max_batch_size: one(),
            max_coalescing_delay: one_number(),
            max_entries: ten_thousand(),
            max_bytes: None,
            max_retry_time: sixty(),
            initial_retry_delay: hundredth(),
            max_retry_delay: sixty(),
            concurrency_limit: one_at_a_time(),
        }
    }
}

impl QueueConfig {
    /// This queue with what a configuration says under the names of earlier versions.
    pub(crate) fn with(mut self, size: Option<i64>, delay: Option<&Number>) -> Self {
        if let Some(size) = size {
            self.max_batch_size = u32::try_from(size.max(1)).unwrap_or(u32::MAX);
        }
        if let Some(delay) = delay {
            self.max_coalescing_delay = delay.clone();
        }
        self
    }
}

/// What the queue's fields of log plugins were called before there was `queue` (Kong 2.8): part of a
/// configuration. A value that was the default then says nothing, as in Kong 3.9.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct OldQueue {
    /// Has no effect: `queue.max_retry_time` says for how long sending is tried again.
    #[serde(default)]
    pub retry_count: Option<i64>,

    /// Use `queue.max_batch_size`.
    #[serde(default)]
    pub queue_size: Option<i64>,

    /// Use `queue.max_coalescing_delay`.
    #[serde(default)]
    pub flush_timeout: Option<Number>,
}

impl OldQueue {
    /// `queue` with what is said here.
    pub(crate) fn over(&self, queue: QueueConfig) -> QueueConfig {
        let delay = self.flush_timeout.as_ref();
        queue.with(
            self.queue_size.filter(|size| *size != 1),
            delay.filter(|delay| (delay.value() - 2.0).abs() > f64::EPSILON),
        )
    }
}

/// The queue of a plugin, as one configuration has it.
#[derive(Debug)]
pub(crate) struct Outbox {
    instance: Uuid,
    config: QueueConfig,
    /// Of two configurations of one plugin, the later has the larger.
    serial: u64,
}

impl Outbox {
    /// That of the plugin `instance`.
    pub(crate) fn new(instance: Uuid, config: QueueConfig) -> Self {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        Self {
            instance,
            config,
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Most entries that are sent together.
    pub(crate) const fn batch_size(&self) -> u32 {
        self.config.max_batch_size
    }
}

/// Sends a batch; the error says why not.
pub(crate) type Send = Rc<dyn Fn(Vec<Bytes>) -> LocalBoxFuture<'static, Result<(), String>>>;

/// The queues of one core, by plugin, and what else is on its way to where logs go.
#[derive(Default)]
struct Queues {
    by_plugin: RefCell<HashMap<Uuid, Rc<Queue>>>,
    /// Senders at work.
    sending: Cell<usize>,
    /// Whether the core ends: nothing waits for company any more.
    closing: Cell<bool>,
}

/// Work of which a core that ends waits for the end.
pub(crate) struct Sending(Rc<Queues>);

impl Sending {
    /// Work begins.
    pub(crate) fn begin(host: &impl Host) -> Self {
        let queues = host.core_state::<Queues>();
        queues.sending.set(queues.sending.get() + 1);
        Self(queues)
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.sending.set(self.0.sending.get() - 1);
    }
}

/// How often a core that ends looks whether all is sent.
const LOOK: Duration = Duration::from_millis(5);

/// Sends what still waits on the core of `host`, and returns when all of it has been taken or given up.
pub async fn flush(host: &impl Host) {
    let queues = host.core_state::<Queues>();
    queues.closing.set(true);
    for queue in queues.by_plugin.borrow().values() {
        queue.wake();
    }
    while queues.sending.get() > 0 {
        host.sleep(LOOK).await;
    }
}

/// Where entries go, as the newest configuration has it.
struct Way {
    serial: u64,
    config: QueueConfig,
    send: Send,
}

#[derive(Default)]
struct Queue {
    /// While somebody sends: that one keeps to the newest.
    way: RefCell<Option<Rc<Way>>>,
    entries: RefCell<VecDeque<Bytes>>,
    bytes: Cell<u64>,
    /// Whether somebody sends.
    running: Cell<bool>,
    /// Wakes the sender once a batch is full.
    full: RefCell<Option<oneshot::Sender<()>>>,
}

impl Queue {
    fn wake(&self) {
        if let Some(waker) = self.full.borrow_mut().take() {
            // A sender that has woken by itself does not listen any more.
            let _ = waker.send(());
        }
    }
}

/// Lets `entry` wait to be sent by `send`, or by that of a newer configuration.
pub(crate) fn push(host: &impl Host, outbox: &Outbox, entry: Bytes, send: impl FnOnce() -> Send) {
    let config = &outbox.config;
    let queues = host.core_state::<Queues>();
    let mut by_plugin = queues.by_plugin.borrow_mut();
    let queue = Rc::clone(by_plugin.entry(outbox.instance).or_default());
    drop(by_plugin);
    let known = queue.way.borrow().as_ref().map(|way| way.serial);
    // An exchange that began before a change may end after it.
    if known.is_none_or(|known| known < outbox.serial) {
        let way = Way {
            serial: outbox.serial,
            config: config.clone(),
            send: send(),
        };
        queue.way.replace(Some(Rc::new(way)));
    }
    queue.bytes.set(queue.bytes.get() + length(&entry));
    let mut entries = queue.entries.borrow_mut();
    entries.push_back(entry);
    let most = usize::try_from(config.max_entries).unwrap_or(usize::MAX);
    let mut dropped = 0_u32;
    while entries.len() > most
        || config
            .max_bytes
            .is_some_and(|most| queue.bytes.get() > most && entries.len() > 1)
    {
        let Some(oldest) = entries.pop_front() else {
            break;
        };
        queue.bytes.set(queue.bytes.get() - length(&oldest));
        dropped += 1;
    }
    if dropped > 0 {
        let plugin = outbox.instance;
        tracing::error!(%plugin, dropped, "queue full, dropped the oldest entries");
    }
    let full = entries.len() >= batch_size(config);
    drop(entries);
    if full {
        queue.wake();
    }
    if !queue.running.replace(true) {
        let task_host = host.clone();
        let sending = Sending::begin(host);
        host.spawn(Box::pin(async move {
            drain(&task_host, &queue).await;
            drop(sending);
        }));
    }
}

fn batch_size(config: &QueueConfig) -> usize {
    usize::try_from(config.max_batch_size).unwrap_or(usize::MAX)
}

fn length(entry: &Bytes) -> u64 {
    u64::try_from(entry.len()).unwrap_or(u64::MAX)
}

/// Sends what waits until nothing does.
async fn drain(host: &impl Host, queue: &Queue) {
    let queues = host.core_state::<Queues>();
    let way = || queue.way.borrow().clone();
    while let Some(now) = way() {
        let waiting = queue.entries.borrow().len();
        if waiting == 0 {
            break;
        }
        let delay = now.config.max_coalescing_delay.seconds();
        if waiting < batch_size(&now.config) && !delay.is_zero() && !queues.closing.get() {
            let (waker, full) = oneshot::channel();
            *queue.full.borrow_mut() = Some(waker);
            let sleep = Box::pin(host.sleep(delay));
            if let Either::Left(_) = select(sleep, full).await {
                queue.full.borrow_mut().take();
            }
        }
        let most = way().map_or(1, |way| batch_size(&way.config));
        let batch: Vec<Bytes> = {
            let mut entries = queue.entries.borrow_mut();
            let count = entries.len().min(most);
            entries.drain(..count).collect()
        };
        let bytes: u64 = batch.iter().map(length).sum();
        queue.bytes.set(queue.bytes.get().saturating_sub(bytes));
        deliver(host, queue, batch).await;
    }
    // What sends holds on to the host, and the host to this queue.
    queue.way.take();
    queue.running.set(false);
}

/// Sends one batch, again and again until it is taken or time is up: each time as the configuration then is.
async fn deliver(host: &impl Host, queue: &Queue, batch: Vec<Bytes>) {
    let begun = host.now();
    let mut pause: Option<Duration> = None;
    loop {
        let Some(way) = queue.way.borrow().clone() else {
            return;
        };
        let Err(error) = (way.send)(batch.clone()).await else {
            return;
        };
        let config = &way.config;
        let next = pause.unwrap_or_else(|| config.initial_retry_delay.seconds());
        let spent = host.now().saturating_since(begun);
        if spent + next > config.max_retry_time.seconds() {
            let entries = batch.len();
            tracing::error!(error, entries, "could not send entries, giving up");
            return;
        }
        tracing::warn!(error, "handler could not process entries, trying again");
        host.sleep(next.max(Duration::from_millis(1))).await;
        pause = Some((next * 2).min(config.max_retry_delay.seconds()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeHost;

    type Sent = Rc<RefCell<Vec<Vec<Bytes>>>>;

    fn sender(sent: &Sent, failures: u32) -> impl FnOnce() -> Send + use<> {
        let (sent, failures) = (Rc::clone(sent), Cell::new(failures));
        move || {
            Rc::new(move |batch| {
                let fails = failures.get() > 0;
                failures.set(failures.get().saturating_sub(1));
                if !fails {
                    sent.borrow_mut().push(batch);
                }
                Box::pin(std::future::ready(if fails {
                    Err("no".to_owned())
                } else {
                    Ok(())
                }))
            })
        }
    }

    fn run(config: &QueueConfig, count: u8, failures: u32) -> Vec<Vec<Bytes>> {
        let (host, sent) = (FakeHost::default(), Sent::default());
        let outbox = Outbox::new(Uuid::nil(), config.clone());
        for number in 0..count {
            let entry = Bytes::from(vec![number]);
            push(&host, &outbox, entry, sender(&sent, failures));
        }
        host.run(host.sleep(Duration::from_secs(100)));
        sent.take()
    }

    #[test]
    fn entries_go_in_batches_and_in_order() {
        let entry = |number: u8| Bytes::from(vec![number]);
        assert_eq!(run(&QueueConfig::default(), 2, 0), [[entry(0)], [entry(1)]]);
        let config = QueueConfig {
            max_batch_size: 2,
            ..QueueConfig::default()
        };
        let expected = vec![vec![entry(0), entry(1)], vec![entry(2)]];
        assert_eq!(run(&config, 3, 0), expected);
        assert_eq!(run(&config, 3, 3), expected, "also after failures");
        let short = QueueConfig {
            max_retry_time: Number(0.into()),
            ..config
        };
        assert_eq!(
            run(&short, 3, 1),
            [[entry(2)]],
            "what cannot be sent in time is dropped"
        );
    }

    #[test]
    fn a_core_that_ends_sends_what_waits() {
        let (host, sent) = (FakeHost::default(), Sent::default());
        let config = QueueConfig {
            max_batch_size: 10,
            max_coalescing_delay: Number(3600.into()),
            ..QueueConfig::default()
        };
        let entry = Bytes::from_static(b"a");
        let outbox = Outbox::new(Uuid::nil(), config);
        push(&host, &outbox, entry.clone(), sender(&sent, 1));
        host.run(host.sleep(Duration::from_secs(1)));
        assert!(sent.borrow().is_empty(), "it waits for company");
        host.run(flush(&host));
        assert_eq!(*sent.borrow(), [[entry]], "also after a failure");
    }

    #[test]
    fn what_waits_goes_where_the_newest_configuration_says() {
        let (host, old, new) = (FakeHost::default(), Sent::default(), Sent::default());
        let outboxes = [0, 1].map(|_| Outbox::new(Uuid::nil(), QueueConfig::default()));
        let (entry, later) = (Bytes::from_static(b"a"), Bytes::from_static(b"b"));
        push(&host, &outboxes[0], entry.clone(), sender(&old, u32::MAX));
        host.run(host.sleep(Duration::from_secs(3)));
        push(&host, &outboxes[1], later.clone(), sender(&new, 0));
        // An exchange of before ends after the change.
        push(&host, &outboxes[0], later.clone(), sender(&old, 0));
        host.run(host.sleep(Duration::from_secs(100)));
        assert!(old.borrow().is_empty());
        assert_eq!(*new.borrow(), [[entry], [later.clone()], [later]]);
    }

    #[test]
    fn the_oldest_entries_are_dropped_when_too_many_wait() {
        let config = QueueConfig {
            max_entries: 2,
            max_batch_size: 10,
            ..QueueConfig::default()
        };
        let sent = run(&config, 5, 0);
        assert_eq!(sent, [[Bytes::from(vec![3]), Bytes::from(vec![4])]]);
    }
}
