//! The machine as simply as it can be said: all versions ever in one list, nothing is ever removed,
//! every question is a filter. Slow and obvious, to compare the real one with.

use std::collections::BTreeMap;

use bytes::Bytes;
use cfgsvc_core::limits::{LEASE_TTL_S_MAX, SESSION_WINDOW, TXN_OPS_MAX};
use cfgsvc_core::refusal::Code;
use cfgsvc_proto::etcd::compare::{CompareResult, CompareTarget, TargetUnion};
use cfgsvc_proto::etcd::range_request::{SortOrder, SortTarget};
use cfgsvc_proto::etcd::request_op::Request;
use cfgsvc_proto::etcd::response_op::Response;
use cfgsvc_proto::etcd::{self, ResponseHeader};
use cfgsvc_proto::kv::KeyValue;
use cfgsvc_proto::state::command::Op;
use cfgsvc_proto::state::reply::Result as Outcome;
use cfgsvc_proto::state::{Command, LeaseExpired, Refusal, Reply, Scrubbed};

/// One change, with what it made and what it ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Change {
    pub revision: i64,
    pub key: Bytes,
    pub made: Option<KeyValue>,
    pub replaced: Option<KeyValue>,
}

#[derive(Debug, Clone, Default)]
struct Session {
    floor: u64,
    replies: BTreeMap<u64, Reply>,
}

#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub revision: i64,
    pub compacted: i64,
    /// Every version with the revision that ended it.
    versions: Vec<(KeyValue, Option<i64>)>,
    pub changes: Vec<Change>,
    pub leases: BTreeMap<i64, i64>,
    sessions: BTreeMap<i64, Session>,
    /// Commit time and author of each revision from 2 on.
    pub commits: Vec<(i64, String)>,
}

#[expect(clippy::unnecessary_wraps, reason = "every use is an optional field")]
fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader {
        revision,
        ..ResponseHeader::default()
    })
}

pub(crate) fn in_range(probe: &Bytes, key: &Bytes, end: &Bytes) -> bool {
    match end.as_ref() {
        b"" => probe == key,
        b"\0" => probe >= key,
        _ => probe >= key && probe < end,
    }
}

/// A write of a transaction: a put of a key, or a delete of a range.
type Write = (bool, Bytes, Bytes);

/// The writes of each run that is possible, compares aside.
fn runs(ops: &[etcd::RequestOp]) -> Vec<Vec<Write>> {
    let mut all = vec![Vec::new()];
    for op in ops {
        let choices = match op.request.as_ref().expect("shape is checked") {
            Request::RequestPut(put) => vec![vec![(true, put.key.clone(), Bytes::new())]],
            Request::RequestDeleteRange(d) => {
                vec![vec![(false, d.key.clone(), d.range_end.clone())]]
            }
            Request::RequestTxn(txn) => {
                let mut both = runs(&txn.success);
                both.extend(runs(&txn.failure));
                both
            }
            Request::RequestRange(_) => continue,
        };
        all = all
            .iter()
            .flat_map(|run| {
                choices
                    .iter()
                    .map(move |more| [run.clone(), more.clone()].concat())
            })
            .collect();
    }
    all
}

fn has_duplicate(run: &[Write]) -> bool {
    run.iter().enumerate().any(|(at, (put, key, _))| {
        *put && run
            .iter()
            .enumerate()
            .any(|(other_at, (other_put, other, end))| {
                other_at != at
                    && if *other_put {
                        other == key
                    } else {
                        in_range(key, other, end)
                    }
            })
    })
}

fn shape(txn: &etcd::TxnRequest, left: usize) -> Result<(), Code> {
    let count = [txn.compare.len(), txn.success.len(), txn.failure.len()];
    let count = count.into_iter().max().expect("three");
    if count > left {
        return Err(Code::TooManyOps);
    }
    if txn.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(Code::EmptyKey);
    }
    for op in txn.success.iter().chain(&txn.failure) {
        match op.request.as_ref() {
            None => return Err(Code::KeyNotFound),
            Some(Request::RequestTxn(nested)) => shape(nested, left - count)?,
            Some(Request::RequestPut(put)) => put_shape(put)?,
            Some(Request::RequestRange(range)) => range_shape(range)?,
            Some(Request::RequestDeleteRange(delete)) if delete.key.is_empty() => {
                return Err(Code::EmptyKey);
            }
            Some(Request::RequestDeleteRange(_)) => {}
        }
    }
    Ok(())
}

