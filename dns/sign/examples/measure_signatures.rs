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
use std::time::{Duration, Instant};

use cfgdns_sign::{Algorithm, Role, Set, SignatureCache, SignedZone, ZoneChain, nodes};
use cfgdns_testing::keys::{key, signer, validity};
use cfgdns_testing::zones::{name, zone};
use cfgdns_zone::Rtype;

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

fn main() {
    let origin = name("example.");
    let mut text = "$TTL 60\n@ SOA ns1.other. root 1 2 3 4 5\n@ NS ns1.other.\n".to_owned();
    for number in 0..NAMES {
        let (a, b) = (number / 256 % 256, number % 256);
        writeln!(text, "host-{number:06} A 10.0.{a}.{b}").expect("a string");
    }
    let zone = zone("example.", &text);
    let set = Set {
        owner: Cow::Borrowed(b"\x04host\x07example\0"),
        rtype: Rtype::A,
        ttl: 60,
        data: vec![Cow::Borrowed(&[192, 0, 2, 1])],
    };
    for algorithm in [Algorithm::Ed25519, Algorithm::EcdsaP256Sha256] {
        let keys = [(key(algorithm, 7), Role::Both, true)];
        let signer = signer(&origin, &keys, validity(0, 1_000_000));
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
