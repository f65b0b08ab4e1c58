//! Clients that write and read the same records at the same time: there is one order in which each saw what it saw.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use harness::{Browser, Cluster, Reply};
use http::Method;
use serde_json::{Value, json};
use shared::clock::monotonic;

use crate::number;
use crate::replicas::Replicas;

/// What was done to a record, and what came of it. Each value is written once.
#[derive(Clone, Debug, PartialEq)]
enum Did {
    /// Written, whether it was there or not.
    Put(usize),
    /// Written because it was not there; or it was.
    Created(usize, bool),
    /// Written because it was there; or it was not.
    Changed(usize, bool),
    /// Written because it was what the client had seen, the first of these; or it was not.
    Swapped(usize, usize, bool),
    Deleted,
    Read(Option<usize>),
    /// Nobody knows whether it was written.
    PerhapsPut(Option<usize>),
}

impl Did {
    /// The states that `state` may be followed by, if this may happen to it at all.
    fn on(&self, state: Option<usize>) -> Vec<Option<usize>> {
        let only = |possible: bool, next| if possible { vec![next] } else { Vec::new() };
        match *self {
            Self::Put(value) => vec![Some(value)],
            Self::Created(value, true) => only(state.is_none(), Some(value)),
            Self::Changed(value, true) => only(state.is_some(), Some(value)),
            Self::Created(_, false) => only(state.is_some(), state),
            Self::Changed(_, false) => only(state.is_none(), state),
            Self::Swapped(seen, value, true) => only(state == Some(seen), Some(value)),
            Self::Swapped(seen, _, false) => only(state != Some(seen), state),
            Self::Deleted => vec![None],
            Self::Read(value) => only(state == value, state),
            Self::PerhapsPut(value) => vec![state, value],
        }
    }
}

/// One request.
#[derive(Clone, Debug)]
struct Operation {
    did: Did,
    began: Instant,
    /// None: it may still happen.
    ended: Option<Instant>,
}

/// What was tried: how many are done in a row, which of the later ones are, and the state.
type Tried = (usize, Vec<usize>, Option<usize>);

/// Whether there is an order of `operations` on one record, each between its beginning and its end, in which each does
/// what it did (Wing and Gong's search, with the states that were tried remembered).
fn is_linearizable(operations: &[Operation]) -> bool {
    let mut sorted: Vec<&Operation> = operations.iter().collect();
    sorted.sort_by_key(|operation| operation.began);
    let mut tried: HashSet<Tried> = HashSet::new();
    let mut open: Vec<Tried> = vec![(0, Vec::new(), None)];
    while let Some((mut first, mut beyond, state)) = open.pop() {
        while beyond.first() == Some(&first) {
            beyond.remove(0);
            first += 1;
        }
        if sorted[first..]
            .iter()
            .enumerate()
            .all(|(at, operation)| operation.ended.is_none() || beyond.contains(&(first + at)))
        {
            return true;
        }
        if !tried.insert((first, beyond.clone(), state)) {
            continue;
        }
        // Whatever is next began before everything that is not done had ended.
        let undone = |at: &usize| !beyond.contains(at);
        let ends = (first..sorted.len()).filter(undone);
        let soonest = ends.filter_map(|at| sorted[at].ended).min();
        for at in (first..sorted.len()).filter(undone) {
            if soonest.is_some_and(|soonest| sorted[at].began > soonest) {
                break;
            }
            for next in sorted[at].did.on(state) {
                let mut done = beyond.clone();
                done.insert(done.partition_point(|other| *other < at), at);
                open.push((first, done, next));
            }
        }
    }
    false
}

