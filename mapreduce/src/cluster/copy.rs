//! What a master and a worker follow of the group: who is the master, which workers there are, and
//! of each job that goes on the header and the fold of its log.

use crate::cluster::keys::{self, Info, MasterEntry, Part, WorkerEntry};
use crate::cluster::publication::Destination;
use cfgsvc_client::{Event, EventKind, Keep, KeyValue};
use mapreduce_core::job::JobState;
use mapreduce_core::names::{AttemptId, Incarnation, JobId, TaskId};
use mapreduce_core::record::{Batch, FailureClass, Header, JobStatus, Record};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;

/// Failed attempts of a job that are kept to be shown: with messages of 512 octets, 10 KiB a job.
const MISHAPS_MAX: usize = 20;

/// An attempt that failed, as the log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mishap {
    pub(crate) task: TaskId,
    pub(crate) attempt: AttemptId,
    pub(crate) class: FailureClass,
    pub(crate) message: String,
    /// The record at which it was, from 0 in its split or partition.
    pub(crate) position: Option<u64>,
}

/// A job, as far as it is followed.
#[derive(Debug)]
pub(crate) struct JobCopy {
    pub(crate) id: JobId,
    pub(crate) header: Header,
    /// The fold of the log; see [`Ended`].
    pub(crate) state: JobState,
    /// Where its output goes, and whether it is there.
    pub(crate) destination: Option<Destination>,
    /// For people.
    pub(crate) info: Option<Info>,
    /// Its latest failures, the last one last.
    pub(crate) mishaps: VecDeque<Mishap>,
    /// What the log has that cannot be: nothing is done for such a job.
    pub(crate) damage: Option<String>,
    /// The fold is there no more.
    is_forgotten: bool,
}

impl JobCopy {
    /// Keeps what failed.
    fn note(&mut self, records: Vec<Record>) {
        for record in records {
            if let Record::Failed {
                task,
                attempt,
                class,
                message,
                position,
            } = record
            {
                if self.mishaps.len() == MISHAPS_MAX {
                    self.mishaps.pop_front();
                }
                self.mishaps.push_back(Mishap {
                    task,
                    attempt,
                    class,
                    message,
                    position,
                });
            }
        }
    }
}

/// What there is of a job that is none: it is being submitted or removed, or was left at that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Partial {
    /// Where its output was to go.
    pub(crate) destination: Option<Destination>,
    /// Who submits it is there.
    pub(crate) is_submitting: bool,
}

/// What has changed.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    /// Jobs by key, whose header or log is another.
    pub(crate) jobs: BTreeSet<String>,
    /// Names of workers.
    pub(crate) workers: BTreeSet<String>,
    /// Another is the master, or nobody.
    pub(crate) master: bool,
    /// All changes up to now are among these, and the group has confirmed it.
    pub(crate) is_confirmed: bool,
}

impl Changed {
    /// What has changed since, too.
    pub(crate) fn extend(&mut self, more: Self) {
        self.jobs.extend(more.jobs);
        self.workers.extend(more.workers);
        self.master |= more.master;
        self.is_confirmed |= more.is_confirmed;
    }
}

/// What has changed and was not looked at.
#[derive(Default)]
pub(crate) struct News {
    changed: Mutex<Changed>,
    told: Notify,
}

impl News {
    /// Adds changes.
    pub(crate) fn tell(&self, changes: Changed) {
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        changed.extend(changes);
        drop(changed);
        self.told.notify_one();
    }

