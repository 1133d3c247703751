//! The servers that requests are handed to: their zones, keys and settings, and what whole zones of
//! theirs must be, made without `cfgdns-core`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};

use cfgdns_core::{
    Acl, CatalogMember, Chaos, CookieSecrets, Freshness, LiveSet, Moment, Settings, State, Tree,
    TsigKeys, UDP_OCTETS_MAX, Zones, catalog,
};
use cfgdns_sign::{Algorithm, SignedZone, Signer, Time, nodes};
use cfgdns_testing::keys::{signer, split_keys, validity};
use cfgdns_testing::message::Record;
use cfgdns_testing::zones::{name, zone};
use cfgdns_zone::{Rdata, Rtype, Zone};

use super::tsig;

/// The moment at which all requests come; signatures begin before it and end after it.
pub(crate) const NOW: Moment = Moment {
    unix_seconds: 1_700_000_000,
    monotonic_ms: 10,
};
/// The serials that the history of the zone begins with, and the one that is served.
pub(crate) const SERIALS: [u32; 3] = [5, 6, 7];

/// What the zone has in all versions.
pub(crate) const RECORDS: &str = "\
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
safe NS ns.safe
safe DS 1 8 250 00
ns.safe A 192.0.2.6
kid NS ns.kid
ns.kid A 192.0.2.5
_s._t SRV 0 0 1 ns1
@ MX 1 ns1
@ HTTPS 1 . alpn=h2
big TXT \"00000000000000000000000000000000000000000000000000000000000000000000000000000000\"
";

/// That moment, as signatures count.
pub(crate) fn now() -> Time {
    Time::from_unix(NOW.unix_seconds)
}

/// One kind of server.
pub(crate) struct Server {
    /// What it answers from.
    pub(crate) state: State,
    /// Who signs the zone `z.`.
    pub(crate) signer: Option<Arc<Signer>>,
    /// All records of each version of `z.`, the SOA first.
    pub(crate) versions: BTreeMap<u32, Vec<Record>>,
}

/// The server without signatures, and those with either algorithm.
pub(crate) fn servers() -> &'static [Server; 3] {
    static SERVERS: OnceLock<[Server; 3]> = OnceLock::new();
    SERVERS.get_or_init(all)
}

/// The same again: what they say must be the same.
pub(crate) fn others() -> &'static [Server; 3] {
    static OTHERS: OnceLock<[Server; 3]> = OnceLock::new();
    OTHERS.get_or_init(all)
}

fn all() -> [Server; 3] {
    [
        None,
        Some(Algorithm::Ed25519),
        Some(Algorithm::EcdsaP256Sha256),
    ]
    .map(server)
}

/// The zone `z.` of a serial, as a master file; `live` has what lies beside the packed records.
fn text(serial: u32, live: &str) -> String {
    let mut text = format!("$TTL 60\n@ SOA ns1 root {serial} 3600 600 604800 5\n{RECORDS}{live}");
    for number in 0..60 {
        writeln!(text, "big A 198.51.100.{number}").expect("memory");
    }
    // More than a message of a transfer holds.
    let part = "t".repeat(250);
    writeln!(text, "huge TXT {}", format!("{part} ").repeat(70)).expect("memory");
    writeln!(text, "version TXT {serial}").expect("memory");
    if serial.is_multiple_of(2) {
        text.push_str("even A 192.0.2.9\na.new TXT name\n");
    }
    text
}

/// What follows a role: two addresses that are weighed, and a name that nobody holds.
fn live_sets(serial: u32) -> [LiveSet; 2] {
    let address = |last: u8| Rdata::from_wire(Rtype::A, &[192, 0, 2, last]).expect("four octets");
    let last = u8::try_from(serial).expect("a small serial");
    let set = |owner: &str, data, weights| LiveSet {
        name: name(owner),
        rtype: Rtype::A,
        ttl: 3,
        data,
        weights,
    };
    [
        set("live.z.", vec![address(last), address(99)], vec![1, 3]),
        set("idle.z.", Vec::new(), Vec::new()),
    ]
}

