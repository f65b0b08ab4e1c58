//! What a process gives to the one that takes its place: what it runs, which sessions are over, what its filters have counted,
//! and what an operator has told it since it started that one. It lies on no disk, so that none has to be written to.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use plugins::registry::succession::KINDS;
use serde::{Deserialize, Serialize};
use shared::clock::{UnixTime, monotonic};
use shared::entity::Revocation;
use shared::signature::Verifier;
use shared::snapshot::Snapshot;

use crate::ask::Key;
use crate::balancer::marks;
use crate::balancer::unhealthy::{self, Heeded, Unhealthy};
use crate::compile::CompiledSnapshot;
use crate::config_sync::Holds;
use crate::core::Node;
use crate::last_good::{self, Kept, LastGood};
use crate::listening::inherited::{ASKS, Predecessor};
use crate::unstored;
use crate::upstream::resolve::GivenName;

/// What it begins with: name and format.
const MAGIC: &[u8; 8] = b"WARDHO\0\x01";

/// Bytes of one datagram that is sent: systems may have little room for what a socket sends (`net.core.wmem_default`).
const PIECE: usize = 16 * 1024;

/// Bytes of the longest that is taken.
const LONGEST: usize = 64 * 1024;

/// How often it is looked whether the other process is still there.
const LOOK: Duration = Duration::from_secs(1);

/// How long it has to answer: a commit that is under way there comes to its end first.
const ASKED: Duration = Duration::from_mins(1);

/// How long the next piece may take.
const PAUSE: Duration = Duration::from_secs(10);

/// What is given.
#[derive(Default, PartialEq)]
pub(crate) struct Given {
    /// Whether balancers are to send no traffic here, if an operator has said something else of that since.
    pub(crate) withdrawn: Option<bool>,
    /// For how long no control plane has been heard, in milliseconds.
    pub(crate) silence: u64,
    /// Whether anything runs.
    pub(crate) runs: bool,
    /// What is over before its time.
    pub(crate) revocations: Vec<Revocation>,
    /// What of that no control plane has stored yet.
    pub(crate) unstored: Vec<Revocation>,
    /// What its requests do at providers that may be done only once, such as refreshes, or have done a moment ago.
    pub(crate) flights: Vec<Key>,
    /// Session keys that came beside an update, as they came; empty without such.
    pub(crate) keys: Vec<u8>,
    /// What runs, as [`last_good::encode`] tells it; empty if nobody has vouched for it.
    pub(crate) kept: Vec<u8>,
    /// What its filters go on with.
    pub(crate) filters: [Vec<u8>; KINDS],
    /// Which targets are not to be asked.
    pub(crate) unhealthy: Vec<Unhealthy>,
    /// What else is known of servers.
    pub(crate) servers: Servers,
}

/// What is known of servers beside their health. Another version may know less, or more.
#[derive(Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub(crate) struct Servers {
    /// What names led to last.
    names: Vec<GivenName>,
    /// What operators have said of targets, and each knows.
    heeded: Vec<Heeded>,
}

impl std::fmt::Debug for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Given").finish_non_exhaustive()
    }
}

impl Given {
    /// What this process, `node`, knows; of `withdrawn` its successor knows. With what it `holds`, also what its filters go on with.
    pub(crate) fn of(node: &Node, holds: Option<&Holds>, withdrawn: bool) -> io::Result<Self> {
        let filters = holds.map(|_| Self::of_filters(node).filters);
        // Once: thereafter its successor finds out by itself.
        let live = holds.and_then(|_| node.live.load().clone());
        let balancers = live.as_ref().map(|live| live.balancers(&node.balancers));
        // First: what is heeded from here on is heard once more.
        let heeded = balancers.map(|all| unhealthy::give_heeded(all, UnixTime::now()));
        let ill = balancers.map(unhealthy::give);
        let servers = holds.map(|_| Servers {
            names: node.dns.give(),
            heeded: heeded.unwrap_or_default(),
        });
        let kept = holds.and_then(|holds| holds.kept.as_ref());
        let kept = kept.map(|(snapshot, vouched)| last_good::encode(snapshot, vouched));
        let now = node.withdrawn.load(Ordering::Relaxed);
        let flights = node.questions.given.spent().into_iter();
        let flights = flights.filter_map(|key| Key::try_from(&key[..]).ok());
        Ok(Self {
            withdrawn: (now != withdrawn).then_some(now),
            silence: node.contact.unheard(node.sessions_max_silence, monotonic()),
            runs: node.live.load().is_some(),
            revocations: node.revocations.all(),
            unstored: node.unstored.all(),
            flights: flights.collect(),
            keys: holds.map(|holds| holds.keys.clone()).unwrap_or_default(),
            kept: kept.transpose()?.unwrap_or_default(),
            filters: filters.unwrap_or_default(),
            unhealthy: ill.unwrap_or_default(),
            servers: servers.unwrap_or_default(),
        })
    }

