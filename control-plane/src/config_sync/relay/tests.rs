//! What nodes of one control plane, and of several, have of each other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prost::Message as _;
use proto::v1::aside::Step;
use proto::v1::{Aside, ControlMessage, Flight, Request, flight};

use super::*;
use crate::config::Config;
use crate::history::Entry;
use crate::publisher::{Journal, JournalFault, Newer};
use crate::store::SecretsKey;
use crate::store::etcd::EtcdSettings;
use crate::store::suite::Subject;
use crate::store::suite::etcd::InEtcd;

/// Bytes before a message of gRPC.
const MARK: usize = 5;

/// A flight.
const KEY: Key = Bytes::from_static(b"flight");

const SEALED: Bytes = Bytes::from_static(b"sealed");

/// Other control planes, which commit nothing.
#[derive(Clone, Debug, Default)]
struct Others {
    /// Whether they cannot be followed.
    are_away: Arc<AtomicBool>,
}

impl Journal for Others {
    fn commit(&mut self, _: &Entry) -> Result<(), JournalFault> {
        Ok(())
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn newer(&mut self) -> Result<Newer, JournalFault> {
        if self.are_away.load(Ordering::Relaxed) {
            return Err(JournalFault::Unreachable("away".to_owned()));
        }
        Ok(Newer::Changes(Vec::new()))
    }
}

/// The relay of a control plane over etcd that follows `others`.
fn beside(others: &Others, settings: &EtcdSettings, key: &SecretsKey) -> (Relay, Publisher) {
    let claims = Claims::new(settings, key).unwrap();
    let publisher = Publisher::new(Config::default(), 1, Box::new(others.clone()));
    let relay = Relay::new(Some((claims, publisher.clone())), BTreeSet::new());
    // It started long ago.
    *relay.accord.lock().unwrap() = Accord::default();
    (relay, publisher)
}

/// The same; they can be followed.
fn over(settings: &EtcdSettings, key: &SecretsKey) -> Relay {
    beside(&Others::default(), settings, key).0
}

/// The only process of a node.
fn of(node: &str) -> Process {
    process(node, "run")
}

fn process(node: &str, run: &str) -> Process {
    Process {
        node: node.to_owned(),
        run: run.to_owned(),
    }
}

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
        (relay.stream(&of("node"), Vec::new()), "node"),
        request,
        &outgoing,
        None,
    );
    answered(&mut answers).await
}

/// The next answer.
async fn answered(answers: &mut mpsc::Receiver<Frame>) -> answer::What {
    let frame = answers.recv().await.unwrap();
    let message = frame.concat();
    let (_, message) = message.split_at(MARK);
    let Some(Kind::Answer(answer)) = ControlMessage::decode(message).unwrap().kind else {
        panic!("no answer");
    };
    assert_eq!(answer.id, 7);
    answer.what.unwrap()
}

/// Says `step` of the flight `KEY` by the stream `by`: where it is answered.
fn says(relay: &Relay, by: By, step: flight::Step) -> mpsc::Receiver<Frame> {
    says_of(KEY, relay, by, step)
}

fn says_of(key: Key, relay: &Relay, by: By, step: flight::Step) -> mpsc::Receiver<Frame> {
    let (outgoing, answers) = mpsc::channel(1);
    let flight = Flight {
        key,
        step: step.into(),
        result: SEALED,
        yields: false,
    };
    let request = Request {
        id: 7,
        what: Some(What::Flight(flight)),
    };
    relay.serve((by, "node"), request, &outgoing, None);
    answers
}

