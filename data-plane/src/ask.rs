//! What this node asks of its control plane, from any core: one message there, one back.

mod given;

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use plugins::host::Number;
use proto::v1::flight::Step;
use proto::v1::{answer, request};
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot, watch};

pub(crate) use self::given::Given;

/// How long an answer may take that needs no work.
const PROMPT: Duration = Duration::from_secs(1);

/// Questions that may wait for the stream.
const WAITING: usize = 1024;

/// Long questions that are on their way at once: they keep the others, and the connection, waiting.
const LENGTHY: usize = 16;

/// How long it may take until it is known that what was told has arrived.
const ARRIVED: Duration = Duration::from_secs(30);

/// Between two questions that no stream has taken.
pub(crate) const AGAIN: Duration = Duration::from_millis(20);

/// How long it is told to control planes that start how a flight ended: they keep it for as long.
const KEPT: Duration = Duration::from_mins(1);

/// KiB of results that are kept for that.
const ROOM: usize = 8 * 1024;

/// Results that are told again at once.
const TOLD_AGAIN: usize = 16;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Unanswered {
    /// There is no stream, or it has ended.
    Cut,
    /// The control plane says nothing.
    Silent,
}

/// A question on its way.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) what: request::What,
    pub(crate) wanted: Wanted,
}

/// What is wanted of a question besides that it is sent.
#[derive(Debug)]
pub(crate) enum Wanted {
    /// Nothing: something is only told.
    Nothing,
    /// Its answer.
    Answer(oneshot::Sender<answer::What>),
    /// Any answer to what is asked behind it, by the same stream: by that it has arrived.
    Arrival(oneshot::Sender<answer::What>),
}

#[cfg(test)]
impl Asked {
    /// Answers whoever waits for that.
    pub(crate) fn answer(self, answer: answer::What) {
        match self.wanted {
            Wanted::Answer(waiting) | Wanted::Arrival(waiting) => waiting.send(answer).unwrap(),
            Wanted::Nothing => panic!("nobody waits: {:?}", self.what),
        }
    }
}

/// How a flight ended, on its way.
#[derive(Debug)]
pub(crate) struct Landing {
    key: Bytes,
    number: Number,
    ended: request::What,
    arrived: oneshot::Receiver<answer::What>,
    /// Sees the streams that begin since.
    streams: watch::Receiver<u64>,
}

/// Both ends of the way to config sync.
#[derive(Debug)]
pub(crate) struct Questions {
    sender: mpsc::Sender<Asked>,
    receiver: Mutex<mpsc::Receiver<Asked>>,
    lengthy: Semaphore,
    room: Semaphore,
    telling_again: Semaphore,
    /// How many streams have begun.
    streams: watch::Sender<u64>,
    /// The flights that this process does.
    pub(crate) given: Given,
}

impl Default for Questions {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        Self {
            sender,
            receiver: Mutex::new(receiver),
            lengthy: Semaphore::new(LENGTHY),
            room: Semaphore::new(ROOM),
            telling_again: Semaphore::new(TOLD_AGAIN),
            streams: watch::Sender::new(0),
            given: Given::default(),
        }
    }
}

impl Questions {
    /// The answer to `what`, if a control plane gives one within `limit`.
    async fn ask(&self, what: request::What, limit: Duration) -> Result<answer::What, Unanswered> {
        let (answer, answered) = oneshot::channel();
        let wanted = Wanted::Answer(answer);
        let asked = Asked { what, wanted };
        // With a full queue the control plane is as good as gone.
        self.sender
            .try_send(asked)
            .map_err(|_| Unanswered::Silent)?;
        let answered = tokio::time::timeout(limit, answered).await;
        answered
            .map_err(|_| Unanswered::Silent)?
            .map_err(|_| Unanswered::Cut)
    }

    /// The answer to `what`, which may wait for others' work and so take up to `limit`; none as soon as the control
    /// plane does not answer at all, as one that is frozen, unless one `is_expected` back.
    pub(crate) async fn ask_patiently(
        &self,
        what: request::What,
        limit: Duration,
        is_expected: impl Fn() -> bool,
    ) -> Result<answer::What, Unanswered> {
        let mut answered = pin!(self.ask(what, limit));
        let streams = self.streams.subscribe();
        loop {
            let streams = || *streams.borrow();
            let before = streams();
            tokio::select! {
                biased;
                answer = &mut answered => return answer,
                () = tokio::time::sleep(PROMPT) => {}
            }
            tokio::select! {
                biased;
                answer = &mut answered => return answer,
                // One that knows no echo says so, at once as well.
                heard = self.ask(request::What::Echo(true), PROMPT) => match heard {
                    // It may have waited for a stream, which had hardly begun.
                    Err(Unanswered::Silent) if is_expected() || streams() != before => {}
                    heard => _ = heard?,
                },
            }
        }
    }

