//! Memory that runs short: connections without a request are closed and what anybody can have kept is let go of first, then
//! new work is refused, before the kernel ends the process.

use std::convert::Infallible;
use std::hint::black_box;
use std::net::IpAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use plugins::bundled::openid_connect::forms::Forms;
use plugins::bundled::proxy_cache::store::Store;
use shared::clock::monotonic;
use shared::machine::resident_bytes;
use tokio::sync::watch;
use uuid::Uuid;

use crate::core::{Core, Node};
use crate::http2::UNFINISHED;
use crate::orders::{Orders, changed};
use crate::quota::Stock;
use crate::quota::fair::{Fair, Part};

/// How often the process is weighed: at least, and at most.
const SELDOM: Duration = Duration::from_millis(250);
const OFTEN: Duration = Duration::from_millis(10);

/// How long there must be enough before that is logged: where new clients take what is let go of, it runs short again and again.
const ENOUGH: Duration = Duration::from_secs(5);

/// How fast clients fill memory, in bytes a second, at worst.
const FILLED: u64 = 1 << 30;

/// Allocations, and the bytes of each, after which a thread's allocator has looked through what the thread has freed: it does
/// so with every ten thousandth that is too large for its lists of small ones (`mi_option_generic_collect`).
const LOOKED_THROUGH: usize = 10_000;
const NOT_SMALL: usize = 2 * 1024;

/// Shares of the limit, in percent, from which on connections are closed, and work is refused.
const CLOSE: u64 = 92;
const REFUSE: u64 = 95;

/// The share of the limit that is kept, at most, of one kind of what is only a help.
const KEPT: u64 = 16;

/// How much of `most` bytes is kept of such a kind, where there is a `limit`, in `parts`.
pub(crate) fn room(most: usize, limit: Option<u64>, parts: usize) -> usize {
    share(limit, KEPT).map_or(most, |share| most.min(share / parts.max(1)))
}

/// One part of so many of the `limit`.
fn share(limit: Option<u64>, of: u64) -> Option<usize> {
    limit.map(|limit| usize::try_from(limit / of).unwrap_or(usize::MAX))
}

/// The share of the limit that the node holds at most for heads that have not ended, for bodies that may still be needed here,
/// and for answers that it reads whole: one part of so many. It is filled sooner than anybody looks at how much memory the process has.
const HELD: u64 = 4;

/// What is held is counted in so many bytes.
const PAGE: usize = 4 * 1024;

/// How much is held, in pages: no more than `most` bytes, and than its share of the `limit`; dealt out to `cores`.
pub(crate) fn held(most: usize, limit: Option<u64>, cores: usize) -> Arc<Stock> {
    let most = share(limit, HELD).map_or(most, |share| most.min(share));
    Stock::new(most / PAGE, cores)
}

/// What one of `cores` holds of the `stock`: room for a head in several frames is room for some thousand values, too.
pub(crate) fn room_of_core(stock: Arc<Stock>, cores: usize) -> Rc<Fair> {
    Rc::new(Fair::in_pieces(stock, cores, UNFINISHED / PAGE))
}

/// Memory that is held for a client, perhaps by a service: by a head that has not ended, by a body that may still be needed here, by an answer that is
/// read whole before any of it goes to the client.
#[derive(Debug)]
pub(crate) struct Held(Part);

impl Held {
    /// Nothing so far, of the `room` of a core, for `client` and `service` as far as they are counted.
    pub(crate) const fn of(room: Rc<Fair>, client: Option<IpAddr>, service: Option<Uuid>) -> Self {
        Self(Part::of(room, client, service))
    }

    /// Whether it takes up nothing.
    pub(crate) fn is_none(&self) -> bool {
        self.0.count() == 0
    }

    /// How many bytes it takes up.
    pub(crate) fn bytes(&self) -> usize {
        self.0.count() * PAGE
    }

    /// Whether there can ever be room for `bytes` in all.
    pub(crate) fn may_have(&self, bytes: usize) -> bool {
        self.0.may_have(bytes.div_ceil(PAGE))
    }

    /// Takes up `bytes` in all, if there is room for them; if not, it stays as it is.
    pub(crate) fn grows(&mut self, bytes: usize) -> bool {
        let more = self.lacks(bytes);
        more == 0 || self.0.take(more)
    }

    /// The same for what can go on without: if there is plenty of room then.
    pub(crate) fn grows_in_plenty(&mut self, bytes: usize) -> bool {
        let more = self.lacks(bytes);
        more == 0 || (self.0.leaves_plenty(more) && self.0.take(more))
    }

