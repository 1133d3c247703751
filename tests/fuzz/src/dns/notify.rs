//! Messages about changes (RFC 1996): what comes back for ours, and those of others.
//!
//! - whatever comes, a reply counts only from the address that was told, with the id of a message
//!   that waits, and rightly signed where the target has a key;
//! - each zone and target: no two messages within a second; together within the rate;
//! - in the end nobody is waited for, and nothing is left to do;
//! - a message of others is no request that is served, and is answered with NOTIMP.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use cfgdns_core::{
    Arrival, Local, Moment, NOTIFY_SENDS_MAX, Notifier, NotifyReply, NotifyTarget, Outcome,
    Request, Transport, Tree, respond,
};
use cfgdns_testing::message::Message;
use cfgdns_testing::zones::{name, zone};
use cfgdns_zone::Name;

use super::reply::checked;
use super::server::{NOW, servers};
use super::tsig::{self, Key};
use crate::draw::Draw;

const ZONES: [&str; 3] = ["z.", "Example.", "long.name.of.a.zone."];
const PER_SECOND: u32 = 20;
const STEPS_MAX: u32 = 200;
const HEADER_OCTETS: usize = 12;
const NOTIMP: u16 = 4;

/// What was sent, by target and id: the zone, and the MAC of the message.
type Waiting = BTreeMap<(usize, [u8; 2]), (Name, Option<Vec<u8>>)>;

struct Telling {
    notifier: Notifier,
    key: Option<Key>,
    now_ms: u64,
    sent_in_all: u64,
    waiting: Waiting,
    sent_ms: BTreeMap<(usize, Name), u64>,
}

fn address(target: usize) -> SocketAddr {
    let last = u8::try_from(target).expect("few targets");
    ([192, 0, 2, last], 53).into()
}

/// Changes, polls, time that passes, and datagrams that come.
pub(crate) fn notify(data: &[u8]) {
    let mut draw = Draw::new(data);
    let key = draw.flag().then(|| Key::new(usize::from(draw.byte())));
    let targets = [None, key]
        .into_iter()
        .enumerate()
        .map(|(target, key)| NotifyTarget {
            address: address(target),
            key: key.map(|key| Arc::new(key.tsig_key())),
        });
    let mut telling = Telling {
        notifier: Notifier::new(targets.collect(), PER_SECOND, [5; 16]),
        key,
        now_ms: 0,
        sent_in_all: 0,
        waiting: Waiting::new(),
        sent_ms: BTreeMap::new(),
    };
    for step in 0..STEPS_MAX {
        if draw.is_empty() {
            break;
        }
        telling.step(&mut draw, step);
    }
    telling.end();
}

impl Telling {
    fn now(&self) -> Moment {
        Moment {
            unix_seconds: NOW.unix_seconds + self.now_ms / 1_000,
            monotonic_ms: self.now_ms,
        }
    }

    fn step(&mut self, draw: &mut Draw<'_>, serial: u32) {
        let zones = u64::try_from(ZONES.len()).expect("few");
        match draw.below(8) {
            0 | 1 => {
                let origin = ZONES[usize::try_from(draw.below(zones)).unwrap_or(0)];
                let text = format!("@ 60 SOA ns root {serial} 1 1 1 1\n@ 60 NS ns.other.\n");
                let tree = Tree::build(&zone(origin, &text)).expect("it has an SOA");
                self.notifier.changed(&tree, self.now());
                // What was sent of it before is old.
                self.waiting.retain(|_, (zone, _)| *zone != name(origin));
            }
            2 if draw.rarely(4) => {
                let origin = name(ZONES[usize::try_from(draw.below(zones)).unwrap_or(0)]);
                self.notifier.removed(&origin);
                self.waiting.retain(|_, (zone, _)| *zone != origin);
                self.sent_ms.retain(|(_, zone), _| *zone != origin);
            }
            2 | 3 => {
                self.now_ms += draw.below(256) * 8;
                self.poll();
            }
            _ => self.datagram(draw),
        }
        assert!(self.notifier.pending() <= 2 * ZONES.len());
    }

