//! What has changed in a zone, serial by serial, so that a secondary that is a few steps behind is
//! sent the steps and not the zone (RFC 1995).
//!
//! ```text
//! step 7 ─► 8   [ SOA 7 │ records that are gone │ SOA 8 │ records that are new ]
//! step 8 ─► 9   [ SOA 8 │ ...                   │ SOA 9 │ ...                  ]
//! ```
//!
//! A step is what is between two trees, in canonical order, so that every server that saw the same
//! two makes the same octets of it. It is never changed, and shared by all trees that come after.
//!
//! Invariants
//! - each step begins with the serial that the one before ends with, and every serial in it is
//!   before that of the zone (RFC 1982): a serial says one content only;
//! - a history has at most [`HISTORY_STEPS_MAX`] steps, and takes neither more than
//!   [`HISTORY_OCTETS_MAX`] nor twice as much as its tree: in the place of so many steps the whole
//!   zone would be sent (RFC 1995 5);
//! - nothing is signed for a step that is too long: each signature costs as much as a thousand
//!   names that are compared, so their octets are counted before they are made.

use core::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

use cfgdns_sign::Set;
use cfgdns_zone::{Name, Rtype, compare_data};

use crate::serial::is_before;
use crate::tree::{APEX, NodeId, Tree};
use crate::whole::{
    as_set, chained_sets, signature_octets, signatures, signed_alike, signed_octets,
};

/// Steps of a history: a secondary that asks once in a minute finds its serial when the zone
/// changes every second. Each costs an `Arc` when the next is added.
pub const HISTORY_STEPS_MAX: usize = 128;
/// Octets of the steps of one zone.
pub const HISTORY_OCTETS_MAX: usize = 1 << 20;

/// Octets of a packed record beside its name and data: type, TTL, length.
const FIXED_OCTETS: usize = 8;

/// What makes a zone out of the one before.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    from: u32,
    to: u32,
    /// Records one after the other: the old SOA, what is gone, the new SOA, what is new.
    packed: Box<[u8]>,
}

/// A record of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StepRecord<'a> {
    pub(crate) owner: &'a [u8],
    pub(crate) rtype: Rtype,
    pub(crate) ttl: u32,
    pub(crate) data: &'a [u8],
}

/// The last steps of a zone.
#[derive(Debug, Clone, Default)]
pub struct History(Vec<Arc<Step>>);

/// That of a zone of which nothing older is known.
pub(crate) static NO_HISTORY: History = History(Vec::new());

impl Step {
    /// None when it takes more than so many octets beside its SOA records.
    fn between(old: &Tree, new: &Tree, octets_max: usize) -> Option<Self> {
        let mut changes = Changes {
            removed: Side::new(old),
            added: Side::new(new),
            left: octets_max,
        };
        changes.compare()?;
        let mut packed = Vec::new();
        pack_soa(&mut packed, old);
        packed.extend(changes.removed.sign());
        pack_soa(&mut packed, new);
        packed.extend(changes.added.sign());
        Some(Self {
            from: old.soa().serial,
            to: new.soa().serial,
            packed: packed.into(),
        })
    }

    /// The record at a place, and the place after it; none at the end.
    pub(crate) fn record(&self, at: usize) -> Option<(StepRecord<'_>, usize)> {
        let mut rest = self.packed.get(at..).filter(|rest| !rest.is_empty())?;
        let mut take = |octets: usize| {
            let (taken, after) = rest.split_at(octets);
            rest = after;
            taken
        };
        let number = |octets: &[u8]| {
            let octets = octets.iter();
            octets.fold(0, |all, octet| all << 8 | u32::from(*octet))
        };
        let owner_octets = usize::from(take(1)[0]);
        let owner = take(owner_octets);
        let rtype = u16::try_from(number(take(2))).expect("two octets");
        let ttl = number(take(4));
        let data_octets = usize::try_from(number(take(2))).expect("two octets");
        let data = take(data_octets);
        let record = StepRecord {
            owner,
            rtype: Rtype(rtype),
            ttl,
            data,
        };
        Some((record, self.packed.len() - rest.len()))
    }

