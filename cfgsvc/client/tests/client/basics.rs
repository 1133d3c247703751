//! Keys, transactions and watches while nothing fails.

use crate::client;
use crate::fake::PATIENCE;
use anyhow::{Context, Result};
use cfgsvc_client::{
    Compare, Delete, EventKind, Get, Is, KvError, Op, OpReply, Order, Put, SortBy, Txn, WatchError,
    WatchOptions,
};
use cfgsvc_tests::harness::Etcd;
use std::time::Duration;
use tokio::time::timeout;

#[tokio::test]
async fn keys_are_written_read_and_deleted_with_etcds_revisions() -> Result<()> {
    let etcd = Etcd::start()?;
    let client = client([&etcd])?;
    let first = client.put(Put::new("a/1", "x")).await?;
    assert_eq!((first.revision, first.previous), (2, None));
    let second = client.put(Put::new("a/1", "y").previous()).await?;
    assert_eq!(second.previous.context("was asked for")?.value, "x");
    client.put(Put::new("a/2", "z")).await?;
    client.put(Put::new("b", "w")).await?;

    let key = client.get_key("a/1").await?.context("was written")?;
    assert_eq!(
        (key.create_revision, key.mod_revision, key.version),
        (2, 3, 2)
    );
    assert_eq!(client.get_key("absent").await?, None);
    let all = client.get(Get::prefix("a/")).await?;
    assert_eq!(
        (all.kvs.len(), all.count, all.more, all.revision),
        (2, 2, false, 5)
    );
    let old = client.get(Get::new("a/1").revision(2)).await?;
    assert_eq!(old.kvs[0].value, "x");
    let newest = client
        .get(
            Get::prefix("")
                .limit(1)
                .sort(SortBy::Modified, Order::Descending),
        )
        .await?;
    assert_eq!((newest.kvs[0].key.as_ref(), newest.more), (&b"b"[..], true));
    let keys = client
        .get(Get::prefix("").keys_only().serializable())
        .await?;
    assert!(keys.kvs.iter().all(|kv| kv.value.is_empty()));
    assert_eq!(client.get(Get::prefix("").count_only()).await?.count, 3);

    let gone = client.delete(Delete::prefix("a/").previous()).await?;
    assert_eq!(
        (gone.deleted, gone.previous.len(), gone.revision),
        (2, 2, 6)
    );
    assert_eq!(client.delete(Delete::new("a/1")).await?.deleted, 0);
    Ok(())
}

#[tokio::test]
async fn pages_bring_every_key_of_one_revision_once() -> Result<()> {
    let etcd = Etcd::start()?;
    let client = client([&etcd])?;
    for number in 0..150 {
        client.put(Put::new(format!("p/{number:03}"), "x")).await?;
    }
    client.put(Put::new("q", "behind")).await?;
    for (limit, expected) in [(0, 150), (64, 64), (100, 100), (150, 150), (200, 150)] {
        let mut pages = client.get_pages(Get::prefix("p/").limit(limit)).await?;
        assert_eq!(pages.count(), 150);
        let mut keys = Vec::new();
        while let Some(kvs) = pages.next().await? {
            // What is written meanwhile belongs to a later revision.
            client.put(Put::new("p/149-late", "x")).await?;
            client.delete(Delete::new("p/149-late")).await?;
            assert!(!kvs.is_empty() && kvs.iter().all(|kv| kv.value == "x"));
            keys.extend(kvs.into_iter().map(|kv| kv.key));
        }
        let wanted = (0..expected).map(|number| format!("p/{number:03}"));
        assert_eq!(keys, wanted.collect::<Vec<_>>(), "limit {limit}");
    }
    let mut none = client.get_pages(Get::prefix("absent")).await?;
    assert_eq!((none.next().await?, none.count()), (None, 0));
    let mut pages = client.get_pages(Get::prefix("p/")).await?;
    let revision = pages.revision();
    assert!(pages.next().await?.is_some());
    client.put(Put::new("q", "newer")).await?;
    client.compact(revision + 1).await?;
    let error = pages.next().await.expect_err("its revision is gone");
    assert!(
        matches!(error, KvError::Compacted { revision: r } if r == revision),
        "{error}"
    );
    Ok(())
}

