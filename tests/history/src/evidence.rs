//! What a history says for certain about who wrote which revision, before anything is tried.
//!
//! A write that was answered says its revision itself. One whose outcome is unknown is found out by
//! anybody who saw its value, because values are unique and a version tells its revision.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::check::Refusal;
use crate::operation::{Condition, History, Kv, Operation, Outcome, Request};

/// Operations by place in the history's list.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    /// Who certainly wrote a revision.
    pub(crate) writers: BTreeMap<i64, usize>,
    /// Answered operations without an effect, by the revision that they saw.
    pub(crate) readers: BTreeMap<i64, Vec<usize>>,
    /// Writes that may have taken effect at any revision without a writer, by their call.
    pub(crate) loose: Vec<usize>,
    /// Values in conditions: these matter although nobody read them.
    pub(crate) compared: BTreeSet<String>,
    /// Newest revision that anybody was told.
    pub(crate) last: i64,
    /// The revisions of writers whose own answer does not say them.
    found_out: BTreeMap<usize, i64>,
}

/// Who saw a version.
#[derive(Debug, Clone, Copy)]
enum Witness<'a> {
    Reader(&'a Operation),
    Log,
}

impl Witness<'_> {
    fn id(self) -> Option<usize> {
        match self {
            Self::Reader(operation) => Some(operation.id),
            Self::Log => None,
        }
    }
}

impl fmt::Display for Witness<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reader(operation) => operation.fmt(out),
            Self::Log => out.write_str("the log"),
        }
    }
}

/// Gathers it; refuses what contradicts itself.
pub(crate) fn gather(history: &History) -> Result<Evidence, Refusal> {
    let mut evidence = Evidence {
        last: history.start,
        ..Evidence::default()
    };
    let wrote = authors(&history.operations)?;
    for (place, operation) in history.operations.iter().enumerate() {
        evidence.answered(history, place, operation)?;
    }
    for operation in &history.operations {
        for (key, kv) in operation.reply().into_iter().flat_map(|reply| &reply.found) {
            evidence.seen(history, &wrote, key, kv, Witness::Reader(operation))?;
        }
    }
    for change in history.log.iter().flatten() {
        evidence.last = evidence.last.max(change.revision);
        if let Some(kv) = &change.kv {
            evidence.seen(history, &wrote, &change.key, kv, Witness::Log)?;
        }
    }
    let certain: BTreeSet<usize> = evidence.writers.values().copied().collect();
    let unknown = history
        .operations
        .iter()
        .enumerate()
        .filter(|(place, one)| {
            one.outcome == Outcome::Unknown
                && matches!(one.request, Request::Write { .. })
                && !certain.contains(place)
        });
    evidence.loose = unknown.map(|(place, _)| place).collect();
    let call = |place: &usize| history.operations[*place].call;
    evidence.loose.sort_by_key(call);
    Ok(evidence)
}

/// Who wrote a value to a key.
type Authors<'a> = BTreeMap<(&'a String, &'a String), usize>;

fn authors(operations: &[Operation]) -> Result<Authors<'_>, Refusal> {
    let mut wrote: Authors<'_> = BTreeMap::new();
    for (place, operation) in operations.iter().enumerate() {
        for (key, value) in operation.request.values() {
            if let Some(other) = wrote.insert((key, value), place) {
                let text = format!(
                    "two operations write {key} = {value}, so this history cannot be checked: \
                     {} and {operation}",
                    operations[other]
                );
                return Err(Refusal::new(0, text, &[operations[other].id, operation.id]));
            }
        }
    }
    Ok(wrote)
}

impl Evidence {
    fn answered(
        &mut self,
        history: &History,
        place: usize,
        operation: &Operation,
    ) -> Result<(), Refusal> {
        if let Request::Write {
            when: Some((_, Condition::Value(value))),
            ..
        } = &operation.request
        {
            self.compared.insert(value.clone());
        }
        let Some(reply) = operation.reply() else {
            return Ok(());
        };
        if reply.revision < history.start {
            let text = format!("the store began at r{}: {operation}", history.start);
            return Err(Refusal::new(reply.revision, text, &[operation.id]));
        }
        self.last = self.last.max(reply.revision);
        let reads = match &operation.request {
            Request::Read { .. } => true,
            Request::Write { .. } => {
                !reply.succeeded || (operation.request.only_deletes() && reply.deleted == 0)
            }
        };
        if reads {
            self.readers.entry(reply.revision).or_default().push(place);
            return Ok(());
        }
        if reply.revision == history.start {
            let text = format!("a change needs a new revision: {operation}");
            return Err(Refusal::new(reply.revision, text, &[operation.id]));
        }
        self.write(history, reply.revision, place, &"its answer")
    }

    fn write(
        &mut self,
        history: &History,
        revision: i64,
        place: usize,
        says: &dyn fmt::Display,
    ) -> Result<(), Refusal> {
        let operations = &history.operations;
        match self.writers.insert(revision, place) {
            Some(other) if other != place => {
                let (one, two) = (&operations[other], &operations[place]);
                let text = format!("two writes at r{revision}: {one}; and, as {says} says, {two}");
                Err(Refusal::new(revision, text, &[one.id, two.id]))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Somebody saw a version: its author took effect, at its revision.
    fn seen(
        &mut self,
        history: &History,
        wrote: &Authors<'_>,
        key: &String,
        kv: &Kv,
        by: Witness<'_>,
    ) -> Result<(), Refusal> {
        let refuse = |text: String, more: &[usize]| {
            let ids: Vec<usize> = more.iter().copied().chain(by.id()).collect();
            Err(Refusal::new(kv.modified, text, &ids))
        };
        let Some(place) = wrote.get(&(key, &kv.value)).copied() else {
            return refuse(format!("nobody wrote {key} = {}: {by}", kv.value), &[]);
        };
        let author = &history.operations[place];
        let took_effect = match &author.outcome {
            Outcome::Unknown => true,
            Outcome::Failed => false,
            Outcome::Done(reply) => reply.succeeded,
        };
        if !took_effect {
            let text = format!("a write without an effect was seen: {author}; by {by}");
            return refuse(text, &[author.id]);
        }
        let elsewhere = match &author.outcome {
            Outcome::Done(reply) => Some(reply.revision),
            Outcome::Failed | Outcome::Unknown => self.found_out.get(&place).copied(),
        };
        match elsewhere {
            Some(revision) if revision == kv.modified => Ok(()),
            Some(revision) => {
                let text = format!(
                    "one write at two revisions, r{revision} and r{}: {author}; the latter by \
                     {by}",
                    kv.modified
                );
                refuse(text, &[author.id])
            }
            None => {
                self.found_out.insert(place, kv.modified);
                self.write(history, kv.modified, place, &by)
            }
        }
    }
}
