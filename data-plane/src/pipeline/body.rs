//! A request's body before it goes upstream.

use std::rc::Rc;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use http::HeaderMap;
use plugins::exchange::{BodyError, BodySource};

use crate::body::{RequestBody, RequestBodyError};
use crate::core::Core;
use crate::error::GatewayError;
use crate::memory::Held;

/// The request's body, which a filter may read before it is forwarded.
pub(super) struct Body {
    core: Rc<Core>,
    rest: RequestBody,
    /// What a filter has read, and whether that is all.
    read: Option<(Bytes, bool)>,
    /// What has come behind the last byte.
    trailers: Option<Box<HeaderMap>>,
    /// What of it takes up memory while the request has not begun.
    held: Held,
    /// Why it was not read to its end, if that is not that it broke.
    fault: Option<GatewayError>,
}

impl Body {
    /// The body `rest` of a request on `core`.
    pub(super) fn new(rest: RequestBody, core: Rc<Core>) -> Self {
        Self {
            core,
            rest,
            read: None,
            trailers: None,
            held: Held::default(),
            fault: None,
        }
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.read.is_none() && self.rest.is_empty()
    }

    /// Waits for the whole body, if it is no longer than `limit` and the core has room for it: a server is then not kept waiting by a slow
    /// client, and can be asked again with the same bytes.
    pub(super) async fn hold(&mut self, limit: usize) -> Result<(), GatewayError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        match self.read_all(limit, true).await {
            Ok(_) | Err(BodyError::TooLarge(_)) => Ok(()),
            Err(BodyError::Broken) => {
                let fault = self.fault.take();
                Err(fault.unwrap_or(GatewayError::BadRequest("the body broke")))
            }
        }
    }

    /// How long the body is, if all of it has been read.
    pub(super) fn length(&self) -> Option<u64> {
        match &self.read {
            Some((bytes, true)) if self.trailers.is_none() => u64::try_from(bytes.len()).ok(),
            _ => None,
        }
    }

    /// Takes the body from its first byte.
    pub(super) fn whole(&mut self) -> RequestBody {
        self.held = Held::default();
        let rest = std::mem::replace(&mut self.rest, RequestBody::Empty);
        let rest = match (self.trailers.take(), &self.read) {
            (Some(trailers), _) => RequestBody::Trailers(trailers),
            // The connection itself does not tell that nothing more comes.
            (None, Some((_, true))) => RequestBody::Empty,
            (None, _) => rest,
        };
        match self.read.take() {
            Some((bytes, _)) if !bytes.is_empty() => RequestBody::Read(bytes, Box::new(rest)),
            _ => rest,
        }
    }

    /// Reads all of it, if it is no longer than `limit`; with `is_held`, if there is room for it.
    async fn read_all(&mut self, limit: usize, is_held: bool) -> Result<Bytes, BodyError> {
        if let Some((bytes, true)) = &self.read {
            return if bytes.len() > limit {
                Err(BodyError::TooLarge(limit))
            } else {
                Ok(bytes.clone())
            };
        }
        let mut held =
            bytes::BytesMut::from(self.read.take().map(|(bytes, _)| bytes).unwrap_or_default());
        let mut end = Err(BodyError::TooLarge(limit));
        let limits = self.core.node.limits;
        while held.len() <= limit
            && (!is_held || self.held.grows(held.capacity(), limits.held_room))
        {
            let next = std::future::poll_fn(|cx| self.rest.poll_frame(cx));
            let next = tokio::time::timeout(limits.body, next).await;
            match next.unwrap_or(Some(Err(RequestBodyError::Timeout))) {
                None => {
                    end = Ok(());
                    break;
                }
                Some(Ok(frame)) => match frame.into_data() {
                    // Nobody has seen anything of it: it ends here.
                    Ok(_) if is_held && self.core.node.memory.is_critical() => {
                        self.fault = Some(GatewayError::Overloaded);
                        end = Err(BodyError::Broken);
                        break;
                    }
                    Ok(data) => held.extend_from_slice(&data),
                    Err(frame) => self.trailers = frame.into_trailers().ok().map(Box::new),
                },
                Some(Err(error)) => {
                    self.fault = matches!(error, RequestBodyError::Timeout)
                        .then_some(GatewayError::RequestTimeout);
                    end = Err(BodyError::Broken);
                    break;
                }
            }
        }
        let bytes = held.freeze();
        self.read = Some((bytes.clone(), end.is_ok()));
        end.map(|()| bytes)
    }
}

impl BodySource for Body {
    fn read(&mut self, limit: usize) -> LocalBoxFuture<'_, Result<Bytes, BodyError>> {
        self.read_all(limit, false).boxed_local()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::task::LocalSet;

    use super::*;
    use crate::limits::Limits;
    use crate::live::Live;
    use crate::memory::Pressure;
    use crate::proxy::Proxy;
    use crate::settings::Settings;

    /// What a client sends in two parts, on a core of a node with so much room for what has not begun.
    fn with_body(room: usize, check: impl AsyncFnOnce(Body, &Core)) {
        let settings = Settings {
            proxy_listen: Vec::new(),
            proxy_tls_listen: vec!["off".parse().unwrap()],
            status_listen: Vec::new(),
            access_log: "off".to_owned(),
            workers: 1,
            ..Settings::default()
        };
        let limits = Limits {
            held_room: room,
            ..Limits::default()
        };
        let proxy = Proxy::start_with(&settings, limits, Live::default()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let checking = async {
            let core = Core::new(Arc::clone(proxy.node()), Arc::default());
            let part = |text: &'static str, rest| {
                RequestBody::Read(Bytes::from_static(text.as_bytes()), Box::new(rest))
            };
            let sent = part("one,", part("two", RequestBody::Empty));
            check(Body::new(sent, Rc::clone(&core)), &core).await;
        };
        runtime.block_on(LocalSet::new().run_until(checking));
    }

    /// What goes upstream.
    async fn upstream(mut body: Body) -> Bytes {
        let (mut whole, mut sent) = (body.whole(), Vec::new());
        while let Some(frame) = std::future::poll_fn(|cx| whole.poll_frame(cx)).await {
            sent.extend(frame.unwrap().into_data().unwrap());
        }
        sent.into()
    }

    #[test]
    fn what_is_held_back_ends_once_memory_is_gone() {
        with_body(usize::MAX, async |mut body, core| {
            core.node.memory.note(Pressure::Critical);
            let held = body.hold(64).await;
            assert!(matches!(held, Err(GatewayError::Overloaded)), "{held:?}");
        });
        with_body(usize::MAX, async |mut body, core| {
            core.node.memory.note(Pressure::High);
            body.hold(64).await.unwrap();
            assert_eq!(body.length(), Some(7));
            assert_eq!(upstream(body).await, "one,two");
        });
    }

    #[test]
    fn what_filters_read_goes_upstream_whole_whatever_memory_is_left() {
        with_body(0, async |mut body, core| {
            core.node.memory.note(Pressure::Critical);
            assert!(matches!(body.read(3).await, Err(BodyError::TooLarge(3))));
            assert_eq!(body.read(64).await.unwrap(), "one,two");
            body.hold(64).await.unwrap();
            assert_eq!(upstream(body).await, "one,two");
        });
    }

    #[test]
    fn what_there_is_no_room_for_streams() {
        with_body(5, async |mut body, _| {
            body.hold(64).await.unwrap();
            assert_eq!(body.length(), None);
            assert_eq!(upstream(body).await, "one,two");
        });
    }
}
