//! A zone as it is asked: packed records that never change, and a few sets beside them that change
//! by themselves.
//!
//! ```text
//! packed  [ origin: SOA NS │ a: A │ db (nothing) │ www: TXT │ ... ]     shared
//! live    [ origin: SOA    │       db: A         │ www: A AAAA ]        this tree's own
//! ```
//!
//! Why two parts: a role moves, and ten thousand zones whose names follow it have other addresses
//! and another serial. That must not cost what packing those zones costs. So the records that an
//! operator wrote are packed once, and what the group adds to them lies beside, in the order of the
//! nodes.
//!
//! Invariants
//! - a live set stands in the place of the packed one of its name and type; one without records
//!   says that there are none, and for how long that may be believed;
//! - every live set is of a node that was marked for it when the zone was packed.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use cfgdns_sign::Signer;
use cfgdns_zone::{Name, Rdata, Rtype, Soa, Zone};

use crate::history::{History, NO_HISTORY};
use crate::packed::{Extent, Packed, Set, push_data};

/// A name of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId(pub(crate) u32);

/// The origin.
pub(crate) const APEX: NodeId = NodeId(0);

/// Why a zone cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// It has no start of authority, which every answer about nothing needs.
    #[error("the zone {0} has no SOA record")]
    NoSoa(Name),
    /// It has more than the tree can count.
    #[error("the zone {0} is too large: 4 GiB of names or data, or 65535 records of a set")]
    TooLarge(Name),
    /// A name was to exist in it that is another zone's.
    #[error("{name} is not in the zone {origin}")]
    OutOfZone {
        /// The name.
        name: Name,
        /// The name of the zone.
        origin: Name,
    },
    /// It was to be signed as another zone.
    #[error("the zone {origin} cannot be signed as {other}")]
    OtherSigner {
        /// The name of the zone.
        origin: Name,
        /// The name that signatures would have.
        other: Name,
    },
    /// A set was to be put where the tree was not built for one.
    #[error("{0} has no place for sets that change by themselves")]
    NoPlace(Name),
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
    /// How often each comes first, beside the others; empty where that is always the first.
    pub weights: &'a [u16],
}

/// The data of the records of a set, in wire form and canonical order.
#[derive(Debug, Clone, Default)]
pub struct StoredData<'a> {
    bytes: &'a [u8],
    left: u16,
}

impl<'a> StoredData<'a> {
    /// `left` records at the beginning of `bytes`.
    pub(crate) fn new(bytes: &'a [u8], left: u16) -> Self {
        Self { bytes, left }
    }
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

/// A set that changes by itself: it is not what an operator wrote, but follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveSet {
    /// Its name, one of those that the tree was built with.
    pub name: Name,
    /// Its type.
    pub rtype: Rtype,
    /// How long its records, or that there are none, may be kept; seconds.
    pub ttl: u32,
    /// Its records in canonical order; there may be none.
    pub data: Vec<Rdata>,
    /// How often each comes first in an answer, beside the others; empty where that is always the
    /// first.
    pub weights: Vec<u16>,
}

#[derive(Debug, Clone)]
struct Live {
    node: NodeId,
    set: Set,
    weights: Box<[u16]>,
}

impl Live {
    fn view<'a>(&'a self, owner: &'a [u8], data: &'a [u8]) -> SetView<'a> {
        SetView {
            weights: &self.weights,
            ..self.set.view(owner, data)
        }
    }
}

/// An immutable zone.
#[derive(Debug, Clone)]
pub struct Tree {
    packed: Arc<Packed>,
    soa: Soa,
    /// By node and type, each once.
    live: Box<[Live]>,
    data: Box<[u8]>,
    /// How much its records are, with the live sets.
    extent: Extent,
    /// Why nothing of it is told.
    closed: Option<Arc<str>>,
    /// Only those who may have it whole are told of it.
    private: bool,
    /// Said once, by whoever knows the tree before, and perhaps long after this one is asked.
    history: OnceLock<History>,
    signed: Signed,
}

/// Whether the records of a zone have signatures.
#[derive(Debug, Clone, Default)]
enum Signed {
    /// They have none.
    #[default]
    Not,
    /// They are made for who asks.
    By(Arc<Signer>),
    /// They should have some, and cannot: why.
    Lacking(Arc<str>),
}

