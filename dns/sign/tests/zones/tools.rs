//! Signed zones and keys in the eyes of other programs: those of BIND, of NSD's makers and of Knot.
//!
//! They are needed: a test that nobody can run shows nothing. Debian has them as `bind9-utils`,
//! `ldnsutils` and `knot-dnssecutils`; `tests/run` installs them.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the package has no files and processes; those who check it are programs"
)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use crate::common::{ZONE, signed, signer, zone};
use cfgdns_sign::{
    Algorithm, PrivateKey, PublicKey, Role, file_stem, read_private, read_public, write_private,
    write_public,
};
use cfgdns_testing::keys::key;
use cfgdns_testing::zones::name;
use cfgdns_zone::{Name, Rdata, Rtype};

const ED25519: Algorithm = Algorithm::Ed25519;
const P256: Algorithm = Algorithm::EcdsaP256Sha256;

/// Runs a program in a directory; whether it succeeded, and all that it said.
fn run(directory: &Path, program: &str, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; tests/run installs it"));
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

/// The programs that check a zone, with what makes them do so. The first wants a key that vouches
/// for keys and another one, or is told that one does both.
fn verifiers(one_key: bool) -> Vec<(&'static str, Vec<&'static str>)> {
    let mut bind = vec!["-o", "example.", "-q"];
    bind.extend(one_key.then_some("-z"));
    bind.push("zone.signed");
    vec![
        ("dnssec-verify", bind),
        ("ldns-verify-zone", vec!["-V", "2", "zone.signed"]),
        (
            "kzonecheck",
            vec!["-o", "example.", "-d", "on", "zone.signed"],
        ),
    ]
}

/// Keys with what each of them does.
type Keys = Vec<(Arc<PrivateKey>, Role, bool)>;

/// Ways to sign a zone.
fn ways() -> Vec<(&'static str, Keys)> {
    let (a, b, c, d) = (key(ED25519, 1), key(ED25519, 2), key(P256, 3), key(P256, 4));
    let (keys, records, both) = (Role::KeySigning, Role::ZoneSigning, Role::Both);
    let clone = Arc::clone;
    vec![
        ("one Ed25519 key", vec![(clone(&a), both, true)]),
        ("one P-256 key", vec![(clone(&c), both, true)]),
        (
            "two P-256 keys",
            vec![(clone(&c), keys, true), (clone(&d), records, true)],
        ),
        (
            "two Ed25519 keys, and one that comes",
            vec![
                (clone(&a), keys, true),
                (clone(&b), records, true),
                (key(ED25519, 5), records, false),
            ],
        ),
        (
            "both algorithms at once",
            vec![
                (a, keys, true),
                (b, records, true),
                (c, keys, true),
                (d, records, true),
            ],
        ),
    ]
}

#[test]
fn signed_zones_are_valid_for_three_other_programs() {
    for (way, keys) in ways() {
        let directory = tempfile::tempdir().expect("a directory");
        let text = signed(&signer(&keys), &zone(ZONE));
        fs::write(directory.path().join("zone.signed"), text).expect("written");
        let one_key = keys.len() == 1;
        for (program, arguments) in verifiers(one_key) {
            let (good, said) = run(directory.path(), program, &arguments);
            assert!(good, "{program}, {way}: {said}");
        }
    }
}

/// What the same programs say of zones that are signed wrongly: each of them sees it.
#[test]
fn zones_with_one_thing_wrong_are_refused_by_all_of_them() {
    let signer = signer(&[(key(ED25519, 1), Role::Both, true)]);
    let text = signed(&signer, &zone(ZONE));
    let without = |what: &dyn Fn(&str) -> bool| -> String {
        let kept: Vec<&str> = text.lines().filter(|line| !what(line)).collect();
        kept.join("\n") + "\n"
    };
    let broken = [
        (
            "another address than was signed",
            text.replace(
                "z-last.example. 3600 IN A 192.0.2.9",
                "z-last.example. 3600 IN A 192.0.2.8",
            ),
        ),
        (
            "no signature of an address",
            without(&|line| line.starts_with("z-last.example. 3600 IN RRSIG A ")),
        ),
        (
            "a name is not in the chain",
            without(&|line| {
                line.starts_with("alias.example. 60 IN NSEC ")
                    || line.starts_with("alias.example. 60 IN RRSIG NSEC ")
            }),
        ),
    ];
    for (what, broken) in broken {
        assert_ne!(broken, text, "{what}");
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("zone.signed"), broken).expect("written");
        for (program, arguments) in verifiers(true) {
            let (good, said) = run(directory.path(), program, &arguments);
            assert!(!good, "{program} takes a zone with {what}: {said}");
        }
    }
}

