//! Which keys a request is about, as the protocol writes it: a key and an exclusive end.

use bytes::Bytes;

/// A set of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keys {
    /// One key.
    One(Bytes),
    /// All keys that start with these bytes; no bytes: all keys.
    Prefix(Bytes),
    /// From the first key on, up to but without the second.
    Range(Bytes, Bytes),
    /// This key and all after it.
    From(Bytes),
}

impl Keys {
    /// One key.
    pub fn one(key: impl Into<Bytes>) -> Self {
        Self::One(key.into())
    }

    /// All keys that start with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        Self::Prefix(prefix.into())
    }

    /// Whether `key` belongs to the set.
    pub fn contain(&self, key: &[u8]) -> bool {
        match self {
            Self::One(one) => key == one,
            Self::Prefix(prefix) => key.starts_with(prefix),
            Self::Range(first, end) => &first[..] <= key && key < &end[..],
            Self::From(first) => &first[..] <= key,
        }
    }

    /// The protocol's `key` and `range_end`.
    pub fn to_range(&self) -> (Bytes, Bytes) {
        let all = Bytes::from_static(&[0]);
        match self {
            Self::One(key) => (key.clone(), Bytes::new()),
            Self::Range(first, end) => (first.clone(), end.clone()),
            Self::From(first) if first.is_empty() => (all.clone(), all),
            Self::From(first) => (first.clone(), all),
            Self::Prefix(prefix) if prefix.is_empty() => (all.clone(), all),
            Self::Prefix(prefix) => (prefix.clone(), prefix_end(prefix)),
        }
    }
}

impl<K: Into<Bytes>> From<K> for Keys {
    fn from(key: K) -> Self {
        Self::One(key.into())
    }
}

/// First key behind all that start with `prefix`; one zero byte when there is none.
fn prefix_end(prefix: &[u8]) -> Bytes {
    let Some(last) = prefix.iter().rposition(|byte| *byte != 0xff) else {
        return Bytes::from_static(&[0]);
    };
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    end.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_range_of_a_prefix_holds_exactly_the_keys_that_start_with_it(
            prefix in prop::collection::vec(prop_oneof![Just(0xff_u8), any::<u8>()], 0..4),
            key in prop::collection::vec(prop_oneof![Just(0xff_u8), any::<u8>()], 1..5),
        ) {
            let keys = Keys::prefix(prefix);
            let (first, end) = keys.to_range();
            let all_after = &end[..] == b"\0";
            // A zero byte as the first key of "all keys" sorts before every key but itself.
            let in_range = key[..] >= first[..] && (all_after || key[..] < end[..]);
            prop_assert_eq!(in_range, keys.contain(&key));
        }
    }
}
