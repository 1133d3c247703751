//! A zone: names below an origin, and the sets of records that each has.
//!
//! Invariants
//! - every name is at or below the origin, in canonical order, and has at least one set;
//! - a name has a set of a type once, in the order of the types;
//! - a set has at least one record, no two the same, in canonical order, all with one TTL.
//!
//! Whether the records obey the rules of a zone is another question: `check`.

use std::collections::BTreeMap;

use crate::name::Name;
use crate::rdata::{Rdata, compare_data};
use crate::rtype::Rtype;
use crate::write::number;

/// The greatest TTL (RFC 2181 8).
pub const TTL_MAX: u32 = i32::MAX.unsigned_abs();

/// Octets of a set in a message of 65,535 octets, beside its header, question and OPT record.
pub const SET_OCTETS_MAX: usize = 65_000;
/// Records of a set: each takes at least its name's pointer, type, class, TTL and length. Without
/// this bound, to keep a set in order would take time that grows with its square.
pub const SET_RECORDS_MAX: usize = SET_OCTETS_MAX / 12;

/// Records of one name and type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RrSet {
    rtype: Rtype,
    ttl: u32,
    data: Vec<Rdata>,
}

impl RrSet {
    /// A set of one record.
    pub fn new(rtype: Rtype, ttl: u32, data: Rdata) -> Self {
        assert!(ttl <= TTL_MAX, "a TTL of {ttl} is more than 2^31-1");
        Self {
            rtype,
            ttl,
            data: vec![data],
        }
    }

    /// The type.
    pub fn rtype(&self) -> Rtype {
        self.rtype
    }

    /// How long an answer may be kept, in seconds.
    pub fn ttl(&self) -> u32 {
        self.ttl
    }

    /// The data of the records, in canonical order; at least one.
    pub fn data(&self) -> &[Rdata] {
        &self.data
    }

    /// Adds a record; false when it is there already.
    pub fn insert(&mut self, data: Rdata) -> Result<bool, InsertError> {
        let place = self
            .data
            .binary_search_by(|have| compare_data(self.rtype, have.as_wire(), data.as_wire()));
        let Err(at) = place else {
            return Ok(false);
        };
        if self.data.len() == SET_RECORDS_MAX {
            return Err(InsertError::SetFull);
        }
        self.data.insert(at, data);
        Ok(true)
    }

    /// Gives all records another TTL.
    pub fn set_ttl(&mut self, ttl: u32) {
        assert!(ttl <= TTL_MAX, "a TTL of {ttl} is more than 2^31-1");
        self.ttl = ttl;
    }
}

/// The sets of one name, in the order of their types.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    sets: Vec<RrSet>,
}

/// What became of a record that was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inserted {
    /// It was there already, and nothing was added.
    pub duplicate: bool,
    /// The records of its set had this other TTL; all have the lower now.
    pub other_ttl: Option<u32>,
}

impl Node {
    /// The sets.
    pub fn sets(&self) -> &[RrSet] {
        &self.sets
    }

    /// The set of a type.
    pub fn set(&self, rtype: Rtype) -> Option<&RrSet> {
        let at = self
            .sets
            .binary_search_by_key(&rtype, |set| set.rtype)
            .ok()?;
        Some(&self.sets[at])
    }

    /// Whether there is a set of the type.
    pub fn has(&self, rtype: Rtype) -> bool {
        self.set(rtype).is_some()
    }

    /// Adds a record. The records of a set have one TTL, the lowest (RFC 2181 5.2).
    pub fn insert(&mut self, rtype: Rtype, ttl: u32, data: Rdata) -> Result<Inserted, InsertError> {
        match self.sets.binary_search_by_key(&rtype, |set| set.rtype) {
            Err(at) => {
                self.sets.insert(at, RrSet::new(rtype, ttl, data));
                Ok(Inserted {
                    duplicate: false,
                    other_ttl: None,
                })
            }
            Ok(at) => {
                let set = &mut self.sets[at];
                let duplicate = !set.insert(data)?;
                let other_ttl = Some(set.ttl).filter(|other| *other != ttl);
                set.set_ttl(set.ttl.min(ttl));
                Ok(Inserted {
                    duplicate,
                    other_ttl,
                })
            }
        }
    }

    /// Puts a set in the place of that of its type.
    pub fn replace(&mut self, set: RrSet) {
        match self.sets.binary_search_by_key(&set.rtype, |set| set.rtype) {
            Ok(at) => self.sets[at] = set,
            Err(at) => self.sets.insert(at, set),
        }
    }

    /// Takes the set of a type away.
    pub fn remove(&mut self, rtype: Rtype) -> Option<RrSet> {
        let at = self
            .sets
            .binary_search_by_key(&rtype, |set| set.rtype)
            .ok()?;
        Some(self.sets.remove(at))
    }
}

