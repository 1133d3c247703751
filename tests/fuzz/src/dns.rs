//! DNS: requests as they come from the network, master files as operators write them, and the keys
//! of zones as a name server hears of them.
//!
//! - whatever has the header of a request gets a reply that repeats its id, keeps within what the
//!   client takes, and is over TCP what it is over UDP unless it was cut;
//! - a server that is not fresh tells nothing of a zone;
//! - a file is refused, or its zone is printed as one that reads back the same and can be served;
//! - zones that were built on the way of any changes are those of one load of the same keys.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};

use cfgdns_core::{
    Arrival, CookieSecrets, Freshness, Limiter, Limits, Local, Moment, Outcome, Settings, State,
    Transport, Tree, UDP_OCTETS_MAX, Zones, respond,
};
use cfgdns_view::{Entry, View};
use cfgdns_zone::{Name, Source, Zone, load, print};

use crate::draw::Draw;

const HEADER_OCTETS: usize = 12;
const ZONE: &str = "\
$TTL 60
@ SOA ns1 root 7 3600 600 604800 5
@ NS ns1
ns1 A 192.0.2.1
a.b.c A 192.0.2.2
*.w A 192.0.2.3
*.w TXT text
alias CNAME a.b.c
loop CNAME loop
old DNAME w
sub NS ns.sub
ns.sub A 192.0.2.4
_s._t SRV 0 0 1 ns1
@ MX 1 ns1
big TXT \"00000000000000000000000000000000000000000000000000000000000000000000000000000000\"
";

fn origin() -> Name {
    "z.".parse().expect("a name")
}

fn parsed(text: &[u8]) -> Option<Zone> {
    let source = Source {
        file: "zone",
        text,
        origin: &origin(),
    };
    load(&source).ok().map(|loaded| loaded.zone)
}

fn zones() -> &'static Zones {
    static ZONES: OnceLock<Zones> = OnceLock::new();
    ZONES.get_or_init(|| {
        let mut text = ZONE.to_owned();
        for number in 0..60 {
            writeln!(text, "big A 198.51.100.{number}").expect("memory");
        }
        let zone = parsed(text.as_bytes()).expect("a valid zone");
        Zones::new([Arc::new(Tree::build(&zone).expect("it has an SOA"))])
    })
}

fn sent(outcome: Outcome) -> Option<Vec<u8>> {
    match outcome {
        Outcome::Send(octets) => Some(octets),
        Outcome::Silence | Outcome::Stream(_) => None,
    }
}

/// A request over UDP and over TCP, to a server that is fresh and to one that is not.
pub(crate) fn request(data: &[u8]) {
    let mut state = State {
        zones: zones().clone(),
        freshness: Freshness::Until(1_000),
        settings: Settings {
            nsid: Some("ns1".try_into().expect("short")),
            udp_octets_max: UDP_OCTETS_MAX,
            cookies: Some(CookieSecrets {
                current: [7; 16],
                other: None,
            }),
            ..Settings::default()
        },
    };
    let arrival = |transport| Arrival {
        transport,
        client: SocketAddr::from((Ipv4Addr::LOCALHOST, 5_353)),
        now: Moment {
            unix_seconds: 1_700_000_000,
            monotonic_ms: 10,
        },
    };
    let ask = |state: &State, transport| {
        sent(respond(state, Local::default(), &arrival(transport), data))
    };
    let udp = ask(&state, Transport::Udp);
    let tcp = ask(&state, Transport::Tcp);
    if let Some(reply) = &udp {
        assert!(reply.len() <= usize::from(UDP_OCTETS_MAX) && reply.len() >= HEADER_OCTETS);
        assert!(reply[..2] == data[..2] && reply[2] & 0x80 != 0);
    }
    if let (Some(udp), Some(tcp)) = (&udp, &tcp) {
        // Cut, or with less of what may help; else the same.
        let cut = udp[2] & 2 != 0;
        let fewer = udp[10..HEADER_OCTETS] != tcp[10..HEADER_OCTETS];
        assert!(cut || fewer || udp == tcp, "UDP and TCP differ");
    }
    // A limit that is used up lets nothing longer through.
    let limits = Limits {
        per_second: 1,
        slip: 1,
        entries: 16,
    };
    let mut limiter = Limiter::new(limits, [3; 16]);
    for _ in 0..3 {
        let local = Local {
            limiter: Some(&mut limiter),
            signatures: None,
        };
        let limited = respond(&state, local, &arrival(Transport::Udp), data);
        if let (Some(limited), Some(udp)) = (sent(limited), &udp) {
            assert!(limited.len() <= udp.len());
        }
    }
    state.freshness = Freshness::Never;
    if let Some(fenced) = ask(&state, Transport::Udp) {
        assert!(
            fenced[6..10] == [0; 4] && fenced[2] & 4 == 0,
            "it tells of a zone"
        );
    }
}

