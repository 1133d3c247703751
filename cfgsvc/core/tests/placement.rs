//! Roles under random commands: what the hosts may believe, against what the machine says.
//!
//! The observer here knows nothing of the machine's rules. It keeps who may be serving, as the host
//! itself would know it: from the answer to its start until it says that it has stopped, or until
//! its lease ends. Two of them for one role at one time are the split brain that all this is
//! against.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cfgsvc_core::check::check;
use cfgsvc_core::placement::objects::{Data, Failover};
use cfgsvc_core::placement::read as placed;
use cfgsvc_core::placement::{Attending, Colo, Fence, Grant, Name, Spec, Verdict};
use cfgsvc_core::{export, read};
use cfgsvc_proto::state::command::Op;
use cfgsvc_proto::state::reply::Result as Outcome;
use cfgsvc_proto::state::role_command::Step;
use cfgsvc_proto::state::seed::Step as Seeding;
use cfgsvc_proto::state::{Attend, LeaseExpire, Move, Seed};
use proptest::prelude::*;

mod counting;
mod data_roles;
mod policies;
mod sync_roles;
mod world;
mod zones;
use world::{COLOS, Facts, HOSTS, LOCK, ROLES, World, attend, go, start, stop, whose};

/// The state directory and the boot of an agent.
type Agent = (u8, u8);

/// What is done next; numbers choose among what there is.
#[derive(Debug, Clone)]
enum Action {
    Attend {
        role: usize,
        host: usize,
        agent: Agent,
    },
    Start {
        role: usize,
        host: usize,
        older: bool,
    },
    Stop {
        role: usize,
        host: usize,
        leave: bool,
    },
    LeaseOver {
        nth: usize,
    },
    Move {
        role: usize,
        to: usize,
        loses: bool,
    },
    Spec {
        role: usize,
        paused: bool,
        manual: bool,
        listed: bool,
    },
    Drain {
        colo: usize,
        drained: bool,
    },
    Delete {
        role: usize,
    },
    Raw {
        key: usize,
    },
    /// A client hangs a key of its own on the lease of one that attends.
    Hang {
        nth: usize,
    },
    /// A copy of what an agent sent arrives, so many steps late.
    Late {
        ago: usize,
    },
    /// What is stored is exported.
    Export,
    /// The group is no more, and another is made of what was exported.
    Restore,
}

