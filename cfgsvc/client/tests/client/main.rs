//! The client against a real etcd, and for roles a real group: what the pure parts decide must be
//! right on the wire.

mod basics;
mod failures;
mod fake;
mod leases;
mod locks;
mod mirrors;
mod retries;
mod roles;
mod streams;

use anyhow::Result;
use cfgsvc_client::{Client, Options};
use cfgsvc_tests::harness::Etcd;

/// A client of `members`, in this order.
fn client<'a>(members: impl IntoIterator<Item = &'a Etcd>) -> Result<Client> {
    Ok(Client::new(Options::new(
        members.into_iter().map(Etcd::endpoint),
    ))?)
}
