//! etcd over its JSON gateway: a handful of requests to whichever member answers.
//!
//! On a thread of its own, so that whoever commits may block wherever it runs. Requests do not wait for each other.

mod members;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use shared::clock::monotonic;
use tokio::sync::{Semaphore, mpsc, oneshot};

use members::Members;

/// Requests that are under way at once; the others wait.
const AT_ONCE: usize = 32;

/// How long a request may take.
pub(super) const ALL: Duration = Duration::from_secs(3);

/// How often the files of certificates are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Where etcd is, and how it is spoken to.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct EtcdSettings {
    /// URLs of etcd's members: the configuration is there, for several control planes over one store. They share
    /// `secrets_key_file`. Without, the store is on this machine.
    #[arg(
        id = "etcd_endpoints",
        long = "etcd-endpoints",
        value_delimiter = ',',
        value_name = "URL,…"
    )]
    pub endpoints: Vec<String>,
    /// What the names of this cluster's values in etcd begin with.
    #[arg(
        id = "etcd_prefix",
        long = "etcd-prefix",
        default_value = "/wardgate",
        value_name = "PREFIX"
    )]
    pub prefix: String,
    /// The authority of etcd's certificates, PEM. This file, and those of `etcd_certificate` and `etcd_key`, are read again
    /// when they change.
    #[arg(id = "etcd_ca", long = "etcd-ca", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// The certificate that etcd is shown, PEM.
    #[arg(
        id = "etcd_certificate",
        long = "etcd-certificate",
        value_name = "FILE",
        requires = "etcd_key"
    )]
    pub certificate: Option<PathBuf>,
    /// The private key of `etcd_certificate`, PEM.
    #[arg(
        id = "etcd_key",
        long = "etcd-key",
        value_name = "FILE",
        requires = "etcd_certificate"
    )]
    pub key: Option<PathBuf>,
}

impl EtcdSettings {
    /// These, if the store is in etcd.
    pub fn used(&self) -> Option<&Self> {
        (!self.endpoints.is_empty()).then_some(self)
    }

    /// Says what is wrong with them, without asking etcd.
    pub fn check(&self) -> Result<(), EtcdError> {
        Members::new(self).map(drop)
    }
}

/// Why etcd is of no use.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EtcdError {
    /// A setting.
    #[error("{0}")]
    Settings(String),
    /// No member answered; nothing was written.
    #[error("etcd cannot be reached: {0}")]
    Unreachable(String),
    /// The answer to a write was lost.
    #[error("etcd did not say whether it has written: {0}")]
    Unknown(String),
    /// It said no.
    #[error("etcd refuses: {0}")]
    Refused(String),
    /// What it holds is not what was written.
    #[error("the store in etcd: {0}")]
    Content(String),
    /// A restore was broken off, maybe after it had taken away what was there.
    #[error(
        "the restore has not ended: {0}; stop all control planes and run it again: until it ends, none may be able to \
         read what etcd holds"
    )]
    Unfinished(Box<EtcdError>),
}

/// A value that was found.
#[derive(Debug)]
pub(super) struct Found {
    /// Without the prefix.
    pub(super) name: String,
    pub(super) value: Vec<u8>,
    /// etcd's number of the write that made it.
    pub(super) version: u64,
}

/// A value to be written.
#[derive(Debug)]
pub(super) struct Put {
    pub(super) name: String,
    pub(super) value: Vec<u8>,
}

/// What must hold for a commit: that `name` was written last by `version`; 0: never.
#[derive(Debug)]
pub(super) struct Comparison<'a> {
    pub(super) name: &'a str,
    pub(super) version: u64,
}

struct Asked {
    path: &'static str,
    body: Value,
    /// How long it may take.
    within: Duration,
    answer: oneshot::Sender<Result<Value, EtcdError>>,
}

/// The way to etcd.
#[derive(Clone, Debug)]
pub(super) struct Client {
    asked: mpsc::UnboundedSender<Asked>,
    prefix: String,
}

