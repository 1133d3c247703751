//! A zone as it is asked: every name from the origin down, packed, and never changed.
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
//! A change of a zone builds its tree anew; other zones keep theirs. Packing makes that cheap: five
//! allocations for a zone of any size, and some seventy octets for a name with an address.
//!
//! Invariants
//! - node 0 is the origin and has an SOA record;
//! - the parent of every other node is a node before it: names without records that have something
//!   below them are nodes without sets (RFC 4592 2.2.2).

use cfgdns_zone::{LABELS_MAX, Name, RrSet, Rtype, Soa, Zone};

use crate::history::History;
use crate::index::{Index, hash_label};

/// A name of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeId(u32);

/// The origin.
pub(crate) const APEX: NodeId = NodeId(0);

/// Other names are delegated here.
const CUT: u16 = 1;
/// Everything below is an alias.
const DNAME: u16 = 2;

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

#[derive(Debug, Clone, Copy)]
struct Set {
    /// Where its first record begins in `data`.
    data: u32,
    ttl: u32,
    rtype: Rtype,
    /// How many records it has.
    count: u16,
}

/// An immutable zone.
#[derive(Debug, Clone)]
pub struct Tree {
    origin: Name,
    origin_labels: usize,
    soa: Soa,
    names: Box<[u8]>,
    nodes: Box<[Node]>,
    sets: Box<[Set]>,
    data: Box<[u8]>,
    index: Index,
    history: History,
}

/// Why a zone cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// It has no start of authority, which every answer about nothing needs.
    #[error("the zone {0} has no SOA record")]
    NoSoa(Name),
    /// It has more than the tree can count.
    #[error("the zone {0} is too large: 4 GiB of names or data, or 65535 records of a set")]
    TooLarge(Name),
}

/// Where the search for a name ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// The name exists and is served from this zone; it may have no records.
    Found(NodeId),
    /// The name, or one above it, is delegated to others.
    Cut {
        /// The delegated name.
        node: NodeId,
        /// Whether that is the name itself.
        exact: bool,
    },
    /// A name above has a DNAME.
    Dname(NodeId),
    /// The name does not exist; this is the last above it that does (RFC 4592 3.3.1).
    Missing(NodeId),
}

/// A set of records in a tree.
#[derive(Debug, Clone)]
pub struct SetView<'a> {
    /// Its name in wire form.
    pub owner: &'a [u8],
    /// Its type.
    pub rtype: Rtype,
    /// Its TTL.
    pub ttl: u32,
    /// Its records.
    pub data: StoredData<'a>,
}

/// The data of the records of a set, in wire form and canonical order.
#[derive(Debug, Clone, Default)]
pub struct StoredData<'a> {
    bytes: &'a [u8],
    left: u16,
}

