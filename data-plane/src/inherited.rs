//! Listening sockets that this process was started with: by systemd, which keeps them while the service
//! restarts, or by the process before it, whose clients do not notice that it goes (`sd_listen_fds(3)`).

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixDatagram;

use listenfd::ListenFd;

/// What the socket is called on which a successor says that it is ready.
pub(crate) const SUCCESSION: &str = "succession";

/// What a successor says.
pub(crate) const READY: &[u8] = b"ready";

/// Why the sockets that the process was started with are of no use.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// A descriptor is not what its name says.
    #[error("using descriptor {number} of LISTEN_FDS, `{name}`")]
    Descriptor {
        /// Its place, from zero.
        number: usize,
        /// Its name.
        name: String,
        /// What is wrong with it.
        source: io::Error,
    },
    /// No listener is at the address of a socket, and none has its name.
    #[error(
        "a socket was passed on that no listener has asked for: `{name}` at {address} (FileDescriptorName= is the \
         name of a listener, such as proxy, proxy_tls, status, or the address is the listener's)"
    )]
    Unasked {
        /// Its name.
        name: String,
        /// Where it listens.
        address: SocketAddr,
    },
}

/// The sockets that this process was started with.
#[derive(Debug, Default)]
pub struct Inherited {
    sockets: Vec<(String, TcpListener)>,
    predecessor: Option<UnixDatagram>,
}

impl Inherited {
    /// Reads `LISTEN_FDS` and `LISTEN_FDNAMES`. To be called once, before any thread is started.
    ///
    /// # Errors
    ///
    /// A descriptor that is no TCP socket.
    pub fn from_environment() -> Result<Self, InheritError> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut descriptors = ListenFd::from_env();
        let mut inherited = Self::default();
        for number in 0..descriptors.len() {
            let name = names.next().unwrap_or_default().to_owned();
            let failed = |source| InheritError::Descriptor {
                number,
                name: name.clone(),
                source,
            };
            if name == SUCCESSION {
                inherited.predecessor = descriptors.take_unix_datagram(number).map_err(failed)?;
            } else if let Some(socket) = descriptors.take_tcp_listener(number).map_err(failed)? {
                socket.set_nonblocking(true).map_err(failed)?;
                inherited.sockets.push((name, socket));
            }
        }
        Ok(inherited)
    }

    /// Whether another process hands its clients over to this one.
    pub(crate) const fn succeeds(&self) -> bool {
        self.predecessor.is_some()
    }

    /// Takes the sockets of the listener `name`: those of that name, else those at `address`.
    pub(crate) fn take(&mut self, name: &str, address: SocketAddr) -> Vec<TcpListener> {
        let named = self.sockets.iter().any(|(given, _)| given == name);
        let mut taken = Vec::new();
        let mut left = Vec::new();
        for (given, socket) in self.sockets.drain(..) {
            let fits = if named {
                given == name
            } else {
                socket.local_addr().is_ok_and(|own| own == address)
            };
            if fits {
                taken.push(socket);
            } else {
                left.push((given, socket));
            }
        }
        self.sockets = left;
        taken
    }

    /// Fails if a socket is left: clients would wait at it for ever.
    pub(crate) fn finish(self) -> Result<Option<UnixDatagram>, InheritError> {
        let left = self.sockets.into_iter().find_map(|(name, socket)| {
            let address = socket.local_addr().ok()?;
            Some(InheritError::Unasked { name, address })
        });
        match left {
            Some(error) => Err(error),
            None => Ok(self.predecessor),
        }
    }
}

/// Which of `count` cores serves which socket. One socket can be served by several cores; one that nobody
/// serves would keep its clients waiting.
pub(crate) fn deal(
    mut sockets: Vec<TcpListener>,
    count: usize,
) -> io::Result<Vec<Vec<TcpListener>>> {
    let given = sockets.len();
    for place in given..count {
        if let Some(socket) = sockets.get(place % given.max(1)) {
            sockets.push(socket.try_clone()?);
        }
    }
    let mut dealt: Vec<Vec<TcpListener>> = std::iter::repeat_with(Vec::new).take(count).collect();
    for (place, socket) in sockets.into_iter().enumerate() {
        if let Some(own) = dealt.get_mut(place % count.max(1)) {
            own.push(socket);
        }
    }
    Ok(dealt)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").unwrap()
    }

    #[test]
    fn a_listener_takes_the_sockets_of_its_name_or_of_its_address() {
        let (first, second, third) = (listener(), listener(), listener());
        let (at, other) = (first.local_addr().unwrap(), third.local_addr().unwrap());
        let mut inherited = Inherited {
            sockets: vec![
                ("proxy".to_owned(), first),
                ("proxy".to_owned(), second),
                ("wardgate.socket".to_owned(), third),
            ],
            predecessor: None,
        };
        assert_eq!(inherited.take("status", other).len(), 1);
        assert_eq!(inherited.take("proxy_tls", other).len(), 0);
        assert_eq!(inherited.take("proxy", other).len(), 2);
        inherited.sockets.push(("x".to_owned(), listener()));
        assert!(inherited.take("proxy", at).is_empty());
        let left = inherited.finish().unwrap_err();
        assert!(matches!(left, InheritError::Unasked { name, .. } if name == "x"));
    }

    #[test]
    fn every_core_has_a_socket_and_every_socket_a_core() {
        for (sockets, cores) in [(1, 1), (1, 3), (2, 3), (3, 3), (5, 2)] {
            let given: Vec<_> = (0..sockets).map(|_| listener()).collect();
            let places: Vec<_> = given.iter().map(|one| one.local_addr().unwrap()).collect();
            let dealt = deal(given, cores).unwrap();
            assert_eq!(dealt.len(), cores, "{sockets} {cores}");
            assert!(dealt.iter().all(|own| !own.is_empty()));
            let served: Vec<_> = dealt
                .iter()
                .flatten()
                .map(|one| one.local_addr().unwrap())
                .collect();
            assert!(places.iter().all(|place| served.contains(place)));
        }
    }
}
