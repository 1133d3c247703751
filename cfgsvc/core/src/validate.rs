//! What is wrong with a request whatever the store holds: checked by the server to answer early,
//! and by apply to be right.

use std::collections::BTreeSet;

use bytes::Bytes;
use cfgsvc_proto::etcd;
use cfgsvc_proto::etcd::range_request::{SortOrder, SortTarget};
use cfgsvc_proto::etcd::request_op::Request;
use cfgsvc_proto::state::Refusal;

use crate::intervals::{Intervals, raw_range};
use crate::limits::{TXN_DEPTH_MAX, TXN_OPS_MAX};
use crate::refusal::{Code, refuse, shown};

/// Checks a range request.
pub fn range(request: &etcd::RangeRequest) -> Result<(), Refusal> {
    not_empty(&request.key)?;
    let (order, target) = (request.sort_order, request.sort_target);
    if SortOrder::try_from(order).is_err() || SortTarget::try_from(target).is_err() {
        let detail = format!("sort order {order}, sort target {target}");
        return Err(refuse(Code::InvalidSort, detail));
    }
    Ok(())
}

/// Checks a put.
pub fn put(request: &etcd::PutRequest) -> Result<(), Refusal> {
    not_empty(&request.key)?;
    if request.ignore_value && !request.value.is_empty() {
        let detail = format!("ignore_value with a value of {} bytes", request.value.len());
        return Err(refuse(Code::ValueProvided, detail));
    }
    if request.ignore_lease && request.lease != 0 {
        let detail = format!("ignore_lease with lease {:x}", request.lease);
        return Err(refuse(Code::LeaseProvided, detail));
    }
    Ok(())
}

/// Checks a delete.
pub fn delete_range(request: &etcd::DeleteRangeRequest) -> Result<(), Refusal> {
    not_empty(&request.key)
}

/// Checks a compaction; what revisions it may name is a matter of the store.
pub fn compact(request: &etcd::CompactionRequest) -> Result<(), Refusal> {
    if request.revision <= 0 {
        let detail = format!("revision {} is not above 0", request.revision);
        return Err(refuse(Code::Compacted, detail));
    }
    Ok(())
}

/// Checks a transaction with everything nested in it.
pub fn txn(request: &etcd::TxnRequest) -> Result<(), Refusal> {
    let left = Left {
        ops: TXN_OPS_MAX,
        levels: TXN_DEPTH_MAX,
    };
    shape(request, left)?;
    touched(&request.success)?;
    touched(&request.failure)?;
    Ok(())
}

fn not_empty(key: &Bytes) -> Result<(), Refusal> {
    if key.is_empty() {
        return Err(refuse(Code::EmptyKey, ""));
    }
    Ok(())
}

/// What the transactions above have left to a nested one.
#[derive(Clone, Copy)]
struct Left {
    ops: usize,
    levels: usize,
}

/// Each operation by itself, their count, and how deep they are nested.
fn shape(request: &etcd::TxnRequest, left: Left) -> Result<(), Refusal> {
    let branches = request.success.len().max(request.failure.len());
    let count = request.compare.len().max(branches);
    if count > left.ops {
        let detail = format!("{count} operations, at most {} here", left.ops);
        return Err(refuse(Code::TooManyOps, detail));
    }
    if left.levels == 0 {
        let detail = format!("transactions are nested deeper than {TXN_DEPTH_MAX}");
        return Err(refuse(Code::TooManyOps, detail));
    }
    let below = Left {
        ops: left.ops - count,
        levels: left.levels - 1,
    };
    for compare in &request.compare {
        not_empty(&compare.key)?;
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(request)) => range(request)?,
            Some(Request::RequestPut(request)) => put(request)?,
            Some(Request::RequestDeleteRange(request)) => delete_range(request)?,
            Some(Request::RequestTxn(request)) => shape(request, below)?,
            None => return Err(refuse(Code::KeyNotFound, "an operation is empty")),
        }
    }
    Ok(())
}

/// What a branch may write, whichever way the transactions nested in it go.
#[derive(Default)]
struct Touched {
    puts: BTreeSet<Bytes>,
    deletes: Intervals,
}

impl Touched {
    /// Adds what the same run may write too: no key may be put twice, or put and deleted.
    fn add_together(&mut self, other: Self) -> Result<(), Refusal> {
        if other.deletes.contain_any(&self.puts) || self.deletes.contain_any(&other.puts) {
            return Err(refuse(Code::DuplicateKey, "a key is put and deleted"));
        }
        self.deletes.extend(other.deletes);
        for key in other.puts {
            if self.puts.contains(&key) {
                let detail = format!("key {} is put twice", shown(&key));
                return Err(refuse(Code::DuplicateKey, detail));
            }
            self.puts.insert(key);
        }
        Ok(())
    }

    /// Adds the other branch: only one of them runs.
    fn add_instead(&mut self, other: Self) {
        self.puts.extend(other.puts);
        self.deletes.extend(other.deletes);
    }
}

fn touched(ops: &[etcd::RequestOp]) -> Result<Touched, Refusal> {
    let mut all = Touched::default();
    for op in ops {
        let mut one = Touched::default();
        match &op.request {
            Some(Request::RequestPut(request)) => {
                one.puts.insert(request.key.clone());
            }
            Some(Request::RequestDeleteRange(request)) => {
                if let Some((start, end)) = raw_range(&request.key, &request.range_end) {
                    one.deletes.insert(start, end);
                }
            }
            Some(Request::RequestTxn(request)) => {
                one = touched(&request.success)?;
                one.add_instead(touched(&request.failure)?);
            }
            Some(Request::RequestRange(_)) | None => continue,
        }
        all.add_together(one)?;
    }
    Ok(all)
}
