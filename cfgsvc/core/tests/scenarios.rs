//! etcd's rules one by one, as a client sees them: requests in, a line for each reply out.

mod bounds;
mod counting;
mod restores;
mod shown;
mod stored;

use cfgsvc_core::{is_read_only, read, txn_readonly};
use cfgsvc_proto::etcd;
use cfgsvc_proto::etcd::compare::{CompareResult, TargetUnion};
use cfgsvc_proto::etcd::request_op::Request;
use cfgsvc_proto::state::command::Op;
use cfgsvc_proto::state::{Command, LeaseExpire, Scrub};
use expect_test::expect;
use shown::*;

#[test]
fn revision_counts_changes_and_begins_at_1() {
    Store::new()
        .kv(all())
        .kv(delete("a", ""))
        .kv(put("a", "1"))
        .kv(txn(vec![], vec![], vec![]))
        .kv(txn(vec![], vec![put("a", "2"), put("b", "1")], vec![]))
        .op(grant(1, 60))
        .kv(delete("a", "c"))
        .kv(all())
        .check(expect![[r#"
            r1 [] of 0
            r1 deleted 0 []
            r2
            r2 then {}
            r3 then {r3; r3}
            r3 lease 1 ttl 60
            r4 deleted 2 [a=2 c2m3v2, b=1 c3m3v1]
            r4 [] of 0"#]]);
}

#[test]
fn put_counts_versions_of_one_generation() {
    Store::new()
        .kv(put("a", "1"))
        .kv(put_with("a", "2", |put| put.prev_kv = true))
        .kv(get("a", ""))
        .kv(delete("a", ""))
        .kv(put("a", "3"))
        .kv(get("a", ""))
        .watch_from(1)
        .check(expect![[r#"
            r2
            r3 was a=1 c2m2v1
            r3 [a=2 c2m3v2] of 1
            r4 deleted 1 [a=2 c2m3v2]
            r5
            r5 [a=3 c5m5v1] of 1
            PUT a=1 c2m2v1
            PUT a=2 c2m3v2 was a=1 c2m2v1
            DELETE a= c0m4v0 was a=2 c2m3v2
            PUT a=3 c5m5v1"#]]);
}

#[test]
fn put_keeps_value_or_lease_when_asked() {
    Store::new()
        .op(grant(7, 60))
        .kv(put_with("a", "", |put| put.ignore_value = true))
        .kv(put_with("a", "", |put| put.ignore_lease = true))
        .kv(leased("a", "1", 7))
        .kv(put_with("a", "2", |put| put.ignore_lease = true))
        .kv(get("a", ""))
        .kv(put_with("a", "", |put| put.ignore_value = true))
        .kv(get("a", ""))
        .kv(put_with("a", "x", |put| put.ignore_value = true))
        .kv(put_with("a", "", |put| {
            put.ignore_lease = true;
            put.lease = 7;
        }))
        .kv(leased("a", "1", 8))
        .kv(put("", "1"))
        .check(expect![[r#"
            r1 lease 7 ttl 60
            etcdserver: key not found
              (key 'a')
            etcdserver: key not found
              (key 'a')
            r2
            r3
            r3 [a=2 c2m3v2l7] of 1
            r4
            r4 [a=2 c2m4v3] of 1
            etcdserver: value is provided
              (ignore_value with a value of 1 bytes)
            etcdserver: lease is provided
              (ignore_lease with lease 7)
            etcdserver: requested lease not found
              (lease 8)
            etcdserver: key is not provided"#]]);
}

#[test]
fn range_end_rules() {
    Store::new()
        .given(vec![
            put("\0", "0"),
            put("a", "1"),
            put("a\0", "2"),
            put("b", "3"),
        ])
        .kv(get("a", ""))
        .kv(get("a", "\0"))
        .kv(all())
        .kv(get("a", "b"))
        .kv(get("b", "a"))
        .kv(get("", "b"))
        .kv(delete("b", "a"))
        .check(expect![[r#"
            r5 [a=1 c3m3v1] of 1
            r5 [a=1 c3m3v1, a\x00=2 c4m4v1, b=3 c5m5v1] of 3
            r5 [\x00=0 c2m2v1, a=1 c3m3v1, a\x00=2 c4m4v1, b=3 c5m5v1] of 4
            r5 [a=1 c3m3v1, a\x00=2 c4m4v1] of 2
            r5 [] of 0
            etcdserver: key is not provided
            r5 deleted 0 []"#]]);
}

#[test]
fn range_reads_the_past_but_not_the_compacted_or_the_future() {
    Store::new()
        .given(vec![
            put("a", "1"),
            put("b", "2"),
            delete("a", ""),
            put("a", "3"),
        ])
        .kv(get_at("a", "c", 2))
        .kv(get_at("a", "c", 3))
        .kv(get_at("a", "c", 4))
        .kv(get_at("a", "c", -1))
        .kv(get_at("a", "c", 6))
        .op(compact(3))
        .kv(get_at("a", "c", 2))
        .kv(get_at("a", "c", 3))
        .kv(get_at("a", "", 3))
        .check(expect![[r#"
            r5 [a=1 c2m2v1] of 1
            r5 [a=1 c2m2v1, b=2 c3m3v1] of 2
            r5 [b=2 c3m3v1] of 1
            r5 [a=3 c5m5v1, b=2 c3m3v1] of 2
            etcdserver: mvcc: required revision is a future revision
              (revision 6, the store is at 5)
            r5
            etcdserver: mvcc: required revision has been compacted
              (revision 2, compacted to 3)
            r5 [a=1 c2m2v1, b=2 c3m3v1] of 2
            r5 [a=1 c2m2v1] of 1"#]]);
}

#[test]
fn range_pages_of_the_past_hold_every_key_once() {
    let store = Store::new().given(vec![
        put("a", "1"),
        put("b", "1"),
        put("c", "1"),
        put("b", "2"),
        put("c", "2"),
    ]);
    let Request::RequestRange(mut next) = get_at("a", "z", 4) else {
        unreachable!("it is a range")
    };
    let mut keys = Vec::new();
    loop {
        let page = read::range_page(&store.state.entries(), &next, 1).expect("read");
        let page = page.expect("readable");
        keys.extend(page.kvs.iter().map(|kv| (kv.key.clone(), kv.version)));
        match page.next_key {
            Some(key) => next.key = key,
            None => break,
        }
    }
    assert_eq!(keys, ["a", "b", "c"].map(|key| (key.into(), 1)));
}

#[test]
fn range_limit_count_and_sort() {
    let sorted = |target, order, limit| {
        get_with("a", "d", move |range| {
            range.sort_target = target;
            range.sort_order = order;
            range.limit = limit;
        })
    };
    Store::new()
        .given(vec![
            put("b", "x"),
            put("a", "z"),
            put("c", "y"),
            put("a", "z"),
        ])
        .kv(sorted(0, 0, 2))
        .kv(sorted(0, 2, 2))
        .kv(sorted(4, 0, 0))
        .kv(sorted(2, 2, 1))
        .kv(sorted(1, 2, 3))
        .kv(sorted(0, 3, 0))
        .kv(sorted(5, 0, 0))
        .kv(get_with("a", "d", |range| range.count_only = true))
        .kv(get_with("a", "d", |range| range.keys_only = true))
        .kv(get_with("a", "d", |range| {
            range.min_mod_revision = 4;
            range.limit = 1;
        }))
        .kv(get_with("a", "d", |range| range.max_create_revision = 2))
        .check(expect![[r#"
            r5 [a=z c3m5v2, b=x c2m2v1] of 3 more
            r5 [c=y c4m4v1, b=x c2m2v1] of 3 more
            r5 [b=x c2m2v1, c=y c4m4v1, a=z c3m5v2] of 3
            r5 [c=y c4m4v1] of 3 more
            r5 [a=z c3m5v2, b=x c2m2v1, c=y c4m4v1] of 3
            etcdserver: invalid sort option
              (sort order 3, sort target 0)
            etcdserver: invalid sort option
              (sort order 0, sort target 5)
            r5 [] of 3
            r5 [a= c3m5v2, b= c2m2v1, c= c4m4v1] of 3
            r5 [a=z c3m5v2] of 3 more
            r5 [b=x c2m2v1] of 3"#]]);
}

#[test]
fn txn_compares() {
    use CompareResult::{Equal, Greater, Less, NotEqual};
    let of = |compare: etcd::Compare| txn(vec![compare], vec![], vec![]);
    let range = |mut compare: etcd::Compare| {
        compare.range_end = bytes("z");
        txn(vec![compare], vec![], vec![])
    };
    let unset = |mut compare: etcd::Compare| {
        compare.target_union = None;
        txn(vec![compare], vec![], vec![])
    };
    Store::new()
        .given(vec![put("a", "5"), put("b", "6"), put("b", "7")])
        .kv(of(compare("a", Equal, TargetUnion::Value(bytes("5")))))
        .kv(of(compare("a", Greater, TargetUnion::Value(bytes("5")))))
        .kv(of(compare("b", Less, TargetUnion::CreateRevision(4))))
        .kv(of(compare("b", Equal, TargetUnion::ModRevision(4))))
        .kv(of(compare("none", Equal, TargetUnion::Version(0))))
        .kv(of(compare(
            "none",
            NotEqual,
            TargetUnion::Value(bytes("x")),
        )))
        .kv(range(compare("a", Greater, TargetUnion::Version(0))))
        .kv(range(compare("a", Greater, TargetUnion::Version(1))))
        .kv(unset(compare("none", Equal, TargetUnion::ModRevision(9))))
        .kv(of(compare("", Equal, TargetUnion::Version(0))))
        .check(expect![[r#"
            r4 then {}
            r4 else {}
            r4 then {}
            r4 then {}
            r4 then {}
            r4 else {}
            r4 then {}
            r4 else {}
            r4 then {}
            etcdserver: key is not provided"#]]);
}

#[test]
fn txn_runs_in_order_with_inner_revisions_and_compares_before() {
    let inner = txn(
        vec![compare("a", CompareResult::Equal, TargetUnion::Version(0))],
        vec![put("b", "new")],
        vec![put("b", "old")],
    );
    Store::new()
        .kv(txn(
            vec![],
            vec![
                get("a", ""),
                put("a", "1"),
                get("a", ""),
                inner,
                get_at("a", "", 1),
            ],
            vec![],
        ))
        .kv(all())
        .kv(txn(
            vec![],
            vec![delete("a", "c"), delete("a", "c"), all()],
            vec![],
        ))
        .check(expect![[r#"
            r2 then {r1 [] of 0; r2; r2 [a=1 c2m2v1] of 1; r- then {r2}; r2 [] of 0}
            r2 [a=1 c2m2v1, b=new c2m2v1] of 2
            r3 then {r3 deleted 2 [a=1 c2m2v1, b=new c2m2v1]; r3 deleted 0 []; r3 [] of 0}"#]]);
}

#[test]
fn txn_is_refused_whole() {
    let keep = |key| put_with(key, "", |put| put.ignore_value = true);
    Store::new()
        .given(vec![put("a", "1")])
        .kv(txn(
            vec![],
            vec![put("b", "1"), leased("c", "1", 9)],
            vec![],
        ))
        .kv(txn(vec![], vec![put("b", "1"), keep("c")], vec![]))
        .kv(txn(vec![], vec![put("b", "1"), get_at("a", "", 9)], vec![]))
        .kv(txn(vec![], vec![put("b", "1")], vec![leased("c", "1", 9)]))
        .op(compact(3))
        .kv(txn(vec![], vec![put("c", "1"), get_at("a", "", 2)], vec![]))
        .kv(all())
        .check(expect![[r#"
            etcdserver: requested lease not found
              (lease 9)
            etcdserver: key not found
              (key 'c')
            etcdserver: mvcc: required revision is a future revision
              (revision 9, the store is at 2)
            r3 then {r3}
            r3
            etcdserver: mvcc: required revision has been compacted
              (revision 2, compacted to 3)
            r3 [a=1 c2m2v1, b=1 c3m3v1] of 2"#]]);
}

#[test]
fn txn_limits_and_duplicates() {
    let puts = |count: usize| {
        (0..count)
            .map(|n| put(&format!("{n}"), ""))
            .collect::<Vec<_>>()
    };
    let nested = |count| txn(vec![], vec![txn(vec![], puts(count), vec![])], vec![]);
    let mut empty = txn_request(vec![], vec![], vec![]);
    empty.success.push(etcd::RequestOp { request: None });
    let either = txn(vec![], vec![put("a", "1")], vec![put("a", "2")]);
    let deletes = txn(vec![], vec![delete("a", "")], vec![]);
    Store::new()
        .kv(txn(vec![], puts(129), vec![]))
        .kv(nested(128))
        .kv(Request::RequestTxn(empty))
        .kv(txn(vec![], vec![put("a", "1"), put("a", "2")], vec![]))
        .kv(txn(vec![], vec![put("b", "1"), delete("a", "\0")], vec![]))
        .kv(txn(vec![], vec![put("a", "1"), either.clone()], vec![]))
        .kv(txn(vec![], vec![either.clone(), deletes.clone()], vec![]))
        .kv(txn(vec![], vec![deletes, either.clone()], vec![]))
        .kv(either)
        .check(expect![[r#"
            etcdserver: too many operations in txn request
              (129 operations, at most 128 here)
            etcdserver: too many operations in txn request
              (128 operations, at most 127 here)
            etcdserver: key not found
              (an operation is empty)
            etcdserver: duplicate key given in txn request
              (key 'a' is put twice)
            etcdserver: duplicate key given in txn request
              (a key is put and deleted)
            etcdserver: duplicate key given in txn request
              (key 'a' is put twice)
            etcdserver: duplicate key given in txn request
              (a key is put and deleted)
            etcdserver: duplicate key given in txn request
              (a key is put and deleted)
            r2 then {r2}"#]]);
}

#[test]
fn txn_of_ranges_needs_no_log_entry() {
    let store = Store::new().given(vec![put("a", "1")]);
    let exists = compare("a", CompareResult::Greater, TargetUnion::Version(0));
    let reads = txn_request(vec![exists], vec![get("a", "")], vec![get("b", "")]);
    let nested = txn_request(
        vec![],
        vec![txn(vec![], vec![get("a", "")], vec![])],
        vec![],
    );
    let writes = txn_request(vec![], vec![get("a", "")], vec![put("a", "2")]);
    assert!(is_read_only(&reads) && !is_read_only(&nested) && !is_read_only(&writes));
    let view = store.state.entries();
    let show = |request| match txn_readonly(&view, request).expect("read") {
        Ok(response) => show_txn(&response),
        Err(refusal) => show_refusal(&refusal),
    };
    let shown = [&reads, &writes].map(show).join("\n");
    expect![[r#"
        r2 then {r2 [a=1 c2m2v1] of 1}
        etcdserver: invalid command
          (the transaction writes, so it needs a log entry)"#]]
    .assert_eq(&shown);
}

#[test]
fn compaction_keeps_the_tombstone_for_a_watch_from_it() {
    let scrub = || Op::Scrub(Scrub { limit: 1 });
    Store::new()
        .given(vec![
            put("a", "1"),
            put("a", "2"),
            delete("a", ""),
            put("b", "1"),
        ])
        .op(compact(4))
        .op(compact(4))
        .op(compact(0))
        .op(compact(9))
        .watch_from(3)
        .watch_from(4)
        .kv(get_at("a", "c", 4))
        .op(scrub())
        .op(compact(5))
        .watch_from(4)
        .op(scrub())
        .op(scrub())
        .op(scrub())
        .op(scrub())
        .watch_from(5)
        .kv(all())
        .check(expect![[r#"
            r5
            etcdserver: mvcc: required revision has been compacted
              (revision 4, compacted to 4)
            etcdserver: mvcc: required revision has been compacted
              (revision 0 is not above 0)
            etcdserver: mvcc: required revision is a future revision
              (revision 9, the store is at 5)
            compacted to 4
            DELETE a= c0m4v0
            PUT b=1 c5m5v1
            r5 [] of 0
            more: true
            r5
            compacted to 5
            more: true
            more: true
            more: false
            more: false
            PUT b=1 c5m5v1
            r5 [b=1 c5m5v1] of 1"#]]);
}

#[test]
fn lease_takes_its_keys_in_one_revision() {
    Store::new()
        .op(grant(7, 60))
        .op(grant(7, 60))
        .op(grant(8, 9_000_000_001))
        .op(grant(8, 0))
        .op(grant(0, 60))
        .kv(leased("b", "1", 7))
        .kv(leased("a", "1", 7))
        .kv(leased("c", "1", 7))
        .kv(put("c", "detached"))
        .op(revoke(7))
        .watch_from(6)
        .op(revoke(7))
        .op(grant(7, 60))
        .op(revoke(7))
        .check(expect![[r#"
            r1 lease 7 ttl 60
            etcdserver: lease already exists
              (lease 7)
            etcdserver: too large lease TTL
              (ttl 9000000001 s, at most 9000000000 s)
            etcdserver: invalid command
              (lease id 8 and ttl 0 s must be chosen before the proposal)
            etcdserver: invalid command
              (lease id 0 and ttl 60 s must be chosen before the proposal)
            r2
            r3
            r4
            r5
            r6
            DELETE a= c0m6v0 was a=1 c3m3v1l7
            DELETE b= c0m6v0 was b=1 c2m2v1l7
            etcdserver: requested lease not found
              (lease 7)
            r6 lease 7 ttl 60
            r6"#]]);
}

#[test]
fn leases_expire_each_in_its_own_revision() {
    let mut store = Store::new();
    for id in 1..=3 {
        store = store.op(grant(id, 60));
    }
    store = store.given(vec![leased("a", "1", 1), leased("b", "1", 3)]);
    let expire = Op::LeaseExpire(LeaseExpire {
        term: 0,
        ids: vec![3, 9, 2, 1, 1],
    });
    let command = Command {
        op: Some(expire),
        ..Command::default()
    };
    let (reply, leases) = store.apply(&command);
    store.shown.push(show_reply(&reply));
    store.shown.push(format!("{leases:?}"));
    store.watch_from(4).check(expect![[r#"
        r5 ended [3, 2, 1]
        [Ended { id: 3 }, Ended { id: 2 }, Ended { id: 1 }]
        DELETE b= c0m4v0 was b=1 c3m3v1l3
        DELETE a= c0m5v0 was a=1 c2m2v1l1"#]]);
}

#[test]
fn retry_gets_the_first_answer_until_it_is_acknowledged() {
    let set = |value: &str| {
        Op::Put(etcd::PutRequest {
            key: bytes("a"),
            value: bytes(value),
            ..etcd::PutRequest::default()
        })
    };
    Store::new()
        .session((7, 1, 0), set("1"))
        .op(grant(7, 60))
        .session((7, 1, 0), set("1"))
        .session((7, 2, 0), revoke(9))
        .session((7, 1, 0), set("1"))
        .op(grant(9, 60))
        .session((7, 2, 0), revoke(9))
        .session((7, 3, 1), set("3"))
        .session((7, 1, 0), set("1"))
        .session((7, 4, 4), set("4"))
        .session((7, 5, 3), revoke(7))
        .session((7, 5, 3), revoke(7))
        .kv(all())
        .check(expect![[r#"
            etcdserver: session not found
              (session 7 has no lease)
            r1 lease 7 ttl 60
            r2
            etcdserver: requested lease not found
              (lease 9)
            r2
            r2 lease 9 ttl 60
            etcdserver: requested lease not found
              (lease 9)
            r3
            etcdserver: request id is too old, its answer is not kept
              (request 1, replies are kept from 2)
            etcdserver: invalid command
              (request 4 acknowledges request 4, which is not before it)
            r3
            etcdserver: session not found
              (session 7 has no lease)
            r3 [a=3 c2m3v2] of 1"#]]);
}

#[test]
fn retry_of_a_request_with_a_huge_answer_is_told_that_it_was_executed() {
    let value = "x".repeat(1 << 20);
    let huge = || {
        let reads = vec![put("b", "1"), get("a", ""), get("a", ""), get("a", "")];
        let Request::RequestTxn(txn) = txn(vec![], reads, vec![]) else {
            unreachable!("it is a transaction")
        };
        Op::Txn(txn)
    };
    let mut store = Store::new().op(grant(7, 60)).given(vec![put("a", &value)]);
    store = store.session((7, 1, 0), huge());
    assert!(store.shown[0].len() > 3 << 20);
    store.shown.clear();
    store
        .session((7, 1, 0), huge())
        .kv(get("b", ""))
        .check(expect![[r#"
            etcdserver: request id is too old, its answer is not kept
              (the request was executed at revision 3;
              its answer of 3145842 bytes is not kept:
              at most 1573888 bytes of one, 16777216 bytes of all that wait)
            r3 [b=1 c3m3v1] of 1"#]]);
}

#[test]
fn session_window_is_bounded_and_opens_with_an_acknowledgement() {
    let nothing = || {
        Op::DeleteRange(etcd::DeleteRangeRequest {
            key: bytes("none"),
            ..etcd::DeleteRangeRequest::default()
        })
    };
    let mut store = Store::new().op(grant(7, 60));
    for seq in 1..=1024 {
        store = store.session((7, seq, 0), nothing());
    }
    store.shown.clear();
    store
        .session((7, 1025, 0), nothing())
        .session((7, 1024, 0), nothing())
        .session((7, 1025, 1), nothing())
        .session((7, 1026, 1), nothing())
        .check(expect![[r#"
            etcdserver: too many unacknowledged requests in session
              (1024 replies wait, at most 1024)
            r1 deleted 0 []
            r1 deleted 0 []
            etcdserver: too many unacknowledged requests in session
              (1024 replies wait, at most 1024)"#]]);
}
