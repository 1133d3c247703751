//! A machine: its disks, its clock, what goes wrong with them, and the process that runs on it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::disk::{Crash, SimDisk, Stage};
use crate::member::Member;
use crate::rng::Rng;
use crate::runtime::{Clock, Life, lock, world_time};
use crate::state::{StateDisk, StateImage};
use crate::world::World;

/// A process on a host.
pub struct Process {
    /// Its life.
    pub life: Arc<Life>,
    /// `None` while it starts.
    pub member: Option<Member>,
}

/// Why a host is out of the group for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Out {
    /// The operator removed it.
    Removed,
    /// Its data directory was refused at start.
    Refused,
}

/// A machine of one member.
pub struct Host {
    /// Member id.
    pub id: u64,
    /// The log's disk.
    pub disk: Arc<SimDisk>,
    /// The state's disk.
    pub state: Arc<StateDisk>,
    inner: Mutex<Inner>,
}

struct Inner {
    rng: Rng,
    clock: Clock,
    incarnation: String,
    process: Option<Process>,
    out: Option<Out>,
    faults: DiskFaults,
    /// A failure of its storage was injected: the member may stop.
    may_stop: bool,
}

#[derive(Default)]
struct DiskFaults {
    slow_until: Duration,
    stuck_until: Duration,
    full_until: Duration,
    fail_next: bool,
    armed: Option<(Stage, Crash)>,
}

/// How the next write goes.
pub struct WritePlan {
    /// Time until it is in the page cache.
    pub write: Duration,
    /// Time of its sync.
    pub sync: Duration,
    /// Why it fails.
    pub failure: Option<String>,
}

/// An image of both disks.
pub struct HostImage {
    log: crate::disk::Image,
    state: StateImage,
}

impl Host {
    /// A new machine with empty disks.
    pub fn new(id: u64, clock_rate: u64, state: Arc<StateDisk>, mut rng: Rng) -> Arc<Self> {
        Arc::new(Self {
            id,
            disk: Arc::default(),
            state,
            inner: Mutex::new(Inner {
                clock: Clock::up(clock_rate, &mut rng),
                rng,
                incarnation: format!("directory-{id}"),
                process: None,
                out: None,
                faults: DiskFaults::default(),
                may_stop: false,
            }),
        })
    }

    /// The clock of its boot.
    pub fn clock(&self) -> Clock {
        lock(&self.inner).clock
    }

    /// Id of its data directory.
    pub fn incarnation(&self) -> String {
        lock(&self.inner).incarnation.clone()
    }

    /// The running member, when it has started.
    pub fn member(&self) -> Option<Member> {
        lock(&self.inner).process.as_ref()?.member.clone()
    }

    /// The life of its process.
    pub fn life(&self) -> Option<Arc<Life>> {
        Some(lock(&self.inner).process.as_ref()?.life.clone())
    }

    /// Sets its process, or takes it away.
    pub fn set_process(&self, process: Option<Process>) -> Option<Process> {
        std::mem::replace(&mut lock(&self.inner).process, process)
    }

    /// The member of `life` has started.
    pub fn set_member(&self, life: &Arc<Life>, member: Member) {
        if let Some(process) = &mut lock(&self.inner).process
            && Arc::ptr_eq(&process.life, life)
        {
            process.member = Some(member);
        }
    }

    /// Why it is out of the group, if it is.
    pub fn out(&self) -> Option<Out> {
        lock(&self.inner).out
    }

    /// It is out of the group for good.
    pub fn set_out(&self, out: Out) {
        lock(&self.inner).out.get_or_insert(out);
    }

    /// Whether its member may stop by a failure of storage; asked once for each stop.
    pub fn take_may_stop(&self) -> bool {
        std::mem::take(&mut lock(&self.inner).may_stop)
    }

