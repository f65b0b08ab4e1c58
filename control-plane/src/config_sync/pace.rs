//! How much of an update is under way to a node at once: what its link carries in a moment, since whatever passes the update
//! waits for that. Sockets, and queues on the way, take what a slow link carries in many seconds.
//!
//! The node says how far it has come, at milestones. As long as these are reached soon more may be under way, twice as much
//! after each answer; where they are reached late, less.

use std::collections::VecDeque;
use std::time::Duration;

use proto::v1::Milestone;
use proto::v1::control_message::Kind;
use tokio::time::Instant;

use super::update::Update;
use crate::snapshot::{Frame, frame, size};

/// Bytes that may be under way at first, and over however slow a link: two parts of a chunk or three.
const LEAST: u64 = 16 * 1024;
/// And over however fast a one: that is what a node's window takes.
const MOST: u64 = 1024 * 1024;
/// How long a milestone may stand behind what went before it, beyond the time that the way takes.
const STANDS: Duration = Duration::from_millis(200);
/// How long what the way takes is believed where milestones are late: it may have become a longer one.
const MEASURED: Duration = Duration::from_secs(10);

/// A node has said that it reached what it was not led to.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a milestone reached that is not the next")]
pub(super) struct Astray;

/// What is under way to a node of its updates.
#[derive(Debug)]
pub(super) struct Pace {
    /// Whether the node says how far it has come. There is no pace for one that does not.
    is_known: bool,
    /// Bytes that may be under way.
    window: u64,
    /// Bytes that have been sent, the last milestone, and what has arrived.
    sent: u64,
    marked: u64,
    arrived: u64,
    /// Milestones that are under way, and since when.
    milestones: VecDeque<(u64, Instant)>,
    /// The shortest time that one has taken, and since when that is looked for.
    shortest: Duration,
    since: Option<Instant>,
    /// While it is measured anew: what had been sent when that began. What comes after that goes over an empty link.
    measures: Option<u64>,
    /// What has been sent with the window before: that it comes late says nothing of this one.
    before: u64,
    /// What had been sent when the window was full last.
    full: u64,
}

impl Pace {
    /// For a node that says how far it has come, or one that does not.
    pub(super) const fn new(is_known: bool) -> Self {
        Self {
            is_known,
            window: LEAST,
            sent: 0,
            marked: 0,
            arrived: 0,
            milestones: VecDeque::new(),
            shortest: Duration::MAX,
            since: None,
            measures: None,
            before: 0,
            full: 0,
        }
    }

    /// An update begins. The link may have become slower since the last one, and the way longer.
    pub(super) const fn begins(&mut self) {
        self.window = LEAST;
        self.shortest = Duration::MAX;
        self.since = None;
        self.measures = None;
    }

    /// What has arrived, in bytes.
    pub(super) const fn arrived(&self) -> u64 {
        self.arrived
    }

    /// Whether something of `update` waits for the node to say that it has come further.
    pub(super) fn holds(&self, update: &Update) -> bool {
        update.is_sending() && !self.lets_on(update)
    }

    /// Whether there is something of `update` to send now.
    pub(super) fn lets_on(&self, update: &Update) -> bool {
        update.is_sending() && (self.is_due() || !self.is_full())
    }

    /// What is to be sent of `update` now, if something is: a piece of it, or a milestone.
    pub(super) fn next(&mut self, update: &mut Update, now: Instant) -> Option<Frame> {
        if !self.lets_on(update) {
            return None;
        }
        if self.is_due() {
            return Some(frame(Kind::Milestone(Milestone {
                at: self.milestone(now),
            })));
        }
        let piece = update.next()?;
        self.sends(size(&piece));
        Some(piece)
    }

    const fn is_full(&self) -> bool {
        let window = match self.measures {
            Some(_) => 1,
            None => self.window,
        };
        self.is_known && self.sent - self.arrived >= window
    }

    /// Whether it is time for a milestone. There is one after whatever fills the window, or nobody would say that it is empty.
    const fn is_due(&self) -> bool {
        let unmarked = self.sent - self.marked;
        self.is_known && (unmarked >= self.window / 4 || unmarked > 0 && self.is_full())
    }

    fn sends(&mut self, bytes: usize) {
        self.sent += u64::try_from(bytes).unwrap_or(u64::MAX);
        if self.is_full() {
            self.full = self.sent;
        }
    }

    /// Sets a milestone.
    fn milestone(&mut self, now: Instant) -> u64 {
        self.marked = self.sent;
        self.milestones.push_back((self.sent, now));
        self.sent
    }

