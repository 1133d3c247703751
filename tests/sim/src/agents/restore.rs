//! The group is lost for good, and another is made of a snapshot, while hosts live on.
//!
//! ```text
//!  export ─── the group goes on ─── all members end ─── new members, empty ─── Begin, Records
//!                                   │◄──── the longest lease of the snapshot ────►│ Finish
//! ```
//!
//! The twin of `cfgctl snapshot`, and of `cfgsvc::grpc::restore`. The new members have other ids:
//! what was sent to the former ones arrives nowhere, as a group refuses the messages of another.
//! Hosts are kept away until the restore has begun: a group that somebody uses is not filled.

use std::sync::Arc;
use std::time::Duration;

use cfgsvc_core::export;
use cfgsvc_core::placement::promised_ms;
use cfgsvc_proto::state::command::Op;
use cfgsvc_proto::state::refusal::Code;
use cfgsvc_proto::state::seed::Step;
use cfgsvc_proto::state::{Record, Seed};
use cluster::state_store::StateStore as _;
use openraft::AsyncRuntime as _;
use openraft_rt_sim::SimRuntime;

use super::group::{self, Answer};
use crate::member::Member;
use crate::nemesis::operator;
use crate::network;
use crate::rng::Rng;
use crate::runtime::{RIGHT_RATE, world_time};
use crate::world::World;

/// Revisions left out, as `cfgctl snapshot restore` does.
const ADVANCE: i64 = 1_000_000_000;
/// How long one step may take.
const PATIENCE: Duration = Duration::from_secs(4);
/// Pause before something is tried again.
const PAUSE: Duration = Duration::from_millis(50);

/// It must be over by then, whatever goes wrong meanwhile.
const RESTORED: Duration = Duration::from_mins(2);

struct Restore {
    world: Arc<World>,
    rng: Rng,
    /// When the former group was over.
    over: Duration,
    records: Vec<Record>,
}

/// Takes a snapshot, and some time later has the group lost and restored.
pub async fn run(world: Arc<World>) {
    let mut rng = world.fork_rng();
    let before = rng.millis(1_500, 4_000);
    SimRuntime::sleep(before).await;
    let Some(records) = save(&world, &mut rng).await else {
        return;
    };
    world.count("snapshot saved");
    let meanwhile = rng.millis(50, 4_000);
    SimRuntime::sleep(meanwhile).await;
    world.lose_group();
    let over = world_time();
    let empty = rng.millis(0, 2_000);
    SimRuntime::sleep(empty).await;
    world.found_group();
    let mut restore = Restore {
        world: world.clone(),
        rng,
        over,
        records,
    };
    while world.failure().is_none() && !restore.once().await {
        SimRuntime::sleep(PAUSE).await;
        if world_time() > over + RESTORED {
            world.fail(format!(
                "the group is not restored {RESTORED:?} after it was lost"
            ));
        }
    }
    world.open_group();
}

/// What is stored at some member.
async fn save(world: &Arc<World>, rng: &mut Rng) -> Option<Vec<Record>> {
    while world.failure().is_none() {
        if let Some(member) = rng.pick(&world.members()) {
            let mut records = Vec::new();
            let read = member.store().engine().read(&mut |view| {
                let exported = export::records(view, &mut |record| {
                    records.push(record);
                    Ok(())
                })?;
                exported
                    .map(drop)
                    .map_err(|why| std::io::Error::other(why.detail))
            });
            if let Err(error) = read {
                world.fail(format!("a snapshot: {error}"));
            }
            return Some(records);
        }
        SimRuntime::sleep(PAUSE).await;
    }
    None
}

impl Restore {
    /// One try, from the beginning; whether the group is whole.
    async fn once(&mut self) -> bool {
        let restore_id = self.rng.number() | 1;
        let seed = |step: Step, number, records| Seed {
            step: step.into(),
            number,
            records,
            restore_id,
            advance: if step == Step::Finish { ADVANCE } else { 0 },
        };
        match self.step(seed(Step::Begin, 0, Vec::new())).await {
            Some(Answer::Done(_)) => {}
            // Nobody else has written: the end of the try before was not heard of.
            Some(Answer::Refused(why)) => return why.code() == Code::NotEmpty,
            Some(Answer::Unknown) | None => return false,
        }
        let half = self.records.len() / 2;
        let (first, second) = self.records.split_at(half);
        for (number, records) in (1..).zip([first.to_vec(), second.to_vec()]) {
            let step = self.step(seed(Step::Records, number, records)).await;
            if !matches!(step, Some(Answer::Done(_))) {
                return false;
            }
            // Hosts may ask it now; it tells them nothing yet.
            self.world.admit_hosts();
        }
        let of_file = self.records.iter().map(promised_ms).max().unwrap_or(0);
        // A lock that was first used since is not in the file: the operator knows its term.
        let placement = self.world.plan.placement.iter();
        let roles = placement.flat_map(|placement| &placement.roles);
        let longest = roles.map(|role| role.spec.lease_ms()).max().unwrap_or(0);
        let promised = of_file.max(longest);
        // By the clock of the member that fills it, which may be fast.
        let rate = self.world.plan.fastest_clock();
        let until = self.over + Duration::from_millis(promised * RIGHT_RATE / rate + 1);
        SimRuntime::sleep(until.saturating_sub(world_time())).await;
        let end = self.step(seed(Step::Finish, 3, Vec::new())).await;
        matches!(end, Some(Answer::Done(_)))
    }

    async fn step(&mut self, seed: Seed) -> Option<Answer<cfgsvc_proto::state::Reply>> {
        let leader = self.world.leader()?.id();
        let op = Op::Seed(seed);
        let ask = move |member: Member| group::execute(member, op.clone());
        let call = network::call(&self.world, operator(), leader, ask);
        let answer = SimRuntime::timeout(PATIENCE, call).await.ok()?.ok()?;
        if let Answer::Refused(why) = &answer {
            self.world.event(&format!("restore: {}", why.detail));
        }
        Some(answer)
    }
}
