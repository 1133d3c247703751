//! What a client is told, in which order.

use bytes::Bytes;
use cfgsvc_proto::kv::KeyValue;
use expect_test::{Expect, expect};

use super::*;

fn commit(revision: i64, keys: &[&str]) -> Arc<Commit> {
    sized(revision, keys, 1)
}

fn sized(revision: i64, keys: &[&str], bytes: usize) -> Arc<Commit> {
    let events = keys.iter().map(|key| Event {
        kv: Some(KeyValue {
            key: Bytes::copy_from_slice(key.as_bytes()),
            mod_revision: revision,
            value: vec![b'v'; bytes].into(),
            ..KeyValue::default()
        }),
        ..Event::default()
    });
    Arc::new(Commit::new(revision, events.collect()))
}

fn watch(key: &str, start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        start_revision,
        ..WatchCreateRequest::default()
    }
}

fn compacted_to(compacted: i64) -> Floor {
    Floor {
        compacted,
        ..Floor::default()
    }
}

fn session(published: i64, compacted: i64) -> (Arc<Hub>, Session) {
    let hub = Arc::new(Hub::default());
    hub.reset(published, compacted_to(compacted));
    let session = Session::new(&hub);
    (hub, session)
}

fn shown(responses: &[WatchResponse]) -> String {
    let line = |response: &WatchResponse| {
        let keys = response.events.iter().filter_map(|event| event.kv.as_ref());
        let keys: Vec<String> = keys
            .map(|kv| format!("{}@{}", kv.key.escape_ascii(), kv.mod_revision))
            .collect();
        format!(
            "#{} r{}{}{}{} {}{}\n",
            response.watch_id,
            response
                .header
                .as_ref()
                .map_or(-1, |header| header.revision),
            if response.created { " created" } else { "" },
            if response.canceled { " canceled" } else { "" },
            if response.fragment { " fragment" } else { "" },
            if response.compact_revision > 0 {
                format!("compacted to {} ", response.compact_revision)
            } else {
                response.cancel_reason.clone()
            },
            keys.join(" "),
        )
    };
    responses.iter().map(line).collect()
}

/// All that was delivered, as the task takes it.
fn drain(session: &mut Session) -> Vec<WatchResponse> {
    session.receive();
    let mut responses = Vec::new();
    while let Some(next) = session.next_delivered() {
        responses.extend(next);
    }
    responses
}

/// Feeds all that are behind, as the task does.
fn feed(session: &mut Session, commits: &[Arc<Commit>], next: i64) -> Vec<WatchResponse> {
    let behind = session.ids_behind();
    let fed = behind.into_iter().map(|id| session.feed(id, commits, next));
    fed.flatten().collect()
}

fn check(responses: &[WatchResponse], expected: Expect) {
    expected.assert_eq(&shown(responses));
}

