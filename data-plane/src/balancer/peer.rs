//! One address of an upstream, and what is known about it across snapshots.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;
use serde::{Deserialize, Serialize};
use shared::clock::{UnixTime, monotonic};
use shared::entity::Revocation;

/// What tells one peer from another.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub(crate) struct PeerKey {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    /// The target's host as configured: a name, or the address again.
    pub(crate) host: String,
}

/// One address of an upstream.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) key: PeerKey,
    /// Tells it from all others of this process.
    pub(crate) number: u64,
    /// Requests in flight.
    pub(crate) busy: AtomicU32,
    pub(crate) latency: Latency,
    healthy: AtomicBool,
    /// Whether it was set by hand.
    by_hand: AtomicBool,
    /// Whether a success has nothing to change.
    spotless: AtomicBool,
    counters: Mutex<Counters>,
    /// The marks that it has been told of and that still last.
    told: Mutex<Vec<Revocation>>,
}

#[derive(Debug, Default)]
struct Counters {
    successes: u32,
    http_failures: u32,
    tcp_failures: u32,
    timeouts: u32,
}

/// What has become of a request or a check.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Event {
    /// A status that counts as success.
    Success,
    /// A status that counts as failure.
    HttpFailure,
    /// No connection, or one that broke.
    TcpFailure,
    /// No answer in time.
    Timeout,
}

/// How many events in a row change a peer's health; 0: never.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Thresholds {
    pub(crate) successes: u32,
    pub(crate) http_failures: u32,
    pub(crate) tcp_failures: u32,
    pub(crate) timeouts: u32,
}

/// What the answers of a peer say of it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Judgement {
    pub(crate) thresholds: Thresholds,
    pub(crate) healthy: Vec<u16>,
    pub(crate) unhealthy: Vec<u16>,
}

impl Judgement {
    /// What a status says; nothing if it is on neither list.
    pub(crate) fn judge(&self, status: StatusCode) -> Option<Event> {
        let status = status.as_u16();
        if self.healthy.contains(&status) {
            Some(Event::Success)
        } else if self.unhealthy.contains(&status) {
            Some(Event::HttpFailure)
        } else {
            None
        }
    }
}

impl Peer {
    pub(super) fn new(key: PeerKey) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        Self {
            key,
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            busy: AtomicU32::new(0),
            latency: Latency::default(),
            healthy: AtomicBool::new(true),
            by_hand: AtomicBool::new(false),
            spotless: AtomicBool::new(true),
            counters: Mutex::default(),
            told: Mutex::default(),
        }
    }

    /// Whether it may be asked.
    pub(crate) fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    /// Counts `event`; the peer's health if it has changed by that.
    pub(super) fn report(&self, event: Event, thresholds: &Thresholds) -> Option<bool> {
        // Nearly every request goes well and finds nothing to change.
        if event == Event::Success && self.spotless.load(Ordering::Relaxed) {
            return None;
        }
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let healthy = self.is_healthy();
        let (count, threshold) = match event {
            Event::Success => {
                let successes = counters.successes;
                *counters = Counters {
                    successes,
                    ..Counters::default()
                };
                if healthy {
                    counters.successes = 0;
                    self.spotless.store(true, Ordering::Relaxed);
                    return None;
                }
                (&mut counters.successes, thresholds.successes)
            }
            Event::HttpFailure => (&mut counters.http_failures, thresholds.http_failures),
            Event::TcpFailure => (&mut counters.tcp_failures, thresholds.tcp_failures),
            Event::Timeout => (&mut counters.timeouts, thresholds.timeouts),
        };
        *count = count.saturating_add(1);
        let reached = threshold > 0 && *count >= threshold;
        if event != Event::Success {
            counters.successes = 0;
            self.spotless.store(false, Ordering::Relaxed);
        }
        let becomes = event == Event::Success;
        if !reached || healthy == becomes {
            return None;
        }
        self.turn(&mut counters, becomes, false);
        Some(becomes)
    }

    /// Notes what an operator has said of it. Whether that is news: what comes beside the configuration comes with it again.
    pub(super) fn is_told(&self, mark: &Revocation, now: UnixTime) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let known = told.iter().find(|known| known.id == mark.id);
        if known.is_some_and(|known| mark.before <= known.before) {
            return false;
        }
        told.retain(|known| known.id != mark.id && now.as_secs() < known.expires_at);
        told.push(*mark);
        true
    }

    /// What it has been told that lasts at `now`.
    pub(super) fn told(&self, now: UnixTime) -> Vec<Revocation> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let lasting = told.iter().filter(|known| now.as_secs() < known.expires_at);
        lasting.copied().collect()
    }

    /// Whether checks have found that it is not healthy.
    pub(super) fn is_found_unhealthy(&self) -> bool {
        !self.is_healthy() && !self.by_hand.load(Ordering::Relaxed)
    }

    /// Is not healthy, as an operator has said or a check has found before this process began.
    pub(super) fn begins_unhealthy(&self, by_hand: bool) {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        self.turn(&mut counters, false, by_hand);
    }

    /// Is healthy again if checks have found that it is not: there are none any more that could find otherwise. Whether it was so.
    pub(super) fn forgets_checks(&self) -> bool {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let found_ill = self.is_found_unhealthy();
        if found_ill {
            self.turn(&mut counters, true, false);
        }
        found_ill
    }

    /// Sets the health by hand, and begins to count anew.
    pub(super) fn set_health(&self, healthy: bool) {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        self.turn(&mut counters, healthy, true);
    }

    fn turn(&self, counters: &mut Counters, healthy: bool, by_hand: bool) {
        *counters = Counters::default();
        self.by_hand.store(by_hand, Ordering::Relaxed);
        self.healthy.store(healthy, Ordering::Relaxed);
        self.spotless.store(healthy, Ordering::Relaxed);
    }
}

