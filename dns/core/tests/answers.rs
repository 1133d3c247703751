//! Replies to single questions, each with the line of an RFC that obliges it.

use std::fmt::Write as _;
use std::sync::Arc;

use cfgdns_core::{Question, Rcode, Records, Reply, Tree, Zones, answer};
use cfgdns_testing::zones::zone;
use cfgdns_zone::{Name, Rdata, Zone};
use expect_test::{Expect, expect};

fn zones(files: &[(&str, &str)]) -> Zones {
    let trees = files
        .iter()
        .map(|(origin, text)| Arc::new(Tree::build(&zone(origin, text)).expect("it has an SOA")));
    Zones::new(trees)
}

fn section(title: &str, records: &[Records<'_>], text: &mut String) {
    for set in records {
        let (owner, _) = Name::from_wire(&set.owner).expect("a name");
        let needed = if title == "additional" && set.needed {
            " (needed)"
        } else {
            ""
        };
        for data in set.data() {
            let (ttl, rtype) = (set.ttl, set.rtype);
            let data = Rdata::from_wire(rtype, data)
                .expect("valid")
                .text(rtype, None);
            writeln!(text, "{title}: {owner} {ttl} {rtype} {data}{needed}").expect("a string");
        }
    }
}

fn written(reply: &Reply<'_>) -> String {
    let mut text = format!("{:?}", reply.rcode);
    text.push_str(if reply.authoritative { " AA" } else { "" });
    if let Some(error) = reply.extended_error {
        write!(text, " EDE {}", error.code()).expect("a string");
    }
    text.push('\n');
    section("answer", &reply.answer, &mut text);
    section("authority", &reply.authority, &mut text);
    section("additional", &reply.additional, &mut text);
    text
}

fn ask(zones: &Zones, question: &str) -> String {
    let mut words = question.split(' ');
    let name: Name = words.next().expect("a name").parse().expect("a name");
    let rtype = words.next().expect("a type").parse().expect("a type");
    let class = words
        .next()
        .map_or(1, |class| class.parse().expect("a number"));
    let question = Question {
        name: &name,
        rtype,
        class,
    };
    written(&answer(zones, &question))
}

/// Asks all questions.
fn check(zones: &Zones, questions: &[&str], expected: Expect) {
    let mut text = String::new();
    for question in questions {
        write!(text, "{question}\n{}\n", ask(zones, question)).expect("a string");
    }
    expected.assert_eq(&text);
}

const EXAMPLE: &str = "\
$TTL 3600
@ SOA ns1 root 7 3600 600 604800 60
@ NS ns1
@ NS ns.other.
@ MX 10 mail
@ HTTPS 1 . alpn=h2
@ A 192.0.2.80
ns1 A 192.0.2.1
ns1 AAAA 2001:db8::1
mail A 192.0.2.2
WWW A 192.0.2.3
WWW TXT hello
x.y.empty TXT x
alias CNAME WWW
gone CNAME missing
out CNAME www.other.
loop CNAME loop2
loop2 CNAME loop
into CNAME host.sub
sub NS ns.sub
sub NS ns.sibling
sub NS ns.other.
sub DS 1 8 250 00
ns.sub A 192.0.2.4
sibling NS ns.sibling
ns.sibling A 192.0.2.5
plain NS ns.other.
late NS ns.sub
late NS ns.late
ns.late A 192.0.2.7
_sip._tcp SRV 0 0 5060 mail
_sip._tcp SRV 0 0 5060 ns.sub
none MX 0 .
svc HTTPS 0 @
svc2 HTTPS 0 .
old DNAME new
host.new A 192.0.2.6
far DNAME a-label-of-thirty-octets-or-so.another-label-of-thirty-octets.and-one-more.other.
";

fn example() -> Zones {
    zones(&[("example.", EXAMPLE)])
}

/// RFC 1034 4.3.2 step 3a, RFC 2308 2.1 and 2.2, RFC 8020.
#[test]
fn data_no_data_and_no_name() {
    check(
        &example(),
        &[
            "www.EXAMPLE. A",
            "www.example. AAAA",
            "empty.example. A",
            "y.empty.example. ANY",
            "nothing.example. A",
            "a.www.example. A",
            "example. SOA",
        ],
        expect![[r#"
            www.EXAMPLE. A
            NoError AA
            answer: WWW.example. 3600 A 192.0.2.3

            www.example. AAAA
            NoError AA
            authority: example. 60 SOA ns1.example. root.example. 7 3600 600 604800 60

            empty.example. A
            NoError AA
            authority: example. 60 SOA ns1.example. root.example. 7 3600 600 604800 60

            y.empty.example. ANY
            NoError AA
            authority: example. 60 SOA ns1.example. root.example. 7 3600 600 604800 60

            nothing.example. A
            NxDomain AA
            authority: example. 60 SOA ns1.example. root.example. 7 3600 600 604800 60

            a.www.example. A
            NxDomain AA
            authority: example. 60 SOA ns1.example. root.example. 7 3600 600 604800 60

            example. SOA
            NoError AA
            answer: example. 3600 SOA ns1.example. root.example. 7 3600 600 604800 60

        "#]],
    );
}

/// RFC 1034 3.6.2, RFC 2308 2.1, RFC 6604 3: the rcode is that of the last name.
#[test]
fn aliases_are_followed_within_the_zone() {
    check(
        &example(),
        &[
            "alias.example. A",
            "alias.example. AAAA",
            "alias.example. CNAME",
            "gone.example. A",
            "out.example. A",
            "loop.example. A",
            "into.example. A",
        ],
        expect![[r#"
            alias.example. A
            NoError AA
            answer: alias.example. 3600 CNAME WWW.example.
            answer: WWW.example. 3600 A 192.0.2.3

            alias.example. AAAA
            NoError AA
            answer: alias.example. 3600 CNAME WWW.example.
            authority: example. 60 SOA ns1.example. root.example. 7 3600 600 604800 60

            alias.example. CNAME
            NoError AA
            answer: alias.example. 3600 CNAME WWW.example.

            gone.example. A
            NxDomain AA
            answer: gone.example. 3600 CNAME missing.example.
            authority: example. 60 SOA ns1.example. root.example. 7 3600 600 604800 60

            out.example. A
            NoError AA
            answer: out.example. 3600 CNAME www.other.

            loop.example. A
            NoError AA
            answer: loop.example. 3600 CNAME loop2.example.
            answer: loop2.example. 3600 CNAME loop.example.

            into.example. A
            NoError AA
            answer: into.example. 3600 CNAME host.sub.example.
            authority: sub.example. 3600 NS ns.sub.example.
            authority: sub.example. 3600 NS ns.other.
            authority: sub.example. 3600 NS ns.sibling.example.
            additional: ns.sub.example. 3600 A 192.0.2.4 (needed)
            additional: ns.sibling.example. 3600 A 192.0.2.5

        "#]],
    );
}

/// RFC 1034 4.3.2 step 3b, RFC 9471 3, RFC 4035 3.1.4.1.
#[test]
fn delegated_names_are_referred_without_authority_and_with_glue() {
    check(
        &example(),
        &[
            "sub.example. A",
            "a.b.sub.example. NS",
            "ns.sub.example. A",
            "plain.example. NS",
            // Its own glue comes first, whatever the order of its servers is.
            "late.example. NS",
            "sub.example. DS",
            "plain.example. DS",
            "a.sub.example. DS",
        ],
        expect![[r#"
            sub.example. A
            NoError
            authority: sub.example. 3600 NS ns.sub.example.
            authority: sub.example. 3600 NS ns.other.
            authority: sub.example. 3600 NS ns.sibling.example.
            additional: ns.sub.example. 3600 A 192.0.2.4 (needed)
            additional: ns.sibling.example. 3600 A 192.0.2.5

            a.b.sub.example. NS
            NoError
            authority: sub.example. 3600 NS ns.sub.example.
            authority: sub.example. 3600 NS ns.other.
            authority: sub.example. 3600 NS ns.sibling.example.
            additional: ns.sub.example. 3600 A 192.0.2.4 (needed)
            additional: ns.sibling.example. 3600 A 192.0.2.5

            ns.sub.example. A
            NoError
            authority: sub.example. 3600 NS ns.sub.example.
            authority: sub.example. 3600 NS ns.other.
            authority: sub.example. 3600 NS ns.sibling.example.
            additional: ns.sub.example. 3600 A 192.0.2.4 (needed)
            additional: ns.sibling.example. 3600 A 192.0.2.5

            plain.example. NS
            NoError
            authority: plain.example. 3600 NS ns.other.

            late.example. NS
            NoError
            authority: late.example. 3600 NS ns.sub.example.
            authority: late.example. 3600 NS ns.late.example.
            additional: ns.late.example. 3600 A 192.0.2.7 (needed)
            additional: ns.sub.example. 3600 A 192.0.2.4

            sub.example. DS
            NoError AA
            answer: sub.example. 3600 DS 1 8 250 00

            plain.example. DS
            NoError AA
            authority: example. 60 SOA ns1.example. root.example. 7 3600 600 604800 60

            a.sub.example. DS
            NoError
            authority: sub.example. 3600 NS ns.sub.example.
            authority: sub.example. 3600 NS ns.other.
            authority: sub.example. 3600 NS ns.sibling.example.
            additional: ns.sub.example. 3600 A 192.0.2.4 (needed)
            additional: ns.sibling.example. 3600 A 192.0.2.5

        "#]],
    );
}

/// RFC 6672 2.2 and 3.2.
#[test]
fn names_below_a_dname_are_aliases() {
    let long = format!(
        "{}far.example. A",
        "a-label-of-thirty-octets-or-so.".repeat(6)
    );
    check(
        &example(),
        &[
            "host.old.example. A",
            "nobody.old.example. A",
            "old.example. A",
            "old.example. DNAME",
            "host.old.example. CNAME",
            "a.far.example. A",
            &long,
        ],
        expect![[r#"
            host.old.example. A
            NoError AA
            answer: old.example. 3600 DNAME new.example.
            answer: host.old.example. 3600 CNAME host.new.example.
            answer: host.new.example. 3600 A 192.0.2.6

            nobody.old.example. A
            NxDomain AA
            answer: old.example. 3600 DNAME new.example.
            answer: nobody.old.example. 3600 CNAME nobody.new.example.
            authority: example. 60 SOA ns1.example. root.example. 7 3600 600 604800 60

            old.example. A
            NoError AA
            authority: example. 60 SOA ns1.example. root.example. 7 3600 600 604800 60

            old.example. DNAME
            NoError AA
            answer: old.example. 3600 DNAME new.example.

            host.old.example. CNAME
            NoError AA
            answer: old.example. 3600 DNAME new.example.
            answer: host.old.example. 3600 CNAME host.new.example.

            a.far.example. A
            NoError AA
            answer: far.example. 3600 DNAME a-label-of-thirty-octets-or-so.another-label-of-thirty-octets.and-one-more.other.
            answer: a.far.example. 3600 CNAME a.a-label-of-thirty-octets-or-so.another-label-of-thirty-octets.and-one-more.other.

            a-label-of-thirty-octets-or-so.a-label-of-thirty-octets-or-so.a-label-of-thirty-octets-or-so.a-label-of-thirty-octets-or-so.a-label-of-thirty-octets-or-so.a-label-of-thirty-octets-or-so.far.example. A
            YxDomain AA
            answer: far.example. 3600 DNAME a-label-of-thirty-octets-or-so.another-label-of-thirty-octets.and-one-more.other.

        "#]],
    );
}

/// RFC 1035 3.3.9 and 3.3.11, RFC 2782, RFC 9460 4.1.
#[test]
fn addresses_of_servers_and_services_come_along() {
    check(
        &example(),
        &[
            "example. MX",
            "example. NS",
            "_sip._tcp.example. SRV",
            "none.example. MX",
            "example. HTTPS",
            "svc.example. HTTPS",
            "svc2.example. HTTPS",
        ],
        expect![[r#"
            example. MX
            NoError AA
            answer: example. 3600 MX 10 mail.example.
            additional: mail.example. 3600 A 192.0.2.2

            example. NS
            NoError AA
            answer: example. 3600 NS ns.other.
            answer: example. 3600 NS ns1.example.
            additional: ns1.example. 3600 A 192.0.2.1
            additional: ns1.example. 3600 AAAA 2001:db8::1

            _sip._tcp.example. SRV
            NoError AA
            answer: _sip._tcp.example. 3600 SRV 0 0 5060 ns.sub.example.
            answer: _sip._tcp.example. 3600 SRV 0 0 5060 mail.example.
            additional: mail.example. 3600 A 192.0.2.2

            none.example. MX
            NoError AA
            answer: none.example. 3600 MX 0 .

            example. HTTPS
            NoError AA
            answer: example. 3600 HTTPS 1 . alpn=h2
            additional: example. 3600 A 192.0.2.80

            svc.example. HTTPS
            NoError AA
            answer: svc.example. 3600 HTTPS 0 example.
            additional: example. 3600 A 192.0.2.80
            additional: example. 3600 HTTPS 1 . alpn=h2

            svc2.example. HTTPS
            NoError AA
            answer: svc2.example. 3600 HTTPS 0 .

        "#]],
    );
}

/// RFC 8482 4.1, RFC 1035 3.2.3, RFC 8914 4.21.
#[test]
fn any_is_one_set_and_what_is_not_ours_is_refused() {
    check(
        &example(),
        &[
            "www.example. ANY",
            "alias.example. ANY",
            "example. ANY",
            "www.other. A",
            ". NS",
            "www.example. A 3",
            "www.example. A 255",
            "example. AXFR",
            "example. OPT",
            "www.example. TYPE65280",
        ],
        expect![[r#"
            www.example. ANY
            NoError AA
            answer: WWW.example. 3600 A 192.0.2.3

            alias.example. ANY
            NoError AA
            answer: alias.example. 3600 CNAME WWW.example.

            example. ANY
            NoError AA
            answer: example. 3600 A 192.0.2.80

            www.other. A
            Refused EDE 20

            . NS
            Refused EDE 20

            www.example. A 3
            Refused EDE 20

            www.example. A 255
            Refused EDE 20

            example. AXFR
            NotImp EDE 21

            example. OPT
            FormErr EDE 30

            www.example. TYPE65280
            NoError AA
            authority: example. 60 SOA ns1.example. root.example. 7 3600 600 604800 60

        "#]],
    );
}

/// The zone of RFC 4592 2.2.1, with its questions and those of 2.2.2 and 2.2.3.
#[test]
fn wildcards_of_rfc_4592() {
    let zones = zones(&[(
        "example.",
        "$TTL 3600
@ SOA ns.example.com. root 1 2 3 4 5
@ NS ns.example.com.
@ NS ns.example.net.
* TXT \"this is a wildcard\"
* MX 10 host1.example.
sub.* TXT \"this is not a wildcard\"
host1 A 192.0.2.1
_ssh._tcp.host1 SRV 0 0 22 host1
_ssh._tcp.host2 SRV 0 0 22 host1
subdel NS ns.example.com.
subdel NS ns.example.net.
",
    )]);
    check(
        &zones,
        &[
            // Made from the wildcard.
            "host3.example. MX",
            "host3.example. A",
            "foo.bar.example. TXT",
            // Not made: the name exists, or is empty, or is delegated, or has another encloser.
            "host1.example. MX",
            "sub.*.example. MX",
            "_telnet._tcp.host1.example. SRV",
            "host.subdel.example. A",
            "ghost.*.example. MX",
            // The wildcard itself, and what is empty.
            "*.example. TXT",
            "_tcp.host2.example. A",
        ],
        expect![[r#"
            host3.example. MX
            NoError AA
            answer: host3.example. 3600 MX 10 host1.example.
            additional: host1.example. 3600 A 192.0.2.1

            host3.example. A
            NoError AA
            authority: example. 5 SOA ns.example.com. root.example. 1 2 3 4 5

            foo.bar.example. TXT
            NoError AA
            answer: foo.bar.example. 3600 TXT "this is a wildcard"

            host1.example. MX
            NoError AA
            authority: example. 5 SOA ns.example.com. root.example. 1 2 3 4 5

            sub.*.example. MX
            NoError AA
            authority: example. 5 SOA ns.example.com. root.example. 1 2 3 4 5

            _telnet._tcp.host1.example. SRV
            NxDomain AA
            authority: example. 5 SOA ns.example.com. root.example. 1 2 3 4 5

            host.subdel.example. A
            NoError
            authority: subdel.example. 3600 NS ns.example.com.
            authority: subdel.example. 3600 NS ns.example.net.

            ghost.*.example. MX
            NxDomain AA
            authority: example. 5 SOA ns.example.com. root.example. 1 2 3 4 5

            *.example. TXT
            NoError AA
            answer: *.example. 3600 TXT "this is a wildcard"

            _tcp.host2.example. A
            NoError AA
            authority: example. 5 SOA ns.example.com. root.example. 1 2 3 4 5

        "#]],
    );
}

/// RFC 4592 3.3: a wildcard may be an alias, and be empty.
#[test]
fn wildcards_that_are_aliases_or_empty() {
    let zones = zones(&[(
        "example.",
        "$TTL 60\n@ SOA ns.other. root 1 2 3 4 5\n@ NS ns.other.\n*.a CNAME x.b\nx.b A 192.0.2.1\n\
         y.*.c TXT y\n*.d CNAME z.d\n",
    )]);
    check(
        &zones,
        &["Q.a.example. A", "q.c.example. A", "q.d.example. A"],
        expect![[r#"
            Q.a.example. A
            NoError AA
            answer: Q.a.example. 60 CNAME x.b.example.
            answer: x.b.example. 60 A 192.0.2.1

            q.c.example. A
            NoError AA
            authority: example. 5 SOA ns.other. root.example. 1 2 3 4 5

            q.d.example. A
            NoError AA
            answer: q.d.example. 60 CNAME z.d.example.
            answer: z.d.example. 60 CNAME z.d.example.

        "#]],
    );
}

/// RFC 1034 4.3.2 step 2; RFC 4035 3.1.4.1: the parent vouches for the key of the child.
#[test]
fn longest_zone_answers_and_its_parent_for_ds() {
    let child = "$TTL 60\n@ SOA ns.other. root 1 2 3 4 5\n@ NS ns.other.\nhost A 192.0.2.9\n";
    let zones = zones(&[("example.", EXAMPLE), ("sub.example.", child)]);
    check(
        &zones,
        &[
            "host.sub.example. A",
            "sub.example. DS",
            "sub.example. NS",
            "into.example. A",
        ],
        expect![[r#"
            host.sub.example. A
            NoError AA
            answer: host.sub.example. 60 A 192.0.2.9

            sub.example. DS
            NoError AA
            answer: sub.example. 3600 DS 1 8 250 00

            sub.example. NS
            NoError AA
            answer: sub.example. 60 NS ns.other.

            into.example. A
            NoError AA
            answer: into.example. 3600 CNAME host.sub.example.
            authority: sub.example. 3600 NS ns.sub.example.
            authority: sub.example. 3600 NS ns.other.
            authority: sub.example. 3600 NS ns.sibling.example.
            additional: ns.sub.example. 3600 A 192.0.2.4 (needed)
            additional: ns.sibling.example. 3600 A 192.0.2.5

        "#]],
    );
    let name: Name = "sub.example.".parse().expect("a name");
    let parent = zones.with([(name.clone(), None)]);
    assert_eq!(parent.trees().len(), 1);
    assert!(ask(&parent, "host.sub.example. A").starts_with("NoError\n"));
    let child = zones.get(&name).expect("it is there");
    let only = Zones::default().with([(name, Some(Arc::clone(child).into()))]);
    // No parent here: the child has authority and nothing to say.
    assert!(ask(&only, "sub.example. DS").starts_with("NoError AA\nauthority: sub.example. 5 SOA"));
}

#[test]
fn later_zone_of_two_with_a_name_is_taken() {
    let text = |serial| format!("$TTL 1\n@ SOA ns.other. root {serial} 2 3 4 5\n@ NS ns.other.\n");
    let zones = zones(&[("Example.", &text(1)), ("example.", &text(2))]);
    let serials: Vec<u32> = zones.trees().map(|tree| tree.soa().serial).collect();
    assert_eq!(serials, [2]);
}

#[test]
fn zone_without_soa_is_not_built() {
    let zone = Zone::new("example.".parse().expect("a name"));
    let error = Tree::build(&zone).expect_err("no SOA").to_string();
    assert_eq!(error, "the zone example. has no SOA record");
}

#[test]
fn numbers_of_rcodes_are_those_of_iana() {
    for (rcode, number) in [
        (Rcode::NoError, 0),
        (Rcode::FormErr, 1),
        (Rcode::NxDomain, 3),
        (Rcode::NotImp, 4),
        (Rcode::Refused, 5),
        (Rcode::YxDomain, 6),
    ] {
        assert_eq!(rcode.code(), number);
    }
}