#[test]
fn creates_are_answered_in_order_and_refused_in_etcds_words() {
    let (_, mut session) = session(9, 5);
    let requests = [
        watch("a", 0),
        WatchCreateRequest {
            watch_id: 1,
            ..watch("b", 0)
        },
        watch("c", 0),
        WatchCreateRequest {
            watch_id: 1,
            ..watch("d", 0)
        },
        WatchCreateRequest {
            range_end: Bytes::from_static(b"a"),
            ..watch("b", 0)
        },
        watch("e", -1),
        watch("f", 4),
        watch("", 5),
    ];
    let responses: Vec<_> = requests
        .iter()
        .flat_map(|one| session.create(one))
        .collect();
    check(
        &responses,
        expect![[r#"
        #0 r9 created 
        #1 r9 created 
        #2 r9 created 
        #-1 r9 created canceled mvcc: duplicate watch ID provided on the WatchStream
        #-1 r9 created canceled mvcc: watcher range is empty
        #-1 r9 created canceled mvcc: required revision has been compacted
        #3 r9 created 
        #3 r0 canceled compacted to 5 
        #4 r9 created 
    "#]],
    );
}

#[test]
fn live_watcher_gets_its_keys_and_others_do_not() {
    let (hub, mut session) = session(1, 0);
    session.create(&watch("a", 0));
    session.create(&WatchCreateRequest {
        range_end: Bytes::from_static(b"\0"),
        ..watch("b", 0)
    });
    hub.publish(
        vec![commit(2, &["a", "b"]), commit(3, &["c"]), commit(4, &["0"])],
        0,
    );
    check(
        &drain(&mut session),
        expect![[r#"
        #0 r2 a@2
        #1 r3 b@2 c@3
    "#]],
    );
    check(
        &session.cancel(0),
        expect![[r#"
        #0 r4 canceled 
    "#]],
    );
    check(&session.cancel(7), expect![[""]]);
    hub.publish(vec![commit(5, &["a"])], 0);
    check(&drain(&mut session), expect![[""]]);
}

#[test]
fn watcher_of_the_past_is_fed_and_then_live() {
    let (hub, mut session) = session(5, 0);
    session.create(&watch("a", 2));
    assert_eq!(
        session.behind(),
        Some(Need {
            from: 2,
            prev_kv: false
        })
    );
    session.want_progress();
    check(&session.progress(), expect![[""]]);
    check(
        &feed(&mut session, &[commit(2, &["a"]), commit(3, &["b"])], 4),
        expect![[r#"
        #0 r5 a@2
    "#]],
    );
    assert_eq!(
        session.behind(),
        Some(Need {
            from: 4,
            prev_kv: false
        })
    );
    check(
        &feed(&mut session, &[commit(5, &["a"])], 6),
        expect![[r#"
        #0 r5 a@5
    "#]],
    );
    assert_eq!(session.behind(), None);
    check(
        &session.progress(),
        expect![[r#"
        #-1 r5 
    "#]],
    );
    hub.publish(vec![commit(6, &["a"])], 0);
    session.want_progress();
    check(&session.progress(), expect![[""]]);
    check(
        &drain(&mut session),
        expect![[r#"
        #0 r6 a@6
    "#]],
    );
    check(
        &session.progress(),
        expect![[r#"
        #-1 r6 
    "#]],
    );
}

#[test]
fn watcher_of_the_future_gets_nothing_older_and_no_progress() {
    let (hub, mut session) = session(5, 0);
    session.create(&WatchCreateRequest {
        progress_notify: true,
        ..watch("a", 8)
    });
    assert_eq!(session.behind(), None);
    session.want_progress();
    check(&session.progress(), expect![[""]]);
    check(&session.tick(), expect![[""]]);
    hub.publish(vec![commit(6, &["a"]), commit(7, &["a"])], 0);
    check(&drain(&mut session), expect![[""]]);
    check(
        &session.tick(),
        expect![[r#"
        #0 r7 
    "#]],
    );
    hub.publish(vec![commit(8, &["a"])], 0);
    check(
        &drain(&mut session),
        expect![[r#"
        #0 r8 a@8
    "#]],
    );
}

#[test]
fn idle_watchers_that_wish_so_are_told_of_progress() {
    let (hub, mut session) = session(5, 0);
    session.create(&WatchCreateRequest {
        progress_notify: true,
        ..watch("a", 0)
    });
    session.create(&watch("b", 0));
    hub.publish(vec![commit(6, &["a"])], 0);
    check(&session.tick(), expect![[""]]);
    drain(&mut session);
    check(&session.tick(), expect![[""]]);
    check(
        &session.tick(),
        expect![[r#"
        #0 r6 
    "#]],
    );
}

#[test]
fn watcher_behind_the_compaction_is_ended() {
    let (hub, mut session) = session(9, 0);
    session.create(&watch("a", 4));
    session.create(&watch("b", 7));
    session.create(&watch("c", 0));
    hub.publish(Vec::new(), 7);
    check(
        &session.compacted(compacted_to(7)),
        expect![[r#"
        #0 r0 canceled compacted to 7 
    "#]],
    );
    assert_eq!(
        session.behind(),
        Some(Need {
            from: 7,
            prev_kv: false
        })
    );
}

#[test]
fn overflow_sends_what_is_there_and_reads_on_from_what_is_not() {
    let (hub, mut session) = session(1, 0);
    session.create(&watch("a", 0));
    for revision in 2..9 {
        hub.publish(vec![sized(revision, &["a"], 1 << 20)], 0);
    }
    check(
        &drain(&mut session),
        expect![[r#"
        #0 r4 a@2
        #0 r4 a@3
        #0 r4 a@4
    "#]],
    );
    assert_eq!(
        session.behind(),
        Some(Need {
            from: 5,
            prev_kv: false
        })
    );
    assert_eq!(hub.waiting(), 0);
    let rest = hub.recent(5, usize::MAX).expect("in memory");
    check(
        &feed(&mut session, &rest, 9),
        expect![[r#"
        #0 r8 a@5
        #0 r8 a@6
        #0 r8 a@7
        #0 r8 a@8
    "#]],
    );
    assert_eq!(session.behind(), None);
}

#[test]
fn events_of_one_revision_are_split_only_for_those_who_take_fragments() {
    let (hub, mut session) = session(1, 0);
    session.create(&WatchCreateRequest {
        range_end: Bytes::from_static(b"\0"),
        ..watch("a", 0)
    });
    session.create(&WatchCreateRequest {
        range_end: Bytes::from_static(b"\0"),
        fragment: true,
        ..watch("a", 0)
    });
    hub.publish(vec![sized(2, &["a", "b", "c"], 1 << 20)], 0);
    check(
        &drain(&mut session),
        expect![[r#"
            #0 r2 a@2 b@2 c@2
            #1 r2 fragment a@2
            #1 r2 fragment b@2
            #1 r2 c@2
        "#]],
    );
}

#[test]
fn id_that_is_used_again_gets_nothing_of_the_watcher_before() {
    let (hub, mut session) = session(1, 0);
    let request = WatchCreateRequest {
        watch_id: 3,
        ..watch("a", 0)
    };
    session.create(&request);
    hub.publish(vec![commit(2, &["a"]), commit(3, &["a"])], 0);
    session.cancel(3);
    session.create(&WatchCreateRequest {
        start_revision: 2,
        ..request
    });
    check(&drain(&mut session), expect![[""]]);
    let all = hub.recent(2, usize::MAX).expect("in memory");
    check(
        &feed(&mut session, &all, 4),
        expect![[r#"
        #3 r3 a@2 a@3
    "#]],
    );
}

#[test]
fn watchers_of_all_streams_are_bounded_together() {
    let hub = Arc::new(Hub::for_watchers(3));
    hub.reset(9, Floor::default());
    let (mut one, mut other) = (Session::new(&hub), Session::new(&hub));
    one.create(&watch("a", 0));
    one.create(&watch("a", 4));
    other.create(&watch("a", 0));
    let refused = expect![[r#"
        #-1 r9 created canceled etcdserver: too many requests
    "#]];
    check(&other.create(&watch("a", 0)), refused);
    assert_eq!((hub.watchers(), hub.waiting()), (3, 2));
    one.cancel(0);
    hub.publish(Vec::new(), 7);
    one.compacted(compacted_to(7));
    assert_eq!((hub.watchers(), hub.waiting()), (1, 1));
    other.create(&watch("a", 0));
    other.create(&watch("a", 0));
    drop(other);
    assert_eq!((hub.watchers(), hub.waiting()), (0, 0));
}

#[test]
fn responses_are_made_for_one_watcher_at_a_time() {
    let (hub, mut session) = session(1, 0);
    for _ in 0..3 {
        session.create(&watch("a", 0));
    }
    hub.publish(vec![commit(2, &["a"]), commit(3, &["a"])], 0);
    session.receive();
    session.want_progress();
    for id in 0..3 {
        check(&session.progress(), expect![[""]]);
        let made = session.next_delivered().expect("one more watcher");
        assert_eq!(shown(&made), format!("#{id} r3 a@2 a@3\n"));
    }
    assert_eq!(session.next_delivered(), None);
    check(
        &session.progress(),
        expect![[r#"
        #-1 r3 
    "#]],
    );
}
