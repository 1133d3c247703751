//! A machine of a host: its clock, its verdict files and data, and the processes that run on it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cfgsvc_agent::role::core::{Event, Written};
use cfgsvc_clock::Moment;
use cfgsvc_core::placement::{Name, RoleName};
use tokio::sync::mpsc::Sender;

use super::disk::{Record, VerdictDisk};
use super::guard::Guarded;
use super::held::Held;
use super::plan::{colo_of, host_name};
use super::sync::Open;
use crate::rng::Rng;
use crate::runtime::{Clock, Life, lock, world_time};
use crate::world::World;

/// Where the first machine is on the links: no member has such an id.
pub const FIRST_ID: u64 = 1 << 40;

/// A machine.
pub struct Machine {
    /// Where it is on the links.
    pub id: u64,
    /// The host's name.
    pub name: Name,
    /// Its colo.
    pub colo: Name,
    inner: Mutex<Inner>,
}

struct Inner {
    rng: Rng,
    clock: Clock,
    disk: VerdictDisk,
    slow_disk_until: Duration,
    stream_cut_until: Duration,
    data: BTreeMap<RoleName, Held>,
    /// Databases that are open for writes, of synchronous roles.
    open: BTreeMap<RoleName, Open>,
    /// Times that it was started; names the boot.
    boot: u64,
    has_power: bool,
    agent: Option<Arc<Life>>,
    /// What the agent's tasks listen to, by role.
    tasks: BTreeMap<RoleName, Sender<Event>>,
    guards: BTreeMap<u64, Arc<Guarded>>,
    generations: u64,
    /// Of its agent.
    last_step: u64,
}

impl Machine {
    /// Machine `number`, which has power.
    pub fn new(number: u64, clock_rate: u64, mut rng: Rng) -> Arc<Self> {
        Arc::new(Self {
            id: FIRST_ID + number,
            name: host_name(number),
            colo: colo_of(number),
            inner: Mutex::new(Inner {
                clock: Clock::up(clock_rate, &mut rng),
                rng,
                disk: VerdictDisk::default(),
                slow_disk_until: Duration::ZERO,
                stream_cut_until: Duration::ZERO,
                data: BTreeMap::new(),
                open: BTreeMap::new(),
                boot: 1,
                has_power: true,
                agent: None,
                tasks: BTreeMap::new(),
                guards: BTreeMap::new(),
                generations: 0,
                last_step: 0,
            }),
        })
    }

    /// A source of chance of its own.
    pub fn fork_rng(&self) -> Rng {
        lock(&self.inner).rng.fork()
    }

    /// The clock of its boot.
    pub fn clock(&self) -> Clock {
        lock(&self.inner).clock
    }

    /// The name of its boot.
    pub fn boot(&self) -> String {
        format!("boot-{}", lock(&self.inner).boot)
    }

    /// A number that is nobody else's.
    pub fn draw_id(&self) -> i64 {
        (lock(&self.inner).rng.number() >> 1).max(1).cast_signed()
    }

    /// The number of the next step, by the machine's clock, so that none repeats what another agent
    /// of the same boot said; the twin of `cfgsvc_client::StepNumbers`.
    pub fn step_number(&self, now: Moment) -> u64 {
        let mut inner = lock(&self.inner);
        inner.last_step = now.nanos().max(inner.last_step + 1);
        inner.last_step
    }

    // === processes ===

    /// Whether it runs.
    pub fn has_power(&self) -> bool {
        lock(&self.inner).has_power
    }

    /// The life of its agent, if one was started and has not been killed.
    pub fn agent(&self) -> Option<Arc<Life>> {
        lock(&self.inner).agent.clone()
    }

    /// Its agent is this one.
    pub fn set_agent(&self, life: Arc<Life>) {
        let mut inner = lock(&self.inner);
        inner.agent = Some(life);
        inner.last_step = 0;
    }

    /// A task of the agent listens for a role.
    pub fn set_task(&self, role: &RoleName, events: Sender<Event>) {
        lock(&self.inner).tasks.insert(role.clone(), events);
    }

    /// The number of an agent's part for a role; they ascend.
    pub fn next_generation(&self) -> u64 {
        let mut inner = lock(&self.inner);
        inner.generations += 1;
        inner.generations
    }

    /// The agent's part for a role is to begin anew: the host's data is other than what it told.
    pub fn begin_anew(&self, role: &RoleName) {
        if let Some(events) = lock(&self.inner).tasks.get(role) {
            // A task that has ended begins anew with its agent.
            drop(events.try_send(Event::End));
        }
    }

    /// A guard was started.
    pub fn guarded(&self, guarded: &Arc<Guarded>) {
        let number = guarded.number();
        lock(&self.inner).guards.insert(number, guarded.clone());
    }

    /// A guard has ended.
    pub fn not_guarded(&self, number: u64) {
        lock(&self.inner).guards.remove(&number);
    }

    /// Its guards that run.
    pub fn guards(&self) -> Vec<Arc<Guarded>> {
        lock(&self.inner).guards.values().cloned().collect()
    }

