//! Signed answers: each with the line of an RFC that obliges it, every signature verified over the
//! set as it is sent, and every proof looked at for what it proves.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use cfgdns_core::{
    BuildError, CLASS_IN, LiveSet, Lookup, Question, Rcode, Records, Reply, Tree, Wanted, Zones,
    answer, prove,
};
use cfgdns_sign::{Algorithm, Set, SignatureCache, Signer, Time, verifies};
use cfgdns_testing::keys::{self, dnskeys, split_keys, validity};
use cfgdns_testing::zones::{any_name, any_zone, name, zone};
use cfgdns_zone::{Name, Rdata, Rtype};
use expect_test::{Expect, expect};
use proptest::prelude::*;

const FROM: u32 = 1_577_836_800;

/// Signs with a key for the keys and one for the zone, for a day.
fn signer(origin: &str) -> Arc<Signer> {
    let validity = validity(FROM, FROM + 86_400);
    keys::signer(&name(origin), &split_keys(Algorithm::Ed25519), validity)
}

fn signed(origin: &str, text: &str) -> Arc<Tree> {
    let tree = Tree::build(&zone(origin, text)).expect("it has an SOA");
    Arc::new(tree.signed(signer(origin)).expect("its signer"))
}

/// The set as a client gets it.
fn as_sent<'a>(set: &'a Records<'_>) -> Set<'a> {
    Set {
        owner: Cow::Borrowed(&set.owner),
        rtype: set.rtype,
        ttl: set.ttl,
        data: set.data().map(Cow::Borrowed).collect(),
    }
}

/// Each signature is valid over the set as it is sent: how many keys signed it. One that is sent
/// alone is compared with that of the set elsewhere.
fn signatures(set: &Records<'_>, signer: &Signer) -> usize {
    let keys = dnskeys(signer);
    if set.data().next().is_none() {
        return set.signatures.len();
    }
    for rrsig in &set.signatures {
        let zone = (signer.origin(), &keys[..]);
        let valid = verifies(rrsig, &as_sent(set), zone, Time(FROM + 7));
        assert!(valid, "{} {set:?}", set.rtype);
        let labels = Name::from_wire(&set.owner).expect("a name").0.label_count();
        let wildcard = set.owner.starts_with(b"\x01*");
        // As if the name existed: nothing has to be proved of a wildcard (RFC 9824 3.3).
        assert_eq!(usize::from(rrsig[3]), labels - usize::from(wildcard));
    }
    set.signatures.len()
}

