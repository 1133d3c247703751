//! The group's types on the simulated runtime.

use cluster::machine::Machine;

use crate::runtime::WorldRuntime;

cluster::declare_group_types!(
    /// The group in the simulator.
    SimTypes on WorldRuntime
);

/// openraft on them.
pub type RaftHandle = openraft::Raft<SimTypes, Machine>;
