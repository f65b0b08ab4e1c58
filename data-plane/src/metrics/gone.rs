//! The metrics of routes that are no longer in any configuration. They are kept for a while, so that a scraper sees
//! their last values, and then summed up, so that memory does not grow with every route that ever existed.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use foldhash::HashMap;
use uuid::Uuid;

use super::{Labels, Metrics, Series};
use crate::core::Node;

/// Where the sum of all that are gone stands.
pub(super) const ALL: Uuid = Uuid::max();

/// Pause between two looks. What is gone at two of them is not shown any more.
const LOOK: Duration = Duration::from_mins(5);

/// Forgets the figures of routes that are gone, for as long as the node runs.
pub(crate) async fn forget(node: &Node) {
    let mut missing = HashSet::new();
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(snapshot) = node.live.load_full() else {
            continue;
        };
        let living: HashSet<Uuid> = snapshot.route_ids().collect();
        missing = look(&node.metrics, &living, &missing);
    }
}

/// Forgets what was `missing` before and is so again; answers what is missing now.
fn look(cores: &[Arc<Metrics>], living: &HashSet<Uuid>, missing: &HashSet<Uuid>) -> HashSet<Uuid> {
    let is_gone = |id: &Uuid| !living.contains(id) && !id.is_nil() && *id != ALL;
    let mut now = HashSet::new();
    for core in cores {
        let mut routes = core.routes.lock().unwrap_or_else(PoisonError::into_inner);
        now.extend(routes.keys().copied().filter(is_gone));
        fold(&mut routes, |id| is_gone(id) && missing.contains(id));
        let known = core
            .streams
            .forget(&|id| is_gone(id) && missing.contains(id));
        now.extend(known.into_iter().filter(is_gone));
    }
    now
}

/// Adds up those `routes` that are `gone`. One that was made anew under its name goes on with what the one before had.
fn fold(routes: &mut HashMap<Uuid, Series>, gone: impl Fn(&Uuid) -> bool) {
    let taken: Vec<Series> = routes
        .extract_if(|id, _| gone(id))
        .map(|(_, series)| series)
        .collect();
    if taken.is_empty() {
        return;
    }
    // By labels: each request of this core waits meanwhile, and all routes may have been made anew.
    let others = routes.iter().filter(|(id, _)| **id != ALL);
    let heirs: HashMap<Arc<Labels>, Uuid> = others
        .map(|(id, series)| (Arc::clone(&series.labels), *id))
        .collect();
    for series in taken {
        match heirs.get(&series.labels).and_then(|id| routes.get_mut(id)) {
            Some(heir) => heir.add(&series),
            None => routes.entry(ALL).or_default().sum_up(&series),
        }
    }
}

impl Series {
    /// Adds what is counted of all, and nothing by name.
    fn sum_up(&mut self, other: &Self) {
        self.requests += other.requests;
        self.volume.add(&other.volume);
        self.total.add(&other.total);
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use plugins::exchange::Source;
    use plugins::filter::Counts;

    use super::*;
    use crate::metrics::{Labels, Observation, Sum};

    #[test]
    fn what_is_gone_is_counted_but_not_shown() {
        let core = Arc::new(Metrics::default());
        let observe = |id: u128, route: &str| {
            let labels = Arc::new(Labels {
                service: "s".to_owned(),
                route: route.to_owned(),
                ..Labels::default()
            });
            core.begin();
            core.observe(&Observation {
                route: Some((Uuid::from_u128(id), &labels)),
                counts: Counts::DEFAULT,
                consumer: None,
                status: StatusCode::BAD_GATEWAY,
                source: Source::Error,
                received: 1,
                sent: 1,
                proxy_latency: 1,
                upstream_latency: None,
                total_latency: 1,
                lacks: false,
            });
        };
        observe(1, "stays");
        observe(2, "gone");
        observe(3, "again");
        observe(4, "again");
        // Twice made anew, or twice under one name and not again.
        observe(6, "again");
        observe(7, "gone");
        let cores = [Arc::clone(&core)];
        let living: HashSet<Uuid> = [1, 4].map(Uuid::from_u128).into();
        let shown = || Sum::of(&cores).render("node", Counts::DEFAULT);
        let missing = look(&cores, &living, &HashSet::new());
        assert_eq!(missing, [2, 3, 6, 7].map(Uuid::from_u128).into());
        assert!(shown().contains("route=\"gone\""));
        let missing = look(&cores, &living, &missing);
        assert!(!shown().contains("route=\"gone\""), "{}", shown());
        let again =
            "route=\"again\",code=\"502\",source=\"kong\",workspace=\"default\",consumer=\"\"} 3";
        assert!(shown().contains(again), "{}", shown());
        let sum = Sum::of(&cores);
        assert_eq!((sum.requests, sum.writing), (6, 0));
        assert_eq!(sum.figures().failed, 6);
        // One that is back within the time has lost nothing.
        observe(5, "new");
        let missing = look(&cores, &living, &missing);
        let back: HashSet<Uuid> = [1, 4, 5].map(Uuid::from_u128).into();
        look(&cores, &back, &missing);
        assert!(shown().contains("route=\"new\""));
    }
}
