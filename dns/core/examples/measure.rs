//! What zones cost: reading, checking, building, asking; time of one core, and memory.
//!
//! Run: `cargo run --release -p cfgdns-core --example measure`

#![expect(clippy::print_stdout, reason = "its output is the result")]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the core has no clock; what measures it has"
)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cfgdns_core::{
    Acl, Arrival, CLASS_IN, CookieSecrets, Freshness, Limiter, Limits, LiveSet, Local, Moment,
    Notifier, NotifyTarget, Outcome, Question, Settings, SignatureCache, State, Transport, Tree,
    TsigKeys, UDP_OCTETS_MAX, Zones, answer, respond,
};
use cfgdns_sign::{Algorithm, Role};
use cfgdns_testing::keys::{key, signer, validity};
use cfgdns_zone::{Name, Rdata, RrSet, Rtype, Soa, Source, Zone, check, load, parse, print};

const NAMES: usize = 100_000;
const ZONES: usize = 10_000;
const HEAD: &str = "$TTL 60\n@ SOA ns1.other. root 1 2 3 4 5\n@ NS ns1.other.\n";

/// The shortest of five runs: whatever else the machine did made others longer.
fn time<T>(mut work: impl FnMut() -> T) -> Duration {
    let runs = (0..5).map(|_| {
        let before = Instant::now();
        black_box(work());
        before.elapsed()
    });
    runs.min().expect("five runs")
}

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn build(zone: &Zone) -> Arc<Tree> {
    Arc::new(Tree::build(zone).expect("it has an SOA"))
}

/// The zone with another serial and one address more.
fn changed(zone: &Zone) -> Zone {
    let mut changed = zone.clone();
    let origin = zone.origin();
    let soa = Soa {
        serial: 2,
        ..zone.soa().expect("it has an SOA")
    };
    let soa = RrSet::new(Rtype::SOA, 60, soa.to_data());
    changed.replace(origin, soa).expect("in the zone");
    let owner = origin.child(b"host-050000").expect("short");
    let address = Rdata::from_wire(Rtype::A, &[192, 0, 2, 1]).expect("four octets");
    let added = changed.insert(&owner, Rtype::A, 60, address);
    added.expect("in the zone");
    changed
}

/// Nanoseconds for a reply.
fn reply_ns(zones: &Zones, names: &[Name], rtype: Rtype) -> u128 {
    let whole = time(|| {
        for name in names {
            let class = CLASS_IN;
            black_box(answer(zones, &Question { name, rtype, class }));
        }
    });
    whole.as_nanos() / u128::try_from(names.len()).expect("it fits")
}

/// A request with an OPT record that has a cookie.
fn request(name: &Name) -> Vec<u8> {
    let mut octets = b"\x12\x34\0\0\0\x01\0\0\0\0\0\x01".to_vec();
    octets.extend(name.as_wire());
    octets.extend(b"\0\x01\0\x01\0\0\x29\x04\xd0\0\0\0\0\0\x0c\0\x0a\0\x0801234567");
    octets
}

fn state(zones: &Zones) -> State {
    State {
        zones: zones.clone(),
        freshness: Freshness::Until(u64::MAX),
        settings: Settings {
            nsid: None,
            chaos: None,
            udp_octets_max: UDP_OCTETS_MAX,
            cookies: Some(CookieSecrets {
                current: [7; 16],
                other: None,
            }),
            transfers: Acl::new(vec!["any".parse().expect("an entry")]),
            keys: TsigKeys::default(),
        },
    }
}

fn arrival(transport: Transport) -> Arrival {
    Arrival {
        transport,
        client: ([192, 0, 2, 1], 5_353).into(),
        now: Moment {
            unix_seconds: 0,
            monotonic_ms: 0,
        },
    }
}

/// What it costs to send a whole zone.
fn measure_transfer(zones: &Zones) {
    let state = state(zones);
    let arrival = arrival(Transport::Tcp);
    let request = b"\x12\x34\0\0\0\x01\0\0\0\0\0\0\x07example\0\0\xfc\0\x01";
    let transfer = || {
        let Outcome::Stream(mut stream) = respond(&state, Local::default(), &arrival, request)
        else {
            panic!("a transfer");
        };
        let next = || stream.next(&state, arrival.now);
        let messages = std::iter::from_fn(next).map(|message| (1, message.len()));
        messages.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
    };
    let (messages, octets) = transfer();
    let whole = time(transfer);
    println!("  transfer  {whole:>9.1?}, {messages} messages, {octets} octets");
}

