//! The group's types on the simulated runtime.

use cluster::machine::Machine;
use cluster::types::{Command, LeaderId, NodeInfo, Reply};

use crate::runtime::WorldRuntime;

openraft::declare_raft_types!(
    /// The group in the simulator.
    pub SimTypes:
        D = Command,
        R = Reply,
        NodeId = u64,
        Node = NodeInfo,
        Term = u64,
        LeaderId = LeaderId,
        AsyncRuntime = WorldRuntime,
);

/// openraft on them.
pub type RaftHandle = openraft::Raft<SimTypes, Machine>;
