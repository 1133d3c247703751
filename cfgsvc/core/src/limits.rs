//! Limits that every member must share, hence constants: a member with another value would apply
//! the same command differently. What one member may choose for itself (request size, memory) is
//! the server's to check before it proposes.

/// Most compares, and most operations of a branch, of a transaction; a nested one gets what its
/// parent left. etcd's default.
pub const TXN_OPS_MAX: usize = 128;

/// Longest lease, seconds. etcd's constant.
pub const LEASE_TTL_S_MAX: i64 = 9_000_000_000;

/// Replies kept for one session. A client with more requests in flight than this is refused; at
/// 100 bytes a reply to a put, a full window is about 100 KiB. Replies with ranges or `prev_kv`
/// are as large as what they read: the server bounds that before it proposes.
pub const SESSION_WINDOW: u32 = 1024;

/// Most history events that one scrub step looks at, whatever its command says: bounds the batch
/// to about three times as many writes.
pub const SCRUB_EVENTS_MAX: u32 = 10_000;
