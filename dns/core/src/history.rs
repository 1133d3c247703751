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
//!   zone would be sent (RFC 1995 5).

use core::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

use cfgdns_sign::Set;
use cfgdns_zone::{Name, Rtype, compare_data};

use crate::serial::is_before;
use crate::tree::{APEX, NodeId, Tree};
use crate::whole::{as_set, chained_sets, signatures, signed_alike, signed_octets};

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
    fn between(old: &Tree, new: &Tree) -> Self {
        let mut changes = Changes::default();
        changes.compare(old, new);
        let mut packed = Vec::new();
        pack_soa(&mut packed, old);
        packed.extend(changes.removed);
        pack_soa(&mut packed, new);
        packed.extend(changes.added);
        Self {
            from: old.soa().serial,
            to: new.soa().serial,
            packed: packed.into(),
        }
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
        let step = Step::between(old, new);
        if from == to && step.is_nothing() {
            return self.clone();
        }
        let octets_max = HISTORY_OCTETS_MAX.min(2 * new.octets());
        let mut octets = step.octets();
        if !is_before(from, to) || octets > octets_max || old.origin() != new.origin() {
            // There is no way from the old content to the new one, or it is too long.
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

/// Whether a zone has more octets than so many, as steps are counted; the work is not more.
pub(crate) fn is_larger(zone: &Tree, octets: usize) -> bool {
    let mut left = octets;
    for node in zone.nodes() {
        for set in zone.sets(node) {
            for data in set.data {
                let record = 1 + set.owner.len() + FIXED_OCTETS + data.len();
                let record = record + signed_octets(zone, set.owner);
                match left.checked_sub(record) {
                    Some(less) => left = less,
                    None => return true,
                }
            }
        }
    }
    false
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

/// Packed records, without the SOA.
#[derive(Default)]
struct Changes {
    removed: Vec<u8>,
    added: Vec<u8>,
}

impl Changes {
    /// What differs, name by name.
    fn compare(&mut self, old: &Tree, new: &Tree) {
        let live = || old.live_nodes().chain(new.live_nodes());
        if old.same_records(new) && same_chain(old, new, live()) {
            let nodes: BTreeSet<NodeId> = live().collect();
            for node in nodes {
                self.compare_sets((old, sets(old, Some(node))), (new, sets(new, Some(node))));
            }
        } else {
            self.compare_all(old, new);
        }
    }

    /// Goes over both zones side by side.
    fn compare_all(&mut self, old: &Tree, new: &Tree) {
        let (mut olds, mut news) = (old.nodes().peekable(), new.nodes().peekable());
        loop {
            let order = match (olds.peek(), news.peek()) {
                (None, None) => return,
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
                self.compare_sets((old, sets(old, before)), (new, sets(new, after)));
            } else {
                // All records of a name that is written in another case are other records.
                self.compare_sets((old, sets(old, before)), (new, Vec::new()));
                self.compare_sets((old, Vec::new()), (new, sets(new, after)));
            }
        }
    }

    /// Sets of one name, in the order of their types.
    fn compare_sets(&mut self, (old, olds): (&Tree, Sets<'_>), (new, news): (&Tree, Sets<'_>)) {
        let (mut olds, mut news) = (olds.into_iter().peekable(), news.into_iter().peekable());
        loop {
            let order = match (olds.peek(), news.peek()) {
                (None, None) => return,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(ours), Some(theirs)) => ours.0.rtype.cmp(&theirs.0.rtype),
            };
            let before = olds.next_if(|_| order.is_le());
            let after = news.next_if(|_| order.is_ge());
            if before == after {
                continue;
            }
            let sets = (before.as_ref(), after.as_ref());
            match (sets.0.map(|(set, _)| set), sets.1.map(|(set, _)| set)) {
                // It has its own places.
                (Some(set), _) | (_, Some(set)) if set.rtype == Rtype::SOA => {}
                (Some(before), Some(after)) if before.ttl == after.ttl => {
                    self.compare_records(before, after);
                }
                (before, after) => {
                    pack_all(&mut self.removed, before);
                    pack_all(&mut self.added, after);
                }
            }
            // The signatures of a set that is another one are others.
            pack_all(&mut self.removed, signatures_of(old, sets.0).as_ref());
            pack_all(&mut self.added, signatures_of(new, sets.1).as_ref());
        }
    }

    /// Records of two sets, in canonical order.
    fn compare_records(&mut self, old: &Set<'_>, new: &Set<'_>) {
        let (mut olds, mut news) = (old.data.iter().peekable(), new.data.iter().peekable());
        loop {
            let order = match (olds.peek(), news.peek()) {
                (None, None) => return,
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
                pack(&mut self.removed, old, data);
            }
            if let Some(data) = news.next_if(|_| order.is_ge()) {
                pack(&mut self.added, new, data);
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

fn signatures_of<'a>(tree: &Tree, set: Option<&(Set<'a>, bool)>) -> Option<Set<'a>> {
    let (set, signed) = set?;
    signatures(tree, set).filter(|_| *signed)
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

    #[test]
    fn step_of_live_sets_is_that_of_all_names() {
        let origin: Name = "z.".parse().expect("a name");
        let mut zone = Zone::new(origin.clone());
        let soa = Rdata::parse(Rtype::SOA, "ns. root. 1 2 3 4 5", None).expect("an SOA");
        zone.insert(&origin, Rtype::SOA, 60, soa)
            .expect("in the zone");
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
            let step = Step::between(&before, &renewed);
            assert_eq!(step, Step::between(&before, &packed_anew));
        }
    }
}
