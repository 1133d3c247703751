//! Messages and services of `proto/raft.proto`, generated.

#![allow(clippy::all, clippy::pedantic, missing_docs)] // the generator's style, not ours
#![allow(unreachable_pub, unused_qualifications)]

tonic::include_proto!("cluster.raft");
