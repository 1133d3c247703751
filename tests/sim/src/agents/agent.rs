//! The agent's process: the real decisions about a role, and the twin of the loop around them.
//!
//! Every wait is one at which the process may stand still or end: between what was decided and what
//! is done about it, and between that and its answer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cfgsvc::lease::book::Renewal as Booked;
use cfgsvc_agent::role::core::{Core, Effect, Event, HostData, Renewal, Terms};
use cfgsvc_clock::Moment;
use cfgsvc_core::placement::objects::{Data, Kind};
use cfgsvc_proto::state::role_command::Step;
use cfgsvc_proto::state::{Attend, RoleReply, Start, Yield};
use openraft::AsyncRuntime as _;
use openraft_rt_sim::SimRuntime;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;

use super::calls::{Calls, Patience};
use super::data;
use super::group::{self, Answer, Follower, Heard, Outlet};
use super::guard::{self, Handle};
use super::machine::Machine;
use super::plan::RolePlan;
use super::sync::{Count, Syncs};
use crate::defect::Defect;
use crate::member::moment;
use crate::network::{pipe, spawn_here};
use crate::rng::Rng;
use crate::runtime::{Life, lock, sleep, timeout, world_time};
use crate::world::World;

/// How often an agent that starts looks whether the guards of the one before it are gone.
const GUARDS_LOOK: Duration = Duration::from_millis(5);
/// Pause after a start that was refused.
const REFUSED_PAUSE: Duration = Duration::from_millis(25);
/// Verdicts in each part of a stream.
const WINDOW: usize = 16;
/// Ticks at one moment: more than any agent needs.
const IDLE_TICKS_MAX: u32 = 100;
/// Answers that wait for an agent that stands still: it asks for a few things at a time.
const WAITING_MAX: usize = 4_096;
/// How long a renewal stays open after another member was asked.
const LATE: Duration = Duration::from_secs(2);
/// Of 1000 tries to begin, in how many a synchronous role's database still receives.
const CATCHES_UP: u64 = 300;
/// Patience of steps.
const STEP: Patience = Patience {
    attempts: 3,
    each: Duration::from_millis(700),
};

/// Starts the agent of a machine.
pub fn start(world: &Arc<World>, machine: &Arc<Machine>) {
    let life = Life::new(machine.id, machine.clock());
    machine.set_agent(life.clone());
    world.event(&format!("agent of {} starts", machine.name));
    life.spawn(run(world.clone(), machine.clone()));
}

async fn run(world: Arc<World>, machine: Arc<Machine>) {
    // They hold the state directory: within a boot nothing of the former agent is left after this.
    while !machine.guards().is_empty() {
        sleep(GUARDS_LOOK).await;
    }
    let Some(placement) = &world.plan.placement else {
        return;
    };
    let calls = Calls::new(&world, &machine);
    for role in &placement.roles {
        spawn_here(RoleTask::all(&world, &machine, role, &calls));
    }
}

/// What the agent does for one role.
struct RoleTask {
    world: Arc<World>,
    machine: Arc<Machine>,
    role: RolePlan,
    calls: Calls,
    rng: Rng,
    /// Tells what it writes down from what was written before it.
    generation: u64,
    events: Sender<Event>,
    guard: Option<Handle>,
    /// Dropped, these end the streams of verdicts that are followed: of one number.
    following: Vec<oneshot::Sender<()>>,
    /// The number that is followed.
    stream: Arc<AtomicU64>,
    /// Who is in sync, as the group said last.
    counted: Arc<Mutex<Count>>,
    /// Dropped, this ends what is said of that while the program runs.
    syncing: Option<oneshot::Sender<()>>,
    /// What the group said last when it took the host in.
    attended: Arc<Mutex<RoleReply>>,
}

