//! Messages in, messages out: what a client sees of the server.

mod dnssec;
mod encrypted;
mod increments;
mod limits;
mod notify;
mod probes;
mod properties;
mod replies;
mod signatures;
mod signed_transfers;
mod transfers;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use cfgdns_core::{
    Acl, Arrival, Chaos, CookieSecrets, Freshness, Local, Moment, Outcome, Settings, State,
    Transport, Tree, TsigKeys, UDP_OCTETS_MAX, Zones, rcode_of, respond,
};
use cfgdns_testing::message::Message;
use cfgdns_testing::zones::zone;

const ZONE: &str = "\
$TTL 3600
@ SOA ns1 root 7 3600 600 604800 60
@ NS ns1
@ NS ns.other.
@ MX 10 mail
ns1 A 192.0.2.1
ns1 AAAA 2001:db8::1
mail A 192.0.2.2
WWW A 192.0.2.3
alias CNAME www
old DNAME new
host.new A 192.0.2.6
_sip._tcp SRV 0 0 5060 mail
*.wild A 192.0.2.7
wide SRV 0 0 1 wide.new
wide.new AAAA 2001:db8::7
sub NS ns.sub
ns.sub A 192.0.2.4
sibling NS ns.other.example.
ns.other A 192.0.2.5
";

/// A zone with sets that need room: `big` has 4 kB, `many` one set of 40 addresses, `glue` a
/// delegation with more glue than fits into 512 octets, `far` more targets than pointers can reach.
fn zone_text() -> String {
    let mut text = ZONE.to_owned();
    let mut line = |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").expect("a string");
    for number in 0..40 {
        line(format_args!("big TXT \"{number:0>100}\""));
        line(format_args!("many A 192.0.2.{number}"));
        line(format_args!("wide.new A 192.0.2.{number}"));
        line(format_args!("extra MX {number} m{}", number % 4));
    }
    for number in 0..4 {
        for last in 0..20 {
            line(format_args!("m{number} A 198.51.{number}.{last}"));
        }
    }
    for number in 0..8 {
        line(format_args!("glue NS ns{number}.glue"));
        line(format_args!("ns{number}.glue A 203.0.113.{number}"));
        line(format_args!("ns{number}.glue AAAA 2001:db8::{number}"));
    }
    for number in 0..200 {
        line(format_args!("far SRV 0 0 {number} t{number:0>60}"));
        line(format_args!("t{number:0>60} A 192.0.2.1"));
        line(format_args!("t{number:0>60} AAAA 2001:db8::1"));
    }
    text
}

/// A server of the zone `example.`, fresh until the tenth second.
fn state() -> State {
    let zone = zone("example.", &zone_text());
    State {
        zones: Zones::new([Arc::new(Tree::build(&zone).expect("it has an SOA"))]),
        freshness: Freshness::Until(10_000),
        settings: Settings {
            nsid: Some("ns1.colo-a".try_into().expect("short")),
            chaos: None,
            udp_octets_max: UDP_OCTETS_MAX,
            cookies: Some(CookieSecrets {
                current: *b"0123456789abcdef",
                other: None,
            }),
            transfers: Acl::new(vec!["192.0.2.0/24".parse().expect("a network")]),
            keys: TsigKeys::default(),
        },
    }
}

fn chaos() -> Chaos {
    Chaos {
        id: "ns1.colo-a".try_into().expect("short"),
        version: "cfgdns".try_into().expect("short"),
    }
}

fn arrival(transport: Transport, client: &str, monotonic_ms: u64) -> Arrival {
    let client: SocketAddr = client.parse().expect("an address");
    Arrival {
        transport,
        client,
        now: Moment {
            unix_seconds: 1_559_731_985,
            monotonic_ms,
        },
    }
}

const CLIENT: &str = "192.0.2.99:5353";

/// What is sent for a request that comes in the first second.
fn send(state: &State, transport: Transport, request: &[u8]) -> Vec<u8> {
    match respond(
        state,
        Local::default(),
        &arrival(transport, CLIENT, 1_000),
        request,
    ) {
        Outcome::Send(octets) => octets,
        other @ (Outcome::Silence | Outcome::Stream(_)) => panic!("{other:?}"),
    }
}

/// The reply, whose rcode is also told by whoever counts it, without reading the rest.
fn read(octets: &[u8]) -> Message {
    let reply = Message::read(octets);
    assert_eq!(rcode_of(octets), Some(reply.rcode()));
    reply
}

fn udp(state: &State, request: &[u8]) -> Message {
    read(&send(state, Transport::Udp, request))
}

fn tcp(state: &State, request: &[u8]) -> Message {
    read(&send(state, Transport::Tcp, request))
}
