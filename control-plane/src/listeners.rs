//! The addresses that a control plane listens on. Its sockets outlive the process and pass to its successor, so that
//! clients wait for that one instead of being refused.

use std::io;
use std::net::{SocketAddr, TcpListener as Socket};
use std::os::fd::{AsFd as _, OwnedFd};

use listenfd::ListenFd;
use serde_json::Value;
use shared::listen::PlainListen;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::StartError;
use crate::admin::Listener;
use crate::admin::listener::{Limits, Tls, listen, serve};
use crate::settings::Settings;

/// Sockets that this process was started with, by name: by systemd, or by the process whose place it has taken.
#[derive(Debug, Default)]
pub struct Inherited(Vec<(String, Socket)>);

impl Inherited {
    /// Reads `LISTEN_FDS` and `LISTEN_FDNAMES`. To be called once, before any thread is started.
    ///
    /// # Errors
    ///
    /// A descriptor that is no socket of TCP.
    pub fn from_environment() -> io::Result<Self> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut descriptors = ListenFd::from_env();
        let mut inherited = Vec::new();
        for number in 0..descriptors.len() {
            let name = names.next().unwrap_or_default().to_owned();
            if let Some(socket) = descriptors.take_tcp_listener(number)? {
                socket.set_nonblocking(true)?;
                inherited.push((name, socket));
            }
        }
        Ok(Self(inherited))
    }

    /// Takes the socket of the listener `name` at `address`, else any there.
    fn take(&mut self, name: &str, address: SocketAddr) -> Option<Socket> {
        let is_there = |socket: &Socket| {
            socket
                .local_addr()
                .is_ok_and(|own| own == address || address.port() == 0 && own.ip() == address.ip())
        };
        let named = |(own, socket): &(String, Socket)| own == name && is_there(socket);
        let exact =
            |(_, socket): &(String, Socket)| socket.local_addr().is_ok_and(|own| own == address);
        let mut sockets = self.0.iter();
        let place = sockets.position(named);
        let place = place.or_else(|| self.0.iter().position(exact))?;
        Some(self.0.swap_remove(place).1)
    }
}

/// Opens listeners, and keeps their sockets for a process to come.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    inherited: Inherited,
    kept: Vec<(String, OwnedFd)>,
}

impl Sockets {
    /// Listeners are those that were `inherited`, as far as there are any.
    pub(crate) const fn new(inherited: Inherited) -> Self {
        Self {
            inherited,
            kept: Vec::new(),
        }
    }

    /// A listener and the address that it got.
    pub(crate) fn listen(
        &mut self,
        setting: &'static str,
        address: SocketAddr,
        backlog: u32,
    ) -> Result<(TcpListener, SocketAddr), StartError> {
        let failed = |source| StartError::Listen {
            address,
            setting,
            source,
        };
        let name = name_of(setting);
        let listener = match self.inherited.take(name, address) {
            Some(socket) => TcpListener::from_std(socket),
            None => bind(address, backlog),
        };
        let listener = listener.map_err(failed)?;
        let chosen = listener.local_addr().map_err(failed)?;
        let kept = listener.as_fd().try_clone_to_owned().map_err(failed)?;
        self.kept.push((name.to_owned(), kept));
        Ok((listener, chosen))
    }

    /// What is to be kept. Sockets that no listener has asked for are closed.
    pub(crate) fn finish(self) -> Vec<(String, OwnedFd)> {
        for (name, socket) in self.inherited.0 {
            let address = socket.local_addr().ok();
            tracing::warn!(
                name,
                ?address,
                "a socket was passed on that no listener has asked for: it is closed"
            );
        }
        self.kept
    }
}