impl RoleTask {
    /// One after the other, for as long as the agent runs.
    fn all(
        world: &Arc<World>,
        machine: &Arc<Machine>,
        role: &RolePlan,
        calls: &Calls,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (world, machine) = (world.clone(), machine.clone());
        let (role, calls) = (role.clone(), calls.clone());
        async move {
            loop {
                // Answers to what was asked before it began anew are not for the next.
                let (events, inbox) = channel(WAITING_MAX);
                machine.set_task(&role.name, events.clone());
                let task = Self {
                    rng: machine.fork_rng(),
                    generation: machine.next_generation(),
                    world: world.clone(),
                    machine: machine.clone(),
                    attended: Arc::default(),
                    counted: Arc::default(),
                    syncing: None,
                    role: role.clone(),
                    calls: calls.clone(),
                    events,
                    guard: None,
                    following: Vec::new(),
                    stream: Arc::default(),
                };
                task.run(inbox).await;
            }
        }
    }

    /// Returns when the host has gone away in order.
    async fn run(mut self, mut inbox: Receiver<Event>) {
        let mut core = Core::new(self.known(), moment());
        // Its guard has ended what ran before.
        let mut event = Event::NothingLeft;
        let mut idle_ticks = IdleTicks::default();
        while self.world.failure().is_none() {
            if let Err(why) = idle_ticks.count(&event) {
                self.world.fail(why);
            }
            for effect in core.on(event, moment()) {
                if self.rng.chance(100) {
                    let pause = self.rng.micros(1, 3_000);
                    sleep(pause).await;
                }
                if effect == Effect::Done {
                    return;
                }
                self.carry_out(effect);
            }
            let told = match core.next_wake() {
                Some(wake) => timeout(moment().until(wake), inbox.recv()).await,
                None => Ok(inbox.recv().await),
            };
            event = match told {
                Ok(Some(event)) => event,
                // It holds an end of it itself.
                Ok(None) => return,
                Err(_) => Event::Tick,
            };
        }
        std::future::pending::<()>().await;
    }

    /// The last epoch that the host knows; a client of a lock knows none, for a lock that nobody
    /// uses is forgotten.
    fn known(&self) -> i64 {
        match self.role.spec.kind {
            Kind::Lock => 0,
            Kind::Host | Kind::Colo => self.machine.known(&self.role.name),
        }
    }

    fn has(&self, defect: Defect) -> bool {
        self.world.plan.defect == Some(defect)
    }

    fn tell(&self, event: Event) {
        // It is this task that listens.
        drop(self.events.try_send(event));
    }

    fn carry_out(&mut self, effect: Effect) {
        if !matches!(effect, Effect::Renew(_) | Effect::Until(_)) {
            let (host, role) = (&self.machine.name, &self.role.name);
            self.world
                .event(&format!("agent of {host} for {role}: {effect:?}"));
        }
        match effect {
            Effect::Attend => self.attend(),
            Effect::Follow { stream, lease } => self.follow(stream, lease),
            Effect::Renew(lease) => self.renew(lease),
            Effect::Begin { lease, epoch } => self.begin(lease, epoch),
            Effect::Write { number, what } => {
                let in_file = (self.generation << 32) + number;
                self.machine.write(&self.role.name, in_file, what);
                let (machine, role) = (self.machine.clone(), self.role.name.clone());
                let events = self.events.clone();
                if self.has(Defect::VerdictNotSynced) {
                    self.tell(Event::Synced(number));
                }
                spawn_here(async move {
                    sleep(machine.sync_time()).await;
                    machine.synced(&role, in_file);
                    drop(events.try_send(Event::Synced(number)));
                });
            }
            Effect::Run { epoch, until } => {
                let stop = Duration::from_millis(lock(&self.attended).stop_ms);
                let of = (&self.role, epoch, stop);
                let guard = guard::start(&self.world, &self.machine, of, self.events.clone());
                guard.until(&self.world, until);
                self.say_who_is_in_sync(epoch, guard.number());
                self.guard = Some(guard);
            }
            Effect::Until(until) => {
                if let Some(guard) = &self.guard {
                    guard.until(&self.world, until);
                }
            }
            Effect::Stop => {
                self.syncing = None;
                match &self.guard {
                    Some(guard) => guard.stop(),
                    None => self.tell(Event::NothingLeft),
                }
                if self.has(Defect::YieldBeforeGone) {
                    self.tell(Event::NothingLeft);
                }
            }
            Effect::Yield { lease, leave, .. } => self.yield_role(lease, leave),
            Effect::Done => {}
        }
    }

