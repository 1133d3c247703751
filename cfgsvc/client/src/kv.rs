//! Keys and values: get, put, delete, compact.

use crate::Client;
use crate::error::{Asked, CallError, KvError};
use crate::keys::Keys;
use crate::refusal::Refusal;
use crate::route::Safety;
use crate::txn::{Compare, Is, Op, OpReply, Txn};
use bytes::Bytes;
use cfgsvc_proto::etcd;
pub use cfgsvc_proto::kv::KeyValue;
use prost::Message;
use tonic::Response;

/// What a range is ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortBy {
    /// The key's bytes.
    Key,
    /// The count of changes.
    Version,
    /// The revision of creation.
    Created,
    /// The revision of the last change.
    Modified,
    /// The value's bytes.
    Value,
}

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Smallest first.
    Ascending,
    /// Largest first.
    Descending,
}

/// A read.
///
/// ```
/// use cfgsvc_client::Get;
/// let newest_ten = Get::prefix("app/").limit(10);
/// # let _ = newest_ten;
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is done until it is given to a client"]
pub struct Get {
    pub(crate) keys: Keys,
    pub(crate) revision: i64,
    pub(crate) limit: i64,
    serializable: bool,
    pub(crate) keys_only: bool,
    count_only: bool,
    pub(crate) sort: Option<(SortBy, Order)>,
    max_create_revision: i64,
}

impl Get {
    /// Reads `keys`, linearizable, at the newest revision.
    pub fn new(keys: impl Into<Keys>) -> Self {
        Self {
            keys: keys.into(),
            revision: 0,
            limit: 0,
            serializable: false,
            keys_only: false,
            count_only: false,
            sort: None,
            max_create_revision: 0,
        }
    }

    /// Reads all keys that start with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        Self::new(Keys::prefix(prefix))
    }

    /// As the keys were at `revision`; 0 is the newest.
    pub fn revision(mut self, revision: i64) -> Self {
        self.revision = revision;
        self
    }

    /// At most `limit` keys; 0 is all.
    pub fn limit(mut self, limit: i64) -> Self {
        self.limit = limit;
        self
    }

    /// From one member's own copy, which may be behind the group.
    pub fn serializable(mut self) -> Self {
        self.serializable = true;
        self
    }

    /// Without values.
    pub fn keys_only(mut self) -> Self {
        self.keys_only = true;
        self
    }

    /// Only the number of keys.
    pub fn count_only(mut self) -> Self {
        self.count_only = true;
        self
    }

    /// In another order than that of the keys.
    pub fn sort(mut self, by: SortBy, order: Order) -> Self {
        self.sort = Some((by, order));
        self
    }

    /// Only keys that were created at or before `revision`; 0 is all.
    pub fn created_until(mut self, revision: i64) -> Self {
        self.max_create_revision = revision;
        self
    }

    pub(crate) fn to_request(&self) -> etcd::RangeRequest {
        use etcd::range_request::{SortOrder, SortTarget};
        let (key, range_end) = self.keys.to_range();
        let mut request = etcd::RangeRequest {
            key,
            range_end,
            limit: self.limit,
            revision: self.revision,
            serializable: self.serializable,
            keys_only: self.keys_only,
            count_only: self.count_only,
            max_create_revision: self.max_create_revision,
            ..etcd::RangeRequest::default()
        };
        if let Some((by, order)) = self.sort {
            request.set_sort_target(match by {
                SortBy::Key => SortTarget::Key,
                SortBy::Version => SortTarget::Version,
                SortBy::Created => SortTarget::Create,
                SortBy::Modified => SortTarget::Mod,
                SortBy::Value => SortTarget::Value,
            });
            request.set_sort_order(match order {
                Order::Ascending => SortOrder::Ascend,
                Order::Descending => SortOrder::Descend,
            });
        }
        request
    }
}

/// What a read found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GetReply {
    /// Revision of the store when it was read.
    pub revision: i64,
    /// The keys, in order.
    pub kvs: Vec<KeyValue>,
    /// Number of keys, whatever the limit.
    pub count: i64,
    /// The limit left some out.
    pub more: bool,
    /// Id of the group that answered; 0 when it did not say.
    pub cluster_id: u64,
}

