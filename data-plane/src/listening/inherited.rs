//! Listening sockets that this process was started with: by systemd, which keeps them while the service
//! restarts, or by the process before it, whose clients do not notice that it goes (`sd_listen_fds(3)`).

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

use listenfd::ListenFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, PidfdFlags, pidfd_open, test_kill_process};
use socket2::{Socket, Type};

/// What the socket is called on which a successor says that it is ready.
pub(crate) const SUCCESSION: &str = "succession";

/// What a successor says.
pub(crate) const READY: &[u8] = b"ready";

/// What it says before that, to be given what the process before it runs.
pub(crate) const ASKS: &[u8] = b"asks";

/// What a successor is told if balancers are to send no traffic here, since an operator said so.
pub(crate) const WITHDRAWN: &[u8] = b"withdrawn";

/// What a successor is told that is given what runs, when it asks.
pub(crate) const GIVES: &[u8] = b"gives";

/// What the name of a socket ends with that the process before this one has bound itself: where it is to listen its settings say.
const OWN: &str = "@own";

/// What a successor finds the socket of the listener `name` called, which a process of this program has bound.
pub(crate) fn own(name: &str) -> String {
    format!("{name}{OWN}")
}

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
    sockets: Vec<(String, Socket)>,
    predecessor: Option<Predecessor>,
}

/// The process before this one.
#[derive(Debug)]
pub(crate) struct Predecessor {
    /// The way to it.
    pub(crate) words: UnixDatagram,
    /// Whether it gives what it runs. One of an earlier version does not.
    pub(crate) gives: bool,
    pub(crate) process: Process,
}

impl Predecessor {
    /// The one that has made a pair of sockets and passed on `words`.
    fn at(words: UnixDatagram) -> io::Result<Self> {
        let process = socket_peercred(&words)?.pid;
        Ok(Self {
            words,
            gives: false,
            process: Process::of(process),
        })
    }

    /// Whether it has ended.
    pub(crate) fn is_gone(&self) -> bool {
        self.process.is_gone()
    }
}

/// Another process.
#[derive(Debug)]
pub(crate) enum Process {
    /// One that the system tells of.
    Watched(OwnedFd),
    /// One of which the system tells only whether its number is in use: before Linux 5.3, or where that call is not permitted.
    Numbered(Pid),
}

impl Process {
    pub(crate) fn of(number: Pid) -> Self {
        pidfd_open(number, PidfdFlags::empty()).map_or(Self::Numbered(number), Self::Watched)
    }

    /// Whether it has ended, also where nobody has seen that, if the system tells: by its number such a process is still there.
    fn is_gone(&self) -> bool {
        match self {
            Self::Watched(process) => {
                let mut ended = [PollFd::new(process, PollFlags::IN)];
                poll(&mut ended, Some(&Timespec::default())).is_ok_and(|ended| ended > 0)
            }
            Self::Numbered(number) => test_kill_process(*number) == Err(Errno::SRCH),
        }
    }
}