    /// Octets that it takes, and about as many without compression on the wire.
    pub(crate) fn octets(&self) -> usize {
        self.packed.len()
    }
}

impl History {
    /// The history of `new`, which follows `old`, whose history this is. It takes a look at every
    /// name of both, or at those with live sets where only those can differ.
    #[must_use]
    pub fn next(&self, old: &Tree, new: &Tree) -> Self {
        let (from, to) = (old.soa().serial, new.soa().serial);
        if !signed_alike(old, new) {
            // All signatures are others, and with them as many records as the zone has.
            return Self::default();
        }
        if from != to && !is_before(from, to) || old.origin() != new.origin() {
            // There is no way from the old content to the new one.
            return Self::default();
        }
        let octets_max = HISTORY_OCTETS_MAX.min(2 * new.octets());
        // Of one serial there is one content.
        let changes_max = if from == to { 0 } else { octets_max };
        let Some(step) = Step::between(old, new, changes_max) else {
            return Self::default();
        };
        if from == to && step.is_nothing() {
            return self.clone();
        }
        let mut octets = step.octets();
        if from == to || octets > octets_max {
            return Self::default();
        }
        let mut steps = vec![Arc::new(step)];
        let leads_here = self.0.last().is_some_and(|last| last.to == from);
        let older = self.0.iter().rev().filter(|_| leads_here);
        for older in older {
            octets += older.octets();
            let full = steps.len() == HISTORY_STEPS_MAX || octets > octets_max;
            if full || !is_before(older.from, to) {
                break;
            }
            steps.push(Arc::clone(older));
        }
        steps.reverse();
        Self(steps)
    }

    /// How many steps it has.
    pub fn steps(&self) -> usize {
        self.0.len()
    }

    /// Octets that its steps take, which it shares with the histories before and after.
    pub fn octets(&self) -> usize {
        self.0.iter().map(|step| step.octets()).sum()
    }

    /// The serials that a secondary can have to be sent steps, oldest first.
    pub fn serials(&self) -> impl ExactSizeIterator<Item = u32> {
        self.0.iter().map(|step| step.from)
    }

    /// Which step begins with this serial.
    pub(crate) fn find(&self, serial: u32) -> Option<usize> {
        self.0.iter().position(|step| step.from == serial)
    }

    /// A step, by its number.
    pub(crate) fn step(&self, number: usize) -> Option<&Step> {
        self.0.get(number).map(|step| &**step)
    }

    /// Octets of the steps from this one on.
    pub(crate) fn octets_from(&self, first: usize) -> usize {
        let steps = self.0.iter().skip(first);
        steps.map(|step| step.octets()).sum()
    }
}

impl Step {
    /// Whether the two zones are the same, to the last octet.
    fn is_nothing(&self) -> bool {
        let old = self.record(0).expect("it begins with an SOA");
        let new = self.record(old.1).expect("it has two SOA records");
        old.0 == new.0 && new.1 == self.packed.len()
    }
}

/// Octets of a whole zone, as steps are counted: about, where it is signed.
pub(crate) fn octets_of(zone: &Tree) -> usize {
    let extent = zone.extent();
    let signed = if zone.signer().is_some() {
        signed_octets(zone, extent)
    } else {
        0
    };
    extent.records * (1 + FIXED_OCTETS) + extent.owner_octets + extent.data_octets + signed
}

fn pack(into: &mut Vec<u8>, set: &Set<'_>, data: &[u8]) {
    into.push(u8::try_from(set.owner.len()).expect("a name has at most 255 octets"));
    into.extend_from_slice(&set.owner);
    into.extend(set.rtype.0.to_be_bytes());
    into.extend(set.ttl.to_be_bytes());
    let length = u16::try_from(data.len()).expect("data has at most 65,535 octets");
    into.extend(length.to_be_bytes());
    into.extend(data);
}

