//! Limits on the time and resources that one client may take from others.

use std::time::Duration;

use crate::carry::as_u64;
use crate::settings::Settings;

/// Limits on clients. The defaults are for a gateway that faces the internet.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest wait for the rest of a request's head once its first byte is there.
    pub head: Duration,
    /// Longest wait for a request on a connection that has none under way, a new one included.
    pub idle: Duration,
    /// Longest wait for the next bytes of a request's body. All of one that is read here before any of it goes upstream may take
    /// so long, and a second more for each KiB.
    pub body: Duration,
    /// Longest wait for a client to take as much of its answer as makes room for more, once it has taken more than its system may
    /// have taken without it: one that reads slowly says seldom that it has room (Linux: when a sixteenth of its buffer is free),
    /// and a network may be away meanwhile.
    pub send: Duration,
    /// The same until then (nginx, `send_timeout`): it may be one that takes nothing at all.
    pub take: Duration,
    /// How long a client's system may acknowledge nothing of what is sent to it, or have no room, whether anything waits here or
    /// not: that the network is away is noticed at times that double, and who reads 1.3 KB/s opens the largest buffer of Linux as
    /// seldom. A client of a WebSocket or a byte stream that answers may have no room for as long as `read_timeout`
    /// says. Used in whole seconds.
    pub vanished: Duration,
    /// How long a client that goes on sending after its last answer is heard (nginx, `lingering_time`).
    pub linger: Duration,
    /// How long it may be silent meanwhile (nginx, `lingering_timeout`).
    pub linger_silence: Duration,
    /// Longest wait for a TLS handshake.
    pub handshake: Duration,
    /// Most client connections of the node. More are closed as they come.
    pub connections: usize,
    /// Most of them from one address, or one IPv6 network of 64 bits, that is no trusted proxy.
    pub connections_per_address: usize,
    /// Most requests of the node under way, tunnels among them. More are answered 503 as they come.
    pub in_flight: usize,
    /// Most of them from one address, or one IPv6 network of 64 bits, that is no trusted proxy, over HTTP/2: otherwise there
    /// is one for each connection. More are answered 503.
    pub requests_per_address: usize,
    /// Most requests under way to one server. More are answered 503.
    pub upstream_in_flight: usize,
    /// How connections to servers are kept.
    pub keep_alive: KeepAlive,
    /// Longest part of a request's body that is held back until all of it is there, for routes with
    /// `request_buffering`. A longer body streams from there on.
    pub held_body: usize,
    /// Most bytes that the node holds of heads that have not ended, of bodies that may still be needed here, and of answers that
    /// it reads whole.
    pub held: usize,
    /// Memory that the process may have, in bytes. Close to it connections are closed and work is refused.
    pub memory: Option<u64>,
}

/// How connections to servers are kept for later exchanges (Kong 3.9, `upstream_keepalive_*`).
#[derive(Clone, Copy, Debug)]
pub struct KeepAlive {
    /// Longest wait of a connection for its next exchange.
    pub idle: Duration,
    /// Most connections of one core to one server that wait.
    pub connections: usize,
    /// Most exchanges on one connection.
    pub exchanges: u32,
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self {
            idle: Duration::from_mins(1),
            connections: 512,
            exchanges: 10_000,
        }
    }
}

impl KeepAlive {
    /// What `settings` say, in which 0 is no limit to time or number of exchanges.
    fn of(settings: &Settings) -> Self {
        Self {
            idle: match settings.upstream_keepalive_idle_timeout {
                0 => Duration::MAX,
                seconds => Duration::from_secs(seconds),
            },
            connections: settings.upstream_keepalive_pool_size,
            exchanges: match settings.upstream_keepalive_max_requests {
                0 => u32::MAX,
                exchanges => exchanges,
            },
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            body: Duration::from_secs(30),
            send: Duration::from_mins(2),
            take: Duration::from_mins(1),
            vanished: Duration::from_mins(5),
            linger: Duration::from_secs(30),
            linger_silence: Duration::from_secs(5),
            handshake: Duration::from_secs(10),
            connections: 50_000,
            connections_per_address: 1000,
            in_flight: 10_000,
            requests_per_address: 5000,
            upstream_in_flight: 1000,
            keep_alive: KeepAlive::default(),
            held_body: 64 * 1024,
            held: usize::MAX,
            memory: None,
        }
    }
}

/// More than a system takes for who reads nothing: its buffer grows only as it is read (Linux: 128 KiB).
const TAKEN: u64 = 1024 * 1024;

/// Whether so many bytes may have been sent to who reads nothing.
pub(crate) const fn is_little(sent: u64) -> bool {
    sent < TAKEN
}

/// How many bytes of a body that is waited for have to come in a second: the slowest network that is in use carries more.
const SLOWEST: u64 = 1024;

