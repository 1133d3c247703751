//! The single writes, alone or in a transaction. Everything that could refuse them was checked
//! before the first of them wrote.

use std::io;
use std::ops::ControlFlow;

use bytes::Bytes;
use cfgsvc_proto::etcd;
use cfgsvc_proto::state::{KeyRecord, Refusal};
use cluster_core::store::{Direction, View};

use crate::limits::REPLACED_OVERHEAD_BYTES;
use crate::read::size_of_parts;
use crate::refusal::{Code, refuse, shown};
use crate::tables;
use crate::writer::{NewValue, RevisionWriter, key_value};

/// A header that carries only the revision; the server completes the outer one.
#[expect(clippy::unnecessary_wraps, reason = "every use is an optional field")]
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
        let detail = format!("key {}", shown(&request.key));
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

/// Puts; [`check_put`] or [`check_lone_put`] has agreed. Refused before anything is written.
pub(crate) fn put(
    writer: &mut RevisionWriter<'_, '_>,
    request: etcd::PutRequest,
) -> io::Result<Result<etcd::PutResponse, Refusal>> {
    let previous: Option<KeyRecord> = tables::get(writer.state, &tables::current(&request.key))?;
    let mut new = NewValue {
        value: request.value,
        lease: request.lease,
    };
    let mut prev_kv = None;
    if let Some(kept) = &previous {
        let bytes = size_of_parts(&request.key, &kept.value);
        if let Err(refusal) = count(writer, 1, bytes, request.prev_kv) {
            return Ok(Err(refusal));
        }
        if request.prev_kv {
            prev_kv = Some(key_value(request.key.clone(), kept.clone()));
        }
        if request.ignore_value {
            new.value = kept.value.clone();
        }
        if request.ignore_lease {
            new.lease = kept.lease;
        }
    }
    writer.put(&request.key, new, previous)?;
    Ok(Ok(etcd::PutResponse {
        header: header(writer.revision()),
        prev_kv,
    }))
}

/// Deletes all keys of the range, in order. Refused before anything is written.
pub(crate) fn delete_range(
    writer: &mut RevisionWriter<'_, '_>,
    request: &etcd::DeleteRangeRequest,
) -> io::Result<Result<etcd::DeleteRangeResponse, Refusal>> {
    let (doomed, bytes) = doomed(writer, &request.key, &request.range_end)?;
    if let Err(refusal) = count(writer, doomed.len(), bytes, request.prev_kv) {
        return Ok(Err(refusal));
    }
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
    Ok(Ok(response))
}

/// Counts versions that are replaced, and answered too when `prev_kv` is asked for.
fn count(
    writer: &mut RevisionWriter<'_, '_>,
    versions: usize,
    bytes: usize,
    prev_kv: bool,
) -> Result<(), Refusal> {
    writer.count_replaced(bytes + versions * REPLACED_OVERHEAD_BYTES)?;
    if prev_kv {
        writer.count_answer(bytes)?;
    }
    Ok(())
}

/// Current versions of the keys in a request's range, and their bytes; of more than may be replaced
/// so many that it shows.
fn doomed(
    writer: &RevisionWriter<'_, '_>,
    key: &Bytes,
    range_end: &Bytes,
) -> io::Result<(Vec<(Bytes, KeyRecord)>, usize)> {
    let (mut found, mut bytes) = (Vec::new(), 0);
    visit_current(writer.state, key, range_end, &mut |key, stored, value| {
        let record: KeyRecord = tables::decode(stored, value)?;
        bytes += size_of_parts(key, &record.value);
        found.push((Bytes::copy_from_slice(key), record));
        if bytes + found.len() * REPLACED_OVERHEAD_BYTES > writer.replaced_left() {
            return Ok(ControlFlow::Break(()));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok((found, bytes))
}

/// What [`visit_current`] calls with a key, its place in the store, and its encoded record.
pub(crate) type VisitCurrent<'a> =
    dyn FnMut(&[u8], &[u8], &[u8]) -> io::Result<ControlFlow<()>> + 'a;

/// Visits the keys in a request's range, in order: one get for a single key, else a scan.
pub(crate) fn visit_current(
    view: &dyn View,
    key: &[u8],
    range_end: &[u8],
    visit: &mut VisitCurrent<'_>,
) -> io::Result<()> {
    if range_end.is_empty() {
        let stored = tables::current(key);
        if let Some(value) = view.get(&stored)? {
            // Nothing is left to visit whatever it says.
            let _ = visit(key, &stored, &value)?;
        }
        return Ok(());
    }
    let range = tables::current_range(key, range_end);
    tables::try_scan(view, &range, Direction::Ascending, &mut |stored, value| {
        visit(&stored[1..], stored, value)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use cluster_core::store::Overlay;
    use prost::Message;

    use super::*;
    use crate::limits::REPLACED_BYTES_MAX;

    /// What `a` and `b` count together, each with a value of 100 bytes.
    const BYTES: usize = 2 * (1 + 100 + 32 + REPLACED_OVERHEAD_BYTES);

    /// Deletes both when so many bytes may still be replaced; returns how many were deleted, and
    /// how many keys of the store that changed.
    fn delete_with_left(left: usize) -> (Option<i64>, usize) {
        let record = KeyRecord {
            mod_revision: 2,
            value: vec![7; 100].into(),
            ..KeyRecord::default()
        };
        let base: BTreeMap<Bytes, Bytes> = [b"a", b"b"]
            .map(|key| (tables::current(key), record.encode_to_vec().into()))
            .into();
        let mut overlay = Overlay::new(&base);
        let mut writer = RevisionWriter::new(&mut overlay, 2);
        writer
            .count_replaced(REPLACED_BYTES_MAX - left)
            .expect("within the limit");
        let request = etcd::DeleteRangeRequest {
            key: Bytes::from_static(b"a"),
            range_end: Bytes::from_static(b"c"),
            prev_kv: false,
        };
        let outcome = delete_range(&mut writer, &request).expect("memory does not fail");
        let deleted = outcome.ok().map(|response| response.deleted);
        (deleted, overlay.pending())
    }

    #[test]
    fn delete_of_more_than_may_be_replaced_is_refused_and_writes_nothing() {
        // Each delete changes the key, its old version and the history.
        assert_eq!(delete_with_left(BYTES), (Some(2), 6));
        assert_eq!(delete_with_left(BYTES - 1), (None, 0));
        assert_eq!(delete_with_left(0), (None, 0));
    }
}
