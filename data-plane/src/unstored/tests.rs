//! What is kept is found again until it is stored, within bounds, and whatever is wrong with the file.

use std::os::unix::fs::PermissionsExt;

use shared::secret::Secret;

use super::*;

const NOW: UnixTime = UnixTime::from_secs(1_000);

fn revocation(id: u128, before: u64, expires_at: u64) -> Revocation {
    Revocation {
        id: Uuid::from_u128(id),
        before,
        expires_at,
    }
}

fn sealing(secret: u8) -> Arc<Sealing> {
    Arc::new(Sealing::new(Secret::new(vec![secret; 100]), "node-1"))
}

fn open_at(directory: &Path, now: UnixTime) -> Unstored {
    Unstored::open(directory, sealing(7), now)
}

fn open(directory: &Path) -> Unstored {
    open_at(directory, NOW)
}

/// Adds and removes, then writes.
fn change(unstored: &Unstored, added: &[Revocation], removed: &[Revocation]) {
    unstored.add(added, NOW);
    unstored.remove(removed);
    unstored.write_at(NOW);
}

#[test]
fn what_is_kept_is_found_again_until_it_is_stored_or_its_time_is_over() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join(FILE);
    let all = [revocation(1, 10, 2_000), revocation(2, 20, 3_000)];
    let unstored = open(root.path());
    change(&unstored, &[], &[]);
    assert!(!path.exists());
    change(&unstored, &all, &[]);
    let mode = path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    assert_eq!(open(root.path()).all(), all);
    // A repeat is no change, the weaker of two is not kept.
    change(&unstored, &[revocation(1, 5, 1_500)], &[]);
    assert_eq!(open(root.path()).all(), all);
    let later = UnixTime::from_secs(2_000);
    assert_eq!(open_at(root.path(), later).all(), all[1..]);
    // What was stored does not cover what is stronger.
    change(&unstored, &[], &[revocation(1, 9, 2_000), all[1]]);
    assert_eq!(open(root.path()).all(), all[..1]);
    change(&unstored, &[], &all[..1]);
    assert_eq!(open(root.path()).all(), []);
    assert!(!path.exists());
}

#[test]
fn what_the_process_before_still_keeps_is_taken_up_once() {
    let root = tempfile::tempdir().unwrap();
    let [one, two, three] = [1, 2, 3].map(|id| revocation(id, 10, 2_000));
    let before = open(root.path());
    change(&before, &[one], &[]);
    let after = open(root.path());
    assert_eq!(after.all(), [one]);
    assert_eq!(after.look(NOW), []);
    change(&before, &[two], &[]);
    assert_eq!(after.look(NOW), [two]);
    assert_eq!(after.look(NOW), []);
    // Also what one's own write has left in the file; and nothing that is stored meanwhile.
    change(&before, &[three], &[]);
    change(&after, &[], &[one]);
    assert_eq!(after.look(NOW), [three]);
    after.remove(&[two]);
    change(&before, &[revocation(2, 9, 2_000)], &[]);
    assert_eq!(after.look(NOW), []);
    assert_eq!(after.all(), [three]);
    // A stronger one is news. What the other process does not know to be stored is stored once more.
    let stronger = revocation(3, 20, 2_500);
    change(&before, &[stronger], &[]);
    assert_eq!(after.look(NOW), [one, stronger]);
    assert_eq!(after.all(), [one, stronger]);
}

#[test]
fn a_damaged_file_is_passed_over_and_written_anew() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join(FILE);
    let one = revocation(1, 10, 2_000);
    let unstored = open(root.path());
    change(&unstored, &[one], &[]);
    let good = std::fs::read(&path).unwrap();
    let mut bad: Vec<Vec<u8>> = (0..good.len()).map(|end| good[..end].to_vec()).collect();
    for at in 0..good.len() {
        let mut flipped = good.clone();
        flipped[at] ^= 1;
        bad.push(flipped);
    }
    bad.push(vec![0; OVERHEAD + MOST * LENGTH + 1]);
    bad.push(sealing(7).seal(MAGIC, vec![0; LENGTH + 1]).unwrap());
    bad.push(
        sealing(8)
            .seal(MAGIC, encode(ById::new().values()))
            .unwrap(),
    );
    for bytes in bad {
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(open(root.path()).all(), [], "{} bytes", bytes.len());
    }
    let two = revocation(2, 20, 2_000);
    change(&unstored, &[two], &[]);
    assert_eq!(open(root.path()).all(), [one, two]);
}

#[test]
fn two_processes_leave_each_other_theirs() {
    let root = tempfile::tempdir().unwrap();
    let of = |id| revocation(id, 10, 2_000);
    let before = open(root.path());
    change(&before, &[of(1)], &[]);
    let successor = open(root.path());
    assert_eq!(successor.all(), [of(1)]);
    change(&successor, &[of(2)], &[]);
    change(&before, &[of(3)], &[of(1)]);
    assert_eq!(open(root.path()).all(), [of(2), of(3)]);
}