type Record = (Vec<u8>, Rtype, u32, Vec<u8>);

/// The records of a zone with each on a line, as octets.
fn records(text: &str) -> BTreeSet<Record> {
    let lines = text.lines().filter(|line| !line.starts_with(';'));
    lines
        .map(|line| {
            let (head, rest) = line.split_once(" IN ").expect(line);
            let (owner, ttl) = head.split_once(char::is_whitespace).expect(line);
            let (owner, ttl) = (name(owner), ttl.trim().parse().expect("a TTL"));
            let (rtype, rest) = rest.split_once(char::is_whitespace).expect(line);
            let (rtype, rest): (Rtype, _) = (rtype.parse().expect("a type"), rest.trim());
            let data = Rdata::parse(rtype, rest, None).unwrap_or_else(|e| panic!("{line}: {e}"));
            (
                owner.as_wire().to_vec(),
                rtype,
                ttl,
                data.as_wire().to_vec(),
            )
        })
        .collect()
}

/// Ed25519 signs the same in the same way everywhere: all of the zone is what BIND makes of it.
#[test]
fn zone_signed_by_another_program_is_the_same_to_the_last_octet() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    let keys = [
        (key(ED25519, 1), Role::KeySigning, true),
        (key(ED25519, 2), Role::ZoneSigning, true),
    ];
    let mut master = format!("$ORIGIN example.\n{ZONE}");
    let mut stems = Vec::new();
    for (key, role, _) in &keys {
        let dnskey = key.dnskey(role.is_secure_entry());
        let zone = name("example.");
        let stem = file_stem(&zone, &dnskey);
        let public = write_public(&PublicKey { zone, dnskey });
        fs::write(path.join(format!("{stem}.key")), public).expect("written");
        fs::write(path.join(format!("{stem}.private")), &*write_private(key)).expect("written");
        writeln!(master, "$INCLUDE {stem}.key").expect("a string");
        stems.push(stem);
    }
    fs::write(path.join("zone"), master).expect("written");
    let mut arguments = "-o example. -x -s 20200101000000 -e 20380101000000 -N keep -O full -f"
        .split(' ')
        .collect::<Vec<_>>();
    arguments.extend(["zone.signed", "zone"]);
    arguments.extend(stems.iter().map(String::as_str));
    let (good, said) = run(path, "dnssec-signzone", &arguments);
    assert!(good, "{said}");
    let theirs = fs::read_to_string(path.join("zone.signed")).expect("its zone");
    let ours = signed(&signer(&keys), &zone(ZONE));
    let (ours, theirs) = (records(&ours), records(&theirs));
    assert!(ours.len() > 60, "{}", ours.len());
    let shown = |records: BTreeSet<&Record>| -> Vec<String> {
        let show = |(owner, rtype, ttl, data): &&Record| {
            let (owner, _) = Name::from_wire(owner).expect("a name");
            let data = Rdata::from_wire(*rtype, data).expect("valid data");
            format!("{owner} {ttl} {rtype} {}", data.text(*rtype, None))
        };
        records.iter().map(show).collect()
    };
    assert_eq!(
        shown(ours.difference(&theirs).collect()),
        shown(theirs.difference(&ours).collect())
    );
}

#[test]
fn keys_that_another_program_makes_are_read_and_vouched_for_in_the_same_way() {
    for algorithm in ["ED25519", "ECDSAP256SHA256"] {
        for kind in [&[][..], &["-f", "KSK"]] {
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path();
            let arguments = [&["-q", "-a", algorithm], kind, &["Example.NET"]].concat();
            let (good, stem) = run(path, "dnssec-keygen", &arguments);
            assert!(good, "{stem}");
            let stem = stem.trim();
            let read = |end| fs::read_to_string(path.join(format!("{stem}.{end}")));
            let private = read_private(&read("private").expect("a file"));
            let private = private.unwrap_or_else(|error| panic!("{stem}: {error}"));
            let public = read_public(&read("key").expect("a file")).expect("a key");
            assert_eq!(private.dnskey(!kind.is_empty()), public.dnskey);
            assert_eq!(file_stem(&public.zone, &public.dnskey), stem);
            let file = format!("{stem}.key");
            let (good, said) = run(path, "dnssec-dsfromkey", &["-2", &file]);
            assert!(good, "{said}");
            let (_, theirs) = said.trim().split_once(" DS ").expect("a DS record");
            let theirs = Rdata::parse(Rtype::DS, theirs, None).expect("a DS record");
            assert_eq!(public.dnskey.ds(&public.zone), theirs);
        }
    }
}
