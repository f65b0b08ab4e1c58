//! A node's row, as operators and monitoring see it.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Value, json};
use shared::clock::UnixTime;
use shared::expiry;
use shared::snapshot::{Hash, Position, Revision, short_hash};
use shared::tls::CLUSTER_CERTIFICATE;
use uuid::Uuid;

use super::clocks::on_the_wall;
use super::{Fault, Refusal, Row};
use crate::snapshot::Missing;

/// What is between a node and what it is led to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// Nothing.
    Current,
    /// It does not know what it would have to.
    Blocked,
    /// It has crashed with it.
    Quarantined,
    /// It refuses it as it refused what was before it.
    Stuck,
    /// It has refused it.
    Refused,
    /// Time.
    Behind,
    /// It runs what is newer than what is known here.
    Ahead,
}

impl Standing {
    /// Whether it does not take it, be it for the first time or again.
    pub const fn is_refusal(self) -> bool {
        matches!(self, Self::Refused | Self::Stuck | Self::Quarantined)
    }

    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Blocked => "blocked",
            Self::Quarantined => "quarantined",
            Self::Stuck => "stuck",
            Self::Refused => "refused",
            Self::Behind => "behind",
            Self::Ahead => "ahead",
        }
    }
}

/// A node as monitoring counts it.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Its id.
    pub id: Uuid,
    /// The name of its machine.
    pub hostname: String,
    /// The version of its program.
    pub version: String,
    /// Where its connection comes from.
    pub ip: Option<IpAddr>,
    /// When it was heard last.
    pub last_seen: UnixTime,
    /// When its certificate ends.
    pub certificate_expires_at: Option<UnixTime>,
    /// The root of what it runs.
    pub root: Hash,
    /// The revision that it runs.
    pub revision: Revision,
    /// Whether it knows all that it has to.
    pub compatible: bool,
    /// Whether it has a stream.
    pub connected: bool,
    /// How far it is.
    pub standing: Standing,
    /// How far its clock is ahead of ours, in milliseconds, as far as is known.
    pub clock_offset: Option<i64>,
    /// Whether two processes take turns as this node.
    pub contested: bool,
}

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
    fn standing(&self, target: &Position) -> Standing {
        let refusal = self.last_refusal.as_ref();
        let refusal = refusal.filter(|refusal| refusal.position == *target);
        // With other keys or revocations than those that it crashed with, it says so as it refuses it.
        let of_quarantine = |refusal: &Refusal| refusal.faults.iter().any(Fault::is_of_quarantine);
        let quarantined =
            self.introduction.quarantined.contains(target) || refusal.is_some_and(of_quarantine);
        if self.running.is_same(target) {
            Standing::Current
        } else if !self.missing.is_empty() {
            Standing::Blocked
        } else if quarantined {
            Standing::Quarantined
        } else if self.stuck {
            Standing::Stuck
        } else if refusal.is_some() {
            Standing::Refused
        } else if target.is_after(&self.running) {
            Standing::Behind
        } else {
            Standing::Ahead
        }
    }

    /// When its certificate ends, as it tells: it may have been renewed since the connection began. Nodes of earlier
    /// versions do not tell.
    fn reported_expiry(&self) -> Option<UnixTime> {
        let mut reported = self.report.expiries.iter();
        let own = reported.find(|(what, _)| what == CLUSTER_CERTIFICATE);
        own.map(|(_, at)| *at)
    }

    /// When its certificate ends, as far as is known.
    fn certificate_expires_at(&self) -> Option<UnixTime> {
        self.reported_expiry()
            .or(self.introduction.certificate_expires_at)
    }

    pub(super) fn figures(&self, target: &Position) -> Figures {
        Figures {
            id: self.id(),
            hostname: self.introduction.hostname.clone(),
            version: self.introduction.version.clone(),
            ip: self.introduction.ip,
            last_seen: on_the_wall(self.last_seen),
            certificate_expires_at: self.certificate_expires_at(),
            root: self.running.root,
            revision: self.running.revision,
            compatible: self.missing.is_empty(),
            connected: self.connected,
            standing: self.standing(target),
            clock_offset: self.clock_offset,
            contested: self.contested,
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

    pub(super) fn show(&self, target: &Position, now: UnixTime, purge_delay: Duration) -> Value {
        let introduction = &self.introduction;
        let refusal = self.last_refusal.as_ref().map(|refusal| {
            json!({
                "revision": refusal.position.revision,
                "config_hash": short_hash(&refusal.position.root),
                "at": on_the_wall(refusal.at).as_secs(),
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
        let last_seen = on_the_wall(self.last_seen);
        let seen = introduction.certificate_expires_at;
        let seen = seen.filter(|_| self.reported_expiry().is_none());
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
            "cert_details": { "expiry_timestamp": self.certificate_expires_at().map(UnixTime::as_secs) },
            "config_hash": self.config_hash(),
            "generation": self.running.generation,
            "revision": self.running.revision,
            "urgent": (self.running.urgent > self.running.revision).then_some(self.running.urgent),
            "revoked": (self.revoked > self.running.revision.max(self.running.urgent)).then_some(self.revoked),
            "running_since": on_the_wall(self.running_since).as_secs(),
            "sync_status": self.sync_status(),
            "progress": self.standing(target).word(),
            "missing": missing.collect::<Vec<_>>(),
            "quarantined": introduction.quarantined.iter().map(|position| position.revision).collect::<Vec<_>>(),
            "last_refusal": refusal,
            "unfit": self.report.unfit,
            "connected": self.connected,
            "contested": self.contested,
            "draining": self.report.draining,
            "persisted": self.report.persisted,
            "requests": self.report.requests,
            "failed": self.report.failed,
            "p99_us": self.report.p99_us,
            "connections": self.report.connections,
            "resident_bytes": self.report.resident_bytes,
            // A run says how many in a row it followed; how many there were in all only who has seen them knows.
            "crash_restarts": self.crashes.max(self.report.crash_restarts),
            "clock_offset_ms": self.clock_offset,
            "expiring": expiring.collect::<Vec<_>>(),
            "last_seen": last_seen.as_secs(),
            "updated_at": last_seen.as_secs(),
            "ttl": purge_delay.as_secs(),
        })
    }
}
