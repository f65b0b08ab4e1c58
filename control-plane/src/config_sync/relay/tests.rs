//! What nodes of one control plane, and of several, have of each other.

use prost::Message as _;
use proto::v1::aside::Step;
use proto::v1::{Aside, ControlMessage, Request};

use super::*;
use crate::store::suite::Subject;
use crate::store::suite::etcd::InEtcd;

/// Bytes before a message of gRPC.
const MARK: usize = 5;

const SEALED: Bytes = Bytes::from_static(b"sealed");

/// What `relay` answers a node that asks for `step` with what is called `key`.
async fn asked(relay: &Relay, step: Step, key: &[u8], sealed: Bytes) -> answer::What {
    let (outgoing, mut answers) = mpsc::channel(1);
    let aside = Aside {
        key: key.to_vec().into(),
        step: step.into(),
        sealed,
    };
    let request = Request {
        id: 7,
        what: Some(What::Aside(aside)),
    };
    relay.serve(
        (relay.stream("node", "run"), "node"),
        request,
        &outgoing,
        None,
    );
    let frame = answers.recv().await.unwrap();
    let message = frame.concat();
    let (_, message) = message.split_at(MARK);
    let Some(Kind::Answer(answer)) = ControlMessage::decode(message).unwrap().kind else {
        panic!("no answer");
    };
    assert_eq!(answer.id, 7);
    answer.what.unwrap()
}

async fn keep(relay: &Relay, key: &[u8]) {
    let answer = asked(relay, Step::Keep, key, SEALED).await;
    assert_eq!(answer, answer::What::Stored(true));
}

async fn take(relay: &Relay, key: &[u8]) -> Option<Bytes> {
    match asked(relay, Step::Take, key, Bytes::new()).await {
        answer::What::Result(sealed) => Some(sealed),
        answer::What::Refused(_) => None,
        answer => panic!("{answer:?}"),
    }
}

#[tokio::test]
async fn what_a_node_puts_aside_another_takes_once() {
    let relay = Relay::new(None);
    assert_eq!(take(&relay, b"a").await, None);
    keep(&relay, b"a").await;
    assert_eq!(take(&relay, b"a").await, Some(SEALED));
    assert_eq!(take(&relay, b"a").await, None);
    keep(&relay, b"a").await;
    asked(&relay, Step::Forget, b"a", Bytes::new()).await;
    assert_eq!(take(&relay, b"a").await, None);
    let long = asked(&relay, Step::Keep, b"a", vec![0; 70_000].into()).await;
    assert!(matches!(long, answer::What::Refused(_)), "{long:?}");
    let unnamed = asked(&relay, Step::Keep, b"", SEALED).await;
    assert!(matches!(unnamed, answer::What::Refused(_)), "{unnamed:?}");
}

#[tokio::test]
async fn what_a_node_puts_aside_a_node_of_another_control_plane_takes_once() {
    let Some(mut subject) = InEtcd::start() else {
        return;
    };
    let key = subject.key();
    let claims = || Claims::new(&subject.settings(), &key).unwrap();
    let (one, other) = (Relay::new(Some(claims())), Relay::new(Some(claims())));
    for key in [b"a", b"b"] {
        keep(&one, key).await;
        assert_eq!(take(&other, key).await, Some(SEALED));
        assert_eq!(take(&one, key).await, None);
        assert_eq!(take(&other, key).await, None);
    }
    // Without etcd it is there for the nodes of one.
    subject.kill();
    keep(&one, b"d").await;
    assert_eq!(take(&other, b"d").await, None);
    assert_eq!(take(&one, b"d").await, Some(SEALED));
}
