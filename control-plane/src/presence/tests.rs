//! Control planes over one etcd that tell each other of their nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};

use shared::clock::UnixTime;
use shared::snapshot::Position;

use super::*;
use crate::fleet::tests::introduction;
use crate::fleet::{Introduction, Order};
use crate::store::etcd::EtcdSettings;
use crate::store::suite::Subject;
use crate::store::suite::etcd::InEtcd;

/// How long what one tells lasts: etcd's leases go by its own clock.
const TIME: Duration = Duration::from_secs(5);

const NOW: UnixTime = UnixTime::from_secs(1_000);

fn board(settings: &EtcdSettings, subject: &InEtcd) -> Board {
    let board = Board::new(settings, &subject.key()).unwrap();
    board.lasting(TIME)
}

fn teller(subject: &InEtcd, number: u128) -> Teller {
    Teller {
        board: board(&subject.settings(), subject),
        fleet: Fleet::shared(),
        replica: Uuid::from_u128(number),
        plan: "rollout=immediate".to_owned(),
        samples: false,
        told: BTreeMap::new(),
        plan_told: None,
        seen: BTreeMap::new(),
    }
}

fn node(name: &str) -> Introduction {
    Introduction {
        name: name.to_owned(),
        ..introduction("boot", Position::default())
    }
}

/// Whether a teller knows of the node, and that it is connected.
fn connected(teller: &Teller, name: &str) -> Option<bool> {
    let rows = teller.fleet.list(|_| Position::default(), NOW);
    let row = rows.iter().find(|row| row["name"] == name)?;
    row["connected"].as_bool()
}

#[tokio::test]
async fn nodes_are_known_to_all_and_orders_reach_them() {
    let Some(mut subject) = InEtcd::start() else {
        return;
    };
    let (mut one, mut other) = (teller(&subject, 1), teller(&subject, 2));
    assert_eq!(one.fleet.present(), None);
    let (mut member, _) = one.fleet.join(node("node-1"), NOW).unwrap();
    one.turn().unwrap();
    assert_eq!(connected(&other, "node-1"), None);
    other.turn().unwrap();
    assert_eq!(connected(&other, "node-1"), Some(true));
    one.turn().unwrap();
    assert_eq!(one.fleet.present(), Some(BTreeSet::from([other.replica])));
    // What has not changed is not told again before it is time to.
    let posts = other.board.posts().unwrap();
    one.turn().unwrap();
    assert_eq!(other.board.posts().unwrap(), posts);
    // An order goes to whoever the node is connected to.
    assert!(other.fleet.retry("node-1"));
    other.turn().unwrap();
    one.turn().unwrap();
    assert_eq!(member.order().await, Some(Order::Retry));
    // While etcd is gone, what is known stays, and orders wait.
    subject.kill();
    assert!(other.fleet.retry("node-1"));
    assert!(other.turn().is_err());
    assert_eq!(connected(&other, "node-1"), Some(true));
    subject.revive();
    other.turn().unwrap();
    one.turn().unwrap();
    assert_eq!(member.order().await, Some(Order::Retry));
    // One that says nonsense hides nobody.
    let stranger = Post::Part(Uuid::from_u128(3), 0);
    one.board.tell(&stranger, b"nonsense").unwrap();
    other.turn().unwrap();
    assert_eq!(connected(&other, "node-1"), Some(true));
    // Once it ends, its nodes have left.
    one.board.leave(one.replica).unwrap();
    other.turn().unwrap();
    assert_eq!(connected(&other, "node-1"), Some(false));
}

