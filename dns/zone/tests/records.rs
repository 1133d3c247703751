//! Properties of records: text and wire data say the same, and no bytes bring the reader down.

use cfgdns_zone::{Name, Rdata, Rtype, canonical, compare_data, names_in};
use proptest::prelude::*;

/// A record of each type that has a text form, and how it is written back.
const TEXTS: &[(Rtype, &str)] = &[
    (Rtype::A, "192.0.2.1"),
    (Rtype::NS, "ns1"),
    (Rtype::MD, "host"),
    (Rtype::MF, "host"),
    (Rtype::CNAME, "www.other."),
    (Rtype::SOA, "ns1 root 1 7200 600 1209600 60"),
    (Rtype::MB, "host"),
    (Rtype::MG, "group"),
    (Rtype::MR, "other"),
    (Rtype::PTR, "@"),
    (Rtype::HINFO, "\"cpu\" \"an \\\"os\\\"\""),
    (Rtype::MINFO, "root errors"),
    (Rtype::MX, "10 mail"),
    (Rtype::TXT, "\"v=spf1 -all\" \"\" \"\\000\\255\\\\\""),
    (Rtype::RP, "root ."),
    (Rtype::AFSDB, "1 host"),
    (Rtype::X25, "\"311061700956\""),
    (Rtype::RT, "10 host"),
    (Rtype::PX, "10 a b"),
    (Rtype::AAAA, "2001:db8::1"),
    (
        Rtype::LOC,
        "51 30 12.748 N 0 7 39.612 W 10.00m 1.00m 10000.00m 10.00m",
    ),
    (Rtype::SRV, "0 5 5060 sip"),
    (
        Rtype::NAPTR,
        "100 10 \"u\" \"E2U+sip\" \"!^.*$!sip:a@b!\" .",
    ),
    (Rtype::KX, "10 host"),
    (Rtype::CERT, "1 0 5 Zm9vYmFy"),
    (Rtype::DNAME, "other."),
    (
        Rtype::DS,
        "60485 5 1 2BB183AF5F22588179A53B0A98631FAD1A292118",
    ),
    (Rtype::SSHFP, "1 1 123456789ABCDEF67890123456789ABCDEF67890"),
    (
        Rtype::RRSIG,
        "A 5 3 86400 20030322173103 20030220173103 2642 @ oJB1W6WNGg==",
    ),
    (Rtype::NSEC, "host A MX RRSIG NSEC TYPE1234"),
    (
        Rtype::DNSKEY,
        "257 3 15 l02Woi0iS8Aa25FQkUd9RMzZHJpBoRQwAQEX1SxZJA4=",
    ),
    (
        Rtype::DHCID,
        "AAIBY2/AuCccgoJbsaxcQc9TUapptP69lOjxfNuVAA2kjEA=",
    ),
    (Rtype::TLSA, "3 1 0 00FF"),
    (Rtype::SMIMEA, "3 1 0 00FF"),
    (Rtype::CDS, "0 0 0 00"),
    (Rtype::CDNSKEY, "0 3 0 AA=="),
    (Rtype::OPENPGPKEY, "Zm9vYmFy"),
    (Rtype::CSYNC, "66 3 A NS AAAA TYPE65280"),
    (Rtype::SVCB, "0 pool"),
    (
        Rtype::HTTPS,
        "1 . alpn=h2,h3 port=8443 ipv4hint=192.0.2.1 key9=\"a b\"",
    ),
    (Rtype::SPF, "\"v=spf1 -all\""),
    (Rtype::NID, "10 0014:4fff:ff20:ee64"),
    (Rtype::L32, "10 10.1.2.0"),
    (Rtype::L64, "10 2001:0db8:1140:1000"),
    (Rtype::LP, "10 l64"),
    (Rtype::EUI48, "00-00-5e-00-53-2a"),
    (Rtype::EUI64, "00-00-5e-ef-10-00-00-2a"),
    (Rtype::URI, "10 1 \"ftp://ftp1.example/public\""),
    (Rtype::CAA, "0 issue \"ca.example; account=230123\""),
    (Rtype::RESINFO, "\"qnamemin\" \"exterr=15,16\""),
    (Rtype::WALLET, "\"BTC\" \"address\""),
    (Rtype(65280), "\\# 3 00FF10"),
    (Rtype::APL, "\\# 0"),
];

fn origin() -> Name {
    "example.".parse().expect("a name")
}

