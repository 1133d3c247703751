//! What a member answers a client: the client believes no more than it must.

use std::time::Duration;

use bytes::Bytes;
use cfgsvc_client::{
    Cursor, Event, EventKind, Freshness, KeyValue, MirrorState, Moment, Refusal, Step, WatchEvents,
};
use cfgsvc_proto::etcd::{ResponseHeader, WatchResponse};
use cfgsvc_proto::kv;
use prost::Message;

use crate::draw::Draw;

/// Responses of a watch, in order or not: what is delivered never goes back.
pub(crate) fn watch(data: &[u8]) {
    let mut draw = Draw::new(data);
    let start = i64::try_from(draw.below(20)).unwrap_or(0);
    let mut cursor = Cursor::new(start);
    let mut delivered = start - 1;
    while !draw.is_empty() {
        if draw.rarely(8) {
            let next = cursor.resume();
            assert!(next == 0 || next > delivered, "{next} after {delivered}");
            continue;
        }
        for step in cursor.accept(response(&mut draw)) {
            match step {
                Step::Deliver(WatchEvents { revision, events }) => {
                    assert!(revision > delivered, "{revision} after {delivered}");
                    assert!(!events.is_empty());
                    assert!(events.iter().all(|event| event.kv.mod_revision == revision));
                    delivered = revision;
                }
                Step::Progress(revision) => {
                    assert!(revision >= delivered, "{revision} after {delivered}");
                    delivered = revision;
                }
                Step::Created
                | Step::Compacted { .. }
                | Step::Retry(_)
                | Step::Cancelled(_)
                | Step::OutOfOrder(_) => {}
            }
        }
    }
}

fn response(draw: &mut Draw<'_>) -> WatchResponse {
    if draw.rarely(8) {
        let encoded = draw.bytes(64);
        return WatchResponse::decode(encoded).unwrap_or_default();
    }
    let header = ResponseHeader {
        cluster_id: if draw.rarely(16) { draw.number(3) } else { 1 },
        revision: draw.signed(60),
        ..ResponseHeader::default()
    };
    let revision = draw.signed(60);
    let events = (0..draw.below(4)).map(|index| {
        let kv = KeyValue {
            key: draw.key(),
            mod_revision: revision.saturating_add(i64::try_from(index / 2).unwrap_or(0)),
            ..KeyValue::default()
        };
        kv::Event {
            r#type: i32::from(draw.byte() % 3),
            kv: (!draw.rarely(16)).then_some(kv),
            prev_kv: None,
        }
    });
    let events = events.collect();
    WatchResponse {
        header: (!draw.rarely(16)).then_some(header),
        watch_id: draw.signed(2),
        created: draw.rarely(8),
        canceled: draw.rarely(16),
        compact_revision: if draw.rarely(16) { draw.signed(20) } else { 0 },
        cancel_reason: draw.text(8),
        fragment: draw.rarely(4),
        events,
    }
}

/// Loads, events and barriers of a mirror. The words of a refusal are read too.
pub(crate) fn mirror(data: &[u8]) {
    let mut draw = Draw::new(data);
    let limit = Duration::from_millis(draw.below(5_000));
    let mut state = MirrorState::new(limit);
    let mut passed = Duration::ZERO;
    while !draw.is_empty() {
        let before = state.revision();
        passed += Duration::from_millis(draw.below(1_000));
        let now = Moment::since_boot(passed);
        match draw.below(4) {
            0 => {
                let kvs = (0..draw.below(4)).map(|_| key_value(&mut draw)).collect();
                state.load(kvs, draw.signed(60), now);
            }
            1 => {
                let events = (0..draw.below(4)).map(|_| Event {
                    kind: if draw.flag() {
                        EventKind::Put
                    } else {
                        EventKind::Delete
                    },
                    kv: key_value(&mut draw),
                    previous: None,
                });
                let events = events.collect();
                let revision = draw.signed(60);
                state.apply(WatchEvents { revision, events }, now);
                assert!(state.revision() >= before);
            }
            2 => {
                let ago = Duration::from_millis(draw.below(6_000));
                let sent = Moment::since_boot(passed.saturating_sub(ago));
                state.barrier(draw.signed(60), (sent, now), state.revision());
                assert!(state.revision() == before);
            }
            _ => {
                let _ = Refusal::from_message(&draw.text(64));
            }
        }
        if let Freshness::Fresh { until, .. } = state.freshness(now) {
            assert!(now < until);
        }
    }
}

fn key_value(draw: &mut Draw<'_>) -> KeyValue {
    KeyValue {
        key: draw.key(),
        value: Bytes::copy_from_slice(draw.bytes(4)),
        mod_revision: draw.signed(60),
        ..KeyValue::default()
    }
}
