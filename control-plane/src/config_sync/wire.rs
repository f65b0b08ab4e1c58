//! Converts between the messages on the wire and our values.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use prost::bytes::Bytes;
use proto::v1;
use proto::v1::NodeMessage;
use shared::clock::UnixTime;
use shared::snapshot::Position;
use tonic::Status;
use uuid::Uuid;

use super::Peer;
use super::session::Abilities;
use crate::fleet::{Address, Fault, Introduction, Report, Targets};

/// Characters of a text from a node that are kept.
const TEXT: usize = 512;
/// Labels of a node that are kept.
const LABELS: usize = 32;
/// Features of a node that are kept: more than there are kinds and plugins; and bytes of the name of one.
const FEATURES: usize = 1024;
const FEATURE: usize = 128;
/// Quarantined positions of a node that are kept.
const QUARANTINED: usize = 16;
/// Flights of a node that are kept: as many as it tells of.
const FLIGHTS: usize = 1_024;
/// Expiries of a node that are kept.
const EXPIRIES: usize = 64;
/// Unhealthy targets of a node that are kept.
const UNHEALTHY: usize = 10_000;
/// Addresses of a node's targets that are kept.
const ADDRESSES: usize = 1_000;
/// Most faults of records that a report tells.
const FAULTS: usize = 20;

/// What a node's first message says, if it may be believed.
pub(super) fn introduction(
    message: Option<NodeMessage>,
    peer: &Peer,
) -> Result<Introduction, Status> {
    let Some(v1::node_message::Kind::Hello(hello)) = message.and_then(|message| message.kind)
    else {
        return Err(Status::failed_precondition(
            "the first message must be Hello",
        ));
    };
    if !shared::tls::may_be_called(&peer.name, &hello.node_id) {
        return Err(Status::permission_denied(format!(
            "this certificate is for the node `{}`, not for `{}`",
            peer.name,
            short(hello.node_id)
        )));
    }
    Ok(Introduction {
        name: hello.node_id,
        group: shared::tls::group_of(&peer.name).map(str::to_owned),
        version: short(hello.version),
        hostname: short(hello.hostname),
        ip: peer.address.map(|address| address.ip()),
        labels: hello
            .labels
            .into_iter()
            .take(LABELS)
            .map(|(name, value)| (short(name), short(value)))
            .collect(),
        certificate_expires_at: peer.certificate_expires_at,
        boot: short(hello.boot_id),
        running: position(hello.running)?,
        features: hello
            .features
            .into_iter()
            .filter(|feature| feature.len() <= FEATURE)
            .take(FEATURES)
            .collect(),
        quarantined: quarantined(hello.quarantined)?,
        crash_restarts: hello.crash_restarts,
        handed_over: hello.handed_over,
    })
}

/// The flights that a node does, by its first message: it was given them by a stream before.
pub(super) fn flights(message: Option<&NodeMessage>) -> Vec<Bytes> {
    match message.and_then(|message| message.kind.as_ref()) {
        Some(v1::node_message::Kind::Hello(hello)) => {
            hello.flights.iter().take(FLIGHTS).cloned().collect()
        }
        _ => Vec::new(),
    }
}

fn quarantined(positions: Vec<v1::Position>) -> Result<Vec<Position>, Status> {
    let positions = positions.into_iter().take(QUARANTINED);
    positions.map(|one| position(Some(one))).collect()
}

/// A position; absent: nothing yet.
pub(super) fn position(position: Option<v1::Position>) -> Result<Position, Status> {
    Position::try_from(position.unwrap_or_default())
        .map_err(|fault| Status::invalid_argument(fault.to_string()))
}

