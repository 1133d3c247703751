//! `etcdserverpb.KV`: reads from a view, writes through the log.

use std::pin::Pin;

use cfgsvc_core::{is_read_only, read, txn_readonly, validate};
use cfgsvc_proto::etcd::kv_server::Kv;
use cfgsvc_proto::etcd::request_op::Request as Op;
use cfgsvc_proto::etcd::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, RangeStreamResponse, RequestOp, TxnRequest,
    TxnResponse,
};
use cfgsvc_proto::state::command::Op as CommandOp;
use cfgsvc_proto::state::reply::Result as Outcome;
use cfgsvc_proto::state::{Command, Scrub};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::metadata::RequestMeta;
use super::{Api, range_stream, status};
use crate::clock;
use crate::housekeeping::SCRUB_EVENTS;
use crate::service::{Service, unexpected};

#[tonic::async_trait]
impl Kv for Api {
    type RangeStreamStream =
        Pin<Box<dyn Stream<Item = Result<RangeStreamResponse, Status>> + Send + 'static>>;

    async fn range(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<RangeResponse>, Status> {
        self.check_leader(&request)?;
        let request = request.into_inner();
        validate::range(&request).map_err(|refused| status::of_refusal(&refused))?;
        if !request.serializable {
            self.0.barrier().await?;
        }
        let answer = if request.range_end.is_empty() {
            self.0.read(|view| read::range(view, &request))?
        } else {
            self.0
                .read_large(move |view| read::range(view, &request))
                .await?
        };
        let mut response = answer.map_err(|refused| status::of_refusal(&refused))?;
        self.0.complete(&mut response.header);
        Ok(Response::new(response))
    }

    async fn range_stream(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        self.check_leader(&request)?;
        let stream = range_stream::start(&self.0, request.into_inner()).await?;
        Ok(Response::new(Box::pin(stream)))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        self.check_leader(&request)?;
        let meta = RequestMeta::parse(request.metadata())?;
        let request = request.into_inner();
        validate::put(&request).map_err(|refused| status::of_refusal(&refused))?;
        check_space(&self.0)?;
        let done = self.0.execute(meta, CommandOp::Put(request)).await?;
        let Outcome::Put(mut response) = done.outcome else {
            return Err(unexpected(&done));
        };
        response.header = Some(self.0.header(done.revision));
        Ok(Response::new(response))
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        self.check_leader(&request)?;
        let meta = RequestMeta::parse(request.metadata())?;
        let request = request.into_inner();
        validate::delete_range(&request).map_err(|refused| status::of_refusal(&refused))?;
        let done = self
            .0
            .execute(meta, CommandOp::DeleteRange(request))
            .await?;
        let Outcome::DeleteRange(mut response) = done.outcome else {
            return Err(unexpected(&done));
        };
        response.header = Some(self.0.header(done.revision));
        Ok(Response::new(response))
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        self.check_leader(&request)?;
        let meta = RequestMeta::parse(request.metadata())?;
        let request = request.into_inner();
        validate::txn(&request).map_err(|refused| status::of_refusal(&refused))?;
        if is_read_only(&request) {
            return read_txn(&self.0, request).await.map(Response::new);
        }
        if puts(&request) {
            check_space(&self.0)?;
        }
        let done = self.0.execute(meta, CommandOp::Txn(request)).await?;
        let Outcome::Txn(mut response) = done.outcome else {
            return Err(unexpected(&done));
        };
        response.header = Some(self.0.header(done.revision));
        Ok(Response::new(response))
    }

    async fn compact(
        &self,
        request: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        self.check_leader(&request)?;
        let meta = RequestMeta::parse(request.metadata())?;
        let request = request.into_inner();
        validate::compact(&request).map_err(|refused| status::of_refusal(&refused))?;
        let physical = request.physical;
        let done = self.0.execute(meta, CommandOp::Compact(request)).await?;
        let Outcome::Compact(mut response) = done.outcome else {
            return Err(unexpected(&done));
        };
        if physical {
            scrub_all(&self.0).await?;
        }
        response.header = Some(self.0.header(done.revision));
        Ok(Response::new(response))
    }
}

pub(super) fn check_space(service: &Service) -> Result<(), Status> {
    if service.is_full() {
        return Err(status::no_space());
    }
    Ok(())
}

/// Answers a transaction that writes nothing, without the log.
async fn read_txn(service: &Service, request: TxnRequest) -> Result<TxnResponse, Status> {
    if !is_serializable(&request) {
        service.barrier().await?;
    }
    let mut response = service
        .read_large(move |view| txn_readonly(view, &request))
        .await?
        .map_err(|refused| status::of_refusal(&refused))?;
    service.complete(&mut response.header);
    Ok(response)
}

/// Whether a transaction that only reads may read what this member has: all its ranges say so.
fn is_serializable(request: &TxnRequest) -> bool {
    let mut ops = request.success.iter().chain(&request.failure).peekable();
    ops.peek().is_some()
        && ops.all(|op| matches!(&op.request, Some(Op::RequestRange(range)) if range.serializable))
}

/// Whether a transaction may put anything.
pub(super) fn puts(request: &TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).any(op_puts)
}

fn op_puts(op: &RequestOp) -> bool {
    match &op.request {
        Some(Op::RequestPut(_)) => true,
        Some(Op::RequestTxn(nested)) => puts(nested),
        Some(Op::RequestRange(_) | Op::RequestDeleteRange(_)) | None => false,
    }
}

/// Removes all that is compacted from the disk.
async fn scrub_all(service: &Service) -> Result<(), Status> {
    loop {
        let command = Command {
            at_ms: clock::wall_ms(),
            op: Some(CommandOp::Scrub(Scrub {
                limit: SCRUB_EVENTS,
            })),
            ..Command::default()
        };
        let done = service.propose(&command).await?;
        let Outcome::Scrub(scrubbed) = done.outcome else {
            return Err(unexpected(&done));
        };
        if !scrubbed.more {
            return Ok(());
        }
    }
}