fn section(title: &str, sets: &[Records<'_>], signer: &Signer, text: &mut String) {
    for set in sets {
        let (owner, _) = Name::from_wire(&set.owner).expect("a name");
        let by = match signatures(set, signer) {
            0 => String::new(),
            count => format!(" +{count} RRSIG"),
        };
        let head = format!("{title}: {owner} {}", set.ttl);
        let mut any = false;
        for data in set.data() {
            any = true;
            let data = Rdata::from_wire(set.rtype, data).expect("valid");
            let data = data.text(set.rtype, None);
            writeln!(text, "{head} {} {data}{by}", set.rtype).expect("a string");
        }
        if !any {
            writeln!(text, "{head} RRSIG of {}{by}", set.rtype).expect("a string");
        }
    }
}

fn ask<'a>(zones: &'a Zones, question: &Question<'a>, wanted: Wanted) -> Reply<'a> {
    let mut reply = answer(zones, question);
    prove(&mut reply, wanted, None);
    reply
}

const DO: Wanted = Wanted {
    signatures: true,
    compact_ok: false,
};
const CO: Wanted = Wanted {
    signatures: true,
    compact_ok: true,
};
const NO: Wanted = Wanted {
    signatures: false,
    compact_ok: false,
};

#[track_caller]
fn check(tree: &Arc<Tree>, wanted: Wanted, questions: &[&str], expected: Expect) {
    let zones = Zones::new([Arc::clone(tree)]);
    let mut text = String::new();
    for question in questions {
        let (at, rtype) = question.split_once(' ').expect("a name and a type");
        let (name, class) = (name(at), CLASS_IN);
        let rtype = rtype.parse().expect("a type");
        let question_asked = Question {
            name: &name,
            rtype,
            class,
        };
        let reply = ask(&zones, &question_asked, wanted);
        let aa = if reply.authoritative { " AA" } else { "" };
        writeln!(text, "{question}\n{:?}{aa}", reply.rcode).expect("a string");
        let signer = tree.signer().expect("it is signed");
        section("answer", &reply.answer, signer, &mut text);
        section("authority", &reply.authority, signer, &mut text);
        section("additional", &reply.additional, signer, &mut text);
        text.push('\n');
    }
    expected.assert_eq(&text);
}

const EXAMPLE: &str = "\
$TTL 3600
@ SOA ns1 root 7 3600 600 604800 60
@ NS ns1
@ NS ns.other.
@ MX 10 mail
ns1 A 192.0.2.1
mail A 192.0.2.2
WWW A 192.0.2.3
WWW TXT hello
x.y.empty TXT x
alias CNAME WWW
gone CNAME missing
into CNAME host.sub
*.wild A 192.0.2.7
*.wildalias CNAME www
sub NS ns.sub
sub NS ns.other.
sub DS 1 8 250 00
ns.sub A 192.0.2.4
plain NS ns.plain
ns.plain A 192.0.2.5
old DNAME new
host.new A 192.0.2.6
";

fn example() -> Arc<Tree> {
    signed("example.", EXAMPLE)
}

/// RFC 4035 3.1.1: RRSIG beside each set; 3.1.1 and 2.2: of the keys by the key that is vouched for.
#[test]
fn sets_of_the_zone_have_their_signatures() {
    check(
        &example(),
        DO,
        &[
            "www.example. A",
            "example. MX",
            "example. DNSKEY",
            "example. NS",
            "sub.example. DS",
        ],
        expect![[r#"
            www.example. A
            NoError AA
            answer: WWW.example. 3600 A 192.0.2.3 +1 RRSIG

            example. MX
            NoError AA
            answer: example. 3600 MX 10 mail.example. +1 RRSIG
            additional: mail.example. 3600 A 192.0.2.2 +1 RRSIG

            example. DNSKEY
            NoError AA
            answer: example. 3600 DNSKEY 256 3 15 gTl3Dqh9F19Wo1Rmw0x+zMuNipG07jeiXfYPW4/Js5Q= +1 RRSIG
            answer: example. 3600 DNSKEY 257 3 15 iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w= +1 RRSIG

            example. NS
            NoError AA
            answer: example. 3600 NS ns.other. +1 RRSIG
            answer: example. 3600 NS ns1.example. +1 RRSIG
            additional: ns1.example. 3600 A 192.0.2.1 +1 RRSIG

            sub.example. DS
            NoError AA
            answer: sub.example. 3600 DS 1 8 250 00 +1 RRSIG

        "#]],
    );
}

/// RFC 9824 3.2: the types that are there, of an empty non-terminal none. RFC 9077 3.2.
#[test]
fn no_data_is_proved_by_one_record_of_the_name() {
    check(
        &example(),
        DO,
        &[
            "www.EXAMPLE. AAAA",
            "y.empty.example. A",
            "example. A",
            "x.wild.example. TXT",
        ],
        expect![[r#"
            www.EXAMPLE. AAAA
            NoError AA
            authority: example. 60 SOA ns1.example. root.example. 7 3600 600 604800 60 +1 RRSIG
            authority: WWW.example. 60 NSEC \000.WWW.example. A TXT RRSIG NSEC +1 RRSIG

            y.empty.example. A
            NoError AA
            authority: example. 60 SOA ns1.example. root.example. 7 3600 600 604800 60 +1 RRSIG
            authority: y.empty.example. 60 NSEC \000.y.empty.example. RRSIG NSEC +1 RRSIG

            example. A
            NoError AA
            authority: example. 60 SOA ns1.example. root.example. 7 3600 600 604800 60 +1 RRSIG
            authority: example. 60 NSEC \000.example. NS SOA MX RRSIG NSEC DNSKEY +1 RRSIG

            x.wild.example. TXT
            NoError AA
            authority: example. 60 SOA ns1.example. root.example. 7 3600 600 604800 60 +1 RRSIG
            authority: x.wild.example. 60 NSEC \000.x.wild.example. A RRSIG NSEC +1 RRSIG

        "#]],
    );
}

/// RFC 9824 3.1: NXNAME in the types, NOERROR; 5.1: NXDOMAIN for who takes it so. Of the last name
/// of a chain too.
#[test]
fn no_name_is_said_to_exist_without_types() {
    let questions = [
        "nothing.example. A",
        "gone.example. A",
        "a.www.example. NSEC",
    ];
    check(
        &example(),
        DO,
        &questions,
        expect![[r#"
            nothing.example. A
            NoError AA
            authority: example. 60 SOA ns1.example. root.example. 7 3600 600 604800 60 +1 RRSIG
            authority: nothing.example. 60 NSEC \000.nothing.example. RRSIG NSEC NXNAME +1 RRSIG

            gone.example. A
            NoError AA
            answer: gone.example. 3600 CNAME missing.example. +1 RRSIG
            authority: example. 60 SOA ns1.example. root.example. 7 3600 600 604800 60 +1 RRSIG
            authority: missing.example. 60 NSEC \000.missing.example. RRSIG NSEC NXNAME +1 RRSIG

            a.www.example. NSEC
            NoError AA
            answer: a.www.example. 60 NSEC \000.a.www.example. RRSIG NSEC NXNAME +1 RRSIG

        "#]],
    );
    check(
        &example(),
        CO,
        &questions[..2],
        expect![[r#"
        nothing.example. A
        NxDomain AA
        authority: example. 60 SOA ns1.example. root.example. 7 3600 600 604800 60 +1 RRSIG
        authority: nothing.example. 60 NSEC \000.nothing.example. RRSIG NSEC NXNAME +1 RRSIG

        gone.example. A
        NxDomain AA
        answer: gone.example. 3600 CNAME missing.example. +1 RRSIG
        authority: example. 60 SOA ns1.example. root.example. 7 3600 600 604800 60 +1 RRSIG
        authority: missing.example. 60 NSEC \000.missing.example. RRSIG NSEC NXNAME +1 RRSIG

    "#]],
    );
    check(
        &example(),
        NO,
        &questions,
        expect![[r#"
        nothing.example. A
        NxDomain AA
        authority: example. 60 SOA ns1.example. root.example. 7 3600 600 604800 60

        gone.example. A
        NxDomain AA
        answer: gone.example. 3600 CNAME missing.example.
        authority: example. 60 SOA ns1.example. root.example. 7 3600 600 604800 60

        a.www.example. NSEC
        NxDomain AA
        authority: example. 60 SOA ns1.example. root.example. 7 3600 600 604800 60

    "#]],
    );
}

/// RFC 4035 3.1.4.1: DS, signed, or that there is none; neither NS nor glue are. RFC 9824 3.4: the
/// next name is none of those that are delegated.
#[test]
fn delegations_say_whether_what_follows_is_signed() {
    check(
        &example(),
        DO,
        &[
            "www.sub.example. A",
            "www.plain.example. A",
            "plain.example. DS",
            "into.example. A",
        ],
        expect![[r#"
            www.sub.example. A
            NoError
            authority: sub.example. 3600 NS ns.sub.example.
            authority: sub.example. 3600 NS ns.other.
            authority: sub.example. 3600 DS 1 8 250 00 +1 RRSIG
            additional: ns.sub.example. 3600 A 192.0.2.4

            www.plain.example. A
            NoError
            authority: plain.example. 3600 NS ns.plain.example.
            authority: plain.example. 60 NSEC plain\000.example. NS RRSIG NSEC +1 RRSIG
            additional: ns.plain.example. 3600 A 192.0.2.5

            plain.example. DS
            NoError AA
            authority: example. 60 SOA ns1.example. root.example. 7 3600 600 604800 60 +1 RRSIG
            authority: plain.example. 60 NSEC plain\000.example. NS RRSIG NSEC +1 RRSIG

            into.example. A
            NoError AA
            answer: into.example. 3600 CNAME host.sub.example. +1 RRSIG
            authority: sub.example. 3600 NS ns.sub.example.
            authority: sub.example. 3600 NS ns.other.
            authority: sub.example. 3600 DS 1 8 250 00 +1 RRSIG
            additional: ns.sub.example. 3600 A 192.0.2.4

        "#]],
    );
}

/// RFC 9824 3.3: a wildcard is signed under the name that was asked. RFC 6672 5.3.1: a CNAME that a
/// DNAME makes is not signed.
#[test]
fn made_names_are_signed_as_asked_and_aliases_of_a_dname_are_not() {
    check(
        &example(),
        DO,
        &[
            "a.b.wild.example. A",
            "*.wild.example. A",
            "x.wildalias.example. A",
            "host.old.example. A",
            "none.old.example. A",
        ],
        expect![[r#"
            a.b.wild.example. A
            NoError AA
            answer: a.b.wild.example. 3600 A 192.0.2.7 +1 RRSIG

            *.wild.example. A
            NoError AA
            answer: *.wild.example. 3600 A 192.0.2.7 +1 RRSIG

            x.wildalias.example. A
            NoError AA
            answer: x.wildalias.example. 3600 CNAME www.example. +1 RRSIG
            answer: WWW.example. 3600 A 192.0.2.3 +1 RRSIG

            host.old.example. A
            NoError AA
            answer: old.example. 3600 DNAME new.example. +1 RRSIG
            answer: host.old.example. 3600 CNAME host.new.example.
            answer: host.new.example. 3600 A 192.0.2.6 +1 RRSIG

            none.old.example. A
            NoError AA
            answer: old.example. 3600 DNAME new.example. +1 RRSIG
            answer: none.old.example. 3600 CNAME none.new.example.
            authority: example. 60 SOA ns1.example. root.example. 7 3600 600 604800 60 +1 RRSIG
            authority: none.new.example. 60 NSEC \000.none.new.example. RRSIG NSEC NXNAME +1 RRSIG

        "#]],
    );
}

/// RFC 4035 3.1.1: who asks for proofs themselves gets them, without DO too; of an alias its own
/// (RFC 4035 2.5). RFC 8482 4.1: one set of signatures is enough.
#[test]
fn proofs_are_answers_when_they_are_asked_for() {
    let questions = [
        "www.example. NSEC",
        "www.example. RRSIG",
        "alias.example. NSEC",
        "y.empty.example. RRSIG",
        "x.wild.example. NSEC",
    ];
    check(
        &example(),
        NO,
        &questions,
        expect![[r#"
        www.example. NSEC
        NoError AA
        answer: WWW.example. 60 NSEC \000.WWW.example. A TXT RRSIG NSEC

        www.example. RRSIG
        NoError AA
        answer: WWW.example. 3600 RRSIG of A +1 RRSIG

        alias.example. NSEC
        NoError AA
        answer: alias.example. 60 NSEC \000.alias.example. CNAME RRSIG NSEC

        y.empty.example. RRSIG
        NoError AA
        answer: y.empty.example. 60 RRSIG of NSEC +1 RRSIG

        x.wild.example. NSEC
        NoError AA
        answer: x.wild.example. 60 NSEC \000.x.wild.example. A RRSIG NSEC

    "#]],
    );
    check(
        &example(),
        DO,
        &questions[..2],
        expect![[r#"
        www.example. NSEC
        NoError AA
        answer: WWW.example. 60 NSEC \000.WWW.example. A TXT RRSIG NSEC +1 RRSIG

        www.example. RRSIG
        NoError AA
        answer: WWW.example. 3600 RRSIG of A +1 RRSIG

    "#]],
    );
    check(
        &example(),
        DO,
        &["www.example. ANY", "sub.example. NSEC"],
        expect![[r#"
            www.example. ANY
            NoError AA
            answer: WWW.example. 3600 A 192.0.2.3 +1 RRSIG

            sub.example. NSEC
            NoError
            authority: sub.example. 3600 NS ns.sub.example.
            authority: sub.example. 3600 NS ns.other.
            authority: sub.example. 3600 DS 1 8 250 00 +1 RRSIG
            additional: ns.sub.example. 3600 A 192.0.2.4

        "#]],
    );
}

#[test]
fn sets_that_change_by_themselves_are_signed_like_others() {
    let live = |last: Option<u8>| LiveSet {
        name: name("db.example."),
        rtype: Rtype::A,
        ttl: 5,
        data: last
            .map(|last| Rdata::from_wire(Rtype::A, &[192, 0, 2, last]).expect("four octets"))
            .into_iter()
            .collect(),
        weights: Vec::new(),
    };
    let names = BTreeSet::from([name("db.example.")]);
    let tree = Tree::build_with(&zone("example.", EXAMPLE), &names).expect("an SOA");
    let tree = tree.with(8, [live(Some(1))]).expect("it has a place");
    let tree = tree.signed(signer("example.")).expect("its signer");
    let questions = ["db.example. A", "db.example. AAAA", "example. DNSKEY"];
    check(
        &Arc::new(tree.clone()),
        DO,
        &questions,
        expect![[r#"
        db.example. A
        NoError AA
        answer: db.example. 5 A 192.0.2.1 +1 RRSIG

        db.example. AAAA
        NoError AA
        authority: example. 60 SOA ns1.example. root.example. 8 3600 600 604800 60 +1 RRSIG
        authority: db.example. 60 NSEC \000.db.example. A RRSIG NSEC +1 RRSIG

        example. DNSKEY
        NoError AA
        answer: example. 3600 DNSKEY 256 3 15 gTl3Dqh9F19Wo1Rmw0x+zMuNipG07jeiXfYPW4/Js5Q= +1 RRSIG
        answer: example. 3600 DNSKEY 257 3 15 iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w= +1 RRSIG

    "#]],
    );
    // The role moves, and then nobody holds it: the keys stay.
    let moved = tree.with(9, [live(Some(2))]).expect("it has a place");
    check(
        &Arc::new(moved),
        DO,
        &questions[..1],
        expect![[r#"
        db.example. A
        NoError AA
        answer: db.example. 5 A 192.0.2.2 +1 RRSIG

    "#]],
    );
    // What is proved denies A too, whatever was asked for: it is kept for as long as that.
    let nobody = tree.with(10, [live(None)]).expect("it has a place");
    let others = ["db.example. ANY", "db.example. NSEC", "db.example. RRSIG"];
    check(
        &Arc::new(nobody),
        DO,
        &[&questions[..], &others].concat(),
        expect![[r#"
            db.example. A
            NoError AA
            authority: example. 5 SOA ns1.example. root.example. 10 3600 600 604800 60 +1 RRSIG
            authority: db.example. 5 NSEC \000.db.example. RRSIG NSEC +1 RRSIG

            db.example. AAAA
            NoError AA
            authority: example. 5 SOA ns1.example. root.example. 10 3600 600 604800 60 +1 RRSIG
            authority: db.example. 5 NSEC \000.db.example. RRSIG NSEC +1 RRSIG

            example. DNSKEY
            NoError AA
            answer: example. 3600 DNSKEY 256 3 15 gTl3Dqh9F19Wo1Rmw0x+zMuNipG07jeiXfYPW4/Js5Q= +1 RRSIG
            answer: example. 3600 DNSKEY 257 3 15 iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w= +1 RRSIG

            db.example. ANY
            NoError AA
            authority: example. 5 SOA ns1.example. root.example. 10 3600 600 604800 60 +1 RRSIG
            authority: db.example. 5 NSEC \000.db.example. RRSIG NSEC +1 RRSIG

            db.example. NSEC
            NoError AA
            answer: db.example. 5 NSEC \000.db.example. RRSIG NSEC +1 RRSIG

            db.example. RRSIG
            NoError AA
            answer: db.example. 5 RRSIG of NSEC +1 RRSIG

        "#]],
    );
}

#[test]
fn zone_whose_keys_are_not_here_says_servfail_to_who_would_check() {
    let tree = Tree::build(&zone("example.", EXAMPLE)).expect("an SOA");
    let zones = Zones::new([Arc::new(tree.lacking_keys("key 1"))]);
    let (name, rtype, class) = (&name("www.example."), Rtype::A, CLASS_IN);
    let question = Question { name, rtype, class };
    let reply = ask(&zones, &question, DO);
    assert_eq!((reply.rcode, reply.authoritative), (Rcode::ServFail, false));
    assert!(reply.answer.is_empty() && reply.extended_error.is_some());
    assert_eq!(ask(&zones, &question, NO).answer.len(), 1);
    let error = tree.signed(signer("other.")).expect_err("another zone's");
    let expected = BuildError::OtherSigner {
        origin: "example.".parse().expect("a name"),
        other: "other.".parse().expect("a name"),
    };
    assert_eq!(error, expected);
}

/// The types that the data of an NSEC list.
fn types(data: &[u8]) -> BTreeSet<String> {
    let data = Rdata::from_wire(Rtype::NSEC, data).expect("valid");
    let text = data.text(Rtype::NSEC, None);
    text.split(' ').skip(1).map(str::to_owned).collect()
}

/// What the only NSEC of a reply says, when there is one: of which name, the next, and its types.
fn denial(reply: &Reply<'_>) -> Option<(Name, Name, BTreeSet<String>)> {
    let mut nsecs = reply
        .authority
        .iter()
        .filter(|set| set.rtype == Rtype::NSEC);
    let nsec = nsecs.next()?;
    assert!(nsecs.next().is_none(), "one proof is enough");
    let data: Vec<&[u8]> = nsec.data().collect();
    assert_eq!(data.len(), 1);
    let owner = Name::from_wire(&nsec.owner).expect("a name").0;
    let next = Name::from_wire(data[0]).expect("a name").0;
    Some((owner, next, types(data[0])))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// What a client hears with DO is what it hears without, with each set of the zone signed, and
    /// a proof of each thing that is said not to exist.
    #[test]
    fn every_set_is_signed_and_every_denial_is_of_what_was_asked(
        zone in any_zone("z."),
        at in any_name("z."),
        rtype in proptest::sample::select(vec![
            Rtype::A, Rtype::NS, Rtype::CNAME, Rtype::DNAME, Rtype::MX, Rtype::DS, Rtype::ANY,
            Rtype::SOA, Rtype::DNSKEY, Rtype::NSEC, Rtype::RRSIG,
        ]),
    ) {
        let signer = signer("z.");
        let tree = Tree::build(&zone).expect("it has an SOA").signed(Arc::clone(&signer));
        let tree = Arc::new(tree.expect("its signer"));
        let zones = Zones::new([Arc::clone(&tree)]);
        let class = CLASS_IN;
        let question = Question { name: &at, rtype, class };
        let (plain, proved) = (ask(&zones, &question, NO), ask(&zones, &question, DO));
        prop_assert_eq!(&ask(&zones, &question, CO).rcode, &plain.rcode);
        prop_assert_eq!(plain.authoritative, proved.authoritative);
        let referral = proved.authority.iter().any(|set| set.rtype == Rtype::NS);
        for set in &proved.answer {
            let owner = Name::from_wire(&set.owner).expect("a name").0;
            let dnames = proved.answer.iter().filter(|other| other.rtype == Rtype::DNAME);
            let mut above = dnames.map(|dname| Name::from_wire(&dname.owner).expect("a name").0);
            let made = set.rtype == Rtype::CNAME && above.any(|above| owner.is_below(&above));
            prop_assert_eq!(signatures(set, &signer), usize::from(!made));
            if set.data().next().is_none() {
                prop_assert_eq!(rtype, Rtype::RRSIG);
                let name = Name::from_wire(&set.owner).expect("a name").0;
                let question = Question { name: &name, rtype: set.rtype, class };
                let reply = ask(&zones, &question, DO);
                let whole = reply.answer.last().expect("the set");
                prop_assert_eq!(signatures(whole, &signer), 1);
                prop_assert_eq!(&whole.signatures, &set.signatures);
            }
        }
        for set in &proved.authority {
            prop_assert_eq!(signatures(set, &signer), usize::from(set.rtype != Rtype::NS));
        }
        for set in &proved.additional {
            let owner = Name::from_wire(&set.owner).expect("a name").0;
            let own = matches!(tree.lookup(&owner), Some(Lookup::Found(_)));
            prop_assert_eq!(signatures(set, &signer), usize::from(own));
        }
        if plain.rcode == Rcode::NxDomain && matches!(rtype, Rtype::NSEC | Rtype::RRSIG) {
            // What proves that the name has no types but these is what was asked for.
            let last = proved.answer.last().expect("the proof");
            prop_assert_eq!((last.rtype, proved.authority.len()), (Rtype::NSEC, 0));
            return Ok(());
        }
        // All that is said without DO is said with it.
        let shown = |sets: &[Records<'_>]| -> Vec<(Vec<u8>, Rtype, u32)> {
            let sets = sets.iter().filter(|set| !matches!(set.rtype, Rtype::NSEC | Rtype::DS));
            sets.map(|set| (set.owner.to_vec(), set.rtype, set.ttl)).collect()
        };
        prop_assert_eq!(shown(&plain.answer), shown(&proved.answer));
        prop_assert_eq!(shown(&plain.authority), shown(&proved.authority));
        // The last name that was looked at.
        let alias = proved.answer.iter().rfind(|set| set.rtype == Rtype::CNAME);
        let alias = alias.filter(|_| rtype != Rtype::CNAME && rtype != Rtype::ANY);
        let target = alias.and_then(|set| Some(Name::from_wire(set.data().next()?).ok()?.0));
        let last = target.unwrap_or_else(|| at.clone());
        let negative = plain.authority.iter().any(|set| set.rtype == Rtype::SOA);
        let has_ds = proved.authority.iter().any(|set| set.rtype == Rtype::DS);
        let Some((owner, next, types)) = denial(&proved) else {
            prop_assert!(!negative && referral == has_ds);
            return Ok(());
        };
        prop_assert!(types.contains("NSEC") && types.contains("RRSIG"));
        prop_assert!(next > owner || next == name("z."));
        let delegated = matches!(tree.lookup(&owner), Some(Lookup::Cut { .. }));
        if delegated {
            // No DS, and nothing of the other zone is denied.
            prop_assert!(last.is_at_or_below(&owner) && !next.is_below(&owner));
            prop_assert!(types.contains("NS") && !types.contains("DS") && types.len() == 3);
        } else {
            prop_assert!(negative);
            prop_assert_eq!(&owner, &last);
            prop_assert_eq!(&next, &owner.child(&[0]).expect("a short name"));
            prop_assert!(!types.contains(&rtype.to_string()) && !types.contains("CNAME"));
            // RFC 6840 4.1: that of a delegation proves nothing about other types.
            prop_assert!(!types.contains("NS") || types.contains("SOA"));
            prop_assert_eq!(types.contains("NXNAME"), plain.rcode == Rcode::NxDomain);
            prop_assert_eq!(plain.rcode == Rcode::NxDomain && types.len() != 3, false);
            prop_assert_eq!(proved.rcode, Rcode::NoError);
        }
    }

    /// Who does not ask for signatures hears what an unsigned zone says.
    #[test]
    fn nothing_is_another_without_do(
        zone in any_zone("z."),
        at in any_name("z."),
        rtype in proptest::sample::select(vec![
            Rtype::A, Rtype::NS, Rtype::CNAME, Rtype::MX, Rtype::DS, Rtype::ANY, Rtype::SOA,
        ]),
    ) {
        let unsigned = Tree::build(&zone).expect("it has an SOA");
        let signed = unsigned.signed(signer("z.")).expect("its signer");
        let shown = |tree: &Tree| {
            let zones = Zones::new([Arc::new(tree.clone())]);
            let (name, class) = (&at, CLASS_IN);
            let reply = ask(&zones, &Question { name, rtype, class }, NO);
            let sections = [&reply.answer, &reply.authority, &reply.additional];
            format!("{:?} {} {sections:?}", reply.rcode, reply.authoritative)
        };
        prop_assert_eq!(shown(&unsigned), shown(&signed));
    }

    /// A cache changes nothing of what is said.
    #[test]
    fn replies_are_the_same_out_of_a_cache(
        zone in any_zone("z."),
        questions in proptest::collection::vec(any_name("z."), 1..6),
    ) {
        let tree = Tree::build(&zone).expect("it has an SOA").signed(signer("z."));
        let zones = Zones::new([Arc::new(tree.expect("its signer"))]);
        // So small that its generations change all the time.
        let mut cache = SignatureCache::new(4);
        for name in questions.iter().chain(&questions) {
            let (rtype, class) = (Rtype::A, CLASS_IN);
            let question = Question { name, rtype, class };
            let mut cached = answer(&zones, &question);
            prove(&mut cached, DO, Some(&mut cache));
            prop_assert!(cache.len() <= 4);
            let plain = ask(&zones, &question, DO);
            for (ours, theirs) in cached.answer.iter().chain(&cached.authority)
                .zip(plain.answer.iter().chain(&plain.authority))
            {
                prop_assert_eq!(&ours.signatures, &theirs.signatures);
            }
        }
    }
}
