//! One client of a load: what it sends, and what it must be answered.
//!
//! An answer that is not what was asked for (a key missing, a lease gone, a range too short) is an
//! error, so that a server cannot win by answering less.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use cfgsvc_proto::etcd::compare::{CompareResult, CompareTarget, TargetUnion};
use cfgsvc_proto::etcd::kv_client::KvClient;
use cfgsvc_proto::etcd::lease_client::LeaseClient;
use cfgsvc_proto::etcd::request_op::Request;
use cfgsvc_proto::etcd::response_op::Response;
use cfgsvc_proto::etcd::{
    Compare, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseRevokeRequest,
    RangeRequest, RequestOp, TxnRequest,
};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::args::{Common, Load};
use crate::client::{self, told};
use crate::watch;

/// Time to live of the leases, seconds: they shall not expire in a run.
const TTL: i64 = 600;

/// One client.
pub(crate) struct Worker {
    load: Load,
    number: u32,
    keys: u32,
    value: Bytes,
    random: SmallRng,
    kv: KvClient<Channel>,
    lease: LeaseClient<Channel>,
    /// Modification revision of the key that it swaps; `None` when it does not know.
    swapped: Option<i64>,
    leases: Vec<i64>,
    /// Renewals sent, which says whose turn it is.
    renewals: usize,
    renewing: Option<Renewing>,
}

/// A stream of renewals with none under way.
struct Renewing {
    requests: mpsc::Sender<LeaseKeepAliveRequest>,
    answers: Streaming<LeaseKeepAliveResponse>,
}

impl Worker {
    /// Client `number` with what it needs in the server.
    pub(crate) async fn new(
        load: Load,
        common: &Common,
        number: u32,
        channel: &Channel,
    ) -> Result<Self> {
        let mut worker = Self {
            load,
            number,
            keys: common.keys,
            value: client::value(common.value_bytes, u64::from(number)),
            random: SmallRng::seed_from_u64(u64::from(number)),
            kv: client::kv(channel),
            lease: LeaseClient::new(channel.clone()),
            swapped: None,
            leases: Vec::new(),
            renewals: 0,
            renewing: None,
        };
        if let Load::KeepAlive { leases } = load {
            let clients = common.clients;
            let share = leases / clients + u32::from(number < leases % clients);
            for _ in 0..share.max(1) {
                let id = worker.grant().await?;
                worker.leases.push(id);
            }
        }
        Ok(worker)
    }

    /// One request that is due at this time since the start.
    pub(crate) async fn once(&mut self, due: Duration) -> Result<()> {
        match self.load {
            Load::Put => self.put().await,
            Load::Cas => self.swap().await,
            Load::Get { serializable } => self.get(serializable).await,
            Load::Mixed {
                writes,
                serializable,
            } => {
                if self.random.random_range(0..100) < writes {
                    self.put().await
                } else {
                    self.get(serializable).await
                }
            }
            Load::Range { limit } => self.range(limit).await,
            Load::Watch { .. } => {
                let value = watch::stamped(&self.value, due);
                let put = client::put(watch::key(), value);
                self.kv.put(put).await.map_err(told)?;
                Ok(())
            }
            Load::LeaseChurn => self.churn().await,
            Load::KeepAlive { .. } => self.renew().await,
        }
    }

    /// Gives back what it holds in the server.
    pub(crate) async fn finish(mut self) -> Result<()> {
        self.renewing = None;
        for id in std::mem::take(&mut self.leases) {
            self.revoke(id).await?;
        }
        Ok(())
    }

    fn random_key(&mut self) -> Bytes {
        client::key(self.random.random_range(0..self.keys))
    }

    async fn put(&mut self) -> Result<()> {
        let put = client::put(self.random_key(), self.value.clone());
        self.kv.put(put).await.map_err(told)?;
        Ok(())
    }

    async fn get(&mut self, serializable: bool) -> Result<()> {
        let request = RangeRequest {
            key: self.random_key(),
            serializable,
            ..RangeRequest::default()
        };
        let answer = self.kv.range(request).await.map_err(told)?.into_inner();
        ensure!(answer.kvs.len() == 1, "a key that was put is not there");
        Ok(())
    }

