//! Client of `cfgsvc`: versioned configuration that a Raft group agrees on.
//!
//! It speaks the etcd v3 API and cfgsvc's own, so most of it works with any etcd too; but etcd does
//! not know request ids, so nothing there makes a repeated write safe.
//!
//! ```no_run
//! use cfgsvc_client::{Client, Options, Put};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::new(Options::new(["10.0.0.1:2379", "10.0.0.2:2379", "10.0.0.3:2379"]))?;
//! let written = client.put(Put::new("app/flags", "on")).await?;
//! let read = client.get_key("app/flags").await?;
//! assert_eq!(read.map(|kv| kv.mod_revision), Some(written.revision));
//! // Only if nobody has changed it since:
//! client.put(Put::new("app/flags", "off").if_revision(written.revision)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Which call for what
//!
//! | you want | use |
//! | --- | --- |
//! | read and write | [`Client::get`], [`Client::put`], [`Client::delete`], [`Client::txn`] |
//! | read more than fits into memory | [`Client::get_pages`] |
//! | never do a write twice | [`Client::session`], then [`Client::in_session`] |
//! | every change from a revision on | [`Client::watch`] |
//! | a local copy that says how fresh it is | [`Client::mirror`] |
//! | be the only one, lead | [`Client::lock`], and pass [`LockGuard::epoch`] on |
//! | know who leads | [`Client::observe`] |
//! | act for a holder | refuse epochs below the highest seen, or [`Client::is_current`] |
//! | keys that go when you go | [`Put::lease`] with [`Session::lease`] |
//! | operate the group | [`Client::members`], [`Client::status`], [`Client::snapshot`] |
//!
//! # What happens when something fails
//!
//! A client sticks to one endpoint and moves on when it fails; the first one is the first of
//! [`Options::endpoints`], the order of the others is drawn. Within
//! [`Options::request_timeout`] reads are repeated on any failure that may pass. A write is
//! repeated only when that cannot do it twice: when it certainly was not executed, or when it
//! carries a request id of a session, which the group recognises. All errors say
//! `outcome_unknown()`: whether the group may have executed the request nevertheless.
//!
//! ```no_run
//! # use cfgsvc_client::{Client, Options, Put};
//! # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
//! let session = client.session(10).await?;
//! let exactly_once = client.in_session(&session);
//! exactly_once.put(Put::new("counter", "42")).await?;
//! session.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! A watch remakes its stream, at another endpoint if need be, and goes on at the next revision:
//! no gap, no duplicate. It ends when that revision was compacted meanwhile, when the group refuses
//! it, and when another group answers behind the same addresses; [`WatchError`] says which.
//!
//! # Serve only what is confirmed
//!
//! ```no_run
//! # use cfgsvc_client::{Client, Freshness};
//! # use std::time::Duration;
//! # async fn example(client: Client) {
//! let zones = client.mirror("zones/", Duration::from_secs(3));
//! zones.fresh_within(Duration::from_secs(10)).await;
//! match zones.look(b"zones/example.org") {
//!     (zone, Freshness::Fresh { .. }) => println!("serve {zone:?}, or that it does not exist"),
//!     (_, Freshness::Never | Freshness::Stale { .. }) => println!("serve nothing"),
//! }
//! # }
//! ```
//!
//! # Be the only one
//!
//! ```no_run
//! # use cfgsvc_client::{Client, LockOptions};
//! # async fn work(_epoch: i64) {}
//! # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
//! let guard = client.lock("jobs", LockOptions::new()).await?;
//! let lost = tokio::select! {
//!     () = work(guard.epoch()) => None,
//!     lost = guard.lost() => Some(lost),
//! };
//! // Only when nothing is under way any more:
//! guard.release().await?;
//! # Ok(())
//! # }
//! ```
//!
//! At its deadline a holder has lost the lock, whatever it hears: [`LockGuard::lost`] is ready then
//! at the latest, and what is guarded must have stopped [`LockGuard::stop_time`] later. A process
//! can be paused between any two of its steps, so what must never see two holders checks the epoch
//! itself: the resource remembers the highest epoch that it was given and refuses a lower one, or
//! asks [`Client::is_current`] with [`LockGuard::role`] before it acts.
//!
//! # Inside
//!
//! The decisions are pure and take time and randomness as arguments: `route` (endpoint, retry,
//! backoff), `ids` (request numbers), `keepalive` (deadlines), `cursor` (watch order), `mirror`
//! (copy and freshness), `lock_core` (when a lock is held, and lost). Around them lie thin shells:
//! `channel` and `connect` (tonic), `session`, `watch`, `follow`, `lock_task`.

mod admin;
mod channel;
mod client;
mod clock;
mod connect;
mod contact;
mod cursor;
mod election;
mod error;
mod follow;
mod ids;
mod keepalive;
mod keys;
mod kv;
mod lease;
mod lock;
mod lock_core;
mod lock_task;
mod mirror;
mod options;
mod pages;
mod refusal;
mod roles;
mod route;
mod session;
mod txn;
mod watch;

pub use admin::{
    History, HistoryEntry, MemberInfo, Members, NewMember, RestoreError, Restored, Role,
    SnapshotPart, SnapshotStream, Status,
};
pub use cfgsvc_proto::etcd;
pub use client::Client;
pub use clock::{Moment, sleep_until};
pub use cursor::{Cursor, Event, EventKind, Step, WatchEvents};
pub use election::{Leader, Observer};
pub use error::{
    AdminError, CallError, Cause, KvError, LeaseError, LockError, WatchError, show_key,
};
pub use follow::{Following, Mirror, MirrorBatch};
pub use ids::{RequestId, RequestIds};
pub use keepalive::Term;
pub use keys::Keys;
pub use kv::{Delete, DeleteReply, Get, GetReply, KeyValue, Order, Put, PutReply, SortBy};
pub use lease::{Grant, LeaseInfo};
pub use lock::{Claim, LockGuard, LockOptions, Wait};
pub use mirror::{Barrier, Change, Copied, Freshness, Keep, MirrorState};
pub use options::{AUTHOR_BYTES_MAX, Options, OptionsError, REASON_BYTES_MAX};
pub use pages::Pages;
pub use refusal::Refusal;
pub use roles::{
    Attend, Attended, CheckVotes, Checked, ColoVotes, HostVotes, MoveTo, Moved, Planned, Probe,
    Probes, RenewState, RoleState, RoleVotes, Row, Start, StepNumbers, Sync, Verdict, VerdictKind,
    Verdicts, VotesState, Write, Yield,
};
pub use route::{Attempts, Failure, Next, Router, Safety, backoff};
pub use session::{AtEnd, KeepAlive, LeaseLost, LeaseState, Session, lost};
pub use txn::{Compare, Is, Op, OpReply, Txn, TxnReply};
pub use watch::{Watch, WatchOptions};
