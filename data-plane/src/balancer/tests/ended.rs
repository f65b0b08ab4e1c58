//! Checks that are switched off.

use super::super::{Event, Thresholds};
use super::*;

#[test]
fn what_checks_have_found_ends_with_them_and_what_an_operator_has_said_does_not() {
    let node = Balancers::default();
    let passive = json!({ "unhealthy": { "tcp_failures": 1 } });
    let checks = json!({ "healthchecks": { "passive": passive } });
    let thresholds = Thresholds {
        tcp_failures: 1,
        ..Thresholds::default()
    };
    let healthy = |balancer: &Arc<Balancer>| {
        let table = balancer.table();
        let entries = table.entries.iter().map(|entry| entry.peer.is_healthy());
        entries.collect::<Vec<_>>()
    };
    let peer =
        |balancer: &Arc<Balancer>, place: usize| Arc::clone(&balancer.table().entries[place].peer);
    let checked = balancer(&node, checks.clone(), &[1, 1, 1]);
    checked.report(&peer(&checked, 0), Event::TcpFailure, &thresholds);
    checked.set_health(&peer(&checked, 1), false);
    assert_eq!(healthy(&checked), [false, false, true]);
    let unchecked = balancer(&node, json!({}), &[1, 1, 1]);
    assert_eq!(healthy(&unchecked), [true, false, true]);
    assert_eq!(count(&unchecked, 8).len(), 2);
    // A request that has begun before fails.
    checked.report(&peer(&checked, 2), Event::TcpFailure, &thresholds);
    assert_eq!(healthy(&unchecked), [true, false, true]);
    let checked = balancer(&node, checks, &[1, 1, 1]);
    checked.report(&peer(&checked, 2), Event::TcpFailure, &thresholds);
    assert_eq!(healthy(&checked), [true, false, false]);
}
