//! The whole API over a group of one, with real sockets: every row of etcd's semantics that clients
//! rely on, the same requests against etcd itself, and etcd's own command line.

mod differential;
mod etcdctl;
mod harness;
mod kv;
mod lease;
mod operate;
mod reflection;
mod roles;
mod solo;
mod watch;
