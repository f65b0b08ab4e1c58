//! Work that no request triggers: names are resolved again before they expire, and targets are health-checked. It runs
//! on a thread of its own, so that no core waits for it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::{Balancer, Peer, check};
use crate::core::Node;
use crate::orders::{Orders, stopped};
use crate::upstream::resolve::Resolver;

/// How soon a new configuration is noticed.
const LOOK: Duration = Duration::from_millis(100);

/// Runs until `stop` says so.
pub(crate) async fn run(node: Arc<Node>, mut orders: watch::Receiver<Orders>) {
    let resolver = Arc::new(Resolver::new(node.dns.clone()));
    let mut tasks: HashMap<Uuid, (Arc<Balancer>, Vec<JoinHandle<()>>)> = HashMap::new();
    // What it is compared with keeps its place, so that no other is there, and nothing of the snapshot itself.
    let mut seen = Weak::new();
    loop {
        if let Some(snapshot) = node.live.load_full() {
            let found = Arc::downgrade(&snapshot);
            if !found.ptr_eq(&seen) {
                seen = found;
                follow(&mut tasks, snapshot.balancers(&node.balancers), &resolver);
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = stopped(&mut orders) => break,
        }
    }
    for (_, handles) in tasks.into_values() {
        handles.iter().for_each(JoinHandle::abort);
    }
}

/// Starts what new balancers need, and ends what those that are gone had.
fn follow(
    tasks: &mut HashMap<Uuid, (Arc<Balancer>, Vec<JoinHandle<()>>)>,
    wanted: &[Arc<Balancer>],
    resolver: &Arc<Resolver>,
) {
    let by_id: HashMap<Uuid, &Arc<Balancer>> = wanted
        .iter()
        .map(|balancer| (balancer.config.id, balancer))
        .collect();
    tasks.retain(|id, (balancer, handles)| {
        let wanted = by_id.get(id);
        let stays = wanted.is_some_and(|wanted| Arc::ptr_eq(wanted, balancer));
        if !stays {
            handles.iter().for_each(JoinHandle::abort);
        }
        stays
    });
    for balancer in wanted {
        let id = balancer.config.id;
        if tasks.contains_key(&id) {
            continue;
        }
        let mut handles = Vec::new();
        if balancer.has_names() {
            let (balancer, resolver) = (Arc::clone(balancer), Arc::clone(resolver));
            handles.push(tokio::spawn(async move {
                balancer.ready(&resolver).await;
                loop {
                    let next = balancer.resolve(&resolver).await;
                    tokio::time::sleep_until(next.into()).await;
                }
            }));
        }
        if let Some(checks) = &balancer.config.active {
            for (every, healthy) in [
                (checks.healthy_every, true),
                (checks.unhealthy_every, false),
            ] {
                if let Some(every) = every {
                    let balancer = Arc::clone(balancer);
                    handles.push(tokio::spawn(check_all(balancer, every, healthy)));
                }
            }
        }
        tasks.insert(id, (Arc::clone(balancer), handles));
    }
}

/// Asks all healthy peers, or all others, every so often.
async fn check_all(balancer: Arc<Balancer>, every: Duration, healthy: bool) {
    let Some(checks) = &balancer.config.active else {
        return;
    };
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let table = balancer.table();
        let mut due: Vec<Arc<Peer>> = Vec::new();
        for entry in &table.entries {
            if entry.weight > 0
                && entry.peer.is_healthy() == healthy
                && !due.iter().any(|known| Arc::ptr_eq(known, &entry.peer))
            {
                due.push(Arc::clone(&entry.peer));
            }
        }
        stream::iter(due)
            .for_each_concurrent(checks.concurrency, |peer| {
                let balancer = &balancer;
                async move {
                    if let Some(event) = check::check(&balancer.config, checks, &peer).await {
                        balancer.report(&peer, event, &checks.judgement.thresholds);
                    }
                }
            })
            .await;
    }
}
