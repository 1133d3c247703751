//! What openraft may see of a replication stream, and when.

#![expect(
    clippy::result_large_err,
    reason = "openraft's error type is what its traits return"
)]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt as _};
use openraft::error::{RPCError, Unreachable};
use openraft::raft::{AppendEntriesRequest, StreamAppendResult};
use openraft::type_config::TypeConfigExt as _;

use crate::network::Acknowledged;
use crate::types::{GroupTypes, LogId};

/// An answer to an append is overdue after this at the earliest. A follower may be held up by one
/// slow sync: it is given longer than a heartbeat.
pub const OVERDUE: Duration = Duration::from_secs(2);

/// What was sent over a replication stream and is not answered yet.
///
/// Why: openraft credits an answer to every request whose entries it covers. One that carries no
/// entry, but only what is committed now, ends where the one before it ends: so an answer that was
/// given to the former, and came late, counts as an answer to the latter, which was sent later. A
/// leader that was cut off takes it for a sign of life of after the cut, and confirms reads
/// although another leader has been elected meanwhile (defect S3).
///
/// ```text
///  openraft ─ pulls requests ─► noted, unless an answer is being handed over ─► member
///  openraft ◄─ handed over: nothing sent later is covered by it ◄─ held back ◄─ answers
/// ```
///
/// It also ends a stream that can never go on: a replication task of openraft that is idle takes up
/// its last order again when an entry is committed, although a snapshot was ordered since, because
/// the entries of the former are purged (defect S4). It would repeat itself until the connection
/// breaks, while the member waits for what follows the snapshot.
///
/// Invariants
/// - between handing an answer over and being asked for the next one, no request is pulled: what
///   openraft has recorded as sent is what is noted here.
/// - an answer is handed over only if it covers no request that is not answered; else the answer
///   to that one tells as much.
#[derive(Debug, Default)]
pub struct Sent(Mutex<Sending>);

#[derive(Debug, Default)]
struct Sending {
    /// Where the entries of each request that is not answered begin and end, in order.
    unanswered: VecDeque<(Option<LogId>, Option<LogId>)>,
    /// Of the leadership that sends: a stream serves one.
    term: u64,
    /// An answer was handed over, and the next one not asked for.
    handing_over: bool,
    /// Who waits to pull a request.
    puller: Option<Waker>,
    /// A request was pulled.
    begun: bool,
    /// What would have to be sent next is purged.
    purged: bool,
}

impl Sending {
    fn note<C: GroupTypes>(&mut self, request: &AppendEntriesRequest<C>) {
        self.term = request.vote.leader_id.term;
        let last = request.entries.last().map(|entry| entry.log_id);
        self.unanswered
            .push_back((request.prev_log_id, last.or(request.prev_log_id)));
    }

    /// Whether this request, not the stream's first, leaves out what follows, which is purged. The
    /// first may be a heartbeat, by itself.
    fn cannot_go_on<C: GroupTypes>(
        &mut self,
        request: &AppendEntriesRequest<C>,
        purged: impl FnOnce() -> Option<LogId>,
    ) -> bool {
        let goes_on = std::mem::replace(&mut self.begun, true);
        self.purged = goes_on && request.entries.is_empty() && request.prev_log_id < purged();
        self.purged
    }

    /// Whether openraft would take an answer that the log is there up to `matching` for one to the
    /// next request, too.
    fn covers_next(&self, matching: Option<LogId>) -> bool {
        let next = self.unanswered.front();
        next.is_some_and(|(prev, last)| matching >= *last || matching > *prev)
    }
}

impl Sent {
    fn lock(&self) -> MutexGuard<'_, Sending> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a request that is answered before the next one is pulled; says whether it is
    /// sent. What the log holds begins after `purged`.
    pub fn note<C: GroupTypes>(
        &self,
        request: &AppendEntriesRequest<C>,
        purged: impl FnOnce() -> Option<LogId>,
    ) -> bool {
        let mut sending = self.lock();
        if sending.cannot_go_on(request, purged) {
            return false;
        }
        sending.unanswered.clear();
        sending.note(request);
        true
    }