#[test]
fn record_of_each_type_is_read_and_written_as_it_was() {
    let origin = origin();
    for (rtype, text) in TEXTS {
        let data = Rdata::parse(*rtype, text, Some(&origin));
        let data = data.unwrap_or_else(|error| panic!("{rtype} {text}: {error}"));
        assert_eq!(data.text(*rtype, Some(&origin)), *text, "{rtype}");
        // Absolute, for readers that know of no origin.
        let absolute = data.text(*rtype, None);
        assert_eq!(
            Rdata::parse(*rtype, &absolute, None),
            Ok(data.clone()),
            "{rtype}"
        );
        assert_eq!(Rdata::from_wire(*rtype, data.as_wire()), Ok(data.clone()));
        // The form that every type has (RFC 3597 5).
        let digits: Vec<_> = data.as_wire().iter().map(|b| format!("{b:02x}")).collect();
        let digits = digits.concat();
        let generic = format!("\\# {} {digits}", data.as_wire().len());
        assert_eq!(Rdata::parse(*rtype, &generic, None), Ok(data), "{rtype}");
    }
}

/// A type that the table of layouts has and the test above has not would not be tested.
#[test]
fn every_type_with_a_text_form_is_in_the_list() {
    for number in 0..=u16::MAX {
        let rtype = Rtype(number);
        let error = Rdata::parse(rtype, "", None).expect_err("nothing is no data of any type");
        let opaque = error.to_string().contains("RFC 3597");
        let listed = TEXTS.iter().any(|(found, _)| *found == rtype);
        assert!(opaque || listed, "{rtype}: {error}");
    }
}

