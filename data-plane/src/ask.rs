//! What this node asks of its control plane, from any core: one message there, one back.

mod given;

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use proto::v1::{answer, request};
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};

pub(crate) use self::given::Given;
use self::given::Number;

/// How long an answer may take that needs no work.
const PROMPT: Duration = Duration::from_secs(1);

/// Questions that may wait for the stream.
const WAITING: usize = 1024;

/// Long questions that are on their way at once: they keep the others, and the connection, waiting.
const LENGTHY: usize = 16;

/// How long it may take until it is known that what was told has arrived.
const ARRIVED: Duration = Duration::from_secs(30);

/// Between two questions that no stream has taken, and the longest such pause of what is told for a while.
pub(crate) const AGAIN: Duration = Duration::from_millis(20);
const SELDOM: Duration = Duration::from_millis(500);

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
    number: Option<Number>,
    ended: request::What,
    arrived: oneshot::Receiver<answer::What>,
}

/// Both ends of the way to config sync.
#[derive(Debug)]
pub(crate) struct Questions {
    sender: mpsc::Sender<Asked>,
    receiver: Mutex<mpsc::Receiver<Asked>>,
    lengthy: Semaphore,
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
        loop {
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
                    Err(Unanswered::Silent) if is_expected() => {}
                    heard => _ = heard?,
                },
            }
        }
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

    /// Tells how the flight `key` has `ended`, which this process has done; nothing if nobody can be told.
    pub(crate) fn land(&self, key: &[u8], ended: request::What) -> Option<Landing> {
        let number = self.given.number(key);
        let Some(arrived) = self.deliver(ended.clone()) else {
            self.given.ends(key, number);
            return None;
        };
        Some(Landing {
            key: Bytes::copy_from_slice(key),
            number,
            ended,
            arrived,
        })
    }

    /// Waits until it is known that what `land` tells has arrived, and tells it again, for a while, to whoever takes the place
    /// of a control plane that has gone away before.
    pub(crate) async fn landed(&self, landing: Landing) {
        let (key, number) = (landing.key, landing.number);
        let mut arrived = landing.arrived;
        let (began, mut pause) = (tokio::time::Instant::now(), AGAIN);
        while matches!(tokio::time::timeout(ARRIVED, arrived).await, Ok(Err(_)))
            && began.elapsed() < ARRIVED
        {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(SELDOM);
            // The end of this one would be taken for that of the next.
            if self.given.number(&key) != number {
                break;
            }
            match self.deliver(landing.ended.clone()) {
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

#[cfg(test)]
mod tests {
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
        questions.given.begins(&key);
        let landing = questions.land(&key, join()).unwrap();
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
                if !is_gone {
                    told.answer(answer::What::Echo(true));
                }
            }
        };
        tokio::join!(questions.landed(landing), control_planes);
        assert!(questions.given.all().is_empty());
        // Where there is nobody for long, nobody is waited for any more.
        questions.given.begins(&key);
        let landing = questions.land(&key, join()).unwrap();
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
            questions.given.begins(&key);
            let landing = questions.land(&key, join()).unwrap();
            let told = questions.next().await.unwrap();
            // It has been given up; another core wants it done, and is given it before that is known to be heard.
            let number = questions.given.begins(&key);
            if is_heard {
                told.answer(answer::What::Echo(true));
            } else {
                drop(told);
            }
            questions.landed(landing).await;
            assert_eq!(questions.given.all(), [&key[..]], "{is_heard}");
            let next = tokio::time::timeout(PROMPT, questions.next()).await;
            assert!(next.is_err(), "{is_heard}");
            questions.given.ends(&key, Some(number));
            assert!(questions.given.all().is_empty());
        }
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
        let questions = Questions::default();
        let asked = questions.ask_patiently(join(), LIMIT, || true);
        let control_plane = async {
            tokio::time::sleep(PROMPT * 3).await;
            let question = questions.next().await.unwrap();
            question.answer(answer::What::Yours(true));
        };
        let (answer, ()) = tokio::join!(asked, control_plane);
        assert_eq!(answer, Ok(answer::What::Yours(true)));
    }
}
