//! What a deletion takes along, or what prevents it.

use std::collections::HashSet;

use shared::entity::{
    CaCertificate, DEFAULT_WORKSPACE, Entity, OnDelete, RbacRoleEndpoint, Service, Workspace,
    definition,
};
use shared::snapshot::Key;

use super::Rejection;
use crate::config::Config;

/// `key` and everything that depends on it, each once.
pub(super) fn removal(config: &Config, key: Key) -> Result<Vec<Key>, Rejection> {
    if key.kind == Workspace::KIND
        && (key.id == DEFAULT_WORKSPACE || config.referrers(key).next().is_some())
    {
        return Err(Rejection::NotEmpty);
    }
    if let Some(by) = user_of_authority(config, key) {
        return Err(Rejection::StillUsed { key, by });
    }
    let mut removes = vec![key];
    if key.kind == Workspace::KIND {
        removes.extend(permissions(config, key));
    }
    let mut seen = HashSet::from([key]);
    let mut next = 0;
    while let Some(parent) = removes.get(next).copied() {
        next += 1;
        for child in config.referrers(parent) {
            if !seen.insert(child) {
                continue;
            }
            let on_delete = definition(child.kind).map(|entity| entity.on_delete);
            if on_delete == Some(OnDelete::Refuse) {
                return Err(Rejection::Referenced {
                    kind: parent.kind,
                    by: child.kind,
                });
            }
            removes.push(child);
        }
    }
    Ok(removes)
}

/// What roles permit in a workspace. They name it, and another may get that name.
pub(super) fn permissions(config: &Config, workspace: Key) -> Vec<Key> {
    let name = config
        .record(workspace)
        .and_then(|record| record.get("name").cloned());
    config
        .collection(RbacRoleEndpoint::KIND, uuid::Uuid::nil())
        .filter(|(_, fields)| fields.get("workspace") == name.as_ref())
        .map(|(key, _)| key)
        .collect()
}

/// The service that trusts the CA certificate `key`, in whatever workspace: all share these. Such a list is no foreign key, so it is looked through;
/// few have one, and CA certificates go rarely.
fn user_of_authority(config: &Config, key: Key) -> Option<Key> {
    if key.kind != CaCertificate::KIND {
        return None;
    }
    let id = key.id.to_string();
    config.everywhere().records().find_map(|(service, record)| {
        if service.kind != Service::KIND {
            return None;
        }
        let fields = record.pick(|field| field == "ca_certificates");
        let list = fields.get("ca_certificates")?.as_array()?;
        list.iter().any(|used| *used == id).then_some(*service)
    })
}
