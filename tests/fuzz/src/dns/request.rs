//! Requests as they come from the network.
//!
//! ```text
//! input  ─┬─ first octet: which server, who asks, how the request is signed after it was changed
//!         └─ the rest: the message
//! ```
//!
//! - a message with the header of a request gets a reply, others get none;
//! - a reply has the form that careful clients ask for, and is over UDP what it is over TCP, or cut
//!   between sets, with TC when something is missed;
//! - of a signed zone, each signature is valid and each set has one, for whoever sets DO; without
//!   DO it is answered as an unsigned one, to the last octet;
//! - a reply to a rightly signed request is signed, also each message of a transfer;
//! - a transfer is the whole zone, or makes it out of what the client has; it ends with SERVFAIL
//!   when the server is fenced on the way;
//! - two servers say the same, whether signatures are made or found;
//! - a server that is not fresh tells nothing of a zone; the rate limit lets nothing longer
//!   through.

use std::net::SocketAddr;
use std::sync::Mutex;

use cfgdns_core::{
    Arrival, End, Freshness, Limiter, Limits, Local, Outcome, Request, STREAM_OCTETS,
    SignatureCache, State, Stream, TCP_OCTETS_MAX, Transport, respond,
};
use cfgdns_testing::message::{AA, Message, Record, TC};
use cfgdns_testing::secondary::{apply_to, key, serial};
use cfgdns_testing::zones::name;
use cfgdns_zone::Rtype;

use super::reply::{check_cut, check_proofs, check_signatures, check_size, checked};
use super::server::{NOW, SERIALS, Server, others, servers};
use super::tsig::{self, Key};

const HEADER_OCTETS: usize = 12;
/// Messages of a transfer: zones of the servers have fewer.
const MESSAGES_MAX: usize = 32;
/// The serial that is served.
const SERIAL: u32 = SERIALS[SERIALS.len() - 1];
/// How much earlier a request was signed that comes too late.
const LATE_SECONDS: u64 = 10_000;

/// What the first octet says.
struct How {
    server: usize,
    allowed: bool,
    /// The key, whether the request comes in time, whether the MAC is cut to half.
    signed: Option<(Key, bool, bool)>,
    /// The server is fenced after the first message of a transfer.
    fenced: bool,
}

impl How {
    fn read(octet: u8) -> Self {
        let signed = match octet >> 3 & 7 {
            0 | 7 => None,
            6 => Some((Key::new(2), false, false)),
            number => Some((Key::new(usize::from(number)), true, octet & 0x40 != 0)),
        };
        Self {
            server: usize::from(octet & 3) % 3,
            allowed: octet & 4 == 0,
            signed,
            fenced: octet & 0x80 != 0,
        }
    }
}

/// The signature that was put on a request: where it begins, its key and MAC, whether in time.
struct Signed {
    start: usize,
    key: Key,
    mac: Vec<u8>,
    in_time: bool,
}

/// A request and who asks it.
struct Asking {
    octets: Vec<u8>,
    client: SocketAddr,
    signed: Option<Signed>,
}

impl Asking {
    fn new(how: &How, message: &[u8]) -> Self {
        let client = if how.allowed {
            [127, 0, 0, 1]
        } else {
            [192, 0, 2, 9]
        };
        let mut octets = message.to_vec();
        let wanted = how.signed.filter(|_| octets.len() >= HEADER_OCTETS);
        let signed = wanted.map(|(key, in_time, half)| {
            let start = octets.len();
            let late = if in_time { 0 } else { LATE_SECONDS };
            let time = NOW.unix_seconds - late;
            let mac_octets = if half { key.octets() / 2 } else { key.octets() };
            let mac = tsig::sign(&mut octets, key, None, (time, mac_octets));
            Signed {
                start,
                key,
                mac,
                in_time,
            }
        });
        Self {
            octets,
            client: (client, 5_353).into(),
            signed,
        }
    }

