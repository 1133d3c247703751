//! Defects that a run can be given, to show that the simulator sees them.

/// A defect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Defect {
    /// Library defect S1: a restarted leader resumes its term (`enable_leader_restore`).
    LeaderRestore,
    /// Library defect S2: reads are confirmed by the leader's lease.
    LeaseRead,
    /// Library defect S3: a late answer to an append counts as one to what was sent after it.
    LateAnswer,
    /// Log batches are acknowledged when they are written, before they are synced.
    AckBeforeSync,
    /// Votes never reach the disk.
    VoteNotPersisted,
    /// A crash may keep what was applied without the applied index.
    ApplyNotAtomic,
    /// An installed snapshot carries no membership.
    SnapshotForgetsMembership,
    /// Request ids are not passed on: a retry is executed again.
    RequestIdForgotten,
    /// A read that arrives during a round of the barrier is answered by that round.
    BarrierJoinedLate,
    /// A compaction does not wait for what watchers lack, and they are not told.
    CompactionAheadOfWatchers,
    /// A new leader counts leases from their grant instead of from its own beginning.
    LeaseFromGrant,
    /// A disk image of the past is put back and accepted.
    OldImageAccepted,
    /// A member with an emptied disk goes on under its old id.
    WipedDiskAccepted,
    /// A host counts its deadline from the answer to its renewal instead of from the sending.
    DeadlineFromAnswer,
    /// A host leaves out the margin for the rate of its clock.
    ClockRateIgnored,
    /// A host leaves out the time that its program needs to stop.
    StopMarginIgnored,
    /// A new leader does not wait out what the one before it may have promised to hosts.
    TakeOverAtOnce,
    /// An agent says that it has stopped before the program is gone.
    YieldBeforeGone,
    /// A renewal is confirmed without a new quorum check.
    RenewalNotConfirmed,
    /// A verdict of an older lease is believed.
    OldVerdictBelieved,
    /// The program runs before the start of its epoch is committed.
    RunBeforeStart,
    /// The program runs before its host's disk says so.
    VerdictNotSynced,
    /// Only the agent keeps the program's deadline.
    GuardWithoutTimer,
    /// The resource takes writes of any epoch.
    ResourceUnchecked,
    /// A late copy of what an agent once asked for is carried out: its steps are not numbered.
    StepsWithoutNumbers,
    /// A database does not wait for hosts that the group may count on, when they do not stream.
    SyncNotAwaited,
    /// A store that was opened anew passes for the same.
    StoreLifeIgnored,
}

impl Defect {
    /// All of them.
    pub const ALL: [Self; 27] = [
        Self::LeaderRestore,
        Self::LeaseRead,
        Self::LateAnswer,
        Self::AckBeforeSync,
        Self::VoteNotPersisted,
        Self::ApplyNotAtomic,
        Self::SnapshotForgetsMembership,
        Self::RequestIdForgotten,
        Self::BarrierJoinedLate,
        Self::CompactionAheadOfWatchers,
        Self::LeaseFromGrant,
        Self::OldImageAccepted,
        Self::WipedDiskAccepted,
        Self::DeadlineFromAnswer,
        Self::ClockRateIgnored,
        Self::StopMarginIgnored,
        Self::TakeOverAtOnce,
        Self::YieldBeforeGone,
        Self::RenewalNotConfirmed,
        Self::OldVerdictBelieved,
        Self::RunBeforeStart,
        Self::VerdictNotSynced,
        Self::GuardWithoutTimer,
        Self::ResourceUnchecked,
        Self::StepsWithoutNumbers,
        Self::SyncNotAwaited,
        Self::StoreLifeIgnored,
    ];

    /// Those that need a plan of their own to show.
    pub const FAVOURED: [Self; 11] = [
        Self::LeaderRestore,
        Self::LeaseRead,
        Self::LateAnswer,
        Self::OldImageAccepted,
        Self::WipedDiskAccepted,
        Self::DeadlineFromAnswer,
        Self::ClockRateIgnored,
        Self::TakeOverAtOnce,
        Self::RenewalNotConfirmed,
        Self::SyncNotAwaited,
        Self::StoreLifeIgnored,
    ];

    /// Whether it shows only where hosts serve roles.
    pub fn needs_hosts(self) -> bool {
        self >= Self::DeadlineFromAnswer
    }

    /// Whether it shows only where a role is synchronous.
    pub fn needs_sync(self) -> bool {
        self >= Self::SyncNotAwaited
    }
}
