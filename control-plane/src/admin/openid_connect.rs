//! `/openid-connect/*`: what providers say of themselves, as this control plane sees them, and a
//! configuration checked against its provider before it is saved.
//!
//! Data planes discover for themselves. Deleting an entry tells them to do it again, and ends the
//! sessions that the cluster's own keys have sealed (Kong 3.9, `/openid-connect/issuers`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::Request;
use futures::future::join_all;
use http::Method;
use plugins::bundled::openid_connect::OpenidConnect;
use plugins::bundled::openid_connect::check::{self, Discovered, Said};
use plugins::client_keys::ClientKeys;
use plugins::filter::Plugin as _;
use plugins::host::ClientCertificate;
use serde_json::{Map, Value, json};
use shared::clock::UnixTime;
use shared::entity::{Certificate, Entity, Plugin, Revocation, definition};
use shared::network::Network;
use shared::secret::Secret;
use shared::snapshot::Key;
use uuid::Uuid;

use super::error::Refusal;
use super::{Admin, Answer, body, page};
use crate::client_keys;
use crate::command::{Body, Context, complete};
use crate::config::Config;
use crate::history::Origin;
use crate::outbound;

/// How long what a provider said is shown before it is asked anew.
const FRESH: Duration = Duration::from_mins(1);

/// How long a provider in trouble is not asked again: longer than it may take to say nothing.
const TROUBLED: Duration = Duration::from_secs(30);

/// How long an entry that was deleted is not there: data planes discover anew meanwhile.
const GONE: Duration = Duration::from_secs(5);

/// How long the sessions that end with an entry could have lived.
const LONGEST: Duration = Duration::from_hours(400 * 24);

/// Most providers that are asked for one page of the list.
const MOST: usize = 100;

/// A page.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Page {
    /// `/openid-connect/check`
    Check,
    /// `/openid-connect/issuers`
    Issuers,
    /// `/openid-connect/issuers/{id or issuer}`
    Issuer(String),
}

/// What providers said when they were asked last, and where they may be asked.
#[derive(Debug, Default)]
pub(super) struct Providers {
    seen: Mutex<BTreeMap<String, Seen>>,
    /// Networks in which they may be, besides public addresses.
    networks: Arc<[Network]>,
}

#[derive(Clone, Debug)]
enum Seen {
    /// This, when it was asked then.
    Said(UnixTime, Box<Said>),
    /// Nothing usable, when it was asked then, and why, since when.
    Nothing(UnixTime, (UnixTime, String)),
    /// An operator deleted it then.
    Deleted(UnixTime),
}

impl Seen {
    /// What counts once a provider has `answered` after what it said `before`.
    fn after(before: Option<Self>, answered: Result<Discovered, String>, now: UnixTime) -> Self {
        let (said, since) = match before {
            Some(Self::Said(_, said)) => {
                let since = said.trouble.as_ref().map_or(now, |(since, _)| *since);
                (Some(*said), since)
            }
            Some(Self::Nothing(_, (since, _))) => (None, since),
            Some(Self::Deleted(_)) | None => (None, now),
        };
        match Said::after(said, answered, now) {
            Ok(said) => Self::Said(now, Box::new(said)),
            Err(reason) => Self::Nothing(now, (since, reason)),
        }
    }
}

/// The page below `/openid-connect`.
pub(super) fn parse(segments: &[&str]) -> Option<Page> {
    match *segments {
        ["check"] => Some(Page::Check),
        ["issuers"] => Some(Page::Issuers),
        ["issuers", issuer] => Some(Page::Issuer(issuer.to_owned())),
        _ => None,
    }
}

impl Page {
    pub(super) const fn methods(&self) -> &'static [Method] {
        match self {
            Self::Check => &[Method::OPTIONS, Method::POST],
            Self::Issuers | Self::Issuer(_) => {
                &[Method::DELETE, Method::GET, Method::HEAD, Method::OPTIONS]
            }
        }
    }
}

pub(super) async fn read(
    admin: &Admin,
    config: &Config,
    page: Page,
    query: Option<&str>,
) -> Result<Answer, Refusal> {
    match page {
        Page::Check => Err(Refusal::Method(page.methods())),
        Page::Issuers => list(admin, config, query).await,
        Page::Issuer(wanted) => {
            let (issuer, config) = find(config, &wanted)?;
            let entry = entry(admin, issuer, config).await;
            entry.map(Answer::ok).ok_or(Refusal::NotFound)
        }
    }
}

pub(super) async fn write(
    admin: &Admin,
    config: &Config,
    page: Page,
    origin: Origin,
    request: Request,
) -> Result<Answer, Refusal> {
    let issuers = match page {
        Page::Check => return check_configuration(admin, config, request).await,
        Page::Issuers => configured(config).into_keys().collect(),
        Page::Issuer(wanted) => vec![find(config, &wanted)?.0],
    };
    let now = UnixTime::now();
    let ids = issuers.iter().map(|issuer| Revocation::issuer(issuer));
    let answer = admin.revoke(origin, ids.collect(), now, LONGEST).await?;
    let mut seen = admin.providers.lock();
    for issuer in issuers {
        seen.insert(issuer, Seen::Deleted(now));
    }
    Ok(answer)
}

