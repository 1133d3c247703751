//! The single writes, alone or in a transaction. Everything that could refuse them was checked
//! before the first of them wrote.

use std::io;
use std::ops::ControlFlow;

use bytes::Bytes;
use cfgsvc_proto::etcd;
use cfgsvc_proto::state::{KeyRecord, Refusal};
use cluster_core::store::{Direction, View};

use crate::refusal::{Code, refuse};
use crate::tables;
use crate::writer::{NewValue, RevisionWriter, key_value};

/// A header that carries only the revision; the server completes the outer one.
#[allow(clippy::unnecessary_wraps, reason = "every use is an optional field")]
pub(crate) fn header(revision: i64) -> Option<etcd::ResponseHeader> {
    Some(etcd::ResponseHeader {
        revision,
        ..etcd::ResponseHeader::default()
    })
}

/// What a put in a transaction needs of the store: for `ignore_value` or `ignore_lease` its key,
/// then its lease.
pub(crate) fn check_put(
    view: &dyn View,
    request: &etcd::PutRequest,
) -> io::Result<Result<(), Refusal>> {
    match check_kept(view, request)? {
        Ok(()) => check_lease(view, request),
        refused @ Err(_) => Ok(refused),
    }
}

/// The same of a put by itself; etcd looks at the lease first there, and its clients see which.
pub(crate) fn check_lone_put(
    view: &dyn View,
    request: &etcd::PutRequest,
) -> io::Result<Result<(), Refusal>> {
    match check_lease(view, request)? {
        Ok(()) => check_kept(view, request),
        refused @ Err(_) => Ok(refused),
    }
}

fn check_kept(view: &dyn View, request: &etcd::PutRequest) -> io::Result<Result<(), Refusal>> {
    let keeps = request.ignore_value || request.ignore_lease;
    if keeps && view.get(&tables::current(&request.key))?.is_none() {
        let detail = format!("key '{}'", request.key.escape_ascii());
        return Ok(Err(refuse(Code::KeyNotFound, detail)));
    }
    Ok(Ok(()))
}

fn check_lease(view: &dyn View, request: &etcd::PutRequest) -> io::Result<Result<(), Refusal>> {
    if request.lease != 0 && view.get(&tables::lease(request.lease))?.is_none() {
        let detail = format!("lease {:x}", request.lease);
        return Ok(Err(refuse(Code::LeaseNotFound, detail)));
    }
    Ok(Ok(()))
}

/// Puts; [`check_put`] or [`check_lone_put`] has agreed.
pub(crate) fn put(
    writer: &mut RevisionWriter<'_, '_>,
    request: etcd::PutRequest,
) -> io::Result<etcd::PutResponse> {
    let previous: Option<KeyRecord> = tables::get(writer.state, &tables::current(&request.key))?;
    let mut new = NewValue {
        value: request.value,
        lease: request.lease,
    };
    if let Some(kept) = &previous {
        if request.ignore_value {
            new.value = kept.value.clone();
        }
        if request.ignore_lease {
            new.lease = kept.lease;
        }
    }
    let prev_kv = match &previous {
        Some(record) if request.prev_kv => Some(key_value(request.key.clone(), record.clone())),
        Some(_) | None => None,
    };
    writer.put(&request.key, new, previous)?;
    Ok(etcd::PutResponse {
        header: header(writer.revision()),
        prev_kv,
    })
}

/// Deletes all keys of the range, in order.
pub(crate) fn delete_range(
    writer: &mut RevisionWriter<'_, '_>,
    request: &etcd::DeleteRangeRequest,
) -> io::Result<etcd::DeleteRangeResponse> {
    let doomed = current_records(writer.state, &request.key, &request.range_end)?;
    let mut response = etcd::DeleteRangeResponse {
        deleted: doomed.len() as i64,
        ..etcd::DeleteRangeResponse::default()
    };
    for (key, record) in doomed {
        if request.prev_kv {
            let previous = key_value(key.clone(), record.clone());
            response.prev_kvs.push(previous);
        }
        writer.delete(&key, record)?;
    }
    response.header = header(writer.revision());
    Ok(response)
}

/// Current versions of the keys in a request's range.
pub(crate) fn current_records(
    view: &dyn View,
    key: &Bytes,
    range_end: &Bytes,
) -> io::Result<Vec<(Bytes, KeyRecord)>> {
    if range_end.is_empty() {
        let found = tables::get(view, &tables::current(key))?;
        return Ok(found
            .map(|record| (key.clone(), record))
            .into_iter()
            .collect());
    }
    let mut found = Vec::new();
    let range = tables::current_range(key, range_end);
    tables::try_scan(view, &range, Direction::Ascending, &mut |stored, value| {
        let key = Bytes::copy_from_slice(&stored[1..]);
        found.push((key, tables::decode(stored, value)?));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}
