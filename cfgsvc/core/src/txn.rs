//! Transactions: compare, then one of two branches, nested.
//!
//! As etcd has it, all compares, also those of nested transactions, are evaluated on the state
//! before the transaction; then everything on the chosen path is checked; then it is executed in
//! order, on top of the state, which takes the changes over when the size of the answer and of what
//! is replaced has shown to be within the limits. So a transaction is refused whole or done whole.

use std::cmp::Ordering;
use std::io;
use std::ops::ControlFlow;

use bytes::Bytes;
use cfgsvc_proto::etcd;
use cfgsvc_proto::etcd::compare::{CompareResult, CompareTarget, TargetUnion};
use cfgsvc_proto::etcd::request_op::Request;
use cfgsvc_proto::etcd::response_op::Response;
use cfgsvc_proto::state::{KeyRecord, Refusal};
use cluster_core::store::View;

use crate::floor::Floor;
use crate::ops;
use crate::read::{self, KeyMeta, Position};
use crate::refusal::{Code, refuse};
use crate::tables;
use crate::validate;
use crate::writer::{RevisionWriter, answer_too_large};

/// Outcomes of the compares on the chosen path, outer before inner, in order of execution.
pub(crate) struct Path {
    outcomes: std::vec::IntoIter<bool>,
}

impl Path {
    /// Evaluates all compares on `view`, the state before the transaction.
    pub(crate) fn choose(view: &dyn View, request: &etcd::TxnRequest) -> io::Result<Self> {
        let mut outcomes = Vec::new();
        choose(view, request, &mut outcomes)?;
        Ok(Self {
            outcomes: outcomes.into_iter(),
        })
    }

    fn again(&self) -> Self {
        Self {
            outcomes: self.outcomes.clone(),
        }
    }

    /// Outcome of the next transaction on the path, and the branch it takes.
    fn branch<'a>(&mut self, request: &'a etcd::TxnRequest) -> (bool, &'a [etcd::RequestOp]) {
        let succeeded = self
            .outcomes
            .next()
            .expect("the path was made from the same request");
        if succeeded {
            (true, &request.success)
        } else {
            (false, &request.failure)
        }
    }
}

fn choose(view: &dyn View, request: &etcd::TxnRequest, outcomes: &mut Vec<bool>) -> io::Result<()> {
    let mut succeeded = true;
    for compare in &request.compare {
        if !holds(view, compare)? {
            succeeded = false;
            break;
        }
    }
    outcomes.push(succeeded);
    let branch = if succeeded {
        &request.success
    } else {
        &request.failure
    };
    for op in branch {
        if let Some(Request::RequestTxn(nested)) = &op.request {
            choose(view, nested, outcomes)?;
        }
    }
    Ok(())
}

/// Whether a compare holds for every key it names. A key that does not exist counts as all zeros,
/// except that no value equals, or differs from, one that is not there.
fn holds(view: &dyn View, compare: &etcd::Compare) -> io::Result<bool> {
    let of_value = compare.target == i32::from(CompareTarget::Value);
    let (mut any, mut all) = (false, true);
    ops::visit_current(
        view,
        &compare.key,
        &compare.range_end,
        &mut |_, stored, value| {
            let record: KeyRecord = if of_value {
                tables::decode(stored, value)?
            } else {
                tables::decode::<KeyMeta>(stored, value)?.into()
            };
            any = true;
            all = record_holds(compare, &record);
            Ok(if all {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            })
        },
    )?;
    if any {
        return Ok(all);
    }
    Ok(!of_value && record_holds(compare, &KeyRecord::default()))
}

fn record_holds(compare: &etcd::Compare, record: &KeyRecord) -> bool {
    let union = compare.target_union.as_ref();
    let ordering = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Value) => {
            let empty = Bytes::new();
            let wanted = match union {
                Some(TargetUnion::Value(value)) => value,
                _ => &empty,
            };
            record.value.cmp(wanted)
        }
        Ok(CompareTarget::Version) => record.version.cmp(&match union {
            Some(TargetUnion::Version(version)) => *version,
            _ => 0,
        }),
        Ok(CompareTarget::Create) => record.create_revision.cmp(&match union {
            Some(TargetUnion::CreateRevision(revision)) => *revision,
            _ => 0,
        }),
        Ok(CompareTarget::Mod) => record.mod_revision.cmp(&match union {
            Some(TargetUnion::ModRevision(revision)) => *revision,
            _ => 0,
        }),
        Ok(CompareTarget::Lease) => record.lease.cmp(&match union {
            Some(TargetUnion::Lease(lease)) => *lease,
            _ => 0,
        }),
        // As etcd has it: an unknown target compares equal.
        Err(_) => Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        // As etcd has it: an unknown relation holds.
        Err(_) => true,
    }
}

