//! Random commands against the model: replies, reads at any revision, histories, exactly-once,
//! the store's invariants after every command, and a restore of the end state.

mod model;

use std::collections::BTreeMap;

use bytes::Bytes;
use cfgsvc_core::history::{self, HistoryQuery};
use cfgsvc_core::{
    Applied, Machine, RevisionEvents, check::check, export, read, snapshot_file, tables,
};
use cfgsvc_proto::etcd;
use cfgsvc_proto::etcd::compare::TargetUnion;
use cfgsvc_proto::etcd::request_op::Request;
use cfgsvc_proto::kv::event::EventType;
use cfgsvc_proto::state::command::Op;
use cfgsvc_proto::state::reply::Result as Outcome;
use cfgsvc_proto::state::seed::Step;
use cfgsvc_proto::state::{Command, LeaseExpire, Record, Reply, Scrub, Seed, SnapshotHeader};
use cluster_core::store::{MemoryState, Overlay, StateEngine, View};
use model::{Change, Model};
use proptest::prelude::*;
use prost::Message;

const KEYS: [&[u8]; 7] = [b"a", b"a\0", b"a\0b", b"ab", b"b", b"\0", b"\xff\xff"];

fn key() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        60 => prop::sample::select(KEYS.to_vec()).prop_map(Bytes::from_static),
        1 => Just(Bytes::new()),
    ]
}

fn range_end() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        4 => Just(Bytes::new()),
        1 => Just(Bytes::from_static(b"\0")),
        2 => key(),
    ]
}

/// A revision, often 0, and sometimes not readable.
fn revision() -> impl Strategy<Value = i64> {
    prop_oneof![4 => Just(0i64), 4 => 0i64..40, 1 => -1i64..2]
}

fn lease() -> impl Strategy<Value = i64> {
    prop_oneof![3 => Just(0i64), 2 => 1i64..5]
}

fn value() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(0u8..3, 0..3).prop_map(Bytes::from)
}

fn rarely() -> impl Strategy<Value = bool> {
    prop::bool::weighted(0.1)
}

prop_compose! {
    fn put()(
        key in key(), value in value(), lease in lease(), prev_kv in any::<bool>(),
        ignore_value in rarely(), ignore_lease in rarely(), clean in prop::bool::weighted(0.9),
    ) -> etcd::PutRequest {
        etcd::PutRequest {
            key,
            value: if ignore_value && clean { Bytes::new() } else { value },
            lease: if ignore_lease && clean { 0 } else { lease },
            prev_kv,
            ignore_value,
            ignore_lease,
        }
    }
}

prop_compose! {
    fn delete()(key in key(), range_end in range_end(), prev_kv in any::<bool>())
        -> etcd::DeleteRangeRequest {
        etcd::DeleteRangeRequest { key, range_end, prev_kv }
    }
}

prop_compose! {
    fn range()(
        (key, range_end, revision) in (key(), range_end(), revision()),
        limit in prop_oneof![2 => Just(0i64), 2 => 1i64..4, 1 => Just(-1i64)],
        sort in prop_oneof![
            3 => Just((0, 0)), 3 => (0i32..3, 0i32..5), 1 => (0i32..4, 0i32..6),
        ],
        (keys_only, count_only) in (any::<bool>(), rarely()),
        filters in prop_oneof![
            3 => Just((0, 0, 0, 0)), 1 => (0i64..20, 0i64..30, 0i64..20, 0i64..30),
        ],
    ) -> etcd::RangeRequest {
        etcd::RangeRequest {
            key, range_end, limit, revision, sort_order: sort.0, sort_target: sort.1,
            serializable: false, keys_only, count_only,
            min_mod_revision: filters.0, max_mod_revision: filters.1,
            min_create_revision: filters.2, max_create_revision: filters.3,
        }
    }
}

