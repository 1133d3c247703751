//! What a reply needs to be believed: signatures, and proofs of what does not exist (RFC 4035
//! 3.1).
//!
//! ```text
//! reply of `answer` ─┬─ sets of the zone ────► RRSIG beside each (not of a delegation, not glue)
//!                    ├─ no such name, type ──► NSEC made for this question (RFC 9824), signed
//!                    └─ delegation ──────────► DS, or NSEC without DS (RFC 4035 3.1.4)
//! ```
//!
//! Compact denial: of a name that does not exist the NSEC says that it has the type NXNAME and no
//! other, so that one record proves all; the outcome is NOERROR then, unless the client says that
//! it takes NXDOMAIN with such a proof. A wildcard answers as if the name existed: signed as asked.

use std::borrow::Cow;

use cfgdns_sign::{Set, SignatureCache, Signer, compact_next, nsec_data};
use cfgdns_zone::{Name, Rtype};

use crate::reply::{Data, ExtendedError, Rcode, Records, Reply, Unproved};
use crate::tree::{APEX, Lookup, NodeId, SetView, StoredData, Tree};

/// What a client takes of DNSSEC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Signatures and proofs (RFC 3225).
    pub signatures: bool,
    /// NXDOMAIN with the compact proof of a name that does not exist (RFC 9824 5.1).
    pub compact_ok: bool,
}

/// Adds signatures and proofs to a reply, when the client wants them and the zone has them. Without
/// a cache each signature is made anew.
pub fn prove(reply: &mut Reply<'_>, wanted: Wanted, cache: Option<&mut SignatureCache>) {
    refuse_unsigned(reply, wanted);
    if let Some(mut proving) = prove_answer(reply, wanted, cache) {
        for records in &mut reply.additional {
            proving.sign_additional(records);
        }
    }
}

/// The same without the signatures of the additional section, which are left out where there is no
/// room: what is returned makes them for who writes the message, one set after the other.
pub(crate) fn prove_answer<'a, 'c>(
    reply: &mut Reply<'a>,
    wanted: Wanted,
    cache: Option<&'c mut SignatureCache>,
) -> Option<Proving<'a, 'c>> {
    let tree = reply.zone?;
    let asked = matches!(reply.unproved, Some(Unproved::Itself(..)));
    let signer = tree.signer().filter(|_| wanted.signatures || asked)?;
    let mut proving = Proving {
        tree,
        signer,
        cache,
    };
    let is_referral = match reply.unproved.take() {
        None => false,
        Some(Unproved::Itself(node, made, rtype)) => {
            let (name, types) = proving.types(node, made);
            let first = tree.sets(node).next();
            let ttl_max = tree.nothing_for(node, |_| true);
            let shown = (first, ttl_max.unwrap_or(u32::MAX));
            proving.show(reply, (name, &types), shown, rtype);
            false
        }
        Some(Unproved::Name(name, rtype)) => {
            // With CO it stays NXDOMAIN, also where the proof is the answer because NSEC or RRSIG
            // was asked for: the name is not there, whatever is shown of how that is proved.
            if !wanted.compact_ok {
                reply.rcode = Rcode::NoError;
            }
            let (name, types) = (name.into_owned(), [Rtype::NXNAME]);
            if matches!(rtype, Rtype::NSEC | Rtype::RRSIG) {
                // It is said to exist with these types: they cannot be denied.
                reply.authority.clear();
                proving.show(reply, (name, &types), (None, u32::MAX), rtype);
            } else {
                let denial = proving.denial(reply, name, &types, false);
                reply.authority.push(denial);
            }
            false
        }
        Some(Unproved::Type(node, made)) => {
            let (name, types) = proving.types(node, made);
            let denial = proving.denial(reply, name, &types, false);
            reply.authority.push(denial);
            false
        }
        Some(Unproved::Delegation(node)) => {
            let proof = proving.delegation(reply, node);
            reply.authority.push(proof);
            true
        }
    };
    wanted.signatures.then(|| {
        proving.sign_needed(reply, is_referral);
        proving
    })
}

/// Says nothing of a zone whose signatures cannot be made to who wants them: without them its
/// records would be taken for forged. It costs nothing.
pub(crate) fn refuse_unsigned(reply: &mut Reply<'_>, wanted: Wanted) {
    if wanted.signatures && reply.zone.is_some_and(Tree::lacks_keys) {
        *reply = Reply {
            extended_error: Some(ExtendedError::NotReady),
            ..Reply::empty(Rcode::ServFail)
        };
    }
}

/// Makes what proves a reply of one zone.
pub(crate) struct Proving<'a, 'c> {
    tree: &'a Tree,
    signer: &'a Signer,
    cache: Option<&'c mut SignatureCache>,
}