/// A zone.
#[derive(Debug, Clone)]
pub struct Zone {
    origin: Name,
    /// By the sort keys of their names.
    nodes: BTreeMap<Box<[u8]>, (Name, Node)>,
}

/// Why a record was not added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InsertError {
    /// The name is another zone's.
    #[error("{name} is not at or below {origin}, the name of the zone (RFC 1035 5.2)")]
    OutOfZone {
        /// The name.
        name: Name,
        /// The origin of the zone.
        origin: Name,
    },
    /// No message could hold the set.
    #[error("a set has at most 5416 records, or no message holds all of them (RFC 2181 5)")]
    SetFull,
}

/// The start of authority (RFC 1035 3.3.13).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Soa {
    /// The server that the zone comes from.
    pub primary: Name,
    /// The mail address of who is responsible, as a name.
    pub mailbox: Name,
    /// The version of the zone, compared as RFC 1982 says.
    pub serial: u32,
    /// After how many seconds a secondary asks.
    pub refresh: u32,
    /// After how many it asks again when it got no answer.
    pub retry: u32,
    /// After how many without an answer it stops to answer itself.
    pub expire: u32,
    /// For how many an answer that something does not exist is kept at most (RFC 2308 4).
    pub minimum: u32,
}

impl Soa {
    /// Reads valid data of an SOA record.
    pub fn from_data(data: &Rdata) -> Option<Self> {
        let wire = data.as_wire();
        let (primary, used) = Name::from_wire(wire).ok()?;
        let (mailbox, more) = Name::from_wire(&wire[used..]).ok()?;
        let numbers = wire.get(used + more..)?.as_chunks::<4>().0;
        let [serial, refresh, retry, expire, minimum] = numbers else {
            return None;
        };
        Some(Self {
            primary,
            mailbox,
            serial: number(serial),
            refresh: number(refresh),
            retry: number(retry),
            expire: number(expire),
            minimum: number(minimum),
        })
    }

    /// The data of an SOA record.
    pub fn to_data(&self) -> Rdata {
        let mut wire = [self.primary.as_wire(), self.mailbox.as_wire()].concat();
        let numbers = [
            self.serial,
            self.refresh,
            self.retry,
            self.expire,
            self.minimum,
        ];
        wire.extend(numbers.into_iter().flat_map(u32::to_be_bytes));
        Rdata::from_wire(Rtype::SOA, &wire).expect("two names and five numbers are an SOA")
    }
}

impl Zone {
    /// A zone without records.
    pub fn new(origin: Name) -> Self {
        let nodes = BTreeMap::new();
        Self { origin, nodes }
    }

    /// The name of the zone.
    pub fn origin(&self) -> &Name {
        &self.origin
    }

    /// The names in canonical order, the origin first.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = (&Name, &Node)> {
        self.nodes.values().map(|(name, node)| (name, node))
    }

    /// How many names have records.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// How many records there are.
    pub fn record_count(&self) -> usize {
        let sets = self.nodes().flat_map(|(_, node)| &node.sets);
        sets.map(|set| set.data.len()).sum()
    }

    /// What a name has.
    pub fn node(&self, name: &Name) -> Option<&Node> {
        self.entry(name).map(|(_, node)| node)
    }

    /// What a name has, and how it is written there.
    pub fn entry(&self, name: &Name) -> Option<(&Name, &Node)> {
        let (name, node) = self.nodes.get(&name.sort_key()[..])?;
        Some((name, node))
    }

    /// Whether a name has records, or one below it has (RFC 4592 2.2.2).
    pub fn exists(&self, name: &Name) -> bool {
        let key = name.sort_key().into_boxed_slice();
        let next = self.nodes.range(key.clone()..).next();
        next.is_some_and(|(found, _)| found.starts_with(&key))
    }

    /// The set of a name and type.
    pub fn set(&self, name: &Name, rtype: Rtype) -> Option<&RrSet> {
        self.node(name)?.set(rtype)
    }

    /// The start of authority, when there is one at the origin.
    pub fn soa(&self) -> Option<Soa> {
        Soa::from_data(self.set(&self.origin, Rtype::SOA)?.data.first()?)
    }

    /// Adds a record. The first that is added at a name says how the name is written.
    pub fn insert(
        &mut self,
        name: &Name,
        rtype: Rtype,
        ttl: u32,
        data: Rdata,
    ) -> Result<Inserted, InsertError> {
        self.check_name(name)?;
        let key = name.sort_key();
        if let Some((_, node)) = self.nodes.get_mut(&key[..]) {
            return node.insert(rtype, ttl, data);
        }
        let mut node = Node::default();
        let inserted = node.insert(rtype, ttl, data)?;
        self.nodes.insert(key.into(), (name.clone(), node));
        Ok(inserted)
    }

    /// Puts all that a name has; one without sets is taken away.
    pub fn put(&mut self, name: Name, node: Node) -> Result<(), InsertError> {
        self.check_name(&name)?;
        let key = name.sort_key().into_boxed_slice();
        if node.sets.is_empty() {
            self.nodes.remove(&key);
        } else {
            self.nodes.insert(key, (name, node));
        }
        Ok(())
    }

    /// Puts a set in the place of that of its name and type.
    pub fn replace(&mut self, name: &Name, set: RrSet) -> Result<(), InsertError> {
        self.check_name(name)?;
        let new = || (name.clone(), Node::default());
        let (_, node) = self.nodes.entry(name.sort_key().into()).or_insert_with(new);
        node.replace(set);
        Ok(())
    }

    fn check_name(&self, name: &Name) -> Result<(), InsertError> {
        let within = name.is_at_or_below(&self.origin);
        within.then_some(()).ok_or_else(|| InsertError::OutOfZone {
            name: name.clone(),
            origin: self.origin.clone(),
        })
    }
}