#[tokio::test]
async fn a_conditional_put_says_what_it_expected_and_what_it_found() -> Result<()> {
    let etcd = Etcd::start()?;
    let client = client([&etcd])?;
    let done = client.put(Put::new("k", "1").if_revision(0)).await?;
    let error = client
        .put(Put::new("k", "2").if_revision(0))
        .await
        .expect_err("it exists");
    assert_eq!(
        error.to_string(),
        "key `k` changed: expected no key, found r2"
    );
    assert!(!error.retryable() && !error.outcome_unknown());
    let error = client
        .put(Put::new("k", "2").if_revision(9))
        .await
        .expect_err("it is at r2");
    assert!(matches!(
        error,
        KvError::Conflict {
            expected: 9,
            found: 2,
            ..
        }
    ));
    client
        .put(Put::new("k", "2").if_revision(done.revision))
        .await?;
    assert_eq!(
        client.get_key("k").await?.context("was written")?.value,
        "2"
    );
    Ok(())
}

#[tokio::test]
async fn transactions_compare_branch_and_nest() -> Result<()> {
    let etcd = Etcd::start()?;
    let client = client([&etcd])?;
    let nested = Txn::new()
        .when(Compare::value("a", Is::Equal, "1"))
        .then(Op::Put(Put::new("b", "nested")))
        .otherwise(Op::Get(Get::new("a")));
    let txn = Txn::new()
        .when(Compare::missing("a"))
        .then(Op::Put(Put::new("a", "1")))
        .then(Op::Txn(nested))
        .otherwise(Op::Delete(Delete::prefix("")));
    let reply = client.txn(txn.clone()).await?;
    assert!(reply.succeeded);
    // The compares of a nested transaction see the store as it was before the outer one.
    let OpReply::Txn(inner) = &reply.replies[1] else {
        anyhow::bail!("unexpected reply {:?}", reply.replies);
    };
    assert_eq!(inner.replies.len(), 1);
    let reply = client.txn(txn).await?;
    assert!(!reply.succeeded);
    let too_many = (0..129).fold(Txn::new(), |txn, n| {
        txn.then(Op::Put(Put::new(format!("k{n}"), "")))
    });
    let error = client.txn(too_many).await.expect_err("129 operations");
    assert!(
        matches!(error, KvError::TooManyOps { count: 129 }),
        "{error}"
    );
    let twice = Txn::new()
        .then(Op::Put(Put::new("k", "1")))
        .then(Op::Put(Put::new("k", "2")));
    assert!(matches!(
        client.txn(twice).await,
        Err(KvError::DuplicateKey)
    ));
    Ok(())
}

#[tokio::test]
async fn refusals_are_typed() -> Result<()> {
    let etcd = Etcd::start()?;
    let client = client([&etcd])?;
    assert!(matches!(
        client.put(Put::new("", "x")).await,
        Err(KvError::EmptyKey)
    ));
    let error = client
        .put(Put::new("k", "x").lease(0xabc))
        .await
        .expect_err("no such lease");
    assert_eq!(error.to_string(), "lease abc does not live");
    let large = vec![0_u8; 1_600_000];
    let error = client
        .put(Put::new("k", large))
        .await
        .expect_err("too large");
    assert_eq!(
        error.to_string(),
        "the request is too large: it has 1600007 bytes"
    );
    let huge = vec![0_u8; 3_000_000];
    let error = client
        .put(Put::new("k", huge))
        .await
        .expect_err("too large");
    assert!(
        matches!(error, KvError::TooLarge { bytes: 3_000_008 }),
        "{error}"
    );
    let error = client
        .get(Get::new("k").revision(99))
        .await
        .expect_err("not yet");
    assert!(matches!(error, KvError::FutureRevision { revision: 99 }));
    for value in ["1", "2", "3"] {
        client.put(Put::new("k", value)).await?;
    }
    client.compact(3).await?;
    let error = client
        .get(Get::new("k").revision(2))
        .await
        .expect_err("compacted");
    assert!(matches!(error, KvError::Compacted { revision: 2 }));
    assert!(matches!(
        client.compact(3).await,
        Err(KvError::Compacted { revision: 3 })
    ));
    Ok(())
}

