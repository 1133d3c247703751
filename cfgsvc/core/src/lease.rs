//! Leases: granted and ended only by commands; time is the leader's affair (DESIGN 3).
//!
//! Invariants
//! - a key's lease exists, and its attachment `lease key` exists; nothing else is attached.
//! - a lease that ends takes its keys, its session and the session's replies with it.

use std::io;
use std::ops::ControlFlow;

use bytes::Bytes;
use cfgsvc_proto::etcd;
use cfgsvc_proto::state::{KeyRecord, LeaseRecord, Refusal};
use cluster_core::store::{Direction, Overlay, View};
use prost::Message;

use crate::limits::LEASE_TTL_S_MAX;
use crate::refusal::{Code, refuse, shown};
use crate::session;
use crate::tables;
use crate::writer::RevisionWriter;

/// How long a lease lives without a renewal, ms.
pub fn ttl_ms(lease: &LeaseRecord) -> u64 {
    match lease.ttl_ms {
        0 => u64::try_from(lease.ttl_s).unwrap_or(0) * 1_000,
        ttl_ms => ttl_ms,
    }
}

/// Grants a lease whose id and TTL the proposer chose.
pub(crate) fn grant(
    state: &mut Overlay<'_>,
    request: &etcd::LeaseGrantRequest,
) -> io::Result<Result<etcd::LeaseGrantResponse, Refusal>> {
    let (id, ttl_s) = (request.id, request.ttl);
    if id == 0 || ttl_s <= 0 {
        let detail = format!("lease id {id} and ttl {ttl_s} s must be chosen before the proposal");
        return Ok(Err(refuse(Code::InvalidCommand, detail)));
    }
    if ttl_s > LEASE_TTL_S_MAX {
        let detail = format!("ttl {ttl_s} s, at most {LEASE_TTL_S_MAX} s");
        return Ok(Err(refuse(Code::LeaseTtlTooLarge, detail)));
    }
    let stored = tables::lease(id);
    if state.get(&stored)?.is_some() {
        return Ok(Err(refuse(Code::LeaseExists, format!("lease {id:x}"))));
    }
    let lease = LeaseRecord {
        ttl_s,
        ..LeaseRecord::default()
    };
    state.put(stored, lease.encode_to_vec());
    Ok(Ok(etcd::LeaseGrantResponse {
        id,
        ttl: ttl_s,
        ..etcd::LeaseGrantResponse::default()
    }))
}

/// Ends lease `id`, which lives, with all that hangs on it.
pub(crate) fn end(writer: &mut RevisionWriter<'_, '_>, id: i64) -> io::Result<()> {
    for key in attached(writer.state, id)? {
        let current: Option<KeyRecord> = tables::get(writer.state, &tables::current(&key))?;
        let record = current.ok_or_else(|| {
            let shown = shown(&key);
            let text = format!("lease {id:x} has key {shown} attached, which does not exist");
            io::Error::new(io::ErrorKind::InvalidData, text)
        })?;
        writer.delete(&key, record)?;
    }
    writer.state.delete(tables::lease(id));
    session::end(writer.state, id)
}

/// Keys attached to lease `id`, in order.
pub(crate) fn attached(view: &dyn View, id: i64) -> io::Result<Vec<Bytes>> {
    let mut keys = Vec::new();
    let range = tables::lease_keys(id);
    tables::try_scan(view, &range, Direction::Ascending, &mut |stored, _| {
        let (_, key) = tables::split_number(stored)?;
        keys.push(Bytes::copy_from_slice(key));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(keys)
}