impl Inherited {
    /// Reads `LISTEN_FDS` and `LISTEN_FDNAMES`. To be called once, before any thread is started.
    ///
    /// # Errors
    ///
    /// A descriptor that is no socket of TCP or UDP.
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
                let words = descriptors.take_unix_datagram(number);
                let predecessor = words.and_then(|words| words.map(Predecessor::at).transpose());
                inherited.predecessor = predecessor.map_err(failed)?;
            } else if let Some(socket) = take(&mut descriptors, number).map_err(failed)? {
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

    /// Hears what the process before this one said as it started this one: whether an operator has told it that balancers are to
    /// send no traffic here, above all. To be called once.
    pub(crate) fn is_withdrawn(&mut self) -> io::Result<bool> {
        let Some(Predecessor { words, gives, .. }) = &mut self.predecessor else {
            return Ok(false);
        };
        let mut withdrawn = false;
        let mut said = [0; 16];
        words.set_nonblocking(true)?;
        let ended = loop {
            match words.recv(&mut said) {
                Ok(count) => match said.get(..count) {
                    Some(WITHDRAWN) => withdrawn = true,
                    Some(GIVES) => *gives = true,
                    _ => {}
                },
                Err(error) => break error,
            }
        };
        words.set_nonblocking(false)?;
        if ended.kind() == io::ErrorKind::WouldBlock {
            Ok(withdrawn)
        } else {
            Err(ended)
        }
    }

    /// Takes the sockets of `kind` for the listener `name`: those of that name, else those at `address`. Those that the process
    /// before this one has bound itself are taken by their address: settings may have changed since. What others have called them, if
    /// others have bound them.
    pub(crate) fn take(
        &mut self,
        name: &str,
        address: SocketAddr,
        kind: Type,
    ) -> (Option<String>, Vec<Socket>) {
        let is_of_kind = |socket: &Socket| socket.r#type().is_ok_and(|own| own == kind);
        let is_named = |(given, socket): &(String, Socket)| given == name && is_of_kind(socket);
        let named = self.sockets.iter().any(is_named);
        let (mut by_others, mut taken) = (None, Vec::new());
        let mut left = Vec::new();
        for (given, socket) in self.sockets.drain(..) {
            let fits = if named {
                given == name
            } else if address.port() == 0 {
                // The port that the system has chosen stays.
                given == own(name) && place(&socket).is_some_and(|own| own.ip() == address.ip())
            } else {
                place(&socket) == Some(address)
            };
            if fits && is_of_kind(&socket) {
                taken.push(socket);
                if !given.ends_with(OWN) {
                    by_others = Some(given);
                }
            } else {
                left.push((given, socket));
            }
        }
        self.sockets = left;
        (by_others, taken)
    }

    /// Closes what no listener is to be at any more. Fails if another socket is left: clients would wait at it for ever.
    pub(crate) fn finish(self) -> Result<Option<Predecessor>, InheritError> {
        // A listener has one for each core.
        let mut gone = BTreeSet::new();
        for (name, socket) in self.sockets {
            let Some(address) = place(&socket) else {
                continue;
            };
            let Some(own) = name.strip_suffix(OWN) else {
                return Err(InheritError::Unasked { name, address });
            };
            gone.insert((own.to_owned(), address));
        }
        for (name, address) in gone {
            tracing::info!(name, %address, "the settings no longer name this listener");
        }
        Ok(self.predecessor)
    }
}

/// The descriptor `number`, a socket of TCP or UDP.
fn take(descriptors: &mut ListenFd, number: usize) -> io::Result<Option<Socket>> {
    if let Ok(taken) = descriptors.take_udp_socket(number) {
        return Ok(taken.map(Socket::from));
    }
    let taken = descriptors.take_tcp_listener(number)?;
    Ok(taken.map(Socket::from))
}

/// Where `socket` is.
pub(crate) fn place(socket: &Socket) -> Option<SocketAddr> {
    socket.local_addr().ok()?.as_socket()
}

/// The sockets once more for the cores that would have none of their own: one socket can be served by several cores.
pub(crate) fn one_each(mut sockets: Vec<Socket>, count: usize) -> io::Result<Vec<Socket>> {
    let given = sockets.len();
    for place in given..count {
        if let Some(socket) = sockets.get(place % given.max(1)) {
            sockets.push(socket.try_clone()?);
        }
    }
    Ok(sockets)
}

