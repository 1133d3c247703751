//! What operators do with the group: history, members, status, leadership, snapshots.

use crate::Client;
use crate::channel::{Missed, classify};
use crate::error::{AdminError, CallError};
use crate::kv::revision;
use crate::route::Safety;
use bytes::Bytes;
use cfgsvc_proto::{etcd, v1};
use etcd::cluster_client::ClusterClient;
use etcd::maintenance_client::MaintenanceClient;
use futures_util::Stream;
use std::sync::{Arc, Mutex, PoisonError};
use tokio_stream::StreamExt;
use tonic::transport::Channel;
use tonic::{Response, Streaming};
use v1::admin_client::AdminClient;

pub use cfgsvc_proto::etcd::StatusResponse as Status;
pub use v1::member_info::Role;
pub use v1::{HistoryEntry, HistoryResponse as History, MemberInfo, MembersResponse as Members};

/// A member to be registered.
#[derive(Clone, Debug)]
pub struct NewMember {
    /// Its name.
    pub name: String,
    /// `HOST:PORT` at which the other members will reach it.
    pub peer_address: String,
    /// Its failure domain.
    pub colo: String,
    /// Whether it stays a learner when it has caught up.
    pub learner: bool,
}

impl Client {
    fn admin(&self, channel: Channel) -> AdminClient<Channel> {
        AdminClient::new(channel).max_decoding_message_size(self.pool.receive_bytes_max)
    }

    /// The kept versions of `key`, oldest first: at most `limit` newest ones (0: 1000), from
    /// `min_revision` on.
    pub async fn history(
        &self,
        key: impl Into<Bytes>,
        limit: i64,
        min_revision: i64,
    ) -> Result<History, AdminError> {
        let key = key.into();
        let request = v1::HistoryRequest {
            key,
            limit,
            min_revision,
        };
        self.call(Safety::Repeatable, &request, |channel, request| {
            let mut admin = self.admin(channel);
            async move { admin.history(request).await.map(Response::into_inner) }
        })
        .await
        .map_err(|error| AdminError::of(error, 0))
    }

    /// The members as the group sees them.
    pub async fn members(&self) -> Result<Members, AdminError> {
        self.call(
            Safety::Repeatable,
            &v1::MembersRequest {},
            |channel, request| {
                let mut admin = self.admin(channel);
                async move { admin.members(request).await.map(Response::into_inner) }
            },
        )
        .await
        .map_err(|error| AdminError::of(error, 0))
    }

    /// The members as etcd's API tells them: what any etcd answers too.
    pub async fn etcd_members(&self) -> Result<Vec<etcd::Member>, AdminError> {
        let request = etcd::MemberListRequest { linearizable: true };
        let reply = self
            .call(
                Safety::Repeatable,
                &request,
                |channel, request| async move {
                    ClusterClient::new(channel)
                        .member_list(request)
                        .await
                        .map(Response::into_inner)
                },
            )
            .await
            .map_err(|error| AdminError::of(error, 0))?;
        Ok(reply.members)
    }

    /// Registers a member before it is started.
    pub async fn member_add(&self, member: NewMember) -> Result<MemberInfo, AdminError> {
        let request = v1::MemberAddRequest {
            name: member.name,
            peer_address: member.peer_address,
            colo: member.colo,
            learner: member.learner,
        };
        let reply = self
            .call(Safety::Once, &request, |channel, request| {
                let mut admin = self.admin(channel);
                async move { admin.member_add(request).await.map(Response::into_inner) }
            })
            .await
            .map_err(|error| AdminError::of(error, 0))?;
        let missing = CallError::Malformed { what: "no member" };
        reply.member.ok_or_else(|| missing.into())
    }

    /// Removes a member for good: its id is never used again.
    pub async fn member_remove(&self, id: u64) -> Result<(), AdminError> {
        let request = etcd::MemberRemoveRequest { id };
        self.call(Safety::Once, &request, |channel, request| async move {
            ClusterClient::new(channel)
                .member_remove(request)
                .await
                .map(Response::into_inner)
        })
        .await
        .map(drop)
        .map_err(|error| AdminError::of(error, id))
    }

    /// Makes a learner that has caught up a voter.
    pub async fn member_promote(&self, id: u64) -> Result<(), AdminError> {
        let request = etcd::MemberPromoteRequest { id };
        self.call(Safety::Once, &request, |channel, request| async move {
            ClusterClient::new(channel)
                .member_promote(request)
                .await
                .map(Response::into_inner)
        })
        .await
        .map(drop)
        .map_err(|error| AdminError::of(error, id))
    }

