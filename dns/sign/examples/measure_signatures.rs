//! What signatures cost, of one core: one of each algorithm, one that is found again, a whole zone.
//!
//! Run: `cargo run --release -p cfgdns-sign --example measure_signatures`

#![expect(clippy::print_stdout, reason = "its output is the result")]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the package has no clock; what measures it has"
)]

use std::borrow::Cow;
use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cfgdns_sign::{
    Algorithm, PrivateKey, Role, Set, SignatureCache, SignedZone, Signer, Signing, Time, Validity,
    ZoneChain, ZoneKey, nodes,
};
use cfgdns_zone::{Name, Rtype, Source, load};

const NAMES: u32 = 20_000;

/// The shortest of five runs: whatever else the machine did made others longer.
fn time<T>(mut work: impl FnMut() -> T) -> Duration {
    let runs = (0..5).map(|_| {
        let before = Instant::now();
        black_box(work());
        before.elapsed()
    });
    runs.min().expect("five runs")
}

fn signer(origin: &Name, algorithm: Algorithm) -> Signer {
    let key = PrivateKey::from_secret(algorithm, &[7; 32]).expect("a secret of either");
    let zone_key = ZoneKey {
        dnskey: key.dnskey(true),
        role: Role::Both,
        signs: true,
    };
    let validity = Validity::new(Time(0), Time(1_000_000)).expect("some days");
    let signing = Signing::new(vec![zone_key], validity).expect("a key that signs");
    Signer::new(origin, Arc::new(signing), &[key].into_iter().collect()).expect("the key is here")
}

fn main() {
    let origin: Name = "example.".parse().expect("a name");
    let mut text = "$TTL 60\n@ SOA ns1.other. root 1 2 3 4 5\n@ NS ns1.other.\n".to_owned();
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
    let set = Set {
        owner: Cow::Borrowed(b"\x04host\x07example\0"),
        rtype: Rtype::A,
        ttl: 60,
        data: vec![Cow::Borrowed(&[192, 0, 2, 1])],
    };
    for algorithm in [Algorithm::Ed25519, Algorithm::EcdsaP256Sha256] {
        let signer = signer(&origin, algorithm);
        println!("{}", algorithm.mnemonic());
        let mut cache = SignatureCache::new(1_000);
        let made = time(|| (0..1_000).for_each(|_| drop(black_box(signer.rrsigs(&set, None)))));
        println!("  a signature made     {:>9.1?}", made / 1_000);
        let mut find = || drop(black_box(signer.rrsigs(&set, Some(&mut cache))));
        let found = time(|| (0..1_000).for_each(|_| find()));
        println!("  found in the cache   {:>9.1?}", found / 1_000);
        let chain = || ZoneChain::new(&signer, nodes(&zone)).expect("it has an SOA");
        println!("{NAMES} names with an address each");
        println!("  chain alone          {:>9.1?}", time(|| chain().count()));
        let whole = || SignedZone::new(&signer, nodes(&zone)).expect("it has an SOA");
        let before = Instant::now();
        let sets = black_box(whole().count());
        println!("  {sets} sets, signed  {:>9.1?}", before.elapsed());
    }
}