impl GetReply {
    pub(crate) fn of(reply: etcd::RangeResponse) -> Self {
        Self {
            revision: revision(reply.header.as_ref()),
            cluster_id: reply.header.as_ref().map_or(0, |header| header.cluster_id),
            kvs: reply.kvs,
            count: reply.count,
            more: reply.more,
        }
    }
}

pub(crate) fn revision(header: Option<&etcd::ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

/// A write of one key.
///
/// ```
/// use cfgsvc_client::Put;
/// let only_if_new = Put::new("app/flags", "on").if_revision(0);
/// # let _ = only_if_new;
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is done until it is given to a client"]
pub struct Put {
    key: Bytes,
    value: Bytes,
    lease: i64,
    previous: bool,
    if_revision: Option<i64>,
}

impl Put {
    /// Sets `key` to `value`.
    pub fn new(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self {
            key: key.into(),
            value: value.into(),
            lease: 0,
            previous: false,
            if_revision: None,
        }
    }

    /// The key that is written.
    pub fn key(&self) -> &Bytes {
        &self.key
    }

    /// The value that it gets.
    pub fn value(&self) -> &Bytes {
        &self.value
    }

    /// The lease that it gets; 0 for none.
    pub fn lease_id(&self) -> i64 {
        self.lease
    }

    /// The key goes when this lease ends.
    pub fn lease(mut self, lease: i64) -> Self {
        self.lease = lease;
        self
    }

    /// Asks for the version that is replaced.
    pub fn previous(mut self) -> Self {
        self.previous = true;
        self
    }

    /// Only if the key's last change was at `revision`; 0: only if the key does not exist.
    pub fn if_revision(mut self, revision: i64) -> Self {
        self.if_revision = Some(revision);
        self
    }

    pub(crate) fn to_request(&self) -> etcd::PutRequest {
        etcd::PutRequest {
            key: self.key.clone(),
            value: self.value.clone(),
            lease: self.lease,
            prev_kv: self.previous,
            ..etcd::PutRequest::default()
        }
    }
}

/// What a put did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PutReply {
    /// Revision of the change.
    pub revision: i64,
    /// The replaced version, if asked for.
    pub previous: Option<KeyValue>,
}

/// A delete.
#[derive(Clone, Debug)]
#[must_use = "nothing is done until it is given to a client"]
pub struct Delete {
    pub(crate) keys: Keys,
    previous: bool,
}

impl Delete {
    /// Deletes `keys`.
    pub fn new(keys: impl Into<Keys>) -> Self {
        Self {
            keys: keys.into(),
            previous: false,
        }
    }

    /// Deletes all keys that start with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        Self::new(Keys::prefix(prefix))
    }

    /// Asks for the versions that are deleted.
    pub fn previous(mut self) -> Self {
        self.previous = true;
        self
    }

    pub(crate) fn to_request(&self) -> etcd::DeleteRangeRequest {
        let (key, range_end) = self.keys.to_range();
        etcd::DeleteRangeRequest {
            key,
            range_end,
            prev_kv: self.previous,
        }
    }
}

/// What a delete did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeleteReply {
    /// Revision of the store after it.
    pub revision: i64,
    /// Number of keys that it removed.
    pub deleted: i64,
    /// Their last versions, if asked for.
    pub previous: Vec<KeyValue>,
}

impl Client {
    /// Reads keys.
    pub async fn get(&self, get: Get) -> Result<GetReply, KvError> {
        let request = get.to_request();
        let asked = Asked {
            revision: get.revision,
            ..Asked::default()
        };
        let reply = self
            .read(&request, |channel, request| {
                let mut kv = self.kv(channel);
                async move { kv.range(request).await.map(Response::into_inner) }
            })
            .await
            .map_err(|error| KvError::of(error, asked))?;
        Ok(GetReply::of(reply))
    }

