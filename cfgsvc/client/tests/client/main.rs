//! The client against a real etcd: what the pure parts decide must be right on the wire.

mod basics;
mod etcd;
mod failures;
mod fake;
mod leases;
mod locks;
mod mirrors;
// The same one as the tests of the whole use, so that they never take each other's ports.
#[path = "../../../../tests/src/harness/ports.rs"]
#[allow(unreachable_pub, reason = "public where it lives")]
mod ports;
mod retries;
mod streams;

use anyhow::Result;
use cfgsvc_client::{Client, Options};
use etcd::Etcd;

/// A client of `members`, in this order.
fn client<'a>(members: impl IntoIterator<Item = &'a Etcd>) -> Result<Client> {
    Ok(Client::new(Options::new(
        members.into_iter().map(Etcd::endpoint),
    ))?)
}
