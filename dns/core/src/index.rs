//! A table from hashes to places in a list: what finds a label below a node, and a zone by name.
//!
//! It is built once and never changed, holds four octets for each slot, and is never iterated, so
//! that no order depends on the hash. Whoever writes zones could make entries collide; whoever asks
//! cannot, because a question adds nothing.
//!
//! ```text
//! slot   [ tag: bits of the hash │ place ]     as many bits for the place as the list needs
//! ```
//!
//! An entry is looked at only where the tag is right: each look is a miss of the cache, and a
//! search for what is not there most often has none.

/// An empty slot: no place has all bits set.
const EMPTY: u32 = u32::MAX;

/// Places in a list, by hash.
#[derive(Debug, Clone)]
pub(crate) struct Index {
    /// A power of two, at least twice the entries, so that a search soon meets an empty slot.
    slots: Box<[u32]>,
    /// The bits of a slot that are a tag.
    tag_mask: u32,
}

impl Index {
    /// Holds the places `0..count`.
    pub(crate) fn new(count: u32, hash_of: impl Fn(u32) -> u64) -> Self {
        let size = usize::try_from(count).expect("32 bits fit") * 2 + 1;
        let mut slots = vec![EMPTY; size.next_power_of_two()].into_boxed_slice();
        // Bits that hold `count`: a place is less, so that not all of them are set.
        let place_bits = u32::BITS - count.leading_zeros();
        let tag_mask = u32::MAX.checked_shl(place_bits).unwrap_or(0);
        for place in 0..count {
            let hash = hash_of(place);
            let mut at = slot(hash, slots.len());
            while slots[at] != EMPTY {
                at = next(at, slots.len());
            }
            slots[at] = lower(hash) & tag_mask | place;
        }
        Self { slots, tag_mask }
    }

    /// The place with this hash that `is_it` says yes to.
    pub(crate) fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let tag = lower(hash) & self.tag_mask;
        let mut at = slot(hash, self.slots.len());
        loop {
            let found = self.slots[at];
            if found == EMPTY {
                return None;
            }
            let place = found & !self.tag_mask;
            if found & self.tag_mask == tag && is_it(place) {
                return Some(place);
            }
            at = next(at, self.slots.len());
        }
    }

    /// Octets that it takes.
    pub(crate) fn octets(&self) -> usize {
        size_of_val(&*self.slots)
    }
}

/// Where a search begins.
fn slot(hash: u64, slots: usize) -> usize {
    let upper = usize::try_from(hash >> 32).expect("32 bits fit");
    upper & (slots - 1)
}

/// Where it goes on.
fn next(at: usize, slots: usize) -> usize {
    (at + 1) & (slots - 1)
}

/// The bits that `slot` does not look at.
fn lower(hash: u64) -> u32 {
    u32::try_from(hash & u64::from(u32::MAX)).expect("32 bits fit")
}

/// The hash of a label below what `above` is the hash of; without regard to case.
pub(crate) fn hash_label(above: u64, label: &[u8]) -> u64 {
    let mut hash = above ^ (label.len() as u64).rotate_right(8);
    let mut add = |octets: [u8; 8]| {
        // This bit is what lower case has more. Others that it makes the same are hardly in names.
        let folded = u64::from_le_bytes(octets) | 0x2020_2020_2020_2020;
        hash = (hash ^ folded).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^= hash >> 32;
    };
    // Eight octets at once; the last eight may have some of those before them.
    if let Some(last) = label.last_chunk() {
        label.as_chunks().0.iter().copied().for_each(&mut add);
        add(*last);
    } else if let (Some([a, b, c, d]), Some([e, f, g, h])) =
        (label.first_chunk(), label.last_chunk())
    {
        add([*a, *b, *c, *d, *e, *f, *g, *h]);
    } else if let [first, .., last] = label {
        add([*first, label[1], *last, 0, 0, 0, 0, 0]);
    } else if let [only] = label {
        add([*only, 0, 0, 0, 0, 0, 0, 0]);
    }
    // The finish of SplitMix64: each bit of the input changes half of the output.
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_in_is_found_and_nothing_else() {
        let hash_of = |place: u32| hash_label(7, format!("Label{}", place / 2).as_bytes());
        let index = Index::new(1_000, hash_of);
        for place in 0..1_000 {
            // Two places have each hash: it is the caller who says which is meant.
            let found = index.find(hash_of(place), |found| found == place);
            assert_eq!(found, Some(place));
        }
        let other = hash_label(8, b"label1");
        assert_eq!(index.find(other, |found| hash_of(found) == other), None);
        assert_eq!(Index::new(0, hash_of).find(other, |_| true), None);
    }

    #[test]
    fn hash_disregards_case_and_regards_what_is_above() {
        assert_eq!(hash_label(1, b"WWW"), hash_label(1, b"www"));
        assert_ne!(hash_label(1, b"www"), hash_label(2, b"www"));
        let nested = hash_label(hash_label(0, b"a"), b"b");
        assert_ne!(nested, hash_label(hash_label(0, b"b"), b"a"));
    }

    /// Octets are taken in words of eight: none is left out, whatever the length.
    #[test]
    fn every_octet_of_a_label_counts() {
        for length in 1..=63 {
            let label = vec![b'a'; length];
            let hash = hash_label(1, &label);
            assert_eq!(hash, hash_label(1, &label.to_ascii_uppercase()), "{length}");
            assert_ne!(hash, hash_label(1, &label[1..]), "{length}");
            for at in 0..length {
                let mut other = label.clone();
                other[at] = b'b';
                assert_ne!(hash, hash_label(1, &other), "{length}, {at}");
            }
        }
    }
}
