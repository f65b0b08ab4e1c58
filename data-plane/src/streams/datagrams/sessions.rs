//! The sessions of a socket for datagrams. Where there are as many as there may be, one that has been silent for long
//! makes room: an address is no proof that anybody is there, so whoever goes on speaking counts for more than
//! whoever came first.

use std::cell::Cell;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use shared::network::client_of;
use tokio::sync::mpsc;

use crate::listening::connections::{Admission, Full};

/// Datagrams of one client that may wait for its session; more are dropped, as a network would.
const WAITING: usize = 64;

/// How many sessions are looked at for one that was silent, for each client that comes.
const LOOKS: usize = 32;

/// The sessions, by the client's address.
#[derive(Debug)]
pub(super) struct Sessions {
    most: usize,
    open: HashMap<SocketAddr, Session>,
    /// Those that are open, once each, and some that are no more: with when each had spoken last when it was
    /// looked at last. The first is looked at next.
    turns: VecDeque<(SocketAddr, u64, Instant)>,
    begun: u64,
}

#[derive(Debug)]
struct Session {
    datagrams: mpsc::Sender<Bytes>,
    life: Rc<Life>,
    _admission: Admission,
}

/// What a session and the socket know of each other.
#[derive(Debug)]
pub(super) struct Life {
    number: u64,
    spoken: Cell<Instant>,
    gives_way: Cell<bool>,
}

impl Life {
    /// Notes that one of both sides has spoken.
    pub(super) fn speak(&self, now: Instant) {
        self.spoken.set(now);
    }

    /// Whether another session has taken the place of this one.
    pub(super) fn gives_way(&self) -> bool {
        self.gives_way.get()
    }
}

