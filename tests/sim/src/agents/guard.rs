//! A program and the guard around it: the real decisions of the guard, in the twin of its process.
//!
//! Invariant: the program ends with its guard at the latest, as the kernel sees to it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cfgsvc_agent::guard::core::{Asker, Core, Effect, Event, Loss, Sent};
use cfgsvc_agent::guard::protocol::Report;
use cfgsvc_agent::role::core::Event as RoleEvent;
use cfgsvc_clock::Moment;
use cfgsvc_core::placement::objects::Data;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::machine::Machine;
use super::plan::RolePlan;
use super::resource;
use super::sync::{self, Open};
use crate::defect::Defect;
use crate::invariants::Program;
use crate::invariants::starts_before_runs::Facts;
use crate::member::moment;
use crate::rng::Rng;
use crate::runtime::{Life, lock, sleep, timeout};
use crate::world::World;

/// Words that wait between an agent and its guard: the guard reads at once.
const WAITING_MAX: usize = 1_024;
/// A deadline that never comes, for a defect.
const NEVER: Duration = Duration::from_hours(1);

/// What the agent tells the guard; dropped, the guard knows that the agent is lost.
pub struct Handle(Sender<Event>, u64);

impl Handle {
    /// Number of the program.
    pub fn number(&self) -> u64 {
        self.1
    }

    /// The program may run until then.
    pub fn until(&self, world: &World, until: Moment) {
        let ignored = world.plan.defect == Some(Defect::GuardWithoutTimer);
        let until = if ignored { until + NEVER } else { until };
        // A guard that is gone has said so.
        let _ = self.0.try_send(Event::Until(until));
    }

    /// Asks for the end.
    pub fn stop(&self) {
        let _ = self.0.try_send(Event::Stop(Asker::Agent));
    }
}

/// A guard and its program.
pub struct Guarded {
    world: Arc<World>,
    machine: Arc<Machine>,
    data: Data,
    sync: bool,
    program: Program,
    guard: Arc<Life>,
    life: Arc<Life>,
    state: Mutex<State>,
    to_guard: Sender<Event>,
    to_agent: Sender<RoleEvent>,
    /// The whole time to stop; KILL comes before its end, and takes effect within it.
    stop: Duration,
}

struct State {
    rng: Rng,
    runs: bool,
    over: bool,
}

/// Starts a guard for a program in an epoch, which it starts with the first deadline, and whose
/// program has `stop` to end.
pub fn start(
    world: &Arc<World>,
    machine: &Arc<Machine>,
    (role, epoch, stop): (&RolePlan, i64, Duration),
    to_agent: Sender<RoleEvent>,
) -> Handle {
    let (to_guard, inbox) = channel(WAITING_MAX);
    let (handle, from_agent) = channel(WAITING_MAX);
    let life = || Life::new(machine.id, machine.clock());
    let guarded = Arc::new(Guarded {
        program: world.new_program(&role.name, &machine.name, epoch),
        world: world.clone(),
        machine: machine.clone(),
        data: role.spec.data,
        sync: role.spec.sync,
        guard: life(),
        life: life(),
        state: Mutex::new(State {
            rng: machine.fork_rng(),
            runs: false,
            over: false,
        }),
        to_guard: to_guard.clone(),
        to_agent,
        stop,
    });
    machine.guarded(&guarded);
    guarded.guard.spawn(listen(guarded.clone(), from_agent));
    guarded.guard.spawn(guarded.clone().run(inbox));
    Handle(handle, guarded.number())
}

/// The guard's socket.
async fn listen(guarded: Arc<Guarded>, mut from_agent: Receiver<Event>) {
    loop {
        let event = from_agent.recv().await;
        let delay = lock(&guarded.state).rng.micros(10, 300);
        sleep(delay).await;
        // The guard that would hear it is this process.
        let _ = guarded
            .to_guard
            .try_send(event.unwrap_or(Event::Lost(Loss::Closed)));
        if event.is_none() {
            return;
        }
    }
}

impl Guarded {
    /// Number of the program.
    pub fn number(&self) -> u64 {
        self.program.number
    }

    /// The lives of its two processes.
    pub fn lives(&self) -> [&Arc<Life>; 2] {
        [&self.guard, &self.life]
    }

    async fn run(self: Arc<Self>, mut inbox: Receiver<Event>) {
        let mut core = Core::new(self.stop);
        loop {
            let event = match core.next_wake() {
                Some(wake) => timeout(moment().until(wake), inbox.recv())
                    .await
                    .unwrap_or(Some(Event::Tick)),
                None => inbox.recv().await,
            };
            let Some(event) = event else { return };
            for effect in core.on(event, moment()) {
                match effect {
                    Effect::Start => self.start_program(),
                    Effect::Signal(Sent::Term) => self.terminate(),
                    Effect::Signal(Sent::Kill) => self.kill(),
                    Effect::Say(Report::Gone) => {
                        drop(self.to_agent.try_send(RoleEvent::NothingLeft));
                    }
                    Effect::Say(_) => {}
                    Effect::Done => {
                        self.over();
                        return;
                    }
                }
            }
        }
    }

