//! Messages and services of `proto/raft.proto`, generated.

#![allow(
    clippy::all,
    clippy::pedantic,
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    reason = "the generator's style, not ours; which of them it breaks is its own affair"
)]

tonic::include_proto!("cluster.raft");