/// What a message costs, from octets to octets, with a cookie made and the rate limit counted.
fn measure_messages(zones: &Zones, kinds: &[(&str, &[Name])]) {
    let state = state(zones);
    let limits = Limits {
        per_second: 1_000,
        slip: 1,
        entries: NAMES,
    };
    let mut limiter = Limiter::new(limits, [7; 16]);
    let mut arrival = arrival(Transport::Udp);
    println!(
        "a message, of one core; the limit of {NAMES} entries: {} octets",
        limiter.octets()
    );
    for (kind, names) in kinds {
        let requests: Vec<_> = names.iter().map(request).collect();
        let whole = time(|| {
            for request in &requests {
                // A full credit for each, so that none is withheld.
                arrival.now.monotonic_ms += 1;
                let local = Local {
                    limiter: Some(&mut limiter),
                    signatures: None,
                };
                black_box(respond(&state, local, &arrival, request));
            }
        });
        let count = u128::try_from(requests.len()).expect("it fits");
        println!("  {kind:<10}{:>9} ns", whole.as_nanos() / count);
    }
}

/// What it costs when all zones change at once: to take it in, and to tell of it at a rate.
fn measure_news(trees: &[Arc<Tree>]) {
    let target = |last| NotifyTarget {
        address: ([192, 0, 2, last], 53).into(),
        key: None,
    };
    let targets: Vec<_> = (0..10).map(target).collect();
    let at = |monotonic_ms| Moment {
        unix_seconds: 0,
        monotonic_ms,
    };
    let taken = || {
        let mut notifier = Notifier::new(targets.clone(), 1_000, [7; 16]);
        for tree in trees {
            notifier.changed(tree, at(0));
        }
        notifier
    };
    let all = time(taken);
    println!("  all change{all:>9.1?}, {} targets", targets.len());
    let mut notifier = taken();
    let before = Instant::now();
    let mut sent = 0;
    // A minute of it, in which nobody answers.
    while let Some(wakeup) = notifier.next_wakeup().filter(|wakeup| *wakeup <= 60_000) {
        sent += notifier.poll(at(wakeup)).len();
    }
    println!("  told      {:>9.1?}, {sent} messages", before.elapsed());
}

/// What signatures cost: of names that are asked again and again, and of names that nobody asked
/// for before; and a change of a signed zone.
fn measure_signed(zone: &Zone, hits: &[Name], absent: &[Name]) {
    let keys = [(key(Algorithm::Ed25519, 7), Role::Both, true)];
    let signer = signer(zone.origin(), &keys, validity(0, 1_000_000));
    let sign = |zone: &Zone| build(zone).signed(Arc::clone(&signer)).expect("its signer");
    let tree = sign(zone);
    let new = sign(&changed(zone));
    let state = state(&Zones::new([Arc::new(tree.clone())]));
    let arrival = arrival(Transport::Udp);
    println!("a message with DO, Ed25519, of one core");
    for (kind, names) in [("hit", &hits[..1_000]), ("no name", &absent[..1_000])] {
        let requests: Vec<_> = names.iter().map(request_do).collect();
        let all = |cache: &mut SignatureCache| {
            let before = Instant::now();
            for request in &requests {
                let local = Local {
                    limiter: None,
                    signatures: Some(cache),
                };
                black_box(respond(&state, local, &arrival, request));
            }
            before.elapsed() / 1_000
        };
        let mut cache = SignatureCache::new(10_000);
        let made = all(&mut cache);
        let found = (0..5).map(|_| all(&mut cache)).min().expect("five runs");
        println!("  {kind:<10}{made:>9.1?} signed, {found:.1?} found in the cache");
    }
    let step = || new.clone().following(&tree);
    println!("  one step  {:>9.1?} of {NAMES} names", time(step));
}

/// A request with an OPT record that has DO.
fn request_do(name: &Name) -> Vec<u8> {
    let mut octets = b"\x12\x34\0\0\0\x01\0\0\0\0\0\x01".to_vec();
    octets.extend(name.as_wire());
    octets.extend(b"\0\x01\0\x01\0\0\x29\x04\xd0\0\0\x80\0\0\0");
    octets
}

