//! The gRPC services: thin, each call checked early and handed to the group or a view of its state.

mod admin;
mod cluster;
mod hash;
mod kv;
mod lease;
mod maintenance;
pub mod metadata;
mod plan;
pub(crate) use plan::rehearse;
mod range_stream;
mod restore;
mod roles;
mod snapshot;
pub mod status;
mod watch;

use std::sync::Arc;

use tonic::{Request, Status};

use crate::service::Service;

/// All services over one [`Service`].
#[derive(Clone)]
pub struct Api(Arc<Service>);

impl Api {
    /// Serves `service`.
    pub fn new(service: Arc<Service>) -> Self {
        Self(service)
    }

    /// Refuses a request that wants a leader when none is known.
    fn check_leader<T>(&self, request: &Request<T>) -> Result<(), Status> {
        if metadata::wants_leader(request.metadata()) && self.0.status().leader.is_none() {
            return Err(status::no_leader());
        }
        Ok(())
    }
}
