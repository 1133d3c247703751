//! Transactions: conditions, and what is done when all of them hold or when one does not.

use crate::Client;
use crate::error::{Asked, CallError, KvError};
use crate::keys::Keys;
use crate::kv::{Delete, DeleteReply, Get, GetReply, Put, PutReply, revision};
use bytes::Bytes;
use cfgsvc_proto::etcd;
use etcd::compare::{CompareResult, CompareTarget, TargetUnion};
use etcd::{request_op::Request, response_op};
use prost::Message;
use tonic::Response;

/// How a key's property relates to the given one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Is {
    /// Equal.
    Equal,
    /// Not equal.
    NotEqual,
    /// The key's is greater.
    Greater,
    /// The key's is less.
    Less,
}

/// One condition. A key that does not exist has version, revisions and lease 0, and no value that
/// any comparison would match.
#[derive(Clone, Debug, PartialEq)]
pub struct Compare(pub(crate) etcd::Compare);

impl Compare {
    fn new(keys: impl Into<Keys>, is: Is, target: CompareTarget, to: TargetUnion) -> Self {
        let (key, range_end) = keys.into().to_range();
        let result = match is {
            Is::Equal => CompareResult::Equal,
            Is::NotEqual => CompareResult::NotEqual,
            Is::Greater => CompareResult::Greater,
            Is::Less => CompareResult::Less,
        };
        Self(etcd::Compare {
            result: result.into(),
            target: target.into(),
            key,
            range_end,
            target_union: Some(to),
        })
    }

    /// Compares the count of changes.
    pub fn version(keys: impl Into<Keys>, is: Is, version: i64) -> Self {
        Self::new(
            keys,
            is,
            CompareTarget::Version,
            TargetUnion::Version(version),
        )
    }

    /// Compares the revision of creation.
    pub fn create_revision(keys: impl Into<Keys>, is: Is, revision: i64) -> Self {
        Self::new(
            keys,
            is,
            CompareTarget::Create,
            TargetUnion::CreateRevision(revision),
        )
    }

    /// Compares the revision of the last change.
    pub fn mod_revision(keys: impl Into<Keys>, is: Is, revision: i64) -> Self {
        Self::new(
            keys,
            is,
            CompareTarget::Mod,
            TargetUnion::ModRevision(revision),
        )
    }

    /// Compares the value.
    pub fn value(keys: impl Into<Keys>, is: Is, value: impl Into<Bytes>) -> Self {
        Self::new(
            keys,
            is,
            CompareTarget::Value,
            TargetUnion::Value(value.into()),
        )
    }

    /// Compares the lease.
    pub fn lease(keys: impl Into<Keys>, is: Is, lease: i64) -> Self {
        Self::new(keys, is, CompareTarget::Lease, TargetUnion::Lease(lease))
    }

    /// The key exists.
    pub fn exists(key: impl Into<Bytes>) -> Self {
        Self::create_revision(Keys::one(key), Is::Greater, 0)
    }

    /// The key does not exist.
    pub fn missing(key: impl Into<Bytes>) -> Self {
        Self::create_revision(Keys::one(key), Is::Equal, 0)
    }
}

/// One step of a transaction.
#[derive(Clone, Debug)]
pub enum Op {
    /// A read.
    Get(Get),
    /// A write. Its `if_revision` is not looked at here: use [`Txn::when`].
    Put(Put),
    /// A delete.
    Delete(Delete),
    /// A transaction in the transaction.
    Txn(Txn),
}

impl Op {
    /// A read, without values, of at most `limit` of the keys that this is about.
    fn rehearsal(&self, limit: i64) -> Self {
        let read = |keys: &Keys| Self::Get(Get::new(keys.clone()).keys_only().limit(limit));
        match self {
            Self::Get(get) if get.limit > 0 => {
                Self::Get(get.clone().keys_only().limit(get.limit.min(limit)))
            }
            Self::Get(get) => Self::Get(get.clone().keys_only().limit(limit)),
            Self::Put(put) => read(&Keys::One(put.key().clone())),
            Self::Delete(delete) => read(&delete.keys),
            Self::Txn(txn) => Self::Txn(txn.rehearsal(limit)),
        }
    }

    fn into_request(self) -> etcd::RequestOp {
        let request = match self {
            Self::Get(get) => Request::RequestRange(get.to_request()),
            Self::Put(put) => Request::RequestPut(put.to_request()),
            Self::Delete(delete) => Request::RequestDeleteRange(delete.to_request()),
            Self::Txn(txn) => Request::RequestTxn(txn.into_request()),
        };
        etcd::RequestOp {
            request: Some(request),
        }
    }
}

/// A transaction: atomic, and one revision.
///
/// ```
/// use cfgsvc_client::{Compare, Op, Put, Txn};
/// let claim = Txn::new()
///     .when(Compare::missing("owner"))
///     .then(Op::Put(Put::new("owner", "me")));
/// # let _ = claim;
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "nothing is done until it is given to a client"]
pub struct Txn {
    compares: Vec<Compare>,
    then: Vec<Op>,
    otherwise: Vec<Op>,
}

impl Txn {
    /// A transaction without conditions, that does nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition; all must hold.
    pub fn when(mut self, compare: Compare) -> Self {
        self.compares.push(compare);
        self
    }

    /// Adds a step for when the conditions hold.
    pub fn then(mut self, op: Op) -> Self {
        self.then.push(op);
        self
    }

