//! Nodes that are connected to other control planes over the same store: each tells the others of its own, in
//! parts that are written one by one.
//!
//! A node always is in the same part, so that no part that is written before another makes it seem gone.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use shared::clock::UnixTime;
use shared::snapshot::Hash;
use uuid::Uuid;

use super::clocks::by_another_clock;
use super::{Fleet, Introduction, Node, Row, Targets};

/// Into how many parts the nodes of one control plane fall.
pub(crate) const PARTS: u8 = 16;

/// Bytes of a part before packing.
const LARGEST: usize = 64 * 1024 * 1024;

/// Bytes of a packed part: etcd takes requests of up to 1.5 MiB, and Base64 adds a third.
const TOLD: usize = 1024 * 1024;

/// What is told of nodes that would be too much: reports of each, bytes of each, and ill targets of all.
const FEW_SAMPLES: usize = 6;
const LARGEST_ROW: usize = 4096;
const FEW_TARGETS: usize = 10_000;

/// Nodes of control planes that are gone which are remembered.
const LEFT: usize = 20_000;

/// Orders for nodes elsewhere that may wait to be told.
const ORDERS: usize = 64;

/// What one control plane tells of the nodes of one part.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Told {
    /// When, by its clock.
    at: UnixTime,
    rows: Vec<Row>,
    /// What they tell of upstreams' targets: most often the same for all.
    #[serde(flatten)]
    targets: Targets,
}

impl Told {
    /// All of it, unless that is more than others can be told.
    fn pack(&self) -> std::io::Result<Option<Vec<u8>>> {
        let json = serde_json::to_vec(self)?;
        if json.len() > LARGEST {
            return Ok(None);
        }
        let packed = zstd::bulk::compress(&json, 1)?;
        Ok(Some(packed).filter(|packed| packed.len() <= TOLD))
    }

    /// Leaves out what one page alone shows.
    fn leave_out_addresses(&mut self) {
        self.targets.addresses.clear();
    }

    /// Leaves out what others can do without.
    fn leave_out_details(&mut self) {
        for row in &mut self.rows {
            row.report.expiries.clear();
            row.report.unfit.truncate(1);
            row.samples.keep(FEW_SAMPLES);
            if let Some(refusal) = &mut row.last_refusal {
                refusal.faults.truncate(1);
            }
        }
    }

    /// Leaves out what no honest node says so much of.
    fn leave_out_excess(&mut self) {
        self.rows.iter_mut().for_each(|row| row.samples.clear());
        let fits = |row: &Row| serde_json::to_vec(row).is_ok_and(|json| json.len() <= LARGEST_ROW);
        self.rows.retain(fits);
        self.targets.keep(FEW_TARGETS);
    }
}

/// A part of the nodes that are connected here, to be told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Part {
    /// Which one.
    pub number: u8,
    /// Differs once something has happened that others wait for.
    pub mark: Hash,
}

/// What is known from other control planes.
#[derive(Debug)]
pub(super) struct Elsewhere {
    told: BTreeMap<(Uuid, u8), Told>,
    /// Nodes of control planes that have ended, as these knew them last.
    left: BTreeMap<String, Row>,
    /// The control planes that run besides this one. None before anybody has looked.
    present: Option<BTreeSet<Uuid>>,
    orders: Vec<String>,
}

impl Default for Elsewhere {
    /// Of a control plane that is alone.
    fn default() -> Self {
        Self {
            told: BTreeMap::new(),
            left: BTreeMap::new(),
            present: Some(BTreeSet::new()),
            orders: Vec::new(),
        }
    }
}

