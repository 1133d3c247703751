//! Questions to the group, with an eye on the clock.
//!
//! Why so: the client library waits for a silent member as long as the request may take, and the
//! answers of a lease are due long before. So there is one client for each endpoint to begin with;
//! one that is silent is left for the next. Everything that is asked here may be asked again.

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cfgsvc_client::{CallError, Client, Options, OptionsError, Refusal};

/// Longest time for one attempt, and for a connection.
pub(crate) const ATTEMPT_MAX: Duration = Duration::from_secs(2);

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

    /// Asks once; silence for `limit` is an answer too.
    pub(crate) async fn ask<T, A>(
        &self,
        limit: Duration,
        question: impl FnOnce(Client) -> A,
    ) -> Result<T, AskError>
    where
        A: Future<Output = Result<T, CallError>>,
    {
        let at = self.at();
        let asked = pin!(question(self.client()));
        self.hear(at, limit, asked).await
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn silent_member_is_left_for_the_next_and_its_answer_still_counts() {
        let endpoints = ["192.0.2.1:2379", "192.0.2.2:2379"].map(str::to_owned);
        let group = Group::new(&endpoints, "a test").expect("a group");
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
