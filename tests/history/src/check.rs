//! The order that explains a history, or why there is none.
//!
//! Linearizability is undecided in general without trying orders; here every answer carries the
//! store's revision, which is the order: the write of revision r, then all that saw r, then the
//! write of r + 1. So the check replays the history by revision against the model and compares
//! every answer; only a revision that nobody owns up to is tried, with each kind of write whose
//! outcome is unknown (Wing and Gong's search, where it has a choice at all), and what failed once
//! is remembered (Lowe's cache). The whole store is one object: a partition by key, which other
//! checkers need for speed, would not see revisions that contradict each other over keys.
//!
//! Real time: an operation that ended before another began is before it in the order. It is enough
//! to hold each operation against the latest call of all that are ordered before it.
//!
//! What no answer depends on is left open: a write of unknown outcome that no revision needs may
//! have taken effect or not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::evidence::{Evidence, gather};
use crate::operation::{Change, Condition, History, Kv, Operation, Request};
use crate::store::Store;

/// Why no order explains the history; of several dead ends the one that came furthest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not linearizable at r{revision}: {text}")]
pub struct Refusal {
    /// How far the history could be explained.
    pub revision: i64,
    /// What contradicts what.
    pub text: String,
    /// Ids of the operations that the text names.
    pub operations: Vec<usize>,
}

impl Refusal {
    pub(crate) fn new(revision: i64, text: String, operations: &[usize]) -> Self {
        Self {
            revision,
            text,
            operations: operations.to_vec(),
        }
    }
}

/// A history that has an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// The store after the newest revision that anybody was told.
    pub store: Store,
    /// Ids of writes with an unknown outcome that took effect.
    pub took_effect: Vec<usize>,
    /// Steps that were tried: the number of revisions, unless unknown outcomes left a choice.
    pub steps: usize,
}

/// Finds an order of the operations that explains every answer, see the module.
pub fn check(history: &History) -> Result<Explained, Refusal> {
    let evidence = gather(history)?;
    let mut search = Search::new(history, evidence)?;
    let first = Place {
        store: Store::new(history.start),
        latest_call: None,
        used: BTreeSet::new(),
    };
    match search.explain(first) {
        Some(last) => Ok(Explained {
            took_effect: search.unknown_writers(&last.used),
            store: last.store,
            steps: search.steps,
        }),
        None => Err(search
            .furthest
            .unwrap_or_else(|| Refusal::new(history.start, "no order was found".to_owned(), &[]))),
    }
}

/// A prefix of an order.
#[derive(Debug, Clone)]
struct Place {
    store: Store,
    /// Of what is in the prefix: the operation that was called last.
    latest_call: Option<usize>,
    /// Loose writes in the prefix.
    used: BTreeSet<usize>,
}

struct Search<'a> {
    operations: &'a [Operation],
    evidence: Evidence,
    /// What the log says of each revision.
    log: Option<BTreeMap<i64, Vec<Change>>>,
    /// By revision: the earliest end of what saw or wrote it or a later one. Whatever is ordered
    /// before must have been called by then.
    deadlines: BTreeMap<i64, u64>,
    /// Places that lead nowhere.
    failed: BTreeSet<(i64, BTreeSet<usize>, BTreeMap<String, Kv>)>,
    furthest: Option<Refusal>,
    steps: usize,
}

/// Loose writes of one kind do the same to the store but for a value that nobody looks at; the one
/// that was called first can stand for any other of them.
type Kind<'a> = (
    Option<&'a (String, Condition)>,
    Vec<(&'a str, bool, &'a str)>,
);

