//! The server of the coordination service: the etcd v3 API and our own over one replicated group.

pub mod clock;
pub mod lease;
pub mod options;
pub mod watch;