    /// Takes what is to be sent now.
    fn poll(&mut self) {
        for (to, octets) in self.notifier.poll(self.now()) {
            let target = usize::from(to == address(1));
            assert_eq!(to, address(target));
            let read = Message::read(&octets);
            let (zone, _) = Name::from_wire(&read.question).expect("a name");
            let found = tsig::found(&read);
            assert_eq!(found.is_some(), target == 1 && self.key.is_some());
            assert!(octets.len() <= 512 && read.flags == 0x2400, "opcode 4, AA");
            let key = (target, [octets[0], octets[1]]);
            self.waiting
                .insert(key, (zone.clone(), found.map(|found| found.mac)));
            let before = self.sent_ms.insert((target, zone), self.now_ms);
            assert!(
                before.is_none_or(|before| before + 1_000 <= self.now_ms),
                "too often"
            );
            self.sent_in_all += 1;
            is_not_served(&octets);
        }
        let most = 2 + self.now_ms * u64::from(PER_SECOND) / 1_000;
        assert!(self.sent_in_all <= most, "{} messages", self.sent_in_all);
    }

    /// Something comes: as it is, or as the reply to a message that waits.
    fn datagram(&mut self, draw: &mut Draw<'_>) {
        let how = draw.byte();
        let mut octets = draw.bytes(255).to_vec();
        let from = usize::from(how & 3);
        let waiting = self.waiting.iter().find(|((target, _), _)| *target == from);
        let waiting = waiting.map(|(key, told)| (*key, told.clone()));
        let has_header = octets.len() >= HEADER_OCTETS;
        let mut signed = false;
        if let Some((((_, id), (zone, mac)), true)) = waiting.zip(Some(how & 4 == 0 && has_header))
        {
            octets[..2].copy_from_slice(&id);
            if how & 8 == 0 {
                octets = reply_about(&zone, &octets);
            }
            if let Some((key, mac)) = self.key.zip(mac).filter(|_| how & 16 == 0) {
                let time = self.now().unix_seconds;
                tsig::sign(&mut octets, key, Some(&mac), (time, key.octets()));
                signed = true;
            }
        }
        is_not_served(&octets);
        let pending = self.notifier.pending();
        let found = self.notifier.reply(address(from), &octets, self.now());
        let id = octets.get(..2).map(|id| (from, [id[0], id[1]]));
        let told = id.and_then(|id| self.waiting.get(&id));
        match found {
            NotifyReply::Foreign => assert_eq!(self.notifier.pending(), pending),
            NotifyReply::Unsigned(zone, _) => {
                assert_eq!(self.notifier.pending(), pending);
                assert!(told.is_some_and(|(told, mac)| *told == zone && mac.is_some()));
            }
            NotifyReply::Heard(zone, rcode) => {
                assert!(told.is_some_and(|(told, mac)| *told == zone && mac.is_some() <= signed));
                assert_eq!(rcode, octets[3] & 15);
                assert_eq!(self.notifier.pending(), pending - 1);
                self.waiting.remove(&id.expect("it was told"));
            }
        }
    }

    /// Nobody answers any more: each is told as often as may be, and given up.
    fn end(&mut self) {
        let most = 2 * ZONES.len() * usize::from(NOTIFY_SENDS_MAX + 1);
        for _ in 0..2 * most {
            let Some(wakeup) = self.notifier.next_wakeup() else {
                break;
            };
            self.now_ms = self.now_ms.max(wakeup);
            self.poll();
        }
        assert_eq!(
            (self.notifier.next_wakeup(), self.notifier.pending()),
            (None, 0)
        );
    }
}

/// To us it is a message that is not taken, or nothing at all.
fn is_not_served(octets: &[u8]) {
    let arrival = Arrival {
        transport: Transport::Udp,
        client: address(9),
        now: NOW,
    };
    let Some(request) = Request::read(octets).filter(|request| request.opcode == 4) else {
        return;
    };
    match respond(&servers()[1].state, Local::default(), &arrival, octets) {
        Outcome::Send(reply) => {
            let read = checked(&request, &reply);
            assert!(read.rcode() == NOTIMP || request.tsig.is_some());
        }
        other @ (Outcome::Silence | Outcome::Stream(_)) => panic!("{other:?}"),
    }
}

/// The flags and the rest of a datagram behind the question that was asked.
fn reply_about(zone: &Name, octets: &[u8]) -> Vec<u8> {
    let mut reply = octets[..HEADER_OCTETS].to_vec();
    reply[2] = octets[2] & 0x07 | 0xa0;
    reply[4..6].copy_from_slice(&[0, 1]);
    reply.extend(zone.as_wire());
    reply.extend([0, 6, 0, 1]);
    reply.extend(&octets[HEADER_OCTETS..]);
    reply
}
