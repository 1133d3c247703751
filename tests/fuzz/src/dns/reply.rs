//! What must hold of a reply, whatever was asked: its form, its size, the signatures in it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use cfgdns_core::{Request, Transport, UDP_OCTETS_MAX};
use cfgdns_sign::{Set, Signer, verifies};
use cfgdns_testing::keys::dnskeys;
use cfgdns_testing::message::{AA, Message, Record, TC};
use cfgdns_testing::zones::name;
use cfgdns_zone::{Name, Rtype};
use sha2::{Digest, Sha256};

use super::server::now;

const DO: u32 = 0x8000;
const CO: u32 = 0x4000;
const NXDOMAIN: u16 = 3;
/// Signatures that are remembered to be right.
const VERIFIED_MAX: usize = 4_096;

/// Reads a reply as a careful client does, and says what is wrong with its form.
pub(crate) fn checked(request: &Request<'_>, octets: &[u8]) -> Message {
    let read = Message::read(octets);
    assert_eq!(read.id, request.id);
    assert!(read.has(0x8000), "it is a reply");
    assert_eq!(read.flags >> 11 & 15, u16::from(request.opcode));
    // Of RA, Z, AD and CD none is ever set.
    assert_eq!(read.flags & 0xf0, 0);
    let recursion_desired = request.opcode == 0 && request.recursion_desired;
    assert_eq!(read.has(0x0100), recursion_desired);
    let asked = request
        .question
        .as_ref()
        .map_or(&[][..], |asked| asked.wire);
    assert!(
        read.question == asked,
        "the question is not the one that came"
    );
    assert_eq!(read.opt.is_some(), request.edns.is_some());
    if let Some((opt, edns)) = read.opt.as_ref().zip(request.edns) {
        let wanted = if edns.dnssec_ok { DO } else { 0 };
        let compact = if edns.dnssec_ok && edns.compact_ok {
            CO
        } else {
            0
        };
        // The version is 0, and flags that nobody knows are not copied.
        assert_eq!(opt.ttl & 0x00ff_ffff, wanted | compact);
        assert_eq!(opt.udp_octets, UDP_OCTETS_MAX);
    }
    if let Some(fault) = request.fault {
        // A signature that is not right is said before anything else (RFC 8945 5.2).
        let refused = request.tsig.is_some() && matches!(read.rcode(), 1 | 9);
        assert!(refused || read.rcode() == u16::from(fault.rcode().code()));
        assert!(read.answer.is_empty() && read.authority.is_empty());
    }
    read_by_others(octets, &read);
    read
}

/// hickory's reader finds as many records; what it cannot read has a record that it does not know.
fn read_by_others(octets: &[u8], read: &Message) {
    let other = hickory_proto::op::Message::from_vec(octets);
    let other = other.unwrap_or_else(|error| panic!("hickory cannot read it: {error}"));
    let sections = [&other.answers, &other.authorities].map(Vec::len);
    assert_eq!(sections, [read.answer.len(), read.authority.len()]);
    assert_eq!(other.metadata.id, read.id);
    assert_eq!(other.queries.len(), usize::from(!read.question.is_empty()));
}

/// A reply is no larger than the client takes, but for what every reply has.
pub(crate) fn check_size(request: &Request<'_>, transport: Transport, read: &Message) {
    let limit = match (transport, request.edns) {
        (Transport::Tcp | Transport::Tls { .. } | Transport::Quic, _) => return,
        (Transport::Udp, None) => 512,
        (Transport::Udp, Some(edns)) => edns.udp_octets.clamp(512, UDP_OCTETS_MAX),
    };
    let is_tsig = |record: &Record| record.rtype == Rtype::TSIG;
    let bare = read.answer.is_empty() && read.authority.is_empty();
    let bare = bare && read.additional.iter().all(is_tsig);
    assert!(
        read.octets <= usize::from(limit) || bare,
        "{} octets",
        read.octets
    );
}

/// Name, type, and which type signatures are of.
type SetKey = (Name, Rtype, Option<[u8; 2]>);

fn sets(section: &[Record]) -> BTreeMap<SetKey, BTreeSet<(u32, &[u8])>> {
    let mut sets: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for record in section.iter().filter(|record| record.rtype != Rtype::TSIG) {
        let covered = (record.rtype == Rtype::RRSIG).then(|| [record.data[0], record.data[1]]);
        let set: &mut BTreeSet<_> = sets
            .entry((record.name.to_lowercase(), record.rtype, covered))
            .or_default();
        assert!(
            set.insert((record.ttl, &record.data[..])),
            "{record:?} is there twice"
        );
    }
    sets
}

/// What came over UDP is what comes over TCP, or without what does not fit: sets are whole, and TC
/// says that something is missing that was asked for.
pub(crate) fn check_cut(udp: &Message, tcp: &Message) {
    assert!(!tcp.has(TC), "nothing is cut over TCP");
    let [short, whole] = [udp, tcp].map(|read| sets(&read.additional));
    for (key, set) in &short {
        assert!(
            whole.get(key) == Some(set),
            "{key:?} is not as it is over TCP"
        );
    }
    if udp.has(TC) {
        assert!(udp.answer.is_empty(), "a truncated reply has no answer");
        assert!(udp.authority.is_empty() || udp.authority == tcp.authority);
        return;
    }
    assert_eq!((udp.flags, udp.rcode()), (tcp.flags, tcp.rcode()));
    assert!(udp.answer == tcp.answer && udp.authority == tcp.authority);
}

