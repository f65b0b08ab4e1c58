//! What a control plane says of itself as a stream begins, and what its clock says.

use std::time::Duration;

use proto::v1::Welcome;
use shared::clock::{Ahead, UnixTime, monotonic};
use shared::snapshot::Position;

use super::Following;

/// Bounds of what a control plane may ask for.
const CADENCE: [u32; 2] = [100, 10_000];
/// How far two clocks may differ before it is worth a word: lifetimes are judged by them.
const CLOCKS: Duration = Duration::from_secs(5);

impl Following<'_> {
    /// The control plane leads this node from now on.
    pub(super) async fn welcome(&mut self, welcome: Welcome) {
        self.gateway.contact.connects(true, monotonic());
        self.gateway.contact.hears(monotonic());
        self.gateway.questions.begin_stream();
        self.led_to(welcome.target.as_ref());
        let [least, most] = CADENCE;
        let bounded = |asked: u32| Duration::from_millis(asked.clamp(least, most).into());
        self.heartbeat = bounded(welcome.heartbeat_ms);
        self.status = bounded(welcome.status_ms);
        tracing::info!(replica = welcome.replica, "following a control plane");
        self.compare_clocks(welcome.wall_clock_ms, true);
        let target = welcome.target.and_then(|target| target.try_into().ok());
        self.applier.is_led_to(target);
        let led_in = target.map(|target: Position| target.generation);
        if let Some(generation) = led_in.filter(|_| !self.rests) {
            self.applier.is_led_in(generation).await;
        }
        self.settle_at(target);
    }

    /// Notes what the control plane's clock says, and says once if the two have come apart.
    pub(super) fn compare_clocks(&mut self, theirs: u64, is_first: bool) {
        let (theirs, ours) = (UnixTime::from_millis(theirs), UnixTime::now());
        let clocks = &self.gateway.contact.clocks;
        if is_first {
            clocks.greeted(self.asked, theirs, ours, monotonic());
        } else {
            clocks.hear(theirs, monotonic());
        }
        let apart = Duration::from_millis(Ahead::of(ours, theirs).as_millis().unsigned_abs());
        if apart <= CLOCKS {
            self.clocks.ends();
        } else if self.clocks.is_news("apart", monotonic()) {
            tracing::warn!(
                seconds = apart.as_secs(),
                "this node's clock differs from the control plane's: sessions and tokens will seem older or younger than they are"
            );
        }
    }
}