    async fn range(&mut self, limit: u32) -> Result<()> {
        let first = self.random.random_range(0..=self.keys - limit);
        let request = RangeRequest {
            key: client::key(first),
            range_end: client::keys_end(),
            limit: limit.into(),
            ..RangeRequest::default()
        };
        let answer = self.kv.range(request).await.map_err(told)?.into_inner();
        let found = answer.kvs.len();
        ensure!(
            found == limit as usize,
            "a range has {found} keys, asked for {limit}"
        );
        Ok(())
    }

    /// Swaps its own key, where it must find what it left; when it does not know that, one swap
    /// that fails tells.
    async fn swap(&mut self) -> Result<()> {
        let key: Bytes = format!("bench/cas/{:06}", self.number).into();
        let known = self.swapped.take();
        let operation = |request| RequestOp {
            request: Some(request),
        };
        let txn = TxnRequest {
            compare: vec![Compare {
                result: CompareResult::Equal.into(),
                target: CompareTarget::Mod.into(),
                key: key.clone(),
                target_union: Some(TargetUnion::ModRevision(known.unwrap_or(0))),
                ..Compare::default()
            }],
            success: vec![operation(Request::RequestPut(client::put(
                key.clone(),
                self.value.clone(),
            )))],
            failure: vec![operation(Request::RequestRange(RangeRequest {
                key,
                ..RangeRequest::default()
            }))],
        };
        let answer = self.kv.txn(txn).await.map_err(told)?.into_inner();
        if answer.succeeded {
            let header = answer.header.context("an answer has no header")?;
            self.swapped = Some(header.revision);
            return Ok(());
        }
        self.swapped = answer.responses.into_iter().find_map(|response| {
            let Some(Response::ResponseRange(range)) = response.response else {
                return None;
            };
            Some(range.kvs.first()?.mod_revision)
        });
        ensure!(
            known.is_none(),
            "a key of one client was changed by another"
        );
        Ok(())
    }

    async fn grant(&mut self) -> Result<i64> {
        let request = LeaseGrantRequest { ttl: TTL, id: 0 };
        let granted = self.lease.lease_grant(request).await.map_err(told)?;
        Ok(granted.into_inner().id)
    }

    async fn revoke(&mut self, id: i64) -> Result<()> {
        let request = LeaseRevokeRequest { id };
        self.lease.lease_revoke(request).await.map_err(told)?;
        Ok(())
    }

    async fn churn(&mut self) -> Result<()> {
        let lease = self.grant().await?;
        let mut put = client::put(
            format!("bench/lease/{:06}", self.number).into(),
            self.value.clone(),
        );
        put.lease = lease;
        self.kv.put(put).await.map_err(told)?;
        self.revoke(lease).await
    }

    /// Renews the next of its leases. The stream is given up when that fails or is given up, since
    /// a late answer would be taken for the next one's.
    async fn renew(&mut self) -> Result<()> {
        let id = self.leases[self.renewals % self.leases.len()];
        self.renewals += 1;
        let request = LeaseKeepAliveRequest { id };
        let mut renewing = if let Some(renewing) = self.renewing.take() {
            let sent = renewing.requests.send(request).await;
            sent.ok().context("the stream of renewals has ended")?;
            renewing
        } else {
            let (requests, receiver) = mpsc::channel(1);
            // Sent before the call: etcd answers a stream when it is asked something.
            requests
                .send(request)
                .await
                .context("a new channel is open")?;
            let renewals = self.lease.lease_keep_alive(ReceiverStream::new(receiver));
            let answers = renewals.await.map_err(told)?.into_inner();
            Renewing { requests, answers }
        };
        match renewing.answers.message().await.map_err(told)? {
            Some(answer) if answer.id == id && answer.ttl > 0 => {
                self.renewing = Some(renewing);
                Ok(())
            }
            Some(answer) => bail!("lease {id} was renewed as {answer:?}"),
            None => bail!("the server has ended the stream of renewals"),
        }
    }
}