    /// What the filters of `node` go on with, and nothing else: it may be long, and is of less matter than the rest.
    pub(crate) fn of_filters(node: &Node) -> Self {
        Self {
            filters: plugins::registry::succession::give(&node.states, UnixTime::now()),
            ..Self::default()
        }
    }

    /// Has this process, `node`, run what the one before it does, if that is something else than what is `running`, and know what
    /// that knew.
    ///
    /// # Errors
    ///
    /// It cannot be run, or nobody whom `verifier` believes has vouched for it.
    pub(crate) fn take(
        &self,
        running: &mut Option<Kept>,
        (node, last_good, verifier): (&Node, &LastGood, &Verifier),
        compile: impl Fn(&Snapshot) -> Result<CompiledSnapshot, String>,
    ) -> Result<(), String> {
        let silence = Duration::from_millis(self.silence);
        node.contact.goes_on_from(silence, monotonic());
        let is_there = !self.runs || running.is_some();
        if self.kept.is_empty() && !is_there {
            return Err("it is of the first format, and not on the disk any more".to_owned());
        }
        if !self.kept.is_empty() {
            let given = Kept::given(&self.kept, verifier)?;
            let position = given.snapshot.position;
            let runs = |running: &Kept| running.snapshot.position == position;
            if !running.as_ref().is_some_and(runs) {
                let compiled = compile(&given.snapshot)?;
                compiled.alarm(node.live.load().as_deref());
                node.live.store(Some(Arc::new(compiled)));
                last_good.marker.starts(given.snapshot.configuration());
                tracing::info!(revision = %position.revision, "going on with what the previous process runs");
                *running = Some(given);
            }
        }
        self.tell(node);
        Ok(())
    }

    /// Has `node` know what the process before it knew.
    pub(crate) fn tell(&self, node: &Node) {
        let now = UnixTime::now();
        node.revocations.add(self.revocations.iter().copied(), now);
        node.unstored.take_over(&self.unstored, now);
        node.questions.given.are_of_another(&self.flights);
        plugins::registry::succession::take(&node.states, &self.filters, now);
        node.dns.take(&self.servers.names);
        if let Some(live) = node.live.load().as_ref() {
            let balancers = live.balancers(&node.balancers);
            unhealthy::take(balancers, &self.unhealthy);
            unhealthy::take_heeded(balancers, &self.servers.heeded, now);
            // What an operator has said a moment ago counts for more.
            marks::heed(balancers, &self.revocations, now);
        }
        if let Some(withdrawn) = self.withdrawn {
            node.withdrawn.store(withdrawn, Ordering::Relaxed);
        }
    }

