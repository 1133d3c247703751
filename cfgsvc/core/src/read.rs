//! Reads of the keyspace, over any view.
//!
//! A latest read is one scan of `current` (one get for a single key). A read at revision r takes
//! from `current` what has not changed since r, and from `old` what was visible at r; a key is
//! visible in at most one of them.
//!
//! Invariants
//! - values are decoded only for keys that are in the answer, or sorted by value.
//! - the count is of all keys in the range at the revision, whatever limit and filters say.
//! - a range with a limit holds at most about twice the limit in memory, however it is sorted.

use std::io;
use std::ops::ControlFlow;

use bytes::Bytes;
use cfgsvc_proto::etcd;
use cfgsvc_proto::etcd::range_request::{SortOrder, SortTarget};
use cfgsvc_proto::kv::KeyValue;
use cfgsvc_proto::state::{KeyRecord, LeaseRecord, MachineRecord, OldRecord, Refusal};
use cluster_core::store::{Direction, View};
use prost::Message;

use crate::floor::Floor;
use crate::machine::load_record;
use crate::refusal::{Code, refuse};
use crate::tables::{self, Table};
use crate::writer::key_value;
use crate::{lease as leases_of, ops, validate};

/// A key's version without its value: decoding it copies nothing.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct KeyMeta {
    #[prost(int64, tag = "1")]
    create_revision: i64,
    #[prost(int64, tag = "2")]
    mod_revision: i64,
    #[prost(int64, tag = "3")]
    version: i64,
    #[prost(int64, tag = "4")]
    lease: i64,
}

impl From<KeyMeta> for KeyRecord {
    fn from(meta: KeyMeta) -> Self {
        Self {
            create_revision: meta.create_revision,
            mod_revision: meta.mod_revision,
            version: meta.version,
            lease: meta.lease,
            value: Bytes::new(),
        }
    }
}

/// The end of an old version without the version.
#[derive(Clone, Copy, PartialEq, Message)]
struct OldEnd {
    #[prost(int64, tag = "2")]
    ended_revision: i64,
}

/// An old version without its value.
#[derive(Clone, Copy, PartialEq, Message)]
struct OldMeta {
    #[prost(message, optional, tag = "1")]
    record: Option<KeyMeta>,
}

/// Which revisions can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The latest.
    pub revision: i64,
    /// What of the past cannot.
    pub floor: Floor,
}

impl Position {
    /// Where the counters say the store is.
    pub fn of(record: &MachineRecord) -> Self {
        Self {
            revision: record.revision,
            floor: Floor::of(record),
        }
    }

    /// Where the store is; refused while a restore fills it.
    pub(crate) fn load(view: &dyn View) -> io::Result<Result<Self, Refusal>> {
        let record = load_record(view)?;
        if record.restore_id != 0 {
            let detail = format!("restore {:x}", record.restore_id);
            return Ok(Err(refuse(Code::RestoreInProgress, detail)));
        }
        Ok(Ok(Self::of(&record)))
    }

    /// The past revision that a request means; `None` is the latest.
    pub(crate) fn resolve(self, asked: i64) -> Result<Option<i64>, Refusal> {
        if asked > self.revision {
            let detail = format!("revision {asked}, the store is at {}", self.revision);
            return Err(refuse(Code::FutureRevision, detail));
        }
        if asked > 0
            && let Err(first) = self.floor.read(asked)
        {
            let detail = format!("revision {asked}, compacted to {first}");
            return Err(refuse(Code::Compacted, detail));
        }
        Ok(self.past(asked))
    }

    /// The same for a revision that was found to be readable.
    pub(crate) fn past(self, asked: i64) -> Option<i64> {
        Some(asked).filter(|asked| *asked > 0 && *asked < self.revision)
    }
}

/// The counters of the machine.
pub fn machine_record(view: &dyn View) -> io::Result<MachineRecord> {
    load_record(view)
}

/// Answers a range request.
pub fn range(
    view: &dyn View,
    request: &etcd::RangeRequest,
) -> io::Result<Result<etcd::RangeResponse, Refusal>> {
    match Position::load(view)? {
        Ok(position) => range_at(view, position, request),
        Err(refusal) => Ok(Err(refusal)),
    }
}

