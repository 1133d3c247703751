//! Keys of zones, roles and holders as a name server hears of them, from a store that need not obey
//! any rule.
//!
//! - zones that were built on the way of any changes are those of one load of the same keys;
//! - whatever they are, questions about them are answered, and alike by both.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock};

use cfgdns_core::{
    Acl, Arrival, Freshness, Local, Outcome, Settings, SignatureCache, State, Transport, Tree,
    UDP_OCTETS_MAX, Zones, respond,
};
use cfgdns_sign::{Algorithm, PrivateKey, Signing};
use cfgdns_testing::message::{Message, opt, query, transfer};
use cfgdns_testing::zones::name;
use cfgdns_view::{Entry, View, settle};
use cfgdns_zone::{Name, Rtype, Soa};

use super::server::NOW;
use crate::draw::Draw;

/// Changes of one input: longer ones would find the same, and take the gate's time.
const STEPS_MAX: i64 = 40;

/// What follows `/cfgsvc/` in keys, and values that are right for some of them.
struct Table {
    rests: &'static [&'static str],
    values: &'static [&'static str],
}

const APEX: &str =
    r#"{"sets":{"NS":{"ttl":60,"data":["n"]},"SOA":{"ttl":60,"data":["n r 1 2 3 4 5"]}}}"#;
const MOST: &str = r#"{"count":18446744073709551615}"#;

