//! Keys and signatures that others published.

use std::borrow::Cow;

use cfgdns_sign::{
    Algorithm, KeyFileError, PrivateKey, PublicKey, SECRET_OCTETS, Set, Time, file_stem,
    read_private, read_public, verifies, write_private, write_public,
};
use cfgdns_zone::{Name, Rdata, Rtype, base64_decode, base64_encode};
use expect_test::{Expect, expect};
use proptest::prelude::*;

struct Vector {
    private: &'static str,
    public: &'static str,
    ds: &'static str,
    set: (&'static str, Rtype, &'static str),
    rrsig: &'static str,
}

/// RFC 8080 6.1, and RFC 6605 6.1, whose signature has a number that was drawn.
const VECTORS: [Vector; 3] = [
    Vector {
        private: "Private-key-format: v1.2\nAlgorithm: 15 (ED25519)\n\
                  PrivateKey: ODIyNjAzODQ2MjgwODAxMjI2NDUxOTAyMDQxNDIyNjI=\n",
        public: "example.com. 3600 IN DNSKEY 257 3 15 (\n\
                 l02Woi0iS8Aa25FQkUd9RMzZHJpBoRQwAQEX1SxZJA4= )\n",
        ds: "3613 15 2 3AA5AB37EFCE57F737FC1627013FEE07BDF241BD10F3B1964AB55C78E79A304B",
        set: ("example.com.", Rtype::MX, "10 mail.example.com."),
        rrsig: "MX 15 2 3600 1440021600 1438207200 3613 example.com. (\
                oL9krJun7xfBOIWcGHi7mag5/hdZrKWw15jPGrHpjQeRAvTdszaPD+QLs3fx8A4M3e23mRZ9VrbpMngw\
                crqNAg== )",
    },
    Vector {
        private: "Private-key-format: v1.2\nAlgorithm: 15 (ED25519)\n\
                  PrivateKey: DSSF3o0s0f+ElWzj9E/Osxw8hLpk55chkmx0LYN5WiY=\n",
        public: "example.com. 3600 IN DNSKEY 257 3 15 (\n\
                 zPnZ/QwEe7S8C5SPz2OfS5RR40ATk2/rYnE9xHIEijs= )\n",
        ds: "35217 15 2 401781B934E392DE492EC77AE2E15D70F6575A1C0BC59C5275C04EBE80C6614C",
        set: ("example.com.", Rtype::MX, "10 mail.example.com."),
        rrsig: "MX 15 2 3600 1440021600 1438207200 35217 example.com. (\
                zXQ0bkYgQTEFyfLyi9QoiY6D8ZdYo4wyUhVioYZXFdT410QPRITQSqJSnzQoSm5poJ7gD7AQR0O7KuI5\
                k2pcBg== )",
    },
    Vector {
        private: "Private-key-format: v1.2\nAlgorithm: 13 (ECDSAP256SHA256)\n\
                  PrivateKey: GU6SnQ/Ou+xC5RumuIUIuJZteXT2z0O/ok1s38Et6mQ=\n",
        public: "example.net. 3600 IN DNSKEY 257 3 13 (\n\
                 GojIhhXUN/u4v54ZQqGSnyhWJwaubCvTmeexv7bR6edb\n\
                 krSqQpF64cYbcB7wNcP+e+MAnLr+Wi9xMWyQLc8NAA== )\n",
        ds: "55648 13 2 B4C8C1FE2E7477127B27115656AD6256F424625BF5C1E2770CE6D6E37DF61D17",
        set: ("www.example.net.", Rtype::A, "192.0.2.1"),
        rrsig: "A 13 3 3600 20100909100439 20100812100439 55648 example.net. (\
                qx6wLYqmh+l9oCKTN6qIc+bw6ya+KJ8oMz0YP107epXAyGmt+3SNruPFKG7tZoLBLlUzGGus7ZwmwWep\
                666VCw== )",
    },
];

fn set(vector: &Vector) -> Set<'static> {
    let (owner, rtype, text) = vector.set;
    let owner: Name = owner.parse().expect("a name");
    let data = Rdata::parse(rtype, text, None).expect(text);
    Set {
        owner: Cow::Owned(owner.as_wire().to_vec()),
        rtype,
        ttl: 3_600,
        data: vec![Cow::Owned(data.as_wire().to_vec())],
    }
}

