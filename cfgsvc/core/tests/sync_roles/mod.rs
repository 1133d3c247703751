//! Roles whose holders name who is in sync: no write that was acknowledged is missing at whoever
//! begins next.
//!
//! Each host has a store: what it has received, of which it has kept less on its disk. A store that
//! is opened anew has what was on the disk. The holder acknowledges a write when all hosts that it
//! waits for have received it; it waits for those that it looked upon as in sync before it tells the
//! group so, and until the group has answered that they do not count.

use std::collections::BTreeSet;

use cfgsvc_core::check::check;
use cfgsvc_core::placement::{Fence, Name, Verdict};
use cfgsvc_proto::state::command::Op;
use cfgsvc_proto::state::role_command::Step;
use cfgsvc_proto::state::{LeaseExpire, Sync};
use proptest::prelude::*;
use proptest::strategy::ValueTree;

use super::world::{Facts, HOSTS, World, attend, go, start, stop};

const COUNT: usize = 3;

#[derive(Debug, Clone, Copy)]
enum Action {
    Come(usize),
    /// Whoever was given the role begins.
    Start,
    Stop {
        host: usize,
        leaves: bool,
    },
    LeaseOver(usize),
    Write,
    Receive(usize),
    Keep(usize),
    /// The store is opened anew.
    Open(usize),
    Rebuild(usize),
    /// The holder looks who is in sync.
    Look,
    /// And tells; or the answer is lost; or the group hears of it after what comes next.
    Tell {
        fate: u8,
    },
    Move(usize),
}

fn action() -> impl Strategy<Value = Action> {
    let host = 0..COUNT;
    prop_oneof![
        4 => host.clone().prop_map(Action::Come),
        6 => Just(Action::Start),
        1 => (host.clone(), any::<bool>())
            .prop_map(|(host, leaves)| Action::Stop { host, leaves }),
        3 => host.clone().prop_map(Action::LeaseOver),
        4 => Just(Action::Write),
        8 => host.clone().prop_map(Action::Receive),
        3 => host.clone().prop_map(Action::Keep),
        2 => host.clone().prop_map(Action::Open),
        3 => host.clone().prop_map(Action::Rebuild),
        4 => Just(Action::Look),
        4 => (0u8..4).prop_map(|fate| Action::Tell { fate }),
        1 => host.prop_map(Action::Move),
    ]
}

/// What a host has.
#[derive(Debug, Clone, Default)]
struct Store {
    received: Vec<u32>,
    /// How many of them are on the disk.
    kept: usize,
    life: u32,
    /// The last epoch that it knows.
    known: i64,
    lease: Option<i64>,
    serving: Option<i64>,
    /// The life with which it came.
    came: u32,
}

/// What the holder knows of those in sync.
#[derive(Debug, Default)]
struct Holder {
    /// Those that a write waits for.
    waits: BTreeSet<usize>,
    /// What it saw when it looked, and the revision that it knew then.
    looked: Option<(BTreeSet<usize>, i64)>,
    /// Told without an answer: may still count, until a later one is answered.
    untold: BTreeSet<usize>,
}

struct Model {
    world: World,
    stores: Vec<Store>,
    holder: Holder,
    acknowledged: BTreeSet<u32>,
    writes: u32,
    leases: i64,
    late: Option<Step>,
    begun: usize,
}

fn name(host: usize) -> &'static str {
    HOSTS[host].0
}

