//! Questions to the group, with an eye on the clock.
//!
//! Why so: the answers of a lease are due long before the client library gives a silent member up,
//! and when it asks the next one, what the first answers is lost. Where each answer takes longer
//! than that (a group whose disks are slow, a link that loses packets), none would ever count, and
//! no host could take part, begin or give up. So there is one client for each endpoint to begin
//! with: one that is silent is left for the next, and what it was asked stays open.
//!
//! Everything that is asked here may be asked again: a step has the same number wherever it is
//! sent, and is taken once.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use cfgsvc_client::{CallError, Client, Options, OptionsError, Refusal};

/// Longest time for one attempt, and for a connection.
pub(crate) const ATTEMPT_MAX: Duration = Duration::from_secs(2);

/// Who has been silent for so long is left for the next: each of three has its turn.
const SILENCE: Duration = Duration::from_millis(650);

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum AskError {
    /// What the client library says.
    Call(CallError),
    /// Silence.
    Late(Duration),
}

impl AskError {
    /// The group has said no: asking again soon will not help.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Call(CallError::Refused { .. }))
    }

    /// Which no it was, if it is a known one.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Call(error) => error.refusal(),
            Self::Late(_) => None,
        }
    }
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(error) => error.fmt(f),
            Self::Late(limit) => write!(f, "no answer within {} ms", limit.as_millis()),
        }
    }
}

/// The group, as this agent reaches it.
#[derive(Debug)]
pub(crate) struct Group {
    /// Each begins with another endpoint.
    clients: Vec<Client>,
    at: AtomicUsize,
}

impl Group {
    pub(crate) fn new(endpoints: &[String], author: &str) -> Result<Self, OptionsError> {
        let clients = (0..endpoints.len().max(1)).map(|first| {
            let (before, from) = endpoints.split_at(first.min(endpoints.len()));
            let mut options = Options::new(from.iter().chain(before).cloned());
            options.connect_timeout = ATTEMPT_MAX / 2;
            options.request_timeout = ATTEMPT_MAX;
            options.attempt_timeout = Some(ATTEMPT_MAX);
            options.author = Some(author.to_owned());
            Client::new(options)
        });
        Ok(Self {
            clients: clients.collect::<Result<_, _>>()?,
            at: AtomicUsize::new(0),
        })
    }

    /// Which client is asked now; another one after silence.
    pub(crate) fn at(&self) -> usize {
        self.at.load(Ordering::Relaxed)
    }

    pub(crate) fn client(&self) -> Client {
        // There is one at least, and the remainder is below their number.
        self.clients[self.at() % self.clients.len()].clone()
    }

    /// Asks, after silence also the next members; the first answer counts, whosever it is. Silence
    /// for `limit` is an answer too.
    pub(crate) async fn ask<T, A>(
        &self,
        limit: Duration,
        question: impl Fn(Client) -> A,
    ) -> Result<T, AskError>
    where
        A: Future<Output = Result<T, CallError>>,
    {
        let limit = limit.min(ATTEMPT_MAX);
        let answer = tokio::time::timeout(limit, self.first(question)).await;
        answer.map_or_else(
            |_| {
                self.leave(self.at());
                Err(AskError::Late(limit))
            },
            |answer| answer.map_err(AskError::Call),
        )
    }

    /// The first answer; who is silent is left for the next, and may still answer.
    async fn first<T, A>(&self, question: impl Fn(Client) -> A) -> Result<T, CallError>
    where
        A: Future<Output = Result<T, CallError>>,
    {
        let (mut open, mut asked) = (Vec::new(), 0);
        loop {
            let at = self.at();
            if asked < self.clients.len() {
                open.push(Box::pin(question(self.client())));
                asked += 1;
            }
            // Nobody is left to ask: the caller's limit ends it.
            let is_last = asked == self.clients.len();
            let wait = if is_last { ATTEMPT_MAX } else { SILENCE };
            let heard = tokio::time::timeout(wait, answer(&mut open)).await;
            if let Err(_) | Ok(Err(CallError::TimedOut { .. })) = heard {
                self.leave(at);
            }
            if let Ok(answer) = heard {
                return answer;
            }
        }
    }