    /// Term of the leadership that sent the last request.
    pub fn term(&self) -> u64 {
        self.lock().term
    }

    /// The requests of `input`, each noted as it is pulled, none while an answer is handed over,
    /// and none any more when they leave out what follows, which is purged (up to `purged`).
    pub fn requests<C, S>(
        self: Arc<Self>,
        mut input: S,
        purged: impl Fn() -> Option<LogId> + Send + Unpin + 'static,
    ) -> impl Stream<Item = AppendEntriesRequest<C>> + Send + Unpin + 'static
    where
        C: GroupTypes,
        S: Stream<Item = AppendEntriesRequest<C>> + Send + Unpin + 'static,
    {
        futures_util::stream::poll_fn(move |context| {
            let mut sending = self.lock();
            if sending.handing_over {
                sending.puller = Some(context.waker().clone());
                return Poll::Pending;
            }
            let polled = input.poll_next_unpin(context);
            if let Poll::Ready(Some(request)) = &polled {
                if sending.cannot_go_on(request, &purged) {
                    return Poll::Ready(None);
                }
                sending.note(request);
            }
            polled
        })
    }

    /// The next answer is asked for; says whether a request waits for one.
    fn ask(&self) -> bool {
        let mut sending = self.lock();
        sending.handing_over = false;
        let waiting = !sending.unanswered.is_empty();
        let puller = sending.puller.take();
        drop(sending);
        if let Some(puller) = puller {
            puller.wake();
        }
        waiting
    }

    /// Whether the requests ended because what follows is purged.
    fn purged(&self) -> bool {
        self.lock().purged
    }

    /// A success that was received: whether it is handed over.
    fn hand_over(&self, matching: Option<LogId>) -> bool {
        let mut sending = self.lock();
        sending.unanswered.pop_front();
        sending.handing_over = !sending.covers_next(matching);
        sending.handing_over
    }
}

