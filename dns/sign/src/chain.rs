//! A whole zone as it is signed: each set once, with the keys and the chain of all names (RFC 4034 4,
//! RFC 4035 2). This is what a transfer sends, so that standard secondaries can serve the zone.
//!
//! ```text
//! origin     SOA NS DNSKEY   signed   NSEC ─┐
//! a          A               signed   NSEC ◄┘─┐
//! b          (nothing: an empty non-terminal) │  no NSEC
//! c.b        TXT             signed   NSEC ◄──┘─┐
//! sub        NS  not signed, DS  signed  NSEC ◄─┘─┐
//! ns.sub     A   glue: not signed, no NSEC        │
//! z          A               signed   NSEC ◄──────┘─► origin
//! ```
//!
//! Lazy: a name is looked at when it is its turn, and the one after it, so that a transfer of many
//! names holds few of them. [`ZoneChain`] has the sets alone: two versions of a zone can be compared
//! without a signature, because the same sets get the same signatures.

use std::borrow::Cow;
use std::collections::VecDeque;

use cfgdns_zone::{Name, Rtype, Soa, Zone};

use crate::denial::nsec_data;
use crate::set::Set;
use crate::signer::Signer;

/// A name of a zone with its sets.
#[derive(Debug, Clone)]
pub struct ZoneNode<'a> {
    /// The name in wire form.
    pub name: &'a [u8],
    /// Its sets; none where only names below it have some.
    pub sets: Vec<Set<'a>>,
}

/// The names of a zone, in canonical order.
pub fn nodes(zone: &Zone) -> impl Iterator<Item = ZoneNode<'_>> {
    zone.nodes().map(|(name, node)| ZoneNode {
        name: name.as_wire(),
        sets: node
            .sets()
            .iter()
            .map(|set| Set {
                owner: Cow::Borrowed(name.as_wire()),
                rtype: set.rtype(),
                ttl: set.ttl(),
                data: set
                    .data()
                    .iter()
                    .map(|data| Cow::Borrowed(data.as_wire()))
                    .collect(),
            })
            .collect(),
    })
}

/// The first name has no start of authority: it is not the origin of a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the zone does not begin with a name that has an SOA record")]
pub struct NoSoa;

/// The sets of a signed zone without their signatures: each with whether it is signed.
pub struct ZoneChain<'a, I> {
    nodes: I,
    origin: &'a [u8],
    /// The first name that is not given out yet, and those after it that were looked at.
    ahead: VecDeque<(ZoneNode<'a>, Place)>,
    /// The last delegated name, or the last with a DNAME: what is below it is not the zone's.
    hidden_below: Option<Name>,
    /// The TTL of NSEC records: that of an answer about nothing (RFC 9077 3.2).
    nsec_ttl: u32,
    ready: VecDeque<(Set<'a>, bool)>,
}

/// Where a name is in a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It is the zone's own.
    Own,
    /// It is delegated to others (RFC 4035 2.3).
    Delegated,
    /// It is below a delegated one, or below a DNAME: glue, and what nobody sees.
    Hidden,
}

/// The sets of a name as they are in the signed zone: each with whether it is signed, and its NSEC,
/// which leads to `next` and can be kept for `nsec_ttl`. A name without sets has none.
pub fn chained<'a>(
    node: ZoneNode<'a>,
    place: Place,
    next: &[u8],
    nsec_ttl: u32,
) -> Vec<(Set<'a>, bool)> {
    let is_signed = |rtype| match place {
        Place::Own => true,
        Place::Delegated => rtype == Rtype::DS,
        Place::Hidden => false,
    };
    // RFC 4035 2.3: of a delegated name NS, and what the zone speaks of with authority.
    let listed = |rtype: &Rtype| is_signed(*rtype) || *rtype == Rtype::NS;
    let types = node.sets.iter().map(|set| set.rtype).filter(listed);
    let types: Vec<_> = types.chain([Rtype::RRSIG, Rtype::NSEC]).collect();
    let has_nsec = place != Place::Hidden && !node.sets.is_empty();
    let nsec = has_nsec.then(|| Set {
        owner: Cow::Borrowed(node.name),
        rtype: Rtype::NSEC,
        ttl: nsec_ttl,
        data: vec![Cow::Owned(nsec_data(next, types))],
    });
    let sets = node.sets.into_iter().map(|set| {
        let signed = is_signed(set.rtype);
        (set, signed)
    });
    sets.chain(nsec.map(|nsec| (nsec, true))).collect()
}

