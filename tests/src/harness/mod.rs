//! Real processes under faults: a group of servers on loopback, the network between them, and
//! waiting that ends.
//!
//! Everything blocks: a test drives it from its own thread, beside whatever async client it uses.

mod cluster;
mod command;
mod etcd;
mod http;
mod network;
mod ports;
mod source;
mod wait;

pub use cluster::{Cluster, ClusterOptions};
pub use command::{Ran, binary_path, etcdctl, run, run_binary};
pub use etcd::Etcd;
pub use http::get as http_get;
pub use network::{Network, SourceOf};
pub use ports::unused_address;
pub use wait::{eventually, eventually_some};
