//! Tells secondaries that a zone has changed (RFC 1996), so that they need not wait until they ask.
//!
//! ```text
//!            changed                   poll, when due             poll, no reply
//! (nothing) ────────► fresh, due at once ────────► waits for a reply ─────────► sent again
//!                       ▲      │ at most one a second       │ reply                │ 6 times
//!                       │      ▼                            ▼                      ▼
//!                       └── changed again               (nothing)              given up
//! ```
//!
//! That is for each zone and target. A burst of serials is so two messages: the first at once, and
//! one with the last serial a second later. Who does not answer is told again after 5, 10, 20, 40
//! and 80 seconds, and after 160 more left to the refresh of the SOA (RFC 1996 3.6).
//!
//! It is no storm, however many zones change: all messages together keep within a rate, and news
//! go before what is sent again, so that a target that is down delays none. 10,000 zones and 10
//! targets at 1,000 a second take 100 seconds; each is told once, with the last serial of a zone.
//!
//! Pure: time comes in, messages and the next time to ask come out. Do not poll while the server is
//! not fresh: secondaries would come and get SERVFAIL. What is due then waits.
//!
//! Invariants
//! - what is remembered of a zone and target is in one queue, and goes when it was answered or
//!   given up, and a second has passed;
//! - a reply counts only from the target's address, with the id and name that were sent (an error
//!   may lack the name), and, when the target has a key, rightly signed with it.

use core::net::SocketAddr;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cfgdns_zone::{Name, Rtype};

use crate::answer::CLASS_IN;
use crate::encode::{Section, Writer};
use crate::keys::TsigKey;
use crate::message::{Notified, OPCODE_NOTIFY};
use crate::respond::{Moment, PLAIN_UDP_OCTETS};
use crate::siphash::siphash24;
use crate::tree::{APEX, Tree};
use crate::tsig::{Signer, verify};

/// How often a message is sent at most: once, and the five times of RFC 1996 3.6.
pub const NOTIFY_SENDS_MAX: u8 = 6;
/// Milliseconds between two messages about a zone to a target, when it goes on changing.
const PAUSE_MS: u64 = 1_000;
/// Milliseconds until a message is sent again for the first time; then twice as many, and so on.
const RETRY_MS: u64 = 5_000;
/// The cost of a message: credit comes in by the millisecond.
const ONE: u64 = 1_000;
/// How often a free id is looked for before that is put off: only a target that has half of all ids
/// waiting makes that likely.
const ID_TRIES: usize = 16;

/// Who is told.
#[derive(Debug, Clone)]
pub struct NotifyTarget {
    /// Where it listens.
    pub address: SocketAddr,
    /// What messages to it are signed with.
    pub key: Option<Arc<TsigKey>>,
}

/// What a reply was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotifyReply {
    /// To none of our messages.
    Foreign,
    /// To a message about this zone, but not rightly signed, so that it does not count. The rcode
    /// may say why, for whoever looks into it.
    Unsigned(Name, u8),
    /// The target has heard of this zone. Whatever it says, it is not told again (RFC 1996 3.6).
    Heard(Name, u8),
}

/// Which queue something is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Queue {
    /// News.
    Fresh,
    /// What was sent, and is sent again or given up when there is no reply.
    Sent,
    /// What was answered or given up: it keeps the pause.
    Over,
}

/// A zone and a target, by their numbers: they are in many places, and names are long.
type Key = (u64, usize);

/// What is told of a zone.
#[derive(Debug)]
struct News {
    zone: Name,
    /// The message, without an id.
    message: Vec<u8>,
}

#[derive(Debug)]
struct Entry {
    queue: Queue,
    due_ms: u64,
    /// How often this serial was sent.
    sends: u8,
    /// When something was sent last.
    sent_ms: Option<u64>,
    /// The id of this serial's messages, and the MAC of the last.
    waiting: Option<(u16, Option<Vec<u8>>)>,
}

/// Which targets are to be told what, and when.
#[derive(Debug)]
pub struct Notifier {
    targets: Vec<NotifyTarget>,
    per_second: u32,
    secret: [u8; 16],
    /// Ids that were drawn.
    drawn: u64,
    /// The numbers of zones, while something is remembered of them.
    zones: BTreeMap<Name, u64>,
    /// The number of the next zone.
    next_zone: u64,
    news: BTreeMap<u64, News>,
    entries: BTreeMap<Key, Entry>,
    /// What is due when, by queue.
    queues: [BTreeSet<(u64, Key)>; 3],
    /// Which zone a reply of a target is about.
    waiting: BTreeMap<(usize, u16), u64>,
    credit: u64,
    credit_ms: u64,
    given_up: u64,
}