/// Which of `count` cores serves which socket: one that nobody serves would keep its clients waiting.
pub(crate) fn deal(sockets: Vec<Socket>, count: usize) -> Vec<Vec<Socket>> {
    let mut dealt: Vec<Vec<Socket>> = std::iter::repeat_with(Vec::new).take(count).collect();
    for (place, socket) in sockets.into_iter().enumerate() {
        if let Some(own) = dealt.get_mut(place % count.max(1)) {
            own.push(socket);
        }
    }
    dealt
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;
    use crate::listening::sockets::{Asked, Sockets};

    fn listener() -> Socket {
        TcpListener::bind("127.0.0.1:0").unwrap().into()
    }

    #[test]
    fn a_listener_takes_the_sockets_of_its_name_or_of_its_address() {
        let (first, second, third) = (listener(), listener(), listener());
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (at, other) = (place(&first).unwrap(), place(&third).unwrap());
        let mut inherited = Inherited {
            sockets: vec![
                ("proxy".to_owned(), first),
                ("proxy".to_owned(), second),
                ("proxy".to_owned(), datagrams.into()),
                ("wardgate.socket".to_owned(), third),
            ],
            predecessor: None,
        };
        assert_eq!(inherited.take("status", other, Type::DGRAM).1.len(), 0);
        assert_eq!(inherited.take("status", other, Type::STREAM).1.len(), 1);
        assert_eq!(inherited.take("proxy_tls", other, Type::STREAM).1.len(), 0);
        assert_eq!(inherited.take("proxy", other, Type::STREAM).1.len(), 2);
        assert_eq!(inherited.take("proxy", other, Type::DGRAM).1.len(), 1);
        inherited.sockets.push(("x".to_owned(), listener()));
        assert!(inherited.take("proxy", at, Type::STREAM).1.is_empty());
        let left = inherited.finish().unwrap_err();
        assert!(matches!(left, InheritError::Unasked { name, .. } if name == "x"));
    }

    #[test]
    fn a_successor_listens_where_its_settings_say() {
        let any = |kind| Asked {
            address: "127.0.0.1:0".parse().unwrap(),
            kind,
            backlog: 8,
            vanished: std::time::Duration::from_mins(5),
            raw: false,
        };
        for kind in [Type::STREAM, Type::DGRAM] {
            let asked = any(kind);
            let [proxy, second, gone] = ["proxy", "proxy_2", "proxy_3"]
                .map(|name| Sockets::open(name, asked, 2, &mut Inherited::default()).unwrap());
            let clones = [&proxy, &second, &gone].map(|one| one.clones().unwrap());
            let passed_on = clones.into_iter().flatten();
            let passed_on = passed_on.map(|(name, socket)| (name, Socket::from(socket)));
            let words = UnixDatagram::pair().unwrap().0;
            let mut inherited = Inherited {
                sockets: passed_on.collect(),
                predecessor: Some(Predecessor::at(words).unwrap()),
            };
            let elsewhere = {
                let free = listener();
                place(&free).unwrap()
            };
            let mut open = |name, address| {
                let asked = Asked { address, ..asked };
                let opened = Sockets::open(name, asked, 2, &mut inherited)?;
                Ok::<_, io::Error>(opened.address)
            };
            // The port that the system has chosen stays.
            assert_eq!(open("proxy", asked.address).unwrap(), proxy.address);
            // Its place among the listeners is of no matter.
            assert_eq!(open("status", second.address).unwrap(), second.address);
            assert_eq!(open("proxy_3", elsewhere).unwrap(), elsewhere);
            if kind == Type::STREAM {
                let taken = listener();
                open("proxy_2", place(&taken).unwrap()).unwrap_err();
            }
            // Nobody asks for what is no more.
            assert!(inherited.finish().unwrap().is_some());
        }
    }

    #[test]
    fn a_successor_knows_whether_the_node_was_told_to_drain() {
        for (said, withdrawn, gives) in [
            (&[][..], false, false),
            (&[WITHDRAWN], true, false),
            (&[WITHDRAWN, GIVES], true, true),
            (&[GIVES], false, true),
            (&[READY], false, false),
        ] {
            let (before, words) = UnixDatagram::pair().unwrap();
            for word in said {
                before.send(word).unwrap();
            }
            let mut inherited = Inherited {
                predecessor: Some(Predecessor::at(words).unwrap()),
                ..Inherited::default()
            };
            assert_eq!(inherited.is_withdrawn().unwrap(), withdrawn, "{said:?}");
            let predecessor = inherited.finish().unwrap().unwrap();
            assert_eq!(predecessor.gives, gives, "{said:?}");
        }
        assert!(!Inherited::default().is_withdrawn().unwrap());
    }

    #[test]
    fn every_core_has_a_socket_and_every_socket_a_core() {
        for (sockets, cores) in [(1, 1), (1, 3), (2, 3), (3, 3), (5, 2)] {
            let given: Vec<_> = (0..sockets).map(|_| listener()).collect();
            let places: Vec<_> = given.iter().map(place).collect();
            let dealt = deal(one_each(given, cores).unwrap(), cores);
            assert_eq!(dealt.len(), cores, "{sockets} {cores}");
            assert!(dealt.iter().all(|own| !own.is_empty()));
            let served: Vec<_> = dealt.iter().flatten().map(place).collect();
            assert!(places.iter().all(|place| served.contains(place)));
        }
    }
}