#[tokio::test]
async fn a_watch_delivers_whole_revisions_in_order_from_the_past_and_from_now() -> Result<()> {
    let etcd = Etcd::start()?;
    let client = client([&etcd])?;
    client.put(Put::new("a/1", "x")).await?;
    let mut past = client
        .watch(WatchOptions::prefix("a/").from_revision(2).previous())
        .await?;
    let mut now = client.watch(WatchOptions::prefix("a/")).await?;
    let both = Txn::new()
        .then(Op::Put(Put::new("a/1", "y")))
        .then(Op::Put(Put::new("a/2", "z")));
    client.txn(both).await?;
    client.delete(Delete::new("a/1")).await?;

    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(past.next().await.context("goes on")??);
    }
    let shape: Vec<_> = seen
        .iter()
        .map(|item| (item.revision, item.events.len()))
        .collect();
    assert_eq!(shape, [(2, 1), (3, 2), (4, 1)]);
    assert_eq!(seen[2].events[0].kind, EventKind::Delete);
    let previous = seen[2].events[0]
        .previous
        .as_ref()
        .context("was asked for")?;
    assert_eq!(previous.value, "y");
    let first = now.next().await.context("goes on")??;
    assert_eq!((first.revision, first.events.len()), (3, 2));
    Ok(())
}

#[tokio::test]
async fn a_large_revision_is_put_together_from_fragments() -> Result<()> {
    let etcd = Etcd::start()?;
    let client = client([&etcd])?;
    let value = vec![7_u8; 700_000];
    for key in ["a", "b", "c", "d"] {
        client.put(Put::new(key, value.clone())).await?;
    }
    let mut watch = client.watch(WatchOptions::prefix("").previous()).await?;
    client.delete(Delete::prefix("")).await?;
    let item = watch.next().await.context("goes on")??;
    assert_eq!((item.revision, item.events.len()), (6, 4));
    Ok(())
}

#[tokio::test]
async fn progress_is_delivered_when_asked_for() -> Result<()> {
    let etcd = Etcd::start()?;
    let client = client([&etcd])?;
    let mut watch = client.watch(WatchOptions::prefix("a").progress()).await?;
    let revision = client.put(Put::new("b", "x")).await?.revision;
    let told = async {
        loop {
            watch.request_progress();
            // A member that is busy does not answer: ask again.
            let pause = Duration::from_secs(1);
            if let Ok(item) = timeout(pause, watch.next()).await {
                let item = item.context("goes on")??;
                assert!(item.events.is_empty());
                if item.revision == revision {
                    return anyhow::Ok(());
                }
            }
        }
    };
    timeout(PATIENCE, told).await?
}

#[tokio::test]
async fn a_watch_from_a_compacted_revision_ends_with_the_oldest_that_is_left() -> Result<()> {
    let etcd = Etcd::start()?;
    let client = client([&etcd])?;
    for value in ["1", "2", "3", "4"] {
        client.put(Put::new("k", value)).await?;
    }
    client.compact(4).await?;
    let result = match client.watch(WatchOptions::new("k").from_revision(2)).await {
        Ok(mut watch) => watch
            .next()
            .await
            .context("an error comes first")?
            .map(drop),
        Err(error) => Err(error),
    };
    match result {
        Err(WatchError::Compacted {
            resume_revision: 2,
            compact_revision: 4,
        }) => Ok(()),
        other => anyhow::bail!("unexpected end {other:?}"),
    }
}