impl Notifier {
    /// Every zone is told to every target, with at most so many messages a second, a tenth of them
    /// at once. The secret is random: ids come from it, and strangers cannot answer for targets.
    pub fn new(targets: Vec<NotifyTarget>, per_second: u32, secret: [u8; 16]) -> Self {
        let mut notifier = Self {
            targets,
            per_second: per_second.max(1),
            secret,
            drawn: 0,
            zones: BTreeMap::new(),
            next_zone: 0,
            news: BTreeMap::new(),
            entries: BTreeMap::new(),
            queues: [BTreeSet::new(), BTreeSet::new(), BTreeSet::new()],
            waiting: BTreeMap::new(),
            credit: 0,
            credit_ms: 0,
            given_up: 0,
        };
        notifier.credit = notifier.credit_max();
        notifier
    }

    /// A zone has changed: this is how it is now.
    pub fn changed(&mut self, tree: &Tree, now: Moment) {
        if self.targets.is_empty() {
            return;
        }
        let zone = tree.origin().to_lowercase();
        let number = *self.zones.entry(zone.clone()).or_insert_with(|| {
            self.next_zone += 1;
            self.next_zone
        });
        let message = message(tree);
        self.news.insert(number, News { zone, message });
        for target in 0..self.targets.len() {
            let key = (number, target);
            let before = self.take(key);
            let sent_ms = before.as_ref().and_then(|entry| entry.sent_ms);
            let pause_end = sent_ms.map_or(0, |sent| sent.saturating_add(PAUSE_MS));
            let due_ms = pause_end.max(now.monotonic_ms);
            // Who changes again does not lose its place.
            let waiting = before.filter(|entry| entry.queue == Queue::Fresh);
            let entry = Entry {
                queue: Queue::Fresh,
                due_ms: waiting.map_or(due_ms, |entry| entry.due_ms.min(due_ms)),
                sends: 0,
                sent_ms,
                waiting: None,
            };
            self.put(key, entry);
        }
        self.sweep(now.monotonic_ms);
    }

    /// A zone is served no longer: there is nothing to tell of it.
    pub fn removed(&mut self, zone: &Name) {
        if let Some(number) = self.zones.remove(zone) {
            for target in 0..self.targets.len() {
                self.take((number, target));
            }
            self.news.remove(&number);
        }
    }

    /// The messages that are to be sent now, as datagrams.
    pub fn poll(&mut self, now: Moment) -> Vec<(SocketAddr, Vec<u8>)> {
        let now_ms = now.monotonic_ms;
        self.sweep(now_ms);
        self.earn(now_ms);
        let mut messages = Vec::new();
        while let Some(key) = self.due(now_ms) {
            let exhausted = |entry: &Entry| entry.sends == NOTIFY_SENDS_MAX;
            if self.entries.get(&key).is_some_and(exhausted) {
                self.given_up += 1;
                self.finish(key);
                continue;
            }
            let Some(left) = self.credit.checked_sub(ONE) else {
                break;
            };
            if let Some(message) = self.send(key, now) {
                self.credit = left;
                messages.push(message);
            }
        }
        messages
    }

    /// When there is something to send, in milliseconds of the monotonic clock; none when not.
    pub fn next_wakeup(&self) -> Option<u64> {
        let first = |queue: Queue| self.queue(queue).first().map(|(due_ms, _)| *due_ms);
        let due_ms = first(Queue::Fresh).into_iter().chain(first(Queue::Sent));
        let missing = ONE.saturating_sub(self.credit);
        let paid_ms = self
            .credit_ms
            .saturating_add(missing.div_ceil(u64::from(self.per_second)));
        due_ms.min().map(|due_ms| due_ms.max(paid_ms))
    }

    /// A datagram came to where messages are sent from.
    pub fn reply(&mut self, from: SocketAddr, octets: &[u8], now: Moment) -> NotifyReply {
        let Some(reply) = Notified::read(octets) else {
            return NotifyReply::Foreign;
        };
        for target in 0..self.targets.len() {
            let Some(&zone) = self.waiting.get(&(target, reply.id)) else {
                continue;
            };
            let known = &self.news(zone).zone;
            let named = reply.name.as_ref().is_none_or(|name| name == known);
            if !named || !same_address(self.targets[target].address, from) {
                continue;
            }
            let name = known.clone();
            if !self.is_signed((zone, target), octets, &reply, now) {
                return NotifyReply::Unsigned(name, reply.rcode);
            }
            self.finish((zone, target));
            return NotifyReply::Heard(name, reply.rcode);
        }
        NotifyReply::Foreign
    }

    /// How many zones and targets are waited for.
    pub fn pending(&self) -> usize {
        self.queue(Queue::Fresh).len() + self.queue(Queue::Sent).len()
    }

