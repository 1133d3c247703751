//! A snapshot on its way to a member, over a connection that breaks.

use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;

use crate::proxy::Proxy;
use crate::world::World;

/// Text that does not compress, a different one for each seed.
fn noise(seed: u64, bytes: usize) -> String {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let digit = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from_digit((state % 36) as u32, 36).expect("a digit")
    };
    std::iter::repeat_with(digit).take(bytes).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn transfer_that_is_cut_goes_on_where_it_broke() {
    const ITEM_BYTES: u64 = 100_000;
    const ITEMS: u64 = 400;
    const SIZE: u64 = ITEM_BYTES * ITEMS;
    let names = ["n1", "n2", "n3"];
    let mut world = World::new(&names);
    // One snapshot, so that the transfer that goes on is one of the same snapshot.
    world.snapshot_entries = ITEMS - 50;
    let (address, proxy) = Proxy::start(world.addresses["n3"]);
    world.advertised.insert("n3".to_owned(), address);
    world.found(&names).await;
    world.stop("n3").await;
    let item_bytes = usize::try_from(ITEM_BYTES).expect("small");
    for seed in 0..ITEMS {
        if seed == ITEMS - 40 {
            world.snapshot_of("n1").await;
            world.snapshot_of("n2").await;
        }
        world.write("n1", noise(seed, item_bytes)).await;
    }
    let before = proxy.passed.load(Ordering::SeqCst);
    proxy.cut_at.store(before + SIZE * 7 / 10, Ordering::SeqCst);
    world.restart("n3").await.expect("restart");
    assert_eq!(world.read("n3").await.len() as u64, ITEMS);
    let passed = proxy.passed.load(Ordering::SeqCst) - before;
    assert!(passed > SIZE * 7 / 10, "it was cut: {passed} bytes");
    // From the start again it would be 1.7 times the size; what was under way is sent twice.
    assert!(passed < SIZE * 14 / 10, "{passed} bytes for {SIZE}");
    assert_eq!(world.installs("n3"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn log_of_few_large_entries_is_bounded_by_their_bytes() {
    let names = ["n1", "n2", "n3"];
    let mut world = World::new(&names);
    world.snapshot_entries = 1_000_000;
    world.snapshot_bytes = 2_000_000;
    world.found(&names).await;
    world.stop("n3").await;
    for seed in 0..60 {
        world.write("n1", noise(seed, 100_000)).await;
    }
    for name in ["n1", "n2"] {
        let mut metrics = world.member(name).raft().metrics();
        let purged = metrics.wait_until(|metrics| {
            // Of six megabytes one or two stay, and what came between two looks.
            metrics.purged.is_some_and(|purged| purged.index() > 20)
        });
        let purged = tokio::time::timeout(Duration::from_secs(20), purged).await;
        purged.expect("in time").expect("it runs");
    }
    // What it lacks is no longer in the log.
    world.restart("n3").await.expect("restart");
    assert_eq!(world.read("n3").await.len(), 60);
    assert_eq!(world.installs("n3"), 1);
}
