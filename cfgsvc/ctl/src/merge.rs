//! Two readings of the same range, key by key: which keys were added, removed, changed between
//! them. Neither is ever held as a whole.
//!
//! ```text
//!   before:  a@2  b@3  d@4          a changed, c added, d removed;
//!   after:   a@7  b@3  c@6          b is as it was
//! ```
//!
//! [`Merge`] is pure and says which reading it needs more of; [`Changes`] fetches the pages.
//!
//! Invariants
//! - changes come in order of the keys, each key at most once.
//! - at most one page of each reading is held.

use cfgsvc_client::{Client, Get, KeyValue, KvError, Pages};
use std::cmp::Ordering;
use std::collections::VecDeque;

/// A key that differs: at least one of both exists.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    pub(crate) before: Option<KeyValue>,
    pub(crate) after: Option<KeyValue>,
}

/// What can be said so far.
#[derive(Debug, PartialEq)]
enum Step {
    /// The next page of the first reading is needed.
    Before,
    /// The next page of the second.
    After,
    Changed(Change),
    End,
}

#[derive(Debug, Default)]
struct Reading {
    waiting: VecDeque<KeyValue>,
    over: bool,
}

impl Reading {
    fn page(&mut self, page: Option<Vec<KeyValue>>) {
        assert!(
            self.waiting.is_empty(),
            "a page is asked for when there is none"
        );
        match page {
            Some(kvs) => self.waiting.extend(kvs),
            None => self.over = true,
        }
    }
}

#[derive(Debug, Default)]
struct Merge {
    before: Reading,
    after: Reading,
}

impl Merge {
    fn step(&mut self) -> Step {
        loop {
            let (before, after) = (self.before.waiting.front(), self.after.waiting.front());
            if before.is_none() && !self.before.over {
                return Step::Before;
            }
            if after.is_none() && !self.after.over {
                return Step::After;
            }
            let order = match (before, after) {
                (None, None) => return Step::End,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(before), Some(after)) => before.key.cmp(&after.key),
            };
            let before = order.is_le().then(|| self.before.waiting.pop_front());
            let after = order.is_ge().then(|| self.after.waiting.pop_front());
            let change = Change {
                before: before.flatten(),
                after: after.flatten(),
            };
            let revision = |kv: &Option<KeyValue>| kv.as_ref().map(|kv| kv.mod_revision);
            if revision(&change.before) != revision(&change.after) {
                return Step::Changed(change);
            }
        }
    }
}

/// What changed below a prefix between two revisions, without values.
#[derive(Debug)]
pub(crate) struct Changes {
    before: Pages,
    after: Pages,
    merge: Merge,
    to: i64,
}

impl Changes {
    /// From the state at revision `from` to that at `to`, or now when that is 0.
    pub(crate) async fn between(
        client: &Client,
        prefix: &[u8],
        from: i64,
        to: i64,
    ) -> Result<Self, KvError> {
        let get = Get::prefix(prefix.to_vec()).keys_only();
        let after = client.get_pages(get.clone().revision(to)).await?;
        let before = client.get_pages(get.revision(from)).await?;
        Ok(Self {
            to: if to == 0 { after.revision() } else { to },
            before,
            after,
            merge: Merge::default(),
        })
    }

    /// The later revision.
    pub(crate) fn to(&self) -> i64 {
        self.to
    }

    /// Whether there is no key at either revision.
    pub(crate) fn no_keys(&self) -> bool {
        self.before.count() == 0 && self.after.count() == 0
    }

    /// The next key that differs; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Change>, KvError> {
        loop {
            match self.merge.step() {
                Step::Before => self.merge.before.page(self.before.next().await?),
                Step::After => self.merge.after.page(self.after.next().await?),
                Step::Changed(change) => return Ok(Some(change)),
                Step::End => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    type State = BTreeMap<u8, i64>;

    fn kv(key: u8, revision: i64) -> KeyValue {
        KeyValue {
            key: vec![key].into(),
            mod_revision: revision,
            ..KeyValue::default()
        }
    }

    fn merged(before: &State, after: &State, page: usize) -> Vec<Change> {
        let pages = |state: &State| -> VecDeque<Vec<KeyValue>> {
            let all: Vec<KeyValue> = state.iter().map(|(key, at)| kv(*key, *at)).collect();
            all.chunks(page).map(<[KeyValue]>::to_vec).collect()
        };
        let (mut left, mut right) = (pages(before), pages(after));
        let mut merge = Merge::default();
        let mut found = Vec::new();
        loop {
            match merge.step() {
                Step::Before => merge.before.page(left.pop_front()),
                Step::After => merge.after.page(right.pop_front()),
                Step::Changed(change) => found.push(change),
                Step::End => return found,
            }
        }
    }

    proptest! {
        #[test]
        fn every_key_that_differs_comes_once_in_order(
            before in prop::collection::btree_map(0_u8..12, 1_i64..4, 0..12),
            after in prop::collection::btree_map(0_u8..12, 1_i64..4, 0..12),
            page in 1_usize..5,
        ) {
            let keys: BTreeSet<u8> = before.keys().chain(after.keys()).copied().collect();
            let wanted: Vec<Change> = keys
                .into_iter()
                .filter(|key| before.get(key) != after.get(key))
                .map(|key| Change {
                    before: before.get(&key).map(|at| kv(key, *at)),
                    after: after.get(&key).map(|at| kv(key, *at)),
                })
                .collect();
            prop_assert_eq!(merged(&before, &after, page), wanted);
        }
    }
}
