//! Records as data planes get them, as bytes of the wire and as JSON that a newer control plane might send.

#![no_main]

use data_plane::compile::compile;
use libfuzzer_sys::fuzz_target;
use shared::entity::definition;
use shared::snapshot::{Key, Record, Revision, Snapshot};
use uuid::Uuid;

// Lines of a collection's name and a record, or, after a zero, the bytes of a message.
fuzz_target!(|input: &[u8]| {
    let mut records = match input.split_first() {
        Some((0, message)) => match proto::decode_changes(message.to_vec()) {
            Ok(changes) => changes.puts,
            Err(_) => return,
        },
        _ => (1..)
            .zip(input.split(|byte| *byte == b'\n'))
            .filter_map(record)
            .collect(),
    };
    records.sort_by_key(|record| record.key);
    records.dedup_by_key(|record| record.key);
    let snapshot = Snapshot::new(1, Revision(1), records);
    if let Err(faults) = compile(&snapshot) {
        assert!(!faults.is_empty(), "refused without a reason");
    }
});

/// A line's record. Its id is the line's number if it says no other.
fn record((number, line): (u128, &[u8])) -> Option<Record> {
    let end = line.iter().position(|byte| *byte == b' ')?;
    let (kind, json) = line.split_at(end);
    let kind = definition(std::str::from_utf8(kind).ok()?)?.kind;
    let id = serde_json::from_slice::<serde_json::Value>(json)
        .ok()
        .and_then(|record| record.get("id")?.as_str()?.parse().ok());
    Some(Record {
        key: Key {
            kind,
            id: id.unwrap_or(Uuid::from_u128(number)),
        },
        json: json.to_vec().into(),
    })
}