    /// Where its data ends, for the group; empty when the role has none.
    fn position(&self) -> String {
        match self.role.spec.data {
            Data::None => String::new(),
            Data::Number | Data::Gtid | Data::Lsn => {
                self.machine.position(&self.role.name).to_string()
            }
        }
    }

    /// The number of a step that is taken now.
    fn step_number(&self) -> u64 {
        self.machine.step_number(moment())
    }

    fn attend(&self) {
        let (machine, role) = (&self.machine, &self.role);
        let held = machine.held(&role.name);
        let of_lock = role.spec.kind == Kind::Lock;
        let defect = self.world.plan.defect;
        let settings = serde_json::to_string(&role.spec).unwrap_or_default();
        let request = Attend {
            lease: machine.draw_id(),
            host: machine.name.as_str().to_owned(),
            colo: if of_lock { "" } else { machine.colo.as_str() }.to_owned(),
            instance: format!("state-{}", machine.name),
            boot: machine.boot(),
            epoch: self.known(),
            has_data: held.has,
            identity: if held.has { "database" } else { "" }.to_owned(),
            position: if held.has {
                self.position()
            } else {
                String::new()
            },
            life: life(machine, role, defect),
            lock: if of_lock { settings } else { String::new() },
            ..Attend::default()
        };
        let (calls, name) = (self.calls.clone(), role.name.clone());
        let number = self.step_number();
        let plan = role.clone();
        let events = self.events.clone();
        let attended = self.attended.clone();
        spawn_here(async move {
            let mut sent = moment();
            let ask = move |member| {
                let step = Step::Attend(request.clone());
                group::step(member, number, name.clone(), step)
            };
            let event = match calls.repeat(STEP, ask).await {
                Answer::Done(reply) => {
                    calls.world().count("host attends");
                    if defect == Some(Defect::DeadlineFromAnswer) {
                        sent = moment();
                    }
                    let terms = terms(&reply, &plan, defect);
                    *lock(&attended) = reply;
                    Event::Attends { sent, terms }
                }
                Answer::Refused(_) | Answer::Unknown => Event::NotAttended,
            };
            drop(events.try_send(event));
        });
    }

    fn renew(&self, lease: i64) {
        let calls = self.calls.clone();
        let events = self.events.clone();
        let late = self.has(Defect::DeadlineFromAnswer);
        // Two tries before a third of the time is over.
        let each = Duration::from_millis(lock(&self.attended).serve_ms) / 6;
        spawn_here(async move {
            let mut answer = None;
            let mut sent = moment();
            for _ in 0..2 {
                sent = moment();
                let ask = move |member| group::renew(member, lease);
                let mut open = Box::pin(calls.open(ask));
                if let Ok(said) = timeout(each, &mut open).await {
                    answer = said.flatten();
                    if answer.is_some() {
                        break;
                    }
                } else {
                    // What is late, and good news, counts by when it was asked.
                    let events = events.clone();
                    spawn_here(async move {
                        if let Ok(Some(Some(Booked::Renewed(_)))) = timeout(LATE, open).await {
                            drop(events.try_send(renewed(lease, sent, Renewal::Renewed)));
                        }
                    });
                }
                calls.move_on();
            }
            if late {
                sent = moment();
            }
            let renewal = match answer {
                Some(Booked::Renewed(_)) => Some(Renewal::Renewed),
                Some(Booked::Closing) => Some(Renewal::Closing),
                Some(Booked::Gone) => Some(Renewal::Gone),
                Some(Booked::Ending | Booked::NotLeading) | None => None,
            };
            let event = renewal.map_or(Event::NotRenewed, |said| renewed(lease, sent, said));
            drop(events.try_send(event));
        });
    }

