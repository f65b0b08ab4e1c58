//! The addresses of an upstream to choose from: a pure value, rebuilt when they or their health change.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use shared::entity::Algorithm;

use super::peer::Peer;
use crate::compile::upstreams::CompiledUpstream;

/// Most places on the wheel; larger weights are scaled down.
const WHEEL: u64 = 16 * 1024;

/// Points of an address of average weight on the ring at least, as Kong has them, and how many slots make one.
const POINTS: u32 = 160;
const SLOTS_PER_POINT: u32 = 64;

/// An address with its weight.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) peer: Arc<Peer>,
    pub(crate) weight: u32,
    /// The place of its target in the upstream's list.
    pub(crate) target: usize,
}

/// What is chosen from.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) entries: Vec<Entry>,
    /// Targets whose names have no address.
    pub(crate) failed: Vec<usize>,
    /// The state of everybody's health that it was made for.
    pub(super) version: u64,
    /// Whether more of the weight than the threshold says is healthy (Kong 3.9).
    pub(crate) healthy: bool,
    /// Healthy entries, each as often as its weight says, evenly spread.
    wheel: Vec<usize>,
    /// Points with their entries, healthy or not, in order of the points.
    ring: Arc<[(u32, usize)]>,
}

impl Table {
    pub(super) fn new(
        config: &CompiledUpstream,
        entries: Vec<Entry>,
        failed: Vec<usize>,
        version: u64,
    ) -> Self {
        let ring = match config.algorithm {
            Algorithm::ConsistentHashing => ring(config.slots, &entries),
            Algorithm::RoundRobin | Algorithm::LeastConnections | Algorithm::Latency => {
                Arc::default()
            }
        };
        Self::with(config, entries, failed, version, ring)
    }

    /// Whether the targets of `other` lead where those of this one do, in whatever order their names' servers tell.
    pub(super) fn leads_as(&self, other: &Self) -> bool {
        let led = |table: &Self| {
            let entries = table.entries.iter();
            let mut all: Vec<_> = entries
                .map(|entry| (entry.target, entry.peer.number, entry.weight))
                .collect();
            all.sort_unstable();
            all
        };
        self.failed == other.failed && led(self) == led(other)
    }

    /// The same addresses with their health of now.
    pub(super) fn renewed(&self, config: &CompiledUpstream, version: u64) -> Self {
        let (entries, failed) = (self.entries.clone(), self.failed.clone());
        Self::with(config, entries, failed, version, Arc::clone(&self.ring))
    }

    fn with(
        config: &CompiledUpstream,
        entries: Vec<Entry>,
        failed: Vec<usize>,
        version: u64,
        ring: Arc<[(u32, usize)]>,
    ) -> Self {
        let weight = |entry: &Entry| u64::from(entry.weight);
        let total_weight: u64 = entries.iter().map(weight).sum();
        let is_healthy = |entry: &&Entry| entry.peer.is_healthy();
        let healthy_weight: u64 = entries.iter().filter(is_healthy).map(weight).sum();
        // Shares far below 2^53 are exact.
        #[expect(
            clippy::cast_precision_loss,
            clippy::as_conversions,
            reason = "a share in per cent"
        )]
        let share = healthy_weight as f64 * 100.0 / total_weight.max(1) as f64;
        let wheel = match config.algorithm {
            Algorithm::ConsistentHashing | Algorithm::RoundRobin => wheel(&entries),
            Algorithm::LeastConnections | Algorithm::Latency => Vec::new(),
        };
        Self {
            healthy: healthy_weight > 0 && share > config.threshold,
            entries,
            failed,
            version,
            wheel,
            ring,
        }
    }

    fn peer(&self, place: usize) -> Option<&Arc<Peer>> {
        self.entries.get(place).map(|entry| &entry.peer)
    }

    /// The next on the wheel that `fits`.
    pub(super) fn next(
        &self,
        turn: impl Fn() -> usize,
        fits: impl Fn(&Arc<Peer>) -> bool,
    ) -> Option<Arc<Peer>> {
        let start = turn().checked_rem(self.wheel.len())?;
        let (before, after) = self.wheel.split_at_checked(start)?;
        after
            .iter()
            .chain(before)
            .filter_map(|place| self.peer(*place))
            .find(|peer| fits(peer))
            .cloned()
    }

    /// The first healthy one from the point `hash` on that `fits`.
    pub(super) fn on_ring(
        &self,
        hash: u32,
        fits: impl Fn(&Arc<Peer>) -> bool,
    ) -> Option<Arc<Peer>> {
        let start = self.ring.partition_point(|(point, _)| *point < hash);
        let (before, after) = self.ring.split_at_checked(start)?;
        after
            .iter()
            .chain(before)
            .filter_map(|(_, place)| self.peer(*place))
            .find(|peer| peer.is_healthy() && fits(peer))
            .cloned()
    }

    /// Healthy entries with a weight, beginning elsewhere each turn, so that equals share.
    fn candidates(
        &self,
        turn: usize,
        fits: impl Fn(&Arc<Peer>) -> bool,
    ) -> impl Iterator<Item = &Entry> {
        let start = turn.checked_rem(self.entries.len()).unwrap_or(0);
        let (before, after) = self.entries.split_at_checked(start).unwrap_or_default();
        after
            .iter()
            .chain(before)
            .filter(move |entry| entry.weight > 0 && entry.peer.is_healthy() && fits(&entry.peer))
    }

    /// The one with the fewest requests in flight for its weight.
    pub(super) fn least_busy(
        &self,
        turn: usize,
        fits: impl Fn(&Arc<Peer>) -> bool,
    ) -> Option<Arc<Peer>> {
        let load = |entry: &Entry| u64::from(entry.peer.busy.load(Ordering::Relaxed)) + 1;
        self.candidates(turn, fits)
            .reduce(|best, entry| {
                // (busy + 1) / weight, compared without dividing; the earlier one wins a tie.
                let (ours, theirs) = (
                    load(entry) * u64::from(best.weight),
                    load(best) * u64::from(entry.weight),
                );
                if ours < theirs { entry } else { best }
            })
            .map(|entry| Arc::clone(&entry.peer))
    }

    /// The faster of two.
    pub(super) fn fastest(
        &self,
        turn: usize,
        fits: impl Fn(&Arc<Peer>) -> bool,
    ) -> Option<Arc<Peer>> {
        // Whoever hangs answers nothing that would count: what it has to do already does (as with finagle's least loaded of
        // peak EWMA). A millisecond more for all, since what is known of it fades.
        let score = |entry: &Entry| {
            let busy = f64::from(entry.peer.busy.load(Ordering::Relaxed)) + 1.0;
            (entry.peer.latency.now().unwrap_or(0.0) + 1.0) * busy / f64::from(entry.weight)
        };
        let all: Vec<&Entry> = self.candidates(turn, fits).collect();
        let first = *all.first()?;
        let chosen = match all.len() {
            1 => first,
            many => {
                let other = 1 + scatter(turn) % (many - 1);
                match all.get(other) {
                    Some(other) if score(other) < score(first) => other,
                    _ => first,
                }
            }
        };
        Some(Arc::clone(&chosen.peer))
    }
}

