//! A zone as its secondaries get it: all sets, and where it is signed the chain of its names and
//! all signatures (RFC 4035 2), name by name.
//!
//! A secondary cannot sign, so that it needs the chain where our own answers have a record that is
//! made for the question. Both say the same of what there is.

use std::borrow::Cow;

use cfgdns_sign::{Place, SIGNATURE_OCTETS, Set, ZoneNode, chained};
use cfgdns_zone::{Name, Rtype};

use crate::packed::Extent;
use crate::tree::{APEX, Lookup, NodeId, SetView, Tree};

/// Octets of the data of an RRSIG record beside the name of the zone and the signature (RFC 4034
/// 3.1).
const RRSIG_OCTETS: usize = 18;
/// Octets of a record beside its name and data: type, class, TTL, length (RFC 1035 3.2.1).
const RECORD_OCTETS: usize = 10;

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

/// How many signatures a set has, where the zone is signed, and the octets of the data of each.
pub(crate) fn signature_octets(tree: &Tree, set: &Set<'_>) -> (usize, usize) {
    let keys = tree.signer().into_iter();
    let keys = keys.flat_map(|signer| signer.signing().keys());
    let count = keys
        .filter(|key| key.signs && key.role.signs(set.rtype))
        .count();
    (
        count,
        RRSIG_OCTETS + tree.origin().as_wire().len() + SIGNATURE_OCTETS,
    )
}

/// About the octets that a zone has more when it is signed: for each record a signature, and one of
/// its NSEC.
pub(crate) fn signed_octets(tree: &Tree, extent: Extent) -> usize {
    let origin = tree.origin().as_wire().len();
    let rrsig = RECORD_OCTETS + RRSIG_OCTETS + origin + SIGNATURE_OCTETS;
    2 * (extent.owner_octets + extent.records * rrsig)
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
