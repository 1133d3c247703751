//! Hashes that members compare: equal state gives equal values on every member.
//!
//! The values are ours; etcd's are over its own storage format and cannot match.

use std::io;

use cfgsvc_core::export;
use cfgsvc_core::read::{machine_record, range_page};
use cfgsvc_proto::etcd::RangeRequest;
use cfgsvc_proto::state::Refusal;
use cluster::View;
use crc32fast::Hasher;
use prost::Message;

/// Bytes of keys read at a time.
const PAGE_BYTES: usize = 1 << 20;

/// Hash of the keys at a revision.
pub(super) struct KeysHash {
    /// Latest revision of the store.
    pub(super) revision: i64,
    /// Oldest revision that can be read.
    pub(super) compacted: i64,
    /// The revision that was hashed.
    pub(super) hash_revision: i64,
    pub(super) hash: u32,
}

/// CRC-32 over all keys at `revision` (0 is the latest), in order, each as its message.
pub(super) fn keys(view: &dyn View, revision: i64) -> io::Result<Result<KeysHash, Refusal>> {
    let machine = machine_record(view)?;
    let mut request = RangeRequest {
        key: b"\0".as_slice().into(),
        range_end: b"\0".as_slice().into(),
        revision,
        ..RangeRequest::default()
    };
    let mut hasher = Hasher::new();
    loop {
        let page = match range_page(view, &request, PAGE_BYTES)? {
            Ok(page) => page,
            Err(refused) => return Ok(Err(refused)),
        };
        for kv in &page.kvs {
            hasher.update(&kv.encode_length_delimited_to_vec());
        }
        match page.next_key {
            Some(next_key) => request.key = next_key,
            None => {
                return Ok(Ok(KeysHash {
                    revision: machine.revision,
                    compacted: machine.compacted_revision,
                    hash_revision: page.revision,
                    hash: hasher.finalize(),
                }));
            }
        }
    }
}

/// The latest revision, and CRC-32 over everything in the store that the service has put there.
pub(super) fn whole(view: &dyn View) -> io::Result<(i64, u32)> {
    let mut hasher = Hasher::new();
    let exported = export::records(view, &mut |record| {
        hasher.update(&record.encode_length_delimited_to_vec());
        Ok(())
    })?;
    // While a restore fills the store, there is nothing to compare: all members answer 0.
    let hash = if exported.is_ok() {
        hasher.finalize()
    } else {
        0
    };
    Ok((machine_record(view)?.revision, hash))
}
