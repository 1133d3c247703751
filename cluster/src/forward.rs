//! Commands of this member's clients on their way to the leader: what waits goes as one request.
//!
//! A request of its own for each command costs the leader as much as serving a client does. While
//! a few requests are under way, commands that come wait and go together; one that comes alone
//! goes at once.
//!
//! Invariants
//! - a command is in at most one request, and each gets an answer of its own;
//! - a command whose proposer has given up before it went does not go;
//! - a request to a leader that was replaced does not hold up those behind it.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use crate::convert::{propose_error, propose_failure};
use crate::group::ProposeError;
use crate::member::{Member, millis};
use crate::proto;
use crate::transport::{MESSAGE_BYTES_MAX, never_arrived};

/// Requests under way at most. Each waits for a sync of a majority; with one more under way than
/// syncs at a time (the leader's and a follower's), nobody waits for a sync that helps him nothing.
const REQUESTS_MAX: usize = 4;
/// Commands in a request at most.
pub(crate) const COMMANDS_MAX: usize = 1024;
/// Bytes after which nothing is added to a request.
const BYTES_ENOUGH: usize = 1 << 20;
/// Bytes of the replies in one answer at most; the rest of the message is for what frames them.
const REPLY_BYTES_MAX: usize = MESSAGE_BYTES_MAX - (1 << 20);
/// A leader that was replaced may still answer what it had committed; so long is waited for that.
const REPLACED: Duration = Duration::from_millis(200);

/// What became of a command.
pub(crate) type Proposed = Result<Bytes, ProposeError>;

/// A command that waits to be forwarded.
pub(crate) struct Waiting {
    /// The command.
    pub command: Bytes,
    /// Who wants to know.
    pub answer: oneshot::Sender<Proposed>,
}

/// The commands of the next request: `first`, and what else waits.
fn together(first: Waiting, mut next: impl FnMut() -> Option<Waiting>) -> Vec<Waiting> {
    let mut bytes = first.command.len();
    let mut batch = vec![first];
    while batch.len() < COMMANDS_MAX && bytes < BYTES_ENOUGH {
        let Some(waiting) = next() else { break };
        bytes += waiting.command.len();
        batch.push(waiting);
    }
    batch.retain(|waiting| !waiting.answer.is_closed());
    batch
}

/// What the answer says of each of `count` commands; what it does not speak of is not known.
fn results_of(answer: proto::ProposeResponse, count: usize) -> Vec<Proposed> {
    use proto::proposed::Result as Wire;
    let results = answer.results.into_iter().map(|one| match one.result {
        Some(Wire::Reply(reply)) => Ok(reply),
        Some(Wire::Failure(failure)) => Err(propose_error(&failure)),
        None => Err(ProposeError::LeaderChanged),
    });
    let missing = std::iter::repeat_with(|| Err(ProposeError::LeaderChanged));
    results.chain(missing).take(count).collect()
}

/// The answer to a request: what became of each of its commands. A reply that would make the answer
/// too long for a message is left out, so that only its own proposer does not know.
pub(crate) fn answer(results: impl IntoIterator<Item = Proposed>) -> proto::ProposeResponse {
    use proto::proposed::Result as Wire;
    let mut room = REPLY_BYTES_MAX;
    let results = results.into_iter().map(|result| {
        let result = match result {
            Ok(reply) if reply.len() > room => None,
            Ok(reply) => {
                room -= reply.len();
                Some(Wire::Reply(reply))
            }
            Err(error) => Some(Wire::Failure(propose_failure(&error))),
        };
        proto::Proposed { result }
    });
    proto::ProposeResponse {
        results: results.collect(),
    }
}

/// What is known of commands whose request failed.
fn failed(status: &Status) -> ProposeError {
    if never_arrived(status) {
        ProposeError::NoLeader
    } else {
        ProposeError::LeaderChanged
    }
}

impl Member {
    /// Forwards what waits for as long as the member runs.
    pub(crate) async fn run_forward(self, mut waiting: mpsc::Receiver<Waiting>) {
        let mut under_way = FuturesUnordered::new();
        loop {
            tokio::select! {
                Some(()) = under_way.next() => {}
                first = waiting.recv(), if under_way.len() < REQUESTS_MAX => {
                    let Some(first) = first else { return };
                    let batch = together(first, || waiting.try_recv().ok());
                    under_way.push(self.forward_batch(batch));
                }
            }
        }
    }