fn put_shape(put: &etcd::PutRequest) -> Result<(), Code> {
    match put {
        put if put.key.is_empty() => Err(Code::EmptyKey),
        put if put.ignore_value && !put.value.is_empty() => Err(Code::ValueProvided),
        put if put.ignore_lease && put.lease != 0 => Err(Code::LeaseProvided),
        _ => Ok(()),
    }
}

fn range_shape(range: &etcd::RangeRequest) -> Result<(), Code> {
    match range {
        range if range.key.is_empty() => Err(Code::EmptyKey),
        range if !(0..=2).contains(&range.sort_order) => Err(Code::InvalidSort),
        range if !(0..=4).contains(&range.sort_target) => Err(Code::InvalidSort),
        _ => Ok(()),
    }
}

impl Model {
    pub(crate) fn new() -> Self {
        Self {
            revision: 1,
            compacted: 0,
            versions: Vec::new(),
            changes: Vec::new(),
            leases: BTreeMap::new(),
            sessions: BTreeMap::new(),
            commits: Vec::new(),
        }
    }

    /// Revision while a command is executed: one more once it has changed something.
    fn now(&self) -> i64 {
        self.changes
            .last()
            .map_or(self.revision, |change| self.revision.max(change.revision))
    }

    pub(crate) fn visible(&self, revision: i64) -> BTreeMap<Bytes, KeyValue> {
        let shown = self.versions.iter().filter(|(kv, ended)| {
            kv.mod_revision <= revision && ended.is_none_or(|ended| revision < ended)
        });
        shown.map(|(kv, _)| (kv.key.clone(), kv.clone())).collect()
    }

    fn latest(&self, key: &Bytes, end: &Bytes) -> Vec<KeyValue> {
        let all = self.visible(i64::MAX);
        all.into_values()
            .filter(|kv| in_range(&kv.key, key, end))
            .collect()
    }

    pub(crate) fn attached(&self, lease: i64) -> Vec<Bytes> {
        let all = self.visible(i64::MAX).into_values();
        all.filter(|kv| kv.lease == lease)
            .map(|kv| kv.key)
            .collect()
    }

    fn end(&mut self, key: &Bytes, revision: i64) -> Option<KeyValue> {
        let alive = |(kv, ended): &&mut (KeyValue, Option<i64>)| kv.key == *key && ended.is_none();
        let (kv, ended) = self.versions.iter_mut().find(alive)?;
        *ended = Some(revision);
        Some(kv.clone())
    }

    fn put(&mut self, put: &etcd::PutRequest) -> etcd::PutResponse {
        let revision = self.revision + 1;
        let replaced = self.end(&put.key, revision);
        let mut kv = KeyValue {
            key: put.key.clone(),
            create_revision: revision,
            mod_revision: revision,
            version: 1,
            value: put.value.clone(),
            lease: put.lease,
        };
        if let Some(old) = &replaced {
            kv.create_revision = old.create_revision;
            kv.version = old.version + 1;
            if put.ignore_value {
                kv.value = old.value.clone();
            }
            if put.ignore_lease {
                kv.lease = old.lease;
            }
        }
        self.versions.push((kv.clone(), None));
        self.changes.push(Change {
            revision,
            key: put.key.clone(),
            made: Some(kv),
            replaced: replaced.clone(),
        });
        etcd::PutResponse {
            header: header(revision),
            prev_kv: replaced.filter(|_| put.prev_kv),
        }
    }

    fn delete(&mut self, delete: &etcd::DeleteRangeRequest) -> etcd::DeleteRangeResponse {
        let doomed = self.latest(&delete.key, &delete.range_end);
        for kv in &doomed {
            self.delete_key(&kv.key);
        }
        etcd::DeleteRangeResponse {
            header: header(self.now()),
            deleted: doomed.len() as i64,
            prev_kvs: if delete.prev_kv { doomed } else { Vec::new() },
        }
    }

