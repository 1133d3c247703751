//! A store that is asked etcd's requests and shows a line for each answer.
//!
//! A key is shown as `key=value` with c(reate), m(od), v(ersion) and l(ease); a reply begins with
//! the revision of its header, `r-` when it has none.

use bytes::Bytes;
use cfgsvc_core::history::{self, Compacted, HistoryQuery};
use cfgsvc_core::refusal::refusal_text;
use cfgsvc_core::{LeaseChange, Machine, check::check, read};
use cfgsvc_proto::etcd::compare::{CompareResult, CompareTarget, TargetUnion};
use cfgsvc_proto::etcd::request_op::Request;
use cfgsvc_proto::etcd::response_op::Response;
use cfgsvc_proto::etcd::{self, ResponseHeader};
use cfgsvc_proto::kv::KeyValue;
use cfgsvc_proto::state::command::Op;
use cfgsvc_proto::state::reply::Result as Outcome;
use cfgsvc_proto::state::{Command, Refusal, Reply};
use cluster_core::store::{MemoryState, Overlay, StateEngine};
use expect_test::Expect;
use prost::Message;

/// A store that shows what it answers.
pub(crate) struct Store {
    pub(crate) state: MemoryState,
    machine: Machine,
    pub(crate) shown: Vec<String>,
}

pub(crate) fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub(crate) fn put_with(
    key: &str,
    value: &str,
    more: impl FnOnce(&mut etcd::PutRequest),
) -> Request {
    let mut request = etcd::PutRequest {
        key: bytes(key),
        value: bytes(value),
        ..etcd::PutRequest::default()
    };
    more(&mut request);
    Request::RequestPut(request)
}

pub(crate) fn put(key: &str, value: &str) -> Request {
    put_with(key, value, |_| {})
}

pub(crate) fn leased(key: &str, value: &str, lease: i64) -> Request {
    put_with(key, value, |put| put.lease = lease)
}

pub(crate) fn delete(key: &str, end: &str) -> Request {
    Request::RequestDeleteRange(etcd::DeleteRangeRequest {
        key: bytes(key),
        range_end: bytes(end),
        prev_kv: true,
    })
}

pub(crate) fn get_with(
    key: &str,
    end: &str,
    more: impl FnOnce(&mut etcd::RangeRequest),
) -> Request {
    let mut request = etcd::RangeRequest {
        key: bytes(key),
        range_end: bytes(end),
        ..etcd::RangeRequest::default()
    };
    more(&mut request);
    Request::RequestRange(request)
}

pub(crate) fn get(key: &str, end: &str) -> Request {
    get_with(key, end, |_| {})
}

pub(crate) fn get_at(key: &str, end: &str, revision: i64) -> Request {
    get_with(key, end, |range| range.revision = revision)
}

pub(crate) fn all() -> Request {
    get("\0", "\0")
}

pub(crate) fn ops(requests: Vec<Request>) -> Vec<etcd::RequestOp> {
    let op = |request| etcd::RequestOp {
        request: Some(request),
    };
    requests.into_iter().map(op).collect()
}

pub(crate) fn txn_request(
    compare: Vec<etcd::Compare>,
    success: Vec<Request>,
    failure: Vec<Request>,
) -> etcd::TxnRequest {
    etcd::TxnRequest {
        compare,
        success: ops(success),
        failure: ops(failure),
    }
}

pub(crate) fn txn(
    compare: Vec<etcd::Compare>,
    success: Vec<Request>,
    failure: Vec<Request>,
) -> Request {
    Request::RequestTxn(txn_request(compare, success, failure))
}

pub(crate) fn compare(key: &str, result: CompareResult, union: TargetUnion) -> etcd::Compare {
    let target = match union {
        TargetUnion::Version(_) => CompareTarget::Version,
        TargetUnion::CreateRevision(_) => CompareTarget::Create,
        TargetUnion::ModRevision(_) => CompareTarget::Mod,
        TargetUnion::Value(_) => CompareTarget::Value,
        TargetUnion::Lease(_) => CompareTarget::Lease,
    };
    etcd::Compare {
        result: result.into(),
        target: target.into(),
        key: bytes(key),
        target_union: Some(union),
        range_end: Bytes::new(),
    }
}