/// How a node does.
pub(super) fn report(status: v1::NodeStatus) -> Result<Report, Status> {
    Ok(Report {
        running: position(status.running)?,
        clock: UnixTime::from_millis(status.wall_clock_ms),
        persisted: status.persisted,
        draining: status.draining,
        requests: status.requests,
        failed: status.failed,
        left: status.left,
        connections: status.connections,
        resident_bytes: status.resident_bytes,
        crash_restarts: status.crash_restarts,
        p99_us: status.p99_us,
        expiries: status
            .expiries
            .into_iter()
            .take(EXPIRIES)
            .map(|expiry| (short(expiry.what), UnixTime::from_secs(expiry.at)))
            .collect(),
        targets: Arc::new(Targets {
            unhealthy: targets(&status.unhealthy_targets),
            unresolved: targets(&status.unresolved_targets),
            addresses: addresses(&status.target_addresses),
        }),
        unfit: status.unfit.into_iter().take(FAULTS).map(fault).collect(),
        quarantined: status
            .quarantine
            .map(|quarantine| quarantined(quarantine.positions))
            .transpose()?,
    })
}

fn targets(ids: &[impl AsRef<[u8]>]) -> HashSet<Uuid> {
    let ids = ids.iter().take(UNHEALTHY);
    ids.filter_map(|id| Uuid::from_slice(id.as_ref()).ok())
        .collect()
}

/// Where the names of targets lead.
fn addresses(told: &[v1::TargetAddress]) -> Vec<(Uuid, SocketAddr, Address)> {
    let mut addresses = BTreeMap::new();
    for told in told.iter().take(ADDRESSES) {
        let ip = <[u8; 4]>::try_from(&*told.address).map(IpAddr::from);
        let ip = ip.or_else(|_| <[u8; 16]>::try_from(&*told.address).map(IpAddr::from));
        let (Ok(target), Ok(ip)) = (Uuid::from_slice(&told.target), ip) else {
            continue;
        };
        let Ok(port) = u16::try_from(told.port) else {
            continue;
        };
        let address = Address {
            // The greatest weight of Kong's `target`.
            weight: told.weight.min(u16::MAX.into()),
            healthy: told.healthy,
        };
        addresses.insert((target, SocketAddr::new(ip, port)), address);
    }
    let addresses = addresses.into_iter();
    addresses
        .map(|((target, at), address)| (target, at, address))
        .collect()
}

/// What a node can take.
pub(super) fn abilities(introduction: &Introduction) -> Abilities {
    Abilities {
        delta: introduction.features.contains(proto::features::DELTA),
        buckets: introduction.features.contains(proto::features::BUCKETS),
    }
}

pub(super) fn fault(fault: v1::Fault) -> Fault {
    Fault {
        code: fault.code().as_str_name().to_owned(),
        entity_type: short(fault.entity_type),
        entity_id: short(fault.entity_id),
        field: short(fault.field),
        message: short(fault.message),
    }
}

fn short(text: String) -> String {
    if text.len() <= TEXT {
        return text;
    }
    text.chars().take(TEXT).collect()
}

#[cfg(test)]
mod tests {
    use proto::v1::node_message::Kind as Said;
    use shared::snapshot::Revision;

    use super::*;

    fn running() -> Position {
        Position {
            generation: 1,
            revision: Revision(5),
            urgent: Revision::default(),
            root: [7; 32],
        }
    }