impl Elsewhere {
    pub(super) fn is_empty(&self) -> bool {
        self.told.is_empty() && self.left.is_empty()
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = &Row> {
        let told = self.told.values().flat_map(|told| &told.rows);
        told.chain(self.left.values())
    }

    pub(super) fn targets(&self) -> impl Iterator<Item = &Targets> {
        self.told.values().map(|told| &told.targets)
    }

    /// Whichever is newer: `row`, or what is known from elsewhere of the node `name`, which is here now.
    pub(super) fn newer_than(&mut self, row: Option<Row>, name: &str) -> Option<Row> {
        let here = row.into_iter();
        let elsewhere = self.rows().filter(|row| row.introduction.name == name);
        let all = here.chain(elsewhere.cloned());
        let newest = all.max_by_key(|row| row.last_seen);
        self.left.remove(name);
        newest
    }

    /// Whether another control plane leads another process of the node that is introduced by `here`.
    pub(super) fn has_another_run(&self, here: &Introduction) -> bool {
        let is_another = |row: &Row| {
            let there = &row.introduction;
            row.connected && there.name == here.name && there.boot != here.boot
        };
        self.rows().any(is_another)
    }

    /// The nodes among `rows`, which are told of `part`, that were not told of before.
    fn news<'a>(&self, part: u8, rows: &'a [Row]) -> Vec<&'a str> {
        let told = self.told.iter().filter(|((_, other), _)| *other == part);
        let told = told.flat_map(|(_, told)| &told.rows);
        let known: HashSet<&str> = told.map(|row| &*row.introduction.name).collect();
        let is_known = |name: &str| known.contains(name) || self.left.contains_key(name);
        let names = rows.iter().map(|row| &*row.introduction.name);
        names.filter(|name| !is_known(name)).collect()
    }

    pub(super) fn retain(&mut self, stays: impl Fn(&Row) -> bool) {
        let told = self.told.values_mut();
        told.for_each(|told| told.rows.retain(&stays));
        self.left.retain(|_, row| stays(row));
    }

    /// Has the node `name` sent once more what it refused, by whom it is connected to.
    pub(super) fn order(&mut self, name: &str) {
        if self.orders.len() < ORDERS {
            self.orders.push(name.to_owned());
        }
    }

    /// A control plane is gone; its nodes find another, which then tells of them.
    pub(super) fn leave(&mut self, rows: Vec<Row>) {
        for mut row in rows {
            row.connected = false;
            let name = row.introduction.name.clone();
            let known = self.left.get(&name);
            let newer = known.map_or(self.left.len() < LEFT, |known| {
                known.last_seen <= row.last_seen
            });
            if newer {
                self.left.insert(name, row);
            }
        }
    }
}

/// The part that the node `name` is in.
fn part_of(name: &str) -> u8 {
    let [first, ..] = *blake3::hash(name.as_bytes()).as_bytes();
    first % PARTS
}

impl Fleet {
    /// A fleet whose other nodes are not known yet: nobody has looked who else runs.
    pub fn shared() -> Self {
        let fleet = Self::default();
        fleet.nodes().elsewhere.present = None;
        fleet
    }

    /// The parts of the nodes here that there are, and the first in any case: it tells that this control plane runs.
    pub fn parts(&self) -> Vec<Part> {
        let nodes = self.nodes();
        let mut marks = BTreeMap::from([(0, blake3::Hasher::new())]);
        for (name, Node { row, .. }) in &nodes.here {
            let mark = marks.entry(part_of(name)).or_default();
            mark.update(name.as_bytes());
            mark.update(&row.running.root);
            let refused = row.last_refusal.as_ref().map(|refusal| refusal.position);
            for position in [Some(row.running), refused].into_iter().flatten() {
                mark.update(&position.revision.0.to_be_bytes());
                mark.update(&position.urgent.0.to_be_bytes());
            }
            mark.update(&row.crashes.to_be_bytes());
            mark.update(&row.turns.to_be_bytes());
            let flags = [
                row.connected,
                row.contested,
                row.stuck,
                refused.is_some(),
                row.missing.is_empty(),
                row.report.draining,
                row.report.persisted,
            ];
            mark.update(&flags.map(u8::from));
        }
        let marks = marks.into_iter();
        marks
            .map(|(number, hasher)| Part {
                number,
                mark: *hasher.finalize().as_bytes(),
            })
            .collect()
    }