impl Sessions {
    /// None so far, and `most` at a time.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            open: HashMap::new(),
            turns: VecDeque::new(),
            begun: 0,
        }
    }

    /// Whether the client at `source` has one.
    pub(super) fn has(&self, source: SocketAddr) -> bool {
        self.open.contains_key(&source)
    }

    /// Opens one for the client at `source`, which `admit` takes or not; another one may have to go for that.
    pub(super) fn open(
        &mut self,
        source: SocketAddr,
        now: Instant,
        admit: impl Fn() -> Result<Admission, Full>,
    ) -> Option<(mpsc::Receiver<Bytes>, Rc<Life>)> {
        if self.open.len() >= self.most && !self.make_room(None) {
            return None;
        }
        let admitted = match admit() {
            Err(Full::Address) if self.make_room(Some(client_of(source.ip()))) => admit(),
            Err(Full::Node) if self.make_room(None) => admit(),
            admitted => admitted,
        };
        let admission = admitted.ok()?;
        self.begun += 1;
        let life = Rc::new(Life {
            number: self.begun,
            spoken: Cell::new(now),
            gives_way: Cell::new(false),
        });
        let (datagrams, receiver) = mpsc::channel(WAITING);
        let session = Session {
            datagrams,
            life: Rc::clone(&life),
            _admission: admission,
        };
        self.open.insert(source, session);
        if self.turns.len() > 2 * self.most {
            let open = &self.open;
            let is_open = |source: &SocketAddr, number: u64| {
                let session = open.get(source);
                session.is_some_and(|session| session.life.number == number)
            };
            self.turns
                .retain(|(source, number, _)| is_open(source, *number));
        }
        self.turns.push_back((source, life.number, now));
        Some((receiver, life))
    }

    /// Gives `datagram` to the session of the client at `source`, if there is room for it.
    pub(super) fn pass(&self, source: SocketAddr, datagram: Bytes, now: Instant) {
        let Some(session) = self.open.get(&source) else {
            return;
        };
        session.life.speak(now);
        if session.datagrams.try_send(datagram).is_err() {
            tracing::debug!(%source, "a datagram is dropped");
        }
    }

    /// Notes that the session `life` of the client at `source` is over.
    pub(super) fn close(&mut self, source: SocketAddr, life: &Life) {
        if let Entry::Occupied(place) = self.open.entry(source)
            && place.get().life.number == life.number
        {
            place.remove();
        }
    }

    /// Has all sessions come to their end.
    pub(super) fn end(&mut self) {
        self.open.clear();
        self.turns.clear();
    }

    /// Ends one that has not spoken since it was looked at last: of a client `of` this kind, if one is named.
    fn make_room(&mut self, of: Option<IpAddr>) -> bool {
        for _ in 0..LOOKS.min(self.turns.len()) {
            let Some((source, number, seen)) = self.turns.pop_front() else {
                return false;
            };
            let Entry::Occupied(place) = self.open.entry(source) else {
                continue;
            };
            let life = &place.get().life;
            if life.number != number {
                continue;
            }
            let spoken = life.spoken.get();
            if spoken > seen || of.is_some_and(|client| client != client_of(source.ip())) {
                self.turns.push_back((source, number, spoken));
                continue;
            }
            life.gives_way.set(true);
            place.remove();
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::listening::connections::Connections;
    use shared::clock::monotonic;

    struct Table {
        sessions: Sessions,
        connections: Arc<Connections>,
        begun: Instant,
        open: HashMap<&'static str, (mpsc::Receiver<Bytes>, Rc<Life>)>,
    }

    impl Table {
        fn new(most: usize) -> Self {
            Self {
                sessions: Sessions::new(most),
                connections: Arc::default(),
                begun: monotonic(),
                open: HashMap::new(),
            }
        }

        /// Whether `client` is taken, who comes `millis` after the beginning.
        fn comes(&mut self, client: &'static str, millis: u64) -> bool {
            let source: SocketAddr = client.parse().unwrap();
            let now = self.begun + Duration::from_millis(millis);
            let address = client_of(source.ip());
            let admit = || self.connections.admit(address, 10, Some(2));
            let opened = self.sessions.open(source, now, admit);
            let taken = opened.is_some();
            self.open.extend(opened.map(|opened| (client, opened)));
            taken
        }

        fn speaks(&self, client: &'static str, millis: u64) {
            let now = self.begun + Duration::from_millis(millis);
            let source = client.parse().unwrap();
            self.sessions.pass(source, Bytes::from_static(b"a"), now);
        }

        /// Who has had to go.
        fn gone(&self) -> Vec<&'static str> {
            let gone = self.open.iter().filter(|(_, (_, life))| life.gives_way());
            let mut gone: Vec<_> = gone.map(|(client, _)| *client).collect();
            gone.sort_unstable();
            gone
        }
    }

    #[test]
    fn who_has_been_silent_makes_room_and_who_speaks_does_not() {
        let mut table = Table::new(2);
        assert!(table.comes("192.0.2.1:1", 0) && table.comes("192.0.2.2:1", 1));
        table.speaks("192.0.2.1:1", 2);
        assert!(table.comes("192.0.2.3:1", 3));
        assert_eq!(table.gone(), ["192.0.2.2:1"]);
        let (receiver, _) = table.open.get_mut("192.0.2.2:1").unwrap();
        assert!(receiver.try_recv().is_err() && receiver.is_closed());
        table.speaks("192.0.2.1:1", 4);
        table.speaks("192.0.2.3:1", 5);
        assert!(!table.comes("192.0.2.4:1", 6), "all go on speaking");
        table.speaks("192.0.2.3:1", 7);
        assert!(table.comes("192.0.2.4:1", 8));
        assert_eq!(table.gone(), ["192.0.2.1:1", "192.0.2.2:1"]);
    }

    #[test]
    fn an_address_that_has_enough_makes_room_itself() {
        let mut table = Table::new(9);
        assert!(table.comes("192.0.2.9:1", 0));
        for (client, millis) in [("192.0.2.1:1", 1), ("192.0.2.1:2", 2), ("192.0.2.1:3", 3)] {
            assert!(table.comes(client, millis), "{client}");
        }
        assert_eq!(table.gone(), ["192.0.2.1:1"]);
    }

    #[test]
    fn what_is_over_is_forgotten() {
        let mut table = Table::new(2);
        for round in 0..50 {
            assert!(table.comes("192.0.2.1:1", round));
            let (_, life) = table.open.remove("192.0.2.1:1").unwrap();
            let source = "192.0.2.1:1".parse().unwrap();
            table.sessions.close(source, &life);
            assert!(!table.sessions.has(source));
            assert!(table.sessions.turns.len() <= 5);
        }
        assert!(table.comes("192.0.2.1:1", 90));
        let source = "192.0.2.1:1".parse().unwrap();
        let before = Life {
            number: 1,
            spoken: Cell::new(table.begun),
            gives_way: Cell::new(true),
        };
        table.sessions.close(source, &before);
        assert!(table.sessions.has(source), "another one of the same client");
        table.sessions.end();
        assert!(!table.sessions.has(source));
    }
}
