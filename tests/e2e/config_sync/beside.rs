//! What a node hears of while an update is on its way to it.

use proto::features::{BESIDE, MILESTONES};
use proto::v1::request::What;
use proto::v1::{Chunk, Reached, Revoked, answer};
use uuid::Uuid;

use super::*;

/// What nobody packs.
fn consumers(count: usize) -> Value {
    let tags = || -> Vec<String> { (0..20).map(|_| Uuid::new_v4().to_string()).collect() };
    let consumers: Vec<_> = (0..count)
        .map(|number| json!({ "username": number.to_string(), "tags": tags() }))
        .collect();
    json!({ "_format_version": "3.0", "consumers": consumers })
}

/// What a node says that ends a session.
fn logout(id: u64) -> node_message::Kind {
    let revocation = json!([{
        "id": Uuid::from_u128(u128::from(id)),
        "before": 253_402_300_799_999_u64,
        "expires_at": 9_999_999_999_u64,
    }]);
    node_message::Kind::Request(proto::v1::Request {
        id,
        what: Some(What::Revoke(revocation.to_string().into())),
    })
}

/// Has a session end, which is stored when this returns. Until it reads on, the node has no room for more of its update.
async fn log_out(cluster: &Cluster, node: &Node) {
    let revision = cluster.read("/status").await["configuration_revision"].clone();
    node.say(logout(7)).await;
    eventually("the logout is stored", async || {
        let now = cluster.read("/status").await["configuration_revision"].clone();
        (now != revision).then_some(())
    })
    .await;
}

/// What comes next, to a node so slow that its update is still on its way when there is more to tell.
async fn hear_slowly(node: &mut Node) -> Kind {
    tokio::time::sleep(Duration::from_millis(20)).await;
    node.hear().await.unwrap()
}

/// Whether this says that the logout is stored.
fn is_of_logout(told: &proto::v1::Answer) -> bool {
    (told.id, &told.what) == (7, &Some(answer::What::Stored(true)))
}

const FEATURES: [&str; 7] = [
    DELTA,
    BUCKETS,
    URGENT,
    BESIDE,
    "kind/consumers",
    "kind/session_keys",
    "kind/revocations",
];

/// A node that has all there was, which the update told, before more than a link takes at once was made.
async fn before_a_large_change(cluster: &Cluster, features: &[&str]) -> (Node, Begin) {
    let first = hello_with("node-1", "a", None, features);
    let mut node = subscribe(cluster, first).await.unwrap();
    let (begin, _) = node.whole_update().await;
    node.ack(&begin).await;
    let whole = consumers(1_500);
    let reply = cluster.admin(Method::POST, "/config", &whole).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    (node, begin)
}