    fn begin(&self, lease: i64, epoch: i64) {
        let (calls, events) = (self.calls.clone(), self.events.clone());
        let (world, machine) = (self.world.clone(), self.machine.clone());
        let role = self.role.clone();
        let begun = Event::Begun { lease, epoch };
        let number = self.step_number();
        if self.has(Defect::RunBeforeStart) {
            self.tell(begun.clone());
        }
        spawn_here(async move {
            let again = machine.fork_rng().chance(CATCHES_UP);
            if role.spec.data != Data::None && !data::catch_up(&world, &machine, (&role, again)) {
                return drop(events.try_send(Event::NotBegun { refused: None }));
            }
            let position = match role.spec.data {
                Data::None => String::new(),
                Data::Number | Data::Gtid | Data::Lsn => machine.position(&role.name).to_string(),
            };
            let request = Start {
                host: machine.name.as_str().to_owned(),
                lease,
                epoch,
                position,
                attempt: 0,
                identity: String::new(),
                life: life(&machine, &role, world.plan.defect),
            };
            let ask = move |member| {
                group::step(
                    member,
                    number,
                    role.name.clone(),
                    Step::Start(request.clone()),
                )
            };
            let event = match calls.repeat(STEP, ask).await {
                Answer::Done(_) => begun,
                Answer::Refused(refusal) => {
                    world.event(&format!("start refused: {}", refusal.detail));
                    world.count("start of an epoch refused");
                    Event::NotBegun {
                        refused: Some(refusal.detail),
                    }
                }
                Answer::Unknown => Event::NotBegun { refused: None },
            };
            drop(events.try_send(event));
        });
    }

    fn yield_role(&self, lease: i64, leave: bool) {
        let (calls, events) = (self.calls.clone(), self.events.clone());
        let role = self.role.name.clone();
        let number = self.step_number();
        let request = Yield {
            host: self.machine.name.as_str().to_owned(),
            lease,
            position: self.position(),
            leave,
            attempt: 0,
        };
        spawn_here(async move {
            let ask = move |member| {
                group::step(member, number, role.clone(), Step::Yield(request.clone()))
            };
            while matches!(calls.repeat(STEP, ask.clone()).await, Answer::Unknown) {
                sleep(REFUSED_PAUSE).await;
            }
            drop(events.try_send(Event::Yielded { known: true }));
        });
    }

    /// Tells the group who is in sync, as long as this program runs and is not asked to end.
    fn say_who_is_in_sync(&mut self, epoch: i64, program: u64) {
        if !self.role.spec.sync {
            return;
        }
        let (until, over) = oneshot::channel();
        self.syncing = Some(until);
        let syncs = Syncs {
            world: self.world.clone(),
            machine: self.machine.clone(),
            role: self.role.clone(),
            calls: self.calls.clone(),
            heard: self.counted.clone(),
            lease: lock(&self.attended).lease,
            epoch,
            program,
            rng: self.rng.fork(),
        };
        spawn_here(async move {
            // Whichever ends: it is over.
            SimRuntime::select2(syncs.run(), over).await;
        });
    }

    /// Follows verdicts on one stream after the other, until another number is followed.
    fn follow(&mut self, stream: u64, lease: i64) {
        let (until, over) = oneshot::channel();
        if !self.has(Defect::OldVerdictBelieved) {
            self.following.clear();
        }
        self.following.push(until);
        self.stream.store(stream, Ordering::Relaxed);
        let follower = Follower {
            role: self.role.name.clone(),
            host: self.machine.name.clone(),
            lease,
        };
        let follow = Following {
            world: self.world.clone(),
            calls: self.calls.clone(),
            id: self.machine.id,
            rng: self.rng.fork(),
            follower,
            stream,
            newest: self.stream.clone(),
            counted: self.counted.clone(),
            events: self.events.clone(),
        };
        spawn_here(async move {
            // Whichever ends: it is over.
            SimRuntime::select2(follow.run(), over).await;
        });
    }
}