    /// Reads all keys that start with `prefix` at one revision, linearizable, in pages of `page`
    /// keys, so that neither side holds a huge message. [`KvError::Compacted`] when the revision
    /// goes away in between: start again.
    pub async fn get_all(&self, prefix: impl Into<Bytes>, page: i64) -> Result<GetReply, KvError> {
        let keys = Keys::prefix(prefix);
        let mut all = self.get(Get::new(keys.clone()).limit(page)).await?;
        let (_, end) = keys.to_range();
        while all.more {
            let Some(last) = all.kvs.last() else {
                return Err(CallError::Malformed {
                    what: "an empty page with more behind",
                }
                .into());
            };
            let next = Bytes::from([&last.key[..], &[0]].concat());
            let rest = match &end[..] {
                [0] => Keys::From(next),
                _ => Keys::Range(next, end.clone()),
            };
            let get = Get::new(rest).limit(page).revision(all.revision);
            let reply = self.get(get).await?;
            if reply.cluster_id != all.cluster_id {
                return Err(CallError::Malformed {
                    what: "the pages come from two groups",
                }
                .into());
            }
            all.kvs.extend(reply.kvs);
            all.more = reply.more;
        }
        Ok(all)
    }

    /// Reads one key, linearizable.
    pub async fn get_key(&self, key: impl Into<Bytes>) -> Result<Option<KeyValue>, KvError> {
        let reply = self.get(Get::new(Keys::one(key))).await?;
        Ok(reply.kvs.into_iter().next())
    }

    /// Writes one key.
    pub async fn put(&self, put: Put) -> Result<PutReply, KvError> {
        if put.if_revision.is_some() {
            return self.put_if(put).await;
        }
        let request = put.to_request();
        let asked = Asked {
            lease: put.lease,
            bytes: request.encoded_len(),
            ..Asked::default()
        };
        let reply = self
            .write(&request, |channel, request| {
                let mut kv = self.kv(channel);
                async move { kv.put(request).await.map(Response::into_inner) }
            })
            .await
            .map_err(|error| KvError::of(error, asked))?;
        Ok(PutReply {
            revision: revision(reply.header.as_ref()),
            previous: reply.prev_kv,
        })
    }

    async fn put_if(&self, mut put: Put) -> Result<PutReply, KvError> {
        let expected = put.if_revision.take().unwrap_or(0);
        let key = put.key.clone();
        let lease = put.lease;
        let txn = Txn::new()
            .when(Compare::mod_revision(key.clone(), Is::Equal, expected))
            .then(Op::Put(put))
            .otherwise(Op::Get(Get::new(Keys::One(key.clone())).keys_only()));
        let reply = self.txn(txn).await.map_err(|error| {
            if matches!(error, KvError::LeaseNotFound { .. }) {
                return KvError::LeaseNotFound { lease };
            }
            error
        })?;
        match reply.replies.into_iter().next() {
            Some(OpReply::Put(mut done)) if reply.succeeded => {
                done.revision = reply.revision;
                Ok(done)
            }
            Some(OpReply::Get(got)) if !reply.succeeded => {
                let found = got.kvs.first().map_or(0, |kv| kv.mod_revision);
                Err(KvError::Conflict {
                    key,
                    expected,
                    found,
                })
            }
            Some(_) | None => Err(CallError::Malformed {
                what: "a transaction's reply",
            }
            .into()),
        }
    }

    /// Deletes keys.
    pub async fn delete(&self, delete: Delete) -> Result<DeleteReply, KvError> {
        let request = delete.to_request();
        let asked = Asked {
            bytes: request.encoded_len(),
            ..Asked::default()
        };
        let reply = self
            .write(&request, |channel, request| {
                let mut kv = self.kv(channel);
                async move { kv.delete_range(request).await.map(Response::into_inner) }
            })
            .await
            .map_err(|error| KvError::of(error, asked))?;
        Ok(DeleteReply {
            revision: revision(reply.header.as_ref()),
            deleted: reply.deleted,
            previous: reply.prev_kvs,
        })
    }

    /// Forgets all versions that were replaced before `revision`. Doing it twice is no harm, so a
    /// lost answer is asked for again.
    pub async fn compact(&self, revision: i64) -> Result<(), KvError> {
        let request = etcd::CompactionRequest {
            revision,
            physical: false,
        };
        let result = self
            .call(Safety::Repeatable, &request, |channel, request| {
                let mut kv = self.kv(channel);
                async move { kv.compact(request).await.map(Response::into_inner) }
            })
            .await;
        let asked = Asked {
            revision,
            ..Asked::default()
        };
        match result {
            Ok(_) => Ok(()),
            // The attempt whose answer was lost has done it.
            Err(error) if error.is_after_lost() && error.refusal() == Some(Refusal::Compacted) => {
                Ok(())
            }
            Err(error) => Err(KvError::of(error, asked)),
        }
    }
}