#[tokio::test]
async fn a_node_ahead_of_the_control_plane_hears_of_logouts() {
    let cluster = cluster().await;
    cluster.certify("node-2");
    let running = Position {
        generation: u64::MAX,
        revision: 1_000_000,
        root: vec![9; 32].into(),
        ..Position::default()
    };
    let first = hello_with("node-2", "a", Some(running), &FEATURES);
    let mut ahead = subscribe_as(&cluster, "node-2", first).await.unwrap();
    assert!(matches!(ahead.hear().await, Some(Kind::Welcome(_))));
    let first = hello_with("node-1", "a", None, &FEATURES);
    let mut node = subscribe(&cluster, first).await.unwrap();
    let (begin, _) = node.whole_update().await;
    node.ack(&begin).await;
    log_out(&cluster, &node).await;
    let told = loop {
        match ahead.hear().await.unwrap() {
            Kind::Revoke(told) => break told,
            Kind::Heartbeat(_) => {}
            other => panic!("{other:?}"),
        }
    };
    let told: Value = serde_json::from_slice(&told.revocations).unwrap();
    assert_eq!(told[0]["id"], json!(Uuid::from_u128(7)));
    assert_eq!(told.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_logout_and_an_answer_pass_an_update_that_is_on_its_way() {
    let cluster = cluster().await;
    let (mut node, _) = before_a_large_change(&cluster, &FEATURES).await;
    // Whatever begins before the update is small.
    let begin = loop {
        match node.hear().await.unwrap() {
            Kind::Begin(begin) if begin.raw_bytes > 1_000_000 => break begin,
            Kind::Begin(begin) => node.ack(&begin).await,
            Kind::Chunk(_) | Kind::Commit(_) => {}
            other => panic!("{other:?}"),
        }
    };
    log_out(&cluster, &node).await;
    let (mut chunk, mut raw, mut parts, mut answered) = (Vec::new(), Vec::new(), 0, false);
    let told = loop {
        match hear_slowly(&mut node).await {
            Kind::Part(part) => {
                assert!(part.data.len() < 16 * 1024, "{}", part.data.len());
                take(&mut chunk, &part, &mut raw);
                parts += 1;
            }
            Kind::Answer(answer) => answered = is_of_logout(&answer),
            Kind::Revoke(told) => break told,
            other => panic!("before it heard of the logout: {other:?}"),
        }
    };
    let told_of: Value = serde_json::from_slice(&told.revocations).unwrap();
    assert_eq!(told_of[0]["id"], json!(Uuid::from_u128(7)));
    assert_eq!(told_of.as_array().unwrap().len(), 1);
    assert!(told.revision > begin.target.as_ref().unwrap().revision);
    let revision = told.revision;
    // Whatever a node says, it is shown no more than it was told.
    let said = revision + 1_000;
    node.say(node_message::Kind::Revoked(Revoked { revision: said }))
        .await;
    eventually("it is shown that the node has heard of it", async || {
        (row(&cluster).await["revoked"] == revision).then_some(())
    })
    .await;
    // The rest of the update comes, and after it what it does not hold.
    loop {
        match node.hear().await.unwrap() {
            Kind::Part(part) => {
                take(&mut chunk, &part, &mut raw);
                parts += 1;
            }
            // It is told of what it has stored either before or after that.
            Kind::Answer(answer) => answered = is_of_logout(&answer),
            Kind::Commit(_) => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(answered);
    assert!(parts > 50, "{parts} parts");
    let changes = proto::decode_changes(raw).unwrap();
    assert_eq!(changes.puts.len(), usize::try_from(begin.records).unwrap());
    assert!(changes.puts.len() >= 1_500);
    node.ack(&begin).await;
    let (next, changes) = node.whole_update().await;
    assert_eq!(next.target.as_ref().unwrap().revision, revision);
    let kinds: Vec<_> = changes.puts.iter().map(|put| put.key.kind).collect();
    assert_eq!(kinds, ["revocations"]);
    node.ack(&next).await;
    eventually("it runs that", async || {
        let row = row(&cluster).await;
        (row["revision"] == revision && row["revoked"].is_null()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_node_that_comes_back_hears_of_a_logout_before_all_of_the_update_that_brings_it() {
    let cluster = cluster().await;
    let (mut node, begin) = before_a_large_change(&cluster, &FEATURES).await;
    let mut running = begin.target;
    loop {
        match node.hear().await.unwrap() {
            Kind::Begin(begin) if begin.raw_bytes > 1_000_000 => break,
            Kind::Begin(begin) => {
                node.ack(&begin).await;
                running = begin.target;
            }
            Kind::Chunk(_) | Kind::Commit(_) => {}
            other => panic!("{other:?}"),
        }
    }
    log_out(&cluster, &node).await;
    let before = loop {
        match hear_slowly(&mut node).await {
            Kind::Part(_) | Kind::Chunk(_) | Kind::Answer(_) => {}
            Kind::Revoke(told) => break told,
            other => panic!("before it heard of the logout: {other:?}"),
        }
    };
    drop(node);
    let again = hello_with("node-1", "b", running, &FEATURES);
    let mut node = subscribe(&cluster, again).await.unwrap();
    // Either may be first.
    let (mut target, mut told) = (None, None);
    while target.is_none() || told.is_none() {
        match hear_slowly(&mut node).await {
            Kind::Begin(begin) => target = begin.target,
            Kind::Welcome(_) | Kind::Part(_) | Kind::Chunk(_) => {}
            Kind::Revoke(revoke) => told = Some(revoke.revocations),
            other => panic!("before it heard of the logout: {other:?}"),
        }
    }
    assert!(target.unwrap().revision >= before.revision);
    assert_eq!(told.unwrap(), before.revocations);
}

#[tokio::test]
async fn no_more_of_an_update_is_under_way_than_a_node_says_it_can_take() {
    let cluster = cluster().await;
    let features = [&FEATURES[..], &[MILESTONES]].concat();
    let (mut node, _) = before_a_large_change(&cluster, &features).await;
    let mut marks = Vec::new();
    let begin = loop {
        match node.hear().await.unwrap() {
            Kind::Begin(begin) if begin.raw_bytes > 1_000_000 => break begin,
            Kind::Begin(begin) => node.ack(&begin).await,
            Kind::Milestone(here) => marks.push(here.at),
            Kind::Chunk(_) | Kind::Commit(_) => {}
            other => panic!("{other:?}"),
        }
    };
    // It says nothing: the logout finds next to nothing before it, however late it comes and however fast the link is.
    let (mut chunk, mut raw) = (Vec::new(), Vec::new());
    let (mut before, mut logged_out) = (0, false);
    loop {
        match node.hear().await.unwrap() {
            Kind::Part(part) => {
                before += part.data.len();
                take(&mut chunk, &part, &mut raw);
            }
            Kind::Milestone(here) => {
                marks.push(here.at);
                if !std::mem::replace(&mut logged_out, true) {
                    node.say(logout(7)).await;
                }
            }
            Kind::Answer(_) => {}
            Kind::Revoke(_) => break,
            other => panic!("before it heard of the logout: {other:?}"),
        }
    }
    assert!(before < 32 * 1024, "{before} bytes went before the logout");
    for at in marks {
        node.say(reached(at)).await;
    }
    // As it says how far it has come, all of it comes.
    loop {
        match node.hear().await.unwrap() {
            Kind::Part(part) => take(&mut chunk, &part, &mut raw),
            Kind::Milestone(here) => node.say(reached(here.at)).await,
            Kind::Answer(_) => {}
            Kind::Commit(_) => break,
            other => panic!("{other:?}"),
        }
    }
    let changes = proto::decode_changes(raw).unwrap();
    assert_eq!(changes.puts.len(), usize::try_from(begin.records).unwrap());
    node.ack(&begin).await;
    let (next, _) = node.whole_update().await;
    node.ack(&next).await;
    // One that has come farther than it was led does not follow the protocol.
    node.say(reached(u64::MAX)).await;
    while node.hear().await.is_some() {}
}

/// What a node says that has got everything up to a milestone.
pub(super) fn reached(at: u64) -> node_message::Kind {
    node_message::Kind::Reached(Reached { at })
}

/// Adds `part` to its `chunk`, and that to `raw` if it is whole.
fn take(chunk: &mut Vec<u8>, part: &proto::v1::Part, raw: &mut Vec<u8>) {
    chunk.extend_from_slice(&part.data);
    if part.last {
        let whole: Chunk = prost::Message::decode(std::mem::take(chunk).as_slice()).unwrap();
        match whole.packing() {
            Packing::Plain => raw.extend(whole.data),
            Packing::Zstd => {
                let size = whole.raw_size.try_into().unwrap();
                raw.extend(zstd::bulk::decompress(&whole.data, size).unwrap());
            }
        }
    }
}
