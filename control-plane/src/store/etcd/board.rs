//! What control planes over one etcd tell each other besides the configuration: what is gone by itself when they
//! are, and values that all must agree on before one acts.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use shared::clock::monotonic;
use uuid::Uuid;

use super::client::{Client, Comparison, EtcdError, EtcdSettings, Put};
use super::shelf::open;
use crate::rollout::{Agreed, Unagreed};
use crate::store::seal::{Sealer, SecretsKey};

/// How long what a control plane told stays once it is gone: as long as a node counts as connected that is not heard any more.
const TIME: Duration = Duration::from_secs(15);

/// How often it says that it is there, until that is over.
const KEPT: u32 = 5;

/// What the names of control planes and of orders begin with, and how far those go.
const FLEET: (&str, &str) = ("fleet/", "fleet0");
const ORDERS: (&str, &str) = ("order/", "order0");

/// What the name of how a control plane rolls changes out ends with.
const PLAN: &str = "plan";

/// The name of the roll-outs.
const ROLLOUTS: &str = "rollouts";

/// What one of them told.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Post {
    /// Of a part of its nodes.
    Part(Uuid, u8),
    /// How it rolls changes out.
    Plan(Uuid),
    /// What others are to do.
    Order(Uuid),
}

impl Post {
    fn name(&self) -> String {
        match self {
            Self::Part(replica, number) => format!("fleet/{replica}/{number:02}"),
            Self::Plan(replica) => format!("fleet/{replica}/{PLAN}"),
            Self::Order(id) => format!("order/{id}"),
        }
    }

    fn parse(name: &str) -> Option<Self> {
        if let Some(id) = name.strip_prefix(ORDERS.0) {
            return Some(Self::Order(id.parse().ok()?));
        }
        let (replica, what) = name.strip_prefix(FLEET.0)?.split_once('/')?;
        let replica = replica.parse().ok()?;
        if what == PLAN {
            return Some(Self::Plan(replica));
        }
        Some(Self::Part(replica, what.parse().ok()?))
    }
}

/// A lease that is not kept.
#[derive(Debug)]
pub struct Passing(String);

/// What control planes tell each other.
pub struct Board {
    client: Client,
    sealer: Sealer,
    key: SecretsKey,
    /// What everything is told under, and since when it lasts.
    lease: Option<(String, Instant)>,
    /// How long it lasts.
    time: Duration,
}

impl std::fmt::Debug for Board {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Board").finish_non_exhaustive()
    }
}

impl Board {
    /// The way to it. Nothing is asked of etcd yet.
    pub fn new(settings: &EtcdSettings, key: &SecretsKey) -> Result<Self, EtcdError> {
        Ok(Self {
            client: Client::start(settings)?,
            sealer: Sealer::new(key),
            key: key.clone(),
            lease: None,
            time: TIME,
        })
    }

    /// Has what is told last for another time.
    #[cfg(test)]
    pub(crate) fn lasting(mut self, time: Duration) -> Self {
        self.time = time;
        self
    }

    /// The roll-outs, which all agree on.
    pub fn rollouts(&self) -> Box<dyn Agreed> {
        Box::new(Cell {
            client: self.client.clone(),
            sealer: Sealer::new(&self.key),
            name: ROLLOUTS,
            version: 0,
        })
    }

    /// Has all that was told stay, but for orders. Whether it was still there. It costs nothing to ask often.
    pub fn keep(&mut self) -> Result<bool, EtcdError> {
        let now = monotonic();
        let Some((lease, since)) = &mut self.lease else {
            return Ok(false);
        };
        if now.saturating_duration_since(*since) < self.time / KEPT {
            return Ok(true);
        }
        let is_there = match self.client.keep_lease(lease) {
            // Whatever it is that is not let through: it is over.
            Err(_) if now.saturating_duration_since(*since) >= self.time => false,
            kept => kept?,
        };
        *since = now;
        if !is_there {
            self.lease = None;
        }
        Ok(is_there)
    }

    /// Tells `value`, for as long as this is kept.
    pub fn tell(&mut self, post: &Post, value: &[u8]) -> Result<(), EtcdError> {
        let lease = if let Some((lease, _)) = &self.lease {
            lease.clone()
        } else {
            let now = monotonic();
            let lease = futures::executor::block_on(self.client.lease(self.time))?;
            self.lease = Some((lease.clone(), now));
            lease
        };
        self.put(post, value, &lease)
    }

    /// What orders are told under: they are for who is there now, and gone after a while.
    pub fn passing(&self) -> Result<Passing, EtcdError> {
        let lease = futures::executor::block_on(self.client.lease(self.time));
        lease.map(Passing)
    }

