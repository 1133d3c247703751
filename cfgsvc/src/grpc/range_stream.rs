//! A range in chunks, all of one revision.
//!
//! Why pages and not one view: a view that is held for as long as a slow client reads would hold
//! back the store. A page at a fixed revision reads the same; if that revision is compacted
//! meanwhile, the stream ends with that error.
//!
//! Invariant: the header's revision is that of the store when the first page was read. Who asked
//! for the latest and watches from the revision after it sees every later change.

use std::sync::Arc;

use cfgsvc_core::{read, validate};
use cfgsvc_proto::etcd::range_request::{SortOrder, SortTarget};
use cfgsvc_proto::etcd::{RangeRequest, RangeResponse, RangeStreamResponse};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::status;
use crate::service::Service;
use crate::streams::{self, Outlet};

/// Bytes of keys and values after which a chunk is sent.
const CHUNK_BYTES: usize = 512 << 10;
/// Chunks that wait for a slow client.
const CHUNKS_WAITING: usize = 2;

/// Checks the request and starts to send.
pub(super) async fn start(
    service: &Arc<Service>,
    request: RangeRequest,
) -> Result<ReceiverStream<Result<RangeStreamResponse, Status>>, Status> {
    validate::range(&request).map_err(|refused| status::of_refusal(&refused))?;
    let sorted =
        request.sort_target() != SortTarget::Key || request.sort_order() == SortOrder::Descend;
    let bounds = [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ];
    if sorted || bounds.iter().any(|bound| *bound != 0) {
        return Err(Status::unimplemented(
            "etcdserver: a range stream has keys in ascending order and no revision filters",
        ));
    }
    if !request.serializable {
        service.barrier().await?;
    }
    let (chunks, stream) = streams::outlet(CHUNKS_WAITING);
    let service = Arc::clone(service);
    tokio::spawn(async move {
        let mut place = Place {
            request,
            pinned: None,
            sent: 0,
        };
        let sent = tokio::select! {
            sent = place.send(&service, &chunks) => sent,
            () = streams::stopped(service.stopping.clone()) => Err(status::stopped()),
        };
        if let Err(status) = sent {
            chunks.end(status);
        }
    });
    Ok(stream)
}

/// How far the stream is.
struct Place {
    /// For the next page: key, revision and limit change from page to page.
    request: RangeRequest,
    /// What the first page fixed.
    pinned: Option<Pinned>,
    sent: i64,
}

#[derive(Clone)]
struct Pinned {
    /// The whole request at its revision, for its count.
    whole: RangeRequest,
    /// Revision of the store.
    store: i64,
}

impl Place {
    /// Sends all chunks, or until the client goes away.
    async fn send(
        &mut self,
        service: &Service,
        chunks: &Outlet<RangeStreamResponse>,
    ) -> Result<(), Status> {
        loop {
            let (response, last) = self.next(service).await?;
            let chunk = RangeStreamResponse {
                range_response: Some(response),
            };
            let gone = chunks.send(chunk).await.is_err();
            // A client that went away has the chunks it wants.
            if last || gone {
                return Ok(());
            }
        }
    }

    /// The next chunk, and whether it is the last.
    async fn next(&mut self, service: &Service) -> Result<(RangeResponse, bool), Status> {
        if self.request.count_only {
            let count = self.count(service, self.request.clone()).await?;
            return Ok((count, true));
        }
        let asked = self.request.clone();
        let (store, page) = service
            .read_step(move |view| {
                let store = read::machine_record(view)?.revision;
                Ok((store, read::range_page(view, &asked, CHUNK_BYTES)?))
            })
            .await?;
        let page = page.map_err(|refused| status::of_refusal(&refused))?;
        self.request.revision = page.revision;
        let pinned = self.pinned.get_or_insert_with(|| Pinned {
            whole: self.request.clone(),
            store,
        });
        let Pinned { whole, store } = pinned.clone();
        self.sent += page.kvs.len() as i64;
        let limit_reached = whole.limit > 0 && self.sent >= whole.limit;
        let kvs = page.kvs;
        match page.next_key {
            Some(next_key) if !limit_reached => {
                self.request.key = next_key;
                if whole.limit > 0 {
                    self.request.limit = whole.limit - self.sent;
                }
                Ok((
                    RangeResponse {
                        kvs,
                        ..RangeResponse::default()
                    },
                    false,
                ))
            }
            next_key => {
                let more = next_key.is_some();
                let count = if more {
                    self.count(service, whole).await?.count
                } else {
                    self.sent
                };
                let last = RangeResponse {
                    header: Some(service.header(store)),
                    kvs,
                    more,
                    count,
                };
                Ok((last, true))
            }
        }
    }

    async fn count(
        &self,
        service: &Service,
        request: RangeRequest,
    ) -> Result<RangeResponse, Status> {
        let counted = RangeRequest {
            count_only: true,
            limit: 0,
            ..request
        };
        let mut response = service
            .read_step(move |view| read::range(view, &counted))
            .await?
            .map_err(|refused| status::of_refusal(&refused))?;
        service.complete(&mut response.header);
        Ok(response)
    }
}
