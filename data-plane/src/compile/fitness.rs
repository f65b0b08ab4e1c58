//! Records that cannot be run. One that the rest can safely do without does not keep a node from its configuration: what
//! needs it is refused, and everything else is served. So a secret that is missing on a node that starts, or a record that
//! an earlier version has taken, takes down what it is for and no more. A change that brings one is refused as a whole.

use std::collections::HashSet;

use shared::entity::{CaCertificate, Certificate, Entity as _, Plugin, Service};
use shared::snapshot::Key;

use super::{CompileFault, CompiledSnapshot};

/// What is wrong with the records that a compiled snapshot does without, in order.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Unfit {
    faults: Vec<CompileFault>,
    /// Whether secrets are missing.
    lacks_secrets: bool,
}

impl Unfit {
    /// Takes `faults`, unless there is one that the rest cannot do without. What else is said of the fields of records
    /// of `lost` follows from what they lack.
    pub(super) fn of(
        mut faults: Vec<CompileFault>,
        lost: &[CompileFault],
    ) -> Result<Self, Vec<CompileFault>> {
        let keys: HashSet<Key> = lost.iter().map(CompileFault::key).collect();
        let known: HashSet<&CompileFault> = lost.iter().collect();
        faults.retain(|fault| {
            !is_contained(fault) || !keys.contains(&fault.key()) || known.contains(fault)
        });
        if faults.iter().all(is_contained) {
            Ok(Self {
                faults,
                lacks_secrets: !lost.is_empty(),
            })
        } else {
            Err(faults)
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }

    pub(crate) fn faults(&self) -> &[CompileFault] {
        &self.faults
    }

    /// How many records there are faults of.
    pub(crate) fn records(&self) -> usize {
        self.faults.chunk_by(|a, b| a.key() == b.key()).count()
    }

    pub(super) fn into_faults(self) -> Vec<CompileFault> {
        self.faults
    }

    /// Whether secrets are missing: they may be there later.
    pub(crate) const fn lacks_secrets(&self) -> bool {
        self.lacks_secrets
    }

    /// What of it refuses a change from what ran with `before`: a record that has become unfit, whichever other record or
    /// secret made it so, since what runs is better.
    pub(crate) fn refusals(&self, before: &Self) -> Vec<CompileFault> {
        let known: HashSet<Key> = before.faults.iter().map(CompileFault::key).collect();
        let is_worse = |fault: &&CompileFault| !known.contains(&fault.key());
        self.faults.iter().filter(is_worse).cloned().collect()
    }
}

impl CompiledSnapshot {
    /// Says what is wrong with it that was not with the one `before`: somebody has to act.
    pub(crate) fn alarm(&self, before: Option<&Self>) {
        let known = before.map_or(&[][..], |before| before.unfit.faults());
        for fault in &self.unfit.faults {
            if !known.contains(fault) {
                tracing::error!(
                    entity = format!("{} {}", fault.kind, fault.id),
                    field = fault.field,
                    reason = fault.message,
                    "a record cannot be run: what needs it is refused, all else is served"
                );
            }
        }
        let stale = |compiled: &Self| {
            let resolved = compiled.resolved.as_ref();
            resolved
                .map(|resolved| resolved.stale.clone())
                .unwrap_or_default()
        };
        let known = before.map(stale).unwrap_or_default();
        for fault in stale(self) {
            if !known.contains(&fault) {
                tracing::error!(
                    entity = format!("{} {}", fault.kind, fault.id),
                    field = fault.field,
                    reason = fault.message,
                    "a secret is gone: it stays what it was until this process ends"
                );
            }
        }
    }
}

/// Whether it is enough for `fault` to refuse what needs the record. What is no record of its kind, or a plugin that
/// nobody knows, does not say what that is.
fn is_contained(fault: &CompileFault) -> bool {
    match fault.kind {
        Plugin::KIND => fault.field.starts_with("config."),
        CaCertificate::KIND | Certificate::KIND | Service::KIND => fault.field != "@entity",
        _ => false,
    }
}