/// Answers a range request for a view whose position the caller knows.
pub fn range_at(
    view: &dyn View,
    position: Position,
    request: &etcd::RangeRequest,
) -> io::Result<Result<etcd::RangeResponse, Refusal>> {
    if let Err(refusal) = validate::range(request) {
        return Ok(Err(refusal));
    }
    if let Err(refusal) = position.resolve(request.revision) {
        return Ok(Err(refusal));
    }
    let answer = readable_range(view, position, request, usize::MAX)?;
    Ok(Ok(answer.expect("no answer is over a bound that is none")))
}

/// Answers a range request that is valid and whose revision was found to be readable; `None` when
/// its keys and values are over `bytes_max`, of which it holds no more than about twice in memory.
pub(crate) fn readable_range(
    view: &dyn View,
    position: Position,
    request: &etcd::RangeRequest,
    bytes_max: usize,
) -> io::Result<Option<etcd::RangeResponse>> {
    let past = position.past(request.revision);
    let target = request.sort_target();
    let descending = request.sort_order() == SortOrder::Descend;
    let by_key = target == SortTarget::Key;
    let limit = usize::try_from(request.limit)
        .ok()
        .filter(|limit| *limit > 0);
    let wanted = Wanted {
        past,
        direction: if by_key && descending {
            Direction::Descending
        } else {
            Direction::Ascending
        },
        // One more than the limit shows that there is more.
        keep: match limit {
            _ if request.count_only => 0,
            Some(limit) if by_key => limit.saturating_add(1),
            Some(_) | None => usize::MAX,
        },
        keep_bytes: usize::MAX,
        count_all: true,
        values: !request.keys_only || target == SortTarget::Value,
        sorted: Sorted {
            target,
            descending,
            keep: limit.map_or(usize::MAX, |limit| limit.saturating_add(1)),
        },
        bytes_max,
    };
    let mut found = collect(view, request, &wanted)?;
    if found.over {
        return Ok(None);
    }
    if !by_key {
        sort(&mut found.kvs, target, descending);
    }
    let more = limit.is_some_and(|limit| found.kvs.len() > limit);
    if let Some(limit) = limit {
        found.kvs.truncate(limit);
    }
    if request.keys_only && wanted.values {
        for kv in &mut found.kvs {
            kv.value = Bytes::new();
        }
    }
    if found.kvs.iter().map(size).sum::<usize>() > bytes_max {
        return Ok(None);
    }
    Ok(Some(etcd::RangeResponse {
        header: ops::header(position.revision),
        kvs: found.kvs,
        more,
        count: found.count,
    }))
}

/// Part of a range, bounded in bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct RangePage {
    /// Keys in order, disjoint from those of other pages.
    pub kvs: Vec<KeyValue>,
    /// Revision of the page: ask for it in the next request.
    pub revision: i64,
    /// Key to begin the next request with; `None` when the range is done.
    pub next_key: Option<Bytes>,
}

