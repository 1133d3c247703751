//! The records of a zone: every name from the origin down, packed, and never changed.
//!
//! ```text
//! nodes   [ origin │ a │ *.a │ b (empty) │ c.b ... ]     in canonical order
//!            │ └ parent, name, first set, flags
//! names   [ 7example0 1a7example0 ... ]                  wire names
//! sets    [ SOA NS │ A │ TXT │ │ MX ... ]                those of a node in a row
//! data    [ length, octets │ length, octets │ ... ]      records of a set in a row
//! index   (parent, label) ─► node
//! ```
//!
//! A change of a record packs its zone anew; other zones keep theirs. Packing makes that cheap:
//! five allocations for a zone of any size, and some seventy octets for a name with an address.
//!
//! Invariants
//! - node 0 is the origin and has an SOA record;
//! - a node says whether sets of `tree` can stand in the place of its own;
//! - the parent of every other node is a node before it: names without records that have something
//!   below them are nodes without sets (RFC 4592 2.2.2).

use std::collections::BTreeSet;

use cfgdns_zone::{LABELS_MAX, Name, Rdata, RrSet, Rtype, Zone};

use crate::index::{Index, hash_label};
use crate::tree::{APEX, BuildError, Lookup, NodeId, SetView, StoredData};

/// Other names are delegated here.
const CUT: u16 = 1;
/// Everything below is an alias.
const DNAME: u16 = 2;
/// Sets of the tree may stand in the place of those here.
const LIVE: u16 = 4;

#[derive(Debug, Clone, Copy)]
struct Node {
    /// Where its name begins in `names`.
    name: u32,
    /// The node above; its own number for the origin.
    parent: u32,
    /// Its first set.
    sets: u32,
    /// How many sets it has: there are 65,535 types.
    set_count: u16,
    flags: u16,
}

/// A set of a node; its data are somewhere else.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Set {
    /// Where its first record begins in the data.
    pub(crate) data: u32,
    pub(crate) ttl: u32,
    pub(crate) rtype: Rtype,
    /// How many records it has.
    pub(crate) count: u16,
}

impl Set {
    /// With its name and data.
    pub(crate) fn view<'a>(&self, owner: &'a [u8], data: &'a [u8]) -> SetView<'a> {
        SetView {
            owner,
            rtype: self.rtype,
            ttl: self.ttl,
            data: StoredData::new(&data[at(self.data)..], self.count),
            weights: &[],
        }
    }
}

/// How much some records are, counted once, so that nobody need walk over them to know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) records: usize,
    /// Octets of their names: of each as often as it has records.
    pub(crate) owner_octets: usize,
    pub(crate) data_octets: usize,
}

impl Extent {
    /// Of one set.
    pub(crate) fn of(set: SetView<'_>) -> Self {
        let records = set.data.len();
        Self {
            records,
            owner_octets: records * set.owner.len(),
            data_octets: set.data.map(<[u8]>::len).sum(),
        }
    }

    pub(crate) fn add(&mut self, more: Self) {
        self.records += more.records;
        self.owner_octets += more.owner_octets;
        self.data_octets += more.data_octets;
    }

    pub(crate) fn remove(&mut self, part: Self) {
        self.records -= part.records;
        self.owner_octets -= part.owner_octets;
        self.data_octets -= part.data_octets;
    }
}

/// Immutable records of a zone.
#[derive(Debug)]
pub(crate) struct Packed {
    origin: Name,
    origin_labels: usize,
    names: Box<[u8]>,
    nodes: Box<[Node]>,
    sets: Box<[Set]>,
    data: Box<[u8]>,
    index: Index,
    extent: Extent,
}

fn at(place: u32) -> usize {
    usize::try_from(place).expect("32 bits fit")
}

impl Packed {
    /// Packs a zone; the names in `live` exist too, and sets of the tree may be theirs.
    pub(crate) fn build(zone: &Zone, live: &BTreeSet<Name>) -> Result<Self, BuildError> {
        let origin = zone.origin();
        let mut builder = Builder::default();
        builder
            .fill(zone, live)
            .ok_or_else(|| BuildError::TooLarge(origin.clone()))?;
        let Builder {
            names,
            nodes,
            sets,
            data,
            extent,
        } = builder;
        let count = u32::try_from(nodes.len()).expect("the builder counted them");
        let index = Index::new(count, |node| {
            let Node { name, parent, .. } = nodes[at(node)];
            hash_label(u64::from(parent), label_at(&names, name))
        });
        Ok(Self {
            origin: origin.clone(),
            origin_labels: origin.label_count(),
            names: names.into(),
            nodes: nodes.into(),
            sets: sets.into(),
            data: data.into(),
            index,
            extent,
        })
    }