/// Yields the answers of a replication stream that openraft may see (see [`Sent`]), and an error
/// when one is overdue. Ends with the first that is not a success.
pub fn watch_answers<C, A>(
    answers: A,
    sent: Arc<Sent>,
    overdue: Duration,
    (to, acknowledged): (u64, Arc<Acknowledged>),
) -> BoxStream<'static, A::Item>
where
    C: GroupTypes,
    A: Stream<Item = Result<StreamAppendResult<C>, RPCError<C>>> + Send + Unpin + 'static,
{
    futures_util::stream::unfold(Some(answers), move |answers| {
        let (sent, acknowledged) = (sent.clone(), acknowledged.clone());
        async move {
            let mut answers = answers?;
            loop {
                let waiting = sent.ask();
                match C::timeout(overdue, answers.next()).await {
                    Ok(None) if sent.purged() => {
                        let purged = Unreachable::from_string("what it lacks is purged");
                        return Some((Err(RPCError::Unreachable(purged)), None));
                    }
                    Ok(None) => return None,
                    Ok(Some(answer)) => {
                        let term = sent.term();
                        let result = answer.and_then(|answer| acknowledged.check(to, term, answer));
                        match &result {
                            Ok(Ok(matching)) if sent.hand_over(*matching) => {
                                return Some((result, Some(answers)));
                            }
                            Ok(Ok(_)) => {}
                            Ok(Err(_)) | Err(_) => return Some((result, None)),
                        }
                    }
                    Err(_) if waiting => {
                        let late = Unreachable::from_string("no answer to an append");
                        return Some((Err(RPCError::Unreachable(late)), None));
                    }
                    Err(_) => {}
                }
            }
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use openraft::entry::RaftEntry as _;

    use super::*;
    use crate::types::{Entry, Types, Vote};

    fn log_id(index: u64) -> LogId {
        LogId::new_term_index(3, index)
    }

    /// What the leader of term 3 sends of the log behind `prev` up to `last`.
    fn append(prev: u64, last: u64) -> AppendEntriesRequest<Types> {
        AppendEntriesRequest {
            vote: Vote::new_committed(3, 1),
            prev_log_id: Some(log_id(prev)),
            entries: (prev + 1..=last)
                .map(|index| Entry::new_blank(log_id(index)))
                .collect(),
            leader_commit: None,
        }
    }

    /// An answer was given to the entries and came late; what is committed was sent after that.
    #[tokio::test]
    async fn answer_that_covers_a_later_request_waits_for_the_answer_to_that() {
        let sent = Arc::new(Sent::default());
        let input = futures_util::stream::iter([append(8, 9), append(9, 9), append(9, 10)]);
        let mut requests = sent.clone().requests::<Types, _>(input, || None);
        let (answer, mut arrived) = tokio::sync::mpsc::channel(4);
        let answers = futures_util::stream::poll_fn(move |context| arrived.poll_recv(context));
        let mut handed = watch_answers(answers, sent, OVERDUE, (2, Arc::default()));
        let up_to = |index| Ok::<_, RPCError<Types>>(Ok(Some(log_id(index))));
        requests.next().now_or_never().expect("the entry");
        requests.next().now_or_never().expect("what is committed");

        answer.try_send(up_to(9)).expect("room");
        assert!(handed.next().now_or_never().is_none(), "handed over early");
        answer.try_send(up_to(9)).expect("room");
        let first = handed.next().now_or_never().expect("both are answered");
        assert_eq!(
            first.expect("an answer").expect("no error"),
            Ok(Some(log_id(9)))
        );

        let pulled = requests.next().now_or_never();
        assert!(pulled.is_none(), "pulled while an answer is handed over");
        assert!(handed.next().now_or_never().is_none());
        requests.next().now_or_never().expect("the next entry");
        answer.try_send(up_to(10)).expect("room");
        assert!(handed.next().now_or_never().is_some());
    }

    #[tokio::test]
    async fn answers_to_entries_that_are_pipelined_are_handed_over_one_by_one() {
        let sent = Arc::new(Sent::default());
        let input = futures_util::stream::iter([append(7, 8), append(8, 9)]);
        let mut requests = sent.clone().requests::<Types, _>(input, || None);
        requests.next().now_or_never().expect("an entry");
        requests.next().now_or_never().expect("another");
        let answers = futures_util::stream::iter([8, 9].map(|index| Ok(Ok(Some(log_id(index))))));
        let handed = watch_answers(answers, sent, OVERDUE, (2, Arc::default()));
        let handed: Vec<Result<_, RPCError<Types>>> = handed.collect().await;
        assert_eq!(handed.len(), 2);
    }

    /// A replication task repeats an order whose entries were purged since (defect S4).
    #[tokio::test]
    async fn stream_that_cannot_go_on_ends_with_an_error() {
        let purged = |index| move || Some(log_id(index));
        let ends = async |requests: [AppendEntriesRequest<Types>; 2], index| {
            let sent = Arc::new(Sent::default());
            let input = futures_util::stream::iter(requests);
            let pulled = sent.clone().requests::<Types, _>(input, purged(index));
            let pulled = pulled.count().await;
            let answers = futures_util::stream::empty();
            let mut handed = watch_answers::<Types, _>(answers, sent, OVERDUE, (2, Arc::default()));
            (pulled, handed.next().await.is_some_and(|end| end.is_err()))
        };
        assert_eq!(ends([append(7, 7), append(7, 7)], 8).await, (1, true));
        assert_eq!(ends([append(7, 7), append(7, 7)], 7).await, (2, false));
        assert_eq!(ends([append(7, 7), append(7, 9)], 8).await, (2, false));
    }
}
