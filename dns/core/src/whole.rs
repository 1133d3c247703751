//! A zone as its secondaries get it: all sets, and where it is signed the chain of its names and
//! all signatures (RFC 4035 2), name by name.
//!
//! A secondary cannot sign, so that it needs the chain where our own answers have a record that is
//! made for the question. Both say the same of what there is.

use std::borrow::Cow;

use cfgdns_sign::{Place, SIGNATURE_OCTETS, Set, ZoneNode, chained};
use cfgdns_zone::{Name, Rtype};

use crate::tree::{APEX, Lookup, NodeId, SetView, Tree};

/// Octets of an RRSIG record beside its names and its signature: its own and those of its data.
const RRSIG_OCTETS: usize = 10 + 18;

/// A set, to be compared or signed.
pub(crate) fn as_set(set: SetView<'_>) -> Set<'_> {
    Set {
        owner: Cow::Borrowed(set.owner),
        rtype: set.rtype,
        ttl: set.ttl,
        data: set.data.map(Cow::Borrowed).collect(),
    }
}

/// Whether the same sets of both have the same signatures, or none.
pub(crate) fn signed_alike(old: &Tree, new: &Tree) -> bool {
    let [old_signing, new_signing] = [old, new].map(|tree| tree.signer().map(|s| s.signing()));
    old_signing == new_signing && old.lacks_keys() == new.lacks_keys()
}

/// The sets of a name, each with whether it is signed; with its NSEC where the zone is signed.
pub(crate) fn chained_sets(tree: &Tree, node: NodeId) -> Vec<(Set<'_>, bool)> {
    let sets: Vec<_> = tree.sets(node).map(as_set).collect();
    if sets.is_empty() {
        // It is not in the chain. There may be thousands in a row, each of which would look for the
        // next name behind all others: those that follow roles that nobody holds.
        return Vec::new();
    }
    if tree.signer().is_none() {
        return sets.into_iter().map(|set| (set, false)).collect();
    }
    let place = place(tree, node);
    let next = match place {
        Place::Hidden => APEX,
        Place::Own | Place::Delegated => next(tree, node),
    };
    let soa_ttl = tree.set(APEX, Rtype::SOA).map_or(0, |set| set.ttl);
    // RFC 9077 3.2.
    let nsec_ttl = soa_ttl.min(tree.soa().minimum);
    let name = tree.name(node);
    chained(ZoneNode { name, sets }, place, tree.name(next), nsec_ttl)
}

/// The sets of a name and of its signatures.
pub(crate) fn signed_sets(tree: &Tree, node: NodeId) -> Vec<Set<'_>> {
    let mut all = Vec::new();
    for (set, signed) in chained_sets(tree, node) {
        let signatures = signatures(tree, &set).filter(|_| signed);
        all.push(set);
        all.extend(signatures);
    }
    all
}

/// The signatures of a set, where the zone is signed.
pub(crate) fn signatures<'a>(tree: &Tree, set: &Set<'a>) -> Option<Set<'a>> {
    let data = tree.signer()?.rrsigs(set, None);
    Some(Set {
        owner: set.owner.clone(),
        rtype: Rtype::RRSIG,
        ttl: set.ttl,
        data: data.into_iter().map(Cow::Owned).collect(),
    })
}

/// About the octets that signatures add to a record.
pub(crate) fn signed_octets(tree: &Tree, owner: &[u8]) -> usize {
    let origin = tree.origin().as_wire().len();
    let rrsig = owner.len() + RRSIG_OCTETS + origin + SIGNATURE_OCTETS;
    // Its own, and that of the NSEC.
    tree.signer().map_or(0, |_| 2 * rrsig)
}

fn place(tree: &Tree, node: NodeId) -> Place {
    let (name, _) = Name::from_wire(tree.name(node)).expect("a tree has whole names");
    match tree.lookup(&name) {
        Some(Lookup::Found(_)) => Place::Own,
        Some(Lookup::Cut { exact: true, .. }) => Place::Delegated,
        _ => Place::Hidden,
    }
}

/// The next name of the chain: after the last comes the origin (RFC 4034 4.1.1).
fn next(tree: &Tree, node: NodeId) -> NodeId {
    let mut after = tree.nodes_from(node).skip(1);
    let found =
        after.find(|node| tree.sets(*node).next().is_some() && place(tree, *node) != Place::Hidden);
    found.unwrap_or(APEX)
}
