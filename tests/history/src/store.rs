//! The sequential model: what a store answers when requests come one at a time.
//!
//! Rules: an empty store is at revision 1 in etcd (here: where the history begins); a request that
//! changes something adds exactly 1, whatever the number of keys; a deletion of nothing, a read and
//! a write whose condition does not hold add nothing.

use std::collections::BTreeMap;

use crate::operation::{Change, Condition, Kv, Reply, Request};

/// A state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Store {
    /// Of the last change.
    pub revision: i64,
    /// What exists.
    pub keys: BTreeMap<String, Kv>,
}

impl Store {
    /// An empty one.
    pub fn new(revision: i64) -> Self {
        Self {
            revision,
            keys: BTreeMap::new(),
        }
    }

    /// The answer to a request, and the state after it if that is another one.
    pub fn execute(&self, request: &Request) -> (Reply, Option<Self>) {
        match request {
            Request::Read { key: None, .. } => (self.told(true, self.keys.clone()), None),
            Request::Read { key: Some(key), .. } => (self.told(true, self.only(key)), None),
            Request::Write { when, changes } => match when {
                Some((key, condition)) if !self.holds(key, condition) => {
                    (self.told(false, self.only(key)), None)
                }
                Some(_) | None => self.write(changes),
            },
        }
    }

    fn told(&self, succeeded: bool, found: BTreeMap<String, Kv>) -> Reply {
        Reply {
            revision: self.revision,
            succeeded,
            deleted: 0,
            found,
        }
    }

    fn only(&self, key: &str) -> BTreeMap<String, Kv> {
        let found = self.keys.get_key_value(key);
        found
            .map(|(key, kv)| (key.clone(), kv.clone()))
            .into_iter()
            .collect()
    }

    fn holds(&self, key: &str, condition: &Condition) -> bool {
        let found = self.keys.get(key);
        match condition {
            Condition::Revision(revision) => found.map_or(0, |kv| kv.modified) == *revision,
            Condition::Value(value) => found.is_some_and(|kv| kv.value == *value),
        }
    }

    fn write(&self, changes: &BTreeMap<String, Option<String>>) -> (Reply, Option<Self>) {
        let mut after = self.clone();
        after.revision += 1;
        let mut deleted = 0;
        for (key, value) in changes {
            match value {
                Some(value) => {
                    let before = after.keys.get(key);
                    let kv = Kv {
                        value: value.clone(),
                        create: before.map_or(after.revision, |kv| kv.create),
                        modified: after.revision,
                        version: before.map_or(1, |kv| kv.version + 1),
                    };
                    after.keys.insert(key.clone(), kv);
                }
                None => deleted += i64::from(after.keys.remove(key).is_some()),
            }
        }
        let changed = deleted > 0 || changes.values().any(Option::is_some);
        let reply = Reply {
            revision: if changed {
                after.revision
            } else {
                self.revision
            },
            succeeded: true,
            deleted,
            found: BTreeMap::new(),
        };
        (reply, changed.then_some(after))
    }

    /// What the log says of the step from an earlier state to this one.
    pub fn changes_since(&self, before: &Self) -> Vec<Change> {
        let mut keys: Vec<&String> = before.keys.keys().chain(self.keys.keys()).collect();
        keys.sort();
        keys.dedup();
        keys.into_iter()
            .filter(|key| before.keys.get(*key) != self.keys.get(*key))
            .map(|key| Change {
                revision: self.revision,
                key: key.clone(),
                kv: self.keys.get(key).cloned(),
            })
            .collect()
    }
}
