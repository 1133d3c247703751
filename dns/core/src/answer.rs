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

use cfgdns_zone::{Name, Rtype, additional_target};

use crate::reply::{Data, ExtendedError, Rcode, Records, Reply, Unproved};
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
    answering.add_addresses();
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
    if rcode == Rcode::NotImp {
        reply.extended_error = Some(ExtendedError::NotSupported);
    }
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
    fn nothing(&mut self, node: Option<NodeId>) {
        let types = [self.rtype, Rtype::CNAME];
        let changing = node.into_iter().flat_map(|node| {
            let tree = self.tree;
            let of_type = move |rtype| tree.nothing_for(node, rtype);
            types.into_iter().filter_map(of_type)
        });
        let ttl_max = changing.min().unwrap_or(u32::MAX);
        if let Some(set) = self.tree.set(APEX, Rtype::SOA) {
            let mut records = Records::stored(set);
            records.ttl = records.ttl.min(self.tree.soa().minimum).min(ttl_max);
            self.reply.authority.push(records);
        }
    }

    /// The addresses of names that the other sections hold, each once; first those without which
    /// nobody could go on.
    fn add_addresses(&mut self) {
        let mut additional: Vec<Records<'a>> = Vec::new();
        for records in self.reply.answer.iter().chain(&self.reply.authority) {
            for data in records.data() {
                for mut address in self.addresses(records, data) {
                    let known = self.reply.answer.iter().chain(&additional);
                    if known
                        .clone()
                        .any(|other| other.is(&address.owner, address.rtype))
                    {
                        continue;
                    }
                    address.needed &= !self.reply.authority.is_empty();
                    additional.push(address);
                }
            }
        }
        additional.sort_by_key(|records| !records.needed);
        self.reply.additional = additional;
    }

    /// The addresses of the name that a record leads to, when the zone has them.
    fn addresses(&self, from: &Records<'_>, data: &[u8]) -> Vec<Records<'a>> {
        let node = self.target(from, data);
        let Some((node, needed)) = node else {
            return Vec::new();
        };
        // RFC 9460 4.1: where an alias of services leads, the next step is there.
        let service = matches!(from.rtype, Rtype::SVCB | Rtype::HTTPS);
        let next = (service && data.starts_with(ALIAS_MODE)).then_some(from.rtype);
        [Some(Rtype::A), Some(Rtype::AAAA), next]
            .into_iter()
            .flatten()
            .filter_map(|rtype| self.tree.set(node, rtype))
            .map(|set| Records {
                needed,
                ..Records::stored(set)
            })
            .collect()
    }

    /// The node that a record leads to, and whether it is a name server at or below its own
    /// delegation: without its address nobody could ask it.
    fn target(&self, from: &Records<'_>, data: &[u8]) -> Option<(NodeId, bool)> {
        let (target, _) = Name::from_wire(additional_target(from.rtype, data)?).ok()?;
        let (owner, _) = Name::from_wire(&from.owner).ok()?;
        if from.rtype == Rtype::NS {
            // Glue is where the zone does not answer.
            let node = self.tree.node(&target)?;
            return Some((node, target.is_at_or_below(&owner)));
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
