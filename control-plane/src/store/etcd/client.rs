//! etcd over its JSON gateway: a handful of requests to whichever member answers.
//!
//! On a thread of its own, so that whoever commits may block wherever it runs.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use prost::bytes::Bytes;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use shared::tls::{self, Identity, TlsError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;
use url::Url;

/// How long one member may take, and all together.
const MEMBER: Duration = Duration::from_millis(1500);
const ALL: Duration = Duration::from_secs(3);

/// Bytes of an answer: a page of the log.
const ANSWER: usize = 64 * 1024 * 1024;

/// Where etcd is, and how it is spoken to.
#[derive(Clone, Debug)]
pub struct EtcdSettings {
    /// URLs of its members.
    pub endpoints: Vec<String>,
    /// What every name begins with.
    pub prefix: String,
    /// The authority of the members' certificates, PEM.
    pub authority: Option<PathBuf>,
    /// Our certificate and its key, PEM.
    pub certificate: Option<(PathBuf, PathBuf)>,
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
}

impl From<TlsError> for EtcdError {
    fn from(error: TlsError) -> Self {
        Self::Settings(error.to_string())
    }
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
pub(super) struct Comparison {
    pub(super) name: &'static str,
    pub(super) version: u64,
}

struct Asked {
    path: &'static str,
    body: Value,
    answer: oneshot::Sender<Result<Value, EtcdError>>,
}

/// The way to etcd.
#[derive(Clone, Debug)]
pub(super) struct Client {
    asked: mpsc::Sender<Asked>,
    prefix: String,
}

struct Member {
    url: Url,
    host: String,
    port: u16,
    tls: Option<TlsConnector>,
}

impl Client {
    pub(super) fn start(settings: &EtcdSettings) -> Result<Self, EtcdError> {
        let members: Result<Vec<Member>, EtcdError> = settings
            .endpoints
            .iter()
            .map(|endpoint| member(endpoint, settings))
            .collect();
        let members = Arc::new(members?);
        let (asked, receiver) = mpsc::channel::<Asked>();
        let failed = |error: std::io::Error| EtcdError::Settings(error.to_string());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let work = move || {
            let first = AtomicUsize::new(0);
            while let Ok(asked) = receiver.recv() {
                let asking = ask(&members, &first, asked.path, &asked.body);
                let answer = runtime.block_on(asking);
                // Who no longer waits has gone away.
                let _ = asked.answer.send(answer);
            }
        };
        std::thread::Builder::new()
            .name("etcd".to_owned())
            .spawn(work)
            .map_err(failed)?;
        Ok(Self {
            asked,
            prefix: settings.prefix.trim_end_matches('/').to_owned(),
        })
    }

    fn ask(&self, path: &'static str, body: Value) -> Result<Value, EtcdError> {
        let gone = || EtcdError::Unreachable("its thread has ended".to_owned());
        let (answer, answered) = oneshot::channel();
        let asked = Asked { path, body, answer };
        self.asked.send(asked).map_err(|_| gone())?;
        // Not tokio's blocking receive, which refuses to block where other tasks could wait.
        futures::executor::block_on(answered).map_err(|_| gone())?
    }

    fn key(&self, name: &str) -> String {
        STANDARD.encode(format!("{}/{name}", self.prefix))
    }

