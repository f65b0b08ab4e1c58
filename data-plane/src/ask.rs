//! What this node asks of its control plane, from any core: one message there, one back.

use std::time::Duration;

use proto::v1::{answer, request};
use tokio::sync::{Mutex, mpsc, oneshot};

/// Questions that may wait for the stream.
const WAITING: usize = 1024;

/// A question on its way.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) what: request::What,
    pub(crate) answer: oneshot::Sender<answer::What>,
}

/// Both ends of the way to config sync.
#[derive(Debug)]
pub(crate) struct Questions {
    sender: mpsc::Sender<Asked>,
    receiver: Mutex<mpsc::Receiver<Asked>>,
}

impl Default for Questions {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        Self {
            sender,
            receiver: Mutex::new(receiver),
        }
    }
}

impl Questions {
    /// The answer to `what`; none if no control plane gives one within `limit`.
    pub(crate) async fn ask(&self, what: request::What, limit: Duration) -> Option<answer::What> {
        let (answer, answered) = oneshot::channel();
        let asked = Asked { what, answer };
        // With a full queue the control plane is as good as gone.
        self.sender.try_send(asked).ok()?;
        tokio::time::timeout(limit, answered).await.ok()?.ok()
    }

    /// Sends `what` without waiting for an answer; whether it is on its way.
    pub(crate) fn tell(&self, what: request::What) -> bool {
        let (answer, _) = oneshot::channel();
        self.sender.try_send(Asked { what, answer }).is_ok()
    }

    /// The next question. For one reader at a time: the stream, or who refuses while there is none.
    pub(crate) async fn next(&self) -> Option<Asked> {
        self.receiver.lock().await.recv().await
    }
}
