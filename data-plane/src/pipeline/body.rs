//! A request's body before it goes upstream.

use std::net::IpAddr;
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
    /// The body `rest` of a request of `client` on `core`.
    pub(super) fn new(rest: RequestBody, core: Rc<Core>, client: IpAddr) -> Self {
        Self {
            held: core.hold(client),
            core,
            rest,
            read: None,
            trailers: None,
            fault: None,
        }
    }

    /// Why it was given up, if it was: then nothing of the request goes upstream, whatever the filter that read it has made of
    /// that.
    pub(super) const fn fault(&mut self) -> Option<GatewayError> {
        self.fault.take()
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.read.is_none() && self.rest.is_empty()
    }

    /// Waits for the whole body, if it is no longer than `limit` and there is plenty of room for it: a server is then not kept
    /// waiting by a slow client, and can be asked again with the same bytes.
    pub(super) async fn hold(&mut self, limit: usize) -> Result<(), GatewayError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        match self.read_all(limit, true).await {
            Ok(_) | Err(BodyError::TooLarge(_)) => Ok(()),
            Err(BodyError::Broken) => Err(self
                .fault()
                .unwrap_or(GatewayError::BadRequest("the body broke"))),
        }
    }

    /// How long the body is, if all of it has been read.
    pub(super) fn length(&self) -> Option<u64> {
        match &self.read {
            Some((bytes, true)) if self.trailers.is_none() => u64::try_from(bytes.len()).ok(),
            _ => None,
        }
    }

    /// Filters have seen what they want to: what it takes up as they read it is gone.
    pub(super) fn is_seen(&mut self) {
        let read = self.read.as_ref().map_or(0, |(bytes, _)| bytes.len());
        self.held.shrinks_to(read);
    }

    /// Takes the body from its first byte.
    pub(super) fn whole(&mut self) -> RequestBody {
        self.held.lets_go();
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

    /// Reads all of it, if it is no longer than `limit`. One that only `is_held` goes on as it comes where there is not plenty of
    /// room, and one that a filter has to see is given up where there is none; where memory is critical, either.
    async fn read_all(&mut self, limit: usize, is_held: bool) -> Result<Bytes, BodyError> {
        if let Some((bytes, true)) = &self.read {
            return if bytes.len() > limit {
                Err(BodyError::TooLarge(limit))
            } else {
                Ok(bytes.clone())
            };
        }
        if self.fault.is_some() {
            return Err(BodyError::Broken);
        }
        let mut held =
            bytes::BytesMut::from(self.read.take().map(|(bytes, _)| bytes).unwrap_or_default());
        let mut end = Err(BodyError::TooLarge(limit));
        let limits = self.core.node.limits;
        while held.len() <= limit {
            let has_room = if is_held {
                self.held.grows_in_plenty(held.capacity())
            } else {
                self.held.grows(held.capacity())
            };
            if is_held && !has_room {
                break;
            }
            let next = std::future::poll_fn(|cx| self.rest.poll_frame(cx));
            let next = tokio::select! {
                // What is here already is taken.
                biased;
                next = tokio::time::timeout(limits.body, next), if has_room => Some(next),
                () = self.core.until_critical(), if has_room => None,
                else => None,
            };
            let Some(next) = next else {
                self.fault = Some(GatewayError::Overloaded);
                break;
            };
            match next.unwrap_or(Some(Err(RequestBodyError::Timeout))) {
                None if is_held || self.held.grows(held.capacity() + read_as(&held)) => {
                    end = Ok(());
                    break;
                }
                None => {
                    self.fault = Some(GatewayError::Overloaded);
                    break;
                }
                Some(Ok(frame)) => match frame.into_data() {
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
        if self.fault.is_some() {
            // Nobody has seen anything of it: it ends here.
            self.held.lets_go();
            held = bytes::BytesMut::new();
            end = Err(BodyError::Broken);
        }
        let bytes = held.freeze();
        self.read = Some((bytes.clone(), end.is_ok()));
        end.map(|()| bytes)
    }
}

/// What a value, and an object, of JSON take up at most while they are read, and an argument of a form.
const VALUE: usize = 256;
const OBJECT: usize = 512;

/// How much memory a filter may need that reads `body` as what it looks like: 2 bytes of it can be a value of 72, in a list that
/// has room for twice as many and was copied to grow.
fn read_as(body: &[u8]) -> usize {
    let count = |wanted: u8| memchr::memchr_iter(wanted, body).count();
    match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{' | b'[') => (count(b',') + count(b'[')) * VALUE + count(b'{') * OBJECT,
        _ => count(b'&') * VALUE,
    }
}

impl BodySource for Body {
    fn read(&mut self, limit: usize) -> LocalBoxFuture<'_, Result<Bytes, BodyError>> {
        self.read_all(limit, false).boxed_local()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use tokio::task::LocalSet;

    use super::*;
    use crate::limits::Limits;
    use crate::live::Live;
    use crate::proxy::Proxy;
    use crate::settings::Settings;

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// What a client sends in two parts, on a core of a node with so much room for what has not begun.
    fn with_body(room: usize, check: impl AsyncFnOnce(Body, &Rc<Core>)) {
        let settings = Settings {
            proxy_listen: Vec::new(),
            proxy_tls_listen: vec!["off".parse().unwrap()],
            status_listen: Vec::new(),
            access_log: "off".to_owned(),
            workers: 1,
            ..Settings::default()
        };
        let limits = Limits {
            held: room,
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
            check(Body::new(sent, Rc::clone(&core), CLIENT), &core).await;
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
    fn what_a_filter_has_no_room_to_read_goes_nowhere() {
        with_body(0, async |mut body, _| {
            assert!(matches!(body.read(64).await, Err(BodyError::Broken)));
            let held = body.hold(64).await;
            assert!(matches!(held, Err(GatewayError::Overloaded)), "{held:?}");
        });
    }

    #[test]
    fn what_a_filter_took_up_to_read_it_is_free_once_it_has() {
        // Room for what two of these may become as they are read, and its last quarter.
        let each = 100 * VALUE + 4096;
        with_body(3 * each, async |_, core| {
            let json = format!("[{}0]", "0,".repeat(99));
            let sent = || RequestBody::Read(json.clone().into(), Box::new(RequestBody::Empty));
            let mut bodies: Vec<Body> = Vec::new();
            for _ in 0..2 {
                let mut body = Body::new(sent(), Rc::clone(core), CLIENT);
                assert!(body.read(4096).await.is_ok());
                bodies.push(body);
            }
            let mut late = Body::new(sent(), Rc::clone(core), CLIENT);
            assert!(late.read(4096).await.is_err());
            bodies.iter_mut().for_each(Body::is_seen);
            let mut next = Body::new(sent(), Rc::clone(core), CLIENT);
            assert_eq!(next.read(4096).await.unwrap(), json);
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

    #[test]
    fn what_looks_like_json_or_a_form_takes_what_its_values_do() {
        for (body, expected) in [
            ("", 0),
            ("a=b", 0),
            ("a=b&c&&d=[,{", 3 * VALUE),
            ("x,[{&", VALUE),
            (" [0,1,2]", 3 * VALUE),
            ("\n{\"a\":[{},{}],\"b&\":0}", 3 * VALUE + 3 * OBJECT),
        ] {
            assert_eq!(read_as(body.as_bytes()), expected, "{body}");
        }
    }
}
