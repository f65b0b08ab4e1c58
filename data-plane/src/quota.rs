//! A limit of the whole node, divided among its cores in small portions: the node never exceeds it, and a core that
//! still has some left need not ask.

pub(crate) mod fair;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a node has of something.
#[derive(Debug)]
pub(crate) struct Stock {
    limit: usize,
    /// What a core takes at a time. All that idle cores hold together is at most an eighth of the limit,
    /// or one each.
    portion: usize,
    /// What one can have while nobody else has anything, and no more than the part that is not kept for who has little: cores
    /// hold some that nobody uses.
    most_at_once: usize,
    dealt: AtomicUsize,
}

impl Stock {
    /// `limit` things for `cores`.
    pub(crate) fn new(limit: usize, cores: usize) -> Arc<Self> {
        let portion = (limit / (8 * cores.max(1))).clamp(1, 64);
        Arc::new(Self {
            limit,
            portion,
            most_at_once: (limit - limit / 4).saturating_sub(portion * cores),
            dealt: AtomicUsize::new(0),
        })
    }

    /// Deals out a portion, or `least` if that is more; nothing if there are not so many.
    fn deal(&self, least: usize) -> usize {
        let portion = |dealt: usize| {
            let left = self.limit.saturating_sub(dealt);
            self.portion.max(least).min(left)
        };
        let take = |dealt: usize| {
            let portion = portion(dealt);
            (portion >= least).then_some(dealt + portion)
        };
        let before = self
            .dealt
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        before.map_or(0, portion)
    }

    /// How many are dealt out once a core has taken so many more.
    fn dealt_with(&self, more: usize) -> usize {
        self.dealt.load(Ordering::Relaxed).saturating_add(more)
    }

    fn give_back(&self, count: usize) {
        self.dealt.fetch_sub(count, Ordering::Relaxed);
    }
}

/// What one core holds of a stock.
#[derive(Debug)]
pub(crate) struct Share {
    stock: Arc<Stock>,
    held: Cell<usize>,
    used: Cell<usize>,
}

impl Share {
    /// Nothing so far.
    pub(crate) fn of(stock: Arc<Stock>) -> Self {
        Self {
            stock,
            held: Cell::new(0),
            used: Cell::new(0),
        }
    }

    /// How many are in use on this core.
    pub(crate) fn used(&self) -> usize {
        self.used.get()
    }

    /// How many the core lacks to take `count`.
    fn lacks(&self, count: usize) -> usize {
        let used = self.used.get().saturating_add(count);
        used.saturating_sub(self.held.get())
    }

    /// Whether `count` cannot be taken without the last quarter of the stock.
    fn is_scarce_for(&self, count: usize) -> bool {
        let stock = &self.stock;
        stock.dealt_with(self.lacks(count).max(1)) > stock.limit - stock.limit / 4
    }

    /// Whether less than half of the stock is dealt out once `count` are taken.
    fn has_plenty_for(&self, count: usize) -> bool {
        self.stock.dealt_with(self.lacks(count)) < self.stock.limit / 2
    }

    /// Takes one; `false` if there is none. Whoever took one puts it back.
    pub(crate) fn take(&self) -> bool {
        self.take_all(1)
    }

    /// Takes `count`, or none if there are not so many.
    pub(crate) fn take_all(&self, count: usize) -> bool {
        let lacking = self.lacks(count);
        if lacking > 0 {
            let dealt = self.stock.deal(lacking);
            if dealt == 0 {
                return false;
            }
            self.held.set(self.held.get() + dealt);
        }
        self.used.set(self.used.get() + count);
        true
    }

    /// Puts one back.
    pub(crate) fn put(&self) {
        self.put_all(1);
    }

    /// Puts `count` back.
    pub(crate) fn put_all(&self, count: usize) {
        let used = self.used.get().saturating_sub(count);
        self.used.set(used);
        let idle = self.held.get() - used;
        if idle > self.stock.portion {
            let surplus = idle - self.stock.portion;
            self.held.set(self.held.get() - surplus);
            self.stock.give_back(surplus);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.stock.give_back(self.held.get());
    }
}

/// One of a share, put back when it is dropped.
#[derive(Debug)]
pub(crate) struct Taken(Rc<Share>);

impl Taken {
    /// Takes one of `share`, if there is one.
    pub(crate) fn of(share: &Rc<Share>) -> Option<Self> {
        share.take().then(|| Self(Rc::clone(share)))
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.put();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_core_gets_all_there_is_and_no_more() {
        for limit in [0, 1, 2, 7, 1000] {
            let share = Share::of(Stock::new(limit, 1));
            let taken = (0..limit + 5).filter(|_| share.take()).count();
            assert_eq!(taken, limit);
            if limit > 0 {
                share.put();
                assert!(share.take() && !share.take(), "{limit}");
            }
        }
    }

    #[test]
    fn several_are_taken_at_once_or_not_at_all() {
        let stock = Stock::new(100, 2);
        let [one, other] = [(); 2].map(|()| Share::of(Arc::clone(&stock)));
        assert!(one.take() && one.take_all(79) && other.take_all(0));
        assert!(!other.take_all(21) && other.take_all(20) && !other.take());
        assert_eq!((one.used(), other.used()), (80, 20));
        one.put_all(50);
        assert!(other.take_all(40) && !other.take_all(usize::MAX));
        drop((one, other));
        assert_eq!(stock.dealt.load(Ordering::Relaxed), 0);
    }

    proptest! {
        #[test]
        fn the_limit_holds_for_all_cores_together(
            limit in 1_usize..200,
            steps in prop::collection::vec((0_usize..3, any::<bool>()), 0..600),
        ) {
            let stock = Stock::new(limit, 3);
            let cores: Vec<_> = (0..3).map(|_| Share::of(Arc::clone(&stock))).collect();
            for (core, takes) in steps {
                let core = &cores[core];
                let used: usize = cores.iter().map(Share::used).sum();
                if !takes {
                    if core.used() > 0 {
                        core.put();
                    }
                } else if !core.take() {
                    // What is refused while others hold some back is little.
                    prop_assert!(used + 2 * stock.portion >= limit);
                }
                let used: usize = cores.iter().map(Share::used).sum();
                prop_assert!(used <= limit);
            }
            drop(cores);
            prop_assert_eq!(stock.dealt.load(Ordering::Relaxed), 0);
        }
    }
}