#[test]
fn data_that_is_too_much_or_too_little_is_refused() {
    for (rtype, text) in TEXTS {
        let data = Rdata::parse(*rtype, text, Some(&origin())).expect("valid");
        let wire = data.as_wire();
        for cut in 0..wire.len() {
            // What is cut and valid must not be equal to the whole.
            if let Ok(less) = Rdata::from_wire(*rtype, &wire[..cut]) {
                assert_ne!(less, data);
            }
        }
    }
    let origin = origin();
    for (rtype, text, expected) in [
        (Rtype::A, "192.0.2", "`192.0.2` is not an IPv4 address"),
        (
            Rtype::A,
            "192.0.2.01",
            "`192.0.2.01` is not an IPv4 address",
        ),
        (Rtype::A, "192.0.2.1 2", "`2` is more than the type has"),
        (Rtype::MX, "mail", "`mail` is not a number up to 65535"),
        (Rtype::MX, "+1 mail", "`+1` is not a number up to 65535"),
        (Rtype::MX, "10", "the data ends before a name"),
        (
            Rtype::NS,
            "\"ns1\"",
            "`ns1` is not a name: names are not quoted",
        ),
        (
            Rtype::NS,
            "a..b",
            "`a..b` is not a name: a label is empty (RFC 1035 2.3.1)",
        ),
        (Rtype::TXT, "", "the data ends before a character string"),
        (
            Rtype::TXT,
            "\"open",
            "quotes and parentheses are not closed",
        ),
        (Rtype::TXT, "a\nb", "`b` is more than the type has"),
        (
            Rtype::DS,
            "1 8 2 0g",
            "`0g` is not hexadecimal digits, two for each octet",
        ),
        (
            Rtype::A,
            "\\# 3 010203",
            "the data ends before an IPv4 address",
        ),
        (
            Rtype::A,
            "\\# 4 010203",
            "the length after `\\#` is not the number of octets that follow (RFC 3597 5)",
        ),
        (
            Rtype::APL,
            "1:192.0.2.0/24",
            "`1:192.0.2.0/24` is not `\\# LENGTH HEX`, as data of a type without a text form is \
             written (RFC 3597 5)",
        ),
    ] {
        let error = Rdata::parse(rtype, text, Some(&origin)).expect_err(text);
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn data_and_strings_beyond_their_bounds_are_refused() {
    let long = Rdata::from_wire(Rtype(65280), &vec![0; 65_536]).expect_err("too long");
    let expected = "the data has 65536 octets, at most 65535 (RFC 1035 3.2.1)";
    assert_eq!(long.to_string(), expected);
    let strings = vec![format!("\"{}\"", "x".repeat(255)); 257].join(" ");
    let long = Rdata::parse(Rtype::TXT, &strings, None).expect_err("too long");
    assert_eq!(
        long.to_string(),
        "the data has 65792 octets, at most 65535 (RFC 1035 3.2.1)"
    );
    let string = Rdata::parse(Rtype::TXT, &"x".repeat(256), None).expect_err("too long");
    let rule =
        "is not a character string of at most 255 octets (RFC 1035 3.3): split it into several";
    assert_eq!(
        string.to_string(),
        format!("`{}...` {rule}", "x".repeat(80))
    );
    let escape = Rdata::parse(Rtype::TXT, "\\256", None).expect_err("no octet");
    let rule = "is not a text: a backslash is followed by a character or three digits up to 255";
    assert_eq!(escape.to_string(), format!("`\\256` {rule}"));
}

/// A type that has a text form.
fn known_type() -> impl Strategy<Value = Rtype> {
    proptest::sample::select(TEXTS.iter().map(|(rtype, _)| *rtype).collect::<Vec<_>>())
}

/// Bytes that often are valid: those of a record, with a few changed.
fn nearly_valid() -> impl Strategy<Value = (Rtype, Vec<u8>)> {
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (proptest::sample::select(TEXTS), changes).prop_map(|((rtype, text), changes)| {
        let data = Rdata::parse(rtype, text, Some(&origin())).expect("valid");
        let mut wire = data.as_wire().to_vec();
        for (at, byte) in changes {
            if !wire.is_empty() {
                let at = at.index(wire.len());
                wire[at] = byte;
            }
        }
        (rtype, wire)
    })
}

fn check_bytes(rtype: Rtype, wire: &[u8]) {
    let Ok(data) = Rdata::from_wire(rtype, wire) else {
        return;
    };
    let origin = origin();
    for origin in [None, Some(&origin)] {
        let text = data.text(rtype, origin);
        let back = Rdata::parse(rtype, &text, origin);
        assert_eq!(back, Ok(data.clone()), "{rtype} {text}");
    }
    let lower = canonical(rtype, wire);
    assert!(compare_data(rtype, wire, &lower).is_eq());
    for place in names_in(rtype, wire) {
        assert!(Name::from_wire(&wire[place.at..place.at + place.octets]).is_ok());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn arbitrary_bytes_are_refused_or_written_as_text_that_means_them(
        rtype in known_type(),
        wire in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        check_bytes(rtype, &wire);
    }

    #[test]
    fn changed_bytes_are_refused_or_written_as_text_that_means_them(
        (rtype, wire) in nearly_valid(),
    ) {
        check_bytes(rtype, &wire);
    }

    #[test]
    fn arbitrary_text_is_refused_or_read_as_valid_data(
        rtype in known_type(),
        text in "[ -~\n\t]{0,60}",
    ) {
        if let Ok(data) = Rdata::parse(rtype, &text, Some(&origin())) {
            assert!(Rdata::from_wire(rtype, data.as_wire()).is_ok());
        }
    }

    #[test]
    fn arbitrary_words_of_parameters_are_refused_or_read_as_valid_data(
        text in r#"(mandatory|alpn|port|key9|ech)(="?[a-z0-9,\\"]{0,9}"?)?( (alpn|port|key[0-9])(=[a-z0-9,]{0,9})?){0,3}"#,
    ) {
        if let Ok(data) = Rdata::parse(Rtype::SVCB, &format!("1 . {text}"), None) {
            check_bytes(Rtype::SVCB, data.as_wire());
        }
    }
}

/// Names made of any octets, within the bounds.
fn any_name() -> impl Strategy<Value = Name> {
    names(any::<u8>(), 8)
}

/// Names of a few octets, which often begin alike.
fn close_name() -> impl Strategy<Value = Name> {
    names(proptest::sample::select(b"\0\x01\x02aA".to_vec()), 3)
}

fn names(octet: impl Strategy<Value = u8>, most: usize) -> impl Strategy<Value = Name> {
    let label = proptest::collection::vec(octet, 1..most);
    proptest::collection::vec(label, 0..4).prop_map(|labels| {
        labels.iter().fold(Name::root(), |name, label| {
            name.child(label).expect("it is short")
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn name_reads_back_from_text_and_wire(name in any_name(), origin in any_name()) {
        assert_eq!(Name::parse(name.to_string().as_bytes(), None), Ok(name.clone()));
        let relative = name.relative_text(&origin);
        let back = Name::parse(relative.as_bytes(), Some(&origin)).expect("a name");
        assert_eq!(back, name);
        let (back, used) = Name::from_wire(name.as_wire()).expect("a name");
        assert_eq!(back.as_wire(), name.as_wire());
        assert_eq!(used, name.as_wire().len());
    }

    #[test]
    fn order_of_names_agrees_with_their_labels(a in close_name(), b in close_name()) {
        let key = |name: &Name| {
            let mut labels: Vec<_> = name.labels().map(<[u8]>::to_ascii_lowercase).collect();
            labels.reverse();
            labels
        };
        assert_eq!(a.cmp(&b), key(&a).cmp(&key(&b)));
        assert_eq!(a == b, key(&a) == key(&b));
        assert_eq!(a.cmp(&b), a.sort_key().cmp(&b.sort_key()));
        assert_eq!(a.is_at_or_below(&b), a.sort_key().starts_with(&b.sort_key()));
        assert_eq!(a.is_at_or_below(&b), key(&a).starts_with(&key(&b)));
    }

    #[test]
    fn arbitrary_bytes_are_no_name_or_one_within_the_bounds(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let text = Name::parse(&bytes, Some(&origin()));
        if let Ok((name, used)) = Name::from_wire(&bytes) {
            assert_eq!(name.as_wire(), &bytes[..used]);
        }
        if let Ok(name) = text {
            assert!(name.as_wire().len() <= 255);
        }
    }
}
