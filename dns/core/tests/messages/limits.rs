//! The rate limit as clients see it.

use cfgdns_core::{
    Freshness, Limiter, Limits, Local, Outcome, State, Transport, rcode_of, respond,
};
use cfgdns_zone::Rtype;

use crate::{CLIENT, arrival, state, udp};
use cfgdns_testing::message::{Message, TC, opt, query};

/// RFC 7873 8.
const BADCOOKIE: u16 = 23;

fn limiter() -> Limiter {
    let limits = Limits {
        per_second: 5,
        slip: 2,
        entries: 1_000,
    };
    Limiter::new(limits, *b"fedcba9876543210")
}

/// What comes back for requests that come in one millisecond: sent, without its records because of
/// the limit or of its size, nothing.
fn flood(state: &State, transport: Transport, requests: impl Iterator<Item = Vec<u8>>) -> [u32; 3] {
    let mut limiter = limiter();
    let mut counts = [0; 3];
    for request in requests {
        let arrival = arrival(transport, CLIENT, 1_000);
        let local = Local {
            limiter: Some(&mut limiter),
            signatures: None,
        };
        let place = match respond(state, local, &arrival, &request) {
            Outcome::Send(octets) => {
                let reply = Message::read(&octets);
                assert_eq!(rcode_of(&octets), Some(reply.rcode()));
                let slipped = reply.has(TC) || reply.rcode() == BADCOOKIE;
                assert!(!slipped || reply.answer.len() + reply.authority.len() == 0);
                usize::from(slipped)
            }
            Outcome::Silence => 2,
            Outcome::Stream(_) => panic!("a transfer"),
        };
        counts[place] += 1;
    }
    counts
}

fn same(name: &str, rtype: Rtype, cookie: Option<&[u8]>) -> impl Iterator<Item = Vec<u8>> + use<> {
    let opt = cookie.map(|cookie| opt(1_232, 0, &[(10, cookie)]));
    std::iter::repeat_n(query(name, rtype, opt), 105)
}

#[test]
fn flood_over_udp_gets_its_share_then_half_truncated_and_half_nothing() {
    let state = state();
    let www = || same("www.example.", Rtype::A, None);
    assert_eq!(flood(&state, Transport::Udp, www()), [5, 50, 50]);
    assert_eq!(flood(&state, Transport::Tcp, www()), [105, 0, 0]);
}

/// RFC 7873 1: who is where it says need not be limited; a cookie that is not ours shows nothing.
#[test]
fn client_that_shows_our_cookie_is_not_limited() {
    let state = state();
    let www = |cookie: &[u8]| same("www.example.", Rtype::A, Some(cookie));
    let first = query(
        "www.example.",
        Rtype::A,
        Some(opt(1_232, 0, &[(10, b"01234567")])),
    );
    let ours = udp(&state, &first).option(10).expect("a cookie").to_vec();
    assert_eq!(flood(&state, Transport::Udp, www(&ours)), [105, 0, 0]);
    assert_eq!(flood(&state, Transport::Udp, www(&ours[..8])), [5, 50, 50]);
    let mut wrong = ours.clone();
    wrong[20] ^= 1;
    assert_eq!(flood(&state, Transport::Udp, www(&wrong)), [5, 50, 50]);
}

/// What slips through, for this cookie of the client and these secrets of ours.
fn slipped(state: &State, cookie: Option<&[u8]>) -> Message {
    let mut limiter = limiter();
    let mut replies = same("www.example.", Rtype::A, cookie).filter_map(|request| {
        let local = Local {
            limiter: Some(&mut limiter),
            signatures: None,
        };
        let outcome = respond(
            state,
            local,
            &arrival(Transport::Udp, CLIENT, 1_000),
            &request,
        );
        match outcome {
            Outcome::Send(octets) => Some(Message::read(&octets)),
            Outcome::Silence | Outcome::Stream(_) => None,
        }
    });
    // As many as a second has are sent whole.
    replies.nth(5).expect("half of them")
}

/// RFC 7873 5.2.3 and 5.2.4: who has cookies, and none of ours or a wrong one, gets one, and with it
/// the answer; over TCP need come only who has none.
#[test]
fn client_with_cookies_is_sent_one_over_the_limit_and_others_to_tcp() {
    let state = state();
    let wrong = [b'0'; 24];
    for theirs in [&b"01234567"[..], &wrong] {
        let reply = slipped(&state, Some(theirs));
        assert_eq!(
            (reply.rcode(), reply.has(TC), reply.has(0x0400)),
            (BADCOOKIE, false, false)
        );
        let ours = reply.option(10).expect("a cookie");
        assert_eq!((&ours[..8], ours.len()), (&theirs[..8], 24));
        let asked = query("www.example.", Rtype::A, Some(opt(1_232, 0, &[(10, ours)])));
        let again = udp(&state, &asked);
        assert_eq!((again.rcode(), again.answer.len()), (0, 1));
        let flooded = same("www.example.", Rtype::A, Some(ours));
        assert_eq!(flood(&state, Transport::Udp, flooded), [105, 0, 0]);
    }
    let reply = slipped(&state, None);
    assert_eq!((reply.rcode(), reply.has(TC)), (0, true));
    // Who has no secrets has no cookies to send.
    let mut without = state.clone();
    without.settings.cookies = None;
    let reply = slipped(&without, Some(b"01234567"));
    assert_eq!(
        (reply.rcode(), reply.has(TC), reply.option(10)),
        (0, true, None)
    );
    // An error is small, and says more than that it comes too often.
    let foreign = same("example.org.", Rtype::A, Some(b"01234567"));
    assert_eq!(flood(&state, Transport::Udp, foreign), [55, 0, 50]);
}

/// Names that strangers make up are counted together, whatever answers them; names of the zone are
/// counted each by itself.
#[test]
fn made_up_names_are_counted_as_one() {
    let state = state();
    let made_up = |below: &'static str, rtype| {
        (0..105).map(move |number| query(&format!("n{number}.{below}"), rtype, None))
    };
    for (below, rtype) in [
        ("example.", Rtype::A),
        ("wild.example.", Rtype::A),
        ("wild.example.", Rtype::MX),
        ("old.example.", Rtype::A),
        ("sub.example.", Rtype::A),
    ] {
        let counts = flood(&state, Transport::Udp, made_up(below, rtype));
        assert_eq!(counts, [5, 50, 50], "{below} {rtype}");
    }
    let names = ["www", "mail", "ns1", "many"].into_iter().cycle().take(20);
    let known = names.map(|name| query(&format!("{name}.example."), Rtype::A, None));
    // Of the sets of `many` nothing fits: that is truncated without any limit.
    assert_eq!(flood(&state, Transport::Udp, known), [15, 5, 0]);
}

/// An error has nothing to cut off: what slips through is the error itself.
#[test]
fn refusals_over_the_limit_are_fewer_and_whole() {
    let foreign = same("example.org.", Rtype::A, None);
    assert_eq!(flood(&state(), Transport::Udp, foreign), [55, 0, 50]);
}

/// Silence is what hurts clients most, and this is hardly larger than its question.
#[test]
fn server_that_is_not_fresh_says_so_however_often_it_is_asked() {
    let mut state = state();
    state.freshness = Freshness::Lost;
    let www = same("www.example.", Rtype::A, None);
    assert_eq!(flood(&state, Transport::Udp, www), [105, 0, 0]);
}
