//! Locks and elections as etcd's clients make them, so that both exclude each other.
//!
//! Each contender puts the key `NAME/LEASE` (lease in hexadecimal) with its session's lease. The
//! one with the lowest creation revision owns the lock; every other one waits for the deletion of
//! the one just before it, so that a release wakes one contender, not all.
//!
//! A lock in a network cannot stop a holder that was paused while its lease ended. What makes it
//! safe is the *epoch*, the creation revision of the key: pass it on to whatever is guarded, and
//! let that refuse a lower one; or use [`LockGuard::condition`] in transactions.
//!
//! A session has one key for a lock, so its tasks take turns at it ([`Turns`]): the next one enters
//! when the key of the one before is gone. Otherwise it would find that key, take it for its own,
//! and lose it to a release that is still on its way.
//!
//! Keys below `NAME/` that are no contenders, such as those of a lock `NAME/OTHER`, count as
//! contenders: as with etcd's clients, that excludes too much, never too little.

use crate::Client;
use crate::error::{CallError, KvError, LockError, WatchError};
use crate::keys::Keys;
use crate::kv::{Delete, Get, GetReply, Order, Put, SortBy};
use crate::route::backoff;
use crate::session::{LeaseState, Session, lost};
use crate::txn::{Compare, Is, Op, OpReply, Txn, TxnReply};
use crate::watch::WatchOptions;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, watch};

/// Whose turn it is, in one session, to contend for each lock.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<BTreeMap<String, Weak<AsyncMutex<()>>>>);

impl Turns {
    /// Waits until no other task of the session contends for or holds the lock `name`.
    async fn take(&self, name: &str) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| turn.strong_count() > 0);
            turns.get(name).and_then(Weak::upgrade).unwrap_or_else(|| {
                let turn = Arc::default();
                turns.insert(name.to_owned(), Arc::downgrade(&turn));
                turn
            })
        };
        turn.lock_owned().await
    }
}

/// A lock that is held while the session lives. Dropping it releases it in the background.
#[derive(Debug)]
pub struct LockGuard {
    hold: Hold,
    epoch: i64,
    released: bool,
}

/// What has to be given back.
#[derive(Clone, Debug)]
struct Hold {
    client: Client,
    key: Bytes,
    state: watch::Receiver<LeaseState>,
    /// Shared, so that the turn ends when the last of guard and release is done.
    _turn: Arc<OwnedMutexGuard<()>>,
}

impl Hold {
    async fn release(&self) -> Result<(), KvError> {
        let key = Keys::One(self.key.clone());
        self.client.delete(Delete::new(key)).await.map(drop)
    }

