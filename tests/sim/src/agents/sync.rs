//! The database of a synchronous role: whom a commit waits for, and what its holder says of that to
//! the group. The decisions are the agent's real ones; twins are the hook `sync` and what is around
//! it, `cfgsvc_agent::run::sync`.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cfgsvc_agent::role::core::Written;
use cfgsvc_agent::role::sync::{Done, Hosts, Sync};
use cfgsvc_core::placement::{Name, RoleName};
use cfgsvc_proto::state::refusal::Code;
use cfgsvc_proto::state::role_command::Step;
use cfgsvc_proto::state::{Refusal, Sync as Request};

use super::calls::{Calls, Patience};
use super::group::{self, Answer};
use super::machine::Machine;
use super::plan::RolePlan;
use crate::defect::Defect;
use crate::invariants::Program;
use crate::member::moment;
use crate::rng::Rng;
use crate::runtime::{lock, sleep};
use crate::world::World;

/// Longest pause between two looks, in milliseconds.
const PAUSE_MS: u64 = 400;
/// Longest time that the hook takes from one step to the next, in milliseconds.
const HOOK_MS: u64 = 40;
/// Patience of a call.
const CALL: Patience = Patience {
    attempts: 1,
    each: Duration::from_millis(700),
};

/// A database that is open for writes.
#[derive(Debug, Clone)]
pub struct Open {
    /// Whose it is.
    program: Program,
    /// Hosts that must have received a commit before its client is told.
    waits: BTreeSet<Name>,
}

impl Open {
    /// It waits for nobody yet.
    pub fn new(program: Program) -> Self {
        let waits = BTreeSet::new();
        Self { program, waits }
    }
}

/// Clients of an open database are told of what all that it waits for have received.
pub fn acknowledge(world: &World, machine: &Machine, role: &RoleName) {
    let Some(open) = machine.open(role) else {
        return;
    };
    let own = machine.held(role);
    let received = open.waits.iter().map(|host| {
        let machine = world.machine(host);
        machine.map_or(0, |machine| own.common(&machine.held(role)))
    });
    let all = received.min().unwrap_or(own.position());
    let writes = own.first(all);
    world.check(|checks| {
        checks.acknowledged.acknowledged(role, writes);
        Ok(())
    });
}

/// What the group counts in an epoch, as of a revision: the newest that was heard.
#[derive(Debug, Clone, Default)]
pub struct Count {
    epoch: i64,
    revision: i64,
    hosts: Hosts,
}

impl Count {
    /// An answer or a verdict says so.
    pub fn of(epoch: i64, revision: i64, hosts: Hosts) -> Self {
        Self {
            epoch,
            revision,
            hosts,
        }
    }

    /// Takes what is newer.
    pub fn hear(&mut self, other: Self) {
        if (other.epoch, other.revision) > (self.epoch, self.revision) {
            *self = other;
        }
    }
}

/// What a holder says while its program runs.
pub struct Syncs {
    pub(super) world: Arc<World>,
    pub(super) machine: Arc<Machine>,
    pub(super) role: RolePlan,
    pub(super) calls: Calls,
    pub(super) heard: Arc<Mutex<Count>>,
    pub(super) lease: i64,
    pub(super) epoch: i64,
    /// Number of the program.
    pub(super) program: u64,
    pub(super) rng: Rng,
}

impl Syncs {
    /// Goes on until its guard is gone, or it is dropped.
    pub async fn run(mut self) {
        let mut sync = Sync::default();
        let mut count = Count {
            epoch: self.epoch,
            ..Count::default()
        };
        while self.is_guarded() {
            let pause = self.rng.millis(50, PAUSE_MS);
            sleep(pause).await;
            if self.is_open() {
                self.round(&mut sync, &mut count).await;
            }
        }
    }

    fn is_guarded(&self) -> bool {
        let guards = self.machine.guards();
        guards.iter().any(|guard| guard.number() == self.program)
    }

    fn is_open(&self) -> bool {
        let open = self.machine.open(&self.role.name);
        open.is_some_and(|open| open.program.number == self.program)
    }

    fn has(&self, defect: Defect) -> bool {
        self.world.plan.defect == Some(defect)
    }