impl Client {
    pub(super) fn start(settings: &EtcdSettings) -> Result<Self, EtcdError> {
        let members = Arc::new(Members::new(settings)?);
        let (asked, mut receiver) = mpsc::unbounded_channel::<Asked>();
        let failed = |error: std::io::Error| EtcdError::Settings(error.to_string());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let work = async move {
            let turns = Arc::new(Semaphore::new(AT_ONCE));
            let mut looks = tokio::time::interval(LOOK);
            loop {
                let asked = tokio::select! {
                    asked = receiver.recv() => asked,
                    _ = looks.tick() => {
                        members.renew(monotonic());
                        continue;
                    }
                };
                let Some(asked) = asked else { return };
                // The limit is never closed.
                let turn = Arc::clone(&turns).acquire_owned().await;
                if asked.answer.is_closed() {
                    continue;
                }
                let members = Arc::clone(&members);
                tokio::spawn(async move {
                    let answer = members.ask(asked.path, &asked.body, asked.within).await;
                    // Who no longer waits has gone away.
                    let _ = asked.answer.send(answer);
                    drop(turn);
                });
            }
        };
        std::thread::Builder::new()
            .name("etcd".to_owned())
            .spawn(move || runtime.block_on(work))
            .map_err(failed)?;
        Ok(Self {
            asked,
            prefix: settings.prefix.trim_end_matches('/').to_owned(),
        })
    }

    async fn request(&self, path: &'static str, body: Value) -> Result<Value, EtcdError> {
        self.request_within(ALL, path, body).await
    }

