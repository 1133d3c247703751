//! Requests of clients as they come from the network: bytes that may be any message.
//!
//! What decodes is checked, answered from a store that holds something of everything, or applied to
//! it; and what a call says beside its message is read.

use std::sync::LazyLock;

use bytes::Bytes;
use cfgsvc::grpc::metadata::{RequestMeta, wants_leader};
use cfgsvc::grpc::status;
use cfgsvc_core::{is_read_only, read, txn_readonly, validate};
use cfgsvc_proto::state::Command;
use cfgsvc_proto::state::command::Op;
use cfgsvc_proto::state::reply::Result as Outcome;
use cfgsvc_proto::{etcd, v1};
use cluster::transport::CallIdentity;
use cluster_core::store::MemoryState;
use prost::Message;
use tonic::metadata::{KeyAndValueRef, MetadataKey, MetadataMap, MetadataValue};

use crate::commands::some_of_everything;
use crate::draw::Draw;
use crate::replica::Replicas;

static STORE: LazyLock<MemoryState> = LazyLock::new(|| {
    let store = MemoryState::default();
    let mut batch = cluster_core::store::Batch::default();
    for (key, value) in Replicas::after(some_of_everything()).store().entries() {
        batch.put(key, value);
    }
    cluster_core::store::StateEngine::commit(&store, batch).expect("memory does not fail");
    store
});

/// One message, which its first byte names, and the metadata of its call.
pub(crate) fn target(data: &[u8]) {
    let mut draw = Draw::new(data);
    let kind = draw.byte();
    if draw.rarely(4) {
        metadata(&mut draw);
    }
    let message = Bytes::copy_from_slice(draw.rest());
    match kind % 16 {
        0 | 1 => range(&message),
        2 => apply(message, Op::Put),
        3 => apply(message, Op::DeleteRange),
        4 | 5 => txn(&message),
        6 => apply(message, Op::Compact),
        7 => apply(message, Op::LeaseGrant),
        8 => apply(message, Op::LeaseRevoke),
        _ => others(&message),
    }
}

fn range(message: &Bytes) {
    let Ok(request) = etcd::RangeRequest::decode(message.clone()) else {
        return;
    };
    let entries = STORE.entries();
    let valid = validate::range(&request);
    let whole = read::range(&entries, &request).expect("a store of our own");
    let page = read::range_page(&entries, &request, 8).expect("a store of our own");
    if let Err(refusal) = valid.and(whole.map(drop)).and(page.map(drop)) {
        assert_ne!(status::of_refusal(&refusal).code(), tonic::Code::Ok);
    }
}

fn txn(message: &Bytes) {
    let Ok(request) = etcd::TxnRequest::decode(message.clone()) else {
        return;
    };
    if is_read_only(&request) {
        let read = txn_readonly(&STORE.entries(), &request).expect("a store of our own");
        assert!(read.is_err() || validate::txn(&request).is_ok());
    }
    apply(message.clone(), Op::Txn);
}

/// Proposes the request of a client.
fn apply<M: Message + Default>(message: Bytes, op: impl FnOnce(M) -> Op) {
    let Ok(request) = M::decode(message) else {
        return;
    };
    let mut replicas = Replicas::after(some_of_everything());
    let before = replicas.store().entries();
    let command = Command {
        op: Some(op(request)),
        ..Command::default()
    };
    let reply = replicas
        .apply(command.encode_to_vec().into())
        .expect("a client's request");
    if let Some(Outcome::Refusal(refusal)) = reply.result {
        assert_eq!(replicas.store().entries(), before, "{refusal:?}");
        assert_ne!(status::of_refusal(&refusal).code(), tonic::Code::Ok);
    }
    replicas.compare();
}

/// Decodes what has no further use without a server, and encodes it again.
fn others(message: &Bytes) {
    same::<etcd::WatchRequest>(message);
    same::<etcd::LeaseKeepAliveRequest>(message);
    same::<etcd::LeaseTimeToLiveRequest>(message);
    same::<etcd::MemberAddRequest>(message);
    same::<etcd::MemberRemoveRequest>(message);
    same::<etcd::MemberUpdateRequest>(message);
    same::<etcd::MemberListRequest>(message);
    same::<etcd::MemberPromoteRequest>(message);
    same::<etcd::AlarmRequest>(message);
    same::<etcd::HashKvRequest>(message);
    same::<etcd::MoveLeaderRequest>(message);
    same::<etcd::DowngradeRequest>(message);
    same::<v1::HistoryRequest>(message);
    same::<v1::MemberAddRequest>(message);
    same::<v1::MembersRequest>(message);
    same::<v1::JoinRequest>(message);
    same::<v1::RestoreRequest>(message);
}

fn same<M: Message + Default + PartialEq + std::fmt::Debug>(message: &Bytes) {
    if let Ok(decoded) = M::decode(message.clone()) {
        let again = M::decode(Bytes::from(decoded.encode_to_vec()));
        assert_eq!(again.as_ref(), Ok(&decoded));
    }
}

fn metadata(draw: &mut Draw<'_>) {
    const NAMES: [&str; 10] = [
        "cfgsvc-author",
        "cfgsvc-reason",
        "cfgsvc-session",
        "cfgsvc-seq",
        "cfgsvc-ack",
        "hasleader",
        "cluster-id",
        "from-id",
        "from-incarnation",
        "to-id",
    ];
    let mut metadata = MetadataMap::new();
    for name in NAMES {
        let value = match draw.below(4) {
            0 => continue,
            1 => draw.signed(100).to_string().into_bytes(),
            2 => draw.bytes(40).to_vec(),
            _ => vec![b'x'; usize::try_from(draw.below(2000)).unwrap_or(0)],
        };
        if let Ok(value) = MetadataValue::try_from(value.as_slice()) {
            metadata.insert(MetadataKey::from_static(name), value);
        }
    }
    assert!(
        metadata
            .iter()
            .all(|pair| matches!(pair, KeyAndValueRef::Ascii(..)))
    );
    if let Ok(meta) = RequestMeta::parse(&metadata) {
        assert_eq!(meta.session == 0, meta.seq == 0);
        assert!(meta.session != 0 || meta.ack == 0);
    }
    let _ = wants_leader(&metadata);
    let _ = CallIdentity::from_metadata(&metadata);
}
