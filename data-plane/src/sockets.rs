//! The listening sockets of one address, and which core serves which.

use std::io;
use std::net::{SocketAddr, TcpListener};

use crate::inherited::{Inherited, deal};
use crate::listener::bind;

/// A listener's sockets.
#[derive(Debug)]
pub(crate) struct Sockets {
    name: String,
    /// Where they listen, with the port that the system has chosen, if it was asked to.
    pub(crate) address: SocketAddr,
    /// Those of each core.
    pub(crate) by_core: Vec<Vec<TcpListener>>,
}

impl Sockets {
    /// The sockets that were passed on for the listener `name`, else new ones at `asked`, one for each core.
    pub(crate) fn open(
        name: &str,
        asked: SocketAddr,
        cores: usize,
        inherited: &mut Inherited,
    ) -> io::Result<Self> {
        let passed_on = inherited.take(name, asked);
        let by_core = if passed_on.is_empty() {
            fresh(asked, cores)?
        } else {
            deal(passed_on, cores)?
        };
        let first = by_core.iter().flatten().next();
        let address = first.map_or(Ok(asked), TcpListener::local_addr)?;
        Ok(Self {
            name: name.to_owned(),
            address,
            by_core,
        })
    }

    /// The same sockets once more, with their name.
    pub(crate) fn clones(&self) -> io::Result<Vec<(String, TcpListener)>> {
        let all = self.by_core.iter().flatten();
        all.map(|socket| Ok((self.name.clone(), socket.try_clone()?)))
            .collect()
    }
}

fn fresh(address: SocketAddr, cores: usize) -> io::Result<Vec<Vec<TcpListener>>> {
    if address.port() != 0 {
        // Sockets of another process that share a port as ours do would take half of the connections
        // in silence; one that does not share finds them.
        drop(TcpListener::bind(address)?);
    }
    let first = bind(address)?;
    // A port that the system has chosen is the port of all.
    let chosen = first.local_addr()?;
    let mut sockets = vec![vec![first]];
    for _ in 1..cores {
        sockets.push(vec![bind(chosen)?]);
    }
    Ok(sockets)
}
