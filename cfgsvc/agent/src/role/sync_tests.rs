//! A holder and its database against a group that hears what it hears, when it does.
//!
//! The group here is the rule alone: a call counts unless a later one has come before it, a host
//! that is new in a list is refused when it came with another store after the call's revision, and
//! one that comes with another store is left out. What must never be is a host that the group counts
//! and the database does not wait for, or that is counted by a look at another store.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const NAMES: [&str; 3] = ["b1", "c1", "d1"];

fn hosts(names: &[&str]) -> Hosts {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// What was sent, which may come late, and twice.
#[derive(Clone, Debug)]
struct Call {
    attempt: u64,
    list: Hosts,
    revision: i64,
    /// How many stores each host had had when the hook looked.
    looked: BTreeMap<String, u32>,
}

#[derive(Debug, Default)]
struct Group {
    revision: i64,
    counted: Hosts,
    attempt: u64,
    /// When each host came with its store, and how many it had before.
    since: BTreeMap<String, i64>,
    stores: BTreeMap<String, u32>,
}

impl Group {
    /// Carries it out; whether it did not refuse.
    fn hears(&mut self, call: &Call) -> bool {
        if call.attempt <= self.attempt {
            return call.attempt == self.attempt;
        }
        let new = call.list.difference(&self.counted);
        for host in new.clone() {
            if self.since.get(host).is_some_and(|at| *at > call.revision) {
                return false;
            }
        }
        for host in new {
            assert_eq!(call.looked.get(host), self.stores.get(host), "{host}");
        }
        self.revision += 1;
        self.attempt = call.attempt;
        self.counted.clone_from(&call.list);
        true
    }

    fn comes(&mut self, host: &str) {
        self.revision += 1;
        self.since.insert(host.to_owned(), self.revision);
        *self.stores.entry(host.to_owned()).or_default() += 1;
        self.counted.remove(host);
    }
}

#[derive(Debug, Default)]
struct World {
    sync: Sync,
    group: Group,
    /// What the agent was told last of what the group counts.
    known: (i64, Hosts),
    /// On their way to it.
    told: Vec<(i64, Hosts)>,
    attempt: u64,
    /// What it knew before the last look.
    revision: i64,
    looked: BTreeMap<String, u32>,
    /// Calls that may be carried out yet.
    late: Vec<Call>,
    database: Hosts,
}

impl World {
    /// The hook runs; `prints` nothing when it is killed, before it did something or after.
    fn hook(&mut self, connected: &Hosts, (does, prints): (bool, bool), asks: bool) {
        self.revision = if asks {
            self.group.revision
        } else {
            self.known.0
        };
        self.looked = self.group.stores.clone();
        let told = self.sync.looks(&self.known.1);
        if does {
            self.database = told.union(connected).cloned().collect();
        }
        if does && prints {
            self.sync.wants(connected.clone());
        }
    }

    fn call(&mut self, fate: Fate) -> bool {
        let Some(list) = self.sync.next(&self.known.1) else {
            return false;
        };
        self.attempt += 1;
        let call = Call {
            attempt: self.attempt,
            list: list.clone(),
            revision: self.revision,
            looked: self.looked.clone(),
        };
        let carried_out = fate != Fate::Lost && self.group.hears(&call);
        // Whatever becomes of it, a copy of it may be on its way.
        self.late.push(call);
        let done = match fate {
            Fate::Heard if carried_out => {
                self.knows(self.group.revision, self.group.counted.clone());
                Done::Answered
            }
            Fate::Heard => Done::Refused,
            Fate::Unheard | Fate::Lost => Done::Unknown,
        };
        self.sync.done(&list, done);
        if done == Done::Unknown {
            self.sync.give_up();
        }
        true
    }

    fn knows(&mut self, revision: i64, counted: Hosts) {
        if revision > self.known.0 {
            self.known = (revision, counted);
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Hook {
                connected,
                does,
                prints,
                asks,
            } => {
                let connected = NAMES.iter().zip(connected);
                let connected = connected.filter(|(_, there)| *there);
                let connected = connected.map(|(name, _)| (*name).to_owned()).collect();
                self.hook(&connected, (does, prints), asks);
            }
            Step::Call(fate) => {
                self.call(fate);
            }
            Step::Late(nth) if !self.late.is_empty() => {
                let call = self.late[nth % self.late.len()].clone();
                self.group.hears(&call);
            }
            Step::Comes(nth) => self.group.comes(NAMES[nth]),
            Step::Tell => {
                let now = (self.group.revision, self.group.counted.clone());
                self.told.push(now);
            }
            Step::Hear(nth) if !self.told.is_empty() => {
                let (revision, counted) = self.told.remove(nth % self.told.len());
                self.knows(revision, counted);
            }
            Step::Late(_) | Step::Hear(_) => {}
        }
        let unwaited = self.group.counted.difference(&self.database);
        assert_eq!(unwaited.count(), 0, "{self:?}");
    }
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Heard,
    /// Its answer is lost.
    Unheard,
    Lost,
}

#[derive(Clone, Debug)]
enum Step {
    Hook {
        connected: [bool; 3],
        does: bool,
        prints: bool,
        asks: bool,
    },
    Call(Fate),
    /// A copy of an earlier call arrives.
    Late(usize),
    /// A host with another store.
    Comes(usize),
    Tell,
    Hear(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let often = prop::bool::weighted(0.85);
    let hook = (any::<[bool; 3]>(), often, often, any::<bool>());
    let hook = hook.prop_map(|(connected, does, prints, asks)| Step::Hook {
        connected,
        does,
        prints,
        asks,
    });
    let fate = prop::sample::select(vec![Fate::Heard, Fate::Heard, Fate::Unheard, Fate::Lost]);
    prop_oneof![
        4 => hook,
        8 => fate.prop_map(Step::Call),
        3 => (0usize..8).prop_map(Step::Late),
        1 => (0usize..3).prop_map(Step::Comes),
        2 => Just(Step::Tell),
        2 => (0usize..8).prop_map(Step::Hear),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn whoever_is_counted_on_is_waited_for(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::default();
        for step in steps {
            world.step(step);
        }
        // With a group that answers it counts who is there in the end, and nobody else is waited for.
        let connected = hosts(&["b1", "d1"]);
        for _ in 0..3 {
            world.step(Step::Tell);
            world.knows(world.group.revision, world.group.counted.clone());
            world.hook(&connected, (true, true), true);
            while world.call(Fate::Heard) {}
        }
        prop_assert_eq!(&world.group.counted, &connected, "{:?}", world);
        prop_assert!(world.sync.is_settled(&world.known.1));
        prop_assert_eq!(&world.database, &connected);
    }
}

#[test]
fn hosts_are_added_one_by_one_and_those_that_are_gone_left_out_by_one_call() {
    let mut sync = Sync::default();
    let counted = hosts(&["b1", "c1"]);
    sync.wants(hosts(&["d1", "e1"]));
    let first = sync.next(&counted);
    assert_eq!(first, Some(hosts(&["b1", "c1", "d1"])));
    // It does not attend: that is no reason for the others to wait.
    sync.done(&first.unwrap_or_default(), Done::Refused);
    let second = sync.next(&counted);
    assert_eq!(second, Some(hosts(&["b1", "c1", "e1"])));
    let counted = second.clone().unwrap_or_default();
    sync.done(&counted, Done::Answered);
    assert_eq!(sync.next(&counted), Some(hosts(&["e1"])));
    assert_eq!(sync.next(&counted), None);
}

#[test]
fn a_host_is_waited_for_until_an_answer_says_that_nobody_counts_on_it() {
    let mut sync = Sync::default();
    let counted = hosts(&["b1"]);
    sync.wants(hosts(&["b1"]));
    assert_eq!(sync.next(&counted), None, "nothing is new");
    assert!(sync.is_settled(&counted));
    sync.wants(hosts(&["c1"]));
    let added = sync.next(&counted).expect("it is new");
    sync.done(&added, Done::Unknown);
    sync.give_up();
    assert_eq!(sync.next(&counted), None, "the group does not answer");
    assert_eq!(sync.looks(&counted), hosts(&["b1", "c1"]));
    assert_eq!(sync.looks(&hosts(&[])), hosts(&["b1", "c1"]));
    // What is counted is as it should be, as far as is known; it is said all the same.
    sync.wants(hosts(&["b1"]));
    assert!(!sync.is_settled(&counted));
    assert_eq!(sync.next(&counted), Some(hosts(&["b1"])));
    sync.done(&hosts(&["b1"]), Done::Answered);
    assert_eq!(sync.looks(&counted), counted);
    assert!(sync.is_settled(&counted));
}