impl Tree {
    /// A zone that is ours and of which nothing can be told: each question gets SERVFAIL.
    pub fn closed(origin: &Name, why: &str) -> Self {
        let root = Name::root();
        let soa = Soa {
            primary: root.clone(),
            mailbox: root,
            serial: 0,
            refresh: 0,
            retry: 0,
            expire: 0,
            minimum: 0,
        };
        let mut zone = Zone::new(origin.clone());
        let inserted = zone.insert(origin, Rtype::SOA, 0, soa.to_data());
        inserted.expect("the origin is in its zone");
        let tree = Self::build(&zone).expect("one name with an SOA can be packed");
        Self {
            closed: Some(why.into()),
            ..tree
        }
    }

    /// The same zone, of which only those are told who may have it whole: a catalog lists all
    /// others (RFC 9432 7).
    #[must_use]
    pub fn private(self) -> Self {
        Self {
            private: true,
            ..self
        }
    }

    /// Whether only those are told of it who may have it whole.
    pub fn is_private(&self) -> bool {
        self.private
    }

    /// Whether nothing of it can be told.
    pub fn is_closed(&self) -> bool {
        self.closed.is_some()
    }

    /// Why nothing of it can be told, if so.
    pub fn closed_because(&self) -> Option<&str> {
        self.closed.as_deref()
    }

    /// Packs a zone. That it obeys the rules of a zone is for whoever wrote it to check.
    pub fn build(zone: &Zone) -> Result<Self, BuildError> {
        Self::build_with(zone, &BTreeSet::new())
    }

    /// Packs a zone; the names in `live` exist too, and have a place for sets of [`Tree::with`].
    pub fn build_with(zone: &Zone, live: &BTreeSet<Name>) -> Result<Self, BuildError> {
        let origin = zone.origin();
        let soa = zone
            .soa()
            .ok_or_else(|| BuildError::NoSoa(origin.clone()))?;
        if let Some(name) = live.iter().find(|name| !name.is_at_or_below(origin)) {
            return Err(BuildError::OutOfZone {
                name: name.clone(),
                origin: origin.clone(),
            });
        }
        let packed = Packed::build(zone, live)?;
        Ok(Self {
            extent: packed.extent(),
            packed: Arc::new(packed),
            soa,
            live: Box::default(),
            data: Box::default(),
            closed: None,
            private: false,
            history: OnceLock::new(),
            signed: Signed::Not,
        })
    }

    /// The same packed records with this serial and these sets beside them, instead of those that
    /// there were; of two with the same name and type the last is taken.
    pub fn with(
        &self,
        serial: u32,
        sets: impl IntoIterator<Item = LiveSet>,
    ) -> Result<Self, BuildError> {
        let too_large = || BuildError::TooLarge(self.origin().clone());
        let soa = Soa {
            serial,
            ..self.soa.clone()
        };
        let start = LiveSet {
            name: self.origin().clone(),
            rtype: Rtype::SOA,
            ttl: self.set(APEX, Rtype::SOA).map_or(0, |set| set.ttl),
            data: vec![soa.to_data()],
            weights: Vec::new(),
        };
        let keys = self.signer().map(|signer| self.keys(signer));
        let mut live = Vec::new();
        let mut data = Vec::new();
        for set in sets.into_iter().chain([start]).chain(keys) {
            let node = self.packed.node(&set.name);
            let node = node.filter(|node| self.packed.is_live(*node));
            let node = node.ok_or_else(|| BuildError::NoPlace(set.name.clone()))?;
            let packed = Set {
                data: u32::try_from(data.len()).map_err(|_| too_large())?,
                ttl: set.ttl,
                rtype: set.rtype,
                count: u16::try_from(set.data.len()).map_err(|_| too_large())?,
            };
            push_data(&mut data, &set.data).ok_or_else(too_large)?;
            let weights = set.weights.into();
            let set = packed;
            live.push(Live { node, set, weights });
        }
        // The sort keeps the order of equals: the last comes first when they are turned around.
        live.reverse();
        live.sort_by_key(|live| (live.node, live.set.rtype));
        live.dedup_by_key(|live| (live.node, live.set.rtype));
        Ok(Self {
            extent: extent(&self.packed, &live, &data),
            packed: Arc::clone(&self.packed),
            soa,
            live: live.into(),
            data: data.into(),
            closed: self.closed.clone(),
            private: self.private,
            history: OnceLock::new(),
            signed: self.signed.clone(),
        })
    }