    fn start_program(self: &Arc<Self>) {
        lock(&self.state).runs = true;
        self.world.count("program started");
        self.world.event(&format!("{} starts", self.program));
        let role = &self.program.role;
        let facts = Facts {
            on_disk: self.machine.serves_on_disk(role),
            position: (self.data != Data::None).then(|| self.machine.position(role)),
            held: self.sync.then(|| self.machine.held(role)),
        };
        self.world
            .check(|checks| checks.program_started(&self.program, &facts));
        if self.data != Data::None {
            self.machine.holds_data(role);
        }
        if self.sync {
            let open = Open::new(self.program.clone());
            self.machine.set_open(role, Some(open));
        }
        self.life.spawn(self.clone().work());
        self.life.spawn(self.clone().end_by_itself());
    }

    /// Writes for as long as it lives.
    async fn work(self: Arc<Self>) {
        loop {
            let pause = lock(&self.state).rng.millis(2, 60);
            sleep(pause).await;
            if self.data != Data::None {
                let role = &self.program.role;
                self.machine.wrote(role, self.program.epoch);
                sync::acknowledge(&self.world, &self.machine, role);
            }
            let late = {
                let rng = &mut lock(&self.state).rng;
                let late = rng.chance(20);
                if late {
                    rng.millis(50, 3_000)
                } else {
                    Duration::ZERO
                }
            };
            resource::write(&self.world, self.machine.id, &self.program, late);
        }
    }

    async fn end_by_itself(self: Arc<Self>) {
        let longest = self.world.program_life();
        let Some(longest) = longest else { return };
        let us = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX);
        let life = lock(&self.state).rng.micros(0, us);
        sleep(life).await;
        if self.world.program_life().is_some() {
            self.world.count("program ended by itself");
            self.end_program("by itself");
        }
    }

    /// The program is asked to end: it takes its time, or does not hear.
    fn terminate(self: &Arc<Self>) {
        let (stop_us, slack_us) = (self.stop.as_micros(), 60_000);
        let stop_us = u64::try_from(stop_us).unwrap_or(u64::MAX);
        let takes = {
            let rng = &mut lock(&self.state).rng;
            match rng.between(0, 9) {
                0..=4 => Some(rng.micros(100, stop_us.min(slack_us))),
                5..=6 => Some(rng.micros(0, stop_us)),
                _ => None,
            }
        };
        let guarded = self.clone();
        if let Some(takes) = takes {
            self.life.spawn(async move {
                sleep(takes).await;
                guarded.end_program("as it was asked");
            });
        }
    }

    /// Nothing survives this, but it takes a moment.
    fn kill(self: &Arc<Self>) {
        let us = u64::try_from((self.stop / 4).as_micros()).unwrap_or(u64::MAX);
        let takes = {
            let rng = &mut lock(&self.state).rng;
            if rng.chance(500) {
                rng.micros(0, us.saturating_sub(1))
            } else {
                rng.micros(0, 2_000.min(us))
            }
        };
        self.world.count("program killed");
        let guarded = self.clone();
        self.life.spawn(async move {
            sleep(takes).await;
            guarded.end_program("by KILL");
        });
    }

    /// Nothing of the program is left.
    fn end_program(&self, how: &str) {
        if !std::mem::take(&mut lock(&self.state).runs) {
            return;
        }
        self.world.event(&format!("{} ends {how}", self.program));
        if self.sync {
            self.machine.set_open(&self.program.role, None);
        }
        self.world.check(|checks| {
            checks.program_ended(&self.program);
            Ok(())
        });
        self.life.end();
        let _ = self.to_guard.try_send(Event::NothingLeft);
    }

    /// The guard has ended.
    fn over(&self) {
        if !std::mem::replace(&mut lock(&self.state).over, true) {
            self.machine.not_guarded(self.program.number);
        }
    }

    /// The guard is killed, and the kernel kills the program; the agent finds out.
    pub fn guard_killed(&self) {
        self.end_program("with its guard");
        self.guard.end();
        self.over();
        drop(self.to_agent.try_send(RoleEvent::NothingLeft));
    }

    /// The machine has no power any more.
    pub fn power_lost(&self) {
        self.end_program("with its machine");
        self.guard.end();
        self.over();
    }
}
