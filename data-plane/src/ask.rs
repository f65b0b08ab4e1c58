//! What this node asks of its control plane, from any core: one message there, one back.

mod given;

use std::pin::pin;
use std::time::Duration;

use proto::v1::{answer, request};
use shared::clock::monotonic;
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};

use self::given::Given;
use crate::contact::Contact;

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
    /// Who waits for an answer; nobody, if something is only told.
    pub(crate) answer: Option<oneshot::Sender<answer::What>>,
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
        let asked = Asked {
            what,
            answer: Some(answer),
        };
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
    /// plane does not answer at all, as one that is frozen.
    pub(crate) async fn ask_patiently(
        &self,
        what: request::What,
        limit: Duration,
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
                heard = self.ask(request::What::Echo(true), PROMPT) => {
                    heard?;
                }
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

    /// Sends `what` without waiting for an answer; whether it is on its way.
    pub(crate) fn tell(&self, what: request::What) -> bool {
        let told = Asked { what, answer: None };
        self.sender.try_send(told).is_ok()
    }

    /// Tells how the flight `key` has `ended`, which this process has done; whether that is on its way.
    pub(crate) fn land(&self, key: &[u8], ended: request::What) -> bool {
        let is_told = self.tell(ended);
        if !is_told {
            self.given.ends(key);
        }
        is_told
    }

    /// Waits until it is known that what `land` tells has arrived, and tells it again to whoever takes the place of a control
    /// plane that has gone away before.
    pub(crate) async fn landed(&self, key: &[u8], ended: request::What, contact: &Contact) {
        // Answers come in the order of what is asked: by the next one it has arrived.
        while self.ask(request::What::Echo(true), ARRIVED).await == Err(Unanswered::Cut)
            && contact.is_there(monotonic())
        {
            tokio::time::sleep(AGAIN).await;
            if !self.tell(ended.clone()) {
                break;
            }
        }
        self.given.ends(key);
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
        let asked = questions.ask_patiently(join(), LIMIT);
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
                        let Asked { what, answer } = echo.unwrap();
                        assert_eq!(what, request::What::Echo(true));
                        let answer = answer.unwrap();
                        answer.send(answer::What::Refused("unknown".to_owned())).unwrap();
                    }
                }
            }
            question
                .answer
                .unwrap()
                .send(answer::What::Yours(true))
                .unwrap();
            echoes
        };
        let (answer, echoes) = tokio::join!(asked, control_plane);
        assert_eq!(answer, Ok(answer::What::Yours(true)));
        assert!(echoes > 1);
    }

    #[tokio::test(start_paused = true)]
    async fn how_a_flight_ended_is_told_until_somebody_has_heard_it() {
        let started = monotonic().checked_sub(Duration::from_mins(1)).unwrap();
        let (questions, contact) = (Questions::default(), Contact::new(started));
        contact.connects(true, monotonic());
        let key = [7; 32];
        let land = || request::What::Flight(proto::v1::Flight::default());
        questions.given.begins(&key);
        assert!(questions.land(&key, land()));
        let control_planes = async {
            for is_gone in [true, true, false] {
                assert_eq!(questions.next().await.unwrap().what, land());
                let Asked { what, answer } = questions.next().await.unwrap();
                assert_eq!(what, request::What::Echo(true));
                // Until somebody has heard it, it is this process's.
                assert_eq!(questions.given.all(), [&key[..]]);
                if !is_gone {
                    answer.unwrap().send(answer::What::Echo(true)).unwrap();
                }
            }
        };
        tokio::join!(questions.landed(&key, land(), &contact), control_planes);
        assert!(questions.given.all().is_empty());
        // Where there is nobody, nobody is waited for.
        contact.connects(false, started);
        questions.given.begins(&key);
        assert!(questions.land(&key, land()));
        let nobody = async {
            for _ in 0..2 {
                questions.next().await;
            }
        };
        tokio::join!(questions.landed(&key, land(), &contact), nobody);
        assert!(questions.given.all().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn long_questions_leave_room_for_others() {
        let questions = Questions::default();
        let long = (0..100).map(|_| questions.ask_at_length(join(), LIMIT));
        let asking = async {
            tokio::join!(futures::future::join_all(long), async {
                questions.tell(join())
            })
        };
        let (answers, told) = asking.await;
        assert!(told && answers.iter().all(Result::is_err));
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
        let unanswered = questions.ask_patiently(join(), LIMIT).await;
        assert_eq!(unanswered, Err(Unanswered::Silent));
        assert!(begin.elapsed() < LIMIT / 2);
    }
}
