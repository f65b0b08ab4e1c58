//! This node's contact with its control plane: whether it hears from it, when it last did, and what it is to run.
//! Serving never depends on it.

mod clocks;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use shared::snapshot::{Hash, Position};
use tokio::sync::watch;

use clocks::Clocks;

/// Silence that is worth a warning.
pub(crate) const LONG: Duration = Duration::from_mins(1);

/// How long after a stream the next one may be expected: a control plane that restarts has nodes back within two seconds, one
/// that crashes takes somewhat longer.
const BETWEEN: Duration = Duration::from_millis(3_500);

/// Written by config sync, read by whoever asks for the node's status.
#[derive(Debug)]
pub(crate) struct Contact {
    started: Instant,
    /// How long nothing had been heard when it started, in milliseconds.
    before: AtomicU64,
    connected: AtomicBool,
    /// When the last stream ended, in milliseconds since the start: at first there may be one any moment.
    lost: AtomicU64,
    /// When a process began to serve that goes on from another, in milliseconds since the start; 0 for others.
    begun: AtomicU64,
    /// When the stream began that there is in place of a lost one, in milliseconds since the start; 0 without one.
    back: AtomicU64,
    /// Milliseconds since the start. The wall clock may jump: it says nothing of silence.
    heard: AtomicU64,
    /// Whether nothing had been heard for longer than sessions are to go on without, and what ended meanwhile is not known yet.
    misses: AtomicBool,
    /// The newest revision that a control plane told of.
    target: AtomicU64,
    /// The root of what the last good file holds.
    kept: Mutex<Hash>,
    /// How often the process started after a crash.
    crash_restarts: AtomicU64,
    /// Whether what runs is as new as can be known.
    settled: watch::Sender<bool>,
    /// Its clock and ours.
    pub(crate) clocks: Clocks,
}

impl Contact {
    /// No contact since the start, with a configuration from before it: who was logged out since, or which route is protected
    /// now, a control plane can tell.
    pub(crate) fn with_last_good(started: Instant) -> Self {
        let contact = Self::new(started);
        contact.settled.send_replace(false);
        contact
    }

    /// No contact since the start.
    pub(crate) fn new(started: Instant) -> Self {
        Self {
            started,
            before: AtomicU64::new(0),
            connected: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            back: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            misses: AtomicBool::new(false),
            target: AtomicU64::new(0),
            kept: Mutex::default(),
            crash_restarts: AtomicU64::new(0),
            settled: watch::Sender::new(true),
            clocks: Clocks::new(started),
        }
    }

    /// The same where nothing had been heard for so long when it started.
    pub(crate) fn after(self, before: Duration) -> Self {
        let before = AtomicU64::new(milliseconds(before));
        Self { before, ..self }
    }

    /// The process before this one has heard nothing for so long at `now`.
    pub(crate) fn goes_on_from(&self, silence: Duration, now: Instant) {
        let (since, silence) = (self.since_start(now), milliseconds(silence));
        if silence < since {
            self.heard.store(since - silence, Ordering::Relaxed);
        } else {
            self.before.store(silence - since, Ordering::Relaxed);
        }
    }

    /// Clients are served from `now` on, going on from another process, whose stream this one is about to take over.
    pub(crate) fn begins(&self, now: Instant) {
        self.begun.store(self.since_start(now), Ordering::Relaxed);
    }

    /// What runs is as new as a control plane says, or none can be asked.
    pub(crate) fn settle(&self) {
        self.settled
            .send_if_modified(|settled| !std::mem::replace(settled, true));
    }

    pub(crate) fn is_settled(&self) -> bool {
        *self.settled.borrow()
    }

    /// Waits until clients may be served.
    pub(crate) async fn settled(&self) {
        // The sender lives as long as this.
        let _ = self.settled.subscribe().wait_for(|settled| *settled).await;
    }

    pub(crate) fn connects(&self, connected: bool, now: Instant) {
        let now = self.since_start(now).max(1);
        if connected && self.lost.load(Ordering::Relaxed) != 0 {
            self.back.store(now, Ordering::Relaxed);
        }
        let before = self.connected.swap(connected, Ordering::Relaxed);
        if before && !connected {
            self.lost.store(now, Ordering::Relaxed);
        }
    }

