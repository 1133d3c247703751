//! One thread that answers what comes to one UDP socket: a batch in, a batch out.
//!
//! ```text
//!  ┌────────────────── the batch was not full ◄─┐
//!  ▼                                             │
//! wait ─► recvmmsg ─► respond × n ─► sendmmsg ──►┤
//!          ▲                                     │
//!          └──────────────── it was full ◄───────┘
//! ```
//!
//! Invariants
//! - no error of the socket ends the thread: what cannot be sent is counted and given up, because a
//!   client that gets nothing asks again;
//! - a reply leaves from the address that was asked;
//! - when it is told to stop, what the socket has is answered first.

mod datagrams;

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cfgdns_core::{
    Arrival, HEADER_OCTETS, Limiter, Local, Outcome, SignatureCache, Transport, respond,
};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::complaints::Complaints;
use crate::counters::{BATCH_SIZES, Counters, Tally};
use crate::shared::{Shared, now};
use crate::stop::Stop;
use datagrams::{BATCH, Datagram, Outgoing, Receiver, Sender};

/// Signatures that a thread keeps: those of thousands of popular names, in some 2 MB.
pub(crate) const SIGNATURES_MAX: usize = 16_384;

/// Batches that are still answered after the stop, so that a flood does not keep a thread: 65,536
/// datagrams are more than a receive buffer holds. The time for the last replies ends it as well.
const LAST_BATCHES_MAX: usize = 1_024;

/// Milliseconds that a full send buffer is waited for. A network card sends a buffer of 1 MiB at
/// 1 Gbit/s in 8; who waits longer keeps those waiting who could be answered.
const SEND_WAIT_MS: u16 = 10;

/// Milliseconds without looking at a socket that had an error, so that an error which stays does
/// not take a core.
const ERROR_WAIT_MS: u16 = 10;

/// All that a thread has.
pub(crate) struct Worker {
    /// Shared with nobody: each thread has its own, with `SO_REUSEPORT`.
    pub(crate) socket: UdpSocket,
    /// Where answers come from.
    pub(crate) shared: Arc<Shared>,
    /// Of this thread alone.
    pub(crate) counters: Arc<Counters>,
    /// Of this thread alone: the share of the limit that it has.
    pub(crate) limiter: Option<Limiter>,
    /// Of this thread alone: what it signed lately, of at most [`SIGNATURES_MAX`].
    pub(crate) signatures: SignatureCache,
    /// Tells when to end.
    pub(crate) stop: Arc<Stop>,
    /// Time for the last replies.
    pub(crate) shutdown_timeout: Duration,
}

impl Worker {
    /// Answers until it is told to stop.
    pub(crate) fn run(mut self) {
        let mut receiver = Receiver::new();
        let mut sender = Sender::new();
        let mut outgoing = Outgoing::default();
        let mut complaints = Complaints::default();
        let mut last_batches = 0;
        let mut end = None;
        loop {
            let stopping = self.stop.is_stopping();
            if stopping {
                last_batches += 1;
                end.get_or_insert_with(|| Instant::now() + self.shutdown_timeout);
            }
            match receiver.receive(&self.socket) {
                Ok(count) => {
                    self.answer(&receiver, &mut outgoing);
                    self.count_batch(count);
                    self.send(&mut sender, &outgoing, &mut complaints);
                    outgoing.clear();
                    // Where a batch was not full there is most likely nothing more.
                    if count < BATCH && !stopping {
                        self.wait();
                    }
                }
                Err(Errno::EAGAIN) if stopping => return,
                Err(Errno::EAGAIN) => self.wait(),
                Err(Errno::EINTR) => {}
                Err(errno) => {
                    self.counters.udp_receive_errors.add(1);
                    self.complain(&mut complaints, "cannot receive", errno);
                    self.stop.wait(ERROR_WAIT_MS);
                }
            }
            let late = end.is_some_and(|end| Instant::now() >= end);
            if late || last_batches >= LAST_BATCHES_MAX {
                return;
            }
        }
    }

    fn complain(&self, complaints: &mut Complaints, doing: &str, errno: Errno) {
        if let Some(unsaid) = complaints.due(now().monotonic_ms) {
            let address = self.socket.local_addr().ok();
            tracing::warn!(?address, error = %errno, unsaid, "udp: {doing}");
        }
    }

    /// Waits until there is something to read, or to stop. That the wait fails, or is interrupted,
    /// is seen by the next look at the socket.
    fn wait(&self) {
        let mut events = [
            PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
        ];
        let _ = poll(&mut events, PollTimeout::NONE);
    }

    /// Answers a batch, at one moment and from one state.
    fn answer(&mut self, receiver: &Receiver, outgoing: &mut Outgoing) {
        let state = self.shared.load();
        let now = now();
        let mut tally = Tally::default();
        for datagram in receiver.datagrams() {
            let arrival = Arrival {
                transport: Transport::Udp,
                client: datagram.client,
                now,
            };
            let local = Local {
                limiter: self.limiter.as_mut(),
                signatures: Some(&mut self.signatures),
            };
            match respond(&state, local, &arrival, datagram.octets) {
                Outcome::Send(reply) => {
                    tally.reply(&reply);
                    outgoing.push(reply, &datagram);
                }
                Outcome::Silence if is_request(&datagram) => tally.limited += 1,
                // Zones are transferred over TCP only, and the core says so itself.
                Outcome::Silence | Outcome::Stream(_) => tally.ignored += 1,
            }
        }
        tally.add_to(&self.counters);
    }

