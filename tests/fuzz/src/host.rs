//! A data plane's host: the network answers what the input says, time passes when somebody sleeps.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures::executor::{LocalPool, LocalSpawner};
use futures::future::LocalBoxFuture;
use futures::task::LocalSpawnExt as _;
use plugins::client_keys::ClientKeys;
use plugins::host::ldap::{LdapError, LdapServer};
use plugins::host::redis::{Command, RedisError, RedisServer, Reply};
use plugins::host::sink::{Sink, SinkError};
use plugins::host::{FetchError, FetchLimits, Host, RevokeError};
use plugins::sessions::revocations::Revocations;
use plugins::state::{CoreStates, NodeStates};
use shared::clock::UnixTime;
use shared::entity::Revocation;
use shared::secret::Secret;

use crate::control::NOW;

/// What a URL is answered with.
pub type Network = dyn Fn(&http::Request<Bytes>) -> (u16, &'static str, Vec<u8>);

/// One core of a node.
#[derive(Clone)]
pub struct OfflineHost(Rc<Inner>);

struct Inner {
    now: Cell<UnixTime>,
    drawn: Cell<u8>,
    core: CoreStates,
    node: NodeStates,
    revocations: Revocations,
    network: Box<Network>,
    pool: RefCell<LocalPool>,
    spawner: LocalSpawner,
}

impl OfflineHost {
    /// A core of a node of its own.
    pub fn new(
        network: impl Fn(&http::Request<Bytes>) -> (u16, &'static str, Vec<u8>) + 'static,
    ) -> Self {
        let pool = LocalPool::new();
        Self(Rc::new(Inner {
            now: Cell::new(NOW),
            drawn: Cell::new(0),
            core: CoreStates::default(),
            node: NodeStates::default(),
            revocations: Revocations::default(),
            network: Box::new(network),
            spawner: pool.spawner(),
            pool: RefCell::new(pool),
        }))
    }

    /// Runs `future` to its end, and what it spawned only until then.
    pub fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.0.pool.borrow_mut().run_until(future)
    }
}

/// Lets others run once.
async fn give_way() {
    let mut waited = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl Host for OfflineHost {
    async fn fetch(
        &self,
        request: http::Request<Bytes>,
        limits: FetchLimits,
    ) -> Result<http::Response<Bytes>, FetchError> {
        give_way().await;
        let (status, kind, body) = (self.0.network)(&request);
        if body.len() > limits.body {
            return Err(FetchError::TooLarge {
                authority: "idp.example".to_owned(),
                limit: limits.body,
            });
        }
        let answer = http::Response::builder()
            .status(status)
            .header("content-type", kind)
            .body(Bytes::from(body));
        Ok(answer.expect("an answer can be made"))
    }

    async fn redis(&self, _: &Arc<RedisServer>, _: Vec<Command>) -> Result<Vec<Reply>, RedisError> {
        Err(RedisError::Connect {
            address: "nowhere".to_owned(),
            reason: "there is no Redis".to_owned(),
        })
    }

    async fn bind(&self, _: &LdapServer, _: &str, _: &Secret<String>) -> Result<bool, LdapError> {
        Err(LdapError::Connect {
            address: "nowhere".to_owned(),
            reason: "there is no LDAP".to_owned(),
        })
    }

    async fn write(&self, _: &Sink, _: Bytes) -> Result<(), SinkError> {
        Ok(())
    }

    fn now(&self) -> UnixTime {
        self.0.now.get()
    }

    fn node_id(&self) -> &'static str {
        "node"
    }

    fn client_keys(&self) -> Arc<ClientKeys> {
        Arc::default()
    }

    fn random(&self, buffer: &mut [u8]) {
        let next = self.0.drawn.get().wrapping_add(1);
        self.0.drawn.set(next);
        buffer.fill(next);
    }

    fn spawn(&self, task: LocalBoxFuture<'static, ()>) {
        self.0
            .spawner
            .spawn_local(task)
            .expect("the pool lives as long as the host");
    }

    async fn sleep(&self, duration: Duration) {
        for _ in 0..3 {
            give_way().await;
        }
        self.0.now.set(self.now().saturating_add(duration));
    }

    fn core_state<T: Default + 'static>(&self) -> Rc<T> {
        self.0.core.of()
    }

    fn node_state<T: Default + Send + Sync + 'static>(&self) -> Arc<T> {
        self.0.node.of()
    }

    fn revocations(&self) -> &Revocations {
        &self.0.revocations
    }

    async fn revoke(&self, _: Vec<Revocation>) -> Result<(), RevokeError> {
        Ok(())
    }
}