    fn delete_key(&mut self, key: &Bytes) {
        let revision = self.revision + 1;
        let replaced = self.end(key, revision);
        self.changes.push(Change {
            revision,
            key: key.clone(),
            made: None,
            replaced,
        });
    }

    fn readable(&self, revision: i64) -> Result<(), Code> {
        match revision {
            revision if revision > self.revision => Err(Code::FutureRevision),
            revision if revision > 0 && revision < self.compacted => Err(Code::Compacted),
            _ => Ok(()),
        }
    }

    pub(crate) fn range(&self, range: &etcd::RangeRequest) -> Result<etcd::RangeResponse, Code> {
        range_shape(range)?;
        self.readable(range.revision)?;
        Ok(self.readable_range(range))
    }

    fn readable_range(&self, range: &etcd::RangeRequest) -> etcd::RangeResponse {
        let at = if range.revision > 0 {
            range.revision
        } else {
            i64::MAX
        };
        let mut kvs: Vec<KeyValue> = self.visible(at).into_values().collect();
        kvs.retain(|kv| in_range(&kv.key, &range.key, &range.range_end));
        let count = kvs.len() as i64;
        kvs.retain(|kv| {
            !(range.count_only
                || range.min_mod_revision != 0 && kv.mod_revision < range.min_mod_revision
                || range.max_mod_revision != 0 && kv.mod_revision > range.max_mod_revision
                || range.min_create_revision != 0 && kv.create_revision < range.min_create_revision
                || range.max_create_revision != 0 && kv.create_revision > range.max_create_revision)
        });
        let descending = range.sort_order() == SortOrder::Descend;
        kvs.sort_by(|a, b| {
            let ordering = match range.sort_target() {
                SortTarget::Key => a.key.cmp(&b.key),
                SortTarget::Version => a.version.cmp(&b.version),
                SortTarget::Create => a.create_revision.cmp(&b.create_revision),
                SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
                SortTarget::Value => a.value.cmp(&b.value),
            };
            if descending {
                ordering.reverse()
            } else {
                ordering
            }
        });
        let mut more = false;
        if range.limit > 0 && kvs.len() as i64 > range.limit {
            kvs.truncate(usize::try_from(range.limit).expect("small"));
            more = true;
        }
        if range.keys_only {
            for kv in &mut kvs {
                kv.value.clear();
            }
        }
        etcd::RangeResponse {
            header: header(self.now()),
            kvs,
            more,
            count,
        }
    }

    fn compare(&self, compare: &etcd::Compare) -> bool {
        let found = self.latest(&compare.key, &compare.range_end);
        let absent = KeyValue::default();
        let of_value = compare.target() == CompareTarget::Value;
        match found.as_slice() {
            [] => !of_value && Self::compare_one(compare, &absent),
            found => found.iter().all(|kv| Self::compare_one(compare, kv)),
        }
    }

    fn compare_one(compare: &etcd::Compare, kv: &KeyValue) -> bool {
        // All cases as byte strings whose order is that of the numbers, which are not negative.
        let number = |value: i64| Bytes::copy_from_slice(&value.to_be_bytes());
        let zero = number(0);
        let (found, wanted) = match (compare.target(), compare.target_union.clone()) {
            (CompareTarget::Value, Some(TargetUnion::Value(v))) => (kv.value.clone(), v),
            (CompareTarget::Value, _) => (kv.value.clone(), Bytes::new()),
            (CompareTarget::Version, Some(TargetUnion::Version(v))) => {
                (number(kv.version), number(v))
            }
            (CompareTarget::Version, _) => (number(kv.version), zero),
            (CompareTarget::Create, Some(TargetUnion::CreateRevision(v))) => {
                (number(kv.create_revision), number(v))
            }
            (CompareTarget::Create, _) => (number(kv.create_revision), zero),
            (CompareTarget::Mod, Some(TargetUnion::ModRevision(v))) => {
                (number(kv.mod_revision), number(v))
            }
            (CompareTarget::Mod, _) => (number(kv.mod_revision), zero),
            (CompareTarget::Lease, Some(TargetUnion::Lease(v))) => (number(kv.lease), number(v)),
            (CompareTarget::Lease, _) => (number(kv.lease), zero),
        };
        match compare.result() {
            CompareResult::Equal => found == wanted,
            CompareResult::NotEqual => found != wanted,
            CompareResult::Greater => found > wanted,
            CompareResult::Less => found < wanted,
        }
    }

