//! Which of R reduce tasks gets a key.
//!
//! The hash is part of what a job means: two attempts, two versions of a worker and two machines
//! must agree, so it is a published one (XXH3, 64 bits, no seed) and never changes.

use twox_hash::XxHash3_64;

/// The hash of a key.
pub fn hash(key: &[u8]) -> u64 {
    XxHash3_64::oneshot(key)
}

/// The same hash, of octets that come one part after the other.
#[derive(Clone)]
pub struct Hasher(XxHash3_64);

impl Hasher {
    /// Of nothing yet.
    pub fn new() -> Self {
        Self(XxHash3_64::new())
    }

    /// Of these octets too.
    pub fn write(&mut self, octets: &[u8]) {
        std::hash::Hasher::write(&mut self.0, octets);
    }

    /// Of all that came.
    pub fn finish(&self) -> u64 {
        std::hash::Hasher::finish(&self.0)
    }
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Hasher").field(&self.finish()).finish()
    }
}

impl Default for Hasher {
    fn default() -> Self {
        Self::new()
    }
}

/// Who gets a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Partitioner {
    /// `hash(key) mod R`.
    Hash,
    /// By the first key of each partition but the first, in increasing order: for outputs that are
    /// sorted as a whole, one after the other.
    Range(Vec<Vec<u8>>),
}

impl Partitioner {
    /// The partition of a key, of `partitions` (at least one).
    pub fn of(&self, key: &[u8], partitions: u32) -> u32 {
        match self {
            Self::Hash => by_hash(hash(key), partitions),
            Self::Range(firsts) => {
                let below = firsts.partition_point(|first| first.as_slice() <= key);
                u32::try_from(below).map_or(partitions - 1, |below| below.min(partitions - 1))
            }
        }
    }

    /// Cuts a sample of keys into `partitions` of about the same size.
    pub fn from_sample(mut sample: Vec<Vec<u8>>, partitions: u32) -> Self {
        sample.sort_unstable();
        let count = sample.len();
        let cuts = (1..partitions as usize).map(|cut| count * cut / partitions as usize);
        let mut firsts: Vec<Vec<u8>> = cuts.filter_map(|at| sample.get(at).cloned()).collect();
        firsts.dedup();
        Self::Range(firsts)
    }
}

/// The partition of a key whose hash is known.
pub fn by_hash(hash: u64, partitions: u32) -> u32 {
    u32::try_from(hash % u64::from(partitions)).expect("it is below a u32")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hash_is_the_published_one() {
        // https://github.com/Cyan4973/xxHash: XXH3_64bits of nothing, and of one text.
        assert_eq!(hash(b""), 0x2D06_8005_38D3_94C2);
        assert_eq!(hash(b"abc"), 0x78AF_5F94_892F_3950);
    }

    proptest! {
        #[test]
        fn ranges_keep_the_order_of_keys(
            sample in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..4), 0..40),
            keys in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..4), 2..20),
            partitions in 1_u32..9,
        ) {
            let ranges = Partitioner::from_sample(sample, partitions);
            let mut keys = keys;
            keys.sort();
            let parts: Vec<u32> = keys.iter().map(|key| ranges.of(key, partitions)).collect();
            prop_assert!(parts.is_sorted());
            prop_assert!(parts.iter().all(|part| *part < partitions));
        }
    }

    #[test]
    fn sample_of_many_keys_is_cut_evenly() {
        let sample = (0..1000_u32)
            .map(|key| key.to_be_bytes().to_vec())
            .collect();
        let ranges = Partitioner::from_sample(sample, 4);
        let mut counts = [0; 4];
        for key in 0..1000_u32 {
            counts[ranges.of(&key.to_be_bytes(), 4) as usize] += 1;
        }
        assert_eq!(counts, [250; 4]);
    }
}