#[test]
fn an_order_is_found_where_there_is_one_and_only_there() {
    use Did::{Changed, Created, Deleted, PerhapsPut, Put, Read, Swapped};
    let start = monotonic();
    let check = |expected: bool, told: &[(Did, u64, Option<u64>)]| {
        let at = |second| start + Duration::from_secs(second);
        let operations: Vec<Operation> = told
            .iter()
            .map(|(did, began, ended)| Operation {
                did: did.clone(),
                began: at(*began),
                ended: ended.map(at),
            })
            .collect();
        assert_eq!(is_linearizable(&operations), expected, "{told:?}");
    };
    check(true, &[]);
    check(true, &[(Put(1), 0, Some(1)), (Read(Some(1)), 2, Some(3))]);
    check(false, &[(Put(1), 0, Some(1)), (Read(None), 2, Some(3))]);
    // At the same time either may have been first, for all alike.
    check(true, &[(Put(1), 0, Some(9)), (Read(None), 1, Some(2))]);
    let both = [(Put(1), 0, Some(5)), (Put(2), 0, Some(5))];
    for last in [1, 2] {
        check(
            true,
            &[&both[..], &[(Read(Some(last)), 6, Some(7))]].concat(),
        );
    }
    let disagree = [(Read(Some(1)), 6, Some(7)), (Read(Some(2)), 8, Some(9))];
    check(false, &[&both[..], &disagree].concat());
    // Two cannot both be the first.
    let twice = [
        (Created(1, true), 0, Some(5)),
        (Created(2, true), 1, Some(4)),
    ];
    check(false, &twice);
    check(true, &[&twice[..], &[(Deleted, 2, Some(3))]].concat());
    check(false, &[(Created(1, false), 0, Some(1))]);
    check(false, &[(Changed(1, true), 0, Some(1))]);
    check(
        true,
        &[
            (Put(1), 0, Some(1)),
            (Changed(2, true), 2, Some(3)),
            (Read(Some(2)), 4, Some(5)),
        ],
    );
    check(
        false,
        &[
            (Put(1), 0, Some(1)),
            (Deleted, 2, Some(3)),
            (Created(3, false), 4, Some(5)),
        ],
    );
    let swaps = |seen, done| [(Put(1), 0, Some(1)), (Swapped(seen, 2, done), 2, Some(3))];
    check(true, &swaps(1, true));
    check(false, &swaps(1, false));
    check(false, &swaps(7, true));
    check(true, &swaps(7, false));
    // What was not answered may have happened, then or later, or not at all.
    let lost = [(PerhapsPut(Some(1)), 0, None), (Read(None), 5, Some(6))];
    check(true, &lost);
    check(true, &[&lost[..], &[(Read(Some(1)), 7, Some(8))]].concat());
    let and_back = [(Read(Some(1)), 7, Some(8)), (Read(None), 9, Some(10))];
    check(false, &[&lost[..], &and_back].concat());
}

/// Whom a client asks: the URL of an Admin API.
trait Asked {
    fn url(&self, client: usize) -> String;
}

impl Asked for Cluster {
    fn url(&self, _: usize) -> String {
        self.admin_url()
    }
}

impl Asked for Replicas {
    fn url(&self, client: usize) -> String {
        let at = client % self.control_planes.len();
        let process = self.control_planes[at].as_ref().unwrap();
        format!("http://{}", process.address("admin"))
    }
}

/// What answers a request, if something does; one that is to have effect only on what was `seen`, if there was.
async fn ask(url: &str, method: Method, body: &Value, seen: Option<&str>) -> Option<Reply> {
    let mut headers = vec![("content-type", "application/json")];
    headers.extend(seen.map(|seen| ("if-match", seen)));
    let body = body.to_string();
    Browser::new().try_send(method, url, &headers, body).await
}

/// The value that an answer shows.
fn shown(answer: &Value) -> Option<usize> {
    answer["custom_id"].as_str()?.parse().ok()
}

