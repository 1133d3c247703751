//! The one history that all members must have: what each revision changed.
//!
//! Invariant: a revision that is here was published by a member; it never changes.

use std::collections::BTreeMap;

use bytes::Bytes;
use cfgsvc::watch::commit::Commit;
use cfgsvc_core::placement::keys::PREFIX;
use cfgsvc_proto::kv::event::EventType;

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: Bytes,
    /// Its value from then on; `None` when it was deleted.
    pub value: Option<Bytes>,
}

/// The changes of a commit.
pub fn changes_of(commit: &Commit) -> Vec<Change> {
    let events = commit.events.iter();
    events
        .filter_map(|event| {
            let kv = event.kv.as_ref()?;
            let value = match event.r#type() {
                EventType::Put => Some(kv.value.clone()),
                EventType::Delete => None,
            };
            Some(Change {
                key: kv.key.clone(),
                value,
            })
        })
        .collect()
}

/// The history.
#[derive(Debug, Default)]
pub struct History {
    revisions: BTreeMap<i64, Vec<Change>>,
    keys: BTreeMap<Bytes, BTreeMap<i64, Option<Bytes>>>,
    values: BTreeMap<Bytes, i64>,
}

impl History {
    /// Last revision that was published.
    pub fn last(&self) -> i64 {
        self.revisions.last_key_value().map_or(1, |(last, _)| *last)
    }

    /// Revisions are left out, up to this one; whether that is new.
    pub fn jumps(&mut self, revision: i64) -> bool {
        let new = revision > self.last();
        if new {
            self.revisions.insert(revision, Vec::new());
        }
        new
    }

    /// A member published `commit`; whether it is the first.
    pub fn published(&mut self, member: u64, commit: &Commit) -> Result<bool, String> {
        let changes = changes_of(commit);
        let revision = commit.revision;
        if let Some(known) = self.revisions.get(&revision) {
            if *known == changes {
                return Ok(false);
            }
            return Err(format!(
                "revision {revision} is {changes:?} at member {member} and {known:?} elsewhere"
            ));
        }
        if revision != self.last() + 1 {
            return Err(format!(
                "revision {revision} of member {member} comes after {}",
                self.last()
            ));
        }
        for change in &changes {
            let versions = self.keys.entry(change.key.clone()).or_default();
            versions.insert(revision, change.value.clone());
            // Clients never write a value twice; a role may be as it was before.
            if !change.key.starts_with(PREFIX)
                && let Some(value) = &change.value
                && let Some(first) = self.values.insert(value.clone(), revision)
            {
                return Err(format!(
                    "the write of {value:?} was executed twice, at revisions {first} and {revision}"
                ));
            }
        }
        self.revisions.insert(revision, changes);
        Ok(true)
    }

    /// What a revision changed.
    pub fn at(&self, revision: i64) -> Option<&[Change]> {
        self.revisions.get(&revision).map(Vec::as_slice)
    }

    /// Revision at which a value was written.
    pub fn written_at(&self, value: &Bytes) -> Option<i64> {
        self.values.get(value).copied()
    }

    /// The value of `key` as of `revision`, and the revision that set it; `None` without one.
    pub fn value_at(&self, key: &Bytes, revision: i64) -> Option<(i64, &Bytes)> {
        let versions = self.keys.get(key)?;
        let (at, value) = versions.range(..=revision).next_back()?;
        value.as_ref().map(|value| (*at, value))
    }

    /// All keys of `first..end` with values as of `revision`.
    pub fn all_at(&self, first: &[u8], end: &[u8], revision: i64) -> Vec<(Bytes, Bytes)> {
        let keys = self.keys.keys();
        let keys = keys.filter(|key| key.as_ref() >= first && key.as_ref() < end);
        keys.filter_map(|key| {
            let (_, value) = self.value_at(key, revision)?;
            Some((key.clone(), value.clone()))
        })
        .collect()
    }

    /// Revisions in `first..=last` that changed a key of `wanted`.
    pub fn changed_between(
        &self,
        first: i64,
        last: i64,
        wanted: impl Fn(&Bytes) -> bool,
    ) -> Vec<i64> {
        if first > last {
            return Vec::new();
        }
        let range = self.revisions.range(first..=last);
        range
            .filter(|(_, changes)| changes.iter().any(|change| wanted(&change.key)))
            .map(|(revision, _)| *revision)
            .collect()
    }
}