fn pack_all(into: &mut Vec<u8>, set: Option<&Set<'_>>) {
    if let Some(set) = set {
        set.data.iter().for_each(|data| pack(into, set, data));
    }
}

fn pack_soa(into: &mut Vec<u8>, tree: &Tree) {
    let set = tree.set(APEX, Rtype::SOA).expect("a tree has an SOA");
    pack_all(into, Some(&as_set(set)));
}

/// What differs between two trees but for the SOA, before it is signed.
struct Changes<'a> {
    removed: Side<'a>,
    added: Side<'a>,
    /// Octets that may still come.
    left: usize,
}

/// What only one of the trees has.
struct Side<'a> {
    tree: &'a Tree,
    /// Its records without signatures.
    packed: Vec<u8>,
    /// Sets whose signatures belong to a place of `packed`, in the order of the places.
    unsigned: Vec<(usize, Set<'a>)>,
}

impl<'a> Side<'a> {
    fn new(tree: &'a Tree) -> Self {
        Self {
            tree,
            packed: Vec::new(),
            unsigned: Vec::new(),
        }
    }

    fn pack(&mut self, left: &mut usize, set: &Set<'_>, data: &[u8]) -> Option<()> {
        *left = left.checked_sub(1 + set.owner.len() + FIXED_OCTETS + data.len())?;
        pack(&mut self.packed, set, data);
        Some(())
    }

    fn pack_all(&mut self, left: &mut usize, set: Option<&Set<'_>>) -> Option<()> {
        let mut records = set.into_iter().flat_map(|set| {
            let data = set.data.iter();
            data.map(move |data| (set, &**data))
        });
        records.try_for_each(|(set, data)| self.pack(left, set, data))
    }

    /// Has room for the signatures of a set, when it is signed.
    fn leave_room(&mut self, left: &mut usize, set: Option<(Set<'a>, bool)>) -> Option<()> {
        if let Some((set, true)) = set {
            let (records, octets) = signature_octets(self.tree, &set);
            let record = 1 + set.owner.len() + FIXED_OCTETS + octets;
            *left = left.checked_sub(records * record)?;
            self.unsigned.push((self.packed.len(), set));
        }
        Some(())
    }

    /// All its records.
    fn sign(self) -> Vec<u8> {
        let mut whole = Vec::new();
        let mut done = 0;
        for (place, set) in self.unsigned {
            whole.extend_from_slice(&self.packed[done..place]);
            pack_all(&mut whole, signatures(self.tree, &set).as_ref());
            done = place;
        }
        whole.extend_from_slice(&self.packed[done..]);
        whole
    }
}

impl<'a> Changes<'a> {
    /// What differs, name by name; none as soon as it is too much.
    fn compare(&mut self) -> Option<()> {
        let (old, new) = (self.removed.tree, self.added.tree);
        let live = || old.live_nodes().chain(new.live_nodes());
        if old.same_records(new) && same_chain(old, new, live()) {
            let nodes: BTreeSet<NodeId> = live().collect();
            let mut nodes = nodes.into_iter().map(Some);
            nodes.try_for_each(|node| self.compare_sets(sets(old, node), sets(new, node)))
        } else {
            self.compare_all(old, new)
        }
    }

    /// Goes over both zones side by side.
    fn compare_all(&mut self, old: &'a Tree, new: &'a Tree) -> Option<()> {
        let (mut olds, mut news) = (old.nodes().peekable(), new.nodes().peekable());
        loop {
            let order = match (olds.peek(), news.peek()) {
                (None, None) => return Some(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(&ours), Some(&theirs)) => order(old.name(ours), new.name(theirs)),
            };
            let before = olds.next_if(|_| order.is_le());
            let after = news.next_if(|_| order.is_ge());
            let same_case = before
                .zip(after)
                .is_none_or(|(ours, theirs)| old.name(ours) == new.name(theirs));
            let both = before.zip(after).filter(|_| new.signer().is_none());
            if both.is_some_and(|(ours, theirs)| same_case && same_sets(old, ours, new, theirs)) {
                continue;
            }
            if same_case {
                self.compare_sets(sets(old, before), sets(new, after))?;
            } else {
                // All records of a name that is written in another case are other records.
                self.compare_sets(sets(old, before), Vec::new())?;
                self.compare_sets(Vec::new(), sets(new, after))?;
            }
        }
    }