/// Says which of the addresses that are `asked` for cannot be listened at, but for those of the sockets that are `kept`.
pub(crate) fn try_others(
    asked: &[(&'static str, SocketAddr)],
    kept: &[(String, OwnedFd)],
) -> Result<(), StartError> {
    let own: Vec<SocketAddr> = kept
        .iter()
        .filter_map(|(_, socket)| Socket::from(socket.try_clone().ok()?).local_addr().ok())
        .collect();
    for &(setting, address) in asked {
        let failed = |source| StartError::Listen {
            address,
            setting,
            source,
        };
        if address.port() != 0 && !own.contains(&address) {
            bind(address, 1).map_err(failed)?;
        }
    }
    Ok(())
}

fn bind(address: SocketAddr, backlog: u32) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // A restart must not wait for the connections of the process before.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(backlog)
}

/// What the listener of a setting is called.
fn name_of(setting: &str) -> &str {
    setting.trim_end_matches("_listen")
}

/// The listeners of the Admin API.
pub(crate) struct Admins {
    all: Vec<Bound>,
    tls: watch::Receiver<Tls>,
}

struct Bound {
    address: SocketAddr,
    listener: TcpListener,
    /// Whether TLS is spoken.
    encrypted: bool,
}

impl Admins {
    /// Those that `settings` ask for; where they speak TLS, it is `tls`.
    pub(crate) fn listen(
        sockets: &mut Sockets,
        settings: &Settings,
        tls: &watch::Receiver<Tls>,
    ) -> Result<Self, StartError> {
        let mut all = Vec::new();
        for (setting, asked) in settings.admins().map_err(StartError::Listeners)? {
            let backlog = asked.backlog.unsigned_abs();
            let (listener, address) = sockets.listen(setting, asked.address, backlog)?;
            all.push(Bound {
                address,
                listener,
                encrypted: asked.tls,
            });
        }
        let tls = tls.clone();
        Ok(Self { all, tls })
    }

    /// What clients are told of them.
    pub(crate) fn shown(&self) -> Vec<Listener> {
        let shown = |bound: &Bound| Listener {
            address: bound.address,
            encrypted: bound.encrypted,
        };
        self.all.iter().map(shown).collect()
    }

    /// The first one without TLS, or else the first.
    pub(crate) fn first(&self) -> Result<SocketAddr, StartError> {
        let plain = self.all.iter().find(|bound| !bound.encrypted);
        let first = plain.or(self.all.first());
        let none = || StartError::Listeners("there is no Admin API".to_owned());
        first.map(|bound| bound.address).ok_or_else(none)
    }

    /// What is told of where the control plane listens, as far as it is known, with where data planes connect.
    pub(crate) fn addresses(&self, cluster: SocketAddr) -> serde_json::Map<String, Value> {
        let encrypted = self.all.iter().find(|bound| bound.encrypted);
        let told = [
            ("admin", self.first().ok()),
            ("admin_tls", encrypted.map(|bound| bound.address)),
            ("cluster", Some(cluster)),
        ];
        let told = told
            .into_iter()
            .filter_map(|(name, address)| Some((name.to_owned(), address?.to_string().into())));
        told.collect()
    }

    /// Serves the Admin API. To drop the senders ends it.
    pub(crate) fn serve(self, router: &axum::Router) -> (Vec<oneshot::Sender<()>>, JoinHandle<()>) {
        let mut stop = Vec::new();
        let mut served = JoinSet::new();
        for bound in self.all {
            let (end, stopping) = oneshot::channel();
            stop.push(end);
            served.spawn(serve(
                bound.listener,
                bound.encrypted.then(|| self.tls.clone()),
                Limits::default(),
                router.clone(),
                stopping,
            ));
        }
        let all = async move {
            while let Some(ended) = served.join_next().await {
                if let Err(error) = ended {
                    tracing::error!(%error, "admin api ended badly");
                }
            }
        };
        (stop, tokio::spawn(all))
    }
}

/// Listeners that need no farewell: of pages and probes.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    /// By name, such as `console`.
    pub(crate) addresses: serde_json::Map<String, Value>,
    served: Vec<JoinHandle<()>>,
    /// Those that have a thread of their own.
    apart: Vec<Apart>,
}

/// A listener that has a thread of its own.
#[derive(Debug)]
struct Apart {
    /// Dropped, it ends.
    end: oneshot::Sender<()>,
    /// Nothing is sent: its other half goes once the socket is closed.
    closed: oneshot::Receiver<()>,
}

impl Apart {
    /// Ends it. Afterwards its socket is closed; what is under way is finished.
    async fn end(self) {
        drop(self.end);
        let _ = self.closed.await;
    }
}

/// What a listener of pages serves.
pub(crate) struct Page {
    pub(crate) router: axum::Router,
    /// Whether it has a thread of its own: it answers whatever else there is to do.
    pub(crate) apart: bool,
}