/// A master file, alone and in the middle of a valid one.
pub(crate) fn master_file(data: &[u8]) {
    for text in [data.to_vec(), [ZONE.as_bytes(), data].concat()] {
        let Some(zone) = parsed(&text) else {
            continue;
        };
        let printed = print(&zone);
        let again = parsed(printed.as_bytes()).expect("what is printed is valid");
        assert!(again == zone, "printed as another zone");
        let tree = Tree::build(&zone).expect("a valid zone has an SOA");
        assert!(tree.name_count() >= zone.node_count());
    }
}

const TABLES: [&str; 9] = [
    "zones", "names", "follows", "serials", "moved", "grants", "roles", "colos", "hosts",
];
const RESTS: [&str; 9] = [
    "z",
    "z/1/@",
    "z/1/www",
    "z/2/@",
    "z/www/A",
    "z/www/CNAME",
    "web",
    "a",
    "z/@/SRV",
];
const VALUES: [&str; 9] = [
    r#"{"generation":1}"#,
    r#"{"generation":2}"#,
    r#"{"sets":{"NS":{"ttl":60,"data":["n"]},"SOA":{"ttl":60,"data":["n r 1 2 3 4 5"]}}}"#,
    r#"{"sets":{"A":{"ttl":60,"data":["192.0.2.1"]}}}"#,
    r#"{"role":"web"}"#,
    r#"{"role":"web","names":"@"}"#,
    r#"{"count":1,"roles":{"web":0}}"#,
    r#"{"epoch":1,"holder":"a"}"#,
    r#"{"kind":"colo","colo":"a","addresses":["192.0.2.9:1","2001:db8::1"]}"#,
];

/// Changes of keys; now and then what they come to is built.
pub(crate) fn keys(data: &[u8]) {
    let mut draw = Draw::new(data);
    let mut known: BTreeMap<Vec<u8>, (Vec<u8>, i64)> = BTreeMap::new();
    let mut view = View::default();
    let mut zones = Zones::default();
    let mut revision = 0;
    while !draw.is_empty() && revision < 256 {
        revision += 1;
        let one = |all: &[&str], at: u64| all[usize::try_from(at).unwrap_or(0)].to_owned();
        let table = one(&TABLES, draw.below(9));
        let rest = if draw.rarely(8) {
            draw.text(12)
        } else {
            one(&RESTS, draw.below(9))
        };
        let key = format!("/cfgsvc/{table}/{rest}").into_bytes();
        if draw.rarely(5) {
            view.delete(&key);
            known.remove(&key);
        } else {
            let value = if draw.rarely(8) {
                draw.bytes(24).to_vec()
            } else {
                one(&VALUES, draw.below(9)).into_bytes()
            };
            view.put(entry(&key, &value, revision));
            known.insert(key, (value, revision));
        }
        if draw.flag() {
            zones = view.build(&zones);
        }
    }
    zones = view.build(&zones);
    let mut fresh = View::default();
    fresh.load(
        known
            .iter()
            .map(|(key, (value, at))| entry(key, value, *at)),
    );
    let fresh = fresh.build(&Zones::default());
    assert_eq!(zones.trees().len(), fresh.trees().len());
    for (ours, theirs) in zones.trees().zip(fresh.trees()) {
        assert!(ours.origin() == theirs.origin() && ours.is_closed() == theirs.is_closed());
        assert_eq!(ours.soa(), theirs.soa());
        assert_eq!(records(ours), records(theirs));
    }
}

fn entry<'a>(key: &'a [u8], value: &'a [u8], changed: i64) -> Entry<'a> {
    Entry {
        key,
        value,
        created: 1,
        changed,
    }
}

/// Everything at the names that keys above can have.
fn records(tree: &Tree) -> Vec<(u16, u32, Vec<Vec<u8>>)> {
    let mut all = Vec::new();
    for label in ["@", "www", "_cfgsvc.www", "_cfgsvc"] {
        // Of a zone with a long name there is no such name.
        let Ok(at) = Name::parse(label.as_bytes(), Some(tree.origin())) else {
            continue;
        };
        let Some(node) = tree.node(&at) else {
            continue;
        };
        for set in tree.sets(node) {
            let data = set.data.map(<[u8]>::to_vec).collect();
            all.push((set.rtype.0, set.ttl, data));
        }
    }
    all
}