/// Whether a name is of the signed zone, and not of its child that is here too.
fn is_signed_name(found: &Name) -> bool {
    found.is_at_or_below(&name("z.")) && !found.is_at_or_below(&name("kid.z."))
}

/// What a reply has of DNSSEC is right, and all of it is there for whoever asks for it.
pub(crate) fn check_proofs(request: &Request<'_>, signer: Option<&Signer>, read: &Message) {
    let asked = request.question.as_ref();
    let rtype = asked.map(|asked| asked.rtype);
    let wanted = request.edns.is_some_and(|edns| edns.dnssec_ok);
    let sections = [&read.answer, &read.authority, &read.additional];
    let proofs = |record: &&Record| matches!(record.rtype, Rtype::RRSIG | Rtype::NSEC);
    let asked_for_proofs = matches!(rtype, Some(Rtype::RRSIG | Rtype::NSEC));
    let Some(signer) = signer.filter(|_| wanted || asked_for_proofs) else {
        let mut all = sections.into_iter().flatten();
        assert!(
            !all.any(|record| proofs(&record)),
            "signatures that nobody wants"
        );
        return;
    };
    for section in sections {
        check_signatures(section, signer, rtype == Some(Rtype::RRSIG));
    }
    if !wanted || !asked.is_some_and(|asked| is_signed_name(&asked.name)) {
        return;
    }
    for (section, is_answer) in [(&read.answer, true), (&read.authority, false)] {
        for record in section.iter().filter(|record| is_signed_name(&record.name)) {
            let exempt = match record.rtype {
                Rtype::RRSIG => true,
                // Of a delegation.
                Rtype::NS => !is_answer,
                // Of a DNAME.
                Rtype::CNAME => section
                    .iter()
                    .any(|other| other.rtype == Rtype::DNAME && record.name.is_below(&other.name)),
                _ => false,
            };
            assert!(
                exempt || is_signed(section, record),
                "{record:?} is not signed"
            );
        }
    }
    let soa = |record: &Record| record.rtype == Rtype::SOA && record.name == name("z.");
    if read.has(AA) && read.authority.iter().any(soa) {
        assert!(
            read.authority
                .iter()
                .any(|record| record.rtype == Rtype::NSEC)
        );
    }
    if read.rcode() == NXDOMAIN {
        let compact = request.edns.is_some_and(|edns| edns.compact_ok);
        assert!(compact, "NXDOMAIN to who does not take it with its proof");
    }
}

fn covers(rrsig: &Record, record: &Record) -> bool {
    rrsig.rtype == Rtype::RRSIG
        && rrsig.name == record.name
        && rrsig.data[..2] == record.rtype.0.to_be_bytes()
}

fn is_signed(section: &[Record], record: &Record) -> bool {
    section.iter().any(|rrsig| covers(rrsig, record))
}

/// Each signature is valid over the set that it came with; alone only where it was asked for.
pub(crate) fn check_signatures(section: &[Record], signer: &Signer, alone: bool) {
    for rrsig in section.iter().filter(|record| record.rtype == Rtype::RRSIG) {
        let records = section.iter().filter(|record| covers(rrsig, record));
        let data: Vec<_> = records
            .map(|record| Cow::Borrowed(&record.data[..]))
            .collect();
        if data.is_empty() {
            assert!(alone, "a signature without its set");
            continue;
        }
        let set = Set {
            owner: Cow::Borrowed(rrsig.name.as_wire()),
            rtype: Rtype(u16::from_be_bytes([rrsig.data[0], rrsig.data[1]])),
            ttl: rrsig.ttl,
            data,
        };
        assert!(
            is_valid(&rrsig.data, &set, signer),
            "{rrsig:?} is not valid"
        );
    }
}

/// Verifies a signature; most are those of inputs before, and are looked up.
fn is_valid(rrsig: &[u8], set: &Set<'_>, signer: &Signer) -> bool {
    static VERIFIED: Mutex<BTreeSet<[u8; 32]>> = Mutex::new(BTreeSet::new());
    let mut digest = Sha256::new();
    // Lengths tell what belongs where.
    for part in [rrsig, &set.owner]
        .into_iter()
        .chain(set.data.iter().map(|data| &**data))
    {
        digest.update(part.len().to_be_bytes());
        digest.update(part);
    }
    digest.update(set.ttl.to_be_bytes());
    let digest: [u8; 32] = digest.finalize().into();
    let known = || VERIFIED.lock().unwrap_or_else(PoisonError::into_inner);
    if known().contains(&digest) {
        return true;
    }
    let zone = (signer.origin(), &dnskeys(signer)[..]);
    let valid = verifies(rrsig, set, zone, now());
    if valid {
        let mut known = known();
        if known.len() == VERIFIED_MAX {
            known.clear();
        }
        known.insert(digest);
    }
    valid
}
