//! A conversation over a connection: messages in, messages out, in bounds (RFC 7766, RFC 9210).
//!
//! ```text
//! octets ─► input ─► whole messages ─► answers ─┬─► output ─► octets
//!             ▲ not read while the output is full│     ▲
//!                                                └─ transfer: the next message when all is written
//! ```
//!
//! One task does it all, and reads and writes whenever either is possible. Replies go out in the
//! order of their requests; those after the request for a transfer go between its messages.
//!
//! Why generic: the same conversation goes over TLS, and in the tests over a pipe.
//!
//! Invariants
//! - at most one message of 65,535 octets is buffered of the input, and of the output
//!   [`buffers::OUTPUT_FULL`] and one message;
//! - transfers are sent one after the other; while [`TRANSFERS_MAX`] wait, nothing is read;
//! - a client that does not send a whole request, or does not take what is sent, is left after a
//!   time that single octets do not stretch;
//! - what was read whole is answered before the end, but when the client does not take it;
//! - a conversation whose place is taken reads no more requests;
//! - after the end of a conversation its place is held for [`DRAIN_WAIT`] at most, and given up
//!   when somebody needs it.

mod buffers;

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io::{Error, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use cfgdns_core::{HEADER_OCTETS, Moment};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use buffers::{Input, Output};

/// Transfers that a client can ask for at once on a connection. Secondaries use a connection for
/// each zone, or for a few.
const TRANSFERS_MAX: usize = 4;

/// Octets of a client that are still taken after the end of a conversation: what a client has under
/// way that sent many requests at once.
const DRAIN_OCTETS_MAX: usize = 65_536;
/// How long they are waited for: the way there and back to most clients.
const DRAIN_WAIT: Duration = Duration::from_millis(100);

/// Who answers a client.
pub(crate) trait Answers {
    /// The answer to a request that has a header.
    fn answer(&mut self, now: Moment, request: &[u8]) -> Answer;
}

/// What to do about a request.
pub(crate) enum Answer {
    /// Send this.
    Message(Vec<u8>),
    /// Send all these, one after the other.
    Messages(Box<dyn Messages>),
    /// This is no request: it is not DNS that is spoken here.
    Nothing,
}

/// Many messages that answer one request.
pub(crate) trait Messages: Send {
    /// The next message, as of now; none at the end.
    fn next(&mut self, now: Moment) -> Option<Vec<u8>>;
    /// At the end: whether all was said. When not, the client sees it by the end of the connection.
    fn is_complete(&self) -> bool;
}

/// How long a client is waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) idle: Duration,
    pub(crate) write: Duration,
}

/// Why a conversation ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The client closed its side, or the server ends: all is answered.
    Done,
    /// No whole request came for too long.
    Idle,
    /// The client did not take its replies.
    Slow,
    /// Somebody else needed the place.
    Evicted,
    /// The client sent what is no request.
    NotDns,
    /// A transfer could not be finished.
    Cut,
    /// The connection failed.
    Failed(Error),
}