#[test]
fn keys_digests_and_signatures_are_those_of_the_rfcs() {
    for vector in &VECTORS {
        let private = read_private(vector.private).expect("a private key");
        let PublicKey { zone, dnskey } = read_public(vector.public).expect("a public key");
        assert_eq!(private.dnskey(true), dnskey);
        assert_eq!(dnskey.ds(&zone).text(Rtype::DS, None), vector.ds);
        assert_eq!(dnskey.cds(&zone).as_wire(), dnskey.ds(&zone).as_wire());
        assert_eq!(dnskey.cdnskey().as_wire(), dnskey.to_data().as_wire());

        let rrsig = Rdata::parse(Rtype::RRSIG, vector.rrsig, None).expect("a signature");
        let set = set(vector);
        let now = Time(u32::from_be_bytes(
            *rrsig.as_wire()[12..].first_chunk().expect("the inception"),
        ));
        let keys = std::slice::from_ref(&dnskey);
        assert!(verifies(rrsig.as_wire(), &set, (&zone, keys), now));
        let less = Set {
            ttl: 5,
            ..set.clone()
        };
        assert!(verifies(rrsig.as_wire(), &less, (&zone, keys), now));
        // And nothing else is signed by it.
        let mut other = rrsig.as_wire().to_vec();
        *other.last_mut().expect("a signature") ^= 1;
        let before = Time(now.0 - 1);
        let root = Name::root();
        let more = Set {
            ttl: 3_601,
            ..set.clone()
        };
        assert!(!verifies(&other, &set, (&zone, keys), now));
        assert!(!verifies(rrsig.as_wire(), &set, (&zone, keys), before));
        assert!(!verifies(rrsig.as_wire(), &set, (&root, keys), now));
        assert!(!verifies(rrsig.as_wire(), &set, (&zone, &[]), now));
        assert!(!verifies(rrsig.as_wire(), &more, (&zone, keys), now));
    }
}

/// RFC 8032 5.1.6 and RFC 6979 3.2: nothing is drawn. The first two messages are those of RFC 6979
/// A.2.5 and RFC 8032 7.1 (test 1).
#[test]
fn signatures_are_the_same_each_time() {
    let hex = |text: &str| {
        let data = Rdata::parse(
            Rtype(65_280),
            &format!("\\# {} {text}", text.len() / 2),
            None,
        );
        data.expect("hexadecimal digits").as_wire().to_vec()
    };
    let secret = |text: &str| -> [u8; SECRET_OCTETS] { hex(text).try_into().expect("32 octets") };
    for (algorithm, key, message, signature) in [
        (
            Algorithm::EcdsaP256Sha256,
            "C9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721",
            &b"sample"[..],
            "EFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716\
             F7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8",
        ),
        (
            Algorithm::Ed25519,
            "9D61B19DEFFD5A60BA844AF492EC2CC44449C5697B326919703BAC031CAE7F60",
            b"",
            "E5564300C360AC729086E2CC806E828A84877F1EB8E5D974D873E065224901555FB8821590A33BAC\
             C61E39701CF9B46BD25BF5F0595BBE24655141438E7A100B",
        ),
    ] {
        let key = PrivateKey::from_secret(algorithm, &secret(key)).expect("a key");
        assert_eq!(key.sign(message).to_vec(), hex(signature));
        assert_eq!(key.sign(message), key.sign(message));
        assert!(key.dnskey(false).verifies(message, &key.sign(message)));
        assert!(!key.dnskey(false).verifies(b"other", &key.sign(message)));
    }
}

