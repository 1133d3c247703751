//! Maps that wait, by where their split is. What is taken from one list stays in the others and is
//! left out there when it comes to the front: so nothing is ever looked for.
//!
//! A map waits for its host first, then as long again for the host's zone, as in delay scheduling
//! (Zaharia and others, `EuroSys` 2010, section 4.1), with the time since the maps began to wait. A
//! host that has work of its own takes nothing of others however long they have waited.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::names::HostName;
use crate::plan::SplitList;

/// Tasks that may not go to the worker that asks are passed over, up to so many.
const PASSED_MAX: usize = 8;

/// What to do with a task that is at the front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// It does not wait any more.
    Drop,
    /// It waits, and not for this worker.
    Pass,
    /// This one.
    Take,
}

/// Maps of a job that wait.
#[derive(Clone, Debug, Default)]
pub(super) struct MapQueue {
    by_host: BTreeMap<HostName, VecDeque<u32>>,
    /// Without a place where they belong.
    anywhere: VecDeque<u32>,
    /// With one.
    all: VecDeque<u32>,
    /// Since when they wait; one that is run again waits for nobody.
    since: Duration,
}

/// For which worker, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker<'a> {
    pub(super) host: &'a HostName,
    /// Hosts in the same zone, which have workers.
    pub(super) near: Option<&'a BTreeMap<HostName, u32>>,
    pub(super) now: Duration,
    /// How long a map waits for a worker on its host, and then for one in its zone.
    pub(super) wait: Duration,
}

impl MapQueue {
    /// All splits, in their order.
    pub(super) fn new(splits: &SplitList, now: Duration) -> Self {
        let mut queue = Self {
            since: now,
            ..Self::default()
        };
        for (first, count, run) in splits.runs() {
            for map in first..first + count {
                queue.push_back(map, &run.hosts);
            }
        }
        queue
    }

    fn push_back(&mut self, map: u32, hosts: &[HostName]) {
        for host in hosts {
            self.host(host).push_back(map);
        }
        if hosts.is_empty() {
            self.anywhere.push_back(map);
        } else {
            self.all.push_back(map);
        }
    }

    /// A map that was run before comes first: reduces wait for it.
    pub(super) fn push_again(&mut self, map: u32, hosts: &[HostName]) {
        for host in hosts {
            self.host(host).push_front(map);
        }
        self.anywhere.push_front(map);
    }

    fn host(&mut self, host: &HostName) -> &mut VecDeque<u32> {
        if !self.by_host.contains_key(host) {
            self.by_host.insert(host.clone(), VecDeque::new());
        }
        self.by_host.entry(host.clone()).or_default()
    }

    /// The next one for this worker: of its host, of its zone, of anywhere.
    pub(super) fn take(
        &mut self,
        asker: Asker<'_>,
        mut choose: impl FnMut(u32) -> Choice,
    ) -> Option<u32> {
        let again = self.anywhere.front().copied();
        let waited = asker.now.saturating_sub(self.since);
        let may_be_near = waited >= asker.wait && !self.by_host.is_empty();
        let near = asker.near.filter(|_| may_be_near);
        let hosts = std::iter::once(asker.host).chain(near.into_iter().flat_map(BTreeMap::keys));
        for host in hosts {
            let Some(list) = self.by_host.get_mut(host) else {
                continue;
            };
            let found = take(list, |map| *map, &mut choose);
            if list.is_empty() {
                self.by_host.remove(host);
            }
            if found.is_some() {
                return found;
            }
        }
        if again.is_some()
            && let Some(found) = take(&mut self.anywhere, |map| *map, &mut choose)
        {
            return Some(found);
        }
        if waited < asker.wait.saturating_mul(2) {
            return None;
        }
        take(&mut self.all, |map| *map, &mut choose)
    }

    /// Bytes in memory, about.
    pub(super) fn memory_bytes(&self) -> usize {
        let hosts = self.by_host.values().map(|list| list.capacity() * 4 + 80);
        hosts.sum::<usize>() + self.anywhere.capacity() * 4 + self.all.capacity() * 4
    }
}

/// The first of a list that is chosen; what was passed over stays in its place.
pub(super) fn take<T>(
    list: &mut VecDeque<T>,
    task: impl Fn(&T) -> u32,
    choose: &mut impl FnMut(u32) -> Choice,
) -> Option<u32> {
    let mut passed = Vec::new();
    let mut found = None;
    while passed.len() < PASSED_MAX
        && let Some(first) = list.pop_front()
    {
        match choose(task(&first)) {
            Choice::Drop => {}
            Choice::Pass => passed.push(first),
            Choice::Take => {
                found = Some(task(&first));
                break;
            }
        }
    }
    for item in passed.into_iter().rev() {
        list.push_front(item);
    }
    found
}