/// What ends a conversation from outside, and who is told whether it is idle.
pub(crate) trait Surroundings {
    /// Told when it becomes idle, and when no longer.
    fn set_idle(&self, idle: bool);
    /// Ready when the place is needed.
    fn poll_evicted(&mut self, cx: &mut Context<'_>) -> Poll<()>;
    /// Ready when the server ends.
    fn poll_stopping(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// A conversation under way.
pub(crate) struct Connection<S, A> {
    stream: S,
    answers: A,
    clock: fn() -> Moment,
    patience: Patience,
    input: Input,
    output: Output,
    transfers: VecDeque<Box<dyn Messages>>,
    /// Why no more is read: what is answered is still sent.
    ending: Option<End>,
    /// The last time that a whole request came, or all was written.
    active: Instant,
    /// Rings at the deadline, or before it: it is only set anew when it would be wrong.
    alarm: Pin<Box<Sleep>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin, A: Answers> Connection<S, A> {
    /// A conversation that begins now.
    pub(crate) fn new(stream: S, answers: A, clock: fn() -> Moment, patience: Patience) -> Self {
        let active = Instant::now();
        Self {
            stream,
            answers,
            clock,
            patience,
            input: Input::new(),
            output: Output::new(active),
            transfers: VecDeque::new(),
            ending: None,
            active,
            alarm: Box::pin(sleep_until(active + patience.idle)),
        }
    }

    /// Talks until one side has enough, and closes the connection in order when it can.
    pub(crate) async fn run(mut self, mut around: impl Surroundings) -> End {
        let mut was_idle = true;
        loop {
            self.answer();
            let idle = self.is_idle();
            if idle != was_idle {
                around.set_idle(idle);
                was_idle = idle;
            }
            if idle && let Some(end) = self.ending.take() {
                return self.close(end, &mut around).await;
            }
            if let Err(end) = poll_fn(|cx| self.poll(cx, &mut around)).await {
                if matches!(end, End::Idle) {
                    // Nothing is under way: over TLS the client is told that this is the end.
                    return self.close(end, &mut around).await;
                }
                return end;
            }
        }
    }

    /// Nothing is under way: all that came whole is answered, and all answers are written.
    fn is_idle(&self) -> bool {
        self.output.is_empty() && self.transfers.is_empty()
    }

    /// Answers what has come whole, as far as there is room for replies.
    fn answer(&mut self) {
        let transfer_is_due = self.output.is_empty() && !self.transfers.is_empty();
        if !self.can_answer() && !transfer_is_due {
            return;
        }
        let now = (self.clock)();
        let present = Instant::now();
        let was_empty = self.output.is_empty();
        while self.can_answer()
            && let Some(request) = self.input.message()
        {
            let answer = match request.len() {
                HEADER_OCTETS.. => self.answers.answer(now, request),
                _ => Answer::Nothing,
            };
            self.input.advance();
            self.active = present;
            match answer {
                Answer::Message(message) => self.output.push(&message),
                Answer::Messages(messages) => self.transfers.push_back(messages),
                Answer::Nothing => self.ending = Some(End::NotDns),
            }
        }
        // The next message of a transfer is made when the one before is written.
        while self.output.is_empty()
            && let Some(transfer) = self.transfers.front_mut()
        {
            if let Some(message) = transfer.next(now) {
                self.output.push(&message);
            } else if transfer.is_complete() {
                self.transfers.pop_front();
            } else {
                self.ending = Some(End::Cut);
                self.transfers.clear();
            }
        }
        if was_empty {
            self.output.begin(present);
        }
    }

    /// There is a request, and room for its reply. After what is no request nothing is one, and
    /// after a transfer that was cut nothing is said.
    fn can_answer(&self) -> bool {
        !self.output.is_full()
            && self.transfers.len() < TRANSFERS_MAX
            && !matches!(self.ending, Some(End::NotDns | End::Cut))
            && self.input.message().is_some()
    }

    /// Writes and reads what can be; ready when either has changed something, or at the end.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        around: &mut impl Surroundings,
    ) -> Poll<Result<(), End>> {
        let reads = self.ending.is_none() && self.input.message().is_none();
        // Before anything is read: somebody else has the place already, and who became or stayed
        // busy would live on without one. A request that waits may be lost (RFC 7766 6.2.4).
        if reads && around.poll_evicted(cx).is_ready() {
            self.ending = Some(End::Evicted);
            return Poll::Ready(Ok(()));
        }
        let mut progress = false;
        match self.output.poll_write(Pin::new(&mut self.stream), cx) {
            Poll::Ready(Ok(written)) => progress |= written,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(End::Failed(error))),
            Poll::Pending => {}
        }
        if progress && self.output.is_empty() {
            self.active = Instant::now();
        }
        if reads {
            match self.input.poll_read(Pin::new(&mut self.stream), cx) {
                Poll::Ready(Ok(count)) => {
                    progress = true;
                    if count == 0 {
                        self.ending = Some(End::Done);
                    }
                }
                // Over TLS, the end of a client that does not announce it, as many do not. What
                // it cuts off is no whole request: messages say how long they are.
                Poll::Ready(Err(error)) if error.kind() == ErrorKind::UnexpectedEof => {
                    progress = true;
                    self.ending = Some(End::Done);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(End::Failed(error))),
                Poll::Pending => {}
            }
        }
        if progress {
            return Poll::Ready(Ok(()));
        }
        // Only now, when all that came was read.
        if reads && around.poll_stopping(cx).is_ready() {
            self.ending = Some(End::Done);
            return Poll::Ready(Ok(()));
        }
        self.poll_alarm(cx).map(Err)
    }

    /// Ready when the client was waited for in vain.
    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let (deadline, end) = if self.output.is_empty() {
            (self.active + self.patience.idle, End::Idle)
        } else {
            (self.output.since() + self.patience.write, End::Slow)
        };
        if deadline < self.alarm.deadline() {
            self.alarm.as_mut().reset(deadline);
        }
        while self.alarm.as_mut().poll(cx).is_ready() {
            if deadline <= Instant::now() {
                return Poll::Ready(end);
            }
            self.alarm.as_mut().reset(deadline);
        }
        Poll::Pending
    }

    /// Tells the client that nothing more comes.
    async fn close(mut self, end: End, around: &mut impl Surroundings) -> End {
        let closing = poll_fn(|cx| Pin::new(&mut self.stream).poll_shutdown(cx));
        match timeout(self.patience.write, closing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return End::Failed(error),
            Err(_) => return End::Slow,
        }
        let evicted = matches!(end, End::Evicted);
        // When the time is over, there is nothing more to do for the client.
        let _ = timeout(DRAIN_WAIT, self.drain(evicted, around)).await;
        end
    }

    /// Reads and drops what the client still sends. A socket that is closed with unread octets
    /// resets the connection (RFC 1122 4.2.2.13), and then the client may lose replies that it has
    /// not read. Ends with the client's end, or when somebody needs the place; who was evicted has
    /// none, and only what has come already is read.
    async fn drain(&mut self, evicted: bool, around: &mut impl Surroundings) {
        let mut left = DRAIN_OCTETS_MAX;
        poll_fn(|cx| {
            // Here, so that it is no part of each task.
            let mut octets = [0; 4_096];
            while left > 0 {
                let mut room = ReadBuf::new(&mut octets);
                match Pin::new(&mut self.stream).poll_read(cx, &mut room) {
                    Poll::Ready(Ok(())) if !room.filled().is_empty() => {
                        left = left.saturating_sub(room.filled().len());
                    }
                    // Its end, or that of the connection, which is what was wanted.
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending if evicted => return Poll::Ready(()),
                    Poll::Pending => return around.poll_evicted(cx),
                }
            }
            Poll::Ready(())
        })
        .await;
    }
}

#[cfg(test)]
mod tests;
