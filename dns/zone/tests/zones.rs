//! Whole zones: master files in and out, the rules of a zone and their messages, differences.

use cfgdns_zone::{
    Change, Name, Node, Rdata, Rtype, Source, Zone, check_node, diff, load, parse, print,
};
use expect_test::{Expect, expect};
use proptest::prelude::*;

fn origin() -> Name {
    "example.".parse().expect("a name")
}

/// What is read: warnings and the zone as it is printed; or what it is refused for.
fn outcome(text: &[u8], whole: bool) -> String {
    let origin = origin();
    let source = Source {
        file: "db",
        text,
        origin: &origin,
    };
    match if whole { load(&source) } else { parse(&source) } {
        Err(report) => format!("refused\n{report}\n"),
        Ok(loaded) if loaded.warnings.is_empty() => print(&loaded.zone),
        Ok(loaded) => format!("{}\n{}", loaded.warnings, print(&loaded.zone)),
    }
}

/// Reads records, and does not ask whether they are a zone.
fn check_file(text: &str, expected: Expect) {
    expected.assert_eq(&outcome(text.as_bytes(), false));
}

/// Reads and checks a zone that has what every zone needs, from line 4 on.
fn check_zone(text: &str, expected: Expect) {
    let text = format!("$TTL 60\n@ SOA ns1.other. root 1 2 3 4 5\n@ NS ns1.other.\n{text}");
    expected.assert_eq(&outcome(text.as_bytes(), true));
}

