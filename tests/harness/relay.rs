//! A way between two processes that a test can cut, so that bytes stop and nobody is told, or narrow.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use shared::clock::monotonic;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// What the way does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Way {
    Open,
    /// Bytes go nowhere, as if a cable were cut.
    Silent,
}

/// What the way carries in a second, from the target to all that have connected.
#[derive(Clone, Debug, Default)]
struct Width(Arc<Mutex<Option<(u32, Instant)>>>);

impl Width {
    /// Waits until `bytes` have had their turn.
    async fn carry(&self, bytes: usize) {
        let pause = {
            let mut width = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let Some((rate, free_at)) = width.as_mut() else {
                return;
            };
            let takes = Duration::from_secs_f64(
                f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)) / f64::from(*rate),
            );
            let now = monotonic();
            *free_at = (*free_at).max(now) + takes;
            free_at.saturating_duration_since(now)
        };
        tokio::time::sleep(pause).await;
    }
}

/// Passes connections on to an address. Dropped, it cuts them all.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    target: watch::Sender<Arc<str>>,
    way: watch::Sender<Way>,
    /// Counts up when connections are to break.
    breaks: watch::Sender<u64>,
    width: Width,
    /// How many directions hold something that is not let through.
    held: watch::Sender<usize>,
    accepting: JoinHandle<()>,
}

impl Relay {
    /// A way to `target`.
    ///
    /// # Panics
    ///
    /// If no port is free.
    pub async fn start(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        let way = watch::Sender::new(Way::Open);
        let breaks = watch::Sender::new(0);
        let target = watch::Sender::new(Arc::from(target));
        let leads = target.clone();
        let (opened, broken) = (way.clone(), breaks.clone());
        let width = Width::default();
        let carries = width.clone();
        let held = watch::Sender::new(0);
        let holds = held.clone();
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let way = opened.subscribe();
                let mut breaks = broken.subscribe();
                let target: Arc<str> = Arc::clone(&leads.borrow());
                let (width, held) = (carries.clone(), holds.clone());
                connections.spawn(async move {
                    let Ok(server) = connect(&target).await else {
                        return;
                    };
                    let wide = Width::default();
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    tokio::select! {
                        () = pass(from_client, to_server, (way.clone(), &held), &wide) => {}
                        () = pass(from_server, to_client, (way, &held), &width) => {}
                        _ = breaks.changed() => {}
                    }
                });
            }
        });
        Self {
            address,
            target,
            way,
            breaks,
            width,
            held,
            accepting,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Lets nothing through from now on, in either direction, without ending a connection.
    pub fn silence(&self) {
        self.way.send_replace(Way::Silent);
    }

    /// Carries so many bytes a second from the target from now on, for all connections together.
    pub fn narrow(&self, bytes_a_second: u32) {
        let mut width = self.width.0.lock().unwrap_or_else(PoisonError::into_inner);
        *width = Some((bytes_a_second, monotonic()));
    }

    /// Lets everything through again.
    pub fn heal(&self) {
        self.way.send_replace(Way::Open);
    }

    /// Waits until something is kept on the way, which lets nothing through.
    pub async fn is_used(&self) {
        // The sender lives as long as this.
        let _ = self.held.subscribe().wait_for(|held| *held > 0).await;
    }

    /// Leads new connections elsewhere.
    pub fn turn_to(&self, target: &str) {
        self.target.send_replace(Arc::from(target));
    }

    /// Ends every connection.
    pub fn break_all(&self) {
        self.breaks.send_modify(|count| *count += 1);
    }
}

/// What the other end has sent does not pile up here: a way that is narrow holds little.
async fn connect(target: &str) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(64 * 1024)?;
    socket
        .connect(target.parse().map_err(std::io::Error::other)?)
        .await
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Copies bytes while the way is open, until either end closes.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    (mut way, held): (watch::Receiver<Way>, &watch::Sender<usize>),
    width: &Width,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        if *way.borrow() != Way::Open {
            held.send_modify(|held| *held += 1);
            let is_over = way.wait_for(|way| *way == Way::Open).await.is_err();
            held.send_modify(|held| *held -= 1);
            if is_over {
                return;
            }
        }
        width.carry(length).await;
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
