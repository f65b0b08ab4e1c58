//! What is asked of control planes, and what they are told again.

use std::cell::Cell;

use super::given::LANDED;
use super::*;

const LIMIT: Duration = Duration::from_secs(12);

fn join() -> request::What {
    request::What::Flight(proto::v1::Flight::default())
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_waits_for_others_is_waited_for_while_somebody_is_there() {
    let questions = Questions::default();
    let asked = questions.ask_patiently(join(), LIMIT, || false);
    let control_plane = async {
        let question = questions.next().await.unwrap();
        let mut echoes = 0;
        let late = tokio::time::sleep(Duration::from_secs(5));
        tokio::pin!(late);
        loop {
            tokio::select! {
                () = &mut late => break,
                echo = questions.next() => {
                    echoes += 1;
                    let echo = echo.unwrap();
                    assert_eq!(echo.what, request::What::Echo(true));
                    let unknown = answer::What::Refused("unknown".to_owned());
                    echo.answer(unknown);
                }
            }
        }
        question.answer(answer::What::Yours(true));
        echoes
    };
    let (answer, echoes) = tokio::join!(asked, control_plane);
    assert_eq!(answer, Ok(answer::What::Yours(true)));
    assert!(echoes > 1);
}

#[tokio::test(start_paused = true)]
async fn how_a_flight_ended_is_told_until_somebody_has_heard_it() {
    let questions = Questions::default();
    let key = [7; 32];
    let number = questions.given.begins(&key);
    let landing = questions.land(&key, number, join()).unwrap();
    let control_planes = async {
        for is_gone in [true, true, false] {
            // One that takes it off the queue and goes away takes all of it along: nothing is left for the next one to
            // answer that has not heard it.
            let told = questions.next().await.unwrap();
            assert_eq!(told.what, join());
            assert!(matches!(told.wanted, Wanted::Arrival(_)));
            let next = tokio::time::timeout(AGAIN / 2, questions.next()).await;
            assert!(next.is_err());
            // Until somebody has heard it, it is this process's.
            assert_eq!(questions.given.all(), [&key[..]]);
            if is_gone {
                drop(told);
                questions.begin_stream();
            } else {
                told.answer(answer::What::Echo(true));
            }
        }
    };
    tokio::join!(questions.landed(landing), control_planes);
    assert!(questions.given.all().is_empty());
    // Where there is nobody for long, nobody is waited for any more.
    let number = questions.given.begins(&key);
    let landing = questions.land(&key, number, join()).unwrap();
    let nobody = async { while questions.next().await.is_some() {} };
    tokio::select! {
        () = questions.landed(landing) => {}
        () = nobody => unreachable!(),
    }
    assert!(questions.given.all().is_empty());
}

#[tokio::test]
async fn what_has_failed_may_be_done_by_the_process_that_comes_next() {
    let questions = Questions::default();
    let ended = |step: Step| {
        request::What::Flight(proto::v1::Flight {
            step: step.into(),
            ..proto::v1::Flight::default()
        })
    };
    let (failed, done) = ([7; 32], [8; 32]);
    let numbers = [failed, done].map(|key| questions.given.begins(&key));
    assert_eq!(questions.given.spent().len(), 2);
    let abandoned = questions.land(&failed, numbers[0], ended(Step::Abandon));
    let landed = questions.land(&done, numbers[1], ended(Step::Land));
    assert!(abandoned.is_some() && landed.is_some());
    // No control plane has heard either yet.
    assert_eq!(questions.given.all().len(), 2);
    assert_eq!(questions.given.spent(), [&done[..]]);
    // What the process before this one had done is not done by the next either.
    questions.given.are_of_another(&[[9; 32]]);
    assert_eq!(questions.given.spent(), [&done[..], &[9; 32][..]]);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_flight_is_not_that_of_the_next_of_its_name() {
    let questions = Questions::default();
    let key = [7; 32];
    for is_heard in [true, false] {
        let first = questions.given.begins(&key);
        let landing = questions.land(&key, first, join()).unwrap();
        let told = questions.next().await.unwrap();
        // It has been given up; another core wants it done, and is given it before that is known to be heard.
        let number = questions.given.begins(&key);
        if is_heard {
            told.answer(answer::What::Echo(true));
        } else {
            drop(told);
            questions.begin_stream();
        }
        questions.landed(landing).await;
        // Nor does what ends later than that.
        assert!(questions.land(&key, first, join()).is_none());
        assert_eq!(questions.given.all(), [&key[..]], "{is_heard}");
        let next = tokio::time::timeout(PROMPT, questions.next()).await;
        assert!(next.is_err(), "{is_heard}");
        questions.given.ends(&key, number);
        assert!(questions.given.all().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_result_is_told_to_control_planes_that_start_for_as_long_as_it_serves() {
    let questions = Questions::default();
    let key = [7; 32];
    let number = questions.given.begins(&key);
    let result = request::What::Flight(proto::v1::Flight {
        step: Step::Land.into(),
        result: vec![7; 2_000].into(),
        ..proto::v1::Flight::default()
    });
    let landing = questions.land(&key, number, result.clone()).unwrap();
    let control_planes = async {
        for _ in 0..3 {
            let told = questions.next().await.unwrap();
            assert_eq!(told.what, result);
            told.answer(answer::What::Echo(true));
            tokio::time::sleep(PROMPT).await;
            // The first word of this process names it to the next one.
            assert_eq!(questions.given.all(), [&key[..]]);
            questions.begin_stream();
        }
        questions
            .next()
            .await
            .unwrap()
            .answer(answer::What::Echo(true));
        tokio::time::sleep(KEPT).await;
        questions.begin_stream();
        let next = tokio::time::timeout(PROMPT, questions.next()).await;
        assert!(next.is_err());
    };
    tokio::join!(questions.landed(landing), control_planes);
    assert!(questions.given.all().is_empty());
    assert_eq!(questions.unheard.available_permits(), UNHEARD);
}

/// A result of so many KiB.
fn result(kib: usize) -> request::What {
    request::What::Flight(proto::v1::Flight {
        step: Step::Land.into(),
        result: vec![7; kib * 1024 - 1].into(),
        ..proto::v1::Flight::default()
    })
}

#[tokio::test(start_paused = true)]
async fn of_many_results_the_newest_are_kept_for_control_planes_that_start() {
    // Too many of them, and too much of them.
    for (count, kib, left) in [(300_u16, 1, LANDED), (40, 512, 16)] {
        let questions = Questions::default();
        let landings: Vec<_> = (0..count)
            .map(|key| {
                let key = key.to_be_bytes();
                let number = questions.given.begins(&key);
                questions.land(&key, number, result(kib)).unwrap()
            })
            .collect();
        let control_planes = async {
            for _ in 0..count {
                let told = questions.next().await.unwrap();
                told.answer(answer::What::Echo(true));
                tokio::time::sleep(AGAIN).await;
            }
            let mut all = questions.given.all();
            all.sort();
            let oldest = count - u16::try_from(left).unwrap();
            let newest: Vec<_> = (oldest..count)
                .map(|key| Bytes::copy_from_slice(&key.to_be_bytes()))
                .collect();
            assert_eq!(all, newest);
            // And only they are told again.
            questions.begin_stream();
            let mut again = 0;
            while let Ok(told) = tokio::time::timeout(PROMPT, questions.next()).await {
                told.unwrap().answer(answer::What::Echo(true));
                again += 1;
            }
            assert_eq!(again, left);
        };
        let landed = landings.into_iter().map(|one| questions.landed(one));
        tokio::join!(futures::future::join_all(landed), control_planes);
        assert!(questions.given.all().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn what_no_control_plane_has_heard_is_told_though_nothing_of_it_can_be_kept() {
    let questions = Questions::default();
    let key = [7; 32];
    // More than are known by a number.
    for other in 0..2_000_u16 {
        questions.given.begins(&other.to_be_bytes());
    }
    let number = questions.given.begins(&key);
    assert_eq!(questions.given.number(&key), Number::default());
    let landing = questions.land(&key, number, result(1)).unwrap();
    // As much waits as may be kept, and more.
    let many: Vec<_> = (0..20_u16)
        .map(|key| {
            let key = key.to_be_bytes();
            let number = questions.given.number(&key);
            questions.land(&key, number, result(512)).unwrap()
        })
        .collect();
    let control_planes = async {
        for is_there in [false, true] {
            for _ in 0..21 {
                let told = questions.next().await.unwrap();
                if is_there {
                    told.answer(answer::What::Echo(true));
                }
            }
            questions.begin_stream();
        }
    };
    let landed = many.into_iter().map(|one| questions.landed(one));
    let landed =
        async { tokio::join!(questions.landed(landing), futures::future::join_all(landed)) };
    let both = async { tokio::join!(landed, control_planes) };
    // Each is heard; what is kept is told a third time, for which nobody is there.
    let nobody = async {
        both.await;
    };
    assert!(tokio::time::timeout(KEPT * 2, nobody).await.is_ok());
    assert_eq!(questions.unheard.available_permits(), UNHEARD);
}

#[tokio::test(start_paused = true)]
async fn results_that_are_told_again_leave_room_on_the_stream() {
    let questions = Questions::default();
    let result = || {
        request::What::Flight(proto::v1::Flight {
            step: Step::Land.into(),
            ..proto::v1::Flight::default()
        })
    };
    let landings: Vec<_> = (0..200_u8)
        .map(|key| {
            let number = questions.given.begins(&[key]);
            questions.land(&[key], number, result()).unwrap()
        })
        .collect();
    let control_planes = async {
        for _ in 0..200 {
            questions
                .next()
                .await
                .unwrap()
                .answer(answer::What::Echo(true));
        }
        tokio::time::sleep(PROMPT).await;
        questions.begin_stream();
        let mut waiting = Vec::new();
        while let Ok(told) = tokio::time::timeout(PROMPT, questions.next()).await {
            waiting.push(told.unwrap());
        }
        assert_eq!(waiting.len(), TOLD_AGAIN);
        for told in waiting {
            told.answer(answer::What::Echo(true));
        }
        for _ in TOLD_AGAIN..200 {
            questions
                .next()
                .await
                .unwrap()
                .answer(answer::What::Echo(true));
        }
    };
    let telling = landings
        .into_iter()
        .map(|landing| questions.landed(landing));
    tokio::join!(futures::future::join_all(telling), control_planes);
}

#[tokio::test(start_paused = true)]
async fn long_questions_leave_room_for_others() {
    let questions = Questions::default();
    let long = (0..100).map(|_| questions.ask_at_length(join(), LIMIT));
    let asking = async {
        tokio::join!(futures::future::join_all(long), async {
            questions.tell(join());
        })
    };
    let (answers, ()) = asking.await;
    assert!(answers.iter().all(Result::is_err));
    let mut asked = 0;
    while let Ok(Some(_)) = tokio::time::timeout(PROMPT, questions.next()).await {
        asked += 1;
    }
    assert_eq!(asked, LENGTHY + 1);
    // Their turn is over with their time.
    let (_, heard) = tokio::join!(questions.ask_at_length(join(), LIMIT), questions.next());
    assert!(heard.is_some());
}

#[tokio::test(start_paused = true)]
async fn nobody_is_waited_for_who_does_not_answer_at_all() {
    let questions = Questions::default();
    let begin = tokio::time::Instant::now();
    let asked = questions.ask_patiently(join(), LIMIT, || false);
    assert_eq!(asked.await, Err(Unanswered::Silent));
    assert!(begin.elapsed() < LIMIT / 2);
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_is_on_its_way_back_is_waited_for() {
    for back in [PROMPT * 3, PROMPT * 7 / 4] {
        let questions = Questions::default();
        let is_back = Cell::new(false);
        let asked = questions.ask_patiently(join(), LIMIT, || !is_back.get());
        let control_plane = async {
            tokio::time::sleep(back).await;
            is_back.set(true);
            questions.begin_stream();
            // As long as a busy one takes: the time of an echo ends meanwhile that was asked before.
            tokio::time::sleep(PROMPT / 2).await;
            let question = questions.next().await.unwrap();
            question.answer(answer::What::Yours(true));
        };
        let (answer, ()) = tokio::join!(asked, control_plane);
        assert_eq!(answer, Ok(answer::What::Yours(true)), "{back:?}");
    }
}