#[test]
fn example_of_rfc_1035_is_read_and_printed() {
    check_file(
        "@   IN  SOA     VENERA      Action\\.domains (
                                 20     ; SERIAL
                                 7200   ; REFRESH
                                 600    ; RETRY
                                 1w     ; EXPIRE
                                 60)    ; MINIMUM

        NS      A.ISI.EDU.
        NS      VENERA
        MX      10      VENERA
A       A       26.3.0.103
        1h A    128.9.0.32
VENERA  IN 5m A 10.1.0.52
        5m IN A 128.9.0.32
$ORIGIN sub.example.
_sip._tcp SRV 0 0 5060 @
$ORIGIN deep
@ CLASS1 TXT \"one \\\"two\\\"\" three\\;\\065 ; four\n",
        expect![[r#"
            db:1: example. SOA: no TTL is written here, and there is no $TTL (RFC 2308 4); 60 is taken, the last number of the SOA record
              hint: write `$TTL 3600` at the beginning of the file
            db:12: `1h A 128.9.0.32`: its set has records with the TTLs 3600 and 60; all have 60 now (RFC 2181 5.2)
              hint: write one TTL at all records of the name and type
            $ORIGIN example.
            $TTL 60
            @                               SOA     VENERA Action\.domains 20 7200 600 604800 60
                                            NS      A.ISI.EDU.
                                            NS      VENERA
                                            MX      10 VENERA
            A                               A       26.3.0.103
                                            A       128.9.0.32
            _sip._tcp.sub               300 SRV     0 0 5060 sub
            deep.sub                    300 TXT     "one \"two\"" "three;A"
            VENERA                      300 A       10.1.0.52
                                        300 A       128.9.0.32
        "#]],
    );
}

#[test]
fn file_that_cannot_be_read_is_refused_with_all_that_is_wrong() {
    check_file(
        "  A 192.0.2.1
$TTL 60
a..b A 192.0.2.1
a B 192.0.2.1
a A 192.0.2
a A
a
a 60x A 192.0.2.1
a 2147483648 A 192.0.2.1
a CH A 192.0.2.1
a CLASS3 A 192.0.2.1
a TXT \"open
a A ( 192.0.2.1 ) )
\"a\" A 192.0.2.1
a.other. A 192.0.2.1
a RRSIG A 8 2 60 20260101000000 20250101000000 1 example. AA==
a ANY \\# 0
",
        expect![[r#"
            refused
            db:1: `A 192.0.2.1`: no name is written here, nor before (RFC 1035 5.1)
              hint: begin the line with the name of the record
            db:3: `a..b A 192.0.2.1`: a label is empty (RFC 1035 2.3.1)
              hint: names have labels of 1 to 63 octets between dots, 255 octets in all
            db:4: `a B 192.0.2.1`: `B` is not a record type (RFC 1035 5.1)
              hint: a record is written NAME [TTL] [IN] TYPE DATA; any type can be TYPE123
            db:5: `a A 192.0.2`: `192.0.2` is not an IPv4 address; the form is `A 192.0.2.1`
              hint: write the data in that form; quote texts with blanks or semicolons
            db:6: `a A`: the data ends before an IPv4 address; the form is `A 192.0.2.1`
              hint: write the data in that form; quote texts with blanks or semicolons
            db:7: `a`: the type is missing (RFC 1035 5.1)
              hint: a record is written NAME [TTL] [IN] TYPE DATA
            db:8: `a 60x A 192.0.2.1`: `60x` is not a TTL (RFC 1035 5.1)
              hint: write seconds, or a time with the units w d h m s, as 1h30m
            db:9: `a 2147483648 A 192.0.2.1`: a TTL of 2147483648 is more than 2147483647 (RFC 2181 8)
              hint: write a TTL of at most a week
            db:10: `a CH A 192.0.2.1`: the class CH is not served, only IN (RFC 1035 5.2)
              hint: remove the record, or its class
            db:11: `a CLASS3 A 192.0.2.1`: the class CLASS3 is not served, only IN (RFC 1035 5.2)
              hint: remove the record, or its class
            db:12: `a TXT`: a quote is not closed on its line (RFC 1035 5.1)
              hint: close the quote; a quote within a text is \"
            db:13: `a A 192.0.2.1`: a parenthesis is closed that was not opened (RFC 1035 5.1)
              hint: remove it, or open it on the line where the record begins
            db:14: `a A 192.0.2.1`: a name is not quoted (RFC 1035 5.1)
              hint: names have labels of 1 to 63 octets between dots, 255 octets in all
            db:15: `a.other. A 192.0.2.1`: a.other. is not at or below example., the name of the zone (RFC 1035 5.2)
              hint: write a name below the zone's, or put the record into a file of its own zone
            db:16: `a RRSIG A 8 2 60 20260101000000 20250101000000`: RRSIG: records of DNSSEC are made by the server that signs the zone, not written
              hint: remove the record; take the zone from where it is not signed
            db:17: `a ANY \# 0`: ANY: the type exists in messages only and not in zones (RFC 6895 3.1)
              hint: remove the record
        "#]],
    );
    check_file(
        "$ORIGIN a..b
a ZONEMD 1 1 1 00
a TYPE0 \\# 0
a OPENPGPKEY x
a LOC 91 N 0 E 0
a CNAME
a HIP 2 200100107B1A74DF365639CC39F1D578
$INCLUDE other.db
$GENERATE 1-9 a$ A 192.0.2.$
$ORIGIN
$TTL forever
$UNKNOWN
a MX 10 (
",
        expect![[r#"
            refused
            db:1: `$ORIGIN a..b`: $ORIGIN has one value, a name (RFC 1035 5.1): a label is empty (RFC 1035 2.3.1)
              hint: write one name: $ORIGIN example.
            db:2: `a ZONEMD 1 1 1 00`: ZONEMD: a digest covers the serial (RFC 8976 2), which the service counts itself
              hint: remove the record
            db:3: `a TYPE0 \# 0`: TYPE0: the type exists in messages only and not in zones (RFC 6895 3.1)
              hint: remove the record
            db:4: `a OPENPGPKEY x`: `x` is not base64 with its padding; the form is `OPENPGPKEY BASE64`
              hint: write the data in that form; quote texts with blanks or semicolons
            db:5: `a LOC 91 N 0 E 0`: the place is not as RFC 1876 3 has it: 51 30 12.748 N 0 7 39.612 W 10m; the form is `LOC DEGREES MINUTES SECONDS N DEGREES MINUTES SECONDS E METRES`
              hint: write the data in that form; quote texts with blanks or semicolons
            db:6: `a CNAME`: the data ends before a name; the form is `CNAME NAME`
              hint: write the data in that form; quote texts with blanks or semicolons
            db:7: `a HIP 2 200100107B1A74DF365639CC39F1D578`: `2` is not `\# LENGTH HEX`, as data of a type without a text form is written (RFC 3597 5); the form is `HIP \# LENGTH HEX`
              hint: write the data in that form; quote texts with blanks or semicolons
            db:8: `$INCLUDE other.db`: the file must hold the whole zone: $INCLUDE is not read
              hint: write the records of the other file here
            db:9: `$GENERATE 1-9 a$ A 192.0.2.$`: $GENERATE is an extension of BIND and is not read
              hint: write the records, as printed by `named-compilezone -o - ZONE FILE`
            db:10: `$ORIGIN`: $ORIGIN has one value, a name (RFC 1035 5.1)
              hint: write one name: $ORIGIN example.
            db:11: `$TTL forever`: $TTL has one value, seconds or a time as 1h30m (RFC 2308 4)
              hint: write one number: $TTL 3600
            db:12: `$UNKNOWN`: $UNKNOWN is not a directive (RFC 1035 5.1)
              hint: there are $ORIGIN and $TTL; a name with a dollar is \$name
            db:13: `a MX 10`: a parenthesis is not closed before the end of the file (RFC 1035 5.1)
              hint: close it after the last word of the record
        "#]],
    );
}

#[test]
fn file_without_ttl_is_taken_when_the_soa_tells_one_and_refused_when_it_does_not() {
    check_file(
        "@ SOA a b 1 2 3 4 5\nb NS a\n",
        expect![[r#"
            db:1: example. SOA: no TTL is written here, and there is no $TTL (RFC 2308 4); 5 is taken, the last number of the SOA record
              hint: write `$TTL 3600` at the beginning of the file
            $ORIGIN example.
            $TTL 5
            @                               SOA     a b 1 2 3 4 5
            b                               NS      a
        "#]],
    );
    check_file(
        "b NS a\n",
        expect![[r#"
        refused
        db:1: `b NS a`: no TTL is written here, and there is no $TTL (RFC 2308 4)
          hint: write `$TTL 3600` at the beginning of the file
    "#]],
    );
    // RFC 1035 5.1 takes the last one written, RFC 2308 4 lets $TTL win over it.
    check_file(
        "b 7 NS a\nc NS a\n$TTL 9\nd NS a\n",
        expect![[r#"
        $ORIGIN example.
        $TTL 7
        b                               NS      a
        c                               NS      a
        d                             9 NS      a
    "#]],
    );
}

#[test]
fn records_written_twice_and_ttls_that_differ_are_normalised_with_a_warning() {
    check_file(
        "a 60 A 192.0.2.1\nA 60 A 192.0.2.1\na 30 A 192.0.2.2\nb 1 NS X.\nb 1 NS x.\n",
        expect![[r#"
            db:2: `A 60 A 192.0.2.1`: the record is there twice and was taken once (RFC 2181 5)
              hint: remove one of them
            db:3: `a 30 A 192.0.2.2`: its set has records with the TTLs 30 and 60; all have 30 now (RFC 2181 5.2)
              hint: write one TTL at all records of the name and type
            db:5: `b 1 NS x.`: the record is there twice and was taken once (RFC 2181 5)
              hint: remove one of them
            $ORIGIN example.
            $TTL 1
            a                            30 A       192.0.2.1
                                         30 A       192.0.2.2
            b                               NS      X.
        "#]],
    );
}

#[test]
fn zone_needs_one_soa_and_name_servers() {
    expect![[r#"
        refused
        db: example.: the zone has no SOA record (RFC 1035 5.2)
          hint: write `example. SOA ns1.example. hostmaster.example. 1 3600 600 604800 60`
        db: example.: the zone names no name server of its own (RFC 1034 4.2.1)
          hint: write `example. NS NAME` for each name server, as the delegation has them
    "#]]
    .assert_eq(&outcome(b"a 60 A 192.0.2.1\n", true));
    check_zone(
        "@ SOA ns2.other. root 1 2 3 4 5\nsub SOA ns2.other. root 1 2 3 4 5\n",
        expect![[r#"
            refused
            db:2: `example. SOA ns2.other. root.example. 1 2 3 4 5`: a name has one SOA at most (RFC 1035 5.2), and there are 2
              hint: remove all but one of them
            db:5: `sub.example. SOA ns2.other. root.example. 1 2 3 4 5`: SOA stands only at the zone's own name, example. (RFC 1035 5.2)
              hint: remove the record, or put the names below it into a zone of their own
        "#]],
    );
}

#[test]
fn alias_stands_alone() {
    check_zone(
        "@ CNAME other.\n",
        expect![[r#"
        refused
        db:4: `example. CNAME other.`: a name that is an alias has no other records (RFC 1034 3.6.2), and it has NS, SOA
          hint: remove the CNAME, or the other records; at a zone's own name write A and AAAA
    "#]],
    );
    check_zone(
        "a CNAME b\na TXT x\na A 192.0.2.1\n",
        expect![[r#"
        refused
        db:4: `a.example. CNAME b.example.`: a name that is an alias has no other records (RFC 1034 3.6.2), and it has A, TXT
          hint: remove the CNAME, or the other records; at a zone's own name write A and AAAA
    "#]],
    );
    check_zone(
        "a CNAME b\na CNAME c\n",
        expect![[r#"
        refused
        db:4: `a.example. CNAME c.example.`: a name has one CNAME at most (RFC 2181 10.1), and there are 2
          hint: remove all but one of them
    "#]],
    );
    check_zone(
        "a CNAME b\nb CNAME c\nc CNAME a\nd CNAME a\n",
        expect![[r#"
            db:4: `a.example. CNAME b.example.`: the alias leads back to itself, or over more than 16 others (RFC 1034 3.6.2)
              hint: write the CNAME of the name that holds the data
            db:5: `b.example. CNAME c.example.`: the alias leads back to itself, or over more than 16 others (RFC 1034 3.6.2)
              hint: write the CNAME of the name that holds the data
            db:6: `c.example. CNAME a.example.`: the alias leads back to itself, or over more than 16 others (RFC 1034 3.6.2)
              hint: write the CNAME of the name that holds the data
            db:7: `d.example. CNAME a.example.`: the alias leads back to itself, or over more than 16 others (RFC 1034 3.6.2)
              hint: write the CNAME of the name that holds the data
            $ORIGIN example.
            $TTL 60
            @                               SOA     ns1.other. root 1 2 3 4 5
                                            NS      ns1.other.
            a                               CNAME   b
            b                               CNAME   c
            c                               CNAME   a
            d                               CNAME   a
        "#]],
    );
}

/// RFC 4592 4.2, as named has it. A zone whose own name is a wildcard's names its servers there.
#[test]
fn wildcard_delegates_nothing() {
    check_zone(
        "*.w NS ns.other.\n*.w TXT x\n",
        expect![[r#"
            refused
            db:4: `*.w.example. NS ns.other.`: what NS at a wildcard delegates is not defined (RFC 4592 4.2)
              hint: write the NS records at the names that are delegated
        "#]],
    );
    let origin = "*.example.".parse().expect("a name");
    let source = Source {
        file: "db",
        text: b"@ 60 SOA ns1.other. root 1 2 3 4 5\n@ 60 NS ns1.other.\n",
        origin: &origin,
    };
    assert!(load(&source).is_ok());
}

#[test]
fn dname_is_one_with_nothing_below_and_not_delegated() {
    check_zone(
        "a DNAME b.\na DNAME c.\n",
        expect![[r#"
        refused
        db:4: `a.example. DNAME c.`: a name has one DNAME at most (RFC 6672 2.4), and there are 2
          hint: remove all but one of them
    "#]],
    );
    check_zone(
        "a DNAME b.\nx.a A 192.0.2.1\nx.y.a TXT x\n",
        expect![[r#"
        refused
        db:5: `x.a.example. A 192.0.2.1`: nothing stands below a.example., which has a DNAME (RFC 6672 2.4)
          hint: remove it, or the DNAME; write it where the DNAME leads
        db:6: `x.y.a.example. TXT "x"`: nothing stands below a.example., which has a DNAME (RFC 6672 2.4)
          hint: remove it, or the DNAME; write it where the DNAME leads
    "#]],
    );
    check_zone(
        "a DNAME b.\na NS c.\n",
        expect![[r#"
        refused
        db:4: `a.example. DNAME b.`: a delegated name has no DNAME (RFC 6672 2.3), and it has NS
          hint: remove the DNAME, or the NS records
    "#]],
    );
    check_zone(
        "@ DNAME other.\n",
        expect![[r#"
        $ORIGIN example.
        $TTL 60
        @                               SOA     ns1.other. root 1 2 3 4 5
                                        NS      ns1.other.
                                        DNAME   other.
    "#]],
    );
    check_zone(
        "* DNAME other.\n",
        expect![[r#"
        db:4: `*.example. DNAME other.`: what a DNAME at a wildcard means is not defined (RFC 6672 3.3)
          hint: write the DNAME at the names that are meant
        $ORIGIN example.
        $TTL 60
        @                               SOA     ns1.other. root 1 2 3 4 5
                                        NS      ns1.other.
        *                               DNAME   other.
    "#]],
    );
}

#[test]
fn name_servers_of_the_zone_have_addresses_and_are_no_aliases() {
    check_zone(
        "a NS ns.a\n",
        expect![[r#"
        refused
        db:4: `a.example. NS ns.a.example.`: the glue of ns.a.example. is missing: nobody could ask it (RFC 9471 3.1)
          hint: write its A or AAAA record into this zone too
    "#]],
    );
    check_zone(
        "a NS ns.a\nns.a AAAA 2001:db8::1\n",
        expect![[r#"
        $ORIGIN example.
        $TTL 60
        @                               SOA     ns1.other. root 1 2 3 4 5
                                        NS      ns1.other.
        a                               NS      ns.a
        ns.a                            AAAA    2001:db8::1
    "#]],
    );
    check_zone(
        "a NS a\na A 192.0.2.1\n",
        expect![[r#"
        $ORIGIN example.
        $TTL 60
        @                               SOA     ns1.other. root 1 2 3 4 5
                                        NS      ns1.other.
        a                               A       192.0.2.1
                                        NS      a
    "#]],
    );
    check_zone(
        "a NS ns.b\nb NS ns.other.\n",
        expect![[r#"
        db:4: `a.example. NS ns.b.example.`: ns.b.example. is delegated to others and has no glue here (RFC 9471 3.2)
          hint: write its A or AAAA record into this zone too
        $ORIGIN example.
        $TTL 60
        @                               SOA     ns1.other. root 1 2 3 4 5
                                        NS      ns1.other.
        a                               NS      ns.b
        b                               NS      ns.other.
    "#]],
    );
    check_zone(
        "a NS ns\nb NS ns.w\n*.w A 192.0.2.1\nc NS ns.x.w\nx.w TXT x\n",
        expect![[r#"
            refused
            db:4: `a.example. NS ns.example.`: ns.example. is in this zone and has no address (RFC 1912 2.3)
              hint: write an A or AAAA record of it, or another name
            db:7: `c.example. NS ns.x.w.example.`: ns.x.w.example. is in this zone and has no address (RFC 1912 2.3)
              hint: write an A or AAAA record of it, or another name
        "#]],
    );
    check_zone(
        "a NS ns\nns CNAME other.\n",
        expect![[r#"
        refused
        db:4: `a.example. NS ns.example.`: ns.example. is an alias, and NS leads to a name with addresses (RFC 2181 10.3)
          hint: write the name that the alias leads to
    "#]],
    );
    check_zone(
        "a NS ns.d\nd DNAME other.\n",
        expect![[r#"
        refused
        db:4: `a.example. NS ns.d.example.`: ns.d.example. is an alias, and NS leads to a name with addresses (RFC 2181 10.3)
          hint: write the name that the alias leads to
    "#]],
    );
}

#[test]
fn mail_and_services_that_lead_nowhere_are_warned_of() {
    check_zone(
        "a MX 10 b\na MX 20 c\nb CNAME other.\n_x._tcp SRV 0 0 1 c\nd MX 0 .\ne MX 1 f\nf A 192.0.2.1\n",
        expect![[r#"
            db:4: `a.example. MX 10 b.example.`: b.example. is an alias, and MX leads to a name with addresses (RFC 2181 10.3)
              hint: write the name that the alias leads to
            db:4: `a.example. MX 20 c.example.`: c.example. is in this zone and has no address (RFC 1912 2.3)
              hint: write an A or AAAA record of it, or another name
            db:7: `_x._tcp.example. SRV 0 0 1 c.example.`: c.example. is in this zone and has no address (RFC 1912 2.3)
              hint: write an A or AAAA record of it, or another name
            $ORIGIN example.
            $TTL 60
            @                               SOA     ns1.other. root 1 2 3 4 5
                                            NS      ns1.other.
            _x._tcp                         SRV     0 0 1 c
            a                               MX      10 b
                                            MX      20 c
            b                               CNAME   other.
            d                               MX      0 .
            e                               MX      1 f
            f                               A       192.0.2.1
        "#]],
    );
}

#[test]
fn data_that_a_delegation_hides_is_kept_with_a_warning() {
    check_zone(
        "a NS ns.a\nns.a A 192.0.2.1\na DS 1 8 250 00\na TXT x\nb.a NS ns.a\nc.a A 192.0.2.1\nd DS 1 8 250 00\n",
        expect![[r#"
            db:7: `a.example. TXT "x"`: the name is delegated by its NS records: it is never served (RFC 2181 6.1)
              hint: remove it, or write it into the delegated zone
            db:8: `b.a.example. NS ns.a.example.`: the delegation of a.example. hides it: it is never served (RFC 2181 6.1)
              hint: remove it, or write it into the delegated zone
            db:9: `c.a.example. A 192.0.2.1`: the delegation of a.example. hides it: it is never served (RFC 2181 6.1)
              hint: remove it, or write it into the delegated zone
            db:10: `d.example. DS 1 8 250 00`: the name is not delegated: there is no key to vouch for (RFC 4035 2.4)
              hint: remove it, or write the NS records of the delegation
            $ORIGIN example.
            $TTL 60
            @                               SOA     ns1.other. root 1 2 3 4 5
                                            NS      ns1.other.
            a                               NS      ns.a
                                            TXT     "x"
                                            DS      1 8 250 00
            b.a                             NS      ns.a
            c.a                             A       192.0.2.1
            ns.a                            A       192.0.2.1
            d                               DS      1 8 250 00
        "#]],
    );
}

#[test]
fn set_that_fits_into_no_message_is_refused() {
    let text = "x".repeat(250);
    let records = (0..260).map(|n| format!("a TXT {n:03}{text}\n"));
    let all: String = records.collect();
    let report = outcome(
        format!("$TTL 1\n@ SOA . . 1 2 3 4 5\n@ NS x.\n{all}").as_bytes(),
        true,
    );
    let report = report.replace(&text, "").replace(&"x".repeat(60), "");
    expect![[r#"
        refused
        db:4: `a.example. TXT "000xxxxxxxxxxxxxxxx...`: its set of 260 records has 69160 octets, and a message of at most 65535 must hold all of them (RFC 2181 5)
          hint: spread the records over several names
    "#]].assert_eq(&report);
}

#[test]
fn set_of_more_records_than_any_message_holds_is_refused_at_the_first_beyond() {
    let records = (0..5_500).map(|n| format!("a A 10.0.{}.{}\n", n / 256, n % 256));
    let all: String = records.collect::<Vec<_>>().concat();
    let report = outcome(format!("$TTL 1\n{all}").as_bytes(), true);
    let first: Vec<_> = report.lines().take(3).collect();
    expect![[r#"
        refused
        db:5418: `a A 10.0.21.40`: a set has at most 5416 records, or no message holds all of them (RFC 2181 5)
          hint: spread the records over several names"#]].assert_eq(&first.join("\n"));
    assert!(report.ends_with("\nand 64 more\n"), "{report}");
}

#[test]
fn more_faults_than_anybody_reads_are_counted() {
    let text = "a A 1\n".repeat(1_000);
    let report = outcome(text.as_bytes(), false);
    assert_eq!(report.matches("hint").count(), 20);
    assert!(report.ends_with("\nand 980 more\n"), "{report}");
    let report = outcome("a A 1\n".repeat(12_000).as_bytes(), false);
    assert!(report.ends_with("\nand more than 10000 more\n"), "{report}");
}

/// The server follows 16 aliases (`cfgdns-core`): a way of 17 ends before its end.
#[test]
fn way_of_more_aliases_than_are_followed_is_warned_of() {
    let way = (1..=17).rev().map(|n| format!("a{n} CNAME a{}\n", n - 1));
    let all = way.collect::<Vec<_>>().concat();
    let head = "$TTL 1\n@ SOA . . 1 2 3 4 5\n@ NS x.\na0 A 192.0.2.1\n";
    let report = outcome(format!("{head}{all}").as_bytes(), true);
    let warned: Vec<_> = report
        .lines()
        .filter(|line| line.contains("the alias leads"))
        .collect();
    assert_eq!(warned.len(), 1, "{report}");
    assert!(
        warned[0].starts_with("db:5: `a17.example. CNAME a16.example.`"),
        "{report}"
    );
}

#[test]
fn single_name_is_checked_by_itself() {
    let name: Name = "a.example.".parse().expect("a name");
    let mut node = Node::default();
    let mut add = |rtype, text: &str| {
        let data = Rdata::parse(rtype, text, Some(&name)).expect(text);
        node.insert(rtype, 60, data).expect("it is not full");
        check_node(&name, &node).faults.to_string()
    };
    assert_eq!(add(Rtype::CNAME, "other."), "");
    expect![[r#"
        a.example.: `a.example. CNAME other.`: a name that is an alias has no other records (RFC 1034 3.6.2), and it has TXT
          hint: remove the CNAME, or the other records; at a zone's own name write A and AAAA"#]].assert_eq(&add(Rtype::TXT, "x"));
}

fn zone(text: &str) -> Zone {
    let origin = origin();
    let source = Source {
        file: "db",
        text: text.as_bytes(),
        origin: &origin,
    };
    parse(&source).expect(text).zone
}

#[test]
fn difference_is_told_by_name_in_canonical_order() {
    let old = zone("$TTL 60\nz A 192.0.2.1\na A 192.0.2.1\na A 192.0.2.2\nb TXT x\nC TXT x\n");
    let new =
        zone("$TTL 60\nz 30 A 192.0.2.1\na A 192.0.2.3\na A 192.0.2.2\n\\001.a TXT y\nc TXT x\n");
    let mut found = Vec::new();
    for change in diff(&old, &new) {
        for (sign, records) in [("-", &change.removed), ("+", &change.added)] {
            for record in records {
                let (ttl, rtype) = (record.ttl, record.rtype);
                let data = record.data.text(rtype, None);
                found.push(format!("{sign} {} {ttl} {rtype} {data}\n", change.name));
            }
        }
    }
    expect![[r#"
        - a.example. 60 A 192.0.2.1
        + a.example. 60 A 192.0.2.3
        + \001.a.example. 60 TXT "y"
        - b.example. 60 TXT "x"
        - C.example. 60 TXT "x"
        + C.example. 60 TXT "x"
        - z.example. 60 A 192.0.2.1
        + z.example. 30 A 192.0.2.1
    "#]]
    .assert_eq(&found.concat());
    assert_eq!(diff(&new, &new), []);
}

/// Makes the new zone from the old one and the changes.
fn apply(old: &Zone, changes: &[Change]) -> Zone {
    let mut zone = old.clone();
    for change in changes {
        let name = change.renamed.as_ref().unwrap_or(&change.name);
        let mut node = Node::default();
        let before = old.node(&change.name).cloned().unwrap_or_default();
        for set in before.sets() {
            for data in set.data() {
                let gone = change.removed.iter().any(|record| {
                    (record.rtype, record.ttl, &record.data) == (set.rtype(), set.ttl(), data)
                });
                if !gone {
                    node.insert(set.rtype(), set.ttl(), data.clone())
                        .expect("not full");
                }
            }
        }
        for record in &change.added {
            node.insert(record.rtype, record.ttl, record.data.clone())
                .expect("not full");
        }
        zone.put(name.clone(), node).expect("in the zone");
    }
    zone
}

/// Zones in which names, sets and cases meet often.
fn any_zone() -> impl Strategy<Value = Zone> {
    let owner = prop_oneof![
        Just("example."),
        Just("Example."),
        Just("a.example."),
        Just("A.EXAMPLE."),
        Just("b.a.example."),
        Just("*.example."),
        Just("\\000\\.\\\"\\@.example."),
        Just("$x.example."),
        Just("\\200.example."),
    ];
    let data = prop_oneof![
        (0..3_u8).prop_map(|last| (Rtype::A, format!("192.0.2.{last}"))),
        "[aA](\\.(example|EXAMPLE|other)\\.)?".prop_map(|text| (Rtype::NS, text)),
        "[ -~]{0,5}"
            .prop_map(|text| (Rtype::TXT, format!("\"{}\"", text.replace(['\\', '"'], "")))),
        (0..3_u8).prop_map(|n| (Rtype::SOA, format!("@ Example. {n} 2 3 4 5"))),
        (0..3_u8).prop_map(|n| (Rtype(65280), format!("\\# 1 0{n}"))),
        Just((Rtype::HTTPS, "1 . alpn=h2".to_owned())),
    ];
    proptest::collection::vec((owner, data, 1..3_u32), 0..12).prop_map(|records| {
        let mut zone = Zone::new(origin());
        for (owner, (rtype, text), ttl) in records {
            let name: Name = owner.parse().expect(owner);
            let data = Rdata::parse(rtype, &text, Some(&origin())).expect(&text);
            zone.insert(&name, rtype, ttl, data).expect("in the zone");
        }
        zone
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn printed_zone_reads_back_as_the_same_zone(zone in any_zone()) {
        let text = print(&zone);
        let origin = origin();
        let source = Source { file: "db", text: text.as_bytes(), origin: &origin };
        let back = parse(&source).unwrap_or_else(|report| panic!("{report}\n{text}"));
        prop_assert!(back.warnings.is_empty(), "{}\n{text}", back.warnings);
        prop_assert_eq!(&back.zone, &zone, "{}", text);
        prop_assert_eq!(print(&back.zone), text);
    }

    #[test]
    fn difference_makes_the_new_zone_out_of_the_old(old in any_zone(), new in any_zone()) {
        let changes = diff(&old, &new);
        prop_assert!(changes.is_sorted_by(|a, b| a.name < b.name));
        prop_assert_eq!(apply(&old, &changes), new);
        prop_assert_eq!(diff(&old, &old), []);
    }

    #[test]
    fn arbitrary_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        outcome(&bytes, true);
    }

    #[test]
    fn arbitrary_words_are_read_or_refused(
        words in proptest::collection::vec(
            prop_oneof![
                Just("\n"), Just("\n@ "), Just("\n "), Just(" ( "), Just(" ) "), Just(" \""),
                Just("$TTL 5"), Just("$ORIGIN a"), Just("NS"), Just(" SOA a b 1 2 3 4 5"), Just(" x"),
                Just(" A 192.0.2.1"), Just(" 60 "), Just("IN "), Just(" CNAME"), Just(" ; "),
                Just(" DNAME"), Just("\\"), Just(" \\# 2 "), Just(" *.x"), Just(" MX 1"),
            ],
            0..60,
        ),
    ) {
        outcome(format!("$TTL 1\n{}", words.concat()).as_bytes(), true);
    }
}