impl Limits {
    /// How long a body may take until `received` bytes of it have come, and more.
    pub(crate) fn for_body(&self, received: usize) -> Duration {
        let seconds = as_u64(received) / SLOWEST;
        self.body.saturating_add(Duration::from_secs(seconds))
    }

    /// How long a client that has been sent so many bytes may make no room for more.
    pub(crate) const fn patience(&self, sent: u64) -> Duration {
        if is_little(sent) {
            self.take
        } else {
            self.send
        }
    }

    /// What `settings` say, within the memory that the system gives this process.
    pub(crate) fn of(settings: &Settings) -> Self {
        let memory = match settings.memory_limit_mb {
            0 => crate::memory::group_limit(),
            megabytes => Some(megabytes.saturating_mul(1024 * 1024)),
        };
        Self {
            connections: settings.max_connections,
            connections_per_address: settings.max_connections_per_address,
            in_flight: settings.max_requests,
            requests_per_address: settings.max_requests_per_address,
            upstream_in_flight: settings.max_requests_per_server,
            keep_alive: KeepAlive::of(settings),
            memory,
            ..Self::default()
        }
    }
}

/// Descriptors that are kept for all but clients and their servers, beside those that a node always has and those of its cores:
/// for who asks for its status, for files and control planes.
const KEPT: usize = 64;

/// The same for what each thread asks names, providers and stores by.
const KEPT_OF_A_THREAD: usize = 2;

/// Descriptors of a runtime.
const OF_A_RUNTIME: usize = 4;

/// Threads beside the cores and those for status: one for the node's own work, one to watch over it, one to follow a control plane.
const THREADS: usize = 3;

/// What a node has open before its threads run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opened {
    /// All files and sockets.
    pub(crate) descriptors: usize,
    /// Sockets on which it listens: each has one descriptor to spare for when there is no other, and a hot restart takes two more.
    pub(crate) listening: usize,
    /// Cores, and threads that answer for status.
    pub(crate) threads: usize,
    /// Whether there may be sessions of datagrams: as many as connections, with a socket each.
    pub(crate) datagrams: bool,
}

impl Opened {
    /// How many descriptors the node has once its threads run.
    pub(crate) const fn needs(&self) -> usize {
        self.descriptors + self.listening + (self.threads + THREADS) * OF_A_RUNTIME
    }

    /// How many clients can be served by a process that may have so many `descriptors`: each needs one for itself, one for
    /// its server, and one for a connection that a client before it has left. At least half of what the node does not need is
    /// theirs.
    pub(crate) fn connections(&self, descriptors: usize) -> usize {
        let left = descriptors.saturating_sub(self.needs());
        let kept = KEPT + 2 * self.listening + KEPT_OF_A_THREAD * self.threads;
        let each = if self.datagrams { 4 } else { 3 };
        (left - kept.min(left / 2)) / each
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_for_kept_connections_are_kongs() {
        let unlimited = Settings {
            upstream_keepalive_idle_timeout: 0,
            upstream_keepalive_max_requests: 0,
            upstream_keepalive_pool_size: 0,
            ..Settings::default()
        };
        let told = |keep: KeepAlive| (keep.idle, keep.connections, keep.exchanges);
        assert_eq!(
            told(KeepAlive::of(&unlimited)),
            (Duration::MAX, 0, u32::MAX)
        );
        let default = KeepAlive::of(&Settings::default());
        assert_eq!(told(default), told(KeepAlive::default()));
    }

    #[test]
    fn a_body_has_a_second_more_for_each_kib() {
        let limits = Limits::default();
        for (received, seconds) in [(0, 30), (1023, 30), (1024, 31), (64 * 1024, 94)] {
            let expected = Duration::from_secs(seconds);
            assert_eq!(limits.for_body(received), expected, "{received}");
        }
    }

    #[test]
    fn connections_leave_descriptors_for_the_rest() {
        let check = |cores: usize, descriptors, connections| {
            // With two listeners, each socket kept once more, and one for status.
            let opened = Opened {
                descriptors: 15 + 4 * cores,
                listening: 2 * cores + 1,
                threads: cores + 1,
                datagrams: false,
            };
            let affordable = [false, true].map(|datagrams| {
                let opened = Opened {
                    datagrams,
                    ..opened
                };
                opened.connections(descriptors)
            });
            assert_eq!(affordable, connections, "{cores} of {descriptors}");
        };
        check(2, 256, [41, 31]);
        check(8, 256, [24, 18]);
        check(8, 1024, [265, 199]);
        check(32, 256, [0, 0]);
        check(32, 1024, [137, 103]);
        check(32, 1_048_576, [349_321, 261_991]);
        check(8, 0, [0, 0]);
    }
}