impl Admin {
    /// Also asks OpenID providers in `networks`.
    #[must_use]
    pub fn with_provider_networks(mut self, networks: Vec<Network>) -> Self {
        self.providers = Arc::new(Providers {
            networks: networks.into(),
            ..Providers::default()
        });
        self
    }
}

impl Providers {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The configurations of all stored plugins of this kind.
fn plugins(config: &Config) -> impl Iterator<Item = (Uuid, Value)> {
    let plugins = config.collection(Plugin::KIND, Uuid::nil());
    plugins.filter_map(|(key, fields)| {
        let ours = fields.get("name")?.as_str()? == OpenidConnect::NAME;
        Some((key.id, fields.get("config").filter(|_| ours)?.clone()))
    })
}

/// The providers of all stored configurations, each with one of them, by which it is discovered if any does that.
fn configured(config: &Config) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for (_, config) in plugins(config) {
        if let Some(issuer) = check::issuer(&config)
            && (is_discovered(&config) || !all.contains_key(&issuer))
        {
            all.insert(issuer, config);
        }
    }
    all
}

fn is_discovered(config: &Value) -> bool {
    config.get("using_pseudo_issuer") != Some(&Value::Bool(true))
}

/// A page of the providers that are discovered, in the order of their ids.
async fn list(admin: &Admin, config: &Config, query: Option<&str>) -> Result<Answer, Refusal> {
    let (mut page, start) = page::Page::parse(query)?;
    let [high, low] = start.unwrap_or_default();
    let all = configured(config).into_iter();
    let all: BTreeMap<Uuid, (String, Value)> = all
        .map(|(issuer, config)| (Revocation::issuer(&issuer), (issuer, config)))
        .collect();
    let rest = all.into_iter();
    let rest = rest.skip_while(|(id, _)| *id < Uuid::from_u64_pair(high, low));
    let (mut rest, mut asked) = (rest.peekable(), 0);
    while let Some((id, _)) = rest.peek() {
        // No more than there is room for: what is not shown would be asked again for the next page.
        let most = page.room().min(MOST - asked);
        if most == 0 {
            page.end_before(place(*id));
            break;
        }
        let some: Vec<_> = rest.by_ref().take(most).collect();
        asked += some.len();
        let entries = some
            .into_iter()
            .map(|(id, (issuer, config))| async move { (id, entry(admin, issuer, config).await) });
        for (id, entry) in join_all(entries).await {
            if let Some(entry) = entry {
                page.push(place(id), || entry);
            }
        }
    }
    Ok(Answer::ok(page.reply("/openid-connect/issuers")))
}

/// Where a page begins with the provider of an id.
fn place(id: Uuid) -> [u64; 2] {
    let (high, low) = id.as_u64_pair();
    [high, low]
}

/// The provider that a URL means, by id or by issuer, with or without a well-known suffix.
fn find(config: &Config, wanted: &str) -> Result<(String, Value), Refusal> {
    let as_issuer = check::issuer(&json!({ "issuer": wanted }));
    let mut all = configured(config).into_iter();
    all.find(|(issuer, _)| {
        Some(issuer) == as_issuer.as_ref()
            || wanted.parse::<Uuid>().ok() == Some(Revocation::issuer(issuer))
    })
    .ok_or(Refusal::NotFound)
}

/// A provider as Kong shows it, asked if that was not done just now; with the reason if nothing is known of it. `None` if it
/// was deleted just now, or is but a name.
async fn entry(admin: &Admin, issuer: String, config: Value) -> Option<Value> {
    if !is_discovered(&config) {
        return None;
    }
    let now = UnixTime::now();
    let seen = admin.providers.lock().get(&issuer).cloned();
    let within = |at: &UnixTime, limit| now.saturating_since(*at) < limit;
    let limit = |said: &Said| {
        if said.trouble.is_some() {
            TROUBLED
        } else {
            FRESH
        }
    };
    let seen = match seen {
        Some(Seen::Deleted(at)) if within(&at, GONE) => return None,
        Some(Seen::Said(at, said)) if within(&at, limit(&said)) => Seen::Said(at, said),
        Some(Seen::Nothing(at, trouble)) if within(&at, TROUBLED) => Seen::Nothing(at, trouble),
        before => {
            let (networks, keys) = (&admin.providers.networks, ClientKeys::default());
            let asked = outbound::run(networks, keys, move |host| async move {
                check::discover(&config, &host).await
            });
            let silent = || Err("the OpenID provider does not answer".to_owned());
            let answered = asked.await.unwrap_or_else(silent);
            let seen = Seen::after(before, answered, now);
            let mut all = admin.providers.lock();
            all.insert(issuer.clone(), seen.clone());
            seen
        }
    };
    let (said, trouble) = match seen {
        Seen::Said(_, said) => {
            let trouble = said.trouble.clone();
            (Some(said), trouble)
        }
        Seen::Nothing(_, trouble) => (None, Some(trouble)),
        Seen::Deleted(_) => return None,
    };
    let mut entry = json!({
        "id": Revocation::issuer(&issuer),
        "issuer": issuer,
        "created_at": said.as_ref().map(|said| said.at.as_secs()),
        "configuration": said.as_ref().map(|said| &said.discovered.metadata),
        "keys": said.as_ref().map(|said| &said.discovered.keys),
    });
    if let (Some((since, reason)), Some(entry)) = (trouble, entry.as_object_mut()) {
        // What is shown is what it said before.
        let trouble = json!({ "since": since.as_secs(), "reason": reason });
        entry.insert("trouble".to_owned(), trouble);
    }
    Some(entry)
}