    /// What is heard of another epoch is no news of this one.
    fn hear(&self, count: &mut Count) {
        let heard = lock(&self.heard).clone();
        if heard.epoch == self.epoch {
            count.hear(heard);
        }
    }

    async fn round(&mut self, sync: &mut Sync, count: &mut Count) {
        self.hear(count);
        let mut revision = None;
        if !sync.is_settled(&count.hosts) {
            revision = self.calls.once(CALL.each, group::revision).await.flatten();
        }
        self.hear(count);
        let revision = revision.unwrap_or(0).max(count.revision);
        let waits = sync.looks(&count.hosts);
        let Some(wanted) = self.hook(&waits).await else {
            return;
        };
        sync.wants(wanted);
        loop {
            self.hear(count);
            let Some(list) = sync.next(&count.hosts) else {
                return;
            };
            let done = self.say(&list, revision, count).await;
            sync.done(&list, done);
            if done == Done::Unknown {
                sync.give_up();
            }
        }
    }

    async fn say(&mut self, list: &Hosts, revision: i64, count: &mut Count) -> Done {
        let request = Request {
            host: self.machine.name.as_str().to_owned(),
            lease: self.lease,
            epoch: self.epoch,
            synced: list.iter().cloned().collect(),
            position: self.machine.position(&self.role.name).to_string(),
            attempt: 0,
            revision,
        };
        let (number, role) = (self.machine.step_number(moment()), self.role.name.clone());
        let ask = move |member| {
            let step = Step::Sync(request.clone());
            group::step_at(member, number, role.clone(), step)
        };
        match self.calls.repeat(CALL, ask).await {
            Answer::Done((revision, reply)) => {
                self.world.count("holder said who is in sync");
                let hosts = reply.synced.into_iter().collect();
                count.hear(Count::of(reply.epoch, revision, hosts));
                Done::Answered
            }
            Answer::Refused(Refusal { code, .. }) if code == Code::NotAvailable as i32 => {
                self.world.count("host refused as in sync");
                Done::Refused
            }
            Answer::Refused(_) | Answer::Unknown => Done::Unknown,
        }
    }

    /// The hook: the database waits for these and for all that stream, and who of the latter has
    /// all by then is printed.
    async fn hook(&mut self, waits: &Hosts) -> Option<Hosts> {
        let pause = self.rng.millis(1, HOOK_MS);
        sleep(pause).await;
        let told = waits.iter().filter_map(|host| host.parse::<Name>().ok());
        let told: BTreeSet<Name> = told.collect();
        let stream = self.stream();
        self.wait_for(told.union(&stream).cloned().collect())?;
        let end = self.machine.held(&self.role.name);
        let pause = self.rng.millis(1, HOOK_MS);
        sleep(pause).await;
        let world = self.world.clone();
        let has_all = |host: &Name| {
            let machine = world.machine(host);
            machine.is_some_and(|machine| end.is_part_of(&machine.held(&self.role.name)))
        };
        let printed: BTreeSet<Name> = stream.into_iter().filter(|host| has_all(host)).collect();
        let printed_names = printed
            .iter()
            .map(|host| host.as_str().to_owned())
            .collect();
        let told = if self.has(Defect::SyncNotAwaited) {
            BTreeSet::new()
        } else {
            told
        };
        self.wait_for(told.union(&printed).cloned().collect())?;
        Some(printed_names)
    }

    fn wait_for(&self, waits: BTreeSet<Name>) -> Option<()> {
        let role = &self.role.name;
        let open = self.machine.open(role)?;
        if open.program.number != self.program {
            return None;
        }
        let program = open.program;
        self.machine.set_open(role, Some(Open { program, waits }));
        acknowledge(&self.world, &self.machine, role);
        Some(())
    }

    /// Hosts whose databases receive from this one now.
    fn stream(&mut self) -> BTreeSet<Name> {
        let mut stream = BTreeSet::new();
        for machine in self.world.machines() {
            let role = &self.role.name;
            let follows = match machine.durable(role).what {
                Some(Written::Not(standing)) => {
                    standing.verdict == "standby" && standing.holder == self.machine.name.as_str()
                }
                Some(Written::Serve { .. }) | None => false,
            };
            let there = machine.streams() && machine.held(role).has;
            if follows && there && self.machine.streams() && self.rng.chance(900) {
                stream.insert(machine.name.clone());
            }
        }
        stream
    }
}