impl<'a> Search<'a> {
    fn new(history: &'a History, evidence: Evidence) -> Result<Self, Refusal> {
        let mut deadlines = BTreeMap::new();
        let mut earliest = u64::MAX;
        for revision in (history.start..=evidence.last).rev() {
            let writer = evidence.writers.get(&revision);
            let readers = evidence.readers.get(&revision);
            for place in writer.into_iter().chain(readers.into_iter().flatten()) {
                earliest = earliest.min(history.operations[*place].latest());
            }
            deadlines.insert(revision, earliest);
        }
        let mut log = None;
        if let Some(changes) = &history.log {
            let mut revisions: BTreeMap<i64, Vec<Change>> = BTreeMap::new();
            for change in changes {
                let at = revisions.entry(change.revision).or_default();
                at.push(change.clone());
            }
            for at in revisions.values_mut() {
                at.sort_by(|a, b| a.key.cmp(&b.key));
            }
            for revision in history.start + 1..=evidence.last {
                if !revisions.contains_key(&revision) {
                    return Err(missing_in_log(history, &evidence, revision));
                }
            }
            log = Some(revisions);
        }
        Ok(Self {
            operations: &history.operations,
            evidence,
            log,
            deadlines,
            failed: BTreeSet::new(),
            furthest: None,
            steps: 0,
        })
    }

    /// Goes on from a place to the end; `None` when it leads nowhere.
    fn explain(&mut self, mut at: Place) -> Option<Place> {
        loop {
            self.see(&mut at)?;
            let next = at.store.revision + 1;
            if at.store.revision >= self.evidence.last {
                return Some(at);
            }
            if let Some(writer) = self.evidence.writers.get(&next).copied() {
                at = self.write(&at, writer)?;
                continue;
            }
            let key = (next, at.used.clone(), at.store.keys.clone());
            if self.failed.contains(&key) {
                return None;
            }
            let loose = self.candidates(&at, next);
            if loose.is_empty() {
                let text = format!(
                    "nobody wrote r{next}, though r{} was seen, and no write of unknown outcome \
                     was called in time",
                    self.evidence.last
                );
                return self.refuse(next, text, &[]);
            }
            for writer in loose {
                let found = self.write(&at, writer).and_then(|mut after| {
                    after.used.insert(writer);
                    self.explain(after)
                });
                if found.is_some() {
                    return found;
                }
            }
            self.failed.insert(key);
            return None;
        }
    }

    /// The first of each kind of loose writes that may be the writer of a revision.
    fn candidates(&self, at: &Place, revision: i64) -> Vec<usize> {
        let deadline = self.deadlines.get(&revision).copied().unwrap_or(u64::MAX);
        let mut kinds: BTreeSet<Kind<'_>> = BTreeSet::new();
        let mut found = Vec::new();
        for place in &self.evidence.loose {
            let operation = &self.operations[*place];
            if operation.call > deadline {
                break;
            }
            if !at.used.contains(place) && kinds.insert(self.kind(&operation.request)) {
                found.push(*place);
            }
        }
        found
    }