/// Checks the configuration in the body: a plugin as it would be posted, or its `config` alone.
async fn check_configuration(
    admin: &Admin,
    stored: &Config,
    request: Request,
) -> Result<Answer, Refusal> {
    let body = body::read(request).await?;
    let (Body::Json(fields) | Body::Form(fields)) = &body;
    let own = fields.get("id").and_then(Value::as_str);
    let own = own.and_then(|id| id.parse::<Uuid>().ok());
    let body = match body {
        Body::Json(fields) => Body::Json(as_plugin(fields)),
        Body::Form(fields) => Body::Form(as_plugin(fields)),
    };
    let entity = definition(Plugin::KIND).ok_or(Refusal::NotFound)?;
    let now = UnixTime::now();
    let plugin = complete(entity, &body, &Context::draw(now))
        .map_err(|rejection| Refusal::Rejected(rejection, entity.kind))?;
    let config = plugin.get("config").cloned().unwrap_or_default();
    let others = plugins(stored).filter(|(id, _)| Some(*id) != own);
    let others = others.map(|(_, other)| other);
    let beside = check::beside(&config, others);
    let (networks, mut keys) = (&admin.providers.networks, client_keys::signing(stored));
    keys.certificates.extend(presented(stored, &config));
    let checked = outbound::run(networks, keys, move |host| async move {
        check::run(&config, &host).await
    });
    let mut report = match checked.await {
        Some(Ok(report)) => report,
        // What the schema accepts, the plugin's own judge has accepted as well.
        Some(Err(_)) => return Err(Refusal::Unexpected),
        None => json!({
            "ok": false,
            "findings": [{
                "check": "discovery", "result": "fail",
                "detail": "the OpenID provider does not answer",
                "fix": "See whether this machine reaches it.",
            }],
        }),
    };
    if let Some(Value::Array(findings)) = report.get_mut("findings") {
        findings.extend(beside);
    }
    Ok(Answer::ok(report))
}

/// The certificate that a configuration has the gateway present to its provider, by its id.
fn presented(stored: &Config, config: &Value) -> Option<(Uuid, Arc<ClientCertificate>)> {
    let id = config.get("tls_client_auth_cert_id")?.as_str()?;
    let id = id.parse().ok()?;
    let key = Key {
        kind: Certificate::KIND,
        id,
    };
    let fields = Value::Object((*stored.record(key)?).clone());
    let certificate: Certificate = serde_json::from_value(fields).ok()?;
    let presented = ClientCertificate {
        chain: certificate.cert,
        key: Secret::new(certificate.key.expose().to_owned()),
    };
    Some((id, Arc::new(presented)))
}

fn as_plugin(mut fields: Map<String, Value>) -> Map<String, Value> {
    if !fields.contains_key("config") {
        fields = Map::from_iter([("config".to_owned(), Value::Object(fields))]);
    }
    fields.retain(|name, _| name == "config");
    fields.insert("name".to_owned(), OpenidConnect::NAME.into());
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_told_since_it_began_also_when_nothing_is_known_any_more() {
        let at = |hours: u64| UnixTime::from_secs(hours * 3600);
        let said = Discovered {
            metadata: Map::new(),
            keys: Vec::new(),
        };
        let silent = || Err("silence".to_owned());
        let mut seen = Seen::after(None, Ok(said), at(100));
        for hours in [101, 110, 125, 126] {
            seen = Seen::after(Some(seen), silent(), at(hours));
            let (forgotten, trouble) = match &seen {
                Seen::Said(_, said) => (false, said.trouble.clone()),
                Seen::Nothing(_, trouble) => (true, Some(trouble.clone())),
                Seen::Deleted(_) => panic!("nobody deletes it"),
            };
            assert_eq!(forgotten, hours > 124, "{hours}");
            assert_eq!(trouble, Some((at(101), "silence".to_owned())), "{hours}");
        }
    }
}
