//! Requests and commands drawn from an input: few keys, small numbers and now and then the edges,
//! so that they meet each other.
//!
//! Drawing never fails: an input that has ended gives the simplest of everything.

use arbitrary::Unstructured;
use bytes::Bytes;
use cfgsvc_proto::etcd;
use cfgsvc_proto::etcd::compare::TargetUnion;
use cfgsvc_proto::etcd::request_op::Request;
use cfgsvc_proto::state::command::Op;
use cfgsvc_proto::state::{Command, LeaseExpire, Scrub};

const KEYS: [&[u8]; 7] = [b"a", b"a\0", b"a\0b", b"ab", b"b", b"\0", b"\xff\xff"];
const EDGES: [i64; 8] = [
    i64::MIN,
    i64::MIN + 1,
    -1,
    1 << 31,
    1 << 32,
    1 << 62,
    i64::MAX - 1,
    i64::MAX,
];

/// What is drawn from.
pub(crate) struct Draw<'a>(pub(crate) Unstructured<'a>);

impl<'a> Draw<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Self(Unstructured::new(data))
    }

    /// Whether the input has ended.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A number below `end`, which is at least 1.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0.int_in_range(0..=end - 1).unwrap_or(0)
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.0.arbitrary().unwrap_or(0)
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// Once in `of` times.
    pub(crate) fn rarely(&mut self, of: u64) -> bool {
        self.below(of) == of - 1
    }

    /// Bytes, at most `max` of them.
    pub(crate) fn bytes(&mut self, max: u64) -> &'a [u8] {
        let wanted = usize::try_from(self.below(max + 1)).unwrap_or(0);
        let length = wanted.min(self.0.len());
        self.0.bytes(length).unwrap_or_default()
    }

    /// All that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        let length = self.0.len();
        self.0.bytes(length).unwrap_or_default()
    }

    /// Text, at most `max` bytes of it.
    pub(crate) fn text(&mut self, max: u64) -> String {
        String::from_utf8_lossy(self.bytes(max)).into_owned()
    }

    /// A number below `end`, or now and then any.
    pub(crate) fn number(&mut self, end: u64) -> u64 {
        match self.below(16) {
            14 => self.edge() as u64,
            15 => self.0.arbitrary().unwrap_or(0),
            _ => self.below(end),
        }
    }

    /// The same, cut to 32 bits.
    pub(crate) fn number_u32(&mut self, end: u64) -> u32 {
        let low = self.number(end) & u64::from(u32::MAX);
        u32::try_from(low).unwrap_or(u32::MAX)
    }

    /// A number below `end`, or now and then any.
    pub(crate) fn signed(&mut self, end: u64) -> i64 {
        self.number(end) as i64
    }

    fn edge(&mut self) -> i64 {
        self.0.choose(&EDGES).copied().unwrap_or(0)
    }

    pub(crate) fn key(&mut self) -> Bytes {
        match self.below(32) {
            30 => Bytes::new(),
            31 => Bytes::copy_from_slice(self.bytes(64)),
            _ => Bytes::from_static(self.0.choose(&KEYS).copied().unwrap_or(KEYS[0])),
        }
    }

    pub(crate) fn range_end(&mut self) -> Bytes {
        match self.below(4) {
            0 | 1 => Bytes::new(),
            2 => Bytes::from_static(b"\0"),
            _ => self.key(),
        }
    }

    pub(crate) fn value(&mut self) -> Bytes {
        if self.rarely(32) {
            return vec![b'v'; 1 << self.below(17)].into();
        }
        Bytes::copy_from_slice(self.bytes(4))
    }

    pub(crate) fn lease(&mut self) -> i64 {
        if self.flag() { 0 } else { self.signed(6) }
    }

    pub(crate) fn put(&mut self) -> etcd::PutRequest {
        etcd::PutRequest {
            key: self.key(),
            value: self.value(),
            lease: self.lease(),
            prev_kv: self.flag(),
            ignore_value: self.rarely(8),
            ignore_lease: self.rarely(8),
        }
    }

    pub(crate) fn delete(&mut self) -> etcd::DeleteRangeRequest {
        etcd::DeleteRangeRequest {
            key: self.key(),
            range_end: self.range_end(),
            prev_kv: self.flag(),
        }
    }

    pub(crate) fn range(&mut self) -> etcd::RangeRequest {
        let filtered = self.rarely(4);
        let mut filter = || if filtered { self.signed(30) } else { 0 };
        let filters = [filter(), filter(), filter(), filter()];
        etcd::RangeRequest {
            key: self.key(),
            range_end: self.range_end(),
            limit: self.signed(4),
            revision: self.signed(40),
            sort_order: self.byte().into(),
            sort_target: self.byte().into(),
            serializable: self.flag(),
            keys_only: self.flag(),
            count_only: self.rarely(8),
            min_mod_revision: filters[0],
            max_mod_revision: filters[1],
            min_create_revision: filters[2],
            max_create_revision: filters[3],
        }
        .with_likely_sort()
    }

    fn compare(&mut self) -> etcd::Compare {
        let target_union = match self.below(6) {
            0 => None,
            1 => Some(TargetUnion::Version(self.signed(4))),
            2 => Some(TargetUnion::CreateRevision(self.signed(30))),
            3 => Some(TargetUnion::ModRevision(self.signed(30))),
            4 => Some(TargetUnion::Value(self.value())),
            _ => Some(TargetUnion::Lease(self.lease())),
        };
        etcd::Compare {
            result: i32::from(self.byte() % 5),
            target: i32::from(self.byte() % 6),
            key: self.key(),
            range_end: self.range_end(),
            target_union,
        }
    }

    /// A transaction with at most `levels` of others in it.
    pub(crate) fn txn(&mut self, levels: u32) -> etcd::TxnRequest {
        let compares = self.below(3);
        let (success, failure) = (self.below(4), self.below(3));
        etcd::TxnRequest {
            compare: (0..compares).map(|_| self.compare()).collect(),
            success: (0..success).map(|_| self.request_op(levels)).collect(),
            failure: (0..failure).map(|_| self.request_op(levels)).collect(),
        }
    }

    fn request_op(&mut self, levels: u32) -> etcd::RequestOp {
        let request = match self.below(32) {
            0 => None,
            1..=12 => Some(Request::RequestPut(self.put())),
            13..=18 => Some(Request::RequestDeleteRange(self.delete())),
            19..=26 => Some(Request::RequestRange(self.range())),
            _ if levels == 0 => Some(Request::RequestRange(self.range())),
            _ => Some(Request::RequestTxn(self.txn(levels - 1))),
        };
        etcd::RequestOp { request }
    }

    fn op(&mut self) -> Op {
        match self.below(32) {
            0..=9 => Op::Put(self.put()),
            10..=12 => Op::DeleteRange(self.delete()),
            13..=20 => Op::Txn(self.txn(3)),
            21 | 22 => Op::Compact(etcd::CompactionRequest {
                revision: self.signed(30),
                physical: self.flag(),
            }),
            23..=25 => Op::LeaseGrant(etcd::LeaseGrantRequest {
                id: self.signed(6),
                ttl: self.signed(100),
            }),
            26 => Op::LeaseRevoke(etcd::LeaseRevokeRequest { id: self.signed(6) }),
            27 => {
                let count = self.below(3);
                Op::LeaseExpire(LeaseExpire {
                    ids: (0..count).map(|_| self.signed(6)).collect(),
                    term: self.below(3),
                })
            }
            _ => Op::Scrub(Scrub {
                limit: self.number_u32(9),
            }),
        }
    }

    /// Anything that a client or the group's own work proposes, but for restores.
    pub(crate) fn command(&mut self) -> Command {
        let op = Some(self.op());
        let session = if self.flag() { 0 } else { self.signed(6) };
        Command {
            at_ms: self.signed(1000),
            author: self.text(2),
            reason: String::new(),
            session,
            seq: if session == 0 { 0 } else { self.number(9) },
            ack: if session == 0 { 0 } else { self.number(3) },
            op,
        }
    }
}

/// Most sorts that are drawn are sorts that there are.
trait WithLikelySort {
    fn with_likely_sort(self) -> Self;
}

impl WithLikelySort for etcd::RangeRequest {
    fn with_likely_sort(mut self) -> Self {
        if self.sort_order < 250 {
            self.sort_order %= 3;
        }
        if self.sort_target < 250 {
            self.sort_target %= 5;
        }
        self
    }
}