#[tokio::test]
async fn a_control_plane_that_is_killed_is_there_no_longer_than_a_node_that_is_silent() {
    let Some(subject) = InEtcd::start() else {
        return;
    };
    let [mut one, mut killed, mut other] = [1, 2, 3].map(|number| teller(&subject, number));
    let (_first, _) = one.fleet.join(node("node-1"), NOW).unwrap();
    let (_second, _) = killed.fleet.join(node("node-2"), NOW).unwrap();
    for teller in [&mut one, &mut killed, &mut other] {
        teller.turn().unwrap();
    }
    assert_eq!(connected(&other, "node-2"), Some(true));
    // Those that go on are there all the time.
    let mut turns = 0;
    while connected(&other, "node-2") == Some(true) {
        one.turn().unwrap();
        other.turn().unwrap();
        assert_eq!(connected(&other, "node-1"), Some(true));
        turns += 1;
        assert!(turns < 300, "it is there for half a minute");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let present = Some(BTreeSet::from([one.replica]));
    assert_eq!(other.fleet.present(), present);
    // It had but stood still: what it told is there again at once.
    killed.turn().unwrap();
    other.turn().unwrap();
    assert_eq!(connected(&other, "node-2"), Some(true));
    let posts = other.board.posts().unwrap();
    assert!(posts.contains_key(&Post::Plan(killed.replica)));
}

#[test]
fn what_is_gone_from_etcd_is_told_again_though_the_lease_is_kept() {
    let Some(subject) = InEtcd::start() else {
        return;
    };
    let (mut one, other) = (teller(&subject, 1), teller(&subject, 2));
    let (_member, _) = one.fleet.join(node("node-1"), NOW).unwrap();
    one.turn().unwrap();
    let told = other.board.posts().unwrap();
    assert!(told.len() > 1);
    // As of an etcd that was put back, but for the lease.
    other.board.leave(one.replica).unwrap();
    assert!(other.board.posts().unwrap().is_empty());
    one.turn().unwrap();
    one.turn().unwrap();
    assert!(other.board.posts().unwrap().keys().eq(told.keys()));
}

#[test]
fn where_changes_go_out_in_stages_each_says_that_it_is_there() {
    let Some(subject) = InEtcd::start() else {
        return;
    };
    let (mut one, mut other) = (teller(&subject, 1), teller(&subject, 2));
    let (_member, _) = one.fleet.join(node("node-1"), NOW).unwrap();
    let told_at = |teller: &Teller| teller.fleet.views(0)[0].told_at;
    one.turn().unwrap();
    other.turn().unwrap();
    let before = told_at(&other);
    assert!(before.is_some());
    for (samples, is_heard) in [(false, false), (true, true)] {
        one.samples = samples;
        one.plan_told = one.plan_told.and_then(|at| at.checked_sub(THERE));
        assert!(one.plan_told.is_some());
        let posts = other.board.posts().unwrap();
        one.turn().unwrap();
        assert_eq!(other.board.posts().unwrap() != posts, is_heard);
        other.turn().unwrap();
        assert_eq!(told_at(&other) > before, is_heard);
    }
    // Not with each turn, however long those take.
    one.plan_told = one.plan_told.and_then(|told| told.checked_add(TELL));
    let posts = other.board.posts().unwrap();
    one.turn().unwrap();
    assert_eq!(other.board.posts().unwrap(), posts);
}

/// Whether anybody who starts now would carry out an order.
fn is_ordered(teller: &Teller) -> bool {
    let posts = teller.board.posts().unwrap();
    posts.keys().any(|post| matches!(post, Post::Order(_)))
}

#[tokio::test]
async fn an_order_is_gone_while_who_gave_it_goes_on() {
    let Some(subject) = InEtcd::start() else {
        return;
    };
    let (mut one, mut other) = (teller(&subject, 1), teller(&subject, 2));
    let (_member, _) = one.fleet.join(node("node-1"), NOW).unwrap();
    one.turn().unwrap();
    other.turn().unwrap();
    assert!(other.fleet.retry("node-1"));
    other.turn().unwrap();
    assert!(is_ordered(&one));
    let mut turns = 0;
    while is_ordered(&one) {
        one.turn().unwrap();
        other.turn().unwrap();
        turns += 1;
        assert!(turns < 300, "it is there for half a minute");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let posts = one.board.posts().unwrap();
    assert!(posts.contains_key(&Post::Plan(other.replica)));
    assert_eq!(connected(&other, "node-1"), Some(true));
}

/// The way to etcd where each request takes half a second more: its URL. It ends with the test's process.
fn slowly(etcd: &str) -> String {
    let etcd = etcd.trim_start_matches("http://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let pass = |mut from: TcpStream, mut to: TcpStream, late: Duration| {
        let mut bytes = [0; 8 * 1024];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            std::thread::sleep(late);
            if to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        _ = to.shutdown(Shutdown::Both);
    };
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (client, server) = (client.unwrap(), TcpStream::connect(&etcd).unwrap());
            let (from, to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || pass(client, server, LOOK));
            std::thread::spawn(move || pass(from, to, Duration::ZERO));
        }
    });
    url
}

#[test]
fn a_control_plane_over_a_slow_etcd_is_there_for_as_long_as_a_turn_takes() {
    let Some(subject) = InEtcd::start() else {
        return;
    };
    let mut other = teller(&subject, 2);
    // What cannot be read is read all the same.
    for number in 10..18 {
        let stranger = Post::Part(Uuid::from_u128(number), 0);
        other.board.tell(&stranger, b"nonsense").unwrap();
    }
    let mut settings = subject.settings();
    settings.endpoints = vec![slowly(&settings.endpoints[0])];
    let mut one = Teller {
        board: board(&settings, &subject),
        ..teller(&subject, 1)
    };
    one.turn().unwrap();
    let posts = other.board.posts().unwrap();
    assert!(posts.contains_key(&Post::Plan(one.replica)));
}

#[test]
fn control_planes_that_roll_out_differently_do_not_run_over_one_etcd() {
    let Some(subject) = InEtcd::start() else {
        return;
    };
    let (mut one, mut other) = (teller(&subject, 1), teller(&subject, 2));
    let agree = |teller: &mut Teller, plan: &str| {
        agree(&mut teller.board, teller.replica, plan).map_err(|error| error.to_string())
    };
    agree(&mut one, "rollout=immediate").unwrap();
    agree(&mut other, "rollout=immediate").unwrap();
    other.board.leave(other.replica).unwrap();
    let refused = agree(&mut other, "rollout=staged").unwrap_err();
    assert!(
        refused.contains("rollout=immediate") && refused.contains("rollout=staged"),
        "{refused}"
    );
    // It has not stayed, so the next one may be as the first.
    let mut third = teller(&subject, 3);
    agree(&mut third, "rollout=immediate").unwrap();
    one.board.leave(one.replica).unwrap();
    third.board.leave(third.replica).unwrap();
    agree(&mut other, "rollout=staged").unwrap();
}
