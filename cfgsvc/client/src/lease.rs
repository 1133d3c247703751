//! Leases: grant, revoke, look at, list. Renewal is `session`'s and [`Client::keep_alive`]'s work.

use crate::Client;
use crate::clock::Moment;
use crate::error::{CallError, LeaseError};
use crate::keepalive::Term;
use crate::kv::revision;
use crate::refusal::Refusal;
use crate::route::Safety;
use bytes::Bytes;
use cfgsvc_proto::etcd;
use rand::RngExt;
use std::time::Duration;
use tonic::Response;

/// A granted lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Its id.
    pub lease: i64,
    /// The term that the group gave, seconds; it may be longer than asked.
    pub ttl_s: i64,
    /// The holder's view of the term.
    pub term: Term,
}

/// A lease as the group sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    /// Its id.
    pub lease: i64,
    /// Time that is left, seconds.
    pub left_s: i64,
    /// The term that was granted, seconds.
    pub granted_s: i64,
    /// Keys that go with it, if asked for.
    pub keys: Vec<Bytes>,
    /// Revision of the store when it was asked.
    pub revision: i64,
}

pub(crate) fn term_of(sent: Moment, ttl_s: i64) -> Term {
    Term::new(sent, Duration::from_secs(u64::try_from(ttl_s).unwrap_or(0)))
}

impl Client {
    /// Grants a lease of at least `ttl_s` seconds. The client chooses the id, so that a grant whose
    /// answer was lost is repeated safely.
    pub async fn grant(&self, ttl_s: i64) -> Result<Grant, LeaseError> {
        let lease = rand::rng().random_range(1..=i64::MAX);
        let sent = Moment::now();
        match self.try_grant(lease, ttl_s).await {
            // Nobody else draws this id: an earlier attempt, whose answer was lost, was granted.
            Err(LeaseError::Call(error))
                if error.is_after_lost() && error.refusal() == Some(Refusal::LeaseExists) =>
            {
                let ttl_s = self.lease_info(lease, false).await?.granted_s;
                let term = term_of(sent, ttl_s);
                Ok(Grant { lease, ttl_s, term })
            }
            result => result,
        }
    }

    /// Grants a lease with the id `lease`. When an answer is lost and the lease exists at the next
    /// attempt, nobody can say whose it is: that is an error whose outcome is unknown.
    pub async fn grant_as(&self, lease: i64, ttl_s: i64) -> Result<Grant, LeaseError> {
        self.try_grant(lease, ttl_s).await
    }

    async fn try_grant(&self, lease: i64, ttl_s: i64) -> Result<Grant, LeaseError> {
        if ttl_s < 1 {
            return Err(LeaseError::TtlOutOfRange { ttl_s });
        }
        let request = etcd::LeaseGrantRequest {
            ttl: ttl_s,
            id: lease,
        };
        let sent = Moment::now();
        let reply = self
            .call(Safety::Repeatable, &request, |channel, request| {
                let mut client = self.lease(channel);
                async move { client.lease_grant(request).await.map(Response::into_inner) }
            })
            .await
            .map_err(|error| LeaseError::of(error, lease, ttl_s))?;
        if !reply.error.is_empty() {
            return Err(CallError::Malformed {
                what: "a grant with an error",
            }
            .into());
        }
        Ok(Grant {
            lease,
            ttl_s: reply.ttl,
            term: term_of(sent, reply.ttl),
        })
    }

    /// Ends a lease; its keys go with it.
    pub async fn revoke(&self, lease: i64) -> Result<(), LeaseError> {
        let request = etcd::LeaseRevokeRequest { id: lease };
        let result = self
            .call(Safety::Repeatable, &request, |channel, request| {
                let mut client = self.lease(channel);
                async move { client.lease_revoke(request).await.map(Response::into_inner) }
            })
            .await;
        match result {
            Ok(_) => Ok(()),
            // The attempt whose answer was lost has done it.
            Err(error)
                if error.is_after_lost() && error.refusal() == Some(Refusal::LeaseNotFound) =>
            {
                Ok(())
            }
            Err(error) => Err(LeaseError::of(error, lease, 0)),
        }
    }

    /// Looks at a lease, and at its keys when asked.
    pub async fn lease_info(&self, lease: i64, keys: bool) -> Result<LeaseInfo, LeaseError> {
        let request = etcd::LeaseTimeToLiveRequest { id: lease, keys };
        let reply = self
            .call(Safety::Repeatable, &request, |channel, request| {
                let mut client = self.lease(channel);
                async move {
                    client
                        .lease_time_to_live(request)
                        .await
                        .map(Response::into_inner)
                }
            })
            .await
            .map_err(|error| LeaseError::of(error, lease, 0))?;
        if reply.ttl < 0 {
            return Err(LeaseError::NotFound { lease });
        }
        Ok(LeaseInfo {
            lease,
            left_s: reply.ttl,
            granted_s: reply.granted_ttl,
            keys: reply.keys,
            revision: revision(reply.header.as_ref()),
        })
    }

    /// Ids of all leases that live.
    pub async fn leases(&self) -> Result<Vec<i64>, LeaseError> {
        let request = etcd::LeaseLeasesRequest {};
        let reply = self
            .call(Safety::Repeatable, &request, |channel, request| {
                let mut client = self.lease(channel);
                async move { client.lease_leases(request).await.map(Response::into_inner) }
            })
            .await
            .map_err(|error| LeaseError::of(error, 0, 0))?;
        let mut ids: Vec<i64> = reply.leases.into_iter().map(|lease| lease.id).collect();
        ids.sort_unstable();
        Ok(ids)
    }
}