/// How fast answers fade.
const DECAY: Duration = Duration::from_secs(10);
/// What a failure counts as, if it took no longer: who fails at once is not fast.
const FAILURE: Duration = Duration::from_secs(1);
/// How fast failures fade: as answers do, one would outweigh those of a millisecond for over a minute.
const FAILURE_DECAY: Duration = Duration::from_millis(1500);

/// A moving average of how long a peer takes, newer exchanges counting more (Kong 3.9, `latency`).
#[derive(Debug, Default)]
pub(crate) struct Latency(Mutex<Option<Average>>);

#[derive(Clone, Copy, Debug)]
struct Average {
    /// What answers have made of it, in milliseconds.
    answers: f64,
    /// The same of exchanges without one.
    failures: f64,
    /// When it was last changed.
    at: Instant,
}

impl Average {
    /// This one and one `new` exchange.
    fn and(self, new: Self) -> Self {
        let weighed = |known: f64, new_part: f64, decay| {
            let fading = fading(self.at, new.at, decay);
            known * fading + new_part * (1.0 - fading)
        };
        Self {
            answers: weighed(self.answers, new.answers, DECAY),
            failures: weighed(self.failures, new.failures, FAILURE_DECAY),
            at: new.at,
        }
    }

    fn at(self, now: Instant) -> f64 {
        self.answers * fading(self.at, now, DECAY)
            + self.failures * fading(self.at, now, FAILURE_DECAY)
    }
}

impl Latency {
    /// Adds an answer that has taken from `start` to `now`.
    pub(crate) fn observe(&self, start: Instant, now: Instant) {
        self.add(Average {
            answers: milliseconds(now.saturating_duration_since(start)),
            failures: 0.0,
            at: now,
        });
    }

    /// Adds an exchange from `start` to `now` without an answer.
    pub(crate) fn observe_failure(&self, start: Instant, now: Instant) {
        let took = now.saturating_duration_since(start);
        self.add(Average {
            answers: 0.0,
            failures: milliseconds(took.max(FAILURE)),
            at: now,
        });
    }

    fn add(&self, new: Average) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some(known.map_or(new, |known| known.and(new)));
    }

    /// The average as of now, faded since the last exchange; nothing before the first.
    pub(crate) fn now(&self) -> Option<f64> {
        let known = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.map(|known| known.at(monotonic()))
    }

    /// Gives a peer that has not answered yet the average of the others, so that it is neither flooded
    /// nor shunned.
    pub(super) fn begin_at(&self, average: Option<f64>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none() {
            *known = average.map(|answers| Average {
                answers,
                failures: 0.0,
                at: monotonic(),
            });
        }
    }
}

fn milliseconds(took: Duration) -> f64 {
    took.as_secs_f64() * 1000.0
}

fn fading(since: Instant, now: Instant, decay: Duration) -> f64 {
    let passed = now.saturating_duration_since(since).as_secs_f64();
    (-passed / decay.as_secs_f64()).exp()
}