    fn kind<'b>(&self, request: &'b Request) -> Kind<'b> {
        let Request::Write { when, changes } = request else {
            return (None, Vec::new());
        };
        let changes = changes.iter().map(|(key, put)| {
            let looked_at = put
                .as_ref()
                .filter(|value| self.evidence.compared.contains(*value));
            let value = looked_at.map_or("", String::as_str);
            (key.as_str(), put.is_some(), value)
        });
        (when.as_ref(), changes.collect())
    }

    /// Puts all that saw the store's revision behind its writer.
    fn see(&mut self, at: &mut Place) -> Option<()> {
        let revision = at.store.revision;
        let readers = self.evidence.readers.get(&revision).cloned();
        let mut latest = at.latest_call;
        for place in readers.into_iter().flatten() {
            self.in_time(at, place)?;
            self.answered(&at.store, place, revision)?;
            latest = Some(self.later(latest, place));
        }
        at.latest_call = latest;
        Some(())
    }

    /// Puts the writer of the next revision behind all before.
    fn write(&mut self, at: &Place, writer: usize) -> Option<Place> {
        self.steps += 1;
        let next = at.store.revision + 1;
        self.in_time(at, writer)?;
        let after = self.answered(&at.store, writer, next)?;
        let operation = &self.operations[writer];
        if after == at.store {
            let text = format!("it was the writer of r{next} and changes nothing: {operation}");
            return self.refuse(next, text, &[operation.id]);
        }
        let told = self.log.as_ref().and_then(|log| log.get(&next));
        if let Some(told) = told {
            let expected = after.changes_since(&at.store);
            if *told != expected {
                let text = format!(
                    "the log says {}, the store would have had {} after {operation}",
                    Shown(told),
                    Shown(&expected)
                );
                return self.refuse(next, text, &[operation.id]);
            }
        }
        Some(Place {
            store: after,
            latest_call: Some(self.later(at.latest_call, writer)),
            used: at.used.clone(),
        })
    }

    fn later(&self, latest: Option<usize>, place: usize) -> usize {
        let calls = |place: usize| self.operations[place].earliest();
        match latest {
            Some(other) if calls(other) >= calls(place) => other,
            Some(_) | None => place,
        }
    }

    /// Whether an operation may be ordered behind all that are there.
    fn in_time(&mut self, at: &Place, place: usize) -> Option<()> {
        let before = &self.operations[at.latest_call.unwrap_or(place)];
        let operation = &self.operations[place];
        if operation.latest() >= before.earliest() {
            return Some(());
        }
        let text = format!(
            "the first ended before the second began, yet it comes later by revision: \
             {operation}; {before}"
        );
        let ids = [operation.id, before.id];
        self.refuse(at.store.revision, text, &ids)
    }

    /// The state after an operation that was told what the store would say, the same state when it
    /// changes nothing.
    fn answered(&mut self, store: &Store, place: usize, at: i64) -> Option<Store> {
        let operation = &self.operations[place];
        let (expected, after) = store.execute(&operation.request);
        let Some(reply) = operation.reply().filter(|reply| **reply != expected) else {
            return Some(after.unwrap_or_else(|| store.clone()));
        };
        let authors = reply.found.values().chain(expected.found.values());
        let mut ids = vec![operation.id];
        let mut text = format!("the store would have said {expected} to {operation}");
        let authors: BTreeSet<usize> = authors
            .filter_map(|kv| self.evidence.writers.get(&kv.modified).copied())
            .filter(|author| *author != place)
            .collect();
        for author in authors {
            let author = &self.operations[author];
            text = format!("{text}; see {author}");
            ids.push(author.id);
        }
        if let Some(writer) = self.evidence.writers.get(&store.revision) {
            let writer = &self.operations[*writer];
            if !ids.contains(&writer.id) {
                text = format!("{text}; after {writer}");
                ids.push(writer.id);
            }
        }
        self.refuse(at, text, &ids)
    }

    /// A dead end.
    fn refuse<T>(&mut self, revision: i64, text: String, operations: &[usize]) -> Option<T> {
        let further = self
            .furthest
            .as_ref()
            .is_none_or(|other| revision > other.revision);
        if further {
            self.furthest = Some(Refusal::new(revision, text, operations));
        }
        None
    }

    fn unknown_writers(&self, used: &BTreeSet<usize>) -> Vec<usize> {
        let certain = self.evidence.writers.values();
        let mut ids: Vec<usize> = certain
            .chain(used)
            .map(|place| &self.operations[*place])
            .filter(|operation| operation.reply().is_none())
            .map(|operation| operation.id)
            .collect();
        ids.sort_unstable();
        ids
    }
}

fn missing_in_log(history: &History, evidence: &Evidence, revision: i64) -> Refusal {
    let writer = evidence.writers.get(&revision);
    let seen = || evidence.readers.range(revision..).next();
    let place = writer.or_else(|| seen().and_then(|(_, readers)| readers.first()));
    match place.map(|place| &history.operations[*place]) {
        Some(operation) => {
            let text = format!("r{revision} is not in the log, see {operation}");
            Refusal::new(revision, text, &[operation.id])
        }
        None => Refusal::new(revision, format!("the log leaves r{revision} out"), &[]),
    }
}

/// Changes for a person.
struct Shown<'a>(&'a [Change]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, change) in self.0.iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            match &change.kv {
                Some(kv) => write!(out, "{comma}{} is {kv}", change.key)?,
                None => write!(out, "{comma}{} deleted", change.key)?,
            }
        }
        Ok(())
    }
}