    /// Adds `more` to what was `read`, which is to be no longer than `most`, and takes up as much, if there is room for that, or
    /// `plenty`. It grows by as much as there is, so that little is copied often, and by less where there is no room for so much.
    pub(crate) fn adds(
        &mut self,
        read: &mut Vec<u8>,
        more: &[u8],
        most: usize,
        plenty: bool,
    ) -> bool {
        let (before, needed) = (read.len(), read.len().saturating_add(more.len()));
        let mut has_room = true;
        if needed > read.capacity() {
            let least = needed.next_multiple_of(PAGE);
            let roomy = [before.saturating_mul(2), before / 8 * 9, least];
            let mut roomy = roomy.into_iter().map(|size| size.min(most).max(needed));
            let room = roomy.find(|size| {
                if plenty {
                    self.grows_in_plenty(*size)
                } else {
                    self.grows(*size)
                }
            });
            has_room = room.is_some();
            read.reserve_exact(room.unwrap_or(needed) - before);
        }
        // They are here already.
        read.extend_from_slice(more);
        has_room
    }

    fn lacks(&self, bytes: usize) -> usize {
        bytes.div_ceil(PAGE).saturating_sub(self.0.count())
    }

    /// Takes up nothing any more.
    pub(crate) fn lets_go(&mut self) {
        self.shrinks_to(0);
    }

    /// Takes up no more than `bytes` any more.
    pub(crate) fn shrinks_to(&mut self, bytes: usize) {
        let less = self.0.count().saturating_sub(bytes.div_ceil(PAGE));
        if less > 0 {
            self.0.put(less);
        }
    }
}

/// How short memory is.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Pressure {
    /// There is enough.
    #[default]
    None,
    /// Connections without a request are closed.
    High,
    /// Nothing new is begun.
    Critical,
}

impl Pressure {
    /// With `used` bytes of `limit`.
    pub(crate) fn of(used: u64, limit: u64) -> Self {
        let percent = u128::from(used) * 100 / u128::from(limit.max(1));
        if percent >= REFUSE.into() {
            Self::Critical
        } else if percent >= CLOSE.into() {
            Self::High
        } else {
            Self::None
        }
    }

    const fn level(self) -> u8 {
        match self {
            Self::None => 0,
            Self::High => 1,
            Self::Critical => 2,
        }
    }
}

/// What is known of the memory.
#[derive(Debug, Default)]
pub(crate) struct Memory(AtomicU8);

impl Memory {
    /// Whether nothing new is to be begun.
    pub(crate) fn is_critical(&self) -> bool {
        self.level() == 2
    }

    /// 0 to 2: how short memory is.
    pub(crate) fn level(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn note(&self, pressure: Pressure) {
        self.0.store(pressure.level(), Ordering::Relaxed);
    }
}

/// What the log has been told of a shortage.
#[derive(Debug, Default)]
struct Logged {
    worst: Pressure,
    enough_since: Option<Instant>,
}

impl Logged {
    /// Whether `pressure`, at `now`, is news.
    fn is_news(&mut self, pressure: Pressure, now: Instant) -> bool {
        if pressure > Pressure::None {
            self.enough_since = None;
            let worse = pressure > self.worst;
            self.worst = self.worst.max(pressure);
            return worse;
        }
        let since = *self.enough_since.get_or_insert(now);
        let is_over = self.worst > Pressure::None && now.saturating_duration_since(since) >= ENOUGH;
        if is_over {
            self.worst = Pressure::None;
        }
        is_over
    }

