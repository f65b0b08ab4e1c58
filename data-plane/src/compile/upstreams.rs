//! Compiles upstreams and their targets for the balancers.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use plugins::exchange::Workspace;
use shared::authority::{bare, split_port};
use shared::entity::health_check::{ActiveChecks, CheckKind, HttpStatus};
use shared::entity::{Algorithm, HashOn, Target, Upstream};
use uuid::Uuid;

use super::CompileFault;
use super::tls::Identities;
use super::workspaces::Workspaces;

use crate::balancer::hash::HashInput;
use crate::balancer::{Judgement, Thresholds};
use crate::upstream::tls::TlsIdentity;

/// An upstream with everything that balancing needs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CompiledUpstream {
    pub(crate) id: Uuid,
    pub(crate) workspace: Workspace,
    pub(crate) name: String,
    pub(crate) algorithm: Algorithm,
    pub(crate) hash_on: HashInput,
    pub(crate) hash_fallback: HashInput,
    pub(crate) hash_on_cookie_path: String,
    pub(crate) slots: u32,
    /// In per cent of the weight.
    pub(crate) threshold: f64,
    /// Whether any check is on.
    pub(crate) checked: bool,
    pub(crate) passive: Judgement,
    pub(crate) active: Option<CompiledChecks>,
    /// The `Host` to send, in place of the target's.
    pub(crate) host_header: Option<String>,
    /// Whether a server is called as the SRV record that led to it names it, not as the target is.
    pub(crate) use_srv_name: bool,
    pub(crate) identity: Option<Arc<TlsIdentity>>,
    /// Whether there is to be an identity, but the certificate cannot be used.
    pub(crate) lacks_identity: bool,
    /// In order of creation.
    pub(crate) targets: Vec<CompiledTarget>,
}

/// A target of an upstream.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CompiledTarget {
    pub(crate) record: Target,
    /// In lower case, without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) weight: u16,
    /// The host, if it is an address.
    pub(crate) address: Option<IpAddr>,
}

/// Checks by asking the targets.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CompiledChecks {
    pub(crate) kind: CheckKind,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) server_name: Option<String>,
    pub(crate) verify: bool,
    pub(crate) timeout: Duration,
    pub(crate) concurrency: usize,
    pub(crate) judgement: Judgement,
    /// Between two checks of healthy targets, and of unhealthy ones.
    pub(crate) healthy_every: Option<Duration>,
    pub(crate) unhealthy_every: Option<Duration>,
}

/// The places of upstreams among all.
#[derive(Clone, Debug, Default)]
pub(super) struct Named {
    pub(super) places: imbl::HashMap<Uuid, usize>,
    /// By workspace and name.
    pub(super) names: imbl::HashMap<(Uuid, String), usize>,
}

impl Named {
    /// The places of `upstreams`.
    pub(super) fn of(upstreams: &[Arc<CompiledUpstream>]) -> Self {
        let mut named = Self::default();
        for (place, upstream) in upstreams.iter().enumerate() {
            named.put(upstream, place);
        }
        named
    }

    /// `upstream` is at `place`.
    pub(super) fn put(&mut self, upstream: &CompiledUpstream, place: usize) {
        self.places.insert(upstream.id, place);
        let name = (upstream.workspace.id, upstream.name.clone());
        self.names.insert(name, place);
    }

    /// `upstream` is not at `place` any more, or not called so. Another may have its name by now.
    pub(super) fn forget(&mut self, upstream: &CompiledUpstream, place: usize) {
        let name = (upstream.workspace.id, upstream.name.clone());
        if self.names.get(&name) == Some(&place) {
            self.names.remove(&name);
        }
        self.places.remove(&upstream.id);
    }

    /// The place of the upstream `name` of `workspace`.
    pub(super) fn place(&self, workspace: Uuid, name: &str) -> Option<usize> {
        // Most often there are no upstreams, or few.
        let place = (!self.names.is_empty()).then(|| (workspace, name.to_owned()));
        place.and_then(|key| self.names.get(&key)).copied()
    }
}

/// What has changed of one upstream.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) id: Uuid,
    pub(super) workspace: Workspace,
    /// Itself, if it has changed.
    pub(super) upstream: Option<Upstream>,
    /// Targets that are gone or have changed.
    pub(super) gone: HashSet<Uuid>,
    /// Targets that are new or have changed.
    pub(super) targets: Vec<Target>,
}

impl Change {
    /// Nothing yet of the upstream `id`.
    pub(super) fn of(id: Uuid) -> Self {
        Self {
            id,
            workspace: Workspace::default(),
            upstream: None,
            gone: HashSet::new(),
            targets: Vec::new(),
        }
    }