    pub(crate) fn encode(&self) -> io::Result<Vec<u8>> {
        let revocations = unstored::encode(self.revocations.iter());
        let unstored = unstored::encode(self.unstored.iter());
        let mut bytes = MAGIC.to_vec();
        bytes.push(self.withdrawn.map_or(2, u8::from));
        bytes.push(u8::from(self.runs));
        bytes.extend(self.silence.to_be_bytes());
        let flights = self.flights.concat();
        // What a version gives more than the one before stands behind what that gives: so does what further filters go on with.
        let parts = [&revocations, &unstored, &self.keys, &self.kept, &flights];
        let ill = serde_json::to_vec(&self.unhealthy)?;
        let servers = serde_json::to_vec(&self.servers)?;
        let parts = parts.into_iter().chain(&self.filters);
        for part in parts.chain([&ill, &servers]) {
            let length = u64::try_from(part.len()).unwrap_or(u64::MAX);
            bytes.extend(length.to_be_bytes());
            bytes.extend(part);
        }
        Ok(bytes)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (withdrawn, rest) = bytes.strip_prefix(MAGIC)?.split_first()?;
        let (runs, rest) = rest.split_first()?;
        let (silence, mut rest) = rest.split_first_chunk()?;
        let mut part = || {
            let part;
            (part, rest) = split_part(rest)?;
            Some(part)
        };
        let all = |part: &[u8]| Some(unstored::decode(part)?.into_values().collect());
        let flights = |part: &[u8]| match part.as_chunks() {
            (flights, []) => Some(flights.to_vec()),
            _ => None,
        };
        let mut given = Self {
            withdrawn: [Some(false), Some(true), None]
                .get(usize::from(*withdrawn))
                .copied()?,
            silence: u64::from_be_bytes(*silence),
            runs: *runs != 0,
            revocations: all(part()?)?,
            unstored: all(part()?)?,
            keys: part()?.to_vec(),
            kept: part()?.to_vec(),
            ..Self::default()
        };
        // A version before gives less than this one knows, and a later one may give more.
        let mut further = Vec::new();
        while !rest.is_empty() {
            let part;
            (part, rest) = split_part(rest)?;
            further.push(part);
        }
        let mut further = further.into_iter();
        if let Some(part) = further.next() {
            given.flights = flights(part)?;
        }
        for (kind, part) in given.filters.iter_mut().zip(&mut further) {
            *kind = part.to_vec();
        }
        if let Some(part) = further.next() {
            // Of less matter than the rest: another version may tell it in another way.
            given.unhealthy = serde_json::from_slice(part).unwrap_or_default();
        }
        if let Some(part) = further.next() {
            given.servers = serde_json::from_slice(part).unwrap_or_default();
        }
        Some(given)
    }
}

/// The part that `bytes` begin with, and what is behind it.
fn split_part(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, behind) = bytes.split_first_chunk()?;
    let length = usize::try_from(u64::from_be_bytes(*length)).ok()?;
    behind.split_at_checked(length)
}

/// Sends `bytes`, which the other process [`receive`]s.
pub(crate) async fn send(words: &tokio::net::UnixDatagram, bytes: &[u8]) -> io::Result<()> {
    let length = u64::try_from(bytes.len()).map_err(io::Error::other)?;
    words.send(&length.to_be_bytes()).await?;
    for piece in bytes.chunks(PIECE) {
        words.send(piece).await?;
    }
    Ok(())
}

/// What the process before this one gives, which has `patience` to begin; none if it is gone.
///
/// # Errors
///
/// It is there, and does not give it: see [`is_silence`].
pub(crate) fn receive(before: &Predecessor, patience: Duration) -> io::Result<Option<Given>> {
    let unknown = || io::Error::other("it is told in an unknown way");
    let mut piece = vec![0; LONGEST];
    let Some(count) = hear(before, &mut piece, patience)? else {
        return Ok(None);
    };
    let length = piece.get(..count).unwrap_or_default().try_into();
    let length = u64::from_be_bytes(length.map_err(|_| unknown())?);
    let length = usize::try_from(length).map_err(io::Error::other)?;
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let Some(count) = hear(before, &mut piece, PAUSE)? else {
            return Ok(None);
        };
        bytes.extend(piece.get(..count).unwrap_or_default());
    }
    Given::decode(&bytes).map(Some).ok_or_else(unknown)
}

/// Asks the process before this one for what it runs, if there is one that gives it; none if that is gone: this one goes on with
/// what it has.
///
/// # Errors
///
/// It is there, and does not tell.
pub(crate) fn ask(predecessor: Option<&Predecessor>) -> io::Result<Option<Given>> {
    let Some(asked) = predecessor.filter(|predecessor| predecessor.gives) else {
        return Ok(None);
    };
    tracing::info!("asking the previous process what it runs");
    // Who cannot be asked is gone, or will not answer.
    _ = asked.words.send(ASKS);
    receive(asked, ASKED)
}

/// The next piece, which has `patience` to come; none if the process `before` is gone, and has said nothing more.
fn hear(before: &Predecessor, piece: &mut [u8], patience: Duration) -> io::Result<Option<usize>> {
    let end = monotonic() + patience;
    before.words.set_read_timeout(Some(LOOK))?;
    loop {
        // What it said last is still to be heard.
        let is_gone = before.is_gone();
        match before.words.recv(piece) {
            Ok(count) => return Ok(Some(count)),
            // A wait with a limit is not gone on with by itself.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if is_silence(&error) && is_gone => return Ok(None),
            Err(error) if is_silence(&error) && monotonic() < end => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether nothing has happened within a time limit.
pub(crate) fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

#[cfg(test)]
pub(super) mod tests;
