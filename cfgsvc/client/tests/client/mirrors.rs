//! Mirrors, and reads of whole prefixes.

use crate::client;
use crate::fake::PATIENCE;
use anyhow::{Context, Result};
use bytes::Bytes;
use cfgsvc_client::{
    Client, Delete, Freshness, Get, Mirror, Moment, Op, Options, Put, Txn, show_key,
};
use cfgsvc_tests::harness::Etcd;
use std::collections::BTreeMap;
use std::time::Duration;

/// Waits until the mirror shows what the group has.
async fn agree(mirror: &mut Mirror, client: &Client) -> Result<()> {
    let wait = async {
        loop {
            let group = client.get(Get::prefix("m/")).await?;
            let group: BTreeMap<_, _> = group
                .kvs
                .into_iter()
                .map(|kv| (kv.key.clone(), kv))
                .collect();
            let (copy, freshness) = mirror.snapshot();
            if copy == group && matches!(freshness, Freshness::Fresh { .. }) {
                return Ok(());
            }
            mirror.changed().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .context("the mirror does not agree")?
}

#[tokio::test]
async fn a_mirror_follows_puts_and_deletes_and_says_that_it_is_fresh() -> Result<()> {
    let etcd = Etcd::start()?;
    let client = client([&etcd])?;
    client.put(Put::new("m/1", "x")).await?;
    client.put(Put::new("other", "x")).await?;
    let mut mirror = client.mirror("m/", Duration::from_secs(3));
    assert_eq!(mirror.freshness(), Freshness::Never);
    assert!(mirror.fresh_within(PATIENCE).await);
    assert_eq!(mirror.get(b"m/1").context("was written")?.value, "x");
    assert_eq!(mirror.get(b"other"), None);
    let mut batches = mirror.subscribe();
    let both = Txn::new()
        .then(Op::Put(Put::new("m/1", "y")))
        .then(Op::Put(Put::new("m/2", "z")));
    let revision = client.txn(both).await?.revision;
    let batch = batches.recv().await?;
    assert_eq!((batch.revision, batch.changes.len()), (revision, 2));
    assert_eq!(
        batch.changes[0]
            .before
            .as_ref()
            .context("it was there")?
            .value,
        "x"
    );
    client.delete(Delete::new("m/1")).await?;
    // The group moves on without the mirror's keys: progress alone keeps it fresh.
    let last = client.put(Put::new("other", "y")).await?.revision;
    agree(&mut mirror, &client).await?;
    let wait = async {
        while mirror.confirmed_revision() < last {
            mirror.changed().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await?;
    assert!(mirror.fresh_within(PATIENCE).await);
    let (found, freshness) = mirror.look(b"m/2");
    assert_eq!(found.context("was written")?.value, "z");
    assert_ne!(freshness, Freshness::Never);
    Ok(())
}

#[tokio::test]
async fn a_mirror_goes_stale_without_the_group_and_fresh_again_after_a_compaction() -> Result<()> {
    let mut etcd = Etcd::start()?;
    let client = client([&etcd])?;
    client.put(Put::new("m/1", "x")).await?;
    client.put(Put::new("m/2", "x")).await?;
    let mut mirror = client.mirror("m/", Duration::from_secs(2));
    agree(&mut mirror, &client).await?;
    etcd.kill()?;
    let stale = async {
        while let Some(until) = mirror.confirmed_until() {
            tokio::time::sleep(Moment::now().until(until)).await;
        }
    };
    tokio::time::timeout(PATIENCE, stale).await?;
    assert!(matches!(mirror.freshness(), Freshness::Stale { .. }));
    assert!(mirror.get(b"m/1").is_some(), "the copy stays");
    etcd.restart()?;
    // What the watch missed is compacted before it can come back, or just after: both end well.
    client.get_key("m/1").await?;
    client.delete(Delete::new("m/1")).await?;
    let last = client.put(Put::new("m/3", "y")).await?.revision;
    client.compact(last).await?;
    agree(&mut mirror, &client).await
}

#[tokio::test]
async fn all_pages_of_a_long_prefix_are_read_at_one_revision() -> Result<()> {
    let etcd = Etcd::start()?;
    let client = client([&etcd])?;
    for start in (0..250).step_by(50) {
        let txn = (start..start + 50).fold(Txn::new(), |txn, n| {
            txn.then(Op::Put(Put::new(format!("p/{n:03}"), "v")))
        });
        client.txn(txn).await?;
    }
    client.put(Put::new("q", "v")).await?;
    let all = client.get_all("p/", 100).await?;
    assert_eq!((all.kvs.len(), all.count), (250, 250));
    assert!(all.kvs.is_sorted_by(|a, b| a.key < b.key));
    assert_eq!(client.get_all("", 7).await?.kvs.len(), 251);
    Ok(())
}

#[tokio::test]
async fn values_keys_and_authors_may_be_any_bytes() -> Result<()> {
    let etcd = Etcd::start()?;
    let mut options = Options::new([etcd.endpoint()]);
    options.author = Some("Zoë".into());
    options.reason = Some("größer".into());
    let client = Client::new(options)?;
    let key = Bytes::from_static(&[0xff, 0, b'k']);
    client.put(Put::new(key.clone(), vec![0xff; 4])).await?;
    let all = client.get(Get::prefix(vec![0xff])).await?;
    assert_eq!(all.kvs[0].key, key);
    assert_eq!(show_key(&key), "\\xff\\x00k");
    Ok(())
}