/// The first keys of a range in key order, up to the request's limit and about `max_bytes` (at
/// least one key). The request's sort and `count_only` do not count here; its filters do.
pub fn range_page(
    view: &dyn View,
    request: &etcd::RangeRequest,
    max_bytes: usize,
) -> io::Result<Result<RangePage, Refusal>> {
    if let Err(refusal) = validate::range(request) {
        return Ok(Err(refusal));
    }
    let position = match Position::load(view)? {
        Ok(position) => position,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let past = match position.resolve(request.revision) {
        Ok(past) => past,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let limit = usize::try_from(request.limit)
        .ok()
        .filter(|limit| *limit > 0);
    let wanted = Wanted {
        past,
        direction: Direction::Ascending,
        keep: limit.unwrap_or(usize::MAX),
        keep_bytes: max_bytes.max(1),
        count_all: false,
        values: !request.keys_only,
        sorted: Sorted {
            target: SortTarget::Key,
            descending: false,
            keep: usize::MAX,
        },
        bytes_max: usize::MAX,
    };
    let found = collect(view, request, &wanted)?;
    let last = found.kvs.last().filter(|_| found.cut);
    Ok(Ok(RangePage {
        next_key: last.map(|kv| {
            let mut next = Vec::with_capacity(kv.key.len() + 1);
            next.extend_from_slice(&kv.key);
            next.push(0);
            next.into()
        }),
        revision: past.unwrap_or(position.revision),
        kvs: found.kvs,
    }))
}

/// What a scan is to find.
struct Wanted {
    /// Revision before the latest.
    past: Option<i64>,
    direction: Direction,
    /// Most keys to return.
    keep: usize,
    /// Bytes after which no key is added; one key is returned whatever its size.
    keep_bytes: usize,
    /// Whether to go on counting when enough is found.
    count_all: bool,
    values: bool,
    sorted: Sorted,
    /// Bytes of keys and values of an answer that is too large to be given.
    bytes_max: usize,
}

/// How the keys are to be sorted when all are found, and how many of them are wanted then. Nothing
/// when by key: that is the order of the scan.
#[derive(Clone, Copy)]
struct Sorted {
    target: SortTarget,
    descending: bool,
    keep: usize,
}

/// What a scan found.
#[derive(Default)]
struct Found {
    kvs: Vec<KeyValue>,
    bytes: usize,
    count: i64,
    /// Keys were left out for `keep` or `keep_bytes`.
    cut: bool,
    /// What is wanted is over `bytes_max`; not all of it was read.
    over: bool,
}

impl Found {
    fn is_full(&self, wanted: &Wanted) -> bool {
        self.kvs.len() >= wanted.keep || self.bytes >= wanted.keep_bytes
    }

    fn add(&mut self, kv: KeyValue, wanted: &Wanted) {
        self.bytes += size(&kv);
        self.kvs.push(kv);
        // At twice as much, so that a key costs its part of a sort and not a sort.
        let sorted = wanted.sorted;
        if self.kvs.len() >= sorted.keep.saturating_mul(2)
            || self.bytes > wanted.bytes_max.saturating_mul(2)
        {
            if sorted.target != SortTarget::Key {
                sort(&mut self.kvs, sorted.target, sorted.descending);
                self.kvs.truncate(sorted.keep);
                self.bytes = self.kvs.iter().map(size).sum();
            }
            self.over |= self.bytes > wanted.bytes_max;
        }
    }

    fn next(&self, wanted: &Wanted) -> ControlFlow<()> {
        if self.over || self.cut && !wanted.count_all {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}

/// About what a key takes in a message.
pub(crate) fn size(kv: &KeyValue) -> usize {
    size_of_parts(&kv.key, &kv.value)
}

/// The same of a key and its value.
pub(crate) fn size_of_parts(key: &[u8], value: &[u8]) -> usize {
    key.len() + value.len() + 32
}

fn matches(request: &etcd::RangeRequest, meta: KeyMeta) -> bool {
    let within =
        |value: i64, min: i64, max: i64| (min == 0 || value >= min) && (max == 0 || value <= max);
    within(
        meta.mod_revision,
        request.min_mod_revision,
        request.max_mod_revision,
    ) && within(
        meta.create_revision,
        request.min_create_revision,
        request.max_create_revision,
    )
}

fn without_value(key: Bytes, meta: KeyMeta) -> KeyValue {
    KeyValue {
        key,
        create_revision: meta.create_revision,
        mod_revision: meta.mod_revision,
        version: meta.version,
        value: Bytes::new(),
        lease: meta.lease,
    }
}

fn meta_of(record: &KeyRecord) -> KeyMeta {
    KeyMeta {
        create_revision: record.create_revision,
        mod_revision: record.mod_revision,
        version: record.version,
        lease: record.lease,
    }
}

fn collect(view: &dyn View, request: &etcd::RangeRequest, wanted: &Wanted) -> io::Result<Found> {
    if request.range_end.is_empty() {
        return collect_one(view, request, wanted);
    }
    let mut found = collect_current(view, request, wanted)?;
    let Some(past) = wanted.past else {
        return Ok(found);
    };
    let old = collect_old(view, request, wanted, past)?;
    found.count += old.count;
    found.cut |= old.cut;
    found.over |= old.over;
    if old.kvs.is_empty() {
        return Ok(found);
    }
    // Each holds the first of its keys, as many as are wanted at most: so the first of both do too.
    let mut both = found.kvs;
    both.extend(old.kvs);
    match wanted.direction {
        Direction::Ascending => both.sort_by(|a, b| a.key.cmp(&b.key)),
        Direction::Descending => both.sort_by(|a, b| b.key.cmp(&a.key)),
    }
    let mut merged = Found {
        count: found.count,
        cut: found.cut,
        over: found.over,
        ..Found::default()
    };
    for kv in both {
        if merged.is_full(wanted) {
            merged.cut = true;
            break;
        }
        merged.add(kv, wanted);
    }
    Ok(merged)
}

/// A single key: one get, and one seek more when it has changed since the revision.
fn collect_one(
    view: &dyn View,
    request: &etcd::RangeRequest,
    wanted: &Wanted,
) -> io::Result<Found> {
    let mut record: Option<KeyRecord> = tables::get(view, &tables::current(&request.key))?;
    if let Some(past) = wanted.past
        && record
            .as_ref()
            .is_none_or(|record| record.mod_revision > past)
    {
        record = version_at(view, &request.key, past)?;
    }
    let mut found = Found::default();
    if let Some(record) = record {
        found.count = 1;
        let meta = meta_of(&record);
        if wanted.keep > 0 && matches(request, meta) {
            let key = request.key.clone();
            let kv = if wanted.values {
                key_value(key, record)
            } else {
                without_value(key, meta)
            };
            found.add(kv, wanted);
        }
    }
    Ok(found)
}

/// The old version of `key` that was visible at `revision`.
pub(crate) fn version_at(
    view: &dyn View,
    key: &[u8],
    revision: i64,
) -> io::Result<Option<KeyRecord>> {
    let mut found = None;
    let range = tables::old_versions(key, 0, revision + 1);
    tables::try_scan(view, &range, Direction::Descending, &mut |stored, value| {
        let old: OldRecord = tables::decode(stored, value)?;
        found = old.record.filter(|_| old.ended_revision > revision);
        Ok(ControlFlow::Break(()))
    })?;
    Ok(found)
}

fn collect_current(
    view: &dyn View,
    request: &etcd::RangeRequest,
    wanted: &Wanted,
) -> io::Result<Found> {
    let mut found = Found::default();
    let range = tables::current_range(&request.key, &request.range_end);
    tables::try_scan(view, &range, wanted.direction, &mut |stored, value| {
        let full = found.is_full(wanted);
        if full && wanted.past.is_none() && wanted.count_all {
            found.count += 1;
            return Ok(ControlFlow::Continue(()));
        }
        let meta: KeyMeta = tables::decode(stored, value)?;
        if wanted.past.is_some_and(|past| meta.mod_revision > past) {
            return Ok(ControlFlow::Continue(()));
        }
        found.count += 1;
        if full {
            found.cut |= matches(request, meta);
        } else if matches(request, meta) {
            let key = Bytes::copy_from_slice(&stored[1..]);
            let kv = if wanted.values {
                key_value(key, tables::decode(stored, value)?)
            } else {
                without_value(key, meta)
            };
            found.add(kv, wanted);
        }
        Ok(found.next(wanted))
    })?;
    Ok(found)
}

fn collect_old(
    view: &dyn View,
    request: &etcd::RangeRequest,
    wanted: &Wanted,
    past: i64,
) -> io::Result<Found> {
    let mut found = Found::default();
    let range = tables::old_range(&request.key, &request.range_end);
    tables::try_scan(view, &range, wanted.direction, &mut |stored, value| {
        if tables::old_mod_revision(stored)? > past {
            return Ok(ControlFlow::Continue(()));
        }
        let OldEnd { ended_revision } = tables::decode(stored, value)?;
        if ended_revision <= past {
            return Ok(ControlFlow::Continue(()));
        }
        found.count += 1;
        let old: OldMeta = tables::decode(stored, value)?;
        let meta = old.record.unwrap_or_default();
        if found.is_full(wanted) {
            found.cut |= matches(request, meta);
        } else if matches(request, meta) {
            let (key, _) = tables::split_old(stored)?;
            let kv = if wanted.values {
                let old: OldRecord = tables::decode(stored, value)?;
                key_value(key, old.record.unwrap_or_default())
            } else {
                without_value(key, meta)
            };
            found.add(kv, wanted);
        }
        Ok(found.next(wanted))
    })?;
    Ok(found)
}

/// Sorts by something else than the key; equal ones stay in key order.
fn sort(kvs: &mut [KeyValue], target: SortTarget, descending: bool) {
    kvs.sort_by(|a, b| {
        let ordering = match target {
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
}

/// A lease.
pub fn lease(view: &dyn View, id: i64) -> io::Result<Option<LeaseRecord>> {
    tables::get(view, &tables::lease(id))
}

/// Keys attached to a lease, in order.
pub fn lease_keys(view: &dyn View, id: i64) -> io::Result<Vec<Bytes>> {
    leases_of::attached(view, id)
}

/// All leases, by id.
pub fn leases(view: &dyn View) -> io::Result<Vec<(i64, LeaseRecord)>> {
    let mut found = Vec::new();
    let range = Table::Lease.range();
    tables::try_scan(view, &range, Direction::Ascending, &mut |stored, value| {
        let (id, _) = tables::split_number(stored)?;
        found.push((id, tables::decode(stored, value)?));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}