    /// What comes of it on what was `before`; `None` if there is no such upstream.
    pub(super) fn on(
        &self,
        before: Option<&Arc<CompiledUpstream>>,
        identities: &Identities,
    ) -> Option<Result<CompiledUpstream, CompileFault>> {
        let stay = before.iter().flat_map(|before| &before.targets);
        let stay = stay.filter(|target| !self.gone.contains(&target.record.id));
        let mut targets: Vec<CompiledTarget> = stay.cloned().collect();
        for target in &self.targets {
            match compile_target(target.clone()) {
                Ok(target) => targets.push(target),
                Err(fault) => return Some(Err(fault)),
            }
        }
        by_age(&mut targets);
        match (&self.upstream, before) {
            (Some(upstream), _) => {
                let workspace = self.workspace.clone();
                Some(compile_upstream(upstream, workspace, targets, identities))
            }
            (None, Some(before)) => Some(Ok(CompiledUpstream {
                targets,
                ..CompiledUpstream::clone(before)
            })),
            (None, None) => None,
        }
    }
}

fn by_age(targets: &mut [CompiledTarget]) {
    targets.sort_by(|a, b| {
        let (a, b) = (&a.record, &b.record);
        a.created_at
            .total_cmp(&b.created_at)
            .then_with(|| a.id.cmp(&b.id))
    });
}

/// Compiles `upstreams` with their `targets`.
pub(super) fn compile(
    upstreams: Vec<Upstream>,
    targets: Vec<Target>,
    identities: &Identities,
    workspaces: &Workspaces,
    faults: &mut Vec<CompileFault>,
) -> Vec<Arc<CompiledUpstream>> {
    let mut by_upstream: HashMap<Uuid, Vec<CompiledTarget>> = HashMap::new();
    for target in targets {
        let upstream = target.upstream.id;
        match compile_target(target) {
            Ok(compiled) => by_upstream.entry(upstream).or_default().push(compiled),
            Err(fault) => faults.push(fault),
        }
    }
    let mut compiled = Vec::with_capacity(upstreams.len());
    for upstream in upstreams {
        let mut targets = by_upstream.remove(&upstream.id).unwrap_or_default();
        by_age(&mut targets);
        let workspace = workspaces.of_record::<Upstream>(upstream.id);
        let workspace = workspaces.names.of(workspace);
        match compile_upstream(&upstream, workspace, targets, identities) {
            Ok(upstream) => compiled.push(Arc::new(upstream)),
            Err(fault) => faults.push(fault),
        }
    }
    compiled
}

fn compile_target(record: Target) -> Result<CompiledTarget, CompileFault> {
    let (host, port) = split_port(&record.target);
    let host = bare(host).to_ascii_lowercase();
    let port = port
        .map_or(Ok(8000), str::parse)
        .map_err(|_| CompileFault {
            kind: "targets",
            id: record.id,
            field: "target".to_owned(),
            message: format!("not a host with a port: {}", record.target),
        })?;
    Ok(CompiledTarget {
        address: host.parse().ok(),
        host,
        port,
        weight: record.weight,
        record,
    })
}

/// The judgement of active or of passive checks: two types that have these fields in common.
macro_rules! judgement {
    ($checks:expr) => {
        Judgement {
            thresholds: Thresholds {
                successes: $checks.healthy.successes,
                http_failures: $checks.unhealthy.http_failures,
                tcp_failures: $checks.unhealthy.tcp_failures,
                timeouts: $checks.unhealthy.timeouts,
            },
            healthy: codes(&$checks.healthy.http_statuses),
            unhealthy: codes(&$checks.unhealthy.http_statuses),
        }
    };
}

