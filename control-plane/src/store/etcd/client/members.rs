//! The members of etcd: connections to them that are kept, and whichever answers.

mod fault;

use std::collections::VecDeque;
use std::error::Error;
use std::io::{self, ErrorKind::ConnectionAborted};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use prost::bytes::Bytes;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde_json::Value;
use shared::authority::bare;
use shared::renewal::Renewal;
use shared::telemetry::chain;
use shared::tls::{self, Identity, TlsError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use url::Url;

use super::{EtcdError, EtcdSettings, member_of};

/// How long one member may take.
const MEMBER: Duration = Duration::from_millis(1500);

/// gRPC's codes of what a member answers that stops, or that has no leader: another may do better. Whether it has taken
/// the request, nobody knows. (<https://grpc.io/docs/guides/status-codes/>)
const CANCELLED: u64 = 1;
const DEADLINE_EXCEEDED: u64 = 4;
const UNAVAILABLE: u64 = 14;

/// Bytes of an answer: a page of the log.
const ANSWER: usize = 64 * 1024 * 1024;

/// Connections to one member that are kept while nobody needs them.
const KEPT: usize = 16;

/// All members, asked in turn from the one that answered last.
pub(super) struct Members {
    all: Vec<Member>,
    first: AtomicUsize,
    /// Looks after the files of certificates, where there are any.
    files: Option<Mutex<Files>>,
}

/// The files of certificates, and how etcd is spoken to by them.
struct Files {
    renewal: Renewal,
    settings: EtcdSettings,
}

type Connection = SendRequest<Full<Bytes>>;

/// How a connection has ended.
type Ended = JoinHandle<hyper::Result<()>>;

struct Member {
    url: Url,
    host: String,
    port: u16,
    tls: Option<RwLock<TlsConnector>>,
    /// Whether it is shown a certificate.
    shows: bool,
    /// Whether it has ever answered as etcd does.
    heard: AtomicBool,
    /// Connections that nobody uses, the one that was used last at the end.
    idle: Mutex<VecDeque<Connection>>,
}

impl Members {
    pub(super) fn new(settings: &EtcdSettings) -> Result<Self, EtcdError> {
        // Before they are read.
        let files = [&settings.ca, &settings.certificate, &settings.key];
        let files: Vec<PathBuf> = files.into_iter().flatten().cloned().collect();
        let files = (!files.is_empty()).then(|| Files {
            renewal: Renewal::of("the certificates for etcd", files),
            settings: settings.clone(),
        });
        let endpoints = settings.endpoints.iter();
        let members: Result<Vec<Member>, EtcdError> = endpoints
            .map(|endpoint| member(endpoint, settings))
            .collect();
        Ok(Self {
            all: members?,
            first: AtomicUsize::new(0),
            files: files.map(Mutex::new),
        })
    }

    /// Takes up what the files of certificates hold, if they have changed: for connections that are made from now on.
    pub(super) fn renew(&self, clock: Instant) {
        let Some(files) = &self.files else { return };
        let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
        let Files { renewal, settings } = &mut *files;
        let Some(connector) = renewal.look(clock, || connector(settings)) else {
            return;
        };
        for member in &self.all {
            member.renew(&connector);
        }
    }

    /// Asks the member that answered last, then the others, `within` so long.
    pub(super) async fn ask(
        &self,
        path: &'static str,
        body: &Value,
        within: Duration,
    ) -> Result<Value, EtcdError> {
        let body = Bytes::from(body.to_string());
        let writes_once = path.ends_with("/txn");
        let end = tokio::time::Instant::now() + within;
        let mut last = EtcdError::Unreachable("there is no member".to_owned());
        let mut said = None;
        for turn in 0..self.all.len() {
            let at = (self.first.load(Ordering::Relaxed) + turn) % self.all.len().max(1);
            let Some(member) = self.all.get(at) else {
                continue;
            };
            let limit = end.min(tokio::time::Instant::now() + MEMBER);
            let answer = tokio::time::timeout_at(limit, member.ask(path, body.clone()));
            match answer.await {
                Ok(Ok(answer)) => {
                    self.first.store(at, Ordering::Relaxed);
                    return Ok(answer);
                }
                Ok(Err(error @ (EtcdError::Refused(_) | EtcdError::Content(_)))) => {
                    return Err(error);
                }
                // Whether it was written, nobody knows: another member must not be asked to do it again.
                Ok(Err(error @ EtcdError::Unknown(_))) if writes_once => {
                    self.first.store(at + 1, Ordering::Relaxed);
                    return Err(error);
                }
                // What is asked again does no harm: there is an answer, or none.
                Ok(Err(EtcdError::Unknown(reason) | EtcdError::Unreachable(reason))) => {
                    last = EtcdError::Unreachable(reason.clone());
                    said = Some(reason);
                }
                Ok(Err(error)) => last = error,
                Err(_) => {
                    let is_over = limit == end;
                    let silent = if is_over {
                        format!("no answer within {:.1} s", within.as_secs_f32())
                    } else {
                        format!("{} is silent", member.url)
                    };
                    // What another one has said may be why none answers.
                    let reason = match &said {
                        Some(said) => format!("{said}; and then: {silent}"),
                        None => silent,
                    };
                    if writes_once {
                        self.first.store(at + 1, Ordering::Relaxed);
                        return Err(EtcdError::Unknown(reason));
                    }
                    last = EtcdError::Unreachable(reason);
                    if is_over {
                        break;
                    }
                }
            }
        }
        Err(last)
    }
}

fn member(endpoint: &str, settings: &EtcdSettings) -> Result<Member, EtcdError> {
    // What is before an `@` may be a password.
    let shown = endpoint.rsplit_once('@').map_or(endpoint, |(_, rest)| rest);
    let refused =
        |reason: &str| EtcdError::Settings(format!("etcd_endpoints: `{shown}`: {reason}"));
    let url = Url::parse(endpoint).map_err(|error| refused(&error.to_string()))?;
    let tls = match url.scheme() {
        "http" => None,
        "https" => Some(RwLock::new(connector(settings)?)),
        _ => return Err(refused("expected http:// or https://")),
    };
    let host = url.host_str().ok_or_else(|| refused("there is no host"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refused(
            "no user signs in there: leave user and password away, and set etcd_certificate and etcd_key",
        ));
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(refused("expected scheme, host and port alone"));
    }
    Ok(Member {
        host: bare(host).to_owned(),
        port: url.port_or_known_default().unwrap_or(2379),
        tls,
        shows: settings.certificate.is_some(),
        url,
        heard: AtomicBool::new(false),
        idle: Mutex::default(),
    })
}

/// What is wrong with a file that `setting` names.
fn of_file(setting: &str, error: &TlsError) -> EtcdError {
    EtcdError::Settings(format!("{setting}: {}", chain(error)))
}

fn connector(settings: &EtcdSettings) -> Result<TlsConnector, EtcdError> {
    let authority = settings.ca.as_deref();
    let authority = authority.ok_or_else(|| {
        EtcdError::Settings("etcd_ca: needed for https in etcd_endpoints".to_owned())
    })?;
    let builder = ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| EtcdError::Settings(error.to_string()))?
        .with_root_certificates(
            tls::read_authorities(authority).map_err(|error| of_file("etcd_ca", &error))?,
        );
    let config = match settings.certificate.as_ref().zip(settings.key.as_ref()) {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let identity = Identity::read(certificate, key).map_err(|error| {
                let of_key = matches!(
                    &error,
                    TlsError::Read { path, .. } | TlsError::Pem { path, .. } if path == key
                );
                let setting = if of_key {
                    "etcd_key"
                } else {
                    "etcd_certificate"
                };
                of_file(setting, &error)
            })?;
            builder
                .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
                .map_err(|error| {
                    of_file("etcd_certificate and etcd_key", &identity.refused(error))
                })?
        }
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

impl Member {
    /// Connects by `connector` from now on.
    fn renew(&self, connector: &TlsConnector) {
        if let Some(tls) = &self.tls {
            *tls.write().unwrap_or_else(PoisonError::into_inner) = connector.clone();
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.clear();
        }
    }

    async fn ask(&self, path: &str, body: Bytes) -> Result<Value, EtcdError> {
        // One that was kept may have been closed meanwhile. Then nothing was sent.
        while let Some(connection) = self.kept() {
            if let Some(answer) = self.send(connection, path, body.clone()).await {
                return answer;
            }
        }
        let (connection, ended) = self.connect().await?;
        if let Some(answer) = self.send(connection, path, body).await {
            return answer;
        }
        let why = match ended.await {
            Ok(Err(error)) => fault::of_settings(&self.url, self.shows, &error)
                .unwrap_or_else(|| self.without_an_answer(&error)),
            _ => self.without_an_answer(&io::Error::from(ConnectionAborted)),
        };
        Err(EtcdError::Unreachable(why))
    }

    fn kept(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.pop_back()
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|connection| !connection.is_closed());
        if idle.len() < KEPT {
            idle.push_back(connection);
        }
    }

    /// A new connection, and how it ends.
    async fn connect(&self) -> Result<(Connection, Ended), EtcdError> {
        let unreachable = |error: io::Error| {
            let why = fault::of_settings(&self.url, self.shows, &error);
            EtcdError::Unreachable(why.unwrap_or_else(|| format!("{}: {error}", self.url)))
        };
        let stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(unreachable)?;
        // Requests are small and answered one by one.
        stream.set_nodelay(true).map_err(unreachable)?;
        let tls = self.tls.as_ref();
        let tls = tls.map(|tls| tls.read().unwrap_or_else(PoisonError::into_inner).clone());
        match tls {
            None => self.shake_hands(stream).await,
            Some(tls) => {
                let name = ServerName::try_from(self.host.clone())
                    .map_err(|error| EtcdError::Settings(error.to_string()))?;
                let stream = tls.connect(name, stream).await.map_err(unreachable)?;
                self.shake_hands(stream).await
            }
        }
    }

    async fn shake_hands<S>(&self, stream: S) -> Result<(Connection, Ended), EtcdError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| EtcdError::Unreachable(format!("{}: {error}", self.url)))?;
        // It ends with the sender.
        Ok((sender, tokio::spawn(connection)))
    }

    /// The answer; none if the connection was closed before anything was sent.
    async fn send(
        &self,
        mut connection: Connection,
        path: &str,
        body: Bytes,
    ) -> Option<Result<Value, EtcdError>> {
        connection.ready().await.ok()?;
        let request = http::Request::post(path)
            .header("host", format!("{}:{}", self.host, self.port))
            .header("content-type", "application/json")
            .body(Full::new(body));
        let request = match request {
            Ok(request) => request,
            Err(error) => return Some(Err(EtcdError::Settings(error.to_string()))),
        };
        match connection.try_send_request(request).await {
            Ok(response) => Some(self.read(connection, response).await),
            Err(mut error) => {
                if let Some(why) = fault::of_settings(&self.url, self.shows, error.error()) {
                    return Some(Err(EtcdError::Unreachable(why)));
                }
                if error.take_message().is_some() {
                    return None;
                }
                let why = self.without_an_answer(error.error());
                Some(Err(EtcdError::Unknown(why)))
            }
        }
    }

    fn without_an_answer(&self, error: &dyn Error) -> String {
        fault::without_an_answer(&self.url, self.heard.load(Ordering::Relaxed), error)
    }

    fn unknown(&self, error: &dyn std::fmt::Display) -> EtcdError {
        EtcdError::Unknown(format!("{}: {error}", self.url))
    }

    async fn read(
        &self,
        connection: Connection,
        response: http::Response<hyper::body::Incoming>,
    ) -> Result<Value, EtcdError> {
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER).collect().await;
        let body = body.map_err(|error| self.unknown(&error))?.to_bytes();
        self.keep(connection);
        let answer: Value = match serde_json::from_slice(&body) {
            Ok(answer) => answer,
            // Not etcd, or something before it: it has not taken the request.
            Err(_) if status.is_client_error() => {
                let said = String::from_utf8_lossy(&body);
                let said: String = said.trim().chars().take(200).collect();
                let said = format!("{}: {status}: {said}", self.url);
                return Err(EtcdError::Refused(said));
            }
            Err(error) => return Err(self.unknown(&error)),
        };
        self.heard.store(true, Ordering::Relaxed);
        if status.is_success() {
            return Ok(answer);
        }
        let message = member_of(&answer, "message").as_str();
        let message = message.or(member_of(&answer, "error").as_str());
        let message = message.unwrap_or("no reason given").to_owned();
        let code = member_of(&answer, "code").as_u64();
        let goes = matches!(code, Some(CANCELLED | DEADLINE_EXCEEDED | UNAVAILABLE));
        if status.is_server_error() || goes {
            return Err(self.unknown(&message));
        }
        Err(EtcdError::Refused(message))
    }
}

#[cfg(test)]
mod tests;
