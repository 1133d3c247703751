//! Locks and elections as etcd's clients make them, so that both exclude each other.
//!
//! Each contender puts the key `NAME/LEASE` (lease in hexadecimal) with its session's lease. The
//! one with the lowest creation revision owns the lock; every other one waits for the deletion of
//! the one just before it, so that a release wakes one contender, not all.
//!
//! A lock in a network cannot stop a holder that was paused while its lease ended. What makes it
//! safe is the *epoch*, the creation revision of the key: pass it on to whatever is guarded, and
//! let that refuse a lower one; or use [`LockGuard::condition`] in transactions.

use crate::Client;
use crate::error::{KvError, LockError, WatchError};
use crate::keys::Keys;
use crate::kv::{Delete, Get, GetReply, Order, Put, SortBy};
use crate::session::Session;
use crate::txn::{Compare, Is, Op, OpReply, Txn};
use crate::watch::WatchOptions;
use bytes::Bytes;

/// A lock that is held while the session lives. Dropping it releases it in the background.
#[derive(Debug)]
pub struct LockGuard {
    client: Client,
    key: Bytes,
    epoch: i64,
    released: bool,
}

impl LockGuard {
    /// The key that stands for the hold.
    pub fn key(&self) -> &Bytes {
        &self.key
    }

    /// The fencing token: later holders have a greater one.
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// Holds exactly as long as the lock is held: a condition for transactions.
    pub fn condition(&self) -> Compare {
        Compare::create_revision(Keys::One(self.key.clone()), Is::Equal, self.epoch)
    }

    /// Releases the lock.
    pub async fn release(mut self) -> Result<(), KvError> {
        self.released = true;
        self.client
            .delete(Delete::new(Keys::One(self.key.clone())))
            .await?;
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
        let (client, key) = (self.client.clone(), self.key.clone());
        runtime.spawn(async move {
            if let Err(error) = client.delete(Delete::new(Keys::One(key))).await {
                tracing::debug!(%error, "a lock is left to its session");
            }
        });
    }
}

impl Client {
    /// Waits for the lock `name` and holds it for `session`. Dropping the wait gives it up.
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
        tokio::select! {
            guard = in_session.acquire(name, session.lease()) => guard,
            _ = session.lost() => Err(lost()),
        }
    }

    async fn acquire(&self, name: &str, lease: i64) -> Result<LockGuard, LockError> {
        let kv = |source| LockError::Kv {
            name: name.to_owned(),
            source,
        };
        let prefix = format!("{name}/");
        let key = Bytes::from(format!("{prefix}{lease:x}"));
        let mine = Keys::One(key.clone());
        let enter = Txn::new()
            .when(Compare::missing(key.clone()))
            .then(Op::Put(Put::new(key.clone(), "").lease(lease)))
            .otherwise(Op::Get(Get::new(mine.clone())));
        // Made before the key may exist, so that a wait that is dropped leaves nothing behind.
        let mut guard = LockGuard {
            client: self.clone(),
            key: key.clone(),
            epoch: 0,
            released: false,
        };
        let reply = self.txn(enter).await.map_err(kv)?;
        guard.epoch = match reply.replies.first() {
            Some(OpReply::Get(found)) => found.kvs.first().map_or(0, |kv| kv.create_revision),
            Some(OpReply::Put(_)) | None => reply.revision,
            Some(OpReply::Delete(_) | OpReply::Txn(_)) => 0,
        };
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

    /// Waits until `key`, which was there at `revision`, is deleted.
    async fn gone(&self, key: Bytes, revision: i64) -> Result<(), WatchError> {
        let options = WatchOptions::new(Keys::One(key)).from_revision(revision + 1);
        let mut watch = self.watch(options).await?;
        while let Some(item) = watch.next().await {
            let deleted = |event: &crate::Event| event.kind == crate::EventKind::Delete;
            if item?.events.iter().any(deleted) {
                return Ok(());
            }
        }
        Ok(())
    }
}