    fn note(&mut self, pressure: Pressure, now: Instant) {
        if !self.is_news(pressure, now) {
            return;
        }
        if pressure > Pressure::None {
            tracing::warn!(level = pressure.level(), "memory runs short");
        } else {
            tracing::info!("memory suffices again");
        }
    }
}

/// Weighs the process until it stops, and has idle connections closed while memory is short.
pub(crate) async fn watch(node: Arc<Node>, orders: watch::Sender<Orders>) -> Infallible {
    let Some(limit) = node.limits.memory else {
        return std::future::pending().await;
    };
    let mut shed: Option<(Instant, Pressure)> = None;
    let mut logged = Logged::default();
    loop {
        let used = resident_bytes();
        let pressure = Pressure::of(used, limit);
        node.memory.note(pressure);
        logged.note(pressure, monotonic());
        // As soon as it gets worse, and as long as it does not get better.
        let due = shed.is_none_or(|(at, before)| pressure > before || at.elapsed() >= SELDOM);
        if pressure >= Pressure::High && due {
            shed = Some((monotonic(), pressure));
            orders.send_modify(|orders| orders.shed = orders.shed.wrapping_add(1));
            node.states.of::<Forms>().let_go();
            node.states.of::<Store>().let_go();
            return_what_is_free();
        }
        tokio::time::sleep(pause(used, limit)).await;
    }
}

/// How long the process goes unweighed with `used` bytes of `limit`: what is free is not filled meanwhile.
fn pause(used: u64, limit: u64) -> Duration {
    let free = limit.saturating_sub(used);
    Duration::from_micros(free.saturating_mul(1_000_000) / FILLED).clamp(OFTEN, SELDOM)
}

/// Gives back what this core has no use for whenever memory is short, and tells what waits on it, until the node stops.
pub(crate) async fn give_back(core: Rc<Core>, orders: watch::Receiver<Orders>) {
    let mut seen = orders.borrow().shed;
    loop {
        let order = changed(orders.clone(), seen).await;
        if order.stopping {
            return;
        }
        seen = order.shed;
        core.memory_is_short();
        return_what_is_free();
    }
}

/// Has this thread's allocator return to the system what is free, a second after it was freed.
///
/// The allocator does so only as the thread goes on to allocate, which one that refuses all work does not: what a burst of
/// clients has left would keep the node refusing. There is no call for this that safe code may make.
fn return_what_is_free() {
    for _ in 0..LOOKED_THROUGH {
        drop(black_box(Vec::<u8>::with_capacity(NOT_SMALL)));
    }
}

/// What the control group of this process lets it have, in bytes; `None` if that is no less than what the
/// machine has.
pub(crate) fn group_limit() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let limit = limit_of(&groups, |path| std::fs::read_to_string(path).ok())?;
    let machine = shared::machine::total_bytes();
    (machine == 0 || limit < machine).then_some(limit)
}