    /// The name of the zone.
    pub(crate) fn origin(&self) -> &Name {
        &self.origin
    }

    /// How much its records are.
    pub(crate) fn extent(&self) -> Extent {
        self.extent
    }

    /// How many names there are, also those without records.
    pub(crate) fn name_count(&self) -> usize {
        self.nodes.len()
    }

    /// Octets that the tree takes, beside its origin.
    pub(crate) fn octets(&self) -> usize {
        size_of_val(&*self.names)
            + size_of_val(&*self.nodes)
            + size_of_val(&*self.sets)
            + size_of_val(&*self.data)
            + self.index.octets()
    }

    /// Goes from the origin down to the name (RFC 1034 4.3.2 step 3); with `stop`, no further than
    /// where something decides. None when the name is outside the zone.
    pub(crate) fn walk(&self, name: &Name, stop: bool) -> Option<Lookup> {
        if !name.is_at_or_below(&self.origin) {
            return None;
        }
        let (offsets, count): ([u8; LABELS_MAX + 1], usize) = name.label_offsets();
        let wire = name.as_wire();
        let mut current = APEX;
        for label in (0..count - self.origin_labels).rev() {
            let flags = self.nodes[at(current.0)].flags;
            if stop && flags & CUT != 0 {
                let (node, exact) = (current, false);
                return Some(Lookup::Cut { node, exact });
            }
            if stop && flags & DNAME != 0 {
                return Some(Lookup::Dname(current));
            }
            let start = usize::from(offsets[label]);
            let label = &wire[start + 1..start + 1 + usize::from(wire[start])];
            match self.child(current, label) {
                Some(child) => current = child,
                None => return Some(Lookup::Missing(current)),
            }
        }
        if stop && self.nodes[at(current.0)].flags & CUT != 0 {
            let (node, exact) = (current, true);
            return Some(Lookup::Cut { node, exact });
        }
        Some(Lookup::Found(current))
    }

    /// The node of a name, also when it is delegated to others: glue is there.
    pub(crate) fn node(&self, name: &Name) -> Option<NodeId> {
        match self.walk(name, false)? {
            Lookup::Found(node) => Some(node),
            Lookup::Cut { .. } | Lookup::Dname(_) | Lookup::Missing(_) => None,
        }
    }

    /// The name that is a node's own with one more label.
    pub(crate) fn child(&self, parent: NodeId, label: &[u8]) -> Option<NodeId> {
        let found = self
            .index
            .find(hash_label(u64::from(parent.0), label), |node| {
                let Node {
                    name,
                    parent: above,
                    ..
                } = self.nodes[at(node)];
                above == parent.0
                    && node != 0
                    && label_at(&self.names, name).eq_ignore_ascii_case(label)
            });
        found.map(NodeId)
    }

    /// The name of a node in wire form, in the case that it was written in.
    pub(crate) fn name(&self, node: NodeId) -> &[u8] {
        let start = at(self.nodes[at(node.0)].name);
        let mut end = start;
        while self.names[end] > 0 {
            end += usize::from(self.names[end]) + 1;
        }
        &self.names[start..=end]
    }

    /// Whether sets of the tree may stand in the place of those of this node.
    pub(crate) fn is_live(&self, node: NodeId) -> bool {
        self.nodes[at(node.0)].flags & LIVE != 0
    }

    /// The sets of a node, in the order of their types.
    pub(crate) fn sets(&self, node: NodeId) -> impl Iterator<Item = SetView<'_>> {
        let owner = self.name(node);
        self.packed_sets(node)
            .iter()
            .map(move |set| set.view(owner, &self.data))
    }

    /// The set of a type.
    pub(crate) fn set(&self, node: NodeId, rtype: Rtype) -> Option<SetView<'_>> {
        let mut sets = self.packed_sets(node).iter();
        let set = sets.find(|set| set.rtype == rtype)?;
        Some(set.view(self.name(node), &self.data))
    }

    fn packed_sets(&self, node: NodeId) -> &[Set] {
        let found = self.nodes[at(node.0)];
        let first = at(found.sets);
        &self.sets[first..first + usize::from(found.set_count)]
    }
}