/// The average latency of those that have one.
pub(super) fn average_latency(entries: &[Entry]) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0.0);
    for latency in entries.iter().filter_map(|entry| entry.peer.latency.now()) {
        sum += latency;
        count += 1.0;
    }
    (count > 0.0).then(|| sum / count)
}

/// Each healthy entry as often as its weight says.
fn wheel(entries: &[Entry]) -> Vec<usize> {
    let healthy: Vec<(usize, u64)> = entries
        .iter()
        .enumerate()
        .filter(|(_, entry)| entry.weight > 0 && entry.peer.is_healthy())
        .map(|(place, entry)| (place, u64::from(entry.weight)))
        .collect();
    spread(&healthy, WHEEL)
}

/// Each number as often as its weight says, within `most` places in all, give or take one for each. The places of one
/// are as far apart as can be.
pub(crate) fn spread(weighted: &[(usize, u64)], most: u64) -> Vec<usize> {
    let divisor = weighted.iter().fold(0, |divisor, (_, weight)| {
        greatest_common_divisor(divisor, *weight)
    });
    let total: u64 = weighted
        .iter()
        .map(|(_, weight)| weight / divisor.max(1))
        .sum();
    let scale = |weight: u64| {
        let reduced = weight / divisor.max(1);
        if total > most {
            (reduced * most / total).max(1)
        } else {
            reduced
        }
    };
    let mut places: Vec<(u64, usize)> = Vec::new();
    for &(place, weight) in weighted {
        let count = scale(weight);
        // The k-th of n places is at (2k + 1) / 2n of a turn, in units of 2^-32.
        places.extend((0..count).map(|k| (((2 * k + 1) << 31) / count, place)));
    }
    places.sort_unstable();
    places.into_iter().map(|(_, place)| place).collect()
}

const fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Points for each address, as many as its weight says against the average one, and more of them for more `slots`.
/// Where a point lies depends on nothing but its address, and their number not on that of the others: all nodes agree,
/// and an address more or less moves nothing but its own share.
fn ring(slots: u32, entries: &[Entry]) -> Arc<[(u32, usize)]> {
    let weights = entries.iter().map(|entry| u64::from(entry.weight));
    let weights = weights.filter(|weight| *weight > 0);
    let (count, total) = weights.fold((0, 0), |(count, total), weight| (count + 1, total + weight));
    let average = u64::from((slots / SLOTS_PER_POINT).max(POINTS)) * count;
    let mut points = Vec::new();
    for (place, entry) in entries.iter().enumerate() {
        if entry.weight == 0 {
            continue;
        }
        let share = (u64::from(entry.weight) * average)
            .checked_div(total)
            .unwrap_or(0)
            .max(1);
        let key = &entry.peer.key;
        let base = format!("{}|{}:{}", key.host, key.address, key.port);
        points.extend((0..share).map(|number| {
            let hash = crc32fast::hash(format!("{base}|{number}").as_bytes());
            (mix(hash), place)
        }));
    }
    points.sort_unstable();
    points.into()
}

/// Spreads the results of CRC-32, which are close together for texts that are alike: the finalizer of
/// `MurmurHash3`, a bijection.
pub(super) const fn mix(mut hash: u32) -> u32 {
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

fn scatter(turn: usize) -> usize {
    turn.wrapping_mul(0x9e37_79b1) >> 7
}
