//! Restores step by step, and of files that no store has written.

use cfgsvc_core::{Floor, Machine, tables};
use cfgsvc_proto::kv::event::EventType;
use cfgsvc_proto::state::command::Op;
use cfgsvc_proto::state::seed::Step;
use cfgsvc_proto::state::{
    HistoryRecord, KeyRecord, LeaseRecord, MachineRecord, OldRecord, Record, RevisionRecord, Seed,
    SessionRecord,
};
use cluster_core::store::Overlay;
use expect_test::expect;
use prost::Message;

use crate::shown::*;

fn record(key: &[u8], value: &impl Message) -> Record {
    Record {
        key: key.to_vec().into(),
        value: value.encode_to_vec().into(),
    }
}

fn step(step: Step, number: u64, restore_id: u64, records: &[Record]) -> Op {
    Op::Seed(Seed {
        step: step.into(),
        number,
        records: records.to_vec(),
        restore_id,
        advance: 0,
    })
}

fn machine(revision: i64) -> Record {
    let machine = MachineRecord {
        revision,
        ..MachineRecord::default()
    };
    record(&tables::MACHINE, &machine)
}

fn lease(id: i64, ttl_s: i64) -> Record {
    record(
        &tables::lease(id),
        &LeaseRecord {
            ttl_s,
            ..LeaseRecord::default()
        },
    )
}

fn version(create_revision: i64, mod_revision: i64, version: i64, lease: i64) -> KeyRecord {
    KeyRecord {
        create_revision,
        mod_revision,
        version,
        lease,
        value: bytes("1"),
    }
}

/// A version that any store at revision 5 may have.
fn sound() -> KeyRecord {
    version(2, 3, 2, 0)
}

fn old(mod_revision: i64, record: KeyRecord, ended_revision: i64) -> Record {
    let value = OldRecord {
        record: Some(record),
        ended_revision,
    };
    self::record(&tables::old(b"a", mod_revision), &value)
}

fn event(kind: EventType, record: Option<KeyRecord>, replaced_revision: i64) -> HistoryRecord {
    HistoryRecord {
        r#type: kind.into(),
        key: bytes("a"),
        record,
        replaced_revision,
    }
}