    fn ask(&self, state: &State, transport: Transport, local: Local<'_>) -> Outcome {
        let arrival = Arrival {
            transport,
            client: self.client,
            now: NOW,
        };
        respond(state, local, &arrival, &self.octets)
    }

    /// The signature that the server must have found right.
    fn right(&self, request: &Request<'_>) -> Option<&Signed> {
        let found = request.tsig.as_ref()?;
        let signed = self.signed.as_ref()?;
        (found.start == signed.start).then_some(signed)
    }
}

/// A message to a server.
pub(crate) fn request(data: &[u8]) {
    let Some((how, message)) = data.split_first() else {
        return;
    };
    let how = How::read(*how);
    let asking = Asking::new(&how, message);
    let server = &servers()[how.server];
    let state = &server.state;
    let udp = sent(asking.ask(state, Transport::Udp, Local::default()));
    let Some(request) = Request::read(&asking.octets) else {
        assert!(udp.is_none(), "a reply to what is no request");
        return;
    };
    let udp = udp.expect("a request gets a reply");
    let read = check_message(&asking, &request, server, (Transport::Udp, &udp));
    match asking.ask(state, Transport::Tcp, Local::default()) {
        Outcome::Silence => panic!("silence over TCP alone"),
        Outcome::Stream(stream) => {
            check_transfer(&asking, &request, server, (stream, &read, how.fenced));
        }
        Outcome::Send(tcp) => {
            let whole = check_message(&asking, &request, server, (Transport::Tcp, &tcp));
            if !is_transfer(&request) {
                check_cut(&read, &whole);
            }
            check_as_unsigned(&asking, &request, how.server, &tcp);
        }
    }
    check_quic(&asking, &request, state);
    check_other(&asking, how.server, &udp);
    check_limited(&asking, &request, state, &udp);
    check_fenced(&asking, state);
}

fn sent(outcome: Outcome) -> Option<Vec<u8>> {
    match outcome {
        Outcome::Send(octets) => Some(octets),
        Outcome::Silence => None,
        Outcome::Stream(_) => panic!("a transfer where there is none"),
    }
}

/// Over QUIC nothing is signed, nor said to who signs; all else is as where transfers are refused.
fn check_quic(asking: &Asking, request: &Request<'_>, state: &State) {
    let quic = sent(asking.ask(state, Transport::Quic, Local::default()));
    let quic = quic.expect("a request gets a reply");
    if request.tsig.is_none() {
        let refusing = Transport::Tls { dot: false };
        let tls = sent(asking.ask(state, refusing, Local::default()));
        assert!(tls == Some(quic), "it is said otherwise over QUIC");
        return;
    }
    let read = Message::read(&quic);
    assert!(read.rcode() == 5 && !read.has(AA), "{}", read.rcode());
    assert!(read.answer.is_empty() && read.authority.is_empty() && read.additional.is_empty());
}

fn is_transfer(request: &Request<'_>) -> bool {
    let asked = request.question.as_ref();
    asked.is_some_and(|asked| matches!(asked.rtype, Rtype::AXFR | Rtype::IXFR))
}

/// Everything that must hold of one message, but for what is between two.
fn check_message(
    asking: &Asking,
    request: &Request<'_>,
    server: &Server,
    (transport, octets): (Transport, &[u8]),
) -> Message {
    let read = checked(request, octets);
    check_size(request, transport, &read);
    check_tsig(asking, request, octets, &read);
    if !is_transfer(request) {
        check_proofs(request, server.signer.as_deref(), &read);
    }
    read
}