    /// What a task of one of its processes panicked with.
    pub fn panicked(&self) -> Option<String> {
        let agent = self.agent().and_then(|life| life.panicked());
        let guards = self.guards();
        let mut lives = guards.iter().flat_map(|guarded| guarded.lives());
        agent.or_else(|| lives.find_map(|life| life.panicked()))
    }

    /// Ends the agent's process; what it started finds out.
    pub fn kill_agent(&self) {
        let agent = {
            let mut inner = lock(&self.inner);
            inner.tasks.clear();
            inner.agent.take()
        };
        if let Some(life) = agent {
            life.end();
        }
    }

    /// Takes its power away.
    pub fn power_off(&self, world: &World) {
        self.kill_agent();
        for guarded in self.guards() {
            guarded.power_lost();
        }
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        inner.has_power = false;
        inner.disk.power_lost(&mut inner.rng);
        for held in inner.data.values_mut() {
            held.power_lost(&mut inner.rng);
        }
        world.event(&format!("host {} loses power", self.name));
    }

    /// Gives it power again: another boot, whose clock knows nothing of those before.
    pub fn power_on(&self) {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        inner.has_power = true;
        inner.clock = Clock::booted(inner.clock.rate, &mut inner.rng);
        inner.boot += 1;
    }

    /// Ends everything on it without a trace: the run is over.
    pub fn clear(&self) {
        self.kill_agent();
        let guards = std::mem::take(&mut lock(&self.inner).guards);
        for guarded in guards.values() {
            guarded.lives().iter().for_each(|life| life.end());
        }
    }

    // === verdict files ===

    /// Syncs are slow for a while.
    pub fn slow_disk(&self, span: Duration) {
        let mut inner = lock(&self.inner);
        inner.slow_disk_until = inner.slow_disk_until.max(world_time() + span);
    }

    /// No more faults.
    pub fn mend(&self) {
        let mut inner = lock(&self.inner);
        inner.slow_disk_until = Duration::ZERO;
        inner.stream_cut_until = Duration::ZERO;
    }

    /// How long the next sync takes.
    pub fn sync_time(&self) -> Duration {
        let mut inner = lock(&self.inner);
        if world_time() < inner.slow_disk_until {
            inner.rng.millis(20, 900)
        } else {
            inner.rng.micros(100, 4_000)
        }
    }

    /// Writes a verdict down.
    pub fn write(&self, role: &RoleName, number: u64, what: Written) {
        lock(&self.inner).disk.write(role, number, what);
    }

    /// A verdict is on disk.
    pub fn synced(&self, role: &RoleName, number: u64) {
        lock(&self.inner).disk.synced(role, number);
    }

    /// The last epoch that the host knows.
    pub fn known(&self, role: &RoleName) -> i64 {
        lock(&self.inner).disk.read(role).known
    }

    /// The verdict that is on disk.
    pub fn durable(&self, role: &RoleName) -> Record {
        lock(&self.inner).disk.durable(role)
    }

    /// Epoch in which the verdict on disk says that this host serves; 0 when it does not.
    pub fn serves_on_disk(&self, role: &RoleName) -> i64 {
        match self.durable(role).what {
            Some(Written::Serve { epoch, .. }) => epoch,
            Some(Written::Not(_)) | None => 0,
        }
    }

    // === data ===

    /// Its data is not copied for a while.
    pub fn cut_stream(&self, span: Duration) {
        let mut inner = lock(&self.inner);
        inner.stream_cut_until = inner.stream_cut_until.max(world_time() + span);
    }

    /// Whether its data can be copied, from it and to it.
    pub fn streams(&self) -> bool {
        let inner = lock(&self.inner);
        inner.has_power && world_time() >= inner.stream_cut_until
    }

    /// What it has of a role's data.
    pub fn held(&self, role: &RoleName) -> Held {
        let inner = lock(&self.inner);
        inner.data.get(role).cloned().unwrap_or_default()
    }

    /// It has this of a role's data.
    pub fn set_held(&self, role: &RoleName, held: Held) {
        lock(&self.inner).data.insert(role.clone(), held);
    }

    /// Where its data ends.
    pub fn position(&self, role: &RoleName) -> u64 {
        self.held(role).position()
    }

    /// What it has of a role's data came with word of its epoch.
    pub fn knows(&self, role: &RoleName, epoch: i64) {
        lock(&self.inner).disk.knows(role, epoch);
    }

    /// It has data from now on.
    pub fn holds_data(&self, role: &RoleName) {
        let mut inner = lock(&self.inner);
        inner.data.entry(role.clone()).or_default().has = true;
    }

    /// Its program wrote.
    pub fn wrote(&self, role: &RoleName, epoch: i64) {
        let mut inner = lock(&self.inner);
        inner.data.entry(role.clone()).or_default().wrote(epoch);
    }

    /// The database that is open for writes.
    pub fn open(&self, role: &RoleName) -> Option<Open> {
        lock(&self.inner).open.get(role).cloned()
    }

    /// It is open like this; `None`: closed.
    pub fn set_open(&self, role: &RoleName, open: Option<Open>) {
        let all = &mut lock(&self.inner).open;
        match open {
            Some(open) => drop(all.insert(role.clone(), open)),
            None => drop(all.remove(role)),
        }
    }
}