    /// The state of the member that answers; with [`Client::at`], of a certain one.
    pub async fn status(&self) -> Result<Status, AdminError> {
        let request = etcd::StatusRequest {};
        self.call(
            Safety::Repeatable,
            &request,
            |channel, request| async move {
                MaintenanceClient::new(channel)
                    .status(request)
                    .await
                    .map(Response::into_inner)
            },
        )
        .await
        .map_err(|error| AdminError::of(error, 0))
    }

    /// Hands the leadership over to `target`. The request must reach the leader: with
    /// [`AdminError::NotLeader`], ask the leader itself through [`Client::at`].
    pub async fn move_leader(&self, target: u64) -> Result<(), AdminError> {
        let request = etcd::MoveLeaderRequest { target_id: target };
        self.call(Safety::Once, &request, |channel, request| async move {
            MaintenanceClient::new(channel)
                .move_leader(request)
                .await
                .map(Response::into_inner)
        })
        .await
        .map(drop)
        .map_err(|error| AdminError::of(error, target))
    }

    /// Streams a snapshot of the member that answers. There is no limit on the whole time.
    pub async fn snapshot(&self) -> Result<SnapshotStream, AdminError> {
        let request = etcd::SnapshotRequest {};
        let receive_bytes_max = self.pool.receive_bytes_max;
        let blobs = self
            .call(
                Safety::Repeatable,
                &request,
                |channel, request| async move {
                    MaintenanceClient::new(channel)
                        .max_decoding_message_size(receive_bytes_max)
                        .snapshot(request)
                        .await
                        .map(Response::into_inner)
                },
            )
            .await
            .map_err(|error| AdminError::of(error, 0))?;
        let endpoint = self.pool.current().1.to_owned();
        Ok(SnapshotStream { blobs, endpoint })
    }

    /// Fills an empty group with the bytes of a snapshot file. The group leaves `advance` revisions
    /// out behind the snapshot's, so that it never gives one that the former group gave to changes
    /// that the file does not hold: at least as many as were made since, 0 if there was none. A
    /// read error in `blobs` breaks the restore off, and the group stays empty.
    pub async fn restore<E: Send + 'static>(
        &self,
        blobs: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
        advance: i64,
    ) -> Result<Restored, RestoreError<E>> {
        let (_, name, channel) = self.pool.current();
        let failed = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&failed);
        // The stream of a request cannot carry an error: it ends, and the group sees a cut file.
        let requests = blobs.map_while(move |blob| match blob {
            Ok(blob) => Some(v1::RestoreRequest { blob, advance }),
            Err(error) => {
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                None
            }
        });
        let request = self.pool.request(requests, None);
        let reply = self.admin(channel).restore(request).await;
        if let Some(error) = failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(RestoreError::Input(error));
        }
        match reply {
            Ok(reply) => {
                let reply = reply.into_inner();
                Ok(Restored {
                    revision: reply.header.map_or(0, |header| header.revision),
                    records: reply.records,
                })
            }
            Err(status) => {
                let error = match classify(&status, name) {
                    Ok(missed) => missed.into_error(&self.pool, name),
                    Err(error) => error,
                };
                Err(RestoreError::Group(AdminError::of(error, 0)))
            }
        }
    }
}

/// What a restore did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// Where the group's revisions go on.
    pub revision: i64,
    /// Records that the file held.
    pub records: u64,
}

/// Why a restore failed.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError<E> {
    /// The bytes could not be read.
    #[error("read the snapshot")]
    Input(E),
    /// The group refused or broke off.
    #[error(transparent)]
    Group(AdminError),
}

/// The bytes of a snapshot file as they come.
#[derive(Debug)]
pub struct SnapshotStream {
    blobs: Streaming<etcd::SnapshotResponse>,
    endpoint: String,
}

/// A part of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotPart {
    /// The next bytes.
    pub bytes: Bytes,
    /// Bytes that follow, as far as the member knows.
    pub remaining_bytes: u64,
    /// Revision of the store, when told.
    pub revision: i64,
}

impl SnapshotStream {
    /// The next part; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<SnapshotPart>, AdminError> {
        match self.blobs.message().await {
            Ok(Some(part)) => Ok(Some(SnapshotPart {
                bytes: part.blob,
                remaining_bytes: part.remaining_bytes,
                revision: revision(part.header.as_ref()),
            })),
            Ok(None) => Ok(None),
            Err(status) => Err(AdminError::of(self.broken(&status), 0)),
        }
    }

    fn broken(&self, status: &tonic::Status) -> CallError {
        match classify(status, &self.endpoint) {
            Ok(Missed { cause, .. }) => CallError::Broken {
                endpoint: self.endpoint.clone(),
                source: cause,
            },
            Err(error) => error,
        }
    }
}