/// What four clients of `store` saw of few records.
async fn histories(
    store: &impl Asked,
    count: usize,
    reads: bool,
) -> BTreeMap<usize, Vec<Operation>> {
    const CLIENTS: usize = 4;
    const RECORDS: usize = 8;
    let histories: Arc<Mutex<BTreeMap<usize, Vec<Operation>>>> = Arc::default();
    let clients = (0..CLIENTS).map(async |client| {
        for turn in 0..count / CLIENTS {
            let value = turn * CLIENTS + client;
            // The same in each run, and no two clients in step.
            let dice = (value + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let (record, kind) = ((dice >> 40) % RECORDS, dice >> 52);
            let admin = store.url(client);
            let path = format!("{admin}/consumers/c{record}");
            let fields = json!({ "custom_id": value.to_string() });
            let named = json!({ "username": format!("c{record}"), "custom_id": value.to_string() });
            let mut seen = None;
            if kind % 6 == 5 {
                // What is read may be old by now: then nothing is written.
                let Some(reply) = ask(&path, Method::GET, &Value::Null, None).await else {
                    continue;
                };
                if reply.status != 200 {
                    continue;
                }
                seen = shown(&reply.json()).map(|value| (value, reply.header("etag").to_owned()));
            }
            let (method, url, body) = match kind % 6 {
                0 => (Method::PUT, path, &fields),
                1 => (Method::POST, format!("{admin}/consumers"), &named),
                2 | 5 => (Method::PATCH, path, &fields),
                3 => (Method::DELETE, path, &Value::Null),
                _ if reads => (Method::GET, path, &Value::Null),
                _ => continue,
            };
            let began = monotonic();
            let tag = seen.as_ref().map(|(_, tag)| tag.as_str());
            let answer = ask(&url, method.clone(), body, tag).await;
            let ended = Some(monotonic());
            let answer = answer.map(|reply| {
                let body: Value = serde_json::from_str(&reply.text()).unwrap_or_default();
                (reply.status, body)
            });
            let seen = seen.map(|(seen, _)| seen);
            let (did, ended) = match (kind % 6, answer) {
                (0, Some((200 | 201, _))) => (Did::Put(value), ended),
                (1, Some((201, _))) => (Did::Created(value, true), ended),
                (1, Some((409, _))) => (Did::Created(value, false), ended),
                (2, Some((200, _))) => (Did::Changed(value, true), ended),
                (2, Some((404, _))) => (Did::Changed(value, false), ended),
                (3, Some((204, _))) => (Did::Deleted, ended),
                (4, Some((200, answer))) => (Did::Read(shown(&answer)), ended),
                (4, Some((404, _))) => (Did::Read(None), ended),
                (4, _) => continue,
                (5, Some((200, _))) => (Did::Swapped(seen.unwrap(), value, true), ended),
                (5, Some((412, _))) => (Did::Swapped(seen.unwrap(), value, false), ended),
                // Others were too fast, or the store did not answer: nothing was written, or it may still be.
                (3, Some((503, _)) | None) => (Did::PerhapsPut(None), None),
                (_, Some((503, _)) | None) => (Did::PerhapsPut(Some(value)), None),
                (_, Some((status, answer))) => panic!("{method} {url} {body}: {status} {answer}"),
            };
            let operation = Operation { did, began, ended };
            let mut histories = histories.lock().unwrap();
            histories.entry(record).or_default().push(operation);
        }
    });
    futures::future::join_all(clients).await;
    Arc::into_inner(histories).unwrap().into_inner().unwrap()
}

#[expect(clippy::print_stdout, reason = "it is run for its figures")]
fn judge(what: &str, histories: &BTreeMap<usize, Vec<Operation>>) {
    let count: usize = histories.values().map(Vec::len).sum();
    for (record, operations) in histories {
        assert!(
            is_linearizable(operations),
            "{what}: record {record}: {operations:#?}"
        );
    }
    println!("{what}: {count} requests of four clients, in one order for each record");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: tests/faults/run"]
async fn what_clients_see_of_a_store_has_one_order() {
    let cluster = Cluster::start(0).await;
    let count = number("OPERATIONS", 4_000);
    judge("one control plane", &histories(&cluster, count, true).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: tests/faults/run"]
async fn what_clients_see_of_a_store_has_one_order_whichever_control_plane_they_ask() {
    let replicas = Replicas::start(2).await;
    let count = number("OPERATIONS", 4_000);
    // A read is answered from what is known there, and so no part of this.
    let told = histories(&replicas, count, false).await;
    judge("two control planes over etcd", &told);
}