    /// The same tree as the successor of another: it knows what has changed since then, and before.
    #[must_use]
    pub fn following(self, old: &Self) -> Self {
        self.follow(old);
        self
    }

    /// Says which tree was before this one, so that it knows what has changed since then, and
    /// before. The first to say so is heard: what was told to a secondary stays true.
    pub fn follow(&self, old: &Self) {
        self.history.get_or_init(|| old.history().next(old, self));
    }

    /// What has changed before; nothing while nobody has said what was before.
    pub fn history(&self) -> &History {
        self.history.get().unwrap_or(&NO_HISTORY)
    }

    /// The same zone, signed: its keys are in it, and who asks for signatures gets them.
    pub fn signed(&self, signer: Arc<Signer>) -> Result<Self, BuildError> {
        if signer.origin() != self.origin() {
            return Err(BuildError::OtherSigner {
                origin: self.origin().clone(),
                other: signer.origin().clone(),
            });
        }
        let mut tree = self.clone();
        let too_large = || BuildError::TooLarge(self.origin().clone());
        let keys = self.keys(&signer);
        let mut data = self.data.to_vec();
        let set = Set {
            data: u32::try_from(data.len()).map_err(|_| too_large())?,
            ttl: keys.ttl,
            rtype: keys.rtype,
            count: u16::try_from(keys.data.len()).map_err(|_| too_large())?,
        };
        push_data(&mut data, &keys.data).ok_or_else(too_large)?;
        let mut live = self.live.to_vec();
        let key = (APEX, Rtype::DNSKEY);
        live.retain(|live| (live.node, live.set.rtype) != key);
        let place = live.partition_point(|live| (live.node, live.set.rtype) < key);
        let (node, weights) = (APEX, Box::default());
        live.insert(place, Live { node, set, weights });
        tree.extent = extent(&tree.packed, &live, &data);
        tree.live = live.into();
        tree.data = data.into();
        tree.signed = Signed::By(signer);
        tree.history = OnceLock::new();
        Ok(tree)
    }

    /// The same zone, which should be signed by keys that are not here: who asks for signatures
    /// gets SERVFAIL. Without them the records would be taken for forged.
    #[must_use]
    pub fn lacking_keys(&self, why: &str) -> Self {
        Self {
            signed: Signed::Lacking(why.into()),
            history: OnceLock::new(),
            ..self.clone()
        }
    }

    /// Who signs the zone.
    pub fn signer(&self) -> Option<&Arc<Signer>> {
        match &self.signed {
            Signed::By(signer) => Some(signer),
            Signed::Not | Signed::Lacking(_) => None,
        }
    }

    /// Whether it should be signed, and cannot be.
    pub fn lacks_keys(&self) -> bool {
        self.lacking().is_some()
    }

    /// Why it cannot be signed, though it should be.
    pub fn lacking(&self) -> Option<&str> {
        match &self.signed {
            Signed::Lacking(why) => Some(why),
            Signed::Not | Signed::By(_) => None,
        }
    }

    /// The keys of the zone, which can be kept for as long as its SOA.
    fn keys(&self, signer: &Signer) -> LiveSet {
        LiveSet {
            name: self.origin().clone(),
            rtype: Rtype::DNSKEY,
            ttl: self.set(APEX, Rtype::SOA).map_or(0, |set| set.ttl),
            data: signer.dnskeys(),
            weights: Vec::new(),
        }
    }

