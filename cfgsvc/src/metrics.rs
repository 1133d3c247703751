//! What Prometheus is told.
//!
//! Names carry their unit. Gauges are read from the service when they are asked for, so they cannot
//! go stale; only requests are counted as they come.
//!
//! Invariant: the number of time series is fixed. What a client sends never becomes a label.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicU64;

use cluster::Role;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::service::Service;

/// Every call that is served, by its path.
const METHODS: &[&str] = &[
    "/etcdserverpb.KV/Range",
    "/etcdserverpb.KV/RangeStream",
    "/etcdserverpb.KV/Put",
    "/etcdserverpb.KV/DeleteRange",
    "/etcdserverpb.KV/Txn",
    "/etcdserverpb.KV/Compact",
    "/etcdserverpb.Watch/Watch",
    "/etcdserverpb.Lease/LeaseGrant",
    "/etcdserverpb.Lease/LeaseRevoke",
    "/etcdserverpb.Lease/LeaseKeepAlive",
    "/etcdserverpb.Lease/LeaseTimeToLive",
    "/etcdserverpb.Lease/LeaseLeases",
    "/etcdserverpb.Cluster/MemberAdd",
    "/etcdserverpb.Cluster/MemberRemove",
    "/etcdserverpb.Cluster/MemberUpdate",
    "/etcdserverpb.Cluster/MemberList",
    "/etcdserverpb.Cluster/MemberPromote",
    "/etcdserverpb.Maintenance/Alarm",
    "/etcdserverpb.Maintenance/Status",
    "/etcdserverpb.Maintenance/Defragment",
    "/etcdserverpb.Maintenance/Hash",
    "/etcdserverpb.Maintenance/HashKV",
    "/etcdserverpb.Maintenance/Snapshot",
    "/etcdserverpb.Maintenance/MoveLeader",
    "/etcdserverpb.Maintenance/Downgrade",
    "/cfgsvc.v1.Admin/History",
    "/cfgsvc.v1.Admin/MemberAdd",
    "/cfgsvc.v1.Admin/Members",
    "/cfgsvc.v1.Admin/Join",
    "/cfgsvc.v1.Admin/Restore",
];
/// What all other paths are counted as.
const OTHER: &str = "other";

/// Which call.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    method: &'static str,
}

/// A gauge of whole numbers.
type Number = Gauge<u64, AtomicU64>;

/// All metrics of one server.
pub struct Metrics {
    registry: Registry,
    requests: BTreeMap<&'static str, Counter>,
    other_requests: Counter,
    is_leader: Number,
    has_leader: Number,
    raft_term: Number,
    raft_last_index: Number,
    raft_committed_index: Number,
    raft_applied_index: Number,
    revision: Number,
    compacted_revision: Number,
    watchers: Number,
    watchers_behind: Number,
    leases: Number,
    disk_bytes: Number,
    space_exhausted: Number,
    resident_bytes: Number,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let calls = Family::<Call, Counter>::default();
        let counter = |method| calls.get_or_create_owned(&Call { method });
        let requests = METHODS.iter().map(|path| (*path, counter(path))).collect();
        let other_requests = counter(OTHER);
        registry.register("cfgsvc_requests", "gRPC calls begun", calls);
        let mut gauge = |name: &str, help: &str| {
            let gauge = Number::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        Self {
            is_leader: gauge("cfgsvc_is_leader", "1 while this member leads"),
            has_leader: gauge("cfgsvc_has_leader", "1 while this member knows a leader"),
            raft_term: gauge("cfgsvc_raft_term", "Raft term"),
            raft_last_index: gauge("cfgsvc_raft_last_index", "Last index in the log"),
            raft_committed_index: gauge(
                "cfgsvc_raft_committed_index",
                "Last committed index known",
            ),
            raft_applied_index: gauge("cfgsvc_raft_applied_index", "Last index applied"),
            revision: gauge("cfgsvc_revision", "Last revision that is visible"),
            compacted_revision: gauge(
                "cfgsvc_compacted_revision",
                "Oldest revision that can be read",
            ),
            watchers: gauge("cfgsvc_watchers", "Watchers"),
            watchers_behind: gauge(
                "cfgsvc_watchers_behind",
                "Watchers that lack something that happened",
            ),
            leases: gauge("cfgsvc_leases", "Leases"),
            disk_bytes: gauge("cfgsvc_disk_bytes", "Bytes of log and state on disk"),
            space_exhausted: gauge(
                "cfgsvc_space_exhausted",
                "1 while writes are refused for space",
            ),
            resident_bytes: gauge(
                "process_resident_memory_bytes",
                "Memory of the process in bytes",
            ),
            requests,
            other_requests,
            registry,
        }
    }