    /// Orders what is told by `value`, as `passing` as others.
    pub fn order(&self, value: &[u8], passing: &Passing) -> Result<(), EtcdError> {
        self.put(&Post::Order(Uuid::new_v4()), value, &passing.0)
    }

    fn put(&self, post: &Post, value: &[u8], lease: &str) -> Result<(), EtcdError> {
        let name = post.name();
        let value = self.sealer.seal(name.as_bytes(), value);
        self.client.put_leased(&Put { name, value }, lease)
    }

    /// Everything that is told, with etcd's number of the write.
    pub fn posts(&self) -> Result<BTreeMap<Post, u64>, EtcdError> {
        let mut posts = BTreeMap::new();
        for (first, end) in [FLEET, ORDERS] {
            let names = self.client.names(first, end)?.into_iter();
            posts.extend(names.filter_map(|(name, version)| Some((Post::parse(&name)?, version))));
        }
        Ok(posts)
    }

    /// What `post` tells, if it is still there.
    pub fn read(&self, post: &Post) -> Result<Option<Vec<u8>>, EtcdError> {
        let name = post.name();
        let found = self.client.get(&name)?;
        found
            .map(|found| open(&self.sealer, &name, &found.value))
            .transpose()
    }

    /// How the other control planes roll changes out.
    pub fn plans(&self, but: Uuid) -> Result<Vec<String>, EtcdError> {
        let mut plans = Vec::new();
        for post in self.posts()?.into_keys() {
            if matches!(post, Post::Plan(replica) if replica != but)
                && let Some(plan) = self.read(&post)?
            {
                plans.push(String::from_utf8_lossy(&plan).into_owned());
            }
        }
        Ok(plans)
    }

    /// Takes back all that `replica` told.
    pub fn leave(&self, replica: Uuid) -> Result<(), EtcdError> {
        let (first, end) = (format!("fleet/{replica}/"), format!("fleet/{replica}0"));
        self.client.delete(&first, &end)
    }
}

/// A value that several control planes agree on: whoever writes it has seen what it was before.
struct Cell {
    client: Client,
    sealer: Sealer,
    name: &'static str,
    /// etcd's number of the write that was seen last; 0: none.
    version: u64,
}

impl std::fmt::Debug for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cell")
            .field("name", &self.name)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl Agreed for Cell {
    fn newer(&mut self) -> Result<Option<Vec<u8>>, Unagreed> {
        let Some(found) = self.client.newer(self.name, self.version)? else {
            return Ok(None);
        };
        let value = open(&self.sealer, self.name, &found.value)?;
        self.version = found.version;
        Ok(Some(value))
    }

    fn write(&mut self, value: &[u8]) -> Result<bool, Unagreed> {
        let put = Put {
            name: self.name.to_owned(),
            value: self.sealer.seal(self.name.as_bytes(), value),
        };
        let unchanged = Comparison {
            name: self.name,
            version: self.version,
        };
        let Some(version) = self.client.commit(&unchanged, None, &[put])? else {
            // One that was taken away can only be made anew.
            if self.client.get(self.name)?.is_none() {
                self.version = 0;
            }
            return Ok(false);
        };
        self.version = version;
        Ok(true)
    }

    fn set_aside(&mut self, value: &[u8]) -> Result<String, Unagreed> {
        let name = format!("{}.unread/{}", self.name, self.version);
        let value = self.sealer.seal(name.as_bytes(), value);
        let put = Put {
            name: name.clone(),
            value,
        };
        let kept = self.client.put(&put);
        if kept.is_err() {
            // It is to be seen again before anything is written in its place.
            self.version = 0;
        }
        kept?;
        Ok(name)
    }

    fn clear(&mut self) -> Result<(), Unagreed> {
        self.version = 0;
        Ok(self.client.delete(self.name, &format!("{}\0", self.name))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_that_cannot_be_kept_is_over_once_its_time_is() {
        let settings = EtcdSettings {
            // Nobody listens there.
            endpoints: vec!["http://127.0.0.1:1".to_owned()],
            ..EtcdSettings::default()
        };
        let directory = tempfile::tempdir().unwrap();
        let key = SecretsKey::read_or_create(&directory.path().join("key")).unwrap();
        let mut board = Board::new(&settings, &key).unwrap();
        let mut keep = |since| {
            let since = monotonic().checked_sub(since).unwrap();
            board.lease = Some(("7".to_owned(), since));
            (board.keep().ok(), board.lease.is_some())
        };
        assert_eq!(keep(TIME / KEPT / 2), (Some(true), true));
        assert_eq!(keep(TIME / KEPT), (None, true));
        assert_eq!(keep(TIME), (Some(false), false));
    }
}