    /// Waits for changes, and takes them.
    pub(crate) async fn next(&self) -> Changed {
        self.told.notified().await;
        std::mem::take(&mut *self.changed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// For how long a copy has the tasks of a job that has ended. A large job has a hundred thousand of
/// them, and a hundred jobs are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Ended {
    /// While the job is there: people ask who ran what.
    #[default]
    Kept,
    /// Until its output is in its place: that is made of them.
    UntilSettled,
    /// A worker does nothing more for it.
    Forgotten,
}

/// The copy.
#[derive(Debug, Default)]
pub(crate) struct Copy {
    ended: Ended,
    /// The master's entry, and the revision at which it was written.
    pub(crate) master: Option<(MasterEntry, i64)>,
    /// Workers by name, with their lives.
    pub(crate) workers: BTreeMap<String, (Incarnation, WorkerEntry)>,
    /// Jobs by key.
    pub(crate) jobs: BTreeMap<String, JobCopy>,
    /// What has no header.
    pub(crate) partial: BTreeMap<String, Partial>,
}

impl Copy {
    /// Nothing yet; of what has ended so much is kept.
    pub(crate) fn keeping(ended: Ended) -> Self {
        Self {
            ended,
            ..Self::default()
        }
    }

    /// Forgets the tasks of a job that is over.
    fn forget_ended(&mut self, job: &str) {
        let Some(known) = self.jobs.get_mut(job) else {
            return;
        };
        let is_settled = known.destination.as_ref().is_none_or(|to| to.settled);
        let may_go = match self.ended {
            Ended::Kept => false,
            Ended::UntilSettled => is_settled,
            Ended::Forgotten => true,
        };
        if may_go && known.header.status != JobStatus::Running {
            known.state = JobState::new(0, 0);
            known.is_forgotten = true;
        }
    }

    /// The job with this number.
    pub(crate) fn job(&self, id: JobId) -> Option<(&str, &JobCopy)> {
        let found = self.jobs.iter().find(|(_, job)| job.id == id);
        found.map(|(key, job)| (key.as_str(), job))
    }

    /// Where a life of a worker is reached.
    pub(crate) fn address(&self, of: Incarnation) -> Option<&str> {
        let found = self.workers.values().find(|(life, _)| *life == of);
        found.map(|(_, entry)| entry.address.as_str())
    }

    fn put(&mut self, kv: &KeyValue, changed: &mut Changed) {
        let Ok(key) = std::str::from_utf8(&kv.key) else {
            return;
        };
        if key == keys::MASTER {
            let entry = serde_json::from_slice(&kv.value).ok();
            self.master = entry.map(|entry| (entry, kv.mod_revision));
            changed.master = true;
        } else if let Some(name) = key.strip_prefix(keys::WORKERS) {
            let life = Incarnation(kv.create_revision.unsigned_abs());
            if let Ok(entry) = serde_json::from_slice(&kv.value) {
                self.workers.insert(name.to_owned(), (life, entry));
                changed.workers.insert(name.to_owned());
            }
        } else if let Some((job, part)) = keys::parse(key) {
            self.put_job(job, part, kv, changed);
        }
    }

    fn put_destination(&mut self, job: &str, value: &[u8], changed: &mut Changed) {
        let Ok(destination) = serde_json::from_slice::<Destination>(value) else {
            return;
        };
        if let Some(known) = self.jobs.get_mut(job) {
            known.destination = Some(destination);
        } else {
            let partial = self.partial.entry(job.to_owned()).or_default();
            partial.destination = Some(destination);
        }
        changed.jobs.insert(job.to_owned());
    }

    fn put_job(&mut self, job: &str, part: Part, kv: &KeyValue, changed: &mut Changed) {
        match part {
            Part::Header => {
                let Ok(header) = Header::decode(&kv.value) else {
                    return;
                };
                let id = JobId(kv.create_revision.unsigned_abs());
                let (maps, reduces) = (header.maps, header.reduces);
                let known = self.jobs.get_mut(job).filter(|known| known.id == id);
                if let Some(known) = known {
                    known.header = header;
                } else {
                    let state = JobState::new(maps, reduces);
                    let damage = None;
                    let copy = JobCopy {
                        id,
                        header,
                        state,
                        destination: None,
                        info: None,
                        mishaps: VecDeque::new(),
                        damage,
                        is_forgotten: false,
                    };
                    self.jobs.insert(job.to_owned(), copy);
                }
                let partial = self.partial.remove(job);
                if let (Some(known), Some(partial)) = (self.jobs.get_mut(job), partial) {
                    known.destination = partial.destination;
                }
                changed.jobs.insert(job.to_owned());
            }
            Part::Log(sequence) => {
                let known = self.jobs.get_mut(job).filter(|known| !known.is_forgotten);
                let Some(known) = known else {
                    return;
                };
                let batch = Batch::decode(&kv.value).map_err(|error| error.to_string());
                let applied = batch.and_then(|batch| {
                    let applied = known.state.apply(sequence, &batch);
                    known.note(batch.records);
                    applied.map_err(|error| error.to_string())
                });
                if let Err(error) = applied {
                    known.damage.get_or_insert(error);
                }
                changed.jobs.insert(job.to_owned());
            }
            Part::Output => self.put_destination(job, &kv.value, changed),
            Part::Submitting => {
                if !self.jobs.contains_key(job) {
                    let partial = self.partial.entry(job.to_owned()).or_default();
                    partial.is_submitting = true;
                }
            }
            Part::Info => {
                if let Some(known) = self.jobs.get_mut(job) {
                    known.info = serde_json::from_slice(&kv.value).ok();
                }
            }
            Part::Spec | Part::Splits(_) | Part::Ranges(_) => {}
        }
        if matches!(part, Part::Header | Part::Log(_) | Part::Output) {
            self.forget_ended(job);
        }
    }

    fn delete(&mut self, key: &[u8], changed: &mut Changed) {
        let Ok(key) = std::str::from_utf8(key) else {
            return;
        };
        if key == keys::MASTER {
            self.master = None;
            changed.master = true;
        } else if let Some(name) = key.strip_prefix(keys::WORKERS) {
            self.workers.remove(name);
            changed.workers.insert(name.to_owned());
        } else if let Some((job, part)) = keys::parse(key) {
            self.delete_of_job(job, part, changed);
        }
    }

    fn delete_of_job(&mut self, job: &str, part: Part, changed: &mut Changed) {
        match part {
            Part::Header => {
                // The rest of it is still there.
                let removed = self.jobs.remove(job);
                if let Some(destination) = removed.and_then(|removed| removed.destination) {
                    let partial = self.partial.entry(job.to_owned()).or_default();
                    partial.destination = Some(destination);
                }
            }
            Part::Output => {
                self.partial.remove(job);
            }
            Part::Submitting => {
                if let Some(partial) = self.partial.get_mut(job) {
                    partial.is_submitting = false;
                }
            }
            Part::Info | Part::Spec | Part::Splits(_) | Part::Ranges(_) | Part::Log(_) => return,
        }
        changed.jobs.insert(job.to_owned());
    }
}

impl Keep for Copy {
    type Changes = Changed;
    const MERGES: bool = true;

    fn load(&mut self, kvs: Vec<KeyValue>) -> Changed {
        let before = std::mem::replace(self, Self::keeping(self.ended));
        let mut changed = Changed {
            jobs: before.jobs.into_keys().collect(),
            workers: before.workers.into_keys().collect(),
            master: true,
            is_confirmed: false,
        };
        // In the order of keys a header comes before its log.
        for kv in &kvs {
            self.put(kv, &mut changed);
        }
        changed
    }

    fn apply(&mut self, events: Vec<Event>) -> Changed {
        let mut changed = Changed::default();
        for event in events {
            match event.kind {
                EventKind::Put => self.put(&event.kv, &mut changed),
                EventKind::Delete => self.delete(&event.kv.key, &mut changed),
            }
        }
        changed
    }
}

/// What a job has counted, by group and name.
pub(crate) fn counters(state: &JobState) -> BTreeMap<String, BTreeMap<String, u128>> {
    let mut groups = BTreeMap::<String, BTreeMap<String, u128>>::new();
    for (name, count) in state.counters() {
        // Others are the core's own, which nobody counts by.
        if let Some((group, name)) = name.split_once('/') {
            let group = groups.entry(group.to_owned()).or_default();
            group.insert(name.to_owned(), count);
        }
    }
    groups
}

/// Whether a job goes on.
pub(crate) fn runs(job: &JobCopy) -> bool {
    job.header.status == JobStatus::Running && job.damage.is_none()
}

#[cfg(test)]
#[path = "copy_tests.rs"]
mod tests;