/// The same as records.
fn live_text(serial: u32) -> String {
    format!("live 3 A 192.0.2.{serial}\nlive 3 A 192.0.2.99\n")
}

fn server(algorithm: Option<Algorithm>) -> Server {
    let Time(seconds) = now();
    let times = validity(seconds - 3_600, seconds + 3_600);
    let signer = algorithm.map(|algorithm| signer(&name("z."), &split_keys(algorithm), times));
    let names = BTreeSet::from(["live.z.", "idle.z."].map(name));
    let mut served: Option<Tree> = None;
    let mut versions = BTreeMap::new();
    for serial in SERIALS {
        let packed = Tree::build_with(&zone("z.", &text(serial, "")), &names);
        let mut tree = packed.expect("it has an SOA");
        if let Some(signer) = &signer {
            tree = tree.signed(Arc::clone(signer)).expect("its signer");
        }
        let tree = tree
            .with(serial, live_sets(serial))
            .expect("they have places");
        served = Some(match &served {
            Some(before) => tree.following(before),
            None => tree,
        });
        let whole = zone("z.", &text(serial, &live_text(serial)));
        versions.insert(serial, records(&whole, signer.as_deref()));
    }
    let small = "@ 60 SOA ns. root. 1 2 3 4 5\n@ 60 NS ns.\n";
    let build = |origin: &str| Tree::build(&zone(origin, small)).expect("it has an SOA");
    let members = [("z.", 1), ("kid.z.", 2)].map(|(zone, label)| CatalogMember {
        zone: name(zone),
        label,
    });
    let list = catalog(&name("c."), &members, 3).expect("a catalog");
    let list = Tree::build(&list).expect("it has an SOA");
    let trees = [
        served.expect("there are versions"),
        build("kid.z."),
        build("lacks.").lacking_keys("a test"),
        Tree::closed(&name("closed."), "a test"),
        list.private(),
    ];
    let state = State {
        zones: Zones::new(trees.map(Arc::new)),
        freshness: Freshness::Until(1_000),
        settings: settings(),
    };
    Server {
        state,
        signer,
        versions,
    }
}

fn settings() -> Settings {
    let allowed = ["127.0.0.0/8", "key sha512.k."];
    let allowed = allowed.map(|entry| entry.parse().expect("an entry"));
    Settings {
        nsid: Some("ns1".try_into().expect("short")),
        chaos: Some(Chaos {
            id: "ns1".try_into().expect("short"),
            version: "1".try_into().expect("short"),
        }),
        udp_octets_max: UDP_OCTETS_MAX,
        cookies: Some(CookieSecrets {
            current: [7; 16],
            other: None,
        }),
        transfers: Acl::new(allowed.into()),
        keys: TsigKeys::new(tsig::keys()).expect("names differ"),
    }
}

/// All records of a zone, signed if there is someone to sign, the SOA first.
fn records(zone: &Zone, signer: Option<&Signer>) -> Vec<Record> {
    let sets: Vec<_> = match signer {
        Some(signer) => SignedZone::new(signer, nodes(zone))
            .expect("it has an SOA")
            .collect(),
        None => nodes(zone).flat_map(|node| node.sets).collect(),
    };
    let mut records = Vec::new();
    for set in sets {
        let owner = cfgdns_zone::Name::from_wire(&set.owner).expect("a name").0;
        records.extend(set.data.iter().map(|data| Record {
            name: owner.clone(),
            rtype: set.rtype,
            class: 1,
            ttl: set.ttl,
            data: data.to_vec(),
        }));
    }
    let soa = records.iter().position(|record| record.rtype == Rtype::SOA);
    records.swap(0, soa.expect("a zone has an SOA"));
    records
}
