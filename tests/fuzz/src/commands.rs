//! Commands of the log: whatever a member proposes is applied by all, for ever.
//!
//! - no command makes the machine fail or panic, but for an operation of a later version;
//! - the store's invariants hold after each;
//! - two replicas stay the same to the byte;
//! - no restored file, whoever made it, brings the machine to where a later command fails.

use std::io::ErrorKind;

use bytes::Bytes;
use cfgsvc_core::{read, tables};
use cfgsvc_proto::etcd;
use cfgsvc_proto::kv::event::EventType;
use cfgsvc_proto::state::command::Op;
use cfgsvc_proto::state::seed::Step;
use cfgsvc_proto::state::{
    Command, HistoryRecord, KeyRecord, LeaseRecord, MachineRecord, OldRecord, Record,
    RevisionRecord, Seed, SessionRecord,
};
use prost::Message;

use crate::draw::Draw;
use crate::replica::Replicas;

/// Commands in one run at most: bounds the time of a run, since the whole store is checked after
/// each.
const COMMANDS_MAX: usize = 64;
/// Steps with records in a restore, at most one less.
const RECORD_STEPS_MAX: u64 = 24;
const RESTORE_ID: u64 = 7;

/// Commands as bytes, each behind a byte that says how long it is.
pub(crate) fn encoded(data: &[u8]) {
    let mut replicas = Replicas::new();
    let mut rest = data;
    for _ in 0..COMMANDS_MAX {
        let Some((length, after)) = rest.split_first() else {
            break;
        };
        let (command, after) = after.split_at(after.len().min(usize::from(*length)));
        rest = after;
        if let Err(error) = replicas.apply(Bytes::copy_from_slice(command)) {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            // The member stops, with what it had applied before.
            break;
        }
    }
    replicas.compare();
}

/// Commands drawn from the input, and reads between them.
pub(crate) fn drawn(data: &[u8]) {
    let mut draw = Draw::new(data);
    let mut replicas = Replicas::new();
    for _ in 0..COMMANDS_MAX {
        if draw.is_empty() {
            break;
        }
        let command = draw.command().encode_to_vec();
        replicas.apply(command.into()).expect("a known command");
        if draw.rarely(4) {
            replicas.look(&mut draw);
        }
    }
    replicas.compare();
}

/// A restore of records drawn from the input, then commands on what it made.
pub(crate) fn restore(data: &[u8]) {
    let mut draw = Draw::new(data);
    let mut replicas = Replicas::new();
    seed(&mut draw, &mut replicas, Step::Begin, Vec::new());
    let first = Record {
        key: tables::MACHINE,
        value: machine(&mut draw).encode_to_vec().into(),
    };
    seed(&mut draw, &mut replicas, Step::Records, vec![first]);
    for _ in 0..draw.below(RECORD_STEPS_MAX) {
        // A step is refused as a whole, so that most hold one record.
        let count = if draw.rarely(4) { 3 } else { 1 };
        let records = (0..count).map(|_| record(&mut draw)).collect();
        seed(&mut draw, &mut replicas, Step::Records, records);
    }
    seed(&mut draw, &mut replicas, Step::Finish, Vec::new());
    for _ in 0..COMMANDS_MAX {
        if draw.is_empty() {
            break;
        }
        let command = draw.command().encode_to_vec();
        replicas.apply(command.into()).expect("a known command");
        replicas.look(&mut draw);
    }
    replicas.compare();
}

/// Does one step of a restore, mostly one that is in order.
fn seed(draw: &mut Draw<'_>, replicas: &mut Replicas, step: Step, records: Vec<Record>) {
    let expected = read::machine_record(&replicas.store().entries()).expect("its own store");
    let strange = draw.rarely(64);
    let seed = Seed {
        step: step.into(),
        number: if strange {
            draw.number(4)
        } else {
            expected.restore_next
        },
        records,
        restore_id: if strange { draw.number(9) } else { RESTORE_ID },
        advance: if step == Step::Finish && draw.rarely(4) {
            draw.signed(5)
        } else {
            0
        },
    };
    let command = Command {
        op: Some(Op::Seed(seed)),
        ..Command::default()
    };
    let applied = replicas.apply(command.encode_to_vec().into());
    applied.expect("a known step");
}

