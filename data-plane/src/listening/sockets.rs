//! The listening sockets of one address, and which core serves which.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol, Socket, Type};

use crate::listening::inherited::{Inherited, deal, one_each, place};

/// What the sockets of a listener are to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) address: SocketAddr,
    pub(crate) kind: Type,
    /// Most connections that wait to be accepted.
    pub(crate) backlog: i32,
}

/// A listener's sockets.
#[derive(Debug)]
pub(crate) struct Sockets {
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
        let passed_on = inherited.take(name, asked.address, kind);
        let by_core = if passed_on.is_empty() {
            // A predecessor that passes no datagrams on, as versions from before do not, has their address itself.
            let alone = kind == Type::STREAM || !inherited.succeeds();
            fresh(asked, cores, alone)?
        } else if kind == Type::STREAM {
            deal(one_each(passed_on, cores)?, cores)
        } else {
            // Two cores on one socket would share out what one client says.
            deal(passed_on, cores)
        };
        let address = by_core.iter().flatten().find_map(place);
        Ok(Self {
            name: name.to_owned(),
            address: address.unwrap_or(asked.address),
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
        socket.listen(backlog)?;
    }
    Ok(socket)
}