    pub(crate) fn hears(&self, now: Instant) {
        // 0 says that nothing was.
        self.heard
            .store(self.since_start(now).max(1), Ordering::Relaxed);
    }

    /// Whether a control plane was heard since the start.
    pub(crate) fn has_heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed) != 0
    }

    fn since_start(&self, now: Instant) -> u64 {
        milliseconds(now.saturating_duration_since(self.started))
    }

    /// Until when a control plane may be heard at any moment, since a stream has just ended.
    pub(crate) fn expected_until(&self) -> Instant {
        let since = [&self.lost, &self.begun].map(|time| time.load(Ordering::Relaxed));
        let since = Duration::from_millis(since.into_iter().max().unwrap_or_default());
        self.started + since + BETWEEN
    }

    /// Whether a control plane is heard, or may be at any moment.
    pub(crate) fn is_there(&self, now: Instant) -> bool {
        self.is_connected() || self.is_expected(now)
    }

    /// Whether one is not heard, but may be at any moment.
    pub(crate) fn is_expected(&self, now: Instant) -> bool {
        !self.is_connected() && now < self.expected_until()
    }

    /// Whether the stream is younger than that which is there in place of a lost one: between the two, other nodes may have
    /// begun what no control plane knows of.
    pub(crate) fn came_back_within(&self, within: Duration, now: Instant) -> bool {
        let back = self.back.load(Ordering::Relaxed);
        back != 0 && now < self.started + Duration::from_millis(back) + within
    }

    pub(crate) fn is_led_to(&self, revision: u64) {
        self.target.store(revision, Ordering::Relaxed);
    }

    /// The last good file holds what has this root.
    pub(crate) fn keeps(&self, root: Hash) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = root;
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Whether the last good file holds what runs at `position`, if anything does.
    pub(crate) fn is_persisted(&self, position: Option<Position>) -> bool {
        let kept = *self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        position.is_some_and(|position| position.root == kept)
    }

    pub(crate) fn target(&self) -> u64 {
        self.target.load(Ordering::Relaxed)
    }

    pub(crate) fn crash_restarts(&self) -> u64 {
        self.crash_restarts.load(Ordering::Relaxed)
    }

    pub(crate) fn restarted(&self, crashes: u64) {
        self.crash_restarts.store(crashes, Ordering::Relaxed);
    }

    /// Whether nothing has been heard for longer than `longest`, or had been and what ended meanwhile is not known yet: a control
    /// plane that is there again takes its time to tell.
    pub(crate) fn misses(&self, longest: Duration, now: Instant) -> bool {
        let silent = self.silence(now) > longest;
        self.misses.fetch_or(silent, Ordering::Relaxed) || silent
    }

    /// The same as of the last look.
    pub(crate) fn has_missed(&self) -> bool {
        self.misses.load(Ordering::Relaxed)
    }

    /// For how long nobody was heard, in milliseconds; longer than the `longest` that sessions go on without while it is not known yet
    /// what ended meanwhile.
    pub(crate) fn unheard(&self, longest: Option<Duration>, now: Instant) -> u64 {
        let missed = longest.filter(|_| self.has_missed());
        let missed = missed.map_or(Duration::ZERO, |longest| longest + LONG);
        milliseconds(self.silence(now).max(missed))
    }

    /// A control plane has told what there was to tell.
    pub(crate) fn catches_up(&self) {
        self.misses.store(false, Ordering::Relaxed);
    }

    /// How long nothing has been heard.
    pub(crate) fn silence(&self, now: Instant) -> Duration {
        let since = now.saturating_duration_since(self.started);
        match self.heard.load(Ordering::Relaxed) {
            0 => since + Duration::from_millis(self.before.load(Ordering::Relaxed)),
            heard => since.saturating_sub(Duration::from_millis(heard)),
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_counted_from_the_last_word_or_the_start() {
        let started = shared::clock::monotonic();
        let at = |seconds| started + Duration::from_secs(seconds);
        let contact = Contact::new(started);
        let silence = |seconds| contact.silence(at(seconds)).as_secs();
        assert_eq!(silence(10), 10);
        contact.hears(at(30));
        assert_eq!((silence(30), silence(90), silence(20)), (0, 60, 0));
    }

    #[test]
    fn who_has_heard_nothing_for_long_has_caught_up_once_it_is_told_all() {
        let started = shared::clock::monotonic();
        let contact = Contact::new(started);
        let longest = Duration::from_secs(15);
        let misses = |seconds| contact.misses(longest, started + Duration::from_secs(seconds));
        assert!(!misses(15) && misses(16));
        contact.hears(started + Duration::from_secs(17));
        assert!(misses(17) && misses(20));
        // Whoever goes on from it knows no more.
        let unheard = |seconds| {
            let now = started + Duration::from_secs(seconds);
            Duration::from_millis(contact.unheard(Some(longest), now))
        };
        assert!(unheard(20) > longest);
        contact.catches_up();
        assert!(!misses(21) && unheard(21) < longest && misses(33));
    }

    #[test]
    fn a_silence_goes_on_from_one_process_to_the_next() {
        let started = shared::clock::monotonic();
        let at = |seconds| started + Duration::from_secs(seconds);
        for silent in [0, 3, 10, 50] {
            let contact = Contact::with_last_good(started).after(Duration::from_hours(9));
            let silence = Duration::from_secs(silent);
            contact.goes_on_from(silence, at(10));
            assert_eq!(contact.silence(at(10)), silence);
            assert_eq!(contact.silence(at(15)).as_secs(), silent + 5);
        }
    }

    #[test]
    fn who_goes_on_from_another_process_expects_its_stream_from_then_on() {
        let started = shared::clock::monotonic();
        let at = |seconds| started + Duration::from_secs(seconds);
        let contact = Contact::with_last_good(started);
        assert!(!contact.is_there(at(30)));
        contact.begins(at(30));
        assert!(contact.is_there(at(33)) && !contact.is_there(at(34)));
        // It has lost none.
        contact.connects(true, at(31));
        assert!(!contact.came_back_within(Duration::from_secs(4), at(32)));
    }

    #[test]
    fn a_stream_that_has_just_ended_is_expected_back() {
        let started = shared::clock::monotonic();
        let contact = Contact::new(started);
        let is_there = |seconds| contact.is_there(started + Duration::from_secs(seconds));
        assert!(is_there(1) && !is_there(4));
        contact.connects(true, started + Duration::from_secs(10));
        assert!(is_there(100));
        contact.connects(false, started + Duration::from_secs(100));
        // An attempt that failed is no stream that ends.
        contact.connects(false, started + Duration::from_secs(102));
        assert!(is_there(102) && !is_there(104));
        // Nothing came before the first.
        let came_back = |seconds| {
            let now = started + Duration::from_secs(seconds);
            contact.came_back_within(Duration::from_secs(4), now)
        };
        assert!(!came_back(11) && !came_back(104));
        contact.connects(true, started + Duration::from_secs(104));
        assert!(came_back(104) && came_back(107) && !came_back(108));
    }

    #[tokio::test]
    async fn clients_wait_for_the_first_word_where_there_is_something_old_to_serve() {
        let now = shared::clock::monotonic();
        let nothing = Contact::new(now);
        assert!(nothing.is_settled());
        let before = Duration::from_secs(30);
        let contact = Contact::with_last_good(now).after(before);
        let later = now + Duration::from_secs(5);
        assert_eq!(contact.silence(later), before + Duration::from_secs(5));
        assert!(!contact.is_settled());
        let mut waiting = std::pin::pin!(contact.settled());
        assert!(futures::poll!(&mut waiting).is_pending());
        contact.hears(now);
        assert!(contact.silence(later) <= Duration::from_secs(5));
        contact.settle();
        waiting.await;
        assert!(contact.is_settled());
    }
}
