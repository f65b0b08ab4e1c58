//! Redis: one connection per core and server, which carries everybody's commands at once.

mod breaker;
mod cluster;
mod lengths;
mod sentinel;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisConnectionInfo, ServerErrorKind, Value};
use futures::FutureExt as _;
use futures::future::{LocalBoxFuture, Shared};
use plugins::host::redis::{Address, Command, Endpoint, RedisError, RedisServer, Reply};
use rustls_pki_types::ServerName;
use shared::secret::Secret;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};

use self::breaker::Silent;
use self::lengths::Measured;
use crate::core::Core;
use crate::upstream::resolve::Resolver;
use crate::upstream::tls::tls_connector;

/// The connections of one core.
#[derive(Default)]
pub(super) struct Connections(RefCell<HashMap<Key, Connecting>>);

/// Names a connection: [`RedisServer::connection_key`] and, in a cluster, the node.
type Key = ([u8; 32], Option<Address>);

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").finish_non_exhaustive()
    }
}

/// A connection, perhaps to come: who asks meanwhile waits for the same one.
type Connecting = Shared<LocalBoxFuture<'static, Result<Connection, RedisError>>>;

#[derive(Clone)]
struct Connection {
    commands: MultiplexedConnection,
    /// Whether the server has not gone away yet.
    alive: Rc<Cell<bool>>,
}

/// Sends `commands` to `server` in one go and waits for all replies.
pub(super) async fn ask(
    core: &Rc<Core>,
    server: &Arc<RedisServer>,
    commands: Vec<Command>,
) -> Result<Vec<Reply>, RedisError> {
    let values = match &server.endpoint {
        Endpoint::Cluster(cluster) => cluster::ask(core, server, cluster, commands).await?,
        Endpoint::Sentinel(_) => {
            let again = commands.clone();
            let values = ask_one(core, server, None, commands).await?;
            if values.iter().any(is_refused_for_writing) {
                // Another server has become the master since.
                ask_one(core, server, None, again).await?
            } else {
                values
            }
        }
        Endpoint::Network(_) | Endpoint::Socket(_) => ask_one(core, server, None, commands).await?,
    };
    Ok(values.into_iter().map(reply).collect())
}

/// Whether a replica has refused to write.
fn is_refused_for_writing(value: &Value) -> bool {
    matches!(value, Value::ServerError(error) if error.kind() == Some(ServerErrorKind::ReadOnly))
}

/// Sends `commands` to the one server that `server` means, or to the `node` of a cluster.
async fn ask_one(
    core: &Rc<Core>,
    server: &Arc<RedisServer>,
    node: Option<&Address>,
    commands: Vec<Command>,
) -> Result<Vec<Value>, RedisError> {
    let key = (server.connection_key(), node.cloned());
    let silent = core.states.of::<Silent>();
    let patience = server.connect_timeout + server.read_timeout;
    let asking = ask_now(Rc::clone(core), Arc::clone(server), key.clone(), commands);
    let asked = silent.ask(key, patience, asking).await;
    asked.unwrap_or_else(|| {
        Err(RedisError::Resting {
            address: address(server, node),
        })
    })
}

async fn ask_now(
    core: Rc<Core>,
    server: Arc<RedisServer>,
    key: Key,
    commands: Vec<Command>,
) -> Result<Vec<Value>, RedisError> {
    let connections = core.states.of::<Connections>();
    let connecting = connections.connecting(&key, &server, &core.resolver);
    let mut connection = match connecting.clone().await {
        Ok(connection) => connection,
        Err(error) => {
            connections.forget(&key, &connecting);
            return Err(error);
        }
    };
    let count = commands.len();
    let mut pipeline = Pipeline::with_capacity(count);
    for command in commands {
        pipeline.add_command(sent(&command));
    }
    let asking = connection
        .commands
        .send_packed_commands(&pipeline, 0, count);
    let address = || address(&server, key.1.as_ref());
    match tokio::time::timeout(server.read_timeout, asking).await {
        Ok(Ok(values)) => {
            if values.iter().any(is_refused_for_writing) {
                connections.forget(&key, &connecting);
            }
            Ok(values)
        }
        Ok(Err(error)) => {
            connections.forget(&key, &connecting);
            Err(RedisError::Broken {
                address: address(),
                reason: error.to_string(),
            })
        }
        Err(_) => {
            // Replies that come late would be somebody else's wait: the connection goes.
            connections.forget(&key, &connecting);
            Err(RedisError::Timeout {
                address: address(),
                timeout: server.read_timeout,
            })
        }
    }
}

fn sent(command: &Command) -> Cmd {
    let mut sent = Cmd::new();
    for part in &command.0 {
        sent.arg(&part[..]);
    }
    sent
}

impl Connections {
    fn connecting(
        &self,
        key: &Key,
        server: &Arc<RedisServer>,
        resolver: &Rc<Resolver>,
    ) -> Connecting {
        let mut known = self.0.borrow_mut();
        if let Some(found) = known.get(key) {
            let gone = matches!(found.peek(), Some(Ok(connection)) if !connection.alive.get());
            if !gone {
                return found.clone();
            }
        }
        let connecting = connect(Arc::clone(server), key.1.clone(), Rc::clone(resolver));
        let made = connecting.boxed_local().shared();
        known.insert(key.clone(), made.clone());
        made
    }