pub(crate) fn compact(revision: i64) -> Op {
    Op::Compact(etcd::CompactionRequest {
        revision,
        physical: false,
    })
}

pub(crate) fn grant(id: i64, ttl: i64) -> Op {
    Op::LeaseGrant(etcd::LeaseGrantRequest { id, ttl })
}

pub(crate) fn revoke(id: i64) -> Op {
    Op::LeaseRevoke(etcd::LeaseRevokeRequest { id })
}

pub(crate) fn show_kv(kv: &KeyValue) -> String {
    let (key, value) = (kv.key.escape_ascii(), kv.value.escape_ascii());
    let (c, m, v) = (kv.create_revision, kv.mod_revision, kv.version);
    match kv.lease {
        0 => format!("{key}={value} c{c}m{m}v{v}"),
        lease => format!("{key}={value} c{c}m{m}v{v}l{lease}"),
    }
}

pub(crate) fn show_kvs(kvs: &[KeyValue]) -> String {
    let shown: Vec<String> = kvs.iter().map(show_kv).collect();
    format!("[{}]", shown.join(", "))
}

pub(crate) fn show_header(header: Option<&ResponseHeader>) -> String {
    match header {
        None => "no header".to_owned(),
        Some(header) if header.revision == 0 => "r-".to_owned(),
        Some(header) => format!("r{}", header.revision),
    }
}

pub(crate) fn show_refusal(refusal: &Refusal) -> String {
    let text = refusal_text(refusal.code());
    match refusal.detail.as_str() {
        "" => text.to_owned(),
        detail => format!(
            "{text}\n  ({})",
            detail.replace("; ", ";\n  ").replace(": ", ":\n  ")
        ),
    }
}

pub(crate) fn show_range(range: &etcd::RangeResponse) -> String {
    let more = if range.more { " more" } else { "" };
    let (header, kvs) = (show_header(range.header.as_ref()), show_kvs(&range.kvs));
    format!("{header} {kvs} of {}{more}", range.count)
}

pub(crate) fn show_put(put: &etcd::PutResponse) -> String {
    let header = show_header(put.header.as_ref());
    match &put.prev_kv {
        Some(kv) => format!("{header} was {}", show_kv(kv)),
        None => header,
    }
}

pub(crate) fn show_txn(txn: &etcd::TxnResponse) -> String {
    let responses = txn.responses.iter().map(|op| match &op.response {
        Some(Response::ResponseRange(range)) => show_range(range),
        Some(Response::ResponsePut(put)) => show_put(put),
        Some(Response::ResponseDeleteRange(delete)) => show_delete(delete),
        Some(Response::ResponseTxn(txn)) => show_txn(txn),
        None => "nothing".to_owned(),
    });
    let responses: Vec<String> = responses.collect();
    let branch = if txn.succeeded { "then" } else { "else" };
    let header = show_header(txn.header.as_ref());
    format!("{header} {branch} {{{}}}", responses.join("; "))
}

pub(crate) fn show_delete(delete: &etcd::DeleteRangeResponse) -> String {
    let header = show_header(delete.header.as_ref());
    format!(
        "{header} deleted {} {}",
        delete.deleted,
        show_kvs(&delete.prev_kvs)
    )
}

pub(crate) fn show_reply(reply: &Reply) -> String {
    match reply.result.as_ref().expect("every reply has a result") {
        Outcome::Put(put) => show_put(put),
        Outcome::DeleteRange(delete) => show_delete(delete),
        Outcome::Txn(txn) => show_txn(txn),
        Outcome::Compact(compact) => show_header(compact.header.as_ref()),
        Outcome::LeaseGrant(grant) => {
            let header = show_header(grant.header.as_ref());
            format!("{header} lease {} ttl {}", grant.id, grant.ttl)
        }
        Outcome::LeaseRevoke(revoke) => show_header(revoke.header.as_ref()),
        Outcome::LeaseExpire(expired) => format!("r{} ended {:?}", reply.revision, expired.ids),
        Outcome::Scrub(scrubbed) => format!("more: {}", scrubbed.more),
        Outcome::Seed(seeded) => format!("records: {}", seeded.records),
        Outcome::Role(role) => format!("{role:?}"),
        Outcome::Refusal(refusal) => show_refusal(refusal),
    }
}