impl<'a, I: Iterator<Item = ZoneNode<'a>>> ZoneChain<'a, I> {
    /// Takes the names of a zone in canonical order, the origin first.
    pub fn new(signer: &Signer, mut nodes: I) -> Result<Self, NoSoa> {
        let mut apex = nodes.next().ok_or(NoSoa)?;
        let soa = apex.sets.iter().find(|set| set.rtype == Rtype::SOA);
        let soa = soa.ok_or(NoSoa)?;
        let data = soa.data.first().ok_or(NoSoa)?;
        let data = cfgdns_zone::Rdata::from_wire(Rtype::SOA, data).map_err(|_| NoSoa)?;
        let minimum = Soa::from_data(&data).ok_or(NoSoa)?.minimum;
        let nsec_ttl = soa.ttl.min(minimum);
        let keys = Set {
            owner: Cow::Borrowed(apex.name),
            rtype: Rtype::DNSKEY,
            ttl: soa.ttl,
            data: signer
                .dnskeys()
                .iter()
                .map(|data| Cow::Owned(data.as_wire().to_vec()))
                .collect(),
        };
        apex.sets.retain(|set| set.rtype != Rtype::DNSKEY);
        apex.sets.push(keys);
        let hidden_below = apex.sets.iter().any(|set| set.rtype == Rtype::DNAME);
        let hidden_below = hidden_below.then(|| name(apex.name));
        Ok(Self {
            nodes,
            origin: apex.name,
            ahead: VecDeque::from([(apex, Place::Own)]),
            hidden_below,
            nsec_ttl,
            ready: VecDeque::new(),
        })
    }

    /// The next name with records, and what it is.
    fn look(&mut self) -> Option<(ZoneNode<'a>, Place)> {
        let node = self.nodes.find(|node| !node.sets.is_empty())?;
        let found = name(node.name);
        if let Some(above) = &self.hidden_below
            && found.is_below(above)
        {
            return Some((node, Place::Hidden));
        }
        let has = |rtype| node.sets.iter().any(|set| set.rtype == rtype);
        let delegated = has(Rtype::NS);
        let hides = delegated || has(Rtype::DNAME);
        self.hidden_below = hides.then_some(found);
        let place = if delegated {
            Place::Delegated
        } else {
            Place::Own
        };
        Some((node, place))
    }

    /// The next name of the chain after those that were looked at first.
    fn next_of_chain(&mut self) -> &'a [u8] {
        let known = self.ahead.iter().find(|(_, place)| *place != Place::Hidden);
        if let Some((node, _)) = known {
            return node.name;
        }
        while let Some((node, place)) = self.look() {
            let found = node.name;
            self.ahead.push_back((node, place));
            if place != Place::Hidden {
                return found;
            }
        }
        self.origin
    }

    fn advance(&mut self) -> Option<()> {
        if self.ahead.is_empty() {
            let next = self.look()?;
            self.ahead.push_back(next);
        }
        let (node, place) = self.ahead.pop_front()?;
        let next = match place {
            Place::Hidden => self.origin,
            Place::Own | Place::Delegated => self.next_of_chain(),
        };
        self.ready = chained(node, place, next, self.nsec_ttl).into();
        Some(())
    }
}

impl<'a, I: Iterator<Item = ZoneNode<'a>>> Iterator for ZoneChain<'a, I> {
    type Item = (Set<'a>, bool);

    fn next(&mut self) -> Option<(Set<'a>, bool)> {
        while self.ready.is_empty() {
            self.advance()?;
        }
        self.ready.pop_front()
    }
}

/// The sets of a signed zone, each followed by the set of its signatures.
pub struct SignedZone<'a, I> {
    chain: ZoneChain<'a, I>,
    signer: &'a Signer,
    signatures: Option<Set<'a>>,
}

impl<'a, I: Iterator<Item = ZoneNode<'a>>> SignedZone<'a, I> {
    /// Takes the names of a zone in canonical order, the origin first.
    pub fn new(signer: &'a Signer, nodes: I) -> Result<Self, NoSoa> {
        Ok(Self {
            chain: ZoneChain::new(signer, nodes)?,
            signer,
            signatures: None,
        })
    }
}

impl<'a, I: Iterator<Item = ZoneNode<'a>>> Iterator for SignedZone<'a, I> {
    type Item = Set<'a>;

    fn next(&mut self) -> Option<Set<'a>> {
        if let Some(signatures) = self.signatures.take() {
            return Some(signatures);
        }
        let (set, signed) = self.chain.next()?;
        if signed {
            let data = self.signer.rrsigs(&set, None);
            self.signatures = Some(Set {
                owner: set.owner.clone(),
                rtype: Rtype::RRSIG,
                // RFC 4034 3: that of the set.
                ttl: set.ttl,
                data: data.into_iter().map(Cow::Owned).collect(),
            });
        }
        Some(set)
    }
}

fn name(wire: &[u8]) -> Name {
    let (name, _) = Name::from_wire(wire).expect("names of a zone are whole");
    name
}
