//! Files and servers that filters write logs to.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use plugins::host::sink::{Sink, SinkError, TcpTls};
use rustls_pki_types::ServerName;
use shared::clock::monotonic;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::net::{UdpSocket, UnixDatagram};
use tokio::sync::oneshot;

use crate::core::{Core, Node};
use crate::upstream::resolve::Resolver;
use crate::upstream::tls::tls_connector;

/// Lines that may wait for the thread that writes files.
const WAITING: usize = 8192;

/// Longest wait for a reader on this machine.
const LOCAL: Duration = Duration::from_secs(1);

/// Writes `bytes` to `sink`.
pub(super) async fn write(core: &Rc<Core>, sink: &Sink, bytes: Bytes) -> Result<(), SinkError> {
    let (target, written) = match sink {
        Sink::File { path, reopen } => {
            let files = core.node.states.of::<Files>();
            let written = files.append(path.clone(), *reopen, bytes).await;
            (path.display().to_string(), written)
        }
        Sink::Tcp {
            host,
            port,
            tls,
            timeout,
            keepalive,
        } => {
            let connections = core.states.of::<Connections>();
            let server = Server {
                resolver: &core.resolver,
                host,
                port: *port,
                tls: tls.as_ref(),
            };
            let sending = connections.send(sink, server, *keepalive, &bytes);
            (format!("{host}:{port}"), within(*timeout, sending).await)
        }
        Sink::Datagram { path } => {
            let sending = async {
                let socket = UnixDatagram::unbound()?;
                socket.send_to(&bytes, path).await.map(|_| ())
            };
            (path.display().to_string(), within(LOCAL, sending).await)
        }
        Sink::Udp {
            host,
            port,
            timeout,
        } => {
            let sending = datagram(&core.resolver, host, *port, &bytes);
            (format!("{host}:{port}"), within(*timeout, sending).await)
        }
    };
    written.map_err(|error| SinkError {
        target,
        reason: error.to_string(),
    })
}

/// Has the files that are open on `node` opened anew, behind the lines that wait.
pub(crate) fn reopen(node: &Node) {
    let files = node.states.of::<Files>();
    let Some(sender) = files.0.get() else {
        return tracing::info!("no log files are open");
    };
    if sender.try_send(Order::Reopen).is_err() {
        tracing::error!("too many lines are waiting: log files are not reopened, ask again");
    }
}

async fn within(limit: Duration, work: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    let result = tokio::time::timeout(limit, work).await;
    result.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn datagram(resolver: &Resolver, host: &str, port: u16, bytes: &[u8]) -> io::Result<()> {
    let addresses = resolver.addresses(host, port).await?;
    let address = addresses.first();
    let address = address.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    let any = if address.is_ipv6() {
        "[::]:0"
    } else {
        "0.0.0.0:0"
    };
    let socket = UdpSocket::bind(any).await?;
    socket.send_to(bytes, address).await.map(|_| ())
}

/// The thread that appends to files, for all cores: a slow disk delays no request.
#[derive(Debug, Default)]
struct Files(OnceLock<SyncSender<Order>>);

/// What the thread is to do.
#[derive(Debug)]
enum Order {
    Append(Line),
    /// Close all files; the next line opens its own.
    Reopen,
}

#[derive(Debug)]
struct Line {
    path: PathBuf,
    reopen: bool,
    bytes: Bytes,
    done: oneshot::Sender<io::Result<()>>,
}

impl Files {
    async fn append(&self, path: PathBuf, reopen: bool, bytes: Bytes) -> io::Result<()> {
        let (done, written) = oneshot::channel();
        let line = Line {
            path,
            reopen,
            bytes,
            done,
        };
        let sender = self.0.get_or_init(|| {
            let (sender, orders) = sync_channel(WAITING);
            let started = std::thread::Builder::new()
                .name("log-files".to_owned())
                .spawn(move || obey(&orders));
            if let Err(error) = started {
                tracing::error!(%error, "no thread could be started for log files");
            }
            sender
        });
        if sender.try_send(Order::Append(line)).is_err() {
            return Err(io::Error::other("too many lines are waiting"));
        }
        let lost = |_| Err(io::Error::other("the writing thread has ended"));
        written.await.unwrap_or_else(lost)
    }
}

fn obey(orders: &Receiver<Order>) {
    let mut open: HashMap<PathBuf, File> = HashMap::new();
    while let Ok(order) = orders.recv() {
        let Order::Append(line) = order else {
            open.clear();
            tracing::info!("log files are reopened");
            continue;
        };
        let written = append(&mut open, &line);
        if written.is_err() {
            open.remove(&line.path);
        }
        // Nobody may be waiting any more.
        let _ = line.done.send(written);
    }
}

fn append(open: &mut HashMap<PathBuf, File>, line: &Line) -> io::Result<()> {
    if line.reopen {
        open.remove(&line.path);
    }
    if let Some(file) = open.get_mut(&line.path) {
        return file.write_all(&line.bytes);
    }
    let mut file = create(&line.path)?;
    file.write_all(&line.bytes)?;
    if !line.reopen {
        open.insert(line.path.clone(), file);
    }
    Ok(())
}

fn create(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o644).open(path)
}

/// A server of streams, and how its name is looked up.
struct Server<'a> {
    resolver: &'a Resolver,
    host: &'a str,
    port: u16,
    tls: Option<&'a TcpTls>,
}

/// Idle connections of one core.
#[derive(Default)]
struct Connections(RefCell<HashMap<Sink, Idle>>);

struct Idle {
    stream: Box<dyn AsyncWrite + Unpin>,
    since: Instant,
}

impl Connections {
    async fn send(
        &self,
        sink: &Sink,
        server: Server<'_>,
        keepalive: Duration,
        bytes: &[u8],
    ) -> io::Result<()> {
        let idle = self.0.borrow_mut().remove(sink);
        let idle =
            idle.filter(|idle| monotonic().saturating_duration_since(idle.since) < keepalive);
        if let Some(mut idle) = idle
            && send(&mut idle.stream, bytes).await.is_ok()
        {
            self.keep(sink, idle.stream);
            return Ok(());
        }
        let host = server.host;
        let stream = server.resolver.connect(host, server.port).await?;
        let mut stream: Box<dyn AsyncWrite + Unpin> = match server.tls {
            None => Box::new(stream),
            Some(tls) => {
                let name = tls.server_name.clone().unwrap_or_else(|| host.to_owned());
                let name = ServerName::try_from(name).map_err(io::Error::other)?;
                Box::new(tls_connector(false).connect(name, stream).await?)
            }
        };
        send(&mut stream, bytes).await?;
        self.keep(sink, stream);
        Ok(())
    }

    fn keep(&self, sink: &Sink, stream: Box<dyn AsyncWrite + Unpin>) {
        let idle = Idle {
            stream,
            since: monotonic(),
        };
        self.0.borrow_mut().insert(sink.clone(), idle);
    }
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}
