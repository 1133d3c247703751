//! What Prometheus is told.
//!
//! Names carry their unit. Gauges are read from the service when they are asked for, so they cannot
//! go stale; only requests are counted as they come.

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

/// Which call.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    method: String,
}

/// A gauge of whole numbers.
type Number = Gauge<u64, AtomicU64>;

/// All metrics of one server.
pub struct Metrics {
    registry: Registry,
    requests: Family<Call, Counter>,
    is_leader: Number,
    has_leader: Number,
    raft_term: Number,
    raft_last_index: Number,
    raft_committed_index: Number,
    raft_applied_index: Number,
    revision: Number,
    compacted_revision: Number,
    watchers: Number,
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
        let requests = Family::default();
        registry.register("cfgsvc_requests", "gRPC calls begun", requests.clone());
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
            watchers: gauge("cfgsvc_watchers", "Watchers that are not behind"),
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
            registry,
        }
    }

    /// Counts a call by its path, `/package.Service/Method`.
    pub fn count(&self, path: &str) {
        self.requests
            .get_or_create(&Call {
                method: path.to_owned(),
            })
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
        self.compacted_revision.set(service.hub.compacted() as u64);
        self.watchers.set(service.hub.waiting() as u64);
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