fn compile_upstream(
    upstream: &Upstream,
    workspace: Workspace,
    targets: Vec<CompiledTarget>,
    identities: &Identities,
) -> Result<CompiledUpstream, CompileFault> {
    let fault = |field: &str, message: &str| CompileFault {
        kind: "upstreams",
        id: upstream.id,
        field: field.to_owned(),
        message: message.to_owned(),
    };
    let hash_on = Hashing {
        on: upstream.hash_on,
        header: upstream.hash_on_header.as_deref(),
        cookie: upstream.hash_on_cookie.as_deref(),
        argument: upstream.hash_on_query_arg.as_deref(),
        capture: upstream.hash_on_uri_capture.as_deref(),
    };
    let hash_on = hash_on.compile().map_err(|why| fault("hash_on", why))?;
    let hash_fallback = Hashing {
        on: upstream.hash_fallback,
        header: upstream.hash_fallback_header.as_deref(),
        // Kong has one for both.
        cookie: upstream.hash_on_cookie.as_deref(),
        argument: upstream.hash_fallback_query_arg.as_deref(),
        capture: upstream.hash_fallback_uri_capture.as_deref(),
    };
    let hash_fallback = hash_fallback.compile();
    let hash_fallback = hash_fallback.map_err(|why| fault("hash_fallback", why))?;
    if let Some(host) = &upstream.host_header {
        HeaderValue::from_str(host).map_err(|_| fault("host_header", "not a host"))?;
    }
    let certificate = upstream.client_certificate;
    let identity = certificate.and_then(|reference| identities.of(reference.id).ok());
    let checks = &upstream.healthchecks;
    let passive = judgement!(checks.passive);
    let active = compile_checks(&checks.active);
    let thresholds = &passive.thresholds;
    let watches =
        thresholds.http_failures > 0 || thresholds.tcp_failures > 0 || thresholds.timeouts > 0;
    Ok(CompiledUpstream {
        id: upstream.id,
        workspace,
        name: upstream.name.to_ascii_lowercase(),
        algorithm: upstream.algorithm.unwrap_or(Algorithm::RoundRobin),
        hash_on,
        hash_fallback,
        hash_on_cookie_path: upstream
            .hash_on_cookie_path
            .as_ref()
            .map_or("/", |path| path.as_str())
            .to_owned(),
        slots: upstream.slots.unwrap_or(10_000),
        threshold: checks.threshold,
        checked: active.is_some() || watches,
        passive,
        active,
        host_header: upstream.host_header.clone(),
        use_srv_name: upstream.use_srv_name,
        lacks_identity: certificate.is_some() && identity.is_none(),
        identity,
        targets,
    })
}

/// What requests are told apart by, as an upstream names it.
struct Hashing<'a> {
    on: Option<HashOn>,
    header: Option<&'a str>,
    cookie: Option<&'a str>,
    argument: Option<&'a str>,
    capture: Option<&'a str>,
}

impl Hashing<'_> {
    fn compile(&self) -> Result<HashInput, &'static str> {
        let named = |name: Option<&str>| {
            let name = name.map(str::to_owned);
            name.ok_or("what to hash is not named")
        };
        Ok(match self.on.unwrap_or(HashOn::None) {
            HashOn::None => HashInput::None,
            HashOn::Consumer => HashInput::Consumer,
            HashOn::Ip => HashInput::Ip,
            HashOn::Path => HashInput::Path,
            HashOn::Header => {
                let name = named(self.header)?.parse();
                HashInput::Header(name.map_err(|_| "not a header's name")?)
            }
            HashOn::Cookie => HashInput::Cookie(named(self.cookie)?),
            HashOn::QueryArg => HashInput::QueryArg(named(self.argument)?),
            HashOn::UriCapture => HashInput::UriCapture(named(self.capture)?),
        })
    }
}

fn codes(statuses: &[HttpStatus]) -> Vec<u16> {
    statuses.iter().map(|status| status.0).collect()
}

fn compile_checks(checks: &ActiveChecks) -> Option<CompiledChecks> {
    let every = |seconds: f64| {
        Duration::try_from_secs_f64(seconds)
            .ok()
            .filter(|interval| !interval.is_zero())
            // More often than this no answer could tell anything new.
            .map(|interval| interval.max(Duration::from_millis(10)))
    };
    let healthy_every = every(checks.healthy.interval);
    let unhealthy_every = every(checks.unhealthy.interval);
    if healthy_every.is_none() && unhealthy_every.is_none() {
        return None;
    }
    let headers = checks
        .headers
        .iter()
        .flatten()
        .flat_map(|(name, values)| values.iter().map(|value| (name.clone(), value.clone())))
        .filter(|(name, value)| {
            name.parse::<http::HeaderName>().is_ok() && HeaderValue::from_str(value).is_ok()
        })
        .collect();
    Some(CompiledChecks {
        kind: checks.kind,
        path: checks.http_path.as_str().to_owned(),
        headers,
        server_name: checks.https_sni.clone(),
        verify: checks.https_verify_certificate,
        timeout: every(checks.timeout).unwrap_or(Duration::from_secs(1)),
        concurrency: usize::try_from(checks.concurrency).unwrap_or(10).max(1),
        judgement: judgement!(checks),
        healthy_every,
        unhealthy_every,
    })
}
