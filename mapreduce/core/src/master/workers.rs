//! Workers as a master sees them: who is there, what they run, which have a slot to spare.
//!
//! Invariant: `free` holds exactly those that may be given something, by how much they run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::event::WorkerInfo;
use super::settings::Settings;
use crate::limits::{SLOTS_MAX, WORKERS_MAX};
use crate::names::{AttemptId, HostName, Incarnation, WorkerName, ZoneName};

/// One worker.
#[derive(Clone, Debug)]
pub(super) struct Worker {
    pub(super) info: WorkerInfo,
    /// Number of its last report; none before the first.
    pub(super) sequence: Option<u64>,
    /// When it last reported, or joined.
    pub(super) heard: Duration,
    /// It has said nothing for too long, or nothing yet.
    pub(super) silent: bool,
    /// What it was given and has not finished.
    pub(super) running: BTreeSet<AttemptId>,
    failures_in_a_row: u32,
    rests: u32,
    pub(super) rests_until: Duration,
}

impl Worker {
    fn used(&self) -> u32 {
        u32::try_from(self.running.len()).unwrap_or(u32::MAX)
    }

    fn spare(&self, now: Duration) -> bool {
        !self.silent && self.used() < self.info.slots && self.rests_until <= now
    }
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Workers {
    by_incarnation: BTreeMap<Incarnation, Worker>,
    by_name: BTreeMap<WorkerName, Incarnation>,
    /// Those that may be given something, the least busy first.
    free: BTreeSet<(u32, Incarnation)>,
    /// Those that rest, and until when.
    resting: BTreeSet<(Duration, Incarnation)>,
    zones: BTreeMap<ZoneName, BTreeMap<HostName, u32>>,
    /// Slots of those that are not silent.
    slots: u32,
    now: Duration,
}

impl Workers {
    /// Time goes on; those whose rest is over are free.
    pub(super) fn at(&mut self, now: Duration) -> bool {
        self.now = now;
        let mut woke = false;
        while let Some((until, incarnation)) = self.resting.first().copied()
            && until <= now
        {
            self.resting.pop_first();
            self.change(incarnation, |_| {});
            woke = true;
        }
        woke
    }

    /// Changes a worker, and what follows from that.
    pub(super) fn change<T>(
        &mut self,
        incarnation: Incarnation,
        change: impl FnOnce(&mut Worker) -> T,
    ) -> Option<T> {
        let worker = self.by_incarnation.get_mut(&incarnation)?;
        self.free.remove(&(worker.used(), incarnation));
        if !worker.silent {
            self.slots -= worker.info.slots;
        }
        let result = change(worker);
        if !worker.silent {
            self.slots += worker.info.slots;
        }
        if worker.spare(self.now) {
            self.free.insert((worker.used(), incarnation));
        }
        Some(result)
    }

    /// A new life; what it replaces, which has to be given up first. None: it is not taken.
    pub(super) fn join(&mut self, mut info: WorkerInfo) -> Option<()> {
        if self.by_incarnation.len() >= WORKERS_MAX {
            return None;
        }
        info.slots = info.slots.min(SLOTS_MAX);
        let incarnation = info.incarnation;
        self.by_name.insert(info.name.clone(), incarnation);
        let hosts = self.zones.entry(info.zone.clone()).or_default();
        *hosts.entry(info.host.clone()).or_default() += 1;
        let worker = Worker {
            info,
            sequence: None,
            heard: self.now,
            silent: true,
            running: BTreeSet::new(),
            failures_in_a_row: 0,
            rests: 0,
            rests_until: Duration::ZERO,
        };
        self.by_incarnation.insert(incarnation, worker);
        Some(())
    }

    pub(super) fn remove(&mut self, incarnation: Incarnation) -> Option<Worker> {
        self.change(incarnation, |worker| worker.silent = true)?;
        let worker = self.by_incarnation.remove(&incarnation)?;
        if self.by_name.get(&worker.info.name) == Some(&incarnation) {
            self.by_name.remove(&worker.info.name);
        }
        if let Some(hosts) = self.zones.get_mut(&worker.info.zone) {
            if let Some(count) = hosts.get_mut(&worker.info.host) {
                *count -= 1;
            }
            hosts.retain(|_, count| *count > 0);
        }
        self.resting.remove(&(worker.rests_until, incarnation));
        Some(worker)
    }

    /// A failure that counts: after some in a row it rests.
    pub(super) fn failed(&mut self, incarnation: Incarnation, settings: &Settings) {
        let now = self.now;
        let rest = self.change(incarnation, |worker| {
            worker.failures_in_a_row += 1;
            if worker.failures_in_a_row < settings.rest_after {
                return None;
            }
            worker.failures_in_a_row = 0;
            let times = 1_u32 << worker.rests.min(10);
            worker.rests = worker.rests.saturating_add(1);
            let before = worker.rests_until;
            worker.rests_until = now + settings.rest.saturating_mul(times).min(settings.rest_max);
            Some((before, worker.rests_until))
        });
        if let Some(Some((before, until))) = rest {
            self.resting.remove(&(before, incarnation));
            self.resting.insert((until, incarnation));
        }
    }

    /// An attempt there finished.
    pub(super) fn succeeded(&mut self, incarnation: Incarnation) {
        if let Some(worker) = self.by_incarnation.get_mut(&incarnation) {
            worker.failures_in_a_row = 0;
            worker.rests = 0;
        }
    }

    pub(super) fn get(&self, incarnation: Incarnation) -> Option<&Worker> {
        self.by_incarnation.get(&incarnation)
    }

    pub(super) fn by_name(&self, name: &WorkerName) -> Option<Incarnation> {
        self.by_name.get(name).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Incarnation, &Worker)> {
        self.by_incarnation.iter()
    }

    pub(super) fn free(&self) -> &BTreeSet<(u32, Incarnation)> {
        &self.free
    }

    /// Slots of those that were heard.
    pub(super) fn slots(&self) -> u32 {
        self.slots
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_incarnation.is_empty()
    }

    /// Hosts in a zone, with how many workers each has.
    pub(super) fn near(&self, zone: &ZoneName) -> Option<&BTreeMap<HostName, u32>> {
        self.zones.get(zone)
    }

    /// Whether anybody but this one may be given something, now or when it has finished.
    pub(super) fn has_other(&self, than: Incarnation) -> bool {
        let mut others = self.by_incarnation.iter().filter(|(incarnation, worker)| {
            **incarnation != than && !worker.silent && worker.rests_until <= self.now
        });
        others.next().is_some()
    }

    pub(super) fn check(&self) {
        let spare = self
            .by_incarnation
            .iter()
            .filter(|(_, worker)| worker.spare(self.now));
        let spare = spare.map(|(incarnation, worker)| (worker.used(), *incarnation));
        assert_eq!(self.free, spare.collect(), "free workers");
        let heard = self.by_incarnation.values().filter(|worker| !worker.silent);
        let slots = heard.map(|worker| worker.info.slots).sum::<u32>();
        assert_eq!(self.slots, slots, "slots");
    }
}
