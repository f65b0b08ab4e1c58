//! Histograms.

use std::fmt::Write as _;

use super::{Labels, escape, shown};

/// Upper bounds of Kong's latency histograms, in milliseconds: time in the gateway, and all other.
pub(super) const GATEWAY_BOUNDS: [u64; 17] = [
    1, 2, 5, 7, 10, 15, 20, 30, 50, 75, 100, 200, 500, 750, 1000, 3000, 6000,
];
pub(super) const OTHER_BOUNDS: [u64; 13] = [
    25, 50, 80, 100, 250, 400, 700, 1000, 2000, 5000, 10_000, 30_000, 60_000,
];

/// How many values there were up to each bound.
#[derive(Clone, Debug)]
pub(super) struct Histogram<const N: usize> {
    /// Values up to each bound, and not up to one before.
    pub(super) buckets: [u64; N],
    pub(super) count: u64,
    sum: u64,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self {
            buckets: [0; N],
            count: 0,
            sum: 0,
        }
    }
}

impl<const N: usize> Histogram<N> {
    pub(super) fn observe(&mut self, bounds: &[u64; N], value: u64) {
        let place = bounds.partition_point(|bound| *bound < value);
        if let Some(bucket) = self.buckets.get_mut(place) {
            *bucket += 1;
        }
        self.count += 1;
        self.sum += value;
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (bucket, more) in self.buckets.iter_mut().zip(other.buckets) {
            *bucket += more;
        }
        self.count += other.count;
        self.sum += other.sum;
    }
}

/// Adds the lines of a histogram that holds any values.
pub(super) fn histogram<const N: usize>(
    text: &mut String,
    name: &str,
    labels: &Labels,
    bounds: &[u64; N],
    histogram: &Histogram<N>,
) {
    if histogram.count == 0 {
        return;
    }
    let (labels, workspace) = (shown(labels), escape(&labels.workspace));
    let mut total = 0;
    for (bound, count) in bounds.iter().zip(histogram.buckets) {
        total += count;
        let _ = writeln!(
            text,
            "{name}_bucket{{{labels},workspace=\"{workspace}\",le=\"{bound}\"}} {total}"
        );
    }
    let (count, sum) = (histogram.count, histogram.sum);
    let _ = writeln!(
        text,
        "{name}_bucket{{{labels},workspace=\"{workspace}\",le=\"+Inf\"}} {count}\n{name}_count{{{labels},workspace=\"{workspace}\"}} {count}\n{name}_sum{{{labels},workspace=\"{workspace}\"}} {sum}"
    );
}