    /// What others are told of the nodes of a part, packed. `samples`: also what roll-outs are judged by. What would
    /// be too much is left out.
    ///
    /// # Errors
    ///
    /// If it cannot be packed.
    pub fn tell(&self, part: u8, samples: bool, now: UnixTime) -> std::io::Result<Vec<u8>> {
        let mut told = Told {
            at: now,
            ..Told::default()
        };
        let mut targets = Vec::new();
        for (_, node) in self
            .nodes()
            .here
            .iter()
            .filter(|(name, _)| part_of(name) == part)
        {
            let mut row = node.row.clone();
            let told_here = std::mem::take(&mut row.report.targets);
            if row.connected {
                targets.push(told_here);
            }
            if !samples {
                row.samples.clear();
            }
            told.rows.push(row);
        }
        told.targets = Targets::together(targets.iter().map(Arc::as_ref), None);
        let mut packed = told.pack()?;
        for leave_out in [
            Told::leave_out_addresses,
            Told::leave_out_details,
            Told::leave_out_excess,
        ] {
            if packed.is_none() {
                leave_out(&mut told);
                packed = told.pack()?;
            }
        }
        packed.ok_or_else(|| {
            let count = told.rows.len();
            std::io::Error::other(format!("{count} nodes are too much to tell of at once"))
        })
    }

    /// Takes in what the control plane `from` tells of a part of its nodes.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn take(&self, from: Uuid, part: u8, packed: &[u8], now: UnixTime) -> std::io::Result<()> {
        let json = zstd::bulk::decompress(packed, LARGEST)?;
        let mut told: Told = serde_json::from_slice(&json)?;
        // Its clock is not ours: what counts is how long ago something was.
        let at = told.at;
        let ours = |time| by_another_clock(time, at, now);
        for row in &mut told.rows {
            row.shift(ours);
            row.told_at = Some(now);
        }
        let mut nodes = self.nodes();
        let is_here = |name: &str| nodes.here.contains_key(name);
        let mut news = nodes.elsewhere.news(part, &told.rows).into_iter();
        if news.any(|name| !is_here(name)) {
            self.news.notify_one();
        }
        for row in told.rows.iter().filter(|row| row.connected) {
            let name = &row.introduction.name;
            nodes.elsewhere.left.remove(name);
            if let Some(node) = nodes.here.get_mut(name) {
                node.row.learns_of(row);
            }
        }
        nodes.elsewhere.told.insert((from, part), told);
        drop(nodes);
        self.changed.send_replace(());
        Ok(())
    }

    /// The control plane `from` is there at `now`, and what it last told of its nodes is still so.
    pub fn hears(&self, from: Uuid, now: UnixTime) {
        let mut nodes = self.nodes();
        let told = nodes.elsewhere.told.iter_mut();
        let of_it = told.filter(|((replica, _), _)| *replica == from);
        for row in of_it.flat_map(|(_, told)| &mut told.rows) {
            row.told_at = Some(now);
        }
    }

    /// Says which control planes run besides this one. What is known from others is kept, as of nodes that have
    /// left.
    pub fn look(&self, present: BTreeSet<Uuid>) {
        let mut nodes = self.nodes();
        let elsewhere = &mut nodes.elsewhere;
        let told = std::mem::take(&mut elsewhere.told);
        let (stays, gone): (BTreeMap<_, _>, BTreeMap<_, _>) = told
            .into_iter()
            .partition(|((from, _), _)| present.contains(from));
        elsewhere.told = stays;
        let changed = !gone.is_empty();
        for told in gone.into_values() {
            elsewhere.leave(told.rows);
        }
        elsewhere.present = Some(present);
        drop(nodes);
        if changed {
            self.changed.send_replace(());
        }
    }

    /// The control planes that run besides this one; none before anybody has looked.
    pub fn present(&self) -> Option<BTreeSet<Uuid>> {
        self.nodes().elsewhere.present.clone()
    }

    /// Orders for nodes that are connected elsewhere, each once.
    pub fn orders(&self) -> Vec<String> {
        std::mem::take(&mut self.nodes().elsewhere.orders)
    }

    /// Carries out an order from another control plane, if the node is connected here.
    pub fn obey(&self, node: &str) {
        self.retry_here(node);
    }
}

#[cfg(test)]
mod tests;