/// RFC 8945 5.3: who signs rightly gets a signed reply, nobody else does.
fn check_tsig(asking: &Asking, request: &Request<'_>, octets: &[u8], read: &Message) {
    let found = tsig::found(read);
    let Some(signed) = asking.right(request) else {
        let is_error = |found: &tsig::Found| found.mac.is_empty() || found.error == 18;
        assert!(found.as_ref().is_none_or(is_error), "signed for anybody");
        return;
    };
    let found = found.expect("a signed request gets a signed reply");
    tsig::verified(octets, signed.key, &signed.mac, true);
    assert_eq!(found.error, if signed.in_time { 0 } else { 18 });
}

/// All messages of a transfer, each checked for its form, signed each with that before it.
fn walk(
    asking: &Asking,
    request: &Request<'_>,
    state: &State,
    (mut stream, fenced): (Stream, bool),
) -> (Vec<Message>, Option<End>) {
    let mut messages: Vec<Message> = Vec::new();
    let mut fenced_state = state.clone();
    fenced_state.freshness = Freshness::Lost;
    let signed = asking.right(request);
    let mut prior = signed.map(|signed| signed.mac.clone());
    loop {
        let first = messages.is_empty();
        let state = if fenced && !first {
            &fenced_state
        } else {
            state
        };
        let Some(octets) = stream.next(state, NOW) else {
            break;
        };
        assert!(octets.len() <= TCP_OCTETS_MAX);
        let read = Message::read(&octets);
        // As far as pointers reach, but where one record has more.
        let first_octets = read.answer.first().map_or(0, |record| record.data.len());
        assert!(read.octets.saturating_sub(first_octets) <= STREAM_OCTETS);
        assert!(!read.has(TC) && read.id == request.id);
        let failed = stream.end() == Some(End::NotFresh);
        assert_eq!(
            (read.has(AA), read.rcode()),
            (!failed, if failed { 2 } else { 0 })
        );
        assert_eq!(read.answer.is_empty(), failed);
        // The question is in the first message, and in one that says that there is an error.
        let asked = request
            .question
            .as_ref()
            .map_or(&[][..], |asked| asked.wire);
        assert!(read.question == if first || failed { asked } else { &[] });
        assert_eq!(read.opt.is_some(), request.edns.is_some());
        prior = prior.map(|prior| {
            let key = signed.expect("it has a MAC").key;
            tsig::verified(&octets, key, &prior, first)
        });
        messages.push(read);
        assert!(messages.len() <= MESSAGES_MAX, "a transfer without end");
    }
    assert!(
        stream.next(state, NOW).is_none(),
        "it goes on after its end"
    );
    (messages, stream.end())
}

/// A transfer over TCP, and what was said over UDP in its place.
fn check_transfer(
    asking: &Asking,
    request: &Request<'_>,
    server: &Server,
    (stream, udp, fenced): (Stream, &Message, bool),
) {
    let asked = request
        .question
        .as_ref()
        .expect("a transfer has a question");
    let (messages, end) = walk(asking, request, &server.state, (stream, fenced));
    if end != Some(End::Complete) {
        assert!(fenced && end == Some(End::NotFresh) && messages.len() == 2);
        return;
    }
    let records: Vec<Record> = messages.into_iter().flat_map(|read| read.answer).collect();
    let (first, last) = (&records[0], &records[records.len() - 1]);
    assert!(first.rtype == Rtype::SOA && key(first) == key(last));
    if asked.rtype == Rtype::IXFR {
        // RFC 1995 2: the same, or the SOA alone.
        let mut rest = udp.answer.iter().skip(1);
        let soa_alone = rest.all(|record| record.rtype == Rtype::RRSIG);
        assert!(udp.answer == records || soa_alone && serial(&udp.answer[0]) == serial(first));
    }
    if asked.name != name("z.") {
        return;
    }
    let served = &server.versions[&SERIAL];
    let have = request.serial.filter(|_| asked.rtype == Rtype::IXFR);
    let current = |have: u32| SERIAL.wrapping_sub(have).wrapping_sub(1) >= i32::MAX.unsigned_abs();
    if have.is_some_and(current) {
        assert_eq!((records.len(), serial(first)), (1, SERIAL));
        return;
    }
    let known = have.and_then(|have| server.versions.get(&have));
    let (made, steps) = apply_to(known.unwrap_or(served), &records);
    let expected = served.iter().map(key).collect();
    assert!(made == expected, "another zone than the one that is served");
    if steps == 0 {
        assert_eq!(records.len(), served.len() + 1);
    }
    if let Some(signer) = &server.signer
        && steps == 0
    {
        check_signatures(&records[..served.len()], signer, false);
    }
    let expected = have.and_then(|have| SERIALS.iter().position(|serial| *serial == have));
    assert_eq!(steps, expected.map_or(0, |place| SERIALS.len() - 1 - place));
}