    fn found(&self, answer: &Value) -> Result<Vec<Found>, EtcdError> {
        let kvs = member_of(answer, "kvs").as_array().map(Vec::as_slice);
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
        let answer = self.ask("/v3/kv/range", json!({ "key": self.key(name) }))?;
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
        let body = json!({
            "key": self.key(first),
            "range_end": self.key(end),
            "keys_only": true,
        });
        let found = self.found(&self.ask("/v3/kv/range", body)?)?;
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

    /// A lease: what is written under it is gone once `time` is over.
    pub(super) fn lease(&self, time: Duration) -> Result<String, EtcdError> {
        let answer = self.ask("/v3/lease/grant", json!({ "TTL": time.as_secs() }))?;
        let id = member_of(&answer, "ID").as_str();
        let strange = || EtcdError::Content("etcd grants a lease without a number".to_owned());
        id.map(str::to_owned).ok_or_else(strange)
    }

    /// Writes `put`, to be gone with `lease`.
    pub(super) fn put_leased(&self, put: &Put, lease: &str) -> Result<(), EtcdError> {
        let body = json!({
            "key": self.key(&put.name),
            "value": STANDARD.encode(&put.value),
            "lease": lease,
        });
        self.ask("/v3/kv/put", body).map(drop)
    }

    pub(super) fn put(&self, put: &Put) -> Result<(), EtcdError> {
        let body = json!({ "key": self.key(&put.name), "value": STANDARD.encode(&put.value) });
        // Written twice is written: an answer that was lost does no harm.
        self.ask("/v3/kv/put", body).map(drop)
    }

    /// Removes the values from `first` up to, but without, `end`.
    pub(super) fn delete(&self, first: &str, end: &str) -> Result<(), EtcdError> {
        let body = json!({ "key": self.key(first), "range_end": self.key(end) });
        self.ask("/v3/kv/deleterange", body).map(drop)
    }

    /// Writes all of `puts` if `unchanged` holds: etcd's number of that write, or none if it does not.
    pub(super) fn commit(
        &self,
        unchanged: &Comparison,
        puts: &[Put],
    ) -> Result<Option<u64>, EtcdError> {
        let writes: Vec<Value> = puts
            .iter()
            .map(|put| {
                let value = STANDARD.encode(&put.value);
                json!({ "requestPut": { "key": self.key(&put.name), "value": value } })
            })
            .collect();
        let body = json!({
            "compare": [{
                "key": self.key(unchanged.name),
                "target": "MOD",
                "result": "EQUAL",
                "mod_revision": unchanged.version.to_string(),
            }],
            "success": writes,
        });
        let answer = self.ask("/v3/kv/txn", body)?;
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

fn member(endpoint: &str, settings: &EtcdSettings) -> Result<Member, EtcdError> {
    let refused =
        |reason: &str| EtcdError::Settings(format!("etcd_endpoints: `{endpoint}`: {reason}"));
    let url = Url::parse(endpoint).map_err(|error| refused(&error.to_string()))?;
    let tls = match url.scheme() {
        "http" => None,
        "https" => Some(connector(settings)?),
        _ => return Err(refused("expected http:// or https://")),
    };
    let host = url.host_str().ok_or_else(|| refused("there is no host"))?;
    Ok(Member {
        host: host.trim_matches(['[', ']']).to_owned(),
        port: url.port_or_known_default().unwrap_or(2379),
        tls,
        url,
    })
}

fn connector(settings: &EtcdSettings) -> Result<TlsConnector, EtcdError> {
    let authority = settings.authority.as_deref();
    let authority =
        authority.ok_or_else(|| EtcdError::Settings("etcd_ca: needed for https".to_owned()))?;
    let builder = ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| EtcdError::Settings(error.to_string()))?
        .with_root_certificates(tls::read_authorities(authority)?);
    let config = match &settings.certificate {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let identity = Identity::read(certificate, key)?;
            builder
                .with_client_auth_cert(identity.chain, identity.key)
                .map_err(|error| EtcdError::Settings(error.to_string()))?
        }
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Asks the member that answered last, then the others.
async fn ask(
    members: &[Member],
    first: &AtomicUsize,
    path: &'static str,
    body: &Value,
) -> Result<Value, EtcdError> {
    let body = Bytes::from(body.to_string());
    let writes_once = path.ends_with("/txn");
    let asking = async {
        let mut last = EtcdError::Unreachable("there is no member".to_owned());
        for turn in 0..members.len() {
            let at = (first.load(Ordering::Relaxed) + turn) % members.len().max(1);
            let Some(member) = members.get(at) else {
                continue;
            };
            let answer = tokio::time::timeout(MEMBER, member.ask(path, body.clone()));
            match answer.await {
                Ok(Ok(answer)) => {
                    first.store(at, Ordering::Relaxed);
                    return Ok(answer);
                }
                Ok(Err(error @ (EtcdError::Refused(_) | EtcdError::Content(_)))) => {
                    return Err(error);
                }
                // Whether it was written, nobody knows: another member must not be asked to do it again.
                Ok(Err(error @ EtcdError::Unknown(_))) if writes_once => {
                    first.store(at + 1, Ordering::Relaxed);
                    return Err(error);
                }
                Ok(Err(error)) => last = error,
                Err(_) if writes_once => {
                    first.store(at + 1, Ordering::Relaxed);
                    return Err(EtcdError::Unknown(format!("{} is silent", member.url)));
                }
                Err(_) => last = EtcdError::Unreachable(format!("{} is silent", member.url)),
            }
        }
        Err(last)
    };
    match tokio::time::timeout(ALL, asking).await {
        Ok(answer) => answer,
        Err(_) if writes_once => Err(EtcdError::Unknown("no answer within 3 s".to_owned())),
        Err(_) => Err(EtcdError::Unreachable("no answer within 3 s".to_owned())),
    }
}

impl Member {
    async fn ask(&self, path: &str, body: Bytes) -> Result<Value, EtcdError> {
        let unreachable =
            |error: std::io::Error| EtcdError::Unreachable(format!("{}: {error}", self.url));
        let stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(unreachable)?;
        match &self.tls {
            None => self.send(stream, path, body).await,
            Some(tls) => {
                let name = ServerName::try_from(self.host.clone())
                    .map_err(|error| EtcdError::Settings(error.to_string()))?;
                let stream = tls.connect(name, stream).await.map_err(unreachable)?;
                self.send(stream, path, body).await
            }
        }
    }

    async fn send<S>(&self, stream: S, path: &str, body: Bytes) -> Result<Value, EtcdError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let unknown =
            |error: &dyn std::fmt::Display| EtcdError::Unknown(format!("{}: {error}", self.url));
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| EtcdError::Unreachable(format!("{}: {error}", self.url)))?;
        let driving = tokio::spawn(connection);
        let request = http::Request::post(path)
            .header("host", format!("{}:{}", self.host, self.port))
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|error| EtcdError::Settings(error.to_string()))?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| unknown(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER)
            .collect()
            .await
            .map_err(|error| unknown(&error))?
            .to_bytes();
        driving.abort();
        let answer: Value = serde_json::from_slice(&body).map_err(|error| unknown(&error))?;
        if status.is_success() {
            return Ok(answer);
        }
        let message = member_of(&answer, "message").as_str();
        let message = message.or(member_of(&answer, "error").as_str());
        let message = message.unwrap_or("no reason given").to_owned();
        // A member without a leader, or one that is stopping: another may do better.
        if status.is_server_error() {
            return Err(EtcdError::Unknown(format!("{}: {message}", self.url)));
        }
        Err(EtcdError::Refused(message))
    }
}