fn machine(draw: &mut Draw<'_>) -> MachineRecord {
    let mut record = MachineRecord {
        revision: draw.signed(40),
        compacted_revision: draw.signed(8),
        scrubbed_revision: draw.signed(4),
        time_ms: draw.signed(100),
        scrubbed_events: draw.number_u32(4),
        ..MachineRecord::default()
    };
    if draw.rarely(4) {
        record.lost_after = draw.signed(10);
        record.lost_until = draw.signed(20);
    }
    if draw.rarely(16) {
        record.restore_id = draw.number(2);
    }
    record
}

fn version(draw: &mut Draw<'_>) -> KeyRecord {
    KeyRecord {
        create_revision: draw.signed(20),
        mod_revision: draw.signed(40),
        version: draw.signed(4),
        lease: draw.lease(),
        value: draw.value(),
    }
}

/// A record of any table, mostly one that could be there.
pub(crate) fn record(draw: &mut Draw<'_>) -> Record {
    let (key, value) = match draw.below(10) {
        0 | 1 => (tables::current(&draw.key()), version(draw).encode_to_vec()),
        2 => old(draw),
        3 => history(draw),
        4 => (
            tables::revision(draw.signed(40)),
            RevisionRecord {
                at_ms: draw.signed(100),
                author: draw.text(3),
                reason: draw.text(3),
            }
            .encode_to_vec(),
        ),
        5 => (
            tables::lease(draw.signed(6)),
            LeaseRecord {
                ttl_s: draw.signed(100),
                ..LeaseRecord::default()
            }
            .encode_to_vec(),
        ),
        6 => (
            tables::session(draw.signed(6)),
            SessionRecord {
                floor: draw.number(4),
                kept: draw.number_u32(4),
                kept_bytes: draw.number(100),
            }
            .encode_to_vec(),
        ),
        7 => (
            tables::reply(draw.signed(6), draw.number(9)),
            draw.bytes(16).to_vec(),
        ),
        8 => (tables::lease_key(draw.signed(6), &draw.key()), Vec::new()),
        _ => {
            let key = Bytes::copy_from_slice(draw.bytes(24));
            (key, draw.bytes(24).to_vec())
        }
    };
    Record {
        key,
        value: value.into(),
    }
}

fn old(draw: &mut Draw<'_>) -> (Bytes, Vec<u8>) {
    let record = version(draw);
    let at = if draw.rarely(8) {
        draw.signed(40)
    } else {
        record.mod_revision
    };
    let ended_revision = draw.signed(40);
    let old = OldRecord {
        record: Some(record),
        ended_revision,
    };
    (tables::old(&draw.key(), at), old.encode_to_vec())
}

fn history(draw: &mut Draw<'_>) -> (Bytes, Vec<u8>) {
    let mut record = version(draw);
    let revision = draw.signed(40);
    if !draw.rarely(8) {
        record.mod_revision = revision;
    }
    let delete = draw.flag();
    let event = HistoryRecord {
        r#type: if delete {
            EventType::Delete.into()
        } else {
            i32::from(draw.rarely(16)) * 7
        },
        key: draw.key(),
        record: (!delete).then_some(record),
        replaced_revision: draw.signed(40),
    };
    let index = draw.number_u32(4);
    (tables::history(revision, index), event.encode_to_vec())
}

/// Commands that leave something of everything.
pub(crate) fn some_of_everything() -> Vec<Command> {
    let op = |op| Command {
        op: Some(op),
        at_ms: 7,
        ..Command::default()
    };
    let put = |key: &'static [u8], lease| {
        op(Op::Put(etcd::PutRequest {
            key: Bytes::from_static(key),
            value: Bytes::from_static(b"v"),
            lease,
            ..etcd::PutRequest::default()
        }))
    };
    let grant = op(Op::LeaseGrant(etcd::LeaseGrantRequest { id: 3, ttl: 60 }));
    let delete = op(Op::DeleteRange(etcd::DeleteRangeRequest {
        key: Bytes::from_static(b"b"),
        ..etcd::DeleteRangeRequest::default()
    }));
    let mut in_session = put(b"c", 0);
    (in_session.session, in_session.seq) = (3, 1);
    let compact = op(Op::Compact(etcd::CompactionRequest {
        revision: 3,
        physical: false,
    }));
    vec![
        grant,
        put(b"a", 0),
        put(b"a", 3),
        put(b"a\0b", 0),
        put(b"b", 0),
        delete,
        in_session,
        compact,
        put(b"a", 0),
    ]
}