    /// The node has reached the milestone `at`.
    pub(super) fn reached(&mut self, at: u64, now: Instant) -> Result<(), Astray> {
        let next = self.milestones.pop_front_if(|next| next.0 == at);
        let (_, since) = next.ok_or(Astray)?;
        let took = now.saturating_duration_since(since);
        let arrived = at - self.arrived;
        self.arrived = at;
        match self.measures {
            Some(begun) if at <= begun => return Ok(()),
            Some(_) => {
                self.measures = None;
                self.shortest = took;
                self.since = Some(now);
                return Ok(());
            }
            None => self.shortest = self.shortest.min(took),
        }
        let measured = now.saturating_duration_since(*self.since.get_or_insert(now));
        let may_take = self.shortest + STANDS;
        if took <= may_take {
            if at <= self.full {
                self.window = (self.window + arrived).min(MOST);
            }
        } else if at > self.before {
            let less = u128::from(self.window) * may_take.as_millis() / took.as_millis().max(1);
            self.window = u64::try_from(less).unwrap_or(MOST).max(LEAST);
            self.before = self.sent;
            self.measures = (measured >= MEASURED).then_some(self.sent);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PART: u64 = 7 * 1024;

    /// A link.
    struct Link {
        /// Bytes that it carries in a second.
        rate: u32,
        /// How long the way there and back is.
        way: Duration,
        /// What will be reached when.
        milestones: VecDeque<(u64, Instant)>,
    }

    impl Link {
        const fn new(rate: u32, way: Duration) -> Self {
            Self {
                rate,
                way,
                milestones: VecDeque::new(),
            }
        }

        /// Carries an update of `bytes`: the longest that something which passes it waits, and how long all of it takes.
        fn carry(&mut self, pace: &mut Pace, begun: Instant, bytes: u64) -> (Duration, Duration) {
            pace.begins();
            self.go_on(pace, begun, bytes)
        }

        /// The same with more of an update.
        fn go_on(&mut self, pace: &mut Pace, begun: Instant, bytes: u64) -> (Duration, Duration) {
            let a_part = Duration::from_secs(PART) / self.rate;
            let until = pace.sent + bytes;
            // When it has carried what it was given.
            let (mut now, mut free, mut longest) = (begun, begun, Duration::ZERO);
            while pace.sent < until {
                if pace.is_due() {
                    let at = pace.milestone(now);
                    self.milestones.push_back((at, free.max(now) + self.way));
                } else if pace.is_full() {
                    let (at, when) = self.milestones.pop_front().expect("one is under way");
                    now = now.max(when);
                    pace.reached(at, now).unwrap();
                } else {
                    pace.sends(usize::try_from(PART).unwrap());
                    free = free.max(now) + a_part;
                    longest = longest.max(free - now);
                }
            }
            let end = free.max(now) + self.way;
            for (at, when) in self.milestones.drain(..) {
                pace.reached(at, when).unwrap();
            }
            (longest, end - begun)
        }
    }

    #[test]
    fn a_slow_link_has_little_under_way_and_no_rest() {
        for (rate, way) in [(64_000, 1), (64_000, 100), (32_000, 20), (250_000, 50)] {
            let mut link = Link::new(rate, Duration::from_millis(way));
            let bytes = u64::from(rate) * 20;
            let (longest, took) = link.carry(&mut Pace::new(true), Instant::now(), bytes);
            assert!(longest < Duration::from_secs(1), "{rate} {way} {longest:?}");
            assert!(took < Duration::from_secs(22), "{rate} {way} {took:?}");
        }
    }

    #[test]
    fn a_fast_link_is_made_use_of_however_long_it_is() {
        for way in [1, 10, 100, 600] {
            let mut link = Link::new(100_000_000, Duration::from_millis(way));
            let mut pace = Pace::new(true);
            let (_, took) = link.carry(&mut pace, Instant::now(), 10_000_000);
            // Ten windows of the node, and those until there is such a one.
            let most = link.way * 18 + Duration::from_millis(110);
            assert!(took < most, "{way} {took:?}");
            assert_eq!(pace.window, MOST);
        }
    }

    #[test]
    fn a_link_that_becomes_slow_is_given_less() {
        let mut link = Link::new(100_000_000, Duration::from_millis(1));
        let mut pace = Pace::new(true);
        link.carry(&mut pace, Instant::now(), 10_000_000);
        link.rate = 64_000;
        let (longest, _) = link.carry(&mut pace, Instant::now(), 640_000);
        assert!(longest < Duration::from_secs(1), "{longest:?}");
        // In the midst of an update, too, and once for all that was under way.
        pace.window = MOST;
        let now = Instant::now();
        let milestones: Vec<u64> = (0..8)
            .map(|_| {
                pace.sends(128 * 1024);
                pace.milestone(now)
            })
            .collect();
        let took = |at: &u64| now + Duration::from_millis((at - pace.arrived) / 64);
        let times: Vec<Instant> = milestones.iter().map(took).collect();
        let mut windows = Vec::new();
        for (at, when) in milestones.into_iter().zip(times) {
            pace.reached(at, when).unwrap();
            windows.push(pace.window);
        }
        assert!((LEAST..MOST / 4).contains(&windows[0]), "{windows:?}");
        assert!(windows.iter().all(|window| *window == windows[0]));
    }

    #[test]
    fn a_way_that_becomes_longer_is_made_use_of_before_long() {
        let way = Duration::from_millis(400);
        for within in [true, false] {
            let mut link = Link::new(100_000_000, Duration::from_millis(1));
            let mut pace = Pace::new(true);
            let begun = Instant::now();
            let (_, took) = link.carry(&mut pace, begun, 10_000_000);
            link.way = way;
            let took = if within {
                link.go_on(&mut pace, begun + took, 30_000_000).1
            } else {
                link.carry(&mut pace, begun + took, 30_000_000).1
            };
            // Thirty windows of the node, those until there is such a one, and what the way took is believed for a while.
            let most = link.way * 40 + if within { MEASURED } else { Duration::ZERO };
            assert!(took < most, "{within} {took:?}");
            assert_eq!(pace.window, MOST);
        }
    }

    #[test]
    fn a_slow_link_has_little_under_way_however_often_its_way_is_measured() {
        let mut link = Link::new(64_000, Duration::from_millis(50));
        let (longest, took) = link.carry(&mut Pace::new(true), Instant::now(), 64_000 * 300);
        assert!(longest < Duration::from_secs(1), "{longest:?}");
        assert!(took < Duration::from_secs(330), "{took:?}");
    }

    #[test]
    fn answers_that_come_together_count_as_those_that_come_one_by_one() {
        let mut pace = Pace::new(true);
        let mut now = Instant::now();
        pace.begins();
        let mut rounds = 0;
        while pace.window < MOST {
            let mut milestones = Vec::new();
            while pace.is_due() || !pace.is_full() {
                if pace.is_due() {
                    milestones.push(pace.milestone(now));
                } else {
                    pace.sends(usize::try_from(PART).unwrap());
                }
            }
            now += Duration::from_millis(200);
            for at in milestones {
                pace.reached(at, now).unwrap();
            }
            rounds += 1;
        }
        assert!(rounds <= 7, "{rounds}");
    }

    #[test]
    fn what_nobody_led_it_to_no_node_reaches() {
        let now = Instant::now();
        let mut pace = Pace::new(true);
        assert_eq!(pace.reached(0, now), Err(Astray));
        pace.sends(20_000);
        let at = pace.milestone(now);
        for wrong in [0, at - 1, at + 1, u64::MAX] {
            assert_eq!(pace.reached(wrong, now), Err(Astray));
        }
        assert_eq!(pace.reached(at, now), Ok(()));
        assert_eq!(pace.reached(at, now), Err(Astray));
        assert_eq!((pace.arrived, pace.is_full()), (at, false));
    }

    #[test]
    fn only_the_node_lets_an_update_go_on_that_fills_its_window() {
        use proto::v1::AskDigests;

        let now = Instant::now();
        let mut update = Update::of_one(frame(Kind::AskDigests(AskDigests {})));
        let mut pace = Pace::new(true);
        assert!(!pace.holds(&update));
        pace.sends(usize::try_from(LEAST).unwrap());
        // The milestone itself goes.
        assert!(!pace.holds(&update));
        assert!(pace.next(&mut update, now).is_some());
        assert!(pace.holds(&update) && pace.next(&mut update, now).is_none());
        assert!(!pace.holds(&Update::Sent));
        pace.reached(LEAST, now).unwrap();
        assert!(!pace.holds(&update));
    }

    #[test]
    fn a_node_that_says_nothing_has_no_pace() {
        let mut pace = Pace::new(false);
        pace.sends(usize::MAX);
        assert!(!pace.is_full() && !pace.is_due());
    }
}
