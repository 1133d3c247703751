//! What is told to secondaries, and when (RFC 1996).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use cfgdns_core::{
    Algorithm, Moment, NOTIFY_SENDS_MAX, Notifier, NotifyReply, NotifyTarget, Tree, TsigKey,
};
use cfgdns_zone::{Name, Rdata, Rtype, Soa, Zone};
use expect_test::{expect, expect_file};
use proptest::prelude::*;

use crate::signatures::SECRET;
use crate::transfers::{insert, moment, small_zone};
use cfgdns_testing::message::{Message, hex, message, unhex};
use cfgdns_testing::zones::name;

const REPLIES: &str = include_str!("../../../testdata/tsig/notify-replies.txt");

fn address(number: usize) -> SocketAddr {
    format!("192.0.2.{number}:53").parse().expect("an address")
}

fn targets(count: usize) -> Vec<NotifyTarget> {
    let target = |number| NotifyTarget {
        address: address(number),
        key: None,
    };
    (0..count).map(target).collect()
}

fn notifier(targets: Vec<NotifyTarget>, per_second: u32) -> Notifier {
    Notifier::new(targets, per_second, *b"fedcba9876543210")
}

fn tree(origin: &str, serial: u32) -> Tree {
    let mut zone = Zone::new(name(origin));
    let text = format!("ns root {serial} 1 1 1 1");
    insert(&mut zone, "@", Rtype::SOA, &text);
    Tree::build(&zone).expect("it has an SOA")
}

/// Whom a message is for, the zone and the serial that it tells.
fn told(sent: &[(SocketAddr, Vec<u8>)]) -> Vec<(SocketAddr, Name, u32)> {
    let one = |(address, octets): &(SocketAddr, Vec<u8>)| {
        let read = Message::read(octets);
        let soa = Rdata::from_wire(Rtype::SOA, &read.answer[0].data).expect("an SOA");
        let serial = Soa::from_data(&soa).expect("an SOA").serial;
        (*address, read.answer[0].name.clone(), serial)
    };
    sent.iter().map(one).collect()
}

/// The reply to a message, as RFC 1996 3.9 has it.
fn reply_to(octets: &[u8]) -> Vec<u8> {
    let read = Message::read(octets);
    let mut reply = message(0xa000, [&[read.question], &[], &[], &[]]);
    reply[..2].copy_from_slice(&octets[..2]);
    reply
}