fn compare() -> impl Strategy<Value = etcd::Compare> {
    let union = prop_oneof![
        1 => Just(None),
        2 => (0i64..4).prop_map(|v| Some(TargetUnion::Version(v))),
        2 => (0i64..30).prop_map(|v| Some(TargetUnion::CreateRevision(v))),
        2 => (0i64..30).prop_map(|v| Some(TargetUnion::ModRevision(v))),
        2 => value().prop_map(|v| Some(TargetUnion::Value(v))),
        2 => lease().prop_map(|v| Some(TargetUnion::Lease(v))),
    ];
    (key(), range_end(), 0i32..4, 0i32..5, union).prop_map(
        |(key, range_end, result, target, target_union)| etcd::Compare {
            result,
            target,
            key,
            range_end,
            target_union,
        },
    )
}

fn txn() -> impl Strategy<Value = etcd::TxnRequest> {
    let leaf = prop_oneof![
        10 => put().prop_map(Request::RequestPut),
        6 => delete().prop_map(Request::RequestDeleteRange),
        8 => range().prop_map(Request::RequestRange),
    ];
    let op = leaf.prop_recursive(3, 12, 3, |op| txn_of(op).prop_map(Request::RequestTxn));
    txn_of(op)
}

fn txn_of(op: impl Strategy<Value = Request>) -> impl Strategy<Value = etcd::TxnRequest> {
    let op = prop_oneof![60 => op.prop_map(Some), 1 => Just(None)];
    let ops = prop::collection::vec(op.prop_map(|request| etcd::RequestOp { request }), 0..4);
    let branches = (ops, prop::collection::vec(compare(), 0..3), any::<bool>());
    branches.prop_map(|(ops, compare, split)| {
        let (success, failure) = ops.split_at(if split { ops.len() / 2 } else { ops.len() });
        etcd::TxnRequest {
            compare,
            success: success.to_vec(),
            failure: failure.to_vec(),
        }
    })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        20 => put().prop_map(Op::Put),
        6 => delete().prop_map(Op::DeleteRange),
        16 => txn().prop_map(Op::Txn),
        5 => (0i64..24).prop_map(|revision| {
            Op::Compact(etcd::CompactionRequest { revision, physical: false })
        }),
        8 => (0i64..6, prop_oneof![9 => Just(60i64), 1 => -1i64..1, 1 => Just(9_000_000_001)])
            .prop_map(|(id, ttl)| Op::LeaseGrant(etcd::LeaseGrantRequest { id, ttl })),
        2 => (1i64..6).prop_map(|id| Op::LeaseRevoke(etcd::LeaseRevokeRequest { id })),
        1 => prop::collection::vec(1i64..6, 0..3)
            .prop_map(|ids| Op::LeaseExpire(LeaseExpire { ids, term: 0 })),
        8 => (0u32..9).prop_map(|limit| Op::Scrub(Scrub { limit })),
        1 => (0u64..2).prop_map(|number| {
            Op::Seed(Seed { number, restore_id: 9, step: 1, ..Seed::default() })
        }),
    ]
}

prop_compose! {
    fn command()(
        op in op().prop_map(Some),
        at_ms in 0i64..100,
        author in "[ab]",
        (session, seq, ack) in prop_oneof![
            2 => Just((0i64, 0u64, 0u64)),
            2 => (1i64..6, 0u64..9, 0u64..3),
        ],
    ) -> Command {
        Command { at_ms, author, reason: String::new(), session, seq, ack, op }
    }
}

fn without_details(mut reply: Reply) -> Reply {
    match &mut reply.result {
        Some(Outcome::Refusal(refusal)) => refusal.detail.clear(),
        Some(Outcome::Scrub(scrubbed)) => scrubbed.more = false,
        _ => {}
    }
    reply
}