    fn check_put(&self, put: &etcd::PutRequest) -> Result<(), Code> {
        let absent = self.latest(&put.key, &Bytes::new()).is_empty();
        if (put.ignore_value || put.ignore_lease) && absent {
            return Err(Code::KeyNotFound);
        }
        if put.lease != 0 && !self.leases.contains_key(&put.lease) {
            return Err(Code::LeaseNotFound);
        }
        Ok(())
    }

    /// A put by itself has its lease looked at first.
    fn check_lone_put(&self, put: &etcd::PutRequest) -> Result<(), Code> {
        if put.lease != 0 && !self.leases.contains_key(&put.lease) {
            return Err(Code::LeaseNotFound);
        }
        self.check_put(put)
    }

    /// The operations that run on `self`, flat, with what their transactions compared to.
    fn chosen<'a>(&self, txn: &'a etcd::TxnRequest, into: &mut Vec<&'a Request>) {
        for op in self.branch(txn) {
            match op.request.as_ref().expect("shape is checked") {
                Request::RequestTxn(nested) => self.chosen(nested, into),
                op @ (Request::RequestRange(_)
                | Request::RequestPut(_)
                | Request::RequestDeleteRange(_)) => into.push(op),
            }
        }
    }

    fn branch<'a>(&self, txn: &'a etcd::TxnRequest) -> &'a [etcd::RequestOp] {
        if txn.compare.iter().all(|compare| self.compare(compare)) {
            &txn.success
        } else {
            &txn.failure
        }
    }

    fn txn(&mut self, txn: &etcd::TxnRequest) -> Result<etcd::TxnResponse, Code> {
        shape(txn, TXN_OPS_MAX)?;
        let both = [runs(&txn.success), runs(&txn.failure)].concat();
        if both.iter().any(|run| has_duplicate(run)) {
            return Err(Code::DuplicateKey);
        }
        let mut ops = Vec::new();
        self.chosen(txn, &mut ops);
        for op in &ops {
            if let Request::RequestPut(put) = op {
                self.check_put(put)?;
            }
        }
        for op in &ops {
            if let Request::RequestRange(range) = op {
                self.readable(range.revision)?;
            }
        }
        let before = self.clone();
        let mut response = self.run(&before, txn);
        response.header = header(self.now());
        Ok(response)
    }

    fn run(&mut self, before: &Self, txn: &etcd::TxnRequest) -> etcd::TxnResponse {
        let succeeded = txn.compare.iter().all(|compare| before.compare(compare));
        let mut responses = Vec::new();
        for op in before.branch(txn) {
            let response = match op.request.as_ref().expect("shape is checked") {
                Request::RequestRange(r) => Response::ResponseRange(self.readable_range(r)),
                Request::RequestPut(put) => Response::ResponsePut(self.put(put)),
                Request::RequestDeleteRange(d) => Response::ResponseDeleteRange(self.delete(d)),
                Request::RequestTxn(nested) => Response::ResponseTxn(self.run(before, nested)),
            };
            responses.push(etcd::ResponseOp {
                response: Some(response),
            });
        }
        etcd::TxnResponse {
            header: Some(ResponseHeader::default()),
            succeeded,
            responses,
        }
    }

    /// Counts the revision that was written, if any.
    fn commit(&mut self, command: &Command) {
        if self.now() > self.revision {
            self.revision += 1;
            let last = self.commits.last().map_or(0, |(at_ms, _)| *at_ms);
            self.commits
                .push((command.at_ms.max(last), command.author.clone()));
        }
    }

    fn end_lease(&mut self, id: i64, command: &Command) -> bool {
        if self.leases.remove(&id).is_none() {
            return false;
        }
        self.sessions.remove(&id);
        for key in self.attached(id) {
            self.delete_key(&key);
        }
        self.commit(command);
        true
    }

    fn execute(&mut self, command: &Command) -> Result<Outcome, Code> {
        match command
            .op
            .as_ref()
            .expect("the commands are of this version")
        {
            Op::Put(put) => {
                put_shape(put)?;
                self.check_lone_put(put)?;
                let response = self.put(put);
                self.commit(command);
                Ok(Outcome::Put(response))
            }
            Op::DeleteRange(delete) => {
                if delete.key.is_empty() {
                    return Err(Code::EmptyKey);
                }
                let response = self.delete(delete);
                self.commit(command);
                Ok(Outcome::DeleteRange(response))
            }
            Op::Txn(txn) => {
                let response = self.txn(txn)?;
                self.commit(command);
                Ok(Outcome::Txn(response))
            }
            Op::Compact(compact) => {
                if compact.revision <= self.compacted {
                    return Err(Code::Compacted);
                }
                if compact.revision > self.revision {
                    return Err(Code::FutureRevision);
                }
                self.compacted = compact.revision;
                Ok(Outcome::Compact(etcd::CompactionResponse {
                    header: header(self.revision),
                }))
            }
            Op::LeaseGrant(grant) => {
                match (grant.id, grant.ttl) {
                    (0, _) | (_, ..=0) => return Err(Code::InvalidCommand),
                    (_, ttl) if ttl > LEASE_TTL_S_MAX => return Err(Code::LeaseTtlTooLarge),
                    (id, _) if self.leases.contains_key(&id) => return Err(Code::LeaseExists),
                    (id, ttl) => self.leases.insert(id, ttl),
                };
                Ok(Outcome::LeaseGrant(etcd::LeaseGrantResponse {
                    header: header(self.revision),
                    id: grant.id,
                    ttl: grant.ttl,
                    error: String::new(),
                }))
            }
            Op::LeaseRevoke(revoke) => {
                if !self.end_lease(revoke.id, command) {
                    return Err(Code::LeaseNotFound);
                }
                Ok(Outcome::LeaseRevoke(etcd::LeaseRevokeResponse {
                    header: header(self.revision),
                }))
            }
            Op::LeaseExpire(expire) => {
                let mut ids = expire.ids.clone();
                ids.retain(|id| self.end_lease(*id, command));
                Ok(Outcome::LeaseExpire(LeaseExpired { ids }))
            }
            // Whether more is left is not the model's to know.
            Op::Scrub(_) => Ok(Outcome::Scrub(Scrubbed::default())),
            // The commands hold no step but RECORDS of a restore that has not begun.
            Op::Role(_) => unreachable!("roles have tests of their own"),
            Op::Seed(_) => Err(Code::RestoreMismatch),
        }
    }

    fn reply(&self, outcome: Result<Outcome, Code>) -> Reply {
        let refusal = |code: Code| {
            Outcome::Refusal(Refusal {
                code: code.into(),
                detail: String::new(),
            })
        };
        Reply {
            revision: self.revision,
            result: Some(outcome.unwrap_or_else(refusal)),
        }
    }

    /// The reply to a command, without the details of refusals.
    pub(crate) fn apply(&mut self, command: &Command) -> Reply {
        let (id, seq) = (command.session, command.seq);
        if id == 0 {
            let outcome = self.execute(command);
            return self.reply(outcome);
        }
        if matches!(
            command.op,
            Some(Op::Scrub(_) | Op::LeaseExpire(_) | Op::Seed(_))
        ) {
            return self.reply(Err(Code::InvalidCommand));
        }
        if !self.leases.contains_key(&id) {
            return self.reply(Err(Code::SessionNotFound));
        }
        if command.ack >= seq {
            return self.reply(Err(Code::InvalidCommand));
        }
        let session = self.sessions.entry(id).or_default();
        session.floor = session.floor.max(command.ack);
        session.replies = session.replies.split_off(&(session.floor + 1));
        if seq <= session.floor {
            return self.reply(Err(Code::RequestTooOld));
        }
        if let Some(reply) = session.replies.get(&seq) {
            return reply.clone();
        }
        if session.replies.len() >= SESSION_WINDOW as usize {
            return self.reply(Err(Code::SessionWindowFull));
        }
        let outcome = self.execute(command);
        let reply = self.reply(outcome);
        if self.leases.contains_key(&id) {
            let session = self.sessions.entry(id).or_default();
            session.replies.insert(seq, reply.clone());
        }
        reply
    }
}