impl Store {
    pub(crate) fn new() -> Self {
        let state = MemoryState::default();
        let machine = Machine::load(&state.entries()).expect("load");
        let shown = Vec::new();
        Self {
            state,
            machine,
            shown,
        }
    }

    pub(crate) fn apply(&mut self, command: &Command) -> (Reply, Vec<LeaseChange>) {
        let base = self.state.entries();
        let mut overlay = Overlay::new(&base);
        let encoded = command.encode_to_vec().into();
        let applied = self.machine.apply(&mut overlay, encoded).expect("apply");
        check(&overlay).expect("check");
        self.state.commit(overlay.into_batch()).expect("commit");
        let reply = Reply::decode(applied.reply).expect("own reply");
        (reply, applied.leases)
    }

    pub(crate) fn op(mut self, op: Op) -> Self {
        let command = Command {
            op: Some(op),
            ..Command::default()
        };
        let (reply, _) = self.apply(&command);
        self.shown.push(show_reply(&reply));
        self
    }

    /// A request of a session, with its number and acknowledgement.
    pub(crate) fn session(mut self, (session, seq, ack): (i64, u64, u64), op: Op) -> Self {
        let command = Command {
            session,
            seq,
            ack,
            op: Some(op),
            ..Command::default()
        };
        let (reply, _) = self.apply(&command);
        self.shown.push(show_reply(&reply));
        self
    }

    /// A request of etcd's KV service.
    pub(crate) fn kv(mut self, request: Request) -> Self {
        let op = match request {
            Request::RequestPut(put) => Op::Put(put),
            Request::RequestDeleteRange(delete) => Op::DeleteRange(delete),
            Request::RequestTxn(txn) => Op::Txn(txn),
            Request::RequestRange(range) => {
                let found = read::range(&self.state.entries(), &range).expect("read");
                let shown = found.map_or_else(|refusal| show_refusal(&refusal), |r| show_range(&r));
                self.shown.push(shown);
                return self;
            }
        };
        self.op(op)
    }

    /// Requests whose replies do not matter.
    pub(crate) fn given(mut self, requests: Vec<Request>) -> Self {
        for request in requests {
            self = self.kv(request);
        }
        self.shown.clear();
        self
    }

    pub(crate) fn watch_from(mut self, from: i64) -> Self {
        let query = HistoryQuery {
            from,
            to: i64::MAX,
            max_events: 100,
            max_bytes: 1 << 20,
            previous: true,
        };
        let found = history::history_since(&self.state.entries(), &query).expect("read");
        let shown = match found {
            Err(Compacted { floor }) => match floor.watch(from) {
                Err(first) => format!("compacted to {first}"),
                Ok(()) => panic!("refused, though it is readable: {floor:?}"),
            },
            Ok(page) => {
                let events = page.revisions.iter().flat_map(|revision| &revision.events);
                let show = |event: &cfgsvc_core::WatchEvent| {
                    let kv = event.event.kv.as_ref().map(show_kv).unwrap_or_default();
                    let was = event.previous.as_ref().map(show_kv);
                    let was = was.map(|was| format!(" was {was}")).unwrap_or_default();
                    format!("{} {kv}{was}", event.event.r#type().as_str_name())
                };
                let shown: Vec<String> = events.map(show).collect();
                shown.join("\n")
            }
        };
        self.shown.push(shown);
        self
    }

    pub(crate) fn check(self, expected: Expect) {
        expected.assert_eq(&self.shown.join("\n"));
    }
}
