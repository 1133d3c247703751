//! From a question to a reply: the algorithm of RFC 1034 4.3.2 with wildcards (RFC 4592), DNAME
//! (RFC 6672) and minimal answers to ANY (RFC 8482).
//!
//! ```text
//! class, type ─► zone ─► walk ─┬─ found ────► data │ CNAME ─► again │ nothing: SOA
//!                              ├─ cut ──────► referral, without AA
//!                              ├─ DNAME ────► CNAME made ─► again
//!                              └─ missing ──► wildcard, as found │ NXDOMAIN: SOA
//! ```

use std::borrow::Cow;
use std::collections::BTreeSet;

use cfgdns_zone::{Name, Rtype, additional_target, compressible};

use crate::reply::{Data, ExtendedError, Rcode, Records, Reply, Unproved};
use crate::respond::TCP_OCTETS_MAX;
use crate::tree::{APEX, Lookup, NodeId, SetView, Tree};
use crate::zones::Zones;

/// Aliases that are followed for one question. A resolver asks on by itself from the last.
pub const ALIASES_MAX: usize = 16;

/// The class that zones have (RFC 1035 3.2.4).
pub const CLASS_IN: u16 = 1;

/// The priority that makes a record of a service an alias (RFC 9460 2.4.2).
const ALIAS_MODE: &[u8] = &[0, 0];

/// A question.
#[derive(Debug, Clone, Copy)]
pub struct Question<'q> {
    /// The name.
    pub name: &'q Name,
    /// The type.
    pub rtype: Rtype,
    /// The class.
    pub class: u16,
}

/// Answers a question from the zones. Transfers (AXFR, IXFR) are not questions of this kind: the
/// server takes them before.
pub fn answer<'a>(zones: &'a Zones, question: &Question<'a>) -> Reply<'a> {
    answer_within(zones, question, TCP_OCTETS_MAX)
}

/// The same for a message of at most so many octets: no more addresses are looked for than it has
/// room for beside the rest.
pub(crate) fn answer_within<'a>(
    zones: &'a Zones,
    question: &Question<'a>,
    octets_max: usize,
) -> Reply<'a> {
    if question.class != CLASS_IN {
        return refused();
    }
    if let Some(reply) = unanswerable(question.rtype) {
        return reply;
    }
    let Some(tree) = zones.find(question.name, question.rtype) else {
        return refused();
    };
    if tree.is_closed() {
        let mut reply = Reply::empty(Rcode::ServFail);
        reply.extended_error = Some(ExtendedError::InvalidData);
        return reply;
    }
    let mut reply = Reply::empty(Rcode::NoError);
    reply.authoritative = true;
    reply.zone = Some(tree);
    let mut answering = Answering {
        tree,
        rtype: question.rtype,
        reply,
    };
    let mut name = Cow::Borrowed(question.name);
    for _ in 0..=ALIASES_MAX {
        match answering.step(name) {
            Some(next) => name = Cow::Owned(next),
            None => break,
        }
    }
    answering.add_addresses(octets_max);
    answering.reply
}

fn refused<'a>() -> Reply<'a> {
    let mut reply = Reply::empty(Rcode::Refused);
    reply.extended_error = Some(ExtendedError::NotAuthoritative);
    reply
}

/// Types that no data can have, other than ANY (RFC 6895 3.1).
fn unanswerable<'a>(rtype: Rtype) -> Option<Reply<'a>> {
    let rcode = match rtype {
        // Messages only have the first three; RFC 9824 3.5 for the last.
        Rtype(0) | Rtype::OPT | Rtype::TSIG | Rtype::NXNAME => Rcode::FormErr,
        Rtype::TKEY | Rtype::IXFR | Rtype::AXFR | Rtype::MAILA | Rtype::MAILB => Rcode::NotImp,
        _ => return None,
    };
    let mut reply = Reply::empty(rcode);
    reply.extended_error = Some(if rcode == Rcode::NotImp {
        ExtendedError::NotSupported
    } else {
        ExtendedError::InvalidQueryType
    });
    Some(reply)
}

struct Answering<'a> {
    tree: &'a Tree,
    rtype: Rtype,
    reply: Reply<'a>,
}

impl<'a> Answering<'a> {
    /// Looks at one name; gives the next, when it is an alias that is followed.
    fn step(&mut self, name: Cow<'a, Name>) -> Option<Name> {
        match self.tree.lookup(&name)? {
            Lookup::Found(node) => self.at_node(node, None),
            Lookup::Cut { node, exact: true } if self.rtype == Rtype::DS => {
                self.at_cut(node);
                None
            }
            Lookup::Cut { node, .. } => {
                self.refer(node);
                None
            }
            Lookup::Dname(node) => self.rename(node, name),
            Lookup::Missing(encloser) => {
                if let Some(wildcard) = self.tree.child(encloser, b"*") {
                    self.reply.synthesized = true;
                    return self.at_node(wildcard, Some(name));
                }
                self.reply.rcode = Rcode::NxDomain;
                self.nothing(None);
                self.reply.unproved = Some(Unproved::Name(name, self.rtype));
                None
            }
        }
    }