impl<'a> Iterator for StoredData<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        let (length, rest) = self.bytes.split_first_chunk::<2>()?;
        let (data, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        self.bytes = rest;
        Some(data)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for StoredData<'_> {}

fn at(place: u32) -> usize {
    usize::try_from(place).expect("32 bits fit")
}

impl Tree {
    /// Packs a zone. That it obeys the rules of a zone is for whoever wrote it to check.
    pub fn build(zone: &Zone) -> Result<Self, BuildError> {
        let origin = zone.origin();
        let soa = zone
            .soa()
            .ok_or_else(|| BuildError::NoSoa(origin.clone()))?;
        let mut builder = Builder::default();
        builder
            .fill(zone)
            .ok_or_else(|| BuildError::TooLarge(origin.clone()))?;
        let Builder {
            names,
            nodes,
            sets,
            data,
        } = builder;
        let count = u32::try_from(nodes.len()).expect("the builder counted them");
        let index = Index::new(count, |node| {
            let Node { name, parent, .. } = nodes[at(node)];
            hash_label(u64::from(parent), label_at(&names, name))
        });
        Ok(Self {
            origin: origin.clone(),
            origin_labels: origin.label_count(),
            soa,
            names: names.into(),
            nodes: nodes.into(),
            sets: sets.into(),
            data: data.into(),
            index,
            history: History::default(),
        })
    }

    /// The same tree as the successor of another: it knows what has changed since then, and before.
    #[must_use]
    pub fn following(mut self, old: &Self) -> Self {
        self.history = old.history.next(old, &self);
        self
    }

    /// What has changed before.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The name of the zone.
    pub fn origin(&self) -> &Name {
        &self.origin
    }

    /// The start of authority.
    pub fn soa(&self) -> &Soa {
        &self.soa
    }

    /// How many names there are, also those without records.
    pub fn name_count(&self) -> usize {
        self.nodes.len()
    }

    /// Octets that the tree takes, beside its origin and its history.
    pub fn octets(&self) -> usize {
        size_of_val(&*self.names)
            + size_of_val(&*self.nodes)
            + size_of_val(&*self.sets)
            + size_of_val(&*self.data)
            + self.index.octets()
    }

    /// Goes from the origin down to the name, as RFC 1034 4.3.2 step 3 does, and stops where
    /// something decides.
    pub fn lookup(&self, name: &Name) -> Option<Lookup> {
        self.walk(name, true)
    }

    /// The node of a name, also when it is delegated to others: glue is there.
    pub fn node(&self, name: &Name) -> Option<NodeId> {
        match self.walk(name, false)? {
            Lookup::Found(node) => Some(node),
            Lookup::Cut { .. } | Lookup::Dname(_) | Lookup::Missing(_) => None,
        }
    }

    /// None when the name is outside the zone.
    fn walk(&self, name: &Name, stop: bool) -> Option<Lookup> {
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

    /// The name that is a node's own with one more label.
    pub fn child(&self, parent: NodeId, label: &[u8]) -> Option<NodeId> {
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

    /// All names in canonical order (RFC 4034 6.1), the origin first; also those without records.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.nodes_from(APEX)
    }

    /// The names from this one on, in canonical order, for who sends them one part after the other.
    pub fn nodes_from(&self, first: NodeId) -> impl Iterator<Item = NodeId> {
        let count = u32::try_from(self.nodes.len()).expect("the builder counted them");
        (first.0..count).map(NodeId)
    }

    /// The name of a node in wire form, in the case that it was written in.
    pub fn name(&self, node: NodeId) -> &[u8] {
        let start = at(self.nodes[at(node.0)].name);
        let mut end = start;
        while self.names[end] > 0 {
            end += usize::from(self.names[end]) + 1;
        }
        &self.names[start..=end]
    }

    /// The sets of a node, in the order of their types.
    pub fn sets(&self, node: NodeId) -> impl Iterator<Item = SetView<'_>> {
        let owner = self.name(node);
        let found = self.nodes[at(node.0)];
        let first = at(found.sets);
        let sets = &self.sets[first..first + usize::from(found.set_count)];
        sets.iter().map(move |set| self.view(owner, set))
    }

    /// The set of a type.
    pub fn set(&self, node: NodeId, rtype: Rtype) -> Option<SetView<'_>> {
        let found = self.nodes[at(node.0)];
        let first = at(found.sets);
        let sets = &self.sets[first..first + usize::from(found.set_count)];
        let set = sets.iter().find(|set| set.rtype == rtype)?;
        Some(self.view(self.name(node), set))
    }

    fn view<'a>(&'a self, owner: &'a [u8], set: &Set) -> SetView<'a> {
        SetView {
            owner,
            rtype: set.rtype,
            ttl: set.ttl,
            data: StoredData {
                bytes: &self.data[at(set.data)..],
                left: set.count,
            },
        }
    }
}

/// The label that a wire name in `names` begins with.
fn label_at(names: &[u8], start: u32) -> &[u8] {
    let start = at(start);
    &names[start + 1..start + 1 + usize::from(names[start])]
}

#[derive(Default)]
struct Builder {
    names: Vec<u8>,
    nodes: Vec<Node>,
    sets: Vec<Set>,
    data: Vec<u8>,
}

impl Builder {
    /// Takes all names; none when there is more than can be counted.
    fn fill(&mut self, zone: &Zone) -> Option<()> {
        let origin = zone.origin();
        // The nodes from the origin to the last name, with the octets of their names: canonical
        // order is the order of a walk over the tree.
        let mut path: Vec<(u32, Name)> = Vec::new();
        for (name, node) in zone.nodes() {
            while path.last().is_some_and(|(_, above)| !name.is_below(above)) {
                path.pop();
            }
            // Names between the one above that is known and this one have no records.
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
                self.push(&mut path, empty, &[], origin)?;
            }
            self.push(&mut path, name.clone(), node.sets(), origin)?;
        }
        Some(())
    }

    fn push(
        &mut self,
        path: &mut Vec<(u32, Name)>,
        name: Name,
        sets: &[RrSet],
        origin: &Name,
    ) -> Option<()> {
        let number = u32::try_from(self.nodes.len())
            .ok()
            .filter(|n| *n < u32::MAX)?;
        let parent = path.last().map_or(number, |(parent, _)| *parent);
        let has = |rtype| sets.iter().any(|set| set.rtype() == rtype);
        let mut flags = 0;
        if has(Rtype::NS) && name != *origin {
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
            for data in set.data() {
                let wire = data.as_wire();
                self.data
                    .extend(u16::try_from(wire.len()).ok()?.to_be_bytes());
                self.data.extend_from_slice(wire);
            }
        }
        path.push((number, name));
        Some(())
    }
}