fn main() {
    let origin = name("example.");
    let mut text = HEAD.to_owned();
    for number in 0..NAMES {
        let (a, b) = (number / 256 % 256, number % 256);
        writeln!(text, "host-{number:06} A 10.0.{a}.{b}").expect("a string");
    }
    let source = Source {
        file: "measure",
        text: text.as_bytes(),
        origin: &origin,
    };
    let zone = load(&source).expect("valid").zone;
    let tree = build(&zone);
    println!(
        "a zone of {NAMES} names with an address each, {} bytes",
        text.len()
    );
    println!("  parse     {:>9.1?}", time(|| parse(&source)));
    println!("  check     {:>9.1?}", time(|| check(&zone)));
    println!("  print     {:>9.1?}", time(|| print(&zone)));
    println!("  build     {:>9.1?}", time(|| build(&zone)));
    println!(
        "  tree      {:>9} octets a name",
        tree.octets() / tree.name_count()
    );

    let changed = build(&changed(&zone));
    let step = || Tree::clone(&changed).following(&tree);
    let copied = time(|| Tree::clone(&changed));
    println!("  step      {:>9.1?}", time(step).saturating_sub(copied));
    println!("  its octets{:>9}", step().history().octets());
    let zones = Zones::new([tree]);
    measure_transfer(&zones);
    // Spread over the zone, so that each is in another part of the memory.
    let host = |number: usize| (number * 7_919) % NAMES;
    let names = |form: &dyn Fn(usize) -> String| -> Vec<Name> {
        (0..NAMES).map(|number| name(&form(host(number)))).collect()
    };
    let hits = names(&|number| format!("HOST-{number:06}.example."));
    let misses = names(&|number| format!("x.host-{number:06}.example."));
    let absent = names(&|number| format!("none-{number:06}.example."));
    println!("a reply, of one core");
    println!("  hit       {:>9} ns", reply_ns(&zones, &hits, Rtype::A));
    println!("  no data   {:>9} ns", reply_ns(&zones, &hits, Rtype::TXT));
    println!("  no name   {:>9} ns", reply_ns(&zones, &absent, Rtype::A));
    println!("  below one {:>9} ns", reply_ns(&zones, &misses, Rtype::A));

    measure_messages(&zones, &[("hit", &hits), ("no name", &absent)]);

    measure_signed(&zone, &hits, &absent);
    measure_many_zones();
}

/// What many zones cost, of which each has no more than it must.
fn measure_many_zones() {
    let trees: Vec<_> = (0..ZONES)
        .map(|number| {
            let origin = name(&format!("zone-{number:05}.example."));
            let source = Source {
                file: "measure",
                text: HEAD.as_bytes(),
                origin: &origin,
            };
            build(&load(&source).expect("valid").zone)
        })
        .collect();
    let zones = Zones::new(trees.iter().cloned());
    let one = Arc::clone(&trees[ZONES / 2]);
    let host = |number: usize| number * 7_919 % NAMES;
    let apex = |number: usize| name(&format!("www.zone-{:05}.example.", host(number) % ZONES));
    let apexes: Vec<_> = (0..NAMES).map(apex).collect();
    println!("{ZONES} zones");
    println!(
        "  change one{:>9.1?}",
        time(|| zones.with([(one.origin().clone(), Some(Arc::clone(&one).into()))]))
    );
    // A role moves that all of them follow.
    let live = BTreeSet::from([name("www.zone.example.")]);
    let source = Source {
        file: "measure",
        text: HEAD.as_bytes(),
        origin: &name("zone.example."),
    };
    let zone = load(&source).expect("valid").zone;
    let follower = Tree::build_with(&zone, &live).expect("it has an SOA");
    let address = Rdata::from_wire(Rtype::A, &[192, 0, 2, 1]).expect("four octets");
    let moved = time(|| {
        let follow = |tree: &Arc<Tree>| {
            let set = LiveSet {
                name: name("www.zone.example."),
                rtype: Rtype::A,
                ttl: 5,
                data: vec![address.clone()],
                weights: Vec::new(),
            };
            let moved = follower.with(2, [set]).expect("it has a place");
            (tree.origin().clone(), Some(Arc::new(moved).into()))
        };
        zones.with(trees.iter().map(follow))
    });
    println!("  change all{moved:>8.1?}");
    println!("  no name   {:>9} ns", reply_ns(&zones, &apexes, Rtype::A));
    measure_news(&trees);
}