    /// The name exists, or a wildcard stands for it: then `made` is the name that was asked.
    fn at_node(&mut self, node: NodeId, made: Option<Cow<'a, Name>>) -> Option<Name> {
        let proof = matches!(self.rtype, Rtype::NSEC | Rtype::RRSIG);
        if proof && self.tree.signer().is_some() {
            // They are those of an alias too, which is not followed then (RFC 4035 2.5).
            self.reply.unproved = Some(Unproved::Itself(node, made, self.rtype));
            return None;
        }
        let set = match self.rtype {
            // RFC 8482 4.1: one set is enough.
            Rtype::ANY => self.tree.sets(node).next(),
            rtype => self.tree.set(node, rtype),
        };
        if let Some(set) = set {
            self.push(set, made);
            return None;
        }
        let Some(cname) = self.tree.set(node, Rtype::CNAME) else {
            self.nothing(Some(node));
            self.reply.unproved = Some(Unproved::Type(node, made));
            return None;
        };
        let target = Name::from_wire(cname.data.clone().next()?).ok()?.0;
        self.push(cname, made).then_some(target)
    }

    /// Puts a set into the answer; false when it is there, and following it would go in a circle.
    fn push(&mut self, set: SetView<'a>, made: Option<Cow<'a, Name>>) -> bool {
        let mut records = Records::stored(set);
        match made {
            None => {}
            Some(Cow::Borrowed(name)) => records.owner = Cow::Borrowed(name.as_wire()),
            Some(Cow::Owned(name)) => records.owner = Cow::Owned(name.as_wire().to_vec()),
        }
        self.add(records)
    }

    fn add(&mut self, records: Records<'a>) -> bool {
        let mut known = self.reply.answer.iter();
        let new = !known.any(|other| other.is(&records.owner, records.rtype));
        if new {
            self.reply.answer.push(records);
        }
        new
    }

    /// DS of a delegated name is ours; nothing else of it is (RFC 4035 3.1.4.1).
    fn at_cut(&mut self, node: NodeId) {
        if let Some(set) = self.tree.set(node, Rtype::DS) {
            self.push(set, None);
        } else {
            self.nothing(Some(node));
            self.reply.unproved = Some(Unproved::Delegation(node));
        }
    }

    /// RFC 6672 3.2: the name is an alias because one above it has a DNAME.
    fn rename(&mut self, node: NodeId, name: Cow<'a, Name>) -> Option<Name> {
        let dname = self.tree.set(node, Rtype::DNAME)?;
        let (owner, _) = Name::from_wire(dname.owner).ok()?;
        let (target, _) = Name::from_wire(dname.data.clone().next()?).ok()?;
        let ttl = dname.ttl;
        self.reply.synthesized = true;
        let shorter = target.as_wire().len() < owner.as_wire().len();
        if !self.push(dname, None) && !shorter {
            // It was followed before, and would lead on and on to names that are no shorter.
            return None;
        }
        let Ok(next) = name.with_suffix(&owner, &target)? else {
            self.reply.rcode = Rcode::YxDomain;
            return None;
        };
        let owner = match name {
            Cow::Borrowed(name) => Cow::Borrowed(name.as_wire()),
            Cow::Owned(name) => Cow::Owned(name.as_wire().to_vec()),
        };
        let alias = Records {
            owner,
            rtype: Rtype::CNAME,
            ttl,
            zone_ttl: ttl,
            data: Data::Made(next.clone()),
            signatures: Vec::new(),
            needed: true,
            weights: &[],
            first: 0,
        };
        if !self.add(alias) {
            return None;
        }
        // What was asked for is the alias itself.
        (self.rtype != Rtype::CNAME && self.rtype != Rtype::ANY).then_some(next)
    }

    /// The name is delegated to others: who they are, and how to reach them (RFC 1034 4.3.2 3b).
    fn refer(&mut self, node: NodeId) {
        // After an alias of ours the answer is ours, and what follows is a hint.
        self.reply.authoritative = !self.reply.answer.is_empty();
        if let Some(set) = self.tree.set(node, Rtype::NS) {
            self.reply.authority.push(Records::stored(set));
        }
        self.reply.unproved = Some(Unproved::Delegation(node));
    }