    /// Sets of one name, in the order of their types.
    fn compare_sets(&mut self, olds: Sets<'a>, news: Sets<'a>) -> Option<()> {
        let (mut olds, mut news) = (olds.into_iter().peekable(), news.into_iter().peekable());
        loop {
            let order = match (olds.peek(), news.peek()) {
                (None, None) => return Some(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(ours), Some(theirs)) => ours.0.rtype.cmp(&theirs.0.rtype),
            };
            let before = olds.next_if(|_| order.is_le());
            let after = news.next_if(|_| order.is_ge());
            if before == after {
                continue;
            }
            let left = &mut self.left;
            let [ours, theirs] = [&before, &after].map(|set| set.as_ref().map(|(set, _)| set));
            match (ours, theirs) {
                // It has its own places.
                (Some(set), _) | (_, Some(set)) if set.rtype == Rtype::SOA => {}
                (Some(ours), Some(theirs)) if ours.ttl == theirs.ttl => {
                    self.compare_records(ours, theirs)?;
                }
                (ours, theirs) => {
                    self.removed.pack_all(left, ours)?;
                    self.added.pack_all(left, theirs)?;
                }
            }
            // The signatures of a set that is another one are others.
            self.removed.leave_room(&mut self.left, before)?;
            self.added.leave_room(&mut self.left, after)?;
        }
    }

    /// Records of two sets, in canonical order.
    fn compare_records(&mut self, old: &Set<'_>, new: &Set<'_>) -> Option<()> {
        let (mut olds, mut news) = (old.data.iter().peekable(), new.data.iter().peekable());
        loop {
            let order = match (olds.peek(), news.peek()) {
                (None, None) => return Some(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(ours), Some(theirs)) if ours == theirs => {
                    olds.next();
                    news.next();
                    continue;
                }
                (Some(ours), Some(theirs)) => compare_data(old.rtype, ours, theirs),
            };
            if let Some(data) = olds.next_if(|_| order.is_le()) {
                self.removed.pack(&mut self.left, old, data)?;
            }
            if let Some(data) = news.next_if(|_| order.is_ge()) {
                self.added.pack(&mut self.left, new, data)?;
            }
        }
    }
}

/// The canonical order of two names (RFC 4034 6.1); most often they are the same.
fn order(ours: &[u8], theirs: &[u8]) -> Ordering {
    if ours == theirs {
        return Ordering::Equal;
    }
    let name = |wire| Name::from_wire(wire).expect("a tree has whole names").0;
    name(ours).cmp(&name(theirs))
}

/// Whether no NSEC leads to another name: a name that has records for the first time, or none any
/// more, changes that of the one before, which need not be among these.
fn same_chain(old: &Tree, new: &Tree, mut nodes: impl Iterator<Item = NodeId>) -> bool {
    let has_sets = |tree: &Tree, node| tree.sets(node).next().is_some();
    new.signer().is_none() || nodes.all(|node| has_sets(old, node) == has_sets(new, node))
}

/// Whether two names have the same records: nearly all do.
fn same_sets(old: &Tree, ours: NodeId, new: &Tree, theirs: NodeId) -> bool {
    let (mut olds, mut news) = (old.sets(ours), new.sets(theirs));
    loop {
        match (olds.next(), news.next()) {
            (None, None) => return true,
            (Some(ours), Some(theirs))
                if (ours.rtype, ours.ttl) == (theirs.rtype, theirs.ttl)
                    && ours.data.clone().eq(theirs.data.clone()) => {}
            _ => return false,
        }
    }
}

/// Sets, each with whether it is signed.
type Sets<'a> = Vec<(Set<'a>, bool)>;