/// Checks what the chosen path needs of the store: puts first, then ranges.
pub(crate) fn check(
    view: &dyn View,
    position: Position,
    request: &etcd::TxnRequest,
    path: &Path,
) -> io::Result<Result<(), Refusal>> {
    let mut puts = |op: &Request| match op {
        Request::RequestPut(put) => ops::check_put(view, put),
        Request::RequestRange(_) | Request::RequestDeleteRange(_) | Request::RequestTxn(_) => {
            Ok(Ok(()))
        }
    };
    if let Err(refusal) = walk(request, &mut path.again(), &mut puts)? {
        return Ok(Err(refusal));
    }
    let mut ranges = |op: &Request| match op {
        Request::RequestRange(range) => Ok(position.resolve(range.revision).map(drop)),
        Request::RequestPut(_) | Request::RequestDeleteRange(_) | Request::RequestTxn(_) => {
            Ok(Ok(()))
        }
    };
    walk(request, &mut path.again(), &mut ranges)
}

type Check<'a> = dyn FnMut(&Request) -> io::Result<Result<(), Refusal>> + 'a;

fn walk(
    request: &etcd::TxnRequest,
    path: &mut Path,
    check: &mut Check<'_>,
) -> io::Result<Result<(), Refusal>> {
    let (_, branch) = path.branch(request);
    for op in branch.iter().filter_map(|op| op.request.as_ref()) {
        let outcome = match op {
            Request::RequestTxn(nested) => walk(nested, path, check)?,
            Request::RequestRange(_) | Request::RequestPut(_) | Request::RequestDeleteRange(_) => {
                check(op)?
            }
        };
        if outcome.is_err() {
            return Ok(outcome);
        }
    }
    Ok(Ok(()))
}

/// Executes the chosen path; [`check`] has agreed to it. What it writes counts only if it is not
/// refused, which happens when the answer, or what is replaced, turns out to be too large.
pub(crate) fn execute(
    writer: &mut RevisionWriter<'_, '_>,
    floor: Floor,
    request: &etcd::TxnRequest,
    path: &mut Path,
) -> io::Result<Result<etcd::TxnResponse, Refusal>> {
    let (succeeded, branch) = path.branch(request);
    let mut responses = Vec::with_capacity(branch.len());
    for op in branch.iter().filter_map(|op| op.request.as_ref()) {
        let outcome = match op {
            Request::RequestRange(range) => {
                inner_range(writer, floor, range)?.map(Response::ResponseRange)
            }
            Request::RequestPut(put) => ops::put(writer, put.clone())?.map(Response::ResponsePut),
            Request::RequestDeleteRange(delete) => {
                ops::delete_range(writer, delete)?.map(Response::ResponseDeleteRange)
            }
            Request::RequestTxn(nested) => {
                execute(writer, floor, nested, path)?.map(Response::ResponseTxn)
            }
        };
        match outcome {
            Ok(response) => responses.push(etcd::ResponseOp {
                response: Some(response),
            }),
            Err(refusal) => return Ok(Err(refusal)),
        }
    }
    Ok(Ok(etcd::TxnResponse {
        // A nested response has an empty header; the outermost is filled by the caller.
        header: Some(etcd::ResponseHeader::default()),
        succeeded,
        responses,
    }))
}

fn inner_range(
    writer: &mut RevisionWriter<'_, '_>,
    floor: Floor,
    request: &etcd::RangeRequest,
) -> io::Result<Result<etcd::RangeResponse, Refusal>> {
    let position = Position {
        revision: writer.revision(),
        floor,
    };
    let left = writer.answer_left();
    let Some(response) = read::readable_range(writer.state, position, request, left)? else {
        return Ok(Err(answer_too_large()));
    };
    let bytes = response.kvs.iter().map(read::size).sum();
    Ok(writer.count_answer(bytes).map(|()| response))
}

/// Whether a transaction needs no log entry: every operation of both branches is a range.
pub fn is_read_only(request: &etcd::TxnRequest) -> bool {
    request
        .success
        .iter()
        .chain(&request.failure)
        .all(|op| matches!(op.request, Some(Request::RequestRange(_))))
}

/// Answers a transaction that [`is_read_only`] from a view.
pub fn txn_readonly(
    view: &dyn View,
    request: &etcd::TxnRequest,
) -> io::Result<Result<etcd::TxnResponse, Refusal>> {
    if !is_read_only(request) {
        let detail = "the transaction writes, so it needs a log entry";
        return Ok(Err(refuse(Code::InvalidCommand, detail)));
    }
    if let Err(refusal) = validate::txn(request) {
        return Ok(Err(refusal));
    }
    let position = match Position::load(view)? {
        Ok(position) => position,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let mut path = Path::choose(view, request)?;
    let (succeeded, branch) = path.branch(request);
    let mut responses = Vec::with_capacity(branch.len());
    for op in branch {
        let Some(Request::RequestRange(range)) = &op.request else {
            continue;
        };
        match read::range_at(view, position, range)? {
            Ok(response) => responses.push(etcd::ResponseOp {
                response: Some(Response::ResponseRange(response)),
            }),
            Err(refusal) => return Ok(Err(refusal)),
        }
    }
    Ok(Ok(etcd::TxnResponse {
        header: ops::header(position.revision),
        succeeded,
        responses,
    }))
}
