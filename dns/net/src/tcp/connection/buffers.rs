//! What has come and is not answered yet, and what is answered and not written yet.

use std::io::{Error, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use cfgdns_core::TCP_OCTETS_MAX;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// Octets of the length before each message (RFC 1035 4.2.2).
const LENGTH_OCTETS: usize = 2;
/// Octets of the input of a client that sends ordinary requests.
const INPUT_OCTETS: usize = 4_096;
/// Octets of output from which on no more requests are answered, until all that is written.
pub(crate) const OUTPUT_FULL: usize = 16_384;

/// Octets that came. It grows for one message at most, and shrinks after it.
pub(crate) struct Input {
    octets: Vec<u8>,
    /// Where the first message that is not answered begins.
    start: usize,
    /// Where what has come ends.
    end: usize,
}

impl Input {
    pub(crate) fn new() -> Self {
        Self {
            octets: vec![0; INPUT_OCTETS],
            start: 0,
            end: 0,
        }
    }

    /// Octets of the first message with its length, as far as that is known.
    fn wanted(&self) -> usize {
        match self.octets[self.start..self.end] {
            [high, low, ..] => LENGTH_OCTETS + usize::from(u16::from_be_bytes([high, low])),
            [] | [_] => LENGTH_OCTETS,
        }
    }

    /// The first message, when all of it is there.
    pub(crate) fn message(&self) -> Option<&[u8]> {
        let came = &self.octets[self.start..self.end];
        came.get(LENGTH_OCTETS..self.wanted())
            .filter(|_| came.len() >= LENGTH_OCTETS)
    }

    /// Drops the first message, which is there.
    pub(crate) fn advance(&mut self) {
        self.start += self.wanted();
        assert!(self.start <= self.end, "only a whole message is dropped");
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.octets.len() > INPUT_OCTETS {
                self.octets = vec![0; INPUT_OCTETS];
            }
        }
    }

    /// Reads into the room that is left, which is enough for the first message: how many octets
    /// came, 0 at the end.
    pub(crate) fn poll_read(
        &mut self,
        stream: Pin<&mut impl AsyncRead>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, Error>> {
        let wanted = self.wanted();
        if self.start + wanted > self.octets.len() {
            self.octets.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if wanted > self.octets.len() {
                self.octets.resize(wanted, 0);
            }
        }
        assert!(self.end < self.octets.len(), "no message is whole yet");
        let mut room = ReadBuf::new(&mut self.octets[self.end..]);
        ready!(stream.poll_read(cx, &mut room))?;
        let count = room.filled().len();
        self.end += count;
        Poll::Ready(Ok(count))
    }
}

/// Octets to be written.
pub(crate) struct Output {
    octets: Vec<u8>,
    written: usize,
    /// Since when the client has had [`Output::owed`] to take.
    since: Instant,
    /// Octets that were there at `since` and are not written: new ones buy no time for these.
    owed: usize,
    flushed: bool,
}

impl Output {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            octets: Vec::new(),
            written: 0,
            since: now,
            owed: 0,
            flushed: true,
        }
    }

    /// All is written, and on its way.
    pub(crate) fn is_empty(&self) -> bool {
        self.octets.is_empty() && self.flushed
    }

    pub(crate) fn is_full(&self) -> bool {
        self.octets.len() >= OUTPUT_FULL
    }

    /// Since when the client could have taken what there was then.
    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    /// Adds a message.
    pub(crate) fn push(&mut self, message: &[u8]) {
        assert!(message.len() <= TCP_OCTETS_MAX, "{} octets", message.len());
        let length = u16::try_from(message.len()).expect("it is no longer than its length can say");
        self.octets.reserve(LENGTH_OCTETS + message.len());
        self.octets.extend(length.to_be_bytes());
        self.octets.extend(message);
    }

    /// The client has its time for all that is there from now on.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.since = now;
        self.owed = self.octets.len() - self.written;
    }

    /// Writes what can be written: whether anything was.
    pub(crate) fn poll_write(
        &mut self,
        mut stream: Pin<&mut impl AsyncWrite>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<bool, Error>> {
        if !self.octets.is_empty() {
            self.flushed = false;
            let rest = &self.octets[self.written..];
            let count = ready!(stream.as_mut().poll_write(cx, rest))?;
            if count == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
            self.written += count;
            self.owed = self.owed.saturating_sub(count);
            if self.written < self.octets.len() {
                if self.owed == 0 {
                    self.begin(Instant::now());
                }
                return Poll::Ready(Ok(true));
            }
            self.written = 0;
            self.octets.clear();
            self.octets.shrink_to(OUTPUT_FULL);
        }
        if self.flushed {
            return Poll::Ready(Ok(false));
        }
        ready!(stream.poll_flush(cx))?;
        self.flushed = true;
        Poll::Ready(Ok(true))
    }
}