fn joins(relay: &Relay, by: By) -> mpsc::Receiver<Frame> {
    says(relay, by, flight::Step::Join)
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_has_just_started_waits_for_who_may_be_at_it() {
    let known = || BTreeSet::from([of("one"), of("two")]);
    let relay = Relay::new(None, known());
    let two = relay.stream(&of("two"), Vec::new());
    let mut waiting = joins(&relay, two);
    tokio::time::sleep(RETURNS / 2).await;
    assert!(waiting.try_recv().is_err());
    // Who comes back says what it does. Of a key that is none, nothing.
    let one = relay.stream(&of("one"), vec![KEY, Bytes::new()]);
    tokio::time::sleep(RETURNS).await;
    assert!(waiting.try_recv().is_err());
    says(&relay, one, flight::Step::Land);
    assert_eq!(answered(&mut waiting).await, answer::What::Result(SEALED));

    // Who does not come back is not waited for for long.
    let relay = Relay::new(None, known());
    let two = relay.stream(&of("two"), Vec::new());
    let (gone, mut waiting) = (joins(&relay, two), joins(&relay, two));
    drop(gone);
    let began = tokio::time::Instant::now();
    assert_eq!(answered(&mut waiting).await, answer::What::Yours(true));
    assert_eq!(began.elapsed(), RETURNS);

    // Nor where nobody is known: one that was killed may not have noted who had come.
    let relay = Relay::new(None, BTreeSet::new());
    let two = relay.stream(&of("two"), Vec::new());
    let began = tokio::time::Instant::now();
    let mut waiting = joins(&relay, two);
    assert_eq!(answered(&mut waiting).await, answer::What::Yours(true));
    assert_eq!(began.elapsed(), RETURNS);

    // Where all are back nobody waits.
    let relay = Relay::new(None, known());
    for node in known() {
        relay.stream(&node, Vec::new());
    }
    let two = relay.stream(&of("two"), Vec::new());
    let began = tokio::time::Instant::now();
    assert_eq!(
        answered(&mut joins(&relay, two)).await,
        answer::What::Yours(true)
    );
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_gives_way_to_its_successor_is_waited_for_as_well() {
    let [old, new] = ["old", "new"].map(|run| process("node", run));
    let relay = Relay::new(None, [old.clone(), new.clone()].into());
    let new = relay.stream(&new, Vec::new());
    let mut waiting = joins(&relay, new);
    tokio::time::sleep(RETURNS / 2).await;
    assert!(waiting.try_recv().is_err());
    let old = relay.stream(&old, vec![KEY]);
    tokio::time::sleep(RETURNS).await;
    assert!(waiting.try_recv().is_err());
    says(&relay, old, flight::Step::Land);
    assert_eq!(answered(&mut waiting).await, answer::What::Result(SEALED));
}

#[tokio::test]
async fn work_goes_on_that_etcd_could_not_be_told_of_at_once() {
    let Some(mut subject) = InEtcd::start() else {
        return;
    };
    let key = subject.key();
    let settings = subject.settings();
    let (one, other) = (over(&settings, &key), over(&settings, &key));
    let by = one.stream(&of("one"), Vec::new());
    let given = answered(&mut joins(&one, by)).await;
    assert!(matches!(given, answer::What::Yours(_)));
    drop(one);
    // The control plane that gave it starts again while etcd is away.
    subject.kill();
    let one = over(&settings, &key);
    let by = one.stream(&of("one"), vec![Bytes::from_static(b"another"), KEY]);
    tokio::time::sleep(LOOK.1).await;
    subject.revive();
    says(&one, by, flight::Step::Land);
    let mut far = joins(&other, other.stream(&of("three"), Vec::new()));
    assert_eq!(answered(&mut far).await, answer::What::Result(SEALED));
}

#[tokio::test]
async fn what_control_planes_give_that_could_not_agree_is_said_to_be_unsure() {
    let Some(mut subject) = InEtcd::start() else {
        return;
    };
    let key = subject.key();
    let relays = [(); 2].map(|()| over(&subject.settings(), &key));
    let [one, other] = &relays;
    let by = one.stream(&of("one"), Vec::new());
    // While they can it is sure, unless etcd takes its time.
    let mut tries = 0;
    while answered(&mut joins(one, by)).await != answer::What::Yours(true) {
        tries += 1;
        assert!(tries < 20);
        says(one, by, flight::Step::Abandon);
    }
    says(one, by, flight::Step::Abandon);
    subject.kill();
    for (relay, node) in [(one, "one"), (other, "two")] {
        let by = relay.stream(&of(node), Vec::new());
        let given = answered(&mut joins(relay, by)).await;
        assert_eq!(given, answer::What::Yours(false), "{node}");
        // So it is for whoever is next.
        let next = relay.stream(&of("next"), Vec::new());
        let mut waiting = joins(relay, next);
        says(relay, by, flight::Step::Abandon);
        let given = answered(&mut waiting).await;
        assert_eq!(given, answer::What::Yours(false), "{node}");
        says(relay, next, flight::Step::Abandon);
    }
    // What has come of it all know once they can agree again.
    let by = one.stream(&of("one"), Vec::new());
    let given = answered(&mut joins(one, by)).await;
    assert_eq!(given, answer::What::Yours(false));
    says(one, by, flight::Step::Land);
    tokio::time::sleep(LOOK.1).await;
    subject.revive();
    let by = other.stream(&of("two"), Vec::new());
    let claims = Claims::new(&subject.settings(), &key).unwrap();
    let told = Claimed::Done(SEALED.to_vec());
    while claims.look(&KEY).await.ok().flatten() != Some(told.clone()) {
        tokio::time::sleep(LOOK.0).await;
    }
    // This one may take a moment longer to reach etcd again, and decides alone until then.
    let mut tries = 0;
    let mut given = answered(&mut joins(other, by)).await;
    while given == answer::What::Yours(false) && tries < 200 {
        tries += 1;
        says(other, by, flight::Step::Abandon);
        tokio::time::sleep(LOOK.0).await;
        given = answered(&mut joins(other, by)).await;
    }
    assert_eq!(given, answer::What::Result(SEALED));
}

#[tokio::test]
async fn what_is_given_after_a_start_or_an_outage_that_nobody_asked_in_is_unsure() {
    let Some(subject) = InEtcd::start() else {
        return;
    };
    let (others, key) = (Others::default(), subject.key());
    // Nor what one gives that has just started, while nodes of others may be on their own.
    let claims = Claims::new(&subject.settings(), &key).unwrap();
    let publisher = Publisher::new(Config::default(), 1, Box::new(others.clone()));
    let relay = Relay::new(Some((claims, publisher)), BTreeSet::new());
    let by = relay.stream(&of("one"), Vec::new());
    let given = answered(&mut joins(&relay, by)).await;
    assert_eq!(given, answer::What::Yours(false));
    says(&relay, by, flight::Step::Abandon);
    let (relay, publisher) = beside(&others, &subject.settings(), &key);
    let by = relay.stream(&of("one"), Vec::new());
    for are_away in [true, false] {
        others.are_away.store(are_away, Ordering::Relaxed);
        assert_eq!(publisher.catch_up().is_err(), are_away);
        // While they cannot be followed, and after: they may have given it alone, and not told of it yet.
        let given = answered(&mut joins(&relay, by)).await;
        assert_eq!(given, answer::What::Yours(false), "{are_away}");
        says(&relay, by, flight::Step::Abandon);
    }
}

#[tokio::test]
async fn of_two_control_planes_that_have_just_started_one_has_it_done() {
    let Some(subject) = InEtcd::start() else {
        return;
    };
    let key = subject.key();
    let relays = [(); 2].map(|()| over(&subject.settings(), &key));
    for relay in &relays {
        *relay.accord.lock().unwrap() = Accord::begun(monotonic());
    }
    let [one, other] = &relays;
    let [near, far] = [one, other].map(|relay| relay.stream(&of("node"), Vec::new()));
    let mut given = joins(one, near);
    let given = answered(&mut given).await;
    assert_eq!(given, answer::What::Yours(false));
    let mut waiting = joins(other, far);
    tokio::time::sleep(LOOK.1).await;
    assert!(waiting.try_recv().is_err());
    says(one, near, flight::Step::Land);
    assert_eq!(answered(&mut waiting).await, answer::What::Result(SEALED));
}

#[tokio::test]
async fn all_that_was_done_in_an_outage_is_told_of_once_it_is_over() {
    let Some(mut subject) = InEtcd::start() else {
        return;
    };
    let key = subject.key();
    let relay = over(&subject.settings(), &key);
    let by = relay.stream(&of("one"), Vec::new());
    subject.kill();
    let keys: Vec<Key> = (0..40).map(|number| vec![number].into()).collect();
    for key in &keys {
        let given = answered(&mut says_of(key.clone(), &relay, by, flight::Step::Join)).await;
        assert_eq!(given, answer::What::Yours(false));
        says_of(key.clone(), &relay, by, flight::Step::Land);
    }
    subject.revive();
    let claims = Claims::new(&subject.settings(), &key).unwrap();
    let told = Claimed::Done(SEALED.to_vec());
    for key in &keys {
        while claims.look(key).await.ok().flatten() != Some(told.clone()) {
            tokio::time::sleep(LOOK.0).await;
        }
    }
}

#[tokio::test]
async fn work_goes_on_by_way_of_another_control_plane() {
    let Some(subject) = InEtcd::start() else {
        return;
    };
    let key = subject.key();
    let relay = || over(&subject.settings(), &key);
    let (one, other) = (relay(), relay());
    let by = one.stream(&of("one"), Vec::new());
    let given = answered(&mut joins(&one, by)).await;
    assert!(matches!(given, answer::What::Yours(_)));
    drop(one);
    // The control plane that gave it starts again; the node is at it still.
    let one = relay();
    let by = one.stream(&of("one"), vec![KEY]);
    let mut near = joins(&one, one.stream(&of("two"), Vec::new()));
    let mut far = joins(&other, other.stream(&of("three"), Vec::new()));
    tokio::time::sleep(LOOK.0).await;
    assert!(near.try_recv().is_err() && far.try_recv().is_err());
    says(&one, by, flight::Step::Land);
    for waiting in [&mut near, &mut far] {
        assert_eq!(answered(waiting).await, answer::What::Result(SEALED));
    }
}

#[tokio::test]
async fn of_two_control_planes_that_look_for_one_thing_one_is_given_it() {
    let Some(subject) = InEtcd::start() else {
        return;
    };
    let claims = Claims::new(&subject.settings(), &subject.key()).unwrap();
    for round in 0..10_u8 {
        let key = [round];
        claims.give(&key, &SEALED).await.unwrap();
        let (one, two) = tokio::join!(claims.receive(&key), claims.receive(&key));
        let given = [one.unwrap(), two.unwrap()];
        let given: Vec<_> = given.into_iter().flatten().collect();
        assert_eq!(given, [SEALED.to_vec()], "{round}");
    }
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
    let relay = Relay::new(None, BTreeSet::new());
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
    let [one, other] = [(); 2].map(|()| over(&subject.settings(), &key));
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