fn sets(tree: &Tree, node: Option<NodeId>) -> Sets<'_> {
    let mut sets = node.map_or_else(Vec::new, |node| chained_sets(tree, node));
    sets.sort_by_key(|(set, _)| set.rtype);
    sets
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use cfgdns_sign::{Algorithm, PrivateKey, Role, Signer, Signing, Time, Validity, ZoneKey};
    use cfgdns_zone::{Rdata, Zone};

    use super::*;
    use crate::tree::LiveSet;

    fn address(at: &str, last: u8) -> LiveSet {
        LiveSet {
            name: at.parse().expect("a name"),
            rtype: Rtype::A,
            ttl: 5,
            data: vec![Rdata::from_wire(Rtype::A, &[192, 0, 2, last]).expect("four octets")],
            weights: Vec::new(),
        }
    }

    /// A zone with so many names.
    fn zone(serial: u32, names: u32) -> Zone {
        let origin: Name = "z.".parse().expect("a name");
        let mut zone = Zone::new(origin.clone());
        let soa = format!("ns. root. {serial} 2 3 4 5");
        let soa = Rdata::parse(Rtype::SOA, &soa, None).expect("an SOA");
        zone.insert(&origin, Rtype::SOA, 60, soa)
            .expect("in the zone");
        for number in 0..names {
            let owner = format!("n{number}.z.").parse().expect("a name");
            let text = Rdata::parse(Rtype::TXT, &format!("t{number}"), None).expect("a text");
            zone.insert(&owner, Rtype::TXT, 60, text)
                .expect("in the zone");
        }
        zone
    }

    /// Of two keys that sign all and one that signs nothing yet, so that counts differ by type.
    fn signed(tree: &Tree) -> Tree {
        let roles = [
            (Role::KeySigning, true),
            (Role::Both, true),
            (Role::Both, false),
        ];
        let keys = [1, 2, 3].map(|octet| {
            let key = PrivateKey::from_secret(Algorithm::Ed25519, &[octet; 32]);
            Arc::new(key.expect("any octets are a secret"))
        });
        let zone_keys = keys.iter().zip(roles).map(|(key, (role, signs))| ZoneKey {
            dnskey: key.dnskey(role.is_secure_entry()),
            role,
            signs,
        });
        let validity = Validity::new(Time(0), Time(86_400)).expect("a day");
        let signing = Signing::new(zone_keys.collect(), validity).expect("keys that sign");
        let keys = keys.into_iter().collect();
        let signer = Signer::new(tree.origin(), Arc::new(signing), &keys).expect("all keys");
        tree.signed(Arc::new(signer)).expect("its signer")
    }

    /// The octets of signatures are known before they are made, to the last one: a step that is too
    /// long by one octet is given up, and one that is not is made.
    #[test]
    fn step_that_is_too_long_is_given_up_before_it_is_signed() {
        let build = |serial, names| Tree::build(&zone(serial, names)).expect("it has an SOA");
        let pairs = [
            (build(1, 5), build(2, 40)),
            (signed(&build(1, 5)), signed(&build(2, 40))),
            (signed(&build(1, 40)), signed(&build(2, 5))),
        ];
        for (old, new) in pairs {
            let whole = Step::between(&old, &new, usize::MAX).expect("of any length");
            let mut soas = Vec::new();
            pack_soa(&mut soas, &old);
            pack_soa(&mut soas, &new);
            let changes = whole.octets() - soas.len();
            assert_eq!(Step::between(&old, &new, changes - 1), None);
            assert_eq!(Step::between(&old, &new, changes), Some(whole));
            // What was put aside until then is bounded too.
            let mut given_up = Changes {
                removed: Side::new(&old),
                added: Side::new(&new),
                left: changes / 4,
            };
            assert_eq!(given_up.compare(), None);
            let packed = given_up.removed.packed.len() + given_up.added.packed.len();
            let unsigned = given_up.removed.unsigned.len() + given_up.added.unsigned.len();
            assert!(packed <= changes / 4 && unsigned * 100 <= changes / 4);
        }
    }

    /// A key that signs the keys alone is among those of a DNSKEY set that goes.
    #[test]
    fn signatures_of_keys_are_counted_by_those_that_sign_keys() {
        let mut zone = zone(1, 1);
        let origin = zone.origin().clone();
        for (rtype, text) in [(Rtype::CDS, "0 0 0 00"), (Rtype::CDNSKEY, "0 3 0 AA==")] {
            let data = Rdata::parse(rtype, text, None).expect(text);
            zone.insert(&origin, rtype, 60, data).expect("in the zone");
        }
        let tree = signed(&Tree::build(&zone).expect("it has an SOA"));
        for set in tree.sets(APEX).map(as_set) {
            let made = signatures(&tree, &set).expect("it is signed");
            let octets = made.data.iter().map(|data| data.len());
            let (count, each) = signature_octets(&tree, &set);
            assert_eq!(
                vec![each; count],
                octets.collect::<Vec<_>>(),
                "{}",
                set.rtype
            );
        }
    }

    /// What is counted once is what a walk over the zone finds, whichever sets stand for others.
    #[test]
    fn octets_of_a_zone_are_those_of_its_records() {
        let walked = |tree: &Tree| -> usize {
            let sets = tree.nodes().flat_map(|node| tree.sets(node));
            let octets = sets.flat_map(|set| {
                let owner = set.owner.len();
                set.data
                    .map(move |data| 1 + owner + FIXED_OCTETS + data.len())
            });
            octets.sum()
        };
        let names = ["a.z.", "n1.z."].map(|name| name.parse().expect("a name"));
        let packed = Tree::build_with(&zone(1, 3), &BTreeSet::from(names));
        let packed = packed.expect("it has an SOA");
        let text = LiveSet {
            rtype: Rtype::TXT,
            data: vec![Rdata::parse(Rtype::TXT, "of another length", None).expect("a text")],
            ..address("n1.z.", 0)
        };
        let nothing = LiveSet {
            data: Vec::new(),
            ..text.clone()
        };
        assert_eq!(octets_of(&packed), walked(&packed));
        for sets in [
            vec![address("a.z.", 1)],
            vec![address("n1.z.", 1), text],
            vec![nothing],
        ] {
            let tree = packed.with(70_000, sets).expect("there is a place");
            assert_eq!(octets_of(&tree), walked(&tree));
            let extent = signed(&tree).extent();
            let dnskeys = 3 * 36;
            assert_eq!(extent.data_octets, tree.extent().data_octets + dnskeys);
            assert_eq!(extent.records, tree.extent().records + 3);
        }
    }

    #[test]
    fn step_of_live_sets_is_that_of_all_names() {
        let zone = zone(1, 0);
        let names = ["a.z.", "b.z.", "c.z."].map(|name| name.parse().expect("a name"));
        let names = BTreeSet::from(names);
        let tree = |serial, sets: &[LiveSet]| {
            let packed = Tree::build_with(&zone, &names).expect("it has an SOA");
            packed
                .with(serial, sets.iter().cloned())
                .expect("there is a place")
        };
        let none = LiveSet {
            data: Vec::new(),
            ..address("b.z.", 0)
        };
        let before = tree(7, &[address("a.z.", 1), address("b.z.", 2)]);
        for sets in [
            vec![address("a.z.", 9), none, address("c.z.", 3)],
            vec![address("b.z.", 2)],
            Vec::new(),
        ] {
            let renewed = before.with(8, sets.clone()).expect("there is a place");
            assert!(renewed.same_records(&before));
            let packed_anew = tree(8, &sets);
            assert!(!packed_anew.same_records(&before));
            let step = Step::between(&before, &renewed, usize::MAX);
            assert!(step.is_some());
            assert_eq!(step, Step::between(&before, &packed_anew, usize::MAX));
        }
    }
}