/// What the events of a revision say, as the model says it.
fn changes(revisions: &[RevisionEvents]) -> Vec<Change> {
    let flat = revisions.iter().flat_map(|revision| {
        revision.events.iter().map(|event| {
            let kv = event.event.kv.clone().expect("every event has a key");
            assert_eq!(kv.mod_revision, revision.revision);
            assert_eq!(event.event.prev_kv, None);
            Change {
                revision: revision.revision,
                key: kv.key.clone(),
                made: Some(kv).filter(|_| event.event.r#type() == EventType::Put),
                replaced: event.previous.clone(),
            }
        })
    });
    flat.collect()
}

/// Applies commands in batches, comparing everything with the model.
struct Run {
    store: MemoryState,
    machine: Machine,
    model: Model,
    /// Replies of executed requests with an id, as bytes.
    replies: BTreeMap<(i64, u64), Bytes>,
}

impl Run {
    fn new() -> Self {
        let store = MemoryState::default();
        let machine = Machine::load(&store.entries()).expect("load");
        let (model, replies) = (Model::new(), BTreeMap::new());
        Self {
            store,
            machine,
            model,
            replies,
        }
    }

    fn batch(&mut self, commands: &[Command]) {
        let base = self.store.entries();
        let mut overlay = Overlay::new(&base);
        for command in commands {
            let known = self.model.changes.len();
            let wanted = self.model.apply(command);
            let encoded = command.encode_to_vec().into();
            let applied = self.machine.apply(&mut overlay, encoded).expect("apply");
            let reply = Reply::decode(applied.reply.clone()).expect("own reply");
            assert_eq!(
                without_details(reply.clone()),
                without_details(wanted),
                "{command:?}"
            );
            assert_eq!(changes(&applied.events), self.model.changes[known..]);
            Self::invariant_refusals_change_nothing(command, &applied, &reply);
            self.invariant_a_retry_gets_the_first_answer(command, &applied, &reply);
            check(&overlay).expect("check");
        }
        self.store.commit(overlay.into_batch()).expect("commit");
        let loaded = Machine::load(&self.store.entries()).expect("load");
        assert_eq!(format!("{loaded:?}"), format!("{:?}", self.machine));
    }

    fn invariant_refusals_change_nothing(command: &Command, applied: &Applied, reply: &Reply) {
        if matches!(reply.result, Some(Outcome::Refusal(_))) {
            assert!(
                applied.events.is_empty() && applied.leases.is_empty(),
                "{command:?}"
            );
        }
    }

    fn invariant_a_retry_gets_the_first_answer(
        &mut self,
        command: &Command,
        applied: &Applied,
        reply: &Reply,
    ) {
        use cfgsvc_core::refusal::Code;
        let live = self.model.leases.contains_key(&command.session);
        let not_kept = [
            Code::SessionNotFound,
            Code::InvalidCommand,
            Code::RequestTooOld,
            Code::SessionWindowFull,
        ];
        let refused = match &reply.result {
            Some(Outcome::Refusal(refusal)) => not_kept.contains(&refusal.code()),
            _ => false,
        };
        self.replies
            .retain(|(session, _), _| self.model.leases.contains_key(session));
        if live && !refused {
            let id = (command.session, command.seq);
            let first = self.replies.entry(id).or_insert(applied.reply.clone());
            assert_eq!(*first, applied.reply);
        }
    }

    fn read(&self, request: &etcd::RangeRequest) {
        let view = self.store.entries();
        let found = read::range(&view, request).expect("read");
        let found = found.map_err(|refusal| refusal.code());
        assert_eq!(found, self.model.range(request), "{request:?}");
        for max_bytes in [1, 70] {
            self.read_pages(&view, request, max_bytes);
        }
    }

    /// All keys at every revision, those that cannot be read too.
    fn read_every_revision(&self) {
        for revision in 1..=self.model.revision + 1 {
            self.read(&etcd::RangeRequest {
                key: Bytes::from_static(b"\0"),
                range_end: Bytes::from_static(b"\0"),
                revision,
                ..etcd::RangeRequest::default()
            });
        }
    }

    /// The pages together are the answer in one piece.
    fn read_pages(&self, view: &dyn View, request: &etcd::RangeRequest, max_bytes: usize) {
        let plain = etcd::RangeRequest {
            sort_order: 0,
            sort_target: 0,
            count_only: false,
            limit: 0,
            ..request.clone()
        };
        let Ok(whole) = self.model.range(&plain) else {
            return;
        };
        let mut next = plain;
        let mut kvs = Vec::new();
        loop {
            let page = read::range_page(view, &next, max_bytes)
                .expect("read")
                .expect("readable");
            assert!(page.kvs.len() <= 3);
            kvs.extend(page.kvs);
            next.revision = page.revision;
            match page.next_key {
                Some(key) => next.key = key,
                None => break,
            }
        }
        assert_eq!(kvs, whole.kvs);
    }

    fn catch_up(&self, from: i64, max_events: usize) {
        let view = self.store.entries();
        let mut query = HistoryQuery {
            from,
            to: i64::MAX,
            max_events,
            max_bytes: usize::MAX,
            previous: true,
        };
        let mut found = Vec::new();
        loop {
            match history::history_since(&view, &query).expect("read") {
                Err(compacted) => {
                    assert_eq!(compacted.floor.compacted, self.model.compacted);
                    assert!(query.from < self.model.compacted);
                    return;
                }
                Ok(page) => {
                    assert!(query.from >= self.model.compacted);
                    found.extend(changes(&page.revisions));
                    query.from = page.next;
                }
            }
            if query.from > self.model.revision {
                break;
            }
        }
        let wanted = self
            .model
            .changes
            .iter()
            .filter(|change| change.revision >= from)
            .cloned();
        let wanted: Vec<Change> = wanted
            .map(|mut change| {
                // The version before is not to be seen when it is compacted.
                change.replaced = change
                    .replaced
                    .filter(|_| change.revision > self.model.compacted);
                change
            })
            .collect();
        assert_eq!(found, wanted);
    }

    fn history_of_each_key(&self) {
        let view = self.store.entries();
        let compacted = self.model.compacted;
        for key in KEYS.map(Bytes::from_static) {
            let found = history::key_history(&view, &key, 0, usize::MAX, usize::MAX)
                .expect("read")
                .expect("small");
            let shown = self
                .model
                .visible(compacted.max(1))
                .get(&key)
                .map(|kv| kv.mod_revision);
            let mut wanted: Vec<&Change> = self
                .model
                .changes
                .iter()
                .filter(|change| change.key == key)
                .filter(|change| change.revision > compacted || shown == Some(change.revision))
                .collect();
            wanted.reverse();
            assert_eq!(found.len(), wanted.len(), "{found:?} {wanted:?}");
            for (found, wanted) in found.iter().zip(wanted) {
                assert_eq!(
                    (found.revision, &found.version),
                    (wanted.revision, &wanted.made)
                );
                let commit = found
                    .commit
                    .clone()
                    .map(|commit| (commit.at_ms, commit.author));
                let at = usize::try_from(wanted.revision - 2).expect("small");
                let known = self.model.commits[at].clone();
                assert_eq!(commit, Some(known).filter(|_| found.revision >= compacted));
            }
            let newest = history::key_history(&view, &key, 0, 1, usize::MAX)
                .expect("read")
                .expect("small");
            assert_eq!(newest.as_slice(), &found[..found.len().min(1)]);
        }
    }

    fn leases(&self) {
        let view = self.store.entries();
        let found = read::leases(&view).expect("read");
        let found: BTreeMap<i64, i64> = found.into_iter().map(|(id, l)| (id, l.ttl_s)).collect();
        assert_eq!(found, self.model.leases);
        for id in 0..6 {
            let wanted = self.model.attached(id);
            let wanted = if id == 0 { Vec::new() } else { wanted };
            assert_eq!(read::lease_keys(&view, id).expect("read"), wanted);
        }
    }

    /// A scrub to the end leaves what can be read, and nothing else.
    fn scrub_to_the_end(&mut self) {
        while self.machine.scrub_pending() {
            let op = Some(Op::Scrub(Scrub { limit: 2 }));
            self.batch(&[Command {
                op,
                ..Command::default()
            }]);
        }
    }

    fn restored(&self) {
        let mut entries = self.store.entries();
        let mut target = MemoryState::default();
        restore(&mut target, &save(&entries), 3);
        let counters = read::machine_record(&entries).expect("read");
        entries.insert(tables::MACHINE, counters.encode_to_vec().into());
        assert_eq!(target.entries(), entries);
    }
}

fn save(view: &dyn View) -> Vec<u8> {
    let (mut writer, first) = snapshot_file::Writer::new(SnapshotHeader::default());
    let mut file = first.to_vec();
    export::records(view, &mut |record| {
        file.extend(writer.push(record).unwrap_or_default());
        Ok(())
    })
    .expect("export")
    .expect("no restore");
    file.extend(writer.finish());
    file
}

fn restore(store: &mut MemoryState, file: &[u8], records_per_step: usize) {
    let mut reader = snapshot_file::Reader::new();
    let records = reader.feed(file).expect("own file");
    reader.finish().expect("whole file");
    let mut steps: Vec<(Step, Vec<Record>)> = vec![(Step::Begin, Vec::new())];
    steps.extend(
        records
            .chunks(records_per_step)
            .map(|part| (Step::Records, part.to_vec())),
    );
    steps.push((Step::Finish, Vec::new()));
    let mut machine = Machine::load(&store.entries()).expect("load");
    for (number, (step, records)) in steps.into_iter().enumerate() {
        let op = Op::Seed(Seed {
            step: step.into(),
            number: number as u64,
            records,
            restore_id: 77,
            advance: 0,
        });
        let command = Command {
            op: Some(op),
            ..Command::default()
        };
        let base = store.entries();
        let mut overlay = Overlay::new(&base);
        let encoded = command.encode_to_vec().into();
        let applied = machine.apply(&mut overlay, encoded).expect("apply");
        let reply = Reply::decode(applied.reply).expect("own reply");
        assert!(matches!(reply.result, Some(Outcome::Seed(_))), "{reply:?}");
        store.commit(overlay.into_batch()).expect("commit");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn machine_does_what_the_model_does(
        batches in prop::collection::vec(
            (prop::collection::vec(command(), 1..6), prop::collection::vec(range(), 0..6),
             0i64..40, 1usize..5),
            1..16,
        ),
    ) {
        let mut run = Run::new();
        for (commands, reads, from, max_events) in &batches {
            run.batch(commands);
            for request in reads {
                run.read(request);
            }
            run.catch_up(*from, *max_events);
            run.catch_up(run.model.compacted, *max_events);
            run.history_of_each_key();
            run.leases();
        }
        run.read_every_revision();
        let before = run.store.entries();
        run.scrub_to_the_end();
        run.read_every_revision();
        assert!(run.store.entries().len() <= before.len().max(1));
        for (_, reads, from, max_events) in &batches {
            for request in reads {
                run.read(request);
            }
            run.catch_up(*from, *max_events);
        }
        run.history_of_each_key();
        run.restored();
    }

    #[test]
    fn size_of_batches_does_not_change_a_byte(
        commands in prop::collection::vec(command(), 1..40), size in 2usize..9,
    ) {
        let mut one = Run::new();
        for command in &commands {
            one.batch(std::slice::from_ref(command));
        }
        let mut many = Run::new();
        for commands in commands.chunks(size) {
            many.batch(commands);
        }
        prop_assert_eq!(one.store.entries(), many.store.entries());
    }

    #[test]
    fn any_bytes_are_answered_or_of_a_later_version(
        bytes in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let bytes = Bytes::from(bytes);
        let base = MemoryState::default().entries();
        let mut overlay = Overlay::new(&base);
        let mut machine = Machine::load(&base).expect("load");
        let is_later = Command::decode(bytes.clone()).is_ok_and(|command| match command.op {
            None => true,
            Some(Op::Seed(seed)) => command.session == 0 && Step::try_from(seed.step).is_err(),
            Some(_) => false,
        });
        match machine.apply(&mut overlay, bytes) {
            Ok(applied) => {
                let reply = Reply::decode(applied.reply).expect("own reply");
                prop_assert!(reply.result.is_some() && !is_later);
            }
            Err(error) => {
                prop_assert!(is_later && overlay.pending() == 0);
                prop_assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
            }
        }
        check(&overlay).expect("check");
    }
}