impl<'a> Proving<'a, '_> {
    /// A name, and the types that it has, beside those of every proof. Of a name that a wildcard
    /// makes NS is not listed: without SOA it is a delegation's, which proves nothing about other
    /// types (RFC 6840 4.1). No zone with such a wildcard is taken any more; old ones have some.
    fn types(&self, node: NodeId, made: Option<Cow<'a, Name>>) -> (Name, Vec<Rtype>) {
        let is_made = made.is_some();
        let name = made.map_or_else(|| self.name(node), Cow::into_owned);
        let types = self.tree.sets(node).map(|set| set.rtype);
        let types = types.filter(|rtype| !is_made || *rtype != Rtype::NS);
        (name, types.collect())
    }

    fn name(&self, node: NodeId) -> Name {
        let (name, _) = Name::from_wire(self.tree.name(node)).expect("a tree has whole names");
        name
    }

    /// The NSEC of one name. It can be kept for as long as an answer about nothing (RFC 9077 3.2).
    fn denial(
        &self,
        reply: &Reply<'_>,
        name: Name,
        types: &[Rtype],
        delegated: bool,
    ) -> Records<'a> {
        let next = compact_next(&name, self.tree.origin(), delegated);
        let types = types.iter().copied().chain([Rtype::RRSIG, Rtype::NSEC]);
        let soa_ttl = self.tree.set(APEX, Rtype::SOA).map_or(0, |set| set.ttl);
        let zone_ttl = soa_ttl.min(self.tree.soa().minimum);
        let beside = reply.authority.iter().filter(|set| set.rtype == Rtype::SOA);
        Records {
            owner: Cow::Owned(name.as_wire().to_vec()),
            rtype: Rtype::NSEC,
            ttl: beside.map(|soa| soa.ttl).fold(zone_ttl, u32::min),
            zone_ttl,
            data: Data::Denial(nsec_data(next.as_wire(), types)),
            signatures: Vec::new(),
            needed: true,
            weights: &[],
            first: 0,
        }
    }

    /// DS of a delegated name, or that there is none. Of its types only those are listed that this
    /// zone decides on (RFC 4035 2.3).
    fn delegation(&self, reply: &Reply<'_>, node: NodeId) -> Records<'a> {
        match self.tree.set(node, Rtype::DS) {
            Some(set) => Records::stored(set),
            None => self.denial(reply, self.name(node), &[Rtype::NS], true),
        }
    }

    /// Answers with the proof of a name that was asked for: NSEC; or RRSIG, those of its first set
    /// alone, as with ANY (RFC 8482 4.1), because each costs a signature. An NSEC is kept for
    /// `ttl_max` at most.
    fn show(
        &mut self,
        reply: &mut Reply<'a>,
        (name, types): (Name, &[Rtype]),
        (first, ttl_max): (Option<SetView<'a>>, u32),
        rtype: Rtype,
    ) {
        let owner = name.as_wire().to_vec();
        let mut shown = match first {
            Some(set) if rtype == Rtype::RRSIG => Records::stored(set),
            _ => {
                let denial = self.denial(reply, name, types, false);
                let ttl = denial.ttl.min(ttl_max);
                Records { ttl, ..denial }
            }
        };
        shown.owner = Cow::Owned(owner);
        if rtype == Rtype::RRSIG {
            self.sign(&mut shown);
            shown.data = Data::Stored(StoredData::default());
        }
        reply.answer.push(shown);
    }

    /// Signs what the zone answers for, of what the reply cannot do without.
    fn sign_needed(&mut self, reply: &mut Reply<'a>, is_referral: bool) {
        for records in &mut reply.answer {
            self.sign(records);
        }
        for records in &mut reply.authority {
            // RFC 4035 2.2: NS of a delegation is the other zone's.
            if !is_referral || records.rtype != Rtype::NS {
                self.sign(records);
            }
        }
    }

    /// Signs a set of the additional section, when the zone answers for it: what is delegated is
    /// glue.
    pub(crate) fn sign_additional(&mut self, records: &mut Records<'_>) {
        let owner = Name::from_wire(&records.owner).ok();
        let found = owner.and_then(|(owner, _)| self.tree.lookup(&owner));
        if matches!(found, Some(Lookup::Found(_))) {
            self.sign(records);
        }
    }

    /// Adds its signatures, unless it has them, or is a CNAME that a DNAME made: that is believed
    /// because the DNAME is (RFC 6672 5.3.1).
    fn sign(&mut self, records: &mut Records<'_>) {
        let made = matches!(records.data, Data::Made(_));
        if made || !records.signatures.is_empty() {
            return;
        }
        let set = Set {
            owner: Cow::Borrowed(&records.owner),
            rtype: records.rtype,
            ttl: records.zone_ttl,
            data: records.data().map(Cow::Borrowed).collect(),
        };
        let signatures = self.signer.rrsigs(&set, self.cache.as_deref_mut());
        records.signatures = signatures;
    }
}
