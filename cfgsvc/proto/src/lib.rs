//! Wire and storage messages, generated from `proto/*.proto`.
//!
//! Architecture invariant: without the feature `grpc` nothing async is in the dependency tree, so
//! that `cfgsvc-core` can use the messages.

/// Generated code follows its generator's style, not ours.
#[allow(
    clippy::all,
    clippy::pedantic,
    unreachable_pub,
    unused_qualifications,
    missing_docs,
    reason = "which of them the generator breaks is its own affair"
)]
mod generated {
    pub mod mvccpb {
        include!(concat!(env!("OUT_DIR"), "/mvccpb.rs"));
    }
    pub mod etcdserverpb {
        include!(concat!(env!("OUT_DIR"), "/etcdserverpb.rs"));
    }
    pub mod cfgsvc {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/cfgsvc.v1.rs"));
        }
        pub mod state {
            include!(concat!(env!("OUT_DIR"), "/cfgsvc.state.rs"));
        }
    }
}

/// The API's descriptors, with its comments: an encoded `google.protobuf.FileDescriptorSet`.
pub const API_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/api.bin"));

/// What is stored: log commands, tables, snapshot files.
pub use generated::cfgsvc::state;
/// cfgsvc's own API.
pub use generated::cfgsvc::v1;
/// The etcd v3 API.
pub use generated::etcdserverpb as etcd;
/// Keys, values and events.
pub use generated::mvccpb as kv;
