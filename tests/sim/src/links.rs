//! What a message meets between two machines: delay, loss, doubling, one-way cuts.
//!
//! Invariant: the end of a fault puts right what that fault did, and nothing else: a link that two
//! have cut is open when both are over.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::rng::Rng;

/// How late a message comes that was lost on a stream.
const RETRANSMIT: Duration = Duration::from_millis(200);

/// A fault of links: what is done to them is its own until it is healed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkFault(u64);

/// What the links are like now.
pub struct Links {
    rng: Rng,
    faults: u64,
    /// One-way cuts, from and to, and whose they are.
    cut: BTreeSet<(u64, u64, LinkFault)>,
    /// More delay on a link.
    slow: BTreeMap<(u64, u64, LinkFault), Duration>,
    /// More messages are lost, of 1000.
    bursts: BTreeMap<LinkFault, u64>,
    /// Of 1000 messages.
    pub loss: u64,
    /// Of 1000 calls.
    pub doubled: u64,
    /// Delay of a message, in microseconds.
    pub delay_us: (u64, u64),
    /// Some messages come very late.
    stragglers: bool,
    /// Ends of calls whose answer was lost.
    limbo: Vec<Box<dyn Any + Send>>,
}

impl Links {
    /// Good links.
    pub fn new(rng: Rng) -> Self {
        Self {
            rng,
            faults: 0,
            cut: BTreeSet::new(),
            slow: BTreeMap::new(),
            bursts: BTreeMap::new(),
            loss: 0,
            doubled: 0,
            delay_us: (100, 1500),
            stragglers: true,
            limbo: Vec::new(),
        }
    }

    /// A fault that has done nothing yet.
    pub fn fault(&mut self) -> LinkFault {
        self.faults += 1;
        LinkFault(self.faults)
    }

    /// Cuts `from` off from `to`, one way.
    pub fn cut(&mut self, fault: LinkFault, from: u64, to: u64) {
        self.cut.insert((from, to, fault));
    }

    /// Adds to the delay of a link, both ways.
    pub fn slow_down(&mut self, fault: LinkFault, (a, b): (u64, u64), by: Duration) {
        self.slow.insert((a, b, fault), by);
        self.slow.insert((b, a, fault), by);
    }

    /// As many of 1000 messages are lost, on all links.
    pub fn lose(&mut self, fault: LinkFault, loss: u64) {
        self.bursts.insert(fault, loss);
    }

    /// A fault is over, with all that it did.
    pub fn heal(&mut self, fault: LinkFault) {
        self.cut.retain(|(.., whose)| *whose != fault);
        self.slow.retain(|(.., whose), _| *whose != fault);
        self.bursts.remove(&fault);
    }

    /// No faults at all, whosever they are.
    pub fn perfect(&mut self) {
        self.cut.clear();
        self.slow.clear();
        self.bursts.clear();
        self.loss = 0;
        self.doubled = 0;
        self.stragglers = false;
    }

    /// Whether messages of `from` to `to` do not pass.
    pub fn is_cut(&self, from: u64, to: u64) -> bool {
        let all = (from, to, LinkFault(0))..=(from, to, LinkFault(u64::MAX));
        self.cut.range(all).next().is_some()
    }

    /// Whether the next message is lost.
    fn is_lost(&mut self) -> bool {
        let burst = self.bursts.values().max().copied().unwrap_or(0);
        self.rng.chance(self.loss.max(burst))
    }

    fn delay(&mut self, from: u64, to: u64) -> Duration {
        let (low, high) = self.delay_us;
        let all = (from, to, LinkFault(0))..=(from, to, LinkFault(u64::MAX));
        let slow = self.slow.range(all).map(|(_, by)| *by).max();
        let late = self.stragglers && self.rng.chance(10);
        let burst = if late { high * 20 } else { 0 };
        self.rng.micros(low, high + burst) + slow.unwrap_or_default()
    }

    /// How long a message of a stream is on its way: what is lost there comes late.
    pub fn delay_on_stream(&mut self, from: u64, to: u64) -> Duration {
        let delay = self.delay(from, to);
        if self.is_lost() {
            delay + RETRANSMIT
        } else {
            delay
        }
    }

