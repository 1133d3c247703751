//! Jobs on many machines: the shells around what `mapreduce-core` decides.
//!
//! ```text
//!            keys under /mapreduce/, and the lock mapreduce/master
//!  submit ──────────────► group ◄───────────── master ◄── reports ── worker, worker, ...
//!                           ▲   appends, each conditional   │             │    ▲
//!                           └── lease, confirmed copy ──────┼─────────────┘    │ regions
//!                                                           └─ assignments ──► └─ worker
//! ```

pub(crate) mod appending;
pub(crate) mod attempt;
pub(crate) mod bars;
pub(crate) mod bucket;
pub(crate) mod copy;
pub(crate) mod follow;
pub(crate) mod hearing;
pub(crate) mod http;
pub(crate) mod inspect;
pub(crate) mod keeping;
pub(crate) mod keys;
pub(crate) mod live;
pub(crate) mod logs;
pub(crate) mod master;
pub(crate) mod metrics;
pub(crate) mod page;
pub(crate) mod process;
pub(crate) mod program;
pub(crate) mod progress;
pub(crate) mod publication;
pub(crate) mod settling;
pub(crate) mod show;
pub(crate) mod shuffle;
pub(crate) mod staging;
pub(crate) mod submit;
pub(crate) mod view;
pub(crate) mod wire;
pub(crate) mod words;
pub(crate) mod worker;

#[expect(
    clippy::default_trait_access,
    clippy::doc_markdown,
    clippy::trivially_copy_pass_by_ref,
    unreachable_pub,
    unused_qualifications,
    reason = "generated from mapreduce.proto"
)]
pub(crate) mod proto {
    tonic::include_proto!("mapreduce.v1");
}