    #[test]
    fn addresses_that_are_none_are_left_out_and_so_are_very_many() {
        let told = |target: u128, address: &'static [u8], port| v1::TargetAddress {
            target: Uuid::from_u128(target).as_bytes().to_vec().into(),
            address: Bytes::from_static(address),
            port,
            weight: 70_000,
            healthy: target == 1,
        };
        let v6: &[u8; 16] = &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let mut nameless = told(1, &[10, 0, 0, 4], 80);
        nameless.target = Bytes::from_static(&[7]);
        let all = [
            told(2, v6, 65_535),
            told(2, &[10, 0, 0, 1], 80),
            told(1, &[10, 0, 0, 2], 0),
            told(1, &[10, 0, 0, 3], 65_536),
            told(1, &[10, 0, 0, 3, 0], 80),
            told(1, &[], 80),
            told(2, &[10, 0, 0, 1], 80),
            nameless,
        ];
        let found = addresses(&all);
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let places: Vec<_> = found
            .iter()
            .map(|(id, at, _)| (*id, at.to_string()))
            .collect();
        let expected = [
            (one, "10.0.0.2:0"),
            (two, "10.0.0.1:80"),
            (two, "[2001:db8::1]:65535"),
        ];
        assert_eq!(places, expected.map(|(id, at)| (id, at.to_owned())));
        let said: Vec<_> = found
            .iter()
            .map(|(.., one)| (one.weight, one.healthy))
            .collect();
        assert_eq!(said, [(65_535, true), (65_535, false), (65_535, false)]);
        let ports = 1..=u32::try_from(ADDRESSES).unwrap() + 1;
        let many: Vec<_> = ports.map(|port| told(1, &[10, 0, 0, 1], port)).collect();
        assert_eq!(addresses(&many).len(), ADDRESSES);
    }

    /// What a data plane of the first version has sent is understood: each message with its length before it.
    #[test]
    fn what_a_node_of_the_first_version_says_is_understood() {
        use prost::Message as _;
        let recorded = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/node-1");
        let bytes = std::fs::read(recorded).unwrap();
        let mut bytes = bytes.as_slice();
        let mut next = || NodeMessage::decode_length_delimited(&mut bytes).unwrap();
        let peer = Peer {
            chain: Arc::default(),
            name: "node-1".to_owned(),
            address: None,
            certificate_expires_at: None,
        };
        let hello = introduction(Some(next()), &peer).unwrap();
        assert_eq!((hello.name.as_str(), hello.running), ("node-1", running()));
        assert!(abilities(&hello).delta && abilities(&hello).buckets);
        let Some(Said::Ack(ack)) = next().kind else {
            panic!("no Ack")
        };
        assert_eq!((ack.nonce, position(ack.running).unwrap()), (3, running()));
        let Some(Said::Nack(nack)) = next().kind else {
            panic!("no Nack")
        };
        let faults: Vec<_> = nack.faults.into_iter().map(fault).collect();
        assert_eq!(
            (faults[0].code.as_str(), faults[0].field.as_str()),
            ("INVALID", "paths")
        );
        let Some(Said::Status(status)) = next().kind else {
            panic!("no status")
        };
        let report = report(status).unwrap();
        assert_eq!(
            (report.running, report.requests, report.persisted),
            (running(), 9, true)
        );
    }

    /// What a data plane of the version before has said in a whole stream, from its Hello on, recorded by
    /// `RECORD=DIRECTORY tests/faults/run`.
    #[test]
    fn what_a_node_of_an_earlier_version_says_is_understood() {
        use prost::Message as _;
        let recorded = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/node-2");
        let bytes = std::fs::read(recorded).unwrap();
        let mut bytes = bytes.as_slice();
        let peer = Peer {
            chain: Arc::default(),
            name: "node-1".to_owned(),
            address: None,
            certificate_expires_at: None,
        };
        let first = NodeMessage::decode_length_delimited(&mut bytes).unwrap();
        let hello = introduction(Some(first), &peer).unwrap();
        assert!(abilities(&hello).delta && abilities(&hello).buckets);
        assert!(hello.features.contains(proto::features::URGENT));
        assert!(hello.features.contains("plugin/openid-connect"));
        let (mut acknowledged, mut reported) = (Position::default(), Position::default());
        let mut acks = 0;
        while !bytes.is_empty() {
            let message = NodeMessage::decode_length_delimited(&mut bytes).unwrap();
            match message.kind.unwrap() {
                Said::Ack(ack) => {
                    let running = position(ack.running).unwrap();
                    assert!(running.is_after(&acknowledged));
                    acknowledged = running;
                    acks += 1;
                }
                Said::Status(status) => reported = report(status).unwrap().running,
                other => panic!("{other:?}"),
            }
        }
        assert!(acks > 2);
        assert_eq!(reported, acknowledged);
    }
}