#[test]
fn restore_is_for_an_empty_group_and_its_steps_come_in_order() {
    let unknown = Record {
        key: bytes("x"),
        value: bytes(""),
    };
    let damaged = Record {
        key: bytes("ca"),
        value: vec![0xff].into(),
    };
    Store::new()
        .op(step(Step::Records, 1, 5, &[]))
        .op(step(Step::Begin, 0, 5, &[]))
        .op(step(Step::Begin, 0, 5, &[]))
        .kv(put("a", "1"))
        .kv(all())
        .op(step(Step::Records, 1, 5, &[unknown]))
        .op(step(Step::Records, 1, 5, &[machine(1), damaged]))
        .op(step(Step::Records, 1, 5, &[lease(7, 60)]))
        .op(step(Step::Finish, 1, 5, &[]))
        .op(step(Step::Records, 1, 5, &[machine(1)]))
        .op(step(Step::Records, 1, 5, &[machine(1)]))
        .op(step(Step::Begin, 0, 6, &[]))
        .op(step(Step::Records, 2, 5, &[]))
        .op(step(Step::Records, 1, 6, &[machine(1), lease(7, 60)]))
        .op(step(Step::Finish, 2, 6, &[]))
        .op(grant(7, 60))
        .op(step(Step::Begin, 0, 7, &[]))
        .kv(put("a", "1"))
        .op(step(Step::Begin, 0, 7, &[]))
        .check(expect![[r#"
            etcdserver: step does not belong to the restore in progress
              (step 1 of restore 5, expected step 0 of restore 0)
            records: 0
            etcdserver: step does not belong to the restore in progress
              (restore 5 has begun already)
            etcdserver: restore in progress
              (restore 5)
            etcdserver: restore in progress
              (restore 5)
            etcdserver: step does not belong to the restore in progress
              (key 'x' of the store belongs to no table)
            etcdserver: step does not belong to the restore in progress
              (key 'ca' of the store has a damaged value:
              failed to decode Protobuf message:
              invalid varint)
            etcdserver: step does not belong to the restore in progress
              (key 'l\x00\x00\x00\x00\x00\x00\x00\x07' comes before the machine record:
              the snapshot is not whole)
            etcdserver: step does not belong to the restore in progress
              (the records hold no machine record:
              the snapshot is not whole)
            records: 1
            etcdserver: step does not belong to the restore in progress
              (step 1 of restore 5, expected step 2 of restore 5)
            records: 0
            etcdserver: step does not belong to the restore in progress
              (step 2 of restore 5, expected step 1 of restore 6)
            records: 2
            records: 2
            etcdserver: lease already exists
              (lease 7)
            etcdserver: store is not empty
              (the store has leases)
            r2
            etcdserver: store is not empty
              (the store is at revision 2, not 1)"#]]);
}

#[test]
fn records_that_no_store_holds_are_refused_and_change_nothing() {
    let (put, delete) = (EventType::Put, EventType::Delete);
    let a = tables::current(b"a");
    let at = |revision, event| record(&tables::history(revision, 0), &event);
    let session = |floor, kept| SessionRecord {
        floor,
        kept,
        kept_bytes: 0,
    };
    let bytes_kept = SessionRecord {
        kept_bytes: u64::MAX,
        ..SessionRecord::default()
    };
    let bad: Vec<Vec<Record>> = vec![
        vec![machine(5)],
        vec![record(&a, &sound()), record(&a, &sound())],
        vec![record(&a, &version(2, 6, 2, 0))],
        vec![record(&a, &version(1, 3, 2, 0))],
        vec![record(&a, &version(4, 3, 2, 0))],
        vec![record(&a, &version(2, 3, 0, 0))],
        vec![record(&a, &version(2, 3, i64::MAX, 0))],
        vec![record(&a, &version(2, 3, 2, 7))],
        vec![old(2, sound(), 4)],
        vec![old(3, sound(), 3)],
        vec![old(3, sound(), 6)],
        vec![at(6, event(delete, None, 0))],
        vec![at(3, event(delete, None, 3))],
        vec![at(3, event(delete, Some(sound()), 0))],
        vec![at(3, event(put, None, 0))],
        vec![at(4, event(put, Some(sound()), 0))],
        vec![record(
            &tables::history(3, u32::MAX),
            &event(delete, None, 2),
        )],
        vec![record(&tables::revision(6), &RevisionRecord::default())],
        vec![lease(0, 60)],
        vec![lease(7, 0)],
        vec![lease(7, i64::MAX)],
        vec![record(&tables::session(7), &session(0, 0))],
        vec![
            lease(7, 60),
            record(&tables::session(7), &session(u64::MAX, 0)),
        ],
        vec![lease(7, 60), record(&tables::session(7), &session(0, 1025))],
        vec![lease(7, 60), record(&tables::session(7), &bytes_kept)],
        vec![Record {
            key: tables::reply(7, 1),
            value: bytes(""),
        }],
    ];
    let mut store =
        Store::new()
            .op(step(Step::Begin, 0, 5, &[]))
            .op(step(Step::Records, 1, 5, &[machine(5)]));
    let before = store.state.entries();
    store.shown.clear();
    for records in &bad {
        store = store.op(step(Step::Records, 2, 5, records));
        assert_eq!(store.state.entries(), before, "{records:?}");
    }
    for shown in &store.shown {
        assert!(
            shown.contains("comes twice") || shown.contains("cannot be in a store at revision 5"),
            "{shown}"
        );
    }
    assert_eq!(store.shown.len(), bad.len());
}

#[test]
fn counters_that_no_store_holds_are_refused() {
    let sound = MachineRecord {
        revision: 5,
        compacted_revision: 4,
        scrubbed_revision: 3,
        ..MachineRecord::default()
    };
    let bad = [
        MachineRecord {
            revision: i64::MAX,
            ..sound
        },
        MachineRecord {
            revision: 3,
            ..sound
        },
        MachineRecord {
            scrubbed_revision: 5,
            ..sound
        },
        MachineRecord {
            scrubbed_revision: -1,
            ..sound
        },
        MachineRecord {
            restore_id: 1,
            ..sound
        },
        MachineRecord {
            lost_after: 3,
            lost_until: 6,
            ..sound
        },
        MachineRecord {
            lost_after: 4,
            lost_until: 3,
            ..sound
        },
    ];
    let mut store = Store::new().op(step(Step::Begin, 0, 5, &[]));
    store.shown.clear();
    for bad in &bad {
        store = store.op(step(Step::Records, 1, 5, &[record(&tables::MACHINE, bad)]));
    }
    assert_eq!(store.shown.len(), bad.len());
    for shown in &store.shown {
        assert!(shown.contains("the machine record cannot be"), "{shown}");
    }
    let whole = record(&tables::MACHINE, &sound);
    store = store.op(step(Step::Records, 1, 5, &[whole]));
    assert_eq!(store.shown.last().map(String::as_str), Some("records: 1"));
}

/// A restore of a store with `a` made at 2 and changed at 3, `advance` revisions further.
fn advanced(advance: i64) -> Store {
    let current = version(2, 3, 2, 0);
    let first = version(2, 2, 1, 0);
    let records = [
        machine(3),
        record(&tables::revision(2), &RevisionRecord::default()),
        record(&tables::revision(3), &RevisionRecord::default()),
        record(&tables::current(b"a"), &current),
        old(2, first.clone(), 3),
        record(
            &tables::history(2, 0),
            &event(EventType::Put, Some(first), 0),
        ),
        record(
            &tables::history(3, 0),
            &event(EventType::Put, Some(current), 2),
        ),
    ];
    let finish = Seed {
        step: Step::Finish.into(),
        number: 2,
        restore_id: 5,
        advance,
        ..Seed::default()
    };
    let mut store = Store::new()
        .op(step(Step::Begin, 0, 5, &[]))
        .op(step(Step::Records, 1, 5, &records))
        .op(Op::Seed(finish));
    store.shown.drain(..2);
    store
}

#[test]
fn revisions_that_a_restore_leaves_out_are_not_given_again_and_not_readable() {
    advanced(1000)
        .kv(get_at("a", "", 2))
        .kv(get_at("a", "", 3))
        .kv(get_at("a", "", 4))
        .kv(get_at("a", "", 1002))
        .kv(get_at("a", "", 1003))
        .kv(put("a", "2"))
        .kv(get_at("a", "", 1003))
        .watch_from(2)
        .watch_from(4)
        .watch_from(5)
        .watch_from(1002)
        .watch_from(1003)
        .op(compact(500))
        .watch_from(4)
        .kv(get_at("a", "", 3))
        .kv(get_at("a", "", 1003))
        .check(expect![[r#"
            records: 7
            r1003 [a=1 c2m2v1] of 1
            r1003 [a=1 c2m3v2] of 1
            etcdserver: mvcc: required revision has been compacted
              (revision 4, compacted to 1003)
            etcdserver: mvcc: required revision has been compacted
              (revision 1002, compacted to 1003)
            r1003 [a=1 c2m3v2] of 1
            r1004
            r1004 [a=1 c2m3v2] of 1
            PUT a=1 c2m2v1
            PUT a=1 c2m3v2 was a=1 c2m2v1
            PUT a=2 c2m1004v3 was a=1 c2m3v2
            PUT a=2 c2m1004v3 was a=1 c2m3v2
            compacted to 1003
            compacted to 1003
            PUT a=2 c2m1004v3 was a=1 c2m3v2
            r1004
            compacted to 1003
            etcdserver: mvcc: required revision has been compacted
              (revision 3, compacted to 1003)
            r1004 [a=1 c2m3v2] of 1"#]]);
}

#[test]
fn advance_that_leaves_no_room_is_refused() {
    for advance in [-1, i64::MAX, 1 << 62] {
        let shown = advanced(advance).shown;
        assert!(shown[0].contains("cannot advance"), "{shown:?}");
    }
}

#[test]
fn second_advance_compacts_what_was_before_the_first() {
    let entries = advanced(1000).kv(put("a", "2")).state.entries();
    let mut state = Overlay::new(&entries);
    let mut machine = Machine::load(&entries).expect("loads");
    // The second time without a change between: that makes one stretch.
    for until in [2004, 3004] {
        let advanced = machine.advance(&mut state, 1000).expect("memory");
        advanced.expect("there is room");
        let expected = Floor {
            compacted: 1003,
            lost_after: 1004,
            lost_until: until,
        };
        assert_eq!(machine.floor(), expected);
    }
}

/// A lease that ends would look for the key and stop every member.
#[test]
fn attachments_are_made_from_the_keys_and_not_taken_from_the_file() {
    let attachment = |key: &[u8]| Record {
        key: tables::lease_key(7, key),
        value: bytes(""),
    };
    let held = version(2, 3, 2, 7);
    Store::new()
        .op(step(Step::Begin, 0, 5, &[]))
        .op(step(
            Step::Records,
            1,
            5,
            &[
                machine(3),
                record(&tables::revision(2), &RevisionRecord::default()),
                record(&tables::revision(3), &RevisionRecord::default()),
                lease(7, 60),
                attachment(b"none"),
                record(&tables::current(b"a"), &held),
                old(2, version(2, 2, 1, 0), 3),
                record(
                    &tables::history(2, 0),
                    &event(EventType::Put, Some(version(2, 2, 1, 0)), 0),
                ),
                record(
                    &tables::history(3, 0),
                    &event(EventType::Put, Some(held.clone()), 2),
                ),
            ],
        ))
        .op(step(Step::Finish, 2, 5, &[]))
        .kv(all())
        .op(revoke(7))
        .kv(all())
        .check(expect![[r#"
            records: 0
            records: 9
            records: 9
            r3 [a=1 c2m3v2l7] of 1
            r4
            r4 [] of 0"#]]);
}
