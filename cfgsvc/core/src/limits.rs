//! Limits that every member must share, hence constants: a member with another value would apply
//! the same command differently. What one member may choose for itself (request size, memory) is
//! the server's to check before it proposes.

/// Most compares, and most operations of a branch, of a transaction; a nested one gets what its
/// parent left. etcd's default.
pub const TXN_OPS_MAX: usize = 128;

/// Deepest that transactions are nested, the outermost counted. Messages are decoded to a depth of
/// 100, of which each transaction takes two; a command or an answer that is deeper could be written
/// and not read.
pub const TXN_DEPTH_MAX: usize = 40;

/// Longest lease, seconds. etcd's constant.
pub const LEASE_TTL_S_MAX: i64 = 9_000_000_000;

/// Highest revision that a restore begins with: a million writes a second for a hundred thousand
/// years are left above it.
pub const REVISION_MAX: i64 = 1 << 62;

/// Largest request that a server may propose, bytes; etcd's default. No key with its value is
/// larger, so no record is but those of replies.
pub const REQUEST_BYTES_MAX: usize = 3 << 19;

/// Most bytes of keys and values in the answer of a command: of the ranges in a transaction and of
/// previous versions asked for. Every member makes the answer when it applies the command, and
/// again after a restart, so it must fit into memory; and a member that is not the leader gets it
/// from there in one message of at most 16 MiB.
pub const ANSWER_BYTES_MAX: usize = 8 << 20;

/// Most bytes of versions, with [`REPLACED_OVERHEAD_BYTES`] for each, that one put, delete or
/// transaction may replace or remove: more than a million small keys. While it is applied it takes
/// about three times as much memory: old versions and history to be stored, events for watchers.
pub const REPLACED_BYTES_MAX: usize = 384 << 20;

/// What a replaced version counts beside its key and value.
pub const REPLACED_OVERHEAD_BYTES: usize = 256;

/// Most records that one transaction may read while it is applied: a few seconds.
pub const TXN_RECORDS_MAX: u64 = 4 << 20;

/// Replies kept for one session. A client with more requests in flight than this is refused; at
/// 100 bytes a reply to a put, a full window is about 100 KiB.
pub const SESSION_WINDOW: u32 = 1024;

/// Largest reply that is kept, bytes: that of any single put with `prev_kv`, whose key and value
/// are in one request, beside their numbers. So the reply fits into a step of a restore, which is a
/// command. Only ranges in transactions and deletes with `prev_kv` can be larger; a retry of such a
/// request is not executed again, but told that its answer is not kept.
pub const REPLY_BYTES_MAX: usize = REQUEST_BYTES_MAX + 1024;

/// Most bytes of replies kept for one session: what a client can read meanwhile, and small beside
/// what it wrote. A reply that would be over is not kept, as one that is too large by itself.
pub const SESSION_BYTES_MAX: u64 = 16 << 20;

/// Replies up to this many bytes are kept whatever the others of the session take, so that a window
/// of ordinary writes always is: at most 1 MiB more.
pub const SMALL_REPLY_BYTES: usize = 1024;

/// Most history events that one scrub step looks at, whatever its command says: bounds the batch
/// to about three times as many writes.
pub const SCRUB_EVENTS_MAX: u32 = 10_000;
