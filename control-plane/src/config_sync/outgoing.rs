//! What is on its way to a node: updates, and what does not wait for these.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use tokio::sync::mpsc;

use crate::snapshot::Frame;

/// Messages under way to a node's connection: few, since a chunk is up to 256 KiB.
const OUTGOING: usize = 4;

/// The ways to a node. Messages of one come in order.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    /// For what leads the node on.
    pub(super) updates: mpsc::Sender<Frame>,
    /// For what passes it: answers, heartbeats, logouts.
    pub(super) prompt: mpsc::Sender<Frame>,
}

/// What is to be sent next, until nobody has anything to say any more.
#[derive(Debug)]
pub(super) struct Messages {
    updates: mpsc::Receiver<Frame>,
    prompt: mpsc::Receiver<Frame>,
}

/// Both ends of the ways to a node.
pub(super) fn outgoing() -> (Outgoing, Messages) {
    let (to_update, updates) = mpsc::channel(OUTGOING);
    let (to_prompt, prompt) = mpsc::channel(OUTGOING);
    let outgoing = Outgoing {
        updates: to_update,
        prompt: to_prompt,
    };
    (outgoing, Messages { updates, prompt })
}

impl Outgoing {
    /// Says one last thing, if there is room for it.
    pub(super) fn end_with(&self, last: Frame) {
        if let Err(mpsc::error::TrySendError::Full(last)) = self.updates.try_send(last) {
            // The node may be gone already.
            let _ = self.prompt.try_send(last);
        }
    }
}

impl Stream for Messages {
    type Item = Frame;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Frame>> {
        let prompt = self.prompt.poll_recv(cx);
        if let Poll::Ready(Some(frame)) = prompt {
            return Poll::Ready(Some(frame));
        }
        match self.updates.poll_recv(cx) {
            // An answer may still be on its way.
            Poll::Ready(None) if prompt.is_pending() => Poll::Pending,
            update => update,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, StreamExt as _};
    use prost::bytes::Bytes;

    use super::*;

    fn frame(text: &'static str) -> Frame {
        [Bytes::from_static(text.as_bytes()), Bytes::new()]
    }

    #[test]
    fn what_is_prompt_passes_the_rest_and_the_last_word_finds_room() {
        let (outgoing, mut messages) = outgoing();
        let mut next = || messages.next().now_or_never();
        for text in ["1", "2"] {
            outgoing.updates.try_send(frame(text)).unwrap();
        }
        outgoing.prompt.try_send(frame("first")).unwrap();
        assert_eq!(next(), Some(Some(frame("first"))));
        assert_eq!(next(), Some(Some(frame("1"))));
        outgoing.end_with(frame("3"));
        while outgoing.updates.try_send(frame("4")).is_ok() {}
        outgoing.end_with(frame("last"));
        assert_eq!(next(), Some(Some(frame("last"))));
        let asker = outgoing.prompt.clone();
        drop(outgoing);
        for text in ["2", "3", "4", "4"] {
            assert_eq!(next(), Some(Some(frame(text))));
        }
        assert_eq!(next(), None);
        asker.try_send(frame("answer")).unwrap();
        drop(asker);
        assert_eq!(next(), Some(Some(frame("answer"))));
        assert_eq!(next(), Some(None));
    }
}