    /// Whether a control plane answers.
    pub(crate) async fn is_answered(&self) -> bool {
        self.ask(request::What::Echo(true), PROMPT).await.is_ok()
    }

    /// A stream has begun.
    pub(crate) fn begin_stream(&self) {
        self.streams.send_modify(|streams| *streams += 1);
    }

    /// The answer to `what`, which is long; none as well where many of these are on their way.
    pub(crate) async fn ask_at_length(
        &self,
        what: request::What,
        limit: Duration,
    ) -> Result<answer::What, Unanswered> {
        let turn = self.lengthy.try_acquire();
        let _turn = turn.map_err(|_| Unanswered::Silent)?;
        self.ask(what, limit).await
    }

    /// Sends `what` without waiting for an answer.
    pub(crate) fn tell(&self, what: request::What) {
        let wanted = Wanted::Nothing;
        // With a full queue there is nobody to tell.
        _ = self.sender.try_send(Asked { what, wanted });
    }

    /// Sends `what`, and tells when it has arrived; nothing if it is not on its way.
    fn deliver(&self, what: request::What) -> Option<oneshot::Receiver<answer::What>> {
        let (answer, arrived) = oneshot::channel();
        let wanted = Wanted::Arrival(answer);
        self.sender.try_send(Asked { what, wanted }).ok()?;
        Some(arrived)
    }

    /// Tells how the flight `key` has `ended`, which this process began as `number`; nothing if nobody can be told, or if it was
    /// given up and has begun anew: the end of that one is another.
    pub(crate) fn land(&self, key: &[u8], number: Number, ended: request::What) -> Option<Landing> {
        if self.given.number(key) != number {
            return None;
        }
        let streams = self.streams.subscribe();
        let Some(arrived) = self.deliver(ended.clone()) else {
            self.given.ends(key, number);
            return None;
        };
        Some(Landing {
            key: Bytes::copy_from_slice(key),
            number,
            ended,
            arrived,
            streams,
        })
    }

    /// Tells what `land` tells to each stream that begins, until it is known that it has arrived; a result also after that, for
    /// as long as it serves: a control plane that starts knows of none.
    pub(crate) async fn landed(&self, landing: Landing) {
        let Landing {
            key,
            number,
            ended,
            mut arrived,
            mut streams,
        } = landing;
        let mut over = pin!(tokio::time::sleep(KEPT));
        let length = length(&ended);
        let is_result = length.is_some();
        let room = length.and_then(|length| self.room.try_acquire_many(length).ok());
        let (mut is_heard, mut is_kept, mut turn) = (false, false, None);
        loop {
            is_heard |= matches!(tokio::time::timeout(ARRIVED, arrived).await, Ok(Ok(_)));
            drop(turn.take());
            if is_heard && !is_kept {
                is_kept = room.is_some() && self.given.lands(&key, number);
                if !is_kept {
                    break;
                }
            }
            // One that has no number is nobody's to whoever starts.
            if number == Number::default() || (is_result && room.is_none()) {
                break;
            }
            tokio::select! {
                biased;
                () = &mut over => break,
                _ = streams.changed() => {}
            }
            // All have something to tell to whoever has just started.
            turn = self.telling_again.acquire().await.ok();
            // The end of this one would be taken for that of the next.
            if self.given.number(&key) != number {
                break;
            }
            match self.deliver(ended.clone()) {
                Some(again) => arrived = again,
                None => break,
            }
        }
        self.given.ends(&key, number);
    }

    /// The next question. For one reader at a time: the stream, or who refuses while there is none.
    pub(crate) async fn next(&self) -> Option<Asked> {
        self.receiver.lock().await.recv().await
    }
}

/// KiB that the result takes which is told; none if it is no result.
fn length(ended: &request::What) -> Option<u32> {
    match ended {
        request::What::Flight(flight) if flight.step() == Step::Land => {
            u32::try_from(flight.result.len() / 1024 + 1).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

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
        assert_eq!(questions.room.available_permits(), ROOM);
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
}