/// The least limit of the group in `groups` (`/proc/self/cgroup`) and those around it.
fn limit_of(groups: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let mut least: Option<u64> = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let (root, file) = if controllers.is_empty() {
            ("/sys/fs/cgroup", "memory.max")
        } else if controllers.split(',').any(|name| name == "memory") {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        } else {
            continue;
        };
        let own = Path::new(root).join(path.trim_start_matches('/'));
        // In a container its own group is the root, whatever the path says.
        for group in own.ancestors().take_while(|group| group.starts_with(root)) {
            let limit = read(&group.join(file)).and_then(|text| text.trim().parse().ok());
            least = [least, limit].into_iter().flatten().min();
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_refused_later_than_connections_are_closed() {
        let check = |used, expected| assert_eq!(Pressure::of(used, 1000), expected, "{used}");
        check(0, Pressure::None);
        check(919, Pressure::None);
        check(920, Pressure::High);
        check(949, Pressure::High);
        check(950, Pressure::Critical);
        check(5000, Pressure::Critical);
    }

    /// The rooms of so many cores.
    fn rooms(most: usize, limit: Option<u64>, cores: usize) -> Vec<Rc<Fair>> {
        let stock = held(most, limit, cores);
        let room = |_| room_of_core(Arc::clone(&stock), cores);
        (0..cores).map(room).collect()
    }

    #[test]
    fn a_shortage_that_comes_and_goes_is_logged_once() {
        use Pressure::{Critical, High, None};
        let start = monotonic();
        let mut logged = Logged::default();
        for (seconds, pressure, expected) in [
            (0, None, false),
            (9, None, false),
            (10, High, true),
            (11, None, false),
            (12, High, false),
            (13, Critical, true),
            (14, High, false),
            (15, Critical, false),
            (16, None, false),
            (20, None, false),
            (21, None, true),
            (22, None, false),
            (23, Critical, true),
        ] {
            let now = start + Duration::from_secs(seconds);
            assert_eq!(logged.is_news(pressure, now), expected, "{seconds}");
        }
    }

    #[test]
    fn what_has_not_begun_has_its_part_of_the_memory() {
        let room = &rooms(usize::MAX, Some(400 * 4096), 1)[0];
        let [mut one, mut other] = [(); 2].map(|()| Held::of(Rc::clone(room), None, None));
        assert!(one.is_none() && one.grows(60 * PAGE) && other.grows(40 * PAGE));
        assert!(!one.grows(60 * PAGE + 1) && one.grows(50 * PAGE) && !one.is_none());
        other.lets_go();
        assert!(other.is_none() && one.grows(100 * PAGE) && !other.grows(1));
        one.shrinks_to(90 * PAGE - 1);
        assert!(other.grows(10 * PAGE) && !other.grows(10 * PAGE + 1));
        drop(one);
        assert!(other.grows(100 * PAGE));
    }

    #[test]
    fn what_can_go_on_without_room_leaves_half_of_it() {
        let room = &rooms(100 * PAGE, None, 1)[0];
        let client = Some(IpAddr::from([192, 0, 2, 1]));
        let [mut needed, mut other] = [(); 2].map(|()| Held::of(Rc::clone(room), client, None));
        assert!(other.grows_in_plenty(40 * PAGE) && !other.grows_in_plenty(60 * PAGE));
        assert!(other.grows_in_plenty(20 * PAGE), "it has as much");
        assert!(needed.grows(30 * PAGE) && !needed.grows(60 * PAGE));
        // Alone it had had room.
        assert!(needed.may_have(60 * PAGE) && !needed.may_have(64 * PAGE));
        drop(other);
        assert!(needed.grows(60 * PAGE) && !needed.grows_in_plenty(61 * PAGE));
    }

    #[test]
    fn what_is_read_takes_up_no_more_than_there_is_room_for() {
        // Of the last 25 of 100 pages one client has 12.
        for (pages, most, fits, expected) in [
            (10, 100, true, 16),
            (60, 62, true, 62),
            (70, 100, true, 72),
            (75, 100, true, 81),
            (90, 100, false, 84),
        ] {
            let room = &rooms(100 * PAGE, None, 1)[0];
            let client = Some(IpAddr::from([192, 0, 2, 1]));
            let (mut held, mut read) = (Held::of(Rc::clone(room), client, None), Vec::new());
            let added = (0..pages).all(|_| held.adds(&mut read, &[0; PAGE], most * PAGE, false));
            assert_eq!(added, fits, "{pages}");
            assert_eq!(held.bytes() / PAGE, expected, "{pages}");
        }
    }

    #[test]
    fn a_core_of_many_has_room_for_a_large_body_where_others_hold_little() {
        let of_many = rooms(usize::MAX, Some(256 << 20), 64);
        let mut small: Vec<Held> = of_many
            .iter()
            .cloned()
            .map(|room| Held::of(room, None, None))
            .collect();
        assert!(small.iter_mut().all(|held| held.grows(8 * 1024)));
        let [mut one, mut other] =
            [0, 1].map(|core| Held::of(Rc::clone(&of_many[core]), None, None));
        assert!(one.grows(32 << 20) && !other.grows(32 << 20));
        let unlimited = rooms(usize::MAX, None, 1);
        let mut unlimited = Held::of(Rc::clone(&unlimited[0]), None, None);
        assert!(unlimited.grows(1 << 30));
    }

    #[test]
    fn the_less_is_free_the_sooner_it_is_looked_at_again() {
        let mib = 1 << 20;
        let check = |used, limit, expected| {
            assert_eq!(
                pause(used, limit),
                Duration::from_millis(expected),
                "{used} of {limit}"
            );
        };
        check(0, u64::MAX, 250);
        check(30 * mib, 512 * mib, 250);
        check(128 * mib, 256 * mib, 125);
        check(256 * mib, 256 * mib, 10);
        check(300 * mib, 256 * mib, 10);
    }

    #[test]
    fn a_node_with_little_memory_keeps_less() {
        let mib = 1 << 20;
        assert_eq!(room(16 * mib, None, 8), 16 * mib);
        assert_eq!(room(16 * mib, Some(1 << 30), 1), 16 * mib);
        assert_eq!(room(16 * mib, Some(64 << 20), 1), 4 * mib);
        assert_eq!(room(16 * mib, Some(64 << 20), 4), mib);
    }

    #[test]
    fn the_tightest_group_around_the_process_counts() {
        let check = |groups: &str, files: &[(&str, &str)], expected| {
            let read = |path: &Path| {
                let file = files.iter().find(|(name, _)| Path::new(name) == path);
                file.map(|(_, text)| (*text).to_owned())
            };
            assert_eq!(limit_of(groups, read), expected, "{groups}");
        };
        check("0::/a/b\n", &[], None);
        let outer = ("/sys/fs/cgroup/a/memory.max", "2000\n");
        check(
            "0::/a/b\n",
            &[outer, ("/sys/fs/cgroup/a/b/memory.max", "max\n")],
            Some(2000),
        );
        check(
            "0::/a/b\n",
            &[outer, ("/sys/fs/cgroup/a/b/memory.max", "1000\n")],
            Some(1000),
        );
        check(
            "0::/\n",
            &[("/sys/fs/cgroup/memory.max", "3000\n")],
            Some(3000),
        );
        let old = ("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "4000\n");
        check("5:cpu:/a\n4:memory:/a\n", &[old], Some(4000));
    }
}