/// Without DO a signed zone is answered as an unsigned one.
fn check_as_unsigned(asking: &Asking, request: &Request<'_>, server: usize, octets: &[u8]) {
    let wanted = request.edns.is_some_and(|edns| edns.dnssec_ok);
    let rtype = request.question.as_ref().map(|asked| asked.rtype);
    let signed_only = [Rtype::RRSIG, Rtype::NSEC, Rtype::DNSKEY];
    if server == 0 || wanted || rtype.is_some_and(|rtype| signed_only.contains(&rtype)) {
        return;
    }
    let unsigned = asking.ask(&servers()[0].state, Transport::Tcp, Local::default());
    assert!(
        sent(unsigned).as_deref() == Some(octets),
        "it differs from an unsigned zone"
    );
}

/// Another server says the same, also when it has made the signatures before.
fn check_other(asking: &Asking, server: usize, udp: &[u8]) {
    static CACHES: [Mutex<Option<SignatureCache>>; 3] = [const { Mutex::new(None) }; 3];
    let mut cache = CACHES[server]
        .lock()
        .expect("whoever fell over it ended the run");
    let local = Local {
        limiter: None,
        signatures: Some(cache.get_or_insert_with(|| SignatureCache::new(1_000))),
    };
    let other = asking.ask(&others()[server].state, Transport::Udp, local);
    assert!(
        sent(other).as_deref() == Some(udp),
        "another server says something else"
    );
}

/// A limit that is used up lets nothing longer through, but to who has a cookie of ours.
fn check_limited(asking: &Asking, request: &Request<'_>, state: &State, udp: &[u8]) {
    let limits = Limits {
        per_second: 1,
        slip: 1,
        entries: 16,
    };
    let mut limiter = Limiter::new(limits, [3; 16]);
    let ours = Message::read(udp).option(10).map(<[u8]>::to_vec);
    let cookie = request.edns.and_then(|edns| edns.cookie);
    let has_ours = ours.is_some() && ours.as_deref() == cookie;
    for _ in 0..3 {
        let local = Local {
            limiter: Some(&mut limiter),
            signatures: None,
        };
        let limited = sent(asking.ask(state, Transport::Udp, local));
        assert!(
            !has_ours || limited.as_deref() == Some(udp),
            "limited in spite of its cookie"
        );
        assert!(limited.is_none_or(|limited| limited.len() <= udp.len()));
    }
}

/// Nothing of a zone, and no silence.
fn check_fenced(asking: &Asking, state: &State) {
    let mut state = state.clone();
    state.settings.chaos = None;
    for freshness in [
        Freshness::Never,
        Freshness::Lost,
        Freshness::Until(NOW.monotonic_ms),
    ] {
        state.freshness = freshness;
        for transport in [Transport::Udp, Transport::Tcp, Transport::Quic] {
            let fenced = sent(asking.ask(&state, transport, Local::default()));
            let read = Message::read(&fenced.expect("no silence"));
            let is_tsig = |record: &Record| record.rtype == Rtype::TSIG;
            assert!(read.answer.is_empty() && read.authority.is_empty() && !read.has(AA));
            assert!(read.additional.iter().all(is_tsig), "it tells of a zone");
        }
    }
}
