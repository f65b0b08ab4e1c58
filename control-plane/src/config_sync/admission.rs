//! How many streams may begin at a time: when a whole fleet comes back, nodes are admitted at a rate that the control
//! plane can serve, and all others are told to come back, each at a different time.

use std::time::{Duration, Instant};

/// Streams that may begin at once.
const BURST: u32 = 200;

/// Streams that may begin in a second.
const RATE: u32 = 500;

/// The first pause of a node that is sent away.
const PAUSE: Duration = Duration::from_millis(200);

/// Counts the streams that begin.
#[derive(Debug)]
pub(super) struct Admission {
    /// How much may begin now.
    tokens: f64,
    /// Who was sent away lately, each given a time to come again.
    booked: f64,
    counted_at: Instant,
}

impl Admission {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            tokens: f64::from(BURST),
            booked: 0.0,
            counted_at: now,
        }
    }

    /// Lets a stream in, or says after which time to come again.
    pub(super) fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        let passed = now.saturating_duration_since(self.counted_at).as_secs_f64();
        self.counted_at = now;
        let allowed = passed * f64::from(RATE);
        self.tokens = (self.tokens + allowed).min(f64::from(BURST));
        self.booked = (self.booked - allowed).max(0.0);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        self.booked += 1.0;
        Err(PAUSE + Duration::from_secs_f64(self.booked / f64::from(RATE)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use shared::clock::monotonic;

    use super::*;

    #[test]
    fn a_herd_is_let_in_at_a_bounded_rate_and_nobody_waits_for_ever() {
        let start = monotonic();
        let mut admission = Admission::new(start);
        // 5,000 nodes come at once, and again whenever they are told to.
        let mut coming: BTreeMap<Duration, u32> = BTreeMap::from([(Duration::ZERO, 5_000)]);
        let mut admitted: Vec<Duration> = Vec::new();
        while let Some((at, count)) = coming.pop_first() {
            for _ in 0..count {
                match admission.admit(start + at) {
                    Ok(()) => admitted.push(at),
                    Err(wait) => *coming.entry(at + wait).or_default() += 1,
                }
            }
        }
        assert_eq!(admitted.len(), 5_000);
        let last = admitted.last().unwrap().as_secs_f64();
        assert!((9.0..20.0).contains(&last), "{last}");
        for second in 0..20 {
            let from = Duration::from_secs(second);
            let within = from..from + Duration::from_secs(1);
            let count = admitted.iter().filter(|at| within.contains(*at)).count();
            assert!(count <= 700, "{count} in second {second}");
        }
    }
}
