//! Entries waiting to be sent to a log server: in batches, with retries, and never more than a limit (Kong 3.9, queue).

mod config;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::channel::oneshot;
use futures::future::{Either, LocalBoxFuture, select};
use uuid::Uuid;

pub use self::config::{OldQueue, QueueConfig};
use crate::host::Host;

/// The queue of a plugin, as one configuration has it.
#[derive(Debug)]
pub(crate) struct Outbox {
    instance: Uuid,
    /// Which of the plugin's queues it is.
    part: &'static str,
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
            part: "",
            config,
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// The same for one of several queues of the plugin.
    pub(crate) fn of_part(self, part: &'static str) -> Self {
        Self { part, ..self }
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
    by_plugin: RefCell<HashMap<(Uuid, &'static str), Rc<Queue>>>,
    /// Senders at work.
    sending: Cell<usize>,
    /// Whether the core ends: nothing waits for company any more.
    closing: Cell<bool>,
}

/// Work of which a core that ends waits for the end.
pub struct Sending(Rc<Queues>);

shared::unsaid!(Sending);

impl Sending {
    /// Work begins.
    pub fn begin(host: &impl Host) -> Self {
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

/// Most batches that a queue sends at a time, where it may send several.
const AT_A_TIME: usize = 64;

/// Shortest pause between two attempts.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);

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
    /// Batches that are sent beside the one that comes next.
    under_way: Cell<usize>,
    told: Cell<Told>,
    /// Entries that were dropped since the last one was taken.
    dropped: Cell<u64>,
}

/// What operators have been told of how full a queue is: each once, until that changes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Told {
    #[default]
    Nothing,
    NearlyFull,
    Full,
}

impl Queue {
    /// Tells operators that entries are taken again, if they were told otherwise.
    fn resume(&self, plugin: Uuid) {
        if self.told.get() == Told::Full {
            let dropped = self.dropped.take();
            tracing::info!(%plugin, dropped, "queue resumed processing");
            self.told.set(Told::Nothing);
        }
    }

    /// Tells operators how full it is, after so many entries were `dropped`.
    fn tell(&self, plugin: Uuid, dropped: u64, nearly_full: bool) {
        self.dropped.set(self.dropped.get() + dropped);
        let told = match self.told.get() {
            Told::Full => return,
            _ if dropped > 0 => {
                tracing::error!(%plugin, "queue full, dropping the oldest entries until some are taken");
                Told::Full
            }
            Told::NearlyFull if nearly_full => return,
            _ if nearly_full => {
                tracing::warn!(%plugin, "queue at 80% capacity");
                Told::NearlyFull
            }
            _ => Told::Nothing,
        };
        self.told.set(told);
    }

    fn wake(&self) {
        if let Some(waker) = self.full.borrow_mut().take() {
            // A sender that has woken by itself does not listen any more.
            let _ = waker.send(());
        }
    }
}

/// Lets `entry` wait to be sent by `send`, or by that of a newer configuration.
pub(crate) fn push(host: &impl Host, outbox: &Outbox, entry: Bytes, send: impl FnOnce() -> Send) {
    let (config, plugin) = (&outbox.config, outbox.instance);
    let bytes = length(&entry);
    if config.max_bytes.is_some_and(|most| bytes > most) {
        tracing::error!(%plugin, bytes, "an entry is longer than max_bytes, dropped it");
        return;
    }
    let queues = host.core_state::<Queues>();
    let mut by_plugin = queues.by_plugin.borrow_mut();
    let queue = Rc::clone(by_plugin.entry((plugin, outbox.part)).or_default());
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
    queue.bytes.set(queue.bytes.get() + bytes);
    let mut entries = queue.entries.borrow_mut();
    entries.push_back(entry);
    let most = usize::try_from(config.max_entries).unwrap_or(usize::MAX);
    let too_long = || {
        config
            .max_bytes
            .is_some_and(|most| queue.bytes.get() > most)
    };
    let mut dropped = 0;
    while (entries.len() > most || too_long())
        && let Some(oldest) = entries.pop_front()
    {
        queue.bytes.set(queue.bytes.get() - length(&oldest));
        dropped += 1;
    }
    queue.tell(plugin, dropped, entries.len() * 5 >= most * 4);
    let full = entries.len() >= batch_size(config);
    drop(entries);
    if full {
        queue.wake();
    }
    if !queue.running.replace(true) {
        let task_host = host.clone();
        let sending = Sending::begin(host);
        host.spawn(Box::pin(async move {
            drain(&task_host, plugin, &queue).await;
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
async fn drain(host: &impl Host, plugin: Uuid, queue: &Rc<Queue>) {
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
        let way = way().unwrap_or(now);
        if way.config.concurrency_limit < 0 && queue.under_way.get() < AT_A_TIME {
            let (task_host, queue) = (host.clone(), Rc::clone(queue));
            let sending = Sending::begin(host);
            queue.under_way.set(queue.under_way.get() + 1);
            host.spawn(Box::pin(async move {
                deliver(&task_host, plugin, &queue, way, batch).await;
                queue.under_way.set(queue.under_way.get() - 1);
                drop(sending);
            }));
        } else {
            deliver(host, plugin, queue, way, batch).await;
        }
    }
    // What sends holds on to the host, and the host to this queue.
    queue.way.take();
    queue.running.set(false);
}

/// Sends one batch, again and again until it is taken or time is up: each time as the configuration then is, which is
/// `way` by now.
async fn deliver(
    host: &impl Host,
    plugin: Uuid,
    queue: &Queue,
    mut way: Rc<Way>,
    batch: Vec<Bytes>,
) {
    let begun = host.now();
    let mut pause: Option<Duration> = None;
    loop {
        way = queue.way.borrow().clone().unwrap_or(way);
        let Err(error) = (way.send)(batch.clone()).await else {
            return queue.resume(plugin);
        };
        let config = &way.config;
        let next = pause.unwrap_or_else(|| config.initial_retry_delay.seconds());
        let next = next.max(SHORTEST_PAUSE);
        let spent = host.now().saturating_since(begun);
        if spent + next > config.max_retry_time.seconds() {
            let entries = batch.len();
            tracing::error!(error, entries, "could not send entries, giving up");
            return;
        }
        tracing::warn!(error, "handler could not process entries, trying again");
        host.sleep(next).await;
        pause = Some((next * 2).min(config.max_retry_delay.seconds()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::values::Number;
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
    fn batches_go_beside_each_other_on_wish() {
        for (limit, expected) in [(1, [1, 2, 3]), (-1, [3, 3, 3])] {
            let config = QueueConfig {
                concurrency_limit: limit,
                ..QueueConfig::default()
            };
            let (host, begun) = (FakeHost::default(), Rc::new(Cell::new(0)));
            let outbox = Outbox::new(Uuid::nil(), config);
            for _ in 0..3 {
                let (sender_host, begun) = (host.clone(), Rc::clone(&begun));
                push(&host, &outbox, Bytes::from_static(b"a"), || {
                    Rc::new(move |_| {
                        let (host, begun) = (sender_host.clone(), Rc::clone(&begun));
                        Box::pin(async move {
                            begun.set(begun.get() + 1);
                            host.sleep(Duration::from_secs(10)).await;
                            Ok(())
                        })
                    })
                });
            }
            let found = [5, 10, 10].map(|seconds| {
                host.run(host.sleep(Duration::from_secs(seconds)));
                begun.get()
            });
            assert_eq!(found, expected, "{limit}");
        }
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

    #[test]
    fn bytes_that_wait_are_bounded_and_an_entry_that_is_too_long_drops_no_other() {
        let config = QueueConfig {
            max_bytes: Some(6),
            max_batch_size: 10,
            ..QueueConfig::default()
        };
        for (entries, expected) in [
            (&["1", "22", "333", "4444"][..], &["4444"][..]),
            (&["1", "22", "333"], &["1", "22", "333"]),
            (&["1", "55555", "666666"], &["666666"]),
            (&["1", "7777777", "22"], &["1", "22"]),
        ] {
            let (host, sent) = (FakeHost::default(), Sent::default());
            let outbox = Outbox::new(Uuid::nil(), config.clone());
            for entry in entries {
                push(&host, &outbox, Bytes::from(*entry), sender(&sent, 0));
            }
            host.run(host.sleep(Duration::from_secs(5)));
            assert_eq!(*sent.borrow(), [expected], "{entries:?}");
        }
    }
}