/// Ticks in a row without time between them: an agent that is never content burns its machine.
#[derive(Default)]
struct IdleTicks {
    at: Duration,
    count: u32,
}

impl IdleTicks {
    fn count(&mut self, event: &Event) -> Result<(), String> {
        let now = world_time();
        self.count = if *event == Event::Tick && self.at == now {
            self.count + 1
        } else {
            0
        };
        self.at = now;
        if self.count > IDLE_TICKS_MAX {
            return Err("an agent wants to be woken again and again, and does nothing".to_owned());
        }
        Ok(())
    }
}

/// One number of a stream of verdicts.
struct Following {
    world: Arc<World>,
    calls: Calls,
    id: u64,
    rng: Rng,
    follower: Follower,
    stream: u64,
    newest: Arc<AtomicU64>,
    counted: Arc<Mutex<Count>>,
    events: Sender<Event>,
}

impl Following {
    async fn run(mut self) {
        loop {
            self.once().await;
            self.calls.move_on();
            let pause = self.rng.millis(5, 60);
            sleep(pause).await;
        }
    }

    /// One connection, from its beginning to its end.
    async fn once(&mut self) {
        let to = self.calls.member();
        let (outlet, mut told) = pipe::<Heard>(&self.world, to, self.id, WINDOW);
        let outlet: Outlet = Arc::new(Mutex::new(Some(outlet)));
        let follower = self.follower.clone();
        let open = move |member| group::verdicts(member, follower.clone(), outlet.clone());
        let within = Duration::from_millis(700);
        if self.calls.once(within, open).await != Some(true) {
            return;
        }
        let ends = self.rng.millis(300, 8_000);
        let all = async {
            while let Some((told, count)) = told.recv().await {
                if let Some(count) = count {
                    lock(&self.counted).hear(count);
                }
                let mut stream = self.stream;
                if self.world.plan.defect == Some(Defect::OldVerdictBelieved) {
                    stream = self.newest.load(Ordering::Relaxed);
                }
                drop(self.events.try_send(Event::Told { stream, told }));
            }
        };
        // A connection does not last for ever, and one to a member that is cut off must not.
        let _ = timeout(ends, all).await;
    }
}

fn renewed(lease: i64, sent: Moment, renewal: Renewal) -> Event {
    Event::Renewed {
        lease,
        sent,
        renewal,
    }
}

/// The life of a store, where that counts: its server starts with its machine.
fn life(machine: &Machine, role: &RolePlan, defect: Option<Defect>) -> String {
    if !role.spec.sync {
        return String::new();
    }
    match defect {
        Some(Defect::StoreLifeIgnored) => "one".to_owned(),
        Some(_) | None => machine.boot(),
    }
}

/// The terms of a lease, as the agent understands them.
fn terms(reply: &RoleReply, role: &RolePlan, defect: Option<Defect>) -> Terms {
    // Whatever the operator says of the term, it is not said of the clocks.
    let whole = 1_000_000;
    let term_ms = (reply.serve_ms + reply.stop_ms) * whole / (whole - role.spec.rate_ppm);
    let serve_ms = match defect {
        Some(Defect::ClockRateIgnored) => term_ms - reply.stop_ms,
        Some(Defect::StopMarginIgnored) => reply.serve_ms + reply.stop_ms,
        Some(_) | None => reply.serve_ms,
    };
    Terms {
        lease: reply.lease,
        serve: Duration::from_millis(serve_ms),
        data: match role.spec.data {
            Data::None => HostData::NotKept,
            Data::Number | Data::Gtid | Data::Lsn => HostData::Some,
        },
    }
}