    /// Whether the packed records of both are the same ones, and only live sets can differ.
    pub fn same_records(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.packed, &other.packed)
    }

    /// The name of the zone.
    pub fn origin(&self) -> &Name {
        self.packed.origin()
    }

    /// The start of authority.
    pub fn soa(&self) -> &Soa {
        &self.soa
    }

    /// How many names there are, also those without records.
    pub fn name_count(&self) -> usize {
        self.packed.name_count()
    }

    /// Octets that the tree takes, beside its origin and its history.
    pub fn octets(&self) -> usize {
        self.packed.octets() + size_of_val(&*self.live) + size_of_val(&*self.data)
    }

    /// How much its records are.
    pub(crate) fn extent(&self) -> Extent {
        self.extent
    }

    /// Goes from the origin down to the name, as RFC 1034 4.3.2 step 3 does, and stops where
    /// something decides. None when the name is outside the zone.
    pub fn lookup(&self, name: &Name) -> Option<Lookup> {
        self.packed.walk(name, true)
    }

    /// The node of a name, also when it is delegated to others: glue is there.
    pub fn node(&self, name: &Name) -> Option<NodeId> {
        self.packed.node(name)
    }

    /// The name that is a node's own with one more label.
    pub fn child(&self, parent: NodeId, label: &[u8]) -> Option<NodeId> {
        self.packed.child(parent, label)
    }

    /// All names in canonical order (RFC 4034 6.1), the origin first; also those without records.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.nodes_from(APEX)
    }

    /// The names from this one on, in canonical order, for who sends them one part after the other.
    pub fn nodes_from(&self, first: NodeId) -> impl Iterator<Item = NodeId> {
        let count = u32::try_from(self.packed.name_count()).expect("packing counted them");
        (first.0..count).map(NodeId)
    }

    /// The names that have live sets, in canonical order.
    pub(crate) fn live_nodes(&self) -> impl Iterator<Item = NodeId> {
        let mut last = None;
        let nodes = self.live.iter().map(|live| live.node);
        nodes.filter(move |node| last.replace(*node) != Some(*node))
    }

    /// The name of a node in wire form, in the case that it was written in.
    pub fn name(&self, node: NodeId) -> &[u8] {
        self.packed.name(node)
    }

    /// The sets of a node that have records, in the order of their types.
    pub fn sets(&self, node: NodeId) -> impl Iterator<Item = SetView<'_>> {
        let owner = self.packed.name(node);
        let mut packed = self.packed.sets(node).peekable();
        let mut live = self.live_sets(node).iter().peekable();
        std::iter::from_fn(move || {
            loop {
                let first = live.peek().map(|live| live.set.rtype);
                match (packed.peek().map(|set| set.rtype), first) {
                    (Some(stored), first) if first.is_none_or(|first| stored < first) => {
                        return packed.next();
                    }
                    (None, None) => return None,
                    (stored, first) => {
                        if stored == first {
                            packed.next();
                        }
                        let live = live.next()?;
                        if live.set.count > 0 {
                            return Some(live.view(owner, &self.data));
                        }
                    }
                }
            }
        })
    }

    /// The set of a type, when it has records.
    pub fn set(&self, node: NodeId, rtype: Rtype) -> Option<SetView<'_>> {
        match self.live_set(node, rtype) {
            Some(live) => {
                let owner = self.packed.name(node);
                (live.set.count > 0).then(|| live.view(owner, &self.data))
            }
            None => self.packed.set(node, rtype),
        }
    }

    /// For how many seconds it may be kept that a node has no sets of the types that are `denied`,
    /// where that changes by itself.
    pub(crate) fn nothing_for(&self, node: NodeId, denied: impl Fn(Rtype) -> bool) -> Option<u32> {
        let sets = self.live_sets(node).iter().map(|live| live.set);
        sets.filter(|set| set.count == 0 && denied(set.rtype))
            .map(|set| set.ttl)
            .min()
    }

    fn live_set(&self, node: NodeId, rtype: Rtype) -> Option<&Live> {
        if !self.packed.is_live(node) {
            return None;
        }
        let key = (node, rtype);
        let found = self
            .live
            .binary_search_by_key(&key, |live| (live.node, live.set.rtype));
        found.ok().map(|place| &self.live[place])
    }

    fn live_sets(&self, node: NodeId) -> &[Live] {
        if !self.packed.is_live(node) {
            return &[];
        }
        let first = self.live.partition_point(|live| live.node < node);
        let count = self.live[first..].partition_point(|live| live.node == node);
        &self.live[first..first + count]
    }
}

/// How much packed records are with these in the place of some.
fn extent(packed: &Packed, live: &[Live], data: &[u8]) -> Extent {
    let mut extent = packed.extent();
    for live in live {
        if let Some(replaced) = packed.set(live.node, live.set.rtype) {
            extent.remove(Extent::of(replaced));
        }
        extent.add(Extent::of(live.view(packed.name(live.node), data)));
    }
    extent
}