/// RFC 1996 3.7 and 4.5: opcode 4, AA, the question for the SOA, and the SOA as a hint.
#[test]
fn message_asks_for_the_soa_and_hints_at_it() {
    let mut notifier = notifier(targets(1), 10);
    notifier.changed(
        &Tree::build(&small_zone(7)).expect("it has an SOA"),
        moment(0),
    );
    let sent = notifier.poll(moment(0));
    expect![[r#"
        70 octets, NOERROR aa opcode 4
        question: eXample. SOA
        answer: eXample. 3600 SOA ns1.eXample. root.eXample. 7 3600 600 604800 60
    "#]]
    .assert_eq(&Message::read(&sent[0].1).text());
    assert_eq!(sent[0].0, address(0));
    // Names that leave no room for the hint.
    let mut zone = Zone::new(name(&format!("{}example.", "long.".repeat(40))));
    let far = "far.".repeat(60);
    insert(
        &mut zone,
        "@",
        Rtype::SOA,
        &format!("{far} {far}x. 1 1 1 1 1"),
    );
    notifier.changed(&Tree::build(&zone).expect("it has an SOA"), moment(0));
    let sent = notifier.poll(moment(200));
    let read = Message::read(&sent[0].1);
    assert!(sent[0].1.len() <= 512 && read.question.len() > 200 && read.answer.is_empty());
}

#[test]
fn burst_of_changes_is_told_at_once_and_a_second_later_with_its_last_serial() {
    let mut notifier = notifier(targets(2), 100);
    let mut sent = Vec::new();
    for serial in 1..=50 {
        let now = moment(u64::from(serial) * 10);
        notifier.changed(&tree("example.", serial), now);
        sent.extend(notifier.poll(now));
    }
    let of = |serial| [0, 1].map(|target| (address(target), name("example."), serial));
    assert_eq!(told(&sent), of(1));
    assert_eq!(
        (notifier.next_wakeup(), notifier.pending()),
        (Some(1_010), 2)
    );
    assert!(notifier.poll(moment(1_009)).is_empty());
    assert_eq!(told(&notifier.poll(moment(1_010))), of(50));
    // It goes on at one a second.
    let mut count = 0;
    for serial in 51..=1_050 {
        let now = moment(1_020 + u64::from(serial - 51) * 10);
        notifier.changed(&tree("example.", serial), now);
        count += notifier.poll(now).len();
    }
    assert_eq!(count, 2 * 10);
}

/// RFC 1996 3.6: again, ever more slowly, and five times at most.
#[test]
fn target_that_does_not_answer_is_told_again_and_given_up() {
    let mut notifier = notifier(targets(1), 100);
    notifier.changed(&tree("example.", 1), moment(500));
    let mut times = Vec::new();
    let mut ids = Vec::new();
    while let Some(wakeup) = notifier.next_wakeup() {
        for (_, octets) in notifier.poll(moment(wakeup)) {
            times.push(wakeup);
            ids.push([octets[0], octets[1]]);
        }
    }
    assert_eq!(times, [500, 5_500, 15_500, 35_500, 75_500, 155_500]);
    assert_eq!(times.len(), usize::from(NOTIFY_SENDS_MAX));
    ids.dedup();
    assert_eq!(
        (ids.len(), notifier.given_up(), notifier.pending()),
        (1, 1, 0)
    );
    // The next change is told again.
    notifier.changed(&tree("example.", 2), moment(400_000));
    assert_eq!(notifier.poll(moment(400_000)).len(), 1);
}

/// RFC 1996 3.6: the id, the name, the address and the port; 4.8: any rcode ends it.
#[test]
fn reply_counts_only_when_it_is_to_what_was_sent() {
    let mut notifier = notifier(targets(2), 100);
    notifier.changed(&tree("example.", 1), moment(0));
    let sent = notifier.poll(moment(0));
    let good = reply_to(&sent[0].1);
    let changed = |at: usize, octet: u8| {
        let mut octets = good.clone();
        octets[at] ^= octet;
        octets
    };
    let mut other_type = good.clone();
    let end = other_type.len();
    other_type[end - 3] = 1;
    for (what, from, octets) in [
        ("another target", address(1), good.clone()),
        ("another address", address(9), good.clone()),
        (
            "another port",
            "192.0.2.0:54".parse().expect("an address"),
            good.clone(),
        ),
        ("another id", address(0), changed(1, 1)),
        ("another name", address(0), changed(14, 1)),
        ("another type", address(0), other_type),
        ("a request", address(0), changed(2, 0x80)),
        ("a reply to a question", address(0), changed(2, 0x20)),
        ("cut off", address(0), good[..good.len() - 1].to_vec()),
        ("nothing", address(0), Vec::new()),
    ] {
        let found = notifier.reply(from, &octets, moment(1));
        assert_eq!((what, found), (what, NotifyReply::Foreign));
    }
    assert_eq!(notifier.pending(), 2);
    // Names have no case; NOTIMP is an answer too.
    let mut refused = changed(13, 0x20);
    refused[3] |= 4;
    let mapped: SocketAddr = "[::ffff:192.0.2.0]:53".parse().expect("an address");
    let found = notifier.reply(mapped, &refused, moment(1));
    assert_eq!(found, NotifyReply::Heard(name("example."), 4));
    assert_eq!(
        notifier.reply(address(0), &good, moment(1)),
        NotifyReply::Foreign
    );
    assert_eq!(notifier.pending(), 1);
    // A reply to an older serial says nothing about the newer.
    let old = reply_to(&sent[1].1);
    notifier.changed(&tree("example.", 2), moment(2));
    assert_eq!(
        notifier.reply(address(1), &old, moment(3)),
        NotifyReply::Foreign
    );
    // The first target has its pause too.
    assert_eq!(notifier.poll(moment(999)).len(), 0);
    assert_eq!(notifier.poll(moment(1_000)).len(), 2);
}

/// As NSD replies when it does not serve the zone, or does not take news from us.
#[test]
fn error_may_lack_the_question() {
    let mut notifier = notifier(targets(1), 100);
    notifier.changed(&tree("example.", 1), moment(0));
    let sent = notifier.poll(moment(0));
    let header = |rcode| [&reply_to(&sent[0].1)[..3], &[rcode], &[0; 8]].concat();
    let found = notifier.reply(address(0), &header(0), moment(1));
    assert_eq!(found, NotifyReply::Foreign);
    let found = notifier.reply(address(1), &header(5), moment(1));
    assert_eq!(found, NotifyReply::Foreign);
    let found = notifier.reply(address(0), &header(5), moment(1));
    assert_eq!(found, NotifyReply::Heard(name("example."), 5));
    assert_eq!(notifier.pending(), 0);
}

#[test]
fn zone_that_is_gone_is_not_told_of() {
    let mut notifier = notifier(targets(2), 100);
    notifier.changed(&tree("example.", 1), moment(0));
    notifier.changed(&tree("example.org.", 1), moment(0));
    notifier.removed(&name("EXAMPLE."));
    let sent = notifier.poll(moment(0));
    assert!(
        told(&sent)
            .iter()
            .all(|(_, zone, _)| *zone == name("example.org."))
    );
    notifier.removed(&name("example.org."));
    assert_eq!((sent.len(), notifier.next_wakeup()), (2, None));
    assert_eq!(
        notifier.reply(address(0), &reply_to(&sent[0].1), moment(1)),
        NotifyReply::Foreign
    );
}

/// RFC 8945 5.4: a reply that is not rightly signed does not count. dnspython has checked our
/// messages and signed the replies: `dns/testdata/tsig/README.md`.
#[test]
fn target_with_a_key_is_told_signed_and_must_answer_signed() {
    let key = TsigKey::new(name("sha256.key."), Algorithm::HmacSha256, SECRET).expect("a key");
    let target = NotifyTarget {
        address: address(0),
        key: Some(Arc::new(key)),
    };
    let mut notifier = notifier(vec![target], 100);
    notifier.changed(
        &Tree::build(&small_zone(7)).expect("it has an SOA"),
        moment(0),
    );
    let (_, first) = notifier.poll(moment(0)).remove(0);
    let (_, again) = notifier.poll(moment(5_000)).remove(0);
    assert_eq!(first, again);
    let text = format!("{}\n", hex(&first));
    expect_file!["../../../testdata/tsig/notify.txt"].assert_eq(&text);
    let line = REPLIES
        .lines()
        .find(|line| !line.starts_with('#'))
        .expect("a reply");
    let good = unhex(line);
    let unsigned = reply_to(&first);
    let mut wrong = good.clone();
    wrong[3] ^= 1;
    let bad = NotifyReply::Unsigned(name("example."), 0);
    assert_eq!(notifier.reply(address(0), &unsigned, moment(1)), bad);
    let bad = NotifyReply::Unsigned(name("example."), 1);
    assert_eq!(notifier.reply(address(0), &wrong, moment(1)), bad);
    let late = Moment {
        unix_seconds: moment(1).unix_seconds + 301,
        monotonic_ms: 1,
    };
    let bad = NotifyReply::Unsigned(name("example."), 0);
    assert_eq!(notifier.reply(address(0), &good, late), bad);
    assert_eq!(notifier.pending(), 1);
    let heard = NotifyReply::Heard(name("example."), 0);
    assert_eq!(notifier.reply(address(0), &good, moment(1)), heard);
}

/// All zones change at once, and one of the targets is down: the rate is kept, everybody is told
/// once, and a later change does not wait for what is sent again.
#[test]
fn change_of_all_zones_is_no_storm() {
    let (zones, rate) = (1_000, 500);
    let mut notifier = notifier(targets(4), rate);
    for number in 0..zones {
        notifier.changed(&tree(&format!("zone{number}.example."), 1), moment(0));
    }
    let mut seconds = BTreeMap::<u64, u32>::new();
    let mut counts = BTreeMap::<(SocketAddr, Name), u32>::new();
    let mut now_ms = 0;
    let mut later = None;
    while let Some(wakeup) = notifier.next_wakeup().filter(|wakeup| *wakeup < 60_000) {
        now_ms = now_ms.max(wakeup);
        if now_ms >= 20_000 && later.is_none() {
            notifier.changed(&tree("zone7.example.", 2), moment(now_ms));
            later = Some(now_ms);
        }
        let sent = notifier.poll(moment(now_ms));
        for ((target, octets), (_, zone, serial)) in sent.iter().zip(told(&sent)) {
            *seconds.entry(now_ms / 1_000).or_default() += 1;
            let is_down = *target == address(3);
            if !is_down {
                let reply = notifier.reply(*target, &reply_to(octets), moment(now_ms));
                assert!(matches!(reply, NotifyReply::Heard(_, 0)));
            }
            if serial == 2 {
                let waited = now_ms - later.expect("it has changed");
                assert!(waited < 100 || is_down);
            } else {
                *counts.entry((*target, zone)).or_default() += 1;
            }
        }
    }
    assert!(seconds.values().all(|count| *count <= rate + rate / 10));
    assert!(later.is_some());
    for ((target, _), count) in &counts {
        // The one that is down is told again after 5 and after 10 seconds, and after 20.
        assert_eq!(*count > 1, *target == address(3));
    }
    assert_eq!(counts.len(), 4 * zones);
}

/// What may happen.
#[derive(Debug, Clone)]
enum Action {
    Change(usize),
    Remove(usize),
    /// A poll, so many milliseconds later, of which some messages are answered.
    Poll(u64, Vec<bool>),
}

fn any_action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => (0..4_usize).prop_map(Action::Change),
        1 => (0..4_usize).prop_map(Action::Remove),
        6 => (
            prop_oneof![0..2_000_u64, Just(6_000)],
            proptest::collection::vec(any::<bool>(), 8),
        ).prop_map(|(later, answers)| Action::Poll(later, answers)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Each zone and target: no two messages within a second, never an older serial, and in the end
    /// the last one was told, when the zone is still there. No more than the rate.
    #[test]
    fn every_last_serial_is_told_and_none_too_often(
        actions in proptest::collection::vec(any_action(), 1..60),
    ) {
        let mut notifier = notifier(targets(3), 20);
        let mut serials = BTreeMap::<usize, u32>::new();
        let mut told_at = BTreeMap::<(SocketAddr, Name), (u64, u32)>::new();
        let (mut now_ms, mut serial, mut sent_in_all) = (0, 0, 0);
        let last = Action::Poll(0, vec![true]);
        let rest = std::iter::repeat_n(last, 400);
        for (number, action) in actions.iter().cloned().chain(rest).enumerate() {
            match action {
                Action::Change(zone) => {
                    serial += 1;
                    serials.insert(zone, serial);
                    notifier.changed(&tree(&format!("z{zone}."), serial), moment(now_ms));
                }
                Action::Remove(zone) => {
                    serials.remove(&zone);
                    notifier.removed(&name(&format!("z{zone}.")));
                    for target in 0..3 {
                        told_at.remove(&(address(target), name(&format!("z{zone}."))));
                    }
                }
                Action::Poll(later, answers) => {
                    now_ms += later;
                    if number >= actions.len() {
                        // In the end it is asked when it says so.
                        let Some(wakeup) = notifier.next_wakeup() else { break };
                        if wakeup > now_ms {
                            prop_assert!(notifier.poll(moment(wakeup - 1)).is_empty());
                        }
                        now_ms = now_ms.max(wakeup);
                    }
                    let sent = notifier.poll(moment(now_ms));
                    sent_in_all += sent.len();
                    let all = sent.iter().zip(told(&sent)).zip(answers.iter().cycle());
                    for (((target, octets), (_, zone, serial)), answered) in all {
                        let key = (*target, zone);
                        if let Some((before_ms, before)) = told_at.insert(key, (now_ms, serial)) {
                            prop_assert!(now_ms >= before_ms + 1_000 && serial >= before);
                        }
                        if *answered {
                            let reply = notifier.reply(*target, &reply_to(octets), moment(now_ms));
                            prop_assert!(matches!(reply, NotifyReply::Heard(_, 0)));
                        }
                    }
                    let most = 2 + now_ms / 50;
                    prop_assert!(u64::try_from(sent_in_all).expect("few") <= most);
                }
            }
        }
        prop_assert_eq!((notifier.pending(), notifier.next_wakeup()), (0, None));
        for (zone, serial) in serials {
            for target in 0..3 {
                let key = (address(target), name(&format!("z{zone}.")));
                prop_assert_eq!(told_at.get(&key).map(|(_, serial)| *serial), Some(serial));
            }
        }
    }

    #[test]
    fn arbitrary_replies_are_foreign(octets in proptest::collection::vec(any::<u8>(), 0..60)) {
        let mut notifier = notifier(targets(1), 20);
        notifier.changed(&tree("example.", 1), moment(0));
        let sent = notifier.poll(moment(0));
        let found = notifier.reply(address(0), &octets, moment(1));
        prop_assert_eq!(found, NotifyReply::Foreign);
        // With the right beginning, too.
        let start = reply_to(&sent[0].1);
        let longer = [&start[..11], &[1], &start[12..], &octets].concat();
        let found = notifier.reply(address(0), &longer, moment(1));
        prop_assert!(matches!(found, NotifyReply::Foreign | NotifyReply::Heard(_, 0)));
    }
}