    /// Forgets a connection that is of no use any more, unless it has been replaced already.
    fn forget(&self, key: &Key, used: &Connecting) {
        let mut known = self.0.borrow_mut();
        if known.get(key).is_some_and(|found| found.ptr_eq(used)) {
            known.remove(key);
        }
    }
}

async fn connect(
    server: Arc<RedisServer>,
    node: Option<Address>,
    resolver: Rc<Resolver>,
) -> Result<Connection, RedisError> {
    let opening = open(&server, node.as_ref(), &resolver);
    tokio::time::timeout(server.connect_timeout, opening)
        .await
        .unwrap_or_else(|_| {
            Err(RedisError::Timeout {
                address: address(&server, node.as_ref()),
                timeout: server.connect_timeout,
            })
        })
}

async fn open(
    server: &RedisServer,
    node: Option<&Address>,
    resolver: &Resolver,
) -> Result<Connection, RedisError> {
    let account = Account {
        username: server.username.as_deref(),
        password: server.password.as_ref(),
        database: server.database,
    };
    match (&server.endpoint, node) {
        (Endpoint::Network(address), None) | (_, Some(address)) => {
            reach(server, address, account, resolver).await
        }
        (Endpoint::Sentinel(group), None) => {
            Box::pin(sentinel::open(server, group, account, resolver)).await
        }
        (Endpoint::Socket(path), None) => {
            let address = path.display().to_string();
            let stream = UnixStream::connect(path).await;
            let stream = stream.map_err(|error| RedisError::Connect {
                address: address.clone(),
                reason: error.to_string(),
            })?;
            log_in(account, stream, &address).await
        }
        (Endpoint::Cluster(_), None) => Err(RedisError::Connect {
            address: address(server, None),
            reason: "no node is named".to_owned(),
        }),
    }
}

/// Connects to the server at `address` as `server` says, and logs in.
async fn reach(
    server: &RedisServer,
    address: &Address,
    account: Account<'_>,
    resolver: &Resolver,
) -> Result<Connection, RedisError> {
    let failed = |reason: String| RedisError::Connect {
        address: address.to_string(),
        reason,
    };
    let stream = resolver.connect(&address.host, address.port).await;
    let stream = stream.map_err(|error| failed(error.to_string()))?;
    keep_alive(&stream);
    let Some(tls) = &server.tls else {
        return log_in(account, stream, &address.to_string()).await;
    };
    let name = tls.server_name.as_ref().unwrap_or(&address.host).clone();
    let name = ServerName::try_from(name).map_err(|error| failed(error.to_string()))?;
    let stream = tls_connector(tls.verify).connect(name, stream).await;
    let stream = stream.map_err(|error| failed(error.to_string()))?;
    log_in(account, stream, &address.to_string()).await
}

/// Has the connection say something while nobody asks anything: what stands between drops those that are silent for minutes,
/// without a word, and the first who asked then would wait in vain.
fn keep_alive(stream: &TcpStream) {
    let says = TcpKeepalive::new()
        .with_time(Duration::from_mins(1))
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    if let Err(error) = SockRef::from(stream).set_tcp_keepalive(&says) {
        tracing::warn!(%error, "the system does not keep connections to Redis alive");
    }
}

/// Who logs in, and where.
#[derive(Clone, Copy)]
struct Account<'a> {
    username: Option<&'a str>,
    password: Option<&'a Secret<String>>,
    database: i64,
}

async fn log_in<S>(account: Account<'_>, stream: S, address: &str) -> Result<Connection, RedisError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let mut info = RedisConnectionInfo::default()
        .set_db(account.database)
        .set_skip_set_lib_name();
    if let Some(username) = account.username {
        info = info.set_username(username);
    }
    if let Some(password) = account.password {
        info = info.set_password(password.expose());
    }
    // Our own limits hold: per server, and over all replies of a call.
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None);
    let (commands, driver) =
        MultiplexedConnection::new_with_config(&info, Measured::new(stream), config)
            .await
            .map_err(|error| RedisError::Login {
                address: address.to_owned(),
                reason: error.to_string(),
            })?;
    let alive = Rc::new(Cell::new(true));
    let ended = Rc::clone(&alive);
    tokio::task::spawn_local(async move {
        driver.await;
        ended.set(false);
    });
    Ok(Connection { commands, alive })
}

fn reply(value: Value) -> Reply {
    match value {
        Value::Int(number) => Reply::Integer(number),
        Value::BulkString(bytes) => Reply::Bytes(bytes.into()),
        Value::Array(values) | Value::Set(values) => {
            Reply::List(values.into_iter().map(reply).collect())
        }
        Value::SimpleString(text) => Reply::Status(text),
        Value::Okay => Reply::Status("OK".to_owned()),
        Value::ServerError(error) => Reply::Error(error.to_string()),
        Value::Nil => Reply::Nil,
        _ => Reply::Error("a reply of a version of the protocol that was not asked for".to_owned()),
    }
}

fn address(server: &RedisServer, node: Option<&Address>) -> String {
    if let Some(node) = node {
        return node.to_string();
    }
    match &server.endpoint {
        Endpoint::Network(address) => address.to_string(),
        Endpoint::Socket(path) => path.display().to_string(),
        Endpoint::Sentinel(group) => format!("the group {}", group.name),
        Endpoint::Cluster(_) => "a cluster".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_that_nobody_uses_is_kept_alive() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await;
        let stream = stream.unwrap();
        keep_alive(&stream);
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap().as_secs(), 60);
    }
}