#[test]
fn keys_are_written_as_they_are_read_and_shown_without_the_secret() {
    for vector in &VECTORS {
        let private = read_private(vector.private).expect("a private key");
        let text = write_private(&private);
        assert_eq!(*text, vector.private.replace("v1.2", "v1.3"));
        assert!(
            text.capacity() <= 200,
            "it grew, and left the secret behind"
        );
        let public = read_public(vector.public).expect("a public key");
        assert_eq!(read_public(&write_public(&public)), Ok(public));
        let (_, secret) = vector.private.rsplit_once(": ").expect("a secret");
        let octets = base64_decode(secret.trim().as_bytes()).expect("base64");
        let shown = format!("{private:?} {private:#?}");
        assert!(!shown.contains(secret.trim()) && !shown.contains(&format!("{octets:?}")));
    }
    let private = read_private(VECTORS[0].private).expect("a private key");
    expect!["PrivateKey { algorithm: Ed25519, key_tag: 3612, .. }"]
        .assert_eq(&format!("{private:?}"));
    let public = read_public(VECTORS[2].public).expect("a public key");
    expect![[r#"
        ; This is a key-signing key, keyid 55648, for example.net.
        example.net. IN DNSKEY 257 3 13 GojIhhXUN/u4v54ZQqGSnyhWJwaubCvTmeexv7bR6edbkrSqQpF64cYbcB7wNcP+e+MAnLr+Wi9xMWyQLc8NAA==
    "#]]
    .assert_eq(&write_public(&public));
    for (zone, expected) in [
        ("Example.NET.", "Kexample.net.+013+55648"),
        (
            "0/25.2.0.192.in-addr.arpa.",
            "K0%2F25.2.0.192.in-addr.arpa.+013+55648",
        ),
        (".", "K.+013+55648"),
    ] {
        let zone = zone.parse().expect("a name");
        assert_eq!(file_stem(&zone, &public.dnskey), expected);
    }
    // RFC 1035 5.1: what begins a comment elsewhere is part of a name where it is escaped.
    let odd = PublicKey {
        zone: "a\\;b\\\\.example.".parse().expect("a name"),
        ..public
    };
    assert_eq!(read_public(&write_public(&odd)), Ok(odd));
}

/// One of 256 keys of P-256 that BIND makes has 31 octets in its file.
#[test]
fn secret_that_begins_with_zeros_is_read_without_them() {
    let mut secret = [7; SECRET_OCTETS];
    secret[..2].fill(0);
    let file = |algorithm: Algorithm, octets: &[u8]| {
        let (number, secret) = (algorithm.number(), base64_encode(octets));
        format!("Private-key-format: v1.3\nAlgorithm: {number}\nPrivateKey: {secret}\n")
    };
    let whole = PrivateKey::from_secret(Algorithm::EcdsaP256Sha256, &secret).expect("a key");
    for octets in [&secret[..], &secret[1..], &secret[2..]] {
        let read = read_private(&file(Algorithm::EcdsaP256Sha256, octets)).expect("a key");
        assert_eq!(read.public(), whole.public());
        // It is no number in the other algorithm.
        let other = read_private(&file(Algorithm::Ed25519, octets));
        assert_eq!(other.is_ok(), octets.len() == SECRET_OCTETS);
    }
    let long = [&[0], &secret[..]].concat();
    let error = read_private(&file(Algorithm::EcdsaP256Sha256, &long)).expect_err("too long");
    assert_eq!(error, KeyFileError::Secret(33));
}

#[track_caller]
fn refused(change: impl Fn(&str) -> String, expected: Expect) {
    let error = read_private(&change(VECTORS[0].private)).expect_err("refused");
    expected.assert_eq(&error.to_string());
}

#[test]
fn files_that_are_no_keys_are_refused_with_the_reason() {
    refused(
        |text| text.replace("v1.2", "v2.0"),
        expect![
            "Private-key-format is v2.0, not v1.2 or v1.3: make a key with `cfgctl zone key generate`, or with dnssec-keygen"
        ],
    );
    refused(
        |text| text.replace("Private-key-format: v1.2\n", ""),
        expect!["there is no line `Private-key-format:`"],
    );
    refused(
        |text| text.replace("15 (ED25519)", "8 (RSASHA256)"),
        expect![
            "Algorithm is 8, not 13 (ECDSAP256SHA256) or 15 (ED25519): make a key of one of these with `cfgctl zone key generate`, and change the algorithm of the zone to it"
        ],
    );
    refused(
        |text| text.repeat(2),
        expect!["there is another line `Private-key-format:`"],
    );
    refused(
        |text| format!("{text}nothing\n"),
        expect!["line 4 is not `NAME: VALUE`"],
    );
    refused(
        |text| text.replace("MjI2NDUx", ""),
        expect![
            "PrivateKey has 26 octets, not 32: copy the file again from where the key was made"
        ],
    );
    refused(
        |text| text.replace("PrivateKey: ", "PrivateKey: !"),
        expect!["PrivateKey is no base64: copy the file again from where the key was made"],
    );
    refused(
        |_| {
            let zero = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
            format!("Private-key-format: v1.3\nAlgorithm: 13\nPrivateKey: {zero}\n")
        },
        expect![
            "the octets are no secret of EcdsaP256Sha256: it is a number from 1 to below the order of the curve"
        ],
    );
    for text in [
        "",
        "; nothing\n",
        "example. IN A 192.0.2.1\n",
        "example. 3600 IN\n",
    ] {
        assert_eq!(read_public(text), Err(KeyFileError::NotOneRecord), "{text}");
    }
    let two = VECTORS[0].public.repeat(2);
    assert!(matches!(read_public(&two), Err(KeyFileError::Data(_))));
}

proptest! {
    #[test]
    fn any_text_is_a_key_or_refused(text in "(Private-key-format|Algorithm|PrivateKey|[A-Z; ]{0,9})?\
        (: (v1.3|13|15|[0-9A-Za-z+/=]{0,48}))?\n?(example. IN DNSKEY 257 3 15 [ -~]{0,50})?") {
        let _: (Result<_, _>, Result<_, _>) = (read_private(&text), read_public(&text));
    }
}
