//! What has changed from one zone to another: records removed and added, by name.
//!
//! A record whose TTL, or the case of a name, has changed is removed and added, as in an
//! incremental transfer (RFC 1995 2).

use std::cmp::Ordering;

use crate::name::Name;
use crate::rdata::Rdata;
use crate::rtype::Rtype;
use crate::zone::{Node, Zone};

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its type.
    pub rtype: Rtype,
    /// Its TTL.
    pub ttl: u32,
    /// Its data.
    pub data: Rdata,
}

/// What has changed at a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The name as the old zone writes it, or the new one when it is new.
    pub name: Name,
    /// The name as the new zone writes it, when that is in another case.
    pub renamed: Option<Name>,
    /// Records that are gone, by type and in canonical order.
    pub removed: Vec<Record>,
    /// Records that are new, by type and in canonical order.
    pub added: Vec<Record>,
}

/// The changes that make `new` out of `old`, names in canonical order.
pub fn diff(old: &Zone, new: &Zone) -> Vec<Change> {
    let empty = Node::default();
    let mut changes = Vec::new();
    let (mut old, mut new) = (old.nodes().peekable(), new.nodes().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return changes,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((ours, _)), Some((theirs, _))) => ours.cmp(theirs),
        };
        let before = if order.is_le() { old.next() } else { None };
        let after = if order.is_ge() { new.next() } else { None };
        let Some((name, _)) = before.or(after) else {
            return changes;
        };
        let renamed = after
            .map(|(name, _)| name)
            .filter(|new| new.as_wire() != name.as_wire());
        let old_records = records(before.map_or(&empty, |(_, node)| node));
        let new_records = records(after.map_or(&empty, |(_, node)| node));
        // All records of a name that is written in another case are other records.
        let same = |record: &Record, others: &[Record]| {
            renamed.is_none()
                && others
                    .binary_search_by(|other| compare(other, record))
                    .is_ok()
        };
        let keep = |records: &[Record], others: &[Record]| -> Vec<Record> {
            let kept = records.iter().filter(|record| !same(record, others));
            kept.cloned().collect()
        };
        let removed = keep(&old_records, &new_records);
        let added = keep(&new_records, &old_records);
        if !removed.is_empty() || !added.is_empty() {
            changes.push(Change {
                name: name.clone(),
                renamed: renamed.cloned(),
                removed,
                added,
            });
        }
    }
}

fn compare(ours: &Record, theirs: &Record) -> Ordering {
    let key = |record: &Record| (record.rtype, record.ttl);
    let data = || {
        let canonical = crate::compare_data(ours.rtype, ours.data.as_wire(), theirs.data.as_wire());
        canonical.then_with(|| ours.data.cmp(&theirs.data))
    };
    key(ours).cmp(&key(theirs)).then_with(data)
}

fn records(node: &Node) -> Vec<Record> {
    let sets = node.sets().iter();
    let records = sets.flat_map(|set| {
        set.data().iter().map(|data| Record {
            rtype: set.rtype(),
            ttl: set.ttl(),
            data: data.clone(),
        })
    });
    records.collect()
}