    fn count_batch(&self, count: usize) {
        self.counters.udp_requests.add(count as u64);
        if let Some(power) = count.checked_ilog2() {
            let size = usize::try_from(power).expect("32 bits fit");
            self.counters.udp_batches[size.min(BATCH_SIZES - 1)].add(1);
        }
    }

    /// Sends all that the kernel takes. A buffer that is full is waited for once; a reply that is
    /// refused does not keep the others.
    fn send(&self, sender: &mut Sender, outgoing: &Outgoing, complaints: &mut Complaints) {
        let mut first = 0;
        let mut waited = false;
        while first < outgoing.len() {
            match sender.send(&self.socket, outgoing, first) {
                Ok(sent) => first += sent.max(1),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN | Errno::ENOBUFS) if !waited => {
                    waited = true;
                    self.wait_for_room();
                }
                Err(errno @ (Errno::EAGAIN | Errno::ENOBUFS)) => {
                    let rest = outgoing.len() - first;
                    self.counters.udp_unsent.add(rest as u64);
                    self.complain(complaints, "the network is slower than replies", errno);
                    return;
                }
                Err(errno) => {
                    self.counters.udp_unsent.add(1);
                    self.complain(complaints, "cannot send a reply", errno);
                    first += 1;
                }
            }
        }
    }

    fn wait_for_room(&self) {
        let mut events = [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)];
        // Whether there is room then, the next attempt shows.
        let _ = poll(&mut events, PollTimeout::from(SEND_WAIT_MS));
    }
}

/// Whether only the rate limit can have kept a reply back: everything else that has the header of a
/// request, and a port to reply to, is answered.
fn is_request(datagram: &Datagram<'_>) -> bool {
    let whole_header = datagram.octets.len() >= HEADER_OCTETS;
    whole_header && datagram.octets[2] & 0x80 == 0 && datagram.client.port() != 0
}

// A batch has a size that is counted.
const _: () = assert!(BATCH.ilog2() as usize == BATCH_SIZES - 1);

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use cfgdns_core::{Freshness, Settings, State, UDP_OCTETS_MAX, Zones};

    use super::*;
    use crate::counters::sum;

    fn worker() -> Worker {
        let state = State {
            zones: Zones::default(),
            freshness: Freshness::Never,
            settings: Settings {
                udp_octets_max: UDP_OCTETS_MAX,
                ..Settings::default()
            },
        };
        Worker {
            socket: UdpSocket::bind("127.0.0.1:0").expect("a port"),
            shared: Arc::new(Shared::new(state)),
            counters: Arc::default(),
            limiter: None,
            signatures: SignatureCache::new(SIGNATURES_MAX),
            stop: Arc::new(Stop::new().expect("a descriptor")),
            shutdown_timeout: Duration::from_secs(2),
        }
    }

    /// A broadcast needs a permission that the socket does not have (socket(7)).
    #[test]
    fn reply_that_the_kernel_refuses_does_not_keep_the_others() {
        let worker = worker();
        let client = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let client_address = client.local_addr().expect("bound");
        let nobody = SocketAddr::from(([255, 255, 255, 255], 9));
        let mut outgoing = Outgoing::default();
        for (number, to) in [nobody, client_address, nobody, nobody, client_address]
            .into_iter()
            .enumerate()
        {
            let datagram = Datagram {
                octets: &[],
                client: to,
                local: None,
            };
            outgoing.push(vec![u8::try_from(number).expect("few")], &datagram);
        }
        let mut complaints = Complaints::default();
        worker.send(&mut Sender::new(), &outgoing, &mut complaints);
        for expected in [1, 4] {
            let mut reply = [0; 2];
            assert_eq!(client.recv(&mut reply).expect("a reply"), 1);
            assert_eq!(reply[0], expected);
        }
        assert_eq!(sum([&worker.counters]).udp_unsent, 3);
        let unsaid = complaints.due(u64::MAX);
        assert_eq!(unsaid, Some(2), "the first was said");
    }

    #[test]
    fn what_has_come_before_the_stop_is_answered_as_long_as_there_is_time() {
        let header = b"\x12\x34\0\0\0\0\0\0\0\0\0\0";
        let come = 2 * BATCH + 1;
        for (shutdown_timeout, answered) in
            [(Duration::from_mins(1), come), (Duration::ZERO, BATCH)]
        {
            let worker = Worker {
                shutdown_timeout,
                ..worker()
            };
            let client = UdpSocket::bind("127.0.0.1:0").expect("a port");
            let server = worker.socket.local_addr().expect("bound");
            for _ in 0..come {
                client.send_to(header, server).expect("loopback takes it");
            }
            worker.socket.set_nonblocking(true).expect("a socket");
            worker.stop.stop();
            let counters = Arc::clone(&worker.counters);
            worker.run();
            assert_eq!(sum([&counters]).udp_requests, answered as u64);
        }
    }
}