/// The label that a wire name in `names` begins with.
fn label_at(names: &[u8], start: u32) -> &[u8] {
    let start = at(start);
    &names[start + 1..start + 1 + usize::from(names[start])]
}

/// Appends the data of a set, each with its length.
pub(crate) fn push_data(to: &mut Vec<u8>, data: &[Rdata]) -> Option<()> {
    for data in data {
        let wire = data.as_wire();
        to.extend(u16::try_from(wire.len()).ok()?.to_be_bytes());
        to.extend_from_slice(wire);
    }
    Some(())
}

#[derive(Default)]
struct Builder {
    names: Vec<u8>,
    nodes: Vec<Node>,
    sets: Vec<Set>,
    data: Vec<u8>,
    extent: Extent,
}

impl Builder {
    /// Takes all names; none when there is more than can be counted.
    fn fill(&mut self, zone: &Zone, live: &BTreeSet<Name>) -> Option<()> {
        let origin = zone.origin();
        let mut live = live.iter().peekable();
        let mut path = Vec::new();
        for (name, node) in zone.nodes() {
            while let Some(empty) = live.next_if(|live| *live < name) {
                self.descend(&mut path, empty, (&[], LIVE), origin)?;
            }
            let flags = match live.next_if(|live| *live == name) {
                Some(_) => LIVE,
                None => 0,
            };
            self.descend(&mut path, name, (node.sets(), flags), origin)?;
        }
        for empty in live {
            self.descend(&mut path, empty, (&[], LIVE), origin)?;
        }
        Some(())
    }

    /// Takes a name, and those between it and what is known above, which have no records.
    ///
    /// `path` has the nodes from the origin to the last name: canonical order is that of a walk
    /// over the tree.
    fn descend(
        &mut self,
        path: &mut Vec<(u32, Name)>,
        name: &Name,
        (sets, flags): (&[RrSet], u16),
        origin: &Name,
    ) -> Option<()> {
        while path.last().is_some_and(|(_, above)| !name.is_below(above)) {
            path.pop();
        }
        let mut between = Vec::new();
        let mut above = name.parent();
        while let Some(next) = above {
            let known = path.last().is_some_and(|(_, known)| *known == next);
            if known || !next.is_at_or_below(origin) {
                break;
            }
            above = next.parent();
            between.push(next);
        }
        for empty in between.into_iter().rev() {
            self.push(path, empty, (&[], 0), origin)?;
        }
        self.push(path, name.clone(), (sets, flags), origin)
    }

    fn push(
        &mut self,
        path: &mut Vec<(u32, Name)>,
        name: Name,
        (sets, mut flags): (&[RrSet], u16),
        origin: &Name,
    ) -> Option<()> {
        let number = u32::try_from(self.nodes.len())
            .ok()
            .filter(|n| *n < u32::MAX)?;
        let parent = path.last().map_or(number, |(parent, _)| *parent);
        let has = |rtype| sets.iter().any(|set| set.rtype() == rtype);
        if name == *origin {
            // The serial is the tree's.
            flags |= LIVE;
        } else if has(Rtype::NS) {
            flags |= CUT;
        }
        if has(Rtype::DNAME) {
            flags |= DNAME;
        }
        self.nodes.push(Node {
            name: u32::try_from(self.names.len()).ok()?,
            parent,
            sets: u32::try_from(self.sets.len()).ok()?,
            set_count: u16::try_from(sets.len()).ok()?,
            flags,
        });
        self.names.extend_from_slice(name.as_wire());
        for set in sets {
            self.sets.push(Set {
                data: u32::try_from(self.data.len()).ok()?,
                ttl: set.ttl(),
                rtype: set.rtype(),
                count: u16::try_from(set.data().len()).ok()?,
            });
            let before = self.data.len();
            push_data(&mut self.data, set.data())?;
            let records = set.data().len();
            self.extent.add(Extent {
                records,
                owner_octets: records * name.as_wire().len(),
                // Without the length of each.
                data_octets: self.data.len() - before - 2 * records,
            });
        }
        path.push((number, name));
        Some(())
    }
}