    /// Adds a step for when one does not hold.
    pub fn otherwise(mut self, op: Op) -> Self {
        self.otherwise.push(op);
        self
    }

    /// Length of the longest of its lists; the limit is 128.
    pub fn ops(&self) -> usize {
        self.compares
            .len()
            .max(self.then.len())
            .max(self.otherwise.len())
    }

    /// The steps for when the conditions hold, or for when one does not.
    pub fn steps(&self, held: bool) -> &[Op] {
        if held { &self.then } else { &self.otherwise }
    }

    /// The same conditions, and in place of each step a read, without values, of at most `limit`
    /// of the keys that it is about. It changes nothing, and its reply tells which branch would be
    /// taken and what each step of it would meet; all of them before the first, so that what a step
    /// would do to a later one is not seen.
    pub fn rehearsal(&self, limit: i64) -> Self {
        let reads = |ops: &[Op]| ops.iter().map(|op| op.rehearsal(limit)).collect();
        Self {
            compares: self.compares.clone(),
            then: reads(&self.then),
            otherwise: reads(&self.otherwise),
        }
    }

    pub(crate) fn into_request(self) -> etcd::TxnRequest {
        etcd::TxnRequest {
            compare: self.compares.into_iter().map(|compare| compare.0).collect(),
            success: self.then.into_iter().map(Op::into_request).collect(),
            failure: self.otherwise.into_iter().map(Op::into_request).collect(),
        }
    }
}

/// What one step did.
#[derive(Clone, Debug, PartialEq)]
pub enum OpReply {
    /// Of a read.
    Get(GetReply),
    /// Of a write.
    Put(PutReply),
    /// Of a delete.
    Delete(DeleteReply),
    /// Of a transaction.
    Txn(TxnReply),
}

/// What a transaction did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TxnReply {
    /// Revision of the store after it; in a nested one 0.
    pub revision: i64,
    /// Whether the conditions held.
    pub succeeded: bool,
    /// One for each step that was done, in order.
    pub replies: Vec<OpReply>,
}

impl TxnReply {
    fn of(reply: etcd::TxnResponse) -> Result<Self, CallError> {
        let replies: Result<_, CallError> = reply.responses.into_iter().map(op_reply).collect();
        Ok(Self {
            revision: revision(reply.header.as_ref()),
            succeeded: reply.succeeded,
            replies: replies?,
        })
    }
}

fn op_reply(reply: etcd::ResponseOp) -> Result<OpReply, CallError> {
    use response_op::Response as R;
    Ok(match reply.response {
        Some(R::ResponseRange(range)) => OpReply::Get(GetReply::of(range)),
        Some(R::ResponsePut(put)) => OpReply::Put(PutReply {
            revision: revision(put.header.as_ref()),
            previous: put.prev_kv,
        }),
        Some(R::ResponseDeleteRange(delete)) => OpReply::Delete(DeleteReply {
            revision: revision(delete.header.as_ref()),
            deleted: delete.deleted,
            previous: delete.prev_kvs,
        }),
        Some(R::ResponseTxn(txn)) => OpReply::Txn(TxnReply::of(txn)?),
        None => {
            return Err(CallError::Malformed {
                what: "a step of a transaction is empty",
            });
        }
    })
}

impl Client {
    /// Executes a transaction. One that only reads is repeated like a read.
    pub async fn txn(&self, txn: Txn) -> Result<TxnReply, KvError> {
        let mut asked = Asked {
            ops: txn.ops(),
            ..Asked::default()
        };
        let read_only = only_reads(&txn);
        let request = txn.into_request();
        asked.bytes = request.encoded_len();
        let attempt = |channel, request| {
            let mut kv = self.kv(channel);
            async move { kv.txn(request).await.map(Response::into_inner) }
        };
        let reply = if read_only {
            self.read(&request, attempt).await
        } else {
            self.write(&request, attempt).await
        };
        let reply = reply.map_err(|error| KvError::of(error, asked))?;
        Ok(TxnReply::of(reply)?)
    }
}

fn only_reads(txn: &Txn) -> bool {
    txn.then.iter().chain(&txn.otherwise).all(|op| match op {
        Op::Get(_) => true,
        Op::Put(_) | Op::Delete(_) => false,
        Op::Txn(txn) => only_reads(txn),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rehearsal_asks_the_same_and_reads_what_would_be_written() {
        let nested = Txn::new()
            .when(Compare::missing("n"))
            .then(Op::Put(Put::new("n", "1").lease(7)));
        let txn = Txn::new()
            .when(Compare::exists("k"))
            .then(Op::Put(Put::new("k", "v")))
            .then(Op::Delete(Delete::prefix("old/")))
            .then(Op::Get(Get::prefix("app/").limit(3).revision(5)))
            .otherwise(Op::Txn(nested));
        let read = |get: Get| Op::Get(get.keys_only());
        let wanted = Txn::new()
            .when(Compare::exists("k"))
            .then(read(Get::new("k").limit(9)))
            .then(read(Get::prefix("old/").limit(9)))
            .then(read(Get::prefix("app/").limit(3).revision(5)))
            .otherwise(Op::Txn(
                Txn::new()
                    .when(Compare::missing("n"))
                    .then(read(Get::new("n").limit(9))),
            ));
        let rehearsal = txn.rehearsal(9);
        assert!(only_reads(&rehearsal) && !only_reads(&txn));
        assert_eq!(rehearsal.into_request(), wanted.into_request());
        assert_eq!((txn.steps(true).len(), txn.steps(false).len()), (3, 1));
    }
}