    /// How often a target was given up, because it did not answer.
    pub fn given_up(&self) -> u64 {
        self.given_up
    }

    fn queue(&self, queue: Queue) -> &BTreeSet<(u64, Key)> {
        &self.queues[queue as usize]
    }

    /// Whoever remembers a zone keeps its news.
    fn news(&self, zone: u64) -> &News {
        self.news.get(&zone).expect("there is an entry of the zone")
    }

    fn put(&mut self, key: Key, entry: Entry) {
        self.queues[entry.queue as usize].insert((entry.due_ms, key));
        if let Some((id, _)) = entry.waiting {
            self.waiting.insert((key.1, id), key.0);
        }
        self.entries.insert(key, entry);
    }

    fn take(&mut self, key: Key) -> Option<Entry> {
        let entry = self.entries.remove(&key)?;
        self.queues[entry.queue as usize].remove(&(entry.due_ms, key));
        if let Some((id, _)) = entry.waiting {
            self.waiting.remove(&(key.1, id));
        }
        Some(entry)
    }

    /// What is due: news before what was sent.
    fn due(&self, now_ms: u64) -> Option<Key> {
        let queues = [Queue::Fresh, Queue::Sent].into_iter();
        let mut due = queues.filter_map(|queue| self.queue(queue).first());
        let found = due.find(|(due_ms, _)| *due_ms <= now_ms);
        found.map(|(_, key)| *key)
    }

    /// It was answered or given up.
    fn finish(&mut self, key: Key) {
        if let Some(mut entry) = self.take(key) {
            entry.queue = Queue::Over;
            entry.due_ms = entry
                .sent_ms
                .map_or(0, |sent| sent.saturating_add(PAUSE_MS));
            entry.waiting = None;
            self.put(key, entry);
        }
    }

    /// Forgets what is over.
    fn sweep(&mut self, now_ms: u64) {
        while let Some(&(due_ms, key)) = self.queue(Queue::Over).first() {
            if due_ms > now_ms {
                return;
            }
            self.take(key);
            let mut others = self.entries.range((key.0, 0)..=(key.0, usize::MAX));
            if others.next().is_none()
                && let Some(news) = self.news.remove(&key.0)
            {
                self.zones.remove(&news.zone);
            }
        }
    }

    fn credit_max(&self) -> u64 {
        (u64::from(self.per_second) * ONE / 10).max(ONE)
    }

    fn earn(&mut self, now_ms: u64) {
        let elapsed = now_ms.saturating_sub(self.credit_ms);
        let earned = elapsed.saturating_mul(u64::from(self.per_second));
        self.credit = self.credit.saturating_add(earned).min(self.credit_max());
        self.credit_ms = self.credit_ms.max(now_ms);
    }

    /// Makes a message; none when all ids are taken, and it is put off.
    fn send(&mut self, key: Key, now: Moment) -> Option<(SocketAddr, Vec<u8>)> {
        let mut entry = self.take(key)?;
        let known = entry.waiting.take().map(|(id, _)| id);
        let Some(id) = known.or_else(|| self.draw_id(key.1)) else {
            entry.due_ms = now.monotonic_ms.saturating_add(PAUSE_MS);
            self.put(key, entry);
            return None;
        };
        let target = &self.targets[key.1];
        let mut message = self.news(key.0).message.clone();
        message[..2].copy_from_slice(&id.to_be_bytes());
        let mac = target.key.clone().and_then(|key| {
            let mut signer = Signer::of_request(key);
            signer.sign(&mut message, now.unix_seconds);
            signer.prior().map(<[u8]>::to_vec)
        });
        let address = target.address;
        let wait_ms = RETRY_MS << entry.sends;
        entry.queue = Queue::Sent;
        entry.due_ms = now.monotonic_ms.saturating_add(wait_ms);
        entry.sends += 1;
        entry.sent_ms = Some(now.monotonic_ms);
        entry.waiting = Some((id, mac));
        self.put(key, entry);
        Some((address, message))
    }

    fn draw_id(&mut self, target: usize) -> Option<u16> {
        (0..ID_TRIES).find_map(|_| {
            self.drawn += 1;
            let [i0, i1, ..] = siphash24(&self.secret, &self.drawn.to_be_bytes()).to_be_bytes();
            let id = u16::from_be_bytes([i0, i1]);
            (!self.waiting.contains_key(&(target, id))).then_some(id)
        })
    }

