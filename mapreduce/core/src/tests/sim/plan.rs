//! What a seed means: who takes part, what the jobs are, and what goes wrong when.

use std::time::Duration;

use super::defect::Defect;
use super::rng::Rng;
use crate::master::Settings;

/// Time to live of the leases of masters and workers.
pub(super) const TTL: Duration = Duration::from_secs(2);
/// How long a worker uses its copy of the group after it asked for it.
pub(super) const FRESH: Duration = Duration::from_secs(1);
/// Longest way of a message that arrives.
pub(super) const WAY_MAX: Duration = Duration::from_millis(400);
/// After the last fault every job ends within this.
pub(super) const HEAL: Duration = Duration::from_secs(90);

/// A job of the simulation: its functions are hashes.
#[derive(Clone, Debug)]
pub(super) struct JobPlan {
    pub(super) maps: u32,
    pub(super) reduces: u32,
    /// When it is submitted.
    pub(super) at: Duration,
    /// This map fails whenever it runs.
    pub(super) poisoned: Option<u32>,
    /// This map has a record on which the code crashes.
    pub(super) bad_record: Option<u32>,
    pub(super) skipped_max: u32,
    /// What a map gives depends on the attempt.
    pub(super) random: bool,
    /// When somebody cancels it.
    pub(super) cancelled: Option<Duration>,
}

/// Something that goes wrong, and for how long.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// The process is killed, and started again.
    Kill,
    /// It stands still.
    Pause,
    /// It hears nobody and nobody hears it.
    CutOff,
    /// It does not hear, or is not heard by, one other.
    Link(usize, bool),
    /// Its work takes this much longer.
    Slow(u32),
}

/// A fault of one process.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    pub(super) at: Duration,
    pub(super) lasts: Duration,
    /// Masters first, then workers.
    pub(super) process: usize,
    pub(super) fault: Fault,
}

/// All of it.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) masters: usize,
    pub(super) slots: Vec<u32>,
    /// Rate of each process's clock, parts per million of the right one.
    pub(super) rates: Vec<u64>,
    pub(super) jobs: Vec<JobPlan>,
    pub(super) troubles: Vec<Trouble>,
    pub(super) faults_end: Duration,
    /// Messages of a thousand that are lost, doubled, and late.
    pub(super) lost: u64,
    pub(super) doubled: u64,
    pub(super) late: u64,
    /// Attempts of a thousand that fail for a passing reason.
    pub(super) failing: u64,
    pub(super) settings: Settings,
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Plan {
    pub(super) fn new(seed: u64, defect: Option<Defect>) -> Self {
        let mut rng = Rng::new(seed);
        let masters = rng.between(1, 3) as usize;
        let workers = rng.between(1, 7) as usize;
        let faults_end = Duration::from_secs(rng.between(4, 25));
        let noisy = rng.chance(500);
        let rates = (0..masters + workers).map(|_| rng.between(950_000, 1_050_000));
        let rates: Vec<_> = rates.collect();
        let one_slot = defect == Some(Defect::ReducesStarveMaps) || rng.chance(300);
        let slots = (0..workers).map(|_| {
            if one_slot {
                1
            } else {
                rng.between(1, 3) as u32
            }
        });
        let slots = slots.collect();
        let jobs = (0..rng.between(1, 3)).map(|_| job(&mut rng)).collect();
        let mut plan = Self {
            masters,
            slots,
            rates,
            jobs,
            troubles: Vec::new(),
            faults_end,
            lost: if noisy { rng.between(0, 100) } else { 0 },
            doubled: if noisy { rng.between(0, 100) } else { 0 },
            late: rng.between(0, 200),
            failing: if rng.chance(300) { 50 } else { 0 },
            settings: settings(&mut rng),
        };
        let count = if rng.chance(100) {
            0
        } else {
            rng.between(1, 14)
        };
        for _ in 0..count {
            let trouble = plan.trouble(&mut rng);
            plan.troubles.push(trouble);
        }
        plan
    }

    fn trouble(&self, rng: &mut Rng) -> Trouble {
        let processes = (self.masters + self.slots.len()) as u64;
        let at = ms(rng.between(100, 9_000)).min(self.faults_end);
        let longest = self.faults_end.saturating_sub(at).as_millis() as u64;
        let process = rng.between(0, processes - 1) as usize;
        let fault = match rng.between(0, 5) {
            0 | 1 => Fault::Kill,
            2 => Fault::Pause,
            3 => Fault::CutOff,
            4 => Fault::Link(rng.between(0, processes) as usize, rng.chance(500)),
            _ => Fault::Slow(rng.between(2, 20) as u32),
        };
        Trouble {
            at,
            lasts: ms(rng.between(0, longest.min(12_000))),
            process,
            fault,
        }
    }
}

fn settings(rng: &mut Rng) -> Settings {
    Settings {
        linger_max: ms(rng.between(0, 300)),
        linger_per_attempt: ms(rng.between(0, 50)),
        batch_records_max: rng.between(1, 20) as usize,
        append_retry: ms(200),
        settle: ms(rng.between(0, 800)),
        assign_patience: ms(600),
        silent_after: ms(rng.between(1_500, 4_000)),
        no_workers_grace: ms(15_000),
        avoid_for: ms(1_000),
        rest: ms(1_000),
        rest_max: ms(4_000),
        backup_runtime_min: ms(rng.between(200, 1_000)),
        fetch_patience: ms(2_000),
        housekeeping: ms(200),
        ..Settings::default()
    }
}

fn job(rng: &mut Rng) -> JobPlan {
    let maps = if rng.chance(50) {
        0
    } else {
        rng.between(1, 24) as u32
    };
    let reduces = if rng.chance(150) {
        0
    } else {
        rng.between(1, 6) as u32
    };
    let some_map = |rng: &mut Rng, permille| {
        let found = rng.chance(permille) && maps > 0;
        found.then(|| rng.between(0, u64::from(maps - 1)) as u32)
    };
    JobPlan {
        maps,
        reduces,
        at: ms(rng.between(0, 4_000)),
        poisoned: some_map(rng, 60),
        bad_record: some_map(rng, 120),
        skipped_max: if rng.chance(600) { 3 } else { 0 },
        random: rng.chance(150),
        cancelled: rng.chance(60).then(|| ms(rng.between(1_000, 8_000))),
    }
}