    /// Nothing to answer with: the SOA says for how long that is so (RFC 2308 3). Where it is so
    /// because nobody holds the role that the name follows, that is no longer than for an answer.
    /// Where the zone is signed, the proof denies all types that the name does not have, whichever
    /// was asked for, and resolvers use it for all of them (RFC 8198 5.1).
    fn nothing(&mut self, node: Option<NodeId>) {
        let all = self.rtype == Rtype::ANY || self.tree.signer().is_some();
        let denied = |rtype| all || rtype == self.rtype || rtype == Rtype::CNAME;
        let ttl_max = node.and_then(|node| self.tree.nothing_for(node, denied));
        let ttl_max = ttl_max.unwrap_or(u32::MAX);
        if let Some(set) = self.tree.set(APEX, Rtype::SOA) {
            let mut records = Records::stored(set);
            records.ttl = records.ttl.min(self.tree.soa().minimum).min(ttl_max);
            self.reply.authority.push(records);
        }
    }

    /// The addresses of names that the other sections hold, each once; first those without which
    /// nobody could go on. The search ends with the first that the message has no room for: where
    /// that is a needed one, whoever writes the message sees by it that something is missing.
    fn add_addresses(&mut self, octets_max: usize) {
        let reply = &self.reply;
        let others = reply.answer.iter().chain(&reply.authority);
        let taken: usize = others.clone().map(octets_min).sum();
        let Some(left) = octets_max.checked_sub(taken) else {
            return;
        };
        let (mut needed, mut helpful) = (Found::default(), Found::default());
        let mut known = BTreeSet::new();
        for records in others {
            let glue = records.rtype == Rtype::NS && !reply.authority.is_empty();
            for data in records.data() {
                let is_full = needed.octets + helpful.octets > left;
                if needed.octets > left || is_full && !glue {
                    break;
                }
                // Of a delegation what is needed may come behind what is not.
                let Some((node, below)) = self.target(records, data, is_full) else {
                    continue;
                };
                let found = if glue && below {
                    &mut needed
                } else {
                    &mut helpful
                };
                for set in self.addresses(records.rtype, data, node) {
                    let mut answer = reply.answer.iter();
                    if known.insert((node, set.rtype))
                        && !answer.any(|other| other.is(set.owner, set.rtype))
                    {
                        found.push(set);
                    }
                }
            }
        }
        needed.sets.iter_mut().for_each(|set| set.needed = true);
        self.reply.additional = needed.sets;
        self.reply.additional.extend(helpful.sets);
    }

    /// The addresses of a name that a record leads to.
    fn addresses(
        &self,
        from: Rtype,
        data: &[u8],
        node: NodeId,
    ) -> impl Iterator<Item = SetView<'a>> + use<'a> {
        // RFC 9460 4.1: where an alias of services leads, the next step is there.
        let service = matches!(from, Rtype::SVCB | Rtype::HTTPS);
        let next = (service && data.starts_with(ALIAS_MODE)).then_some(from);
        let types = [Some(Rtype::A), Some(Rtype::AAAA), next];
        let tree = self.tree;
        let types = types.into_iter().flatten();
        types.filter_map(move |rtype| tree.set(node, rtype))
    }

    /// The node that a record leads to, and whether it is a name server at or below its own
    /// delegation: without its address nobody could ask it. With `glue` no others are looked up.
    fn target(&self, from: &Records<'_>, data: &[u8], glue: bool) -> Option<(NodeId, bool)> {
        let (target, _) = Name::from_wire(additional_target(from.rtype, data)?).ok()?;
        let (owner, _) = Name::from_wire(&from.owner).ok()?;
        if from.rtype == Rtype::NS {
            let below = target.is_at_or_below(&owner);
            // Glue is where the zone does not answer.
            let looked_up = below || !glue;
            let node = looked_up.then(|| self.tree.node(&target)).flatten()?;
            return Some((node, below));
        }
        let service = matches!(from.rtype, Rtype::SVCB | Rtype::HTTPS);
        let target = match target.is_root() {
            false => target,
            // RFC 9460 2.5.2: the service is at the owner itself.
            true if service && !data.starts_with(ALIAS_MODE) => owner,
            // There is no such service (RFC 2782, RFC 7505, RFC 9460 2.5.1).
            true => return None,
        };
        match self.tree.lookup(&target)? {
            Lookup::Found(node) => Some((node, false)),
            Lookup::Cut { .. } | Lookup::Dname(_) | Lookup::Missing(_) => None,
        }
    }
}

/// Sets for the additional section.
#[derive(Default)]
struct Found<'a> {
    sets: Vec<Records<'a>>,
    /// Octets that they take at least.
    octets: usize,
}

