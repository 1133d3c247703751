//! Mistakes that are made on purpose: each has to be found.

use crate::master;

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Defect {
    /// The group takes batches of any epoch.
    EpochNotChecked,
    /// A worker publishes what it has finished, recorded or not.
    PublishedBeforeRecorded,
    /// Counters of attempts that lost are in the sums.
    LosersCounted,
    /// A worker serves whether or not its lease may be over.
    LeaseIgnored,
    /// A reduce says that it has read what it should have read.
    InputsAssumed,
    /// A worker begins an attempt again when its assignment comes again.
    AttemptsTakenTwice,
    /// See [`master::Defect`].
    FetchFailureCounts,
    /// The same.
    WonReducesRunAgain,
    /// The same.
    ReducesStarveMaps,
    /// The same.
    RetriedUnderNextNumber,
    /// The same.
    ToldBeforeRecorded,
    /// The same.
    SettledUnconfirmed,
}

impl Defect {
    pub(super) const ALL: [Self; 12] = [
        Self::EpochNotChecked,
        Self::PublishedBeforeRecorded,
        Self::LosersCounted,
        Self::LeaseIgnored,
        Self::InputsAssumed,
        Self::AttemptsTakenTwice,
        Self::FetchFailureCounts,
        Self::WonReducesRunAgain,
        Self::ReducesStarveMaps,
        Self::RetriedUnderNextNumber,
        Self::ToldBeforeRecorded,
        Self::SettledUnconfirmed,
    ];

    /// The one that the master makes.
    pub(super) fn of_master(self) -> Option<master::Defect> {
        match self {
            Self::FetchFailureCounts => Some(master::Defect::FetchFailureCounts),
            Self::WonReducesRunAgain => Some(master::Defect::WonReducesRunAgain),
            Self::ReducesStarveMaps => Some(master::Defect::ReducesStarveMaps),
            Self::RetriedUnderNextNumber => Some(master::Defect::RetriedUnderNextNumber),
            Self::ToldBeforeRecorded => Some(master::Defect::ToldBeforeRecorded),
            Self::SettledUnconfirmed => Some(master::Defect::SettledUnconfirmed),
            Self::EpochNotChecked
            | Self::PublishedBeforeRecorded
            | Self::LosersCounted
            | Self::LeaseIgnored
            | Self::InputsAssumed
            | Self::AttemptsTakenTwice => None,
        }
    }
}