    async fn forward_batch(&self, batch: Vec<Waiting>) {
        let (commands, answers): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .map(|waiting| (waiting.command, waiting.answer))
            .unzip();
        if commands.is_empty() {
            return;
        }
        let results = self.forwarded(commands).await;
        for (answer, result) in answers.into_iter().zip(results) {
            // A proposer that has given up does not listen.
            let _ = answer.send(result);
        }
    }

    async fn forwarded(&self, commands: Vec<Bytes>) -> Vec<Proposed> {
        let count = commands.len();
        let all = |error: ProposeError| vec![Err(error); count];
        if self.leads() {
            // Since these were handed over.
            let proposals = commands
                .into_iter()
                .map(|command| self.propose_counted(command));
            return join_all(proposals).await;
        }
        let Some((to, mut client)) = self.leader_client() else {
            return all(ProposeError::NoLeader);
        };
        let request = proto::ProposeRequest { commands };
        let request = self.identity().request(to, request);
        let limit = self.inner.limits.request_timeout;
        tokio::select! {
            answer = tokio::time::timeout(limit, client.propose(request)) => match answer {
                Err(_) => all(ProposeError::Timeout { waited_ms: millis(limit) }),
                Ok(Err(status)) => all(failed(&status)),
                Ok(Ok(answer)) => results_of(answer.into_inner(), count),
            },
            () = self.replaced(to) => all(ProposeError::LeaderChanged),
        }
    }

    /// Returns when another member than `former` has led for a while, or this member has ended.
    async fn replaced(&self, former: u64) {
        self.led_by_another(former).await;
        tokio::time::sleep(REPLACED).await;
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    fn waiting(bytes: usize) -> (Waiting, oneshot::Receiver<Proposed>) {
        let (answer, answered) = oneshot::channel();
        let command = Bytes::from(vec![7; bytes]);
        (Waiting { command, answer }, answered)
    }

    /// How many of `count` commands of so many bytes go with the first of them.
    fn taken(count: usize, bytes: usize) -> usize {
        let (mut all, _answered): (Vec<_>, Vec<_>) = (0..count).map(|_| waiting(bytes)).unzip();
        let first = all.pop().expect("there is one");
        together(first, || all.pop()).len()
    }

    #[test]
    fn what_waits_goes_together_up_to_the_limits() {
        assert_eq!(taken(1, 100), 1);
        assert_eq!(taken(50, 100), 50);
        assert_eq!(taken(3000, 10), COMMANDS_MAX);
        assert_eq!(taken(50, 300 << 10), 4, "1.2 MB");
        assert_eq!(taken(50, 20 << 20), 1);
    }

    #[test]
    fn command_of_a_proposer_that_gave_up_does_not_go() {
        let (first, answered) = waiting(1);
        let (second, _listens) = waiting(2);
        drop(answered);
        let mut rest = vec![second];
        let batch = together(first, || rest.pop());
        let bytes: Vec<_> = batch.iter().map(|one| one.command.len()).collect();
        assert_eq!(bytes, [2]);
    }

    #[test]
    fn commands_without_an_answer_of_their_own_may_have_been_executed() {
        use proto::proposed::Result as Wire;
        let reply = |result| proto::Proposed { result };
        let answer = proto::ProposeResponse {
            results: vec![
                reply(Some(Wire::Reply(Bytes::from_static(b"done")))),
                reply(None),
            ],
        };
        let unknown = || Err(ProposeError::LeaderChanged);
        assert_eq!(
            results_of(answer.clone(), 3),
            [Ok(Bytes::from_static(b"done")), unknown(), unknown()]
        );
        assert_eq!(results_of(answer, 1).len(), 1, "more than was asked for");
    }
    #[test]
    fn reply_too_long_for_the_answer_is_unknown_to_its_proposer_alone() {
        let reply = |bytes: usize| Ok(Bytes::from(vec![1; bytes]));
        let answer = answer([reply(10), reply(MESSAGE_BYTES_MAX), reply(20)]);
        assert!(answer.encoded_len() < MESSAGE_BYTES_MAX);
        let unknown = Err(ProposeError::LeaderChanged);
        assert_eq!(results_of(answer, 3), [reply(10), unknown, reply(20)]);
    }
}
