//! What one command may answer and replace, how much a session keeps, and how much is read for an
//! answer.

use cfgsvc_core::history::{HistoryQuery, history_since, key_history};
use cfgsvc_core::{read, txn_readonly};
use cfgsvc_proto::etcd;
use cfgsvc_proto::etcd::compare::{CompareResult, TargetUnion};
use cfgsvc_proto::state::command::Op;
use expect_test::expect;

use crate::counting::Counting;
use crate::shown::*;

const KEYS: [&str; 10] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];

/// Ten keys of a mebibyte, more than an answer may hold.
fn ten_mebibytes() -> Store {
    let value = "x".repeat(1 << 20);
    Store::new().given(KEYS.map(|key| put(key, &value)).into())
}

fn without_prev_kv(key: &str, end: &str) -> etcd::request_op::Request {
    etcd::request_op::Request::RequestDeleteRange(etcd::DeleteRangeRequest {
        key: bytes(key),
        range_end: bytes(end),
        prev_kv: false,
    })
}

#[test]
fn txn_whose_answer_is_too_large_is_refused_whole() {
    let changes = || vec![put("a", "1"), without_prev_kv("b", ""), put("z", "1")];
    let with = |more| [changes(), more].concat();
    let mut store = ten_mebibytes();
    let before = store.state.entries();
    let too_large = [
        with(vec![get("c", "k")]),
        with(vec![get_at("a", "k", 11)]),
        with(vec![get("c", "g"), get("c", "g")]),
        with(vec![txn(
            vec![],
            vec![get("c", "g"), get("c", "h")],
            vec![],
        )]),
        with(vec![delete("c", "k")]),
        with(
            KEYS[2..]
                .iter()
                .map(|key| put_with(key, "2", |put| put.prev_kv = true))
                .collect(),
        ),
    ];
    for ops in &too_large {
        store = store.kv(txn(vec![], ops.clone(), vec![]));
        assert!(
            store.state.entries() == before,
            "a refused txn changed something"
        );
    }
    assert_eq!(store.shown.len(), too_large.len());
    // All say the same.
    store.shown.dedup();
    store
        .kv(txn(
            vec![],
            with(vec![get_with("c", "k", |range| range.count_only = true)]),
            vec![],
        ))
        .kv(get_with("a", "", |range| range.count_only = true))
        .check(expect![[r#"
            etcdserver: request is too large
              (its answer is over 8388608 bytes, the most for a request that may write;
              read by itself what is large)
            r12 then {r12; r12 deleted 1 []; r12; r12 [] of 8}
            r12 [] of 1"#]]);
}

#[test]
fn delete_that_would_answer_too_much_is_refused_and_without_the_answer_is_not() {
    let mut store = ten_mebibytes().kv(delete("a", "k"));
    store = store.kv(get_with("a", "k", |range| range.count_only = true));
    store.kv(without_prev_kv("a", "k")).check(expect![[r#"
        etcdserver: request is too large
          (its answer is over 8388608 bytes, the most for a request that may write;
          read by itself what is large)
        r11 [] of 10
        r12 deleted 10 []"#]]);
}

/// What a sort drops on the way must not count.
#[test]
fn txn_reads_the_first_of_a_large_range_in_any_order() {
    let mut store = ten_mebibytes().kv(txn(
        vec![],
        vec![
            put("z", "1"),
            get_with("a", "k", |range| {
                (range.sort_target, range.sort_order, range.limit) = (3, 2, 2);
                range.keys_only = true;
            }),
        ],
        vec![],
    ));
    store = store.kv(txn(
        vec![],
        vec![
            put("z", "2"),
            get_with("a", "k", |range| {
                (range.sort_target, range.sort_order, range.limit) = (3, 2, 1);
            }),
        ],
        vec![],
    ));
    let last = store.shown.pop().expect("two replies");
    assert!(last.contains("[j=xxx") && last.ends_with(" c11m11v1] of 10 more}"));
    store.check(expect![
        "r12 then {r12; r12 [j= c11m11v1, i= c10m10v1] of 10 more}"
    ]);
}

#[test]
fn limit_gives_the_first_of_what_the_whole_range_gives() {
    let mut requests = Vec::new();
    for number in 0..40 {
        let key = format!("{:02}", number * 7 % 40);
        requests.push(put(&key, &format!("{}", number % 5)));
    }
    for number in 0..40 {
        requests.push(put(
            &format!("{:02}", number * 3 % 20),
            &format!("{}", number % 3),
        ));
    }
    let store = Store::new().given(requests);
    let view = store.state.entries();
    for sort_target in 0..5 {
        for sort_order in 0..3 {
            for revision in [0, 41, 60] {
                let mut request = etcd::RangeRequest {
                    key: bytes("0"),
                    range_end: bytes("4"),
                    sort_target,
                    sort_order,
                    revision,
                    ..etcd::RangeRequest::default()
                };
                let whole = read::range(&view, &request).expect("read").expect("valid");
                assert_eq!(whole.kvs.len(), 40);
                for limit in 1..=41 {
                    request.limit = limit;
                    let first = read::range(&view, &request).expect("read").expect("valid");
                    let kept = whole.kvs.len().min(usize::try_from(limit).expect("small"));
                    assert_eq!(first.kvs, whole.kvs[..kept], "{request:?}");
                    assert_eq!((first.count, first.more), (40, limit < 40), "{request:?}");
                }
            }
        }
    }
}

/// An answer that its proposer, or a restore, cannot decode would be as good as lost.
#[test]
fn txn_nested_as_deep_as_may_be_has_an_answer_that_decodes() {
    let mut store = Store::new().given(vec![put("a", "1")]);
    let mut nested = get("a", "");
    for depth in 1..=40 {
        nested = txn(vec![], vec![nested], vec![]);
        store = store.kv(nested.clone());
        let shown = store.shown.pop().expect("one reply");
        assert!(shown.contains("[a=1 c2m2v1]"), "{depth}: {shown}");
    }
    store
        .kv(txn(vec![], vec![nested], vec![]))
        .check(expect![[r#"
            etcdserver: too many operations in txn request
              (transactions are nested deeper than 40)"#]]);
}

/// A request of a few kilobytes that reads a thousand keys four thousand times.
#[test]
fn txn_that_would_read_too_much_is_refused_whole() {
    let keys = |from: usize| (from..from + 128).map(|key| put(&format!("k{key:04}"), "1"));
    let mut store = Store::new();
    for from in (0..1152).step_by(128) {
        store = store.given(vec![txn(vec![], keys(from).collect(), vec![])]);
    }
    let before = store.state.entries();
    let counts = |times| {
        let count = get_with("k", "l", |range| range.count_only = true);
        txn(vec![], vec![count; times], vec![])
    };
    let large = [vec![put("a", "1")], vec![counts(60); 61]].concat();
    store = store.kv(txn(vec![], large, vec![]));
    assert!(store.state.entries() == before, "it changed something");
    store
        .kv(txn(vec![], vec![put("a", "1"), counts(1)], vec![]))
        .check(expect![[r#"
            etcdserver: request is too large
              (it reads more than 4194304 records, the most for a request that may write;
              read by itself what is large)
            r11 then {r11; r- then {r11 [] of 1152}}"#]]);
}

/// A retry is told of what was executed, also when nothing of its answer is kept.
#[test]
fn session_keeps_answers_of_some_bytes_and_always_small_ones() {
    let read_all = |range: etcd::request_op::Request| {
        let etcd::request_op::Request::RequestTxn(txn) =
            txn(vec![], vec![put("z", "1"), range], vec![])
        else {
            unreachable!("it is a transaction")
        };
        Op::Txn(txn)
    };
    let large = || read_all(get("a", ""));
    let mut store = ten_mebibytes().op(grant(7, 60));
    for seq in 1..=16 {
        store = store.session((7, seq, 0), large());
    }
    store.shown.clear();
    store = store
        .session((7, 15, 0), large())
        .session((7, 16, 0), large())
        .session((7, 17, 0), read_all(get("z", "")))
        .session((7, 17, 0), read_all(get("z", "")))
        .session((7, 18, 2), large())
        .session((7, 18, 2), large());
    let whole = |shown: &String| shown.len() > 1 << 20;
    let kept: Vec<bool> = store.shown.iter().map(whole).collect();
    assert_eq!(kept, [true, false, false, false, true, true]);
    store.shown.retain(|shown| !whole(shown));
    store.check(expect![[r#"
        etcdserver: request id is too old, its answer is not kept
          (the request was executed at revision 27;
          its answer of 1048627 bytes is not kept:
          at most 1573888 bytes of one, 16777216 bytes of all that wait)
        r28 then {r28; r28 [z=1 c12m28v17] of 1}
        r28 then {r28; r28 [z=1 c12m28v17] of 1}"#]]);
}

#[test]
fn compare_of_a_range_stops_at_the_first_key_that_fails() {
    let store = Store::new().given(KEYS.map(|key| put(key, "1")).into());
    let view = Counting::new(store.state.entries());
    let visited = |wanted: &str| {
        let mut compared = compare("b", CompareResult::Equal, TargetUnion::Value(bytes(wanted)));
        compared.range_end = bytes("z");
        view.visited.set(0);
        let request = txn_request(vec![compared], vec![], vec![]);
        let response = txn_readonly(&view, &request).expect("read").expect("valid");
        (response.succeeded, view.visited.get())
    };
    assert_eq!(visited("1"), (true, 9));
    assert_eq!(visited("2"), (false, 1));
}

#[test]
fn history_of_a_key_is_not_read_below_what_is_asked_for() {
    let store = Store::new().given((0..100).map(|n| put("a", &format!("{n}"))).collect());
    let view = Counting::new(store.state.entries());
    let read = |min_revision, limit| {
        view.visited.set(0);
        let found = key_history(&view, &bytes("a"), min_revision, limit, usize::MAX)
            .expect("read")
            .expect("small");
        let revisions = found.iter().map(|entry| entry.revision);
        (revisions.collect::<Vec<_>>(), view.visited.get())
    };
    // One version more, which may have ended in a delete that is asked for, and one that ends it.
    assert_eq!(read(99, 1000), (vec![101, 100, 99], 4));
    assert_eq!(read(102, 1000), (vec![], 1));
    assert_eq!(read(0, 2), (vec![101, 100], 2));
}

#[test]
fn history_of_a_key_that_is_too_large_is_told_apart_from_one_that_ends() {
    let value = "x".repeat(1000);
    let store = Store::new().given((0..4).map(|_| put("a", &value)).collect());
    let read = |limit, max_bytes| {
        let entries = store.state.entries();
        let found = key_history(&entries, &bytes("a"), 0, limit, max_bytes);
        found.expect("read").map(|found| found.len())
    };
    assert_eq!(read(10, 4000), Some(4));
    assert_eq!(read(10, 3999), None);
    assert_eq!(read(3, 3999), Some(3));
}

#[test]
fn page_of_history_counts_the_versions_before() {
    let value = "x".repeat(1000);
    let store = Store::new().given((0..6).map(|_| put("a", &value)).collect());
    let pages = |previous| {
        let mut query = HistoryQuery {
            from: 2,
            to: i64::MAX,
            max_events: 100,
            max_bytes: 2500,
            previous,
        };
        let mut pages = Vec::new();
        while query.from <= 7 {
            let page = history_since(&store.state.entries(), &query).expect("read");
            let page = page.expect("nothing is compacted");
            pages.push(page.revisions.len());
            query.from = page.next;
        }
        pages
    };
    assert_eq!(pages(false), [3, 3]);
    assert_eq!(pages(true), [2, 2, 2]);
}