/// Equal to the last octet: names in the same case too, because answers show it.
impl PartialEq for Zone {
    fn eq(&self, other: &Self) -> bool {
        self.origin.as_wire() == other.origin.as_wire()
            && self.nodes.len() == other.nodes.len()
            && self
                .nodes()
                .zip(other.nodes())
                .all(|(ours, theirs)| ours.0.as_wire() == theirs.0.as_wire() && ours.1 == theirs.1)
    }
}

impl Eq for Zone {}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().expect(text)
    }

    fn address(last: u8) -> Rdata {
        Rdata::from_wire(Rtype::A, &[192, 0, 2, last]).expect("four octets")
    }

    #[test]
    fn records_are_kept_in_canonical_order_with_the_lowest_ttl() {
        let mut zone = Zone::new(name("example."));
        let mut add = |text: &str, ttl, last| {
            let inserted = zone.insert(&name(text), Rtype::A, ttl, address(last));
            let inserted = inserted.expect("in the zone");
            (inserted.duplicate, inserted.other_ttl)
        };
        assert_eq!(add("WWW.example.", 300, 2), (false, None));
        assert_eq!(add("www.example.", 60, 1), (false, Some(300)));
        assert_eq!(add("www.example.", 600, 2), (true, Some(60)));
        assert_eq!(add("a.www.example.", 60, 1), (false, None));
        assert_eq!(add("example.", 60, 1), (false, None));
        let names: Vec<_> = zone.nodes().map(|(name, _)| name.to_string()).collect();
        assert_eq!(names, ["example.", "WWW.example.", "a.www.example."]);
        let set = zone.set(&name("www.example."), Rtype::A).expect("a set");
        assert_eq!((set.ttl(), set.data()), (60, &[address(1), address(2)][..]));
        assert!(zone.exists(&name("a.WWW.example.")) && !zone.exists(&name("ww.example.")));
        assert_eq!((zone.node_count(), zone.record_count()), (3, 4));
    }

    #[test]
    fn name_outside_is_refused_and_name_without_sets_is_none() {
        let mut zone = Zone::new(name("example."));
        let outside = zone.insert(&name("www.other."), Rtype::A, 1, address(1));
        let error = outside.expect_err("outside").to_string();
        let expected =
            "www.other. is not at or below example., the name of the zone (RFC 1035 5.2)";
        assert_eq!(error, expected);
        zone.insert(&name("www.example."), Rtype::A, 1, address(1))
            .expect("in the zone");
        zone.put(name("www.example."), Node::default())
            .expect("in the zone");
        assert_eq!(zone.node_count(), 0);
    }

    #[test]
    fn set_is_bounded_and_takes_what_it_has_again() {
        let data = |number: usize| {
            let number = u32::try_from(number).expect("it is small");
            Rdata::from_wire(Rtype::A, &number.to_be_bytes()).expect("four octets")
        };
        let mut set = RrSet::new(Rtype::A, 60, data(0));
        for number in 1..SET_RECORDS_MAX {
            assert_eq!(set.insert(data(number)), Ok(true));
        }
        assert_eq!(set.insert(data(SET_RECORDS_MAX)), Err(InsertError::SetFull));
        assert_eq!(set.insert(data(7)), Ok(false));
        assert!(
            InsertError::SetFull
                .to_string()
                .contains(&SET_RECORDS_MAX.to_string())
        );
    }

    #[test]
    fn start_of_authority_is_read_and_written() {
        let text = "ns1 root ( 3 7200 600 1209600 60 )";
        let data = Rdata::parse(Rtype::SOA, text, Some(&name("example."))).expect("an SOA");
        let soa = Soa::from_data(&data).expect("an SOA");
        assert_eq!((soa.serial, soa.minimum, soa.to_data()), (3, 60, data));
        assert_eq!(soa.mailbox, name("root.example."));
    }
}
