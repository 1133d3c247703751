//! The client: a cheap handle on the connections, with or without a session.

use crate::channel::{How, Pool};
use crate::error::CallError;
use crate::options::{Options, OptionsError};
use crate::route::Safety;
use crate::session::{Ids, Session};
use cfgsvc_proto::etcd::kv_client::KvClient;
use cfgsvc_proto::etcd::lease_client::LeaseClient;
use std::future::Future;
use std::sync::Arc;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// A handle on the group. Clones share the connections.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) pool: Arc<Pool>,
    options: Arc<Options>,
    ids: Option<Arc<Ids>>,
}

impl Client {
    /// Checks the options. Connections are made when they are first needed.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn new(options: Options) -> Result<Self, OptionsError> {
        Ok(Self {
            pool: Arc::new(Pool::new(&options)?),
            options: Arc::new(options),
            ids: None,
        })
    }

    /// Its settings.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The same client, whose writes carry request ids of `session`: they are repeated until the
    /// deadline and executed at most once. That takes a group of cfgsvc: etcd does not look at the
    /// ids, so with etcd a write whose answer is lost may be executed again.
    #[must_use]
    pub fn in_session(&self, session: &Session) -> Self {
        Self {
            ids: Some(session.ids()),
            ..self.clone()
        }
    }

    /// The same client, whose writes carry request ids of a session that is kept alive elsewhere:
    /// `session` is its lease. At most one such client may exist for a session, since the numbers
    /// begin at 1; clones share them. [`Client::in_session`] is what you want otherwise.
    #[must_use]
    pub fn with_request_ids(&self, session: i64) -> Self {
        Self {
            ids: Some(Arc::new(Ids::new(session))),
            ..self.clone()
        }
    }

    /// A client for one endpoint alone, with the same settings: for questions to a single member.
    /// It belongs to no session.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn at(&self, endpoint: &str) -> Result<Self, OptionsError> {
        let mut options = (*self.options).clone();
        options.endpoints = vec![endpoint.to_owned()];
        Self::new(options)
    }

    pub(crate) fn kv(&self, channel: Channel) -> KvClient<Channel> {
        KvClient::new(channel).max_decoding_message_size(self.pool.receive_bytes_max)
    }

    pub(crate) fn lease(&self, channel: Channel) -> LeaseClient<Channel> {
        LeaseClient::new(channel).max_decoding_message_size(self.pool.receive_bytes_max)
    }

    pub(crate) async fn call<M, R, F, A>(
        &self,
        safety: Safety,
        message: &M,
        attempt: A,
    ) -> Result<R, CallError>
    where
        M: Clone,
        A: Fn(Channel, Request<M>) -> F,
        F: Future<Output = Result<R, Status>>,
    {
        let how = How {
            safety,
            id: None,
            deadline: self.pool.deadline(),
        };
        self.pool.call(how, message, attempt).await
    }

    pub(crate) async fn read<M, R, F, A>(&self, message: &M, attempt: A) -> Result<R, CallError>
    where
        M: Clone,
        A: Fn(Channel, Request<M>) -> F,
        F: Future<Output = Result<R, Status>>,
    {
        self.call(Safety::Repeatable, message, attempt).await
    }

    /// A write: with a request id when there is a session, else sent again only when it was
    /// certainly not executed.
    pub(crate) async fn write<M, R, F, A>(&self, message: &M, attempt: A) -> Result<R, CallError>
    where
        M: Clone,
        A: Fn(Channel, Request<M>) -> F,
        F: Future<Output = Result<R, Status>>,
    {
        let Some(ids) = &self.ids else {
            return self.call(Safety::Once, message, attempt).await;
        };
        let deadline = self.pool.deadline();
        let ticket = ids.open(deadline).await?;
        let how = How {
            safety: Safety::Repeatable,
            id: Some(ticket.id()),
            deadline,
        };
        self.pool.call(how, message, attempt).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AtEnd, Delete, Get, LockOptions, Put, Txn, WatchOptions};

    fn may_be_spawned<T: Send + 'static>(_: T) {}

    #[tokio::test]
    async fn every_call_can_be_made_in_a_task() {
        let client = Client::new(Options::new(["127.0.0.1:1"])).expect("good options");
        let own = client.clone();
        may_be_spawned(async move {
            let session = own.session(10).await?;
            if let Ok(guard) = own.lock("l", LockOptions::new()).await {
                guard.lost().await;
            }
            drop(own.observe("l").next().await);
            session.lost().await;
            own.keep_alive(&own.grant(10).await?, AtEnd::Leave)
                .lost()
                .await;
            own.renew(1).await?;
            own.revoke(1).await
        });
        may_be_spawned(async move {
            client.put(Put::new("k", "v")).await?;
            client.get(Get::new("k")).await?;
            client.delete(Delete::new("k")).await?;
            client.txn(Txn::new()).await?;
            drop(client.watch(WatchOptions::new("k")).await);
            client.compact(1).await
        });
    }
}