    /// Counts a call by its path, `/package.Service/Method`.
    pub fn count(&self, path: &str) {
        self.requests
            .get(path)
            .unwrap_or(&self.other_requests)
            .inc();
    }

    /// All of them in Prometheus' text form.
    pub fn text(&self, service: &Service) -> Result<String, fmt::Error> {
        let status = service.status();
        self.is_leader.set(u64::from(status.role == Role::Leader));
        self.has_leader.set(u64::from(status.leader.is_some()));
        self.raft_term.set(status.term);
        self.raft_last_index.set(status.last_index);
        self.raft_committed_index.set(status.committed_index);
        self.raft_applied_index.set(status.applied_index);
        self.revision.set(service.hub.published() as u64);
        self.compacted_revision
            .set(service.hub.floor().compacted as u64);
        let (watchers, waiting) = (service.hub.watchers(), service.hub.waiting());
        self.watchers.set(watchers as u64);
        // Two looks: a watcher may have come between them.
        self.watchers_behind
            .set(watchers.saturating_sub(waiting) as u64);
        self.leases.set(service.keeper.count() as u64);
        self.space_exhausted.set(u64::from(service.is_full()));
        match service.group.disk_bytes() {
            Ok(bytes) => {
                self.disk_bytes.set(bytes);
            }
            Err(error) => tracing::warn!(%error, "size of the data is not known"),
        }
        self.resident_bytes.set(resident_bytes().unwrap_or(0));
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// Memory of this process, as the kernel counts it.
fn resident_bytes() -> Option<u64> {
    let status = fs_err::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Paths of the calls of a `.proto` file.
    fn declared(proto: &str) -> Vec<String> {
        let (mut package, mut service) = ("", "");
        let mut paths = Vec::new();
        for line in proto.lines() {
            let mut words = line.split([' ', '(', ';']).filter(|word| !word.is_empty());
            match (words.next(), words.next()) {
                (Some("package"), Some(name)) => package = name,
                (Some("service"), Some(name)) => service = name,
                (Some("rpc"), Some(name)) => paths.push(format!("/{package}.{service}/{name}")),
                _ => {}
            }
        }
        paths
    }

    #[test]
    fn every_declared_call_is_counted_by_its_name() {
        let mut paths = declared(include_str!("../proto/proto/rpc.proto"));
        paths.extend(declared(include_str!("../proto/proto/cfgsvc.proto")));
        assert_eq!(paths, METHODS);
    }

    #[test]
    fn what_a_client_invents_makes_no_time_series() {
        let metrics = Metrics::new();
        for path in ["/x", "/y", "/etcdserverpb.KV/Nothing", ""] {
            metrics.count(path);
        }
        metrics.count("/etcdserverpb.KV/Put");
        let mut text = String::new();
        encode(&mut text, &metrics.registry).expect("text");
        let counted: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("cfgsvc_requests_total"))
            .filter(|line| !line.ends_with(" 0"))
            .collect();
        let series = text.matches("cfgsvc_requests_total{").count();
        assert_eq!(series, METHODS.len() + 1);
        assert_eq!(counted.len(), 2, "{counted:?}");
        assert!(counted.contains(&"cfgsvc_requests_total{method=\"other\"} 4"));
    }
}
