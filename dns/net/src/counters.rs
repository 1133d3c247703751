//! What happened at the sockets, counted where it happens and summed when somebody asks.
//!
//! Each UDP thread has counters of its own and adds to them once for a batch; the connections of a
//! thread share another set. So counting costs no lock, and no cache line that threads fight for.
//! What is told of TCP connections is told of those of TLS too.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cfgdns_core::rcode_of;

/// Sizes of batches are told apart by powers of two: 1, 2 to 3, 4 to 7, ... 64.
pub const BATCH_SIZES: usize = 7;

/// Replies by how it went: as far as BADCOOKIE, the last rcode that there is here (RFC 7873 8).
pub const RCODES: usize = 24;

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Sums over all threads since the server was bound.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Totals {
            $($(#[doc = $doc])+ pub $name: u64,)+
            /// Replies by their rcode, with the bits that are in the OPT record.
            pub replies: [u64; RCODES],
            /// Batches of datagrams by size: of 1, 2 to 3, 4 to 7, and so on.
            pub udp_batches: [u64; BATCH_SIZES],
            /// TCP connections that are open now, with those of TLS.
            pub tcp_open: u64,
            /// Those of TLS alone.
            pub tls_open: u64,
        }

        /// The counters of one thread, or of all connections.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)+
            pub(crate) replies: [Counter; RCODES],
            pub(crate) udp_batches: [Counter; BATCH_SIZES],
        }

        impl Counters {
            fn add_to(&self, totals: &mut Totals) {
                $(totals.$name += self.$name.get();)+
                for (sum, counter) in totals.replies.iter_mut().zip(&self.replies) {
                    *sum += counter.get();
                }
                for (sum, counter) in totals.udp_batches.iter_mut().zip(&self.udp_batches) {
                    *sum += counter.get();
                }
            }
        }
    };
}

counters! {
    /// Datagrams that were read.
    udp_requests,
    /// Messages that were read from TCP connections without TLS.
    tcp_requests,
    /// Messages that were read from connections over TLS.
    tls_requests,
    /// Messages that were read from streams of QUIC, and have the form of a request.
    quic_requests,
    /// Messages that get no reply because they have no header of a request: too short, replies
    /// themselves, or from port 0; over QUIC, with what that protocol forbids.
    ignored,
    /// Requests over UDP whose reply the rate limit held back.
    limited,
    /// Replies with TC: they did not fit, or slipped through the rate limit.
    truncated,
    /// Replies over UDP that the kernel did not take.
    udp_unsent,
    /// Times that the kernel had an error instead of datagrams.
    udp_receive_errors,
    /// TCP connections that were accepted.
    tcp_accepted,
    /// TCP connections that were closed at once, because there were too many and none was idle.
    tcp_refused,
    /// Idle TCP connections that had to make room for others.
    tcp_evicted,
    /// TCP connections on which no whole request came for too long.
    tcp_idle,
    /// TCP connections whose client did not take its replies.
    tcp_slow,
    /// TCP connections that failed, or were closed for what is no DNS message.
    tcp_failed,
    /// Times that a TCP connection could not be accepted for want of something.
    tcp_accept_errors,
    /// Connections whose TLS handshake was done.
    tls_handshakes,
    /// Connections whose TLS handshake failed: who is there speaks no TLS, or none that we do.
    tls_failed,
    /// Requests over QUIC that got no reply, because too many were under way.
    quic_refused,
    /// Replies over QUIC that the client did not take.
    quic_slow,
    /// Replies over QUIC that could not be sent.
    quic_failed,
    /// Transfers that were begun.
    transfers,
    /// Transfers that the server could not finish.
    transfers_cut,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Counts so many more.
    pub(crate) fn add(&self, count: u64) {
        if count > 0 {
            self.0.fetch_add(count, Ordering::Relaxed);
        }
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a batch of requests came to, to be added to the counters at once.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) ignored: u64,
    pub(crate) limited: u64,
    truncated: u64,
    replies: [u64; RCODES],
}

impl Tally {
    /// Counts a reply by what it says of itself.
    pub(crate) fn reply(&mut self, octets: &[u8]) {
        if let ([_, _, flags, ..], Some(rcode)) = (octets, rcode_of(octets)) {
            self.truncated += u64::from(flags >> 1 & 1);
            self.replies[usize::from(rcode)] += 1;
        }
    }

    /// Adds all to the counters, and starts from zero.
    pub(crate) fn add_to(&mut self, counters: &Counters) {
        counters.ignored.add(self.ignored);
        counters.limited.add(self.limited);
        counters.truncated.add(self.truncated);
        for (counter, count) in counters.replies.iter().zip(self.replies) {
            counter.add(count);
        }
        *self = Self::default();
    }
}

/// The sums of these counters.
pub(crate) fn sum<'a>(all: impl IntoIterator<Item = &'a Arc<Counters>>) -> Totals {
    let mut totals = Totals::default();
    for counters in all {
        counters.add_to(&mut totals);
    }
    totals
}
