//! What is on its way to a node: updates, and messages that overtake them.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::sync::mpsc::OwnedPermit;
use tokio::sync::mpsc::error::SendError;

use crate::snapshot::{Frame, size};

/// Messages under way to a node's connection: few, since a chunk is up to 256 KiB.
const OUTGOING: usize = 4;

/// Bytes that may pass an update until a piece of it goes: some seconds over a slow link, far less than a stream may stand still.
const PASSING: usize = 64 * 1024;

/// The ways to a node. Messages of one come in order.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    /// For what leads the node on.
    pub(super) updates: mpsc::Sender<Frame>,
    /// For what passes it: answers, heartbeats, logouts.
    pub(super) prompt: mpsc::Sender<Frame>,
}

/// What a stream has to say that passes an update, while there is no room for it on the way.
pub(super) struct Waiting {
    messages: VecDeque<Frame>,
    way: mpsc::Sender<Frame>,
    /// The first one's place in the row of all that wait for room.
    place: Option<BoxFuture<'static, Result<OwnedPermit<Frame>, SendError<()>>>>,
}

impl Waiting {
    /// For what goes by `outgoing`.
    pub(super) fn new(outgoing: &Outgoing) -> Self {
        Self {
            messages: VecDeque::new(),
            way: outgoing.prompt.clone(),
            place: None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Has `messages` sent after what waits already.
    pub(super) fn extend(&mut self, messages: impl IntoIterator<Item = Frame>) {
        self.messages.extend(messages);
    }

    /// Has `message` sent before that.
    pub(super) fn push_first(&mut self, message: Frame) {
        self.messages.push_front(message);
    }

    /// Sends as many as there is room for, once there is room for one; waits for ever if there are none. False: nobody takes
    /// them any more. What is left waits on in its place if nobody waits for this.
    pub(super) async fn go_on(&mut self) -> bool {
        if self.messages.is_empty() {
            return std::future::pending().await;
        }
        let way = &self.way;
        let place = self
            .place
            .get_or_insert_with(|| Box::pin(way.clone().reserve_owned()));
        let room = place.await;
        self.place = None;
        let Ok(room) = room else {
            return false;
        };
        if let Some(first) = self.messages.pop_front() {
            room.send(first);
        }
        while !self.messages.is_empty()
            && let Ok(room) = self.way.try_reserve()
            && let Some(next) = self.messages.pop_front()
        {
            room.send(next);
        }
        true
    }
}

/// What is to be sent next, until nobody has anything to say any more.
#[derive(Debug)]
pub(super) struct Messages {
    updates: mpsc::Receiver<Frame>,
    prompt: mpsc::Receiver<Frame>,
    /// Bytes that have gone since the last piece of an update.
    passed: usize,
}

/// Both ends of the ways to a node.
pub(super) fn outgoing() -> (Outgoing, Messages) {
    let (to_update, updates) = mpsc::channel(OUTGOING);
    let (to_prompt, prompt) = mpsc::channel(OUTGOING);
    let outgoing = Outgoing {
        updates: to_update,
        prompt: to_prompt,
    };
    let messages = Messages {
        updates,
        prompt,
        passed: 0,
    };
    (outgoing, messages)
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
        if self.passed >= PASSING
            && let Poll::Ready(Some(update)) = self.updates.poll_recv(cx)
        {
            self.passed = 0;
            return Poll::Ready(Some(update));
        }
        let prompt = self.prompt.poll_recv(cx);
        if let Poll::Ready(Some(frame)) = prompt {
            self.passed = self.passed.saturating_add(size(&frame));
            return Poll::Ready(Some(frame));
        }
        match self.updates.poll_recv(cx) {
            // An answer may still be on its way.
            Poll::Ready(None) if prompt.is_pending() => Poll::Pending,
            update => {
                self.passed = 0;
                update
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, StreamExt as _};
    use prost::bytes::Bytes;

    use super::*;

    #[expect(clippy::unnecessary_box_returns, reason = "frames are boxes")]
    fn frame(text: &'static str) -> Frame {
        Box::new([Bytes::from_static(text.as_bytes()), Bytes::new()])
    }

    #[test]
    fn what_waits_keeps_its_place_and_goes_as_there_is_room() {
        let (outgoing, mut messages) = outgoing();
        let mut waiting = Waiting::new(&outgoing);
        assert_eq!(waiting.go_on().now_or_never(), None);
        while outgoing.prompt.try_send(frame("before")).is_ok() {}
        waiting.extend(["1", "2"].map(frame));
        assert_eq!(waiting.go_on().now_or_never(), None);
        let mut asker = std::pin::pin!(outgoing.prompt.send(frame("answer")));
        assert!(asker.as_mut().now_or_never().is_none());
        // Its stream has done something else meanwhile.
        assert_eq!(waiting.go_on().now_or_never(), None);
        waiting.push_first(frame("0"));
        let mut next = || messages.next().now_or_never().flatten();
        assert_eq!(next(), Some(frame("before")));
        assert!(asker.as_mut().now_or_never().is_none());
        assert_eq!(waiting.go_on().now_or_never(), Some(true));
        assert_eq!(waiting.go_on().now_or_never(), None);
        for _ in 1..OUTGOING {
            assert_eq!(next(), Some(frame("before")));
        }
        assert!(asker.as_mut().now_or_never().is_some());
        assert_eq!(waiting.go_on().now_or_never(), Some(true));
        assert!(waiting.is_empty());
        for text in ["0", "answer", "1", "2"] {
            assert_eq!(next(), Some(frame(text)));
        }
        drop(messages);
        waiting.extend([frame("3")]);
        assert_eq!(waiting.go_on().now_or_never(), Some(false));
    }

    #[test]
    fn an_update_goes_on_however_much_passes_it() {
        let (outgoing, mut messages) = outgoing();
        let half = || Box::new([Bytes::from(vec![7; PASSING / 2]), Bytes::new()]);
        let mut next = |answers: usize| {
            for _ in 0..answers {
                outgoing.prompt.try_send(half()).unwrap();
            }
            messages.next().now_or_never().flatten().unwrap()
        };
        // An update that comes after that much is next.
        for _ in 0..3 {
            assert_eq!(next(1), half());
        }
        for text in ["1", "2"] {
            outgoing.updates.try_send(frame(text)).unwrap();
        }
        assert_eq!(next(3), frame("1"));
        assert_eq!(next(1), half());
        assert_eq!(next(0), half());
        assert_eq!(next(1), frame("2"));
        for _ in 0..3 {
            assert_eq!(next(0), half());
        }
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