const TABLES: [Table; 10] = [
    Table {
        rests: &["zones/z", "zones/y", "zones/."],
        values: &[r#"{"generation":1}"#, r#"{"generation":2}"#],
    },
    Table {
        rests: &["names/z/1/@", "names/z/2/@", "names/y/1/@", "names/./1/@"],
        values: &[APEX],
    },
    Table {
        rests: &[
            "names/z/1/www",
            "names/z/1/*.w",
            "names/z/2/www",
            "names/z/1/_cfgsvc.www",
            "names/y/1/b.a",
            "names/./1/z",
        ],
        values: &[
            r#"{"sets":{"A":{"ttl":60,"data":["192.0.2.1"]}}}"#,
            r#"{"name":"WWW","sets":{"TXT":{"ttl":2147483647,"data":["a","b"]}}}"#,
            r#"{"sets":{"NS":{"ttl":60,"data":["www"]},"DS":{"ttl":60,"data":["1 8 250 00"]}}}"#,
            r#"{"sets":{"CNAME":{"ttl":60,"data":["b.a"]}}}"#,
            r#"{"sets":{"DNAME":{"ttl":0,"data":["www"]}}}"#,
            r#"{"sets":{"TYPE65280":{"ttl":60,"data":["\\# 1 00"]}}}"#,
        ],
    },
    Table {
        rests: &[
            "follows/z/www/A",
            "follows/z/www/CNAME",
            "follows/z/@/SRV",
            "follows/y/b.a/AAAA",
            "follows/z/*.w/A",
        ],
        values: &[
            r#"{"role":"web"}"#,
            r#"{"role":"web","names":"@"}"#,
            r#"{"role":"db/x","names":".","port":7}"#,
            r#"{"role":"web","ttl":0,"weights":{"192.0.2.9":0,"192.0.2.8":65535}}"#,
        ],
    },
    Table {
        rests: &[
            "serials/z",
            "serials/y",
            "serials/.",
            "moved/web",
            "moved/db/x",
            "catalog/",
        ],
        values: &[
            r#"{"count":1}"#,
            r#"{"count":1,"roles":{"web":0,"db/x":7}}"#,
            r#"{"count":4294967295}"#,
            MOST,
        ],
    },
    Table {
        rests: &["grants/web", "grants/db/x"],
        values: &[
            r#"{"epoch":1,"holder":"a"}"#,
            r#"{"epoch":2}"#,
            r#"{"epoch":-9223372036854775808,"holder":"b"}"#,
        ],
    },
    Table {
        rests: &["roles/web", "roles/db/x"],
        values: &[
            r#"{"kind":"colo"}"#,
            r#"{"kind":"host"}"#,
            r#"{"kind":"lock"}"#,
        ],
    },
    Table {
        rests: &["colos/a", "hosts/a", "hosts/b"],
        values: &[
            r#"{"kind":"colo","colo":"a","addresses":["192.0.2.9:1","2001:db8::1"]}"#,
            r#"{"colo":"a","addresses":["b.example:7","192.0.2.8","192.0.2.9","192.0.2.8"]}"#,
            r#"{"colo":"a"}"#,
        ],
    },
    // The values are made of the keys below.
    Table {
        rests: &["signing/z", "signing/y", "signing/."],
        values: &[],
    },
    Table {
        rests: &["later/x", "zones/Z", "names/z/01/@", "leader", "signing/"],
        values: &["", "{}", "null", "[1", "\u{0}"],
    },
];

/// How a zone can be signed, as JSON.
fn signings() -> &'static [String] {
    static SIGNINGS: OnceLock<Vec<String>> = OnceLock::new();
    SIGNINGS.get_or_init(|| {
        let key = |number: usize, role: &str, signs: bool| {
            let record = private(number).dnskey(role != "zsk").to_data();
            let record = record.text(Rtype::DNSKEY, None);
            format!(r#"{{"dnskey":"{record}","role":"{role}","signs":{signs}}}"#)
        };
        let object =
            |keys: &[String], rest: &str| format!(r#"{{"keys":[{}],{rest}}}"#, keys.join(","));
        let at = r#""at":1700000000"#;
        let csk = key(0, "csk", true);
        vec![
            object(std::slice::from_ref(&csk), at),
            object(&[key(0, "ksk", true), key(1, "zsk", true)], at),
            object(&[key(2, "csk", true)], at),
            object(
                &[csk.clone(), key(2, "csk", true), key(1, "zsk", false)],
                at,
            ),
            object(
                std::slice::from_ref(&csk),
                r#""at":4294967295,"valid_s":31622400"#,
            ),
            object(&[csk.clone(), csk], at),
            object(&[], at),
        ]
    })
}

/// A private key that a server can have.
fn private(number: usize) -> PrivateKey {
    let (algorithm, octet) = match number {
        0 => (Algorithm::Ed25519, 1),
        1 => (Algorithm::Ed25519, 2),
        _ => (Algorithm::EcdsaP256Sha256, 3),
    };
    PrivateKey::from_secret(algorithm, &[octet; 32]).expect("a secret of either algorithm")
}

/// Those of a set of bits.
fn private_keys(bits: u64) -> impl Iterator<Item = PrivateKey> {
    let wanted = (0..3_usize).filter(move |number| bits >> number & 1 == 1);
    wanted.map(private)
}

/// A name server, and the keys that there are.
struct Run {
    view: View,
    zones: Zones,
    known: BTreeMap<Vec<u8>, (Vec<u8>, i64)>,
    revision: i64,
    private: u64,
}

/// Changes of keys; now and then what they come to is built.
pub(crate) fn keys(data: &[u8]) {
    let mut draw = Draw::new(data);
    let long = format!("{}.", vec!["l".repeat(60); 4].join("."));
    let catalogs = [None, Some("y."), Some("catalog.invalid."), Some(&*long)];
    let catalog = *one(&catalogs, &mut draw);
    let catalog = catalog.map(name);
    let private = draw.below(8);
    let mut run = Run {
        view: View::new(catalog.clone()),
        zones: Zones::default(),
        known: BTreeMap::new(),
        revision: 0,
        private,
    };
    run.view.set_keys(private_keys(private));
    while !draw.is_empty() && run.revision < STEPS_MAX {
        run.revision += 1;
        run.step(&mut draw);
        if draw.flag() {
            run.build();
        }
    }
    run.build();
    let mut fresh = View::new(catalog);
    fresh.set_keys(private_keys(run.private));
    fresh.load(entries(&run.known));
    let fresh = fresh.build(&Zones::default());
    assert_eq!(dumps(&run.zones), dumps(&fresh));
    let ours = answers(&run.zones);
    assert!(ours == answers(&fresh), "both answer, and not alike");
    transfers(&run.zones);
}

fn one<'a, T>(all: &'a [T], draw: &mut Draw<'_>) -> &'a T {
    let end = u64::try_from(all.len()).expect("few");
    &all[usize::try_from(draw.below(end)).unwrap_or(0)]
}

impl Run {
    fn step(&mut self, draw: &mut Draw<'_>) {
        match draw.below(32) {
            31 => {
                self.private = draw.below(8);
                self.view.set_keys(private_keys(self.private));
            }
            30 => self.view.load(entries(&self.known)),
            29 => {
                // Anything at any place.
                let key = [b"/cfgsvc/", draw.bytes(24)].concat();
                let value = draw.bytes(64).to_vec();
                self.put(key, value);
            }
            number => {
                let table = &TABLES[usize::try_from(number).unwrap_or(0) % TABLES.len()];
                let key = format!("/cfgsvc/{}", one(table.rests, draw)).into_bytes();
                if draw.rarely(5) {
                    self.view.delete(&key);
                    self.known.remove(&key);
                    return;
                }
                let signings: Vec<&str> = signings().iter().map(String::as_str).collect();
                let values = match draw.below(8) {
                    6 => TABLES[usize::from(draw.byte()) % TABLES.len()].values,
                    7 => &[],
                    _ => table.values,
                };
                let value = if values.is_empty() {
                    one(&signings, draw)
                } else {
                    one(values, draw)
                };
                self.put(key, value.as_bytes().to_vec());
            }
        }
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.view.put(entry(&key, &value, self.revision));
        self.known.insert(key, (value, self.revision));
    }

    fn build(&mut self) {
        let zones = self.view.build(&self.zones);
        let before = std::mem::replace(&mut self.zones, zones);
        settle(&before, &self.zones);
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

fn entries(known: &BTreeMap<Vec<u8>, (Vec<u8>, i64)>) -> impl Iterator<Item = Entry<'_>> {
    known
        .iter()
        .map(|(key, (value, at))| entry(key, value, *at))
}

/// Owner, type, TTL, data, weights.
type Dumped = (Vec<u8>, u16, u32, Vec<Vec<u8>>, Vec<u16>);

/// All that a zone says.
#[derive(Debug, PartialEq)]
struct Dump {
    origin: Name,
    told: [bool; 3],
    soa: Soa,
    names: usize,
    signing: Option<Signing>,
    sets: Vec<Dumped>,
}

fn dumps(zones: &Zones) -> Vec<Dump> {
    let of = |tree: &std::sync::Arc<Tree>| {
        let sets = tree.nodes().flat_map(|node| tree.sets(node)).map(|set| {
            let data = set.data.map(<[u8]>::to_vec).collect();
            (
                set.owner.to_vec(),
                set.rtype.0,
                set.ttl,
                data,
                set.weights.to_vec(),
            )
        });
        Dump {
            origin: tree.origin().clone(),
            told: [tree.is_closed(), tree.is_private(), tree.lacks_keys()],
            soa: tree.soa().clone(),
            names: tree.name_count(),
            signing: tree.signer().map(|signer| Signing::clone(signer.signing())),
            sets: sets.collect(),
        }
    };
    zones.trees().map(of).collect()
}

/// A server of zones that anybody may have.
fn state(zones: &Zones) -> State {
    State {
        zones: zones.clone(),
        freshness: Freshness::Until(1_000),
        settings: Settings {
            udp_octets_max: UDP_OCTETS_MAX,
            transfers: Acl::new(vec!["any".parse().expect("an entry")]),
            ..Settings::default()
        },
    }
}

/// What is said about each zone.
fn answers(zones: &Zones) -> Vec<Vec<u8>> {
    let state = state(zones);
    let mut said = Vec::new();
    for tree in zones.trees() {
        let below = |label: &str| Name::parse(label.as_bytes(), Some(tree.origin()));
        let names = ["@", "www", "no.b.a", "_cfgsvc.www"].map(below);
        let types = [Rtype::SOA, Rtype::A, Rtype::A, Rtype::TXT];
        for (at, rtype) in names.iter().flatten().zip(types) {
            let opt = opt(1_232, 0x8000, &[]);
            said.extend(ask(&state, &query(&at.to_string(), rtype, Some(opt))));
        }
    }
    said
}

/// Each zone as a secondary gets it.
fn transfers(zones: &Zones) {
    let state = state(zones);
    for tree in zones.trees() {
        let request = transfer(&tree.origin().to_string(), Rtype::AXFR, None, None);
        let said = ask(&state, &request);
        assert!(
            !said.is_empty() && said.len() < 9,
            "{} messages",
            said.len()
        );
    }
}

/// All messages that are sent to a request, which can be read.
fn ask(state: &State, request: &[u8]) -> Vec<Vec<u8>> {
    static CACHE: Mutex<Option<SignatureCache>> = Mutex::new(None);
    let mut cache = CACHE.lock().expect("whoever fell over it ended the run");
    let arrival = Arrival {
        transport: Transport::Tcp,
        client: ([192, 0, 2, 1], 53).into(),
        now: NOW,
    };
    let local = Local {
        limiter: None,
        signatures: Some(cache.get_or_insert_with(|| SignatureCache::new(1_000))),
    };
    let said: Vec<_> = match respond(state, local, &arrival, request) {
        Outcome::Send(octets) => vec![octets],
        Outcome::Stream(mut stream) => std::iter::from_fn(|| stream.next(state, NOW)).collect(),
        Outcome::Silence => panic!("silence"),
    };
    for octets in &said {
        Message::read(octets);
    }
    said
}