    /// Tries until the key is gone, by itself or with the session.
    async fn release_in_the_end(self) {
        let mut round = 0;
        while let Err(error) = self.release().await {
            tracing::debug!(key = crate::show_key(&self.key), %error, "a lock is not released");
            if !error.retryable() && !error.outcome_unknown() {
                return;
            }
            let pause = backoff(round, &mut rand::rng());
            round = (round + 1).min(16);
            tokio::select! {
                _ = lost(self.state.clone()) => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

impl LockGuard {
    /// The key that stands for the hold.
    pub fn key(&self) -> &Bytes {
        &self.hold.key
    }

    /// The fencing token: later holders have a greater one.
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// Holds exactly as long as the lock is held: a condition for transactions.
    pub fn condition(&self) -> Compare {
        let key = Keys::One(self.hold.key.clone());
        Compare::create_revision(key, Is::Equal, self.epoch)
    }

    /// Releases the lock. When that fails, or is dropped before its end, the release goes on in the
    /// background while the session lives.
    pub async fn release(mut self) -> Result<(), KvError> {
        self.hold.release().await?;
        self.released = true;
        Ok(())
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            tracing::debug!("a lock is left to its session: no runtime is there to release it");
            return;
        };
        runtime.spawn(self.hold.clone().release_in_the_end());
    }
}

impl Client {
    /// Waits for the lock `name` and holds it for `session`. Dropping the wait gives it up. Tasks
    /// of one session exclude each other too: one that holds the lock and asks for it again waits
    /// for itself.
    ///
    /// Whoever holds it must stop when the session is lost: see [`Session::lost`].
    pub async fn lock(&self, name: &str, session: &Session) -> Result<LockGuard, LockError> {
        if name.is_empty() || name.ends_with('/') {
            return Err(LockError::BadName {
                name: name.to_owned(),
            });
        }
        let lost = || LockError::SessionLost {
            name: name.to_owned(),
        };
        let in_session = self.in_session(session);
        let guard = tokio::select! {
            guard = in_session.acquire(name, session) => guard?,
            _ = session.lost() => return Err(lost()),
        };
        if session.is_live() {
            Ok(guard)
        } else {
            Err(lost())
        }
    }

    async fn acquire(&self, name: &str, session: &Session) -> Result<LockGuard, LockError> {
        let kv = |source| LockError::Kv {
            name: name.to_owned(),
            source,
        };
        let turn = Arc::new(session.turns().take(name).await);
        let lease = session.lease();
        let prefix = format!("{name}/");
        let key = Bytes::from(format!("{prefix}{lease:x}"));
        let mine = Keys::One(key.clone());
        let enter = Txn::new()
            .when(Compare::missing(key.clone()))
            .then(Op::Put(Put::new(key.clone(), "").lease(lease)))
            .otherwise(Op::Get(Get::new(mine.clone())));
        // Made before the key may exist, so that a wait that is dropped leaves nothing behind.
        let mut guard = LockGuard {
            hold: Hold {
                client: self.clone(),
                key,
                state: session.state(),
                _turn: turn,
            },
            epoch: 0,
            released: false,
        };
        let entered = self.txn(enter).await.map_err(kv)?;
        guard.epoch = epoch_of(&entered).map_err(|error| kv(error.into()))?;
        while let Some((revision, earlier)) = self.before(&prefix, guard.epoch).await.map_err(kv)? {
            self.gone(earlier, revision)
                .await
                .map_err(|source| LockError::Watch {
                    name: name.to_owned(),
                    source,
                })?;
        }
        // The lease may have ended during the wait, and the key with it.
        let own = self.get(Get::new(mine)).await.map_err(kv)?;
        match own.kvs.first() {
            Some(kv) if kv.create_revision == guard.epoch => Ok(guard),
            Some(_) | None => Err(LockError::SessionLost {
                name: name.to_owned(),
            }),
        }
    }

    /// The contender just before the one that entered at `epoch`, and the revision of the look.
    async fn before(&self, prefix: &str, epoch: i64) -> Result<Option<(i64, Bytes)>, KvError> {
        let GetReply { revision, kvs, .. } = self
            .get(
                Get::prefix(prefix.to_owned())
                    .created_until(epoch - 1)
                    .sort(SortBy::Created, Order::Descending)
                    .limit(1)
                    .keys_only(),
            )
            .await?;
        Ok(kvs.into_iter().next().map(|kv| (revision, kv.key)))
    }

    /// Waits until `key`, which was there at `revision`, is deleted, or until nobody can tell
    /// without another look.
    async fn gone(&self, key: Bytes, revision: i64) -> Result<(), WatchError> {
        let options = WatchOptions::new(Keys::One(key)).from_revision(revision.saturating_add(1));
        let mut watch = match self.watch(options).await {
            Ok(watch) => watch,
            Err(WatchError::Compacted { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        while let Some(item) = watch.next().await {
            let deleted = |event: &crate::Event| event.kind == crate::EventKind::Delete;
            match item {
                Ok(item) if item.events.iter().any(deleted) => return Ok(()),
                Ok(_) => {}
                Err(WatchError::Compacted { .. }) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The creation revision of the contender's key, from the reply to its entry.
fn epoch_of(entered: &TxnReply) -> Result<i64, CallError> {
    match entered.replies.first() {
        Some(OpReply::Put(_)) if entered.revision > 0 => Ok(entered.revision),
        Some(OpReply::Get(found)) if !found.kvs.is_empty() => Ok(found.kvs[0].create_revision),
        Some(_) | None => Err(CallError::Malformed {
            what: "the reply to the entry of a lock",
        }),
    }
}
