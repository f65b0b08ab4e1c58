//! A node's row, as operators see it.

use serde_json::{Value, json};
use shared::clock::UnixTime;
use shared::expiry;
use shared::snapshot::{Position, short_hash};
use shared::tls::CLUSTER_CERTIFICATE;
use uuid::Uuid;

use super::{PURGE_DELAY, Row};
use crate::snapshot::Missing;

impl Row {
    /// Kong's clients want a UUID. The same for a name, wherever and whenever it is seen.
    pub(super) fn id(&self) -> Uuid {
        Uuid::new_v5(&Uuid::NAMESPACE_URL, self.introduction.name.as_bytes())
    }

    /// Whether this is its name or its id.
    pub(super) fn is_called(&self, name: &str) -> bool {
        self.introduction.name == name || Uuid::parse_str(name).is_ok_and(|id| id == self.id())
    }

    pub(super) fn config_hash(&self) -> String {
        short_hash(&self.running.root)
    }

    /// What is between the node and `target`.
    fn progress(&self, target: &Position) -> &'static str {
        let quarantined = || self.introduction.quarantined.contains(target);
        let refused = || {
            self.last_refusal
                .as_ref()
                .is_some_and(|refusal| refusal.position == *target)
        };
        if self.running.is_same(target) {
            "current"
        } else if !self.missing.is_empty() {
            "blocked"
        } else if quarantined() {
            "quarantined"
        } else if self.stuck {
            "stuck"
        } else if refused() {
            "refused"
        } else if target.is_after(&self.running) {
            "behind"
        } else {
            "ahead"
        }
    }

    /// Kong's word for whether the node is allowed to sync; `progress` says how far it is.
    fn sync_status(&self) -> &'static str {
        let plugin = |missing: &Missing| missing.feature.starts_with("plugin/");
        if self.missing.is_empty() {
            "normal"
        } else if self.missing.iter().any(plugin) {
            "plugin_set_incompatible"
        } else {
            "kong_version_incompatible"
        }
    }

    pub(super) fn show(&self, target: &Position, now: UnixTime) -> Value {
        let introduction = &self.introduction;
        let refusal = self.last_refusal.as_ref().map(|refusal| {
            json!({
                "revision": refusal.position.revision,
                "config_hash": short_hash(&refusal.position.root),
                "at": refusal.at.as_secs(),
                "faults": refusal.faults,
            })
        });
        let missing = self.missing.iter().map(|missing| {
            json!({
                "feature": missing.feature,
                "entity_type": missing.record.map(|key| key.kind),
                "entity_id": missing.record.map(|key| key.id),
            })
        });
        // It may have been renewed since the connection began. Nodes of earlier versions do not tell.
        let mut reported = self.report.expiries.iter();
        let reported = reported.find(|(what, _)| what == CLUSTER_CERTIFICATE);
        let seen = introduction.certificate_expires_at;
        let expiry = reported.map(|(_, at)| *at).or(seen);
        let seen = seen.filter(|_| reported.is_none());
        let own = seen.map(|at| (CLUSTER_CERTIFICATE.to_owned(), at));
        let expiring = own.iter().chain(&self.report.expiries);
        let expiring = expiring
            .filter(|(_, at)| expiry::is_soon(*at, now))
            .map(|(what, at)| json!({ "what": what, "at": at.as_secs() }));
        json!({
            "id": self.id(),
            "name": introduction.name,
            "hostname": introduction.hostname,
            "ip": introduction.ip,
            "version": introduction.version,
            "labels": introduction.labels,
            "cert_details": { "expiry_timestamp": expiry.map(UnixTime::as_secs) },
            "config_hash": self.config_hash(),
            "generation": self.running.generation,
            "revision": self.running.revision,
            "urgent": (self.running.urgent > self.running.revision).then_some(self.running.urgent),
            "running_since": self.running_since.as_secs(),
            "sync_status": self.sync_status(),
            "progress": self.progress(target),
            "missing": missing.collect::<Vec<_>>(),
            "quarantined": introduction.quarantined.iter().map(|position| position.revision).collect::<Vec<_>>(),
            "last_refusal": refusal,
            "unfit": self.report.unfit,
            "connected": self.connected,
            "draining": self.report.draining,
            "persisted": self.report.persisted,
            "requests": self.report.requests,
            "failed": self.report.failed,
            "p99_us": self.report.p99_us,
            "connections": self.report.connections,
            "resident_bytes": self.report.resident_bytes,
            "crash_restarts": self.report.crash_restarts,
            "clock_offset_ms": self.clock_offset,
            "expiring": expiring.collect::<Vec<_>>(),
            "last_seen": self.last_seen.as_secs(),
            "updated_at": self.last_seen.as_secs(),
            "ttl": PURGE_DELAY.as_secs(),
        })
    }
}