impl Model {
    fn new() -> Self {
        let mut world = World::new();
        for colo in ["akl", "wlg"] {
            world.put(&format!("/cfgsvc/colos/{colo}"), "{}");
        }
        world.put("/cfgsvc/roles/db", r#"{"data":"number","sync":true}"#);
        Self {
            world,
            stores: vec![Store::default(); COUNT],
            holder: Holder::default(),
            acknowledged: BTreeSet::new(),
            writes: 0,
            leases: 0,
            late: None,
            begun: 0,
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Come(host) => self.come(host),
            Action::Start => {
                let given = self.world.grant("db").holder;
                let is = |given: Name| HOSTS.iter().position(|(one, _)| *one == given.as_str());
                if let Some(host) = given.and_then(is) {
                    self.start(host);
                }
            }
            Action::Stop { host, leaves } => self.stop(host, leaves),
            Action::LeaseOver(host) => self.lease_over(host),
            Action::Write => {
                self.writes += 1;
                let serves = self.stores.iter_mut().find(|store| store.serving.is_some());
                if let Some(store) = serves {
                    store.received.push(self.writes);
                    store.kept = store.received.len();
                }
            }
            Action::Receive(host) => self.receive(host),
            Action::Keep(host) => self.stores[host].kept = self.stores[host].received.len(),
            Action::Open(host) => {
                let store = &mut self.stores[host];
                store.received.truncate(store.kept);
                store.life += 1;
                store.serving = None;
            }
            Action::Rebuild(host) => self.rebuild(host),
            Action::Look => self.look(),
            Action::Tell { fate } => self.tell(fate),
            Action::Move(host) => drop(self.world.step("db", go(name(host)))),
        }
        self.acknowledge();
    }

    fn serves(&self) -> Option<usize> {
        self.stores.iter().position(|store| store.serving.is_some())
    }

    fn position(&self, host: usize) -> u64 {
        self.stores[host].received.len() as u64
    }

    fn come(&mut self, host: usize) {
        self.leases += 1;
        let lease = self.leases;
        let store = &self.stores[host];
        let facts = Facts {
            epoch: store.known,
            position: Some(self.position(host)),
            ..Facts::default()
        };
        let Step::Attend(mut request) = attend(HOSTS[host], lease, facts) else {
            unreachable!("it attends");
        };
        request.life = store.life.to_string();
        let store = &mut self.stores[host];
        store.serving = None;
        store.came = store.life;
        let came = self.world.step("db", Step::Attend(request));
        came.expect("there is no other of this name");
        store.lease = Some(lease);
        // What it is told by where its data ends now.
        if let Verdict::Standby { epoch, .. } = self.world.verdict("db", name(host)) {
            store.known = epoch;
        }
    }

    fn start(&mut self, host: usize) {
        let Some(lease) = self.stores[host].lease else {
            return;
        };
        let told = self.world.verdict("db", name(host));
        let Verdict::Fenced(Fence::NotBegun { epoch }) = told else {
            return;
        };
        let position = self.position(host).to_string();
        let Step::Start(mut request) = start(name(host), lease, epoch, &position) else {
            unreachable!("it starts");
        };
        request.life = self.stores[host].life.to_string();
        if self.world.step("db", Step::Start(request)).is_err() {
            return;
        }
        let store = &mut self.stores[host];
        (store.serving, store.known) = (Some(epoch), epoch);
        self.holder = Holder::default();
        self.late = None;
        self.begun += 1;
        let has: BTreeSet<u32> = store.received.iter().copied().collect();
        let lost: Vec<_> = self.acknowledged.difference(&has).collect();
        assert!(lost.is_empty(), "{} begins without {lost:?}", name(host));
        // It is on the disk before anything is written on top of it.
        store.kept = store.received.len();
    }

    fn stop(&mut self, host: usize, leaves: bool) {
        let Some(lease) = self.stores[host].lease else {
            return;
        };
        let position = self.position(host).to_string();
        self.stores[host].serving = None;
        let stopped = self
            .world
            .step("db", stop(name(host), lease, &position, leaves));
        if stopped.is_ok() && leaves {
            self.stores[host].lease = None;
        }
    }

    fn lease_over(&mut self, host: usize) {
        let Some(lease) = self.stores[host].lease.take() else {
            return;
        };
        self.stores[host].serving = None;
        let ids = vec![lease];
        self.world
            .apply(Op::LeaseExpire(LeaseExpire { ids, term: 1 }));
    }

    /// Whom a host follows, as the group has told it, when that one's server is up.
    fn followed(&self, host: usize) -> Option<usize> {
        let Verdict::Standby { holder, epoch } = self.world.verdict("db", name(host)) else {
            return None;
        };
        let from = HOSTS.iter().position(|(one, _)| *one == holder.as_str())?;
        let serves = self.stores[from].serving == Some(epoch);
        (serves && self.stores[host].known == epoch).then_some(from)
    }

    fn receive(&mut self, host: usize) {
        let Some(from) = self.followed(host) else {
            return;
        };
        let all = self.stores[from].received.clone();
        let store = &mut self.stores[host];
        assert!(
            all.starts_with(&store.received),
            "{} has gone its own way",
            name(host)
        );
        store.received = all;
    }

    fn rebuild(&mut self, host: usize) {
        let Verdict::Rebuild { holder, epoch, .. } = self.world.verdict("db", name(host)) else {
            return;
        };
        let from = HOSTS.iter().position(|(one, _)| *one == holder.as_str());
        let from = from.expect("it is listed");
        if self.stores[from].serving != Some(epoch) {
            return;
        }
        let all = self.stores[from].received.clone();
        let store = &mut self.stores[host];
        (store.kept, store.received) = (all.len(), all);
        store.life += 1;
        store.known = epoch;
        self.come(host);
    }

    /// All that the holder has; from now on a write waits for them too.
    fn look(&mut self) {
        let Some(host) = self.serves() else {
            return;
        };
        let all = self.position(host);
        let caught_up =
            |other: &usize| self.followed(*other) == Some(host) && self.position(*other) == all;
        let seen: BTreeSet<usize> = (0..COUNT).filter(caught_up).collect();
        self.holder.waits.extend(&seen);
        self.holder.looked = Some((seen, self.world.machine.revision()));
    }

    fn tell(&mut self, fate: u8) {
        let Some(host) = self.serves() else {
            return;
        };
        let (Some(epoch), Some(lease)) = (self.stores[host].serving, self.stores[host].lease)
        else {
            return;
        };
        let Some((seen, revision)) = self.holder.looked.take() else {
            return;
        };
        let step = Step::Sync(Sync {
            host: name(host).to_owned(),
            lease,
            epoch,
            synced: seen.iter().map(|host| name(*host).to_owned()).collect(),
            position: String::new(),
            attempt: 0,
            revision,
        });
        if fate == 3 {
            // It arrives after the next one, or never.
            let Step::Sync(mut sync) = step else {
                unreachable!("it tells");
            };
            self.world.attempt += 1;
            sync.attempt = self.world.attempt + 1_000_000;
            self.holder.untold.extend(&seen);
            self.late = Some(Step::Sync(sync));
            return;
        }
        let told = self.world.step("db", step);
        if fate == 2 {
            self.holder.untold.extend(&seen);
        } else if told.is_ok() {
            self.holder.untold.clear();
            self.holder.waits = seen;
        }
        if let Some(late) = self.late.take() {
            drop(self.world.arrives("db", late));
        }
    }

    /// What all for whom the holder waits have received.
    fn acknowledge(&mut self) {
        let Some(serves) = self.stores.iter().find(|store| store.serving.is_some()) else {
            return;
        };
        let waits: BTreeSet<usize> = self
            .holder
            .waits
            .union(&self.holder.untold)
            .copied()
            .collect();
        let received = |write: &u32| {
            waits
                .iter()
                .all(|host| self.stores[*host].received.contains(write))
        };
        let all = serves.received.iter().copied().filter(received);
        self.acknowledged.extend(all.collect::<Vec<_>>());
    }

    fn check(&self) {
        check(&self.world.state).expect("the store's invariants");
        let serving = self.stores.iter().filter(|store| store.serving.is_some());
        assert!(serving.count() <= 1, "two serve");
        let counted: BTreeSet<Name> = self.world.grant("db").synced.into_keys().collect();
        let name_of = |host: &usize| name(*host).parse::<Name>().expect("a name");
        let waits = self.holder.waits.iter().chain(&self.holder.untold);
        let waits: BTreeSet<Name> = waits.map(name_of).collect();
        if self.stores.iter().any(|store| store.serving.is_some()) {
            assert!(
                counted.is_subset(&waits),
                "{counted:?} count, {waits:?} are waited for"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn what_was_acknowledged_is_where_the_next_epoch_begins(
        actions in prop::collection::vec(action(), 1..120)
    ) {
        let mut model = Model::new();
        for action in &actions {
            model.act(*action);
            model.check();
        }
    }
}

#[test]
fn random_actions_hand_over_often_enough_to_show_something() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let actions = prop::collection::vec(action(), 100..120);
    let (mut begun, mut counted) = (0, 0);
    for _ in 0..100 {
        let mut model = Model::new();
        let tree = actions.new_tree(&mut runner).expect("actions");
        for action in &tree.current() {
            model.act(*action);
            counted += usize::from(!model.world.grant("db").synced.is_empty());
        }
        begun += model.begun;
    }
    assert!(
        begun > 200 && counted > 250,
        "{begun} epochs, {counted} steps with hosts in sync"
    );
}

/// `h1` serves, and `h2` has received a write that was acknowledged, and not kept it.
fn in_sync() -> Model {
    let mut model = Model::new();
    for action in [
        Action::Come(0),
        Action::Start,
        Action::Come(1),
        Action::Receive(1),
        Action::Look,
        Action::Tell { fate: 0 },
        Action::Write,
        Action::Receive(1),
    ] {
        model.act(action);
    }
    assert_eq!(model.world.grant("db").synced.len(), 1);
    assert!(model.acknowledged.contains(&1));
    model
}

#[test]
fn host_in_sync_follows_a_holder_that_is_lost() {
    let mut model = in_sync();
    model.act(Action::LeaseOver(0));
    model.act(Action::Start);
    assert_eq!(model.serves(), Some(1));
}

#[test]
fn host_whose_store_was_opened_anew_is_in_sync_no_more_when_it_comes() {
    let mut model = in_sync();
    model.act(Action::Open(1));
    model.act(Action::Come(1));
    assert!(model.world.grant("db").synced.is_empty());
    model.act(Action::LeaseOver(0));
    model.act(Action::Start);
    assert_eq!(model.serves(), None);
    // The holder has all of it.
    model.act(Action::Come(0));
    model.act(Action::Start);
    assert_eq!(model.serves(), Some(0));
}

#[test]
fn host_whose_store_was_opened_anew_since_it_came_does_not_begin() {
    let mut model = in_sync();
    model.act(Action::Open(1));
    model.act(Action::LeaseOver(0));
    model.act(Action::Start);
    assert_eq!(model.serves(), None);
}

/// Both lose power; the lease of the one in sync is over last, so that it is given the role.
#[test]
fn host_that_was_given_the_role_and_comes_with_a_store_opened_anew_does_not_begin() {
    let mut model = in_sync();
    model.act(Action::LeaseOver(0));
    model.act(Action::Open(1));
    model.act(Action::LeaseOver(1));
    model.act(Action::Come(1));
    model.act(Action::Start);
    assert_eq!(model.serves(), None);
    model.act(Action::Come(0));
    model.act(Action::Start);
    assert_eq!(model.serves(), Some(0), "it has all of it");
}

#[test]
fn host_whose_store_was_opened_anew_after_it_was_looked_at_is_not_counted_on() {
    let mut model = in_sync();
    model.act(Action::Look);
    model.act(Action::Open(1));
    model.act(Action::Come(1));
    model.act(Action::Tell { fate: 0 });
    model.check();
    assert!(model.world.grant("db").synced.is_empty());
    model.act(Action::Receive(1));
    model.act(Action::Look);
    model.act(Action::Tell { fate: 0 });
    assert_eq!(model.world.grant("db").synced.len(), 1, "it has caught up");
}

#[test]
fn what_a_holder_told_before_it_was_answered_later_does_not_count() {
    let mut model = in_sync();
    model.act(Action::Come(2));
    model.act(Action::Receive(2));
    model.act(Action::Look);
    // Kept back by the network, with both of them.
    model.act(Action::Tell { fate: 3 });
    model.act(Action::Write);
    model.act(Action::Receive(1));
    model.act(Action::Look);
    assert!(!model.acknowledged.contains(&2), "it waits for both");
    model.act(Action::Tell { fate: 0 });
    model.check();
    assert!(
        model.acknowledged.contains(&2),
        "it is known that the other does not count"
    );
}