    /// Leaves on the disks what a crash leaves; returns the count of batches lost.
    pub fn crash_disks(&self, crash: Crash) -> std::io::Result<usize> {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        inner.faults.armed = None;
        inner.faults.fail_next = false;
        inner.may_stop = false;
        if crash == Crash::Power {
            inner.clock = Clock::booted(inner.clock.rate, &mut inner.rng);
        }
        self.state.crash(crash, &mut inner.rng);
        self.disk.crash(crash, &mut inner.rng)
    }

    /// Empties the disks: another data directory.
    pub fn wipe(&self, accepted: bool) -> std::io::Result<()> {
        if !accepted {
            let mut inner = lock(&self.inner);
            inner.incarnation += "-new";
        }
        self.disk.restore(&crate::disk::Image::default())?;
        self.state.restore(&StateImage::empty());
        Ok(())
    }

    /// An image of the disks.
    pub fn image(&self) -> std::io::Result<HostImage> {
        let (log, state) = (self.disk.image()?, self.state.image());
        Ok(HostImage { log, state })
    }

    /// Puts an image back.
    pub fn restore(&self, image: &HostImage) -> std::io::Result<()> {
        self.state.restore(&image.state);
        self.disk.restore(&image.log)
    }

    // === faults of the log's disk ===

    /// Syncs are slow for a while.
    pub fn slow_disk(&self, span: Duration) {
        let mut inner = lock(&self.inner);
        let faults = &mut inner.faults;
        faults.slow_until = faults.slow_until.max(world_time() + span);
    }

    /// No sync ends for a while.
    pub fn stuck_disk(&self, span: Duration) {
        let mut inner = lock(&self.inner);
        let faults = &mut inner.faults;
        faults.stuck_until = faults.stuck_until.max(world_time() + span);
    }

    /// Every write fails for a while.
    pub fn full_disk(&self, span: Duration) {
        let mut inner = lock(&self.inner);
        let faults = &mut inner.faults;
        faults.full_until = faults.full_until.max(world_time() + span);
    }

    /// The next write fails.
    pub fn fail_next_write(&self) {
        lock(&self.inner).faults.fail_next = true;
    }

    /// The next snapshot install ends half way.
    pub fn break_next_install(&self) {
        lock(&self.inner).may_stop = true;
        self.state.break_next_install();
    }

    /// The next write that reaches `stage` crashes.
    pub fn arm(&self, stage: Stage, crash: Crash) {
        lock(&self.inner).faults.armed = Some((stage, crash));
    }

    /// No more faults.
    pub fn mend(&self) {
        lock(&self.inner).faults = DiskFaults::default();
    }

    /// How the next write goes.
    pub fn next_write(&self, world: &World) -> WritePlan {
        let now = world_time();
        let mut inner = lock(&self.inner);
        let failure = if now < inner.faults.full_until {
            Some("no space left on the disk")
        } else if std::mem::take(&mut inner.faults.fail_next) {
            Some("the disk cannot write")
        } else {
            None
        };
        if failure.is_some() {
            inner.may_stop = true;
            world.count("log write failed");
        }
        let mut sync = inner.rng.micros(100, 800);
        if now < inner.faults.slow_until {
            sync = inner.rng.millis(20, 300);
        }
        sync = sync.max(inner.faults.stuck_until.saturating_sub(now));
        WritePlan {
            write: inner.rng.micros(5, 50),
            sync,
            failure: failure.map(str::to_owned),
        }
    }

    /// Crashes here if that was arranged.
    pub async fn pass(&self, world: &Arc<World>, stage: Stage) {
        let armed = {
            let mut inner = lock(&self.inner);
            inner.faults.armed.take_if(|(at, _)| *at == stage)
        };
        if let Some((_, crash)) = armed {
            world.count(match stage {
                Stage::Queued => "crash before the log write",
                Stage::Written => "crash after the log write",
                Stage::Syncing => "crash during the log sync",
                Stage::Synced => "crash after the log sync",
            });
            world.crash(self.id, crash, &format!("{stage:?}"));
            std::future::pending::<()>().await;
        }
    }
}
