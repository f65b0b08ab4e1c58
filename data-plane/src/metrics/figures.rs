//! What a control plane is told of a node's traffic.

use super::{Histogram, Labels, OTHER_BOUNDS, Sum};

/// What a control plane is told of a node's traffic.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) requests: u64,
    /// Answers of 5xx that are the gateway's own.
    pub(crate) failed: u64,
    /// Requests whose clients waited in vain.
    pub(crate) left: u64,
    /// How long those took that matched a route.
    total: Histogram<13>,
}

impl Figures {
    /// The bound, in microseconds, that 99 of a hundred requests of routes since `before` stayed within; 0 without
    /// such requests.
    pub(crate) fn p99_since(&self, before: &Self) -> u32 {
        let count = self.total.count.saturating_sub(before.total.count);
        if count == 0 {
            return 0;
        }
        let mut within = 0;
        let buckets = self.total.buckets.iter().zip(before.total.buckets);
        for ((now, before), bound) in buckets.zip(OTHER_BOUNDS) {
            within += now.saturating_sub(before);
            if within * 100 >= count * 99 {
                return u32::try_from(bound * 1000).unwrap_or(u32::MAX);
            }
        }
        u32::MAX
    }
}

impl Sum {
    /// What a control plane is told.
    pub(crate) fn figures(&self) -> Figures {
        let mut figures = Figures {
            requests: self.requests,
            failed: self.failed,
            left: self.left,
            ..Figures::default()
        };
        // What matches no route is answered at once: a route that is new would seem slow beside it.
        let unrouted = Labels::default();
        let routed = self
            .series
            .iter()
            .filter(|series| *series.labels != unrouted);
        for series in routed.chain([&self.gone]) {
            figures.total.add(&series.total);
            figures.total.add(&series.untold);
        }
        figures
    }
}