    /// When the copies of a message arrive; none when it is lost.
    pub fn passage(&mut self, from: u64, to: u64, may_double: bool) -> Vec<Duration> {
        if self.is_cut(from, to) || self.is_lost() {
            return Vec::new();
        }
        let mut copies = vec![self.delay(from, to)];
        if may_double && self.rng.chance(self.doubled) {
            copies.push(self.delay(from, to) * 3);
        }
        copies
    }

    /// Keeps the end of a call whose answer was lost: its caller waits for ever.
    pub fn keep_waiting(&mut self, end: Box<dyn Any + Send>) {
        self.limbo.push(end);
    }

    /// Drops everything that waits for ever.
    pub fn clear(&mut self) {
        self.limbo.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links() -> Links {
        Links::new(Rng::new(7))
    }

    /// Copies of 1000 messages from 1 to 2.
    fn copies(links: &mut Links) -> usize {
        (0..1000).map(|_| links.passage(1, 2, true).len()).sum()
    }

    #[test]
    fn cut_stops_one_way_until_it_heals() {
        let mut links = links();
        let fault = links.fault();
        links.cut(fault, 1, 2);
        assert!(links.passage(1, 2, true).is_empty());
        assert_eq!(links.passage(2, 1, true).len(), 1);
        assert_eq!(links.passage(1, 3, true).len(), 1);
        links.heal(fault);
        assert_eq!(links.passage(1, 2, true).len(), 1);
    }

    #[test]
    fn end_of_a_fault_leaves_what_others_did() {
        let mut links = links();
        let (one, other) = (links.fault(), links.fault());
        links.cut(one, 1, 2);
        links.cut(other, 1, 2);
        links.cut(other, 2, 3);
        let by = Duration::from_secs(1);
        links.slow_down(one, (1, 3), by);
        links.slow_down(other, (1, 3), by);
        links.lose(one, 1000);
        links.lose(other, 1000);
        links.heal(one);
        assert!(links.is_cut(1, 2) && links.is_cut(2, 3));
        assert!(links.delay(3, 1) >= by);
        assert!(links.is_lost());
        links.heal(other);
        assert!(!links.is_cut(1, 2) && !links.is_cut(2, 3));
        assert!(links.delay(3, 1) < by);
        assert!(!links.is_lost());
        let last = links.fault();
        links.cut(last, 1, 2);
        links.lose(last, 1000);
        links.perfect();
        assert!(!links.is_cut(1, 2) && !links.is_lost());
    }

    #[test]
    fn messages_are_lost_and_doubled_as_often_as_asked() {
        let mut links = links();
        assert_eq!(copies(&mut links), 1000);
        links.loss = 300;
        assert!((600..800).contains(&copies(&mut links)));
        (links.loss, links.doubled) = (0, 300);
        assert!((1200..1400).contains(&copies(&mut links)));
        let answers: usize = (0..1000).map(|_| links.passage(1, 2, false).len()).sum();
        assert_eq!(answers, 1000, "what may not be doubled is not");
        links.loss = 1000;
        assert_eq!(copies(&mut links), 0);
        links.perfect();
        assert_eq!(copies(&mut links), 1000);
    }

    #[test]
    fn delay_is_drawn_between_its_bounds_and_a_slow_link_adds_to_it() {
        let mut links = links();
        links.delay_us = (500, 900);
        let drawn =
            |links: &mut Links| -> Vec<Duration> { (0..1000).map(|_| links.delay(1, 2)).collect() };
        let late = Duration::from_micros(900);
        let delays = drawn(&mut links);
        assert!(
            delays
                .iter()
                .all(|delay| *delay >= Duration::from_micros(500))
        );
        let stragglers = delays.iter().filter(|delay| **delay > late).count();
        assert!((1..50).contains(&stragglers), "{stragglers} come very late");
        let (first, last) = (delays.iter().min(), delays.iter().max());
        assert!(first < last, "messages overtake each other");
        links.perfect();
        assert!(drawn(&mut links).iter().all(|delay| *delay <= late));
        let by = Duration::from_millis(50);
        let fault = links.fault();
        links.slow_down(fault, (2, 1), by);
        assert!(drawn(&mut links).iter().all(|delay| *delay >= by));
        assert!(links.delay(1, 3) < by);
    }

    #[test]
    fn what_is_lost_on_a_stream_comes_late() {
        let mut links = links();
        links.perfect();
        assert!(links.delay_on_stream(1, 2) < RETRANSMIT);
        links.loss = 1000;
        assert!(links.delay_on_stream(1, 2) > RETRANSMIT);
    }
}