impl Pages {
    /// Serves each page at the addresses of its setting.
    pub(crate) fn start(
        sockets: &mut Sockets,
        all: impl Iterator<Item = ((&'static str, Vec<PlainListen>), Page)>,
    ) -> Result<Self, StartError> {
        let mut pages = Self::default();
        for ((setting, asked), Page { router, apart }) in all {
            for PlainListen { address, backlog } in asked {
                let (listener, chosen) =
                    sockets.listen(setting, address, backlog.unsigned_abs())?;
                let name = name_of(setting).to_owned();
                let first = pages.addresses.entry(name);
                first.or_insert_with(|| chosen.to_string().into());
                let router = router.clone();
                if apart {
                    let failed = |source| StartError::Listen {
                        address,
                        setting,
                        source,
                    };
                    pages
                        .apart
                        .push(serve_apart(listener, router).map_err(failed)?);
                    continue;
                }
                pages.served.push(tokio::spawn(async move {
                    // Never sent: the task is ended instead.
                    let (_end, stopping) = oneshot::channel();
                    serve(listener, None, Limits::of_a_page(), router, stopping).await;
                }));
            }
        }
        Ok(pages)
    }

    /// Ends them. Afterwards their sockets are closed.
    pub(crate) async fn end(self) {
        self.served.iter().for_each(JoinHandle::abort);
        for served in self.served {
            // It was ended, as it was to be.
            let _ = served.await;
        }
        for apart in self.apart {
            apart.end().await;
        }
    }
}

/// Serves `router` on a thread of its own, until that is ended.
fn serve_apart(listener: TcpListener, router: axum::Router) -> io::Result<Apart> {
    let socket = listener.into_std()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (end, stopping) = oneshot::channel();
    let (open, closed) = oneshot::channel::<()>();
    std::thread::Builder::new()
        .name("status".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                match TcpListener::from_std(socket) {
                    Ok(listener) => {
                        let limits = Limits::of_a_page();
                        let left = listen(listener, None, limits, router, stopping).await;
                        drop(open);
                        left.ended().await;
                    }
                    Err(error) => tracing::error!(%error, "status_listen cannot be served"),
                }
            });
        })?;
    Ok(Apart { end, closed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_page_with_a_thread_of_its_own_answers_whatever_keeps_the_others() {
        use std::io::{Read as _, Write as _};

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let here = axum::routing::get(|| async { "here" });
        let apart = serve_apart(listener, axum::Router::new().route("/", here)).unwrap();
        // This thread is the only one of its runtime, and waits.
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(std::time::Duration::from_secs(20)))
            .unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("here"), "{answer}");
        apart.end().await;
        bind(address, 1).expect("nobody listens there any more");
    }

    #[tokio::test]
    async fn where_pages_were_others_may_listen_once_they_have_ended() {
        let any = || PlainListen {
            address: ([127, 0, 0, 1], 0).into(),
            backlog: 1,
        };
        let page = |apart| Page {
            router: axum::Router::new(),
            apart,
        };
        let mut sockets = Sockets::default();
        let all = [
            (("console_listen", vec![any()]), page(false)),
            (("status_listen", vec![any()]), page(true)),
        ];
        let pages = Pages::start(&mut sockets, all.into_iter()).unwrap();
        let shown = pages.addresses.values();
        let places: Vec<SocketAddr> = shown
            .map(|shown| shown.as_str().unwrap().parse().unwrap())
            .collect();
        assert_eq!(places.len(), 2);
        drop(sockets);
        pages.end().await;
        for place in places {
            bind(place, 1).unwrap();
        }
    }

    #[test]
    fn a_listener_takes_the_socket_of_its_name_or_of_its_address() {
        let socket = || Socket::bind("127.0.0.1:0").unwrap();
        let (admin, console, other) = (socket(), socket(), socket());
        let places = [&admin, &console, &other].map(|one| one.local_addr().unwrap());
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        let mut inherited = Inherited(vec![
            ("console".to_owned(), console),
            ("admin".to_owned(), admin),
            ("wardgate.socket".to_owned(), other),
        ]);
        let mut take = |name, address| {
            let socket = inherited.take(name, address)?;
            Some(socket.local_addr().unwrap())
        };
        assert_eq!(take("status", any), None);
        assert_eq!(take("admin", places[2]), Some(places[2]));
        assert_eq!(take("admin", any), Some(places[0]));
        assert_eq!(take("console", places[1]), Some(places[1]));
        assert_eq!(take("console", any), None);
    }
}