    /// Waits for the answer of the client that was [`Group::at`]. After silence another one is
    /// asked from then on; what was asked here may still be answered, to whoever goes on waiting.
    pub(crate) async fn hear<T, A>(
        &self,
        at: usize,
        limit: Duration,
        asked: Pin<&mut A>,
    ) -> Result<T, AskError>
    where
        A: Future<Output = Result<T, CallError>>,
    {
        let limit = limit.min(ATTEMPT_MAX);
        match tokio::time::timeout(limit, asked).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                if let CallError::TimedOut { .. } = error {
                    self.leave(at);
                }
                Err(AskError::Call(error))
            }
            Err(_) => {
                self.leave(at);
                Err(AskError::Late(limit))
            }
        }
    }

    /// Takes the next client, if that was not done meanwhile.
    fn leave(&self, at: usize) {
        let _ =
            self.at
                .compare_exchange(at, at.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// The first answer to one of these; a failure is one only when no other may answer any more.
async fn answer<T, A>(open: &mut Vec<Pin<Box<A>>>) -> Result<T, CallError>
where
    A: Future<Output = Result<T, CallError>>,
{
    poll_fn(|context| {
        let mut at = 0;
        while let Some(one) = open.get_mut(at) {
            let Poll::Ready(answer) = one.as_mut().poll(context) else {
                at += 1;
                continue;
            };
            drop(open.swap_remove(at));
            if open.is_empty() || matches!(answer, Ok(_) | Err(CallError::Refused { .. })) {
                return Poll::Ready(answer);
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::pin::pin;

    use super::*;

    fn group_of_two() -> Group {
        let endpoints = ["192.0.2.1:2379", "192.0.2.2:2379"].map(str::to_owned);
        Group::new(&endpoints, "a test").expect("a group")
    }

    /// Where each answer takes longer than that, none would ever count.
    #[tokio::test]
    async fn answer_counts_that_comes_after_the_next_was_asked_and_has_failed() {
        let (group, asked) = (group_of_two(), Cell::new(0));
        let next = tokio::sync::Notify::new();
        let heard = group.ask(ATTEMPT_MAX, |_| {
            let (number, next) = (asked.replace(asked.get() + 1), &next);
            async move {
                if number == 0 {
                    next.notified().await;
                    return Ok("late");
                }
                next.notify_one();
                Err(CallError::Malformed { what: "a failure" })
            }
        });
        assert_eq!(heard.await.ok(), Some("late"));
        assert_eq!((asked.get(), group.at()), (2, 1));
    }

    #[tokio::test]
    async fn silence_of_all_is_an_answer() {
        let (group, asked) = (group_of_two(), Cell::new(0));
        let heard = group.ask(SILENCE * 2, |_| {
            asked.set(asked.get() + 1);
            std::future::pending::<Result<(), CallError>>()
        });
        assert!(matches!(heard.await, Err(AskError::Late(_))));
        assert_eq!(asked.get(), 2, "each once");
    }

    #[tokio::test]
    async fn silent_member_is_left_for_the_next_and_its_answer_still_counts() {
        let group = group_of_two();
        let at = group.at();
        let (answers, answer) = tokio::sync::oneshot::channel();
        let mut asked = pin!(async { Ok(answer.await.expect("an answer")) });
        let limit = Duration::from_millis(10);
        let heard = group.hear(at, limit, asked.as_mut()).await;
        assert!(matches!(heard, Err(AskError::Late(_))), "{heard:?}");
        assert_eq!(group.at(), at + 1, "the next is asked from now on");
        answers.send("late").expect("somebody waits for it");
        assert_eq!(asked.await.ok(), Some("late"));
    }
}