    async fn request_within(
        &self,
        within: Duration,
        path: &'static str,
        body: Value,
    ) -> Result<Value, EtcdError> {
        let gone = || EtcdError::Unreachable("its thread has ended".to_owned());
        let (answer, answered) = oneshot::channel();
        let asked = Asked {
            path,
            body,
            within,
            answer,
        };
        self.asked.send(asked).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    fn ask(&self, path: &'static str, body: Value) -> Result<Value, EtcdError> {
        // Not tokio's blocking receive, which refuses to block where other tasks could wait.
        futures::executor::block_on(self.request(path, body))
    }

    fn key(&self, name: &str) -> String {
        STANDARD.encode(format!("{}/{name}", self.prefix))
    }

    fn found(&self, answer: &Value) -> Result<Vec<Found>, EtcdError> {
        self.values(member_of(answer, "kvs"))
    }

    fn values(&self, kvs: &Value) -> Result<Vec<Found>, EtcdError> {
        let kvs = kvs.as_array().map(Vec::as_slice);
        kvs.unwrap_or_default()
            .iter()
            .map(|kv| {
                let text = |field: &str| {
                    STANDARD.decode(member_of(kv, field).as_str().unwrap_or_default())
                };
                let strange = || EtcdError::Content("an answer of etcd is not as expected".into());
                let name = String::from_utf8(text("key").map_err(|_| strange())?);
                let name = name.map_err(|_| strange())?;
                let own = name
                    .strip_prefix(&self.prefix)
                    .and_then(|name| name.strip_prefix('/'));
                Ok(Found {
                    name: own.ok_or_else(strange)?.to_owned(),
                    value: text("value").map_err(|_| strange())?,
                    version: number(member_of(kv, "mod_revision")),
                })
            })
            .collect()
    }

    /// The value of `name`, as the majority knows it.
    pub(super) fn get(&self, name: &str) -> Result<Option<Found>, EtcdError> {
        futures::executor::block_on(self.look(name))
    }

    /// The same, answered within `limit`.
    pub(super) fn get_within(
        &self,
        limit: Duration,
        name: &str,
    ) -> Result<Option<Found>, EtcdError> {
        futures::executor::block_on(self.look_within(limit, name))
    }

    /// The same without blocking.
    pub(super) async fn look(&self, name: &str) -> Result<Option<Found>, EtcdError> {
        self.look_within(ALL, name).await
    }

    async fn look_within(&self, limit: Duration, name: &str) -> Result<Option<Found>, EtcdError> {
        let body = json!({ "key": self.key(name) });
        let answer = self.request_within(limit, "/v3/kv/range", body).await?;
        Ok(self.found(&answer)?.pop())
    }

    /// The values from `first` up to, but without, `end`, by name.
    pub(super) fn range(&self, first: &str, end: &str) -> Result<Vec<Found>, EtcdError> {
        let body = json!({
            "key": self.key(first),
            "range_end": self.key(end),
            "sort_order": "ASCEND",
            "sort_target": "KEY",
        });
        self.found(&self.ask("/v3/kv/range", body)?)
    }

    /// The names from `first` up to, but without, `end`, each with etcd's number of the write that made it.
    pub(super) fn names(&self, first: &str, end: &str) -> Result<Vec<(String, u64)>, EtcdError> {
        futures::executor::block_on(self.list(first, end))
    }

    /// The same without blocking.
    pub(super) async fn list(
        &self,
        first: &str,
        end: &str,
    ) -> Result<Vec<(String, u64)>, EtcdError> {
        let body = json!({
            "key": self.key(first),
            "range_end": self.key(end),
            "keys_only": true,
        });
        let found = self.found(&self.request("/v3/kv/range", body).await?)?;
        Ok(found
            .into_iter()
            .map(|found| (found.name, found.version))
            .collect())
    }

    /// The value of `name`, if it was written after `version`.
    pub(super) fn newer(&self, name: &str, version: u64) -> Result<Option<Found>, EtcdError> {
        let body = json!({
            "key": self.key(name),
            "min_mod_revision": (version + 1).to_string(),
        });
        Ok(self.found(&self.ask("/v3/kv/range", body)?)?.pop())
    }

    /// The version of the member that answers.
    pub(super) async fn version(&self) -> Result<String, EtcdError> {
        let answer = self.request("/v3/maintenance/status", json!({})).await?;
        let version = member_of(&answer, "version").as_str();
        let strange = || EtcdError::Content("etcd does not tell its version".to_owned());
        version.map(str::to_owned).ok_or_else(strange)
    }

    /// A lease: what is written under it is gone once `time` is over.
    pub(super) async fn lease(&self, time: Duration) -> Result<String, EtcdError> {
        let answer = self.request("/v3/lease/grant", json!({ "TTL": time.as_secs() }));
        let answer = answer.await?;
        let id = member_of(&answer, "ID").as_str();
        let strange = || EtcdError::Content("etcd grants a lease without a number".to_owned());
        id.map(str::to_owned).ok_or_else(strange)
    }

    /// Has `lease` last for its whole time from now on. Whether it was still there.
    pub(super) fn keep_lease(&self, lease: &str) -> Result<bool, EtcdError> {
        let answer = self.ask("/v3/lease/keepalive", json!({ "ID": lease }))?;
        // Of one that is gone there is no time left.
        let left = member_of(member_of(&answer, "result"), "TTL").as_str();
        Ok(left.is_some_and(|left| left != "0"))
    }

    /// Writes `put`, to be gone with `lease`.
    pub(super) fn put_leased(&self, put: &Put, lease: &str) -> Result<(), EtcdError> {
        futures::executor::block_on(self.write_leased(put, lease))
    }

    /// The same without blocking.
    pub(super) async fn write_leased(&self, put: &Put, lease: &str) -> Result<(), EtcdError> {
        let body = json!({
            "key": self.key(&put.name),
            "value": STANDARD.encode(&put.value),
            "lease": lease,
        });
        self.request("/v3/kv/put", body).await.map(drop)
    }

    pub(super) fn put(&self, put: &Put) -> Result<(), EtcdError> {
        let body = json!({ "key": self.key(&put.name), "value": STANDARD.encode(&put.value) });
        // Written twice is written: an answer that was lost does no harm.
        self.ask("/v3/kv/put", body).map(drop)
    }

    /// Removes the values from `first` up to, but without, `end`.
    pub(super) fn delete(&self, first: &str, end: &str) -> Result<(), EtcdError> {
        futures::executor::block_on(self.remove(first, end))
    }

    /// The same without blocking.
    pub(super) async fn remove(&self, first: &str, end: &str) -> Result<(), EtcdError> {
        let body = json!({ "key": self.key(first), "range_end": self.key(end) });
        self.request("/v3/kv/deleterange", body).await.map(drop)
    }

    /// Takes the value of `name` away: what it was, for this one alone. Without blocking.
    pub(super) async fn take(&self, name: &str) -> Result<Option<Found>, EtcdError> {
        let body = json!({ "key": self.key(name), "prev_kv": true });
        let answer = self.request("/v3/kv/deleterange", body).await?;
        Ok(self.values(member_of(&answer, "prev_kvs"))?.pop())
    }

    /// Writes all of `puts` if `unchanged` holds and the value `needed` is there: etcd's number of that write, or none
    /// if they do not.
    pub(super) fn commit(
        &self,
        unchanged: &Comparison<'_>,
        needed: Option<&str>,
        puts: &[Put],
    ) -> Result<Option<u64>, EtcdError> {
        self.commit_within(ALL, unchanged, needed, puts)
    }

    /// The same, answered within `limit`.
    pub(super) fn commit_within(
        &self,
        limit: Duration,
        unchanged: &Comparison<'_>,
        needed: Option<&str>,
        puts: &[Put],
    ) -> Result<Option<u64>, EtcdError> {
        let puts = puts.iter().map(|put| self.operation(put, None));
        let puts = puts.collect();
        futures::executor::block_on(self.transact(limit, unchanged, needed, puts))
    }

    /// Writes `put` if `unchanged` holds, to be gone with `lease`.
    pub(super) async fn commit_leased(
        &self,
        unchanged: &Comparison<'_>,
        put: &Put,
        lease: &str,
    ) -> Result<Option<u64>, EtcdError> {
        let put = self.operation(put, Some(lease));
        self.transact(ALL, unchanged, None, vec![put]).await
    }

    /// Takes the value away that `unchanged` names, if it is still that one.
    pub(super) async fn retract(&self, unchanged: &Comparison<'_>) -> Result<(), EtcdError> {
        let remove = json!({ "requestDeleteRange": { "key": self.key(unchanged.name) } });
        let retracted = self.transact(ALL, unchanged, None, vec![remove]).await;
        retracted.map(drop)
    }

    fn operation(&self, put: &Put, lease: Option<&str>) -> Value {
        let mut operation = json!({
            "key": self.key(&put.name),
            "value": STANDARD.encode(&put.value),
        });
        if let (Some(lease), Some(operation)) = (lease, operation.as_object_mut()) {
            operation.insert("lease".to_owned(), lease.into());
        }
        json!({ "requestPut": operation })
    }

    async fn transact(
        &self,
        limit: Duration,
        unchanged: &Comparison<'_>,
        needed: Option<&str>,
        operations: Vec<Value>,
    ) -> Result<Option<u64>, EtcdError> {
        let mut compare = vec![json!({
            "key": self.key(unchanged.name),
            "target": "MOD",
            "result": "EQUAL",
            "mod_revision": unchanged.version.to_string(),
        })];
        compare.extend(needed.map(|name| {
            json!({
                "key": self.key(name),
                "target": "CREATE",
                "result": "GREATER",
                "create_revision": "0",
            })
        }));
        let body = json!({ "compare": compare, "success": operations });
        let answer = self.request_within(limit, "/v3/kv/txn", body).await?;
        let succeeded = *member_of(&answer, "succeeded") == true;
        Ok(succeeded.then(|| number(member_of(member_of(&answer, "header"), "revision"))))
    }
}

/// A member of a JSON object; null if there is none.
fn member_of<'a>(object: &'a Value, name: &str) -> &'a Value {
    object.get(name).unwrap_or(&Value::Null)
}

/// The gateway writes 64-bit numbers as text.
fn number(value: &Value) -> u64 {
    value
        .as_str()
        .and_then(|text| text.parse().ok())
        .or_else(|| value.as_u64())
        .unwrap_or(0)
}