#[test]
fn a_renewed_private_key_seals_what_is_there() {
    let root = tempfile::tempdir().unwrap();
    let one = revocation(1, 10, 2_000);
    let sealing = sealing(7);
    let unstored = Unstored::open(root.path(), Arc::clone(&sealing), NOW);
    change(&unstored, &[one], &[]);
    sealing.renew(Secret::new(vec![9; 100]));
    unstored.write_at(NOW);
    let renewed = Arc::new(Sealing::new(Secret::new(vec![9; 100]), "node-1"));
    assert_eq!(Unstored::open(root.path(), renewed, NOW).all(), [one]);
}

#[test]
fn there_are_never_more_than_the_bound_and_what_has_expired_makes_room() {
    let root = tempfile::tempdir().unwrap();
    let many = u128::try_from(MOST).unwrap();
    let all: Vec<_> = (0..many).map(|id| revocation(id, 1, 2_000)).collect();
    let unstored = open(root.path());
    change(&unstored, &all, &[]);
    change(&unstored, &[revocation(many, 1, 2_000)], &[]);
    let found = open(root.path()).all();
    assert!(found == all, "{} are kept", found.len());
    let size = root.path().join(FILE).metadata().unwrap().len();
    assert_eq!(size, u64::try_from(OVERHEAD + MOST * LENGTH).unwrap());
    let fresh = revocation(many, 1, 3_000);
    unstored.add(&[fresh], UnixTime::from_secs(2_000));
    assert_eq!(unstored.all(), [fresh]);
}

#[test]
fn what_cannot_be_written_is_written_once_it_can_be() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("data");
    let one = revocation(1, 10, 2_000);
    std::fs::write(&directory, "in the way").unwrap();
    let unstored = open(&directory);
    change(&unstored, &[one], &[]);
    std::fs::remove_file(&directory).unwrap();
    assert_eq!(open(&directory).all(), []);
    change(&unstored, &[], &[]);
    assert_eq!(open(&directory).all(), [one]);
}

#[tokio::test]
async fn they_are_sent_on_until_they_are_stored() {
    let root = tempfile::tempdir().unwrap();
    let count = u128::try_from(TOGETHER).unwrap() + 1;
    let far = UnixTime::now().as_secs() + 1_000;
    let all: Vec<_> = (0..count).map(|id| revocation(id, 10, far)).collect();
    let questions = Questions::default();
    let unstored = Arc::new(open(root.path()));
    unstored.keep(&all, NOW).await;
    assert_eq!(open(root.path()).all(), all);
    let control_plane = async {
        // Nobody hears the first.
        drop(questions.next().await);
        let mut stored = Vec::new();
        while stored.len() < all.len() {
            let question = questions.next().await.unwrap();
            let What::Revoke(json) = &question.what else {
                panic!("{question:?}");
            };
            let asked: Vec<Revocation> = serde_json::from_slice(json).unwrap();
            assert!(asked.len() <= TOGETHER);
            stored.extend(asked);
            question.answer(answer::What::Stored(true));
        }
        while root.path().join(FILE).exists() {
            tokio::task::yield_now().await;
        }
        stored
    };
    tokio::select! {
        () = Arc::clone(&unstored).send_on(&questions) => unreachable!(),
        stored = control_plane => assert_eq!(stored, all),
    }
    assert_eq!(unstored.all(), []);
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_is_brought_again_soon_and_as_soon_as_something_is_stored() {
    let questions = Questions::default();
    let unstored = Arc::new(Unstored::default());
    let far = UnixTime::now().as_secs() + 1_000;
    unstored.keep(&[revocation(1, 10, far)], NOW).await;
    let control_plane = async {
        let began = tokio::time::Instant::now();
        let refuse = async || {
            let question = questions.next().await.unwrap();
            assert!(matches!(question.what, What::Revoke(_)), "{question:?}");
            question.answer(answer::What::Refused("the disk is full".to_owned()));
        };
        refuse().await;
        // Until it waits.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        unstored.forget(&[revocation(2, 10, far)]).await;
        refuse().await;
        // What else is stored may take no room: it does not have what is refused brought each time.
        let first = began.elapsed();
        assert!((LEAST..LEAST * 2).contains(&first), "{first:?}");
        let began = tokio::time::Instant::now();
        // Nobody else logs out.
        let question = questions.next().await.unwrap();
        let waited = began.elapsed();
        let about = REFUSED * 4 / 5..=REFUSED * 6 / 5;
        assert!(about.contains(&waited), "{waited:?}");
        question.answer(answer::What::Stored(true));
        while !unstored.all().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = Arc::clone(&unstored).send_on(&questions) => unreachable!(),
        () = control_plane => {}
    }
}