    /// Whether a reply has the signature that its target must give (RFC 8945 5.4).
    fn is_signed(&self, key: Key, octets: &[u8], reply: &Notified<'_>, now: Moment) -> bool {
        let Some(tsig_key) = &self.targets[key.1].key else {
            return true;
        };
        let waiting = self
            .entries
            .get(&key)
            .and_then(|entry| entry.waiting.as_ref());
        let (Some((_, Some(mac))), Some(tsig)) = (waiting, &reply.tsig) else {
            return false;
        };
        let in_time = tsig.time.abs_diff(now.unix_seconds) <= u64::from(tsig.fudge);
        let named = tsig.key == *tsig_key.name() && tsig.algorithm == tsig_key.algorithm().name();
        let right = tsig.error == 0 && named && in_time;
        right && verify(tsig_key, Some(mac), octets, tsig).is_ok()
    }
}

fn same_address(ours: SocketAddr, theirs: SocketAddr) -> bool {
    ours.port() == theirs.port() && ours.ip().to_canonical() == theirs.ip().to_canonical()
}

/// RFC 1996 3.7: the question is which SOA there is, and the answer a hint that tells.
fn message(zone: &Tree) -> Vec<u8> {
    let mut writer = Writer::keeping_case(PLAIN_UDP_OCTETS);
    let mut question = zone.origin().as_wire().to_vec();
    question.extend(Rtype::SOA.0.to_be_bytes());
    question.extend(CLASS_IN.to_be_bytes());
    writer.question(&question).expect("512 octets hold a name");
    let set = zone.set(APEX, Rtype::SOA).expect("a tree has an SOA");
    let mut data = set.data;
    let data = data.next().expect("a set has a record");
    let meta = (Rtype::SOA, CLASS_IN, set.ttl);
    // Names that are too long for it do without the hint, which may be missing.
    writer
        .whole(|writer| writer.record(Section::Answer, set.owner, meta, data))
        .unwrap_or(());
    // AA is set, as in the example of RFC 1996 4.5.
    writer.finish([0, 0, OPCODE_NOTIFY << 3 | 1 << 2, 0])
}

#[cfg(test)]
mod tests {
    use cfgdns_zone::{Rdata, Zone};

    use super::*;

    fn tree(origin: &str) -> Tree {
        let origin: Name = origin.parse().expect("a name");
        let data = Rdata::parse(Rtype::SOA, "ns. root. 1 1 1 1 1", None).expect("an SOA");
        let mut zone = Zone::new(origin.clone());
        zone.insert(&origin, Rtype::SOA, 60, data)
            .expect("in the zone");
        Tree::build(&zone).expect("it has an SOA")
    }

    fn at(monotonic_ms: u64) -> Moment {
        Moment {
            unix_seconds: 0,
            monotonic_ms,
        }
    }

    fn remembered(notifier: &Notifier) -> [usize; 5] {
        [
            notifier.zones.len(),
            notifier.news.len(),
            notifier.entries.len(),
            notifier.queues.iter().map(BTreeSet::len).sum(),
            notifier.waiting.len(),
        ]
    }

    #[test]
    fn what_is_answered_or_given_up_is_forgotten_after_its_pause() {
        let address: SocketAddr = "192.0.2.1:53".parse().expect("an address");
        let target = NotifyTarget { address, key: None };
        let other = NotifyTarget {
            address: "192.0.2.2:53".parse().expect("an address"),
            key: None,
        };
        let mut notifier = Notifier::new(vec![target, other], 100, [7; 16]);
        for zone in ["a.", "b.", "A."] {
            notifier.changed(&tree(zone), at(0));
        }
        assert_eq!(remembered(&notifier), [2, 2, 4, 4, 0]);
        let sent = notifier.poll(at(0));
        assert_eq!(remembered(&notifier), [2, 2, 4, 4, 4]);
        for (to, message) in sent {
            if to == address {
                let mut reply = message[..message.len().min(19)].to_vec();
                reply[2] |= 0x80;
                reply[7] = 0;
                assert!(matches!(
                    notifier.reply(to, &reply, at(1)),
                    NotifyReply::Heard(_, 0)
                ));
            }
        }
        assert_eq!(remembered(&notifier), [2, 2, 4, 4, 2]);
        notifier.poll(at(1_000));
        assert_eq!(remembered(&notifier), [2, 2, 2, 2, 2]);
        while let Some(wakeup) = notifier.next_wakeup() {
            notifier.poll(at(wakeup));
        }
        notifier.poll(at(1_000_000));
        assert_eq!((remembered(&notifier), notifier.given_up()), ([0; 5], 2));
        // Where nobody is told, nothing is remembered.
        let mut notifier = Notifier::new(Vec::new(), 100, [7; 16]);
        notifier.changed(&tree("a."), at(0));
        assert_eq!(remembered(&notifier), [0; 5]);
    }
}