impl<'a> Found<'a> {
    fn push(&mut self, set: SetView<'a>) {
        let records = Records {
            needed: false,
            ..Records::stored(set)
        };
        self.octets += octets_min(&records);
        self.sets.push(records);
    }
}

/// Octets that a set takes in a message at least: each of its records has a pointer to its name,
/// type, class, TTL, length, and its data; of names in there that may be compressed, an octet.
fn octets_min(records: &Records<'_>) -> usize {
    let (skip, names) = compressible(records.rtype);
    let octets = records.data().map(|data| match names {
        0 => 12 + data.len(),
        _ => 12 + skip + names,
    });
    octets.sum()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cfgdns_zone::{Rdata, Zone};

    use super::*;

    /// A zone with one service at so many hosts, each with two addresses.
    fn zones(hosts: u32) -> Zones {
        let origin = Name::root();
        let mut zone = Zone::new(origin.clone());
        let mut insert = |owner: &Name, rtype, text: &str| {
            let data = Rdata::parse(rtype, text, Some(&origin)).expect(text);
            zone.insert(owner, rtype, 60, data).expect("in the zone");
        };
        insert(&origin, Rtype::SOA, "ns. root. 1 2 3 4 5");
        let service = "s.".parse().expect("a name");
        for host in 0..hosts {
            let text = format!("{host:04}.");
            let owner = text.parse().expect("a name");
            insert(&service, Rtype::SRV, &format!("0 0 1 {text}"));
            insert(&owner, Rtype::A, "192.0.2.1");
            insert(&owner, Rtype::AAAA, "2001:db8::1");
        }
        Zones::new([Arc::new(Tree::build(&zone).expect("it has an SOA"))])
    }

    /// Names are looked up while there is room for what they have, and not once for each record.
    #[test]
    fn addresses_are_looked_for_while_there_is_room() {
        let name = "s.".parse().expect("a name");
        let (rtype, class) = (Rtype::SRV, CLASS_IN);
        let question = Question {
            name: &name,
            rtype,
            class,
        };
        // Octets of an SRV record, and of the addresses of its host.
        let (record, addresses) = (12 + 6 + 6, 16 + 28);
        for (hosts, octets_max, expected) in [
            (
                2_700,
                TCP_OCTETS_MAX,
                (TCP_OCTETS_MAX - 2_700 * record) / addresses + 1,
            ),
            (2_700, 1_232, 0),
            (20, 1_232, (1_232 - 20 * record) / addresses + 1),
            (5, 1_232, 5),
        ] {
            let zones = zones(hosts);
            let reply = answer_within(&zones, &question, octets_max);
            assert_eq!(
                reply.answer[0].data().count(),
                usize::try_from(hosts).expect("few")
            );
            assert_eq!(
                reply.additional.len().div_ceil(2),
                expected,
                "{hosts} {octets_max}"
            );
        }
    }

    /// RFC 9471 3.1: of a delegation that names servers elsewhere first, what is needed is found.
    #[test]
    fn needed_glue_is_found_behind_other_glue() {
        let origin: Name = "z.".parse().expect("a name");
        let mut zone = Zone::new(origin.clone());
        let mut insert = |owner: &str, rtype, text: &str| {
            let owner = Name::parse(owner.as_bytes(), Some(&origin)).expect(owner);
            let data = Rdata::parse(rtype, text, Some(&origin)).expect(text);
            zone.insert(&owner, rtype, 60, data).expect("in the zone");
        };
        insert("@", Rtype::SOA, "ns. root. 1 2 3 4 5");
        for server in 0..100 {
            // In canonical order those above the delegation come first.
            for host in [format!("a{server:03}"), format!("n{server:03}.sub")] {
                insert("sub", Rtype::NS, &host);
                insert(&host, Rtype::AAAA, "2001:db8::1");
            }
        }
        let zones = Zones::new([Arc::new(Tree::build(&zone).expect("it has an SOA"))]);
        let name = "www.sub.z.".parse().expect("a name");
        let (rtype, class) = (Rtype::A, CLASS_IN);
        let question = Question {
            name: &name,
            rtype,
            class,
        };
        let reply = answer_within(&zones, &question, 200 * 13 + 10 * 28);
        let needed = reply.additional.iter().filter(|set| set.needed).count();
        // As many as there is room for, and one that shows that there are more.
        assert_eq!(needed, 11);
        assert!(reply.additional[..11].iter().all(|set| set.needed));
        let whole = answer_within(&zones, &question, TCP_OCTETS_MAX);
        let needed = whole.additional.iter().filter(|set| set.needed).count();
        assert_eq!((needed, whole.additional.len()), (100, 200));
    }
}
