//! A fake member: what an etcd never does, on demand, and what the client sent to it.

use anyhow::Result;
use cfgsvc_client::{CallError, Client, KvError, Options, Put};
use cfgsvc_proto::etcd::kv_server::{Kv, KvServer};
use cfgsvc_proto::etcd::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, RangeStreamResponse, TxnRequest, TxnResponse,
};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// Metadata of a put: session, seq, ack, author.
type Seen = [Option<String>; 4];

/// Answers puts with the listed errors, then with success.
#[derive(Clone, Default)]
struct Fake {
    errors: Arc<Mutex<VecDeque<Status>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

fn unused<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("the fake only puts"))
}

#[tonic::async_trait]
impl Kv for Fake {
    type RangeStreamStream = tokio_stream::Empty<Result<RangeStreamResponse, Status>>;

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let names = [
            "cfgsvc-session",
            "cfgsvc-seq",
            "cfgsvc-ack",
            "cfgsvc-author",
        ];
        let seen = names.map(|name| {
            let value = request.metadata().get(name);
            value.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        });
        self.seen.lock().expect("no test panics with it").push(seen);
        match self
            .errors
            .lock()
            .expect("no test panics with it")
            .pop_front()
        {
            Some(status) => Err(status),
            None => Ok(Response::new(PutResponse::default())),
        }
    }

    async fn range(&self, _: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        unused()
    }

    async fn range_stream(
        &self,
        _: Request<RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        unused()
    }

    async fn delete_range(
        &self,
        _: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        unused()
    }

    async fn txn(&self, _: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        unused()
    }

    async fn compact(
        &self,
        _: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        unused()
    }
}

impl Fake {
    /// Serves on loopback until the test's runtime ends.
    async fn client(&self) -> Result<Client> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut options = Options::new([listener.local_addr()?.to_string()]);
        options.author = Some("Zoë".into());
        let server = tonic::transport::Server::builder().add_service(KvServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Ok(Client::new(options)?)
    }

    fn fail(&self, statuses: impl IntoIterator<Item = Status>) {
        self.errors
            .lock()
            .expect("no test panics with it")
            .extend(statuses);
    }

    fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock().expect("no test panics with it"))
    }
}

fn changed() -> Status {
    Status::unavailable("etcdserver: leader changed")
}

#[tokio::test]
async fn a_write_of_a_session_is_repeated_with_the_same_id_until_it_is_answered() -> Result<()> {
    let fake = Fake::default();
    let client = fake.client().await?;
    // The fake knows no leases: the ids alone are what is looked at.
    let numbered = client.with_request_ids(0x77);
    fake.fail([changed(), changed(), Status::deadline_exceeded("too late")]);
    numbered.put(Put::new("k", "1")).await?;
    numbered.put(Put::new("k", "2")).await?;
    let text = |seen: Vec<Seen>| -> Vec<String> {
        seen.iter()
            .map(|one| one.clone().map(Option::unwrap_or_default).join(" "))
            .collect()
    };
    assert_eq!(
        text(fake.seen()),
        [
            "119 1 0 Zoë",
            "119 1 0 Zoë",
            "119 1 0 Zoë",
            "119 1 0 Zoë",
            "119 2 1 Zoë"
        ]
    );
    // One that is given up is closed: nobody will send it again.
    fake.fail([Status::not_found("etcdserver: session not found")]);
    assert!(matches!(
        numbered.put(Put::new("k", "3")).await,
        Err(KvError::SessionLost)
    ));
    numbered.put(Put::new("k", "4")).await?;
    assert_eq!(text(fake.seen()), ["119 3 2 Zoë", "119 4 3 Zoë"]);
    Ok(())
}

#[tokio::test]
async fn a_write_without_a_session_is_repeated_only_when_it_was_certainly_not_executed()
-> Result<()> {
    let fake = Fake::default();
    let client = fake.client().await?;
    fake.fail([changed()]);
    let error = client
        .put(Put::new("k", "1"))
        .await
        .expect_err("the outcome is unknown");
    assert!(
        matches!(error, KvError::Call(CallError::Unavailable { .. })),
        "{error}"
    );
    assert!(error.outcome_unknown() && error.retryable());
    assert_eq!(fake.seen().len(), 1);
    fake.fail([Status::resource_exhausted("etcdserver: too many requests")]);
    client.put(Put::new("k", "1")).await?;
    assert_eq!(fake.seen().len(), 2);
    fake.fail([Status::internal("a bug")]);
    let error = client
        .put(Put::new("k", "1"))
        .await
        .expect_err("an internal error");
    assert!(error.outcome_unknown() && !error.retryable());
    Ok(())
}