fn action() -> impl Strategy<Value = Action> {
    let role = 0..ROLES.len();
    let host = 0..HOSTS.len();
    prop_oneof![
        6 => (role.clone(), host.clone(), (0u8..2, 0u8..2))
            .prop_map(|(role, host, agent)| Action::Attend { role, host, agent }),
        8 => (role.clone(), host.clone(), prop::bool::weighted(0.1))
            .prop_map(|(role, host, older)| Action::Start { role, host, older }),
        4 => (role.clone(), host.clone(), any::<bool>())
            .prop_map(|(role, host, leave)| Action::Stop { role, host, leave }),
        3 => (0usize..16).prop_map(|nth| Action::LeaseOver { nth }),
        4 => (role.clone(), 0usize..5, prop::bool::weighted(0.3))
            .prop_map(|(role, to, loses)| Action::Move { role, to, loses }),
        2 => (role.clone(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
            |(role, paused, manual, listed)| Action::Spec { role, paused, manual, listed }),
        1 => (0..COLOS.len(), any::<bool>())
            .prop_map(|(colo, drained)| Action::Drain { colo, drained }),
        1 => role.prop_map(|role| Action::Delete { role }),
        1 => (0usize..4).prop_map(|key| Action::Raw { key }),
        1 => (0usize..16).prop_map(|nth| Action::Hang { nth }),
        4 => (0usize..24).prop_map(|ago| Action::Late { ago }),
        1 => Just(Action::Export),
        1 => Just(Action::Restore),
    ]
}

/// What is stored.
type Entries = BTreeMap<Bytes, Bytes>;

/// What the hosts know.
#[derive(Default)]
struct Observer {
    next_lease: i64,
    /// Lease of each (role, host) that attends.
    leases: BTreeMap<(usize, usize), i64>,
    /// The agent that came last as each.
    agents: BTreeMap<(usize, usize), Agent>,
    /// Epoch in which each may be serving.
    serving: BTreeMap<(usize, usize), i64>,
    /// Who began each epoch of a role, and with which lease.
    begun: BTreeMap<(usize, i64), (usize, i64)>,
    /// Last epoch and its holder, of each role.
    epochs: BTreeMap<usize, (i64, String)>,
    /// What was exported, and not restored yet.
    exported: Option<Entries>,
}

fn spec(role: usize, paused: bool, manual: bool, listed: bool) -> String {
    let failover = if manual { "manual" } else { "auto" };
    match role {
        0 if listed => format!(
            r#"{{"kind":"host","data":"number","failover":"{failover}","paused":{paused},"candidates":["h2","h1"]}}"#
        ),
        0 => format!(r#"{{"data":"number","failover":"{failover}","paused":{paused}}}"#),
        _ => format!(r#"{{"kind":"colo","failover":"{failover}","paused":{paused}}}"#),
    }
}

impl Observer {
    fn act(&mut self, world: &mut World, action: &Action) {
        match *action {
            Action::Attend { role, host, agent } => self.attend(world, role, host, agent),
            Action::Start { role, host, older } => self.start(world, role, host, older),
            Action::Stop { role, host, leave } => {
                let Some(lease) = self.leases.get(&(role, host)).copied() else {
                    return;
                };
                let position = if role == 0 { "7" } else { "" };
                let done = world.step(ROLES[role], stop(HOSTS[host].0, lease, position, leave));
                // It has stopped before it says so, whatever becomes of the message.
                self.serving.remove(&(role, host));
                if done.is_ok() && leave {
                    self.leases.remove(&(role, host));
                }
            }
            Action::LeaseOver { nth } => {
                let Some((at, lease)) = self.leases.iter().nth(nth).map(|(a, l)| (*a, *l)) else {
                    return;
                };
                // By then the holder has stopped: its deadline is before the group's.
                self.serving.remove(&at);
                self.leases.remove(&at);
                let expire = LeaseExpire {
                    ids: vec![lease],
                    term: 1,
                };
                world.apply(Op::LeaseExpire(expire));
            }
            Action::Hang { nth } => {
                if let Some(lease) = self.leases.values().nth(nth).copied() {
                    let hung = world.apply(Op::Put(cfgsvc_proto::etcd::PutRequest {
                        key: format!("hung/{nth}").into_bytes().into(),
                        lease,
                        ..Default::default()
                    }));
                    assert!(matches!(hung, Outcome::Put(_)), "{hung:?}");
                }
            }
            Action::Late { ago } => self.late(world, ago),
            Action::Move { role, to, loses } => {
                let names = if role == 1 {
                    ["akl", "wlg", "x", "akl", ""]
                } else {
                    ["h1", "h2", "h3", "h4", ""]
                };
                let to = names[to];
                drop(world.step(ROLES[role], if loses { loss(to) } else { go(to) }));
            }
            Action::Spec {
                role,
                paused,
                manual,
                listed,
            } if role < 2 => {
                let text = spec(role, paused, manual, listed);
                world.put(&format!("/cfgsvc/roles/{}", ROLES[role]), &text);
            }
            Action::Spec { .. } => {}
            Action::Drain { colo, drained } => {
                let text = format!(r#"{{"drained":{drained}}}"#);
                world.put(&format!("/cfgsvc/colos/{}", COLOS[colo]), &text);
            }
            Action::Delete { role } => {
                let key: Bytes = format!("/cfgsvc/roles/{}", ROLES[role]).into_bytes().into();
                world.apply(Op::DeleteRange(cfgsvc_proto::etcd::DeleteRangeRequest {
                    key,
                    ..Default::default()
                }));
            }
            Action::Raw { key } => {
                let key = [
                    "/cfgsvc/grants/db",
                    "/cfgsvc/attending/db/h1",
                    "/cfgsvc/x",
                    "/cfgsvc/roles/locks/l",
                ][key];
                let refused = world.put(key, "{}");
                assert!(matches!(refused, Outcome::Refusal(_)), "{refused:?}");
            }
            Action::Export => self.exported = Some(world.state.clone()),
            Action::Restore => self.restore(world),
        }
    }

    /// Another group begins when every lease of the former one is over: so long a restore waits.
    fn restore(&mut self, world: &mut World) {
        let Some(exported) = self.exported.take() else {
            return;
        };
        self.serving.clear();
        self.leases.clear();
        self.agents.clear();
        let new = restored(&exported);
        let former = std::mem::replace(world, new);
        world.follows(former);
        for (epoch, holder) in self.epochs.values_mut() {
            // Whoever heard of this one must not hear of it again.
            *epoch += 1;
            holder.clear();
        }
    }

    /// An agent is there, by this step.
    fn came(&mut self, at: (usize, usize), step: &Attend) {
        let last = |text: &str| u8::from(text.ends_with('1'));
        let agent = (last(&step.instance), last(&step.boot));
        // The same agent began again: its guard has stopped what served before. Another one's goes
        // on, on whatever machine that is.
        if self.agents.insert(at, agent) == Some(agent) {
            self.serving.remove(&at);
        }
        let (other, host) = (self.serving.contains_key(&at), &step.host);
        assert!(!other, "{host} takes the place of another that serves");
        self.leases.insert(at, step.lease);
    }

    fn late(&mut self, world: &mut World, ago: usize) {
        let Some((name, step)) = world.sent.iter().nth_back(ago).cloned() else {
            return;
        };
        let Some((host_name, attempt)) = whose(&step) else {
            return;
        };
        let role = ROLES.iter().position(|role| *role == name);
        let host = HOSTS.iter().position(|(host, _)| *host == host_name);
        let at = role.zip(host).expect("its role and host are listed");
        let before = world.attending(&name, host_name);
        let state = world.state.clone();
        let done = world.arrives(&name, step.clone());
        let Some(before) = before else {
            // Nobody was there: whoever is there by this is one that will not be heard of again.
            assert!(!self.serving.contains_key(&at), "{host_name} was there");
            if let (Ok(_), Step::Attend(step)) = (done, step) {
                self.came(at, &step);
            }
            return;
        };
        if attempt <= before.attempt {
            assert_eq!(world.state, state, "{step:?} came again");
        } else if done.is_ok() {
            // Of one that came by a late copy itself.
            match step {
                Step::Attend(step) => self.came(at, &step),
                Step::Start(step) => drop(self.serving.insert(at, step.epoch)),
                Step::Yield(step) => {
                    self.serving.remove(&at);
                    if step.leave {
                        self.leases.remove(&at);
                    }
                }
                Step::Sync(_) | Step::Move(_) => {}
            }
        }
    }

    fn attend(&mut self, world: &mut World, role: usize, host: usize, (instance, boot): Agent) {
        self.next_lease += 1;
        let lease = self.next_lease;
        let known = world
            .attending(ROLES[role], HOSTS[host].0)
            .map_or(0, |at| at.epoch);
        let position = (role == 0 && (known > 0 || instance == 1)).then_some(7);
        let facts = Facts {
            instance,
            boot,
            epoch: known,
            position,
        };
        let step = attend(HOSTS[host], lease, facts);
        let came = world.step(ROLES[role], step.clone());
        if let (Ok(_), Step::Attend(step)) = (came, step) {
            self.came((role, host), &step);
        }
    }

    fn start(&mut self, world: &mut World, role: usize, host: usize, older: bool) {
        let Some(lease) = self.leases.get(&(role, host)).copied() else {
            return;
        };
        let epoch = world.grant(ROLES[role]).epoch - i64::from(older);
        let position = if role == 0 { "7" } else { "" };
        let (name, host_name) = (ROLES[role], HOSTS[host].0);
        if world
            .step(name, start(host_name, lease, epoch, position))
            .is_ok()
        {
            self.serving.insert((role, host), epoch);
            let by = (host, lease);
            let first = *self.begun.entry((role, epoch)).or_insert(by);
            assert!(role == 1 || first == by, "{name}: {epoch} is begun again");
            assert_eq!(world.verdict(name, host_name), Verdict::Serve { epoch });
            let begun = world
                .grant(name)
                .starts
                .iter()
                .any(|start| start.epoch == epoch);
            assert!(
                role != 0 || begun,
                "the position is committed before it serves"
            );
        }
    }

    /// What must hold after every step.
    fn check(&mut self, world: &World) {
        check(&world.state).expect("the store's invariants");
        let stored = read::leases(&world.state).expect("memory");
        let stored: BTreeSet<i64> = stored.into_iter().map(|(id, _)| id).collect();
        assert_eq!(stored, world.leases, "the keeper knows all leases");
        for (host, (name, _)) in HOSTS.iter().enumerate() {
            // A lock is held without a start: as soon as the group says so.
            if let Verdict::Serve { epoch } = world.verdict(ROLES[2], name) {
                self.serving.insert((2, host), epoch);
            }
        }
        for (role, name) in ROLES.iter().enumerate() {
            self.one_holder(world, role, name);
            nobody_waits_in_vain(world, role, name);
            let grant = world.grant(name);
            if grant.restored {
                is_not_gone_on_with(world, name, &grant);
                continue;
            }
            let holder = grant.holder.map_or_else(String::new, String::from);
            let (epoch, before) = self.epochs.entry(role).or_default();
            if grant.epoch != 0 {
                assert!(
                    grant.epoch >= *epoch,
                    "{name}: epoch {} after {epoch}",
                    grant.epoch
                );
                let same = holder == *before || holder.is_empty() || before.is_empty();
                assert!(
                    grant.epoch > *epoch || same,
                    "{name} changed hands in {epoch}"
                );
                (*epoch, *before) = (grant.epoch, holder);
            }
        }
    }

    fn one_holder(&self, world: &World, role: usize, name: &str) {
        let serving: Vec<_> = self
            .serving
            .iter()
            .filter(|((at, _), _)| *at == role)
            .collect();
        let by = |host: usize| {
            if role == 1 {
                HOSTS[host].1
            } else {
                HOSTS[host].0
            }
        };
        let holders: BTreeSet<&str> = serving.iter().map(|((_, host), _)| by(*host)).collect();
        let grant = world.grant(name);
        assert!(holders.len() <= 1, "{name} is served by {holders:?}");
        for ((_, host), epoch) in &serving {
            assert_eq!(
                **epoch, grant.epoch,
                "{name}: {} serves an old epoch",
                HOSTS[*host].0
            );
        }
    }
}

/// The former group may have given later epochs: this one is served by nobody.
fn is_not_gone_on_with(world: &World, name: &str, grant: &Grant) {
    assert_eq!(grant.serving, 0, "{name}: {grant:?}");
    for (host, _) in HOSTS {
        let told = world.verdict(name, host);
        let may = Verdict::Fenced(Fence::NotBegun { epoch: grant.epoch });
        let serves = matches!(told, Verdict::Serve { .. });
        assert!(!serves && told != may, "{name} {host}: {told:?}");
    }
}

/// A role that the group gives is nobody's only while nobody could take it.
fn nobody_waits_in_vain(world: &World, role: usize, name: &str) {
    let (Some(spec), grant) = (
        world.object::<Spec>(&format!("/cfgsvc/roles/{name}")),
        world.grant(name),
    ) else {
        return;
    };
    if role == 2 || spec.paused || spec.failover == Failover::Manual || grant.serving > 0 {
        return;
    }
    if grant.restored && spec.data != Data::None {
        // A person decides whose data it goes on with.
        return;
    }
    let could = HOSTS.iter().find(|(host, colo)| {
        let colo: Colo = world
            .object(&format!("/cfgsvc/colos/{colo}"))
            .expect("colos are not deleted");
        // Data of an epoch that nobody knows is nobody's.
        let data = |at: &Attending| at.has_data && at.epoch > 0 && at.identity == grant.identity;
        let complete = |at: &Attending| role == 1 || grant.starts.is_empty() || data(at);
        let takes = |at: Attending| {
            let host = host.parse().expect("a name");
            !at.declines
                && !colo.drained
                && complete(&at)
                && (role == 1 || spec.is_candidate(&host))
        };
        world.attending(name, host).is_some_and(takes)
    });
    if let Some((host, _)) = could {
        let holds = |holder: &Name| role == 1 || world.attending(name, holder.as_str()).is_some();
        let held = grant.holder.as_ref().is_some_and(holds);
        assert!(
            held,
            "{name} is nobody's, and {host} could take it: {grant:?}"
        );
    }
}

fn ready() -> World {
    let mut world = World::new();
    for colo in COLOS {
        world.put(&format!("/cfgsvc/colos/{colo}"), "{}");
    }
    for (role, name) in ROLES.iter().enumerate().take(2) {
        let text = spec(role, false, false, true);
        let made = world.put(&format!("/cfgsvc/roles/{name}"), &text);
        assert!(matches!(made, Outcome::Put(_)), "{made:?}");
    }
    world
}

#[test]
fn role_that_is_resumed_before_its_holder_has_given_it_up_is_given_to_the_next() {
    let mut world = ready();
    let role = "/cfgsvc/roles/db";
    let said = |paused| format!(r#"{{"data":"none","paused":{paused}}}"#);
    world.put(role, &said(false));
    for (host, lease) in HOSTS.into_iter().take(2).zip(1..) {
        let facts = Facts::default();
        world
            .step("db", attend(host, lease, facts))
            .expect("it is there");
    }
    let epoch = world.grant("db").epoch;
    let begin = start("h1", 1, epoch, "");
    world.step("db", begin).expect("it was given");
    world.put(role, &said(true));
    let released = world.step("db", go("")).expect("a person decides");
    assert!(released.closing);
    world.put(role, &said(false));
    world
        .step("db", stop("h1", 1, "", false))
        .expect("it serves");
    let grant = world.grant("db");
    assert!(grant.holder.is_some() && grant.epoch > epoch, "{grant:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn at_most_one_holder_serves(actions in prop::collection::vec(action(), 1..80)) {
        let mut world = ready();
        let mut observer = Observer::default();
        for action in &actions {
            observer.act(&mut world, action);
            observer.check(&world);
        }
    }
}

fn attended(world: &mut World, role: &str, host: (&str, &str), lease: i64) {
    let facts = Facts {
        epoch: world.grant(role).epoch,
        ..Facts::default()
    };
    let Step::Attend(mut request) = attend(host, lease, facts) else {
        unreachable!("it attends");
    };
    if role.starts_with("locks/") {
        (request.colo, request.lock) = (String::new(), LOCK.to_owned());
    }
    world
        .step(role, Step::Attend(request))
        .expect("it is taken in");
}

fn holder(world: &World, role: &str) -> String {
    world
        .grant(role)
        .holder
        .map(String::from)
        .unwrap_or_default()
}

/// What is asked arrives, and no answer: it would be given the role again each time it comes.
#[test]
fn a_holder_that_comes_again_and_never_begins_gives_way_to_others() {
    let mut world = ready();
    world.put("/cfgsvc/roles/one", "{}");
    let [h1, h2, ..] = HOSTS;
    attended(&mut world, "one", h1, 101);
    attended(&mut world, "one", h2, 102);
    assert_eq!(holder(&world, "one"), "h1");
    let epoch = world.grant("one").epoch;
    world
        .step("one", start("h1", 101, epoch, ""))
        .expect("it begins");
    // Its agent starts again: it goes on, and what it writes is told from what it wrote before.
    attended(&mut world, "one", h1, 103);
    assert_eq!(holder(&world, "one"), "h1");
    let (before, epoch) = (epoch, world.grant("one").epoch);
    assert!(epoch > before, "{epoch} after {before}");
    attended(&mut world, "one", h1, 104);
    assert_eq!(holder(&world, "one"), "h2", "it has not begun");
    assert!(world.grant("one").epoch > epoch);
    // And back, when the other does not begin either: nobody waits for ever.
    attended(&mut world, "one", h2, 105);
    assert_eq!(holder(&world, "one"), "h1");
    // However often each has tried: who tried less often is next.
    for (host, lease, next) in [(h1, 106, "h2"), (h2, 107, "h1"), (h1, 108, "h2")] {
        attended(&mut world, "one", host, lease);
        assert_eq!(holder(&world, "one"), next);
    }
}

#[test]
fn a_holder_of_a_lock_that_comes_again_goes_behind_those_who_wait() {
    let mut world = ready();
    let [h1, h2, h3, _] = HOSTS;
    for (host, lease) in [(h1, 101), (h2, 102), (h3, 103)] {
        attended(&mut world, "locks/l", host, lease);
    }
    assert_eq!(holder(&world, "locks/l"), "h1");
    attended(&mut world, "locks/l", h1, 104);
    assert_eq!(holder(&world, "locks/l"), "h2");
    for (host, lease, next) in [("h2", 102, "h3"), ("h3", 103, "h1")] {
        world
            .step("locks/l", stop(host, lease, "", true))
            .expect("it goes");
        assert_eq!(holder(&world, "locks/l"), next);
    }
}

/// A group that is made from what was stored.
fn restored(stored: &Entries) -> World {
    let mut records = Vec::new();
    let exported = export::records(stored, &mut |record| {
        records.push(record);
        Ok(())
    });
    exported.expect("memory").expect("no restore is under way");
    let mut new = World::new();
    let steps = [(Seeding::Begin, Vec::new()), (Seeding::Records, records)];
    let finish = [(Seeding::Finish, Vec::new())];
    for (number, (step, records)) in (0..).zip(steps.into_iter().chain(finish)) {
        let last = step == Seeding::Finish;
        let done = new.apply(Op::Seed(Seed {
            step: step.into(),
            number,
            records,
            restore_id: 7,
            advance: if last { 1_000 } else { 0 },
        }));
        assert!(matches!(done, Outcome::Seed(_)), "{done:?}");
        if !last {
            half_filled(&new);
        }
    }
    new
}

/// A host may still have a lease that is among the records: it must not go on by it.
fn half_filled(world: &World) {
    let (role, host) = (
        "one".parse().expect("a name"),
        "h1".parse().expect("a name"),
    );
    let judged = placed::judge(&world.state, &role, &host, 101).expect("memory");
    assert_eq!(judged.verdict, Verdict::Fenced(Fence::Restored));
    assert_eq!(
        placed::role(&world.state, &role)
            .expect("memory")
            .map(|_| ()),
        None
    );
    assert_eq!(placed::grant(&world.state, &role).expect("memory"), None);
}

/// The former group may have given later epochs, which the snapshot lacks.
#[test]
fn no_epoch_of_a_snapshot_is_gone_on_with() {
    let mut world = ready();
    world.put("/cfgsvc/roles/one", "{}");
    world.put("/cfgsvc/roles/manual", r#"{"failover":"manual"}"#);
    let [h1, h2, ..] = HOSTS;
    attended(&mut world, "one", h1, 101);
    attended(&mut world, "web", h1, 102);
    attended(&mut world, "locks/l", h1, 103);
    let data = Facts {
        position: Some(7),
        ..Facts::default()
    };
    world
        .step("db", attend(h1, 104, data))
        .expect("it is there");
    for (role, lease, position) in [("one", 101, ""), ("web", 102, ""), ("db", 104, "7")] {
        let begin = start("h1", lease, world.grant(role).epoch, position);
        world.step(role, begin).expect("it begins");
    }
    let epochs = ["one", "web", "db"].map(|role| world.grant(role).epoch);
    let mut new = restored(&world.state);
    new.follows(world);
    check(&new.state).expect("the store's invariants");
    assert!(new.leases.is_empty(), "{:?}", new.leases);
    for role in ["one", "web", "db", "locks/l"] {
        assert_eq!(new.attending(role, "h1"), None, "{role}");
    }
    // Who was told a later epoch by the former group, and who was not.
    attended(&mut new, "one", h1, 201);
    let later = Facts {
        epoch: epochs[1] + 3,
        ..Facts::default()
    };
    new.step("web", attend(h2, 202, later))
        .expect("it is there");
    for (role, holder_now, before) in [("one", "h1", epochs[0]), ("web", "akl", epochs[1])] {
        let grant = new.grant(role);
        assert_eq!(holder(&new, role), holder_now, "{role}");
        assert!(
            grant.epoch > before + 1_000 && !grant.restored,
            "{role}: {grant:?}"
        );
    }
    // With data, a person decides, and may choose the one whom the snapshot names.
    let back = Facts {
        epoch: epochs[2],
        ..data
    };
    new.step("db", attend(h1, 203, back)).expect("it is there");
    assert!(!new.grant("db").is_current(epochs[2]), "of a snapshot");
    let fenced = Verdict::Fenced(Fence::Restored);
    assert_eq!(new.verdict("db", "h1"), fenced);
    let old = new.step("db", start("h1", 203, epochs[2], "7"));
    assert!(old.is_err(), "{old:?}");
    new.step("db", loss("h1")).expect("it is given anew");
    let epoch = new.grant("db").epoch;
    assert!(epoch > epochs[2] + 1_000);
    assert_eq!(
        new.verdict("db", "h1"),
        Verdict::Fenced(Fence::NotBegun { epoch })
    );
}

fn loss(to: &str) -> Step {
    Step::Move(Move {
        to: to.to_owned(),
        accept_loss: true,
        ..Move::default()
    })
}
