//! Redis: one connection per core and server, which carries everybody's commands at once.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisConnectionInfo, Value};
use futures::FutureExt as _;
use futures::future::{LocalBoxFuture, Shared};
use plugins::host::redis::{Command, Endpoint, RedisError, RedisServer, Reply};
use rustls_pki_types::ServerName;
use tokio::net::UnixStream;

use crate::core::Core;
use crate::upstream::resolve::Resolver;
use crate::upstream::tls::tls_connector;

/// The connections of one core, by [`RedisServer::connection_key`].
#[derive(Default)]
pub(super) struct Connections(RefCell<HashMap<[u8; 32], Connecting>>);

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
    let connections = core.states.of::<Connections>();
    let key = server.connection_key();
    let connecting = connections.connecting(key, server, &core.resolver);
    let mut connection = match connecting.clone().await {
        Ok(connection) => connection,
        Err(error) => {
            connections.forget(key, &connecting);
            return Err(error);
        }
    };
    let count = commands.len();
    let mut pipeline = Pipeline::with_capacity(count);
    for command in commands {
        let mut parts = command.0.iter();
        let mut sent = Cmd::new();
        for part in &mut parts {
            sent.arg(&part[..]);
        }
        pipeline.add_command(sent);
    }
    let asking = connection
        .commands
        .send_packed_commands(&pipeline, 0, count);
    let address = || address(server);
    match tokio::time::timeout(server.read_timeout, asking).await {
        Ok(Ok(values)) => Ok(values.into_iter().map(reply).collect()),
        Ok(Err(error)) => {
            connections.forget(key, &connecting);
            Err(RedisError::Broken {
                address: address(),
                reason: error.to_string(),
            })
        }
        Err(_) => {
            // Replies that come late would be somebody else's wait: the connection goes.
            connections.forget(key, &connecting);
            Err(RedisError::Timeout {
                address: address(),
                timeout: server.read_timeout,
            })
        }
    }
}

impl Connections {
    fn connecting(
        &self,
        key: [u8; 32],
        server: &Arc<RedisServer>,
        resolver: &Rc<Resolver>,
    ) -> Connecting {
        let mut known = self.0.borrow_mut();
        if let Some(found) = known.get(&key) {
            let gone = matches!(found.peek(), Some(Ok(connection)) if !connection.alive.get());
            if !gone {
                return found.clone();
            }
        }
        let connecting = connect(Arc::clone(server), Rc::clone(resolver));
        let made = connecting.boxed_local().shared();
        known.insert(key, made.clone());
        made
    }

    /// Forgets a connection that is of no use any more, unless it has been replaced already.
    fn forget(&self, key: [u8; 32], used: &Connecting) {
        let mut known = self.0.borrow_mut();
        if known.get(&key).is_some_and(|found| found.ptr_eq(used)) {
            known.remove(&key);
        }
    }
}

async fn connect(
    server: Arc<RedisServer>,
    resolver: Rc<Resolver>,
) -> Result<Connection, RedisError> {
    tokio::time::timeout(server.connect_timeout, open(&server, &resolver))
        .await
        .unwrap_or_else(|_| {
            Err(RedisError::Timeout {
                address: address(&server),
                timeout: server.connect_timeout,
            })
        })
}

async fn open(server: &RedisServer, resolver: &Resolver) -> Result<Connection, RedisError> {
    let failed = |reason: String| RedisError::Connect {
        address: address(server),
        reason,
    };
    match &server.endpoint {
        Endpoint::Socket(path) => {
            let stream = UnixStream::connect(path).await;
            log_in(server, stream.map_err(|error| failed(error.to_string()))?).await
        }
        Endpoint::Network(host, port) => {
            let stream = resolver.connect(host, *port).await;
            let stream = stream.map_err(|error| failed(error.to_string()))?;
            let Some(tls) = &server.tls else {
                return log_in(server, stream).await;
            };
            let name = tls.server_name.as_ref().unwrap_or(host).clone();
            let name = ServerName::try_from(name).map_err(|error| failed(error.to_string()))?;
            let stream = tls_connector(tls.verify).connect(name, stream).await;
            log_in(server, stream.map_err(|error| failed(error.to_string()))?).await
        }
    }
}

async fn log_in<S>(server: &RedisServer, stream: S) -> Result<Connection, RedisError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let mut account = RedisConnectionInfo::default()
        .set_db(server.database)
        .set_skip_set_lib_name();
    if let Some(username) = &server.username {
        account = account.set_username(username);
    }
    if let Some(password) = &server.password {
        account = account.set_password(password.expose());
    }
    // Our own limits hold: per server, and over all replies of a call.
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None);
    let (commands, driver) = MultiplexedConnection::new_with_config(&account, stream, config)
        .await
        .map_err(|error| RedisError::Login {
            address: address(server),
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
        // The others belong to a version of the protocol that was not asked for.
        _ => Reply::Nil,
    }
}

fn address(server: &RedisServer) -> String {
    match &server.endpoint {
        Endpoint::Network(host, port) => format!("{host}:{port}"),
        Endpoint::Socket(path) => path.display().to_string(),
    }
}
