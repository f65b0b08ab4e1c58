//! What happens when the system has no file descriptor left for another connection: a spare one allows the waiting
//! clients to be turned away at once, and the listener pauses until other connections have closed.

use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::Duration;

use rustix::io::Errno;
use tokio::net::TcpListener;

/// The first pause, and the longest.
const FIRST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(1);

/// Most clients that are turned away after one pause.
const AT_ONCE: usize = 64;

/// What one listener does about it.
#[derive(Debug)]
pub(crate) struct Shortage {
    spare: Option<File>,
    pause: Duration,
}

impl Shortage {
    /// Nothing is short.
    pub(crate) fn new() -> Self {
        Self {
            spare: spare(),
            pause: FIRST,
        }
    }

    /// A connection could be accepted.
    pub(crate) fn end(&mut self) {
        if self.pause > FIRST {
            self.pause = FIRST;
            tracing::info!("connections are accepted again");
        }
    }

    /// Accepting has failed with `error`: turns away who waits, and pauses.
    pub(crate) async fn wait(&mut self, listener: &TcpListener, error: &io::Error) {
        if self.pause == FIRST {
            tracing::warn!(%error, "accepting a connection");
        }
        if is_shortage(error) && self.spare.take().is_some() {
            turn_away(listener).await;
            self.spare = spare();
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST);
    }
}

/// A descriptor to be given up when there is none left.
fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

/// Whether the process, or the system, has too many files open.
fn is_shortage(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE)
    )
}

/// Closes the connections that wait, one after the other.
async fn turn_away(listener: &TcpListener) {
    poll_fn(|cx| {
        for _ in 0..AT_ONCE {
            match listener.poll_accept(cx) {
                Poll::Ready(Ok(connection)) => drop(connection),
                Poll::Ready(Err(_)) | Poll::Pending => break,
            }
        }
        Poll::Ready(())
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn who_waits_is_turned_away_when_descriptors_are_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut clients: Vec<_> = (0..4)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        let mut shortage = Shortage::new();
        let _served = listener.accept().await.unwrap();
        let gone = io::Error::from_raw_os_error(Errno::MFILE.raw_os_error());
        shortage.wait(&listener, &gone).await;
        for client in &mut clients[1..] {
            let mut byte = [0];
            assert!(matches!(client.read(&mut byte), Ok(0) | Err(_)));
        }
        assert!(shortage.spare.is_some());
        shortage.end();
        assert_eq!(shortage.pause, FIRST);
    }

    #[tokio::test]
    async fn any_other_failure_turns_nobody_away_and_pauses_grow() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut shortage = Shortage::new();
        let other = io::Error::from(io::ErrorKind::ConnectionAborted);
        shortage.wait(&listener, &other).await;
        assert_eq!(shortage.pause, 2 * FIRST);
        let (stream, _) = listener.accept().await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), client.local_addr().unwrap());
    }
}
