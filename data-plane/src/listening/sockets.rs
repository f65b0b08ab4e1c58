//! The listening sockets of one address, and which core serves which of them.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use crate::listening::inherited::{Inherited, deal, one_each, own, place};

/// Most bytes that wait in the system for each client, beside those that are on their way: whoever takes some, however slowly,
/// is seen to (`TCP_NOTSENT_LOWAT`), and those who take none have little of the system's memory. An answer of 1 MiB costs no more
/// for it, one of 100 MiB by loopback some 10 % of the system's time for more turns: as much with 256 KiB.
const UNSENT: u32 = 64 * 1024;

/// What the sockets of a listener are to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) address: SocketAddr,
    pub(crate) kind: Type,
    /// Most connections that wait to be accepted.
    pub(crate) backlog: i32,
    /// How long a client's system may acknowledge nothing before the client is taken for gone.
    pub(crate) vanished: Duration,
    /// Whether its connections carry byte streams: for how long a client of those may have no room is up to their service.
    pub(crate) raw: bool,
}

/// A listener's sockets.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// What they are called where they are passed on.
    name: String,
    /// Where they listen, with the port that the system has chosen, if it was asked to.
    pub(crate) address: SocketAddr,
    /// Those of each core.
    pub(crate) by_core: Vec<Vec<Socket>>,
}

impl Sockets {
    /// The sockets that were passed on for the listener `name`, else new ones as `asked`, one for each core.
    pub(crate) fn open(
        name: &str,
        asked: Asked,
        cores: usize,
        inherited: &mut Inherited,
    ) -> io::Result<Self> {
        let kind = asked.kind;
        let (given, passed_on) = inherited.take(name, asked.address, kind);
        let by_core = if passed_on.is_empty() {
            // A predecessor that passes no datagrams on, as versions from before do not, has their address itself.
            let alone = kind == Type::STREAM || !inherited.succeeds();
            fresh(asked, cores, alone)?
        } else if kind == Type::STREAM {
            let sockets = one_each(passed_on, cores)?;
            for socket in &sockets {
                watch_clients(socket, asked);
            }
            deal(sockets, cores)
        } else {
            // Two cores on one socket would share out what one client says.
            deal(passed_on, cores)
        };
        let address = by_core.iter().flatten().find_map(place);
        let address = address.unwrap_or(asked.address);
        if given.is_some() && asked.address.port() != 0 && address != asked.address {
            tracing::warn!(
                name,
                %address,
                setting = %asked.address,
                "a listener is at the socket that was passed on, not where its setting says"
            );
        }
        Ok(Self {
            name: given.unwrap_or_else(|| own(name)),
            address,
            by_core,
        })
    }

    /// The same sockets once more, with their name.
    pub(crate) fn clones(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        let all = self.by_core.iter().flatten();
        all.map(|socket| Ok((self.name.clone(), socket.try_clone()?.into())))
            .collect()
    }
}

/// A socket as `asked` for each core. If `alone`, no other process may have the address.
fn fresh(asked: Asked, cores: usize, alone: bool) -> io::Result<Vec<Vec<Socket>>> {
    let Asked { address, kind, .. } = asked;
    if alone && address.port() != 0 {
        // Sockets of another process that share a port as ours do would take half of the clients in silence; one
        // that does not share finds them.
        if kind == Type::STREAM {
            drop(TcpListener::bind(address)?);
        } else {
            drop(UdpSocket::bind(address)?);
        }
    }
    let first = bind(asked)?;
    // A port that the system has chosen is the port of all.
    let chosen = Asked {
        address: place(&first).unwrap_or(address),
        ..asked
    };
    let mut sockets = vec![vec![first]];
    for _ in 1..cores {
        sockets.push(vec![bind(chosen)?]);
    }
    Ok(sockets)
}

/// Binds an address so that every core can have a socket of its own.
fn bind(asked: Asked) -> io::Result<Socket> {
    let Asked {
        address,
        kind,
        backlog,
        ..
    } = asked;
    let listens = kind == Type::STREAM;
    let protocol = if listens {
        Protocol::TCP
    } else {
        Protocol::UDP
    };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if listens {
        socket.set_reuse_address(true)?;
    }
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if listens {
        watch_clients(&socket, asked);
        socket.listen(backlog)?;
    }
    Ok(socket)
}

/// Has each connection of a listener begin as one that ends where its client has vanished without a word, and on which nothing
/// that is sent waits for more. So none costs a system call for that.
fn watch_clients(listener: &Socket, asked: Asked) {
    let Asked { vanished, raw, .. } = asked;
    let set = || {
        listener.set_tcp_nodelay(true)?;
        listener.set_tcp_notsent_lowat(UNSENT)?;
        // Where nothing is sent to it, it is asked for a sign of life after half of the time, and twice more (RFC 9293, section
        // 3.8.4).
        let seconds = |part: u32| (vanished / part).max(Duration::from_secs(1));
        let asks = TcpKeepalive::new()
            .with_time(seconds(2))
            .with_interval(seconds(6))
            .with_retries(3);
        listener.set_tcp_keepalive(&asks)?;
        // It counts a client that has no room, too, however often that answers (tcp(7)).
        listener.set_tcp_user_timeout((!raw).then_some(vanished))
    };
    if let Err(error) = set() {
        tracing::warn!(%error, "the system does not watch whether clients are still there");
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    /// Looks at what a connection to `listener` begins as.
    fn check(listener: &Socket, raw: bool) {
        let _client = TcpStream::connect(place(listener).unwrap()).unwrap();
        listener.set_nonblocking(false).unwrap();
        let (socket, _) = listener.accept().unwrap();
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        let seconds = [
            socket.tcp_keepalive_time().unwrap(),
            socket.tcp_keepalive_interval().unwrap(),
        ];
        assert_eq!(seconds.map(|time| time.as_secs()), [150, 50]);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
        let limit = socket.tcp_user_timeout().unwrap();
        let limit = limit.filter(|limit| !limit.is_zero());
        assert_eq!(limit, (!raw).then_some(Duration::from_mins(5)));
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), UNSENT);
    }

    #[test]
    fn who_vanishes_is_noticed_on_each_connection() {
        for raw in [false, true] {
            let asked = Asked {
                address: "127.0.0.1:0".parse().unwrap(),
                kind: Type::STREAM,
                backlog: 8,
                vanished: Duration::from_mins(5),
                raw,
            };
            let own = Sockets::open("proxy", asked, 1, &mut Inherited::default()).unwrap();
            let own = own.by_core.iter().flatten();
            own.for_each(|listener| check(listener, raw));
            // Another process has made it, perhaps of a version that had other limits.
            let passed_on = Socket::from(TcpListener::bind("127.0.0.1:0").unwrap());
            let before = Duration::from_mins(1);
            passed_on.set_tcp_user_timeout(Some(before)).unwrap();
            watch_clients(&passed_on, asked);
            check(&passed_on, raw);
        }
    }
}
